//! Bounds that a run must keep: `fanout_last.p99<50ms`.

use serde_json::Value;

use crate::cli::duration;
use crate::compare::metric::Metric;

/// An upper bound on a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// What is bounded.
    pub metric: Metric,
    /// Nanoseconds or bytes.
    pub bound: f64,
}

/// What came of a threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Whether it was kept. What could not be measured was not.
    pub kept: bool,
    /// For the report.
    pub line: String,
}

impl Threshold {
    /// Reads `response.p99<50ms` or `rss<20KiB`.
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (metric, bound) = text
            .split_once('<')
            .ok_or_else(|| format!("'{text}': give a metric and its bound, such as 'response.p99<50ms'"))?;
        let metric = Metric::parse(metric.trim())?;
        let bound = if metric == Metric::Rss { size(bound.trim()) } else { time_ns(bound.trim()) };
        bound.map(|bound| Self { metric, bound }).ok_or_else(|| {
            let example = if metric == Metric::Rss { "20KiB" } else { "50ms or 200us" };
            format!("'{text}': the bound is no amount: give one such as {example}")
        })
    }

    /// Checks a JSON result.
    pub fn check(&self, result: &Value) -> Checked {
        let value = self.metric.of(result);
        let kept = value.is_some_and(|value| value < self.bound);
        let shown = value.map_or_else(|| "not measured".to_owned(), |value| self.metric.show(value));
        let outcome = if kept { "kept" } else { "BROKEN" };
        let line = format!("limit   {} {shown} < {}  {outcome}", self.metric, self.metric.show(self.bound));
        Checked { kept, line }
    }
}

fn time_ns(text: &str) -> Option<f64> {
    for (unit, ns) in [("us", 1e3), ("µs", 1e3), ("ns", 1.0)] {
        if let Some(digits) = text.strip_suffix(unit) {
            return digits.trim().parse().ok().filter(|it: &f64| *it > 0.0).map(|it| it * ns);
        }
    }
    // A number alone could be anything.
    let with_unit = text.ends_with(char::is_alphabetic);
    duration(text).ok().filter(|it| with_unit && !it.is_zero()).map(|it| it.as_nanos() as f64)
}

fn size(text: &str) -> Option<f64> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
    let (digits, power) = units.iter().find_map(|(unit, power)| Some((text.strip_suffix(unit)?, power)))?;
    digits.trim().parse().ok().filter(|it: &f64| *it > 0.0).map(|it| it * f64::from(1u32 << power))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_are_read_with_their_units() {
        let bound = |text: &str| Threshold::parse(text).expect(text).bound;
        assert_eq!(
            (bound("response.p99<50ms"), bound("cpu < 20us"), bound("upgrade.max<1.5s")),
            (5e7, 2e4, 1.5e9)
        );
        assert_eq!(bound("rss<20KiB"), 20_480.0);
        for bad in ["response.p99", "response.p99<50", "speed<5ms", "rss<5ms", "cpu<0us", "cpu<x"] {
            let error = Threshold::parse(bad).expect_err(bad);
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn kept_broken_and_not_measured() {
        let result = json!({ "response_us": { "p50": 100.0, "p99": null } });
        let check = |text: &str| Threshold::parse(text).expect(text).check(&result);
        assert!(check("response.p50<101us").kept);
        let broken = check("response.p50<100us");
        assert_eq!((broken.kept, &*broken.line), (false, "limit   response.p50 100us < 100us  BROKEN"));
        let missing = check("response.p99<1s");
        assert_eq!(
            (missing.kept, &*missing.line),
            (false, "limit   response.p99 not measured < 1.00s  BROKEN")
        );
    }
}
