//! Mistakes: one line on stderr that names the flag and the remedy, and an exit code that scripts can use.

mod common;

use std::net::TcpListener;
use std::process::Command;

use common::{run, texts};

#[test]
fn bad_flags_are_one_line() {
    for (line, parts) in [
        ("--conns none", ["--conns", "whole number"]),
        ("--size 10", ["--size", "--size 20"]),
        ("--mode idle --rate 5", ["--rate", "leave it out"]),
        ("--rate 5 --closed-loop 5", ["--rate", "--closed-loop"]),
        ("--durations 5s", ["--durations", "--duration"]),
        ("wss://localhost", ["--cacert", "--insecure"]),
        ("--conns 4000000", ["--conns", "lower --conns"]),
        ("--json /nowhere/x.json", ["--json", "No such file"]),
        ("compare /nowhere/a.hlog /nowhere/b.hlog", ["/nowhere/a.hlog", "No such file"]),
        ("compare Cargo.toml Cargo.toml", ["Cargo.toml", "--hlog"]),
        ("--source-ip 192.0.2.1", ["--source-ip 192.0.2.1", "this machine"]),
        ("--source-ip 127.0.0.0/8", ["--source-ip", "127.1.0.0/28"]),
        ("--source-ip ::1", ["--source-ip ::1", "127.0.0.1"]),
        ("--source-ip 127.0.0.9 --conns 100k", ["--source-ip 127.0.0.9", "give 8 addresses"]),
        ("doctor --source-ip 192.0.2.1", ["--source-ip 192.0.2.1", "this machine"]),
        ("--rate 5 --rate-per-conn 5", ["--rate", "--rate-per-conn"]),
        ("--size 64:70%,65:20%", ["--size", "100%"]),
        ("--size 19:70%,65:30%", ["--size", "--size 20"]),
        ("--mode connect --rate 5", ["--rate", "--connect-rate"]),
        ("--mode connect --stage 1s:5", ["--stage", "--connect-rate"]),
        ("--lifetime 5s", ["--lifetime", "--mode churn"]),
        ("--mode churn --lifetime 9ms", ["--lifetime", "10ms"]),
        ("--mode churn --closed-loop 1", ["--closed-loop", "--rate"]),
        ("--storm --connect-rate 5", ["--storm", "--connect-rate"]),
        ("--ramp 1s --storm", ["--ramp", "--storm"]),
        ("--reconnect backoff:1s", ["--reconnect", "backoff:100ms..10s"]),
        ("--stage 1s", ["--stage", "TIME:RATE"]),
        ("compare a.hlog", ["2 values", "--help"]),
        ("ab --a x", ["--b", "--aa"]),
        ("ab --a x --b y --gate a,b,c,d", ["--gate", "3 at most"]),
    ] {
        let (code, out, err) = run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}");
        assert!(err.starts_with("loadgen: ") && err.lines().count() == 1, "{line}: {err}");
        assert!(parts.iter().all(|part| err.contains(part)), "{line}: {err}");
    }
}

#[test]
fn help_fits_on_80_columns() {
    for line in
        ["--help", "-h", "ab --help", "compare --help", "doctor --help", "report --help", "merge --help"]
    {
        let (code, out, _) = run(line);
        assert_eq!(code, 0);
        let long: Vec<&str> = out.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{line}: {long:#?}");
    }
}

/// Under `Options:` stands only what every program has.
#[test]
fn each_flag_of_a_run_has_its_heading() {
    let (_, out, _) = run("-h");
    let headings: Vec<&str> =
        out.lines().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
    let expected = [
        "Commands:",
        "Arguments:",
        "Options:",
        "Load:",
        "Connections:",
        "Handshake:",
        "Phases:",
        "Machine:",
        "Output:",
    ];
    assert_eq!(headings, expected, "{out}");
    let options =
        out.split("\nOptions:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a section");
    let flags: Vec<&str> = options.split_whitespace().filter(|word| word.starts_with("--")).collect();
    assert_eq!(flags, ["--help", "--version"], "{out}");
}

#[test]
fn a_limit_of_descriptors_is_named_before_anything_starts() {
    let shell = format!("ulimit -n 200 && exec {} --conns 300 --threads 1", env!("CARGO_BIN_EXE_loadgen"));
    let output = Command::new("sh").args(["-c", &shell]).output().expect("a shell");
    let (code, out, err) = texts(&output);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("RLIMIT_NOFILE, 200,") && err.contains("--threads 3"), "{err}");
}

#[test]
fn nobody_listens() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
    let (code, _, err) = run(&format!("ws://{address} --conns 3"));
    assert_eq!(code, 1);
    let expected = format!(
        "loadgen: cannot connect to ws://{address}/echo: connection refused: start the server, or give its URL\n"
    );
    assert_eq!(err, expected);
}
