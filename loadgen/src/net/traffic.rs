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
        }
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
            Pace::Closed { first } => (!first.is_empty()).then_some(self.instrument.timeline().start_ns),
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
                Pace::Closed { first } => match first.pop() {
                    Some(conn) => (conn, now_ns),
                    None => return,
                },
            };
            self.instrument.due(intended_ns);
            match &mut links[conn as usize] {
                Some(link) if link.is_open() => self.send_or_wait(link, intended_ns),
                _ => self.instrument.unsent(),
            }
        }
    }

    /// Sends what waited for room on a connection.
    pub fn send_waiting(&mut self, link: &mut Link) {
        while let Some(intended_ns) = link.next_waiting() {
            self.waiting -= 1;
            self.send(link, intended_ns);
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
    pub fn received_compressed(&mut self, conn: u32, link: &mut Link, message: &Compressed<'_>) {
        match message.inflate(self.pool.inflater(), &LIMITS) {
            Ok(plain) => {
                self.instrument.on_wire(message.payload.len(), plain.as_bytes().len());
                self.count(conn, link, plain.as_bytes());
            }
            Err(_) => self.instrument.damaged(),
        }
    }

    /// A connection has received a message.
    pub fn received(&mut self, conn: u32, link: &mut Link, bytes: &[u8]) {
        self.instrument.on_wire(bytes.len(), bytes.len());
        self.count(conn, link, bytes);
    }

    fn count(&mut self, conn: u32, link: &mut Link, bytes: &[u8]) {
        let now_ns = monotonic_ns();
        let own_first = self.instrument.received(conn, link.sender, bytes, now_ns);
        if own_first && matches!(self.pace, Pace::Closed { .. }) && now_ns < self.instrument.timeline().end_ns
        {
            self.instrument.due(now_ns);
            self.send_or_wait(link, now_ns);
        }
    }

    fn send_or_wait(&mut self, link: &mut Link, intended_ns: u64) {
        if link.is_clear() {
            self.send(link, intended_ns);
        } else if link.wait(intended_ns) {
            self.waiting += 1;
        } else {
            self.instrument.unsent();
        }
    }

    fn send(&mut self, link: &mut Link, intended_ns: u64) {
        let sender = link.sender.expect("only senders are scheduled");
        let stamp = Stamp { sender, sequence: link.sequence, intended_ns, sent_ns: monotonic_ns() };
        self.frame.clear();
        let mask = self.masked.then(|| self.rng.u32(..).to_be_bytes());
        let message = self.instrument.encode(&stamp, &mut self.rng);
        match link.client.deflate() {
            None => frame::encode(&mut self.frame, self.opcode, message, mask),
            Some(window) => {
                let deflater = self.pool.deflater(window);
                frame::encode_deflated(&mut self.frame, self.opcode, message, mask, deflater);
            }
        }
        let written: io::Result<()> = link.write(&self.frame);
        if written.is_ok() {
            link.sequence += 1;
            self.instrument.sent(&stamp);
        } else {
            // The poll will tell that the connection has ended.
            self.instrument.unsent();
        }
    }
}
