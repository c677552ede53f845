//! One connection as a state machine without I/O: bytes, timeouts and orders go in; messages, closes and bytes
//! to send come out. Time is an argument, the socket is anything that implements [`Write`](std::io::Write).
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
mod outcome;
mod rules;
mod sending;
mod timing;

use std::borrow::Cow;

pub use outbox::{Flushed, Outbox};
pub use outcome::{Cause, Ended, Ignored, Received, Sent, Step};
pub use rules::QueueRules;

use crate::config::Limits;
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::deflate::{Agreed, Deflater, Pool, Streams, Window};
use crate::proto::handshake::{HeadScanner, RequestError};
use crate::proto::{Close, CloseCode, Decoder, Event, Frame, MessageLimits, OpCode, frame};
use crate::proto::{ProtocolError, Role, Status};
use crate::rate::Rate;

/// A connection is not read while so much waits for it: its own requests then wait in the kernel, on the
/// peer's side in the end. The queue's hard limit is for what others send to it.
const READ_PAUSE_BYTES: u32 = 64 * 1024;

/// Seconds' worth of pings that may come at once.
const CONTROL_BURST: u32 = 2;

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
    /// When the message began whose end has not come; `NEVER` between messages.
    message_began: Millis,
    /// When the allowance for answering pings is whole again, as a [`Rate`] has it.
    pings_paid: u64,
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
            message_began: Millis::NEVER,
            pings_paid: 0,
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

    /// The memory that what waits to be sent holds; 0 where nothing waits.
    pub fn queue_memory(&self) -> u64 {
        self.outbox.as_ref().map_or(0, |outbox| outbox.memory())
    }

    /// When the peer last took something of what waits for it; `NEVER` where nothing waits.
    pub fn progress_at(&self) -> Millis {
        self.outbox.as_ref().map_or(Millis::NEVER, |outbox| outbox.progress_at())
    }

    /// Whether anything waits to be sent.
    pub fn has_backlog(&self) -> bool {
        self.outbox.is_some()
    }

    /// Since when something has waited to be sent, without a break.
    pub fn waiting_since(&self) -> Option<Millis> {
        self.outbox.as_ref().map(|outbox| outbox.since())
    }

    /// When the peer last sent anything; before that, when it connected.
    pub fn last_input(&self) -> Millis {
        self.last_input
    }

    /// Where it is in its life, in a word for people.
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Handshake(_) => "handshake",
            Phase::Open { .. } => "open",
            Phase::CloseSent | Phase::Finishing { .. } | Phase::Lingering => "closing",
            Phase::Gone => "gone",
        }
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
        let window = self.agreed?.send_window;
        Some(self.own_deflater().unwrap_or_else(|| pool.deflater(window)))
    }

    /// The stream that compresses messages to this connection alone, because its window goes on from message to
    /// message; `None` where there is no such takeover.
    pub fn own_deflater(&mut self) -> Option<&mut Deflater> {
        self.streams.as_mut()?.deflater.as_mut()
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
        let decoded = self.decoder.decode(input, &message_limits);
        if !self.decoder.is_mid_message() {
            self.message_began = Millis::NEVER;
        } else if self.message_began == Millis::NEVER {
            self.message_began = now;
        }
        match decoded {
            Ok((used, None | Some(Event::Pong(_)))) => (used, None),
            // Behind our Close there is nothing that could be answered to it (section 5.5.1).
            Ok((used, Some(Event::Message(_) | Event::Compressed(_)))) if !self.is_open() => {
                (used, Some(Received::Ignored(Ignored::MessageAfterClose)))
            }
            Ok((used, Some(Event::Message(message)))) => (used, Some(Received::Message(message))),
            Ok((used, Some(Event::Compressed(message)))) => {
                let own = self.streams.as_mut().and_then(|streams| streams.inflater.as_mut());
                match message.inflate(own.unwrap_or_else(|| pool.inflater()), &message_limits) {
                    Ok(message) => (used, Some(Received::Message(message))),
                    Err(error) => (total, self.protocol_error(now, error, limits, out)),
                }
            }
            Ok((used, Some(Event::Ping(payload)))) => {
                (used, self.pong(now, &payload, limits, out).map(Received::Ignored))
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
        self.leave_open(now, close.clone(), Cause::Local, limits)
    }

    /// Our Close is out, or queued; nothing where the connection is not open.
    fn leave_open(&mut self, now: Millis, close: Close, cause: Cause, limits: &Limits) -> Option<Ended> {
        if !self.is_open() {
            return None;
        }
        self.phase = Phase::CloseSent;
        self.deadline = now.after(limits.close_timeout);
        Some(Ended { close, cause })
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

    /// The connection is over: gives back what was never sent, in messages.
    pub fn abandon(&mut self, metrics: &WorkerMetrics) -> u32 {
        self.phase = Phase::Gone;
        self.outbox.take().map_or(0, |outbox| outbox.abandon(metrics))
    }

    /// Answers a ping, within the allowance. A peer that sends more gets fewer answers than it asked for, and costs
    /// nothing more. Gives why a ping, this one or an earlier one, stays without an answer.
    fn pong(&mut self, now: Millis, payload: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Option<Ignored> {
        if !self.is_open() {
            return Some(Ignored::PingAfterClose);
        }
        match Rate::new(limits.control_rate, CONTROL_BURST).pay(self.pings_paid, now) {
            Ok(paid) => self.pings_paid = paid,
            Err(_) => return Some(Ignored::PingOverRate),
        }
        let Some(outbox) = &mut self.outbox else {
            frame::encode(out, OpCode::Pong, payload, None);
            return None;
        };
        // "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in response to previous Ping
        // frame(s), the endpoint MAY elect to send a Pong frame for only the most recently processed Ping" (5.5.3)
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, OpCode::Pong, payload, None);
        outbox.set_pong(Frame::from_encoded(&bytes)).then_some(Ignored::PingSuperseded)
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

    /// Fails the connection (section 7.1.7): a Close that says why, after all that was queued before it. Gives
    /// nothing where the connection was not open any more.
    pub fn fail(
        &mut self,
        now: Millis,
        close: Close,
        cause: Cause,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Option<Ended> {
        let was_open = self.is_open();
        self.finish(now, limits);
        if !was_open {
            return None;
        }
        frame::encode_close(out, &close);
        Some(Ended { close, cause })
    }

    fn protocol_error<'a>(
        &mut self,
        now: Millis,
        error: ProtocolError,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Option<Received<'a>> {
        self.fail(now, error.to_close(), Cause::Protocol(error), limits, out).map(Received::Closed)
    }
}

const _: () = assert!(size_of::<Conn>() <= 136, "every connection pays for this");

#[cfg(test)]
mod tests;
