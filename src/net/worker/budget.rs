//! What all queues together hold in memory: shed the slowest at 80 % of the limit, take no more in at 95 %, and wait
//! for nobody there who was shed and takes nothing.
//!
//! A frame that a thousand queues hold is in memory once, so each queue bears a thousandth of it. To look at every
//! frame of every queue takes time, so the counters are asked first: what queues would hold if they shared nothing
//! costs one addition for each worker. Only where that is too much already is it worth looking, a part in each turn.
//!
//! Each worker writes its own counters and reads those of the others; there is nothing that they all write.
//!
//! Looks are some time apart, and queues may grow fast. So each worker has an allowance by which its own may grow until
//! it looks again, whatever the time, and input waits for that look. All allowances together are half of the way from
//! one mark to the other, and a look that takes several turns has another: what is too much is seen before queues are
//! full.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::warn;

use super::Worker;
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::net::slots::Key;
use crate::net::socket::Core;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Connections that are looked at in one turn.
const LOOKS_PER_TURN: u32 = 1024;

/// Of the time for closing, the part for which a closed connection may take nothing while there is no more memory:
/// what is on its way to it stands in the way of everybody's input.
const STALL_PART: u32 = 10;

const SHED_PERCENT: u64 = 80;
const FULL_PERCENT: u64 = 95;

/// The limit on all queues, as one worker sees it.
#[derive(Debug)]
pub(super) struct Budget {
    shed_above: u64,
    full_above: u64,
    workers: u64,
    look_at: Millis,
    /// What the worker's own queues may grow by until the next look.
    allowance: u64,
    /// What they may hold until then.
    look_above: u64,
    look: Option<Look>,
    full: bool,
}

/// A look at every queue of the worker that is under way.
#[derive(Debug, Default)]
struct Look {
    next: u32,
    memory: u64,
    /// Of that, what goes by itself: its connections are being closed.
    closing: u64,
    /// Of those connections, the ones that take nothing.
    stalled: Vec<Key>,
    queues: Vec<Queue>,
}

/// A connection that could be shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queue {
    key: Key,
    memory: u64,
    progress_at: Millis,
}

impl Budget {
    /// One of so many workers. Zero is no limit.
    pub(super) fn new(limit: u64, workers: usize) -> Self {
        let percent = |share: u64| limit / 100 * share + limit % 100 * share / 100;
        Self {
            shed_above: percent(SHED_PERCENT),
            full_above: percent(FULL_PERCENT),
            workers: workers as u64,
            look_at: if limit == 0 { Millis::NEVER } else { Millis(0) },
            allowance: u64::MAX,
            look_above: u64::MAX,
            look: None,
            full: false,
        }
    }

    /// Whether nobody else should be let in, and nothing more be taken in.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether the worker's queues, which would hold `own` bytes if they shared nothing, have used up their allowance,
    /// so that no more should be taken in before a look.
    pub(super) fn is_spent(&self, own: u64) -> bool {
        own > self.look_above
    }

    /// Whether the loop has to go on: a look is under way, or is not to wait for its time.
    pub(super) fn is_busy(&self, own: u64) -> bool {
        self.look.is_some() || self.is_spent(own)
    }

    /// Whether it is time for a look.
    fn is_due(&mut self, now: Millis, own: u64) -> bool {
        // Queues grow from the least that they have held since the last one.
        self.look_above = self.look_above.min(own.saturating_add(self.allowance));
        now >= self.look_at || self.is_spent(own)
    }

    /// Looks at the counters alone: all queues would hold `total` bytes if they shared nothing. Whether that is reason
    /// enough to look at each.
    fn glance(&mut self, now: Millis, own: u64, total: u64) -> bool {
        self.look_at = now.after(LOOK_EVERY);
        // Another costs next to nothing: early enough for the first that finds too much.
        self.allow(own, self.shed_above);
        total > self.shed_above
    }

    /// Gives this worker its allowance, where all queues hold `total` bytes: half of its part of what is left until they
    /// are full. There is always as much left as lies between the marks, or shedding would hold everything up.
    fn allow(&mut self, own: u64, total: u64) {
        let left = self.full_above - total.min(self.shed_above);
        self.allowance = left / (2 * self.workers);
        self.look_above = own.saturating_add(self.allowance);
    }

    /// Whether it may be this worker that has too much: where all together have, one has its share.
    fn is_worth_a_look(&self, own: u64) -> bool {
        self.look_at != Millis::NEVER && own.saturating_mul(self.workers) > self.shed_above
    }

    /// Of `total` bytes `own` are this worker's, and of these `closing` go by themselves: how many more it should get
    /// rid of.
    fn excess(&self, own: u64, closing: u64, total: u64) -> u64 {
        let excess = u128::from(total.saturating_sub(self.shed_above));
        let part = (excess * u128::from(own)).div_ceil(u128::from(total.max(1))) as u64;
        part.saturating_sub(closing)
    }
}

