//! The loop of one worker: poll, accept, mailbox, sockets, fan-out, timers, and again.
//!
//! A turn takes each ready socket once, for at most one buffer; gathers what is published; and ends with a bounded
//! part of the fan-out. Work that is left over makes the next poll return at once.

mod accept;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tracing::info;

use super::entry::{After, Delivered, Entry};
use super::listener::Listener;
use super::mailbox::{Mail, Mailbox};
use super::slots::{Key, Slots};
use super::socket::{Core, READ_BYTES};
use super::tls::{Acceptor, Certificates, ServerConfig};
use super::wheel::Wheel;
use crate::config::{Deflate, Limits, Origins};
use crate::http::Page;
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::route::Router;

/// Deliveries in one turn. At 2 to 6 us each, other connections wait for about a millisecond.
const DELIVERIES_PER_TURN: usize = 256;

/// While more than this waits to be fanned out on any worker, no input is read: publishers then wait in the
/// kernel, and in the end in their own `send`, instead of in our memory.
const BACKLOG_BYTES: usize = 8 * 1024 * 1024;

/// How long input is left unread before the backlog is looked at again, when another worker has it.
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);

/// The whole of a shutdown; 5 seconds are promised.
const SHUTDOWN_TIME: Duration = Duration::from_millis(4_500);

const EVENTS_PER_POLL: usize = 1024;
const MAILBOX: Token = Token(u32::MAX as usize);

/// What all workers of a server share.
pub(crate) struct Shared {
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) metrics: Vec<Arc<WorkerMetrics>>,
    pub(crate) router: Arc<Router>,
    pub(crate) pages: Arc<[Page]>,
    pub(crate) limits: Limits,
    pub(crate) origins: Origins,
    pub(crate) deflate: Option<Deflate>,
    pub(crate) backlog: u32,
    /// Where certificates come from, if there is a listener that needs them.
    pub(crate) certificates: Option<Certificates>,
    /// Connections held by all workers.
    pub(crate) connections: AtomicUsize,
    /// Connections that all workers together may hold.
    pub(crate) connections_max: AtomicUsize,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) all: Vec<SocketAddr>,
    /// How many of them speak no TLS; those come first.
    pub(crate) plain: usize,
}

/// One worker, on its own thread. Not `Send`: its sockets exist in this thread's descriptor table alone.
pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    poll: Poll,
    listeners: Vec<Listener>,
    /// Makes the TLS of connections that are to have it.
    acceptor: Option<Acceptor>,
    slots: Slots<Entry>,
    core: Core,
    wheel: Wheel,
    /// Connections with input that was not read yet.
    ready: VecDeque<Key>,
    /// Listeners with connections that were not accepted yet.
    accepting: Vec<usize>,
    mail: Vec<Mail>,
    expired: Vec<Key>,
    /// Connections that this worker's table has room for.
    table_max: usize,
    started: Instant,
    stop_at: Option<Millis>,
    /// Whether, at the start of the turn, there was too much to fan out to take in more.
    backlogged: bool,
}

impl Worker {
    /// Opens the poll and the listeners. The thread must have its descriptor table by now.
    pub(crate) fn open(
        index: usize,
        shared: Arc<Shared>,
        addresses: &Addresses,
        config: Option<ServerConfig>,
        table_max: usize,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mailbox = shared.mailboxes[index].as_raw_fd();
        poll.registry().register(&mut SourceFd(&mailbox), MAILBOX, Interest::READABLE)?;
        let mut listeners = Vec::with_capacity(addresses.all.len());
        for (number, &address) in addresses.all.iter().enumerate() {
            let mut listener = Listener::open(address, number >= addresses.plain, shared.backlog)?;
            poll.registry().register(&mut listener.socket, Token(number), Interest::READABLE)?;
            listeners.push(listener);
        }
        let core = Core::new(index as u16, &shared);
        Ok(Self {
            index,
            shared,
            poll,
            listeners,
            acceptor: config.map(|config| Acceptor::new(config, READ_BYTES)),
            slots: Slots::new(),
            core,
            wheel: Wheel::new(),
            ready: VecDeque::new(),
            accepting: Vec::new(),
            mail: Vec::new(),
            expired: Vec::new(),
            table_max,
            started: Instant::now(),
            stop_at: None,
            backlogged: false,
        })
    }

