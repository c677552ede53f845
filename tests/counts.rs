//! What a message and a connection cost, in counts that no load on the machine changes: system calls as strace counts
//! them, user instructions as valgrind's callgrind does. The program itself is run, with one worker.
//!
//! Each count is the difference of two runs that do more and less of the same. Where nothing else is said, every message
//! has its turn of the loop to itself, which is the dearest case. `scripts/test counts` builds the program and runs these.

#![cfg(feature = "cli")]
#![expect(clippy::print_stdout, reason = "the counts are what one wants to see")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::program::{Program, clean};
use common::{Client, PATIENCE, frame, text, wait_until};
use rustix::process::Signal;

/// Something that is done `times` times, one after the other.
type Load = fn(&Program, times: usize);

const FEW: usize = 100;
const MANY: usize = 600;

/// Room for what is not the same in every run.
const ROOM: f64 = 1.1;

const MEMBERS: usize = 100;
const CONNECTIONS: usize = 50;

/// The compiler that the bounds on instructions were measured with: another one makes another program.
const RUSTC: &str = "rustc 1.95.0";

fn echo(program: &Program, times: usize) {
    echo_of(&mut program.open("/echo"), &[b'x'; 128], times);
}

fn echo_16_kib(program: &Program, times: usize) {
    echo_of(&mut program.open("/echo"), &[b'x'; 16 * 1024], times);
}

fn echo_of(client: &mut Client, payload: &[u8], times: usize) {
    let (sent, received) = (frame(0x81, payload), std::str::from_utf8(payload).expect("ASCII"));
    for _ in 0..times {
        client.send(&sent);
        client.assert_text(received);
    }
}

/// One message of 128 bytes to a room of [`MEMBERS`].
fn broadcast(program: &Program, times: usize) {
    let mut members: Vec<Client> = (0..MEMBERS).map(|_| program.open("/rooms/a")).collect();
    let payload = "x".repeat(128);
    for _ in 0..times {
        members[0].send(text(&payload));
        for member in &mut members {
            member.assert_text(&payload);
        }
    }
}

/// One message of each of [`CONNECTIONS`] connections, all there when the program looks.
fn echoes_together(program: &Program, times: usize) {
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| program.open("/echo")).collect();
    let (sent, payload) = (text("x".repeat(128)), "x".repeat(128));
    for _ in 0..times {
        program.signal(Signal::STOP);
        wait_until("it stands still", || program.is_stopped());
        clients.iter_mut().for_each(|client| client.send(&sent));
        program.signal(Signal::CONT);
        clients.iter_mut().for_each(|client| client.assert_text(&payload));
    }
}

/// From the connect to the end of the closing handshake.
fn connection(program: &Program, times: usize) {
    for _ in 0..times {
        program.open("/echo").close();
    }
}

/// System calls by name, of `MANY - FEW` times the load.
fn system_calls(load: Load) -> BTreeMap<String, f64> {
    let (few, many) = (strace(load, FEW), strace(load, MANY));
    let per_time = |(name, count): (&String, &u64)| {
        let more = count.saturating_sub(few.get(name).copied().unwrap_or(0));
        (name.clone(), more as f64 / (MANY - FEW) as f64)
    };
    many.iter().map(per_time).filter(|(_, count)| *count >= 0.01).collect()
}

