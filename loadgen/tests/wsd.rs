//! Against the server that this generator was written for.

mod common;

use std::time::Duration;

use common::{measure, run};
use serde_json::{Value, json};
use wsd::apps::{Broadcast, Echo};
use wsd::{Handle, Limits, Server};

fn start() -> (Handle, String) {
    let builder = Server::builder().listen("127.0.0.1:0").threads(2);
    let builder = builder.route("/chat", Broadcast::by_path).route("/rooms/{room}", Broadcast::by_path);
    let handle = builder.route("/echo", Echo::default).start().expect("a free port");
    let url = format!("ws://{}", handle.addresses()[0]);
    (handle, url)
}

/// An odd number, so that the threads have different shares.
#[test]
fn echo() {
    let (server, url) = start();
    let (out, value) = measure(&url, "--conns 7 --threads 4 --rate 700 --duration 500ms");
    assert_eq!(value["response_us"]["n"], 350, "{out}");
    let (out, value) = measure(&url, "--conns 300 --rate 3000 --duration 1s");
    assert_eq!(value["response_us"]["n"], 3_000, "{out}");
    assert_eq!((&value["integrity"]["lost"], &value["closed_by_code"]), (&json!(0), &json!({})), "{out}");
    server.shutdown().expect("stopped");
}

#[test]
fn broadcast_reaches_everyone_in_a_room_and_across_threads() {
    let (server, url) = start();
    for path in ["", "/rooms/a"] {
        let line = "--mode broadcast --conns 300 --senders 3 --rate 30 --duration 1s --text";
        let (out, value) = measure(&format!("{url}{path}"), line);
        assert_eq!(value["fanout"]["received"], 9_000, "{out}");
        assert_eq!(
            (&value["fanout"]["last_us"]["n"], &value["integrity"]["reordered"]),
            (&json!(30), &json!(0))
        );
        let us = |name: &str| value["fanout"][name]["max"].as_f64().expect("a time");
        assert!(us("first_us") <= us("last_us") && us("spread_us") <= us("last_us"), "{out}");
    }
    server.shutdown().expect("stopped");
}

#[test]
fn sizes_times_and_paths_may_vary() {
    let (server, url) = start();
    let line = "--mode broadcast --conns 8 --senders 2 --rate 400 --duration 1s --arrival poisson --size 64..9000 --seed 5";
    let (out, value) = measure(
        &format!("{url}/rooms/a?id={{conn}}"),
        &format!("{line} -H X-User:u{{conn}} --origin http://localhost"),
    );
    let sent = value["fanout"]["expected"].as_u64().expect("a count") / 8;
    assert!((320..480).contains(&sent), "400, give or take its root: {sent}\n{out}");
    assert_eq!(
        (&value["integrity"]["lost"], &value["integrity"]["corrupt"]),
        (&json!(0), &json!(0)),
        "{out}"
    );
    assert_eq!(
        (&value["config"]["size"], &value["config"]["arrival"]),
        (&json!("64..9000"), &json!("poisson"))
    );
    // Each connection in a room of its own hears itself.
    let (out, value) = measure(&format!("{url}/rooms/r{{conn}}"), "--conns 5 --rate 100 --duration 1s");
    assert_eq!(
        (&value["response_us"]["n"], &value["integrity"]["foreign"]),
        (&json!(100), &json!(0)),
        "{out}"
    );
    server.shutdown().expect("stopped");
}

