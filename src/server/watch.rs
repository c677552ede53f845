//! What the log says about connections that are refused, dropped or closed: one line for each kind, and at most one
//! in ten seconds, however many there are.
//!
//! The workers only count. A thread of its own looks at the counters, so that a flood of bad handshakes costs no
//! worker a line. Single events are `debug`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{Level, info, warn};

use crate::metrics::Metrics;
use crate::net::worker::Shared;

/// How often the counters are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// From one line to the next of the same kind.
const QUIET: Duration = Duration::from_secs(10);

/// Counters and what they mean. First what somebody who runs a server has to know, then what peers do to themselves.
const SERIOUS: [(&str, &str); 9] = [
    ("refused_full", "connections turned away (the server is full)"),
    ("refused_memory", "connections turned away (queues hold too much memory; see --queue-total)"),
    ("refused_address", "connections turned away (too many from one address; see --max-conns-per-ip)"),
    ("proxy_headers_invalid", "connections dropped (a trusted proxy sent no PROXY header)"),
    ("accept_errors", "accepts failed (no descriptors or memory)"),
    ("app_panics", "callbacks panicked (their connections are closed with 1011)"),
    ("closed_slow", "connections closed with 1013 (slow consumer)"),
    ("handshakes_no_route", "handshakes refused (no route for their path; see --path)"),
    ("handshakes_foreign_origin", "handshakes refused (page from another origin; see --allow-origin)"),
];
const MINOR: [(&str, &str); 10] = [
    ("refused_stopping", "connections turned away (the server is stopping)"),
    ("tls_failed", "TLS handshakes failed"),
    ("tls_timed_out", "TLS handshakes not finished in time"),
    ("closed_rate", "connections closed (more messages than --message-rate)"),
    ("handshakes_refused", "handshakes refused (malformed)"),
    ("handshakes_rejected", "handshakes refused (by the app)"),
    ("handshakes_timed_out", "handshakes refused (no request in time)"),
    ("closed_protocol", "connections closed (protocol error or limit)"),
    ("closed_unfinished", "connections closed (message not finished in time)"),
    ("closed_silent", "connections closed (no answer to a ping)"),
];

/// The thread that looks.
#[derive(Debug)]
pub(super) struct Watch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts to look; `None` where nobody would read it, now or after a reload (`may_change`), or no thread is to be
    /// had.
    pub(super) fn start(shared: Arc<Shared>, may_change: bool) -> Option<Self> {
        if !may_change && !tracing::enabled!(Level::WARN) {
            return None;
        }
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let body = move || {
            let mut kinds = Kinds::default();
            loop {
                let last = told.load(Ordering::Acquire);
                kinds.look(
                    &Metrics::sum(shared.metrics.iter().map(AsRef::as_ref)),
                    Instant::now(),
                    last,
                    say,
                );
                if last {
                    return;
                }
                thread::park_timeout(LOOK);
            }
        };
        let thread = thread::Builder::new().name("wsd-watch".to_owned()).spawn(body).ok()?;
        Some(Self { ended, thread })
    }

    /// Says what has not been said, and ends.
    pub(super) fn stop(self) {
        self.ended.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}

/// What has been said of each kind.
#[derive(Debug, Default)]
struct Kinds([Kind; SERIOUS.len() + MINOR.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    said: u64,
    at: Option<Instant>,
}

/// One line.
#[derive(Debug, PartialEq)]
struct Line {
    serious: bool,
    what: &'static str,
    count: u64,
    /// Since the line before, in seconds; `None` for the first one.
    within: Option<u64>,
}

impl Kinds {
    /// Says what is new; all of it where this is the `last` time.
    fn look(&mut self, metrics: &Metrics, now: Instant, last: bool, mut say: impl FnMut(&Line)) {
        let all = SERIOUS.iter().map(|kind| (true, kind)).chain(MINOR.iter().map(|kind| (false, kind)));
        for (kind, (serious, (name, what))) in self.0.iter_mut().zip(all) {
            let count = metrics.iter().find(|(counter, _)| counter == name).map_or(0, |(_, count)| count);
            let quiet = kind.at.map(|at| now.saturating_duration_since(at));
            if count > kind.said && (last || quiet.is_none_or(|quiet| quiet >= QUIET)) {
                say(&Line { serious, what, count: count - kind.said, within: quiet.map(|it| it.as_secs()) });
                *kind = Kind { said: count, at: Some(now) };
            }
        }
    }
}

fn say(line: &Line) {
    let Line { serious, what, count, within } = line;
    match (serious, within) {
        (true, None) => warn!(count, "{what}"),
        (true, Some(seconds)) => warn!(count, seconds, "{what}"),
        (false, None) => info!(count, "{what}"),
        (false, Some(seconds)) => info!(count, seconds, "{what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_kind_and_then_quiet() {
        let mut kinds = Kinds::default();
        let start = Instant::now();
        let mut look = |refused, full, seconds, last| {
            let mut lines = Vec::new();
            let metrics = Metrics { handshakes_refused: refused, refused_full: full, ..Metrics::default() };
            kinds.look(&metrics, start + Duration::from_secs(seconds), last, |line| {
                lines.push((line.serious, line.count, line.within));
            });
            lines
        };
        assert_eq!(look(0, 0, 0, false), []);
        assert_eq!(look(3, 0, 1, false), [(false, 3, None)]);
        assert_eq!(look(3, 0, 2, false), [], "nothing new");
        assert_eq!(look(1_207, 1, 10, false), [(true, 1, None)], "9 s after its line the one kind is quiet");
        assert_eq!(look(1_207, 1, 11, false), [(false, 1_204, Some(10))]);
        assert_eq!(look(1_208, 2, 12, true), [(true, 1, Some(2)), (false, 1, Some(1))], "the last word");
    }

    #[test]
    fn every_kind_is_a_counter_and_every_refusal_a_kind() {
        let metrics = Metrics::default();
        let kinds = || SERIOUS.iter().chain(&MINOR).map(|(name, _)| *name);
        for kind in kinds() {
            assert!(metrics.iter().any(|(counter, _)| counter == kind), "{kind}");
        }
        for (counter, _) in metrics.iter() {
            let refusal = counter.starts_with("refused_") || counter.starts_with("handshakes_");
            assert!(!refusal || kinds().any(|kind| kind == counter), "{counter} is not said");
        }
    }
}
