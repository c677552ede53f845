//! The result of one run, before it is put into words.

use std::collections::BTreeMap;

use crate::cli::Mode;
use crate::clock::SECOND_NS;
use crate::collect::Spans;
use crate::config::Config;
use crate::connects::{ConnectCost, ConnectTimes, Fates};
use crate::net::control::Lazy;
use crate::plan::Plan;
use crate::record::Latencies;
use crate::seconds::Second;
use crate::server::Cost;
use crate::stages::StageResult;
use crate::verdict::Verdict;

/// Everything that is reported of a run.
#[derive(Debug)]
pub struct Summary {
    /// What was asked for.
    pub config: Config,
    /// How it was done.
    pub plan: Plan,
    /// How connecting went.
    pub connecting: Connecting,
    /// Intended to received; in a broadcast, each delivery.
    pub response: Latencies,
    /// Written to received.
    pub service: Latencies,
    /// Whole messages of a broadcast.
    pub fanout: Option<Fanout>,
    /// The same second by second, warm-up included.
    pub by_second: Vec<Second>,
    /// The stages of the load, where it has any.
    pub stages: Vec<StageResult>,
    /// What arrived, and how.
    pub integrity: Integrity,
    /// Connections that came and went, where they do.
    pub turnover: Option<Turnover>,
    /// What compression came to, where it was offered.
    pub deflate: Option<Compression>,
    /// Messages per second.
    pub rates: Rates,
    /// Connections that ended early, by close code.
    pub closed: BTreeMap<u16, u64>,
    /// What those came to that do not read as they should, where there are any.
    pub lazy: Option<Lazy>,
    /// What it cost the server.
    pub server: Option<Cost>,
    /// What it cost the generator.
    pub generator: Generator,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// How far all this can be believed.
    pub verdict: Verdict,
    /// Why no further.
    pub reasons: Vec<String>,
}

impl Summary {
    /// What a distribution is drawn of: response times, or where nothing is sent, what connecting took.
    pub fn main_times(&self) -> &Latencies {
        match (&self.turnover, self.config.mode) {
            (_, Mode::Connect | Mode::Idle) => &self.connecting.times.upgrade,
            (Some(turnover), Mode::Churn) if self.response.count() == 0 => &turnover.times.upgrade,
            _ => &self.response,
        }
    }
}

/// How connecting went.
#[derive(Debug, Default)]
pub struct Connecting {
    /// Connections wanted.
    pub target: u32,
    /// Open connections that read as they should, per thread.
    pub open: Vec<u32>,
    /// Open connections that do not.
    pub lazy: u32,
    /// What became of the connections.
    pub fates: Fates,
    /// The first reason.
    pub first_failure: Option<String>,
    /// From the first `connect` to the last answer.
    pub seconds: f64,
    /// How long each took, from `connect`, or from when it was due where a rate was given.
    pub times: ConnectTimes,
    /// Connections per second, where that was asked for.
    pub target_per_second: Option<f64>,
    /// What they cost the server.
    pub cost: Option<ConnectCost>,
}

/// Connections that came and went during the run.
#[derive(Debug)]
pub struct Turnover {
    /// What became of them, warm-up included.
    pub fates: Fates,
    /// How long each that was due while measuring took, from when it was due.
    pub times: ConnectTimes,
    /// Connections per second that follow from their lifetime.
    pub target_per_second: Option<f64>,
    /// Connections per second that were asked for, while measuring.
    pub begun_per_second: f64,
    /// Connections per second that were opened, of those due while measuring.
    pub opened_per_second: f64,
}

impl Connecting {
    /// Open connections.
    pub fn ok(&self) -> u32 {
        self.healthy() + self.lazy
    }

    /// Connects per second, from the first to the last.
    pub fn begun_per_second(&self) -> f64 {
        // Intervals, not posts.
        let (count, ns) = (self.fates.begun.saturating_sub(1), self.fates.begun_within_ns);
        if ns == 0 { 0.0 } else { count as f64 * SECOND_NS as f64 / ns as f64 }
    }

    /// Connections opened per second, from the first connect to the last answer.
    pub fn opened_per_second(&self) -> f64 {
        f64::from(self.ok()) / self.seconds.max(1e-9)
    }

    /// Open connections that read as they should: those that send and are timed.
    pub fn healthy(&self) -> u32 {
        self.open.iter().sum()
    }
}

/// The figures of whole broadcast messages; those of each delivery are the response times.
#[derive(Debug)]
pub struct Fanout {
    /// First receiver, last receiver, and the time between.
    pub spans: Spans,
}

/// What arrived, and how: over the whole run, warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Deliveries that the messages sent should have led to.
    pub expected: u64,
    /// Intact deliveries, each counted once.
    pub received: u64,
    /// Neither received nor corrupt.
    pub lost: u64,
    /// Received again.
    pub duplicate: u64,
    /// Received after a later message of the same sender.
    pub reordered: u64,
    /// Received with a wrong checksum.
    pub corrupt: u64,
    /// Messages of others, such as greetings.
    pub foreign: u64,
    /// Messages that could not be written.
    pub unsent: u64,
}

/// What compression came to, over all received messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Bytes of payload as they travelled.
    pub wire_bytes: u64,
    /// The same, unpacked.
    pub plain_bytes: u64,
}

impl Compression {
    /// How many times smaller it was on the wire; `None` where nothing was received.
    pub fn ratio(&self) -> Option<f64> {
        (self.wire_bytes > 0).then(|| self.plain_bytes as f64 / self.wire_bytes as f64)
    }
}

/// Messages per second, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Asked for; `None` in a closed loop.
    pub target: Option<f64>,
    /// Written.
    pub sent: f64,
    /// Received.
    pub received: f64,
}

/// What the run cost the generator.
#[derive(Debug)]
pub struct Generator {
    /// The busiest thread's share of a core.
    pub cpu_hottest: f64,
    /// The largest share of the time in which a thread was ready to run and had no core.
    pub wait_hottest: f64,
    /// Intended to written; `None` where messages have no times of their own.
    pub late: Option<Latencies>,
}
