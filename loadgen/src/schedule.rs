//! When each message is to be sent: an open loop of absolute times that no delay moves.
//!
//! With constant arrivals the load as a whole is even: message k of the run is due at `start + k / rate`, and its sender is slot
//! `k mod senders`. Slots are dealt to the connections in random order, so each connection sends at its own
//! constant rate with a random phase. A thread knows only its own slots and needs nobody else to keep the
//! common rhythm. With Poisson arrivals each connection sends at random with the same mean rate, independent of all
//! others, as many independent users do; a thread's connections together are then a Poisson process as well, of which
//! each message falls to one of them by chance.
//!
//! A message that could not be sent in time stays due: latency counts from the intended time.

use crate::stages::Steps;

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

/// How the times of messages are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrival {
    /// Evenly
    Constant,
    /// At random, as independent users send
    Poisson,
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
    steps: Steps,
    /// Slots in the whole run.
    stride: u64,
    /// This thread's slots, ascending, and the connection that has each.
    slots: Vec<(u32, u32)>,
    sent: u64,
    /// With Poisson arrivals: the next message, and what decides on those after it.
    random: Option<Random>,
}

#[derive(Debug)]
struct Random {
    rng: fastrand::Rng,
    /// The place of the next message, a fraction: rounding each gap would shorten the sum.
    place: f64,
    /// Which of the thread's slots.
    slot: usize,
}

impl Random {
    fn step(&mut self, mean: f64, slots: usize) {
        // `1 - f64()` is never 0.
        self.place -= mean * (1.0 - self.rng.f64()).ln();
        self.slot = self.rng.usize(..slots);
    }
}

impl Schedule {
    /// Messages at the rate of `steps` over the `stride` senders of the whole run, of which this thread has `slots`
    /// as (slot, connection). `seed` decides on random arrivals; each thread needs its own.
    pub fn new(
        timeline: &Timeline,
        steps: Steps,
        stride: u32,
        mut slots: Vec<(u32, u32)>,
        arrival: Arrival,
        seed: u64,
    ) -> Self {
        slots.sort_unstable();
        let random = (arrival == Arrival::Poisson && !slots.is_empty()).then(|| Random {
            rng: fastrand::Rng::with_seed(seed),
            place: 0.0,
            slot: 0,
        });
        let mut it = Self {
            start_ns: timeline.start_ns,
            end_ns: timeline.end_ns,
            steps,
            stride: u64::from(stride),
            slots,
            sent: 0,
            random,
        };
        it.step();
        it
    }

    /// The next message, or `None` when there is none before the end.
    pub fn peek(&self) -> Option<Due> {
        if let Some(random) = &self.random {
            let (_, conn) = self.slots[random.slot];
            let intended_ns = self.start_ns + self.steps.time_ns(random.place);
            return (intended_ns < self.end_ns).then_some(Due { intended_ns, conn });
        }
        let round = self.sent / (self.slots.len() as u64).max(1);
        let &(slot, conn) = self.slots.get((self.sent % self.slots.len().max(1) as u64) as usize)?;
        let place = round * self.stride + u64::from(slot);
        let intended_ns = self.start_ns + self.steps.time_ns(place as f64);
        (intended_ns < self.end_ns).then_some(Due { intended_ns, conn })
    }

    /// Moves on to the message after [`peek`](Self::peek)'s.
    pub fn advance(&mut self) {
        self.sent += 1;
        self.step();
    }

    /// The times of all messages that are left.
    pub fn rest(mut self) -> impl Iterator<Item = u64> {
        std::iter::from_fn(move || {
            let due = self.peek()?;
            self.advance();
            Some(due.intended_ns)
        })
    }

