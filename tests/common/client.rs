//! A client of plain sockets: it sends the bytes it is told to, and reads frames by its own rules.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;
use super::wire::{ACCEPT, BINARY, CLOSE, Frame, PONG, TEXT, close, parse, request};

/// One connection, seen from outside.
pub(crate) struct Client {
    stream: Wire,
    /// What was read and not looked at.
    held: Vec<u8>,
    at: usize,
}

/// A socket, or TLS over one. Everything but reading and writing is the socket's.
pub(crate) enum Wire {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Deref for Wire {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.get_ref(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// What a read came to.
enum Input {
    Some,
    Eof,
    Reset,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        Self::over(stream)
    }

    /// With a receive buffer as small as the system allows, so that the server soon notices who does not read.
    pub(crate) fn connect_small(address: SocketAddr) -> Self {
        Self::over(Self::small_socket(address))
    }

    pub(crate) fn small_socket(address: SocketAddr) -> TcpStream {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        // Before it connects: the window of a connection is scaled at its start.
        socket.set_recv_buffer_size(1).expect("the system takes its own minimum");
        socket.connect(&address.into()).expect("the server accepts");
        socket.into()
    }

    /// TLS over a socket, for a server of this name; its handshake comes with the first bytes that are sent or read.
    #[cfg(feature = "tls")]
    pub(crate) fn over_tls(
        socket: TcpStream,
        config: &std::sync::Arc<rustls::ClientConfig>,
        name: &str,
    ) -> Self {
        let mut client = Self::over(socket.try_clone().expect("a descriptor"));
        client.stream = Wire::Tls(Box::new(super::tls::client_side(socket, config, name)));
        client
    }

    /// What TLS has come to.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&mut self) -> &mut rustls::ClientConnection {
        match &mut self.stream {
            Wire::Tls(tls) => &mut tls.conn,
            Wire::Plain(_) => panic!("not TLS"),
        }
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP");
        stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        Self { stream: Wire::Plain(stream), held: Vec::new(), at: 0 }
    }

    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let mut client = Self::connect(address);
        client.handshake(path);
        client
    }

    pub(crate) fn open_small(address: SocketAddr, path: &str) -> Self {
        let mut client = Self::connect_small(address);
        client.handshake(path);
        client
    }

    /// Sends a sound handshake and expects a 101.
    #[track_caller]
    pub(crate) fn handshake(&mut self, path: &str) {
        self.send(request(path));
        self.assert_upgraded();
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends what may be refused before its end.
    pub(crate) fn send_to_whom_it_may_concern(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends pieces of `piece` bytes, each in a segment of its own, until the server stops taking them.
    pub(crate) fn send_in_pieces(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            if self.stream.write_all(piece).is_err() {
                return;
            }
        }
    }

    /// Sends as long as the server takes anything within `pause`; how many bytes it took.
    pub(crate) fn send_until_blocked(&mut self, bytes: &[u8], pause: Duration) -> usize {
        self.stream.set_write_timeout(Some(pause)).expect("not zero");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        sent
    }

    /// Sends all of it from another thread, while this one reads.
    pub(crate) fn send_in_background(&self, bytes: Vec<u8>) -> JoinHandle<()> {
        let mut stream = self.stream.try_clone().expect("a descriptor");
        std::thread::spawn(move || stream.write_all(&bytes).expect("the server reads"))
    }

    /// Where it is, as the server sees it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.stream.local_addr().expect("connected")
    }

    pub(crate) fn flush(&mut self) {
        self.stream.flush().expect("the server reads");
    }

    /// Reads at most so many bytes, once, and forgets them; how many there were.
    pub(crate) fn read_some(&mut self, bytes: usize) -> usize {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        self.stream.read(&mut vec![0; bytes]).expect("there is more")
    }

    /// Ends the smallness of [`connect_small`](Self::connect_small): reading much through it takes its time.
    pub(crate) fn widen(&self) {
        SockRef::from(&*self.stream).set_recv_buffer_size(1 << 20).expect("a socket option");
    }

    /// Ends our side of the stream.
    pub(crate) fn shutdown_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Disappears with a reset instead of an orderly end.
    pub(crate) fn reset(self) {
        SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }

    /// An answer up to its empty line.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> String {
        let start = Instant::now();
        loop {
            let fresh = &self.held[self.at..];
            if let Some(end) = fresh.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(fresh[..end + 4].to_vec()).expect("heads are ASCII");
                self.at += end + 4;
                return head;
            }
            let outcome = self.fill(start + PATIENCE);
            assert!(matches!(outcome, Ok(Input::Some)), "no head, but {:?}", self.rest_lossy());
        }
    }

    #[track_caller]
    pub(crate) fn assert_upgraded(&mut self) -> String {
        let head = self.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("\r\nSec-WebSocket-Accept: {ACCEPT}\r\n")), "{head}");
        head
    }

    /// Expects one HTTP answer with this status, and then the end of the stream, and ends ours; gives the head.
    #[track_caller]
    pub(crate) fn assert_status(&mut self, status: u16) -> String {
        let head = self.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "expected {status}: {head}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        let body = self.read_to_end();
        assert_eq!(body.len(), length, "one answer and nothing after it: {head}{:?}", lossy(&body));
        self.shutdown_write();
        head
    }

    /// The next frame, if there is one before the end of the stream.
    #[track_caller]
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        let start = Instant::now();
        loop {
            if let Some(frame) = self.parse_frame() {
                return Some(frame);
            }
            match self.fill(start + PATIENCE) {
                Ok(Input::Some) => {}
                Ok(Input::Eof | Input::Reset) => {
                    assert!(self.held[self.at..].is_empty(), "cut inside a frame: {:?}", self.rest_lossy());
                    return None;
                }
                Err(error) => panic!("no frame: {error}"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn read_frame(&mut self) -> Frame {
        self.next_frame().expect("a frame before the end of the stream")
    }

    /// Whether anything comes within `pause`; what comes is kept.
    pub(crate) fn is_silent_for(&mut self, pause: Duration) -> bool {
        self.at == self.held.len() && self.fill(Instant::now() + pause).is_err()
    }

    /// The next message must be this text, in one frame.
    #[track_caller]
    pub(crate) fn assert_text(&mut self, expected: &str) {
        let frame = self.read_frame();
        let text = String::from_utf8(frame.payload).expect("texts are UTF-8");
        assert_eq!((frame.fin, frame.opcode, text.as_str()), (true, TEXT, expected));
    }

    #[track_caller]
    pub(crate) fn assert_binary(&mut self, expected: &[u8]) {
        let frame = self.read_frame();
        assert_eq!((frame.fin, frame.opcode, frame.payload.len()), (true, BINARY, expected.len()));
        assert!(frame.payload == expected, "the bytes differ");
    }

    #[track_caller]
    pub(crate) fn assert_pong(&mut self, expected: &[u8]) {
        let frame = self.read_frame();
        assert_eq!(frame, Frame { fin: true, opcode: PONG, payload: expected.to_vec() });
    }

    /// The next frame must be a Close with this code; gives the reason.
    #[track_caller]
    pub(crate) fn assert_close(&mut self, code: u16) -> String {
        let frame = self.read_frame();
        assert_eq!((frame.fin, frame.opcode), (true, CLOSE), "{frame:?}");
        assert!(frame.payload.len() >= 2, "no code");
        assert_eq!(u16::from_be_bytes([frame.payload[0], frame.payload[1]]), code, "{frame:?}");
        String::from_utf8(frame.payload[2..].to_vec()).expect("reasons are UTF-8")
    }

    /// The connection must be failed with this code now: a Close, and the end of the stream without waiting for
    /// our answer. Ends our side too.
    #[track_caller]
    pub(crate) fn assert_fails_with(&mut self, code: u16) {
        self.assert_close(code);
        self.assert_eof();
        self.shutdown_write();
    }

    /// Answers the server's Close, which must have this code, and sees the stream end.
    #[track_caller]
    pub(crate) fn assert_closes_with(&mut self, code: u16) -> String {
        let reason = self.assert_close(code);
        self.send_to_whom_it_may_concern(&close(code, b""));
        self.assert_eof();
        reason
    }

    /// As [`assert_closes_with`](Self::assert_closes_with), and neither a reset nor anything else comes in between.
    #[track_caller]
    pub(crate) fn assert_lets_go_with(&mut self, code: u16) -> String {
        let reason = self.assert_close(code);
        self.send(close(code, b""));
        assert!(self.at == self.held.len(), "more after a Close: {:?}", self.rest_lossy());
        assert!(matches!(self.fill(Instant::now() + PATIENCE), Ok(Input::Eof)), "not an orderly end");
        reason
    }

    /// Closes in good order.
    #[track_caller]
    pub(crate) fn close(mut self) {
        self.send(close(1000, b""));
        self.assert_close(1000);
        self.assert_eof();
    }

    #[track_caller]
    pub(crate) fn assert_eof(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "more before the end of the stream: {:?}", lossy(&rest));
    }

    /// Everything until the end of the stream, or a reset.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let start = Instant::now();
        loop {
            match self.fill(start + PATIENCE) {
                Ok(Input::Some) => {}
                Ok(Input::Eof | Input::Reset) => return self.held.split_off(self.at),
                Err(error) => panic!("the stream does not end: {error}; {:?}", self.rest_lossy()),
            }
        }
    }

    #[track_caller]
    fn parse_frame(&mut self) -> Option<Frame> {
        let (frame, len) = parse(&self.held[self.at..])?;
        self.at += len;
        Some(frame)
    }

    fn fill(&mut self, until: Instant) -> io::Result<Input> {
        self.held.drain(..self.at);
        self.at = 0;
        let mut buffer = [0; 64 * 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Input::Eof),
                Ok(len) => {
                    self.held.extend_from_slice(&buffer[..len]);
                    return Ok(Input::Some);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Input::Reset),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn rest_lossy(&self) -> String {
        lossy(&self.held[self.at..])
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}
