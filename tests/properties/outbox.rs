//! Whatever the socket takes, and when: what goes out is what was sent, in order, frame by frame, and every message is
//! counted once.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};
use wsd::conn::{Conn, Flushed, Outbox, QueueRules, Sent};
use wsd::id::Millis;
use wsd::metrics::WorkerMetrics;
use wsd::proto::deflate::Pool;
use wsd::proto::frame::{Piece, encode};
use wsd::proto::{CloseCode, Frame, Header, OpCode, Role, Status};
use wsd::{Deflate, Limits, RouteOptions};

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
fn frames(mut wire: &[u8]) -> Option<Vec<(OpCode, Vec<u8>)>> {
    let mut frames = Vec::new();
    while !wire.is_empty() {
        let Ok(Status::Complete((header, used))) = Header::decode(wire, Role::Client, false) else {
            return None;
        };
        let end = used + header.payload_len as usize;
        frames.push((header.opcode, wire.get(used..end)?.to_vec()));
        wire = &wire[end..];
    }
    Some(frames)
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
        orders in vec(any_order(), 0..30), fails in any::<bool>(), queue_hard in 0..2_000u32,
    ) {
        let mut bench = Bench::new(queue_hard);
        for order in &orders {
            bench.carry_out(order, fails);
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
        }
        let dropped = bench.conn.abandon(&bench.metrics);
        let Bench { metrics, due, .. } = bench;
        let ended = metrics.delivered.get() + metrics.dropped_slow.get() + metrics.dropped_closed.get() + u64::from(dropped);
        prop_assert_eq!((ended, metrics.queued.get(), metrics.queued_bytes.get()), (due, 0, 0));
    }
}

/// What happens to a connection.
#[derive(Clone, Debug)]
enum Order {
    /// Messages to this one alone, and what the socket takes.
    Reply(Vec<usize>, Vec<Take>),
    /// A batch of frames that others get too.
    Publish(Vec<usize>, Vec<Take>),
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
        4 => (lens(), takes()).prop_map(|(lens, takes)| Order::Publish(lens, takes)),
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
    due: u64,
    broken: bool,
}

impl Bench {
    fn new(queue_hard: u32) -> Self {
        let limits = Limits { queue_hard, control_rate: 0, ..Limits::default() };
        let rules = QueueRules::new(&limits, &RouteOptions::default(), Arc::default());
        let mut conn = Conn::new(Millis(0), &limits, 0);
        conn.open(Millis(0), &limits);
        let (metrics, pool) = (WorkerMetrics::default(), Pool::new(Deflate::default()));
        Self { conn, limits, rules, metrics, pool, socket: Socket::default(), due: 0, broken: false }
    }

    fn carry_out(&mut self, order: &Order, fails: bool) {
        let (Order::Reply(_, takes)
        | Order::Publish(_, takes)
        | Order::Ping(takes)
        | Order::Flush(takes)
        | Order::Close(takes)
        | Order::PeerCloses(takes)
        | Order::PeerErrs(takes)) = order;
        let harmless = |take: &Take| fails || !matches!(take, Take::Fails);
        self.socket.takes = takes.iter().copied().filter(harmless).collect();
        let mut out = Vec::new();
        match order {
            _ if self.broken => {}
            Order::Reply(lens, _) if self.conn.is_open() => {
                for &len in lens {
                    encode(&mut out, OpCode::Binary, &vec![1; len], None);
                }
                return self.transmit(&out, lens.len() as u32);
            }
            Order::Publish(lens, _) if self.conn.is_open() => self.publish(lens),
            Order::Ping(_) => self.receive(b"\x89\x81\0\0\0\0p", &mut out),
            Order::PeerCloses(_) => self.receive(b"\x88\x82\0\0\0\0\x03\xe8", &mut out),
            Order::PeerErrs(_) => self.receive(b"\xff\xff", &mut out),
            Order::Close(_) => {
                let _ = self.conn.close(Millis(1), &CloseCode::GOING_AWAY.into(), &self.limits, &mut out);
            }
            Order::Flush(_) => {
                self.broken =
                    self.conn.flush(Millis(1), &mut self.socket, &self.limits, &self.metrics).is_err();
            }
            Order::Reply(..) | Order::Publish(..) => {}
        }
        if !out.is_empty() && !self.broken {
            self.transmit(&out, 0);
        }
    }

    fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let _ = self.conn.receive(Millis(1), &mut bytes.to_vec(), &self.limits, &mut self.pool, out);
    }

    fn transmit(&mut self, bytes: &[u8], messages: u32) {
        self.due += u64::from(messages);
        self.broken =
            self.conn.transmit(Millis(1), bytes, messages, &mut self.socket, &self.metrics).is_err();
    }

    fn publish(&mut self, lens: &[usize]) {
        let pieces: Vec<Piece> =
            lens.iter().map(|&len| Piece::whole(Frame::message(vec![2; len]), 1)).collect();
        self.due += pieces.len() as u64;
        match self.conn.transmit_pieces(Millis(1), &pieces, &mut self.socket, &self.rules, &self.metrics) {
            Ok(Sent::Accepted) => {}
            Ok(Sent::Overflow) => {
                let ended = self.conn.shed(Millis(1), &self.limits, &self.rules, &self.metrics);
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
        let mut bench = Bench::new(1_000);
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
