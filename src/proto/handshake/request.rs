//! The server's side of the opening handshake, section 4.2.1: reads a request head and says what it is.
//!
//! Whether the path exists and who may connect is not decided here.

use std::fmt;
use std::mem::MaybeUninit;

use smallvec::SmallVec;

use super::grammar::{is_extension_list, is_target, is_token, list_elements, split_authority};
use super::is_valid_key;

/// The most headers that any configuration can allow: they are parsed into an array on the stack.
pub const HEADERS_CEILING: usize = 128;

/// Names and values. Browsers send fewer than this many: then they cost no allocation.
type Headers<'h> = SmallVec<[(&'h str, &'h str); 24]>;

/// A request head that is sound HTTP, borrowed from its bytes.
#[derive(Debug)]
pub struct Request<'h> {
    target: &'h str,
    host: &'h str,
    headers: Headers<'h>,
    upgrade: Upgrade<'h>,
}

/// Whether the request asks for a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade<'h> {
    /// A plain request: answer it as HTTP.
    No,
    /// A sound opening handshake with this `Sec-WebSocket-Key`.
    WebSocket {
        /// As it stood in the request: 24 bytes of base64.
        key: &'h str,
    },
}

/// Why a request is refused. The peer's fault, all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// Not sound HTTP/1.1, or not a sound handshake; the text says what.
    Malformed(&'static str),
    /// Longer than the limit.
    HeadTooLong,
    /// More headers than the limit.
    TooManyHeaders,
    /// Not GET (section 4.1, requirement 2).
    Method,
    /// Another version of HTTP than 1.1.
    HttpVersion,
    /// Another version of the protocol than 13 (section 4.4).
    WebSocketVersion,
}

impl RequestError {
    /// The status it is answered with.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::HeadTooLong | Self::TooManyHeaders => 431,
            Self::Method => 405,
            Self::HttpVersion => 505,
            Self::WebSocketVersion => 426,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(what) => what,
            Self::HeadTooLong => "request head too long",
            Self::TooManyHeaders => "too many headers",
            Self::Method => "method not allowed",
            Self::HttpVersion => "HTTP version not supported, 1.1 is needed",
            Self::WebSocketVersion => "WebSocket version not supported",
        })
    }
}

impl std::error::Error for RequestError {}

