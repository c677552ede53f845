//! The client's side of the opening handshake, section 4.1: asks, and checks the answer.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::accept_key;
use super::grammar::{list_elements, trim};
use crate::config::Deflate;
use crate::proto::Status;
use crate::proto::deflate::{self, Agreed};

/// The most headers that a server's answer may have.
const RESPONSE_HEADERS_MAX: usize = 64;

/// The longest answer that is waited for.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct ClientRequest<'a> {
    /// `Host`: the authority of the URL, with its port unless it is the default one.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// From [`ClientRequest::key`].
    pub key: &'a str,
    /// `Origin`, as browsers send it.
    pub origin: Option<&'a str>,
    /// Offered subprotocols, the best one first.
    pub subprotocols: &'a [&'a str],
    /// Offers permessage-deflate on these terms.
    pub deflate: Option<&'a Deflate>,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
}

impl ClientRequest<'_> {
    /// `Sec-WebSocket-Key` for a nonce, which must be random for each connection.
    pub fn key(nonce: [u8; 16]) -> String {
        STANDARD.encode(nonce)
    }

    /// Checks the server's answer to this request.
    ///
    /// # Errors
    /// The server refused, or its answer does not prove that it speaks the protocol.
    pub fn parse_response(&self, bytes: &[u8]) -> Result<Status<Upgraded>, ResponseError> {
        parse_response(bytes, self.key, self.subprotocols, self.deflate)
    }

    /// Appends the request to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut line = |parts: &[&str]| {
            for part in parts {
                out.extend_from_slice(part.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        };
        line(&["GET ", self.target, " HTTP/1.1"]);
        line(&["Host: ", self.host]);
        line(&["Upgrade: websocket"]);
        line(&["Connection: Upgrade"]);
        line(&["Sec-WebSocket-Key: ", self.key]);
        line(&["Sec-WebSocket-Version: 13"]);
        if let Some(origin) = self.origin {
            line(&["Origin: ", origin]);
        }
        if !self.subprotocols.is_empty() {
            line(&["Sec-WebSocket-Protocol: ", &self.subprotocols.join(", ")]);
        }
        if let Some(config) = self.deflate {
            line(&["Sec-WebSocket-Extensions: ", &deflate::offer(config)]);
        }
        for (name, value) in self.headers {
            line(&[name, ": ", value]);
        }
        line(&[]);
    }
}

/// A handshake that the server agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// Bytes of the answer; frames follow.
    pub head_len: usize,
    /// The subprotocol that the server chose.
    pub subprotocol: Option<String>,
    /// What was agreed on about compression.
    pub deflate: Option<Agreed>,
}

/// Why an answer is none that a client may go on with (section 4.1, the numbered list at its end).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// Not HTTP, or too long.
    Malformed,
    /// Another status than 101.
    Status(u16),
    /// No `Upgrade: websocket`, or no `Connection: Upgrade`.
    NotUpgraded,
    /// `Sec-WebSocket-Accept` missing or wrong.
    AcceptKey,
    /// A subprotocol or an extension that was not asked for.
    Unasked,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the answer is not HTTP"),
            Self::Status(status) => write!(f, "the server answered with status {status}"),
            Self::NotUpgraded => f.write_str("the server answered 101 without upgrading to websocket"),
            Self::AcceptKey => f.write_str("wrong Sec-WebSocket-Accept"),
            Self::Unasked => f.write_str("the server chose a subprotocol or extension that was not offered"),
        }
    }
}

impl std::error::Error for ResponseError {}

/// Checks the server's answer to a request made with this key and these offers.
///
/// # Errors
/// The server refused, or its answer does not prove that it speaks the protocol.
pub fn parse_response(
    bytes: &[u8],
    key: &str,
    subprotocols: &[&str],
    deflate: Option<&Deflate>,
) -> Result<Status<Upgraded>, ResponseError> {
    let mut slots = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut slots);
    let head_len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head_len)) => head_len,
        Ok(httparse::Status::Partial) if bytes.len() < RESPONSE_BYTES_MAX => return Ok(Status::Partial),
        _ => return Err(ResponseError::Malformed),
    };
    let status = parsed.code.ok_or(ResponseError::Malformed)?;
    if status != 101 {
        return Err(ResponseError::Status(status));
    }
    let values = |name: &'static str| {
        let named = parsed.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.filter_map(|header| std::str::from_utf8(header.value).ok())
    };
    let has =
        |name, token: &str| values(name).flat_map(list_elements).any(|it| it.eq_ignore_ascii_case(token));
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err(ResponseError::NotUpgraded);
    }
    let expected = accept_key(key.as_bytes());
    if values("sec-websocket-accept").next().is_none_or(|accept| trim(accept).as_bytes() != expected) {
        return Err(ResponseError::AcceptKey);
    }
    // What is no text is nothing that was asked for, and would not be seen below.
    let is_choice = |name: &str| {
        ["sec-websocket-protocol", "sec-websocket-extensions"].iter().any(|it| it.eq_ignore_ascii_case(name))
    };
    if parsed.headers.iter().any(|it| is_choice(it.name) && std::str::from_utf8(it.value).is_err()) {
        return Err(ResponseError::Unasked);
    }
    let subprotocol = values("sec-websocket-protocol").next().map(trim);
    if subprotocol.is_some_and(|chosen| !subprotocols.contains(&chosen)) {
        return Err(ResponseError::Unasked);
    }
    let mut extensions = values("sec-websocket-extensions").peekable();
    let deflate = match deflate {
        Some(config) => deflate::parse_agreement(extensions, config).map_err(|_| ResponseError::Unasked)?,
        None if extensions.peek().is_some() => return Err(ResponseError::Unasked),
        None => None,
    };
    Ok(Status::Complete(Upgraded { head_len, subprotocol: subprotocol.map(str::to_owned), deflate }))
}

