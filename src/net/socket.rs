//! What happens on one connection's socket: reading, the request, the app's callbacks and orders, writing.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use mio::net::TcpStream;
use tracing::{debug, warn};

use super::slots::Key;
use crate::app::{App, Context, OrderRef, Orders, Place, Verdict};
use crate::config::{Deflate, Limits};
use crate::conn::{Cause, Conn, Ended, Received, Sent, Step};
use crate::http::{self, Page};
use crate::hub::Hub;
use crate::hub::batch::{Batch, deflate};
use crate::id::{ConnId, Millis};
use crate::metrics::WorkerMetrics;
use crate::proto::deflate::{Pool, negotiate};
use crate::proto::frame::Piece;
use crate::proto::handshake::request::Upgrade;
use crate::proto::handshake::{Request, Response, encode_accept};
use crate::proto::{Close, CloseCode, Status};
use crate::route::Router;

/// The worker's one read buffer, and with it what a connection may have read in one turn: a chatty peer starves
/// nobody. A read that does not fill it has emptied the socket.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// What one connection may have inflated in one turn, in bytes; the message that goes over it is the last. Without it
/// one read could be turned into a thousand times its size before anybody else is served.
const INFLATE_BYTES: usize = 1024 * 1024;

/// A buffer for replies that grew larger is not kept.
const REPLY_KEPT_BYTES: usize = 256 * 1024;

/// One connection and its socket.
#[derive(Debug)]
pub(super) struct Entry {
    stream: TcpStream,
    pub(super) conn: Conn,
    place: Option<Rc<Place>>,
    /// Input that was read and has to wait for the next turn, because its share of inflating is used up.
    #[expect(
        clippy::box_collection,
        reason = "one word in every connection instead of three, for what is rare"
    )]
    held: Option<Box<Vec<u8>>>,
    app: u16,
    /// The socket may hold more than was read.
    unread: bool,
    /// The peer has ended its side: read on until that is all there is.
    eof_ahead: bool,
    /// On the worker's ready list.
    pub(super) listed: bool,
    /// When the wheel will look at it.
    pub(super) timer_at: Millis,
}

/// How a worker's attention to one socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Wait for an event.
    Wait,
    /// There is more to read than one turn's share.
    Ready,
    /// The connection is gone.
    Drop,
}

/// What every connection of a worker uses in turn. Apart from the slots, so that both can be borrowed.
pub(super) struct Core {
    pub(super) worker: u16,
    pub(super) now: Millis,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) router: Arc<Router>,
    pub(super) pages: Arc<[Page]>,
    pub(super) apps: Vec<Box<dyn App>>,
    pub(super) hub: Hub,
    pub(super) buffer: Box<[u8]>,
    /// How to compress; `None` declines every offer.
    deflate: Option<Deflate>,
    pub(super) bench: Workbench,
    orders: Orders,
    places: HashSet<Rc<Place>>,
    pub(super) draining: bool,
}

/// What preparing bytes for a connection needs, used by each in turn.
#[derive(Debug)]
pub(super) struct Workbench {
    pool: Pool,
    scratch: Vec<Piece>,
}

