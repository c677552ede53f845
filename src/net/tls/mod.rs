//! TLS over a socket: what comes is decrypted, what goes is encrypted, and nothing is kept in between.
//!
//! rustls is driven by hand, through its unbuffered interface: it is given the worker's buffers and owns none. What a
//! connection keeps is the beginning of a record that has not come whole, and ciphertext that the kernel did not take.
//! An idle connection keeps neither. All that a read brought is decrypted at once, so that no plaintext is ever left
//! behind where no event of the poll would tell of it.
//!
//! To whoever writes, a [`Tls`] is a socket that takes a part of what it is given, and blocks: see
//! [`write`](Tls::write). So queues, their limits and their deadlines are the same with TLS and without.
//!
//! What is **not** here: deadlines, counters, and what is said inside.

mod certificates;
mod pending;
mod session;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

pub(crate) use certificates::{Certificates, ServerConfig};
use pending::Pending;
pub use rustls::client::UnbufferedClientConnection as Client;
pub use rustls::server::UnbufferedServerConnection as Server;
use session::Out;
pub use session::Side;

use super::stream::Input;
use crate::metrics::WorkerMetrics;

/// Plaintext that is encrypted before the socket is asked whether it takes any more: two full records. As much, as
/// ciphertext, may wait here for a connection whose peer does not read.
const ENCRYPT_BYTES: usize = 32 * 1024;

/// Ciphertext that may wait in all. More was caused by a peer that goes on asking for answers of TLS itself, and does
/// not read them.
const PENDING_BYTES_MAX: usize = 128 * 1024;

/// A fatal alert (RFC 8446 section 6.2) for a connection that there is no room for: `internal_error`, in the clear, as
/// is right before the handshake.
pub(crate) const TURNED_AWAY: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// What all connections of a thread encrypt and decrypt in.
#[derive(Debug)]
pub struct Scratch {
    input: Box<[u8]>,
    plain: Vec<u8>,
    out: Out,
    /// Where it is counted what waits for their sockets.
    metrics: Arc<WorkerMetrics>,
}

impl Scratch {
    /// For reads of at most `read_bytes`. What waits for sockets is counted in `metrics`.
    pub fn shared(read_bytes: usize, metrics: Arc<WorkerMetrics>) -> Rc<RefCell<Self>> {
        let input = vec![0; read_bytes].into_boxed_slice();
        Rc::new(RefCell::new(Self { input, plain: Vec::new(), out: Out::default(), metrics }))
    }
}

/// Makes the TLS of new connections.
#[derive(Debug)]
pub(crate) struct Acceptor {
    config: ServerConfig,
    scratch: Rc<RefCell<Scratch>>,
}

impl Acceptor {
    pub(crate) fn new(config: ServerConfig, read_bytes: usize, metrics: Arc<WorkerMetrics>) -> Self {
        Self { config, scratch: Scratch::shared(read_bytes, metrics) }
    }

    /// From now on new connections get these certificates.
    pub(crate) fn renew(&mut self, config: ServerConfig) {
        self.config = config;
    }

    pub(crate) fn accept(&self) -> io::Result<Box<Tls<Server>>> {
        let session = Server::new(Arc::clone(&self.config.0)).map_err(io::Error::other)?;
        Ok(Box::new(Tls::new(session, Rc::clone(&self.scratch))))
    }
}

/// The TLS of one connection.
pub struct Tls<C> {
    session: C,
    scratch: Rc<RefCell<Scratch>>,
    /// What came and is not yet a whole record.
    held: Vec<u8>,
    /// Ciphertext that the kernel did not take.
    pending: Pending,
    /// The last byte that was offered is encrypted, but was not reported as taken.
    owed: bool,
    /// The first byte to come is the beginning of a request in the clear.
    plaintext: bool,
    /// Anything has come.
    begun: bool,
    /// The peer has said that nothing more comes.
    peer_closed: bool,
    /// We have said that nothing more comes.
    closed: bool,
    /// The session is beyond repair, and must not be asked again: rustls remembers places in input that is gone.
    failed: bool,
}

