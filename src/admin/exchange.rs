//! One request and one answer, within a deadline: whoever is slow, or sends too much, costs a thread for that long
//! and no more.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{View, pages};
use crate::proto::Status;
use crate::proto::handshake::{HeadScanner, Request, RequestError, Response};

/// From accept to the end of the request head, however it trickles in.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// For the whole answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// For the peer to see our end of the stream.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// Input that is thrown away meanwhile.
const LINGER_BYTES: usize = 64 * 1024;

/// For the request, and for the answer, of a connection that there is no place for.
const TURN_AWAY_TIME: Duration = Duration::from_millis(50);

const HEAD_BYTES_MAX: u32 = 8 * 1024;
const HEADERS_MAX: usize = 64;

/// A connection to the admin listener.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp {
        stream: TcpStream,
        /// Whether only this machine can connect to the listener.
        loopback: bool,
    },
    Unix(UnixStream),
}

/// Reads a request, answers it, and closes.
pub(super) fn serve(mut stream: Stream, view: &View) {
    let response = match read_head(&mut stream) {
        Ok(head) => answer(&head, stream.is_loopback(), view),
        Err(Unread::Refused(error)) => refusal(error),
        Err(Unread::Late) => Response::text(408, "no request in time\n"),
        Err(Unread::Gone) => return,
    };
    let _ = finish(&mut stream, &response, ANSWER_TIME);
}

/// There are too many connections.
pub(super) fn turn_away(mut stream: Stream) {
    let mut out = Vec::new();
    Response::text(503, "too many connections to the admin listener\n").encode(&mut out);
    // On the accepting thread: who waits behind this one would be turned away, too. What is unread when a socket is
    // closed would take the answer back, so the request is read, if it comes soon.
    let _ = stream.set_timeouts(TURN_AWAY_TIME);
    let _ = stream.read(&mut [0; HEAD_BYTES_MAX as usize]);
    let _ = stream.write_all(&out);
    let _ = stream.shutdown_write();
}

fn answer(head: &[u8], loopback: bool, view: &View) -> Response {
    let request = match Request::parse(head, HEADERS_MAX) {
        Ok(request) => request,
        Err(error) => return refusal(error),
    };
    // A web page whose name was made to point to this machine (DNS rebinding) names itself here.
    if loopback && !is_this_machine(request.host()) {
        return Response::text(403, "ask for localhost, 127.0.0.1 or [::1]\n");
    }
    pages::respond(&request, view)
}

fn refusal(error: RequestError) -> Response {
    Response::text(error.status(), format!("{error}\n"))
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || literal.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Why there is no request.
#[derive(Debug)]
enum Unread {
    Refused(RequestError),
    Late,
    Gone,
}

fn read_head(stream: &mut Stream) -> Result<Vec<u8>, Unread> {
    let until = Instant::now() + HEAD_TIME;
    let mut head = Vec::new();
    let mut scanner = HeadScanner::default();
    let mut buffer = [0; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Unread::Late);
        }
        stream.set_timeouts(left).map_err(|_| Unread::Gone)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(Unread::Gone),
            Ok(len) => head.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => return Err(Unread::Late),
            Err(_) => return Err(Unread::Gone),
        }
        if let Status::Complete(len) = scanner.scan(&head, HEAD_BYTES_MAX).map_err(Unread::Refused)? {
            head.truncate(len);
            return Ok(head);
        }
    }
}

/// Sends the answer and our end of the stream, and waits a little for the peer's, because closing a socket with
/// unread input would take the answer back.
fn finish(stream: &mut Stream, response: &Response, time: Duration) -> io::Result<()> {
    let until = Instant::now() + time;
    let mut out = Vec::new();
    response.encode(&mut out);
    let mut rest = out.as_slice();
    while !rest.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_timeouts(left)?;
        match stream.write(rest) {
            Ok(taken) => rest = &rest[taken..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.shutdown_write()?;
    let until = Instant::now() + LINGER_TIME;
    let mut thrown_away = 0;
    while thrown_away < LINGER_BYTES {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_timeouts(left)?;
        match stream.read(&mut [0; 4096])? {
            0 => break,
            len => thrown_away += len,
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Stream {
    fn is_loopback(&self) -> bool {
        matches!(self, Self::Tcp { loopback: true, .. })
    }

    fn set_timeouts(&self, time: Duration) -> io::Result<()> {
        // Zero would mean forever.
        let time = Some(time.max(Duration::from_millis(1)));
        match self {
            Self::Tcp { stream, .. } => stream.set_read_timeout(time).and(stream.set_write_timeout(time)),
            Self::Unix(stream) => stream.set_read_timeout(time).and(stream.set_write_timeout(time)),
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp { stream, .. } => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp { stream, .. } => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp { stream, .. } => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for host in ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.9.9.9:1", "[::1]:9090", "[::1]"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com:9090", "10.0.0.1:9090", "[2001:db8::1]:9090"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
