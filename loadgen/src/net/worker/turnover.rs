//! Connections that come and go: lives that end and begin again, and clients that come back after the server has ended
//! their connection.
//!
//! A connection that leaves says Close and gives its place to the next one at once; its socket moves aside until the
//! server has answered, so that neither waits for the other.

use std::collections::HashMap;
use std::time::Duration;

use mio::event::Event;
use mio::{Interest, Token};

use super::conns::Hands;
use super::leaving::Leaving;
use super::{Phase, Worker};
use crate::backoff::{Backoff, Reconnect};
use crate::client::Input;
use crate::clock::{SECOND_NS, monotonic_ns};
use crate::cohort::Reading;
use crate::connects::ConnectSlice;
use crate::lives::Lives;
use crate::net::dial::Dialer;
use crate::net::link::{End, Link, Reader};
use crate::schedule::Timeline;

/// How long the server's half of the closing handshake is awaited.
const LEAVE_NS_MAX: u64 = 2 * SECOND_NS;
/// Lives ended before the poll is asked again.
const ENDS_PER_TURN: usize = 64;

/// Who comes back when, and who is leaving.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    pub(super) lives: Option<Lives>,
    pub(super) backoff: Option<Backoff>,
    /// No connection is made again at or after this time.
    pub(super) end_ns: u64,
    /// Connections that were open when the run began.
    pub(super) initial: u64,
    /// Sender and next sequence of clients that are away: their messages go on where they stopped.
    away: HashMap<u32, (Option<u32>, u32)>,
    /// Failures in a row, of clients that have any.
    failures: HashMap<u32, u32>,
    /// How long a server's Close asked a client to wait.
    pub(super) hints: HashMap<u32, Duration>,
    leaving: Leaving<Link>,
}

impl Turnover {
    pub(super) fn new(reconnect: &Reconnect) -> Self {
        let backoff = match reconnect {
            Reconnect::None => None,
            Reconnect::Backoff(backoff) => Some(backoff.clone()),
        };
        Self { backoff, ..Self::default() }
    }

    /// When there is something to do, apart from events.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        let ends = self.lives.as_ref().and_then(Lives::deadline_ns);
        ends.into_iter().chain(self.leaving.deadline_ns()).min()
    }

    /// Whether a Close is still to be answered.
    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving.is_waiting()
    }

    /// A client is back: its sender and the sequence of its next message, unless it is here for the first time.
    pub(super) fn back(&mut self, conn: u32) -> Option<(Option<u32>, u32)> {
        self.failures.remove(&conn);
        self.away.remove(&conn)
    }
}

impl Worker {
    /// Connections are made again, or, where that is what is measured, for the first time.
    pub(super) fn begin_turnover(&mut self, timeline: &Timeline) {
        let a = &self.assignment;
        let dialer = &mut self.hands.dialer;
        if a.connect_only {
            *dialer = Dialer::new(a.conns, a.order(a.conns, timeline.start_ns));
        }
        self.turnover.initial = std::mem::take(&mut dialer.fates).opened;
        dialer.times = ConnectSlice::measuring(timeline.measure_ns, timeline.end_ns);
        self.turnover.end_ns = timeline.end_ns;
        self.turnover.lives = a.lifetime.clone().map(|lifetime| {
            Lives::new(lifetime, a.conns, timeline.start_ns, timeline.end_ns, self.hands.rng.fork())
        });
    }

    /// Ends the lives that are over, and gives up on those who wait for the server's Close in vain.
    pub(super) fn turn_over(&mut self) {
        if !matches!(self.phase, Phase::Running(_)) || self.turnover.deadline_ns().is_none() {
            return;
        }
        let now_ns = monotonic_ns();
        while let Some((_, place)) = self.turnover.leaving.oldest().filter(|(at_ns, _)| *at_ns <= now_ns) {
            self.gone(place);
        }
        for _ in 0..ENDS_PER_TURN {
            let Some((conn, due_ns)) = self.turnover.lives.as_mut().and_then(|lives| lives.next(now_ns))
            else {
                return;
            };
            self.end_life(conn, due_ns);
        }
    }

    /// No more connections: neither lives that end nor clients that come back.
    pub(super) fn stop_turnover(&mut self) {
        if let Some(lives) = &mut self.turnover.lives {
            lives.stop();
        }
        self.turnover.end_ns = 0;
        self.hands.dialer.give_up();
    }

    fn end_life(&mut self, conn: u32, due_ns: u64) {
        if !self.is_open(conn) {
            let dialer = &mut self.hands.dialer;
            dialer.fates.missed += 1;
            if self.links[conn as usize].is_none() && self.turnover.backoff.is_none() {
                dialer.again(conn, due_ns);
            }
            return;
        }
        self.hands.dialer.fates.left += 1;
        let Some(mut link) = self.links[conn as usize].take() else { return };
        if let Some(traffic) = &mut self.hands.traffic {
            traffic.abandon(&link);
            link.forget_waiting();
        }
        let out = &mut self.hands.out;
        out.clear();
        link.client.leave(self.hands.rng.u32(..).to_be_bytes(), out);
        let said = link.write(out).is_ok();
        self.remember(conn, &link);
        self.hands.dialer.again(conn, due_ns);
        if said {
            self.put_aside(conn, link, due_ns, false);
        } else {
            self.hands.dialer.fates.unclean += 1;
        }
    }

