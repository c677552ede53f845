//! A connection's stream: its socket, and its TLS if it has one.

use std::fmt;
use std::io::{self, IoSlice, Read as _, Write};
use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;

use super::direct::Direct;
use super::tls::{Server, Side, Tls};

/// A connection's stream. Without TLS it is the socket and one look at a word that is zero.
pub struct Stream<C = Server> {
    socket: TcpStream,
    tls: Option<Box<Tls<C>>>,
}

/// What came with one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// So many bytes; with TLS there may be none. `emptied`: the socket holds no more, and will say when it does.
    Bytes {
        /// Bytes.
        len: usize,
        /// Whether the socket holds no more.
        emptied: bool,
    },
    /// The peer has ended its side.
    Eof,
}

impl<C: Side> Stream<C> {
    /// A stream over a socket, with TLS or without.
    pub const fn new(socket: TcpStream, tls: Option<Box<Tls<C>>>) -> Self {
        Self { socket, tls }
    }

    /// The socket, to register it and to ask for addresses.
    pub const fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// Nobody is any more.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// The TLS, if it has one.
    pub fn tls(&self) -> Option<&Tls<C>> {
        self.tls.as_deref()
    }

    /// Begins the handshake of TLS, for the side that speaks first.
    ///
    /// # Errors
    /// The socket's.
    pub fn begin(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| tls.begin(&mut self.socket))
    }

    /// Whether the handshake of TLS is under way. Nothing can be written until it is over.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether something waits here that was written. Its last byte does not count as taken until it is gone.
    pub fn is_pending(&self) -> bool {
        self.pending_bytes() > 0
    }

    /// Bytes of ciphertext that wait here.
    pub fn pending_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.pending_bytes())
    }

    /// The memory that they hold.
    pub fn pending_memory(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.pending_memory())
    }

    /// Goes on in the clear, with a peer that never spoke TLS.
    pub(super) fn give_up_tls(&mut self) {
        self.tls = None;
    }

    /// Reads once.
    ///
    /// # Errors
    /// The socket's, and those of [`Tls::read`].
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Input> {
        self.read_at_most(buffer, usize::MAX)
    }

    /// Reads once, at most so many bytes off the socket.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_at_most(&mut self, buffer: &mut [u8], most: usize) -> io::Result<Input> {
        let Some(tls) = &mut self.tls else {
            let room = most.min(buffer.len());
            // epoll(7): a read that returns less than asked for has emptied a stream socket.
            return Ok(match Direct(&self.socket).read(&mut buffer[..room])? {
                0 => Input::Eof,
                len => Input::Bytes { len, emptied: len < room },
            });
        };
        tls.read(&mut self.socket, buffer, most)
    }

    /// Ends our side: nothing may be written any more.
    ///
    /// # Errors
    /// The socket's.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.socket.shutdown(Shutdown::Write) };
        tls.close(&mut self.socket)?;
        self.flush()
    }

    /// The last word before the socket is dropped: TLS has one of its own.
    pub(super) fn farewell(&mut self) {
        if let Some(tls) = &mut self.tls {
            // What the peer no longer takes, it need not know.
            let _ = tls.close(&mut self.socket);
        }
    }
}

impl<C: Side> Write for Stream<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => Direct(&self.socket).write(bytes),
            Some(tls) => tls.write(&mut self.socket, &[IoSlice::new(bytes)]),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.tls {
            None => Direct(&self.socket).write_vectored(slices),
            Some(tls) => tls.write(&mut self.socket, slices),
        }
    }

    /// Sends what TLS holds back, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls
            && tls.send_pending(&mut self.socket)?
            && tls.is_closed()
        {
            return self.socket.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

impl<C> fmt::Debug for Stream<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("socket", &self.socket).field("tls", &self.tls.is_some()).finish()
    }
}
