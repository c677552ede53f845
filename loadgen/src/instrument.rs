//! What one thread makes of the messages that its connections receive: latency, integrity, fan-out. Pure data;
//! the time comes in as an argument.

use crate::fanout::{Part, Table};
use crate::ledger::{Ledger, Totals};
use crate::payload::{Codec, Parsed, Stamp};
use crate::recent::{Place, Recent, Seen};
use crate::record::Slice;
use crate::recorder::Recording;
use crate::schedule::Timeline;
use crate::stages::{StageBook, Staged};

/// A message that was due just before the measurement ended may be written so much after it.
pub const GRACE_NS: u64 = 100_000_000;

/// Messages by what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages written.
    pub sent: u64,
    /// Of those, the ones due while measuring and written by its end, give or take [`GRACE_NS`].
    pub sent_measured: u64,
    /// Messages that were due while measuring, as the schedule has it.
    pub due_measured: u64,
    /// Messages that could not be written, because their connection had ended or would not take them.
    pub unsent: u64,
    /// Messages of this run that were received, duplicates too.
    pub received: u64,
    /// Of those, the ones due while measuring.
    pub received_measured: u64,
    /// Messages of this run that were damaged.
    pub corrupt: u64,
    /// Bytes of received messages as they travelled, compressed or not.
    pub wire_bytes: u64,
    /// The same, unpacked.
    pub plain_bytes: u64,
    /// Messages that came back to their sender, though the server was said to leave it out.
    pub echoed: u64,
    /// Messages that are none of this run's, and in echo mode those of other connections.
    pub foreign: u64,
}

impl Tally {
    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_measured += other.sent_measured;
        self.due_measured += other.due_measured;
        self.unsent += other.unsent;
        self.received += other.received;
        self.received_measured += other.received_measured;
        self.corrupt += other.corrupt;
        self.echoed += other.echoed;
        self.foreign += other.foreign;
        self.wire_bytes += other.wire_bytes;
        self.plain_bytes += other.plain_bytes;
    }
}

/// Who hears whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Each connection hears itself.
    Own,
    /// Everyone hears each of so many senders.
    All {
        /// Senders in the whole run.
        senders: u32,
    },
    /// The same, but the server leaves the sender of a message out.
    Others {
        /// Senders in the whole run.
        senders: u32,
        /// Those among this thread's connections.
        own: Vec<u32>,
    },
}

/// The measuring side of one thread.
#[derive(Debug)]
pub struct Instrument {
    codec: Codec,
    timeline: Timeline,
    ledger: Ledger,
    /// The messages of a broadcast.
    recent: Option<Recent>,
    /// No message is to come back to its sender.
    skips_sender: bool,
    recording: Recording,
    stages: StageBook,
    tally: Tally,
}

impl Instrument {
    /// For a thread whose connections are numbered below `conns`, of which `receivers` are open.
    pub fn new(codec: Codec, timeline: Timeline, audience: Audience, conns: usize, receivers: u32) -> Self {
        let skips_sender = matches!(audience, Audience::Others { .. });
        let (senders, table) = match audience {
            Audience::Own => (1, None),
            Audience::All { senders } => (senders, Some(Table::new(receivers, senders))),
            Audience::Others { senders, own } => {
                (senders, Some(Table::new(receivers, senders).without_senders(own)))
            }
        };
        let ledger = Ledger::new(conns, senders);
        let recent = table.map(|table| Recent::new(table, codec.format().identity_at()));
        Self {
            skips_sender,
            codec,
            timeline,
            ledger,
            recent,
            recording: Recording::default(),
            stages: StageBook::default(),
            tally: Tally::default(),
        }
    }

    /// Keeps the stages of the run apart as well.
    #[must_use]
    pub fn with_stages(self, stages: StageBook) -> Self {
        Self { stages, ..self }
    }

    /// The phases of the run.
    pub const fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The message to write for `stamp`, of a size that `rng` picks.
    pub fn encode(&mut self, stamp: &Stamp, rng: &mut fastrand::Rng) -> &[u8] {
        let size = self.codec.sizes().next(rng);
        self.codec.encode(stamp, size)
    }

