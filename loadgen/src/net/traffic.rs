//! The load on one thread's connections: sends what is due, and passes on what arrives.

use std::io;

use wsd::proto::deflate::Pool;
use wsd::proto::message::Compressed;
use wsd::proto::{OpCode, frame};

use super::link::Link;
use crate::client::{DEFLATE, LIMITS};
use crate::clock::monotonic_ns;
use crate::instrument::Instrument;
use crate::payload::{Format, Stamp};
use crate::schedule::{Schedule, Timeline};

/// Messages written before the poll is asked again, so that receiving does not wait for a long queue of sends.
const SENDS_PER_TURN: usize = 256;

/// What decides when messages are sent.
#[derive(Debug)]
pub enum Pace {
    /// Nothing is sent (any more).
    Silent,
    /// Each message at its own time.
    Open(Schedule),
    /// A message for each that has come back.
    Closed {
        /// Connections whose first messages are still to be sent, once for each message.
        first: Vec<u32>,
        /// How many each sender has under way.
        in_flight: u32,
    },
}

/// The load on one thread's connections.
#[derive(Debug)]
pub struct Traffic {
    instrument: Instrument,
    pace: Pace,
    opcode: OpCode,
    /// Whether frames are masked, as those of a client must be unless it is plain TCP that is spoken.
    masked: bool,
    rng: fastrand::Rng,
    frame: Vec<u8>,
    pool: Pool,
    /// Messages that wait for room on their connections.
    waiting: u64,
    /// What a connection should send that is away is sent by another.
    relays: bool,
    /// In a closed loop: how many messages of the connection that is being read have come back.
    replies: u32,
}

impl Traffic {
    /// `format` is that of the instrument's messages.
    pub fn new(instrument: Instrument, pace: Pace, format: Format, masked: bool, rng: fastrand::Rng) -> Self {
        let opcode = match format {
            Format::Binary | Format::Compact => OpCode::Binary,
            Format::Text => OpCode::Text,
        };
        Self {
            instrument,
            pace,
            opcode,
            masked,
            rng,
            frame: Vec::new(),
            pool: Pool::new(DEFLATE),
            waiting: 0,
            relays: false,
            replies: 0,
        }
    }

    /// The same, and what a connection should send that is away is sent by another: the rate is that of those who
    /// live.
    #[must_use]
    pub fn relayed(self, relays: bool) -> Self {
        Self { relays, ..self }
    }

    /// What has been measured.
    pub const fn instrument(&mut self) -> &mut Instrument {
        &mut self.instrument
    }

    /// The phases of the run.
    pub const fn timeline(&self) -> &Timeline {
        self.instrument.timeline()
    }

    /// Sends nothing more.
    pub fn stop(&mut self) {
        if let Pace::Open(schedule) = std::mem::replace(&mut self.pace, Pace::Silent) {
            // Of a run that is cut short, what would have come later was not due.
            let now_ns = monotonic_ns();
            self.instrument.never_sent(schedule.rest().take_while(|due| *due <= now_ns));
        }
    }

    /// When the next message is due.
    pub fn deadline_ns(&self) -> Option<u64> {
        match &self.pace {
            Pace::Silent => None,
            Pace::Open(schedule) => schedule.peek().map(|due| due.intended_ns),
            Pace::Closed { first, .. } => (!first.is_empty()).then_some(self.instrument.timeline().start_ns),
        }
    }

    /// Whether messages are still to be sent, apart from those that answer what arrives.
    pub fn is_sending(&self) -> bool {
        self.waiting > 0 || self.deadline_ns().is_some()
    }

    /// Sends what is due, or the first part of it: [`deadline_ns`](Self::deadline_ns) then stays in the past.
    pub fn send_due(&mut self, links: &mut [Option<Link>]) {
        for _ in 0..SENDS_PER_TURN {
            let now_ns = monotonic_ns();
            let (conn, intended_ns) = match &mut self.pace {
                Pace::Silent => return,
                Pace::Open(schedule) => match schedule.peek() {
                    Some(due) if due.intended_ns <= now_ns => {
                        schedule.advance();
                        (due.conn, due.intended_ns)
                    }
                    _ => return,
                },
                Pace::Closed { .. } if now_ns < self.instrument.timeline().start_ns => return,
                Pace::Closed { first, .. } => match first.pop() {
                    Some(conn) => (conn, now_ns),
                    None => return,
                },
            };
            self.instrument.due(intended_ns);
            let conn = if self.relays { alive(links, conn) } else { conn };
            match &mut links[conn as usize] {
                Some(link) if link.is_open() => self.send_or_wait(link, intended_ns),
                _ => self.instrument.unsent(),
            }
        }
    }

