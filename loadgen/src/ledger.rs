//! Who has received what: loss, duplicates and reordering, exactly, at four bytes per stream while all is well.
//!
//! A stream is what one receiver gets from one sender. In echo a connection hears only itself; in a broadcast
//! each receiver has one stream per sender. Everything is connected before the first message is sent, so every
//! stream starts at sequence 0.

use std::collections::HashMap;

/// What an intact message was to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one, or one beyond a gap.
    New,
    /// New, but a later one came before it.
    Late,
    /// Seen before.
    Duplicate,
}

impl Arrival {
    /// Whether this is the first time that the message arrives.
    pub const fn is_first(self) -> bool {
        !matches!(self, Self::Duplicate)
    }
}

/// Totals over all streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Intact messages, each counted once.
    pub distinct: u64,
    /// Messages that had arrived before.
    pub duplicate: u64,
    /// Messages overtaken by a later one of the same sender.
    pub reordered: u64,
}

impl Totals {
    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Self) {
        self.distinct += other.distinct;
        self.duplicate += other.duplicate;
        self.reordered += other.reordered;
    }
}

/// The streams of one thread's connections.
#[derive(Debug)]
pub struct Ledger {
    senders: u32,
    /// The lowest sequence that nothing at or beyond it has arrived, per stream.
    next: Vec<u32>,
    /// Sequences below `next` that have not arrived, as ascending half-open ranges; only for streams with gaps.
    gaps: HashMap<usize, Vec<(u32, u32)>>,
    /// How many sequences the gaps have in all.
    missing: u64,
    totals: Totals,
}

impl Ledger {
    /// For `receivers` connections that each hear `senders` senders (1 where each hears only itself).
    pub fn new(receivers: usize, senders: u32) -> Self {
        Self {
            senders,
            next: vec![0; receivers * senders as usize],
            gaps: HashMap::new(),
            missing: 0,
            totals: Totals::default(),
        }
    }

    /// Notes that `receiver` has got message `sequence` of `sender`.
    ///
    /// # Panics
    /// Where there is no such receiver or sender: callers have checked what they received.
    pub fn note(&mut self, receiver: usize, sender: u32, sequence: u32) -> Arrival {
        assert!(sender < self.senders, "the caller checks the sender");
        let stream = receiver * self.senders as usize + sender as usize;
        let next = &mut self.next[stream];
        let arrival = if sequence >= *next {
            if sequence > *next {
                self.gaps.entry(stream).or_default().push((*next, sequence));
                self.missing += u64::from(sequence - *next);
            }
            *next = sequence + 1;
            Arrival::New
        } else if self.fill(stream, sequence) {
            Arrival::Late
        } else {
            Arrival::Duplicate
        };
        match arrival {
            Arrival::New => self.totals.distinct += 1,
            Arrival::Late => {
                self.totals.distinct += 1;
                self.totals.reordered += 1;
            }
            Arrival::Duplicate => self.totals.duplicate += 1,
        }
        arrival
    }

    /// Gives what `from` has of its own messages to `to`, which goes on receiving them.
    ///
    /// # Panics
    /// Where receivers hear others than themselves.
    pub fn move_stream(&mut self, from: usize, to: usize) {
        assert_eq!(self.senders, 1, "only a stream of one's own can move");
        self.next[to] = self.next[from];
        let gaps = self.gaps.remove(&from);
        match gaps {
            Some(gaps) => self.gaps.insert(to, gaps),
            None => self.gaps.remove(&to),
        };
    }

    /// What `receiver` hears of itself begins with `sequence`: nothing before it is missing.
    pub fn begin(&mut self, receiver: usize, sequence: u32) {
        self.next[receiver * self.senders as usize] = sequence;
    }

    /// The totals so far.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Messages that later ones of the same sender have overtaken, and that have not arrived since: lost, or late.
    pub const fn missing(&self) -> u64 {
        self.missing
    }