impl<C: Side> Tls<C> {
    /// The TLS of a connection that has just been made.
    pub fn new(session: C, scratch: Rc<RefCell<Scratch>>) -> Self {
        let pending = Pending::new(Arc::clone(&scratch.borrow().metrics));
        Self {
            session,
            scratch,
            held: Vec::new(),
            pending,
            owed: false,
            plaintext: false,
            begun: false,
            peer_closed: false,
            closed: false,
            failed: false,
        }
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Whether the handshake took up an earlier session, which costs a fraction of a full one.
    pub fn is_resumed(&self) -> bool {
        self.session.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Whether what came is no TLS, but a request in the clear.
    pub const fn is_plaintext(&self) -> bool {
        self.plaintext
    }

    /// Bytes that came and are not yet a whole record, or a whole message of the handshake.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Bytes of ciphertext that wait for the socket.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// The memory that they hold.
    pub fn pending_memory(&self) -> usize {
        self.pending.memory()
    }

    /// Whether we have said that nothing more comes.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads once, at most `most` bytes, and decrypts all that came into `plain`, which must be as long as the buffer
    /// for reading; answers what TLS itself has to answer. No plaintext may mean that a record has not come whole, or
    /// that the handshake goes on. Behind our own [`close`](Self::close) what comes is thrown away.
    ///
    /// # Errors
    /// The socket's own; `InvalidData` where the peer breaks the rules of TLS, after the alert that says so;
    /// `UnexpectedEof` where the stream ends and the peer has not said that it does, because anybody could have cut it.
    pub fn read(
        &mut self,
        socket: &mut (impl Read + Write),
        plain: &mut [u8],
        most: usize,
    ) -> io::Result<Input> {
        if self.peer_closed {
            return Ok(Input::Eof);
        }
        self.check()?;
        let scratch = Rc::clone(&self.scratch);
        let Scratch { input, out, .. } = &mut *scratch.borrow_mut();
        let kept = self.held.len();
        let room = most.min(input.len() - kept);
        let read = socket.read(&mut input[kept..][..room])?;
        if self.closed {
            // Nobody hears it any more, and rustls must not object to anything behind its last word.
            return Ok(if read == 0 { Input::Eof } else { Input::Bytes { len: 0, emptied: read < room } });
        }
        if read == 0 {
            // A message that fills the buffer and has no end is no better than one that was cut.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let emptied = read < room;
        if C::ACCEPTS && !self.begun && input[0].is_ascii_uppercase() {
            (self.plaintext, self.failed) = (true, true);
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.begun = true;
        let input = &mut input[..kept + read];
        if input.len() < session::whole_at(&self.held) {
            // A record that comes byte by byte is not to be copied and looked at for each of them.
            self.held.extend_from_slice(&input[kept..]);
            return Ok(Input::Bytes { len: 0, emptied });
        }
        input[..kept].copy_from_slice(&self.held);
        out.clear();
        let received = session::receive(&mut self.session, input, plain, out);
        let sent = self.hand_over(socket, out);
        let progress = self.note_failure(received)?;
        sent?;
        self.peer_closed = progress.peer_closed;
        let rest = if self.peer_closed { &[] } else { &input[progress.used..] };
        self.held.clear();
        self.held.extend_from_slice(rest);
        self.held.shrink_to(rest.len());
        // Of the peer's last word no event tells, if it leaves the stream open.
        Ok(Input::Bytes { len: progress.plain_len, emptied: emptied && !self.peer_closed })
    }

    /// Encrypts as much as the socket takes, and says how much that was.
    ///
    /// What is encrypted cannot be taken back, so what the kernel does not take of it waits here. If that is all that
    /// was offered, **the last byte of it does not count as taken** until it is gone: whoever writes then keeps that
    /// byte, offers it again, and finds the socket blocked until the kernel has all of it. What was begun has to be
    /// gone on with, as with a plain socket. The last byte offered is to be the last of a frame, and a frame is longer,
    /// so that whoever keeps it knows that the frame is begun.
    ///
    /// `Ok(0)` is progress: the kernel took something of what waits here, but not all.
    ///
    /// # Errors
    /// The socket's own; `WouldBlock` also while the handshake is under way.
    pub fn write(&mut self, socket: &mut impl Write, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let before = self.pending.len();
        if !self.send_pending(socket)? {
            let progress = self.pending.len() < before;
            return if progress { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        self.check()?;
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.is_handshaking() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let scratch = Rc::clone(&self.scratch);
        let Scratch { plain, out, .. } = &mut *scratch.borrow_mut();
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total == 0 {
            return Ok(0);
        }
        let mut taken = usize::from(std::mem::take(&mut self.owed));
        while taken < total {
            gather(slices, taken, plain);
            out.clear();
            let sent = session::send(&mut self.session, &mut self.held, plain, out);
            self.note_failure(sent)?;
            taken += plain.len();
            if !self.hand_over(socket, out)? {
                // Of what is left, something waits in any case. To hold back a byte there would hide from the writer
                // that a frame is begun, if it is the first of it.
                self.owed = taken == total;
                taken -= usize::from(self.owed);
                break;
            }
        }
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Gives the socket what waits for it; whether nothing waits any more.
    ///
    /// # Errors
    /// The socket's own, other than that it takes no more.
    pub fn send_pending(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        self.pending.send(socket)
    }

    /// Begins the handshake, for the side that speaks first.
    ///
    /// # Errors
    /// The socket's own.
    pub fn begin(&mut self, socket: &mut impl Write) -> io::Result<()> {
        let scratch = Rc::clone(&self.scratch);
        let Scratch { out, .. } = &mut *scratch.borrow_mut();
        out.clear();
        let begun = session::receive(&mut self.session, &mut [], &mut [], out);
        self.hand_over(socket, out)?;
        begun.map(|_| ())
    }

    /// Says that nothing more comes (close_notify), as far as the socket takes it.
    ///
    /// # Errors
    /// The socket's own; `WouldBlock` while the handshake is under way.
    pub fn close(&mut self, socket: &mut impl Write) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        self.check()?;
        let scratch = Rc::clone(&self.scratch);
        let Scratch { out, .. } = &mut *scratch.borrow_mut();
        out.clear();
        let closed = session::close(&mut self.session, &mut self.held, out);
        self.note_failure(closed)?;
        self.closed = true;
        self.hand_over(socket, out).map(|_| ())
    }

    /// What was asked of the session, which answers nothing more after an error.
    fn note_failure<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.inspect_err(|error| self.failed |= error.kind() != io::ErrorKind::WouldBlock)
    }

    fn check(&self) -> io::Result<()> {
        if self.failed { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Sends ciphertext, behind what waits, and keeps what the socket does not take; whether that is nothing. Where it
    /// fails, a record is lost, and none that comes after it could be read.
    fn hand_over(&mut self, socket: &mut impl Write, out: &Out) -> io::Result<bool> {
        self.send_or_keep(socket, out.as_bytes()).inspect_err(|_| self.failed = true)
    }

    fn send_or_keep(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<bool> {
        let taken = if self.send_pending(socket)? { write_all(socket, bytes)? } else { 0 };
        if self.pending.len() + bytes.len() - taken > PENDING_BYTES_MAX {
            return Err(io::Error::other("the peer does not read what it asks for"));
        }
        self.pending.push(&bytes[taken..]);
        Ok(self.pending.is_empty())
    }
}

/// Copies what is encrypted next: of the slices, from `start` on, as much as goes at once. Small frames become one
/// record.
fn gather(slices: &[IoSlice<'_>], mut start: usize, plain: &mut Vec<u8>) {
    plain.clear();
    for slice in slices {
        let skipped = start.min(slice.len());
        start -= skipped;
        let room = ENCRYPT_BYTES - plain.len();
        plain.extend(slice[skipped..].iter().take(room));
    }
}

/// Writes until the socket takes no more: how much it took.
fn write_all(socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match socket.write(&bytes[taken..]) {
            // A short write means that the socket is full, and that it will say when it is not.
            Ok(len) if taken + len < bytes.len() => return Ok(taken + len),
            Ok(len) => taken += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

impl<C> fmt::Debug for Tls<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}
