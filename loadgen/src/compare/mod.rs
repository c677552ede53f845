//! Two versions side by side: pairs of runs, a ratio with its interval per metric, and what follows from it.

pub mod metric;
pub mod stats;
pub mod stored;

use self::metric::{Gate, Metric};
use self::stats::{Outcome, Ratio};
use self::stored::Stored;
use crate::record::Latencies;

/// More gates than these are refused: each adds its own false alarms.
pub const GATES_MAX: usize = 3;

/// One metric of both sides.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub metric: Metric,
    /// Its limit, where it decides.
    pub limit: Option<f64>,
    /// The geometric mean of A's runs.
    pub a: Option<f64>,
    /// The geometric mean of B's runs.
    pub b: Option<f64>,
    /// B/A of each pair that has it.
    pub pairs: Vec<f64>,
    /// Their mean with its interval; `None` below two pairs.
    pub ratio: Option<Ratio>,
}

impl Row {
    fn new(metric: Metric, limit: Option<f64>, a: &[Stored], b: &[Stored]) -> Self {
        let values: Vec<(f64, f64)> = a
            .iter()
            .zip(b)
            .filter_map(|(a, b)| Some((metric.of(&a.result)?, metric.of(&b.result)?)))
            .collect();
        let (left, right): (Vec<f64>, Vec<f64>) = values.iter().copied().unzip();
        let pairs: Vec<f64> = values.iter().map(|(a, b)| b / a).collect();
        // Where some runs lack it, those that have it are a selection: no verdict rests on them.
        let whole = values.len() == a.len();
        let ratio = Ratio::of(&pairs).filter(|_| whole);
        Self { metric, limit, a: geometric_mean(&left), b: geometric_mean(&right), pairs, ratio }
    }

    /// What follows, where this metric decides.
    pub fn outcome(&self) -> Option<Outcome> {
        let limit = self.limit?;
        Some(self.ratio.map_or(Outcome::Inconclusive, |ratio| ratio.outcome(limit)))
    }
}

/// Two versions side by side.
#[derive(Debug)]
pub struct Comparison {
    /// The metrics that decide, then the others.
    pub rows: Vec<Row>,
    /// All quantiles of the quantity that users feel.
    pub quantiles: Vec<Row>,
    /// Which quantity that is.
    pub quantity: &'static str,
    /// B/A over the whole distribution, where it is known: (share of samples beyond, ratio).
    pub curve: Vec<(f64, Ratio)>,
    /// Pairs of runs.
    pub pairs: usize,
    /// Runs with a SUSPECT verdict.
    pub suspect: usize,
}

impl Comparison {
    /// Compares the n-th of `a` with the n-th of `b`; `gates` decide, or those that suit the mode.
    ///
    /// # Errors
    /// One line: the runs must not be compared.
    pub fn new(a: &[Stored], b: &[Stored], gates: &[Gate]) -> Result<Self, String> {
        let (Some(first), true) = (a.first(), a.len() == b.len()) else {
            return Err(format!(
                "{} runs of A and {} of B: the runs are compared in pairs, give as many of each",
                a.len(),
                b.len()
            ));
        };
        for other in a[1..].iter().chain(b) {
            first.check_against(other)?;
        }
        let mode = first.mode()?;
        let defaults: Vec<Gate> =
            Metric::gates(mode).into_iter().map(|metric| Gate { metric, limit: metric.limit() }).collect();
        let gates = if gates.is_empty() { &defaults } else { gates };
        let mut rows: Vec<Row> =
            gates.iter().map(|gate| Row::new(gate.metric, Some(gate.limit), a, b)).collect();
        for metric in Metric::shown(mode) {
            if rows.iter().all(|row| row.metric != metric) {
                rows.push(Row::new(metric, None, a, b));
            }
        }
        let quantity = Metric::main_quantity(mode);
        Ok(Self {
            rows,
            quantiles: Metric::quantiles_of(quantity).map(|metric| Row::new(metric, None, a, b)).collect(),
            quantity,
            curve: curve(quantity, a, b),
            pairs: a.len(),
            suspect: a.iter().chain(b).filter(|run| run.verdict() != "VALID").count(),
        })
    }

    /// The worst of the metrics that decide.
    pub fn outcome(&self) -> Outcome {
        self.rows.iter().filter_map(Row::outcome).max().unwrap_or(Outcome::Inconclusive)
    }
}

