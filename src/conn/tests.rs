use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{Deflate, RouteOptions, SlowPolicy};
use crate::metrics::{Metrics, RouteLedger};
use crate::proto::deflate::negotiate;
use crate::proto::frame::{Piece, encode_fragment};

const KEY: [u8; 4] = [1, 2, 3, 4];

/// A connection with a peer of literal bytes, a clock that is set by hand, and a socket that takes as much as it
/// is told to.
struct Bench {
    conn: Conn,
    limits: Limits,
    options: RouteOptions,
    ledger: Arc<RouteLedger>,
    metrics: WorkerMetrics,
    pool: Pool,
    now: Millis,
    socket: Socket,
    /// What it was told and did not answer.
    ignored: Vec<Ignored>,
}

#[derive(Default)]
struct Socket {
    wire: Vec<u8>,
    room: Option<usize>,
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.wire.extend_from_slice(&bytes[..taken]);
        self.room = self.room.map(|room| room - taken);
        Ok(taken)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.write(&slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Bench {
    fn handshaking() -> Self {
        let limits = Limits::default();
        let conn = Conn::new(Millis(0), &limits, 128);
        let metrics = WorkerMetrics::default();
        let pool = Pool::new(Deflate::default());
        Self {
            conn,
            limits,
            options: RouteOptions::default(),
            ledger: Arc::default(),
            metrics,
            pool,
            now: Millis(0),
            socket: Socket::default(),
            ignored: Vec::new(),
        }
    }

    fn open() -> Self {
        let mut bench = Self::handshaking();
        bench.conn.open(bench.now, &bench.limits);
        bench
    }

    /// Feeds bytes, as the shell does; gives what came out for the app.
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut input = bytes.to_vec();
        let mut out = Vec::new();
        let mut events = Vec::new();
        let mut at = 0;
        while at < input.len() {
            let (used, received) =
                self.conn.receive(self.now, &mut input[at..], &self.limits, &mut self.pool, &mut out);
            at += used;
            match received {
                None => {}
                Some(Received::Message(message)) => {
                    events.push(String::from_utf8_lossy(message.as_bytes()).into_owned());
                }
                Some(Received::Closed(ended)) => {
                    events.push(format!("{} {:?}", ended.close.code, ended.cause))
                }
                Some(Received::Ignored(what)) => self.ignored.push(what),
            }
        }
        self.send(&out, 0);
        events
    }

    fn frame(&mut self, opcode: OpCode, payload: &[u8]) -> Vec<String> {
        let mut bytes = Vec::new();
        encode_fragment(&mut bytes, true, opcode, payload, Some(KEY));
        self.feed(&bytes)
    }

    /// Sends what the connection's own input caused.
    fn send(&mut self, bytes: &[u8], messages: u32) {
        let Self { conn, metrics, now, socket, .. } = self;
        if !bytes.is_empty() {
            conn.transmit(*now, bytes, messages, socket, metrics).expect("the socket does not fail");
        }
    }

    /// Sends one message from somebody else.
    fn deliver(&mut self, bytes: &[u8]) -> Sent {
        self.deliver_pieces(&[Piece::whole(Frame::from_encoded(bytes), 1)])
    }

    fn deliver_pieces(&mut self, pieces: &[Piece]) -> Sent {
        let rules = self.rules();
        let Self { conn, metrics, now, socket, .. } = self;
        conn.transmit_pieces(*now, pieces, socket, &rules, metrics).expect("the socket does not fail")
    }

    fn rules(&self) -> QueueRules {
        QueueRules::new(&self.limits, &self.options, Arc::clone(&self.ledger))
    }

    fn close(&mut self, close: &Close) {
        let mut out = Vec::new();
        assert!(self.conn.close(self.now, close, &self.limits, &mut out).is_some());
        self.send(&out, 0);
    }

    /// Lets time pass to `seconds`, and runs the timeout if it is due.
    fn at(&mut self, seconds: f64) -> Option<Cause> {
        self.now = Millis((seconds * 1_000.0) as u64);
        if self.now < self.conn.deadline(&self.limits) {
            return None;
        }
        let mut out = Vec::new();
        let rules = self.rules();
        let ended = self.conn.handle_timeout(self.now, &self.limits, &rules, &mut out, &self.metrics);
        self.send(&out, 0);
        ended.map(|ended| ended.cause)
    }

    fn drain(&mut self) {
        self.socket.room = None;
        self.conn
            .flush(self.now, &mut self.socket, &self.limits, &self.metrics)
            .expect("the socket does not fail");
    }

    /// What went out since the last call.
    fn wire(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.socket.wire)
    }
}