    /// The server has said Close, and been answered: its end of the connection is awaited aside, where the client is
    /// to come back.
    pub(super) fn retire(&mut self, conn: u32) {
        if !self.comes_back(conn) {
            return;
        }
        let Some(link) = self.links[conn as usize].take() else { return };
        if let Some(traffic) = &mut self.hands.traffic {
            traffic.abandon(&link);
        }
        self.remember(conn, &link);
        self.put_aside(conn, link, monotonic_ns(), true);
        self.come_back(conn);
    }

    fn put_aside(&mut self, conn: u32, link: Link, due_ns: u64, answered: bool) {
        let now_ns = monotonic_ns();
        if self.turnover.leaving.is_full()
            && let Some((_, oldest)) = self.turnover.leaving.oldest()
        {
            self.gone(oldest);
        }
        let sequence = link.sequence;
        let place = self.turnover.leaving.insert(link, due_ns, now_ns + LEAVE_NS_MAX, answered);
        let stream = self.assignment.conns + place;
        if let (Some(traffic), false) = (&mut self.hands.traffic, answered) {
            traffic.instrument().move_stream(conn, stream, sequence);
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        let Some(leaver) = self.turnover.leaving.get(place) else { return };
        let registered =
            self.poll.registry().reregister(leaver.link.socket(), Token(stream as usize), interest);
        if registered.is_err() {
            self.gone(place);
        }
    }

    /// Events of a connection that has said Close.
    pub(super) fn leaving_ready(&mut self, place: u32, event: &Event) {
        let Some(leaver) = self.turnover.leaving.get(place) else { return };
        if event.is_writable() && !leaver.link.is_clear() {
            // Where this fails the connection has ended, and reading on will tell.
            let _ = leaver.link.flush();
        }
        let (hands, stream) = (&mut self.hands, self.assignment.conns + place);
        let (due_ns, closing) = (leaver.due_ns, event.is_read_closed() || event.is_error());
        let mut last = Leavetaking { stream, hands, answered: false };
        let end = leaver.link.read(&mut self.buffer, closing, &self.assignment.offer, String::new, &mut last);
        let Leavetaking { hands, answered, .. } = last;
        if let Some(traffic) = &mut hands.traffic {
            traffic.reply(&mut leaver.link);
        }
        if answered && self.turnover.leaving.answered(place) {
            let now_ns = monotonic_ns();
            hands.dialer.fates.clean += 1;
            hands.dialer.times.of(due_ns).close.record(now_ns.saturating_sub(due_ns));
        }
        if end != End::Drained {
            self.gone(place);
        }
    }

    /// Drops a connection that was leaving.
    fn gone(&mut self, place: u32) {
        if let Some(leaver) = self.turnover.leaving.remove(place) {
            self.hands.dialer.fates.unclean += u64::from(!leaver.answered);
        }
    }

    /// Drops all of them, at the end.
    pub(super) fn all_gone(&mut self) {
        (0..self.turnover.leaving.places()).for_each(|place| self.gone(place));
    }

    /// Keeps who a client was, for when it is back.
    pub(super) fn remember(&mut self, conn: u32, link: &Link) {
        if matches!(self.phase, Phase::Running(_)) && link.sender.is_some() {
            self.turnover.away.insert(conn, (link.sender, link.sequence));
        }
    }

    /// Whether the client of a connection that has ended, or failed, tries again by itself.
    pub(super) fn comes_back(&self, conn: u32) -> bool {
        matches!(self.phase, Phase::Running(_))
            && self.turnover.backoff.is_some()
            && self.reading(conn) == Reading::Healthy
    }

    /// Lets it try again after a while.
    pub(super) fn come_back(&mut self, conn: u32) {
        let Some(backoff) = &self.turnover.backoff else { return };
        let hint = self.turnover.hints.remove(&conn);
        let failures = self.turnover.failures.entry(conn).or_default();
        let delay = backoff.delay(*failures, hint, &mut self.hands.rng);
        *failures += 1;
        let due_ns = monotonic_ns() + delay.as_nanos() as u64;
        if due_ns < self.turnover.end_ns {
            self.hands.dialer.fates.hinted += u64::from(hint.is_some());
            self.hands.dialer.again(conn, due_ns);
        }
    }
}

/// A connection that has said Close: its last messages, and the answer.
struct Leavetaking<'a> {
    /// Where its messages are accounted for.
    stream: u32,
    hands: &'a mut Hands,
    answered: bool,
}

impl Reader for Leavetaking<'_> {
    fn message(&mut self, link: &mut Link, bytes: &[u8], now_ns: u64) {
        if let Some(traffic) = &mut self.hands.traffic {
            traffic.received(self.stream, link, bytes, now_ns);
        }
    }

    fn input(&mut self, link: &mut Link, input: Input<'_>, now_ns: u64) {
        match input {
            Input::Close { .. } => self.answered = true,
            Input::Message(bytes) => self.message(link, &bytes, now_ns),
            Input::Compressed(message) => {
                if let Some(traffic) = &mut self.hands.traffic {
                    traffic.received_compressed(self.stream, link, &message, now_ns);
                }
            }
            Input::Ping(_) | Input::Upgraded => {}
        }
    }
}
