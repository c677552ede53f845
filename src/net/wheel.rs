//! Deadlines: a hashed wheel of keys. An entry is a hint to look at a connection at about that time; the
//! connection knows its real deadline, so a deadline that moves later costs nothing until then.

use super::slots::Key;
use crate::id::Millis;

/// How late a deadline may be noticed. The deadlines are seconds; at 128 ms an idle server hardly wakes.
const TICK_MS: u64 = 128;

/// 512 ticks: 65 seconds. What is further away is looked at then, and put back.
const SPOKES: u64 = 512;

/// Keys that an emptied spoke may keep room for.
const KEPT_KEYS: usize = 64;

#[derive(Debug)]
pub(crate) struct Wheel {
    spokes: Vec<Vec<Key>>,
    /// The room of spokes that were emptied, for the next that get keys. Left where it is it would be missing there for
    /// a whole turn of the wheel, and more would be made for the others.
    spare: Vec<Vec<Key>>,
    /// The next tick to be handled.
    tick: u64,
    /// No spoke before this tick has anything in it: `next` is asked each turn, and must not search each time.
    first: u64,
    len: usize,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        let spokes = (0..SPOKES).map(|_| Vec::new()).collect();
        Self { spokes, spare: Vec::new(), tick: 0, first: 0, len: 0 }
    }

    /// Puts a key in for `at`, and returns when it will really come out: up to a tick later, or earlier where
    /// `at` is beyond the wheel.
    pub(crate) fn insert(&mut self, key: Key, at: Millis) -> Millis {
        let tick = at.0.div_ceil(TICK_MS).clamp(self.tick, self.tick + SPOKES - 1);
        let spoke = &mut self.spokes[(tick % SPOKES) as usize];
        if spoke.capacity() == 0 {
            *spoke = self.spare.pop().unwrap_or_default();
        }
        spoke.push(key);
        self.first = if self.len == 0 { tick } else { self.first.min(tick) };
        self.len += 1;
        Millis(tick * TICK_MS)
    }

    /// Moves the keys that are due to `due`.
    pub(crate) fn expire(&mut self, now: Millis, due: &mut Vec<Key>) {
        let last = now.0 / TICK_MS;
        if self.tick > last {
            return;
        }
        if self.len == 0 {
            self.tick = last + 1;
            return;
        }
        // After a suspend one round is enough: each spoke is emptied once.
        let first = self.tick.max((last + 1).saturating_sub(SPOKES));
        for tick in first..=last {
            let spoke = &mut self.spokes[(tick % SPOKES) as usize];
            self.len -= spoke.len();
            due.append(spoke);
            // Of large ones the whole: a rest of each, where it was, would leave a heap of holes after a flood.
            let room = std::mem::take(spoke);
            if (1..=KEPT_KEYS).contains(&room.capacity()) {
                self.spare.push(room);
            }
        }
        self.tick = last + 1;
    }

    /// Keys in it, those of connections that have gone meanwhile included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// When something is due next.
    pub(crate) fn next(&mut self) -> Option<Millis> {
        if self.len == 0 {
            return None;
        }
        let from = self.first.max(self.tick);
        self.first =
            (from..self.tick + SPOKES).find(|tick| !self.spokes[(tick % SPOKES) as usize].is_empty())?;
        Some(Millis(self.first * TICK_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> Key {
        Key { slot, generation: 1 }
    }

    fn due(wheel: &mut Wheel, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(Millis(now), &mut due);
        due.into_iter().map(|key| key.slot).collect()
    }

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        for at in [0, 1, 127, 128, 129, 5_000, 60_000] {
            let mut wheel = Wheel::new();
            let out = wheel.insert(key(1), Millis(at));
            assert!(out.0 >= at && out.0 < at + TICK_MS);
            assert_eq!(wheel.next(), Some(out));
            if out.0 > 0 {
                assert!(due(&mut wheel, out.0 - 1).is_empty());
            }
            assert_eq!(wheel.len(), 1);
            assert_eq!(due(&mut wheel, out.0), [1]);
            assert_eq!((wheel.next(), wheel.len()), (None, 0));
        }
    }

    #[test]
    fn room_goes_where_keys_come() {
        let mut wheel = Wheel::new();
        // Three turns of the wheel; of ten spokes at a time each has a key in it.
        for tick in 0..3 * SPOKES {
            wheel.insert(key(tick as u32), Millis((tick + 10) * TICK_MS));
            due(&mut wheel, tick * TICK_MS);
        }
        let rooms = |wheel: &Wheel| wheel.spokes.iter().filter(|spoke| spoke.capacity() > 0).count();
        assert!(rooms(&wheel) + wheel.spare.len() <= 11, "{} and {}", rooms(&wheel), wheel.spare.len());
        // What was large is not kept.
        let at = Millis(4 * SPOKES * TICK_MS);
        (0..=KEPT_KEYS as u32).for_each(|slot| _ = wheel.insert(key(slot), at));
        due(&mut wheel, at.0);
        assert!(wheel.spare.len() <= 11 && rooms(&wheel) == 0);
        assert!(wheel.spare.iter().all(|room| room.capacity() <= KEPT_KEYS));
    }

    #[test]
    fn far_deadlines_come_out_at_the_rim() {
        let mut wheel = Wheel::new();
        let out = wheel.insert(key(1), Millis::NEVER);
        assert_eq!(out, Millis((SPOKES - 1) * TICK_MS));
        assert_eq!(due(&mut wheel, out.0), [1]);
    }

    #[test]
    fn the_room_of_a_flood_is_given_back() {
        let mut wheel = Wheel::new();
        (0..10_000).for_each(|slot| _ = wheel.insert(key(slot), Millis(5_000)));
        assert_eq!(due(&mut wheel, 5_200).len(), 10_000);
        assert_eq!(wheel.spokes.iter().map(Vec::capacity).sum::<usize>(), 0);
    }

    #[test]
    fn a_long_sleep_empties_every_spoke_once() {
        let mut wheel = Wheel::new();
        for slot in 0..SPOKES as u32 {
            wheel.insert(key(slot), Millis(u64::from(slot) * TICK_MS));
        }
        let mut out = due(&mut wheel, 10_000_000);
        out.sort_unstable();
        assert_eq!(out, (0..SPOKES as u32).collect::<Vec<_>>());
        let later = wheel.insert(key(7), Millis(0));
        assert!(later.0 > 10_000_000, "the past is the next tick");
    }
}