    fn step(&mut self) {
        let mean = self.stride as f64 / self.slots.len().max(1) as f64;
        if let Some(random) = &mut self.random {
            random.step(mean, self.slots.len());
        }
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
    use crate::clock::SECOND_NS;
    use crate::stages::Stage;

    const TIMELINE: Timeline =
        Timeline { start_ns: 1_000, measure_ns: 1_000, end_ns: 1_000 + 2 * SECOND_NS, drain_ns: 0 };

    fn constant(timeline: &Timeline, rate: f64, stride: u32, slots: Vec<(u32, u32)>) -> Schedule {
        Schedule::new(timeline, Steps::constant(rate), stride, slots, Arrival::Constant, 0)
    }

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
        let a = all(constant(&TIMELINE, 4.0, 3, vec![(2, 20), (0, 10)]));
        let b = all(constant(&TIMELINE, 4.0, 3, vec![(1, 30)]));
        let ms = |at: u64| at / 1_000_000;
        let (a, b): (Vec<_>, Vec<_>) =
            (a.iter().map(|&(at, conn)| (ms(at), conn)).collect(), b.iter().map(|&(at, _)| ms(at)).collect());
        assert_eq!(a, [(0, 10), (500, 20), (750, 10), (1250, 20), (1500, 10)]);
        assert_eq!(b, [250, 1000, 1750]);
    }

    #[test]
    fn as_many_messages_as_the_rate_says() {
        let slots = (0..7).map(|slot| (slot, slot)).collect();
        assert_eq!(all(constant(&TIMELINE, 5000.0, 7, slots)).len(), 10_000);
        assert!(all(constant(&TIMELINE, 5000.0, 7, vec![])).is_empty(), "a thread without senders");
    }

    #[test]
    fn long_runs_do_not_drift() {
        let timeline = Timeline { end_ns: u64::MAX, ..TIMELINE };
        let mut schedule = constant(&timeline, 3.0, 1, vec![(0, 0)]);
        schedule.sent = 3 * 86_400;
        assert_eq!(schedule.peek(), Some(Due { intended_ns: 1_000 + 86_400 * SECOND_NS, conn: 0 }));
    }

    /// Two of four slots at 20,000/s for 2 s: 20,000 messages, give or take their root; the gaps are exponential, so
    /// their deviation equals their mean, and a gap longer than three means has a chance of e^-3.
    #[test]
    fn poisson_arrivals_are_independent() {
        let slots = vec![(0, 5), (2, 6)];
        let times = all(Schedule::new(&TIMELINE, Steps::constant(20_000.0), 4, slots, Arrival::Poisson, 3));
        assert!((19_500..20_500).contains(&times.len()), "{}", times.len());
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.03, "{deviation} {mean}");
        let long = gaps.iter().filter(|gap| **gap > 3.0 * mean).count() as f64 / gaps.len() as f64;
        assert!((long - 0.0498).abs() < 0.005, "{long}");
        let first = times.iter().filter(|(_, conn)| *conn == 5).count();
        assert!((9_600..10_400).contains(&first), "{first}");
        let none = Schedule::new(&TIMELINE, Steps::constant(5.0), 4, vec![], Arrival::Poisson, 3);
        assert_eq!(none.rest().count(), 0);
    }

    /// 20,000/s for a second, then 2,000/s: as many messages, give or take five times the root, constant or not.
    #[test]
    fn stages_are_steps() {
        let second = std::time::Duration::from_secs(1);
        let stages = [20_000.0, 2_000.0].map(|rate| Stage::new(String::new(), second, rate));
        for (arrival, slack) in [(Arrival::Constant, 0), (Arrival::Poisson, 700)] {
            let steps = Steps::new(std::time::Duration::ZERO, &stages);
            let slots = (0..5).map(|slot| (slot, slot)).collect();
            let times = all(Schedule::new(&TIMELINE, steps, 5, slots, arrival, 9));
            let fast = times.iter().filter(|(at, _)| *at < SECOND_NS).count();
            assert!(fast.abs_diff(20_000) <= slack, "{fast}");
            assert!((times.len() - fast).abs_diff(2_000) <= slack / 3, "{}", times.len());
        }
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
