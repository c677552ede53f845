//! A server that does one thing wrong: caught with the exact count.

mod common;

use std::process::Stdio;

use common::{Fault, has_reason, loadgen, measure, run, serve, texts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Four connections that send 50 messages each.
const LOAD: &str = "--conns 4 --rate 200 --duration 1s --drain 300ms";

/// The same where nothing is lost: then a run ends with the last answer, however late it is.
const PATIENT: &str = "--conns 4 --rate 200 --duration 1s --drain 15s";

/// lost, duplicate, reordered, corrupt.
fn integrity(value: &Value) -> [u64; 4] {
    ["lost", "duplicate", "reordered", "corrupt"]
        .map(|key| value["integrity"][key].as_u64().expect("a count"))
}

#[test]
fn all_well_in_both_formats() {
    let server = serve(Fault::None);
    for format in ["--binary --size 39", "--text --size 100000"] {
        let (out, value) = measure(&server.url, &format!("{PATIENT} {format}"));
        assert_eq!(integrity(&value), [0; 4], "{out}");
        assert_eq!((&value["response_us"]["n"], &value["service_us"]["n"]), (&json!(200), &json!(200)));
        assert_eq!((&value["connect"]["ok"], &value["integrity"]["expected"]), (&json!(4), &json!(200)));
        assert_eq!((&value["fanout"], &value["server"]), (&Value::Null, &Value::Null));
        assert_eq!(value["response_us"]["p99"], Value::Null, "200 samples are too few");
        assert!(value["response_us"]["p90"].as_f64().is_some_and(|us| us > 0.0));
        assert!(out.contains("reach   100.0000%  lost 0 dup 0 reordered 0 corrupt 0\n"), "{out}");
    }
}

#[test]
fn each_fault_is_caught_on_each_connection() {
    for (fault, expected) in [
        (Fault::Drop(7), [4, 0, 0, 0]),
        (Fault::Double(7), [0, 4, 0, 0]),
        (Fault::Swap(7), [0, 0, 4, 0]),
        (Fault::Flip(7), [0, 0, 0, 4]),
        (Fault::Drop(49), [4, 0, 0, 0]),
    ] {
        // Where nothing is lost, nothing has to be given up.
        let load = if expected[0] > 0 { LOAD } else { PATIENT };
        let (out, value) = measure(&serve(fault).url, load);
        assert_eq!(integrity(&value), expected, "{fault:?}\n{out}");
        assert!(
            has_reason(&value, if expected[0] > 0 { "4 messages lost" } else { "4 messages duplicate" }),
            "{out}"
        );
    }
}

#[test]
fn a_broadcast_counts_deliveries() {
    let server = serve(Fault::BroadcastDrop(3));
    let load = "--mode broadcast --conns 5 --senders 2 --rate 20 --duration 1s --drain 300ms";
    let (out, value) = measure(&server.url, load);
    assert_eq!(integrity(&value), [2, 0, 0, 0], "one delivery of each sender\n{out}");
    let fanout = &value["fanout"];
    assert_eq!((&fanout["expected"], &fanout["received"]), (&json!(100), &json!(98)));
    assert_eq!((&fanout["each_us"]["n"], &fanout["last_us"]["n"]), (&json!(98), &json!(20)));
    assert!(out.contains("reach   98.0000%  lost 2 "), "{out}");
}

#[test]
fn pings_are_answered_and_greetings_are_foreign() {
    let (out, value) = measure(&serve(Fault::Ping).url, PATIENT);
    assert_eq!(integrity(&value), [0; 4], "{out}");
    assert_eq!(value["integrity"]["foreign"], 4, "{out}");
}

#[test]
fn a_server_that_closes_is_told_by_code() {
    let (out, value) = measure(&serve(Fault::Close(10, 1013)).url, LOAD);
    assert_eq!(value["closed_by_code"], json!({"1013": 4}), "{out}");
    assert_eq!(value["verdict"], "INVALID");
    assert!(out.contains("closed  4 by the server with code 1013 (try again later)\n"), "{out}");
    assert!(out.contains("reason  every connection ended before the run did\n"), "{out}");
}

#[test]
fn handshakes_that_are_none_cannot_be_loaded() {
    for (fault, part) in [(Fault::Status(404), "status 404"), (Fault::WrongAccept, "Sec-WebSocket-Accept")] {
        let server = serve(fault);
        let (code, _, err) = run(&format!("{} --conns 3", server.url));
        assert_eq!(code, 1);
        let line =
            err.strip_prefix(&format!("loadgen: cannot connect to {}/echo: ", server.url)).expect("one line");
        assert!(line.contains(part) && line.ends_with('\n') && line.lines().count() == 1, "{err}");
    }
}

#[test]
fn ctrl_c_prints_the_results_so_far() {
    let server = serve(Fault::None);
    let mut command = loadgen(&format!("{} --conns 2 --rate 100 --duration 1h --warmup 0s", server.url));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    for _ in 0..50 {
        server.messages.recv().expect("a message");
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("alive");
    let (code, out, err) = texts(&child.wait_with_output().expect("ended"));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("lost 0 ") && out.contains("reason  interrupted: results so far\n"), "{out}");
}
