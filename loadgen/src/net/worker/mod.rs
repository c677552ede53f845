//! One thread: its descriptor table, its poll, its connections, and the phases of a run.
//!
//! ```text
//! dialing --Start--> running --Finish--> closing --all closed, or 2 s--> end
//! ```
//!
//! The coordinator decides when; this thread says how it went. Connections are numbered once and never reused, so
//! an event can only mean the connection that it names.

mod conns;
mod marks;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use mio::{Events, Poll, Token};
use wsd::net::tls::Scratch;

use self::conns::Hands;
use self::marks::{Marks, Usage};
use super::control::{Board, Command, Counters, Done, Lazy, Report, Start};
use super::dial::Dialer;
use super::link::Link;
use super::secure::Secure;
use super::timer::Timer;
use super::traffic::{Pace, Traffic};
use crate::client::Offer;
use crate::clock::{SECOND_NS, monotonic_ns};
use crate::cohort::{Cohorts, Reading};
use crate::config::Load;
use crate::instrument::{Audience, Instrument};
use crate::payload::{Codec, Format, Sizes};
use crate::schedule::{Arrival, Schedule};

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
    /// This thread's share of the connect rate.
    pub connect_rate: Option<f64>,
    /// How messages are paced, in the whole run.
    pub load: Load,
    /// Whether everyone hears everyone.
    pub broadcast: bool,
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
        let Assignment { thread, threads, conns, connect_rate, seed, .. } = assignment;
        let hands = Hands {
            dialer: Dialer::new(conns, connect_rate, threads, monotonic_ns()),
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
        Ok(Self {
            assignment,
            poll,
            timer,
            commands,
            reports,
            board,
            links,
            buffer,
            scratch: Scratch::shared(READ_BYTES),
            hands,
            slow: Vec::new(),
            slow_next_ns: 0,
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
            if let Phase::Closing { deadline_ns } = self.phase
                && (monotonic_ns() >= deadline_ns || self.links.iter().all(Option::is_none))
            {
                return Ok(());
            }
            self.timer.arm(self.deadline_ns())?;
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    WAKER => self.obey(),
                    TIMER => self.timer.fired(),
                    Token(conn) => self.ready(conn as u32, event),
                }
            }
        }
    }

    /// What is to be done whatever the events were.
    fn turn(&mut self) {
        if matches!(self.phase, Phase::Dialing) {
            self.dial();
        }
        if let Some(traffic) = &mut self.hands.traffic {
            traffic.send_due(&mut self.links);
        }
        self.read_slowly();
        self.mark();
        let counters = self.board.of(self.assignment.thread);
        if let Some(traffic) = &mut self.hands.traffic {
            let is_sending = traffic.is_sending();
            let instrument = traffic.instrument();
            Counters::set(&counters.sent, instrument.tally().sent);
            Counters::set(&counters.sending, u64::from(is_sending));
            Counters::set(&counters.arrived, instrument.totals().distinct + instrument.tally().corrupt);
        }
        let hands = &self.hands;
        let ended: u64 = hands.closed.values().chain(hands.lazy.closed.values()).sum();
        Counters::set(&counters.open, u64::from(self.hands.dialer.open()).saturating_sub(ended));
        Counters::set(&counters.failed, self.hands.dialer.failed.values().sum());
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
                    .chain([marks.next_second_ns])
                    .chain(self.next_mark_ns(marks))
                    .min()
            }
            Phase::Closing { deadline_ns } => Some(*deadline_ns),
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
        debug_assert!(slots.len() <= open.len(), "the coordinator knows how many are open");
        // Spread over the connections: with few senders, not all on the same source address.
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
                rate,
                senders,
                chosen,
                a.arrival,
                a.seed ^ u64::from(a.thread),
            )),
            Load::Closed { in_flight } => {
                let conns = chosen.iter().map(|&(_, conn)| conn);
                Pace::Closed { first: conns.flat_map(|conn| (0..in_flight).map(move |_| conn)).collect() }
            }
        };
        let audience = if a.broadcast { Audience::All { senders } } else { Audience::Own };
        let codec = Codec::new(a.run, a.format, a.sizes);
        let instrument = Instrument::new(codec, timeline, audience, a.conns as usize, open.len() as u32);
        self.hands.traffic = Some(Traffic::new(instrument, pace, a.format, self.hands.rng.fork()));
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
            let (slice, parts) =
                (instrument.take_slice(), instrument.take_parts(now_ns.saturating_sub(PART_AGE_NS)));
            let _ = self.reports.send(Report::Second { number: marks.seconds, slice, parts });
            marks.seconds += 1;
            marks.next_second_ns += SECOND_NS;
        }
    }

    // The end.

    fn finish(&mut self) {
        if matches!(self.phase, Phase::Closing { .. }) {
            return;
        }
        if matches!(self.phase, Phase::Running(_)) {
            self.read_leave();
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
            done.load = marks.load();
            let (slice, parts) = (instrument.take_slice(), instrument.take_parts(u64::MAX));
            let _ = self.reports.send(Report::Second { number: marks.seconds, slice, parts });
        }
        self.report(Report::Done(Box::new(done)));
        self.hands.traffic = None;
        self.phase = Phase::Closing { deadline_ns: monotonic_ns() + CLOSE_NS_MAX };
        self.close_all();
    }

    fn close_all(&mut self) {
        let out = &mut self.hands.out;
        for slot in &mut self.links {
            let Some(link) = slot else { continue };
            if !link.is_open() {
                // Never upgraded, or already closing: there is nothing to say.
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
