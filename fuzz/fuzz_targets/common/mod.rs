//! A connection as after its handshake, and what comes of a stream that the input cuts.

use wsd::conn::{Conn, Ignored, Received};
use wsd::id::Millis;
use wsd::proto::deflate::{Agreed, Pool};
use wsd::proto::{Header, OpCode, Role, Status};
use wsd::{Deflate, Limits};

use crate::cuts::pieces;

/// Small, so that the input reaches it.
pub const MESSAGE_BYTES_MAX: u32 = 300;

/// Fewer than the input has room for.
pub const FRAGMENTS_MAX: u32 = 5;

/// What came of a stream.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    pub messages: Vec<(bool, Vec<u8>)>,
    /// The close code, once the connection has left the open phase.
    pub closed: Option<u16>,
    /// Bytes to send.
    pub out: Vec<u8>,
    /// Where the stream was when the connection left the open phase.
    pub closed_at: Option<usize>,
}

/// Feeds a stream in pieces whose lengths are those of `cuts`, over and over.
pub fn run(stream: &[u8], cuts: &[u8], agreed: Option<Agreed>) -> Outcome {
    let limits = Limits {
        max_message: MESSAGE_BYTES_MAX,
        max_fragments: FRAGMENTS_MAX,
        control_rate: 0,
        ..Limits::default()
    };
    let mut pool = Pool::new(Deflate::default());
    let mut conn = Conn::new(Millis(0), &limits, 0);
    conn.open(Millis(0), &limits);
    if let Some(agreed) = agreed {
        conn.enable_deflate(agreed, &pool);
    }
    let mut outcome = Outcome::default();
    let mut arrived = 0;
    for mut part in pieces(stream, cuts) {
        arrived += part.len();
        let mut at = 0;
        while at < part.len() {
            let (used, received) =
                conn.receive(Millis(1), &mut part[at..], &limits, &mut pool, &mut outcome.out);
            assert!(used > 0, "no progress");
            at += used;
            match received {
                None => {}
                Some(Received::Message(message)) => {
                    assert!(outcome.closed.is_none(), "a message after the end");
                    let bytes = message.as_bytes();
                    assert!(bytes.len() <= MESSAGE_BYTES_MAX as usize, "{} bytes", bytes.len());
                    outcome.messages.push((message.as_text().is_some(), bytes.to_vec()));
                }
                Some(Received::Closed(ended)) => {
                    assert!(outcome.closed.is_none(), "closed twice");
                    outcome.closed = Some(ended.close.code.get());
                    outcome.closed_at = Some(arrived);
                }
                // Nothing waits here, and nobody closes but for what the peer did.
                Some(Received::Ignored(what)) => assert_eq!(what, Ignored::PingOverRate),
            }
        }
    }
    assert_eq!(conn.is_open(), outcome.closed.is_none());
    check_out(&outcome);
    outcome
}

/// What goes out is pongs, and one Close at the end with the code that the app was told.
fn check_out(outcome: &Outcome) {
    let mut rest = outcome.out.as_slice();
    let mut close = None;
    while !rest.is_empty() {
        assert!(close.is_none(), "something after the Close");
        let Ok(Status::Complete((header, used))) = Header::decode(rest, Role::Client, false) else {
            panic!("not sound: {rest:02x?}")
        };
        let end = used + header.payload_len as usize;
        match header.opcode {
            OpCode::Pong => {}
            OpCode::Close => close = Some(&rest[used..end]),
            opcode => panic!("nobody asked for {opcode:?}"),
        }
        rest = &rest[end..];
    }
    match (outcome.closed, close) {
        (None, None) | (Some(1005), Some([])) => {}
        (Some(code), Some([high, low, ..])) => assert_eq!(code, u16::from_be_bytes([*high, *low])),
        other => panic!("{other:?}"),
    }
}
