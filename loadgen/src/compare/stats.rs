//! Whether two versions differ: the unit is the run, never the message.
//!
//! The messages of one run share that run's luck (where the kernel placed the threads, which memory they got), so
//! millions of them are still one observation, and a test over messages calls any two runs different. Here, each
//! pair of runs gives one logarithm of a ratio, and a paired t interval over the pairs says how sure their mean is.

use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// How sure the intervals are.
pub const CONFIDENCE: f64 = 0.95;

/// The mean ratio of the pairs, with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The geometric mean of B/A.
    pub mean: f64,
    /// The interval that holds the true ratio with [`CONFIDENCE`].
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The standard deviation of a pair's log ratio: 0.03 is about 3 % from pair to pair.
    pub noise: f64,
    /// The pairs behind it.
    pub pairs: u32,
}

impl Ratio {
    /// From the ratio B/A of each pair; `None` below two pairs, which say nothing about their own spread.
    ///
    /// # Panics
    /// Where a ratio is no positive number.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        if ratios.len() < 2 {
            return None;
        }
        assert!(
            ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0),
            "callers divide positive numbers"
        );
        let count = ratios.len() as f64;
        let logs = || ratios.iter().map(|ratio| ratio.ln());
        let mean = logs().sum::<f64>() / count;
        let noise = (logs().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
        let half = t_quantile(0.5 + CONFIDENCE / 2.0, ratios.len() as u32 - 1) * noise / count.sqrt();
        let [mean, low, high] = [mean, mean - half, mean + half].map(f64::exp);
        Some(Self { mean, low, high, noise, pairs: ratios.len() as u32 })
    }

    /// What the ratio means where a rise by more than `limit` (0.03 for 3 %) is a regression.
    pub fn outcome(&self, limit: f64) -> Outcome {
        if self.low > 1.0 && self.mean > 1.0 + limit {
            Outcome::Regression
        } else if self.high <= 1.0 + limit {
            Outcome::Ok
        } else {
            Outcome::Inconclusive
        }
    }

    /// The smallest rise that as many pairs with this noise would call a regression nine times out of ten: 0.05 is
    /// 5 %.
    pub fn detectable(&self, limit: f64) -> f64 {
        let (freedom, error) = (self.pairs - 1, self.noise / f64::from(self.pairs).sqrt());
        let often = t_quantile(0.9, freedom) * error;
        let sure = t_quantile(0.5 + CONFIDENCE / 2.0, freedom) * error;
        (sure + often).max(limit.ln_1p() + often).exp_m1()
    }
}

/// What is said of one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A rise beyond the limit is ruled out.
    Ok,
    /// Neither: more pairs, longer runs or a quieter machine are needed.
    Inconclusive,
    /// The interval lies above 1, and its middle beyond the limit.
    Regression,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ok => "OK",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Regression => "REGRESSION",
        })
    }
}

/// The value that Student's t with `freedom` degrees stays below with this probability.
fn t_quantile(probability: f64, freedom: u32) -> f64 {
    StudentsT::new(0.0, 1.0, f64::from(freedom)).expect("at least one degree").inverse_cdf(probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_t_as_in_the_tables() {
        for (probability, freedom, expected) in [
            (0.975, 1, 12.706_2),
            (0.975, 2, 4.302_7),
            (0.975, 4, 2.776_4),
            (0.975, 9, 2.262_2),
            (0.975, 19, 2.093_0),
            (0.975, 99, 1.984_2),
            (0.90, 9, 1.383_0),
        ] {
            let value = t_quantile(probability, freedom);
            assert!((value - expected).abs() < 1e-4, "{probability}, {freedom}: {value}");
        }
    }

    #[test]
    fn an_interval_worked_out_by_hand() {
        // Logs 0.01, 0.03 and 0.05: mean 0.03, deviation 0.02, half width 4.3027 * 0.02 / sqrt 3.
        let ratio = Ratio::of(&[0.01, 0.03, 0.05].map(f64::exp)).expect("three pairs");
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-5, "{value} {expected}");
        near(ratio.mean, 0.03_f64.exp());
        near(ratio.noise, 0.02);
        near(ratio.low.ln(), 0.03 - 0.049_683);
        near(ratio.high.ln(), 0.03 + 0.049_683);
        assert_eq!((Ratio::of(&[1.1]), Ratio::of(&[])), (None, None));
    }

    #[test]
    fn three_outcomes() {
        let ratio = |low, mean, high| Ratio { mean, low, high, noise: 0.02, pairs: 10 };
        for (it, expected) in [
            (ratio(1.02, 1.04, 1.06), Outcome::Regression),
            (ratio(0.99, 1.04, 1.09), Outcome::Inconclusive),
            (ratio(1.00, 1.02, 1.04), Outcome::Inconclusive),
            (ratio(1.01, 1.02, 1.03), Outcome::Ok),
            (ratio(0.99, 1.00, 1.01), Outcome::Ok),
            (ratio(0.80, 0.85, 0.90), Outcome::Ok),
        ] {
            assert_eq!(it.outcome(0.03), expected, "{it:?}");
        }
        assert!(Outcome::Regression > Outcome::Inconclusive && Outcome::Inconclusive > Outcome::Ok);
    }

    #[test]
    fn what_would_be_found() {
        let quiet = Ratio { mean: 1.0, low: 1.0, high: 1.0, noise: 0.0, pairs: 10 };
        assert!((quiet.detectable(0.03) - 0.03).abs() < 1e-9, "nothing below the limit");
        let noisy = Ratio { noise: 0.1, ..quiet };
        // (2.2622 + 1.3830) * 0.1 / sqrt 10.
        assert!((noisy.detectable(0.03) - 0.115_27_f64.exp_m1()).abs() < 1e-4);
    }
}
