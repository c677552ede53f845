//! The loop of one worker: poll, accept, mailbox, sockets, fan-out, timers, and again.
//!
//! A turn takes each ready socket once, for at most one buffer; gathers what is published; and ends with a bounded
//! part of the fan-out. Work that is left over makes the next poll return at once.

mod accept;
mod budget;
mod drain;
mod patience;
mod share;
mod shared;
mod timers;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use budget::Budget;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use patience::Patience;
use share::{Share, deliveries_for};
pub(crate) use shared::{Endpoints, Settings, Shared};
use timers::Heard;
use tracing::info;

use super::drain::Draining;
use super::entry::{After, Delivered, Entry};
use super::inspect::{Inspection, Tables};
use super::listener::{Listener, user_timeout};
use super::mailbox::Mail;
use super::slots::{Key, Slots};
use super::socket::{Core, READ_BYTES};
use super::tls::{Acceptor, ServerConfig};
use super::wheel::Wheel;
use crate::id::{Micros, Millis};

/// While more than this waits to be fanned out on any worker, as batches count it, no input is read: publishers then
/// wait in the kernel, and in the end in their own `send`, instead of in our memory.
const BACKLOG_BYTES: usize = 8 * 1024 * 1024;

/// How long input is left unread before the backlog is looked at again, when another worker has it.
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);

/// The whole of a shutdown, but for what the machine takes to begin and to end it.
const SHUTDOWN_TIME: Duration = Duration::from_millis(4_500);

const _: () = assert!(SHUTDOWN_TIME.as_millis() < 5_000, "5 seconds are promised, for all of it");

/// The part of it that may go to what was published before. A large room with 8 MiB waiting takes longer, and then it
/// is the Close that everybody is to get.
const LAST_WORDS_TIME: Duration = Duration::from_secs(2);

const EVENTS_PER_POLL: usize = 1024;
const MAILBOX: Token = Token(u32::MAX as usize);

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
    /// Listeners with connections that were not accepted yet, each once, in their turn.
    accepting: Vec<usize>,
    /// They wait until then, because so many were accepted.
    accept_at: Millis,
    mail: Vec<Mail>,
    /// The slots of the next deliveries.
    receivers: Vec<u32>,
    /// Those whose deadline may have passed, and that no turn has come to yet.
    expired: Vec<Key>,
    heard: Heard,
    /// Connections that this worker's table has room for.
    table_max: usize,
    /// Questions about the connections that are not answered yet.
    inspections: VecDeque<Inspection>,
    /// When the last turn ended.
    turn_ended: Micros,
    draining: Option<Draining>,
    stop_at: Option<Millis>,
    /// Whether, at the start of the turn, there was too much to fan out to take in more.
    backlogged: bool,
    budget: Budget,
    share: Share,
    patience: Patience,
}

impl Worker {
    /// Opens the poll and the listeners. The thread must have its descriptor table by now.
    pub(crate) fn open(
        index: usize,
        shared: Arc<Shared>,
        endpoints: &Endpoints,
        config: Option<ServerConfig>,
        table_max: usize,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mailbox = shared.mailboxes[index].as_raw_fd();
        poll.registry().register(&mut SourceFd(&mailbox), MAILBOX, Interest::READABLE)?;
        let user_timeout = user_timeout(shared.settings().limits.as_slice());
        let mut listeners = Vec::with_capacity(endpoints.all.len());
        for (number, &address) in endpoints.all.iter().enumerate() {
            let secure = number >= endpoints.plain;
            listeners.push(Listener::open(address, secure, shared.backlog, user_timeout)?);
        }
        for passed in &shared.inherited {
            listeners.push(Listener::inherit(passed, user_timeout)?);
        }
        for (number, listener) in listeners.iter_mut().enumerate() {
            listener.register(poll.registry(), Token(number))?;
        }
        let core = Core::new(index as u16, &shared);
        let thread_id = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        shared.thread_ids[index].store(thread_id, Ordering::Relaxed);
        let metrics = &core.metrics;
        let acceptor = config.map(|config| Acceptor::new(config, READ_BYTES, Arc::clone(metrics)));
        Ok(Self {
            index,
            budget: Budget::new(shared.queue_total, shared.mailboxes.len()),
            share: Share::new(),
            patience: Patience::new(user_timeout),
            shared,
            poll,
            listeners,
            acceptor,
            slots: Slots::new(),
            core,
            wheel: Wheel::new(),
            ready: VecDeque::new(),
            accepting: Vec::new(),
            accept_at: Millis(0),
            mail: Vec::new(),
            receivers: Vec::new(),
            expired: Vec::new(),
            heard: Heard::default(),
            table_max,
            inspections: VecDeque::new(),
            turn_ended: Micros(0),
            draining: None,
            stop_at: None,
            backlogged: false,
        })
    }

