//! The kernel's floor under a WebSocket server: one thread, edge-triggered epoll, plain TCP, and nothing that the
//! kernel does not make one do. It reads with one buffer and writes back what it has read.
//!
//! A connection begins with a request that ends with an empty line; it gets a fixed answer of the length of a 101. From
//! then on bytes have no meaning here: what a server would do with frames, masks, UTF-8, limits and close codes is what
//! the difference to the floor pays for. `loadgen --raw` is the client: it sends the frames that it would send to a
//! server, but without masks, so that what comes back is, to the byte, what a WebSocket server would have sent.
//!
//! What is not here: limits, timeouts, protection from slow readers. It is for measuring on loopback.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

/// The answer to each request, as long as a usual 101.
pub const ANSWER: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: ----------------------------\r\n\r\n";

/// The same numbers as wsd's.
const READ_BYTES: usize = 64 * 1024;
const EVENTS_PER_POLL: usize = 1024;
const BACKLOG: i32 = 4096;

const LISTENER: Token = Token(usize::MAX);

/// What happens to what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It goes back to where it came from.
    Echo,
    /// All that a turn of the loop has read, laid end to end, goes to everyone in one write each.
    ///
    /// Messages of two senders must not be mixed, and nothing here knows where one ends: so each must arrive whole,
    /// which small ones do that are written at once.
    Broadcast,
}

impl Mode {
    /// By its name on the command line.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "echo" => Some(Self::Echo),
            "broadcast" => Some(Self::Broadcast),
            _ => None,
        }
    }
}

/// The floor, listening.
#[derive(Debug)]
pub struct Floor {
    mode: Mode,
    poll: Poll,
    listener: TcpListener,
    conns: Slab<Conn>,
    /// What this turn has read, to go to everyone.
    turn: Vec<u8>,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    /// Whether the request has come whole and was answered.
    answered: bool,
    /// What the kernel did not take.
    #[expect(
        clippy::box_collection,
        reason = "eight bytes instead of 24 in every connection that never needs it"
    )]
    rest: Option<Box<Vec<u8>>>,
}

impl Floor {
    /// Listens on a port of 127.0.0.1; 0 is any free one.
    ///
    /// # Errors
    /// The port is taken, or the system gives no poll.
    pub fn listen(mode: Mode, port: u16) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Accepted connections inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self { mode, poll, listener, conns: Slab::new(), turn: Vec::new() })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// The poll fails, or a connection cannot be accepted: a floor with refused connections measures nothing.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_all()?,
                    Token(slot) => {
                        if event.is_writable() {
                            self.flush(slot);
                        }
                        let closing = event.is_read_closed() || event.is_error();
                        if event.is_readable() || closing {
                            self.read(slot, closing, &mut buffer);
                        }
                    }
                }
            }
            self.send_turn();
        }
    }

    fn accept_all(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let entry = self.conns.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(entry.key()), interest)?;
            entry.insert(Conn { stream, answered: false, rest: None });
        }
    }

    /// Takes what a connection has sent. A read that does not fill the buffer has emptied the socket (epoll(7)), unless
    /// the peer has closed, which `closing` says.
    fn read(&mut self, slot: usize, closing: bool, buffer: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        loop {
            let len = match conn.stream.read(buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let sent = if !conn.answered {
                // The request comes in one piece from loadgen; of others, its last piece is waited for.
                conn.answered = buffer[..len].ends_with(b"\r\n\r\n");
                if conn.answered { conn.send(ANSWER) } else { Ok(()) }
            } else if self.mode == Mode::Echo {
                conn.send(&buffer[..len])
            } else {
                self.turn.extend_from_slice(&buffer[..len]);
                Ok(())
            };
            if sent.is_err() {
                break;
            }
            if len < buffer.len() && !closing {
                return;
            }
        }
        self.conns.remove(slot);
    }

    fn flush(&mut self, slot: usize) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if let Some(rest) = conn.rest.take()
            && conn.send(&rest).is_err()
        {
            self.conns.remove(slot);
        }
    }

    /// Sends what this turn has read to everyone.
    fn send_turn(&mut self) {
        if self.turn.is_empty() {
            return;
        }
        let turn = &self.turn;
        self.conns.retain(|_, conn| !conn.answered || conn.send(turn).is_ok());
        self.turn.clear();
    }
}

impl Conn {
    /// Writes, and keeps what the kernel does not take; the poll tells when it takes more.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(rest) = &mut self.rest {
            rest.extend_from_slice(bytes);
            return Ok(());
        }
        let mut written = 0;
        while written < bytes.len() {
            match self.stream.write(&bytes[written..]) {
                Ok(len) => written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.rest = Some(Box::new(bytes[written..].to_vec()));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