impl Entry {
    pub(super) fn new(stream: TcpStream, conn: Conn) -> Self {
        Self {
            stream,
            conn,
            place: None,
            held: None,
            app: 0,
            unread: false,
            eof_ahead: false,
            listed: false,
            timer_at: Millis::NEVER,
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The socket is readable, but has to wait.
    pub(super) fn defer(&mut self, eof_ahead: bool) {
        self.unread = true;
        self.eof_ahead |= eof_ahead;
    }

    /// Gives a member what its topic got: directly from the shared bytes where nothing waits for it.
    pub(super) fn deliver(
        &mut self,
        slot: u32,
        batch: &Batch,
        now: Millis,
        limits: &Limits,
        metrics: &WorkerMetrics,
        Workbench { pool, scratch }: &mut Workbench,
    ) -> Delivered {
        let mut pieces = match self.conn.shared_window() {
            Some(window) => batch.deflated(window, pool),
            None => batch.pieces(),
        };
        let mut messages = batch.messages();
        if batch.leaves_out(slot) {
            batch.without_left_out(slot, pieces, scratch);
            pieces = scratch.as_slice();
            messages = batch.messages_for(slot);
            if messages == 0 {
                return Delivered::Taken;
            }
        }
        // A window that goes on from message to message makes different bytes for each connection.
        let own;
        if self.conn.deflates()
            && self.conn.shared_window().is_none()
            && let Some(deflater) = self.conn.deflater(pool)
        {
            own = deflate(pieces, deflater);
            pieces = &own;
        }
        metrics.due.add(u64::from(messages));
        match self.conn.transmit_pieces(now, pieces, &mut self.stream, limits, metrics) {
            Ok(Sent::Accepted) if self.conn.has_backlog() => Delivered::Backlogged,
            Ok(Sent::Accepted) => Delivered::Taken,
            Ok(Sent::Overflow) => {
                metrics.dropped_slow.add(u64::from(messages));
                Delivered::Overflow
            }
            Err(_) => {
                metrics.dropped_closed.add(u64::from(messages));
                Delivered::Broken
            }
        }
    }
}

/// What a delivery came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// With the kernel.
    Taken,
    /// Some of it waits.
    Backlogged,
    /// Refused: too much waits already.
    Overflow,
    /// The socket failed.
    Broken,
}

const _: () = assert!(size_of::<Entry>() <= 160, "every connection pays for this");

impl Core {
    pub(super) fn new(
        worker: u16,
        limits: Limits,
        metrics: Arc<WorkerMetrics>,
        router: Arc<Router>,
        pages: Arc<[Page]>,
        deflate: Option<Deflate>,
    ) -> Self {
        let apps = router.apps();
        Self {
            worker,
            now: Millis(0),
            limits,
            metrics,
            router,
            pages,
            apps,
            hub: Hub::default(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            orders: Orders::default(),
            deflate,
            bench: Workbench { pool: Pool::new(deflate.unwrap_or_default()), scratch: Vec::new() },
            places: HashSet::new(),
            draining: false,
        }
    }

    /// The socket is readable, or was left unread.
    pub(super) fn readable(&mut self, key: Key, entry: &mut Entry, eof_ahead: bool) -> After {
        entry.defer(eof_ahead);
        if entry.conn.pauses_reading(&self.limits) {
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
                Ok(0) => {
                    entry.unread = false;
                    if let Some(ended) = entry.conn.receive_eof() {
                        self.ended(key, entry, &ended);
                    }
                    break self.settle(key, entry);
                }
                Ok(len) => {
                    self.metrics.bytes_in.add(len as u64);
                    self.input(key, entry, &mut buffer[..len]);
                    let after = self.settle(key, entry);
                    if after == After::Drop {
                        break after;
                    }
                    if entry.held.is_some() {
                        break After::Ready;
                    }
                    // epoll(7): a read that returns less than asked for has emptied a stream socket; new bytes
                    // make a new event. A known end of the stream makes none.
                    if len < READ_BYTES && !entry.eof_ahead {
                        entry.unread = false;
                        break After::Wait;
                    }
                    if len == READ_BYTES {
                        break if entry.conn.pauses_reading(&self.limits) {
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
        if entry.conn.flush(self.now, &mut entry.stream, &self.metrics).is_err() {
            return self.broken(key, entry);
        }
        let after = self.settle(key, entry);
        let resumes = entry.unread && !entry.listed && !entry.conn.pauses_reading(&self.limits);
        if after == After::Wait && resumes { After::Ready } else { after }
    }

    /// A deadline may have passed.
    pub(super) fn timeout(&mut self, key: Key, entry: &mut Entry) -> After {
        let handshaking = entry.conn.is_handshaking();
        if let Some(ended) =
            entry.conn.handle_timeout(self.now, &self.limits, &mut self.orders.reply, &self.metrics)
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

    /// The server stops: closes the connection behind what is queued for it.
    pub(super) fn stop(&mut self, key: Key, entry: &mut Entry) -> After {
        if entry.conn.is_handshaking() {
            Response::text(503, "the server is stopping\n").encode(&mut self.orders.reply);
            entry.conn.finish(self.now, &self.limits);
        } else {
            self.close(key, entry, &Close::new(CloseCode::GOING_AWAY, "server is stopping"));
        }
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
        let dropped = entry.conn.abandon(&self.metrics);
        self.metrics.dropped_closed.add(u64::from(dropped));
        self.metrics.connections.sub(1);
        if let Some(place) = entry.place.take()
            && Rc::strong_count(&place) == 2
        {
            self.places.remove(&place);
        }
        debug!(id = %self.id(key), "gone");
    }

    fn id(&self, key: Key) -> ConnId {
        ConnId { worker: self.worker, slot: key.slot, generation: key.generation }
    }

    fn input(&mut self, key: Key, entry: &mut Entry, input: &mut [u8]) {
        let mut at = 0;
        if entry.conn.is_handshaking() {
            match entry.conn.receive_head(input, &self.limits) {
                Ok(Status::Partial) => return,
                Ok(Status::Complete((head, used))) => {
                    // Borrowed from the input, which is needed again for what follows the head.
                    let head = head.into_owned();
                    at = used;
                    self.request(key, entry, &head);
                }
                Err(error) => return self.refuse(key, entry, error.status(), error),
            }
        }
        let mut inflated = 0;
        while at < input.len() {
            if inflated > INFLATE_BYTES {
                entry.held = Some(Box::new(input[at..].to_vec()));
                return;
            }
            let (used, received) = entry.conn.receive(
                self.now,
                &mut input[at..],
                &self.limits,
                &mut self.bench.pool,
                &mut self.orders.reply,
            );
            at += used;
            match received {
                None => {}
                Some(Received::Message(message)) => {
                    self.metrics.messages_in.add(1);
                    if entry.conn.deflates() {
                        inflated += message.as_bytes().len();
                    }
                    debug!(id = %self.id(key), opcode = ?message.opcode(), bytes = message.as_bytes().len(), "message");
                    self.call(key, entry, |app, cx| app.on_message(cx, message));
                }
                Some(Received::Closed(ended)) => self.ended(key, entry, &ended),
            }
        }
    }

    /// A whole request head: a page, a refusal, or the way to an app.
    fn request(&mut self, key: Key, entry: &mut Entry, head: &[u8]) {
        let request = match Request::parse(head, self.limits.max_headers as usize) {
            Ok(request) => request,
            Err(error) => return self.refuse(key, entry, error.status(), error),
        };
        let Upgrade::WebSocket { key: ws_key } = request.upgrade() else {
            self.metrics.http_requests.add(1);
            debug!(id = %self.id(key), path = request.path(), "http");
            return self.answer(entry, &http::respond(&self.pages, request.path()));
        };
        if self.draining {
            return self.answer(entry, &Response::text(503, "the server is stopping\n"));
        }
        let Some(app) = self.router.find(request.path()) else {
            self.metrics.http_requests.add(1);
            return self.answer(entry, &Response::text(404, "no such route\n"));
        };
        let admitted = catch_unwind(AssertUnwindSafe(|| self.apps[app as usize].on_request(&request)));
        let verdict = match admitted {
            Ok(admission) => admission.0,
            Err(_) => {
                self.panicked(key);
                Verdict::Reject { status: 500, body: "internal error\n".to_owned() }
            }
        };
        match verdict {
            Verdict::Reject { status, body } => {
                self.metrics.handshakes_rejected.add(1);
                self.answer(entry, &Response::text(status, body));
            }
            Verdict::Accept { subprotocol } => {
                let offered = |name: &String| request.subprotocols().any(|offer| offer == name);
                let subprotocol = subprotocol.filter(offered);
                let offers = request.headers("sec-websocket-extensions");
                let agreed = self.deflate.and_then(|config| negotiate(offers, &config));
                let extension = agreed.as_ref().map(|(_, answer)| answer.as_str());
                encode_accept(&mut self.orders.reply, ws_key, subprotocol.as_deref(), extension);
                if let Some((agreed, _)) = agreed {
                    entry.conn.enable_deflate(agreed, &self.bench.pool);
                }
                let place = Place { path: request.path().into(), subprotocol: subprotocol.map(Into::into) };
                self.opened(key, entry, app, place);
            }
        }
    }

    fn opened(&mut self, key: Key, entry: &mut Entry, app: u16, place: Place) {
        self.metrics.opened.add(1);
        debug!(id = %self.id(key), path = &*place.path, peer = ?entry.stream.peer_addr().ok(), "open");
        let place = match self.places.get(&place) {
            Some(known) => Rc::clone(known),
            None => {
                let place = Rc::new(place);
                self.places.insert(Rc::clone(&place));
                place
            }
        };
        entry.place = Some(place);
        entry.app = app;
        entry.conn.open(self.now, &self.limits);
        self.call(key, entry, |app, cx| app.on_open(cx));
    }

    fn refuse(&mut self, key: Key, entry: &mut Entry, status: u16, why: impl std::fmt::Display) {
        self.metrics.handshakes_refused.add(1);
        debug!(id = %self.id(key), status, %why, "handshake refused");
        self.answer(entry, &Response::text(status, format!("{why}\n")));
    }

    fn answer(&mut self, entry: &mut Entry, response: &Response) {
        response.encode(&mut self.orders.reply);
        entry.conn.finish(self.now, &self.limits);
    }

    /// Calls the connection's app and carries out what it orders.
    fn call(&mut self, key: Key, entry: &mut Entry, callback: impl FnOnce(&mut dyn App, &mut Context<'_>)) {
        let id = self.id(key);
        let Some(place) = entry.place.as_deref() else { return };
        let app = &mut *self.apps[entry.app as usize];
        let deflater = entry.conn.deflater(&mut self.bench.pool);
        let mut context = Context { id, place, orders: &mut self.orders, deflater };
        // The app is used again after a panic: its state is its own affair, as behind a mutex that is not poisoned.
        let outcome = catch_unwind(AssertUnwindSafe(|| callback(app, &mut context)));
        if outcome.is_err() {
            self.panicked(key);
            self.orders.clear();
            self.close(key, entry, &Close::new(CloseCode::INTERNAL_ERROR, "internal error"));
        } else if !self.orders.is_empty() {
            self.obey(key, entry);
        }
    }

    fn panicked(&mut self, key: Key) {
        self.metrics.app_panics.add(1);
        warn!(id = %self.id(key), "an app's callback panicked; its connection is closed");
    }

    /// Carries out the orders of a callback.
    fn obey(&mut self, key: Key, entry: &mut Entry) {
        let orders = std::mem::take(&mut self.orders);
        let mut close = None;
        for order in orders.iter() {
            match order {
                OrderRef::Publish { topic, frame, others_only } => {
                    self.metrics.published.add(1);
                    self.hub.publish(topic, frame, others_only.then_some(key.slot));
                }
                OrderRef::Subscribe(topic) if entry.conn.is_open() => {
                    self.hub.subscribe(key.slot, topic);
                }
                OrderRef::Unsubscribe(topic) => {
                    self.hub.unsubscribe(key.slot, topic);
                }
                OrderRef::Close(reason) => close = close.or_else(|| Some(reason.clone())),
                OrderRef::Subscribe(_) => {}
            }
        }
        self.orders = orders;
        self.orders.clear();
        if let Some(close) = close {
            self.close(key, entry, &close);
        }
    }

    fn close(&mut self, key: Key, entry: &mut Entry, close: &Close) {
        if let Some(ended) = entry.conn.close(self.now, close, &self.limits, &mut self.orders.reply) {
            self.ended(key, entry, &ended);
        }
    }

    /// The connection has left the open phase: it leaves its topics, and its app hears of it.
    fn ended(&mut self, key: Key, entry: &mut Entry, ended: &Ended) {
        let counter = match ended.cause {
            Cause::Peer => &self.metrics.closed_by_peer,
            Cause::Local => &self.metrics.closed_by_server,
            Cause::Protocol(_) => &self.metrics.closed_protocol,
            Cause::Slow => &self.metrics.closed_slow,
            Cause::Silent => &self.metrics.closed_silent,
            Cause::Lost => &self.metrics.closed_lost,
        };
        counter.add(1);
        debug!(id = %self.id(key), code = ended.close.code.get(), reason = &*ended.close.reason, cause = ?ended.cause, "closed");
        self.hub.leave_all(key.slot);
        let (len, messages) = (self.orders.reply.len(), self.orders.reply_messages);
        self.call(key, entry, |app, cx| app.on_close(cx, &ended.close));
        // What the app sends to a connection that is closed goes nowhere.
        self.orders.reply.truncate(len);
        self.orders.reply_messages = messages;
    }

    fn shed(&mut self, key: Key, entry: &mut Entry) {
        if let Some(ended) = entry.conn.shed(self.now, &self.limits, &self.metrics) {
            self.ended(key, entry, &ended);
        }
    }

    fn broken(&mut self, key: Key, entry: &mut Entry) -> After {
        if let Some(ended) = entry.conn.break_off() {
            self.ended(key, entry, &ended);
        }
        self.orders.reply.clear();
        self.metrics.due.add(u64::from(self.orders.reply_messages));
        self.metrics.dropped_closed.add(u64::from(std::mem::take(&mut self.orders.reply_messages)));
        After::Drop
    }

    /// Sends what was written for this connection, and does what its state asks for.
    fn settle(&mut self, key: Key, entry: &mut Entry) -> After {
        if !self.orders.reply.is_empty() {
            let mut reply = std::mem::take(&mut self.orders.reply);
            let messages = std::mem::take(&mut self.orders.reply_messages);
            self.metrics.due.add(u64::from(messages));
            let sent = entry.conn.transmit(
                self.now,
                &reply,
                messages,
                &mut entry.stream,
                &self.limits,
                &self.metrics,
            );
            reply.clear();
            reply.shrink_to(REPLY_KEPT_BYTES);
            self.orders.reply = reply;
            match sent {
                Ok(Sent::Accepted) => {}
                Ok(Sent::Overflow) => {
                    self.metrics.dropped_slow.add(u64::from(messages));
                    self.shed(key, entry);
                }
                Err(_) => {
                    self.metrics.dropped_closed.add(u64::from(messages));
                    return self.broken(key, entry);
                }
            }
        }
        loop {
            match entry.conn.next_step() {
                Step::Keep => return After::Wait,
                Step::Drop => return After::Drop,
                Step::ShutdownWrite => {
                    if entry.stream.shutdown(Shutdown::Write).is_err() {
                        return After::Drop;
                    }
                }
            }
        }
    }
}

/// Turns a connection away that there is no room for, so that its client knows why.
pub(super) fn turn_away(mut stream: TcpStream) {
    let mut out = Vec::new();
    Response::text(503, "the server is full\n").encode(&mut out);
    // What is unread when a socket is closed makes the kernel reset the connection, and with it the answer.
    let _ = stream.read(&mut [0; 2048]);
    let _ = stream.write(&out);
    let _ = stream.shutdown(Shutdown::Write);
}
