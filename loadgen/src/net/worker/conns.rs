//! A thread's connections: opening them, and what happens on their events.

use std::collections::BTreeMap;
use std::io;

use mio::event::Event;
use mio::{Interest, Token};
use wsd::proto::CloseCode;

use super::{Phase, Turnover, Worker};
use crate::client::{self, Fault, Input};
use crate::clock::{SECOND_NS, monotonic_ns};
use crate::cohort::Reading;
use crate::net::control::{Dialed, Lazy, Report};
use crate::net::dial::{self, Dialer};
use crate::net::link::{End, Link, Reader};
use crate::net::traffic::Traffic;

/// Connections asked for before the poll is asked again, so that answers do not wait for a long row of connects.
const CONNECTS_PER_TURN: usize = 64;

/// How often slow readers read.
const SLOW_TICK_NS: u64 = SECOND_NS / 10;

/// How long they may read when the run is over.
const LEAVE_NS_MAX: u64 = SECOND_NS / 2;

/// What the handling of one connection's events needs besides the connection.
#[derive(Debug)]
pub(super) struct Hands {
    pub(super) dialer: Dialer,
    pub(super) traffic: Option<Traffic>,
    /// Messages that came before the load began: greetings.
    pub(super) early: u64,
    pub(super) closed: BTreeMap<u16, u64>,
    pub(super) lazy: Lazy,
    pub(super) rng: fastrand::Rng,
    pub(super) out: Vec<u8>,
}

impl Worker {
    pub(super) fn dial(&mut self) {
        if self.hands.dialer.is_idle() && !matches!(self.phase, Phase::Dialing) {
            return;
        }
        let now_ns = monotonic_ns();
        while let Some(conn) = self.hands.dialer.overdue(now_ns) {
            self.drop_link(conn, "timed out");
        }
        for _ in 0..CONNECTS_PER_TURN {
            let Some(conn) = self.hands.dialer.next(now_ns) else { break };
            if let Err(error) = self.connect(conn) {
                self.drop_link(conn, &dial::reason(&error));
            }
        }
        if matches!(self.phase, Phase::Dialing) && self.hands.dialer.is_finished() {
            self.phase = Phase::Ready;
            let dialer = &mut self.hands.dialer;
            let times = dialer.times.take().measured.map(|times| *times).unwrap_or_default();
            let fates = dialer.fates.clone();
            let lazy = (0..self.assignment.conns)
                .filter(|&conn| self.is_open(conn) && self.reading(conn) != Reading::Healthy)
                .count() as u32;
            let open = fates.opened as u32 - lazy;
            let dialed = Dialed { thread: self.assignment.thread, open, lazy, fates, times };
            self.report(Report::Dialed(Box::new(dialed)));
        }
    }

    fn connect(&mut self, conn: u32) -> io::Result<()> {
        let sources = &self.assignment.sources;
        let source = sources[self.number(conn) as usize % sources.len()];
        let secure = self.assignment.secure.as_ref();
        let tls = secure.map(|secure| secure.connect(&self.scratch)).transpose()?;
        let lazy = self.reading(conn) != Reading::Healthy;
        let mut link = Link::new(dial::connect(self.assignment.server, source, lazy)?, tls);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(link.socket(), Token(conn as usize), interest)?;
        self.links[conn as usize] = Some(link);
        Ok(())
    }

    /// The connection's number in the whole run.
    fn number(&self, conn: u32) -> u32 {
        conn * self.assignment.threads + self.assignment.thread
    }

    /// `connect` has come to an end: ask for the upgrade.
    fn request(&mut self, conn: u32) -> Result<(), String> {
        let key = client::key(self.assignment.seed, self.number(conn));
        let Some(link) = &mut self.links[conn as usize] else { return Ok(()) };
        if let Some(error) = link.connect_error() {
            return Err(dial::reason(&error));
        }
        link.connected = true;
        self.hands.dialer.connected(conn, monotonic_ns());
        link.begin().map_err(|error| dial::reason(&error))?;
        let out = &mut self.hands.out;
        out.clear();
        self.assignment.offer.encode(conn * self.assignment.threads + self.assignment.thread, &key, out);
        link.write(out).map_err(|error| dial::reason(&error))
    }