    /// Runs until a shutdown is complete.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        loop {
            match self.poll.poll(&mut events, self.poll_timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.core.now = self.elapsed();
            self.core.metrics.turns.add(1);
            self.core.handshakes = 0;
            self.backlogged = self.is_backlogged();
            for event in &events {
                self.event(event);
            }
            self.accept_all();
            self.read_mail();
            self.read_ready();
            self.fan_out();
            self.expire_timers();
            self.slots.sweep();
            if self.is_stopped() {
                // Whoever has not answered the Close is cut.
                for key in self.slots.keys() {
                    self.attend(key, |_, _, _| After::Drop);
                }
                return Ok(());
            }
        }
    }

    fn elapsed(&self) -> Millis {
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// How long there is nothing to do unless something happens.
    fn poll_timeout(&self) -> Option<Duration> {
        if self.core.hub.has_work() || !self.accepting.is_empty() {
            return Some(Duration::ZERO);
        }
        if !self.ready.is_empty() {
            return Some(if self.is_backlogged() { BACKLOG_PAUSE } else { Duration::ZERO });
        }
        let retries = self.listeners.iter().filter_map(Listener::retry_at);
        let next = retries.chain(self.wheel.next()).chain(self.stop_at).min()?;
        Some(Duration::from_millis(next.0.saturating_sub(self.elapsed().0)))
    }

    /// Whether any worker has so much to fan out that no more should be taken in.
    fn is_backlogged(&self) -> bool {
        self.shared.mailboxes.iter().any(|mailbox| mailbox.backlog() > BACKLOG_BYTES)
    }

    fn event(&mut self, event: &mio::event::Event) {
        if event.token() == MAILBOX {
            return;
        }
        let key = Key::from_token(event.token());
        if key.generation == 0 {
            self.accepting.push(key.slot as usize);
            return;
        }
        if event.is_writable() {
            self.attend(key, |core, key, entry| {
                if entry.conn.has_backlog() || entry.stream.is_pending() {
                    core.writable(key, entry)
                } else {
                    After::Wait
                }
            });
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            let eof_ahead = event.is_read_closed() || event.is_error();
            if self.backlogged || self.core.hub.pending_bytes() > BACKLOG_BYTES {
                self.attend(key, |_, _, entry| {
                    entry.defer(eof_ahead);
                    After::Ready
                });
            } else {
                self.attend(key, |core, key, entry| {
                    // Those that have waited for their handshake are first.
                    if entry.stream.is_handshaking() {
                        entry.defer(eof_ahead);
                        return After::Ready;
                    }
                    core.readable(key, entry, eof_ahead)
                });
            }
        }
    }

    /// Does something with a connection, and what has to follow.
    fn attend(&mut self, key: Key, work: impl FnOnce(&mut Core, Key, &mut Entry) -> After) {
        let Some(entry) = self.slots.get_mut(key) else { return self.core.metrics.stale_events.add(1) };
        // Gone earlier in this turn.
        if entry.conn.is_gone() {
            return;
        }
        match work(&mut self.core, key, entry) {
            After::Drop => {
                self.core.bury(key, entry);
                self.shared.connections.fetch_sub(1, Ordering::Relaxed);
                self.slots.retire(key);
                return;
            }
            After::Ready if !entry.listed => {
                entry.listed = true;
                self.ready.push_back(key);
            }
            After::Ready | After::Wait => {}
        }
        let deadline = entry.conn.deadline(&self.core.limits);
        if deadline < entry.timer_at {
            entry.timer_at = self.wheel.insert(key, deadline);
        }
    }

    fn read_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.shared.mailboxes[self.index].take(&mut mail);
        for item in mail.drain(..) {
            match item {
                Mail::Publish { topic, batch } => self.core.hub.receive(&topic, batch),
                Mail::Certificates(config) => {
                    if let Some(acceptor) = &mut self.acceptor {
                        acceptor.renew(config);
                    }
                }
                Mail::Shutdown => self.stop(),
            }
        }
        self.mail = mail;
    }

    /// Goes on with the connections that had more input than one turn's share.
    fn read_ready(&mut self) {
        if self.backlogged {
            return;
        }
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(entry) = self.slots.get_mut(key) else { continue };
            entry.listed = false;
            self.attend(key, |core, key, entry| core.readable(key, entry, false));
        }
    }

    /// Passes on what was published in this turn, and delivers a turn's share of what is under way.
    fn fan_out(&mut self) {
        let shared = &self.shared;
        let own = self.index;
        self.core.hub.seal(|topic, batch| {
            for (index, mailbox) in shared.mailboxes.iter().enumerate() {
                mailbox.add_backlog(batch.wire_len());
                if index != own {
                    let batch = batch.for_other_workers();
                    mailbox.post(Mail::Publish { topic: Arc::clone(topic), batch });
                }
            }
        });
        for _ in 0..DELIVERIES_PER_TURN {
            let core = &mut self.core;
            let Some((slot, batch)) = core.hub.next_delivery() else { break };
            let Some((key, entry)) = self.slots.at(slot) else { continue };
            let delivered =
                entry.deliver(slot, batch, core.now, &core.limits, &core.metrics, &mut core.bench);
            if delivered != Delivered::Taken {
                self.attend(key, |core, key, entry| core.after_delivery(key, entry, delivered));
            }
        }
        self.shared.mailboxes[own].sub_backlog(self.core.hub.take_finished_bytes());
        let missed = self.core.hub.take_missed();
        self.core.metrics.due.add(missed);
        self.core.metrics.dropped_closed.add(missed);
    }

    fn expire_timers(&mut self) {
        let now = self.core.now;
        let mut expired = std::mem::take(&mut self.expired);
        self.wheel.expire(now, &mut expired);
        for key in expired.drain(..) {
            let Some(entry) = self.slots.get_mut(key) else { continue };
            if entry.timer_at > now {
                continue;
            }
            entry.timer_at = Millis::NEVER;
            if entry.conn.deadline(&self.core.limits) <= now {
                self.attend(key, Core::timeout);
            }
            if let Some(entry) = self.slots.get_mut(key)
                && entry.timer_at == Millis::NEVER
                && !entry.conn.is_gone()
            {
                entry.timer_at = self.wheel.insert(key, entry.conn.deadline(&self.core.limits));
            }
        }
        self.expired = expired;
    }

    /// Stops accepting and closes every connection, behind all that was published before.
    fn stop(&mut self) {
        if self.stop_at.is_some() {
            return;
        }
        info!(worker = self.index, connections = self.slots.len(), "stopping");
        // Connections still in a queue would be reset when it is closed.
        for number in 0..self.listeners.len() {
            while self.accept_some(number) {}
        }
        self.listeners.clear();
        self.core.draining = true;
        self.stop_at = Some(self.core.now.after(SHUTDOWN_TIME));
        loop {
            self.fan_out();
            if !self.core.hub.has_work() {
                break;
            }
        }
        for key in self.slots.keys() {
            self.attend(key, Core::stop);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop_at.is_some_and(|at| self.slots.len() == 0 || self.core.now >= at)
    }
}
