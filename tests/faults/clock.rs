//! Time that does not pass as it should: a process that was stopped, a clock that was set.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::admin::Scrape;
use crate::common::program::{Program, wsd};
use crate::common::{Client, PING, pong, request, text, wait_until};
use crate::load::hear;
use crate::{assert_balanced, closed};

/// More than one poll can tell of.
const CROWD: usize = 1_500;

/// Every deadline has passed by the time the server goes on, and what was said before is there to be read.
#[test]
fn who_spoke_while_the_server_stood_still_is_heard_before_it_is_judged() {
    wsd::net::fdtable::raise_nofile().expect("up to the hard limit it is allowed");
    let args = ["--threads", "1", "--handshake-timeout", "5s", "--admin", "127.0.0.1:0"];
    let program = Program::serve(&args);
    let mut silent = program.connect();
    let mut clients: Vec<Client> = (0..CROWD).map(|_| program.connect()).collect();
    program.signal(Signal::STOP);
    wait_until("it stands still", || program.is_stopped());
    // The last one whose time is over is the first one to be heard.
    clients.iter_mut().rev().for_each(|client| client.send(request("/echo")));
    // Not for something to happen, but for every deadline to pass.
    std::thread::sleep(Duration::from_millis(5_500));
    program.signal(Signal::CONT);
    for client in &mut clients {
        client.assert_upgraded();
        client.send(text("just in time"));
        client.assert_text("just in time");
    }
    silent.assert_status(408);
    let scrape = Scrape::of(program.admin());
    assert_eq!(scrape.value("wsd_handshakes_total{result=\"timed_out\"}"), 1.0);
    assert_eq!(scrape.sum("wsd_connections_closed_total"), 0.0);
    assert_balanced(&program);
}

/// A `wsd` whose clock is set by a file.
struct Faked {
    program: Program,
    offset: PathBuf,
}

impl Faked {
    /// `monotonic`: the clock that cannot be set jumps too, as if the machine had stood still.
    fn start(name: &str, monotonic: bool, args: &[&str]) -> Self {
        let offset =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faketime-{}-{name}", std::process::id()));
        std::fs::write(&offset, "+0").expect("a directory of our own");
        let mut command =
            wsd(&[&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--threads", "2"], args].concat());
        command.env("LD_PRELOAD", library()).env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_TIMESTAMP_FILE", &offset);
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", if monotonic { "0" } else { "1" });
        Self { program: Program::start(command), offset }
    }

    fn jump(&self, offset: &str) {
        // In one step: the clock may be read at any time.
        let new = self.offset.with_extension("new");
        std::fs::write(&new, offset)
            .and_then(|()| std::fs::rename(&new, &self.offset))
            .expect("a directory of our own");
    }
}

impl Drop for Faked {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.offset);
    }
}

/// libfaketime, for programs with threads.
fn library() -> PathBuf {
    let directories = std::fs::read_dir("/usr/lib").expect("a directory").flatten();
    let mut libraries =
        directories.map(|it| it.path().join("faketime/libfaketimeMT.so.1")).filter(|it| it.exists());
    libraries.next().expect("scripts/test faults installs it")
}

/// As `date(1)` says it.
fn date(when: &str) -> String {
    let output = Command::new("date").args(["-u", "+%F", "-d", when]).output().expect("date(1)");
    String::from_utf8(output.stdout).expect("ASCII").trim().to_owned()
}

/// Every client is pinged, and answers.
#[track_caller]
fn answer_a_ping(clients: &mut [Client]) {
    for client in clients {
        assert_eq!(client.read_frame().opcode, PING);
        client.send(pong(b""));
    }
}

#[test]
#[ignore = "needs libfaketime: scripts/test faults"]
fn a_wall_clock_that_jumps_changes_nothing() {
    let times = ["--ping-interval", "1s", "--pong-timeout", "4s", "--max-age", "1h", "--log", "debug"];
    let mut server = Faked::start("wall", false, &times);
    let log = server.program.log();
    let mut clients: Vec<Client> = (0..20).map(|_| server.program.open("/echo")).collect();
    for (count, offset) in ["+1d", "-1d", "+0"].into_iter().enumerate() {
        server.jump(offset);
        let start = Instant::now();
        let mut silent = server.program.open("/echo");
        answer_a_ping(&mut clients);
        answer_a_ping(&mut clients);
        assert_eq!(silent.read_frame().opcode, PING);
        silent.assert_eof();
        // 10 % early at most.
        assert!(start.elapsed() > Duration::from_millis(4_900), "given up after {:?}", start.elapsed());
        let scrape = Scrape::of(server.program.admin());
        let closed = (closed(&scrape, "silent"), scrape.sum("wsd_connections_closed_total") as u64);
        assert_eq!(closed, (count as u64 + 1, count as u64 + 1), "{offset}: those who answer stay");
        assert!(scrape.sum("wsd_turn_seconds_sum") < 60.0, "{offset}: no turn is a day long");
    }
    for client in &mut clients {
        client.send(text("still here"));
        hear(client, "still here");
    }
    assert_balanced(&server.program);
    server.program.signal(Signal::INT);
    drop(clients);
    let lines: Vec<String> = log.iter().collect();
    for day in ["now", "+1 day", "-1 day"].map(date) {
        assert!(lines.iter().any(|line| line.starts_with(&day)), "the clock never said {day}");
    }
}

/// A machine that stood still, as seen from within: the clock says that hours have passed.
#[test]
#[ignore = "needs libfaketime: scripts/test faults"]
fn after_hours_that_nobody_saw_silence_is_asked_about_before_it_is_judged() {
    let server = Faked::start("hours", true, &["--ping-interval", "10h", "--pong-timeout", "3s"]);
    let mut clients: Vec<Client> = (0..200).map(|_| server.program.open("/echo")).collect();
    let mut silent = server.program.open("/echo");
    server.jump("+12h");
    // The workers sleep until something comes; each is woken to be asked.
    let _ = Scrape::of(server.program.admin());
    answer_a_ping(&mut clients);
    assert_eq!(silent.read_frame().opcode, PING);
    silent.assert_eof();
    assert_all_but_one_are_there(&server, &mut clients);
}

/// The same, where everybody had been asked before, and answered in the meantime.
#[test]
#[ignore = "needs libfaketime: scripts/test faults"]
fn after_hours_that_nobody_saw_answers_are_heard_before_silence_is_judged() {
    wsd::net::fdtable::raise_nofile().expect("up to the hard limit it is allowed");
    let server = Faked::start("answers", true, &["--ping-interval", "2s", "--pong-timeout", "10h"]);
    let mut silent = server.program.open("/echo");
    // So many that each worker has more than one poll can tell of.
    let mut clients: Vec<Client> = (0..2 * CROWD).map(|_| server.program.open("/echo")).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_frame().opcode, PING));
    assert_eq!(silent.read_frame().opcode, PING);
    server.program.signal(Signal::STOP);
    wait_until("it stands still", || server.program.is_stopped());
    clients.iter_mut().rev().for_each(|client| client.send(pong(b"")));
    server.jump("+12h");
    server.program.signal(Signal::CONT);
    silent.assert_eof();
    assert_all_but_one_are_there(&server, &mut clients);
}

/// Each is answered, and one other was given up.
#[track_caller]
fn assert_all_but_one_are_there(server: &Faked, clients: &mut [Client]) {
    for client in clients {
        client.send(text("still here"));
        hear(client, "still here");
    }
    let scrape = Scrape::of(server.program.admin());
    assert_eq!((closed(&scrape, "silent"), scrape.sum("wsd_connections_closed_total") as u64), (1, 1));
    assert_balanced(&server.program);
}
