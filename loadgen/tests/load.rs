//! The shape of the load: its steps, connecting alone, and connections that come and go; with exact counts.

mod common;

use std::time::Duration;

use common::{Fault, has_reason, measure, run, serve};
use loadgen::report::hlog::Hlog;
use serde_json::{Value, json};
use wsd::apps::{Broadcast, Echo};
use wsd::{Handle, Server};

fn start() -> (Handle, String) {
    let builder = Server::builder().listen("127.0.0.1:0").threads(2).route("/chat", Broadcast::by_path);
    let handle = builder.route("/echo", Echo::default).start().expect("a free port");
    let url = format!("ws://{}", handle.addresses()[0]);
    (handle, url)
}

/// The tags of a log, with how many samples each has.
fn tags(log: &std::path::Path) -> Vec<(String, u64)> {
    let log = Hlog::parse(&std::fs::read(log).expect("written")).expect("a log");
    log.tags.iter().map(|(tag, it)| (tag.clone(), it.count())).collect()
}

fn counts(value: &Value, pointer: &str, key: &str) -> Vec<u64> {
    let list = value[pointer].as_array().expect("a list");
    list.iter().map(|it| it.pointer(key).and_then(Value::as_u64).expect("a count")).collect()
}

#[test]
fn each_stage_has_its_own_figures() {
    let (server, url) = start();
    let (log, page) =
        (tempfile::NamedTempFile::new().expect("a file"), tempfile::NamedTempFile::new().expect("one"));
    let stages = "--stage 500ms:200 --stage 300ms:0 --stage 500ms:1000";
    let files = format!("--hlog {} --html {}", log.path().display(), page.path().display());
    let (out, value) = measure(&url, &format!("--conns 4 {stages} {files}"));
    assert_eq!(counts(&value, "stages", "/response_us/n"), [100, 0, 500], "{out}");
    let sent = counts(&value, "stages", "/sent");
    assert!(sent[0] <= 100 && sent[1] == 0 && sent[2] <= 500, "written later than that is late\n{out}");
    assert_eq!(
        (&value["response_us"]["n"], &value["integrity"]["expected"]),
        (&json!(600), &json!(600)),
        "{out}"
    );
    let rate = value["stages"][2]["sent_per_s"].as_f64().expect("a rate");
    assert!((rate - 2.0 * sent[2] as f64).abs() < 1e-6, "{out}");
    assert_eq!(value["config"]["stages"], json!(["500ms:200", "300ms:0", "500ms:1000"]));
    let rows: Vec<&str> = out.lines().skip_while(|line| !line.starts_with("stage")).take(4).collect();
    assert!(rows[1].starts_with("500ms:200 ") && rows[2].starts_with("300ms:0 "), "{out}");
    assert!(rows[2].ends_with(" 0.00") && rows[3].contains(" 500 "), "{out}");
    let expected =
        [("response", 600), ("service", 600), ("stage_1_response", 100), ("stage_3_response", 500)];
    assert_eq!(tags(log.path()), expected.map(|(tag, count)| (tag.to_owned(), count)));
    let page = std::fs::read_to_string(page.path()).expect("written");
    assert!(page.contains("<td>500ms:1000</td>"), "{page}");

    let line = "--mode broadcast --conns 5 --senders 2 --stage 500ms:20 --stage 500ms:60";
    let (out, value) = measure(&url, line);
    assert_eq!(counts(&value, "stages", "/response_us/n"), [50, 150], "{out}");
    server.shutdown().expect("stopped");
}

/// Counts of failures by kind, in the order refused, reset, timed out, handshake, local.
fn kinds(value: &Value) -> [u64; 5] {
    ["refused", "reset", "timed_out", "handshake", "local"]
        .map(|kind| value["failed_by_kind"][kind].as_u64().expect("a count"))
}

