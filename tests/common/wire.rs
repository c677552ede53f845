//! Bytes as a client puts them on the wire, made without wsd's encoder.

/// The key of section 1.3, whose answer is known.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The mask of every frame: the one of section 5.7's example.
pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) const FIN: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// A sound opening handshake for `path`.
pub(crate) fn request(path: &str) -> String {
    request_with(path, "")
}

/// A sound opening handshake with further header lines, each ended by CR LF.
pub(crate) fn request_with(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
}

/// A masked frame. `first` is its first byte: FIN, reserved bits and opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The header of a masked frame, with the shortest length, and nothing after it.
pub(crate) fn header(first: u8, payload_len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload_len {
        0..=125 => bytes.push(0x80 | payload_len as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((payload_len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(payload_len.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

pub(crate) fn text(payload: impl AsRef<str>) -> Vec<u8> {
    frame(FIN | TEXT, payload.as_ref().as_bytes())
}

pub(crate) fn binary(payload: &[u8]) -> Vec<u8> {
    frame(FIN | BINARY, payload)
}

pub(crate) fn ping(payload: &[u8]) -> Vec<u8> {
    frame(FIN | PING, payload)
}

pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    frame(FIN | PONG, payload)
}

pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// The frames of one message, cut into `pieces`.
pub(crate) fn fragments(opcode: u8, pieces: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = if index == 0 { opcode } else { CONTINUATION };
        let fin = if index + 1 == pieces.len() { FIN } else { 0 };
        bytes.extend(frame(fin | opcode, piece));
    }
    bytes
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// The frame that these bytes begin with, and its length, if it is whole. Sections 5.1 and 5.2: what a server may send.
#[track_caller]
pub(crate) fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let &[first, second, ..] = bytes else { return None };
    assert_eq!(first & 0x70, 0, "reserved bits");
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (header_len, len) = match second {
        127 => (10, u64::from_be_bytes(*bytes[2..].first_chunk()?) as usize),
        126 => (4, usize::from(u16::from_be_bytes(*bytes[2..].first_chunk()?))),
        short => (2, usize::from(short)),
    };
    assert!(header_len == 2 || len > 125, "length not minimal");
    assert!(header_len != 10 || len > 0xFFFF, "length not minimal");
    let payload = bytes.get(header_len..header_len + len)?.to_vec();
    Some((Frame { fin: first & FIN != 0, opcode: first & 0x0F, payload }, header_len + len))
}
