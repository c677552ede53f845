//! How connecting and closing went: times and fates, without the sockets.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::record::Latencies;

/// How fast connections are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ConnectPace {
    /// As fast as the server takes them, with few handshakes under way at a time.
    Gentle,
    /// So many per second, each at its own time, whatever the server does.
    Rate(f64),
    /// All at once.
    Storm,
}

impl ConnectPace {
    /// Connections per second, where that was asked for.
    pub const fn rate(self) -> Option<f64> {
        match self {
            Self::Rate(rate) => Some(rate),
            Self::Gentle | Self::Storm => None,
        }
    }

    /// How long it takes to ask for `conns` connections, as far as that follows from the flags.
    pub fn span(self, conns: u32) -> Duration {
        self.rate().map_or(Duration::ZERO, |rate| Duration::from_secs_f64(f64::from(conns) / rate))
    }
}

/// The times of connections, counted from when they were to begin (or to end).
#[derive(Clone, Debug, Default)]
pub struct ConnectTimes {
    /// To the end of `connect`: the kernels on both sides.
    pub tcp: Latencies,
    /// To the verified answer: the server as well.
    pub upgrade: Latencies,
    /// From the end of a connection's life to the server's Close.
    pub close: Latencies,
    /// To the call of `connect`: what the generator itself was late.
    pub late: Latencies,
}

impl ConnectTimes {
    /// Adds those of another thread or second.
    pub fn merge(&mut self, other: &Self) {
        self.tcp.merge(&other.tcp);
        self.upgrade.merge(&other.upgrade);
        self.close.merge(&other.close);
        self.late.merge(&other.late);
    }
}

/// The times of one second, those of the warm-up apart.
#[derive(Debug)]
pub struct ConnectSlice {
    /// What is measured: from the first, up to the second.
    window_ns: (u64, u64),
    /// Connections that were due in the warm-up, or too late.
    pub warmup: Option<Box<ConnectTimes>>,
    /// Connections that were due while measuring.
    pub measured: Option<Box<ConnectTimes>>,
}

impl Default for ConnectSlice {
    fn default() -> Self {
        Self { window_ns: (0, u64::MAX), warmup: None, measured: None }
    }
}

impl ConnectSlice {
    /// For a run that measures from the one time to the other.
    pub fn measuring(from_ns: u64, to_ns: u64) -> Self {
        Self { window_ns: (from_ns, to_ns), ..Self::default() }
    }

    /// Where to record a connection that was due at `intended_ns`.
    pub fn of(&mut self, intended_ns: u64) -> &mut ConnectTimes {
        let (from_ns, to_ns) = self.window_ns;
        let measured = from_ns <= intended_ns && intended_ns < to_ns;
        let part = if measured { &mut self.measured } else { &mut self.warmup };
        part.get_or_insert_default()
    }

    /// What there is so far; the window stays.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let (warmup, measured) = (self.warmup.take(), self.measured.take());
        Self { window_ns: self.window_ns, warmup, measured }
    }

    /// Adds what another thread has.
    pub fn merge(&mut self, other: Self) {
        for (mine, other) in [(&mut self.warmup, other.warmup), (&mut self.measured, other.measured)] {
            match (mine.as_mut(), other) {
                (Some(mine), Some(other)) => mine.merge(&other),
                (None, other) => *mine = other,
                (Some(_), None) => {}
            }
        }
    }
}

/// What became of connections, over the whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Connections asked for, each attempt counted.
    pub begun: u64,
    /// Connections whose handshake was completed and verified.
    pub opened: u64,
    /// Those that failed, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Lives that ended.
    pub left: u64,
    /// Of those, the ones whose Close the server answered.
    pub clean: u64,
    /// Those whose Close it did not answer in time.
    pub unclean: u64,
    /// Lives that ended before their connection was open.
    pub missed: u64,
    /// Reconnects that waited as long as the server's Close had asked for.
    pub hinted: u64,
    /// From the first `connect` to the last.
    pub begun_within_ns: u64,
    /// From the first `connect` to the last answer.
    pub opened_within_ns: u64,
}