    /// A message was written, at the time in its stamp.
    pub fn sent(&mut self, stamp: &Stamp) {
        self.tally.sent += 1;
        let in_time = stamp.sent_ns < self.timeline.end_ns + GRACE_NS;
        let measured = self.timeline.is_measured(stamp.intended_ns);
        self.tally.sent_measured += u64::from(in_time && measured);
        self.recording.sent(measured, stamp.intended_ns, stamp.sent_ns);
        self.stages.sent(stamp.intended_ns, stamp.sent_ns);
    }

    /// A message came due, whether or not it can be written.
    pub fn due(&mut self, intended_ns: u64) {
        self.tally.due_measured += u64::from(self.timeline.is_measured(intended_ns));
    }

    /// Messages came due that nobody will send any more.
    pub fn never_sent(&mut self, dues: impl Iterator<Item = u64>) {
        dues.for_each(|intended_ns| self.due(intended_ns));
    }

    /// A message could not be written.
    pub fn unsent(&mut self) {
        self.tally.unsent += 1;
    }

    /// A message came over the wire in so many bytes, and has so many.
    pub fn on_wire(&mut self, wire_bytes: usize, plain_bytes: usize) {
        self.tally.wire_bytes += wire_bytes as u64;
        self.tally.plain_bytes += plain_bytes as u64;
    }

    /// A message could not be unpacked.
    pub fn damaged(&mut self) {
        self.tally.corrupt += 1;
    }

    /// Connection `conn`, which sends as `own`, has received a message. Says whether it was its own, arriving
    /// for the first time.
    pub fn received(&mut self, conn: u32, own: Option<u32>, bytes: &[u8], now_ns: u64) -> bool {
        let known = self.recent.as_ref().and_then(|recent| recent.find(bytes));
        let Some((place, seen)) = known.or_else(|| self.read(own, bytes)) else { return false };
        let Stamp { sender, sequence, intended_ns, .. } = seen.stamp;
        let is_own = own == Some(sender);
        if is_own && self.skips_sender {
            self.tally.echoed += 1;
            return false;
        }
        let stream = if self.recent.is_some() { sender } else { 0 };
        self.tally.received += 1;
        if !self.ledger.note(conn as usize, stream, sequence).is_first() {
            return false;
        }
        self.tally.received_measured += u64::from(seen.measured);
        self.recording.received(seen.measured, &seen.stamp, now_ns);
        self.stages.received(intended_ns, now_ns);
        if let Some(recent) = &mut self.recent {
            recent.note(place, now_ns);
        }
        is_own
    }

    /// Reads a message, and counts it where it is damaged or nothing that is to come here. In a broadcast it is then
    /// known to its other receivers.
    fn read(&mut self, own: Option<u32>, bytes: &[u8]) -> Option<(Place, Seen)> {
        let stamp = match self.codec.parse(bytes) {
            Parsed::Ours(stamp) => stamp,
            Parsed::Corrupt => {
                self.tally.corrupt += 1;
                return None;
            }
            Parsed::Foreign => {
                self.tally.foreign += 1;
                return None;
            }
        };
        let seen = Seen { stamp, measured: self.timeline.is_measured(stamp.intended_ns) };
        match &mut self.recent {
            None if own == Some(stamp.sender) => Some((Place::default(), seen)),
            Some(recent) if stamp.sender < recent.senders() => Some((recent.keep(bytes, &seen), seen)),
            _ => {
                self.tally.foreign += 1;
                None
            }
        }
    }

    /// The samples since the last call.
    pub fn take_slice(&mut self) -> Slice {
        self.recording.take()
    }

    /// What connection `conn` still has to receive goes to the one numbered `to`; it begins anew with `sequence`.
    pub fn move_stream(&mut self, conn: u32, to: u32, sequence: u32) {
        if self.recent.is_none() {
            self.ledger.move_stream(conn as usize, to as usize);
            self.ledger.begin(conn as usize, sequence);
        }
    }

    /// The stages, when the run is over.
    pub fn take_stages(&mut self) -> Vec<Staged> {
        self.stages.take()
    }

    /// The messages that all receivers of this thread have, and those older than `before_ns` that some lack.
    pub fn take_parts(&mut self, before_ns: u64) -> Vec<Part> {
        self.recent.as_mut().map(|recent| recent.take(before_ns)).unwrap_or_default()
    }

    /// What has been counted so far.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Messages that later ones have overtaken, so far.
    pub const fn missing(&self) -> u64 {
        self.ledger.missing()
    }

