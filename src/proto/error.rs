//! What a peer can do wrong after the handshake, and the close code it earns. This is the only mapping.

use std::fmt;

use super::close::{Close, CloseCode};

/// The peer broke a rule. Every variant is the peer's fault; nothing here says that we failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// RSV1, RSV2 or RSV3 set without an extension that gives it a meaning (section 5.2).
    ReservedBits,
    /// An opcode without a meaning (5.2).
    ReservedOpCode(u8),
    /// A client's frame without a mask (5.1).
    UnmaskedFrame,
    /// A server's frame with a mask (5.1).
    MaskedFrame,
    /// A control frame without FIN (5.5).
    FragmentedControl,
    /// A control frame with more than 125 bytes (5.5).
    OversizedControl,
    /// A length in more bytes than it needs (5.2).
    NonMinimalLength,
    /// A 64-bit length with its highest bit set (5.2).
    LengthOverflow,
    /// A continuation frame while no message is in progress (5.4).
    StrayContinuation,
    /// A new message before the last one ended (5.4).
    InterleavedMessage,
    /// A Close with one byte of payload (5.5.1).
    ClosePayload,
    /// A close code that must not be on the wire (7.4).
    CloseCode(u16),
    /// Text, or a close reason, that is not UTF-8 (8.1).
    InvalidUtf8,
    /// A compressed message that is no DEFLATE (RFC 7692 section 7.2.2).
    InvalidDeflate,
    /// A message over our limit.
    MessageTooBig,
    /// A message in more fragments than our limit.
    TooManyFragments,
}

impl ProtocolError {
    /// The code with which the connection is failed (sections 7.1.7 and 7.4.1).
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::InvalidDeflate => CloseCode::INVALID_DATA,
            Self::MessageTooBig => CloseCode::TOO_BIG,
            // Within the protocol, but against this endpoint's policy.
            Self::TooManyFragments => CloseCode::POLICY,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// The Close that is sent: the code and what was wrong in a few words.
    pub fn to_close(self) -> Close {
        Close::new(self.close_code(), self.as_str())
    }

    /// What was wrong, in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bits set",
            Self::ReservedOpCode(_) => "reserved opcode",
            Self::UnmaskedFrame => "client frame not masked",
            Self::MaskedFrame => "server frame masked",
            Self::FragmentedControl => "fragmented control frame",
            Self::OversizedControl => "control frame over 125 bytes",
            Self::NonMinimalLength => "length not minimal",
            Self::LengthOverflow => "length over 63 bits",
            Self::StrayContinuation => "continuation without a message",
            Self::InterleavedMessage => "new message inside a message",
            Self::ClosePayload => "close payload of one byte",
            Self::CloseCode(_) => "invalid close code",
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::InvalidDeflate => "invalid compressed data",
            Self::MessageTooBig => "message too big",
            Self::TooManyFragments => "too many fragments",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::ReservedOpCode(opcode) => write!(f, " {opcode:#x}"),
            Self::CloseCode(code) => write!(f, " {code}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ProtocolError {}
