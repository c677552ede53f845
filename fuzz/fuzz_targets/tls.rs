//! The input: a byte of choices, then either bytes in the place of a client's, or steps of a conversation between
//! rustls's own client and the server's side of TLS, over a wire that the steps cut, hold back and damage.
//!
//! Whatever comes, every call gets on, and what is kept is bounded. What the server decrypts is what the client sent, up
//! to some byte; all of it where nothing was damaged. So is what the client reads.

#![no_main]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, version};
use wsd::net::stream::Input;
use wsd::net::tls::{Scratch, Server, Tls};

/// The worker's.
const READ_BYTES: usize = 64 * 1024;

/// As the server's side promises; a record and what TLS adds may be on top of what it encrypts at once.
const PENDING_BYTES_MAX: usize = 128 * 1024;

/// Steps of one conversation: more would find the same more slowly.
const STEPS_MAX: usize = 100;

/// What each side says in one conversation: in pieces of one byte, more takes too long.
const SAID_BYTES_MAX: usize = 256 * 1024;

/// So often in a row rustls takes other keys.
const RENEWALS_MAX: usize = 32;

fuzz_target!(|input: &[u8]| {
    let Some((&choices, rest)) = input.split_first() else { return };
    let mut talk = Talk::new(choices & 1 == 0);
    if choices & 2 == 0 {
        // Cut into pieces of one length, so that the bytes can stay what a dictionary or a seed has.
        talk.damaged = true;
        talk.wire.extend(rest);
        talk.arrive(usize::MAX, usize::from(choices >> 2) * 16 + 1);
    } else {
        if choices & 4 == 0 {
            talk.settle();
            assert!(!talk.server.is_handshaking(), "the handshake went through");
        }
        for step in rest.chunks(2).take(STEPS_MAX) {
            talk.step(step[0], step.get(1).copied().unwrap_or(0));
        }
    }
    talk.end(choices & 8 == 0);
});

/// One end of a pipe, as the server sees it.
#[derive(Default)]
struct Socket {
    input: VecDeque<u8>,
    output: Vec<u8>,
    /// Bytes that one read gives at most; 0 for any number.
    piece: usize,
    /// Bytes that may still be written.
    room: usize,
    ended: bool,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return if self.ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let piece = if self.piece == 0 { usize::MAX } else { self.piece };
        let most = piece.min(buffer.len());
        self.input.read(&mut buffer[..most])
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.room.min(bytes.len());
        if taken == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.output.extend_from_slice(&bytes[..taken]);
        self.room -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client and a server, and the wire between them.
struct Talk {
    client: ClientConnection,
    server: Tls<Server>,
    socket: Socket,
    plain: Vec<u8>,
    /// What the client has sent, and has not arrived.
    wire: VecDeque<u8>,
    /// What was said so far to the server, and to the client, and how much of it was heard.
    asked: Stream,
    answered: Stream,
    /// Not every byte of the client's came, once and in order.
    damaged: bool,
    /// The server's side has failed, or heard the end: nothing more may come of it.
    over: bool,
    /// The client has said that nothing more comes.
    closed: bool,
    /// How often keys were changed since the client last sent anything.
    renewals: usize,
}

/// Bytes that count up, so that whatever is missing or comes twice is seen.
#[derive(Default)]
struct Stream {
    said: usize,
    heard: usize,
}

impl Stream {
    /// What is said next.
    fn next(&self, len: usize) -> Vec<u8> {
        bytes(self.said, len)
    }

    fn hear(&mut self, heard: &[u8]) {
        assert!(self.heard + heard.len() <= self.said, "more than was said");
        assert!(heard == bytes(self.heard, heard.len()), "something else, from byte {} on", self.heard);
        self.heard += heard.len();
    }
}

/// No period that a record could have.
fn bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// Lengths that a byte can stand for: mostly short ones, and some of several records, and of more than is encrypted at
/// once.
fn len(value: u8) -> usize {
    let value = usize::from(value);
    if value < 200 { value * 8 } else { (value - 199) * 800 }
}

impl Talk {
    fn new(tls13: bool) -> Self {
        let settings = &SETTINGS[usize::from(tls13)];
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(Arc::clone(&settings.client), name).expect("sound settings");
        let server = Server::new(Arc::clone(&settings.server)).expect("sound settings");
        Self {
            client,
            server: Tls::new(server, Scratch::shared(READ_BYTES, Arc::default())),
            socket: Socket { room: usize::MAX, ..Socket::default() },
            plain: vec![0; READ_BYTES],
            wire: VecDeque::new(),
            asked: Stream::default(),
            answered: Stream::default(),
            damaged: false,
            over: false,
            closed: false,
            renewals: 0,
        }
    }