    /// Distinct, duplicate and reordered messages so far.
    pub const fn totals(&self) -> Totals {
        self.ledger.totals()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Format;
    use crate::sizes::Sizes;

    const TIMELINE: Timeline = Timeline { start_ns: 0, measure_ns: 100, end_ns: 200, drain_ns: 300 };

    fn codec() -> Codec {
        Codec::new(9, Format::Binary, Sizes::fixed(64))
    }

    fn message(sender: u32, sequence: u32, intended_ns: u64) -> Vec<u8> {
        codec().encode(&Stamp { sender, sequence, intended_ns, sent_ns: intended_ns + 5 }, 64).to_vec()
    }

    #[test]
    fn in_echo_each_connection_hears_itself() {
        let mut instrument = Instrument::new(codec(), TIMELINE, Audience::Own, 2, 2);
        assert!(instrument.received(0, Some(70), &message(70, 0, 50), 60), "in the warm-up");
        assert!(instrument.received(1, Some(71), &message(71, 0, 100), 160));
        assert!(!instrument.received(1, Some(71), &message(71, 0, 100), 161), "twice");
        assert!(!instrument.received(1, Some(71), &message(70, 1, 100), 161), "meant for another");
        assert!(!instrument.received(1, Some(71), b"hello", 161));
        let mut damaged = message(71, 1, 100);
        damaged[63] ^= 1;
        assert!(!instrument.received(1, Some(71), &damaged, 161));
        let expected =
            Tally { received: 3, received_measured: 1, corrupt: 1, foreign: 2, ..Tally::default() };
        assert_eq!(*instrument.tally(), expected);
        assert_eq!(instrument.totals(), Totals { distinct: 2, duplicate: 1, reordered: 0 });
        let slice = instrument.take_slice();
        let measured = slice.measured.expect("one");
        assert_eq!((measured.response.max_ns(), measured.service.max_ns()), (Some(60), Some(55)));
        assert_eq!(slice.warmup.expect("one").response.max_ns(), Some(10));
    }

    #[test]
    fn in_a_broadcast_all_hear_all_senders() {
        let mut instrument = Instrument::new(codec(), TIMELINE, Audience::All { senders: 2 }, 2, 2);
        assert!(!instrument.received(0, None, &message(1, 0, 100), 120));
        assert!(instrument.received(1, Some(1), &message(1, 0, 100), 130), "the sender hears itself");
        assert!(!instrument.received(1, Some(1), &message(2, 0, 100), 130), "there is no sender 2");
        let [part] = instrument.take_parts(0)[..] else { panic!("one message") };
        assert_eq!((part.count, part.first_ns, part.last_ns), (2, 120, 130));
        assert_eq!(instrument.tally().foreign, 1);
    }

    #[test]
    fn a_server_may_leave_the_sender_out() {
        let audience = Audience::Others { senders: 2, own: vec![1] };
        let mut instrument = Instrument::new(codec(), TIMELINE, audience, 3, 3);
        for (conn, own) in [(0, None), (2, None)] {
            assert!(!instrument.received(conn, own, &message(1, 0, 100), 120 + u64::from(conn)));
        }
        let [part] = instrument.take_parts(0)[..] else { panic!("whole without its sender") };
        assert_eq!((part.count, part.last_ns), (2, 122));
        for (conn, own) in [(0, None), (1, Some(1)), (2, None)] {
            instrument.received(conn, own, &message(0, 0, 100), 130);
        }
        assert_eq!(instrument.take_parts(0)[0].count, 3, "sender 0 is another thread's");
        assert!(!instrument.received(1, Some(1), &message(1, 0, 100), 140), "back to its sender");
        assert_eq!((instrument.tally().echoed, instrument.totals().distinct), (1, 5));
    }

    #[test]
    fn sending_is_counted_by_phase() {
        let mut instrument = Instrument::new(codec(), TIMELINE, Audience::Own, 1, 1);
        for (intended_ns, sent_ns) in [(50, 53), (150, 153), (199, 200 + GRACE_NS)] {
            instrument.due(intended_ns);
            instrument.sent(&Stamp { sender: 0, sequence: 0, intended_ns, sent_ns });
        }
        instrument.due(160);
        instrument.unsent();
        let expected = Tally { sent: 3, sent_measured: 1, due_measured: 3, unsent: 1, ..Tally::default() };
        assert_eq!(*instrument.tally(), expected);
        assert_eq!(instrument.take_slice().measured.expect("two").late.max_ns(), Some(GRACE_NS + 1));
    }
}
