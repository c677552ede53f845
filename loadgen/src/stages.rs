//! A load in steps: so long at this rate, then so long at that. Between stages the rate jumps; it does not ramp.

use std::fmt;
use std::time::Duration;

use crate::clock::SECOND_NS;
use crate::instrument::GRACE_NS;
use crate::record::Latencies;
use crate::schedule::Timeline;

/// Stages of a run: each costs every thread a histogram.
pub const STAGES_MAX: usize = 64;

/// One stage, as typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    text: String,
    /// How long.
    pub time: Duration,
    /// Messages per second over all connections; 0 is a pause.
    pub rate: f64,
}

impl Stage {
    /// A stage that was typed as `text`.
    pub const fn new(text: String, time: Duration, rate: f64) -> Self {
        Self { text, time, rate }
    }

    /// All stages together.
    pub fn time_of_all(stages: &[Self]) -> Duration {
        stages.iter().map(|stage| stage.time).sum()
    }

    /// The messages per second of all together.
    pub fn rate_of_all(stages: &[Self]) -> f64 {
        let messages: f64 = stages.iter().map(|stage| stage.rate * stage.time.as_secs_f64()).sum();
        messages / Self::time_of_all(stages).as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Which message is due when, under rates that jump: the k-th message has a place k, and a place a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps(Vec<Step>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    begin_ns: f64,
    /// Messages before it; a fraction where a stage ends between two.
    before: f64,
    interval_ns: f64,
}

impl Steps {
    /// The same rate for ever.
    pub fn constant(rate: f64) -> Self {
        Self(vec![Step { begin_ns: 0.0, before: 0.0, interval_ns: SECOND_NS as f64 / rate }])
    }

    /// A warm-up at the rate of the first stage, then the stages.
    pub fn new(warmup: Duration, stages: &[Stage]) -> Self {
        let mut steps = Vec::with_capacity(stages.len());
        let (mut begin_ns, mut before) = (0.0, 0.0);
        let mut warmup_ns = warmup.as_nanos() as f64;
        for stage in stages {
            let interval_ns = SECOND_NS as f64 / stage.rate;
            let time_ns = stage.time.as_nanos() as f64 + std::mem::take(&mut warmup_ns);
            // A pause has no messages, and so nothing is ever looked up in it.
            if stage.rate > 0.0 {
                steps.push(Step { begin_ns, before, interval_ns });
                before += time_ns / interval_ns;
            }
            begin_ns += time_ns;
        }
        Self(steps)
    }

    /// When the message with this place is due, counted from the start.
    ///
    /// # Panics
    /// Where there is no stage with a rate: the configuration sees to that.
    pub fn time_ns(&self, place: f64) -> u64 {
        let at = self.0.partition_point(|step| step.before <= place).saturating_sub(1);
        let step = self.0[at];
        // Multiplied, not summed up: no error accumulates, and 2^53 ns are a hundred days.
        (step.begin_ns + (place - step.before) * step.interval_ns) as u64
    }
}

/// What one thread, or all, measured in one stage.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    /// Intended to received, of the messages that were due in it.
    pub response: Latencies,
    /// Messages due in it and written by its end, give or take [`GRACE_NS`].
    pub sent: u64,
}

impl Staged {
    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Self) {
        self.response.merge(&other.response);
        self.sent += other.sent;
    }
}

/// The stages on one thread, while the run goes on.
#[derive(Debug, Default)]
pub struct StageBook {
    begin_ns: u64,
    ends_ns: Vec<u64>,
    staged: Vec<Staged>,
}

impl StageBook {
    /// For the stages of a run that measures as `timeline` says; none are fine.
    pub fn new(timeline: &Timeline, stages: &[Stage]) -> Self {
        let mut end_ns = timeline.measure_ns;
        let ends = stages.iter().map(|stage| {
            end_ns += stage.time.as_nanos() as u64;
            end_ns
        });
        let ends_ns = ends.collect();
        Self { begin_ns: timeline.measure_ns, ends_ns, staged: vec![Staged::default(); stages.len()] }
    }

    /// A message that was due at `intended_ns` was written.
    pub fn sent(&mut self, intended_ns: u64, sent_ns: u64) {
        if let Some(at) = self.at(intended_ns) {
            self.staged[at].sent += u64::from(sent_ns < self.ends_ns[at] + GRACE_NS);
        }
    }

    /// A message that was due at `intended_ns` was received.
    pub fn received(&mut self, intended_ns: u64, now_ns: u64) {
        if let Some(at) = self.at(intended_ns) {
            self.staged[at].response.record(now_ns.saturating_sub(intended_ns));
        }
    }

    /// What was measured.
    pub fn take(&mut self) -> Vec<Staged> {
        self.ends_ns.clear();
        std::mem::take(&mut self.staged)
    }

    fn at(&self, intended_ns: u64) -> Option<usize> {
        if self.ends_ns.is_empty() || intended_ns < self.begin_ns {
            return None;
        }
        let at = self.ends_ns.partition_point(|end_ns| *end_ns <= intended_ns);
        (at < self.ends_ns.len()).then_some(at)
    }
}