#[cfg(test)]
mod tests {
    use super::super::encode_accept;
    use super::super::request::{Request, Upgrade};
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn our_request_is_one_that_our_server_takes() {
        let mut out = Vec::new();
        let request = ClientRequest {
            host: "localhost:8080",
            target: "/echo?a=b",
            key: KEY,
            origin: Some("http://localhost"),
            subprotocols: &["v2", "v1"],
            deflate: Some(&Deflate::default()),
            headers: &[("X-Test", "1")],
        };
        request.encode(&mut out);
        let parsed = Request::parse(&out, 64).expect("sound");
        assert_eq!(parsed.upgrade(), Upgrade::WebSocket { key: KEY });
        assert_eq!(parsed.subprotocols().collect::<Vec<_>>(), ["v2", "v1"]);
        assert!(
            parsed
                .header("sec-websocket-extensions")
                .is_some_and(|offer| offer.starts_with("permessage-deflate;"))
        );
        assert_eq!((parsed.host(), parsed.header("x-test")), ("localhost:8080", Some("1")));
    }

    #[test]
    fn our_answer_is_one_that_our_client_takes() {
        let mut out = Vec::new();
        encode_accept(&mut out, KEY, Some("v1"), None);
        let head_len = out.len();
        out.extend_from_slice(b"\x81\x00");
        let upgraded = Upgraded { head_len, subprotocol: Some("v1".into()), deflate: None };
        assert_eq!(parse_response(&out, KEY, &["v1"], None), Ok(Status::Complete(upgraded)));
        for cut in 0..head_len {
            assert_eq!(parse_response(&out[..cut], KEY, &["v1"], None), Ok(Status::Partial));
        }
        assert_eq!(parse_response(&out, KEY, &["v2"], None), Err(ResponseError::Unasked));
        assert_eq!(
            parse_response(&out, "AAAAAAAAAAAAAAAAAAAAAA==", &["v1"], None),
            Err(ResponseError::AcceptKey)
        );
    }

    /// Optional whitespace is space and tab (RFC 9110 section 5.6.3).
    #[test]
    fn only_http_s_own_whitespace_is_none() {
        let answer = |value: &str| {
            let head = "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept:";
            parse_response(format!("{head}{value}\r\n\r\n").as_bytes(), KEY, &[], None)
        };
        assert!(matches!(answer("\t s3pPLMBiTxaQ9kYGzzhZRbK+xOo= \t"), Ok(Status::Complete(_))));
        assert_eq!(answer("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\u{a0}"), Err(ResponseError::AcceptKey));
    }

    #[test]
    fn compression_is_agreed_on_or_was_not_offered() {
        let config = Deflate::default();
        let mut out = Vec::new();
        let (server, answer) =
            deflate::negotiate([deflate::offer(&config).as_str()].into_iter(), &config).expect("sound");
        encode_accept(&mut out, KEY, None, Some(&answer));
        let Ok(Status::Complete(upgraded)) = parse_response(&out, KEY, &[], Some(&config)) else {
            panic!("sound")
        };
        assert_eq!(upgraded.deflate.map(|agreed| agreed.receive_window), Some(server.send_window));
        assert_eq!(parse_response(&out, KEY, &[], None), Err(ResponseError::Unasked));
    }

    #[test]
    fn a_choice_that_cannot_be_read_is_none_of_ours() {
        for name in ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"] {
            for value in [&b"v1\xff"[..], b"permessage-deflate; c\x94\x95ent_no_context_takeover"] {
                let mut out = Vec::new();
                encode_accept(&mut out, KEY, None, None);
                out.truncate(out.len() - 2);
                out.extend([name.as_bytes(), b": ", value, b"\r\n\r\n"].concat());
                let answer = parse_response(&out, KEY, &["v1"], Some(&Deflate::default()));
                assert_eq!(answer, Err(ResponseError::Unasked), "{name}");
            }
        }
    }

    #[test]
    fn answers_that_are_no_upgrade() {
        let check = |text: &str| parse_response(text.as_bytes(), KEY, &[], None);
        assert_eq!(check("HTTP/1.1 404 Not Found\r\n\r\n"), Err(ResponseError::Status(404)));
        assert_eq!(check("HTTP/1.1 101 S\r\nUpgrade: h2c\r\n\r\n"), Err(ResponseError::NotUpgraded));
        assert_eq!(check("SSH-2.0-x\r\n\r\n"), Err(ResponseError::Malformed));
    }
}
