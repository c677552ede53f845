//! Close codes and the payload of a Close frame, RFC 6455 sections 5.5.1 and 7.4.

use std::borrow::Cow;
use std::fmt;

use super::error::ProtocolError;
use super::header::CONTROL_PAYLOAD_MAX;

/// The longest reason: a control payload less the code.
pub const REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_MAX - 2;

/// Why a connection ends (RFC 6455 section 7.4 and the IANA registry of close codes).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection has been fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: this endpoint goes away: a server stops, a browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a type of data that this endpoint cannot take.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1005: the peer's Close carried no code. Never sent.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: the connection ended without a Close. Never sent.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: data that does not match its type, such as text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: the message breaks this endpoint's policy.
    pub const POLICY: Self = Self(1008);
    /// 1009: the message is too big.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: something unexpected went wrong on this side.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the server restarts; come back.
    pub const RESTART: Self = Self(1012);
    /// 1013: try again later; wsd sends it to a peer that does not keep up with what it is sent.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// A code that an application may send, or `None`: 1000 to 1003, 1007 to 1014 and 3000 to 4999.
    ///
    /// 1005, 1006 and 1015 are "reserved values and MUST NOT be set as a status code in a Close control frame"
    /// (7.4.1); 1004 and 1016 to 2999 have no meaning yet.
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A close code and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Why.
    pub code: CloseCode,
    /// For people and logs; at most [`REASON_BYTES_MAX`] bytes go on the wire.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// A close with a reason.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Reads the payload of a Close frame; `None` where it is empty.
    ///
    /// # Errors
    /// One byte alone, a code that must not be on the wire, or a reason that is not UTF-8.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return if payload.is_empty() { Ok(None) } else { Err(ProtocolError::ClosePayload) };
        };
        let number = u16::from_be_bytes(*code);
        let code = CloseCode::new(number).ok_or(ProtocolError::CloseCode(number))?;
        let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidUtf8)?;
        Ok(Some(Self { code, reason: Cow::Owned(reason.to_owned()) }))
    }

    /// The payload of a Close frame: empty for [`CloseCode::NO_STATUS`], and with a reason cut at a character
    /// where it is too long.
    pub fn encode(&self) -> ClosePayload {
        let mut payload = ClosePayload { bytes: [0; CONTROL_PAYLOAD_MAX], len: 0 };
        if CloseCode::new(self.code.get()).is_none() {
            return payload;
        }
        let mut reason = self.reason.len().min(REASON_BYTES_MAX);
        while !self.reason.is_char_boundary(reason) {
            reason -= 1;
        }
        payload.len = 2 + reason;
        payload.bytes[..2].copy_from_slice(&self.code.get().to_be_bytes());
        payload.bytes[2..payload.len].copy_from_slice(&self.reason.as_bytes()[..reason]);
        payload
    }
}

impl From<CloseCode> for Close {
    fn from(code: CloseCode) -> Self {
        Self::new(code, "")
    }
}

/// The encoded payload of a Close frame, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct ClosePayload {
    bytes: [u8; CONTROL_PAYLOAD_MAX],
    len: usize,
}

impl std::ops::Deref for ClosePayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_on_the_wire() {
        for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
            assert!(CloseCode::new(code).is_some(), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            assert!(CloseCode::new(code).is_none(), "{code}");
            let error = Close::decode(&code.to_be_bytes()).expect_err("a code that is not for the wire");
            assert_eq!(error, ProtocolError::CloseCode(code));
        }
    }

    #[test]
    fn payloads() {
        assert_eq!(Close::decode(b""), Ok(None));
        assert_eq!(Close::decode(b"\x03"), Err(ProtocolError::ClosePayload));
        assert_eq!(Close::decode(b"\x03\xe8"), Ok(Some(CloseCode::NORMAL.into())));
        assert_eq!(Close::decode(b"\x03\xe9bye"), Ok(Some(Close::new(CloseCode::GOING_AWAY, "bye"))));
        assert_eq!(Close::decode(b"\x03\xe8\xce\xba\xe1"), Err(ProtocolError::InvalidUtf8));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let close = Close::new(CloseCode::NORMAL, "é".repeat(100));
        let payload = close.encode();
        assert_eq!(payload.len(), 2 + 122, "61 characters of two bytes fit, half of the 62nd does not");
        assert!(Close::decode(&payload).is_ok());
        assert!(Close::from(CloseCode::NO_STATUS).encode().is_empty());
    }
}
