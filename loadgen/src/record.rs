//! Latencies: histograms with an exact maximum, a count of what did not fit, and the rule for what may be
//! printed.
//!
//! Values are nanoseconds. While messages flow, a [`recorder`](crate::recorder) takes the samples.

use hdrhistogram::Histogram;

use crate::connects::ConnectSlice;

/// The longest latency with its own place in a histogram: an hour. Longer ones are counted there, as clamped.
pub const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Significant decimal digits: an error below 0.1 %.
const DIGITS: u8 = 3;

/// So many samples must lie beyond a quantile before it is worth printing.
const SAMPLES_BEYOND_MIN: u64 = 10;

/// A quantile that reports use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantile {
    /// As in the table and the JSON keys.
    pub name: &'static str,
    /// The share of samples beyond it, in millionths.
    beyond_ppm: u32,
}

impl Quantile {
    /// The median.
    pub const P50: Self = Self { name: "p50", beyond_ppm: 500_000 };
    /// 90 %.
    pub const P90: Self = Self { name: "p90", beyond_ppm: 100_000 };
    /// 99 %.
    pub const P99: Self = Self { name: "p99", beyond_ppm: 10_000 };
    /// 99.9 %.
    pub const P999: Self = Self { name: "p99.9", beyond_ppm: 1_000 };
    /// 99.99 %.
    pub const P9999: Self = Self { name: "p99.99", beyond_ppm: 100 };

    /// Whether `count` samples leave enough beyond the quantile for it to mean something.
    pub fn is_sound(self, count: u64) -> bool {
        u128::from(count) * u128::from(self.beyond_ppm) >= u128::from(SAMPLES_BEYOND_MIN) * 1_000_000
    }

    /// The quantile as a fraction.
    pub fn fraction(self) -> f64 {
        f64::from(1_000_000 - self.beyond_ppm) / 1e6
    }
}

/// The samples of one quantity.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
    clamped: u64,
    max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            histogram: Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("sound bounds"),
            clamped: 0,
            max_ns: 0,
        }
    }
}

impl Latencies {
    /// Adds one sample; one beyond [`LATENCY_NS_MAX`] counts there and as clamped.
    pub fn record(&mut self, latency_ns: u64) {
        self.max_ns = self.max_ns.max(latency_ns);
        if self.histogram.record(latency_ns).is_err() {
            self.clamped += 1;
            self.histogram.saturating_record(latency_ns);
        }
    }

    /// Samples that were counted elsewhere, as (nanoseconds, how many): at most [`LATENCY_NS_MAX`], which stands for
    /// the `clamped` ones too.
    pub fn of(counts: impl Iterator<Item = (u64, u64)>, max_ns: u64, clamped: u64) -> Self {
        let mut it = Self { clamped, max_ns, ..Self::default() };
        for (ns, count) in counts {
            it.histogram.record_n(ns, count).expect("the bound is the histogram's own");
        }
        it
    }

    /// Adds all samples of another.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all have the same bounds");
        self.clamped += other.clamped;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Adds samples that were counted elsewhere, as so many between two values; `None` where they lie beyond what a
    /// histogram holds.
    pub fn try_add(&mut self, low_ns: u64, high_ns: u64, count: u64) -> Option<()> {
        // Which has counts up to the next power of two.
        if high_ns >= LATENCY_NS_MAX.next_power_of_two() {
            return None;
        }
        self.histogram.record_n(low_ns, count).ok()?;
        self.max_ns = self.max_ns.max(high_ns);
        Some(())
    }

    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// How many samples were longer than the histogram is wide.
    pub const fn clamped(&self) -> u64 {
        self.clamped
    }

    /// The longest sample, exactly; `None` where there is none.
    pub fn max_ns(&self) -> Option<u64> {
        (self.count() > 0).then_some(self.max_ns)
    }

    /// A quantile, `None` where too few samples lie beyond it.
    pub fn quantile_ns(&self, quantile: Quantile) -> Option<u64> {
        // A bucket's upper end may lie above the longest sample.
        let value = || self.histogram.value_at_quantile(quantile.fraction()).min(self.max_ns);
        quantile.is_sound(self.count()).then(value)
    }