/// B/A at every quantile that all runs have enough samples for, ten steps per decade of the tail.
fn curve(quantity: &str, a: &[Stored], b: &[Stored]) -> Vec<(f64, Ratio)> {
    let sides: Option<Vec<(&Latencies, &Latencies)>> =
        a.iter().zip(b).map(|(a, b)| Some((a.curves.get(quantity)?, b.curves.get(quantity)?))).collect();
    let Some(sides) = sides else { return Vec::new() };
    let beyond = (1..=9).map(|step| 1.0 - f64::from(step) / 10.0);
    let tail = (1..=40).map(|step| 10f64.powf(-1.0 - f64::from(step) / 10.0));
    beyond
        .chain(tail)
        .map_while(|beyond| {
            let ratios: Option<Vec<f64>> = sides
                .iter()
                .map(|(a, b)| Some(b.beyond_ns(beyond)?.max(1) as f64 / a.beyond_ns(beyond)?.max(1) as f64))
                .collect();
            Some((beyond, Ratio::of(&ratios?)?))
        })
        .collect()
}

fn geometric_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| (values.iter().map(|it| it.ln()).sum::<f64>() / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(p50: f64, p99: Option<f64>, cpu: f64) -> Stored {
        let result = json!({
            "config": { "mode": "echo" }, "verdict": "VALID", "reasons": [], "rate": { "sent_per_s": 1.0 },
            "response_us": { "p50": p50, "p99": p99 }, "server": { "cpu_us_per_message": cpu },
        });
        let mut latencies = Latencies::default();
        (1..=200u64).for_each(|it| latencies.record(it * p50 as u64 * 10));
        Stored { name: "x".into(), result, curves: [("response".to_owned(), latencies)].into() }
    }

    fn side(p50: [f64; 3], cpu: f64) -> Vec<Stored> {
        p50.map(|p50| run(p50, Some(2.0 * p50), cpu)).to_vec()
    }

    #[test]
    fn pairs_decide() {
        let (a, b) = (side([100.0, 200.0, 400.0], 5.0), side([110.0, 221.0, 439.0], 5.0));
        let it = Comparison::new(&a, &b, &[]).expect("comparable");
        let names: Vec<String> = it.rows.iter().take(3).map(|row| row.metric.to_string()).collect();
        assert_eq!(names, ["response.p50", "response.p99", "cpu"]);
        let outcomes: Vec<_> = it.rows.iter().take(3).map(Row::outcome).collect();
        let expected = [Outcome::Regression, Outcome::Regression, Outcome::Ok];
        assert_eq!(outcomes, expected.map(Some), "10 % in each pair, whatever else moved");
        assert!((it.rows[0].a.expect("three") - 200_000.0).abs() < 1.0);
        assert_eq!((it.outcome(), it.pairs, it.suspect), (Outcome::Regression, 3, 0));
        let cpu = [Gate { metric: Metric::Cpu, limit: 0.03 }];
        assert_eq!(Comparison::new(&a, &b, &cpu).expect("comparable").outcome(), Outcome::Ok);
        assert_eq!(Comparison::new(&b, &a, &[]).expect("comparable").outcome(), Outcome::Ok, "faster");
    }

    #[test]
    fn the_curve_ends_where_samples_do() {
        let it = Comparison::new(&side([100.0; 3], 1.0), &side([120.0; 3], 1.0), &[]).expect("comparable");
        let (beyond, _) = it.curve.last().expect("200 samples reach p95");
        assert!((0.05..0.051).contains(beyond), "{beyond}");
        assert!(it.curve.iter().all(|(_, ratio)| (ratio.mean - 1.2).abs() < 0.01));
    }

    #[test]
    fn too_little_is_inconclusive_and_unequal_is_refused() {
        let one = [run(100.0, None, 5.0)];
        let other = [run(200.0, None, 5.0)];
        let it = Comparison::new(&one, &other, &[]).expect("comparable");
        assert_eq!(it.outcome(), Outcome::Inconclusive, "one pair has no spread");
        assert_eq!(it.rows[0].pairs, [2.0]);
        let missing: Vec<Stored> = (0..3).map(|at| run(100.0, (at > 0).then_some(1.0), 5.0)).collect();
        let it = Comparison::new(&missing, &missing, &[]).expect("comparable");
        assert_eq!(it.rows[1].outcome(), Some(Outcome::Inconclusive), "one run lacks its p99");
        assert!(Comparison::new(&one, &[], &[]).expect_err("unequal").contains("1 runs of A and 0 of B"));
    }
}
