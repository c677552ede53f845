//! Calling an app, and carrying out what it orders.

use tracing::{debug, warn};

use super::entry::{Entry, count_work};
use super::slots::Key;
use super::socket::Core;
use crate::app::{App, Context, OrderRef};
use crate::conn::{Cause, Ended};
use crate::guard;
use crate::hub::batch::Stamp;
use crate::proto::{Close, CloseCode};

impl Core {
    /// Calls the connection's app and carries out what it orders.
    pub(super) fn call(
        &mut self,
        key: Key,
        entry: &mut Entry,
        callback: impl FnOnce(&mut dyn App, &mut Context<'_>),
    ) {
        let id = self.id(key);
        let Some(place) = entry.place.as_deref() else { return };
        let app = &mut *self.apps[entry.route as usize];
        let deflater = entry.conn.deflater(&mut self.bench.pool);
        let mut context = Context { id, place, orders: &mut self.orders, deflater };
        // The app is used again after a panic.
        let outcome = guard::call(|| callback(app, &mut context));
        if let Some(deflater) = entry.conn.deflater(&mut self.bench.pool) {
            count_work(&self.metrics, deflater.take_work());
        }
        if outcome.is_none() {
            self.panicked(key);
            self.orders.clear();
            self.close(key, entry, &Close::new(CloseCode::INTERNAL_ERROR, "internal error"));
        } else if !self.orders.is_empty() {
            self.obey(key, entry);
        }
    }

    pub(super) fn panicked(&mut self, key: Key) {
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
                    self.metrics.route(entry.route).published.add(1);
                    let stamp = Stamp { route: entry.route, at: self.turn_began };
                    self.hub.publish(topic, frame, others_only.then_some(key.slot), stamp);
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

    pub(super) fn close(&mut self, key: Key, entry: &mut Entry, close: &Close) {
        let limits = &self.limits[entry.route];
        if let Some(ended) = entry.conn.close(self.now, close, limits, &mut self.orders.reply) {
            self.ended(key, entry, &ended);
        }
    }

    /// The connection has reached its age: its client may come back at once, because connections of one age do not
    /// end together.
    pub(super) fn retire(&mut self, key: Key, entry: &mut Entry) {
        let close = Close::new(CloseCode::RESTART, "retry=0");
        let limits = &self.limits[entry.route];
        if let Some(ended) = entry.conn.close(self.now, &close, limits, &mut self.orders.reply) {
            self.ended(key, entry, &Ended { cause: Cause::Aged, ..ended });
        }
    }

    /// The connection has left the open phase: it leaves its topics, and its app hears of it.
    pub(super) fn ended(&mut self, key: Key, entry: &mut Entry, ended: &Ended) {
        let counter = match ended.cause {
            Cause::Peer => &self.metrics.closed_by_peer,
            Cause::Local => &self.metrics.closed_by_server,
            Cause::Protocol(_) => &self.metrics.closed_protocol,
            Cause::Rate => &self.metrics.closed_rate,
            Cause::Aged => &self.metrics.closed_aged,
            Cause::Slow => &self.metrics.closed_slow,
            Cause::Shed => &self.metrics.closed_shed,
            Cause::Unfinished => &self.metrics.closed_unfinished,
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
}
