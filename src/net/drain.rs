//! A drain as a schedule: what a worker does when, and what it says to whom. Knows neither sockets nor the clock.
//!
//! ```text
//!  drain ──grace──▶ stop accepting ──spread: one after the other──▶ the last has been told ──▶ everyone is gone
//!    │                                                                                               ▲
//!    └───────────────────────────────────────── timeout ─────────────────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use super::slots::Key;
use crate::config::Drain;
use crate::hub::Progress;
use crate::id::Millis;
use crate::proto::{Close, CloseCode};

/// One worker's part of a drain.
#[derive(Debug)]
pub(crate) struct Draining {
    accept_until: Millis,
    give_up_at: Millis,
    pace: Option<Pace>,
    /// Those that are still to be told, the next one last.
    keys: Vec<Key>,
    /// Whose turn it was while there was something to hand out to them first, and how many fan-outs that were.
    waiting: VecDeque<(u64, Vec<Key>)>,
    /// Whether this worker was counted as empty.
    pub(crate) counted: bool,
}

impl Draining {
    pub(crate) fn new(now: Millis, drain: &Drain) -> Self {
        let (accept_until, give_up_at) = (now.after(drain.grace), now.after(drain.timeout));
        Self {
            accept_until,
            give_up_at,
            pace: None,
            keys: Vec::new(),
            waiting: VecDeque::new(),
            counted: false,
        }
    }

    /// Whether it is time to close the listeners, and to [begin](Self::begin).
    pub(crate) fn grace_is_over(&self, now: Millis) -> bool {
        self.pace.is_none() && now >= self.accept_until
    }

    /// Whether it has taken too long.
    pub(crate) fn is_overdue(&self, now: Millis) -> bool {
        now >= self.give_up_at
    }

    /// Whether nobody new can come.
    pub(crate) fn has_begun(&self) -> bool {
        self.pace.is_some()
    }

    /// From now on these connections are told, over the whole spread: each of `workers` does so for its own.
    pub(crate) fn begin(
        &mut self,
        now: Millis,
        drain: &Drain,
        mut keys: Vec<Key>,
        worker: usize,
        workers: usize,
    ) {
        self.pace = Some(Pace::new(now, drain.spread, keys.len(), worker, workers));
        keys.reverse();
        self.keys = keys;
    }

    /// Whom to tell now: those whose turn it is, and before them those whose turn it was. What is under way at
    /// somebody's turn is handed out first, in turns of the loop like everything else.
    pub(crate) fn due(&mut self, now: Millis, fan_out: Progress) -> Vec<Key> {
        let Some(pace) = &mut self.pace else { return Vec::new() };
        let count = pace.due(now);
        if count > 0 {
            let mut keys = self.keys.split_off(self.keys.len().saturating_sub(count));
            keys.reverse();
            self.waiting.push_back((fan_out.begun, keys));
        }
        let ready = self.waiting.partition_point(|(begun, _)| *begun <= fan_out.done);
        self.waiting.drain(..ready).flat_map(|(_, keys)| keys).collect()
    }

    /// When there is something to do.
    pub(crate) fn next(&self) -> Millis {
        let step = match &self.pace {
            None => Some(self.accept_until),
            Some(pace) => pace.next(),
        };
        step.map_or(self.give_up_at, |at| at.min(self.give_up_at))
    }
}

/// Evenly over a time. Workers do not ask each other: each fits its own between those of the others.
#[derive(Debug)]
struct Pace {
    from: Millis,
    spread: Duration,
    count: usize,
    done: usize,
    worker: usize,
    workers: usize,
}

impl Pace {
    fn new(from: Millis, spread: Duration, count: usize, worker: usize, workers: usize) -> Self {
        Self { from, spread, count, done: 0, worker, workers }
    }

