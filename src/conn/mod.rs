//! One connection as a state machine without I/O: bytes, timeouts and orders go in; messages, closes and bytes
//! to send come out. Time is an argument, the socket is anything that implements [`Write`].
//!
//! What is **not** here: the socket, who is in which topic, and what an app does with a message.
//!
//! ```text
//!             accept              close()
//!  Handshake ────────▶ Open ───────────────▶ CloseSent
//!      │                │ peer's Close,          │ peer's Close
//!      │ refuse         │ or its mistake         ▼
//!      └────────────────┴──────────────────▶ Finishing ──flushed──▶ Lingering ──EOF, deadline──▶ Gone
//! ```
//!
//! The order of calls, for the shell: [`receive`](Conn::receive) until the input is used up, then
//! [`transmit`](Conn::transmit) what it and the app wrote, then [`next_step`](Conn::next_step). At
//! [`deadline`](Conn::deadline), or later, [`handle_timeout`](Conn::handle_timeout).

mod outbox;

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

pub use outbox::{Flushed, Outbox};

use crate::config::Limits;
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::deflate::{Agreed, Deflater, Pool, Streams, Window};
use crate::proto::frame::{self, Piece};
use crate::proto::handshake::{HeadScanner, RequestError};
use crate::proto::{Close, CloseCode, Decoder, Event, Frame, Message, MessageLimits, OpCode};
use crate::proto::{ProtocolError, Role, Status};

/// A connection is not read while so much waits for it: its own requests then wait in the kernel, on the
/// peer's side in the end. The queue's hard limit is for what others send to it.
const READ_PAUSE_BYTES: u32 = 64 * 1024;

/// Where a connection is between its first byte and its last; the diagram is above.
#[derive(Debug)]
enum Phase {
    /// The request head is not complete.
    Handshake(Option<Box<Head>>),
    /// Messages go both ways. `pinged_at`: when it was asked whether it is still there; `NEVER` where it was not.
    Open { pinged_at: Millis },
    /// Our Close is out (or queued); what comes before the peer's is not looked at.
    CloseSent,
    /// Everything is said; what is queued goes out. `lingers`: the peer may still be sending.
    Finishing { lingers: bool },
    /// Our side of the stream is shut; input is thrown away until the peer has seen that.
    Lingering,
    /// Nothing is left to do but to drop the socket.
    Gone,
}

/// A request head, borrowed where it came in one piece, and how much of the last input it used up.
pub type WholeHead<'a> = (Cow<'a, [u8]>, usize);

/// A request head that came in pieces.
#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
    scanner: HeadScanner,
}

/// What the shell does with the socket next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    Keep,
    /// Shut down the writing side and call `next_step` again.
    ShutdownWrite,
    /// Drop the socket.
    Drop,
}

/// What came in, beyond what the connection answers by itself.
#[derive(Debug, PartialEq)]
pub enum Received<'a> {
    /// A message for the app.
    Message(Message<'a>),
    /// The connection has just left the open phase.
    Closed(Ended),
}

/// Why a connection left the open phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Code and reason, as the peer sent them or as we did.
    pub close: Close,
    /// Which counter it belongs to.
    pub cause: Cause,
}

/// The ways in which a connection can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The peer sent a proper Close.
    Peer,
    /// The app or the server closed it.
    Local,
    /// The peer broke the protocol or a limit.
    Protocol(ProtocolError),
    /// The peer does not read what is sent to it.
    Slow,
    /// The peer does not answer pings.
    Silent,
    /// The stream ended without a Close.
    Lost,
}

/// What a transmission came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// With the kernel, or queued.
    Accepted,
    /// Refused: the queue is at its limit. Nothing of it was taken.
    Overflow,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    decoder: Decoder,
    phase: Phase,
    outbox: Option<Box<Outbox>>,
    /// Compression streams of its own, only with context takeover.
    streams: Option<Box<Streams>>,
    last_input: Millis,
    deadline: Millis,
    /// What was agreed on about compression.
    agreed: Option<Agreed>,
    /// Spreads the pings of connections that were made together: 0 is 10 % early, 255 is 10 % late.
    jitter: u8,
}