/// Whom to shed so that `excess` bytes go: those with the most in memory, and of these who have taken nothing for the
/// longest time.
fn slowest(mut queues: Vec<Queue>, excess: u64) -> impl Iterator<Item = Key> {
    queues.sort_unstable_by_key(|queue| (std::cmp::Reverse(queue.memory), queue.progress_at));
    let mut gone = 0;
    queues.into_iter().map_while(move |queue| {
        let more = gone < excess;
        gone += queue.memory;
        more.then_some(queue.key)
    })
}

/// What a worker's queues hold at most: as at its last look, or what they would hold now if they shared nothing.
fn at_most(metrics: &WorkerMetrics) -> u64 {
    metrics.queue_memory.get().min(metrics.queue_memory_unshared.get())
}

impl Worker {
    /// When to look although nothing else happens. Until those who shed something do, all others let nobody in.
    pub(super) fn next_look(&self) -> Option<Millis> {
        self.budget.is_worth_a_look(self.own_memory()).then_some(self.budget.look_at)
    }

    /// Once in each turn: looks whether all queues together hold too much, and does what has to follow.
    pub(super) fn watch_memory(&mut self) {
        let now = self.core.now;
        let own = self.own_memory();
        let due = self.budget.is_due(now, own);
        if self.budget.look.is_none() {
            if !due {
                return;
            }
            let total = self.shared.metrics.iter().map(|worker| worker.queue_memory_unshared.get()).sum();
            if !self.budget.glance(now, own, total) {
                self.core.metrics.queue_memory.set(own);
                self.budget.full = false;
                return;
            }
            self.budget.look = Some(Look::default());
        }
        if let Some(look) = self.look_on() {
            self.act_on(look);
        }
    }

    /// What this worker's queues would hold if they shared nothing.
    pub(super) fn own_memory(&self) -> u64 {
        self.core.metrics.queue_memory_unshared.get()
    }

    /// Looks at a turn's share of the connections; gives the whole when that was the last.
    fn look_on(&mut self) -> Option<Look> {
        let now = self.core.now;
        let look = self.budget.look.as_mut()?;
        let end = self.slots.end();
        let until = look.next.saturating_add(LOOKS_PER_TURN).min(end);
        for slot in look.next..until {
            let Some((key, entry)) = self.slots.at(slot) else { continue };
            let memory = entry.queue_memory();
            look.memory += memory;
            if !entry.conn.is_open() {
                look.closing += memory;
                let patience = self.core.limits[entry.route].close_timeout / STALL_PART;
                if entry.conn.progress_at().after(patience) <= now {
                    look.stalled.push(key);
                }
            } else if memory > 0 {
                look.queues.push(Queue { key, memory, progress_at: entry.conn.progress_at() });
            }
        }
        look.next = until;
        if until < end { None } else { self.budget.look.take() }
    }