    // Events of one connection.

    pub(super) fn ready(&mut self, conn: u32, event: &Event) {
        let Some(link) = &mut self.links[conn as usize] else { return };
        if !link.connected {
            if !event.is_writable() && !event.is_error() {
                return;
            }
            if let Err(reason) = self.request(conn) {
                self.drop_link(conn, &reason);
                return;
            }
        } else if event.is_writable()
            && !link.is_clear()
            && link.flush().is_ok_and(|done| done)
            && let Some(traffic) = &mut self.hands.traffic
        {
            traffic.send_waiting(link);
        }
        let running = matches!(self.phase, Phase::Running(_) | Phase::Ready);
        if self.assignment.cohorts.lazy() > 0
            && running
            && self.is_open(conn)
            && self.reading(conn) != Reading::Healthy
        {
            // Its bytes stay where they are; that it has ended shows all the same.
            if event.is_error() || (event.is_read_closed() && self.reading(conn) == Reading::Never) {
                self.drop_link(conn, "");
            }
            return;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(conn, event.is_read_closed() || event.is_error());
        }
    }

    fn read(&mut self, conn: u32, closing: bool) {
        let (seed, number) = (self.assignment.seed, self.number(conn));
        let Some(link) = &mut self.links[conn as usize] else { return };
        let hands = &mut self.hands;
        let count_closes = !matches!(self.phase, Phase::Closing { .. });
        let key = || client::key(seed, number);
        let mut at = Attentive { conn, hands, turnover: &mut self.turnover, count_closes, left: false };
        let end = link.read(&mut self.buffer, closing, &self.assignment.offer, key, &mut at);
        let Attentive { hands, left, .. } = at;
        if let Some(traffic) = &mut hands.traffic {
            traffic.reply(link);
        }
        match end {
            End::Drained if left => self.retire(conn),
            End::Drained => {}
            End::Eof => self.drop_link(conn, "closed before the answer"),
            End::Failed(reason) => self.drop_link(conn, &reason),
            End::Fault(Fault::Handshake(error)) => self.drop_link(conn, &error.to_string()),
            End::Fault(Fault::Protocol(error)) => self.drop_link(conn, &error.to_string()),
        }
    }

    /// How a connection reads.
    pub(super) fn reading(&self, conn: u32) -> Reading {
        self.assignment.cohorts.of(self.number(conn))
    }

    /// Lets the slow readers take their few bytes, ten times a second.
    pub(super) fn read_slowly(&mut self) {
        let now_ns = monotonic_ns();
        if !matches!(self.phase, Phase::Running(_)) || now_ns < self.slow_next_ns {
            return;
        }
        self.slow_next_ns = now_ns + SLOW_TICK_NS;
        for at in 0..self.slow.len() {
            let conn = self.slow[at];
            let Reading::Slow(bytes_per_second) = self.reading(conn) else { continue };
            let budget = (bytes_per_second as usize / 10).clamp(1, self.buffer.len());
            let (seed, number) = (self.assignment.seed, self.number(conn));
            let Some(link) = &mut self.links[conn as usize] else { continue };
            let (hands, offer) = (&mut self.hands, &self.assignment.offer);
            let key = || client::key(seed, number);
            let end = link.read_once(&mut self.buffer, budget, offer, key, &mut Lazily(hands));
            if end != End::Drained {
                self.drop_link(conn, "");
            }
        }
    }

