//! What came out of a run, and what it amounts to.

use std::collections::BTreeMap;

use crate::cli::Mode;
use crate::clock::SECOND_NS;
use crate::collect::Collector;
use crate::config::{Config, Load};
use crate::instrument::Tally;
use crate::ledger::Totals;
use crate::net::control::{Done, Lazy, ThreadLoad};
use crate::plan::Plan;
use crate::reasons;
use crate::record::Latencies;
use crate::report::summary::{Compression, Connecting, Fanout, Generator, Integrity, Rates, Summary};
use crate::schedule::{Arrival, Timeline};
use crate::server::{Cost, Probe, probe};
use crate::stages::{StageResult, Staged};
use crate::verdict::{Evidence, judge};

/// How long messages under way are awaited in a run that was cut short.
const CUT_SHORT_DRAIN_NS: u64 = SECOND_NS;

/// What came out of the load.
#[derive(Debug)]
pub struct Measured {
    /// The phases, as they came to be.
    pub timeline: Timeline,
    /// Latencies.
    pub collector: Collector,
    /// Counted messages.
    pub tally: Tally,
    /// Distinct, duplicate and reordered messages.
    pub totals: Totals,
    /// Connections that ended early, by close code.
    pub closed: BTreeMap<u16, u64>,
    /// What those came to that do not read as they should.
    pub lazy: Lazy,
    /// The stages of the load, where it has any.
    pub stages: Vec<Staged>,
    /// What each thread used.
    pub loads: Vec<ThreadLoad>,
    /// How long was measured, in seconds; shorter than asked for where the user stopped it.
    pub seconds: f64,
    /// The user stopped the run.
    pub interrupted: bool,
    /// Every connection ended before the run did.
    pub deserted: bool,
    /// The server where measuring began and ended, with the times of the looks.
    pub server: (Option<Look>, Option<Look>),
}

/// A look at the server, and when it was taken.
pub type Look = (u64, Probe);

impl Measured {
    /// Nothing yet, of `threads` threads with `receivers` open connections in all.
    pub fn new(timeline: Timeline, threads: u32, receivers: u64) -> Self {
        Self {
            timeline,
            collector: Collector::new(timeline, threads, receivers),
            tally: Tally::default(),
            totals: Totals::default(),
            closed: BTreeMap::new(),
            lazy: Lazy::default(),
            stages: Vec::new(),
            loads: Vec::new(),
            seconds: (timeline.end_ns - timeline.measure_ns) as f64 / SECOND_NS as f64,
            interrupted: false,
            deserted: false,
            server: (None, None),
        }
    }

    /// A thread has said its last word.
    pub fn done(&mut self, done: Done) {
        self.tally.add(&done.tally);
        self.totals.add(&done.totals);
        self.loads.push(done.load);
        self.stages.resize_with(done.stages.len().max(self.stages.len()), Staged::default);
        for (mine, other) in self.stages.iter_mut().zip(&done.stages) {
            mine.merge(other);
        }
        self.lazy.received += done.lazy.received;
        for (code, number) in done.lazy.closed {
            *self.lazy.closed.entry(code).or_default() += number;
        }
        for (code, number) in done.closed {
            *self.closed.entry(code).or_default() += number;
        }
    }

    /// The end is now, and what is under way gets a moment to arrive. The threads go on with their own timeline,
    /// which then only decides what counts as measured.
    pub fn cut_short(&mut self, now_ns: u64) {
        if now_ns < self.timeline.end_ns {
            self.seconds = now_ns.saturating_sub(self.timeline.measure_ns) as f64 / SECOND_NS as f64;
            self.timeline.end_ns = now_ns;
        }
        self.timeline.drain_ns = self.timeline.drain_ns.min(now_ns + CUT_SHORT_DRAIN_NS);
    }

    /// Looks at the server where measuring begins and ends.
    pub fn look_at_server(&mut self, pid: Option<u32>, now_ns: u64) {
        let Some(pid) = pid else { return };
        let look = || probe(pid).map(|probe| (now_ns, probe));
        if self.server.0.is_none() && now_ns >= self.timeline.measure_ns {
            self.server.0 = look();
        }
        if self.server.1.is_none() && now_ns >= self.timeline.end_ns {
            self.server.1 = look();
        }
    }
}

