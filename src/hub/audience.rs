//! Which workers have members in a topic, so that a publish is passed on to those workers alone.
//!
//! Each worker counts its topics with members by a hash of their names, where the others can read it. Two topics may
//! share a count: a worker may then hear of a publish in vain, but it never misses one.
//!
//! A worker counts when it makes somebody a member, which is before anything that its connection is sent about it. So
//! whoever publishes because of what that connection said finds the count there.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::Ordering;

use crate::sync::AtomicU32;

/// Counts for each worker: 64 KiB. With more topics than this on a worker, it hears of most publishes. In a model all
/// topics share one.
const COUNTS: usize = if cfg!(loom) { 1 } else { 16 * 1024 };

/// The counts of all workers.
#[derive(Debug, Default)]
pub struct Audience {
    /// By worker. Each writes its own.
    counts: Vec<Box<[AtomicU32]>>,
    hasher: RandomState,
}

/// A topic's number, the same for all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

impl Audience {
    /// Without members anywhere. A worker alone has nobody to tell, and nothing is kept for it.
    pub fn new(workers: usize) -> Self {
        let table = || (0..COUNTS).map(|_| AtomicU32::new(0)).collect();
        let tables = if workers > 1 { workers } else { 0 };
        Self { counts: (0..tables).map(|_| table()).collect(), hasher: RandomState::new() }
    }

    /// The number of a topic.
    pub fn mark(&self, topic: &str) -> Mark {
        if self.counts.is_empty() { Mark(0) } else { Mark(self.hasher.hash_one(topic) as usize % COUNTS) }
    }

    /// Whether a worker may have members in a topic.
    pub fn has(&self, worker: usize, Mark(mark): Mark) -> bool {
        self.counts.get(worker).is_some_and(|counts| counts[mark].load(Ordering::SeqCst) > 0)
    }

    /// A worker has its first member in a topic.
    pub(super) fn add(&self, worker: usize, topic: &str) {
        if let Some(counts) = self.counts.get(worker) {
            counts[self.mark(topic).0].fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A worker has lost its last member in a topic.
    pub(super) fn remove(&self, worker: usize, topic: &str) {
        if let Some(counts) = self.counts.get(worker) {
            counts[self.mark(topic).0].fetch_sub(1, Ordering::SeqCst);
        }
    }
}
