//! Peers that are gone without a word: the wire between them and the server is cut, so that nothing more comes from
//! them, not even the kernel's own answers. Both ends are in network namespaces of this test.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::admin::Scrape;
use crate::common::program::{Program, wsd};
use crate::common::{Client, wait_until};
use crate::load::{Load, say};
use crate::{assert_balanced, closed, number};

/// Messages to the room while some of its members are gone, and the length of each: more than the kernel takes.
const MESSAGES: u64 = 64;
const MESSAGE_BYTES: usize = 4 * 1024;
/// Members of the room that are still there.
const NEAR: usize = 10;

/// A network namespace. It ends when nobody is in it and this is dropped.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", "echo there; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare(1)");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        assert_eq!(line, "there\n", "a network namespace of our own");
        Self(holder)
    }

    /// Puts this thread into it, and with it what the thread starts.
    fn enter(&self) {
        let file = File::open(format!("/proc/{}/ns/net", self.0.id())).expect("it is held");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("it is ours");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `ip` with these words, in the namespace of this thread.
#[track_caller]
fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip(8)");
    assert!(status.success(), "ip {words}");
}

/// Opens `count` idle connections and as many members of a room, says so, cuts the wire when it is told to, and keeps
/// the sockets until it is told to once more.
fn far_end(
    namespace: &Namespace,
    server: SocketAddr,
    count: u64,
    joined: &mpsc::Sender<()>,
    go: &mpsc::Receiver<()>,
) {
    namespace.enter();
    ip("addr add 10.0.0.2/24 dev far");
    ip("link set far up");
    let paths = ["/echo", "/rooms/a"].iter().cycle().take(2 * count as usize);
    let clients: Vec<Client> = paths.map(|path| Client::open(server, path)).collect();
    joined.send(()).expect("it waits");
    go.recv().expect("it says when");
    ip("link set far down");
    joined.send(()).expect("it waits");
    let _ = go.recv();
    drop(clients);
}

#[test]
#[ignore = "needs network namespaces: scripts/test faults"]
fn peers_that_are_gone_without_a_word_are_given_up() {
    let count = number("WSD_TEST_CONNS", 200) / 2;
    // A thread of its own: it does not come back from where it goes.
    std::thread::spawn(move || cut_off(count)).join().expect("it says why");
}

fn cut_off(count: u64) {
    wsd::net::fdtable::raise_nofile().expect("up to the hard limit it is allowed");
    let (home, away) = (Namespace::new(), Namespace::new());
    home.enter();
    ip("link set lo up");
    ip(&format!("link add near type veth peer name far netns {}", away.0.id()));
    ip("addr add 10.0.0.1/24 dev near");
    ip("link set near up");

    // Nobody is pinged before all are there; and who has something to take is given up before it is.
    let interval = format!("{}s", 5 + count / 250);
    let times = [
        "--ping-interval",
        &interval,
        "--pong-timeout",
        "4s",
        "--progress-timeout",
        "2s",
        "--close-timeout",
        "1s",
    ];
    let limits = ["--queue-hard", "1MiB", "--queue-soft", "0", "--admin", "127.0.0.1:0"];
    let start = ["--listen", "0.0.0.0:0", "--threads", "2"];
    let program = Program::start(wsd(&[&start[..], &times, &limits].concat()));
    let mut near: Vec<Client> = (0..NEAR).map(|_| program.open("/rooms/a")).collect();
    let mut load = Load::default();
    load.echo(program.open("/echo"));
    let scrape = || Scrape::of(program.admin());
    let before = program.descriptors();

    let server = SocketAddr::new([10, 0, 0, 1].into(), program.addresses()[0].port());
    let ((joined, joins), (go, goes)) = (mpsc::channel(), mpsc::channel());
    let far = std::thread::spawn(move || {
        far_end(&away, server, count, &joined, &goes);
        away
    });
    joins.recv().expect("all of them are let in");
    go.send(()).expect("it waits");
    joins.recv().expect("the wire is cut");
    let message = "x".repeat(MESSAGE_BYTES);
    (0..MESSAGES).for_each(|_| say(&mut near, &message));
    wait_until("queues hold what nobody takes", || scrape().sum("wsd_queued_connections") as u64 == count);

    let patience = Duration::from_secs(20 + count / 100);
    let start = std::time::Instant::now();
    while scrape().sum("wsd_connections") as u64 > NEAR as u64 + 1 {
        assert!(start.elapsed() < patience, "they are still there");
        // Who only listens is pinged, and answers.
        say(&mut near, "anybody there?");
        std::thread::sleep(Duration::from_millis(50));
    }
    let end = scrape();
    let by_reason = ["slow", "silent", "lost"].map(|reason| closed(&end, reason));
    assert_eq!(by_reason, [count, count, 0], "those who had something to take, and those who had not");
    assert_eq!(end.sum("wsd_connections_closed_total") as u64, 2 * count);
    assert_eq!(end.value("wsd_closing_timed_out_total") as u64, count, "a Close that nobody takes");
    wait_until("the descriptors are back", || program.descriptors() == before);
    say(&mut near, "those who are there go on");
    near.into_iter().for_each(Client::close);
    assert!(load.finish()[0] > 0);
    assert_balanced(&program);
    assert!(!far.is_finished());
    drop(go);
    drop(far.join().expect("the far end waits to the end"));
    println!("{count} idle peers and {count} with something to take were gone without a word, and given up");
}