    fn act_on(&mut self, look: Look) {
        self.core.metrics.queue_memory.set(look.memory);
        let others = self.shared.metrics.iter().enumerate().filter(|(index, _)| *index != self.index);
        let total = look.memory + others.map(|(_, worker)| at_most(worker)).sum::<u64>();
        self.budget.full = total > self.budget.full_above;
        self.budget.allow(self.own_memory(), total);
        if self.budget.full && !self.shared.memory_warned.swap(true, Ordering::Relaxed) {
            warn!(bytes = total, "queues hold too much memory; no more connections for now (said once)");
        }
        if self.budget.full {
            look.stalled.iter().for_each(|&key| self.attend(key, Core::cut_off));
        }
        if total <= self.budget.shed_above {
            return;
        }
        let metrics = &self.core.metrics;
        if metrics.closed_shed.get() + metrics.dropped_shed.get() == 0 {
            warn!(
                worker = self.index,
                bytes = total,
                "queues hold too much memory; the slowest are shed (said once)"
            );
        }
        let excess = self.budget.excess(look.memory, look.closing, total);
        for key in slowest(look.queues, excess) {
            self.attend(key, Core::relieve);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(slot: u32, memory: u64, progress_at: u64) -> Queue {
        Queue { key: Key { slot, generation: 1 }, memory, progress_at: Millis(progress_at) }
    }

    fn shed(queues: &[Queue], excess: u64) -> Vec<u32> {
        slowest(queues.to_vec(), excess).map(|key| key.slot).collect()
    }

    #[test]
    fn the_limits_hold_at_the_byte() {
        let budget = Budget::new(1_000, 1);
        assert_eq!((budget.shed_above, budget.full_above), (800, 950));
        assert_eq!(budget.excess(800, 0, 800), 0);
        assert_eq!(budget.excess(801, 0, 801), 1);
        let odd = Budget::new(1_019, 1);
        assert_eq!((odd.shed_above, odd.full_above), (815, 968));
        let all = Budget::new(u64::MAX, 1);
        assert!(all.shed_above > u64::MAX / 100 * 79 && all.excess(u64::MAX, 0, u64::MAX) > 0);
    }

    #[test]
    fn each_worker_sheds_its_part() {
        let budget = Budget::new(1_000, 1);
        assert_eq!(budget.excess(900, 0, 1_200), 300);
        assert_eq!(budget.excess(300, 0, 1_200), 100);
        assert_eq!(budget.excess(0, 0, 1_200), 0);
        assert_eq!(budget.excess(1, 0, 801), 1, "rounded up: it must come down");
        assert_eq!(budget.excess(900, 299, 1_200), 1, "what was shed and is not gone yet is not shed twice");
        assert_eq!(budget.excess(900, 300, 1_200), 0);
        assert_eq!(budget.excess(900, 900, 1_200), 0);
    }

    #[test]
    fn the_largest_go_first_and_of_these_the_one_that_stands_the_longest() {
        let queues = [queue(1, 50, 3), queue(2, 100, 9), queue(3, 100, 4), queue(4, 10, 1)];
        assert!(shed(&queues, 0).is_empty());
        assert_eq!(shed(&queues, 1), [3]);
        assert_eq!(shed(&queues, 100), [3]);
        assert_eq!(shed(&queues, 101), [3, 2]);
        assert_eq!(shed(&queues, 10_000), [3, 2, 1, 4]);
    }

    #[test]
    fn no_limit_is_never_looked_at() {
        let mut budget = Budget::new(0, 1);
        assert_eq!((budget.look_at, budget.is_full()), (Millis::NEVER, false));
        assert!(!budget.is_worth_a_look(u64::MAX));
        assert!(!budget.is_due(Millis(u64::MAX - 1), u64::MAX) && !budget.is_busy(u64::MAX));
    }

    #[test]
    fn of_those_who_have_too_much_one_looks() {
        let budget = Budget::new(1_000, 4);
        assert!(!budget.is_worth_a_look(200) && budget.is_worth_a_look(201));
        assert!(!budget.is_worth_a_look(0) && budget.is_worth_a_look(u64::MAX));
    }

    /// Numbers without a pattern (a linear congruential generator).
    fn noise(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        }
    }

    /// A clock that stands still, so that no look is due by it. Whichever worker's queues grow, however much some give
    /// back in between, those who go on are looking when all hold too much, and wait for that before they are full.
    #[test]
    fn queues_are_looked_at_before_they_are_full_however_fast_they_grow() {
        const PIECE: u64 = 100;
        for (seed, workers) in (0..40).flat_map(|seed| [1, 2, 3, 8].map(|workers| (seed, workers))) {
            let mut noise = noise(seed);
            let mut budgets: Vec<_> = (0..workers).map(|_| Budget::new(1_000_000, workers)).collect();
            let mut held = vec![0; workers];
            let now = Millis(1);
            while !(0..workers).all(|it| budgets[it].look.is_some() && budgets[it].is_spent(held[it])) {
                // Now and then one of them is alone for a while.
                let worker = noise(workers as u64) as usize;
                for _ in 0..noise(200) {
                    let budget = &mut budgets[worker];
                    if budget.look.is_none() && noise(4) == 0 {
                        held[worker] -= noise(20 * PIECE).min(held[worker]);
                    }
                    let due = budget.is_due(now, held[worker]);
                    if budget.look.is_none() && due && budget.glance(now, held[worker], held.iter().sum()) {
                        budget.look = Some(Look::default());
                    }
                    for _ in 0..noise(100) {
                        if !budget.is_spent(held[worker]) {
                            held[worker] += 1 + noise(PIECE);
                        }
                    }
                    let total: u64 = held.iter().sum();
                    assert!(total <= 950_000 + workers as u64 * PIECE, "{total} by {workers}, {seed}");
                }
            }
            let total: u64 = held.iter().sum();
            assert!(total > 800_000, "{total} by {workers}, {seed}: they were held up for nothing");
        }
    }

    #[test]
    fn an_allowance_is_half_of_ones_part_of_what_is_left() {
        let mut budget = Budget::new(1_000, 3);
        for (total, allowance) in [(0, 158), (350, 100), (800, 25), (900, 25), (2_000, 25)] {
            budget.allow(70, total);
            assert_eq!(budget.allowance, allowance, "of {total}");
            assert!(!budget.is_spent(70 + allowance) && budget.is_spent(71 + allowance));
        }
        // Not yet by the clock, and then by growth, from the least that there was.
        assert!(budget.glance(Millis(5), 900, 900) && !budget.glance(Millis(5), 100, 800));
        assert!(!budget.is_due(Millis(104), 125) && budget.is_due(Millis(105), 125));
        assert!(!budget.is_due(Millis(104), 50) && budget.is_due(Millis(104), 76));
    }
}
