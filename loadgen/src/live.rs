//! What a run looks like while it goes on: rates, latencies of the last seconds, loss, and whether the generator keeps
//! up. Values in, text out; who shows it is [`progress`](crate::progress)'s business.

use std::collections::VecDeque;

use crate::clock::SECOND_NS;
use crate::collect::Interval;
use crate::record::{Latencies, Quantile};
use crate::report::format::{count, duration_or_dash, percent};
use crate::verdict::{Evidence, judge};

/// Latencies are those of so many seconds: with fewer, a slow run has no p99.
const WINDOW_SECONDS: usize = 10;

/// A look at the threads' counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Look {
    /// When it was taken.
    pub now_ns: u64,
    /// Connections that are open.
    pub conns: u64,
    /// Messages written so far.
    pub sent: u64,
    /// Messages received so far.
    pub arrived: u64,
    /// Messages that later ones have overtaken, so far: lost, or late.
    pub missing: u64,
    /// The busiest thread's share of a core in its last second.
    pub cpu_hottest: f64,
}

/// The last seconds of a run.
#[derive(Debug, Default)]
pub struct Live {
    /// Response times and lateness, the newest last.
    window: VecDeque<(Latencies, Latencies)>,
    /// The look that the rates count from.
    last: Look,
}

impl Live {
    /// A run that begins at `start_ns`.
    pub fn new(start_ns: u64) -> Self {
        Self { window: VecDeque::new(), last: Look { now_ns: start_ns, ..Look::default() } }
    }

    /// A second is over.
    pub fn second(&mut self, interval: &Interval) {
        let (mut response, mut late) = (Latencies::default(), Latencies::default());
        for samples in [&interval.slice.warmup, &interval.slice.measured].into_iter().flatten() {
            response.merge(&samples.response);
            late.merge(&samples.late);
        }
        self.window.push_back((response, late));
        if self.window.len() > WINDOW_SECONDS {
            self.window.pop_front();
        }
    }

    /// Since when the rates count.
    pub const fn since_ns(&self) -> u64 {
        self.last.now_ns
    }

    /// What the connections see, and how the generator does, at `look`; the next rates count from it.
    pub fn at(&mut self, look: &Look) -> (String, String) {
        let seconds = look.now_ns.saturating_sub(self.last.now_ns).max(1) as f64 / SECOND_NS as f64;
        let rate =
            |now: u64, before: u64| count((now.saturating_sub(before) as f64 / seconds).round() as u64);
        let (mut response, mut late) = (Latencies::default(), Latencies::default());
        for second in &self.window {
            response.merge(&second.0);
            late.merge(&second.1);
        }
        let seen = format!(
            "{} conns  {}/s out  {}/s in  p50 {}  p99 {}  lost {}",
            count(look.conns),
            rate(look.sent, self.last.sent),
            rate(look.arrived, self.last.arrived),
            duration_or_dash(response.quantile_ns(Quantile::P50)),
            duration_or_dash(response.quantile_ns(Quantile::P99)),
            count(look.missing),
        );
        let evidence =
            Evidence { late: late.tail(), cpu_hottest: look.cpu_hottest, ..Evidence::nothing_wrong() };
        let late = duration_or_dash(evidence.late.map(|(_, ns)| ns));
        let health = format!("cpu {}  late {late}  {}", percent(look.cpu_hottest), judge(&evidence).0);
        self.last = *look;
        (seen, health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Samples, Slice};

    fn interval(response_ns: u64, late_ns: u64, messages: u32) -> Interval {
        let mut samples = Box::<Samples>::default();
        (0..messages).for_each(|_| {
            samples.response.record(response_ns);
            samples.late.record(late_ns);
        });
        Interval { slice: Slice { measured: Some(samples), ..Slice::default() }, ..Interval::default() }
    }

    #[test]
    fn what_is_seen_and_how_the_generator_does() {
        let mut live = Live::new(SECOND_NS);
        let look =
            Look { now_ns: 2 * SECOND_NS, conns: 1_500, sent: 5_000, arrived: 4_990, ..Look::default() };
        let (seen, health) = live.at(&look);
        assert_eq!(seen, "1,500 conns  5,000/s out  4,990/s in  p50 -  p99 -  lost 0");
        assert_eq!(health, "cpu 0%  late -  VALID");
        live.second(&interval(2_000_000, 50_000, 1_000));
        let look = Look { now_ns: 4 * SECOND_NS, sent: 7_000, missing: 3, cpu_hottest: 0.9, ..look };
        let (seen, health) = live.at(&look);
        assert_eq!(seen, "1,500 conns  1,000/s out  0/s in  p50 2.00ms  p99 2.00ms  lost 3");
        assert_eq!(health, "cpu 90%  late 50.0us  SUSPECT");
        assert_eq!(live.since_ns(), 4 * SECOND_NS);
    }

    #[test]
    fn old_seconds_are_forgotten() {
        let mut live = Live::new(0);
        live.second(&interval(9_000_000, 200_000_000, 1_000));
        assert_eq!(live.at(&Look::default()).1, "cpu 0%  late 200ms  INVALID");
        (0..WINDOW_SECONDS).for_each(|_| live.second(&interval(1_000_000, 1_000, 10)));
        let (seen, health) = live.at(&Look::default());
        assert!(seen.ends_with("p50 1.00ms  p99 -  lost 0") && health.ends_with("late 1.00us  VALID"));
    }
}