fn strace(load: Load, times: usize) -> BTreeMap<String, u64> {
    let summary = scratch();
    let mut command = Command::new("strace");
    // With -D the tracer is the grandchild, and the child is the program itself.
    command.args(["-D", "-f", "-c", "-o"]).arg(&summary);
    run(command, load, times);
    // The tracer writes when the program has ended.
    let start = Instant::now();
    loop {
        let table = std::fs::read_to_string(&summary).unwrap_or_default();
        if table.lines().any(|line| line.ends_with(" total")) {
            let _ = std::fs::remove_file(&summary);
            return table.lines().filter_map(call_of).filter(|(name, _)| name != "total").collect();
        }
        assert!(start.elapsed() < PATIENCE, "strace wrote no summary: {table:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `% time, seconds, usecs/call, calls, [errors,] syscall`
fn call_of(line: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(((*words.last()?).to_owned(), words.get(3)?.parse().ok()?))
}

/// User instructions for one time of the load.
fn instructions(load: Load) -> f64 {
    (callgrind(load, MANY) - callgrind(load, FEW)) / (MANY - FEW) as f64
}

fn callgrind(load: Load, times: usize) -> f64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let said = run(command, load, times);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.unwrap_or_else(|| panic!("callgrind collected nothing: {said}"));
    count.trim().parse().expect("a number")
}

/// Runs the program under a tool, gives it the load, and stops it; what was said on stderr.
fn run(mut tool: Command, load: Load, times: usize) -> String {
    let binary =
        std::env::var_os("WSD_COUNTS_BIN").expect("scripts/test counts builds it and says where it is");
    tool.arg(binary).args(["--listen", "127.0.0.1:0", "--threads", "1", "--control-rate", "0"]);
    tool.args(["--ping-interval", "0", "--close-timeout", "1h", "--handshake-timeout", "1h"]);
    let program = Program::start(clean(tool));
    load(&program, times);
    program.signal(Signal::TERM);
    let output = program.output();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file of its own for each run: tests run side by side.
fn scratch() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("strace-{}-{number}", std::process::id()))
}

/// What another thread does each second, whatever the worker does: the longer run has some more. Whoever woke somebody
/// for each message would have one for each.
const BY_THE_CLOCK: [(&str, f64); 1] = [("futex", 0.2)];

/// Each system call stays within its bound, and there are no others.
#[track_caller]
fn assert_calls(what: &str, load: Load, bounds: &[(&str, f64)]) {
    let calls = system_calls(load);
    println!("{what}: {calls:?}, in all {:.2}", calls.values().sum::<f64>());
    for (name, count) in &calls {
        // Where the kernel's clock cannot be read without it: one for each turn.
        if name == "clock_gettime" {
            continue;
        }
        let known = bounds.iter().chain(&BY_THE_CLOCK).find(|(known, _)| known == name);
        let bound = known.map_or(0.0, |(_, bound)| *bound);
        assert!(*count <= bound * ROOM + 0.01, "{what}: {count:.3} of {name}, at most {bound} expected");
    }
}

#[track_caller]
fn assert_instructions(what: &str, load: Load, bound: f64) {
    let count = instructions(load);
    println!("{what}: {count:.0} user instructions");
    let compiler = Command::new("rustc").arg("--version").output().expect("cargo runs it too");
    let compiler = String::from_utf8_lossy(&compiler.stdout).into_owned();
    if compiler.starts_with(RUSTC) && has_vectors() {
        assert!(count <= bound * ROOM, "{what}: {count:.0} instructions, {bound} when this was written");
    } else {
        println!(
            "{what}: not judged: the bound is for {RUSTC} on x86-64 with AVX2, this is {}",
            compiler.trim()
        );
    }
}

/// Whether libraries that look at the processor choose what they chose when the bounds were measured.
fn has_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[test]
#[ignore = "needs strace and a build of its own: scripts/test counts"]
fn system_calls_of_an_echo() {
    // One epoll_wait serves all that are ready: with a message alone in its turn, there is one for each.
    let bounds = [("epoll_wait", 1.0), ("recvfrom", 1.0), ("sendto", 1.0)];
    assert_calls("echo of 128 bytes", echo, &bounds);
    assert_calls("echo of 16 KiB", echo_16_kib, &bounds);
}

#[test]
#[ignore = "needs strace and a build of its own: scripts/test counts"]
fn system_calls_of_echoes_together() {
    let each = CONNECTIONS as f64;
    // Being stopped and continued interrupts what every thread waits in; 2.1 for each echo in all.
    let bounds = [
        ("epoll_wait", 0.1 * each),
        ("recvfrom", each),
        ("sendto", each),
        ("restart_syscall", 4.0),
        ("futex", 4.0),
    ];
    assert_calls("echoes on 50 connections, in one turn", echoes_together, &bounds);
}

#[test]
#[ignore = "needs strace and a build of its own: scripts/test counts"]
fn system_calls_of_a_delivery() {
    let bounds = [("epoll_wait", 2.0), ("recvfrom", 1.0), ("sendto", MEMBERS as f64)];
    assert_calls("message to 100 members", broadcast, &bounds);
}

#[test]
#[ignore = "needs strace and a build of its own: scripts/test counts"]
fn system_calls_of_a_connection() {
    let bounds = [
        // The second finds the queue empty: with many waiting there is one for all of them.
        ("accept4", 2.0),
        ("epoll_ctl", 1.0),
        ("recvfrom", 2.0),
        ("sendto", 2.0),
        ("close", 1.0),
        ("epoll_wait", 3.0),
    ];
    assert_calls("connection, opened and closed", connection, &bounds);
}

#[test]
#[ignore = "needs valgrind and a build of its own: scripts/test counts"]
fn instructions_of_an_echo() {
    assert_instructions("echo of 128 bytes, with a turn of the loop", echo, 1_919.0);
}

#[test]
#[ignore = "needs valgrind and a build of its own: scripts/test counts"]
fn instructions_of_a_delivery() {
    assert_instructions("message to 100 members", broadcast, 23_705.0);
}

#[test]
#[ignore = "needs valgrind and a build of its own: scripts/test counts"]
fn instructions_of_a_connection() {
    assert_instructions("connection, opened and closed", connection, 16_188.0);
}
