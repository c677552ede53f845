//! Those who do not keep up: the policies of routes, the soft limit, and the limit on all queues together. Each test ends
//! with the ledger.

mod common;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::{CLOSE, Client, PATIENCE, Running, SHUTDOWN_MAX, calm, close, request_with, text, wait_until};
use flate2::{Decompress, FlushDecompress};
use wsd::apps::{Broadcast, Sink};
use wsd::net::fdtable::raise_nofile;
use wsd::{App, Config, Context, Deflate, Limits, Message, QueueTotal, RouteOptions, Server, SlowPolicy};

const NOTICE: &str = "some are missing";

const DROPPING: [SlowPolicy; 3] = [SlowPolicy::DropNewest, SlowPolicy::DropOldest, SlowPolicy::Latest];

/// A room on every path, for those who listen, and `/other`, where nothing is dropped.
fn rooms(threads: usize, policy: SlowPolicy, limits: Limits) -> wsd::Builder {
    let options =
        RouteOptions { slow_policy: policy, gap_notice: Some(NOTICE.to_owned()), ..RouteOptions::default() };
    let builder = Server::builder().threads(threads).limits(limits);
    builder.route("/other", Broadcast::by_path).route_with("/*", options, Broadcast::by_path)
}

/// Room for a few messages of 1 KiB.
fn tight() -> Limits {
    Limits { queue_hard: 16 * 1024, ..calm() }
}

/// A message of 1 KiB.
fn numbered(number: usize) -> String {
    format!("{number:01024}")
}

/// Publishes numbered messages from `from` on until the counters say so, each when the one before has been handed
/// out; gives the number of the next one.
#[track_caller]
fn publish_until(server: &Running, topic: &str, from: usize, done: impl Fn(&wsd::Metrics) -> bool) -> usize {
    let start = Instant::now();
    let mut number = from;
    loop {
        let before = server.metrics();
        if done(&before) {
            return number;
        }
        assert!(start.elapsed() < PATIENCE, "never, after {number} messages: {before:#?}");
        server.remote().publish(topic, numbered(number));
        server.wait("it is handed out", |now| now.due > before.due || done(now));
        number += 1;
    }
}

fn dropped_by(policy: SlowPolicy, metrics: &wsd::Metrics) -> u64 {
    match policy {
        SlowPolicy::Close => metrics.dropped_slow,
        SlowPolicy::DropNewest => metrics.dropped_newest,
        SlowPolicy::DropOldest => metrics.dropped_oldest,
        SlowPolicy::Latest => metrics.dropped_superseded,
    }
}

/// What a reader made of the texts it got.
#[derive(Debug, Default)]
struct Read {
    numbers: Vec<usize>,
    notices: usize,
    announced: bool,
}

impl Read {
    /// Numbers only grow, what is missing is announced, and nothing else is announced.
    #[track_caller]
    fn note(&mut self, text: &str) {
        if text == NOTICE {
            (self.announced, self.notices) = (true, self.notices + 1);
            return;
        }
        let number: usize = text.trim().parse().expect("a number");
        let expected = self.numbers.last().map_or(0, |last| last + 1);
        assert!(number >= expected, "{number} after {expected}");
        assert_eq!(self.announced, number > expected, "{number} instead of {expected}");
        self.announced = false;
        self.numbers.push(number);
    }

    /// Reads until message `last` has come.
    #[track_caller]
    fn up_to(&mut self, client: &mut Client, last: usize) {
        while self.numbers.last() != Some(&last) {
            let frame = client.read_frame();
            self.note(&String::from_utf8(frame.payload).expect("text"));
        }
    }

    /// Reads until the Close; gives its code.
    #[track_caller]
    fn up_to_close(&mut self, client: &mut Client) -> u16 {
        loop {
            let frame = client.read_frame();
            if frame.opcode == CLOSE {
                return u16::from_be_bytes(*frame.payload.first_chunk().expect("a code"));
            }
            self.note(&String::from_utf8(frame.payload).expect("text"));
        }
    }
}

