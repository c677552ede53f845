//! Whatever the socket takes, and when: what goes out is what was sent, in order, frame by frame, and every message is
//! counted once.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};
use wsd::conn::{Conn, Flushed, Outbox, QueueRules, Sent};
use wsd::hub::batch::{FrameRef, Pending};
use wsd::id::Millis;
use wsd::metrics::WorkerMetrics;
use wsd::proto::deflate::Pool;
use wsd::proto::frame::{Piece, encode};
use wsd::proto::{CloseCode, Frame, Header, OpCode, Role, Status};
use wsd::{Deflate, Limits, RouteMetrics, RouteOptions, SlowPolicy};

use super::cases;

/// What a socket does when it is written to; after the last of them it takes nothing.
#[derive(Clone, Copy, Debug)]
enum Take {
    Bytes(usize),
    Blocks,
    Interrupts,
    Fails,
}

#[derive(Default)]
struct Socket {
    takes: VecDeque<Take>,
    wire: Vec<u8>,
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.takes.pop_front() {
            Some(Take::Bytes(count)) => {
                let taken = count.min(bytes.len());
                self.wire.extend_from_slice(&bytes[..taken]);
                Ok(taken)
            }
            Some(Take::Interrupts) => Err(io::ErrorKind::Interrupted.into()),
            Some(Take::Fails) => Err(io::ErrorKind::BrokenPipe.into()),
            Some(Take::Blocks) | None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(&slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn any_takes(fails: bool) -> impl Strategy<Value = Vec<Take>> {
    let take = prop_oneof![
        6 => (1..200usize).prop_map(Take::Bytes),
        2 => any::<()>().prop_map(|()| Take::Bytes(100_000)),
        2 => any::<()>().prop_map(|()| Take::Blocks),
        1 => any::<()>().prop_map(move |()| if fails { Take::Fails } else { Take::Interrupts }),
    ];
    vec(take, 0..4)
}

/// The frames on a wire, each as opcode and payload; `None` where the last one is cut.
fn frames(wire: &[u8]) -> Option<Vec<(OpCode, Vec<u8>)>> {
    let (frames, rest) = whole_frames(wire);
    rest.is_empty().then_some(frames)
}

/// The whole frames on a wire, and what comes after them.
fn whole_frames(mut wire: &[u8]) -> (Vec<(OpCode, Vec<u8>)>, &[u8]) {
    let mut frames = Vec::new();
    while let Ok(Status::Complete((header, used))) = Header::decode(wire, Role::Client, false)
        && let Some(payload) = wire.get(used..used + header.payload_len as usize)
    {
        frames.push((header.opcode, payload.to_vec()));
        wire = &wire[used + payload.len()..];
    }
    (frames, wire)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn partial_writes_add_up(lens in vec(0..300usize, 0..80), rounds in vec(any_takes(false), 0..40)) {
        let metrics = WorkerMetrics::default();
        let mut outbox = Outbox::new(Millis(0));
        let mut sent = Vec::new();
        let mut waiting = lens.iter();
        let mut socket = Socket::default();
        for takes in rounds {
            for _ in 0..3 {
                let Some(&len) = waiting.next() else { break };
                let frame = Frame::message(vec![len as u8; len]);
                sent.extend_from_slice(frame.as_bytes());
                outbox.push(Piece::whole(frame, 1), &metrics);
            }
            socket.takes = takes.into();
            let flushed = outbox.flush(Millis(1), &mut socket, &metrics).expect("it does not fail");
            prop_assert_eq!(flushed == Flushed::Empty, socket.wire.len() == sent.len());
            prop_assert_eq!(outbox.bytes() as usize, sent.len() - socket.wire.len());
            prop_assert_eq!(metrics.queued_bytes.get(), u64::from(outbox.bytes()));
            prop_assert!(sent.starts_with(&socket.wire));
        }
        let pushed = (lens.len() - waiting.len()) as u64;
        prop_assert_eq!(metrics.delivered.get() + metrics.queued.get(), pushed);
        socket.takes = vec![Take::Bytes(usize::MAX); 10].into();
        prop_assert_eq!(outbox.flush(Millis(2), &mut socket, &metrics).expect("it does not fail"), Flushed::Empty);
        prop_assert_eq!(socket.wire, sent);
        prop_assert_eq!((metrics.delivered.get(), metrics.queued.get(), metrics.queued_bytes.get()), (pushed, 0, 0));
    }

    #[test]
    fn a_connection_sends_whole_frames_and_nothing_after_its_close(
        orders in vec(any_order(), 0..40), fails in any::<bool>(), queue_hard in 0..2_000u32,
        queue_soft in 0..1_000u32, slow_policy in any_policy(), notice in any::<bool>(),
    ) {
        let mut bench = Bench::new(queue_hard, queue_soft, slow_policy, notice);
        for order in &orders {
            let (dropped, told) = (bench.dropped(), bench.is_told());
            bench.carry_out(order, fails);
            bench.again += u64::from(told && bench.dropped() > dropped);
            prop_assert!(bench.conn.queued_bytes() <= bench.bound(), "{:?} wait, of {:?}", bench.conn, bench.bound());
        }
        bench.socket.takes = vec![Take::Bytes(usize::MAX); 20].into();
        if !bench.broken {
            bench.conn.flush(Millis(2), &mut bench.socket, &bench.limits, &bench.metrics).expect("it does not fail");
            let frames = frames(&bench.socket.wire).expect("no frame is cut");
            let close = frames.iter().position(|(opcode, _)| *opcode == OpCode::Close);
            prop_assert!(close.is_none_or(|at| at == frames.len() - 1), "after the Close: {:?}", frames);
            prop_assert_eq!(close.is_some(), !bench.conn.is_open());
            let data = frames.iter().filter(|(opcode, _)| opcode.begins_message()).count() as u64;
            prop_assert_eq!(data, bench.metrics.delivered.get());
            let story = Story::of(&frames);
            prop_assert_eq!(story.wrong, None, "{:?}", frames);
            prop_assert!(story.notices == 0 || notice && slow_policy != SlowPolicy::Close);
            prop_assert!(story.again <= bench.again, "twice for what was missing once: {:?}", frames);
            // Who is shed may lose a notice with what it announced, and gets another.
            let announced = bench.metrics.gap_notices.get();
            prop_assert!(story.notices == announced || story.notices < announced && bench.metrics.dropped_shed.get() > 0);
            prop_assert!(!notice || slow_policy == SlowPolicy::Close || story.silent_gaps == 0, "{:?}", frames);
        }
        let dropped = bench.conn.abandon(&bench.metrics);
        let of_route = bench.dropped();
        let Bench { metrics, due, .. } = bench;
        let ended = metrics.delivered.get() + of_route + metrics.dropped_closed.get() + u64::from(dropped);
        prop_assert_eq!((ended, metrics.queued.get()), (due + metrics.due.get(), 0));
        prop_assert_eq!((metrics.queued_bytes.get(), metrics.queue_memory_unshared.get()), (0, 0));
        let of_worker = metrics.dropped_slow.get() + metrics.dropped_newest.get() + metrics.dropped_oldest.get()
            + metrics.dropped_superseded.get() + metrics.dropped_shed.get();
        prop_assert_eq!(of_route, of_worker);
    }
}

/// What happens to a connection.
#[derive(Clone, Debug)]
enum Order {
    /// Messages to this one alone, and what the socket takes.
    Reply(Vec<usize>, Vec<Take>),
    /// A batch of frames that others get too, each by itself or all end to end.
    Publish(Vec<usize>, bool, Vec<Take>),
    /// All queues together hold too much.
    Relieve(Vec<Take>),
    /// Time passes, and what is due then happens.
    Wait(Vec<Take>),
    Ping(Vec<Take>),
    /// The socket can be written to.
    Flush(Vec<Take>),
    Close(Vec<Take>),
    PeerCloses(Vec<Take>),
    PeerErrs(Vec<Take>),
}

fn any_order() -> impl Strategy<Value = Order> {
    let lens = || vec(0..200usize, 1..4);
    let takes = || {
        (any_takes(false), any_takes(true), 0..20u8).prop_map(
            |(sound, failing, which)| {
                if which < 4 { failing } else { sound }
            },
        )
    };
    prop_oneof![
        4 => (lens(), takes()).prop_map(|(lens, takes)| Order::Reply(lens, takes)),
        8 => (lens(), any::<bool>(), takes())
            .prop_map(|(lens, joined, takes)| Order::Publish(lens, joined, takes)),
        1 => takes().prop_map(Order::Relieve),
        1 => takes().prop_map(Order::Wait),
        3 => takes().prop_map(Order::Ping),
        3 => takes().prop_map(Order::Flush),
        1 => takes().prop_map(Order::Close),
        1 => takes().prop_map(Order::PeerCloses),
        1 => takes().prop_map(Order::PeerErrs),
    ]
}

/// A connection and what its shell does, in short.
struct Bench {
    conn: Conn,
    limits: Limits,
    rules: QueueRules,
    metrics: WorkerMetrics,
    pool: Pool,
    socket: Socket,
    now: Millis,
    due: u64,
    replies: u32,
    published: u32,
    /// Bytes of our own since something waits.
    own: u32,
    /// How often something was dropped after a notice had arrived, and nothing else of others.
    again: u64,
    broken: bool,
}

const NOTICE: &str = "gap";

/// The largest frame that is sent here.
const FRAME_MAX: u32 = 4 + 4 + 200;

fn any_policy() -> impl Strategy<Value = SlowPolicy> {
    (0..4usize).prop_map(|at| {
        [SlowPolicy::Close, SlowPolicy::DropNewest, SlowPolicy::DropOldest, SlowPolicy::Latest][at]
    })
}

/// A message that says its number.
fn numbered(number: u32, len: usize) -> Vec<u8> {
    [number.to_be_bytes().as_slice(), &vec![0; len]].concat()
}

/// What a receiver makes of what it got: of what others sent, in binary, and its own app, in text.
#[derive(Debug, Default)]
struct Story {
    published: u32,
    replies: u32,
    announced: bool,
    notices: u64,
    /// Of those, with nothing since the one before.
    again: u64,
    /// Places where something is missing and nothing says so.
    silent_gaps: u32,
    wrong: Option<&'static str>,
}

impl Story {
    fn of(frames: &[(OpCode, Vec<u8>)]) -> Self {
        let mut story = Self::default();
        for (opcode, payload) in frames {
            match opcode {
                OpCode::Text if payload == NOTICE.as_bytes() => story.notice(),
                OpCode::Text => story.reply(number_of(payload)),
                OpCode::Binary => story.message(number_of(payload)),
                _ => {}
            }
        }
        story
    }

    fn notice(&mut self) {
        self.again += u64::from(std::mem::replace(&mut self.announced, true));
        self.notices += 1;
    }

    /// What its own app sent is all there.
    fn reply(&mut self, number: u32) {
        if number != self.replies {
            self.wrong = Some("a reply is missing or out of order");
        }
        self.replies = number + 1;
    }

    fn message(&mut self, number: u32) {
        if number < self.published {
            self.wrong = Some("a message is doubled or out of order");
        }
        let missing = number > self.published;
        if self.announced && !missing {
            self.wrong = Some("nothing is missing where something is announced");
        }
        self.silent_gaps += u32::from(missing && !self.announced);
        (self.published, self.announced) = (number + 1, false);
    }
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(*payload.first_chunk().expect("each message has its number"))
}

impl Bench {
    fn new(queue_hard: u32, queue_soft: u32, slow_policy: SlowPolicy, notice: bool) -> Self {
        let never = Duration::from_secs(1_000_000);
        let limits = Limits {
            queue_hard,
            queue_soft,
            control_rate: 0,
            ping_interval: Duration::ZERO,
            progress_timeout: never,
            close_timeout: never,
            ..Limits::default()
        };
        let options = RouteOptions {
            slow_policy,
            gap_notice: notice.then(|| NOTICE.to_owned()),
            ..RouteOptions::default()
        };
        let rules = QueueRules::new(&limits, &options, Arc::default());
        let mut conn = Conn::new(Millis(0), &limits, 0);
        conn.open(Millis(0), &limits);
        let (metrics, pool) = (WorkerMetrics::default(), Pool::new(Deflate::default()));
        Self {
            conn,
            limits,
            rules,
            metrics,
            pool,
            socket: Socket::default(),
            now: Millis(1),
            due: 0,
            replies: 0,
            published: 0,
            own: 0,
            again: 0,
            broken: false,
        }
    }

    fn dropped(&self) -> u64 {
        let route = RouteMetrics::sum(String::new(), [self.rules.ledger.as_ref()]);
        route.iter().filter(|(name, _)| name.starts_with("dropped_")).map(|(_, count)| count).sum()
    }

    /// Whether the last of what arrived and came from others is a notice.
    fn is_told(&self) -> bool {
        let (frames, _) = whole_frames(&self.socket.wire);
        let last = frames.iter().rev().find_map(|(opcode, payload)| match opcode {
            OpCode::Binary => Some(false),
            OpCode::Text if payload == NOTICE.as_bytes() => Some(true),
            _ => None,
        });
        last.unwrap_or(false)
    }

    /// Bytes that may wait: our own, and of others the limit, or the batch that found the queue empty with the newest
    /// message. And a notice, which like a Close has room.
    fn bound(&self) -> u32 {
        self.own + self.limits.queue_hard.max(4 * FRAME_MAX) + NOTICE.len() as u32 + 2
    }

    fn carry_out(&mut self, order: &Order, fails: bool) {
        let (Order::Reply(_, takes)
        | Order::Publish(_, _, takes)
        | Order::Relieve(takes)
        | Order::Wait(takes)
        | Order::Ping(takes)
        | Order::Flush(takes)
        | Order::Close(takes)
        | Order::PeerCloses(takes)
        | Order::PeerErrs(takes)) = order;
        let harmless = |take: &Take| fails || !matches!(take, Take::Fails);
        self.socket.takes = takes.iter().copied().filter(harmless).collect();
        let mut out = Vec::new();
        if !self.conn.has_backlog() {
            self.own = 0;
        }
        match order {
            _ if self.broken => {}
            Order::Reply(lens, _) if self.conn.is_open() => {
                for &len in lens {
                    encode(&mut out, OpCode::Text, &numbered(self.replies, len), None);
                    self.replies += 1;
                }
                return self.transmit(&out, lens.len() as u32);
            }
            Order::Publish(lens, joined, _) if self.conn.is_open() => self.publish(lens, *joined),
            Order::Ping(_) => self.receive(b"\x89\x81\0\0\0\0p", &mut out),
            Order::PeerCloses(_) => self.receive(b"\x88\x82\0\0\0\0\x03\xe8", &mut out),
            Order::PeerErrs(_) => self.receive(b"\xff\xff", &mut out),
            Order::Close(_) => {
                let _ = self.conn.close(self.now, &CloseCode::GOING_AWAY.into(), &self.limits, &mut out);
            }
            Order::Flush(_) => {
                self.broken =
                    self.conn.flush(self.now, &mut self.socket, &self.limits, &self.metrics).is_err();
            }
            Order::Relieve(_) => {
                let _ = self.conn.relieve(self.now, &self.limits, &self.rules, &self.metrics);
                self.own += 64;
            }
            Order::Wait(_) => {
                self.now = self.now.after(Duration::from_secs(6));
                if self.now >= self.conn.deadline(&self.limits) {
                    let (now, limits) = (self.now, &self.limits);
                    let _ = self.conn.handle_timeout(now, limits, &self.rules, &mut out, &self.metrics);
                    self.own += 64;
                }
            }
            Order::Reply(..) | Order::Publish(..) => {}
        }
        if !out.is_empty() && !self.broken {
            self.transmit(&out, 0);
        }
    }

    fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let _ = self.conn.receive(self.now, &mut bytes.to_vec(), &self.limits, &mut self.pool, out);
    }

    fn transmit(&mut self, bytes: &[u8], messages: u32) {
        self.due += u64::from(messages);
        self.own += bytes.len() as u32;
        self.broken = self.conn.transmit(self.now, bytes, messages, &mut self.socket, &self.metrics).is_err();
    }

    fn publish(&mut self, lens: &[usize], joined: bool) {
        let mut pending = Pending::default();
        for &len in lens {
            let frame = Frame::message(numbered(self.published, len));
            self.published += 1;
            pending.push(FrameRef::Shared(&frame), None);
        }
        let batch = pending.seal(false);
        let each = |piece: &Piece| -> Vec<Piece> {
            let mut at = piece.start;
            let mut pieces = Vec::new();
            while at < piece.end {
                let Ok(Status::Complete((header, used))) =
                    Header::decode(&piece.frame.as_bytes()[at as usize..], Role::Client, false)
                else {
                    panic!("we made it")
                };
                let end = at + used as u32 + header.payload_len as u32;
                pieces.push(Piece { start: at, end, messages: 1, ..piece.clone() });
                at = end;
            }
            pieces
        };
        let pieces =
            if joined { batch.pieces().to_vec() } else { batch.pieces().iter().flat_map(each).collect() };
        self.due += lens.len() as u64;
        match self.conn.transmit_pieces(self.now, &pieces, &mut self.socket, &self.rules, &self.metrics) {
            Ok(Sent::Accepted) => {}
            Ok(Sent::Overflow) => {
                let ended = self.conn.shed(self.now, &self.limits, &self.rules, &self.metrics);
                assert!(ended.is_some(), "only an open connection has a limit");
            }
            Err(_) => self.broken = true,
        }
    }
}

/// A pong that waits for the socket goes out before the Close or not at all (section 5.5.1: nothing follows a Close).
#[test]
fn a_pong_that_waits_does_not_follow_the_close() {
    for last in [Order::Close(vec![]), Order::PeerCloses(vec![]), Order::PeerErrs(vec![])] {
        let mut bench = Bench::new(1_000, 0, SlowPolicy::Close, false);
        for order in [&Order::Reply(vec![1], vec![]), &Order::Ping(vec![]), &last] {
            bench.carry_out(order, false);
        }
        bench.socket.takes = vec![Take::Bytes(usize::MAX); 5].into();
        bench
            .conn
            .flush(Millis(2), &mut bench.socket, &bench.limits, &bench.metrics)
            .expect("it does not fail");
        let opcodes: Vec<OpCode> =
            frames(&bench.socket.wire).expect("whole").into_iter().map(|(opcode, _)| opcode).collect();
        assert_eq!(opcodes.last(), Some(&OpCode::Close), "{last:?}: {opcodes:?}");
    }
}
