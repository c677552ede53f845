//! Where samples go while messages flow: a handful of instructions each. Once a second they become [`Latencies`].
//!
//! The cells are those of the histograms in [`record`](crate::record): below 2,048 ns each value has its own, above
//! that each power of two has 1,024, so that nothing is lost on the way.

use crate::payload::Stamp;
use crate::record::{LATENCY_NS_MAX, Latencies, Samples, Slice};

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

/// So many blocks of 2^[`CELL_BITS`] cells there are.
const BLOCKS: usize = CELLS.div_ceil(1 << CELL_BITS);

/// The samples of one quantity since they were last taken.
#[derive(Debug)]
struct Recorder {
    /// Four bytes are enough: they are taken once a second, and no thread receives four billion messages in one.
    cells: Box<[u32; CELLS]>,
    /// The blocks that are in use, a bit for each.
    used: u64,
    max_ns: u64,
    clamped: u64,
}

const _: () = assert!(BLOCKS <= u64::BITS as usize, "a bit for each block");

impl Default for Recorder {
    fn default() -> Self {
        let cells = vec![0; CELLS].into_boxed_slice().try_into().expect("as many as there are");
        Self { cells, used: 0, max_ns: 0, clamped: 0 }
    }
}

impl Recorder {
    fn record(&mut self, ns: u64) {
        self.max_ns = self.max_ns.max(ns);
        let at = cell(ns);
        match self.cells.get_mut(at) {
            Some(count) => {
                *count += 1;
                self.used |= 1 << (at >> CELL_BITS);
            }
            None => self.clamp(),
        }
    }

    #[cold]
    fn clamp(&mut self) {
        self.clamped += 1;
        self.cells[CELLS - 1] += 1;
        self.used |= 1 << (BLOCKS - 1);
    }

    const fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn take(&mut self) -> Latencies {
        let used = std::mem::take(&mut self.used);
        let blocks = self.cells.chunks_mut(1 << CELL_BITS).enumerate().filter(|(at, _)| used >> at & 1 == 1);
        let cells = blocks.flat_map(|(at, block)| block.iter_mut().zip(at << CELL_BITS..));
        let counts = cells.filter(|(count, _)| **count > 0);
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
}

impl Recorders {
    fn take(&mut self) -> Option<Box<Samples>> {
        let Self { response, service, late } = self;
        if response.is_empty() && service.is_empty() && late.is_empty() {
            return None;
        }
        Some(Box::new(Samples { response: response.take(), service: service.take(), late: late.take() }))
    }
}

/// One thread's samples since they were last taken, those of the warm-up apart.
#[derive(Debug, Default)]
pub struct Recording {
    /// Of the warm-up, and of the measurement. Their cells are memory only where a sample has been.
    phases: [Recorders; 2],
}

impl Recording {
    /// A message was received; `measured` says whether it was due while measuring.
    pub fn received(&mut self, measured: bool, stamp: &Stamp, now_ns: u64) {
        let recorders = &mut self.phases[usize::from(measured)];
        recorders.response.record(now_ns.saturating_sub(stamp.intended_ns));
        recorders.service.record(now_ns.saturating_sub(stamp.sent_ns));
    }

    /// A message was written that had been due at `intended_ns`.
    pub fn sent(&mut self, measured: bool, intended_ns: u64, now_ns: u64) {
        self.phases[usize::from(measured)].late.record(now_ns.saturating_sub(intended_ns));
    }

    /// The samples since the last call.
    pub fn take(&mut self) -> Slice {
        let [warmup, measured] = &mut self.phases;
        Slice { warmup: warmup.take(), measured: measured.take(), ..Slice::default() }
    }
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
        let mut recording = Recording::default();
        for (intended_ns, measured) in [(99, false), (100, true), (199, true)] {
            recording.sent(measured, intended_ns, intended_ns + 1);
            let stamp = Stamp { sender: 0, sequence: 0, intended_ns, sent_ns: intended_ns + 1 };
            recording.received(measured, &stamp, 250);
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
