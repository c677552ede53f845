//! One connection with its socket: what is read becomes events, what cannot be written waits.

use std::collections::VecDeque;
use std::io::{self, Write as _};

use mio::net::TcpStream;
use wsd::net::stream::{Input as Read, Stream};
use wsd::net::tls::{Client as TlsClient, Tls};

use super::dial;
use crate::client::{Client, Fault, Input, Offer, State};
use crate::clock::monotonic_ns;

/// Messages that may wait for a connection that takes nothing, at eight bytes each; further ones count as unsent.
const WAITING_MAX: usize = 65_536;

/// One connection. Not sent to another thread: its descriptor means nothing there.
#[derive(Debug)]
pub struct Link {
    /// The socket, with TLS or without.
    socket: Stream<TlsClient>,
    /// The protocol.
    pub client: Client,
    /// Its number among the run's senders.
    pub sender: Option<u32>,
    /// The sequence of its next message.
    pub sequence: u32,
    /// Whether `connect` has come to an end.
    pub connected: bool,
    backlog: Option<Box<Backlog>>,
}

/// What the kernel did not take.
#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    written: usize,
    /// When the messages behind those bytes were to be sent; they are made when there is room.
    waiting: VecDeque<u64>,
}

/// What a read came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing more for now; the poll will tell.
    Drained,
    /// The peer has closed its side.
    Eof,
    /// The connection failed, for this reason.
    Failed(String),
    /// The server did something wrong.
    Fault(Fault),
}

/// Who is told what came, with the connection on which it came and the time at which its bytes were read.
pub trait Reader {
    /// A message, text or binary: nearly everything, which therefore has a way of its own.
    fn message(&mut self, link: &mut Link, bytes: &[u8], now_ns: u64);

    /// Anything, messages too.
    fn input(&mut self, link: &mut Link, input: Input<'_>, now_ns: u64);
}

const _: () = assert!(size_of::<Link>() <= 112, "every connection pays for this");

impl Link {
    /// A connection that has just been asked for.
    pub fn new(socket: TcpStream, tls: Option<Box<Tls<TlsClient>>>) -> Self {
        let socket = Stream::new(socket, tls);
        let client = Client::default();
        Self { socket, client, sender: None, sequence: 0, connected: false, backlog: None }
    }

    /// The socket, to register it.
    pub const fn socket(&mut self) -> &mut TcpStream {
        self.socket.socket()
    }

    /// Reads until nothing is left, and hands each event to `reader`. There is one look at the clock for each read, so
    /// that no message waits for the handling of those before it.
    ///
    /// A read that does not fill `buffer` has emptied the socket (epoll(7)), unless the peer has closed, which
    /// `closing` says.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        closing: bool,
        offer: &Offer,
        key: impl Fn() -> String,
        reader: &mut impl Reader,
    ) -> End {
        loop {
            let (read, emptied) = match self.receive(buffer, usize::MAX) {
                Ok(Read::Eof) => return End::Eof,
                Ok(Read::Bytes { len, emptied }) => (len, emptied),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return End::Drained,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return End::Failed(dial::reason(&error)),
            };
            if let Err(fault) = self.feed(&mut buffer[..read], offer, &key, reader) {
                return End::Fault(fault);
            }
            if emptied && !closing {
                return End::Drained;
            }
        }
    }

    /// Reads once, at most so many bytes off the wire.
    pub fn read_once(
        &mut self,
        buffer: &mut [u8],
        most: usize,
        offer: &Offer,
        key: impl Fn() -> String,
        reader: &mut impl Reader,
    ) -> End {
        match self.receive(buffer, most) {
            Ok(Read::Eof) => End::Eof,
            Ok(Read::Bytes { len, .. }) => {
                self.feed(&mut buffer[..len], offer, &key, reader).map_or_else(End::Fault, |()| End::Drained)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                End::Drained
            }
            Err(error) => End::Failed(dial::reason(&error)),
        }
    }

