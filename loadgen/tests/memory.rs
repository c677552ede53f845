//! What an idle connection costs in memory that the program asks for: at most 2 KiB, with the server's share, which is
//! in the same process here.
//!
//! One test, because another one beside it would be counted too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

use loadgen::cli;
use loadgen::config::Config;
use loadgen::run::execute;
use wsd::Server;
use wsd::apps::Echo;

/// The system's allocator, which knows how much is in use.
struct Counting;

static IN_USE: AtomicIsize = AtomicIsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; every call goes to the system's")]
// SAFETY: every method passes its arguments to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Where the report goes: it says when everyone is connected, and that is when to look.
#[derive(Default)]
struct Report {
    connected: Option<isize>,
}

impl Write for Report {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.starts_with(b"connect") {
            self.connected = Some(IN_USE.load(Ordering::Relaxed));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is in use while so many connections are open and idle.
fn in_use(url: &str, conns: u32) -> isize {
    let line = format!(
        "loadgen {url} --mode idle --conns {conns} --threads 2 --duration 100ms --settle 0s --warmup 0s -q"
    );
    let args = cli::parse(line.split_whitespace().map(Into::into)).expect("sound").run;
    let config = Config::new(args, 1).expect("sound");
    let mut report = Report::default();
    let summary = execute(&config, &AtomicBool::new(false), &mut report).expect("a run");
    assert_eq!(summary.connecting.ok(), conns);
    report.connected.expect("they have connected")
}

#[test]
fn an_idle_connection_costs_two_kibibytes_at_most() {
    let server = Server::builder().listen("127.0.0.1:0").threads(1).route("/echo", Echo::default);
    let server = server.start().expect("a free port");
    let url = format!("ws://{}", server.addresses()[0]);
    // What is made once is made here.
    in_use(&url, 10);
    let few = in_use(&url, 100);
    let each = (in_use(&url, 1_100) - few) / 1_000;
    assert!((100..=2_048).contains(&each), "{each} bytes for each connection");
    server.shutdown().expect("stopped");
}
