//! rustls's state machine, turned by hand: bytes in, bytes out, no socket.

use std::io;
use std::ops::DerefMut;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedConnectionCommon, UnbufferedStatus,
};

/// What a record adds to its plaintext, at most, with the messages of TLS itself that may go before it.
const OVERHEAD_BYTES: usize = 256;

/// Before the content of a record: its type, a version, and its length.
const HEADER_BYTES: usize = 5;

/// One of the two sides of a session.
pub trait Side: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    /// rustls's name for it.
    type Data;
    /// Whether it is the side that the other one speaks to first.
    const ACCEPTS: bool;

    /// Goes on to the next state in which there is something to do.
    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const ACCEPTS: bool = true;

    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const ACCEPTS: bool = false;

    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

/// Ciphertext to be sent, in a buffer that is used again.
#[derive(Debug, Default)]
pub(super) struct Out {
    bytes: Vec<u8>,
    len: usize,
}

impl Out {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Lets `write` fill what is free, of which it says how much it needs if that is too little.
    fn append(&mut self, mut room: usize, mut write: impl FnMut(&mut [u8]) -> Wrote) -> io::Result<()> {
        loop {
            if self.bytes.len() < self.len + room {
                self.bytes.resize(self.len + room, 0);
            }
            match write(&mut self.bytes[self.len..]) {
                Wrote::Bytes(len) => {
                    self.len += len;
                    return Ok(());
                }
                Wrote::TooSmall(needed) if needed > room => room = needed,
                Wrote::TooSmall(_) | Wrote::Never => return Err(io::Error::other("TLS cannot encrypt")),
            }
        }
    }
}

/// What came of writing into a buffer.
enum Wrote {
    Bytes(usize),
    TooSmall(usize),
    Never,
}

/// What input came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of input that are not needed again; the others are, in front of what comes next.
    pub(super) used: usize,
    /// Bytes of plaintext.
    pub(super) plain_len: usize,
    /// The peer has said that nothing more comes.
    pub(super) peer_closed: bool,
}

/// Takes in what came: plaintext to `plain`, answers of TLS itself to `out`, an alert among them where it fails.
///
/// Plaintext is never longer than the input it was in.
pub(super) fn receive<C: Side>(
    session: &mut C,
    input: &mut [u8],
    plain: &mut [u8],
    out: &mut Out,
) -> io::Result<Progress> {
    let mut progress = Progress::default();
    loop {
        let UnbufferedStatus { discard, state } = session.step(&mut input[progress.used..]);
        progress.used += discard;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(invalid)?;
                    let end = progress.plain_len + record.payload.len();
                    let room = plain.get_mut(progress.plain_len..end).ok_or(io::ErrorKind::InvalidData)?;
                    room.copy_from_slice(record.payload);
                    progress.plain_len = end;
                    progress.used += record.discard;
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                out.append(OVERHEAD_BYTES, |room| wrote(data.encode(room)))?;
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                progress.peer_closed = true;
                return Ok(progress);
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => return Ok(progress),
            // Early data is not accepted: it could be replayed.
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) => {
                collect_alerts(session, out);
                return Err(invalid(error));
            }
        }
    }
}

/// How long input is when the record that it begins with is whole (RFC 8446 section 5.1); 0 while it does not say.
///
/// Behind a whole one, which is a part of a message of the handshake, there may be no others: rustls moves what they
/// hold together, in place.
pub(super) fn whole_at(input: &[u8]) -> usize {
    let Some(&[_, _, _, high, low]) = input.first_chunk() else { return 0 };
    HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]))
}

/// What the peer is to be told about its mistake.
fn collect_alerts<C: Side>(session: &mut C, out: &mut Out) {
    // Only as long as there is something to send: one step more would look at input again.
    while session.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = session.step(&mut []).state else { return };
        if out.append(OVERHEAD_BYTES, |room| wrote(data.encode(room))).is_err() {
            return;
        }
    }
}

/// Encrypts `plain` to `out`. `held` is the input that is not yet a whole record.
///
/// # Errors
/// `WouldBlock` while the handshake is under way.
pub(super) fn send<C: Side>(
    session: &mut C,
    held: &mut Vec<u8>,
    plain: &[u8],
    out: &mut Out,
) -> io::Result<()> {
    with_traffic(session, held, out, |traffic, out| {
        out.append(plain.len() + OVERHEAD_BYTES, |room| encrypted(traffic.encrypt(plain, room)))
    })
}

/// Says that nothing more comes (close_notify).
///
/// # Errors
/// `WouldBlock` while the handshake is under way.
pub(super) fn close<C: Side>(session: &mut C, held: &mut Vec<u8>, out: &mut Out) -> io::Result<()> {
    with_traffic(session, held, out, |traffic, out| {
        out.append(OVERHEAD_BYTES, |room| encrypted(traffic.queue_close_notify(room)))
    })
}

/// Goes on to the state in which application data may be sent.
fn with_traffic<C: Side>(
    session: &mut C,
    held: &mut Vec<u8>,
    out: &mut Out,
    write: impl FnOnce(&mut rustls::unbuffered::WriteTraffic<'_, C::Data>, &mut Out) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let UnbufferedStatus { discard, state } = session.step(held);
        match state.map_err(invalid)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                write(&mut traffic, out)?;
                held.drain(..discard);
                return Ok(());
            }
            ConnectionState::EncodeTlsData(mut data) => {
                out.append(OVERHEAD_BYTES, |room| wrote(data.encode(room)))?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            ConnectionState::BlockedHandshake => return Err(io::ErrorKind::WouldBlock.into()),
            _ => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        held.drain(..discard);
    }
}

fn wrote(outcome: Result<usize, EncodeError>) -> Wrote {
    match outcome {
        Ok(len) => Wrote::Bytes(len),
        Err(EncodeError::InsufficientSize(error)) => Wrote::TooSmall(error.required_size),
        Err(EncodeError::AlreadyEncoded) => Wrote::Never,
    }
}

fn encrypted(outcome: Result<usize, EncryptError>) -> Wrote {
    match outcome {
        Ok(len) => Wrote::Bytes(len),
        Err(EncryptError::InsufficientSize(error)) => Wrote::TooSmall(error.required_size),
        Err(EncryptError::EncryptExhausted) => Wrote::Never,
    }
}

/// The peer broke the rules of TLS.
fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