#[test]
fn a_server_that_leaves_the_sender_out_loses_nothing() {
    let builder = Server::builder().listen("127.0.0.1:0").threads(2);
    let room = || Broadcast::to_topic("all").skip_sender(true);
    let server = builder.route("/chat", room).start().expect("a free port");
    let url = format!("ws://{}", server.addresses()[0]);
    let line = "--mode broadcast --conns 30 --senders 3 --rate 30 --duration 1s --drain 300ms";
    let (out, value) = measure(&url, &format!("{line} --skip-sender"));
    let fanout = &value["fanout"];
    let sent = sent_to_others(fanout);
    assert_eq!((&fanout["expected"], &fanout["last_us"]["n"]), (&json!(29 * sent), &json!(sent)), "{out}");
    assert_eq!(value["integrity"]["lost"], 0, "{out}");
    let (out, value) = measure(&url, line);
    let sent = sent_to_others(&value["fanout"]);
    assert_eq!(
        (&value["integrity"]["expected"], &value["integrity"]["lost"]),
        (&json!(30 * sent), &json!(sent)),
        "{out}"
    );
    assert!(
        out.contains("reason  each message missed one: give --skip-sender if that is the sender\n"),
        "{out}"
    );
    server.shutdown().expect("stopped");

    let (server, url) = start();
    let (out, value) = measure(&url, &format!("{line} --skip-sender"));
    let sent = sent_to_others(&value["fanout"]);
    assert_eq!(value["integrity"]["lost"], 0, "{out}");
    assert!(out.contains(&format!("reason  {sent} messages came back: leave out --skip-sender\n")), "{out}");
    server.shutdown().expect("stopped");
}

/// How many messages reached each of 29 others: 30 were intended, of which a busy machine may have no time for the last.
fn sent_to_others(fanout: &Value) -> u64 {
    let received = fanout["received"].as_u64().expect("a count");
    assert!(received.is_multiple_of(29) && (20..=30).contains(&(received / 29)), "{fanout}");
    received / 29
}

/// 600 messages of 64 bytes, 1 KiB and 64 KiB: their mean is 3,577 bytes, with a deviation of 580.
#[test]
fn sizes_are_distributed_and_sources_are_those_listed() {
    let (server, url) = start();
    let line =
        "--conns 6 --rate-per-conn 100 --duration 1s --deflate --seed 3 --source-ip 127.0.0.77,127.9.0.0/31";
    let (out, value) = measure(&url, &format!("{line} --size 64:70%,1KiB:25%,64KiB:5%"));
    assert_eq!(
        (&value["response_us"]["n"], &value["host"]["source_addresses"]),
        (&json!(600), &json!(3)),
        "{out}"
    );
    let mean = value["deflate"]["plain_bytes"].as_f64().expect("bytes") / 600.0;
    assert!((1_200.0..6_000.0).contains(&mean), "{mean}");
    assert_eq!(value["config"]["source_ip"], "127.0.0.77,127.9.0.0/31");
    assert!(out.starts_with("plan    6 conns over 3 source IPs "), "{out}");
    server.shutdown().expect("stopped");
}

#[test]
fn compression_is_agreed_on_and_its_ratio_told() {
    let builder = Server::builder().listen("127.0.0.1:0").threads(1).deflate(wsd::Deflate::default());
    let server = builder.route("/echo", Echo::default).start().expect("a free port");
    let url = format!("ws://{}", server.addresses()[0]);
    let line = "--conns 4 --rate 400 --duration 1s --size 4096 --text";
    let (out, value) = measure(&url, &format!("{line} --deflate"));
    assert_eq!(
        (&value["response_us"]["n"], &value["integrity"]["corrupt"]),
        (&json!(400), &json!(0)),
        "{out}"
    );
    assert_eq!(value["deflate"]["plain_bytes"], json!(400 * 4096), "{out}");
    assert!(
        value["deflate"]["ratio"].as_f64().is_some_and(|ratio| ratio > 10.0),
        "an alphabet packs well\n{out}"
    );
    assert!(out.contains("deflate received "), "{out}");
    let (_, value) = measure(&url, line);
    assert_eq!(value["deflate"], serde_json::Value::Null);
    server.shutdown().expect("stopped");
}