impl<'h> Request<'h> {
    /// Reads one whole head, its empty line included, as [`HeadScanner`](super::HeadScanner) delimits it.
    ///
    /// # Errors
    /// Anything that is not a sound request of HTTP/1.1 with GET, or that asks for an upgrade and is not a
    /// sound opening handshake.
    pub fn parse(head: &'h [u8], headers_max: usize) -> Result<Self, RequestError> {
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_CEILING];
        let mut parsed = httparse::Request::new(&mut []);
        let slots = &mut slots[..headers_max.min(HEADERS_CEILING)];
        match parsed.parse_with_uninit_headers(head, slots) {
            Ok(httparse::Status::Complete(used)) if used == head.len() => {}
            Ok(_) => return Err(RequestError::Malformed("malformed request head")),
            Err(httparse::Error::TooManyHeaders) => return Err(RequestError::TooManyHeaders),
            // httparse knows 1.0 and 1.1 and calls anything else, or a line that is none, an error of the version.
            Err(httparse::Error::Version) if names_a_version(head) => return Err(RequestError::HttpVersion),
            Err(_) => return Err(RequestError::Malformed("malformed request head")),
        }
        if parsed.method != Some("GET") {
            return Err(RequestError::Method);
        }
        if parsed.version != Some(1) {
            return Err(RequestError::HttpVersion);
        }
        let mut headers = Headers::new();
        for header in parsed.headers.iter() {
            match std::str::from_utf8(header.value) {
                Ok(value) => headers.push((header.name, value.trim_matches([' ', '\t']))),
                Err(_) if is_ours(header.name) => {
                    return Err(RequestError::Malformed("header value is not UTF-8"));
                }
                // "A recipient SHOULD treat other allowed octets in field content ... as opaque data" (RFC 9110
                // section 5.5): a cookie in Latin-1 is nothing to us, and nothing that a `&str` could hold.
                Err(_) => {}
            }
        }
        let mut request =
            Self { target: parsed.path.unwrap_or_default(), host: "", headers, upgrade: Upgrade::No };
        request.check_target_and_host()?;
        request.check_no_body()?;
        request.upgrade = request.check_upgrade()?;
        Ok(request)
    }

    /// The request target as sent: path and query.
    pub fn target(&self) -> &'h str {
        self.target
    }

    /// The path without the query, not percent-decoded.
    pub fn path(&self) -> &'h str {
        match self.target.split_once('?') {
            Some(("", _)) => "/",
            Some((path, _)) => path,
            None => self.target,
        }
    }

    /// The query without its `?`, not decoded.
    pub fn query(&self) -> Option<&'h str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The first header of that name, whatever its case. Values that are not UTF-8 are left out.
    pub fn header(&self, name: &str) -> Option<&'h str> {
        self.headers(name).next()
    }

    /// Every header of that name, in the order sent.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'h str> + 'a {
        self.headers
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|&(_, value)| value)
    }

    /// The host, and perhaps the port, that the request is for: that of the target where it names one, else of the
    /// `Host` header, of which every sound request has exactly one.
    pub fn host(&self) -> &'h str {
        self.host
    }

    /// The page that a browser says the connection comes from.
    pub fn origin(&self) -> Option<&'h str> {
        self.header("origin")
    }

    /// The subprotocols that the client offers, in its order of preference (section 4.1, requirement 10).
    pub fn subprotocols(&self) -> impl Iterator<Item = &'h str> + '_ {
        self.headers("sec-websocket-protocol").flat_map(list_elements)
    }

    /// Whether it asks for a WebSocket.
    pub fn upgrade(&self) -> Upgrade<'h> {
        self.upgrade
    }

    /// RFC 9112 section 3.2, and what every target may consist of.
    fn check_target_and_host(&mut self) -> Result<(), RequestError> {
        let Some(host) = self.only("host").filter(|host| split_authority(host).is_some()) else {
            return Err(RequestError::Malformed("exactly one Host header with a host is needed"));
        };
        self.host = host;
        // "a server MUST accept the absolute-form in requests" and "MUST ignore the received Host header field"
        if let Some((scheme, rest)) = self.target.split_once("://")
            && (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
        {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if split_authority(authority).is_none() {
                return Err(RequestError::Malformed("target without a host"));
            }
            self.host = authority;
            self.target = if path.is_empty() { "/" } else { path };
            // `http://host?query` has an empty path, which is `/`.
            if self.target.starts_with('?') && is_target(self.target) {
                return Ok(());
            }
        }
        if self.target.starts_with('/') && is_target(self.target) {
            Ok(())
        } else {
            Err(RequestError::Malformed("target is not a path"))
        }
    }

    /// What follows the head is frames or nothing: a body that two readers could delimit in two ways is how requests
    /// are smuggled.
    fn check_no_body(&self) -> Result<(), RequestError> {
        let body = self.header("transfer-encoding").is_some()
            || self.headers("content-length").any(|length| length != "0");
        if body { Err(RequestError::Malformed("a request with a body")) } else { Ok(()) }
    }

    /// Section 4.2.1, point by point.
    fn check_upgrade(&self) -> Result<Upgrade<'h>, RequestError> {
        let asks = self
            .headers("upgrade")
            .flat_map(list_elements)
            .any(|token| token.eq_ignore_ascii_case("websocket"));
        // Who sends a key asks for a WebSocket: the header that says so belongs to one hop, and a proxy that is not
        // told to pass it on does not. A page in its place would say nothing of that.
        if !asks && self.header("sec-websocket-key").is_some() {
            return Err(RequestError::Malformed(
                "a handshake without Upgrade: websocket; does a proxy drop it?",
            ));
        }
        if !asks {
            return Ok(Upgrade::No);
        }
        let connection = self
            .headers("connection")
            .flat_map(list_elements)
            .any(|token| token.eq_ignore_ascii_case("upgrade"));
        if !connection {
            return Err(RequestError::Malformed("Connection does not say Upgrade"));
        }
        // An expectation is about a body (RFC 9110 section 10.1.1), even where its length is 0.
        if self.header("content-length").is_some() || self.header("expect").is_some() {
            return Err(RequestError::Malformed("a handshake with a body"));
        }
        if self.headers("origin").count() > 1 {
            return Err(RequestError::Malformed("more than one Origin"));
        }
        // Several lines are one list (RFC 9110 section 5.3).
        let offers = self.header("sec-websocket-protocol").is_some();
        if offers && !(self.subprotocols().next().is_some() && self.subprotocols().all(is_token)) {
            return Err(RequestError::Malformed("malformed Sec-WebSocket-Protocol"));
        }
        if !self.headers("sec-websocket-extensions").all(is_extension_list) {
            return Err(RequestError::Malformed("malformed Sec-WebSocket-Extensions"));
        }
        match self.only("sec-websocket-version") {
            Some("13") => {}
            Some(_) => return Err(RequestError::WebSocketVersion),
            None => return Err(RequestError::Malformed("exactly one Sec-WebSocket-Version is needed")),
        }
        match self.only("sec-websocket-key") {
            Some(key) if is_valid_key(key.as_bytes()) => Ok(Upgrade::WebSocket { key }),
            _ => Err(RequestError::Malformed("one Sec-WebSocket-Key of 16 bytes in base64 is needed")),
        }
    }

    /// The value of a header that must stand exactly once.
    fn only(&self, name: &str) -> Option<&'h str> {
        let mut values = self.headers(name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }
}

