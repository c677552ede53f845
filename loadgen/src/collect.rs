//! What the threads hand over once a second, put together: intervals for the log, and the totals of the run.

use std::collections::BTreeMap;

use crate::clock::SECOND_NS;
use crate::fanout::{Merger, Part};
use crate::record::{Latencies, Slice};
use crate::schedule::Timeline;
use crate::seconds::Second;

/// A broadcast message that is older has reached whom it will reach.
const PART_AGE_NS: u64 = 15 * SECOND_NS;

/// The times of whole broadcast messages.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    /// Intended to the first receiver.
    pub first: Latencies,
    /// Intended to the last receiver.
    pub last: Latencies,
    /// First to last receiver.
    pub spread: Latencies,
}

impl Spans {
    fn record(&mut self, part: &Part) {
        self.first.record(part.first_ns.saturating_sub(part.intended_ns));
        self.last.record(part.last_ns.saturating_sub(part.intended_ns));
        self.spread.record(part.last_ns - part.first_ns);
    }

    fn merge(&mut self, other: &Self) {
        self.first.merge(&other.first);
        self.last.merge(&other.last);
        self.spread.merge(&other.spread);
    }
}

/// One second of the run, over all threads.
#[derive(Debug, Default)]
pub struct Interval {
    /// Counted from the start of the warm-up.
    pub number: u32,
    /// Latencies of single messages.
    pub slice: Slice,
    /// Whole broadcast messages that were due in the warm-up.
    pub warmup_spans: Option<Box<Spans>>,
    /// Whole broadcast messages that were due while measuring.
    pub measured_spans: Option<Box<Spans>>,
}

/// Puts the threads' seconds together.
#[derive(Debug)]
pub struct Collector {
    timeline: Timeline,
    threads: u32,
    /// Seconds that some threads have not reported, with the number of those that have.
    pending: BTreeMap<u32, (u32, Slice)>,
    merger: Merger,
    warmup_spans: Option<Box<Spans>>,
    measured_spans: Option<Box<Spans>>,
    /// The measured part of all finished seconds.
    pub total: Slice,
    /// The measured broadcast messages.
    pub spans: Spans,
    /// The finished seconds, warm-up included.
    pub seconds: Vec<Second>,
}

impl Collector {
    /// For `threads` threads with `receivers` open connections in all.
    pub fn new(timeline: Timeline, threads: u32, receivers: u64) -> Self {
        Self {
            timeline,
            threads,
            pending: BTreeMap::new(),
            merger: Merger::new(receivers),
            warmup_spans: None,
            measured_spans: None,
            total: Slice::default(),
            spans: Spans::default(),
            seconds: Vec::new(),
        }
    }

    /// Takes one thread's second, and gives it when it was the last thread's.
    pub fn add(&mut self, number: u32, slice: Slice, parts: Vec<Part>) -> Option<Interval> {
        for part in parts {
            if let Some(whole) = self.merger.add(part) {
                self.record(&whole);
            }
        }
        let pending = self.pending.entry(number).or_default();
        pending.0 += 1;
        pending.1.merge(slice);
        if pending.0 < self.threads {
            return None;
        }
        let (_, slice) = self.pending.remove(&number)?;
        let so_far_ns = self.timeline.start_ns + u64::from(number) * SECOND_NS;
        self.expire(so_far_ns.saturating_sub(PART_AGE_NS));
        Some(self.close(number, slice))
    }

    /// The seconds that some thread never finished, once all have ended.
    pub fn finish(&mut self) -> Vec<Interval> {
        self.expire(u64::MAX);
        let mut pending = std::mem::take(&mut self.pending);
        if pending.is_empty() && (self.warmup_spans.is_some() || self.measured_spans.is_some()) {
            let seconds = (self.timeline.end_ns - self.timeline.start_ns).div_ceil(SECOND_NS);
            pending.insert(seconds as u32, (0, Slice::default()));
        }
        pending.into_iter().map(|(number, (_, slice))| self.close(number, slice)).collect()
    }

    fn expire(&mut self, before_ns: u64) {
        for part in self.merger.expire(before_ns) {
            self.record(&part);
        }
    }

    fn record(&mut self, part: &Part) {
        if self.timeline.is_measured(part.intended_ns) {
            self.measured_spans.get_or_insert_default().record(part);
        } else {
            self.warmup_spans.get_or_insert_default().record(part);
        }
    }

    fn close(&mut self, number: u32, slice: Slice) -> Interval {
        let interval = Interval {
            number,
            slice,
            warmup_spans: self.warmup_spans.take(),
            measured_spans: self.measured_spans.take(),
        };
        self.seconds.push(Second::of(&interval));
        if let Some(measured) = &interval.slice.measured {
            self.total.measured.get_or_insert_default().merge(measured);
        }
        if let Some(times) = &interval.slice.connects.measured {
            self.total.connects.measured.get_or_insert_default().merge(times);
        }
        if let Some(spans) = &interval.measured_spans {
            self.spans.merge(spans);
        }
        interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Stamp;
    use crate::recorder::Recording;

    const TIMELINE: Timeline =
        Timeline { start_ns: 0, measure_ns: SECOND_NS, end_ns: 3 * SECOND_NS, drain_ns: 4 * SECOND_NS };

    fn slice(intended_ns: u64, latency_ns: u64) -> Slice {
        let mut recording = Recording::default();
        let stamp = Stamp { sender: 0, sequence: 0, intended_ns, sent_ns: intended_ns };
        recording.received(TIMELINE.is_measured(intended_ns), &stamp, intended_ns + latency_ns);
        recording.take()
    }

    fn part(sequence: u32, last_ns: u64, count: u32) -> Part {
        let intended_ns = SECOND_NS + u64::from(sequence);
        Part {
            sender: 0,
            sequence,
            intended_ns,
            first_ns: intended_ns + 5,
            last_ns: intended_ns + last_ns,
            count,
        }
    }

    #[test]
    fn a_second_is_whole_when_all_threads_have_told_it() {
        let mut collector = Collector::new(TIMELINE, 2, 2);
        assert!(collector.add(0, slice(10, 7), vec![]).is_none());
        assert!(collector.add(1, slice(SECOND_NS, 8), vec![]).is_none(), "one thread is a second ahead");
        let first = collector.add(0, Slice::default(), vec![]).expect("whole");
        assert_eq!((first.number, first.slice.warmup.expect("one").response.count()), (0, 1));
        let second = collector.add(1, slice(SECOND_NS, 9), vec![]).expect("whole");
        assert_eq!(second.slice.measured.expect("two").response.count(), 2);
        assert!(collector.finish().is_empty());
        let total = collector.total.measured.expect("two");
        assert_eq!((total.response.count(), total.response.max_ns()), (2, Some(9)));
        assert!(collector.total.warmup.is_none());
    }

    #[test]
    fn whole_messages_go_into_the_second_that_completes_them() {
        let mut collector = Collector::new(TIMELINE, 2, 3);
        collector.add(1, Slice::default(), vec![part(0, 30, 2)]);
        let interval =
            collector.add(1, Slice::default(), vec![part(0, 20, 1), part(1, 9, 1)]).expect("whole");
        assert_eq!(interval.measured_spans.expect("one").last.max_ns(), Some(30));
        let rest = collector.finish();
        assert_eq!(rest.len(), 1, "what never reached everybody still counts");
        assert_eq!((collector.spans.last.count(), collector.spans.spread.max_ns()), (2, Some(25)));
    }
}