/// Puts everything together, and judges it.
pub fn summarize(
    config: &Config,
    plan: &Plan,
    connecting: Connecting,
    measured: Measured,
    before: Option<Probe>,
) -> Summary {
    let (open, receivers) = (u64::from(connecting.ok()), u64::from(connecting.healthy()));
    let Measured {
        collector,
        tally,
        totals,
        closed,
        seconds,
        interrupted,
        deserted,
        server,
        stages,
        loads,
        lazy,
        ..
    } = measured;
    let samples = collector.total.measured.map(|samples| *samples).unwrap_or_default();
    let broadcast = config.mode == Mode::Broadcast;
    let integrity = integrity(&tally, &totals, config.audience(receivers));
    let target = match config.load {
        Load::Open { rate } => Some(rate),
        _ => None,
    };
    let hottest = |share: fn(&ThreadLoad) -> f64| loads.iter().map(share).fold(0.0, f64::max);
    let (cpu_hottest, wait_hottest) = (hottest(|it| it.cpu), hottest(|it| it.wait));
    let due = if interrupted || deserted || config.arrival == Arrival::Poisson {
        tally.due_measured
    } else {
        target.map_or(0, |rate| (rate * seconds) as u64)
    };
    let evidence = Evidence {
        conns: (u64::from(config.conns), open),
        closed: closed.values().sum(),
        deserted,
        due_and_sent: target.map(|_| (due, tally.sent_measured)),
        late: target.and_then(|_| samples.late.tail()),
        cpu_hottest,
        busy_hottest: hottest(|it| it.cpu + it.wait),
        lost: integrity.lost,
        faulty: totals.duplicate + totals.reordered + tally.corrupt,
        received: (tally.sent_measured > 0).then_some(tally.received_measured),
        interrupted,
    };
    let further = reasons::of_messages(config, &tally, &integrity);
    let (verdict, reasons) = reasons::with(judge(&evidence), further);
    let rates = Rates {
        target,
        sent: tally.sent_measured as f64 / seconds.max(1e-9),
        received: tally.received_measured as f64 / seconds.max(1e-9),
    };
    let server = match (config.server_pid, before, server) {
        (Some(pid), Some(before), (Some((from_ns, start)), Some((to_ns, end)))) => {
            let wall_s = (to_ns - from_ns) as f64 / SECOND_NS as f64;
            Some(Cost::new(pid, &before, &start, &end, wall_s, open))
        }
        _ => None,
    };
    Summary {
        config: config.clone(),
        plan: plan.clone(),
        connecting,
        fanout: broadcast.then_some(Fanout { spans: collector.spans }),
        by_second: collector.seconds,
        stages: StageResult::all(&config.stages, stages, config.warmup, seconds),
        response: samples.response,
        service: samples.service,
        integrity,
        deflate: config
            .deflate
            .then_some(Compression { wire_bytes: tally.wire_bytes, plain_bytes: tally.plain_bytes }),
        rates,
        closed,
        lazy: (config.cohorts.lazy() > 0).then_some(lazy),
        server,
        generator: Generator { cpu_hottest, wait_hottest, late: late(config, samples.late) },
        seconds,
        verdict,
        reasons,
    }
}

/// What became of the messages, each of which should reach `audience` connections.
fn integrity(tally: &Tally, totals: &Totals, audience: u64) -> Integrity {
    let expected = tally.sent * audience;
    Integrity {
        expected,
        received: totals.distinct,
        lost: expected.saturating_sub(totals.distinct + tally.corrupt),
        duplicate: totals.duplicate,
        reordered: totals.reordered,
        corrupt: tally.corrupt,
        foreign: tally.foreign,
        unsent: tally.unsent,
    }
}

/// Lateness means something only where messages have times of their own.
fn late(config: &Config, late: Latencies) -> Option<Latencies> {
    matches!(config.load, Load::Open { .. }).then_some(late)
}
