//! From a listener's queue to a connection of this worker.

use std::sync::atomic::Ordering;

use mio::Interest;
use tracing::warn;

use super::Worker;
use crate::conn::Conn;
use crate::net::entry::{Entry, turn_away};
use crate::net::listener::Accepted;
use crate::net::stream::Stream;
use crate::net::tls::Acceptor;

/// Connections taken off a listener's queue in one turn.
const ACCEPTS_PER_TURN: usize = 256;

impl Worker {
    pub(super) fn accept_all(&mut self) {
        let now = self.core.now;
        for (number, listener) in self.listeners.iter().enumerate() {
            if listener.retry_at().is_some_and(|at| at <= now) {
                self.accepting.push(number);
            }
        }
        let mut numbers = std::mem::take(&mut self.accepting);
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|&number| number < self.listeners.len() && self.accept_some(number));
        self.accepting = numbers;
    }

    /// Accepts a turn's share; true where more may be waiting.
    pub(super) fn accept_some(&mut self, number: usize) -> bool {
        let secure = self.listeners[number].secure;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listeners[number].accept(self.core.now) {
                Accepted::Stream(stream) => {
                    if self.take_place() {
                        self.admit(stream, secure);
                    } else {
                        self.core.metrics.refused_full.add(1);
                        turn_away(stream, secure);
                    }
                }
                Accepted::TurnAway(stream) => {
                    self.core.metrics.refused_full.add(1);
                    turn_away(stream, secure);
                    self.listeners[number].restock();
                }
                Accepted::Aborted => {}
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
        true
    }

    /// Takes a place below the ceiling, if there is one: look and take in one step, because all workers do.
    fn take_place(&self) -> bool {
        let max = self.shared.connections_max.load(Ordering::Relaxed);
        let taken = |held: usize| (held < max).then_some(held + 1);
        self.slots.len() < self.table_max
            && self.shared.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn admit(&mut self, socket: mio::net::TcpStream, secure: bool) {
        let now = self.core.now;
        let key = self.slots.next_key();
        let limits = if secure { &self.core.tls_limits } else { &self.core.limits };
        let conn = Conn::new(now, limits, key.jitter());
        let acceptor = self.acceptor.as_ref().filter(|_| secure);
        let made = acceptor.map(Acceptor::accept).transpose().and_then(|tls| {
            let mut stream = Stream::new(socket, tls);
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(stream.socket(), key.token(), interest)?;
            Ok(Entry::new(stream, conn))
        });
        let mut entry = match made {
            Ok(entry) => entry,
            Err(error) => {
                self.shared.connections.fetch_sub(1, Ordering::Relaxed);
                self.core.metrics.accept_errors.add(1);
                warn!(worker = self.index, %error, "cannot register a connection");
                return;
            }
        };
        entry.timer_at = self.wheel.insert(key, entry.conn.deadline(&self.shared.limits));
        self.slots.insert(entry);
        self.core.metrics.accepted.add(1);
        self.core.metrics.connections.add(1);
    }
}
