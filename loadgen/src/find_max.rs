//! `--find-max`: the highest rate that keeps a bound, to within 5 %. Doubles the rate until the bound breaks, then
//! halves the gap; every step is a whole run, and only one that the generator could do counts.

use std::io::{IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::{Config, Load};
use crate::report::format::rate as show_rate;
use crate::report::json;
use crate::run::{Failure, INVALID, THRESHOLD, execute, launch};
use crate::threshold::Threshold;
use crate::verdict::Verdict;

/// The gap at which the search ends.
const PRECISION: f64 = 1.05;
/// More steps than a search can need.
const STEPS_MAX: u32 = 40;

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The bound was kept.
    Holds,
    /// It was broken.
    Breaks,
    /// The generator could not do it.
    Invalid,
}

/// The search, without its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Search {
    /// The highest rate that held.
    pub holds: Option<f64>,
    /// The lowest rate that did not.
    pub breaks: Option<f64>,
    /// Whether it was the generator that could not do that.
    pub by_generator: bool,
}

impl Search {
    /// The rate to try next; `None` when the search is over.
    pub fn next(&self, first: f64) -> Option<f64> {
        match (self.holds, self.breaks) {
            (None, None) => Some(first),
            (Some(holds), None) => Some(holds * 2.0),
            (None, Some(_)) => None,
            (Some(holds), Some(breaks)) => (breaks / holds > PRECISION).then(|| (holds * breaks).sqrt()),
        }
    }

    /// Notes what a rate came to.
    pub fn note(&mut self, rate: f64, step: Step) {
        if step == Step::Holds {
            self.holds = Some(rate);
        } else {
            self.breaks = Some(rate);
            self.by_generator = step == Step::Invalid;
        }
    }
}

/// Searches and writes what it finds; gives the exit code.
///
/// # Errors
/// A run or the server failed.
pub fn run(
    config: &Config,
    bound: &Threshold,
    interrupted: &AtomicBool,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let Load::Open { rate: first } = config.load else {
        return Err(Failure::Usage("--find-max: needs an open loop; give --rate to begin with".to_owned()));
    };
    let failed = |error: std::io::Error| Failure::Broken(format!("standard output: {error}"));
    let mut search = Search::default();
    for _ in 0..STEPS_MAX {
        let Some(rate) = search.next(first) else { break };
        let (step, line) = one_step(config, rate, bound, interrupted)?;
        if interrupted.load(Ordering::Relaxed) {
            return Err(Failure::Broken("interrupted: the search has no result".to_owned()));
        }
        writeln!(out, "try     {:>12}/s   {line}", show_rate(rate))
            .and_then(|()| out.flush())
            .map_err(failed)?;
        search.note(rate, step);
    }
    let by = if search.by_generator { " (there, the generator is at its end)" } else { "" };
    let (line, code) = match (search.holds, search.breaks) {
        (Some(holds), Some(breaks)) => {
            (format!("{}/s holds, {}/s does not{by}", show_rate(holds), show_rate(breaks)), 0)
        }
        (None, Some(_)) if search.by_generator => {
            ("the first rate is beyond the generator".to_owned(), INVALID)
        }
        (None, _) => {
            (format!("{}/s, the first rate, does not hold: begin lower", show_rate(first)), THRESHOLD)
        }
        (Some(holds), None) => (format!("{}/s holds, and no end is in sight", show_rate(holds)), 0),
    };
    writeln!(out, "max     {line}").map_err(failed)?;
    Ok(code)
}

fn one_step(
    config: &Config,
    rate: f64,
    bound: &Threshold,
    interrupted: &AtomicBool,
) -> Result<(Step, String), Failure> {
    let mut config = Config { load: Load::Open { rate }, ..config.clone() };
    // A log gets a line for each run, which is enough.
    config.progress &= std::io::stderr().is_terminal();
    // Dropped, and so ended, with this step.
    let _server = launch(&mut config)?;
    let summary = execute(&config, interrupted, &mut std::io::sink())?;
    let checked = bound.check(&json::value(&summary));
    let line = checked.line.trim_start_matches("limit   ").to_owned();
    Ok(match summary.verdict {
        Verdict::Invalid => (Step::Invalid, format!("INVALID: {}", summary.reasons.join("; "))),
        _ if checked.kept => (Step::Holds, line),
        _ => (Step::Breaks, line),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates that a server with this true maximum is asked for.
    fn search(first: f64, truth: f64) -> (Search, usize) {
        let (mut it, mut steps) = (Search::default(), 0);
        while let Some(rate) = it.next(first) {
            it.note(rate, if rate <= truth { Step::Holds } else { Step::Breaks });
            steps += 1;
        }
        (it, steps)
    }

    #[test]
    fn the_truth_is_enclosed_to_five_percent() {
        for truth in [1_000.0, 1_999.0, 2_001.0, 37_123.0, 900_000.0] {
            let (it, steps) = search(1_000.0, truth);
            let (holds, breaks) = (it.holds.expect("the first holds"), it.breaks.expect("it ends"));
            assert!(holds <= truth && truth < breaks && breaks / holds <= PRECISION, "{truth}: {it:?}");
            assert!(steps < STEPS_MAX as usize, "{steps}");
        }
    }

    #[test]
    fn it_ends_where_the_first_rate_does_not_hold() {
        let (it, steps) = search(1_000.0, 500.0);
        assert_eq!((it.holds, it.breaks, steps), (None, Some(1_000.0), 1));
    }
}
