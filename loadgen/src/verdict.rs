//! Whether the run can be believed. The generator judges itself first: a table made by a generator that could
//! not keep up says nothing about the server.

use std::fmt;

use crate::report::format::{count, duration, percent};

/// Send lateness (p99, or the highest quantile that the samples allow) beyond which a run is suspect: latencies of this order are no longer the server's alone.
pub const LATE_SUSPECT_NS: u64 = 10_000_000;
/// Send lateness beyond which a run is invalid.
pub const LATE_INVALID_NS: u64 = 100_000_000;
/// The busiest thread's share of a core from which a run is suspect, and from which it is invalid.
pub const CPU_BOUNDS: (f64, f64) = (0.80, 0.95);
/// The share of the time from which a thread that runs, or waits for a core that others have, makes a run suspect.
pub const BUSY_SUSPECT: f64 = 0.95;
/// The busiest thread uses more than so many times what the others do on average, and the run is suspect: its
/// connections wait for a thread as those of the others do not, and the latencies are of two kinds.
pub const UNEVEN_SUSPECT: f64 = 2.0;
/// But not where no thread runs, or waits for a core, for such a share of the time: then nobody waits for threads.
pub const UNEVEN_BUSY_MIN: f64 = 0.40;
/// The share of the intended rate below which a run is suspect, and below which it is invalid.
pub const RATE_BOUNDS: (f64, f64) = (0.99, 0.95);
/// The share of the wanted connections below which a run is suspect, and below which it is invalid.
pub const CONNS_BOUNDS: (f64, f64) = (1.0, 0.95);

/// How far a run can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The generator kept up and everything arrived.
    Valid,
    /// Read the reasons before the table.
    Suspect,
    /// Not a measurement of the server.
    Invalid,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "VALID",
            Self::Suspect => "SUSPECT",
            Self::Invalid => "INVALID",
        })
    }
}

/// What the verdict rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Connections wanted, and those that were there when the load began.
    pub conns: (u64, u64),
    /// Connections that ended before the run did.
    pub closed: u64,
    /// No connection was left when the run ended.
    pub deserted: bool,
    /// Messages due while measuring, and those of them written in time or late; `None` without an open loop.
    pub due_and_sent: Option<(u64, u64)>,
    /// How late messages were written, and at which quantile; `None` without an open loop.
    pub late: Option<(&'static str, u64)>,
    /// The busiest thread's share of a core while measuring.
    pub cpu_hottest: f64,
    /// The largest share of the time in which a thread ran or waited for a core.
    pub busy_hottest: f64,
    /// The other threads' share of a core, on average; `None` where there is one thread only.
    pub cpu_others: Option<f64>,
    /// Messages expected and not received.
    pub lost: u64,
    /// Messages received twice, too late in order, or damaged.
    pub faulty: u64,
    /// Measured messages received; `None` where nothing is sent.
    pub received: Option<u64>,
    /// The user stopped the run.
    pub interrupted: bool,
}

impl Evidence {
    /// A run that is valid: to be changed where something is known.
    pub const fn nothing_wrong() -> Self {
        Self {
            conns: (1, 1),
            closed: 0,
            deserted: false,
            due_and_sent: None,
            late: None,
            cpu_hottest: 0.0,
            busy_hottest: 0.0,
            cpu_others: None,
            lost: 0,
            faulty: 0,
            received: None,
            interrupted: false,
        }
    }
}

/// Judges a run, and says why it is not valid.
pub fn judge(evidence: &Evidence) -> (Verdict, Vec<String>) {
    let mut reasons = Vec::new();
    let mut worst = Verdict::Valid;
    let mut note = |verdict: Verdict, reason: String| {
        worst = worst.max(verdict);
        reasons.push(reason);
    };

    let (wanted, reached) = evidence.conns;
    if let Some(verdict) = below(reached as f64 / wanted.max(1) as f64, CONNS_BOUNDS) {
        note(verdict, format!("{} of {} connections", count(reached), count(wanted)));
    }
    if let Some((quantile, ns)) = evidence.late.filter(|&(_, ns)| ns > LATE_SUSPECT_NS) {
        let verdict = if ns > LATE_INVALID_NS { Verdict::Invalid } else { Verdict::Suspect };
        note(verdict, format!("messages sent {} late ({quantile})", duration(ns)));
    }
    let (suspect, invalid) = CPU_BOUNDS;
    if evidence.cpu_hottest >= suspect {
        let verdict = if evidence.cpu_hottest >= invalid { Verdict::Invalid } else { Verdict::Suspect };
        note(verdict, format!("a generator thread was busy {} of the time", percent(evidence.cpu_hottest)));
    } else if evidence.busy_hottest >= BUSY_SUSPECT {
        let share = percent(evidence.busy_hottest);
        note(Verdict::Suspect, format!("a generator thread ran or waited for a core {share} of the time"));
    }
    if let Some(others) = evidence.cpu_others
        && evidence.busy_hottest >= UNEVEN_BUSY_MIN
        && evidence.cpu_hottest > UNEVEN_SUSPECT * others
    {
        let (hottest, others) = (percent(evidence.cpu_hottest), percent(others));
        note(Verdict::Suspect, format!("a generator thread used {hottest} of a core, the others {others}"));
    }
    if let Some((due, sent)) = evidence.due_and_sent {
        let share = sent as f64 / due.max(1) as f64;
        if let Some(verdict) = below(share, RATE_BOUNDS).filter(|_| due > 0) {
            note(verdict, format!("sent {} of the intended messages", percent(share)));
        }
    }
    if evidence.received == Some(0) {
        note(Verdict::Invalid, "no message came back: is this the right path for --mode?".to_owned());
    }
    if evidence.lost > 0 {
        note(Verdict::Suspect, format!("{} messages lost", count(evidence.lost)));
    }
    if evidence.faulty > 0 {
        let number = count(evidence.faulty);
        note(Verdict::Suspect, format!("{number} messages duplicate, reordered or corrupt"));
    }
    if evidence.deserted {
        note(Verdict::Invalid, "every connection ended before the run did".to_owned());
    } else if evidence.closed > 0 {
        note(Verdict::Suspect, format!("{} connections ended early", count(evidence.closed)));
    }
    if evidence.interrupted {
        note(Verdict::Suspect, "interrupted: results so far".to_owned());
    }
    (worst, reasons)
}