    fn step(&mut self, what: u8, value: u8) {
        let (number, len) = (usize::from(value), len(value));
        match what % 14 {
            0 => self.ask(len),
            1 => self.arrive(len + 1, 0),
            2 => self.arrive(usize::MAX, number + 1),
            3 => self.answer(len),
            4 => self.make_room(len),
            5 => self.hear(),
            6 => self.settle(),
            7 => self.renew(),
            8 => self.finish(),
            9 => self.flip(number, value),
            10 => self.lose(number),
            11 => self.repeat(number),
            12 => self.reorder(number),
            _ => {
                self.wire.extend([20 + value % 6, 3, 3, 0, value, value]);
                self.damaged = true;
            }
        }
        assert!(self.server.pending_bytes() <= PENDING_BYTES_MAX && self.server.held_bytes() <= READ_BYTES);
    }

    /// The client sends something.
    fn ask(&mut self, len: usize) {
        if self.closed {
            return;
        }
        let bytes = self.asked.next(len.min(SAID_BYTES_MAX - self.asked.said));
        let Ok(taken) = self.client.writer().write(&bytes) else {
            assert!(!self.is_sound(), "it is kept until it can be sent");
            return;
        };
        self.asked.said += taken;
        if taken > 0 && self.renewals <= RENEWALS_MAX {
            self.renewals = 0;
        }
        self.carry();
    }

    /// The client wants other keys, and has the server's side change its own.
    fn renew(&mut self) {
        if !self.closed && !self.client.is_handshaking() && self.client.refresh_traffic_keys().is_ok() {
            self.renewals += 1;
            self.carry();
        }
    }

    /// The client says that nothing more comes.
    fn finish(&mut self) {
        if !self.client.is_handshaking() {
            self.client.send_close_notify();
            self.closed = true;
            self.carry();
        }
    }

    /// What the client has to send goes on the wire.
    fn carry(&mut self) {
        while self.client.wants_write() {
            let mut out = Vec::new();
            self.client.write_tls(&mut out).expect("a vector takes all");
            self.wire.extend(out);
        }
    }

    /// A byte on the wire becomes another one.
    fn flip(&mut self, number: usize, value: u8) {
        if !self.wire.is_empty() {
            let at = number * self.wire.len() / 256;
            self.wire[at] ^= value.max(1);
            self.damaged = true;
        }
    }

    /// A record on the wire: from where to where.
    fn record(&self, number: usize) -> Option<(usize, usize)> {
        let mut ends = vec![0];
        loop {
            let start = ends[ends.len() - 1];
            let Some(low) = self.wire.get(start + 4) else { break };
            let end = start + 5 + usize::from(u16::from_be_bytes([self.wire[start + 3], *low]));
            if end > self.wire.len() {
                break;
            }
            ends.push(end);
        }
        let count = ends.len() - 1;
        (count > 0).then(|| (ends[number % count], ends[number % count + 1]))
    }

    fn lose(&mut self, number: usize) {
        if let Some((start, end)) = self.record(number) {
            self.wire.drain(start..end);
            self.damaged = true;
        }
    }

    fn repeat(&mut self, number: usize) {
        if let Some((start, end)) = self.record(number) {
            let again: Vec<u8> = self.wire.range(start..end).copied().collect();
            self.wire.extend(again);
            self.damaged = true;
        }
    }

    /// A record and those before it come after all others.
    fn reorder(&mut self, number: usize) {
        if let Some((_, end)) = self.record(number).filter(|(_, end)| *end < self.wire.len()) {
            self.wire.rotate_left(end);
            self.damaged = true;
        }
    }

    /// So many bytes arrive, and the server's side reads them, in pieces.
    fn arrive(&mut self, most: usize, piece: usize) {
        let some = most.min(self.wire.len());
        self.socket.input.extend(self.wire.drain(..some));
        self.socket.piece = piece;
        loop {
            let before = self.socket.input.len();
            match self.server.read(&mut self.socket, &mut self.plain, usize::MAX) {
                Ok(Input::Bytes { len, .. }) => {
                    assert!(!self.over, "something after the end");
                    assert!(self.socket.input.len() < before, "no progress");
                    assert!(len == 0 || !self.server.is_handshaking(), "plaintext within the handshake");
                    self.asked.hear(&self.plain[..len]);
                }
                Ok(Input::Eof) => {
                    assert!(self.closed || self.damaged, "an end that nobody spoke of");
                    self.over = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    assert!(!self.is_sound() || self.over || self.socket.ended, "it was sound: {error}");
                    self.over = true;
                    break;
                }
            }
        }
    }

