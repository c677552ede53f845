//! How often each way of comparing cries wolf: simulated runs of one and the same server, seeded.
//!
//! A run's latencies are log-normal with a long tail; from run to run the whole distribution shifts by 1 % or 3 %, as
//! it does on real machines. The rule that `loadgen ab` uses must be quiet, and must still find what is there; the
//! usual ways must show why it does not use them.

use loadgen::compare::stats::{Outcome, Ratio};

/// Simulated sessions per rate.
const SESSIONS: u32 = 1_500;
/// Messages of one run.
const MESSAGES: usize = 4_000;

struct Machine {
    rng: fastrand::Rng,
    /// Standard deviation of a run's own shift.
    noise: f64,
}

impl Machine {
    fn new(noise: f64) -> Self {
        Self { rng: fastrand::Rng::with_seed(7), noise }
    }

    /// By Box and Muller.
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.rng.f64(), self.rng.f64());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// The p50 and p99 of one run of a server that is `factor` times as slow: what sampling leaves of the truth, and
    /// the run's own shift, which moves the tail twice as much.
    fn run(&mut self, factor: f64) -> (f64, f64) {
        let (shift, p50, p99) = (self.normal(), self.normal(), self.normal());
        let p50 = factor * (self.noise * shift + 0.002 * p50).exp();
        let p99 = factor * (2.0 * self.noise * shift + 0.01 * p99).exp();
        (p50, p99)
    }

    fn pairs(&mut self, count: u32, factor: f64) -> (Ratio, Ratio) {
        let ratios: Vec<(f64, f64)> = (0..count)
            .map(|_| {
                let (a, b) = (self.run(1.0), self.run(factor));
                (b.0 / a.0, b.1 / a.1)
            })
            .collect();
        let (p50, p99): (Vec<f64>, Vec<f64>) = ratios.into_iter().unzip();
        (Ratio::of(&p50).expect("pairs"), Ratio::of(&p99).expect("pairs"))
    }

    /// The share of sessions in which `alarm` says so, in percent.
    fn percent(&mut self, sessions: u32, mut alarm: impl FnMut(&mut Self) -> bool) -> f64 {
        let alarms = (0..sessions).filter(|_| alarm(self)).count();
        100.0 * alarms as f64 / f64::from(sessions)
    }
}

fn is_regression(ratio: &Ratio, limit: f64) -> bool {
    ratio.outcome(limit) == Outcome::Regression
}

#[test]
fn ten_interleaved_pairs_are_quiet_and_still_see() {
    // (run-to-run noise, false alarms allowed for p50 and p99, in percent)
    for (noise, p50_max, p99_max) in [(0.01, 1.0, 2.0), (0.03, 4.0, 4.0)] {
        let mut machine = Machine::new(noise);
        let p50 = machine.percent(SESSIONS, |it| is_regression(&it.pairs(10, 1.0).0, 0.03));
        let p99 = machine.percent(SESSIONS, |it| is_regression(&it.pairs(10, 1.0).1, 0.05));
        assert!(p50 <= p50_max && p99 <= p99_max, "noise {noise}: {p50} % and {p99} % false alarms");
        let found = machine.percent(SESSIONS, |it| is_regression(&it.pairs(10, 1.10).0, 0.03));
        assert!(found > 99.0, "noise {noise}: finds +10 % in {found} %");
    }
}

#[test]
fn an_ok_means_that_the_limit_was_kept() {
    let mut machine = Machine::new(0.03);
    let missed = machine.percent(SESSIONS, |it| it.pairs(10, 1.06).0.outcome(0.03) == Outcome::Ok);
    assert!(missed < 1.0, "6 % slower passed as OK in {missed} %");
    let slightly = machine.percent(SESSIONS, |it| it.pairs(10, 1.031).0.outcome(0.03) == Outcome::Ok);
    assert!(slightly < 4.0, "just over the limit passed as OK in {slightly} %");
}

#[test]
fn the_usual_ways_cry_wolf() {
    let mut machine = Machine::new(0.03);
    let one_pair = machine.percent(SESSIONS, |it| it.run(1.0).1 * 1.05 < it.run(1.0).1);
    assert!(one_pair > 15.0, "p99 of one pair, up by 5 %: {one_pair} %");

    // Ten of A, then ten of B, while the machine slows down by 1 % per run.
    let blocks = machine.percent(200, |it| {
        let ratios: Vec<f64> = (0..10)
            .map(|run| {
                let (a, b) = (it.run(1.01_f64.powi(run)).0, it.run(1.01_f64.powi(run + 10)).0);
                b / a
            })
            .collect();
        is_regression(&Ratio::of(&ratios).expect("ten"), 0.03)
    });
    assert!(blocks > 95.0, "A first, B after, and a drift: {blocks} %");
    // The same drift, in the order that `ab` uses.
    let interleaved = machine.percent(SESSIONS, |it| {
        let ratios: Vec<f64> = (0..10)
            .map(|pair| {
                let (first, second) =
                    (it.run(1.01_f64.powi(2 * pair)).0, it.run(1.01_f64.powi(2 * pair + 1)).0);
                if pair % 2 == 0 { second / first } else { first / second }
            })
            .collect();
        is_regression(&Ratio::of(&ratios).expect("ten"), 0.03)
    });
    assert!(interleaved < 5.0, "ABBA and the same drift: {interleaved} %");

    // Looking after every pair, and stopping at the first that pleases.
    let peeking = machine.percent(400, |it| {
        let mut ratios = Vec::new();
        (0..50).any(|_| {
            ratios.push(it.run(1.0).0 / it.run(1.0).0);
            Ratio::of(&ratios).is_some_and(|ratio| ratio.low > 1.0)
        })
    });
    assert!(peeking > 12.0, "pairs added until significant: {peeking} %");

    let messages = machine.percent(60, |it| {
        let mut run = || -> Vec<f64> {
            let shift = it.noise * it.normal();
            (0..MESSAGES).map(|_| (shift + 0.3 * it.normal()).exp()).collect()
        };
        let (a, b) = (run(), run());
        mann_whitney_z(&a, &b).abs() > 1.96
    });
    assert!(messages > 50.0, "Mann-Whitney over the messages of one pair: {messages} %");
}

/// The normal approximation of the rank test.
fn mann_whitney_z(a: &[f64], b: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|it| (*it, true)).chain(b.iter().map(|it| (*it, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let ranks: usize = all.iter().enumerate().filter(|(_, (_, is_a))| *is_a).map(|(at, _)| at + 1).sum();
    let (n, m) = (a.len() as f64, b.len() as f64);
    let u = ranks as f64 - n * (n + 1.0) / 2.0;
    (u - n * m / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}