/// Whether we act on a header of this name.
fn is_ours(name: &str) -> bool {
    const OURS: [&str; 7] =
        ["host", "upgrade", "connection", "origin", "content-length", "transfer-encoding", "expect"];
    let name = name.to_ascii_lowercase();
    OURS.contains(&name.as_str()) || name.starts_with("sec-websocket-")
}

/// Whether the request line ends in a version of HTTP, so that the line is sound but for that.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(_), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let digit = |at: usize| version.get(at).is_some_and(u8::is_ascii_digit);
    !target.is_empty()
        && version.len() == 8
        && version.starts_with(b"HTTP/")
        && digit(5)
        && version[6] == b'.'
        && digit(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "GET /chat?x=1 HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn error(head: &str) -> RequestError {
        Request::parse(head.as_bytes(), 64).expect_err("must be refused")
    }

    #[test]
    fn the_request_of_section_1_2() {
        let request = Request::parse(SOUND.as_bytes(), 64).expect("sound");
        assert_eq!(request.upgrade(), Upgrade::WebSocket { key: "dGhlIHNhbXBsZSBub25jZQ==" });
        assert_eq!((request.path(), request.query()), ("/chat", Some("x=1")));
        assert_eq!(request.origin(), Some("http://example.com"));
        assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["chat", "superchat"]);
    }

    #[test]
    fn tokens_are_found_in_lists_and_in_any_case() {
        let head = SOUND
            .replace("Connection: Upgrade", "connection: keep-alive, UPGRADE")
            .replace("websocket", "h2c, WebSocket");
        assert!(matches!(
            Request::parse(head.as_bytes(), 64),
            Ok(Request { upgrade: Upgrade::WebSocket { .. }, .. })
        ));
    }

    #[test]
    fn a_plain_get_is_no_upgrade() {
        let request = Request::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 64).expect("sound");
        assert_eq!(request.upgrade(), Upgrade::No);
    }

    #[test]
    fn statuses() {
        assert_eq!(error(&SOUND.replace("GET", "POST")).status(), 405);
        assert_eq!(error(&SOUND.replace("HTTP/1.1", "HTTP/1.0")).status(), 505);
        assert_eq!(error(&SOUND.replace("HTTP/1.1", "HTTP/2.0")).status(), 505);
        assert_eq!(error(&SOUND.replace("Version: 13", "Version: 8")).status(), 426);
        assert_eq!(error(&SOUND.replace("Sec-WebSocket-Version: 13\r\n", "")).status(), 400);
        assert_eq!(error(&SOUND.replace("Connection: Upgrade\r\n", "")).status(), 400);
        assert_eq!(
            error(&SOUND.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "")).status(),
            400
        );
        assert_eq!(error(&SOUND.replace("dGhlIHNhbXBsZSBub25jZQ==", "short")).status(), 400);
        assert_eq!(error(&SOUND.replace("Host: server.example.com\r\n", "")).status(), 400);
        assert_eq!(error(&SOUND.replace("Host:", "Host : a\r\nX:")).status(), 400);
        assert_eq!(error(&SOUND.replace("HTTP/1.1", "HTTP/1")).status(), 400);
        assert_eq!(error(&SOUND.replace("GET /chat", "GET ftp://a/chat")).status(), 400);
    }

    #[test]
    fn an_absolute_target_says_which_host() {
        let head = SOUND.replace("GET /chat", "GET http://a.test:81/chat");
        let request = Request::parse(head.as_bytes(), 64).expect("sound");
        assert_eq!((request.host(), request.target()), ("a.test:81", "/chat?x=1"));
        let head = SOUND.replace("GET /chat?x=1", "GET HTTPS://a.test");
        let request = Request::parse(head.as_bytes(), 64).expect("sound");
        assert_eq!((request.host(), request.target()), ("a.test", "/"));
    }

    #[test]
    fn what_stands_twice_or_brings_a_body_is_refused() {
        for extra in [
            "Host: b",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            "Content-Length: 0",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            " folded: line",
        ] {
            let head = SOUND.replace("Origin:", &format!("{extra}\r\nOrigin:"));
            assert_eq!(error(&head).status(), 400, "{extra}");
        }
    }

    #[test]
    fn headers_up_to_the_limit() {
        let head = |count: usize| {
            let fill = "X: y\r\n".repeat(count - 1);
            format!("GET / HTTP/1.1\r\nHost: a\r\n{fill}\r\n")
        };
        assert!(Request::parse(head(64).as_bytes(), 64).is_ok());
        assert_eq!(error(&head(65)), RequestError::TooManyHeaders);
        assert_eq!(error(&head(2_000)), RequestError::TooManyHeaders);
    }
}
