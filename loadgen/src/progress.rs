//! How a run goes on, on stderr: a bar with a line below it where that is a terminal, and otherwise a plain line every
//! few seconds, for logs.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock::SECOND_NS;
use crate::collect::Interval;
use crate::live::{Live, Look};
use crate::report::format::count;
use crate::schedule::Timeline;

const CONNECTING: &str = "connect [{wide_bar}] {msg}";
/// The message is cut where the terminal ends: a line that wraps could not be taken back.
const RUNNING: &str = "[{wide_bar}] {prefix}\n{wide_msg}";

/// How often a terminal is told.
const TERMINAL_NS: u64 = SECOND_NS;
/// How often a log is.
const LOG_NS: u64 = 5 * SECOND_NS;

/// What is going on, for whoever is watching.
#[derive(Debug)]
pub struct Progress {
    view: View,
    start_ns: u64,
    /// The whole length of warm-up and measurement.
    run_ns: u64,
    live: Live,
}

#[derive(Debug)]
enum View {
    /// Nobody wants to know.
    Off,
    Terminal(ProgressBar),
    /// When the last line was written, if one was.
    Log(Option<u64>),
}

impl Progress {
    /// Shows nothing where it is not wanted.
    pub fn new(wanted: bool) -> Self {
        let view = if !wanted {
            View::Off
        } else if io::stderr().is_terminal() {
            View::Terminal(ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(10)))
        } else {
            View::Log(None)
        };
        Self { view, start_ns: 0, run_ns: 0, live: Live::default() }
    }

    /// So many connections are to be made.
    pub fn connecting(&self, conns: u64) {
        if let View::Terminal(bar) = &self.view {
            style(bar, CONNECTING);
            bar.set_length(conns);
        }
    }

    /// So many are made, so many have failed.
    pub fn connected(&mut self, now_ns: u64, open: u64, failed: u64) {
        let failures = if failed > 0 { format!(", {} failed", count(failed)) } else { String::new() };
        let message = format!("{}{failures}", count(open));
        match &mut self.view {
            View::Off => {}
            View::Terminal(bar) => {
                bar.set_position(open + failed);
                bar.set_message(message);
            }
            View::Log(last) => log(last, now_ns, || format!("connect {message}")),
        }
    }

    /// The load begins.
    pub fn running(&mut self, timeline: &Timeline) {
        self.start_ns = timeline.start_ns;
        self.run_ns = timeline.end_ns - timeline.start_ns;
        self.live = Live::new(timeline.start_ns);
        match &mut self.view {
            View::Off => {}
            View::Terminal(bar) => {
                bar.reset();
                style(bar, RUNNING);
                bar.set_length(self.run_ns / 1_000_000);
                bar.set_prefix("settle");
                bar.set_message("");
            }
            View::Log(last) => *last = Some(timeline.start_ns),
        }
    }

    /// A second is over.
    pub fn second(&mut self, interval: &Interval) {
        if !matches!(self.view, View::Off) {
            self.live.second(interval);
        }
    }

    /// What the counters say now.
    pub fn at(&mut self, look: &Look) {
        let Some(since_ns) = look.now_ns.checked_sub(self.start_ns) else { return };
        match &mut self.view {
            View::Off => {}
            View::Terminal(bar) => {
                bar.set_position(since_ns.min(self.run_ns) / 1_000_000);
                if look.now_ns >= self.live.since_ns() + TERMINAL_NS {
                    let (seen, health) = self.live.at(look);
                    bar.set_prefix(format!("{}  {health}", time(since_ns)));
                    bar.set_message(seen);
                }
            }
            View::Log(last) => {
                log(last, look.now_ns, || {
                    let (seen, health) = self.live.at(look);
                    format!("{:7} {seen}  {health}", time(since_ns))
                });
            }
        }
    }

    /// Takes the bar away, so that others may write.
    pub fn finish(&self) {
        if let View::Terminal(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

/// Writes a line where it is time for one.
fn log(last: &mut Option<u64>, now_ns: u64, line: impl FnOnce() -> String) {
    if now_ns >= last.get_or_insert(now_ns).saturating_add(LOG_NS) {
        *last = Some(now_ns);
        // Where nobody listens any more the run goes on all the same.
        let _ = writeln!(io::stderr(), "{}", line());
    }
}

/// Whole seconds since the load began.
fn time(since_ns: u64) -> String {
    format!("{}s", since_ns / SECOND_NS)
}
