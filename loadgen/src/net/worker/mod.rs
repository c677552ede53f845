//! One thread: its descriptor table, its poll, its connections, and the phases of a run.
//!
//! ```text
//! dialing --Start--> running --Finish--> closing --all closed, or 2 s--> end
//! ```
//!
//! The coordinator decides when; this thread says how it went. Connections are numbered once and never reused, so
//! an event can only mean the connection that it names.

mod conns;
mod leaving;
mod marks;
mod turnover;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use mio::{Events, Poll, Token};
use wsd::net::tls::Scratch;

use self::conns::Hands;
pub use self::leaving::LEAVING_MAX;
use self::marks::{Marks, Usage};
use self::turnover::Turnover;
use super::control::{Board, Command, Counters, Done, Lazy, Report, Start};
use super::dial::{Dialer, Order};
use super::link::Link;
use super::secure::Secure;
use super::timer::Timer;
use super::traffic::{Pace, Traffic};
use crate::backoff::Reconnect;
use crate::client::Offer;
use crate::clock::{SECOND_NS, monotonic_ns};
use crate::cohort::{Cohorts, Reading};
use crate::config::Load;
use crate::connects::ConnectPace;
use crate::instrument::{Audience, Instrument};
use crate::lives::Lifetime;
use crate::payload::{Codec, Format};
use crate::schedule::{Arrival, Schedule};
use crate::sizes::Sizes;
use crate::stages::{Stage, StageBook, Steps};

/// The waker's token; connections have the tokens below.
pub const WAKER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// Events taken at a time: few, so that a message that comes due in a burst of arrivals waits about a millisecond.
const EVENTS: usize = 256;
/// The read buffer that all connections of a thread share.
const READ_BYTES: usize = 64 * 1024;
/// How long the servers' half of the closing handshake is awaited.
const CLOSE_NS_MAX: u64 = 2 * SECOND_NS;
/// Messages that are older do not wait for their last receivers any more.
const PART_AGE_NS: u64 = 10 * SECOND_NS;

/// What a thread has to know before it starts.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Which thread this is.
    pub thread: u32,
    /// How many there are.
    pub threads: u32,
    /// How many connections are this thread's.
    pub conns: u32,
    /// Where to.
    pub server: SocketAddr,
    /// How to speak TLS, for `wss://`.
    pub secure: Option<Secure>,
    /// Where from, by turns.
    pub sources: Vec<Option<IpAddr>>,
    /// What the connections ask for.
    pub offer: Arc<Offer>,
    /// How fast, in the whole run.
    pub connect_pace: ConnectPace,
    /// How long a server may take to answer the handshake.
    pub connect_timeout: Duration,
    /// Whether connecting is what is measured: it then begins with the measurement.
    pub connect_only: bool,
    /// How long connections live, where they come and go.
    pub lifetime: Option<Lifetime>,
    /// Who comes back by itself.
    pub reconnect: Reconnect,
    /// How messages are paced, in the whole run.
    pub load: Load,
    /// The steps of that, where it has any, and the warm-up before them.
    pub stages: Arc<[Stage]>,
    /// Load before the measurement.
    pub warmup: Duration,
    /// Whether everyone hears everyone.
    pub broadcast: bool,
    /// But for the sender of a message, whom the server leaves out.
    pub skip_sender: bool,
    /// Text or binary.
    pub format: Format,
    /// Who reads how.
    pub cohorts: Cohorts,
    /// Bytes per message.
    pub sizes: Sizes,
    /// How the times of messages are spread.
    pub arrival: Arrival,
    /// The run's number, in every message.
    pub run: u64,
    /// What randomness follows from.
    pub seed: u64,
}

impl Assignment {
    /// The connections to open from `start_ns` on.
    fn order(&self, count: u32, start_ns: u64) -> Order {
        let timeout_ns = self.connect_timeout.as_nanos() as u64;
        Order { count, thread: (self.thread, self.threads), pace: self.connect_pace, start_ns, timeout_ns }
    }

