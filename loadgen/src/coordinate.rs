//! The phases of a run, from the coordinating thread: connect, settle, load, drain.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::backoff::Reconnect;
use crate::cli::Mode;
use crate::clock::{SECOND_NS, monotonic_ns};
use crate::collect::Interval;
use crate::config::Config;
use crate::crew::Crew;
use crate::live::Look;
use crate::net::control::{Command, Counters, Report, Start};
use crate::outcome::Measured;
use crate::progress::Progress;
use crate::report::hlog::HlogWriter;
use crate::report::summary::Connecting;
use crate::run::Failure;
use crate::schedule::{Timeline, shuffled};

/// How often the coordinator looks at clocks and counters.
const TICK: Duration = Duration::from_millis(20);
/// From the settled state to the first message: time for all threads to hear of it.
const LEAD_NS: u64 = 20_000_000;
/// When everything has arrived, a duplicate may still be on its way.
const LINGER_NS: u64 = 200_000_000;

/// Tells the threads when to do what and collects what they measured; never touches a connection.
#[derive(Debug)]
pub struct Coordinator<'a> {
    config: &'a Config,
    interrupted: &'a AtomicBool,
    crew: Crew,
    progress: Progress,
}

impl<'a> Coordinator<'a> {
    /// For threads that have begun to connect.
    pub const fn new(
        config: &'a Config,
        interrupted: &'a AtomicBool,
        crew: Crew,
        progress: Progress,
    ) -> Self {
        Self { config, interrupted, crew, progress }
    }

    /// Opens the connections.
    ///
    /// # Errors
    /// None could be opened.
    pub fn dial(&mut self) -> Result<Connecting, Failure> {
        let begin_ns = monotonic_ns();
        let open = vec![0; self.crew.threads() as usize];
        let mut connecting = Connecting { target: self.config.conns, open, ..Connecting::default() };
        let mut reports = 0;
        self.progress.connecting(u64::from(self.config.conns));
        while reports < self.crew.threads() {
            match self.receive(0)? {
                Some(Report::Dialed(dialed)) => {
                    reports += 1;
                    connecting.open[dialed.thread as usize] = dialed.open;
                    connecting.lazy += dialed.lazy;
                    connecting.times.merge(&dialed.times);
                    connecting.fates.add(&dialed.fates);
                }
                Some(Report::FirstFailure(reason)) => {
                    connecting.first_failure.get_or_insert(reason);
                }
                _ => {}
            }
            let board = self.crew.board();
            let (open, failed) = (board.sum(|it| &it.open), board.sum(|it| &it.failed));
            self.progress.connected(monotonic_ns(), open, failed);
            let hopeless = open == 0 && failed >= u64::from(self.config.conns.min(16));
            if self.interrupted.load(Ordering::Relaxed) || hopeless {
                break;
            }
        }
        connecting.seconds = (monotonic_ns() - begin_ns) as f64 / SECOND_NS as f64;
        self.progress.finish();
        // Where connecting is what is measured it has not begun.
        if connecting.ok() == 0 && self.config.mode != Mode::Connect {
            return Err(self.unreachable(&connecting));
        }
        Ok(connecting)
    }

    /// Why no connection could be opened.
    pub fn unreachable(&self, connecting: &Connecting) -> Failure {
        Failure::Broken(if self.interrupted.load(Ordering::Relaxed) {
            "interrupted while connecting: there is nothing to report".to_owned()
        } else {
            unreachable_line(self.config, connecting.first_failure.as_deref())
        })
    }

    /// Settles, loads, measures and drains.
    ///
    /// # Errors
    /// A thread or the log gave out.
    pub fn load(
        &mut self,
        dialed: &Connecting,
        mut hlog: Option<&mut HlogWriter>,
    ) -> Result<Measured, Failure> {
        // Each message of a broadcast is expected at every connection.
        let audience = self.config.audience(u64::from(dialed.healthy()));
        let timeline = self.start(dialed);
        let mut measured = Measured::new(timeline, self.crew.threads(), audience);
        let mut ending = Ending::default();
        while measured.loads.len() < self.crew.threads() as usize {
            if let Some(report) = self.receive(measured.loads.len())? {
                self.take(report, &mut measured, hlog.as_deref_mut())?;
            }
            self.look(&mut measured, audience, &mut ending);
        }
        for interval in measured.collector.finish() {
            log(hlog.as_deref_mut(), &interval)?;
        }
        self.progress.finish();
        Ok(measured)
    }

