//! Both sides of TLS over pipes that take and give as little as they like.

mod properties;

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::unbuffered::ConnectionState;
use rustls::{ClientConfig, RootCertStore, ServerConfig as Config, version};

use super::{Client, ENCRYPT_BYTES, PENDING_BYTES_MAX, Scratch, Server, Side, Tls};
use crate::conn::{Flushed, Outbox};
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::net::stream::Input;
use crate::proto::Frame;
use crate::proto::frame::Piece;

const READ_BYTES: usize = 64 * 1024;

/// One end of a connection: what it reads, what it has written, and how much of that at once.
#[derive(Default)]
struct Socket {
    input: VecDeque<u8>,
    output: Vec<u8>,
    reads: VecDeque<usize>,
    /// Bytes that may still be written; `None` for any number.
    room: Option<usize>,
    ended: bool,
    /// Writes fail.
    reset: bool,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let most = self.reads.pop_front().unwrap_or(usize::MAX).max(1).min(buffer.len());
        self.input.read(&mut buffer[..most])
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let taken = self.room.unwrap_or(usize::MAX).min(bytes.len());
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.output.extend_from_slice(&bytes[..taken]);
        self.room = self.room.map(|room| room - taken);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client and a server that have just been connected.
struct Pair {
    client: Tls<Client>,
    server: Tls<Server>,
    near: Socket,
    far: Socket,
    plain: Vec<u8>,
    /// The books of the server's worker.
    books: Arc<WorkerMetrics>,
}

impl Pair {
    fn new(tls13: bool) -> Self {
        Self::with_records(tls13, None)
    }

    /// With records of at most so many bytes, in which messages of the handshake do not fit.
    fn with_records(tls13: bool, record_max: Option<usize>) -> Self {
        let versions = [if tls13 { &version::TLS13 } else { &version::TLS12 }];
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("random numbers");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a certificate");
        let config = Config::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions);
        let config = config.expect("ring speaks both").with_no_client_auth();
        let mut config = config.with_single_cert(vec![cert.der().clone()], key).expect("a pair");
        config.max_fragment_size = record_max;
        let server = Server::new(Arc::new(config)).expect("sound settings");
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let mut config =
            config.expect("ring speaks both").with_root_certificates(roots).with_no_client_auth();
        config.max_fragment_size = record_max;
        let name = ServerName::try_from("localhost").expect("a name");
        let client = Client::new(Arc::new(config), name).expect("sound settings");
        let books = Arc::new(WorkerMetrics::default());
        Self {
            client: Tls::new(client, Scratch::shared(READ_BYTES, Arc::default())),
            server: Tls::new(server, Scratch::shared(READ_BYTES, Arc::clone(&books))),
            near: Socket::default(),
            far: Socket::default(),
            plain: vec![0; READ_BYTES],
            books,
        }
    }

    /// After the handshake.
    fn connected(tls13: bool) -> Self {
        let mut pair = Self::new(tls13);
        pair.client.begin(&mut pair.near).expect("there is room");
        while pair.client.is_handshaking() || pair.server.is_handshaking() {
            pair.carry();
            assert!(read_all(&mut pair.server, &mut pair.far, &mut pair.plain).is_ok_and(|it| it.is_empty()));
            pair.carry();
            assert!(
                read_all(&mut pair.client, &mut pair.near, &mut pair.plain).is_ok_and(|it| it.is_empty())
            );
        }
        pair
    }

    /// What one side has written, the other may read.
    fn carry(&mut self) {
        self.far.input.extend(self.near.output.drain(..));
        self.near.input.extend(self.far.output.drain(..));
    }

    /// What waits for the server's socket is in the books, to the byte.
    #[track_caller]
    fn assert_booked(&self) {
        let (bytes, memory) = (self.server.pending_bytes(), self.server.pending_memory());
        let booked = (self.books.queued_bytes.get(), self.books.queue_memory_unshared.get());
        assert_eq!(booked, (bytes as u64, memory as u64));
    }

