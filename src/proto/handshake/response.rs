//! The server's answers: the 101 of section 4.2.2, and everything that is not one.

use std::borrow::Cow;

use super::accept_key;

/// Appends the 101 to `out`. `subprotocol` must be one that the client offered (section 4.2.2, step 5.5), and
/// `extensions` an answer to what it offered.
pub fn encode_accept(out: &mut Vec<u8>, key: &str, subprotocol: Option<&str>, extensions: Option<&str>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept_key(key.as_bytes()));
    let optional: [(&[u8], _); 2] =
        [(b"\r\nSec-WebSocket-Protocol: ", subprotocol), (b"\r\nSec-WebSocket-Extensions: ", extensions)];
    for (name, value) in optional {
        if let Some(value) = value {
            out.extend_from_slice(name);
            out.extend_from_slice(value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// A plain HTTP answer. The connection is always closed after it, so that nothing behind it can be taken for
/// another request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Cow<'static, str>,
    /// Further header lines, each ended by CR LF.
    pub headers: Cow<'static, str>,
    /// The body.
    pub body: Cow<'static, [u8]>,
}

impl Response {
    /// A short text.
    pub fn text(status: u16, body: impl Into<Cow<'static, str>>) -> Self {
        let body = match body.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        let headers = match status {
            405 => "Allow: GET\r\n",
            // "the server MUST ... include a |Sec-WebSocket-Version| header field" (section 4.4)
            426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            503 => "Retry-After: 1\r\n",
            _ => "",
        };
        Self { status, content_type: "text/plain; charset=utf-8".into(), headers: headers.into(), body }
    }

    /// The same answer without its body: for HEAD.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.body = Cow::Borrowed(&[]);
        self
    }

    /// Appends the answer to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}X-Content-Type-Options: nosniff\r\n\
             Connection: close\r\n\r\n",
            self.status,
            reason_phrase(self.status),
            self.content_type,
            self.body.len(),
            self.headers,
        );
        out.reserve(head.len() + self.body.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&self.body);
    }
}

/// The phrase for the statuses that wsd itself gives; empty, as RFC 9112 allows, for those that an app makes up.
const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_101_of_section_1_2() {
        let mut out = Vec::new();
        encode_accept(&mut out, "dGhlIHNhbXBsZSBub25jZQ==", Some("chat"), None);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
        );
    }

    #[test]
    fn refusals_say_what_would_be_right() {
        let mut out = Vec::new();
        Response::text(426, "no").encode(&mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(text.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
        assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"));
        assert!(text.contains("\r\nContent-Length: 2\r\n"));
        assert!(text.contains("\r\nConnection: close\r\n"));
        assert!(text.ends_with("\r\n\r\nno"));
    }
}
