//! Reasons to doubt a run that lie in what was asked for, beside those of the [verdict](crate::verdict) on the
//! generator.

use crate::config::Config;
use crate::instrument::Tally;
use crate::report::format::count;
use crate::report::summary::Integrity;
use crate::verdict::Verdict;

/// What the messages of a broadcast say about the flags.
pub fn of_messages(config: &Config, tally: &Tally, integrity: &Integrity) -> Vec<(Verdict, String)> {
    let mut out = Vec::new();
    if tally.echoed > 0 {
        let number = count(tally.echoed);
        out.push((Verdict::Suspect, format!("{number} messages came back: leave out --skip-sender")));
    }
    let missing = integrity.expected - integrity.received.min(integrity.expected);
    if config.audience(2) == 2 && missing > 0 && missing == tally.sent {
        let reason = "each message missed one: give --skip-sender if that is the sender".to_owned();
        out.push((Verdict::Suspect, reason));
    }
    out
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
