//! From a listener's queue to a connection of this worker.

use std::net::IpAddr;

use mio::net::TcpStream;
use mio::{Interest, Token};
use tracing::warn;

use super::Worker;
use crate::conn::Conn;
use crate::id::Millis;
use crate::net::entry::{Entry, turn_away};
use crate::net::listener::Accepted;
use crate::net::proxied::too_many;
use crate::net::quotas::Client;
use crate::net::stream::Stream;
use crate::net::tls::Acceptor;
use crate::proto::handshake::Response;

/// Connections taken off a listener's queue in one turn.
const ACCEPTS_PER_TURN: usize = 256;

impl Worker {
    pub(super) fn accept_all(&mut self) {
        let now = self.core.now;
        if now < self.accept_at {
            return;
        }
        let accepted = self.core.metrics.accepted.get();
        let was_paused = std::mem::take(&mut self.accept_at) != Millis(0);
        for number in 0..self.listeners.len() {
            if self.listeners[number].retry_at().is_some_and(|at| at <= now) {
                self.has_arrivals(number);
            }
        }
        let mut numbers = std::mem::take(&mut self.accepting);
        numbers.retain(|&number| {
            let more = number < self.listeners.len() && self.accept_some(number, true);
            if !more && let Some(listener) = self.listeners.get_mut(number) {
                listener.rotate(self.poll.registry(), Token(number), now);
            }
            more
        });
        if self.accept_at > now && !numbers.is_empty() {
            // What the rate allows next is another listener's.
            numbers.rotate_left(1);
        }
        self.accepting = numbers;
        if was_paused {
            let late = self.core.metrics.accepted.get() - accepted;
            self.core.metrics.accepted_late.add(late);
        }
    }

    /// Connections may be waiting there: its turn comes behind the others'.
    pub(super) fn has_arrivals(&mut self, number: usize) {
        if !self.accepting.contains(&number) {
            self.accepting.push(number);
        }
    }

    /// Lets in whoever waits, to be told that the server ends, and no more after that.
    pub(super) fn close_listeners(&mut self) {
        // Connections still in a queue would be reset when it is closed. Where others hold it too, those of which we
        // were told, and nobody else was, are ours; later ones are theirs. Who is behind a whole queue has come
        // meanwhile, and others would follow.
        let turns = self.shared.backlog as usize / ACCEPTS_PER_TURN + 1;
        for number in 0..self.listeners.len() {
            self.listeners[number].deregister(self.poll.registry());
            let _ = (0..turns).all(|_| self.accept_some(number, false));
        }
        self.listeners.clear();
        self.accepting.clear();
    }

    /// Accepts a turn's share; true where more may be waiting. Not `paced`: whoever waits is let in, whatever the rate,
    /// to be told that the server ends.
    fn accept_some(&mut self, number: usize, paced: bool) -> bool {
        let secure = self.listeners[number].secure;
        let mut aborted = 0;
        for _ in 0..ACCEPTS_PER_TURN {
            if paced && let Err(at) = self.shared.pace.take(self.core.now) {
                self.accept_at = at;
                return true;
            }
            let accepted = self.listeners[number].accept(self.core.now);
            if paced && !matches!(accepted, Accepted::Stream(..)) {
                self.shared.pace.give_back();
            }
            match accepted {
                Accepted::Stream(stream, peer) => self.receive(stream, peer, secure),
                Accepted::TurnAway(stream) => {
                    self.core.metrics.refused_full.add(1);
                    turn_away(stream, secure, &full());
                    self.listeners[number].restock();
                }
                Accepted::Aborted => aborted += 1,
                Accepted::Empty => return false,
                Accepted::Exhausted(error) => {
                    if self.core.metrics.accept_errors.get() == 0 {
                        warn!(worker = self.index, %error, "cannot accept; trying again (said once)");
                    }
                    self.core.metrics.accept_errors.add(1);
                    return false;
                }
            }
        }
        // So many in a row are no peers that went away: something forbids us to accept, and says so each time.
        if aborted == ACCEPTS_PER_TURN {
            self.core.metrics.accept_errors.add(1);
            self.listeners[number].pause(self.core.now);
            return false;
        }
        true
    }

    /// Lets a connection in, or says why not.
    fn receive(&mut self, stream: TcpStream, peer: IpAddr, secure: bool) {
        if self.budget.is_full() {
            self.core.metrics.refused_memory.add(1);
            return turn_away(stream, secure, &full());
        }
        if self.slots.len() >= self.table_max || !self.shared.seats.take() {
            self.core.metrics.refused_full.add(1);
            return turn_away(stream, secure, &full());
        }
        match self.core.quotas.claim(peer) {
            Some(client) => self.admit(stream, client, secure),
            None => {
                self.shared.seats.leave();
                self.core.metrics.refused_address.add(1);
                turn_away(stream, secure, &too_many());
            }
        }
    }

    fn admit(&mut self, socket: TcpStream, client: Client, secure: bool) {
        let now = self.core.now;
        let key = self.slots.next_key();
        let route = self.core.router.none();
        let server = &self.core.limits[route];
        let limits = if secure { &self.core.tls_limits } else { server };
        let conn = Conn::new(now, limits, key.jitter());
        let acceptor = self.acceptor.as_ref().filter(|_| secure);
        let made = acceptor.map(Acceptor::accept).transpose().and_then(|tls| {
            let mut stream = Stream::new(socket, tls);
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(stream.socket(), key.token(), interest)?;
            Ok(Entry::new(stream, conn, route, now))
        });
        let mut entry = match made {
            Ok(entry) => entry,
            Err(error) => {
                self.shared.seats.leave();
                self.core.quotas.forgo(client);
                if self.core.metrics.accept_errors.get() == 0 {
                    warn!(worker = self.index, %error, "cannot register a connection (said once)");
                }
                self.core.metrics.accept_errors.add(1);
                return;
            }
        };
        entry.proxied = matches!(client, Client::Awaited(_)) && self.shared.proxies.protocol;
        self.core.quotas.admit(key.slot, client);
        entry.timer_at = self.wheel.insert(key, entry.conn.deadline(server));
        self.slots.insert(entry);
        self.core.metrics.accepted.add(1);
        self.core.metrics.connections.add(1);
    }
}

fn full() -> Response {
    Response::text(503, "the server is full\n")
}
