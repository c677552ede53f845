//! When each message is to be sent: an open loop of absolute times that no delay moves.
//!
//! The load as a whole is constant: message k of the run is due at `start + k / rate`, and its sender is slot
//! `k mod senders`. Slots are dealt to the connections in random order, so each connection sends at its own
//! constant rate with a random phase. A thread knows only its own slots and needs nobody else to keep the
//! common rhythm. A message that could not be sent in time stays due: latency counts from the intended time.

use crate::clock::SECOND_NS;

/// The phases of a run, in nanoseconds of CLOCK_MONOTONIC: warm-up from `start_ns`, measuring from `measure_ns`,
/// no message due at or after `end_ns`, and nothing awaited after `drain_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// The first message is due.
    pub start_ns: u64,
    /// The warm-up is over.
    pub measure_ns: u64,
    /// No message is due any more.
    pub end_ns: u64,
    /// What has not arrived is lost.
    pub drain_ns: u64,
}

impl Timeline {
    /// Whether a message that was to be sent at `intended_ns` counts.
    pub const fn is_measured(&self, intended_ns: u64) -> bool {
        self.measure_ns <= intended_ns && intended_ns < self.end_ns
    }
}

/// One message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When it is to be sent.
    pub intended_ns: u64,
    /// By which of the thread's connections.
    pub conn: u32,
}

/// The messages of one thread's senders, in the order in which they are due.
#[derive(Debug)]
pub struct Schedule {
    start_ns: u64,
    end_ns: u64,
    interval_ns: f64,
    /// Slots in the whole run.
    stride: u64,
    /// This thread's slots, ascending, and the connection that has each.
    slots: Vec<(u32, u32)>,
    sent: u64,
}

impl Schedule {
    /// `rate` messages per second over the `stride` senders of the whole run, of which this thread has `slots`
    /// as (slot, connection).
    pub fn new(timeline: &Timeline, rate: f64, stride: u32, mut slots: Vec<(u32, u32)>) -> Self {
        slots.sort_unstable();
        Self {
            start_ns: timeline.start_ns,
            end_ns: timeline.end_ns,
            interval_ns: SECOND_NS as f64 / rate,
            stride: u64::from(stride),
            slots,
            sent: 0,
        }
    }

    /// The next message, or `None` when there is none before the end.
    pub fn peek(&self) -> Option<Due> {
        let round = self.sent / (self.slots.len() as u64).max(1);
        let &(slot, conn) = self.slots.get((self.sent % self.slots.len().max(1) as u64) as usize)?;
        let place = round * self.stride + u64::from(slot);
        // Multiplied, not summed up: no error accumulates, and 2^53 ns are a hundred days.
        let intended_ns = self.start_ns + (place as f64 * self.interval_ns) as u64;
        (intended_ns < self.end_ns).then_some(Due { intended_ns, conn })
    }

    /// Moves on to the message after [`peek`](Self::peek)'s.
    pub fn advance(&mut self) {
        self.sent += 1;
    }
}

/// A random order of the numbers below `count`.
pub fn shuffled(count: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMELINE: Timeline =
        Timeline { start_ns: 1_000, measure_ns: 1_000, end_ns: 1_000 + 2 * SECOND_NS, drain_ns: 0 };

    fn all(mut schedule: Schedule) -> Vec<(u64, u32)> {
        let mut out = Vec::new();
        while let Some(due) = schedule.peek() {
            out.push((due.intended_ns - 1_000, due.conn));
            schedule.advance();
        }
        out
    }

    #[test]
    fn the_threads_share_one_rhythm() {
        let a = all(Schedule::new(&TIMELINE, 4.0, 3, vec![(2, 20), (0, 10)]));
        let b = all(Schedule::new(&TIMELINE, 4.0, 3, vec![(1, 30)]));
        let ms = |at: u64| at / 1_000_000;
        let (a, b): (Vec<_>, Vec<_>) =
            (a.iter().map(|&(at, conn)| (ms(at), conn)).collect(), b.iter().map(|&(at, _)| ms(at)).collect());
        assert_eq!(a, [(0, 10), (500, 20), (750, 10), (1250, 20), (1500, 10)]);
        assert_eq!(b, [250, 1000, 1750]);
    }

    #[test]
    fn as_many_messages_as_the_rate_says() {
        let slots = (0..7).map(|slot| (slot, slot)).collect();
        assert_eq!(all(Schedule::new(&TIMELINE, 5000.0, 7, slots)).len(), 10_000);
        assert!(all(Schedule::new(&TIMELINE, 5000.0, 7, vec![])).is_empty(), "a thread without senders");
    }

    #[test]
    fn long_runs_do_not_drift() {
        let timeline = Timeline { end_ns: u64::MAX, ..TIMELINE };
        let mut schedule = Schedule::new(&timeline, 3.0, 1, vec![(0, 0)]);
        schedule.sent = 3 * 86_400;
        assert_eq!(schedule.peek(), Some(Due { intended_ns: 1_000 + 86_400 * SECOND_NS, conn: 0 }));
    }

    #[test]
    fn the_order_depends_on_the_seed_alone() {
        assert_eq!(shuffled(100, 1), shuffled(100, 1));
        assert_ne!(shuffled(100, 1), shuffled(100, 2));
        let mut order = shuffled(100, 1);
        order.sort_unstable();
        assert!(order.into_iter().eq(0..100));
    }
}