    /// What the client has from the server.
    fn heard(&mut self) -> Vec<u8> {
        self.carry();
        read_all(&mut self.client, &mut self.near, &mut self.plain).expect("sound records")
    }
}

/// Reads until nothing is left.
fn read_all<C: Side>(tls: &mut Tls<C>, socket: &mut Socket, plain: &mut [u8]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match tls.read(socket, plain, usize::MAX) {
            Ok(Input::Bytes { len, .. }) => all.extend_from_slice(&plain[..len]),
            Ok(Input::Eof) => return Ok(all),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(all),
            Err(error) => return Err(error),
        }
    }
}

fn slices(bytes: &[u8]) -> [IoSlice<'_>; 1] {
    [IoSlice::new(bytes)]
}

#[test]
fn an_idle_connection_keeps_no_buffer() {
    for tls13 in [false, true] {
        let mut pair = Pair::connected(tls13);
        pair.server.write(&mut pair.far, &slices(b"hello")).expect("there is room");
        assert_eq!(pair.heard(), b"hello");
        for tls in [(&pair.server.held, &pair.server.pending), (&pair.client.held, &pair.client.pending)] {
            assert_eq!((tls.0.capacity(), tls.1.memory()), (0, 0));
        }
    }
}

#[test]
fn the_last_byte_counts_when_the_kernel_has_all_of_the_record() {
    let mut pair = Pair::connected(true);
    pair.far.room = Some(10);
    assert_eq!(pair.server.write(&mut pair.far, &slices(b"0123456789")).expect("it is begun"), 9);
    assert!(pair.server.pending_bytes() > 0);
    for _ in 0..3 {
        let blocked = pair.server.write(&mut pair.far, &slices(b"9")).expect_err("nothing moves");
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        // Something is taken, but not all: progress.
        pair.far.room = Some(3);
        assert_eq!(pair.server.write(&mut pair.far, &slices(b"9")).expect("progress"), 0);
    }
    pair.far.room = None;
    let more = [IoSlice::new(b"9"), IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"c")];
    assert_eq!(pair.server.write(&mut pair.far, &more).expect("there is room"), 4);
    assert_eq!(pair.server.pending_bytes(), 0);
    assert_eq!(pair.heard(), b"0123456789abc", "each byte once");
}

#[test]
fn a_single_byte_is_not_taken_before_it_is_gone() {
    let mut pair = Pair::connected(true);
    pair.far.room = Some(1);
    let blocked = pair.server.write(&mut pair.far, &slices(b"x")).expect_err("not all of it went");
    assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
    pair.far.room = None;
    assert_eq!(pair.server.write(&mut pair.far, &slices(b"x")).expect("there is room"), 1);
    assert_eq!(pair.heard(), b"x");
}

#[test]
fn what_waits_is_bounded() {
    let mut pair = Pair::connected(true);
    pair.far.room = Some(100);
    let big = vec![b'x'; 4 * ENCRYPT_BYTES];
    assert_eq!(pair.server.write(&mut pair.far, &slices(&big)).expect("it is begun"), ENCRYPT_BYTES);
    assert!(pair.server.pending_bytes() < ENCRYPT_BYTES + 1024);
    assert!(pair.server.write(&mut pair.far, &slices(&big[ENCRYPT_BYTES..])).is_err());
    // Not much more memory than that, and in the books until it is given up.
    assert!(pair.server.pending_memory() < ENCRYPT_BYTES + 1024);
    pair.assert_booked();
    let books = Arc::clone(&pair.books);
    assert!(books.queued_bytes.get() > ENCRYPT_BYTES as u64 - 100);
    drop(pair);
    assert_eq!((books.queued_bytes.get(), books.queue_memory_unshared.get()), (0, 0));
}