#[test]
fn a_reader_that_stalled_gets_what_its_policy_keeps_and_is_told_what_is_missing() {
    for (policy, threads) in DROPPING.into_iter().flat_map(|policy| [(policy, 1), (policy, 4)]) {
        let server = Running::start(rooms(threads, policy, tight()));
        let mut slow = Client::open_small(server.address, "/room");
        let mut fast = server.open("/room");
        let mut got = Read::default();
        let mut heard = Read::default();
        // In steps that the other one has read before the next: a busy machine does not make it slow.
        let mut sent = 0;
        while dropped_by(policy, &server.metrics()) < 50 {
            sent =
                publish_until(&server, "/room", sent, |now| now.due >= 2 * sent as u64 + 2 + now.gap_notices);
            heard.up_to(&mut fast, sent - 1);
            // The fast one may have a queue too, for a moment.
            assert!(server.metrics().queued_bytes <= 2 * 16 * 1024, "the queue of the slow one");
        }
        assert_eq!(heard.numbers.len(), sent, "{policy:?}: whoever reads loses nothing");

        // It reads again: what its queue kept, and then what is new.
        slow.widen();
        wait_until("its queue is empty", || {
            got_all(&mut slow, &mut got);
            server.metrics().queued == 0
        });
        let metrics = server.metrics();
        server.remote().publish("/room", numbered(sent));
        got.up_to(&mut slow, sent);
        heard.up_to(&mut fast, sent);
        let dropped = dropped_by(policy, &metrics);
        assert_eq!(got.numbers.len() as u64 + dropped, sent as u64 + 1, "{policy:?}");
        assert!(got.notices >= 1 && got.notices as u64 == metrics.gap_notices, "{policy:?}: {got:?}");
        if policy != SlowPolicy::DropNewest {
            assert!(got.numbers.contains(&(sent - 1)), "{policy:?} and the newest message: {got:?}");
        }

        let routes = server.route_metrics();
        assert_eq!(
            (routes[0].route.as_str(), routes[0].iter().map(|(_, count)| count).sum::<u64>()),
            ("/other", 0)
        );
        let drops = routes[1].iter().filter(|(name, _)| name.starts_with("dropped_"));
        assert_eq!(drops.map(|(_, count)| count).sum::<u64>(), dropped);
        slow.close();
        fast.close();
        let metrics = server.finish();
        assert_eq!((metrics.dropped_slow, metrics.closed_by_peer), (0, 2));
        assert_eq!(metrics.due, 2 * (sent as u64 + 1) + metrics.gap_notices);
    }
}

/// Notes whatever has come so far.
fn got_all(client: &mut Client, got: &mut Read) {
    while !client.is_silent_for(Duration::from_millis(1)) {
        let frame = client.read_frame();
        got.note(&String::from_utf8(frame.payload).expect("text"));
    }
}

#[test]
fn a_close_and_its_reason_get_out_under_each_policy() {
    for policy in [SlowPolicy::Close, SlowPolicy::DropNewest, SlowPolicy::DropOldest, SlowPolicy::Latest] {
        let mut server = Running::start(rooms(1, policy, tight()));
        let mut slow = Client::open_small(server.address, "/room");
        publish_until(&server, "/room", 0, |now| dropped_by(policy, now) > 0);
        let reader = std::thread::spawn(move || {
            slow.widen();
            let mut got = Read::default();
            let code = got.up_to_close(&mut slow);
            slow.send_to_whom_it_may_concern(&close(code, b""));
            slow.assert_eof();
            (code, got.notices)
        });
        let start = Instant::now();
        let metrics = server.stop();
        assert!(start.elapsed() < SHUTDOWN_MAX, "it did not have to be cut");
        let (code, notices) = reader.join().expect("no panic");
        assert_eq!(code, if policy == SlowPolicy::Close { 1013 } else { 1001 }, "{policy:?}");
        assert_eq!(notices as u64, metrics.gap_notices);
        assert_eq!(notices > 0, policy != SlowPolicy::Close, "{policy:?}");
        assert_eq!(metrics.closing_timed_out, 0);
    }
}

/// With context takeover a message may refer to those before it, so those that are never sent must not be referred to.
#[test]
fn dropped_messages_leave_no_hole_in_a_compressed_stream() {
    for policy in DROPPING {
        let deflate = Deflate { takeover: true, min_bytes: 0, ..Deflate::default() };
        let mut server = Running::start(rooms(1, policy, tight()).deflate(deflate));
        let mut slow = Client::connect_small(server.address);
        slow.send(request_with("/room", "Sec-WebSocket-Extensions: permessage-deflate\r\n"));
        assert!(slow.assert_upgraded().contains("permessage-deflate"));
        let start = Instant::now();
        let mut number = 0;
        while dropped_by(policy, &server.metrics()) < 50 {
            assert!(start.elapsed() < PATIENCE, "never, after {number} messages");
            let due = server.metrics().due;
            server.remote().publish("/room", format!("{number} {}", noise(number / 4)));
            server.wait("it is handed out", |now| now.due > due);
            number += 1;
        }
        // Behind what waits.
        slow.send_to_whom_it_may_concern(&close(1000, b""));
        let reader = std::thread::spawn(move || {
            slow.widen();
            slow.read_to_end()
        });
        server.stop();
        let stream = reader.join().expect("no panic");
        let mut got = Read::default();
        for text in inflate_all(&stream) {
            let number = text.split(' ').next().unwrap_or_default();
            if text != NOTICE {
                let value: usize = number.parse().expect("a number");
                assert_eq!(text, format!("{value} {}", noise(value / 4)), "{policy:?}");
            }
            got.note(if text == NOTICE { NOTICE } else { number });
        }
        assert!(got.notices > 0, "{policy:?}");
    }
}