    /// When it is the turn of that one.
    fn at(&self, number: usize) -> Millis {
        let (part, parts) = (number * self.workers + self.worker, self.count * self.workers);
        let millis = self.spread.as_millis() * part as u128 / parts.max(1) as u128;
        Millis(self.from.0.saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    fn next(&self) -> Option<Millis> {
        (self.done < self.count).then(|| self.at(self.done))
    }

    /// How many more have their turn by now.
    fn due(&mut self, now: Millis) -> usize {
        let before = self.done;
        while self.next().is_some_and(|at| at <= now) {
            self.done += 1;
        }
        self.done - before
    }
}

/// What a connection is told that a drain closes.
#[derive(Debug)]
pub(crate) struct Farewell {
    code: CloseCode,
    retry: Duration,
    /// So that servers that are drained together do not say the same.
    seed: RandomState,
}

impl Farewell {
    pub(crate) fn new(drain: &Drain) -> Self {
        let code = CloseCode::new(drain.code).unwrap_or(CloseCode::RESTART);
        Self { code, retry: drain.retry, seed: RandomState::new() }
    }

    /// Another hint for each connection: half of the setting to one and a half.
    pub(crate) fn goodbye(&self, key: Key) -> Close {
        let retry = u64::try_from(self.retry.as_millis()).unwrap_or(u64::MAX);
        let hint = (retry / 2).saturating_add(self.seed.hash_one(key) % retry.saturating_add(1));
        Close::new(self.code, format!("server is restarting, retry={hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u32) -> Vec<Key> {
        (0..count).map(|slot| Key { slot, generation: 1 }).collect()
    }

    const DRAIN: Drain = Drain {
        grace: Duration::from_secs(5),
        spread: Duration::from_secs(60),
        timeout: Duration::from_secs(120),
        code: 1012,
        retry: Duration::from_secs(4),
    };

    const IDLE: Progress = Progress { begun: 7, done: 7 };

    /// Lets time pass as a worker does, and gives when each was told.
    fn told(counts: &[u32], drain: &Drain) -> Vec<Vec<(u32, u64)>> {
        let tell = |(worker, &count): (usize, &u32)| {
            let mut draining = Draining::new(Millis(1_000), drain);
            let start = draining.next();
            assert_eq!(start, Millis(1_000).after(drain.grace));
            assert!(draining.grace_is_over(start) && !draining.has_begun());
            assert!(start.0 == 0 || !draining.grace_is_over(Millis(start.0 - 1)));
            draining.begin(start, drain, keys(count), worker, counts.len());
            assert!(draining.has_begun() && !draining.grace_is_over(start));
            let mut told = Vec::new();
            while draining.next() < draining.give_up_at {
                let now = draining.next();
                let due = draining.due(now, IDLE);
                assert!(!due.is_empty(), "woken for nothing at {now:?}");
                told.extend(due.into_iter().map(|key| (key.slot, now.0 - start.0)));
            }
            told
        };
        counts.iter().enumerate().map(tell).collect()
    }

    #[test]
    fn everyone_is_told_once_in_order_and_evenly() {
        for counts in [&[1][..], &[7], &[50_000], &[1_000, 1_000], &[3, 0, 40, 1_000]] {
            for (worker, told) in told(counts, &DRAIN).iter().enumerate() {
                let slots: Vec<u32> = told.iter().map(|(slot, _)| *slot).collect();
                assert_eq!(slots, (0..counts[worker]).collect::<Vec<_>>());
                // In every second of the sixty its share, to one.
                let share = f64::from(counts[worker]) / 60.0;
                for second in 0..60 {
                    let here = told.iter().filter(|(_, at)| at / 1_000 == second).count() as f64;
                    assert!(
                        (here - share).abs() <= 1.0 + share / 1_000.0,
                        "{here} in second {second} of {share}"
                    );
                }
                assert!(told.iter().all(|(_, at)| *at < 60_000));
            }
        }
    }

    #[test]
    fn workers_take_turns() {
        let drain = Drain { spread: Duration::from_millis(800), ..DRAIN };
        let told = told(&[4, 4], &drain);
        assert_eq!(told[0], [(0, 0), (1, 200), (2, 400), (3, 600)]);
        assert_eq!(told[1], [(0, 100), (1, 300), (2, 500), (3, 700)]);
    }

    #[test]
    fn without_a_spread_all_are_told_at_once() {
        let drain = Drain { grace: Duration::ZERO, spread: Duration::ZERO, ..DRAIN };
        assert_eq!(told(&[3, 2], &drain), [vec![(0, 0), (1, 0), (2, 0)], vec![(0, 0), (1, 0)]]);
    }

    #[test]
    fn a_late_turn_makes_up_for_what_was_missed() {
        let mut draining = Draining::new(Millis(0), &DRAIN);
        draining.begin(Millis(5_000), &DRAIN, keys(60), 0, 1);
        assert_eq!(draining.due(Millis(5_000), IDLE).len(), 1);
        assert_eq!(draining.due(Millis(15_500), IDLE).len(), 10);
        assert_eq!(draining.next(), Millis(16_000));
        assert_eq!(draining.due(Millis(1_000_000), IDLE).len(), 49);
        assert_eq!(draining.next(), Millis(120_000), "nothing more to do but to give up");
        assert!(draining.is_overdue(Millis(120_000)) && !draining.is_overdue(Millis(119_999)));
    }

    #[test]
    fn what_is_under_way_goes_first_and_what_comes_later_does_not() {
        let mut draining = Draining::new(Millis(0), &DRAIN);
        draining.begin(Millis(5_000), &DRAIN, keys(60), 0, 1);
        let mut due = |now, done, begun| {
            let due = draining.due(Millis(now), Progress { begun, done });
            due.into_iter().map(|key| key.slot).collect::<Vec<_>>()
        };
        assert!(due(5_000, 0, 3).is_empty(), "three fan-outs");
        assert!(due(5_500, 2, 4).is_empty(), "two of them are done, and a fourth has come");
        assert!(due(6_000, 2, 5).is_empty(), "the next one waits for all five");
        assert_eq!(due(6_001, 3, 5), [0]);
        assert_eq!(due(7_000, 5, 5), [1, 2], "in order; and at once, where nothing is under way");
    }

    #[test]
    fn hints_are_within_bounds_and_differ() {
        let hints = |retry: Duration| -> Vec<u64> {
            let farewell = Farewell::new(&Drain { retry, ..DRAIN });
            let goodbyes = keys(1_000).into_iter().map(|key| farewell.goodbye(key));
            goodbyes
                .map(|close| {
                    assert_eq!(close.code, CloseCode::RESTART);
                    let (_, hint) = close.reason.split_once("retry=").expect("a hint");
                    hint.parse().expect("milliseconds")
                })
                .collect()
        };
        let mut seconds = hints(Duration::from_secs(4));
        assert!(seconds.iter().all(|hint| (2_000..=6_000).contains(hint)));
        // Chance decides, and with 1,000 clients not by much: in each half of the range at least a third.
        assert!((334..=666).contains(&seconds.iter().filter(|hint| **hint < 4_000).count()));
        seconds.sort_unstable();
        seconds.dedup();
        assert!(seconds.len() > 700, "{}", seconds.len());
        assert!(hints(Duration::ZERO).iter().all(|hint| *hint == 0));
    }
}
