//! Two versions of a server: found different where they are, and not compared where that would mean nothing.

mod common;

use std::path::Path;
use std::process::Command;

use common::{command, measure_in_peace, run, serve, texts};
use serde_json::{Value, json};

/// Not a test: the server that `ab` starts.
#[test]
#[ignore = "a server, started by other tests"]
fn server_process() {
    common::server_process();
}

/// Short runs: what is looked for is ten times as large as any noise.
const LOAD: &str =
    "--conns 4 --rate 400 --duration 500ms --warmup 100ms --settle 0s --drain 500ms --gate response.p50";

fn ab(args: &[&str]) -> (i32, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    texts(&program.arg("ab").args(args).args(LOAD.split_whitespace()).output().expect("started"))
}

#[test]
fn a_slower_server_is_a_regression_and_a_faster_one_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let out_dir = dir.path().display().to_string();
    let (fast, slow) = (command("none"), command("delay-8000"));
    let (code, out, err) = ab(&["--a", &fast, "--b", &slow, "--pairs", "4", "--out", &out_dir]);
    assert_eq!((code, &*err), (98, ""), "{out}");
    assert!(out.contains("verdict REGRESSION (response.p50"), "{out}");
    assert!(
        (1..=4).all(|pair| out.contains(&format!("\n {pair} AB")) || out.contains(&format!("\n {pair} BA"))),
        "{out}"
    );
    assert!(out.lines().skip(2).all(|line| line.chars().count() <= 80), "{out}");

    let file = |name: &str| dir.path().join(name).display().to_string();
    let value: Value =
        serde_json::from_slice(&std::fs::read(file("comparison.json")).expect("written")).expect("JSON");
    assert_eq!((&value["verdict"], &value["pairs"]), (&json!("REGRESSION"), &json!(4)));

    // The stored files tell the same, whichever way they are given.
    for ending in ["hlog", "json"] {
        let names = |side: &str| {
            (1..=4).map(|it| file(&format!("0{it}-{side}.{ending}"))).collect::<Vec<_>>().join(" ")
        };
        let gates = "--gate response.p50";
        let (code, _, err) = run(&format!("compare --a {} --b {} {gates}", names("a"), names("b")));
        assert_eq!((code, &*err), (98, ""), "{ending}");
        let (code, out, _) = run(&format!("compare --a {} --b {} {gates}", names("b"), names("a")));
        assert_eq!(code, 0, "{out}");
        assert!(out.contains("verdict OK"), "{out}");
    }
}

#[test]
fn one_pair_has_no_verdict_and_unlike_runs_are_refused() {
    let (server, dir) = (serve(common::Fault::None), tempfile::tempdir().expect("a directory"));
    let path = |name: &str| dir.path().join(name).display().to_string();
    for (name, conns) in [("a", 2), ("b", 2), ("c", 3)] {
        let line =
            format!("--conns {conns} --rate 200 --duration 1s --hlog {} --hgrm {}", path(name), path("hgrm"));
        measure_in_peace(&server.url, &line);
        let text = std::fs::read_to_string(path("hgrm")).expect("written");
        assert!(text.contains("Total count    =          200]"), "{text}");
    }
    let compare = |a: &str, b: &str, more: &str| run(&format!("compare {} {} {more}", path(a), path(b)));
    let (code, out, err) = compare("a", "b", "");
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert!(out.contains("verdict INCONCLUSIVE") && out.contains("note    one pair"), "{out}");
    assert_eq!(compare("a", "b", "--strict").0, 96);
    let (code, _, err) = compare("a", "c", "");
    assert!(code == 2 && err.contains("conns differs, 2 in ") && err.lines().count() == 1, "{err}");

    // A page of a stored run, and two generators' logs as one.
    let (code, _, err) = run(&format!("report {} --html {}", path("a"), path("page.html")));
    assert_eq!((code, &*err), (0, ""));
    let page = std::fs::read_to_string(path("page.html")).expect("written");
    assert!(page.contains("Latency by quantile") && page.contains("echo · 2 connections"), "{page}");
    let (code, out, err) = run(&format!("merge {} {} --out {}", path("a"), path("b"), path("sum")));
    assert_eq!((code, &*err), (0, ""));
    assert!(
        out.contains("response             400 ") && out.contains("2 generators together VALID"),
        "{out}"
    );
    assert_eq!(run(&format!("report {} --html {}", path("sum"), path("sum.html"))).0, 0);
    let (code, _, err) = run(&format!("merge {} nothing --out {}", path("a"), path("sum")));
    assert!(code == 2 && err.contains("nothing: No such file"), "{err}");

    // An invalid run is no baseline.
    let text = std::fs::read_to_string(path("a")).expect("written");
    std::fs::write(path("bad"), text.replace(r#""verdict":"VALID""#, r#""verdict":"INVALID""#))
        .expect("written");
    let (code, _, err) = compare("bad", "b", "");
    assert!(code == 2 && err.contains("bad is INVALID and measures nothing"), "{err}");
    // Neither is one that was cut off before its verdict.
    let cut: String = text.lines().take(6).map(|line| format!("{line}\n")).collect();
    std::fs::write(path("cut"), cut).expect("written");
    let (code, _, err) = compare("cut", "b", "");
    assert!(code == 2 && err.contains("cut: it has no verdict: the run did not end"), "{err}");
    assert!(Path::new(&path("cut")).exists());
}

#[test]
fn a_threshold_on_a_server_that_is_started_for_it() {
    let run = |thresholds: [&str; 2]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        program.args([
            "--server-cmd",
            &command("delay-5000"),
            "--conns",
            "2",
            "--rate",
            "100",
            "--duration",
            "1s",
        ]);
        thresholds.iter().for_each(|it| {
            program.args(["--threshold", it]);
        });
        texts(&program.args(["--warmup", "0s"]).output().expect("started"))
    };
    let (code, out, err) = run(["response.p50<5s", "response.p90<5ms"]);
    assert_eq!((code, &*err), (99, ""), "{out}");
    assert!(out.contains("  kept\n") && out.ends_with(" < 5.00ms  BROKEN\n"), "{out}");
    assert!(out.contains("server  cpu "), "{out}");
    let (code, out, _) = run(["response.p50<5s", "service.p90<5s"]);
    assert_eq!(code, 0, "{out}");
}

/// Each answer takes 20 ms, one after the other: a connection cannot do more than 50 per second.
#[test]
fn the_highest_rate_that_holds() {
    let find = |rate: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        let line = format!("--conns 2 --rate {rate} --duration 700ms --warmup 0s --settle 0s --drain 200ms");
        program.args(["--server-cmd", &command("delay-20000"), "--find-max", "response.p50<150ms"]);
        texts(&program.args(line.split_whitespace()).output().expect("started"))
    };
    let (code, out, err) = find("40");
    assert_eq!((code, &*err), (0, ""), "{out}");
    let last = out.lines().last().expect("a result");
    let rate =
        last.trim_start_matches("max").trim().split('/').next().expect("a rate").parse::<f64>().expect(last);
    assert!((60.0..160.0).contains(&rate), "about 100, and a short run forgives a little more\n{out}");
    let (code, out, _) = find("1000");
    assert!(code == 99 && out.contains("the first rate, does not hold"), "{out}");
}

#[test]
fn servers_that_do_not_start_are_told() {
    let (code, _, err) = ab(&["--a", "false", "--aa"]);
    assert_eq!((code, &*err), (1, "loadgen: 'false' ended with exit code 1\n"));
}