    /// Connections, and places for those that are leaving.
    fn streams(&self) -> usize {
        let leaving = if self.lifetime.is_some() { LEAVING_MAX } else { 0 };
        self.conns as usize + leaving as usize
    }

    /// The rates of the run, which has `rate` where it has no stages.
    fn steps(&self, rate: f64) -> Steps {
        if self.stages.is_empty() { Steps::constant(rate) } else { Steps::new(self.warmup, &self.stages) }
    }
}

/// One thread's state.
#[derive(Debug)]
pub struct Worker {
    assignment: Assignment,
    poll: Poll,
    timer: Timer,
    commands: Receiver<Command>,
    reports: Sender<Report>,
    board: Board,
    links: Vec<Option<Link>>,
    buffer: Box<[u8]>,
    /// What the TLS of all connections works in.
    scratch: Rc<RefCell<Scratch>>,
    hands: Hands,
    /// Connections that read slowly, and when they read next.
    slow: Vec<u32>,
    slow_next_ns: u64,
    /// Who comes and goes.
    turnover: Turnover,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Dialing,
    /// Connected; the start is awaited.
    Ready,
    Running(Marks),
    Closing {
        deadline_ns: u64,
        /// The first connection that may still be there.
        first: usize,
    },
}

impl Worker {
    /// A thread's state, made in that thread once it has its descriptor table.
    ///
    /// # Errors
    /// The system gives no timer.
    pub fn new(
        assignment: Assignment,
        poll: Poll,
        commands: Receiver<Command>,
        reports: Sender<Report>,
        board: Board,
    ) -> io::Result<Self> {
        let timer = Timer::new(poll.registry(), TIMER)?;
        let Assignment { thread, conns, seed, .. } = assignment;
        let count = if assignment.connect_only { 0 } else { conns };
        let hands = Hands {
            dialer: Dialer::new(conns, assignment.order(count, monotonic_ns())),
            traffic: None,
            early: 0,
            closed: BTreeMap::new(),
            lazy: Lazy::default(),
            rng: fastrand::Rng::with_seed(seed ^ (u64::from(thread) << 32)),
            out: Vec::new(),
        };
        let links = (0..conns).map(|_| None).collect();
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        let phase = Phase::Dialing;
        let turnover = Turnover::new(&assignment.reconnect);
        Ok(Self {
            assignment,
            poll,
            timer,
            commands,
            reports,
            board,
            links,
            buffer,
            scratch: Scratch::shared(READ_BYTES, Arc::default()),
            hands,
            slow: Vec::new(),
            slow_next_ns: 0,
            turnover,
            phase,
        })
    }

