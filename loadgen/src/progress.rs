//! The progress bar: on stderr, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock::SECOND_NS;
use crate::report::format::count;
use crate::schedule::Timeline;

const TEMPLATE: &str = "{prefix:9} [{wide_bar}] {msg}";

/// What is going on, for whoever is watching.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    start_ns: u64,
    last: (u64, u64, u64),
}

impl Progress {
    /// A bar, or nothing where it is not wanted or nobody sees it.
    pub fn new(wanted: bool) -> Self {
        // indicatif draws nothing where stderr is no terminal.
        let target =
            if wanted { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, start_ns: 0, last: (0, 0, 0) }
    }

    /// So many connections are to be made.
    pub fn connecting(&self, conns: u64) {
        self.bar.set_prefix("connect");
        self.bar.set_length(conns);
    }

    /// So many are made, so many have failed.
    pub fn connected(&self, open: u64, failed: u64) {
        self.bar.set_position(open + failed);
        let failed = if failed > 0 { format!(", {} failed", count(failed)) } else { String::new() };
        self.bar.set_message(format!("{}{failed}", count(open)));
    }

    /// The load begins.
    pub fn running(&mut self, timeline: &Timeline) {
        self.start_ns = timeline.start_ns;
        self.bar.reset();
        self.bar.set_length((timeline.end_ns - timeline.start_ns) / 1_000_000);
        self.bar.set_position(0);
        self.bar.set_prefix("settle");
        self.bar.set_message("");
        self.last = (timeline.start_ns, 0, 0);
    }

    /// So much has been sent and has arrived.
    pub fn at(&mut self, now_ns: u64, sent: u64, arrived: u64) {
        let Some(since_ns) = now_ns.checked_sub(self.start_ns) else { return };
        self.bar.set_position(since_ns / 1_000_000);
        let (last_ns, last_sent, last_arrived) = self.last;
        if now_ns >= last_ns + SECOND_NS {
            let per_second = |now: u64, last: u64| {
                count(((now - last) as f64 * SECOND_NS as f64 / (now_ns - last_ns) as f64).round() as u64)
            };
            self.bar.set_prefix("run");
            let (out, back) = (per_second(sent, last_sent), per_second(arrived, last_arrived));
            self.bar.set_message(format!("{out}/s out, {back}/s in"));
            self.last = (now_ns, sent, arrived);
        }
    }

    /// Takes the bar away, so that others may write.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
