//! A whole request head: a page, a refusal, or the way to an app.

use std::net::IpAddr;

use tracing::{debug, field};

use super::entry::Entry;
use super::slots::Key;
use super::socket::Core;
use crate::app::Verdict;
use crate::guard;
use crate::http;
use crate::proto::deflate::negotiate;
use crate::proto::handshake::request::Upgrade;
use crate::proto::handshake::{Request, RequestError, Response, encode_accept, origin};

impl Core {
    /// A whole request head: a page, a refusal, or the way to an app.
    pub(super) fn request(&mut self, key: Key, entry: &mut Entry, head: &[u8]) {
        let request = match Request::parse(head, self.limits[entry.route].max_headers as usize) {
            Ok(request) => request,
            Err(error) => return self.refuse(key, entry, head, error),
        };
        let client = match self.identify(key, &request) {
            Ok(client) => client,
            Err(refusal) => return self.answer(entry, &refusal),
        };
        let Upgrade::WebSocket { key: ws_key } = request.upgrade() else {
            self.metrics.http_requests.add(1);
            debug!(id = %self.id(key), path = request.path(), peer = entry.peer(), "http");
            return self.answer(entry, &http::respond(&self.pages, request.path(), self.state.get()));
        };
        if self.stopping {
            self.metrics.refused_stopping.add(1);
            return self.answer(entry, &Response::text(503, "the server is stopping\n"));
        }
        let Some(route) = self.router.find(request.path()) else {
            self.metrics.handshakes_no_route.add(1);
            debug!(id = %self.id(key), path = request.path(), peer = entry.peer(), "no route for this path");
            return self.answer(entry, &Response::text(404, "no such route\n"));
        };
        if let Some(origin) = request.origin() {
            let allowed = |loopback| origin::is_allowed(&self.origins, origin, request.host(), loopback);
            // The listener may be on all addresses, so it is the connection that says which one was used. It is asked
            // only where it matters.
            let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
            let mut on_loopback = || {
                client.is_none_or(is_loopback)
                    && entry.stream.socket().local_addr().is_ok_and(|address| is_loopback(address.ip()))
            };
            if !(allowed(false) || allowed(true) && on_loopback()) {
                self.metrics.handshakes_foreign_origin.add(1);
                debug!(id = %self.id(key), origin, peer = entry.peer(), "origin refused");
                return self.answer(entry, &Response::text(403, "pages from this origin may not connect\n"));
            }
        }
        let verdict = match guard::call(|| self.apps[usize::from(route)].on_request(&request)) {
            Some(admission) => admission.0,
            None => {
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
                entry.place = Some(self.places.enter(request.path(), subprotocol.as_deref()));
                self.opened(key, entry, route);
            }
        }
    }

    fn opened(&mut self, key: Key, entry: &mut Entry, route: u16) {
        self.metrics.opened.add(1);
        if tracing::enabled!(tracing::Level::DEBUG) {
            let path = entry.place.as_deref().map_or("", |place| &place.path);
            let client = self.quotas.known_client(key.slot).map(field::display);
            debug!(id = %self.id(key), path, peer = entry.peer(), client, "open");
        }
        entry.route = route;
        self.metrics.route(route).connections.add(1);
        let limits = &self.limits[route];
        entry.conn.open(self.now, limits);
        self.quotas.open(key.slot, self.now, key.jitter(), limits);
        self.call(key, entry, |app, cx| app.on_open(cx));
        // Its turn to leave came before its request did. A browser would not show its page the reason of a refusal.
        if entry.leaving {
            self.close(key, entry, &self.drain.goodbye(key));
        }
    }

    /// `head` is the request as far as it came.
    pub(super) fn refuse(&mut self, key: Key, entry: &mut Entry, head: &[u8], error: RequestError) {
        self.metrics.handshakes_refused.add(1);
        debug!(id = %self.id(key), status = error.status(), %error, peer = entry.peer(), "handshake refused");
        let mut response = Response::text(error.status(), format!("{error}\n"));
        // "The server MUST NOT send content in the response" to HEAD (RFC 9110 section 9.3.2).
        if head.starts_with(b"HEAD ") {
            response = response.without_body();
        }
        self.answer(entry, &response);
    }

    fn answer(&mut self, entry: &mut Entry, response: &Response) {
        response.encode(&mut self.orders.reply);
        entry.conn.finish(self.now, &self.limits[entry.route]);
    }
}