/// A KiB that is the same for the same seed, and compresses badly.
fn noise(seed: usize) -> String {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + ((state >> 33) % 90) as u8)
    };
    (0..1024).map(|_| next()).collect()
}

/// The messages of a stream in which compression goes on from message to message.
fn inflate_all(mut stream: &[u8]) -> Vec<String> {
    let mut inflater = Decompress::new(false);
    let mut texts = Vec::new();
    while let &[first, second, ..] = stream {
        let (used, len) = match second {
            126 => (4, usize::from(u16::from_be_bytes([stream[2], stream[3]]))),
            short => (2, usize::from(short)),
        };
        let payload = &stream[used..used + len];
        stream = &stream[used + len..];
        if first & 0x0F == CLOSE {
            assert!(stream.is_empty(), "nothing follows a Close");
            return texts;
        }
        let mut bytes = payload.to_vec();
        if first & 0x40 != 0 {
            let input = [payload, &[0, 0, 0xff, 0xff]].concat();
            bytes = Vec::with_capacity(1 << 16);
            inflater.decompress_vec(&input, &mut bytes, FlushDecompress::Sync).expect("sound");
        }
        texts.push(String::from_utf8(bytes).expect("text"));
    }
    panic!("no Close at the end")
}

#[test]
fn a_reader_over_the_soft_limit_is_closed_although_it_reads() {
    let soft_time = Duration::from_millis(500);
    for (queue_soft, closed) in [(16 * 1024, 1), (0, 0)] {
        let limits = Limits { queue_soft, queue_soft_time: soft_time, queue_hard: 1 << 30, ..calm() };
        let server = Running::start(rooms(1, SlowPolicy::Close, limits));
        let mut slow = Client::open_small(server.address, "/room");
        let start = Instant::now();
        let mut sent =
            publish_until(&server, "/room", 0, |now| now.queued_bytes > 64 * 1024 || now.closed_slow > 0);
        while server.metrics().closed_slow == 0 && start.elapsed() < 4 * soft_time {
            // Two new ones for each that it reads.
            let due = server.metrics().due;
            (sent..sent + 2).for_each(|number| server.remote().publish("/room", numbered(number)));
            server.wait("they are handed out, or it is closed", |now| {
                now.due >= due + 2 || now.closed_slow > 0
            });
            sent += 2;
            slow.read_frame();
        }
        if closed == 1 {
            server.wait("it is closed", |now| now.closed_slow == 1);
            assert!(start.elapsed() >= soft_time, "too early");
        }
        assert_eq!(server.metrics().closed_slow, closed, "at a soft limit of {queue_soft}");
        slow.reset();
        server.finish();
    }
}

/// A server whose queues may hold a mebibyte.
fn with_a_mebibyte(policy: SlowPolicy) -> Running {
    let limits = Limits { queue_hard: 1 << 30, queue_soft: 0, ..calm() };
    Running::start(rooms(1, policy, limits).queue_total(QueueTotal::Bytes(1 << 20)))
}

/// A turn of the loop, for who waits for a look at the memory.
fn nudge(server: &Running) {
    server.remote().publish("/nobody", "?");
}

/// How often a worker that turns looks at the memory of its queues (`LOOK_EVERY` in `net/worker/budget.rs`).
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Lets the one worker have a turn from its beginning to its end, after this call.
fn whole_turn(server: &Running) {
    for _ in 0..2 {
        let turns = server.metrics().turns;
        nudge(server);
        server.wait("another turn", |metrics| metrics.turns > turns);
    }
}