    /// Tells the threads when to do what, and who of them sends.
    fn start(&mut self, dialed: &Connecting) -> Timeline {
        let timeline = timeline(self.config, monotonic_ns());
        let open = dialed.healthy();
        let senders = if self.config.mode == Mode::Broadcast { self.config.senders.min(open) } else { open };
        for (thread, slots) in deal(senders, &dialed.open, self.config.seed).into_iter().enumerate() {
            Counters::set(&self.crew.board().of(thread as u32).sending, 1);
            self.crew.tell(thread, Command::Start(Start { timeline, senders, slots }));
        }
        self.progress.running(&timeline);
        timeline
    }

    /// Keeps what a thread reports.
    fn take(
        &mut self,
        report: Report,
        measured: &mut Measured,
        hlog: Option<&mut HlogWriter>,
    ) -> Result<(), Failure> {
        match report {
            Report::Second { number, slice, parts } => {
                if let Some(interval) = measured.collector.add(number, slice, parts) {
                    self.progress.second(&interval);
                    log(hlog, &interval)?;
                }
            }
            Report::Done(done) => measured.done(*done),
            Report::FirstFailure(reason) => {
                measured.first_failure.get_or_insert(reason);
            }
            Report::Dialed(_) | Report::Broken(_) => {}
        }
        Ok(())
    }

    /// Looks at clock and counters: shows them, and decides whether the run goes on.
    fn look(&mut self, measured: &mut Measured, audience: u64, ending: &mut Ending) {
        let now_ns = monotonic_ns();
        measured.look_at_server(self.config.server_pid, now_ns);
        let board = self.crew.board();
        // In this order: what is no longer to be sent has been counted as sent.
        let sending = board.sum(|it| &it.sending) > 0;
        let look = Look {
            now_ns,
            conns: board.sum(|it| &it.open),
            sent: board.sum(|it| &it.sent),
            arrived: board.sum(|it| &it.arrived),
            missing: board.sum(|it| &it.missing),
            cpu_hottest: board.max(|it| &it.busy_permille) as f64 / 1e3,
        };
        self.progress.at(&look);
        if self.interrupted.load(Ordering::Relaxed) && !measured.interrupted {
            measured.interrupted = true;
            measured.cut_short(now_ns);
            self.crew.tell_all(|| Command::Stop);
        }
        if self.stays() && look.conns == 0 && now_ns < measured.timeline.end_ns {
            measured.deserted = true;
            measured.cut_short(now_ns);
        }
        if self.config.mode == Mode::Connect && !sending {
            measured.cut_short(now_ns);
        }
        if ending.is_late(now_ns, &measured.timeline) {
            self.crew.tell_all(|| Command::Stop);
        }
        if ending.is_now(now_ns, measured, !sending && look.arrived >= look.sent * audience) {
            self.crew.tell_all(|| Command::Finish);
        }
    }

    /// Whether whoever ends stays away: a run without connections then has no future.
    fn stays(&self) -> bool {
        let modes = [Mode::Echo, Mode::Broadcast, Mode::Idle];
        modes.contains(&self.config.mode) && self.config.reconnect == Reconnect::None
    }

    /// Waits until all connections are closed.
    pub fn join(self) {
        self.crew.join();
    }

    /// The next report, if there is one within a tick.
    /// Of the threads `done` have said their last word.
    fn receive(&self, done: usize) -> Result<Option<Report>, Failure> {
        let reports: &Receiver<Report> = self.crew.reports();
        let report = match reports.recv_timeout(TICK) {
            Ok(report) => report,
            Err(RecvTimeoutError::Timeout) if self.crew.ended() <= done => return Ok(None),
            // Its last word may have come since.
            Err(_) => match reports.try_recv() {
                Ok(report) => report,
                Err(_) => return Err(Failure::Broken("a thread ended before its time".to_owned())),
            },
        };
        match report {
            Report::Broken(error) => Err(Failure::Broken(format!("a thread gave up: {error}"))),
            report => Ok(Some(report)),
        }
    }
}

fn log(hlog: Option<&mut HlogWriter>, interval: &Interval) -> Result<(), Failure> {
    let written = hlog.map_or(Ok(()), |hlog| hlog.interval(interval));
    written.map_err(|error| Failure::Broken(format!("--hlog: {error}")))
}

/// Decides when there is nothing left to wait for.
#[derive(Debug, Default)]
struct Ending {
    complete_since_ns: Option<u64>,
    said: bool,
    stopped: bool,
}

