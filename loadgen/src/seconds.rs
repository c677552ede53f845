//! A run second by second, small enough to keep for hours: rates, a few quantiles, and how many messages took how
//! long.

use crate::collect::Interval;
use crate::record::{Latencies, Quantile};

/// Cells per factor of ten.
pub const CELLS_PER_DECADE: u32 = 8;
/// The shortest latency with a cell of its own, in nanoseconds.
pub const CELL_NS_MIN: f64 = 1e3;

/// One second of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Second {
    /// Counted from the start of the warm-up.
    pub number: u32,
    /// Most of it was not measured.
    pub warmup: bool,
    /// Messages written.
    pub sent: u64,
    /// Messages received, in a broadcast by each receiver.
    pub received: u64,
    /// The median of the response times; `None` where too few samples lie beyond it.
    pub p50_ns: Option<u64>,
    /// Their 99th percentile.
    pub p99_ns: Option<u64>,
    /// The longest.
    pub max_ns: Option<u64>,
    /// Connections opened, where they come and go.
    pub opened: u64,
    /// The median of the time that took, from when they were due.
    pub upgrade_p50_ns: Option<u64>,
    /// Its 99th percentile.
    pub upgrade_p99_ns: Option<u64>,
    /// The longest.
    pub upgrade_max_ns: Option<u64>,
    /// How many took how long: (cell, messages), ascending.
    pub cells: Vec<(u8, u64)>,
}

impl Second {
    /// All that happened in an interval, warm-up and measurement together.
    pub fn of(interval: &Interval) -> Self {
        let mut response = Latencies::default();
        let mut sent = 0;
        // The threads' seconds begin a little late: a warm-up's last one has the first measured messages.
        let mut most = (0, false);
        for (samples, warmup) in [(&interval.slice.warmup, true), (&interval.slice.measured, false)] {
            let Some(samples) = samples else { continue };
            response.merge(&samples.response);
            sent += samples.late.count();
            most = most.max((samples.response.count(), warmup));
        }
        let mut upgrade = Latencies::default();
        let connects = &interval.slice.connects;
        for (times, warmup) in [(&connects.warmup, true), (&connects.measured, false)] {
            let Some(times) = times else { continue };
            upgrade.merge(&times.upgrade);
            most = most.max((times.upgrade.count(), warmup));
        }
        Self {
            sent,
            opened: upgrade.count(),
            upgrade_p50_ns: upgrade.quantile_ns(Quantile::P50),
            upgrade_p99_ns: upgrade.quantile_ns(Quantile::P99),
            upgrade_max_ns: upgrade.max_ns(),
            ..Self::from_latencies(interval.number, most.1, &response)
        }
    }

    /// As far as the response times tell.
    pub fn from_latencies(number: u32, warmup: bool, response: &Latencies) -> Self {
        Self {
            number,
            warmup,
            sent: 0,
            received: response.count(),
            p50_ns: response.quantile_ns(Quantile::P50),
            p99_ns: response.quantile_ns(Quantile::P99),
            max_ns: response.max_ns(),
            cells: cells(response),
            ..Self::default()
        }
    }
}

/// The cell of a latency.
pub fn cell(ns: u64) -> u8 {
    let decades = (ns as f64 / CELL_NS_MIN).max(1.0).log10();
    (decades * f64::from(CELLS_PER_DECADE)) as u8
}

/// The shortest latency in a cell, in nanoseconds.
pub fn cell_begin_ns(cell: u8) -> f64 {
    CELL_NS_MIN * 10f64.powf(f64::from(cell) / f64::from(CELLS_PER_DECADE))
}

fn cells(latencies: &Latencies) -> Vec<(u8, u64)> {
    let mut out: Vec<(u8, u64)> = Vec::new();
    for step in latencies.histogram().iter_recorded() {
        let (cell, count) = (cell(step.value_iterated_to()), step.count_since_last_iteration());
        match out.last_mut() {
            Some((last, sum)) if *last == cell => *sum += count,
            _ => out.push((cell, count)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_eighths_of_a_decade() {
        assert_eq!((cell(0), cell(999), cell(1_000), cell(10_001), cell(1_000_001)), (0, 0, 0, 8, 24));
        assert!((cell_begin_ns(24) - 1e6).abs() < 1e-3);
        let hour = cell(crate::record::LATENCY_NS_MAX);
        assert_eq!(hour, 76);
    }

    #[test]
    fn a_second_in_numbers() {
        let mut latencies = Latencies::default();
        (0..30).for_each(|_| latencies.record(2_000));
        latencies.record(5_000_000);
        let second = Second::from_latencies(3, false, &latencies);
        assert_eq!((second.received, second.max_ns, second.p99_ns), (31, Some(5_000_000), None));
        assert!(second.p50_ns.is_some_and(|ns| ns.abs_diff(2_000) < 4));
        assert_eq!(second.cells, [(2, 30), (29, 1)]);
    }
}
