//! What was dropped on each route. Counted where messages are dropped and nowhere else, so that those who keep up pay
//! nothing for it.

use super::Counter;

/// What one worker dropped on one route, by reason; each is also in the worker's own counters.
#[derive(Debug, Default)]
pub struct Drops {
    /// As [`dropped_slow`](super::WorkerMetrics::dropped_slow).
    pub slow: Counter,
    /// As [`dropped_newest`](super::WorkerMetrics::dropped_newest).
    pub newest: Counter,
    /// As [`dropped_oldest`](super::WorkerMetrics::dropped_oldest).
    pub oldest: Counter,
    /// As [`dropped_superseded`](super::WorkerMetrics::dropped_superseded).
    pub superseded: Counter,
    /// As [`dropped_shed`](super::WorkerMetrics::dropped_shed).
    pub shed: Counter,
}

/// What was dropped on one route by all workers, in messages, summed at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteMetrics {
    /// The route's pattern.
    pub route: String,
    /// Because their receiver was too slow and was closed for it.
    pub dropped_slow: u64,
    /// Because the queue was full.
    pub dropped_newest: u64,
    /// To make room for newer ones.
    pub dropped_oldest: u64,
    /// Because a newer one took their place.
    pub dropped_superseded: u64,
    /// Because all queues together held too much.
    pub dropped_shed: u64,
}

impl RouteMetrics {
    /// Adds up workers.
    pub fn sum<'a>(route: String, workers: impl IntoIterator<Item = &'a Drops>) -> Self {
        let mut sum = Self { route, ..Self::default() };
        for drops in workers {
            sum.dropped_slow += drops.slow.get();
            sum.dropped_newest += drops.newest.get();
            sum.dropped_oldest += drops.oldest.get();
            sum.dropped_superseded += drops.superseded.get();
            sum.dropped_shed += drops.shed.get();
        }
        sum
    }

    /// Every counter with its name, which is that of the same counter of the whole server.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("dropped_slow", self.dropped_slow),
            ("dropped_newest", self.dropped_newest),
            ("dropped_oldest", self.dropped_oldest),
            ("dropped_superseded", self.dropped_superseded),
            ("dropped_shed", self.dropped_shed),
        ]
        .into_iter()
    }
}
