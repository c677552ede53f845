//! How much of a fan-out one turn may do.

use crate::id::Millis;

/// Deliveries in a turn while next to nobody else wants anything: a poll for so many is less than one system call in a
/// hundred.
const ALONE: usize = 128;

/// Deliveries in a turn while others do. At 2 to 6 us each, they wait for a fifth of a millisecond at most. A turn that
/// takes in more than that hands out as much: or what it takes in would only pile up, in a thousand rooms of one.
const BESIDE_OTHERS: usize = 32;

/// Bytes that are compressed for one member alone count for a delivery: they take as long, or longer.
const COMPRESSED_BYTES: u64 = 1024;

/// Over what time events are counted.
const WINDOW_MS: u64 = 16;

/// Events in a window from which on others count as wanting something: 500 a second.
const LIVELY_EVENTS: u64 = 8;

/// The present share. It goes by what came in lately, because whoever comes in the middle of a turn has to wait for its
/// end.
#[derive(Debug)]
pub(super) struct Share {
    since: Millis,
    events: u64,
    deliveries: usize,
    /// Connections that are read in this turn, at most.
    taken_in: usize,
}

impl Share {
    pub(super) const fn new() -> Self {
        Self { since: Millis(0), events: 0, deliveries: ALONE, taken_in: 0 }
    }

    /// So many events came with this turn.
    pub(super) fn note(&mut self, now: Millis, events: usize) {
        let passed = now.0.saturating_sub(self.since.0);
        if passed >= WINDOW_MS {
            let lively = self.events * WINDOW_MS >= LIVELY_EVENTS * passed;
            self.deliveries = if lively { BESIDE_OTHERS } else { ALONE };
            (self.since, self.events) = (now, 0);
        }
        self.events += events as u64;
        self.taken_in = events;
    }

    /// So many are read in this turn that had more than a turn's share before.
    pub(super) fn note_ready(&mut self, connections: usize) {
        self.taken_in += connections;
    }

    /// Deliveries that this turn may make.
    pub(super) fn deliveries(&self) -> usize {
        self.deliveries.max(self.taken_in)
    }
}

/// For how many deliveries it counts that so many bytes were compressed.
pub(super) fn deliveries_for(compressed: u64) -> usize {
    usize::try_from(compressed / COMPRESSED_BYTES).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share after a second with so many events, each in a turn of its own.
    fn after(events: u64, share: &mut Share, from: u64) -> usize {
        (0..events).for_each(|event| share.note(Millis(from + event * 1000 / events), 1));
        share.note(Millis(from + 1000), 0);
        share.deliveries()
    }

    #[test]
    fn it_is_small_while_others_want_something_and_large_while_they_do_not() {
        let mut share = Share::new();
        assert_eq!(share.deliveries(), ALONE);
        for (second, (events, deliveries)) in
            [(200, ALONE), (2_000, BESIDE_OTHERS), (100, ALONE), (100_000, BESIDE_OTHERS), (1, ALONE)]
                .into_iter()
                .enumerate()
        {
            assert_eq!(after(events, &mut share, second as u64 * 1000), deliveries, "{events} in a second");
        }
    }

    #[test]
    fn a_turn_hands_out_no_less_than_it_takes_in() {
        let mut share = Share::new();
        after(100_000, &mut share, 0);
        share.note(Millis(2_001), 1_000);
        share.note_ready(500);
        assert_eq!(share.deliveries(), 1_500);
        share.note(Millis(2_002), 1);
        assert_eq!(share.deliveries(), BESIDE_OTHERS);
    }
}
