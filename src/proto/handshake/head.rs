//! Where a request head ends. Keeps one scan position, so that a head sent byte by byte costs linear time
//! (tungstenite's CVE-2023-43669 was the quadratic version), and refuses what cannot become a head at its
//! first wrong byte instead of waiting for a deadline.

use super::request::RequestError;
use crate::proto::Status;

/// Scans the bytes of one request head as they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
    /// How much of `\r\n\r\n` ends at `scanned`.
    matched: u8,
}

const END: [u8; 4] = *b"\r\n\r\n";

impl HeadScanner {
    /// Looks at what `head` has gained since the last call: the whole head so far must be passed each time.
    /// Complete gives the length of the head with its empty line; more bytes may follow.
    ///
    /// # Errors
    /// The head is longer than `head_bytes_max`, starts with what is no method, or has a line that ends
    /// without CR.
    pub fn scan(&mut self, head: &[u8], head_bytes_max: u32) -> Result<Status<usize>, RequestError> {
        // A TLS ClientHello or an SSH banner on this port: say so at once.
        if self.scanned == 0 && head.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
            return Err(RequestError::Malformed("not an HTTP request"));
        }
        let window = head.len().min(head_bytes_max as usize);
        while self.scanned < window {
            // Nearly all of a head are bytes between line ends, which mean nothing here.
            if self.matched == 0 {
                let rest = &head[self.scanned..window];
                self.scanned +=
                    rest.iter().position(|&byte| byte == b'\r' || byte == b'\n').unwrap_or(rest.len());
                if self.scanned == window {
                    break;
                }
            }
            let byte = head[self.scanned];
            // "a recipient MAY recognize a single LF as a line terminator" (RFC 9112 section 2.2): we do not,
            // because proxies that disagree about it let requests through.
            if byte == b'\n' && self.matched & 1 == 0 {
                return Err(RequestError::Malformed("line ends without CR"));
            }
            if self.matched & 1 == 1 && byte != b'\n' {
                return Err(RequestError::Malformed("CR inside a line"));
            }
            self.matched =
                if byte == END[self.matched as usize] { self.matched + 1 } else { u8::from(byte == b'\r') };
            self.scanned += 1;
            if self.matched == 4 {
                return Ok(Status::Complete(self.scanned));
            }
        }
        if head.len() >= head_bytes_max as usize {
            Err(RequestError::HeadTooLong)
        } else {
            Ok(Status::Partial)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";

    #[test]
    fn ends_at_the_empty_line_however_it_is_cut() {
        assert_eq!(HeadScanner::default().scan(HEAD, 100), Ok(Status::Complete(27)));
        let mut scanner = HeadScanner::default();
        for len in 0..27 {
            assert_eq!(scanner.scan(&HEAD[..len], 100), Ok(Status::Partial));
        }
        assert_eq!(scanner.scan(HEAD, 100), Ok(Status::Complete(27)));
    }

    #[test]
    fn the_limit_holds_at_the_byte() {
        assert_eq!(HeadScanner::default().scan(HEAD, 27), Ok(Status::Complete(27)));
        assert_eq!(HeadScanner::default().scan(HEAD, 26), Err(RequestError::HeadTooLong));
        assert_eq!(HeadScanner::default().scan(&[b'A'; 26], 26), Err(RequestError::HeadTooLong));
        assert_eq!(HeadScanner::default().scan(&[b'A'; 25], 26), Ok(Status::Partial));
    }

    #[test]
    fn refuses_what_cannot_become_a_head() {
        for bytes in
            [&b"\x16\x03\x01"[..], b"\r\n\r\n", b"get / HTTP/1.1", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\rX"]
        {
            assert!(
                matches!(HeadScanner::default().scan(bytes, 100), Err(RequestError::Malformed(_))),
                "{bytes:?}"
            );
        }
    }
}
