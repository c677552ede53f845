//! Reasons to doubt a run that lie in what was asked for, beside those of the [verdict](crate::verdict) on the
//! generator.

use crate::cli::Mode;
use crate::config::Config;
use crate::connects::{ConnectTimes, FailureKind, Fates};
use crate::instrument::Tally;
use crate::report::format::{count, duration};
use crate::report::summary::{Connecting, Integrity, Turnover};
use crate::verdict::{CPU_BOUNDS, LATE_INVALID_NS, LATE_SUSPECT_NS, Verdict};

/// What the messages of a broadcast say about the flags.
pub fn of_messages(config: &Config, tally: &Tally, integrity: &Integrity) -> Vec<(Verdict, String)> {
    let mut out = Vec::new();
    if tally.echoed > 0 {
        let number = count(tally.echoed);
        out.push((Verdict::Suspect, format!("{number} messages came back: leave out --skip-sender")));
    }
    if config.comes_and_goes() && tally.unsent > 0 {
        let number = count(tally.unsent);
        out.push((Verdict::Suspect, format!("{number} messages were due while their senders were away")));
    }
    let missing = integrity.expected - integrity.received.min(integrity.expected);
    if config.audience(2) == 2 && missing > 0 && missing == tally.sent {
        let reason = "each message missed one: give --skip-sender if that is the sender".to_owned();
        out.push((Verdict::Suspect, reason));
    }
    out
}

/// What connections say that were made while measuring, where any were. `cpu_hottest` is the busiest thread's share
/// of a core.
pub fn of_connecting(
    config: &Config,
    connecting: &Connecting,
    turnover: Option<&Turnover>,
    cpu_hottest: f64,
) -> Vec<(Verdict, String)> {
    if config.mode == Mode::Connect {
        let mut out = of_connects(&connecting.fates, &connecting.times);
        out.extend(of_storm(config.measures_a_storm(), cpu_hottest));
        return out;
    }
    turnover.map(|it| of_connects(&it.fates, &it.times)).unwrap_or_default()
}

/// What connections that were made say about both sides.
fn of_connects(fates: &Fates, times: &ConnectTimes) -> Vec<(Verdict, String)> {
    let mut out = Vec::new();
    let local = fates.failures_by(FailureKind::Local);
    if local > 0 {
        out.push((Verdict::Invalid, format!("{} connections failed on this side", count(local))));
    }
    let failed = fates.failures() - local;
    if failed > 0 {
        // Nothing was measured where nobody came in.
        let verdict = if fates.opened == 0 { Verdict::Invalid } else { Verdict::Suspect };
        let reason = format!("{} of {} connections failed", count(failed), count(fates.begun));
        out.push((verdict, reason));
    }
    if let Some((quantile, ns)) = times.late.tail().filter(|&(_, ns)| ns > LATE_SUSPECT_NS) {
        let verdict = if ns > LATE_INVALID_NS { Verdict::Invalid } else { Verdict::Suspect };
        out.push((verdict, format!("connections begun {} late ({quantile})", duration(ns))));
    }
    if fates.unclean > 0 {
        let number = count(fates.unclean);
        out.push((Verdict::Suspect, format!("{number} closes were not answered")));
    }
    if fates.missed > 0 {
        let number = count(fates.missed);
        out.push((Verdict::Suspect, format!("{number} lives ended before their connection was open")));
    }
    out
}

/// A storm that a thread of ours could not make faster.
fn of_storm(storm: bool, cpu_hottest: f64) -> Option<(Verdict, String)> {
    let busy = storm && cpu_hottest >= CPU_BOUNDS.1;
    busy.then(|| (Verdict::Suspect, "the storm was as fast as this generator can make it".to_owned()))
}

/// A verdict and its reasons, with further ones.
pub fn with(
    (mut verdict, mut reasons): (Verdict, Vec<String>),
    further: Vec<(Verdict, String)>,
) -> (Verdict, Vec<String>) {
    for (worse, reason) in further {
        verdict = verdict.max(worse);
        reasons.push(reason);
    }
    (verdict, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_of_connections_has_its_weight() {
        let fates = |reason: &str, opened| {
            let mut fates = Fates { begun: 10, opened, ..Fates::default() };
            fates.failed.insert(reason.to_owned(), 1);
            fates
        };
        let (none, mut late) = (ConnectTimes::default(), ConnectTimes::default());
        assert_eq!(of_connects(&Fates::default(), &none), []);
        let cases = [
            (fates("timed out", 9), Verdict::Suspect),
            (fates("timed out", 0), Verdict::Invalid),
            (fates("no source port left", 9), Verdict::Invalid),
            (Fates { unclean: 1, ..Fates::default() }, Verdict::Suspect),
            (Fates { missed: 1, ..Fates::default() }, Verdict::Suspect),
        ];
        for (fates, expected) in cases {
            let [(verdict, _)] = &of_connects(&fates, &none)[..] else { panic!("one reason: {fates:?}") };
            assert_eq!(*verdict, expected, "{fates:?}");
        }
        late.late.record(LATE_SUSPECT_NS);
        assert_eq!(of_connects(&Fates::default(), &late), []);
        for (ns, expected) in
            [(LATE_SUSPECT_NS + 1, Verdict::Suspect), (LATE_INVALID_NS + 1, Verdict::Invalid)]
        {
            late.late.record(ns);
            assert_eq!(of_connects(&Fates::default(), &late)[0].0, expected);
        }
        assert!(
            of_storm(true, 0.96).is_some() && of_storm(true, 0.9).is_none() && of_storm(false, 1.0).is_none()
        );
    }
}
