//! What happens on one connection's socket: reading, deadlines, writing.

use std::io::{self, Write as _};
use std::sync::Arc;

use tracing::debug;

use super::drain::Farewell;
use super::entry::{After, Delivered, Entry, Workbench};
use super::quotas::Quotas;
use super::slots::Key;
use super::stream::Input;
use super::worker::{Settings, Shared};
use crate::app::{App, Orders, Places};
use crate::config::{Deflate, Limits, Origins};
use crate::conn::{Cause, Ignored, QueueRules, Received, Step};
use crate::http::Page;
use crate::hub::Hub;
use crate::id::{ConnId, Micros, Millis};
use crate::metrics::{Entered, WorkerMetrics};
use crate::proto::handshake::Response;
use crate::proto::{Close, CloseCode, Status};
use crate::route::{ByRoute, Router};
use crate::state::SharedState;

/// The worker's one read buffer, and with it what a connection may have read in one turn: a chatty peer starves
/// nobody. A read that does not fill it has emptied the socket.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// What one connection may have inflated in one turn, in bytes; the message that goes over it is the last. Without it
/// one read could be turned into a thousand times its size before anybody else is served.
const INFLATE_BYTES: usize = 1024 * 1024;

/// What one connection's input may cause to be sent to it before that is sent; the message that goes over it is the
/// last of its turn. A buffer that grew larger is not kept.
const REPLY_BYTES: usize = 256 * 1024;

/// What every connection of a worker uses in turn. Apart from the slots, so that both can be borrowed.
pub(super) struct Core {
    pub(super) worker: u16,
    pub(super) now: Millis,
    /// The same moment, for what is measured.
    pub(super) turn_began: Micros,
    pub(super) limits: ByRoute<Limits>,
    /// For connections whose TLS handshake is under way: what is different is how long they have.
    pub(super) tls_limits: Limits,
    pub(super) metrics: Arc<WorkerMetrics>,
    /// How far they have been entered in those of routes.
    entered: Entered,
    pub(super) router: Arc<Router>,
    pub(super) pages: Arc<[Page]>,
    pub(super) apps: Vec<Box<dyn App>>,
    /// What happens to those who do not keep up.
    pub(super) rules: ByRoute<QueueRules>,
    pub(super) hub: Hub,
    pub(super) buffer: Box<[u8]>,
    pub(super) origins: Origins,
    /// How to compress; `None` declines every offer.
    pub(super) deflate: Option<Deflate>,
    pub(super) bench: Workbench,
    pub(super) orders: Orders,
    pub(super) places: Places,
    pub(super) quotas: Quotas,
    /// Whom to tell what when a drain closes it.
    pub(super) drain: Farewell,
    pub(super) state: Arc<SharedState>,
    /// Steps of TLS handshakes in this turn.
    pub(super) handshakes: u32,
    pub(super) stopping: bool,
}

impl Core {
    pub(super) fn new(worker: u16, shared: &Shared) -> Self {
        let Settings { limits, origins } = shared.settings();
        let server = &limits[shared.router.none()];
        Self {
            worker,
            now: Millis(0),
            turn_began: Micros(0),
            tls_limits: Limits { handshake_timeout: server.tls_timeout, ..server.clone() },
            metrics: Arc::clone(&shared.metrics[usize::from(worker)]),
            entered: Entered::default(),
            router: Arc::clone(&shared.router),
            pages: Arc::clone(&shared.pages),
            apps: shared.router.apps(),
            rules: shared.queue_rules(worker, &limits),
            hub: Hub::new(usize::from(worker), Arc::clone(&shared.audience), shared.deflate.is_some()),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            orders: Orders::default(),
            origins,
            deflate: shared.deflate,
            bench: Workbench::new(shared.deflate.unwrap_or_default()),
            places: Places::default(),
            quotas: Quotas::new(limits.as_slice(), &shared.proxies, &shared.addresses),
            limits,
            drain: Farewell::new(&shared.drain),
            state: Arc::clone(&shared.state),
            handshakes: 0,
            stopping: false,
        }
    }

