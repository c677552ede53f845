use std::io::{self, Write};

use super::*;
use crate::config::Deflate;
use crate::proto::frame::{Piece, encode_fragment};

const KEY: [u8; 4] = [1, 2, 3, 4];

/// A connection with a peer of literal bytes, a clock that is set by hand, and a socket that takes as much as it
/// is told to.
struct Bench {
    conn: Conn,
    limits: Limits,
    metrics: WorkerMetrics,
    pool: Pool,
    now: Millis,
    socket: Socket,
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
        Self { conn, limits, metrics, pool, now: Millis(0), socket: Socket::default() }
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
        let Self { conn, limits, metrics, now, socket, .. } = self;
        let piece = Piece::whole(Frame::from_encoded(bytes), 1);
        conn.transmit_pieces(*now, &[piece], socket, limits, metrics).expect("the socket does not fail")
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
        let ended = self.conn.handle_timeout(self.now, &self.limits, &mut out, &self.metrics);
        self.send(&out, 0);
        ended.map(|ended| ended.cause)
    }

    fn drain(&mut self) {
        self.socket.room = None;
        self.conn.flush(self.now, &mut self.socket, &self.metrics).expect("the socket does not fail");
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
fn no_pings_when_they_are_switched_off() {
    let mut bench = Bench::open();
    bench.limits.ping_interval = Duration::ZERO;
    bench.conn.open(bench.now, &bench.limits);
    assert_eq!(bench.conn.deadline(&bench.limits), Millis::NEVER);
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
    let ended = bench.conn.shed(bench.now, &bench.limits, &bench.metrics).expect("it was open");
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
        bench.conn.flush(bench.now, &mut bench.socket, &bench.metrics).expect("no failure");
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
    bench.now = Millis(5_100);
    bench.frame(OpCode::Ping, b"");
    bench.frame(OpCode::Ping, b"");
    assert_eq!(bench.wire().len(), 2);
    bench.limits.control_rate = 0;
    bench.frame(OpCode::Ping, b"");
    assert_eq!(bench.wire().len(), 2, "no limit");
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
fn the_time_for_a_message_begins_anew_with_each() {
    let mut bench = Bench::open();
    for second in 0..40 {
        assert_eq!(bench.at(f64::from(second)), None);
        bench.feed(&[0x81]);
        assert_eq!(bench.feed(&[0x81, 0, 0, 0, 0, b'x']), ["x"]);
    }
}
