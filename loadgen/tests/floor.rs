//! `--raw` against the floor that it is for: the payload's checks hold on plain TCP as they do on WebSocket.

mod common;

use common::{measure, run};
use floor::{Floor, Mode};
use serde_json::json;

/// A floor in a thread, which ends with the test.
fn start(mode: Mode) -> String {
    let floor = Floor::listen(mode, 0).expect("a free port");
    let url = format!("ws://{}", floor.address().expect("bound"));
    std::thread::spawn(move || floor.run());
    url
}

#[test]
fn echo_of_small_and_large_messages() {
    let url = start(Mode::Echo);
    for load in
        ["--rate 1000 --size 20..300", "--rate 200 --size 16k", "--rate 20 --size 300k", "--rate 500 --text"]
    {
        let (out, value) = measure(&url, &format!("--raw --conns 20 --threads 2 --duration 500ms {load}"));
        let expected = value["config"]["rate"].as_f64().expect("a number") / 2.0;
        assert_eq!(value["response_us"]["n"], json!(expected as u64), "{out}");
        assert_eq!(
            (&value["integrity"]["corrupt"], &value["integrity"]["lost"]),
            (&json!(0), &json!(0)),
            "{out}"
        );
        assert_eq!((&value["config"]["raw"], &value["closed_by_code"]), (&json!(true), &json!({})), "{out}");
    }
}

#[test]
fn a_broadcast_reaches_everyone_each_time_and_in_order() {
    let url = start(Mode::Broadcast);
    for load in ["--rate 40", "--closed-loop 16", "--closed-loop 4 --size 20"] {
        let line =
            format!("--raw --mode broadcast --conns 100 --senders 3 --threads 2 --duration 500ms {load}");
        let (out, value) = measure(&url, &line);
        let received = value["fanout"]["received"].as_u64().expect("a count");
        assert_eq!((Some(received), received % 100), (value["fanout"]["expected"].as_u64(), 0), "{out}");
        assert!(received >= 2_000, "{out}");
        for fault in ["lost", "duplicate", "reordered", "corrupt", "foreign"] {
            assert_eq!(value["integrity"][fault], 0, "{fault}\n{out}");
        }
    }
}

#[test]
fn idle_connections_stay_and_leave_without_a_word() {
    let url = start(Mode::Broadcast);
    // Each run finds the floor as the one before it: nobody is left in the room.
    for _ in 0..2 {
        let (out, value) = measure(&url, "--raw --mode idle --conns 300 --duration 200ms");
        assert_eq!((&value["connect"]["ok"], &value["closed_by_code"]), (&json!(300), &json!({})), "{out}");
        assert_eq!(
            (&value["verdict"], &value["integrity"]["foreign"]),
            (&json!("VALID"), &json!(0)),
            "{out}"
        );
    }
}

#[test]
fn a_websocket_server_is_no_floor() {
    let builder = wsd::Server::builder().listen("127.0.0.1:0").threads(1);
    let server = builder.route("/echo", wsd::apps::Echo::default).start().expect("a free port");
    let url = format!("ws://{}", server.addresses()[0]);
    let (out, value) = measure(&url, "--raw --conns 2 --rate 100 --duration 500ms --drain 200ms");
    // Frames without masks: "a server MUST close the connection" (RFC 6455 section 5.1).
    assert_eq!(
        (&value["verdict"], &value["closed_by_code"]),
        (&json!("INVALID"), &json!({"1002": 2})),
        "{out}"
    );
    server.shutdown().expect("stopped");
    let (code, _, err) = run("--raw --deflate");
    assert_eq!(code, 2);
    assert!(err.contains("--raw") && err.contains("--deflate"), "{err}");
}