    /// The handshake of TLS begins, where there is one.
    pub fn begin(&mut self) -> io::Result<()> {
        self.socket.begin()
    }

    /// Reads once. What was to be sent waits for the handshake of TLS, whose end makes no event.
    fn receive(&mut self, buffer: &mut [u8], most: usize) -> io::Result<Read> {
        let handshaking = self.socket.is_handshaking();
        let read = self.socket.read_at_most(buffer, most)?;
        if handshaking && !self.socket.is_handshaking() {
            self.flush()?;
        }
        Ok(read)
    }

    fn feed(
        &mut self,
        bytes: &mut [u8],
        offer: &Offer,
        key: &impl Fn() -> String,
        reader: &mut impl Reader,
    ) -> Result<(), Fault> {
        let (mut at, now_ns) = (0, monotonic_ns());
        while at < bytes.len() {
            if let Some(payload) = self.client.whole_message(&bytes[at..]) {
                let (begin, end) = (at + payload.start, at + payload.end);
                reader.message(self, &bytes[begin..end], now_ns);
                at = end;
                continue;
            }
            let (used, input) = self.client.handle_input(&mut bytes[at..], offer, key)?;
            at += used;
            if let Some(input) = input {
                reader.input(self, input, now_ns);
            }
        }
        Ok(())
    }

    /// Whether a message can be written at once.
    pub const fn is_clear(&self) -> bool {
        self.backlog.is_none()
    }

    /// Whether messages may be sent at all.
    pub fn is_open(&self) -> bool {
        self.client.state() == State::Open
    }

    /// Lets a message wait for room, by the time it was to be sent; false where too many do.
    pub fn wait(&mut self, intended_ns: u64) -> bool {
        let backlog = self.backlog.get_or_insert_default();
        let room = backlog.waiting.len() < WAITING_MAX;
        if room {
            backlog.waiting.push_back(intended_ns);
        }
        room
    }

    /// The next message that waits, if everything before it is written.
    pub fn next_waiting(&mut self) -> Option<u64> {
        let backlog = self.backlog.as_mut().filter(|backlog| backlog.bytes.is_empty())?;
        let next = backlog.waiting.pop_front();
        if backlog.waiting.is_empty() {
            self.backlog = None;
        }
        next
    }

    /// Forgets the messages that wait: the connection sends no more.
    pub fn forget_waiting(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.waiting.clear();
        }
    }

    /// Messages that wait.
    pub fn waiting(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.waiting.len())
    }

    /// Writes bytes, and keeps what the kernel does not take. Bytes never overtake bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(backlog) = self.backlog.as_mut().filter(|backlog| !backlog.bytes.is_empty()) {
            backlog.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        let written = write_some(&mut self.socket, bytes)?;
        if written < bytes.len() {
            self.backlog.get_or_insert_default().bytes.extend_from_slice(&bytes[written..]);
        }
        Ok(())
    }

    /// Writes what was kept; true when nothing is left of it.
    pub fn flush(&mut self) -> io::Result<bool> {
        let Some(backlog) = &mut self.backlog else { return Ok(true) };
        backlog.written += write_some(&mut self.socket, &backlog.bytes[backlog.written..])?;
        if backlog.written < backlog.bytes.len() {
            return Ok(false);
        }
        backlog.bytes = Vec::new();
        backlog.written = 0;
        if backlog.waiting.is_empty() {
            self.backlog = None;
        }
        Ok(true)
    }

    /// Why the connection could not be made, if it could not.
    pub fn connect_error(&mut self) -> Option<io::Error> {
        let socket = self.socket.socket();
        socket.take_error().ok().flatten().or_else(|| socket.peer_addr().err())
    }
}

/// Writes until done or until the kernel takes no more.
fn write_some(socket: &mut Stream<TlsClient>, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            // TLS has got rid of something, but not of all that waits.
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
