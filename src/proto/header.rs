//! Frame headers, RFC 6455 section 5.2. Reads and writes the 2 to 14 bytes before a payload; knows nothing of
//! what came before, so the rules for sequences of frames are in [`message`](super::message).

use super::error::ProtocolError;
use super::{Role, Status};

/// The longest header: 2 bytes, a 64-bit length and a masking key.
pub const HEADER_BYTES_MAX: usize = 14;

/// The longest payload of a control frame (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV: u8 = 0x70;
const OPCODE: u8 = 0x0F;
const MASK: u8 = 0x80;
const LEN: u8 = 0x7F;
const LEN_16: u8 = 126;
const LEN_64: u8 = 127;

/// What a frame is (RFC 6455 section 11.8). Reserved opcodes cannot be expressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// A further fragment of the message in progress.
    Continuation = 0x0,
    /// The first (or only) frame of a text message.
    Text = 0x1,
    /// The first (or only) frame of a binary message.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping, or a heartbeat that nobody asked for.
    Pong = 0xA,
}

impl OpCode {
    /// Close, ping and pong: never fragmented, at most 125 bytes (section 5.5).
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    /// Text and binary.
    pub const fn begins_message(self) -> bool {
        matches!(self, Self::Text | Self::Binary)
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// One frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The last fragment of its message.
    pub fin: bool,
    /// RSV1: the message that begins here is compressed (RFC 7692 section 6).
    pub compressed: bool,
    /// What the frame is.
    pub opcode: OpCode,
    /// The masking key, present exactly when a client sends.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload that follow, as announced; nobody has checked it against a limit yet.
    pub payload_len: u64,
}

impl Header {
    /// Reads a header from the start of `bytes`, and says how many bytes it took. `role` is our own end,
    /// `deflate` whether permessage-deflate was agreed on.
    ///
    /// Each rule is checked as soon as its byte is there, so a hostile header fails even if it never ends.
    ///
    /// # Errors
    /// The peer broke section 5.1 (masking), 5.2 (reserved bits and opcodes, length encoding) or 5.5
    /// (control frames).
    pub fn decode(bytes: &[u8], role: Role, deflate: bool) -> Result<Status<(Self, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else { return Ok(Status::Partial) };
        let opcode = OpCode::from_bits(first & OPCODE);
        // RSV1 marks the first frame of a message, and no other (RFC 7692 section 6.1).
        let compressed = deflate && first & RSV == RSV1 && opcode.is_some_and(OpCode::begins_message);
        if first & RSV != 0 && !compressed {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = opcode.ok_or(ProtocolError::ReservedOpCode(first & OPCODE))?;
        let fin = first & FIN != 0;
        if opcode.is_control() && !fin {
            return Err(ProtocolError::FragmentedControl);
        }

        let Some(&second) = bytes.get(1) else { return Ok(Status::Partial) };
        let masked = second & MASK != 0;
        match role {
            // "a server MUST close the connection upon receiving a frame that is not masked" (5.1)
            Role::Server if !masked => return Err(ProtocolError::UnmaskedFrame),
            // "A client MUST close a connection if it detects a masked frame." (5.1)
            Role::Client if masked => return Err(ProtocolError::MaskedFrame),
            _ => {}
        }
        let short = second & LEN;
        if opcode.is_control() && short as usize > CONTROL_PAYLOAD_MAX {
            return Err(ProtocolError::OversizedControl);
        }

        let Status::Complete((payload_len, mut used)) = decode_length(short, &bytes[2..])? else {
            return Ok(Status::Partial);
        };
        used += 2;
        let mask = if masked {
            let Some(key) = bytes.get(used..used + 4) else { return Ok(Status::Partial) };
            used += 4;
            Some([key[0], key[1], key[2], key[3]])
        } else {
            None
        };
        Ok(Status::Complete((Self { fin, compressed, opcode, mask, payload_len }, used)))
    }

    /// Writes the header to the start of `out` and returns how many bytes it took.
    pub fn encode(&self, out: &mut [u8; HEADER_BYTES_MAX]) -> usize {
        out[0] = self.opcode as u8 | if self.fin { FIN } else { 0 } | if self.compressed { RSV1 } else { 0 };
        let masked = if self.mask.is_some() { MASK } else { 0 };
        let mut used = match self.payload_len {
            len @ 0..=125 => {
                out[1] = masked | len as u8;
                2
            }
            len @ 126..=0xFFFF => {
                out[1] = masked | LEN_16;
                out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            len => {
                out[1] = masked | LEN_64;
                out[2..10].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            out[used..used + 4].copy_from_slice(&key);
            used += 4;
        }
        used
    }
}

/// The extended length that `short` announces, read from `rest`, and the bytes it took.
fn decode_length(short: u8, rest: &[u8]) -> Result<Status<(u64, usize)>, ProtocolError> {
    match short {
        LEN_16 => {
            let Some(bytes) = rest.first_chunk::<2>() else { return Ok(Status::Partial) };
            let len = u64::from(u16::from_be_bytes(*bytes));
            // "the minimal number of bytes MUST be used to encode the length" (5.2)
            if len < u64::from(LEN_16) {
                return Err(ProtocolError::NonMinimalLength);
            }
            Ok(Status::Complete((len, 2)))
        }
        LEN_64 => {
            // "the most significant bit MUST be 0" (5.2)
            if rest.first().is_some_and(|byte| byte & 0x80 != 0) {
                return Err(ProtocolError::LengthOverflow);
            }
            let Some(bytes) = rest.first_chunk::<8>() else { return Ok(Status::Partial) };
            let len = u64::from_be_bytes(*bytes);
            if len <= 0xFFFF {
                return Err(ProtocolError::NonMinimalLength);
            }
            Ok(Status::Complete((len, 8)))
        }
        len => Ok(Status::Complete((u64::from(len), 0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(bytes: &[u8]) -> Result<Status<(Header, usize)>, ProtocolError> {
        Header::decode(bytes, Role::Server, false)
    }

    fn header(opcode: OpCode, payload_len: u64, mask: Option<[u8; 4]>) -> Header {
        Header { fin: true, compressed: false, opcode, mask, payload_len }
    }

    #[test]
    fn the_examples_of_section_5_7() {
        // "A single-frame masked text message", contains "Hello"
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let key = Some([0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(server(&masked), Ok(Status::Complete((header(OpCode::Text, 5, key), 6))));
        // "256 bytes binary message in a single unmasked frame"
        let medium = [0x82, 0x7E, 0x01, 0x00];
        assert_eq!(
            Header::decode(&medium, Role::Client, false),
            Ok(Status::Complete((header(OpCode::Binary, 256, None), 4)))
        );
        // "64KiB binary message in a single unmasked frame"
        let large = [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(
            Header::decode(&large, Role::Client, false),
            Ok(Status::Complete((header(OpCode::Binary, 65_536, None), 10)))
        );
    }

    #[test]
    fn every_length_comes_back_and_every_prefix_is_partial() {
        for len in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000, u64::from(u32::MAX), u64::MAX >> 1] {
            for (role, mask) in [(Role::Server, Some([1, 2, 3, 4])), (Role::Client, None)] {
                let mut bytes = [0; HEADER_BYTES_MAX];
                let sent = header(OpCode::Binary, len, mask);
                let used = sent.encode(&mut bytes);
                assert_eq!(Header::decode(&bytes[..used], role, false), Ok(Status::Complete((sent, used))));
                for cut in 0..used {
                    assert_eq!(
                        Header::decode(&bytes[..cut], role, false),
                        Ok(Status::Partial),
                        "{len} cut at {cut}"
                    );
                }
            }
        }
    }

    #[test]
    fn reserved_bits_and_opcodes_fail_at_the_first_byte() {
        for first in [0xC1, 0xA1, 0x91, 0xF1] {
            assert_eq!(server(&[first]), Err(ProtocolError::ReservedBits));
        }
        for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
            assert_eq!(server(&[0x80 | opcode]), Err(ProtocolError::ReservedOpCode(opcode)));
        }
    }

    #[test]
    fn rsv1_marks_the_first_frame_of_a_message_where_that_was_agreed_on() {
        let decode = |first: u8| Header::decode(&[first, 0x80, 1, 2, 3, 4], Role::Server, true);
        for first in [0xC1, 0xC2, 0x41, 0x42] {
            assert!(matches!(decode(first), Ok(Status::Complete((Header { compressed: true, .. }, 6)))));
        }
        for first in [0xC0, 0xC8, 0xC9, 0xCA, 0xE1, 0xD1, 0xA1, 0x91, 0xC3] {
            assert_eq!(decode(first), Err(ProtocolError::ReservedBits), "{first:#x}");
        }
    }

    #[test]
    fn masking_is_for_clients_only() {
        assert_eq!(server(&[0x81, 0x05]), Err(ProtocolError::UnmaskedFrame));
        assert_eq!(Header::decode(&[0x81, 0x85], Role::Client, false), Err(ProtocolError::MaskedFrame));
    }

    #[test]
    fn control_frames_are_whole_and_short() {
        for opcode in [0x8, 0x9, 0xA] {
            assert_eq!(server(&[opcode]), Err(ProtocolError::FragmentedControl));
            assert_eq!(server(&[0x80 | opcode, 0x80 | 126]), Err(ProtocolError::OversizedControl));
            assert_eq!(server(&[0x80 | opcode, 0x80 | 127]), Err(ProtocolError::OversizedControl));
            assert_eq!(server(&[0x80 | opcode, 0x80 | 125]), Ok(Status::Partial));
        }
    }

    #[test]
    fn lengths_are_minimal_and_63_bit() {
        assert_eq!(server(&[0x82, 0xFE, 0, 125]), Err(ProtocolError::NonMinimalLength));
        assert_eq!(server(&[0x82, 0xFE, 0, 126]), Ok(Status::Partial), "the key is still to come");
        assert_eq!(server(&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), Err(ProtocolError::NonMinimalLength));
        assert_eq!(
            server(&[0x82, 0xFF, 0x80]),
            Err(ProtocolError::LengthOverflow),
            "at the byte that says so"
        );
        assert_eq!(server(&[0x82, 0xFF, 0x7F]), Ok(Status::Partial));
    }
}
