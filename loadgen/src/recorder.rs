//! Where samples go while messages flow: a handful of instructions each. Once a second they become [`Latencies`].
//!
//! The cells are those of the histograms in [`record`](crate::record): below 2,048 ns each value has its own, above
//! that each power of two has 1,024, so that nothing is lost on the way.

use crate::payload::Stamp;
use crate::record::{LATENCY_NS_MAX, Latencies, Samples, Slice};
use crate::schedule::Timeline;

/// A power of two has 2^10 cells: an error below 0.1 %.
const CELL_BITS: u32 = 10;
const CELLS: usize = cell(LATENCY_NS_MAX) + 1;

/// The cell of a value.
const fn cell(ns: u64) -> usize {
    let shift = (ns | (1 << CELL_BITS)).ilog2() - CELL_BITS;
    ((shift as usize) << CELL_BITS) + (ns >> shift) as usize
}

/// The lowest value in a cell.
const fn value(cell: usize) -> u64 {
    let shift = (cell >> CELL_BITS).saturating_sub(1);
    ((cell - (shift << CELL_BITS)) as u64) << shift
}

/// The samples of one quantity since they were last taken.
#[derive(Debug)]
struct Recorder {
    /// Four bytes are enough: they are taken once a second, and no thread receives four billion messages in one.
    cells: Box<[u32]>,
    /// No cell outside of this range is in use.
    used: (usize, usize),
    max_ns: u64,
    clamped: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { cells: vec![0; CELLS].into_boxed_slice(), used: (CELLS, 0), max_ns: 0, clamped: 0 }
    }
}

impl Recorder {
    fn record(&mut self, ns: u64) {
        self.max_ns = self.max_ns.max(ns);
        let mut at = cell(ns);
        if at >= CELLS {
            self.clamped += 1;
            at = CELLS - 1;
        }
        self.used = (self.used.0.min(at), self.used.1.max(at));
        self.cells[at] += 1;
    }

    fn take(&mut self) -> Latencies {
        let (first, last) = std::mem::replace(&mut self.used, (CELLS, 0));
        let used = self.cells.get_mut(first..=last).unwrap_or_default();
        let counts = used.iter_mut().zip(first..).filter(|(count, _)| **count > 0);
        let counts = counts.map(|(count, at)| (value(at), u64::from(std::mem::take(count))));
        let latencies = Latencies::of(counts, std::mem::take(&mut self.max_ns), self.clamped);
        self.clamped = 0;
        latencies
    }
}

/// What is timed of each message, in one phase.
#[derive(Debug, Default)]
struct Recorders {
    response: Recorder,
    service: Recorder,
    late: Recorder,
    /// Whether anything has been recorded since the last take.
    used: bool,
}

/// One thread's samples since they were last taken, those of the warm-up apart.
#[derive(Debug, Default)]
pub struct Recording {
    warmup: Option<Box<Recorders>>,
    measured: Option<Box<Recorders>>,
}

impl Recording {
    /// A message was received.
    pub fn received(&mut self, timeline: &Timeline, stamp: &Stamp, now_ns: u64) {
        let recorders = self.of(timeline, stamp.intended_ns);
        recorders.response.record(now_ns.saturating_sub(stamp.intended_ns));
        recorders.service.record(now_ns.saturating_sub(stamp.sent_ns));
    }

    /// A message was written.
    pub fn sent(&mut self, timeline: &Timeline, intended_ns: u64, now_ns: u64) {
        self.of(timeline, intended_ns).late.record(now_ns.saturating_sub(intended_ns));
    }

    /// The samples since the last call.
    pub fn take(&mut self) -> Slice {
        let slice =
            Slice { warmup: take(&mut self.warmup), measured: take(&mut self.measured), ..Slice::default() };
        if self.measured.is_some() && slice.warmup.is_none() {
            // The warm-up is over, and so is its memory.
            self.warmup = None;
        }
        slice
    }

    fn of(&mut self, timeline: &Timeline, intended_ns: u64) -> &mut Recorders {
        let part = if timeline.is_measured(intended_ns) { &mut self.measured } else { &mut self.warmup };
        let recorders = part.get_or_insert_default();
        recorders.used = true;
        recorders
    }
}

fn take(recorders: &mut Option<Box<Recorders>>) -> Option<Box<Samples>> {
    let recorders = recorders.as_mut()?;
    if !std::mem::take(&mut recorders.used) {
        return None;
    }
    let (response, service) = (recorders.response.take(), recorders.service.take());
    Some(Box::new(Samples { response, service, late: recorders.late.take() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_those_of_the_histograms() {
        let mut rng = fastrand::Rng::with_seed(1);
        let edges = (0..42).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        let random = (0..5_000).map(|_| rng.u64(..) >> rng.u32(22..64));
        let near_max = [LATENCY_NS_MAX - 1, LATENCY_NS_MAX];
        let (mut recorder, mut expected) = (Recorder::default(), Latencies::default());
        for ns in edges.chain(random).filter(|ns| *ns <= LATENCY_NS_MAX).chain(near_max) {
            let begin = value(cell(ns));
            assert!(begin <= ns && (ns - begin) * 1_024 <= ns && cell(begin) == cell(ns), "{ns}: {begin}");
            recorder.record(ns);
            expected.record(ns);
        }
        let taken = recorder.take();
        assert_eq!(taken.histogram(), expected.histogram());
        assert_eq!((taken.max_ns(), taken.clamped()), (Some(LATENCY_NS_MAX), 0));
        assert_eq!(recorder.take().count(), 0, "taken once");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut recorder = Recorder::default();
        recorder.record(2 * LATENCY_NS_MAX);
        recorder.record(5);
        let taken = recorder.take();
        assert_eq!((taken.count(), taken.clamped(), taken.max_ns()), (2, 1, Some(2 * LATENCY_NS_MAX)));
        assert_eq!(recorder.take().clamped(), 0);
    }

    #[test]
    fn warm_up_and_measurement_stay_apart() {
        let timeline = Timeline { start_ns: 0, measure_ns: 100, end_ns: 200, drain_ns: 300 };
        let mut recording = Recording::default();
        for intended_ns in [99, 100, 199] {
            recording.sent(&timeline, intended_ns, intended_ns + 1);
            let stamp = Stamp { sender: 0, sequence: 0, intended_ns, sent_ns: intended_ns + 1 };
            recording.received(&timeline, &stamp, 250);
        }
        let slice = recording.take();
        let (warmup, measured) = (slice.warmup.expect("one"), slice.measured.expect("two"));
        assert_eq!((warmup.response.count(), measured.response.count()), (1, 2));
        assert_eq!(measured.response.max_ns(), Some(150));
        assert_eq!(measured.service.max_ns(), Some(149));
        assert_eq!(measured.late.max_ns(), Some(1));
        let empty = recording.take();
        assert!(empty.warmup.is_none() && empty.measured.is_none(), "each sample is given away once");
    }
}
