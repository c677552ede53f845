//! The two ends that read a stream, each as a server after the handshake, and what came of it.

use std::fmt;
use std::io::{self, Read, Write};

use tungstenite::protocol::frame::coding::CloseCode as TheirCode;
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tungstenite::{Error, Message as TheirMessage, WebSocket};
use wsd::conn::{Cause, Conn, Received};
use wsd::id::Millis;
use wsd::proto::deflate::Pool;
use wsd::proto::{Header, OpCode, Role, Status};
use wsd::{Deflate, Limits};

use crate::generator::Stream;

/// What an end made of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Whether it is text, and the payload.
    pub(crate) messages: Vec<(bool, Vec<u8>)>,
    pub(crate) pongs: Vec<Vec<u8>>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// Nothing is wrong so far.
    Open,
    /// The peer's Close, answered with the same code; 1005 where there was none.
    Closed(u16),
    /// The connection is failed, with this code.
    Failed(u16),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Closed(3000..) => f.write_str("Closed(3000 to 4999)"),
            end => write!(f, "{end:?}"),
        }
    }
}

/// wsd's connection.
pub(crate) fn run_wsd(stream: &Stream) -> Outcome {
    let limits = Limits {
        max_message: stream.message_bytes_max,
        // tungstenite has neither of these limits.
        max_fragments: u32::MAX,
        control_rate: 0,
        ..Limits::default()
    };
    let mut pool = Pool::new(Deflate::default());
    let mut conn = Conn::new(Millis(0), &limits, 0);
    conn.open(Millis(0), &limits);
    let (mut messages, mut end, mut out) = (Vec::new(), End::Open, Vec::new());
    let mut rest = stream.bytes.as_slice();
    for &cut in stream.cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (part, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        let mut part = part.to_vec();
        let mut at = 0;
        while at < part.len() {
            let (used, received) = conn.receive(Millis(1), &mut part[at..], &limits, &mut pool, &mut out);
            at += used;
            match received {
                None | Some(Received::Ignored(_)) => {}
                Some(Received::Message(message)) => {
                    messages.push((message.as_text().is_some(), message.as_bytes().to_vec()));
                }
                Some(Received::Closed(ended)) => {
                    let code = ended.close.code.get();
                    end = if ended.cause == Cause::Peer { End::Closed(code) } else { End::Failed(code) };
                }
            }
        }
    }
    let (pongs, close) = written(&out);
    assert_eq!(
        close,
        (end != End::Open).then_some(code_of(end)),
        "the Close that is sent is the one that is told"
    );
    Outcome { messages, pongs, end }
}

fn code_of(end: End) -> u16 {
    let (End::Closed(code) | End::Failed(code)) = end else { return 0 };
    code
}

/// tungstenite's.
pub(crate) fn run_tungstenite(stream: &Stream) -> Outcome {
    let limit = Some(stream.message_bytes_max as usize);
    let config = WebSocketConfig::default()
        .read_buffer_size(256)
        .max_message_size(limit)
        .max_frame_size(limit)
        .accept_unmasked_frames(false);
    let pipe = Pipe { stream, at: 0, turn: 0, out: Vec::new() };
    let mut socket = WebSocket::from_raw_socket(pipe, TheirRole::Server, Some(config));
    let (mut messages, mut end) = (Vec::new(), None);
    loop {
        match socket.read() {
            Ok(TheirMessage::Text(text)) => messages.push((true, text.as_bytes().to_vec())),
            Ok(TheirMessage::Binary(bytes)) => messages.push((false, bytes.to_vec())),
            Ok(TheirMessage::Ping(_) | TheirMessage::Pong(_)) => {}
            Ok(TheirMessage::Close(None)) => end = Some(End::Closed(1005)),
            Ok(TheirMessage::Close(Some(frame))) => {
                // Its answer to a code that must not be sent.
                let failed =
                    frame.code == TheirCode::Protocol && frame.reason.as_str() == "Protocol violation";
                end = Some(if failed { End::Failed(1002) } else { End::Closed(frame.code.into()) });
            }
            Ok(TheirMessage::Frame(_)) => unreachable!("is never read"),
            Err(error) => {
                let end = end.unwrap_or_else(|| end_of(&error));
                let (pongs, _) = written(&socket.get_ref().out);
                return Outcome { messages, pongs, end };
            }
        }
    }
}

fn end_of(error: &Error) -> End {
    match error {
        Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => End::Open,
        Error::Protocol(_) => End::Failed(1002),
        Error::Utf8(_) => End::Failed(1007),
        Error::Capacity(_) => End::Failed(1009),
        other => panic!("not an error of the peer's: {other:?}"),
    }
}

/// The pongs that an end wrote, and the code of its Close.
fn written(mut out: &[u8]) -> (Vec<Vec<u8>>, Option<u16>) {
    let (mut pongs, mut close) = (Vec::new(), None);
    while !out.is_empty() {
        let Ok(Status::Complete((header, used))) = Header::decode(out, Role::Client, false) else {
            panic!("what was written is not sound: {out:02x?}")
        };
        let (frame, rest) = out.split_at(used + header.payload_len as usize);
        match header.opcode {
            OpCode::Pong => pongs.push(frame[used..].to_vec()),
            _ => close = Some(frame[used..].first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
        }
        out = rest;
    }
    (pongs, close)
}

/// A socket from which the stream is read in its pieces.
struct Pipe<'s> {
    stream: &'s Stream,
    at: usize,
    turn: usize,
    out: Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let cuts = &self.stream.cuts;
        let rest = &self.stream.bytes[self.at..];
        let len = rest.len().min(cuts[self.turn % cuts.len()]).min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        self.turn += 1;
        Ok(len)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