    /// Takes `sequence` out of the stream's gaps, and says whether it was in one.
    fn fill(&mut self, stream: usize, sequence: u32) -> bool {
        let Some(gaps) = self.gaps.get_mut(&stream) else { return false };
        let at = gaps.partition_point(|&(_, end)| end <= sequence);
        let Some(&(start, end)) = gaps.get(at) else { return false };
        if sequence < start {
            return false;
        }
        self.missing -= 1;
        let rest = [(start, sequence), (sequence + 1, end)];
        gaps.splice(at..=at, rest.into_iter().filter(|(start, end)| start < end));
        if gaps.is_empty() {
            self.gaps.remove(&stream);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distinct, duplicate and reordered for one stream that gets `sequences`.
    fn totals(sequences: &[u32]) -> (u64, u64, u64) {
        let mut ledger = Ledger::new(1, 1);
        for &sequence in sequences {
            ledger.note(0, 0, sequence);
        }
        let Totals { distinct, duplicate, reordered } = ledger.totals();
        (distinct, duplicate, reordered)
    }

    #[test]
    fn each_fault_has_its_exact_count() {
        assert_eq!(totals(&[0, 1, 2, 3]), (4, 0, 0), "all well");
        assert_eq!(totals(&[0, 2, 3]), (3, 0, 0), "1 dropped");
        assert_eq!(totals(&[0, 1, 1, 2, 0]), (3, 2, 0), "two came twice");
        assert_eq!(totals(&[0, 2, 1, 3]), (4, 0, 1), "1 and 2 swapped");
        assert_eq!(totals(&[3, 2, 1, 0]), (4, 0, 3), "backwards");
        assert_eq!(totals(&[5, 2, 2, 5, 0]), (3, 2, 2), "gap, filled inside, doubled, filled at its start");
        assert_eq!(totals(&[2, 0, 1, 2]), (3, 1, 2), "the gap closes, and its memory goes");
    }

    #[test]
    fn streams_do_not_mix() {
        let mut ledger = Ledger::new(2, 2);
        assert_eq!(ledger.note(0, 0, 0), Arrival::New);
        assert_eq!(ledger.note(0, 1, 0), Arrival::New);
        assert_eq!(ledger.note(1, 0, 0), Arrival::New);
        assert_eq!(ledger.note(1, 0, 0), Arrival::Duplicate);
        assert_eq!(ledger.note(1, 1, 1), Arrival::New);
        assert_eq!(ledger.note(1, 1, 0), Arrival::Late);
        assert_eq!(ledger.totals(), Totals { distinct: 5, duplicate: 1, reordered: 1 });
    }

    /// Messages 0 to 2 were sent before the move and 3 to 4 after it; 1 and 2 arrive after 3, over the old connection.
    #[test]
    fn a_stream_that_moves_keeps_its_messages() {
        let mut ledger = Ledger::new(3, 1);
        ledger.note(0, 0, 0);
        ledger.move_stream(0, 2);
        ledger.begin(0, 3);
        for (receiver, sequence) in [(0, 3), (2, 2), (2, 1), (0, 4), (2, 2), (0, 3)] {
            ledger.note(receiver, 0, sequence);
        }
        assert_eq!(ledger.totals(), Totals { distinct: 5, duplicate: 2, reordered: 1 });
        // Whoever takes the place next has no part in it.
        ledger.move_stream(0, 2);
        ledger.begin(0, 5);
        assert_eq!(ledger.note(2, 0, 4), Arrival::Duplicate);
    }

    #[test]
    fn agrees_with_a_set_on_random_arrivals() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut seen, mut top) = (std::collections::HashSet::new(), None);
        let mut ledger = Ledger::new(1, 1);
        for _ in 0..5000 {
            let sequence = rng.u32(0..2000);
            let expected = match (seen.insert(sequence), top.is_some_and(|top| sequence < top)) {
                (false, _) => Arrival::Duplicate,
                (true, true) => Arrival::Late,
                (true, false) => Arrival::New,
            };
            top = top.max(Some(sequence));
            assert_eq!(ledger.note(0, 0, sequence), expected);
        }
        assert_eq!(ledger.totals().distinct, seen.len() as u64);
        assert_eq!(ledger.missing(), u64::from(top.map_or(0, |top| top + 1)) - seen.len() as u64);
    }
}