#[test]
fn a_peer_that_asks_and_does_not_read_is_cut() {
    let mut pair = Pair::connected(true);
    pair.far.room = Some(0);
    // Each of these asks for an answer of TLS itself, but one at a time is owed.
    for _ in 0..PENDING_BYTES_MAX / 16 {
        let ConnectionState::WriteTraffic(traffic) = pair.client.session.step(&mut []).state.expect("sound")
        else {
            panic!("the handshake is over")
        };
        traffic.refresh_traffic_keys().expect("TLS 1.3");
        pair.client.write(&mut pair.near, &slices(b"?")).expect("there is room");
        pair.carry();
        if read_all(&mut pair.server, &mut pair.far, &mut pair.plain).is_err() {
            break;
        }
        let _ = pair.server.write(&mut pair.far, &slices(b"!"));
    }
    assert!(pair.server.pending_bytes() <= PENDING_BYTES_MAX);
    pair.assert_booked();
}

#[test]
fn an_outbox_sees_progress_and_delivers_when_all_is_gone() {
    let metrics = WorkerMetrics::default();
    let mut pair = Pair::connected(true);
    let mut outbox = Outbox::new(Millis(0));
    let message = vec![b'x'; 1_000];
    for _ in 0..20 {
        outbox.push(Piece::whole(Frame::message(&message[..]), 1), &metrics);
    }
    // A reader that takes a little each second: long before anything is whole, that is progress.
    let mut second = 0;
    loop {
        second += 1;
        pair.far.room = Some(1_500);
        let mut writer = Writer(&mut pair.server, &mut pair.far);
        let flushed = outbox.flush(Millis(second * 1_000), &mut writer, &metrics).expect("no error");
        if flushed == Flushed::Empty {
            break;
        }
        assert_eq!(outbox.progress_at(), Millis(second * 1_000));
        assert_eq!(metrics.delivered.get(), 19, "all of one record but its last message");
        assert!(second < 30, "it never ends");
    }
    assert_eq!((metrics.delivered.get(), metrics.queued.get(), metrics.queued_bytes.get()), (20, 0, 0));
    assert_eq!(pair.heard().len(), 20 * 1_004);
    // Nothing moves: no progress.
    outbox.push(Piece::whole(Frame::message(&message[..]), 1), &metrics);
    pair.far.room = Some(0);
    let mut writer = Writer(&mut pair.server, &mut pair.far);
    let before = outbox.progress_at();
    let _ = outbox.flush(Millis(99_000), &mut writer, &metrics);
    let mut writer = Writer(&mut pair.server, &mut pair.far);
    assert_eq!(outbox.flush(Millis(100_000), &mut writer, &metrics).expect("no error"), Flushed::Blocked);
    assert!(outbox.progress_at() > before, "the first byte was taken to be encrypted");
    assert_eq!(outbox.progress_at(), Millis(99_000));
}

/// What is encrypted at once may end one byte into a frame. The queue has to know of that byte, or it takes the frame
/// for one that can still be dropped, and what comes in its place lacks its first byte.
#[test]
fn a_frame_that_is_dropped_leaves_no_byte_behind() {
    let metrics = WorkerMetrics::default();
    for len in [ENCRYPT_BYTES - 2, ENCRYPT_BYTES - 1, ENCRYPT_BYTES, ENCRYPT_BYTES + 1] {
        let mut pair = Pair::connected(true);
        let mut outbox = Outbox::new(Millis(0));
        let first = Frame::message(&vec![b'x'; len - 4][..]);
        assert_eq!(first.wire_len(), len);
        for frame in [first.clone(), Frame::message("second"), Frame::message("third")] {
            outbox.publish(Piece::whole(frame, 1), &metrics);
        }
        pair.far.room = Some(100);
        let mut writer = Writer(&mut pair.server, &mut pair.far);
        assert_eq!(outbox.flush(Millis(1), &mut writer, &metrics).expect("no error"), Flushed::Blocked);
        // Of the second frame at least its first byte is encrypted.
        let begun = len < ENCRYPT_BYTES;
        assert_eq!(outbox.shed(&metrics), if begun { 1 } else { 2 }, "with a frame of {len} bytes before it");
        outbox.push(Piece::whole(Frame::message("the end"), 1), &metrics);
        pair.far.room = None;
        let mut writer = Writer(&mut pair.server, &mut pair.far);
        assert_eq!(outbox.flush(Millis(2), &mut writer, &metrics).expect("no error"), Flushed::Empty);
        let second: &[u8] = if begun { b"\x81\x06second" } else { b"" };
        assert_eq!(pair.heard(), [first.as_bytes(), second, b"\x81\x07the end"].concat(), "{len}");
    }
    assert_eq!((metrics.queued.get(), metrics.queued_bytes.get()), (0, 0));
}