impl Fates {
    /// Adds those of another thread.
    pub fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.opened += other.opened;
        for (reason, number) in &other.failed {
            *self.failed.entry(reason.clone()).or_default() += number;
        }
        self.left += other.left;
        self.clean += other.clean;
        self.unclean += other.unclean;
        self.missed += other.missed;
        self.hinted += other.hinted;
        self.begun_within_ns = self.begun_within_ns.max(other.begun_within_ns);
        self.opened_within_ns = self.opened_within_ns.max(other.opened_within_ns);
    }

    /// Attempts that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Attempts that failed in this way.
    pub fn failures_by(&self, kind: FailureKind) -> u64 {
        let of_kind = self.failed.iter().filter(|(reason, _)| FailureKind::of(reason) == kind);
        of_kind.map(|(_, number)| number).sum()
    }
}

/// In which way connecting failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Nobody listens, or the host says no.
    Refused,
    /// The server hung up before it had answered.
    Reset,
    /// No answer in time.
    TimedOut,
    /// An answer, but not that of a WebSocket server that takes us.
    Handshake,
    /// The generator's own machine gave no port or descriptor, or the user had enough.
    Local,
}

impl FailureKind {
    /// All there are, with their keys in the JSON.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Refused, "refused"),
        (Self::Reset, "reset"),
        (Self::TimedOut, "timed_out"),
        (Self::Handshake, "handshake"),
        (Self::Local, "local"),
    ];

    /// The kind of a counted reason.
    pub fn of(reason: &str) -> Self {
        match reason {
            "connection refused" | "unreachable" => Self::Refused,
            "connection reset" | "closed before the answer" => Self::Reset,
            "timed out" => Self::TimedOut,
            "no source port left" | "interrupted" => Self::Local,
            // As `std::io::Error` writes what has no name above.
            system if system.contains("(os error ") => Self::Local,
            _ => Self::Handshake,
        }
    }
}

/// What a connection costs the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConnectCost {
    /// Processor time per accepted connection, in microseconds.
    pub cpu_us: f64,
    /// The part of it in user code, where there was enough of both to tell.
    pub user_us: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_of_a_pace() {
        assert_eq!(ConnectPace::Rate(500.0).span(2_000), Duration::from_secs(4));
        assert_eq!((ConnectPace::Storm.span(9), ConnectPace::Gentle.rate()), (Duration::ZERO, None));
    }

    #[test]
    fn the_window_decides_what_is_measured() {
        let mut slice = ConnectSlice::measuring(100, 200);
        for intended_ns in [99, 100, 199, 200] {
            slice.of(intended_ns).upgrade.record(7);
        }
        let mut sum = slice.take();
        assert!(slice.measured.is_none());
        slice.of(150).upgrade.record(9);
        sum.merge(slice);
        let (warmup, measured) = (sum.warmup.expect("two"), sum.measured.expect("three"));
        assert_eq!((warmup.upgrade.count(), measured.upgrade.count()), (2, 3));
        assert_eq!(measured.upgrade.max_ns(), Some(9));
    }

    #[test]
    fn failures_by_kind() {
        let mut fates = Fates::default();
        let reasons = [
            "connection refused",
            "closed before the answer",
            "connection reset",
            "timed out",
            "the server answered with status 503",
            "no source port left",
            "Too many open files (os error 24)",
        ];
        for reason in reasons {
            fates.failed.insert(reason.to_owned(), 2);
        }
        let mut sum = fates.clone();
        sum.add(&fates);
        let kinds: Vec<u64> = FailureKind::ALL.iter().map(|(kind, _)| sum.failures_by(*kind)).collect();
        assert_eq!((sum.failures(), kinds), (28, vec![4, 8, 4, 4, 8]));
    }
}
