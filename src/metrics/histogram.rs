//! How long things take, in fixed buckets of counters that one thread writes.

use std::time::Duration;

use super::Counter;

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// The upper bounds of the buckets; one more bucket is for what took longer. From a turn with nothing to do, to
/// longer than any peer waits.
pub const BOUNDS: [Duration; 19] = [
    micros(10),
    micros(25),
    micros(50),
    micros(100),
    micros(250),
    micros(500),
    micros(1_000),
    micros(2_500),
    micros(5_000),
    micros(10_000),
    micros(25_000),
    micros(50_000),
    micros(100_000),
    micros(250_000),
    micros(500_000),
    micros(1_000_000),
    micros(2_500_000),
    micros(5_000_000),
    micros(10_000_000),
];

/// How long things took on one worker. A record is two plain additions.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    nanos: Counter,
}

impl Histogram {
    /// Counts one that took so long. Only its own worker may.
    pub fn record(&self, took: Duration) {
        let index = BOUNDS.iter().position(|&bound| took <= bound).unwrap_or(BOUNDS.len());
        self.buckets[index].add(1);
        self.nanos.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Histograms of several workers, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSum {
    /// How many there are in each bucket, those of smaller buckets left out.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All of them together, in nanoseconds.
    pub nanos: u64,
}

impl HistogramSum {
    /// Adds up workers.
    pub fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Self {
        let mut sum = Self::default();
        for histogram in histograms {
            for (into, bucket) in sum.buckets.iter_mut().zip(&histogram.buckets) {
                *into = into.wrapping_add(bucket.get());
            }
            sum.nanos = sum.nanos.wrapping_add(histogram.nanos.get());
        }
        sum
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket_and_what_is_longer_to_the_next() {
        for (index, &bound) in BOUNDS.iter().enumerate() {
            let histogram = Histogram::default();
            histogram.record(bound);
            histogram.record(bound + Duration::from_nanos(1));
            let sum = HistogramSum::of([&histogram]);
            assert_eq!((sum.buckets[index], sum.buckets[index + 1], sum.count()), (1, 1, 2), "{bound:?}");
            assert_eq!(sum.nanos, 2 * bound.as_nanos() as u64 + 1);
        }
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn workers_add_up() {
        let workers = [Histogram::default(), Histogram::default()];
        workers[0].record(Duration::ZERO);
        workers[1].record(Duration::from_nanos(7));
        workers[1].record(Duration::from_secs(3600));
        let sum = HistogramSum::of(&workers);
        assert_eq!((sum.buckets[0], sum.buckets[BOUNDS.len()]), (2, 1));
        assert_eq!((sum.count(), sum.nanos), (3, 3_600_000_000_007));
    }
}