#[test]
fn connecting_alone_is_measured() {
    let (server, url) = start();
    let file = || tempfile::NamedTempFile::new().expect("a file");
    let (log, csv, hgrm) = (file(), file(), file());
    let paths = [&log, &csv, &hgrm].map(|it| it.path().display().to_string());
    let files = format!("--hlog {} --csv {} --hgrm {}", paths[0], paths[1], paths[2]);
    let pid = std::process::id();
    let line = format!("--mode connect --conns 301 --connect-rate 600 --server-pid {pid} {files}");
    let (out, value) = measure(&url, &line);
    let connect = &value["connect"];
    assert_eq!(
        (&connect["target"], &connect["ok"], &connect["failed"]),
        (&json!(301), &json!(301), &json!(0)),
        "{out}"
    );
    for key in ["tcp_us", "upgrade_us", "late_us"] {
        assert_eq!(connect[key]["n"], 301, "{key}\n{out}");
    }
    assert_eq!(connect["target_per_s"], 600.0, "{out}");
    let begun = connect["begun_per_s"].as_f64().expect("a rate");
    assert!(begun < 620.0, "at its own time, not sooner\n{out}");
    assert!(connect["server_cpu_us"].as_f64().is_some_and(|us| us > 0.0), "{out}");
    assert_eq!((&value["turnover"], &value["integrity"]["expected"]), (&Value::Null, &json!(0)), "{out}");
    assert_eq!(
        tags(log.path()),
        [("tcp", 301), ("upgrade", 301)].map(|(tag, count)| (tag.to_owned(), count))
    );
    let csv = std::fs::read_to_string(csv.path()).expect("written");
    let opened: u64 = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(7).expect("a column").parse::<u64>().expect("a count"))
        .sum();
    assert_eq!(opened, 301, "{csv}");
    assert!(std::fs::read_to_string(hgrm.path()).expect("written").contains("Total count    =          301"));
    assert!(out.contains("failed  refused 0 reset 0 timed out 0 handshake 0 local 0\n"), "{out}");

    let (out, value) = measure(&url, "--mode connect --conns 600 --storm");
    assert_eq!(
        (&value["connect"]["ok"], &value["connect"]["target_per_s"]),
        (&json!(600), &Value::Null),
        "{out}"
    );
    let (out, value) = measure(&url, "--mode connect --conns 50 --ramp 250ms");
    assert_eq!(
        (&value["connect"]["ok"], &value["connect"]["target_per_s"]),
        (&json!(50), &json!(200.0)),
        "{out}"
    );
    server.shutdown().expect("stopped");
}

/// Of five connections one is served, two are answered wrongly, one is hung up on, one hears nothing.
#[test]
fn each_way_of_failing_has_its_count() {
    for pace in ["--storm", "--connect-rate 500", ""] {
        let line = format!("--mode connect --conns 50 {pace} --connect-timeout 400ms");
        let (out, value) = measure(&serve(Fault::Mixed).url, &line);
        let connect = &value["connect"];
        assert_eq!((&connect["ok"], &connect["failed"]), (&json!(10), &json!(40)), "{out}");
        assert_eq!(kinds(connect), [0, 10, 10, 20, 0], "{out}");
        assert_eq!((&connect["tcp_us"]["n"], &connect["upgrade_us"]["n"]), (&json!(50), &json!(10)), "{out}");
        assert!(has_reason(&value, "40 of 50 connections failed"), "{out}");
    }
    let server = serve(Fault::Status(404));
    let (code, _, err) = run(&format!("{} --mode connect --conns 3", server.url));
    assert_eq!(code, 1, "{err}");
    assert!(err.starts_with("loadgen: cannot connect to ") && err.contains("status 404"), "{err}");
}

/// Connections are due whatever the server does: of 100 in a second, the 50 that were due while it slept for half a
/// second waited between 0 and 500 ms, evenly. One in ten waited 400 ms or more.
#[test]
fn a_server_that_freezes_is_not_spared() {
    let server = serve(Fault::FreezeAccept(30, Duration::from_millis(500)));
    let (out, value) = measure(&server.url, "--mode connect --conns 100 --connect-rate 100");
    let upgrade = &value["connect"]["upgrade_us"];
    let ms = |key: &str| upgrade[key].as_f64().expect("enough samples") / 1e3;
    // A busy machine makes it more, never less; a generator that waited for answers would have none of it.
    assert!(ms("p90") >= 395.0, "400 ms in theory\n{out}");
    assert!(ms("max") >= 490.0, "500 ms in theory\n{out}");
    assert_eq!((&upgrade["n"], &value["connect"]["tcp_us"]["n"]), (&json!(100), &json!(100)), "{out}");
}

#[test]
fn who_is_refused_comes_back() {
    let server = serve(Fault::RefuseFirst(7));
    let line = "--mode connect --conns 10 --reconnect backoff:5ms..20ms";
    let (out, value) = measure(&server.url, line);
    assert_eq!((&value["connect"]["ok"], &value["connect"]["failed"]), (&json!(10), &json!(7)), "{out}");
    assert_eq!(server.accepted.try_iter().count(), 17);
    let (out, value) = measure(&serve(Fault::RefuseFirst(7)).url, "--mode connect --conns 10");
    assert_eq!((&value["connect"]["ok"], &value["connect"]["failed"]), (&json!(3), &json!(7)), "{out}");
}