    /// Keeps to other settings from now on.
    pub(super) fn renew(&mut self, settings: &Settings, shared: &Shared) {
        self.limits = settings.limits.clone();
        let server = &self.limits[self.router.none()];
        self.tls_limits = Limits { handshake_timeout: server.tls_timeout, ..server.clone() };
        self.rules = shared.queue_rules(self.worker, &self.limits);
        self.quotas.renew(self.limits.as_slice());
        self.origins = settings.origins.clone();
    }

    /// The socket is readable, or was left unread.
    pub(super) fn readable(&mut self, key: Key, entry: &mut Entry, eof_ahead: bool) -> After {
        entry.defer(eof_ahead);
        if entry.proxied {
            match self.read_proxy_header(key, entry) {
                After::Ready => {}
                after => return after,
            }
        }
        if entry.stream.is_handshaking() {
            return self.secure(key, entry);
        }
        if entry.conn.pauses_reading(&self.limits[entry.route]) {
            return After::Wait;
        }
        if let Some(mut held) = entry.held.take() {
            self.input(key, entry, &mut held);
            let after = self.settle(key, entry);
            if after == After::Drop || entry.held.is_some() {
                return if after == After::Drop { after } else { After::Ready };
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let after = loop {
            match entry.stream.read(&mut buffer) {
                Ok(Input::Eof) => {
                    entry.unread = false;
                    self.count_if_abandoned(entry);
                    if let Some(ended) = entry.conn.receive_eof() {
                        self.ended(key, entry, &ended);
                    }
                    break self.settle(key, entry);
                }
                Ok(Input::Bytes { len, emptied }) => {
                    self.metrics.bytes_in.add(len as u64);
                    if len > 0 {
                        self.input(key, entry, &mut buffer[..len]);
                    }
                    let after = self.settle(key, entry);
                    if after == After::Drop {
                        break after;
                    }
                    if entry.held.is_some() {
                        break After::Ready;
                    }
                    // epoll(7): a read that returns less than asked for has emptied a stream socket; new bytes
                    // make a new event. A known end of the stream makes none.
                    if emptied && !entry.eof_ahead {
                        entry.unread = false;
                        break After::Wait;
                    }
                    if !emptied {
                        break if entry.conn.pauses_reading(&self.limits[entry.route]) {
                            After::Wait
                        } else {
                            After::Ready
                        };
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.unread = false;
                    break After::Wait;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break self.broken(key, entry),
            }
        };
        self.buffer = buffer;
        after
    }

    /// The socket takes bytes again.
    pub(super) fn writable(&mut self, key: Key, entry: &mut Entry) -> After {
        match entry.stream.flush() {
            Err(error) if entry.stream.is_handshaking() => return self.insecure(key, entry, &error),
            Err(_) => return self.broken(key, entry),
            Ok(()) => {}
        }
        let limits = &self.limits[entry.route];
        if entry.conn.flush(self.now, &mut entry.stream, limits, &self.metrics).is_err() {
            return self.broken(key, entry);
        }
        let after = self.settle(key, entry);
        let resumes =
            entry.is_kept_waiting() && !entry.listed && !entry.conn.pauses_reading(&self.limits[entry.route]);
        if after == After::Wait && resumes { After::Ready } else { after }
    }

    /// A deadline may have passed.
    pub(super) fn timeout(&mut self, key: Key, entry: &mut Entry) -> After {
        if entry.stream.is_handshaking() {
            return self.secure_timeout(entry);
        }
        if entry.is_kept_waiting() {
            entry.conn.put_off(self.now);
            // By us, and not by answers that it does not take.
            if !entry.conn.pauses_reading(&self.limits[entry.route]) {
                entry.conn.heard(self.now);
            }
        }
        let handshaking = entry.conn.is_handshaking();
        let (limits, rules) = (&self.limits[entry.route], &self.rules[entry.route]);
        if entry.conn.is_open() && self.quotas.expires_at(key.slot) <= self.now {
            self.retire(key, entry);
        } else if let Some(ended) =
            entry.conn.handle_timeout(self.now, limits, rules, &mut self.orders.reply, &self.metrics)
        {
            self.ended(key, entry, &ended);
        } else if handshaking && !entry.conn.is_handshaking() {
            self.metrics.handshakes_timed_out.add(1);
            Response::text(408, "no request in time\n").encode(&mut self.orders.reply);
        } else if !handshaking && entry.conn.is_gone() {
            self.metrics.closing_timed_out.add(1);
        }
        self.settle(key, entry)
    }

    /// When the connection wants to be looked at next, at the latest.
    pub(super) fn deadline(&self, key: Key, entry: &Entry) -> Millis {
        let deadline = entry.conn.deadline(&self.limits[entry.route]);
        if entry.conn.is_open() { deadline.min(self.quotas.expires_at(key.slot)) } else { deadline }
    }

    /// All queues together hold too much memory, and this one much of it.
    pub(super) fn relieve(&mut self, key: Key, entry: &mut Entry) -> After {
        let (limits, rules) = (&self.limits[entry.route], &self.rules[entry.route]);
        if let Some(ended) = entry.conn.relieve(self.now, limits, rules, &self.metrics) {
            self.ended(key, entry, &ended);
        }
        self.settle(key, entry)
    }

    /// There is no more memory, and a connection that is closed takes nothing of what is on its way to it.
    pub(super) fn cut_off(&mut self, _: Key, _: &mut Entry) -> After {
        self.metrics.closing_timed_out.add(1);
        After::Drop
    }

    /// The server stops: closes the connection behind what is queued for it.
    pub(super) fn stop(&mut self, key: Key, entry: &mut Entry) -> After {
        if entry.stream.is_handshaking() {
            self.metrics.tls_failed.add(1);
            return After::Drop;
        }
        if entry.conn.is_handshaking() {
            self.metrics.refused_stopping.add(1);
            Response::text(503, "the server is stopping\n").encode(&mut self.orders.reply);
            entry.conn.finish(self.now, &self.limits[entry.route]);
        } else {
            self.close(key, entry, &Close::new(CloseCode::GOING_AWAY, "server is stopping"));
        }
        self.settle(key, entry)
    }

    /// A drain has come to this connection: closes it behind what is queued for it.
    pub(super) fn let_go(&mut self, key: Key, entry: &mut Entry) -> After {
        if entry.conn.is_handshaking() {
            entry.leaving = true;
            return After::Wait;
        }
        self.close(key, entry, &self.drain.goodbye(key));
        self.settle(key, entry)
    }

    /// What has to follow a delivery that did not simply succeed.
    pub(super) fn after_delivery(&mut self, key: Key, entry: &mut Entry, delivered: Delivered) -> After {
        match delivered {
            Delivered::Taken | Delivered::Backlogged => After::Wait,
            Delivered::Overflow => {
                self.shed(key, entry);
                self.settle(key, entry)
            }
            Delivered::Broken => self.broken(key, entry),
        }
    }

    /// The connection is gone: what was never sent is counted, and its place given up.
    pub(super) fn bury(&mut self, key: Key, entry: &mut Entry) {
        entry.stream.farewell();
        let dropped = entry.conn.abandon(&self.metrics);
        self.quotas.bury(key.slot);
        self.metrics.dropped_closed.add(u64::from(dropped));
        self.metrics.connections.sub(1);
        if let Some(place) = entry.place.take() {
            self.places.leave(&place);
            self.metrics.route(entry.route).connections.sub(1);
        }
        debug!(id = %self.id(key), "gone");
    }

    /// Enters in the route's ledger what the worker's has gained since the last call, by connections of that route.
    pub(super) fn enter(&mut self, route: u16) {
        // Who leaves a topic misses what was published to it and not handed out yet.
        let missed = self.hub.take_missed();
        if missed > 0 {
            self.metrics.due.add(missed);
            self.metrics.dropped_closed.add(missed);
        }
        self.entered.enter(&self.metrics, &self.rules[route].ledger);
    }

    pub(super) fn id(&self, key: Key) -> ConnId {
        ConnId { worker: self.worker, slot: key.slot, generation: key.generation }
    }

    pub(super) fn input(&mut self, key: Key, entry: &mut Entry, input: &mut [u8]) {
        let mut at = 0;
        if entry.conn.is_handshaking() {
            match entry.conn.receive_head(input, &self.limits[entry.route]) {
                Ok(Status::Partial) => return,
                Ok(Status::Complete((head, used))) => {
                    at = used;
                    self.request(key, entry, &head);
                }
                Err(error) => return self.refuse(key, entry, input, error),
            }
        }
        let mut inflated = 0;
        while at < input.len() {
            if inflated > INFLATE_BYTES || self.orders.reply.len() > REPLY_BYTES {
                entry.held = Some(Box::new(input[at..].to_vec()));
                return;
            }
            let limits = &self.limits[entry.route];
            let (used, received) = entry.conn.receive(
                self.now,
                &mut input[at..],
                limits,
                &mut self.bench.pool,
                &mut self.orders.reply,
            );
            at += used;
            match received {
                None => {}
                Some(Received::Message(_)) if !self.quotas.pay(key.slot, self.now, limits) => {
                    let close = Close::new(CloseCode::POLICY, "too many messages");
                    let out = &mut self.orders.reply;
                    let ended = entry.conn.fail(self.now, close, Cause::Rate, limits, out);
                    if let Some(ended) = ended {
                        self.ended(key, entry, &ended);
                    }
                }
                Some(Received::Message(message)) => {
                    self.metrics.messages_in.add(1);
                    self.metrics.route(entry.route).messages_in.add(1);
                    if entry.conn.deflates() {
                        inflated += message.as_bytes().len();
                    }
                    debug!(id = %self.id(key), opcode = ?message.opcode(), bytes = message.as_bytes().len(), "message");
                    self.call(key, entry, |app, cx| app.on_message(cx, message));
                }
                Some(Received::Closed(ended)) => self.ended(key, entry, &ended),
                Some(Received::Ignored(what)) => self.count_ignored(what),
            }
        }
    }

    fn count_ignored(&self, what: Ignored) {
        let counter = match what {
            Ignored::PingOverRate => &self.metrics.pings_unanswered_rate,
            Ignored::PingSuperseded => &self.metrics.pings_unanswered_superseded,
            Ignored::PingAfterClose => &self.metrics.pings_unanswered_closing,
            Ignored::MessageAfterClose => &self.metrics.messages_ignored,
        };
        counter.add(1);
    }

    fn shed(&mut self, key: Key, entry: &mut Entry) {
        let (limits, rules) = (&self.limits[entry.route], &self.rules[entry.route]);
        if let Some(ended) = entry.conn.shed(self.now, limits, rules, &self.metrics) {
            self.ended(key, entry, &ended);
        }
    }

    /// The stream has ended or failed. Where that was before a request there is no other counter to say so.
    fn count_if_abandoned(&self, entry: &Entry) {
        if entry.conn.is_handshaking() {
            self.metrics.connections_abandoned.add(1);
        }
    }

    pub(super) fn broken(&mut self, key: Key, entry: &mut Entry) -> After {
        self.count_if_abandoned(entry);
        if let Some(ended) = entry.conn.break_off() {
            self.ended(key, entry, &ended);
        }
        self.orders.reply.clear();
        self.metrics.due.add(u64::from(self.orders.reply_messages));
        self.metrics.dropped_closed.add(u64::from(std::mem::take(&mut self.orders.reply_messages)));
        After::Drop
    }

    /// Sends what was written for this connection, and does what its state asks for.
    pub(super) fn settle(&mut self, key: Key, entry: &mut Entry) -> After {
        if !self.orders.reply.is_empty() {
            let mut reply = std::mem::take(&mut self.orders.reply);
            let messages = std::mem::take(&mut self.orders.reply_messages);
            self.metrics.due.add(u64::from(messages));
            let sent = entry.conn.transmit(self.now, &reply, messages, &mut entry.stream, &self.metrics);
            reply.clear();
            reply.shrink_to(REPLY_BYTES);
            self.orders.reply = reply;
            if sent.is_err() {
                return self.broken(key, entry);
            }
        }
        loop {
            match entry.conn.next_step() {
                Step::Keep => return After::Wait,
                Step::Drop => return After::Drop,
                Step::ShutdownWrite => {
                    if entry.stream.shutdown_write().is_err() {
                        return After::Drop;
                    }
                }
            }
        }
    }
}