    /// Runs until the coordinator has had enough.
    ///
    /// # Errors
    /// The poll or the timer fails.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.turn();
            if let Phase::Closing { deadline_ns, first } = &mut self.phase {
                *first += self.links[*first..].iter().take_while(|link| link.is_none()).count();
                if *first == self.links.len() || monotonic_ns() >= *deadline_ns {
                    return Ok(());
                }
            }
            let deadline_ns = self.deadline_ns();
            // What is due already needs no timer.
            let wait = deadline_ns.filter(|ns| *ns <= monotonic_ns()).map(|_| Duration::ZERO);
            if wait.is_none() {
                self.timer.arm(deadline_ns)?;
            }
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    WAKER => self.obey(),
                    TIMER => self.timer.fired(),
                    Token(conn) if conn < self.links.len() => self.ready(conn as u32, event),
                    Token(leaving) => self.leaving_ready((leaving - self.links.len()) as u32, event),
                }
            }
        }
    }

    /// What is to be done whatever the events were.
    fn turn(&mut self) {
        // In this order: what was due before a life ends is sent before it.
        if let Some(traffic) = &mut self.hands.traffic {
            traffic.send_due(&mut self.links);
        }
        if matches!(self.phase, Phase::Dialing | Phase::Running(_)) {
            self.turn_over();
            self.dial();
        }
        self.read_slowly();
        self.mark();
        let counters = self.board.of(self.assignment.thread);
        if let Some(traffic) = &mut self.hands.traffic {
            let (dialer, leaving) = (&self.hands.dialer, self.turnover.is_leaving());
            let retries = self.assignment.connect_only && dialer.will_try_again();
            let is_sending = traffic.is_sending() || !dialer.is_finished() || leaving || retries;
            let instrument = traffic.instrument();
            Counters::set(&counters.sent, instrument.tally().sent);
            Counters::set(&counters.sending, u64::from(is_sending));
            Counters::set(&counters.missing, instrument.missing());
            Counters::set(&counters.arrived, instrument.totals().distinct + instrument.tally().corrupt);
        }
        let hands = &self.hands;
        let fates = &hands.dialer.fates;
        let ended: u64 = hands.closed.values().chain(hands.lazy.closed.values()).sum();
        Counters::set(
            &counters.open,
            (self.turnover.initial + fates.opened).saturating_sub(ended + fates.left),
        );
        Counters::set(&counters.failed, fates.failures());
    }

    fn deadline_ns(&self) -> Option<u64> {
        match &self.phase {
            Phase::Dialing => self.hands.dialer.deadline_ns(),
            Phase::Ready => None,
            Phase::Running(marks) => {
                let slow = (!self.slow.is_empty()).then_some(self.slow_next_ns);
                let traffic = self.hands.traffic.as_ref();
                let due = traffic.and_then(Traffic::deadline_ns);
                due.into_iter()
                    .chain(slow)
                    .chain(self.hands.dialer.deadline_ns())
                    .chain(self.turnover.deadline_ns())
                    .chain([marks.next_second_ns])
                    .chain(self.next_mark_ns(marks))
                    .min()
            }
            Phase::Closing { deadline_ns, .. } => Some(*deadline_ns),
        }
    }

    fn next_mark_ns(&self, marks: &Marks) -> Option<u64> {
        let timeline = *self.hands.traffic.as_ref()?.timeline();
        match marks {
            Marks { begin: None, .. } => Some(timeline.measure_ns),
            Marks { end: None, .. } => Some(timeline.end_ns),
            _ => None,
        }
    }

    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Start(start) => self.start(start),
                Command::Stop => {
                    if let Some(traffic) = &mut self.hands.traffic {
                        traffic.stop();
                        self.stop_turnover();
                    }
                }
                Command::Finish => self.finish(),
            }
        }
    }

    fn report(&self, report: Report) {
        // The coordinator goes away first only when it has failed; then nobody reads.
        let _ = self.reports.send(report);
    }

    // Running.

    fn start(&mut self, start: Start) {
        let Start { timeline, senders, slots } = start;
        let a = &self.assignment;
        let open: Vec<u32> = (0..a.conns)
            .filter(|&conn| self.is_open(conn) && self.reading(conn) == Reading::Healthy)
            .collect();
        let own = slots.clone();
        // Connections may have ended since they were counted. Then some senders are missing, which the verdict says: it
        // counts who ended early. Spread over the connections: with few senders, not all on the same source address.
        let every = (open.len() / slots.len().max(1)).max(1);
        let chosen: Vec<(u32, u32)> = slots.into_iter().zip(open.iter().copied().step_by(every)).collect();
        for &(slot, conn) in &chosen {
            if let Some(link) = &mut self.links[conn as usize] {
                link.sender = Some(slot);
            }
        }
        let pace = match a.load {
            Load::None => Pace::Silent,
            Load::Open { rate } => Pace::Open(Schedule::new(
                &timeline,
                a.steps(rate),
                senders,
                chosen,
                a.arrival,
                a.seed ^ u64::from(a.thread),
            )),
            Load::Closed { in_flight } => {
                let conns = chosen.iter().map(|&(_, conn)| conn);
                let first = conns.flat_map(|conn| (0..in_flight).map(move |_| conn)).collect();
                Pace::Closed { first, in_flight }
            }
        };
        let audience = match (a.broadcast, a.skip_sender) {
            (false, _) => Audience::Own,
            (true, false) => Audience::All { senders },
            (true, true) => Audience::Others { senders, own },
        };
        let codec = Codec::new(a.run, a.format, a.sizes.clone()).since(timeline.start_ns);
        let instrument = Instrument::new(codec, timeline, audience, a.streams(), open.len() as u32)
            .with_stages(StageBook::new(&timeline, &a.stages));
        let traffic = Traffic::new(instrument, pace, a.format, !a.offer.raw, self.hands.rng.fork());
        self.hands.traffic = Some(traffic.relayed(a.lifetime.is_some()));
        self.begin_turnover(&timeline);
        self.slow = (0..self.assignment.conns)
            .filter(|&conn| self.is_open(conn) && matches!(self.reading(conn), Reading::Slow(_)))
            .collect();
        let next_second_ns = timeline.start_ns + SECOND_NS;
        self.phase = Phase::Running(Marks { next_second_ns, ..Marks::default() });
    }

    fn is_open(&self, conn: u32) -> bool {
        self.links[conn as usize].as_ref().is_some_and(Link::is_open)
    }

    /// Hands the samples over once a second, and reads the processor time where measuring begins and ends.
    fn mark(&mut self) {
        let (Phase::Running(marks), Some(traffic)) = (&mut self.phase, &mut self.hands.traffic) else {
            return;
        };
        let now_ns = monotonic_ns();
        let timeline = *traffic.timeline();
        if marks.begin.is_none() && now_ns >= timeline.measure_ns {
            marks.begin = Some(Usage::now());
        }
        if marks.end.is_none() && now_ns >= timeline.end_ns {
            marks.end = Some(Usage::now());
        }
        while marks.next_second_ns <= now_ns {
            let instrument = traffic.instrument();
            let parts = instrument.take_parts(now_ns.saturating_sub(PART_AGE_NS));
            let mut slice = instrument.take_slice();
            slice.connects = self.hands.dialer.times.take();
            let _ = self.reports.send(Report::Second { number: marks.seconds, slice, parts });
            marks.seconds += 1;
            marks.next_second_ns += SECOND_NS;
            let busy = marks.busy_permille(now_ns);
            Counters::set(&self.board.of(self.assignment.thread).busy_permille, busy);
        }
    }

    // The end.

    fn finish(&mut self) {
        if matches!(self.phase, Phase::Closing { .. }) {
            return;
        }
        if matches!(self.phase, Phase::Running(_)) {
            self.read_leave();
            self.hands.dialer.give_up();
            self.all_gone();
        }
        let mut done = Done { closed: std::mem::take(&mut self.hands.closed), ..Done::default() };
        done.lazy = std::mem::take(&mut self.hands.lazy);
        if matches!(self.phase, Phase::Dialing) {
            self.hands.dialer.give_up();
        }
        if let (Phase::Running(marks), Some(traffic)) = (&self.phase, &mut self.hands.traffic) {
            for link in self.links.iter().flatten() {
                traffic.abandon(link);
            }
            let instrument = traffic.instrument();
            done.tally = *instrument.tally();
            done.tally.foreign += self.hands.early;
            done.totals = instrument.totals();
            done.stages = instrument.take_stages();
            done.fates = self.hands.dialer.fates.clone();
            done.load = marks.load();
            let (mut slice, parts) = (instrument.take_slice(), instrument.take_parts(u64::MAX));
            slice.connects = self.hands.dialer.times.take();
            let _ = self.reports.send(Report::Second { number: marks.seconds, slice, parts });
        }
        self.report(Report::Done(Box::new(done)));
        self.hands.traffic = None;
        self.phase = Phase::Closing { deadline_ns: monotonic_ns() + CLOSE_NS_MAX, first: 0 };
        self.close_all();
    }

    fn close_all(&mut self) {
        let out = &mut self.hands.out;
        for slot in &mut self.links {
            let Some(link) = slot else { continue };
            if !link.is_open() || self.assignment.offer.raw {
                // Never upgraded, already closing, or no protocol to close: there is nothing to say.
                *slot = None;
                continue;
            }
            out.clear();
            link.client.close(wsd::proto::CloseCode::NORMAL.get(), self.hands.rng.u32(..).to_be_bytes(), out);
            if link.write(out).is_err() {
                *slot = None;
            }
        }
    }
}
