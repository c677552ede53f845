//! What came out of a run, and what it amounts to.

use std::collections::BTreeMap;

use crate::cli::Mode;
use crate::clock::SECOND_NS;
use crate::collect::Collector;
use crate::config::{Config, Load};
use crate::connects::{ConnectCost, ConnectTimes, Fates};
use crate::instrument::Tally;
use crate::ledger::Totals;
use crate::net::control::{Done, Lazy, ThreadLoad};
use crate::plan::Plan;
use crate::reasons;
use crate::record::Latencies;
use crate::report::summary::{
    Compression, Connecting, Fanout, Generator, Integrity, Rates, Summary, Turnover,
};
use crate::schedule::{Arrival, Timeline};
use crate::server::{Cost, Probe, probe};
use crate::stages::{StageResult, Staged};
use crate::verdict::{Evidence, judge};

/// How long messages under way are awaited in a run that was cut short.
const CUT_SHORT_DRAIN_NS: u64 = SECOND_NS;

/// The kernel tells user code from its own in hundredths of a second: of less than this it says nothing.
const SPLIT_S_MIN: f64 = 0.1;

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
    /// What became of connections made during the run.
    pub fates: Fates,
    /// Why the first of them failed.
    pub first_failure: Option<String>,
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

/// What each of `opened` connections cost the server between two looks at it.
pub fn connect_cost(before: Option<Probe>, after: Option<Probe>, opened: u32) -> Option<ConnectCost> {
    let (before, after) = before.zip(after).filter(|_| opened > 0)?;
    let per_conn_us = |from_s: f64, to_s: f64| (to_s - from_s) * 1e6 / f64::from(opened);
    let ticked = after.cpu_s - before.cpu_s >= SPLIT_S_MIN;
    let user_us = ticked.then(|| per_conn_us(before.user_s, after.user_s));
    Some(ConnectCost { cpu_us: per_conn_us(before.cpu_s, after.cpu_s), user_us })
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
            fates: Fates::default(),
            first_failure: None,
            stages: Vec::new(),
            loads: Vec::new(),
            seconds: (timeline.end_ns - timeline.measure_ns) as f64 / SECOND_NS as f64,
            interrupted: false,
            deserted: false,
            server: (None, None),
        }
    }

    /// How connecting went, where that is what was measured. `before` is the server before the first connection.
    pub fn connecting(&mut self, begun: Connecting, config: &Config, before: Option<Probe>) -> Connecting {
        let times = self.collector.total.connects.measured.take().map(|times| *times).unwrap_or_default();
        let last = self.fates.opened_within_ns.max(self.fates.begun_within_ns);
        let it = Connecting {
            open: vec![self.fates.opened as u32],
            times,
            seconds: last as f64 / SECOND_NS as f64,
            target_per_second: config.connect_pace.rate(),
            first_failure: self.first_failure.take(),
            fates: self.fates.clone(),
            ..begun
        };
        let cost = connect_cost(before, self.server.1.map(|(_, probe)| probe), it.ok());
        Connecting { cost, ..it }
    }

    /// A thread has said its last word.
    pub fn done(&mut self, done: Done) {
        self.tally.add(&done.tally);
        self.totals.add(&done.totals);
        self.loads.push(done.load);
        self.fates.add(&done.fates);
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

    /// The largest share that a thread has of what `share` looks at.
    fn hottest(&self, share: fn(&ThreadLoad) -> f64) -> f64 {
        self.loads.iter().map(share).fold(0.0, f64::max)
    }

    /// The share of a core that the threads beside the busiest one used, on average.
    fn cpu_others(&self) -> Option<f64> {
        let others = self.loads.len().checked_sub(1).filter(|others| *others > 0)?;
        let all: f64 = self.loads.iter().map(|it| it.cpu).sum();
        Some((all - self.hottest(|it| it.cpu)) / others as f64)
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
    mut measured: Measured,
    before: Option<Probe>,
) -> Summary {
    let total = std::mem::take(&mut measured.collector.total);
    let times = total.connects.measured.map(|times| *times).unwrap_or_default();
    let samples = total.measured.map(|samples| *samples).unwrap_or_default();
    let audience = config.audience(u64::from(connecting.healthy()));
    let integrity = integrity(&measured.tally, &measured.totals, audience);
    let turnover = turnover(config, &measured.fates, times, measured.seconds);
    let evidence = evidence(config, &connecting, &measured, &integrity, &samples.late);
    let generator = Generator {
        cpu_hottest: measured.hottest(|it| it.cpu),
        wait_hottest: measured.hottest(|it| it.wait),
        late: late(config, samples.late),
    };
    let mut further = reasons::of_messages(config, &measured.tally, &integrity);
    further.extend(reasons::of_connecting(config, &connecting, turnover.as_ref(), generator.cpu_hottest));
    let (verdict, reasons) = reasons::with(judge(&evidence), further);
    Summary {
        config: config.clone(),
        plan: plan.clone(),
        fanout: (config.mode == Mode::Broadcast).then_some(Fanout { spans: measured.collector.spans }),
        by_second: measured.collector.seconds,
        stages: StageResult::all(&config.stages, measured.stages, config.warmup, measured.seconds),
        response: samples.response,
        service: samples.service,
        integrity,
        deflate: config.deflate.then(|| compression(&measured.tally)),
        rates: rates(config, &measured.tally, measured.seconds),
        closed: measured.closed,
        turnover,
        lazy: (config.cohorts.lazy() > 0).then_some(measured.lazy),
        server: server_cost(config, before, measured.server, connecting.ok()),
        connecting,
        generator,
        seconds: measured.seconds,
        verdict,
        reasons,
    }
}

/// What the verdict rests on.
fn evidence(
    config: &Config,
    connecting: &Connecting,
    measured: &Measured,
    integrity: &Integrity,
    late: &Latencies,
) -> Evidence {
    let (tally, connect_only) = (&measured.tally, config.mode == Mode::Connect);
    let target = config.target_rate();
    let cut = measured.interrupted || measured.deserted;
    let due = if cut || config.arrival == Arrival::Poisson {
        tally.due_measured
    } else {
        target.map_or(0, |rate| (rate * measured.seconds) as u64)
    };
    // Who is away cannot send: that is no fault of the generator.
    let away = if config.comes_and_goes() { tally.unsent } else { 0 };
    // A storm takes what a thread can give; whether that was the limit is a reason of its own.
    let judged = |share: f64| if config.measures_a_storm() { 0.0 } else { share };
    Evidence {
        // Where connecting is what is measured, those that failed are a result.
        conns: if connect_only { (1, 1) } else { (u64::from(config.conns), u64::from(connecting.ok())) },
        closed: measured.closed.values().sum(),
        deserted: measured.deserted,
        due_and_sent: target.map(|_| (due.saturating_sub(away), tally.sent_measured)),
        late: target.and_then(|_| late.tail()),
        cpu_hottest: judged(measured.hottest(|it| it.cpu)),
        busy_hottest: judged(measured.hottest(|it| it.cpu + it.wait)),
        cpu_others: measured.cpu_others(),
        lost: integrity.lost,
        faulty: measured.totals.duplicate + measured.totals.reordered + tally.corrupt,
        received: (tally.sent_measured > 0).then_some(tally.received_measured),
        interrupted: measured.interrupted,
    }
}

const fn compression(tally: &Tally) -> Compression {
    Compression { wire_bytes: tally.wire_bytes, plain_bytes: tally.plain_bytes }
}

/// Messages per second over the `seconds` that were measured.
fn rates(config: &Config, tally: &Tally, seconds: f64) -> Rates {
    let per_second = |count: u64| count as f64 / seconds.max(1e-9);
    Rates {
        target: config.target_rate(),
        sent: per_second(tally.sent_measured),
        received: per_second(tally.received_measured),
    }
}

/// What the server used between two looks at it, with `open` connections; `before` is the server without any.
fn server_cost(
    config: &Config,
    before: Option<Probe>,
    looks: (Option<Look>, Option<Look>),
    open: u32,
) -> Option<Cost> {
    let (Some((from_ns, start)), Some((to_ns, end))) = looks else { return None };
    let wall_s = (to_ns - from_ns) as f64 / SECOND_NS as f64;
    Some(Cost::new(config.server_pid?, &before?, &start, &end, wall_s, u64::from(open)))
}

/// Connections that came and went, where they do.
fn turnover(config: &Config, fates: &Fates, times: ConnectTimes, seconds: f64) -> Option<Turnover> {
    if config.mode == Mode::Connect || !config.comes_and_goes() {
        return None;
    }
    let target = config.lifetime.as_ref().map(|it| f64::from(config.conns) / it.mean().as_secs_f64());
    let per_second = |count: u64| count as f64 / seconds.max(1e-9);
    Some(Turnover {
        fates: fates.clone(),
        target_per_second: target,
        begun_per_second: per_second(times.late.count()),
        opened_per_second: per_second(times.upgrade.count()),
        times,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_all_but_the_busiest_thread() {
        let timeline = Timeline { start_ns: 0, measure_ns: 0, end_ns: 1, drain_ns: 1 };
        let mut measured = Measured::new(timeline, 3, 1);
        let mut others = Vec::new();
        for cpu in [0.25, 0.75, 0.125] {
            measured.loads.push(ThreadLoad { cpu, wait: 0.0 });
            others.push(measured.cpu_others());
        }
        assert_eq!(others, [None, Some(0.25), Some(0.1875)]);
    }

    #[test]
    fn what_a_connection_costs() {
        let at = |user_s, cpu_s| Some(Probe { user_s, system_s: 0.0, cpu_s, rss_bytes: 0 });
        let cost = connect_cost(at(1.0, 2.0), at(1.05, 2.2), 1_000).expect("two looks");
        assert!((cost.cpu_us - 200.0).abs() < 1e-6, "{cost:?}");
        assert!(cost.user_us.is_some_and(|us| (us - 50.0).abs() < 1e-6), "{cost:?}");
        let short = connect_cost(at(1.0, 2.0), at(1.01, 2.09), 1_000).expect("two looks");
        assert_eq!(short.user_us, None, "a tick or two");
        assert_eq!(connect_cost(at(1.0, 2.0), at(1.0, 2.0), 0), None);
        assert_eq!(connect_cost(None, at(1.0, 2.0), 5), None);
    }
}