    /// The value that this share of the samples lies beyond; `None` where that are too few.
    pub fn beyond_ns(&self, share: f64) -> Option<u64> {
        // A millionth of slack: 0.1 of 100 samples must be ten.
        let enough = share * self.count() as f64 * 1.000_001 >= SAMPLES_BEYOND_MIN as f64;
        enough.then(|| self.histogram.value_at_quantile(1.0 - share).min(self.max_ns))
    }

    /// The highest quantile up to the 99th that the samples allow, or else the maximum, with its name.
    pub fn tail(&self) -> Option<(&'static str, u64)> {
        let quantiles = [Quantile::P99, Quantile::P90, Quantile::P50].into_iter();
        let sound = quantiles.filter_map(|quantile| Some((quantile.name, self.quantile_ns(quantile)?)));
        sound.chain(self.max_ns().map(|ns| ("max", ns))).next()
    }

    /// The histogram itself, for the writers of logs.
    pub const fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }
}

/// What is timed of each message.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Intended to received: what a user would have waited.
    pub response: Latencies,
    /// Written to received: what server and network took.
    pub service: Latencies,
    /// Intended to written: what the generator itself was late.
    pub late: Latencies,
}

impl Samples {
    /// Adds those of another thread or second.
    pub fn merge(&mut self, other: &Self) {
        self.response.merge(&other.response);
        self.service.merge(&other.service);
        self.late.merge(&other.late);
    }
}

/// One thread's samples of one second, those of the warm-up apart.
#[derive(Debug, Default)]
pub struct Slice {
    /// Messages that were due in the warm-up.
    pub warmup: Option<Box<Samples>>,
    /// Messages that were due while measuring.
    pub measured: Option<Box<Samples>>,
    /// Connections, where they come and go.
    pub connects: ConnectSlice,
}

impl Slice {
    /// Adds what another thread has.
    pub fn merge(&mut self, other: Self) {
        self.connects.merge(other.connects);
        for (mine, other) in [(&mut self.warmup, other.warmup), (&mut self.measured, other.measured)] {
            match (mine.as_mut(), other) {
                (Some(mine), Some(other)) => mine.merge(&other),
                (None, other) => *mine = other,
                (Some(_), None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_need_ten_samples_beyond_them() {
        let bounds = [
            (Quantile::P50, 20),
            (Quantile::P90, 100),
            (Quantile::P99, 1_000),
            (Quantile::P999, 10_000),
            (Quantile::P9999, 100_000),
        ];
        for (quantile, enough) in bounds {
            assert!(quantile.is_sound(enough), "{}", quantile.name);
            assert!(!quantile.is_sound(enough - 1), "{}", quantile.name);
        }
    }

    #[test]
    fn an_empty_histogram_has_nothing_to_say() {
        let empty = Latencies::default();
        assert_eq!((empty.quantile_ns(Quantile::P50), empty.max_ns(), empty.count()), (None, None, 0));
        assert_eq!(empty.tail(), None);
    }

    #[test]
    fn the_tail_is_the_highest_sound_quantile() {
        let mut latencies = Latencies::default();
        let mut tails = Vec::new();
        for number in 1..=1_000 {
            latencies.record(7);
            if [1, 19, 20, 99, 100, 999, 1_000].contains(&number) {
                tails.extend(latencies.tail().map(|(name, _)| name));
            }
        }
        assert_eq!(tails, ["max", "max", "p50", "p50", "p90", "p90", "p99"]);
    }

    #[test]
    fn known_values() {
        let mut latencies = Latencies::default();
        for value in 1..=1_000 {
            latencies.record(value * 1_000);
        }
        let near = |quantile, expected: u64| {
            let value = latencies.quantile_ns(quantile).expect("enough samples");
            assert!(value.abs_diff(expected) * 1_000 <= expected, "{value} for {expected}");
        };
        near(Quantile::P50, 500_000);
        near(Quantile::P90, 900_000);
        near(Quantile::P99, 990_000);
        assert_eq!(latencies.quantile_ns(Quantile::P999), None);
        assert_eq!(latencies.max_ns(), Some(1_000_000));
    }

    #[test]
    fn what_does_not_fit_is_counted_and_its_maximum_kept() {
        let mut latencies = Latencies::default();
        latencies.record(2 * LATENCY_NS_MAX);
        latencies.record(5);
        let mut sum = Latencies::default();
        sum.merge(&latencies);
        sum.merge(&latencies);
        assert_eq!((sum.count(), sum.clamped(), sum.max_ns()), (4, 2, Some(2 * LATENCY_NS_MAX)));
    }
}