/// As a connection sees it.
struct Writer<'a>(&'a mut Tls<Server>, &'a mut Socket);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(self.1, &slices(bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write(self.1, slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_end_is_said_and_a_cut_is_an_error() {
    let mut pair = Pair::connected(true);
    pair.server.write(&mut pair.far, &slices(b"bye")).expect("there is room");
    pair.server.close(&mut pair.far).expect("there is room");
    pair.server.close(&mut pair.far).expect("and nothing happens");
    pair.carry();
    let Pair { client, near, plain, .. } = &mut pair;
    assert_eq!(
        client.read(near, plain, usize::MAX).expect("a record"),
        Input::Bytes { len: 3, emptied: false }
    );
    for _ in 0..2 {
        assert_eq!(client.read(near, plain, usize::MAX).expect("the end"), Input::Eof);
    }

    let mut pair = Pair::connected(false);
    pair.near.ended = true;
    let error = read_all(&mut pair.client, &mut pair.near, &mut pair.plain).expect_err("it was cut");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_has_failed_stays_so() {
    // A request in the clear, and then what could have been the beginning of a session.
    let (mut pair, hello) = hello(true);
    pair.far.input.extend(b"GET /");
    assert!(read_all(&mut pair.server, &mut pair.far, &mut pair.plain).is_err());
    assert!(pair.server.is_plaintext());
    pair.far.input.extend(hello);
    let error = read_all(&mut pair.server, &mut pair.far, &mut pair.plain).expect_err("it is too late");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(pair.far.output, b"");

    // Behind a record that is lost.
    let mut pair = Pair::connected(true);
    pair.far.reset = true;
    let error = pair.server.write(&mut pair.far, &slices(b"lost")).expect_err("it was reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    pair.far.reset = false;
    let error = pair.server.write(&mut pair.far, &slices(b"later")).expect_err("it is too late");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(pair.far.output, b"");

    // In the beginning of a record that can be none.
    let mut pair = Pair::connected(true);
    pair.server.held.push(0);
    for _ in 0..2 {
        pair.server.close(&mut pair.far).expect_err("there is no such record");
    }
    let error = pair.server.write(&mut pair.far, &slices(b"later")).expect_err("it is too late");
    assert_eq!((error.kind(), pair.far.output.as_slice()), (io::ErrorKind::BrokenPipe, &[][..]));
}

#[test]
fn behind_our_last_word_nothing_is_heard() {
    for tls13 in [false, true] {
        let mut pair = Pair::connected(tls13);
        pair.client.write(&mut pair.near, &slices(b"too late")).expect("there is room");
        pair.server.close(&mut pair.far).expect("there is room");
        pair.far.output.clear();
        pair.carry();
        // And what is no record at all.
        pair.far.input.extend([0xff; 100]);
        let heard = read_all(&mut pair.server, &mut pair.far, &mut pair.plain).expect("it does not matter");
        assert_eq!(
            (heard.as_slice(), pair.server.held_bytes(), pair.far.output.as_slice()),
            (&[][..], 0, &[][..])
        );
        pair.far.ended = true;
        assert_eq!(
            pair.server.read(&mut pair.far, &mut pair.plain, usize::MAX).expect("the end"),
            Input::Eof
        );
    }
}

/// A server in the middle of a handshake, and the bytes of its client so far.
fn hello(tls13: bool) -> (Pair, Vec<u8>) {
    let mut pair = Pair::new(tls13);
    pair.client.begin(&mut pair.near).expect("there is room");
    let bytes = std::mem::take(&mut pair.near.output);
    (pair, bytes)
}