impl Conn {
    /// A connection that was just accepted. `jitter` spreads timers; any number will do, so it is different
    /// for different connections.
    pub fn new(now: Millis, limits: &Limits, jitter: u8) -> Self {
        Self {
            decoder: Decoder::new(Role::Server),
            phase: Phase::Handshake(None),
            outbox: None,
            streams: None,
            agreed: None,
            last_input: now,
            deadline: now.after(limits.handshake_timeout),
            jitter,
        }
    }

    /// Whether the request head is still to come.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.phase, Phase::Handshake(_))
    }

    /// Whether messages go both ways.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// Whether the socket can be dropped.
    pub fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    /// Whether the shell should leave the socket unread for now, because of what waits to be sent.
    pub fn pauses_reading(&self, limits: &Limits) -> bool {
        self.queued_bytes() >= READ_PAUSE_BYTES.min(limits.queue_hard / 2).max(1)
    }

    /// Bytes that wait to be sent.
    pub fn queued_bytes(&self) -> u32 {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    /// Whether anything waits to be sent.
    pub fn has_backlog(&self) -> bool {
        self.outbox.is_some()
    }

    /// Takes bytes of the request head. Complete gives the head, and how much of `input` it used up.
    ///
    /// # Errors
    /// The head is too long or hopeless; answer it and call [`finish`](Self::finish).
    pub fn receive_head<'a>(
        &mut self,
        input: &'a [u8],
        limits: &Limits,
    ) -> Result<Status<WholeHead<'a>>, RequestError> {
        let Phase::Handshake(held) = &mut self.phase else { return Ok(Status::Partial) };
        let Some(head) = held else {
            let mut scanner = HeadScanner::default();
            if let Status::Complete(len) = scanner.scan(input, limits.max_head)? {
                return Ok(Status::Complete((Cow::Borrowed(&input[..len]), len)));
            }
            *held = Some(Box::new(Head { bytes: input.to_vec(), scanner }));
            return Ok(Status::Partial);
        };
        let before = head.bytes.len();
        // No more than the limit is ever kept, whatever comes in one read.
        let room = (limits.max_head as usize).saturating_sub(before);
        head.bytes.extend_from_slice(&input[..input.len().min(room)]);
        match head.scanner.scan(&head.bytes, limits.max_head)? {
            Status::Partial => Ok(Status::Partial),
            Status::Complete(len) => {
                let mut bytes = std::mem::take(&mut head.bytes);
                bytes.truncate(len);
                Ok(Status::Complete((Cow::Owned(bytes), len - before)))
            }
        }
    }

    /// The handshake succeeded: frames follow.
    pub fn open(&mut self, now: Millis, limits: &Limits) {
        self.phase = Phase::Open { pinged_at: Millis::NEVER };
        self.last_input = now;
        self.deadline = self.next_ping(limits);
    }

    /// permessage-deflate was agreed on in the handshake.
    pub fn enable_deflate(&mut self, agreed: Agreed, pool: &Pool) {
        self.decoder.enable_deflate();
        self.agreed = Some(agreed);
        self.streams = pool.own_streams(agreed);
    }

    /// What compresses messages to this connection: a stream of its own, or one of the pool's.
    pub fn deflater<'a>(&'a mut self, pool: &'a mut Pool) -> Option<&'a mut Deflater> {
        let agreed = self.agreed?;
        match self.streams.as_mut().and_then(|streams| streams.deflater.as_mut()) {
            Some(own) => Some(own),
            None => Some(pool.deflater(agreed.send_window)),
        }
    }

    /// The window that messages compressed for many may have to reach this connection too.
    pub fn shared_window(&self) -> Option<Window> {
        self.agreed.filter(|agreed| !agreed.send_takeover).map(|agreed| agreed.send_window)
    }

    /// Whether messages to this connection may be compressed.
    pub fn deflates(&self) -> bool {
        self.agreed.is_some()
    }

    /// Takes bytes up to the end of the next event and says how many; call it again with the rest. Pings are
    /// answered and closing handshakes completed into `out`.
    pub fn receive<'a>(
        &mut self,
        now: Millis,
        input: &'a mut [u8],
        limits: &Limits,
        pool: &mut Pool,
        out: &mut Vec<u8>,
    ) -> (usize, Option<Received<'a>>) {
        self.last_input = now;
        let total = input.len();
        if !matches!(self.phase, Phase::Open { .. } | Phase::CloseSent) {
            return (total, None);
        }
        let message_limits =
            MessageLimits { message_bytes_max: limits.max_message, fragments_max: limits.max_fragments };
        match self.decoder.decode(input, &message_limits) {
            Ok((used, None | Some(Event::Pong(_)))) => (used, None),
            Ok((used, Some(Event::Message(message)))) => {
                (used, self.is_open().then_some(Received::Message(message)))
            }
            Ok((used, Some(Event::Compressed(message)))) => {
                if !self.is_open() {
                    return (used, None);
                }
                let own = self.streams.as_mut().and_then(|streams| streams.inflater.as_mut());
                match message.inflate(own.unwrap_or_else(|| pool.inflater()), &message_limits) {
                    Ok(message) => (used, Some(Received::Message(message))),
                    Err(error) => (total, self.protocol_error(now, error, limits, out)),
                }
            }
            Ok((used, Some(Event::Ping(payload)))) => {
                self.pong(&payload, out);
                (used, None)
            }
            // Nothing after a Close counts (section 5.5.1).
            Ok((_, Some(Event::Close(close)))) => (total, self.peer_closed(now, close, limits, out)),
            Err(error) => (total, self.protocol_error(now, error, limits, out)),
        }
    }

    /// The peer's side of the stream has ended: the last input there will be.
    pub fn receive_eof(&mut self) -> Option<Ended> {
        let was_open = self.is_open();
        // Finishing, the peer may have shut down its side alone: what is queued still goes out.
        if !matches!(self.phase, Phase::Finishing { .. }) || self.outbox.is_none() {
            self.phase = Phase::Gone;
        }
        was_open.then(Ended::lost)
    }

    /// Our Close, written to `out`. Does nothing unless the connection is open.
    pub fn close(&mut self, now: Millis, close: &Close, limits: &Limits, out: &mut Vec<u8>) -> Option<Ended> {
        if !self.is_open() {
            return None;
        }
        frame::encode_close(out, close);
        self.phase = Phase::CloseSent;
        self.deadline = now.after(limits.close_timeout);
        Some(Ended { close: close.clone(), cause: Cause::Local })
    }

    /// The end of what we have to say, when it is no Close: an HTTP answer. The peer may still be sending.
    pub fn finish(&mut self, now: Millis, limits: &Limits) {
        self.phase = Phase::Finishing { lingers: true };
        self.deadline = now.after(limits.close_timeout);
    }

    /// The socket failed: nothing goes either way.
    pub fn break_off(&mut self) -> Option<Ended> {
        let was_open = self.is_open();
        self.phase = Phase::Gone;
        was_open.then(Ended::lost)
    }

    /// Too much waits for the peer: drops it, except what is partly sent, and says so with 1013. The Close has
    /// room however full the queue was.
    pub fn shed(&mut self, now: Millis, limits: &Limits, metrics: &WorkerMetrics) -> Option<Ended> {
        let close = Close::new(CloseCode::TRY_AGAIN_LATER, "slow consumer");
        let outbox = self.outbox.get_or_insert_with(|| Box::new(Outbox::new(now)));
        metrics.dropped_slow.add(u64::from(outbox.shed(metrics)));
        outbox.push(Piece::whole(Frame::close(&close), 0), metrics);
        if !self.is_open() {
            return None;
        }
        self.phase = Phase::CloseSent;
        self.deadline = now.after(limits.close_timeout);
        Some(Ended { close, cause: Cause::Slow })
    }

    /// Sends bytes of our own making, which carry `messages` whole messages: to the writer as far as it takes
    /// them, the rest is queued.
    ///
    /// # Errors
    /// The writer's own, other than that it takes no more.
    pub fn transmit(
        &mut self,
        now: Millis,
        bytes: &[u8],
        messages: u32,
        writer: &mut impl Write,
        limits: &Limits,
        metrics: &WorkerMetrics,
    ) -> io::Result<Sent> {
        if self.outbox.is_some() {
            return Ok(self.enqueue(&[Piece::whole(Frame::from_encoded(bytes), messages)], limits, metrics));
        }
        let taken = write_some(writer, bytes)?;
        metrics.bytes_out.add(taken as u64);
        if taken == bytes.len() {
            metrics.delivered.add(u64::from(messages));
        } else {
            self.hold(now, Piece::whole(Frame::from_encoded(&bytes[taken..]), messages), taken > 0, metrics);
        }
        Ok(Sent::Accepted)
    }

    /// Sends pieces of shared frames, as one.
    ///
    /// # Errors
    /// The writer's own, other than that it takes no more.
    pub fn transmit_pieces(
        &mut self,
        now: Millis,
        pieces: &[Piece],
        writer: &mut impl Write,
        limits: &Limits,
        metrics: &WorkerMetrics,
    ) -> io::Result<Sent> {
        if self.outbox.is_some() {
            return Ok(self.enqueue(pieces, limits, metrics));
        }
        if let [piece] = pieces {
            let taken = write_some(writer, piece.as_bytes())? as u32;
            metrics.bytes_out.add(u64::from(taken));
            if taken == piece.len() {
                metrics.delivered.add(u64::from(piece.messages));
            } else {
                let rest = Piece { start: piece.start + taken, ..piece.clone() };
                self.hold(now, rest, taken > 0, metrics);
            }
            return Ok(Sent::Accepted);
        }
        let mut outbox = Box::new(Outbox::new(now));
        for piece in pieces {
            outbox.push(piece.clone(), metrics);
        }
        if outbox.flush(now, writer, metrics)? == Flushed::Blocked {
            self.outbox = Some(outbox);
        }
        Ok(Sent::Accepted)
    }

    /// The socket takes bytes again: sends what waits.
    ///
    /// # Errors
    /// The writer's own, other than that it takes no more.
    pub fn flush(&mut self, now: Millis, writer: &mut impl Write, metrics: &WorkerMetrics) -> io::Result<()> {
        if let Some(outbox) = &mut self.outbox
            && outbox.flush(now, writer, metrics)? == Flushed::Empty
        {
            self.outbox = None;
        }
        Ok(())
    }

    /// What to do with the socket now that input and output have been handled.
    pub fn next_step(&mut self) -> Step {
        match self.phase {
            Phase::Gone => Step::Drop,
            Phase::Finishing { lingers } if self.outbox.is_none() => {
                if lingers {
                    self.phase = Phase::Lingering;
                    return Step::ShutdownWrite;
                }
                self.phase = Phase::Gone;
                Step::Drop
            }
            _ => Step::Keep,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next, at the latest.
    pub fn deadline(&self, limits: &Limits) -> Millis {
        match &self.outbox {
            Some(outbox) => self.deadline.min(outbox.progress_at().after(limits.progress_timeout)),
            None => self.deadline,
        }
    }

    /// The deadline has passed, perhaps. A ping goes to `out`.
    pub fn handle_timeout(
        &mut self,
        now: Millis,
        limits: &Limits,
        out: &mut Vec<u8>,
        metrics: &WorkerMetrics,
    ) -> Option<Ended> {
        let stalled =
            self.outbox.as_ref().is_some_and(|it| now >= it.progress_at().after(limits.progress_timeout));
        match self.phase {
            Phase::Open { .. } if stalled => self.shed(now, limits, metrics),
            Phase::Open { pinged_at } => self.keep_alive(now, pinged_at, limits, out),
            Phase::Handshake(_) if now >= self.deadline => {
                self.finish(now, limits);
                None
            }
            Phase::CloseSent | Phase::Finishing { .. } | Phase::Lingering
                if stalled || now >= self.deadline =>
            {
                self.phase = Phase::Gone;
                None
            }
            _ => None,
        }
    }

    /// The connection is over: gives back what was never sent, in messages.
    pub fn abandon(&mut self, metrics: &WorkerMetrics) -> u32 {
        self.phase = Phase::Gone;
        self.outbox.take().map_or(0, |outbox| outbox.abandon(metrics))
    }

    /// Silence is answered with a ping, silence after a ping with the end.
    fn keep_alive(
        &mut self,
        now: Millis,
        pinged_at: Millis,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Option<Ended> {
        if limits.ping_interval.is_zero() || now < self.deadline {
            return None;
        }
        // A peer that takes what waits for it is alive, even if it has nothing to say.
        let alive_at =
            self.outbox.as_ref().map_or(self.last_input, |it| it.progress_at().max(self.last_input));
        if pinged_at != Millis::NEVER && alive_at < pinged_at {
            self.phase = Phase::Gone;
            let close = Close::new(CloseCode::ABNORMAL, "no answer to a ping");
            return Some(Ended { close, cause: Cause::Silent });
        }
        self.last_input = alive_at;
        self.deadline = self.next_ping(limits);
        self.phase = Phase::Open { pinged_at: Millis::NEVER };
        if now >= self.deadline {
            frame::encode(out, OpCode::Ping, b"", None);
            self.phase = Phase::Open { pinged_at: now };
            self.deadline = now.after(limits.pong_timeout);
        }
        None
    }

    fn next_ping(&self, limits: &Limits) -> Millis {
        if limits.ping_interval.is_zero() {
            return Millis::NEVER;
        }
        // 0.9 to 1.1 times the interval.
        let spread = limits.ping_interval.mul_f64(0.2 * f64::from(self.jitter) / 255.0);
        self.last_input.after((limits.ping_interval.mul_f64(0.9) + spread).max(Duration::from_millis(1)))
    }

    fn pong(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        if !self.is_open() {
            return;
        }
        let Some(outbox) = &mut self.outbox else { return frame::encode(out, OpCode::Pong, payload, None) };
        // "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in response to previous Ping
        // frame(s), the endpoint MAY elect to send a Pong frame for only the most recently processed Ping" (5.5.3)
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, OpCode::Pong, payload, None);
        outbox.set_pong(Frame::from_encoded(&bytes));
    }

    fn peer_closed<'a>(
        &mut self,
        now: Millis,
        close: Option<Close>,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Option<Received<'a>> {
        let was_open = self.is_open();
        self.phase = Phase::Finishing { lingers: false };
        self.deadline = now.after(limits.close_timeout);
        if !was_open {
            return None;
        }
        let close = close.unwrap_or_else(|| CloseCode::NO_STATUS.into());
        // "When sending a Close frame in response, the endpoint typically echos the status code it received" (5.5.1)
        frame::encode_close(out, &close);
        Some(Received::Closed(Ended { close, cause: Cause::Peer }))
    }

    /// Fails the connection (section 7.1.7): a Close that says why, after all that was queued before it.
    fn protocol_error<'a>(
        &mut self,
        now: Millis,
        error: ProtocolError,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Option<Received<'a>> {
        let was_open = self.is_open();
        self.finish(now, limits);
        if !was_open {
            return None;
        }
        let ended = Ended { close: error.to_close(), cause: Cause::Protocol(error) };
        frame::encode_close(out, &ended.close);
        Some(Received::Closed(ended))
    }

    /// Queues pieces behind what waits already, all or none of them. The limit is for open connections: a Close
    /// always has room.
    fn enqueue(&mut self, pieces: &[Piece], limits: &Limits, metrics: &WorkerMetrics) -> Sent {
        let added: u32 = pieces.iter().map(Piece::len).sum();
        let Some(outbox) = &mut self.outbox else { return Sent::Accepted };
        let full = outbox.bytes().saturating_add(added) > limits.queue_hard;
        if full && matches!(self.phase, Phase::Open { .. }) {
            return Sent::Overflow;
        }
        for piece in pieces {
            outbox.push(piece.clone(), metrics);
        }
        Sent::Accepted
    }

    /// Starts a queue with the rest of what the socket did not take.
    fn hold(&mut self, now: Millis, rest: Piece, begun: bool, metrics: &WorkerMetrics) {
        let mut outbox = Box::new(Outbox::new(now));
        outbox.push(rest, metrics);
        if begun {
            outbox.mark_head_begun();
        }
        self.outbox = Some(outbox);
    }
}

impl Ended {
    /// The stream ended, or broke, without a Close.
    fn lost() -> Self {
        Self { close: CloseCode::ABNORMAL.into(), cause: Cause::Lost }
    }
}

/// One write: how much was taken, 0 when the writer takes nothing now.
fn write_some(writer: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match writer.write(bytes) {
            Ok(taken) => return Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

const _: () = assert!(size_of::<Conn>() <= 120, "every connection pays for this");

#[cfg(test)]
mod tests;
