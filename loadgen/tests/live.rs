//! What is seen of a run while it goes on: on a terminal, in a log, and with `-q`.

mod common;

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;

use common::{Fault, loadgen, serve, texts};
use nix::pty::{Winsize, openpty};

/// Longer than the five seconds after which a log gets its first line.
const LOAD: &str = "--conns 3 --rate 300 --duration 6s --warmup 0s --settle 0s --drain 200ms";

/// The parts of what is shown, in their order.
const PARTS: [&str; 6] = ["3 conns  ", "/s out  ", "/s in  p50 ", "  p99 ", "  lost ", "  cpu "];

#[test]
fn a_log_gets_plain_lines() {
    let server = serve(Fault::Drop(7));
    let output = loadgen(&format!("{} {LOAD}", server.url)).output().expect("started");
    let (_, _, err) = texts(&output);
    let lines: Vec<&str> = err.lines().collect();
    assert!((1..=2).contains(&lines.len()), "one in five seconds: {err}");
    let (time, rest) = lines[0].split_once('s').expect("a time");
    assert!(time.parse::<u32>().is_ok_and(|seconds| seconds >= 5), "{err}");
    let mut at = 0;
    for part in PARTS {
        at += rest[at..].find(part).unwrap_or_else(|| panic!("no '{part}' after {at} in: {err}"));
    }
    assert!(rest.contains("  lost 3  "), "each connection misses its message 7: {err}");
    assert!(["VALID", "SUSPECT", "INVALID"].iter().any(|verdict| rest.ends_with(verdict)), "{err}");
    assert!(err.chars().all(|it| it == '\n' || !it.is_control()), "{err:?}");
}

#[test]
fn quiet_is_quiet() {
    let server = serve(Fault::None);
    let output = loadgen(&format!("{} {LOAD} -q", server.url)).output().expect("started");
    assert_eq!(texts(&output).2, "");
}

#[test]
fn a_terminal_shows_a_bar_and_takes_it_away() {
    let server = serve(Fault::None);
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).expect("a terminal");
    let mut command = loadgen(&format!("{} {LOAD}", server.url));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::from(terminal.slave)).spawn().expect("started");
    // Our copy of its end: as long as it is open the other end does not end.
    drop(command);
    let (mut shown, mut buffer) = (Vec::new(), [0; 4_096]);
    let mut master = File::from(terminal.master);
    // A terminal that nobody has open any more reads as an error.
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
    }
    let (_, out, _) = texts(&child.wait_with_output().expect("ended"));
    let shown = String::from_utf8_lossy(&shown);
    for part in PARTS.into_iter().chain(["[=", "late ", "\u{1b}["]) {
        assert!(shown.contains(part), "no '{part}' in {shown:?}");
    }
    let after = shown.rsplit("conns").next().unwrap_or_default();
    assert_eq!(after.matches("\u{1b}[2K").count(), 2, "both lines are taken away: {shown:?}");
    assert!(out.chars().all(|it| it == '\n' || !it.is_control()), "the report stays plain: {out:?}");
}
