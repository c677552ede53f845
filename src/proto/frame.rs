//! The outgoing side: encoding a frame, and the encoded frame that any number of receivers share.
//!
//! A server never masks, so the bytes of a frame are the same for every receiver: they are encoded once.

use std::fmt;
use std::sync::Arc;

use super::close::Close;
use super::deflate::Deflater;
use super::header::{HEADER_BYTES_MAX, Header, OpCode};
use super::mask;
use super::message::Message;
use super::{Role, Status};

/// Appends one whole frame (FIN set) to `out`. `mask` is the key when we are the client, `None` when we are
/// the server.
pub fn encode(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_fragment(out, true, opcode, payload, mask);
}

/// Appends one frame to `out` that is the last of its message only where `fin` says so (section 5.4).
pub fn encode_fragment(out: &mut Vec<u8>, fin: bool, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) {
    append(out, Header { fin, compressed: false, opcode, mask, payload_len: payload.len() as u64 }, payload);
}

fn append(out: &mut Vec<u8>, header: Header, payload: &[u8]) {
    let mut bytes = [0; HEADER_BYTES_MAX];
    let used = header.encode(&mut bytes);
    out.reserve(used + payload.len());
    out.extend_from_slice(&bytes[..used]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = header.mask {
        mask::apply(key, &mut out[start..]);
    }
}

/// Appends a message as one unmasked frame: what a server sends.
pub fn encode_message(out: &mut Vec<u8>, message: &Message<'_>) {
    encode(out, message.opcode(), message.as_bytes(), None);
}

/// As [`encode`], compressed where that is worth it (RFC 7692 section 6.1).
pub fn encode_deflated(
    out: &mut Vec<u8>,
    opcode: OpCode,
    payload: &[u8],
    mask: Option<[u8; 4]>,
    deflater: &mut Deflater,
) {
    match deflater.deflate(payload) {
        None => encode(out, opcode, payload, mask),
        Some(bytes) => {
            append(
                out,
                Header { fin: true, compressed: true, opcode, mask, payload_len: bytes.len() as u64 },
                bytes,
            );
        }
    }
}

/// Appends a server's Close frame.
pub fn encode_close(out: &mut Vec<u8>, close: &Close) {
    encode(out, OpCode::Close, &close.encode(), None);
}

/// The header of a frame that we encoded ourselves as a server, and how long it is; `None` at the end of the bytes.
pub(crate) fn own_header(bytes: &[u8]) -> Option<(Header, usize)> {
    match Header::decode(bytes, Role::Client, true) {
        Ok(Status::Complete(complete)) => Some(complete),
        _ => None,
    }
}

/// Encoded, immutable bytes of one or more whole server frames, shared by all who still have to send them.
///
/// Cloning costs a reference count. Make one with [`Frame::message`] when the same message is sent to many
/// connections one by one; publishing does it by itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Arc<[u8]>);

impl Frame {
    /// A message as one frame.
    pub fn message<'a>(message: impl Into<Message<'a>>) -> Self {
        let message = message.into();
        let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX + message.as_bytes().len());
        encode_message(&mut bytes, &message);
        Self::from_encoded(&bytes)
    }

    /// A Close frame.
    pub fn close(close: &Close) -> Self {
        let mut bytes = Vec::new();
        encode_close(&mut bytes, close);
        Self::from_encoded(&bytes)
    }

    /// Shares bytes that are already encoded frames.
    pub(crate) fn from_encoded(bytes: &[u8]) -> Self {
        Self(Arc::from(bytes))
    }

    /// The bytes as they go on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes go on the wire.
    pub fn wire_len(&self) -> usize {
        self.0.len()
    }

    /// How many hold it, on all workers: each bears its part of the memory.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.0.len())
    }
}

/// A run of bytes of a shared frame, and how many messages end in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Shared with every other receiver.
    pub frame: Frame,
    /// First byte.
    pub start: u32,
    /// After the last byte.
    pub end: u32,
    /// Messages that are delivered when its last byte is taken.
    pub messages: u32,
}

impl Piece {
    /// All of a frame that carries `messages` messages.
    pub fn whole(frame: Frame, messages: u32) -> Self {
        let end = frame.wire_len() as u32;
        Self { frame, start: 0, end, messages }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.frame.as_bytes()[self.start as usize..self.end as usize]
    }

    /// How many bytes.
    pub fn len(&self) -> u32 {
        self.end - self.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::close::CloseCode;

    #[test]
    fn a_server_frame_is_unmasked_and_a_client_frame_masked() {
        // Section 5.7, "Hello" both ways.
        assert_eq!(Frame::message("Hello").as_bytes(), b"\x81\x05Hello");
        let mut out = Vec::new();
        encode(&mut out, OpCode::Text, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d]));
        assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn fragments_and_closes() {
        let mut out = Vec::new();
        encode_fragment(&mut out, false, OpCode::Text, b"Hel", None);
        encode_fragment(&mut out, true, OpCode::Continuation, b"lo", None);
        assert_eq!(out, b"\x01\x03Hel\x80\x02lo");
        assert_eq!(Frame::close(&Close::new(CloseCode::NORMAL, "ok")).as_bytes(), b"\x88\x04\x03\xe8ok");
    }

    #[test]
    fn clones_share_the_bytes() {
        let frame = Frame::message(&[0u8; 1000][..]);
        let clone = frame.clone();
        assert_eq!(clone.as_bytes().as_ptr(), frame.as_bytes().as_ptr());
        assert_eq!(frame.wire_len(), 1004);
    }
}
