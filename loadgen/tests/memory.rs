//! What an idle connection costs in memory that the program asks for: at most 2 KiB, with the server's share, which is
//! in the same process here.
//!
//! One test, because another one beside it would be counted too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

use loadgen::cli;
use loadgen::config::Config;
use loadgen::run::execute;
use wsd::Server;
use wsd::apps::Echo;

/// The system's allocator, which knows how much is in use, and how much ever was.
struct Counting;

static IN_USE: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    let in_use = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(in_use, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; every call goes to the system's")]
// SAFETY: every method passes its arguments to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was ever in use during a run with so many connections.
fn most(url: &str, conns: u32) -> isize {
    let line =
        format!("loadgen {url} --mode idle --conns {conns} --threads 2 --duration 100ms --warmup 0s -q");
    let args = cli::parse(line.split_whitespace().map(Into::into)).expect("sound").run;
    let config = Config::new(args, 1).expect("sound");
    MOST.store(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
    let summary = execute(&config, &AtomicBool::new(false), &mut Vec::new()).expect("a run");
    assert_eq!(summary.connecting.ok(), conns);
    MOST.load(Ordering::Relaxed)
}

#[test]
fn an_idle_connection_costs_two_kibibytes_at_most() {
    let server = Server::builder().listen("127.0.0.1:0").threads(1).route("/echo", Echo::default);
    let server = server.start().expect("a free port");
    let url = format!("ws://{}", server.addresses()[0]);
    // What is made once is made here.
    most(&url, 10);
    // Even the few are more than are connecting at a time, which costs a little more.
    let each = (most(&url, 1_500) - most(&url, 500)) / 1_000;
    assert!((100..=2_048).contains(&each), "{each} bytes for each connection");
    server.shutdown().expect("stopped");
}