#[test]
fn a_head_in_one_piece_is_borrowed_and_one_in_pieces_is_put_together() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut with_frames = head.to_vec();
    with_frames.extend_from_slice(b"\x81\x80\x00\x00\x00\x00");
    let mut bench = Bench::handshaking();
    match bench.conn.receive_head(&with_frames, &bench.limits) {
        Ok(Status::Complete((Cow::Borrowed(got), used))) => assert_eq!((got, used), (&head[..], head.len())),
        other => panic!("{other:?}"),
    }
    for cut in 1..head.len() {
        let mut bench = Bench::handshaking();
        assert_eq!(bench.conn.receive_head(&with_frames[..cut], &bench.limits), Ok(Status::Partial));
        match bench.conn.receive_head(&with_frames[cut..], &bench.limits) {
            Ok(Status::Complete((got, used))) => assert_eq!((&*got, used), (&head[..], head.len() - cut)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_head_is_never_kept_beyond_its_limit() {
    let mut bench = Bench::handshaking();
    bench.limits.max_head = 100;
    assert_eq!(bench.conn.receive_head(&[b'A'; 99], &bench.limits), Ok(Status::Partial));
    assert_eq!(bench.conn.receive_head(&[b'A'; 10_000], &bench.limits), Err(RequestError::HeadTooLong));
    let Phase::Handshake(Some(head)) = &bench.conn.phase else { panic!("still in the handshake") };
    assert_eq!(head.bytes.len(), 100);
}

#[test]
fn the_handshake_deadline_is_absolute() {
    let mut bench = Bench::handshaking();
    for second in 0..5 {
        assert_eq!(bench.at(f64::from(second)), None);
        assert!(bench.conn.is_handshaking());
        let _ = bench.conn.receive_head(b"A", &bench.limits);
    }
    bench.at(5.0);
    assert!(!bench.conn.is_handshaking());
    assert_eq!(bench.conn.next_step(), Step::ShutdownWrite, "what was answered is out");
}

#[test]
fn pings_are_answered_in_order_with_their_payload() {
    let mut bench = Bench::open();
    assert!(bench.frame(OpCode::Ping, b"1").is_empty());
    assert!(bench.frame(OpCode::Ping, b"").is_empty());
    assert!(bench.frame(OpCode::Pong, b"unasked").is_empty());
    assert_eq!(bench.wire(), b"\x8a\x011\x8a\x00");
}

#[test]
fn while_something_waits_only_the_newest_ping_is_answered() {
    let mut bench = Bench::open();
    bench.socket.room = Some(1);
    bench.send(b"\x81\x01x", 1);
    for payload in [b"1", b"2", b"3"] {
        bench.frame(OpCode::Ping, payload);
    }
    bench.drain();
    assert_eq!(bench.wire(), b"\x81\x01x\x8a\x013");
    assert_eq!(bench.ignored, [Ignored::PingSuperseded; 2]);
    bench.frame(OpCode::Ping, b"4");
    assert_eq!((bench.wire(), bench.ignored.len()), (b"\x8a\x014".to_vec(), 2), "nothing waits any more");
}

#[test]
fn a_pong_that_is_dropped_with_the_queue_is_counted() {
    let mut bench = Bench::open();
    bench.socket.room = Some(1);
    bench.send(b"\x81\x01x", 1);
    bench.frame(OpCode::Ping, b"1");
    bench.conn.shed(bench.now, &bench.limits, &bench.rules(), &bench.metrics).expect("it was open");
    assert_eq!(bench.metrics.pings_unanswered_closing.get(), 1);
}

#[test]
fn behind_our_close_messages_and_pings_are_no_more_than_counted() {
    let mut bench = Bench::open();
    let (agreed, _) = negotiate(["permessage-deflate"].into_iter(), &Deflate::default()).expect("sound");
    bench.conn.enable_deflate(agreed, &bench.pool);
    bench.close(&CloseCode::NORMAL.into());
    assert!(bench.frame(OpCode::Text, b"late").is_empty());
    // Compressed, and nobody asks whether it is sound.
    assert!(bench.feed(b"\xc1\x81\0\0\0\0\xff").is_empty());
    assert!(bench.frame(OpCode::Ping, b"?").is_empty());
    assert!(bench.frame(OpCode::Pong, b"!").is_empty());
    let expected = [Ignored::MessageAfterClose, Ignored::MessageAfterClose, Ignored::PingAfterClose];
    assert_eq!(bench.ignored, expected);
    assert_eq!(bench.wire(), b"\x88\x02\x03\xe8");
}

#[test]
fn the_peers_close_is_echoed_and_ends_it() {
    let mut bench = Bench::open();
    assert_eq!(bench.frame(OpCode::Close, b"\x03\xe9bye"), ["1001 Peer"]);
    assert_eq!(bench.wire(), b"\x88\x05\x03\xe9bye");
    assert_eq!(bench.conn.next_step(), Step::Drop);
    assert!(bench.frame(OpCode::Text, b"late").is_empty());
}

#[test]
fn an_empty_close_is_answered_with_an_empty_one() {
    let mut bench = Bench::open();
    assert_eq!(bench.frame(OpCode::Close, b""), ["1005 Peer"]);
    assert_eq!(bench.wire(), b"\x88\x00");
}

#[test]
fn nothing_counts_between_our_close_and_the_peers() {
    let mut bench = Bench::open();
    bench.close(&Close::new(CloseCode::NORMAL, ""));
    assert_eq!(bench.wire(), b"\x88\x02\x03\xe8");
    assert!(bench.frame(OpCode::Text, b"late").is_empty());
    assert!(bench.frame(OpCode::Ping, b"late").is_empty());
    assert_eq!((bench.wire(), bench.conn.next_step()), (vec![], Step::Keep));
    assert!(bench.frame(OpCode::Close, b"\x03\xe8").is_empty(), "the app has heard of it already");
    assert_eq!((bench.wire(), bench.conn.next_step()), (vec![], Step::Drop));
}

#[test]
fn a_close_that_is_not_answered_ends_at_the_deadline() {
    let mut bench = Bench::open();
    bench.close(&Close::new(CloseCode::NORMAL, ""));
    bench.at(4.9);
    assert_eq!(bench.conn.next_step(), Step::Keep);
    bench.at(5.0);
    assert_eq!(bench.conn.next_step(), Step::Drop);
}

#[test]
fn a_mistake_is_answered_behind_what_was_queued_and_then_lingers() {
    let mut bench = Bench::open();
    bench.socket.room = Some(0);
    bench.send(b"\x81\x01x", 1);
    assert_eq!(bench.feed(b"\x81\x01x"), ["1002 Protocol(UnmaskedFrame)"]);
    assert_eq!(bench.conn.next_step(), Step::Keep, "not before it is sent");
    bench.drain();
    assert_eq!(bench.wire(), b"\x81\x01x\x88\x19\x03\xeaclient frame not masked");
    assert_eq!(bench.conn.next_step(), Step::ShutdownWrite);
    assert_eq!(bench.conn.next_step(), Step::Keep, "the peer may still be sending");
    assert!(bench.feed(b"anything").is_empty());
    assert_eq!(bench.conn.receive_eof(), None);
    assert_eq!(bench.conn.next_step(), Step::Drop);
}

#[test]
fn silence_is_answered_with_a_ping_and_then_with_the_end() {
    let mut bench = Bench::open();
    assert_eq!(bench.at(22.0), None);
    assert_eq!(bench.wire(), b"", "25 s, 10 % less at the most");
    assert_eq!(bench.at(27.6), None);
    assert_eq!(bench.wire(), b"\x89\x00");
    assert_eq!(bench.at(37.5), None);
    assert_eq!(bench.at(37.6), Some(Cause::Silent));
    assert_eq!(bench.conn.next_step(), Step::Drop);
}

#[test]
fn connections_that_began_together_are_not_pinged_together() {
    for (jitter, due) in [(0, 22.5), (51, 23.5), (255, 27.5)] {
        let mut bench = Bench::open();
        bench.conn = Conn::new(bench.now, &bench.limits, jitter);
        bench.conn.open(bench.now, &bench.limits);
        bench.at(due - 0.01);
        assert_eq!(bench.wire(), b"", "{jitter}");
        bench.at(due + 0.01);
        assert_eq!(bench.wire(), b"\x89\x00", "{jitter}");
    }
}

#[test]
fn any_sign_of_life_puts_the_ping_off() {
    let mut bench = Bench::open();
    for minute in 1..5 {
        let start = f64::from(minute) * 60.0;
        bench.at(start);
        bench.wire();
        bench.now = Millis((start * 1_000.0) as u64 + 1_000);
        bench.frame(OpCode::Pong, b"");
        assert_eq!(bench.at(start + 11.0), None, "it answered");
        assert!(bench.conn.is_open());
    }
}

#[test]
fn after_an_hour_in_which_nobody_looked_silence_is_asked_about_before_it_is_judged() {
    let mut bench = Bench::open();
    assert_eq!(bench.at(3_600.0), None);
    assert_eq!(bench.wire(), b"\x89\x00");
    assert_eq!(bench.at(3_609.9), None);
    assert_eq!(bench.at(3_610.0), Some(Cause::Silent));
}

#[test]
fn whoever_has_said_something_that_is_not_read_yet_is_not_silent() {
    let mut bench = Bench::open();
    assert_eq!(bench.at(27.6), None);
    assert_eq!(bench.wire(), b"\x89\x00");
    bench.conn.heard(Millis(37_000));
    assert_eq!(bench.at(37.6), None);
    assert_eq!(bench.wire(), b"", "it is heard of, so the time begins anew");
    assert_eq!(bench.at(37.0 + 27.6), None);
    assert_eq!(bench.wire(), b"\x89\x00");
}

#[test]
fn no_pings_when_they_are_switched_off() {
    let mut bench = Bench::open();
    bench.limits.ping_interval = Duration::ZERO;
    bench.conn.open(bench.now, &bench.limits);
    assert_eq!(bench.conn.deadline(&bench.limits), Millis::NEVER);
}

#[test]
fn pings_are_switched_off_and_on_for_connections_that_there_are() {
    let mut bench = Bench::open();
    let interval = std::mem::take(&mut bench.limits.ping_interval);
    assert_eq!(bench.conn.deadline(&bench.limits), Millis::NEVER, "nothing is asked, so nothing is due");
    assert_eq!(bench.at(27.6), None);
    bench.limits.ping_interval = interval;
    assert_eq!(bench.at(27.6), None);
    assert_eq!(bench.wire(), b"\x89\x00", "it was silent for so long");
    bench.limits.ping_interval = Duration::ZERO;
    assert_eq!(bench.conn.deadline(&bench.limits), Millis::NEVER, "nor is an answer");

    let mut bench = Bench::handshaking();
    bench.limits.ping_interval = Duration::ZERO;
    bench.conn.open(bench.now, &bench.limits);
    bench.limits.ping_interval = interval;
    assert_eq!(bench.at(22.0), None);
    assert_eq!(bench.wire(), b"");
    assert_eq!(bench.at(27.6), None);
    assert_eq!(bench.wire(), b"\x89\x00", "there were none when it came");
}

#[test]
fn the_longest_time_of_all_means_never() {
    let never = Duration::MAX;
    let limits = Limits {
        ping_interval: never,
        handshake_timeout: never,
        close_timeout: never,
        assembly_timeout: never,
        progress_timeout: never,
        queue_soft_time: never,
        ..Limits::default()
    };
    for jitter in [0, 128, 255] {
        let mut bench = Bench { limits: limits.clone(), ..Bench::handshaking() };
        bench.conn = Conn::new(Millis(1), &limits, jitter);
        assert_eq!(bench.conn.deadline(&limits), Millis::NEVER);
        bench.conn.open(Millis(1), &limits);
        bench.feed(&[0x81]);
        bench.socket.room = Some(1);
        bench.deliver(&[0; 100_000]);
        assert_eq!(bench.conn.deadline(&limits), Millis::NEVER, "{jitter}");
        bench.close(&CloseCode::NORMAL.into());
        assert_eq!(bench.conn.deadline(&limits), Millis::NEVER);
    }
}

#[test]
fn a_frame_is_always_taken_into_an_empty_queue_and_the_limit_holds_at_the_byte() {
    let mut bench = Bench::open();
    bench.limits.queue_hard = 10;
    bench.socket.room = Some(0);
    assert_eq!(bench.deliver(&[0; 100]), Sent::Accepted, "into the empty queue");
    let mut bench = Bench::open();
    bench.limits.queue_hard = 10;
    bench.socket.room = Some(0);
    assert_eq!(bench.deliver(&[0; 4]), Sent::Accepted);
    assert_eq!(bench.deliver(&[0; 6]), Sent::Accepted, "10 bytes wait: the limit");
    assert_eq!(bench.deliver(&[0; 1]), Sent::Overflow, "an 11th does not");
    assert_eq!(bench.conn.queued_bytes(), 10);
    assert_eq!((bench.metrics.queued.get(), bench.metrics.dropped_slow.get()), (2, 1));
}

#[test]
fn what_ones_own_requests_cause_is_taken_and_stops_the_reading() {
    let mut bench = Bench::open();
    bench.limits.queue_hard = 10;
    bench.socket.room = Some(0);
    bench.send(&[0; 4], 1);
    bench.send(&[0; 100], 1);
    assert_eq!(bench.conn.queued_bytes(), 104);
    assert!(bench.conn.pauses_reading(&bench.limits) && bench.conn.is_open());
}

#[test]
fn a_slow_peer_is_told_so_even_though_its_queue_is_full() {
    let mut bench = Bench::open();
    bench.limits.queue_hard = 10;
    bench.socket.room = Some(2);
    bench.deliver(b"\x81\x03abc");
    bench.deliver(b"\x81\x01d");
    assert_eq!(bench.deliver(b"\x81\x05hello"), Sent::Overflow);
    let ended =
        bench.conn.shed(bench.now, &bench.limits, &bench.rules(), &bench.metrics).expect("it was open");
    assert_eq!((ended.close.code, ended.cause), (CloseCode::TRY_AGAIN_LATER, Cause::Slow));
    bench.drain();
    assert_eq!(
        bench.wire(),
        b"\x81\x03abc\x88\x0f\x03\xf5slow consumer",
        "the frame that was begun is finished"
    );
    assert_eq!((bench.metrics.dropped_slow.get(), bench.metrics.delivered.get()), (2, 1));
}

#[test]
fn a_queue_that_makes_no_progress_is_cut_and_one_that_does_is_not() {
    let mut bench = Bench::open();
    bench.socket.room = Some(0);
    bench.send(&[0; 100], 1);
    for tenth in 1..5 {
        bench.now = Millis(tenth * 9_000);
        bench.socket.room = Some(1);
        bench.conn.flush(bench.now, &mut bench.socket, &bench.limits, &bench.metrics).expect("no failure");
        assert_eq!(bench.at(tenth as f64 * 9.0 + 0.1), None);
    }
    assert_eq!(bench.at(45.9), None);
    assert_eq!(bench.at(46.0), Some(Cause::Slow));
}

#[test]
fn reading_pauses_while_much_waits() {
    let mut bench = Bench::open();
    bench.socket.room = Some(0);
    bench.send(&vec![0; READ_PAUSE_BYTES as usize - 1], 1);
    assert!(!bench.conn.pauses_reading(&bench.limits));
    bench.send(&[0; 1], 1);
    assert!(bench.conn.pauses_reading(&bench.limits));
    bench.drain();
    assert!(!bench.conn.pauses_reading(&bench.limits));
}

#[test]
fn the_end_of_the_stream_is_the_end_unless_something_is_still_to_be_sent() {
    let mut bench = Bench::open();
    assert_eq!(bench.conn.receive_eof().map(|ended| ended.cause), Some(Cause::Lost));
    assert_eq!(bench.conn.next_step(), Step::Drop);
    let mut answering = Bench::handshaking();
    answering.socket.room = Some(3);
    answering.send(b"HTTP/1.1 200 OK", 0);
    answering.conn.finish(answering.now, &answering.limits);
    assert_eq!(answering.conn.receive_eof(), None);
    assert_eq!(answering.conn.next_step(), Step::Keep, "the answer is not out");
    answering.drain();
    assert_eq!(answering.wire(), b"HTTP/1.1 200 OK");
    assert_eq!(answering.conn.next_step(), Step::ShutdownWrite);
}

#[test]
fn what_was_never_sent_is_counted_at_the_end() {
    let mut bench = Bench::open();
    bench.socket.room = Some(1);
    bench.send(b"\x81\x01x", 1);
    bench.send(b"\x81\x01y\x81\x01z", 2);
    assert_eq!(bench.conn.abandon(&bench.metrics), 3);
    assert_eq!((bench.metrics.queued.get(), bench.metrics.queued_bytes.get()), (0, 0));
}

#[test]
fn twenty_pings_at_once_are_answered_and_then_ten_each_second() {
    let mut bench = Bench::open();
    bench.now = Millis(5_000);
    for _ in 0..21 {
        bench.frame(OpCode::Ping, b"");
    }
    assert_eq!(bench.wire().len(), 20 * 2, "the 21st is not");
    assert_eq!(bench.ignored, [Ignored::PingOverRate]);
    bench.now = Millis(5_100);
    bench.frame(OpCode::Ping, b"");
    bench.frame(OpCode::Ping, b"");
    assert_eq!((bench.wire().len(), bench.ignored.len()), (2, 2));
    bench.limits.control_rate = 0;
    bench.frame(OpCode::Ping, b"");
    assert_eq!((bench.wire().len(), bench.ignored.len()), (2, 2), "no limit");
}

#[test]
fn a_rate_of_pings_is_kept_however_high_it_is() {
    for rate in [1, 8, 400, 2_000] {
        let mut bench = Bench::open();
        bench.limits.control_rate = rate;
        let mut answered = |now| {
            bench.now = Millis(now);
            (0..5 * rate).for_each(|_| _ = bench.frame(OpCode::Ping, b""));
            bench.wire().len() as u32 / 2
        };
        assert_eq!((answered(5_000), answered(6_000)), (2 * rate, rate));
    }
    let mut bench = Bench::open();
    bench.limits.control_rate = u32::MAX;
    bench.frame(OpCode::Ping, b"");
    assert_eq!(bench.wire().len(), 2, "as good as no limit");
}

#[test]
fn a_message_must_be_whole_in_time_however_it_trickles() {
    let mut bench = Bench::open();
    let mut bytes = Vec::new();
    encode_fragment(&mut bytes, true, OpCode::Text, &[b'x'; 60], Some(KEY));
    for (second, byte) in bytes[..30].iter().enumerate() {
        assert_eq!(bench.at(second as f64), None);
        bench.feed(&[*byte]);
    }
    assert_eq!(bench.at(29.9), None);
    assert_eq!(bench.at(30.0), Some(Cause::Unfinished));
    assert_eq!(bench.wire(), b"\x88\x1e\x03\xf0message not finished in time");
}

#[test]
fn the_time_for_a_message_begins_anew_where_its_rest_is_not_read_yet() {
    let mut bench = Bench::open();
    bench.limits.ping_interval = Duration::ZERO;
    bench.conn.put_off(Millis(1));
    assert_eq!(bench.conn.deadline(&bench.limits), Millis::NEVER, "there is no message");
    bench.feed(&[0x81]);
    bench.conn.put_off(Millis(29_000));
    assert_eq!(bench.at(58.9), None);
    assert_eq!(bench.at(59.0), Some(Cause::Unfinished));
}

#[test]
fn the_time_for_a_message_begins_anew_with_each() {
    let mut bench = Bench::open();
    for second in 0..40 {
        assert_eq!(bench.at(f64::from(second)), None);
        bench.feed(&[0x81]);
        assert_eq!(bench.feed(&[0x81, 0, 0, 0, 0, b'x']), ["x"]);
    }
}

/// A text of one letter, as it goes on the wire: three bytes.
fn letter(letter: char) -> Frame {
    Frame::message(letter.to_string().as_str())
}

/// What is on a wire: texts as they are, `close` and its code for a Close.
fn texts(mut wire: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some((header, used)) = frame::own_header(wire) {
        let payload = &wire[used..used + header.payload_len as usize];
        texts.push(match header.opcode {
            OpCode::Close => format!("close {}", u16::from_be_bytes([payload[0], payload[1]])),
            _ => String::from_utf8_lossy(payload).into_owned(),
        });
        wire = &wire[used + payload.len()..];
    }
    assert!(wire.is_empty(), "cut inside a frame");
    texts
}

impl Bench {
    /// Open, with a socket that has taken one byte of a first message and takes no more, so that nothing that
    /// follows is on the wire.
    fn stalled(slow_policy: SlowPolicy) -> Self {
        let mut bench = Self::handshaking();
        bench.limits.ping_interval = Duration::ZERO;
        bench.conn.open(bench.now, &bench.limits);
        bench.options =
            RouteOptions { slow_policy, gap_notice: Some("gap".to_owned()), ..RouteOptions::default() };
        bench.socket.room = Some(1);
        bench.publish("-");
        bench
    }

    /// One batch of messages of one letter each, laid end to end.
    fn publish(&mut self, letters: &str) -> Sent {
        let bytes: Vec<u8> = letters.chars().flat_map(|it| letter(it).as_bytes().to_vec()).collect();
        self.metrics.due.add(letters.len() as u64);
        self.deliver_pieces(&[Piece::whole(Frame::from_encoded(&bytes), letters.len() as u32)])
    }

    /// What comes when the socket takes everything again; the ledger must balance.
    fn drained(&mut self) -> Vec<String> {
        self.drain();
        let metrics = Metrics::sum([&self.metrics]);
        let dropped = metrics.iter().filter(|(name, _)| name.starts_with("dropped_")).map(|(_, count)| count);
        assert_eq!(metrics.due, metrics.delivered + dropped.sum::<u64>() + metrics.queued, "{metrics:?}");
        assert_eq!((metrics.queued, metrics.queued_bytes, metrics.queue_memory_unshared), (0, 0, 0));
        texts(&self.wire())
    }
}

#[test]
fn drop_newest_takes_what_fits_and_says_once_what_is_missing() {
    let mut bench = Bench::stalled(SlowPolicy::DropNewest);
    bench.limits.queue_hard = 2 + 3 * 3;
    for batch in ["ab", "cd", "e", "fgh"] {
        assert_eq!(bench.publish(batch), Sent::Accepted);
    }
    assert_eq!(bench.conn.queued_bytes(), 11, "abc fit to the byte, d does not");
    // The notice needs its five bytes too.
    bench.socket.room = Some(2 + 3 + 3);
    bench.conn.flush(bench.now, &mut bench.socket, &bench.limits, &bench.metrics).expect("no failure");
    bench.publish("ij");
    assert_eq!(bench.conn.queued_bytes(), 3 + 5 + 3);
    assert_eq!(bench.drained(), ["-", "a", "b", "c", "gap", "i", "gap"], "each gap once, the last at once");
    assert_eq!((bench.metrics.dropped_newest.get(), bench.ledger.dropped_newest.get()), (6, 6));
    assert_eq!(bench.metrics.gap_notices.get(), 2);
    bench.publish("k");
    assert_eq!(bench.drained(), ["k"]);
}

#[test]
fn drop_oldest_makes_room_and_says_once_what_is_missing() {
    let mut bench = Bench::stalled(SlowPolicy::DropOldest);
    bench.limits.queue_hard = 2 + 4 * 3;
    bench.publish("abcd");
    assert_eq!(bench.conn.queued_bytes(), 14, "at the limit nothing is dropped");
    bench.publish("e");
    assert_eq!(
        bench.conn.queued_bytes(),
        2 + 5 + 2 * 3,
        "and one more: room for the notice, and for d and e"
    );
    bench.publish("f");
    bench.publish("gh");
    assert_eq!(bench.drained(), ["-", "gap", "g", "h"]);
    assert_eq!((bench.metrics.dropped_oldest.get(), bench.ledger.dropped_oldest.get()), (6, 6));
    assert_eq!(bench.metrics.gap_notices.get(), 1);
}

#[test]
fn the_newest_message_is_kept_even_where_it_is_larger_than_the_limit() {
    let mut bench = Bench::stalled(SlowPolicy::DropOldest);
    bench.limits.queue_hard = 4;
    bench.publish("abcd");
    assert_eq!(bench.drained(), ["-", "gap", "d"]);
}

#[test]
fn latest_keeps_one_message_whatever_the_limit() {
    let mut bench = Bench::stalled(SlowPolicy::Latest);
    bench.publish("a");
    assert_eq!(bench.metrics.dropped_superseded.get(), 0, "the one that is on its way is not replaced");
    bench.publish("bcd");
    bench.publish("e");
    assert_eq!(bench.conn.queued_bytes(), 2 + 5 + 3);
    assert_eq!(bench.drained(), ["-", "gap", "e"]);
    assert_eq!((bench.metrics.dropped_superseded.get(), bench.ledger.dropped_superseded.get()), (4, 4));
    assert_eq!(bench.metrics.gap_notices.get(), 1);
}

#[test]
fn of_a_batch_that_is_partly_sent_only_the_frame_on_its_way_is_kept() {
    for (taken, wire) in [
        (0, &["gap", "x"][..]),
        (1, &["a", "gap", "x"]),
        (2, &["a", "gap", "x"]),
        (3, &["a", "gap", "x"]),
        (4, &["a", "b", "gap", "x"]),
        (6, &["a", "b", "gap", "x"]),
        (7, &["a", "b", "c", "x"]),
    ] {
        let mut bench = Bench::open();
        bench.options = RouteOptions {
            slow_policy: SlowPolicy::Latest,
            gap_notice: Some("gap".to_owned()),
            ..RouteOptions::default()
        };
        bench.socket.room = Some(taken);
        bench.publish("abc");
        bench.publish("x");
        assert_eq!(bench.drained(), wire, "{taken} bytes were taken");
    }
}

#[test]
fn nothing_is_said_where_no_notice_is_set() {
    for slow_policy in [SlowPolicy::DropNewest, SlowPolicy::DropOldest, SlowPolicy::Latest] {
        let mut bench = Bench::stalled(slow_policy);
        bench.options.gap_notice = None;
        bench.limits.queue_hard = 2 + 3;
        bench.publish("ab");
        let kept = if slow_policy == SlowPolicy::DropNewest { "a" } else { "b" };
        assert_eq!(bench.drained(), ["-", kept], "{slow_policy:?}");
    }
}

#[test]
fn what_its_own_app_sent_is_never_dropped() {
    for (slow_policy, wire) in [
        (SlowPolicy::DropNewest, &["-", "R", "a", "S", "gap"][..]),
        (SlowPolicy::DropOldest, &["-", "R", "S", "gap", "b"]),
        (SlowPolicy::Latest, &["-", "R", "S", "gap", "b"]),
    ] {
        let mut bench = Bench::stalled(slow_policy);
        bench.limits.queue_hard = 2 + 3 * 3;
        bench.metrics.due.add(2);
        bench.send(letter('R').as_bytes(), 1);
        bench.publish("a");
        bench.send(letter('S').as_bytes(), 1);
        bench.publish("b");
        let got = bench.drained();
        let (mut sorted, mut expected) = (got.clone(), wire.to_vec());
        sorted.sort();
        expected.sort();
        assert_eq!(sorted, expected, "{slow_policy:?}: {got:?}");
        assert!(got.iter().position(|it| it == "R") < got.iter().position(|it| it == "S"));
    }
}

#[test]
fn a_close_gets_out_under_each_policy_behind_what_waits() {
    for (slow_policy, wire) in [
        (SlowPolicy::Close, &["-", "close 4000"][..]),
        (SlowPolicy::DropNewest, &["-", "gap", "close 4000"]),
        (SlowPolicy::DropOldest, &["-", "gap", "c", "close 4000"]),
        (SlowPolicy::Latest, &["-", "gap", "c", "close 4000"]),
    ] {
        let mut bench = Bench::stalled(slow_policy);
        bench.limits.queue_hard = 4;
        let sent = bench.publish("abc");
        assert_eq!(sent == Sent::Overflow, slow_policy == SlowPolicy::Close);
        bench.frame(OpCode::Ping, b"");
        bench.close(&Close::new(CloseCode::new(4000).expect("a code of the application"), "reason"));
        let mut got = bench.drained();
        got.retain(|it| !it.is_empty());
        assert_eq!(got, wire, "{slow_policy:?}");
    }
}

#[test]
fn over_the_soft_limit_a_connection_has_so_long_and_no_longer() {
    let mut bench = Bench::stalled(SlowPolicy::Close);
    (bench.limits.queue_soft, bench.limits.progress_timeout) = (6, Duration::from_secs(3600));
    bench.publish("ab");
    assert_eq!(bench.conn.deadline(&bench.limits).min(Millis(20_000)), Millis(20_000), "at the limit");
    bench.now = Millis(5_000);
    bench.publish("c");
    assert_eq!(bench.conn.deadline(&bench.limits), Millis(15_000), "one more, from now on");
    bench.now = Millis(9_000);
    bench.publish("d");
    assert_eq!(bench.at(14.999), None);
    assert_eq!(bench.at(15.0), Some(Cause::Slow));
    assert_eq!(bench.drained(), ["-", "close 1013"]);
}

#[test]
fn below_the_soft_limit_the_time_begins_anew_and_zero_is_none() {
    let mut bench = Bench::stalled(SlowPolicy::Close);
    (bench.limits.queue_soft, bench.limits.progress_timeout) = (6, Duration::from_secs(3600));
    bench.publish("abc");
    bench.now = Millis(9_000);
    // The rest of the first one, and a byte: that message is on its way and waits no longer.
    bench.socket.room = Some(3);
    bench.conn.flush(bench.now, &mut bench.socket, &bench.limits, &bench.metrics).expect("no failure");
    assert_eq!(bench.at(10.1), None);
    bench.publish("defg");
    assert_eq!(bench.at(20.0), None);
    assert_eq!(bench.at(20.1), Some(Cause::Slow));

    let mut bench = Bench::stalled(SlowPolicy::Close);
    (bench.limits.queue_soft, bench.limits.progress_timeout) = (0, Duration::from_secs(3600));
    bench.publish("abc");
    assert_eq!(bench.conn.deadline(&bench.limits).min(Millis(1_000_000)), Millis(1_000_000));
    assert_eq!(bench.at(1_000.0), None);
}

#[test]
fn where_messages_are_dropped_the_soft_limit_becomes_a_hard_one() {
    let mut bench = Bench::stalled(SlowPolicy::DropOldest);
    (bench.limits.queue_soft, bench.limits.progress_timeout) = (12, Duration::from_secs(3600));
    bench.publish("abcde");
    assert_eq!(bench.at(10.0), None);
    assert!(bench.conn.is_open() && bench.conn.deadline(&bench.limits) > Millis(1_000_000), "asked once");
    assert_eq!(bench.metrics.dropped_oldest.get(), 0, "not before there is more");
    bench.publish("f");
    assert_eq!(bench.conn.queued_bytes(), 2 + 5 + 3, "12 with the notice, of which 2 are on the way");
    bench.publish("g");
    assert_eq!(bench.conn.queued_bytes(), 2 + 5 + 3 + 3, "it is below, and has its limits back");
    assert_eq!(bench.drained(), ["-", "gap", "f", "g"]);
}

#[test]
fn a_soft_limit_that_is_switched_off_is_no_hard_one_either() {
    for slow_policy in [SlowPolicy::DropNewest, SlowPolicy::DropOldest] {
        let mut bench = Bench::stalled(slow_policy);
        (bench.limits.queue_soft, bench.limits.progress_timeout) = (6, Duration::from_secs(3600));
        bench.publish("abc");
        assert_eq!(bench.at(10.0), None);
        bench.limits.queue_soft = 0;
        bench.publish("d");
        assert_eq!(bench.drained(), ["-", "a", "b", "c", "d"], "{slow_policy:?}");
    }
}

#[test]
fn a_queue_that_is_relieved_loses_what_others_sent_or_its_connection() {
    let mut bench = Bench::stalled(SlowPolicy::Latest);
    bench.publish("a");
    let rules = bench.rules();
    let memory = bench.conn.queue_memory();
    assert!(memory > 0);
    assert_eq!(bench.conn.relieve(bench.now, &bench.limits, &rules, &bench.metrics), None);
    assert!(bench.conn.is_open() && bench.conn.queue_memory() < memory);
    assert_eq!((bench.metrics.dropped_shed.get(), bench.ledger.dropped_shed.get()), (1, 1));
    // Nothing of what others sent is left: now it is the connection.
    let ended = bench.conn.relieve(bench.now, &bench.limits, &rules, &bench.metrics).expect("it was open");
    assert_eq!((ended.close.code, ended.cause), (CloseCode::TRY_AGAIN_LATER, Cause::Shed));
    assert_eq!(bench.drained(), ["-", "close 1013"]);
    assert_eq!(bench.conn.relieve(bench.now, &bench.limits, &rules, &bench.metrics), None, "it is closed");

    let mut bench = Bench::stalled(SlowPolicy::Close);
    bench.publish("abc");
    let rules = bench.rules();
    assert!(bench.conn.relieve(bench.now, &bench.limits, &rules, &bench.metrics).is_some());
    assert_eq!(bench.drained(), ["-", "close 1013"]);
    assert_eq!(bench.ledger.dropped_shed.get(), 3);
}

#[test]
fn a_frame_in_many_queues_is_in_memory_once() {
    let frame = Frame::message(&[0u8; 100_000][..]);
    let piece = Piece::whole(frame, 1);
    let mut benches: Vec<_> = (0..10).map(|_| Bench::stalled(SlowPolicy::Close)).collect();
    for bench in &mut benches {
        bench.deliver_pieces(std::slice::from_ref(&piece));
    }
    drop(piece);
    let memory: u64 = benches.iter().map(|bench| bench.conn.queue_memory()).sum();
    assert!((100_000..110_000).contains(&memory), "{memory}");
    let unshared: u64 = benches.iter().map(|bench| bench.metrics.queue_memory_unshared.get()).sum();
    assert!(unshared >= memory.max(1_000_000), "{unshared} is never less than {memory}");
}

#[test]
fn a_notice_stands_for_what_is_missing_until_it_has_gone_out() {
    let mut bench = Bench::stalled(SlowPolicy::Latest);
    bench.publish("ab");
    // All of the notice but a byte: nobody can have read it.
    bench.socket.room = Some(2 + 4);
    bench.conn.flush(bench.now, &mut bench.socket, &bench.limits, &bench.metrics).expect("no failure");
    bench.publish("c");
    assert_eq!(bench.metrics.gap_notices.get(), 1);
    bench.socket.room = Some(1);
    bench.conn.flush(bench.now, &mut bench.socket, &bench.limits, &bench.metrics).expect("no failure");
    bench.publish("d");
    assert_eq!(bench.drained(), ["-", "gap", "gap", "d"], "it may have asked for the state that c changed");
}