/// Twenty lives of 200 ms, renewed for a second: 100 ends and as many beginnings, whatever the server does.
#[test]
fn connections_come_and_go() {
    let (server, url) = start();
    let log = tempfile::NamedTempFile::new().expect("a file");
    let line =
        format!("--mode churn --conns 20 --lifetime 200ms --duration 1s --hlog {}", log.path().display());
    let (out, value) = measure(&url, &line);
    let turnover = &value["turnover"];
    let count = |key: &str| turnover[key].as_u64().expect("a count");
    let ended = count("ended");
    // Where the machine stands still for a whole life, that one is missed.
    assert_eq!(ended + count("missed"), 100, "{out}");
    for key in ["begun", "opened", "closed_clean"] {
        assert_eq!(count(key), ended, "{key}\n{out}");
    }
    for key in ["failed", "closed_unclean", "hinted"] {
        assert_eq!(count(key), 0, "{key}\n{out}");
    }
    assert_eq!(
        (&turnover["target_per_s"], &turnover["opened_per_s"]),
        (&json!(100.0), &json!(ended as f64)),
        "{out}"
    );
    let expected = [("churn_tcp", ended), ("churn_upgrade", ended), ("close", ended)];
    assert_eq!(tags(log.path()), expected.map(|(tag, count)| (tag.to_owned(), count)));
    assert_eq!((&value["connect"]["ok"], &value["closed_by_code"]), (&json!(20), &json!({})), "{out}");
    assert!(out.contains(&format!("ended   clean {ended} unclean 0 missed ")), "{out}");
    server.shutdown().expect("stopped");
}

/// The messages of those who leave are neither lost nor late: they are waited for, and others send in the meantime.
#[test]
fn those_who_live_echo() {
    let (server, url) = start();
    let line = "--mode churn --conns 20 --lifetime 100ms..300ms --rate 2000 --duration 1s --threads 2";
    let (out, value) = measure(&url, line);
    let integrity = &value["integrity"];
    for key in ["lost", "duplicate", "reordered", "corrupt", "foreign"] {
        assert_eq!(integrity[key], 0, "{key}\n{out}");
    }
    let count = |key: &str| integrity[key].as_u64().expect("a count");
    // Where the machine stands still for whole lives, nobody is there to send.
    assert_eq!(count("expected") + count("unsent"), 2_000, "{out}");
    assert_eq!(
        (count("received"), &value["response_us"]["n"]),
        (count("expected"), &integrity["expected"]),
        "{out}"
    );
    let turnover = &value["turnover"];
    let ended = turnover["ended"].as_u64().expect("a count");
    let missed = turnover["missed"].as_u64().expect("a count");
    assert!((80..=140).contains(&(ended + missed)), "100, give or take\n{out}");
    assert_eq!((&turnover["opened"], &turnover["closed_clean"]), (&json!(ended), &json!(ended)), "{out}");
    server.shutdown().expect("stopped");
}

#[test]
fn a_close_that_is_not_answered_is_told() {
    let line = "--mode churn --conns 4 --lifetime 250ms --duration 500ms";
    let (out, value) = measure(&serve(Fault::MuteClose).url, line);
    let turnover = &value["turnover"];
    assert_eq!((&turnover["ended"], &turnover["closed_unclean"]), (&json!(8), &json!(8)), "{out}");
    assert_eq!((&turnover["closed_clean"], &turnover["close_us"]["n"]), (&json!(0), &json!(0)), "{out}");
    assert!(has_reason(&value, "8 closes were not answered"), "{out}");
}

/// With waits of at most 2 ms it would be back at once; the server asks for 700 ms, and has them.
#[test]
fn a_server_that_asks_to_be_spared_is() {
    let server = serve(Fault::Retry(5, 700));
    let line = "--conns 1 --closed-loop 1 --duration 1500ms --drain 200ms --reconnect backoff:1ms..2ms";
    let (out, value) = measure(&server.url, line);
    let turnover = &value["turnover"];
    assert_eq!((&turnover["opened"], &turnover["hinted"]), (&json!(1), &json!(1)), "{out}");
    assert_eq!(
        (&value["closed_by_code"], &value["integrity"]["lost"]),
        (&json!({"1012": 1}), &json!(1)),
        "{out}"
    );
    assert!(
        value["integrity"]["received"].as_u64().is_some_and(|n| n > 10),
        "it goes on where it stopped\n{out}"
    );
    let accepted: Vec<_> = server.accepted.try_iter().collect();
    assert_eq!(accepted.len(), 2, "{out}");
    assert!(accepted[1] - accepted[0] >= Duration::from_millis(700), "{out}");

    // What was due in the meantime had nobody to send it: some thirty of a hundred messages.
    let line = "--conns 1 --rate 100 --duration 1s --drain 200ms --reconnect backoff";
    // Where the generator was late with others of them it says so: then it is asked again.
    let is_blamed = (0..8).all(|_| {
        let (out, value) = measure(&serve(Fault::Retry(5, 300)).url, line);
        let unsent = value["integrity"]["unsent"].as_u64().expect("a count");
        assert!(unsent >= 25, "{out}");
        let away = format!("{unsent} messages were due while their senders were away");
        assert!(has_reason(&value, &away), "{out}");
        has_reason(&value, "of the intended messages")
    });
    assert!(!is_blamed, "that is not the generator's fault");

    let server = serve(Fault::Retry(5, 700));
    let (out, value) = measure(&server.url, "--conns 1 --closed-loop 1 --duration 300ms --drain 200ms");
    assert_eq!((&value["turnover"], server.accepted.try_iter().count()), (&Value::Null, 1), "{out}");
}