impl Ending {
    /// Whether messages that are still not sent must be given up, so that there is time for the last ones to arrive;
    /// true once.
    fn is_late(&mut self, now_ns: u64, timeline: &Timeline) -> bool {
        let late = !self.stopped && now_ns >= timeline.end_ns.midpoint(timeline.drain_ns);
        self.stopped |= late;
        late
    }

    /// Whether the end is now; true once.
    fn is_now(&mut self, now_ns: u64, measured: &Measured, all_arrived: bool) -> bool {
        let timeline = &measured.timeline;
        if self.said || (now_ns < timeline.end_ns) {
            return false;
        }
        if !all_arrived {
            self.complete_since_ns = None;
        }
        let since_ns = *self.complete_since_ns.get_or_insert(now_ns);
        self.said = now_ns >= timeline.drain_ns || (all_arrived && now_ns >= since_ns + LINGER_NS);
        self.said
    }
}

fn timeline(config: &Config, now_ns: u64) -> Timeline {
    let ns = |duration: Duration| duration.as_nanos() as u64;
    if config.mode == Mode::Connect {
        // It ends when every connection is open or has failed; here is when to stop waiting for that.
        let (start_ns, patience) = (now_ns + LEAD_NS, config.connect_timeout.max(config.duration));
        let end_ns = start_ns + ns(config.connect_pace.span(config.conns)) + ns(patience);
        return Timeline { start_ns, measure_ns: start_ns, end_ns, drain_ns: end_ns + ns(config.drain) };
    }
    let start_ns = now_ns + ns(config.settle) + LEAD_NS;
    let measure_ns = start_ns + ns(config.warmup);
    let end_ns = measure_ns + ns(config.duration);
    Timeline { start_ns, measure_ns, end_ns, drain_ns: end_ns + ns(config.drain) }
}

/// Deals the sender numbers to the threads: in random order, and no thread gets more than it has connections.
fn deal(senders: u32, open: &[u32], seed: u64) -> Vec<Vec<u32>> {
    let mut hands: Vec<Vec<u32>> = open.iter().map(|_| Vec::new()).collect();
    let mut thread = 0;
    for slot in shuffled(senders, seed) {
        while hands[thread].len() >= open[thread] as usize {
            thread = (thread + 1) % open.len();
        }
        hands[thread].push(slot);
        thread = (thread + 1) % open.len();
    }
    hands
}

fn unreachable_line(config: &Config, reason: Option<&str>) -> String {
    let reason = reason.unwrap_or("no answer");
    let remedy = if reason.contains("status") {
        "is the path right? Give the whole URL"
    } else if reason.contains("refused") || reason.contains("timed out") {
        "start the server, or give its URL"
    } else if reason.contains("certificate") {
        "give what signed it with --cacert, or do without with --insecure"
    } else {
        "is this a WebSocket server?"
    };
    format!("cannot connect to {}: {reason}: {remedy}", config.url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_dealt_to_those_who_can_play() {
        let hands = deal(5, &[1, 0, 9], 3);
        assert_eq!(hands.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 4]);
        let mut all = hands.concat();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_end_waits_for_arrivals_but_not_for_ever() {
        let timeline = Timeline { start_ns: 0, measure_ns: 0, end_ns: 1_000, drain_ns: 5 * SECOND_NS };
        let measured = Measured::new(timeline, 1, 1);
        let mut ending = Ending::default();
        assert!(!ending.is_now(999, &measured, true), "still sending");
        assert!(!ending.is_now(1_000, &measured, true), "a duplicate may come");
        assert!(!ending.is_now(1_000 + LINGER_NS, &measured, false), "one more was sent late");
        assert!(!ending.is_now(2_000 + LINGER_NS, &measured, true));
        assert!(ending.is_now(2_000 + 2 * LINGER_NS, &measured, true));
        assert!(!ending.is_now(u64::MAX, &measured, true), "said once");
        assert!(Ending::default().is_now(5 * SECOND_NS, &measured, false), "lost");
        assert!(!ending.is_late(2 * SECOND_NS, &timeline));
        assert!(ending.is_late(3 * SECOND_NS, &timeline) && !ending.is_late(3 * SECOND_NS, &timeline));
    }

    #[test]
    fn failing_to_connect_names_the_remedy() {
        let args = crate::cli::parse(["loadgen".into()]).expect("sound").run;
        let config = Config::new(args, 1).expect("sound");
        let line = unreachable_line(&config, Some("connection refused"));
        assert_eq!(
            line,
            "cannot connect to ws://127.0.0.1:8080/echo: connection refused: start the server, or give its URL"
        );
    }
}
