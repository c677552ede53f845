//! What the coordinator and the threads say to each other. Nothing here is touched per message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::connects::{ConnectTimes, Fates};
use crate::fanout::Part;
use crate::instrument::Tally;
use crate::ledger::Totals;
use crate::record::Slice;
use crate::schedule::Timeline;
use crate::stages::Staged;

/// From the coordinator to a thread.
#[derive(Debug)]
pub enum Command {
    /// Everyone is connected: this is when to do what.
    Start(Start),
    /// Send nothing more; go on receiving.
    Stop,
    /// Enough: report, close, and end.
    Finish,
}

/// The load, as one thread needs to know it.
#[derive(Debug)]
pub struct Start {
    /// The phases.
    pub timeline: Timeline,
    /// Senders in the whole run.
    pub senders: u32,
    /// This thread's senders, by their numbers in the whole run.
    pub slots: Vec<u32>,
}

/// From a thread to the coordinator.
#[derive(Debug)]
pub enum Report {
    /// A connection could not be made; only the first is told in words.
    FirstFailure(String),
    /// Every connection is open or has failed.
    Dialed(Box<Dialed>),
    /// The samples of one second.
    Second {
        /// Counted from the start of the warm-up.
        number: u32,
        /// Latencies.
        slice: Slice,
        /// Messages as this thread's receivers saw them.
        parts: Vec<Part>,
    },
    /// The last word.
    Done(Box<Done>),
    /// The thread cannot go on.
    Broken(std::io::Error),
}

/// How connecting went.
#[derive(Debug, Default)]
pub struct Dialed {
    /// Which thread says so: they finish in any order.
    pub thread: u32,
    /// Connections that are open and read as they should.
    pub open: u32,
    /// Connections that are open and do not.
    pub lazy: u32,
    /// What became of them.
    pub fates: Fates,
    /// How long each took.
    pub times: ConnectTimes,
}

/// What one thread did.
#[derive(Debug, Default)]
pub struct Done {
    /// Counted messages.
    pub tally: Tally,
    /// Distinct, duplicate and reordered messages.
    pub totals: Totals,
    /// Connections that ended early, by close code (1006: without a Close).
    pub closed: BTreeMap<u16, u64>,
    /// What those came to that do not read as they should.
    pub lazy: Lazy,
    /// What became of connections made during the run.
    pub fates: Fates,
    /// The stages of the load, where it has any.
    pub stages: Vec<Staged>,
    /// What the thread used while measuring.
    pub load: ThreadLoad,
}

/// What connections came to that do not read as they should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lazy {
    /// Messages that they have read all the same.
    pub received: u64,
    /// Those that ended early, by close code (1006: without a Close that was read).
    pub closed: BTreeMap<u16, u64>,
}

/// What one thread used, as shares of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThreadLoad {
    /// On a core.
    pub cpu: f64,
    /// Ready to run, and waiting for a core.
    pub wait: f64,
}

/// One thread's running counts, for the live view and for knowing when everything has arrived. Written once per
/// turn of its loop; a cache line of its own, so that threads do not slow each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counters {
    /// Connections that were opened and have not ended.
    pub open: AtomicU64,
    /// Failed connections.
    pub failed: AtomicU64,
    /// Messages written.
    pub sent: AtomicU64,
    /// Messages of this run received, intact (each once) or damaged.
    pub arrived: AtomicU64,
    /// Messages that later ones have overtaken: lost, or late.
    pub missing: AtomicU64,
    /// The thread's share of a core in its last second, in thousandths.
    pub busy_permille: AtomicU64,
    /// 1 while there are messages to send: a thread that gets no core may be late with them.
    pub sending: AtomicU64,
}

impl Counters {
    /// Sets a counter.
    pub fn set(counter: &AtomicU64, value: u64) {
        counter.store(value, Ordering::Release);
    }
}

/// The counters of all threads.
#[derive(Clone, Debug)]
pub struct Board(Arc<[Counters]>);

impl Board {
    /// For `threads` threads.
    pub fn new(threads: u32) -> Self {
        Self((0..threads).map(|_| Counters::default()).collect())
    }

    /// One thread's counters.
    pub fn of(&self, thread: u32) -> &Counters {
        &self.0[thread as usize]
    }

    /// The largest over all threads.
    pub fn max(&self, which: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.0.iter().map(|counters| which(counters).load(Ordering::Acquire)).max().unwrap_or(0)
    }

    /// The sum over all threads.
    pub fn sum(&self, which: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.0.iter().map(|counters| which(counters).load(Ordering::Acquire)).sum()
    }
}