    /// A connection is back: in a closed loop its messages are under way again.
    pub fn back(&mut self, conn: u32, link: &Link) {
        if let (Pace::Closed { first, in_flight }, Some(_)) = (&mut self.pace, link.sender) {
            first.extend(std::iter::repeat_n(conn, *in_flight as usize));
        }
    }

    /// Sends what waited for room on a connection.
    pub fn send_waiting(&mut self, link: &mut Link) {
        while let Some(intended_ns) = link.next_waiting() {
            self.waiting -= 1;
            self.send(link, intended_ns, monotonic_ns(), 1);
        }
    }

    /// Counts what a connection that has ended can send no more.
    pub fn abandon(&mut self, link: &Link) {
        for _ in 0..link.waiting() {
            self.waiting -= 1;
            self.instrument.unsent();
        }
    }

    /// A connection has received a compressed message.
    pub fn received_compressed(&mut self, conn: u32, link: &Link, message: &Compressed<'_>, now_ns: u64) {
        match message.inflate(self.pool.inflater(), &LIMITS) {
            Ok(plain) => {
                self.instrument.on_wire(message.payload.len(), plain.as_bytes().len());
                self.count(conn, link, plain.as_bytes(), now_ns);
            }
            Err(_) => self.instrument.damaged(),
        }
    }

    /// A connection has received a message.
    pub fn received(&mut self, conn: u32, link: &Link, bytes: &[u8], now_ns: u64) {
        self.instrument.on_wire(bytes.len(), bytes.len());
        self.count(conn, link, bytes, now_ns);
    }

    fn count(&mut self, conn: u32, link: &Link, bytes: &[u8], now_ns: u64) {
        let own_first = self.instrument.received(conn, link.sender, bytes, now_ns);
        if own_first && matches!(self.pace, Pace::Closed { .. }) && now_ns < self.instrument.timeline().end_ns
        {
            self.replies += 1;
        }
    }

    /// In a closed loop, sends a message for each that has come back since the last call: those of one read in one
    /// write. A connection has to be left with this before another one is read.
    pub fn reply(&mut self, link: &mut Link) {
        if self.replies > 0 {
            self.send_replies(link);
        }
    }

    fn send_replies(&mut self, link: &mut Link) {
        let replies = std::mem::take(&mut self.replies);
        let now_ns = monotonic_ns();
        (0..replies).for_each(|_| self.instrument.due(now_ns));
        if !link.is_open() {
            (0..replies).for_each(|_| self.instrument.unsent());
        } else if link.is_clear() {
            self.send(link, now_ns, now_ns, replies);
        } else {
            (0..replies).for_each(|_| self.send_or_wait(link, now_ns));
        }
    }

    fn send_or_wait(&mut self, link: &mut Link, intended_ns: u64) {
        if link.is_clear() {
            self.send(link, intended_ns, monotonic_ns(), 1);
        } else if link.wait(intended_ns) {
            self.waiting += 1;
        } else {
            self.instrument.unsent();
        }
    }

    /// Writes messages that were all to be sent at `intended_ns`, in one piece.
    fn send(&mut self, link: &mut Link, intended_ns: u64, sent_ns: u64, messages: u32) {
        let sender = link.sender.expect("only senders are scheduled");
        let mut stamp = Stamp { sender, sequence: link.sequence, intended_ns, sent_ns };
        self.frame.clear();
        for _ in 0..messages {
            let mask = self.masked.then(|| self.rng.u32(..).to_be_bytes());
            let message = self.instrument.encode(&stamp, &mut self.rng);
            match link.client.deflate() {
                None => frame::encode(&mut self.frame, self.opcode, message, mask),
                Some(window) => {
                    let deflater = self.pool.deflater(window);
                    frame::encode_deflated(&mut self.frame, self.opcode, message, mask, deflater);
                }
            }
            stamp.sequence += 1;
        }
        let written: io::Result<()> = link.write(&self.frame);
        if written.is_ok() {
            link.sequence = stamp.sequence;
            (0..messages).for_each(|_| self.instrument.sent(&stamp));
        } else {
            // The poll will tell that the connection has ended.
            (0..messages).for_each(|_| self.instrument.unsent());
        }
    }
}

/// The first connection from `conn` on that can send, all around; `conn` itself where there is none.
fn alive(links: &[Option<Link>], conn: u32) -> u32 {
    let sends =
        |link: &Option<Link>| link.as_ref().is_some_and(|link| link.is_open() && link.sender.is_some());
    let (before, from) = links.split_at(conn as usize);
    let found = from.iter().chain(before).position(sends).unwrap_or(0);
    ((conn as usize + found) % links.len()) as u32
}