fn below(value: f64, (suspect, invalid): (f64, f64)) -> Option<Verdict> {
    if value < invalid {
        Some(Verdict::Invalid)
    } else if value < suspect {
        Some(Verdict::Suspect)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Evidence = Evidence {
        conns: (100, 100),
        closed: 0,
        deserted: false,
        due_and_sent: Some((1_000, 1_000)),
        late: Some(("p99", 50_000)),
        cpu_hottest: 0.4,
        busy_hottest: 0.5,
        cpu_others: Some(0.4),
        lost: 0,
        faulty: 0,
        received: Some(1_000),
        interrupted: false,
    };

    #[test]
    fn a_generator_that_kept_up_is_valid() {
        assert_eq!(judge(&GOOD), (Verdict::Valid, vec![]));
        let idle = Evidence { due_and_sent: None, late: None, received: None, ..GOOD };
        assert_eq!(judge(&idle), (Verdict::Valid, vec![]));
    }

    #[test]
    fn each_reason_has_its_bounds() {
        let late = |ns| Evidence { late: Some(("p99", ns)), ..GOOD };
        let cpu = |cpu_hottest| Evidence { cpu_hottest, ..GOOD };
        let rate = |sent| Evidence { due_and_sent: Some((1_000, sent)), ..GOOD };
        let conns = |reached| Evidence { conns: (1_000, reached), ..GOOD };
        let cases = [
            (late(10_000_000), Verdict::Valid),
            (late(10_000_001), Verdict::Suspect),
            (late(100_000_000), Verdict::Suspect),
            (late(100_000_001), Verdict::Invalid),
            (cpu(0.79), Verdict::Valid),
            (cpu(0.80), Verdict::Suspect),
            (cpu(0.95), Verdict::Invalid),
            (Evidence { busy_hottest: 0.94, ..GOOD }, Verdict::Valid),
            (Evidence { busy_hottest: 0.95, ..GOOD }, Verdict::Suspect),
            (Evidence { cpu_others: Some(0.20), ..GOOD }, Verdict::Valid),
            (Evidence { cpu_others: Some(0.19), ..GOOD }, Verdict::Suspect),
            (Evidence { cpu_others: Some(0.0), busy_hottest: 0.40, ..GOOD }, Verdict::Suspect),
            (Evidence { cpu_others: Some(0.0), busy_hottest: 0.39, ..GOOD }, Verdict::Valid),
            (Evidence { cpu_others: None, ..GOOD }, Verdict::Valid),
            (rate(990), Verdict::Valid),
            (rate(989), Verdict::Suspect),
            (rate(949), Verdict::Invalid),
            (conns(999), Verdict::Suspect),
            (conns(949), Verdict::Invalid),
            (Evidence { lost: 1, ..GOOD }, Verdict::Suspect),
            (Evidence { faulty: 1, ..GOOD }, Verdict::Suspect),
            (Evidence { closed: 1, ..GOOD }, Verdict::Suspect),
            (Evidence { closed: 100, deserted: true, ..GOOD }, Verdict::Invalid),
            (Evidence { interrupted: true, ..GOOD }, Verdict::Suspect),
            (Evidence { received: Some(0), ..GOOD }, Verdict::Invalid),
        ];
        for (evidence, expected) in cases {
            let (verdict, reasons) = judge(&evidence);
            assert_eq!(verdict, expected, "{evidence:?}");
            assert_eq!(reasons.is_empty(), expected == Verdict::Valid, "{reasons:?}");
        }
    }

    #[test]
    fn the_worst_reason_decides_and_all_are_told() {
        let (verdict, reasons) = judge(&Evidence { lost: 2_500, late: Some(("p90", 200_000_000)), ..GOOD });
        assert_eq!(verdict, Verdict::Invalid);
        assert_eq!(reasons, ["messages sent 200ms late (p90)", "2,500 messages lost"]);
    }
}