    /// Whether all that the client said should arrive.
    fn is_sound(&self) -> bool {
        !self.damaged && self.renewals <= RENEWALS_MAX
    }

    /// The server's side sends as much as its socket takes.
    fn answer(&mut self, len: usize) {
        let bytes = self.answered.next(len.min(SAID_BYTES_MAX - self.answered.said));
        let (mut at, mut tries) = (0, 0);
        while at < bytes.len() {
            let before = (self.server.pending_bytes(), self.socket.output.len());
            match self.server.write(&mut self.socket, &[IoSlice::new(&bytes[at..])]) {
                Ok(taken) => {
                    let progress = taken > 0 || self.server.pending_bytes() < before.0;
                    assert!(progress || self.socket.output.len() > before.1, "no progress");
                    at += taken;
                }
                Err(_) => break,
            }
            tries += 1;
            assert!(tries < 1_000, "it never ends");
        }
        self.answered.said += at;
    }

    /// The socket takes so many bytes. What does not count as taken is offered again later, as by an outbox.
    fn make_room(&mut self, room: usize) {
        self.socket.room = room;
        self.server.send_pending(&mut self.socket).expect("no error of the socket");
        let taken = self.server.write(&mut self.socket, &[]);
        assert!(taken.is_err() || taken.is_ok_and(|taken| taken == 0), "of nothing");
    }

    /// The client reads what has come.
    fn hear(&mut self) {
        let output = std::mem::take(&mut self.socket.output);
        let mut rest = output.as_slice();
        while !rest.is_empty() {
            let read = self.client.read_tls(&mut rest).expect("a slice can be read");
            let Ok(state) = self.client.process_new_packets() else {
                // An alert about damage.
                assert!(!self.is_sound(), "the server's records are sound");
                return;
            };
            let mut bytes = vec![0; state.plaintext_bytes_to_read()];
            self.client.reader().read_exact(&mut bytes).expect("as many as it says");
            self.heard(&bytes);
            if read == 0 {
                break;
            }
        }
        self.carry();
    }

    /// The last byte of a record may come before it counts as taken, if the rest of the record went out meanwhile.
    fn heard(&mut self, bytes: &[u8]) {
        let before = self.answered.said;
        self.answered.said = before + 1;
        self.answered.hear(bytes);
        self.answered.said = before;
    }

    /// Everything goes both ways, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..8 {
            self.carry();
            self.arrive(usize::MAX, 0);
            self.make_room(usize::MAX);
            self.hear();
        }
    }

    /// Says what has to hold at the end, whether it is the server or the wire that ends it, and that nothing harmful is
    /// left to call.
    fn end(&mut self, closes: bool) {
        self.settle();
        if self.is_sound() {
            assert!(!self.server.is_handshaking());
            assert_eq!(self.asked.heard, self.asked.said, "all of it came");
            self.answer(1);
            self.settle();
            assert_eq!(self.answered.heard, self.answered.said, "all of it came");
        }
        if !closes {
            self.socket.ended = true;
            self.arrive(usize::MAX, 0);
        }
        let _ = self.server.close(&mut self.socket);
        self.socket.input.extend([22, 3, 3, 0, 1, 0]);
        while let Ok(Input::Bytes { len, .. }) =
            self.server.read(&mut self.socket, &mut self.plain, usize::MAX)
        {
            assert_eq!(len, 0, "nobody hears what comes behind the end");
        }
        let _ = self.server.write(&mut self.socket, &[IoSlice::new(b"anybody there?")]);
        assert!(self.server.pending_bytes() == 0 && self.server.held_bytes() <= READ_BYTES);
    }
}

struct Settings {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// TLS 1.2 and 1.3. Signatures of Ed25519 have one length, so that a stream of steps means the same each time.
static SETTINGS: LazyLock<[Settings; 2]> = LazyLock::new(|| {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("random numbers");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("sound parameters");
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a certificate");
    [&version::TLS12, &version::TLS13].map(|version| {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&[version]).expect("ring speaks both");
        let mut client = builder.with_root_certificates(roots.clone()).with_no_client_auth();
        client.resumption = Resumption::disabled();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&[version]).expect("ring speaks both");
        let der = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let server = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], der);
        Settings { client: Arc::new(client), server: Arc::new(server.expect("a pair")) }
    })
});
