//! The handshake of TLS on a connection of a worker, before anything of HTTP is heard.

use std::io;

use tracing::debug;

use super::entry::{After, Entry};
use super::slots::Key;
use super::socket::Core;
use super::stream::Input;
use super::tls::Tls;
use crate::conn::Conn;
use crate::proto::handshake::Response;

/// Steps of handshakes in one turn of the loop. One costs up to a millisecond of cryptography, and however many come at
/// once, nobody else is to wait for all of them.
const HANDSHAKES_PER_TURN: u32 = 32;

impl Core {
    /// The socket of a connection whose TLS handshake is under way is readable.
    pub(super) fn secure(&mut self, key: Key, entry: &mut Entry) -> After {
        if self.handshakes >= HANDSHAKES_PER_TURN {
            return After::Ready;
        }
        self.handshakes += 1;
        let mut buffer = std::mem::take(&mut self.buffer);
        let after = loop {
            match entry.stream.read(&mut buffer) {
                Ok(Input::Bytes { .. }) if entry.stream.is_handshaking() => {}
                Ok(Input::Bytes { len, emptied }) => {
                    entry.unread = !emptied || entry.eof_ahead;
                    break self.secured(key, entry, &mut buffer[..len]);
                }
                Ok(Input::Eof) => break self.insecure(key, entry, &io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.unread = false;
                    break After::Wait;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break self.insecure(key, entry, &error),
            }
        };
        self.buffer = buffer;
        after
    }

    /// The handshake is complete; `input` came right behind it. Now the time for the request begins.
    fn secured(&mut self, key: Key, entry: &mut Entry, input: &mut [u8]) -> After {
        self.metrics.tls_handshakes.add(1);
        if entry.stream.tls().is_some_and(Tls::is_resumed) {
            self.metrics.tls_resumed.add(1);
        }
        entry.conn = Conn::new(self.now, &self.limits[entry.route], key.jitter());
        if !input.is_empty() {
            self.metrics.bytes_in.add(input.len() as u64);
            self.input(key, entry, input);
        }
        match self.settle(key, entry) {
            After::Wait if entry.is_kept_waiting() => After::Ready,
            after => after,
        }
    }

    /// The handshake failed: the connection ends, unless the peer can be told in the clear what it did.
    pub(super) fn insecure(&mut self, key: Key, entry: &mut Entry, error: &io::Error) -> After {
        self.metrics.tls_failed.add(1);
        debug!(id = %self.id(key), %error, peer = entry.peer(), "no TLS");
        if !entry.stream.tls().is_some_and(Tls::is_plaintext) {
            return After::Drop;
        }
        entry.stream.give_up_tls();
        Response::text(400, "this port speaks TLS: use https:// or wss://\n").encode(&mut self.orders.reply);
        entry.conn.finish(self.now, &self.limits[entry.route]);
        self.settle(key, entry)
    }

    /// The deadline of a connection whose TLS handshake is under way may have passed.
    pub(super) fn secure_timeout(&mut self, entry: &Entry) -> After {
        if self.now < entry.conn.deadline(&self.limits[entry.route]) {
            return After::Wait;
        }
        self.metrics.tls_timed_out.add(1);
        After::Drop
    }
}
