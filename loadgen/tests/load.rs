//! The shape of the load: its steps, connecting alone, and connections that come and go; with exact counts.

mod common;

use common::measure;
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