    /// Runs until a shutdown is complete.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        loop {
            let timeout = self.poll_timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.turn_ended = self.shared.now();
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.begin_turn();
            self.watch_memory();
            self.backlogged = self.is_backlogged();
            let mut count = 0;
            for event in &events {
                count += 1;
                self.event(event);
            }
            self.share.note(self.core.now, count);
            self.heard.note(self.turn_ended, count, self.slots.len() + self.listeners.len() + 1);
            self.accept_all();
            self.read_mail();
            self.read_ready();
            self.fan_out();
            self.go_on_draining();
            self.spread_patience();
            self.expire_timers();
            self.inspect();
            self.slots.sweep();
            self.tell_if_drained();
            self.end_turn();
            if self.is_stopped() {
                // Whoever has not answered the Close is cut.
                for key in self.slots.keys() {
                    self.attend(key, |_, _, _| After::Drop);
                }
                return Ok(());
            }
        }
    }

    fn begin_turn(&mut self) {
        let now = self.shared.now();
        self.core.turn_began = now;
        self.core.now = now.into();
        self.core.handshakes = 0;
        self.core.metrics.turns.add(1);
    }

    /// Reads the clock once more: for how long the turn took, for what it brought to an end, and for how long the
    /// next poll may wait.
    fn end_turn(&mut self) {
        let now = self.shared.now();
        let metrics = &self.core.metrics;
        metrics.turn_time.record(now.since(self.core.turn_began));
        for stamp in self.core.hub.drain_finished() {
            metrics.route(stamp.route).fan_out_time.record(now.since(stamp.at));
        }
        self.turn_ended = now;
    }

    /// Goes on with the oldest question about the connections.
    fn inspect(&mut self) {
        let Some(inspection) = self.inspections.front_mut() else { return };
        let tables = Tables {
            slots_used: self.slots.len(),
            slots: self.slots.end() as usize,
            timers: self.wheel.len() + self.expired.len(),
            topics: self.core.hub.topic_count(),
            members: self.core.hub.membership_count(),
        };
        if inspection.advance(&mut self.slots, &self.core.quotas, tables, self.core.now) {
            self.inspections.pop_front();
        }
    }

    /// How long there is nothing to do unless something happens.
    fn poll_timeout(&mut self) -> Option<Duration> {
        let accepts = !self.accepting.is_empty();
        let is_behind = !self.inspections.is_empty() || !self.expired.is_empty() || self.patience.is_behind();
        let is_busy = is_behind || self.core.hub.has_work() || self.budget.is_busy(self.own_memory());
        if is_busy || accepts && self.accept_at <= self.core.now {
            return Some(Duration::ZERO);
        }
        if !self.ready.is_empty() {
            return Some(if self.is_backlogged() { BACKLOG_PAUSE } else { Duration::ZERO });
        }
        // Nobody is let in before the rate allows it, whatever else is over.
        let retries = self.listeners.iter().filter_map(Listener::retry_at).map(|at| at.max(self.accept_at));
        let paced = accepts.then_some(self.accept_at);
        let drain = self.draining.as_ref().map(Draining::next);
        let next = retries.chain(self.wheel.next()).chain(self.stop_at).chain(paced).chain(drain);
        let next = next.chain(self.next_look()).min()?;
        Some(Duration::from_millis(next.0.saturating_sub(Millis::from(self.turn_ended).0)))
    }

    /// Whether any worker has so much to fan out, or all queues hold so much, that no more should be taken in.
    fn is_backlogged(&self) -> bool {
        self.budget.is_full() || self.shared.mailboxes.iter().any(|mailbox| mailbox.backlog() > BACKLOG_BYTES)
    }

    /// Whether more may be taken in, in this turn.
    fn has_room(&self) -> bool {
        let too_much = self.backlogged || self.core.hub.pending_bytes() > BACKLOG_BYTES;
        !too_much && !self.budget.is_spent(self.own_memory())
    }

    fn event(&mut self, event: &mio::event::Event) {
        if event.token() == MAILBOX {
            return;
        }
        let key = Key::from_token(event.token());
        if key.generation == 0 {
            return self.has_arrivals(key.slot as usize);
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
            let has_room = self.has_room();
            self.attend(key, |core, key, entry| {
                // Those that have waited for their handshake are first.
                if !has_room || entry.stream.is_handshaking() {
                    entry.defer(eof_ahead);
                    return After::Ready;
                }
                core.readable(key, entry, eof_ahead)
            });
        }
    }

    /// Does something with a connection, and what has to follow.
    fn attend(&mut self, key: Key, work: impl FnOnce(&mut Core, Key, &mut Entry) -> After) {
        let Some(entry) = self.slots.get_mut(key) else { return self.core.metrics.stale_events.add(1) };
        // Gone earlier in this turn.
        if entry.conn.is_gone() {
            return;
        }
        let after = work(&mut self.core, key, entry);
        if after == After::Drop {
            self.core.bury(key, entry);
        }
        self.core.enter(entry.route);
        match after {
            After::Drop => {
                self.shared.seats.leave();
                self.slots.retire(key);
                return;
            }
            After::Ready if !entry.listed => {
                entry.listed = true;
                self.ready.push_back(key);
            }
            After::Ready | After::Wait => {}
        }
        let deadline = self.core.deadline(key, entry);
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
                Mail::Inspect(inspection) => self.inspections.push_back(inspection),
                Mail::Drain => self.drain(),
                Mail::Settings(settings) => {
                    self.core.renew(&settings, &self.shared);
                    self.be_patient(user_timeout(settings.limits.as_slice()));
                }
                Mail::Certificates(config) => {
                    if let Some(acceptor) = &mut self.acceptor {
                        acceptor.renew(config);
                    }
                }
                Mail::Shutdown => self.stop(),
                Mail::Nudge => {}
            }
        }
        self.mail = mail;
    }

    /// Goes on with the connections that had more input than one turn's share.
    fn read_ready(&mut self) {
        let listed = self.ready.len();
        let mut read = 0;
        while read < listed
            && self.has_room()
            && let Some(key) = self.ready.pop_front()
        {
            read += 1;
            let Some(entry) = self.slots.get_mut(key) else { continue };
            entry.listed = false;
            self.attend(key, |core, key, entry| core.readable(key, entry, false));
        }
        self.share.note_ready(read);
    }

    /// Passes on what was published in this turn, and delivers a turn's share of what is under way.
    fn fan_out(&mut self) {
        let shared = &self.shared;
        let own = self.index;
        self.core.hub.seal(|topic, batch| {
            let mark = shared.audience.mark(topic);
            for (index, mailbox) in shared.mailboxes.iter().enumerate() {
                if index == own {
                    mailbox.add_backlog(batch.backlog_bytes());
                } else if shared.audience.has(index, mark) {
                    mailbox.publish(Arc::clone(topic), batch.for_other_workers());
                }
            }
        });
        let mut receivers = std::mem::take(&mut self.receivers);
        let mut left = self.share.deliveries();
        let mut route = self.core.router.none();
        // What is compressed for each member is looked at after each.
        let apart = self.core.deflate.is_some_and(|deflate| deflate.takeover);
        while left > 0
            && let Some(batch) = self.core.hub.next_deliveries(if apart { 1 } else { left }, &mut receivers)
        {
            left -= receivers.len();
            let compressed = self.core.metrics.deflate_input_bytes.get();
            for &slot in &receivers {
                let core = &mut self.core;
                let Some((key, entry)) = self.slots.at(slot) else { continue };
                // The members of a topic are mostly on one route: it has what they were due all at once.
                if entry.route != route {
                    core.enter(std::mem::replace(&mut route, entry.route));
                }
                let rules = &core.rules[entry.route];
                let delivered = entry.deliver(slot, &batch, core.now, rules, &core.metrics, &mut core.bench);
                if delivered != Delivered::Taken {
                    self.attend(key, |core, key, entry| core.after_delivery(key, entry, delivered));
                }
            }
            self.core.enter(route);
            let compressed = self.core.metrics.deflate_input_bytes.get() - compressed;
            left = left.saturating_sub(deliveries_for(compressed));
        }
        self.receivers = receivers;
        self.shared.mailboxes[own].sub_backlog(self.core.hub.take_finished_bytes());
    }

    /// Stops accepting and closes every connection, behind what was published before, as far as there is time for it.
    fn stop(&mut self) {
        if self.stop_at.is_some() {
            return;
        }
        let metrics = &self.core.metrics;
        let (accepted, delivered) = (metrics.accepted.get(), metrics.delivered.get());
        // Side by side, the lines of all workers show how evenly the kernel spread the connections.
        info!(worker = self.index, connections = self.slots.len(), accepted, delivered, "stopping");
        self.core.stopping = true;
        self.close_listeners();
        self.draining = None;
        self.stop_at = Some(self.core.now.after(SHUTDOWN_TIME));
        self.fan_out_until(self.core.now.after(LAST_WORDS_TIME));
        for key in self.slots.keys() {
            self.attend(key, Core::stop);
        }
    }

    /// Delivers all that was published so far, if there is time.
    fn fan_out_until(&mut self, until: Millis) {
        loop {
            self.fan_out();
            if !self.core.hub.has_work() || Millis::from(self.shared.now()) >= until {
                break;
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop_at.is_some_and(|at| self.slots.len() == 0 || self.core.now >= at)
    }
}