    /// When the run is over, those who did not read learn whether the server had taken leave of them: its Close is
    /// behind all that waits.
    pub(super) fn read_leave(&mut self) {
        let lazy: Vec<u32> = (0..self.assignment.conns)
            .filter(|&conn| self.is_open(conn) && self.reading(conn) != Reading::Healthy)
            .collect();
        let received = self.hands.lazy.received;
        let deadline_ns = monotonic_ns() + LEAVE_NS_MAX;
        while monotonic_ns() < deadline_ns && lazy.iter().any(|&conn| self.is_open(conn)) {
            for &conn in &lazy {
                let (seed, number) = (self.assignment.seed, self.number(conn));
                let Some(link) = &mut self.links[conn as usize] else { continue };
                let (hands, offer) = (&mut self.hands, &self.assignment.offer);
                let key = || client::key(seed, number);
                let end = link.read(&mut self.buffer, false, offer, key, &mut Lazily(hands));
                if end != End::Drained {
                    self.drop_link(conn, "");
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.hands.lazy.received = received;
    }

    /// A connection has ended; while it was being made, `reason` says why.
    fn drop_link(&mut self, conn: u32, reason: &str) {
        let lazy = self.reading(conn) != Reading::Healthy;
        let hands = &mut self.hands;
        let link = self.links[conn as usize].take();
        if hands.dialer.is_under_way(conn) {
            if hands.dialer.fates.failed.is_empty() {
                // Not through `report`: `hands` is borrowed.
                let _ = self.reports.send(Report::FirstFailure(reason.to_owned()));
            }
            hands.dialer.fail(conn, reason);
        }
        if let Some(link) = link {
            if link.is_open() && !matches!(self.phase, Phase::Closing { .. }) {
                let closed = if lazy { &mut hands.lazy.closed } else { &mut hands.closed };
                *closed.entry(CloseCode::ABNORMAL.get()).or_default() += 1;
            }
            if let Some(traffic) = &mut hands.traffic {
                traffic.abandon(&link);
            }
            self.remember(conn, &link);
        }
        if self.comes_back(conn) {
            self.come_back(conn);
        }
    }
}

/// One connection that is read as it should be.
struct Attentive<'a> {
    conn: u32,
    hands: &'a mut Hands,
    turnover: &'a mut Turnover,
    count_closes: bool,
    /// Whether the server has closed.
    left: bool,
}

impl Reader for Attentive<'_> {
    fn message(&mut self, link: &mut Link, bytes: &[u8], now_ns: u64) {
        match &mut self.hands.traffic {
            Some(traffic) => traffic.received(self.conn, link, bytes, now_ns),
            None => self.hands.early += 1,
        }
    }

    fn input(&mut self, link: &mut Link, input: Input<'_>, now_ns: u64) {
        let (conn, hands) = (self.conn, &mut *self.hands);
        match input {
            Input::Upgraded => {
                (link.sender, link.sequence) = self.turnover.back(conn).unwrap_or_default();
                hands.dialer.opened(conn, now_ns);
                if let Some(traffic) = &mut hands.traffic {
                    traffic.back(conn, link);
                }
            }
            Input::Message(bytes) => self.message(link, &bytes, now_ns),
            Input::Compressed(message) => match &mut hands.traffic {
                Some(traffic) => traffic.received_compressed(conn, link, &message, now_ns),
                None => hands.early += 1,
            },
            // Where answering fails the connection has ended, and reading on will tell.
            Input::Ping(payload) => hands.answer_ping(link, &payload),
            Input::Close { code, retry } => {
                self.left = true;
                self.turnover.hints.extend(retry.map(|retry| (conn, retry)));
                if self.count_closes {
                    *hands.closed.entry(code).or_default() += 1;
                }
                hands.answer_close(link, code);
            }
        }
    }
}

/// A connection that is not: what it has read is counted, not timed.
struct Lazily<'a>(&'a mut Hands);

impl Reader for Lazily<'_> {
    fn message(&mut self, _: &mut Link, _: &[u8], _: u64) {
        self.0.lazy.received += 1;
    }

    fn input(&mut self, link: &mut Link, input: Input<'_>, _: u64) {
        let hands = &mut *self.0;
        match input {
            Input::Message(_) | Input::Compressed(_) => hands.lazy.received += 1,
            Input::Close { code, .. } => {
                *hands.lazy.closed.entry(code).or_default() += 1;
                hands.answer_close(link, code);
            }
            Input::Ping(payload) => hands.answer_ping(link, &payload),
            Input::Upgraded => {}
        }
    }
}

impl Hands {
    fn answer_ping(&mut self, link: &mut Link, payload: &[u8]) {
        self.out.clear();
        client::encode_pong(payload, self.rng.u32(..).to_be_bytes(), &mut self.out);
        let _ = link.write(&self.out);
    }

    fn answer_close(&mut self, link: &mut Link, code: u16) {
        self.out.clear();
        link.client.close(code, self.rng.u32(..).to_be_bytes(), &mut self.out);
        let _ = link.write(&self.out);
    }
}