#[test]
fn at_80_percent_of_the_memory_the_slowest_are_shed() {
    for policy in [SlowPolicy::Close, SlowPolicy::DropNewest] {
        let server = with_a_mebibyte(policy);
        let mut heavy = Client::open_small(server.address, "/heavy");
        let mut light = Client::open_small(server.address, "/light");
        let one = publish_until(&server, "/light", 0, |now| now.queued > 20);
        let queued = server.metrics().queued_bytes;
        let many = publish_until(&server, "/heavy", 0, |now| now.dropped_shed > 0);
        // One counter after the other: they are all there when the turn is over.
        whole_turn(&server);
        let metrics = server.metrics();
        assert!(metrics.queued_bytes < queued + 10 * 1024, "what the heavy one had is gone");
        assert_eq!(metrics.closed_shed, u64::from(policy == SlowPolicy::Close));
        assert!(metrics.dropped_shed > 500, "of {many}, 80 % of a mebibyte");

        heavy.widen();
        let mut got = Read::default();
        if policy == SlowPolicy::Close {
            assert_eq!(got.up_to_close(&mut heavy), 1013);
            heavy.send(close(1013, b""));
        } else {
            server.remote().publish("/heavy", numbered(many));
            got.up_to(&mut heavy, many);
            assert_eq!(got.notices, 1);
            heavy.send(close(1000, b""));
        }
        light.widen();
        Read::default().up_to(&mut light, one - 1);
        light.close();
        assert_eq!(server.finish().closed_by_peer, 2 - metrics.closed_shed);
    }
}

#[test]
fn what_many_wait_for_counts_once() {
    let server = with_a_mebibyte(SlowPolicy::Close);
    let slow: Vec<_> = (0..20).map(|_| Client::open_small(server.address, "/room")).collect();
    publish_until(&server, "/room", 0, |now| now.queue_memory_unshared > 4 << 20);
    for _ in 0..3 {
        std::thread::sleep(LOOK_EVERY);
        whole_turn(&server);
    }
    let metrics = server.metrics();
    assert!((1..800 << 10).contains(&metrics.queue_memory), "{metrics:#?}");
    assert_eq!((metrics.closed_shed, metrics.dropped_shed), (0, 0));
    slow.into_iter().for_each(Client::reset);
    server.finish();
}

#[test]
fn at_95_percent_of_the_memory_nobody_else_is_let_in() {
    let server = with_a_mebibyte(SlowPolicy::Close);
    let mut slow = Client::open_small(server.address, "/room");
    let mut other = server.open("/other");
    // A frame that is on its way stays until it is sent, whoever is shed.
    let large = "x".repeat(2 << 20);
    server.remote().publish("/room", large.as_str());
    server.wait("it is shed, though nothing else happens", |metrics| metrics.closed_shed == 1);
    server.connect().assert_status(503);
    assert_eq!(server.metrics().refused_memory, 1);
    // What could be published waits outside.
    other.send(text("later"));
    assert!(other.is_silent_for(Duration::from_millis(100)));

    slow.widen();
    assert_eq!(slow.read_frame().payload.len(), large.len());
    slow.assert_closes_with(1013);
    other.assert_text("later");
    wait_until("it lets in again", || {
        nudge(&server);
        let mut client = server.connect();
        client.send_to_whom_it_may_concern(common::request("/other").as_bytes());
        let head = client.read_head();
        head.starts_with("HTTP/1.1 101 ")
    });
    other.close();
    server.finish();
}

/// What is on its way to somebody who was shed, and takes nothing of it, does not hold up everybody else until the time
/// for closing is over.
#[test]
fn at_95_percent_of_the_memory_who_is_closed_and_does_not_read_is_cut() {
    let limits = Limits { queue_hard: 1 << 30, queue_soft: 0, close_timeout: 2 * PATIENCE, ..calm() };
    let builder = rooms(1, SlowPolicy::Close, limits);
    let server = Running::start(builder.queue_total(QueueTotal::Bytes(1 << 20)));
    let slow = Client::open_small(server.address, "/room");
    let mut other = server.open("/other");
    server.remote().publish("/room", "x".repeat(2 << 20));
    server.wait("it is shed, though nothing else happens", |metrics| metrics.closed_shed == 1);
    other.send(text("later"));
    other.assert_text("later");
    let metrics = server.metrics();
    assert_eq!((metrics.closing_timed_out, metrics.connections), (1, 1));
    drop(slow);
    other.close();
    server.finish();
}

/// What [`Generous`] sends for each message.
const ANSWER: usize = 128 << 10;

/// Answers with more than its peer takes. A message that says so is answered when the test says so.
#[derive(Clone)]
struct Generous(Arc<Barrier>);

impl App for Generous {
    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        if message.as_bytes() == b"wait" {
            self.0.wait();
            self.0.wait();
        }
        cx.send(vec![7; ANSWER]);
    }
}