#[test]
fn those_who_do_not_read_are_told_apart_from_those_who_do() {
    // Who is cut has to be told before the run is over, and takes nothing in which it could be.
    let close_timeout = Duration::from_millis(100);
    let limits = Limits { queue_hard: 1 << 20, close_timeout, ..Limits::default() };
    let builder = Server::builder().listen("127.0.0.1:0").threads(2).limits(limits);
    let server = builder.route("/chat", Broadcast::by_path).start().expect("a free port");
    let url = format!("ws://{}", server.addresses()[0]);
    let cohorts = "--slow-readers 3:1KiB/s --never-read 2";
    let load = "--mode broadcast --conns 25 --senders 2 --rate 400 --duration 2s --size 16k";
    let (out, value) = measure(&format!("{url}/chat"), &format!("{load} {cohorts}"));
    assert_eq!(
        (&value["connect"]["ok"], &value["fanout"]["expected"]),
        (&json!(25), &json!(800 * 20)),
        "{out}"
    );
    assert_eq!((&value["integrity"]["lost"], &value["closed_by_code"]), (&json!(0), &json!({})), "{out}");
    let slow = &value["slow_readers"];
    assert_eq!((&slow["slow"], &slow["never"]), (&json!(3), &json!(2)), "{out}");
    // 13 MB in two seconds are more than the server keeps for one connection, and the kernel keeps next to nothing.
    let closed: u64 =
        slow["closed_by_code"].as_object().expect("codes").values().filter_map(|it| it.as_u64()).sum();
    assert_eq!(closed, 5, "{out}");
    assert!(out.contains("slow    3 read slowly, 2 nothing: "), "{out}");
    server.shutdown().expect("stopped");
}

#[test]
fn idle_connections_stay() {
    let (server, url) = start();
    let pid = std::process::id();
    let (out, value) = measure(&url, &format!("--mode idle --conns 200 --duration 500ms --server-pid {pid}"));
    assert_eq!(value["connect"]["ok"], 200, "{out}");
    assert_eq!((&value["server"]["pid"], &value["response_us"]["n"]), (&json!(pid), &json!(0)), "{out}");
    assert!(out.contains("server  cpu ") && !out.contains("reach"), "{out}");
    server.shutdown().expect("stopped");
}

/// The same over TLS, whose certificate has to be known or is let pass, and with sessions that are taken up again.
#[test]
fn everything_over_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("random numbers");
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert, pair.cert.pem()).expect("writable");
    std::fs::write(&key, pair.signing_key.serialize_pem()).expect("writable");
    // So many handshakes at once take a busy machine longer than a server has to have patience.
    let patience = Duration::from_secs(3600);
    let limits = Limits { tls_timeout: patience, handshake_timeout: patience, ..Limits::default() };
    let builder = Server::builder().listen("127.0.0.1:0").threads(2).limits(limits);
    let builder = builder.tls("127.0.0.1:0", &cert, &key);
    let builder = builder.route("/chat", Broadcast::by_path).route("/echo", Echo::default);
    let server = builder.start().expect("a free port");
    let url = format!("wss://localhost:{}", server.tls_addresses()[0].port());
    let trust = format!("--cacert {}", cert.display());
    let (out, value) =
        measure(&url, &format!("{trust} --conns 50 --rate 500 --duration 1s --size 64..40000"));
    assert_eq!(value["response_us"]["n"], 500, "{out}");
    assert_eq!(
        (&value["integrity"]["lost"], &value["integrity"]["corrupt"]),
        (&json!(0), &json!(0)),
        "{out}"
    );
    assert_eq!(server.metrics().tls_resumed, 0);
    let line = "--insecure --tls-resume on --mode broadcast --conns 300 --senders 3 --rate 30 --duration 1s";
    let (out, value) = measure(&url, line);
    assert_eq!(value["fanout"]["received"], 9_000, "{out}");
    let metrics = server.metrics();
    assert_eq!((metrics.tls_handshakes, metrics.tls_failed), (350, 0));
    assert!(metrics.tls_resumed > 0, "{metrics:?}");
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("random numbers");
    std::fs::write(&cert, stranger.cert.pem()).expect("writable");
    let (code, _, err) = run(&format!("{url} {trust} --conns 5 --duration 1s"));
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
    for words in ["invalid peer certificate", "--cacert", "--insecure"] {
        assert!(err.contains(words), "{err}");
    }
    server.shutdown().expect("stopped");
}
