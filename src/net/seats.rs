//! How many connections all workers together hold, and how many they may.

use std::sync::atomic::Ordering;

use crate::sync::AtomicUsize;

/// One seat for each connection, of whichever worker.
#[derive(Debug)]
pub(crate) struct Seats {
    taken: AtomicUsize,
    max: AtomicUsize,
}

impl Seats {
    /// None at all, until it is known how many descriptors there are.
    pub(crate) fn new() -> Self {
        Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(0) }
    }

    /// There are so many from now on.
    pub(crate) fn provide(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// How many there are.
    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Takes one, if one is free: looks and takes in one step, because all workers do.
    pub(crate) fn take(&self) -> bool {
        let max = self.max();
        let one_more = |taken: usize| (taken < max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Gives one back.
    pub(crate) fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