/// One stage of a run that is over.
#[derive(Clone, Debug)]
pub struct StageResult {
    /// What was asked for.
    pub stage: Stage,
    /// What was measured.
    pub staged: Staged,
    /// From the start of the warm-up to that of the stage.
    pub begin: Duration,
    /// How long it lasted: shorter than asked for where the run was stopped.
    pub seconds: f64,
}

impl StageResult {
    /// The stages of a run that measured for so long.
    pub fn all(stages: &[Stage], staged: Vec<Staged>, warmup: Duration, seconds: f64) -> Vec<Self> {
        let mut begin = Duration::ZERO;
        let results = stages.iter().zip(staged).map(|(stage, staged)| {
            let lasted = (seconds - begin.as_secs_f64()).clamp(0.0, stage.time.as_secs_f64());
            let result = Self { stage: stage.clone(), staged, begin: warmup + begin, seconds: lasted };
            begin += stage.time;
            result
        });
        results.collect()
    }

    /// Messages per second; `None` where the run had been stopped before.
    pub fn sent_per_second(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.staged.sent as f64 / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(ms: u64, rate: f64) -> Stage {
        Stage::new(format!("{ms}ms:{rate}"), Duration::from_millis(ms), rate)
    }

    /// The times of the first messages, in milliseconds.
    fn times(steps: &Steps, count: u32) -> Vec<u64> {
        (0..count).map(|place| steps.time_ns(f64::from(place)) / 1_000_000).collect()
    }

    #[test]
    fn each_stage_goes_on_where_the_last_one_stopped() {
        let steps = Steps::new(Duration::ZERO, &[stage(1_000, 4.0), stage(1_000, 10.0), stage(1_000, 1.0)]);
        let expected = [0, 250, 500, 750, 1000, 1100, 1200, 1300, 1400, 1500, 1600, 1700, 1800, 1900, 2000];
        assert_eq!(times(&steps, 15), expected);
    }

    /// 1.5 messages of the first stage: the third message of all is half a message into the second one.
    #[test]
    fn a_fraction_of_a_message_is_carried_over() {
        let steps = Steps::new(Duration::ZERO, &[stage(3_000, 0.5), stage(1_000, 10.0)]);
        assert_eq!(times(&steps, 4), [0, 2_000, 3_050, 3_150]);
    }

    #[test]
    fn the_warm_up_has_the_first_rate_and_a_pause_no_message() {
        let steps =
            Steps::new(Duration::from_millis(500), &[stage(500, 4.0), stage(2_000, 0.0), stage(1_000, 2.0)]);
        assert_eq!(times(&steps, 6), [0, 250, 500, 750, 3_000, 3_500]);
        let late = Steps::new(Duration::from_millis(500), &[stage(500, 0.0), stage(1_000, 2.0)]);
        assert_eq!(times(&late, 2), [1_000, 1_500]);
    }

    #[test]
    fn one_rate_is_one_step() {
        assert_eq!(times(&Steps::constant(3.0), 4), [0, 333, 666, 1_000]);
    }

    #[test]
    fn all_stages_together() {
        let all = [stage(1_000, 4.0), stage(3_000, 8.0)];
        assert_eq!((Stage::time_of_all(&all), Stage::rate_of_all(&all)), (Duration::from_secs(4), 7.0));
    }

    #[test]
    fn samples_go_to_the_stage_in_which_they_were_due() {
        let timeline =
            Timeline { start_ns: 0, measure_ns: SECOND_NS, end_ns: 4 * SECOND_NS, drain_ns: 5 * SECOND_NS };
        let mut book = StageBook::new(&timeline, &[stage(1_000, 1.0), stage(2_000, 1.0)]);
        let (first, second, end) = (SECOND_NS, 2 * SECOND_NS, 4 * SECOND_NS);
        for due_ns in [0, first - 1, first, second - 1, second, end - 1, end] {
            book.sent(due_ns, due_ns + 3);
            book.received(due_ns, due_ns + 7);
        }
        // Due in time, written too late.
        book.sent(first, second + GRACE_NS);
        let staged = book.take();
        let counts: Vec<_> = staged.iter().map(|it| (it.sent, it.response.count())).collect();
        assert_eq!(counts, [(2, 2), (2, 2)]);
        book.received(first, second);

        let stages = [stage(1_000, 1.0), stage(2_000, 1.0)];
        let results = StageResult::all(&stages, staged, Duration::from_secs(1), 1.5);
        let rates: Vec<_> = results.iter().map(|it| (it.begin.as_secs(), it.sent_per_second())).collect();
        assert_eq!(rates, [(1, Some(2.0)), (2, Some(4.0))], "stopped in the second stage");
        let results = StageResult::all(&stages, vec![Staged::default(); 2], Duration::ZERO, 0.5);
        assert_eq!(results[1].sent_per_second(), None);
    }

    #[test]
    fn a_run_without_stages_has_none() {
        let timeline = Timeline { start_ns: 0, measure_ns: 0, end_ns: 9, drain_ns: 9 };
        let mut book = StageBook::new(&timeline, &[]);
        book.sent(5, 5);
        book.received(5, 6);
        assert!(book.take().is_empty());
    }
}