/// What comes in one turn, between two looks at the clock, is not all taken in before somebody looks at the memory.
#[test]
fn what_comes_at_once_is_taken_in_up_to_the_percentage() {
    let step = Arc::new(Barrier::new(2));
    let app = Generous(Arc::clone(&step));
    let limits = Limits { queue_hard: 1 << 30, queue_soft: 0, ..calm() };
    let builder = Server::builder().threads(1).limits(limits).queue_total(QueueTotal::Bytes(1 << 20));
    let server = Running::start(builder.app(move || app.clone()));
    let mut clients: Vec<_> = (0..50).map(|_| Client::open_small(server.address, "/")).collect();
    clients[0].send(text("wait"));
    step.wait();
    clients[1..].iter_mut().for_each(|client| client.send(text("?")));
    step.wait();
    server.wait("it is too much", |metrics| metrics.closed_shed > 0);
    let held = server.metrics().queue_memory_unshared;
    assert!(held <= (1 << 20) / 100 * 95 + ANSWER as u64 * 11 / 10, "{held} bytes, of a mebibyte");
    clients.into_iter().for_each(Client::reset);
    server.finish();
}

/// Two hundred of a thousand do not read.
#[test]
fn r1_slow_readers_are_cut_and_the_others_lose_nothing() {
    const SLOW: usize = 200;
    const OTHERS: usize = 800;
    raise_nofile().expect("up to the maximum");
    let server = Running::start(rooms(2, SlowPolicy::Close, tight()));
    let slow: Vec<_> = (0..SLOW).map(|_| Client::open_small(server.address, "/room")).collect();
    let mut others = server.open_many("/room", OTHERS);
    let start = Instant::now();
    let mut sent = 0;
    while server.metrics().closed_slow < SLOW as u64 {
        assert!(start.elapsed() < 4 * PATIENCE, "{sent} KiB wait for those who do not read");
        (sent..sent + 8).for_each(|number| server.remote().publish("/room", numbered(number)));
        for other in &mut others {
            (sent..sent + 8).for_each(|number| other.assert_text(&numbered(number)));
        }
        sent += 8;
        // Each has its queue, or the rest of a message and a Close.
        assert!(server.metrics().queued_bytes <= (SLOW * 16 * 1024) as u64);
    }
    server.remote().publish("/room", "after");
    others.iter_mut().for_each(|other| other.assert_text("after"));
    let metrics = server.metrics();
    assert!(metrics.queued_bytes <= (SLOW * 2 * 1024) as u64, "what was queued is gone");
    assert_eq!((metrics.closed_slow, metrics.connections), (SLOW as u64, (SLOW + OTHERS) as u64));
    slow.into_iter().for_each(Client::reset);
    drop(others);
    let metrics = server.finish();
    assert!(metrics.dropped_slow > 0 && metrics.delivered >= (OTHERS * (sent + 1)) as u64);
}

/// A route whose app listens only: nothing of the policy is about what comes in.
#[test]
fn whoever_is_sent_nothing_is_never_slow() {
    let options = RouteOptions {
        slow_policy: SlowPolicy::Latest,
        gap_notice: Some(NOTICE.to_owned()),
        ..RouteOptions::default()
    };
    let builder = Server::builder().threads(1).limits(tight());
    let server = Running::start(builder.route_with("/sink", options, Sink::default));
    let mut client = Client::open_small(server.address, "/sink");
    (0..200).for_each(|number| client.send(text(numbered(number))));
    client.close();
    let metrics = server.finish();
    assert_eq!((metrics.messages_in, metrics.due), (200, 0));
}

/// A peer that takes nothing for long is given up by the kernel, too, and then hears nothing. Where a reload gives readers
/// more time than that, those who were there before it have it as well, and hear at its end why they are closed.
#[test]
fn a_reload_that_gives_readers_more_time_gives_it_to_those_who_are_here() {
    // The kernel gives up after 20 seconds with the first, and after 34 with the second.
    const FIRST: Duration = Duration::from_secs(1);
    const THEN: Duration = Duration::from_secs(24);
    let limits = |time| Limits { progress_timeout: time, close_timeout: FIRST, queue_soft: 0, ..calm() };
    let server = Running::start(rooms(1, SlowPolicy::Close, limits(FIRST)));
    let slow = Client::open_small(server.address, "/room");
    server.remote().reload(&Config { limits: limits(THEN), ..Config::default() }).expect("sound");
    whole_turn(&server);
    publish_until(&server, "/room", 0, |now| now.queued > 0);
    let start = Instant::now();
    while server.metrics().closed_lost + server.metrics().closed_slow == 0 {
        assert!(start.elapsed() < THEN + PATIENCE, "it is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    let metrics = server.metrics();
    assert_eq!((metrics.closed_lost, metrics.closed_slow), (0, 1));
    slow.reset();
    server.finish();
}
