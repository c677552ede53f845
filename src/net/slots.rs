//! Connections by number, and events that come too late.
//!
//! A slot is used again as soon as its connection is gone, while events for the old one may still be in the batch
//! that the kernel handed out. So each use of a slot has a generation, the key is both, and slots are freed at
//! the end of a turn.

use mio::Token;
use slab::Slab;

/// One use of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    /// Never 0: that is for tokens that are no connections.
    pub(crate) generation: u32,
}

impl Key {
    pub(crate) fn token(self) -> Token {
        Token((self.generation as usize) << 32 | self.slot as usize)
    }

    /// Golden-ratio steps: neighbours get numbers far apart, and so timers.
    pub(crate) fn jitter(self) -> u8 {
        (self.generation.wrapping_mul(0x9E37_79B9) >> 24) as u8
    }

    /// The key in a token; generation 0 where it is no connection's.
    pub(crate) fn from_token(token: Token) -> Self {
        Self { slot: token.0 as u32, generation: (token.0 >> 32) as u32 }
    }
}

const _: () = assert!(usize::BITS == 64, "a token holds a slot and a generation");

/// A slab whose keys do not come back.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slab: Slab<Slot<T>>,
    generation: u32,
    retired: Vec<Key>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: T,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Self { slab: Slab::new(), generation: 0, retired: Vec::new() }
    }

    /// The key that the next `insert` will give.
    pub(crate) fn next_key(&mut self) -> Key {
        let generation = self.generation.wrapping_add(1).max(1);
        Key { slot: self.slab.vacant_key() as u32, generation }
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        self.generation = key.generation;
        self.slab.insert(Slot { generation: key.generation, value });
        key
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slab.get_mut(key.slot as usize)?;
        (slot.generation == key.generation).then_some(&mut slot.value)
    }

    /// The present user of a slot.
    pub(crate) fn at(&mut self, slot: u32) -> Option<(Key, &mut T)> {
        let it = self.slab.get_mut(slot as usize)?;
        Some((Key { slot, generation: it.generation }, &mut it.value))
    }

    /// No slot is in use from this one on.
    pub(crate) fn end(&self) -> u32 {
        self.slab.capacity() as u32
    }

    /// Marks a slot to be freed by the next [`sweep`](Self::sweep).
    pub(crate) fn retire(&mut self, key: Key) {
        self.retired.push(key);
    }

    /// Frees what was retired.
    pub(crate) fn sweep(&mut self) {
        for key in self.retired.drain(..) {
            if self.slab.get(key.slot as usize).is_some_and(|slot| slot.generation == key.generation) {
                self.slab.remove(key.slot as usize);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.slab.iter().map(|(slot, it)| Key { slot: slot as u32, generation: it.generation }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_reaches_nobody() {
        let mut slots = Slots::new();
        let old = slots.insert("old");
        slots.retire(old);
        slots.retire(old);
        assert_eq!(slots.get_mut(old), Some(&mut "old"), "until the turn ends");
        slots.sweep();
        let expected = slots.next_key();
        let new = slots.insert("new");
        assert_eq!((new, new.slot), (expected, old.slot), "the slot is used again");
        assert_eq!(slots.get_mut(old), None);
        slots.retire(old);
        slots.sweep();
        assert_eq!(slots.get_mut(new), Some(&mut "new"), "an old key frees nobody either");
    }

    /// Who came together has timers evenly apart: of any 32 keys in a row, some in each sixteenth.
    #[test]
    fn neighbours_have_numbers_far_apart() {
        for first in [1, 1_000, u32::MAX - 100] {
            let mut sixteenths = [0; 16];
            for step in 0..32 {
                let key = Key { slot: 0, generation: first.wrapping_add(step) };
                sixteenths[usize::from(key.jitter() / 16)] += 1;
            }
            assert!(sixteenths.iter().all(|many| (1..=3).contains(many)), "{sixteenths:?}");
        }
    }

    /// Connections come and go as in a server: in each turn some end, some come, and the events of all that ever were
    /// may still be on their way.
    #[test]
    fn whoever_comes_and_goes_no_key_reaches_another() {
        let mut slots = Slots::new();
        let (mut all, mut live) = (Vec::new(), Vec::new());
        for turn in 0..200_usize {
            for _ in 0..turn % 7 {
                let key = slots.insert(all.len());
                assert!(!all.contains(&key), "{key:?} was somebody else's");
                live.push(all.len());
                all.push(key);
            }
            let leaving: Vec<usize> = live.extract_if(.., |number| (*number + turn) % 3 == 0).collect();
            for &number in &leaving {
                slots.retire(Key::from_token(all[number].token()));
                assert_eq!(slots.get_mut(all[number]), Some(&mut { number }), "there until the turn ends");
            }
            slots.sweep();
            for (number, &key) in all.iter().enumerate() {
                let reached = slots.get_mut(Key::from_token(key.token())).copied();
                assert_eq!(reached, live.contains(&number).then_some(number), "turn {turn}");
            }
        }
        let slots_used = all.iter().map(|key| key.slot).max().expect("some") as usize + 1;
        assert!(all.len() > 5 * slots_used, "{} connections in {slots_used} slots", all.len());
    }

    #[test]
    fn tokens_carry_keys_and_generation_zero_is_free() {
        let key = Key { slot: 7, generation: u32::MAX };
        assert_eq!(Key::from_token(key.token()), key);
        let mut slots = Slots::new();
        slots.generation = u32::MAX;
        assert_eq!(slots.insert(()).generation, 1);
        assert_eq!(Key::from_token(Token(3)).generation, 0);
    }
}
