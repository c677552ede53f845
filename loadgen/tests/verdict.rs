//! Each reason for which the generator doubts itself, provoked from outside. What the server can do to a run (loss,
//! duplicates, a Close for everyone) is in `faults.rs`, Ctrl-C too.
//!
//! One after the other, because they take processors from each other on purpose. Nothing depends on how fast the machine
//! is or who else is on it: a reason is asserted, never its number.

mod common;

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{Fault, has_reason, loadgen, measure, serve, texts};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wsd::Server;
use wsd::apps::{Echo, Sink};

/// More messages than a thread can send: it is never idle.
const TOO_MUCH: &str =
    "--conns 2 --threads 1 --rate 10M --duration 1s --warmup 0s --settle 0s --drain 200ms -q";

#[test]
fn each_reason_is_told() {
    connections_that_are_missing();
    connections_that_end_early();
    nothing_that_comes_back();
    a_generator_that_stood_still();
    a_thread_that_waits_for_its_core();
    a_thread_that_is_busy();
    a_thread_that_has_the_work_of_two();
}

/// Five of ten ask for a path that is there.
fn connections_that_are_missing() {
    let server = Server::builder().listen("127.0.0.1:0").threads(1);
    let server = (0..5).fold(server, |server, conn| server.route(&format!("/{conn}"), Echo::default));
    let server = server.start().expect("a free port");
    let url = format!("ws://{}/{{conn}}", server.addresses()[0]);
    let (out, value) = measure(&url, "--conns 10 --rate 100 --duration 200ms");
    assert!(has_reason(&value, "5 of 10 connections"), "{out}");
    assert_eq!(value["verdict"], "INVALID", "{out}");
    server.shutdown().expect("stopped");
}

/// Of four connections that share ten messages, two send a third one.
fn connections_that_end_early() {
    let server = serve(Fault::Close(2, 1001));
    let (out, value) = measure(&server.url, "--conns 4 --rate 10 --duration 1s --drain 200ms");
    assert!(has_reason(&value, "2 connections ended early"), "{out}");
}

fn nothing_that_comes_back() {
    let server = Server::builder().listen("127.0.0.1:0").threads(1).route("/echo", Sink::default);
    let server = server.start().expect("a free port");
    let url = format!("ws://{}", server.addresses()[0]);
    let (out, value) = measure(&url, "--conns 3 --rate 100 --duration 200ms --drain 200ms");
    assert!(has_reason(&value, "no message came back"), "{out}");
    assert_eq!(value["verdict"], "INVALID", "{out}");
    server.shutdown().expect("stopped");
}

/// A machine that is suspended, or a container that has used up its share: what was due meanwhile is sent late.
fn a_generator_that_stood_still() {
    let server = serve(Fault::None);
    let line = format!("{} --conns 2 --rate 400 --duration 3s --warmup 0s --settle 0s -q", server.url);
    let child = loadgen(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    for _ in 0..50 {
        server.messages.recv().expect("a message");
    }
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGSTOP).expect("alive");
    thread::sleep(Duration::from_secs(1));
    kill(pid, Signal::SIGCONT).expect("alive");
    let (code, out, err) = texts(&child.wait_with_output().expect("ended"));
    assert!(out.contains("reason  messages sent ") && out.contains(" late (p99)"), "{out}");
    assert_eq!((code, err.as_str()), (97, ""), "{out}");
}

/// Two others on the same core leave it a third: it never idles, and is never busy for 80 % of the time.
fn a_thread_that_waits_for_its_core() {
    let done = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..2)
        .map(|_| {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                pin();
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let (code, out, _) = texts(&pinned());
    done.store(true, Ordering::Relaxed);
    others.into_iter().for_each(|other| other.join().expect("it only counts"));
    assert!(out.contains("reason  a generator thread ran or waited for a core "), "{out}");
    assert!(out.contains(" of the intended messages"), "{out}");
    assert_eq!(code, 97, "{out}");
}

/// With its core to itself it is busy. Where other programs have the core as well, it waits for them: that is told too,
/// and is all that can be asked for on a machine that is never free.
fn a_thread_that_is_busy() {
    for _ in 0..3 {
        let (code, out, _) = texts(&pinned());
        assert_eq!(code, 97, "{out}");
        if out.contains("reason  a generator thread was busy ") {
            return;
        }
        assert!(out.contains("reason  a generator thread ran or waited for a core "), "{out}");
    }
}

/// Every second connection asks for a path that is not there, so that one of two threads has none.
fn a_thread_that_has_the_work_of_two() {
    let server = Server::builder().listen("127.0.0.1:0").threads(1);
    let server = ["/0", "/2"].iter().fold(server, |server, path| server.route(path, Sink::default));
    let server = server.start().expect("a free port");
    let url = format!("ws://{}/{{conn}}", server.addresses()[0]);
    let (out, value) = measure(&url, "--conns 4 --threads 2 --rate 10M --duration 1s --drain 200ms");
    assert!(has_reason(&value, "of a core, the others "), "{out}");
    server.shutdown().expect("stopped");
}

/// Runs the program on the first of our processors, with more to send than it can.
fn pinned() -> Output {
    // It reads one message, and then no more: it does not take the processor from those who send.
    let server = serve(Fault::Delay(Duration::from_secs(60)));
    let mut command = loadgen(&format!("{} {TOO_MUCH}", server.url));
    let run = thread::spawn(move || {
        pin();
        command.output().expect("started")
    });
    run.join().expect("it only waits")
}

/// Keeps the calling thread, and what it starts, on the first of our processors.
fn pin() {
    let calling = Pid::from_raw(0);
    let allowed = sched_getaffinity(calling).expect("Linux tells");
    let first = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap_or(false)).expect("one at least");
    let mut only = CpuSet::new();
    only.set(first).expect("it was in the set");
    sched_setaffinity(calling, &only).expect("one of our own");
}
