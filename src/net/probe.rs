//! Asks a server over plain HTTP how it is: the client of `/healthz` and `/readyz`, for machines without curl.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::listener::resolve;

/// More than the head of any answer that tells a state.
const ANSWER_BYTES_MAX: usize = 4096;

/// The status with which `host` (`HOST:PORT`, or a host on port 80) answers a GET of `path`. An address on which a
/// server listens will do: `0.0.0.0` and `[::]` are asked on loopback.
///
/// # Errors
/// No connection, or no HTTP answer, within `timeout`.
pub fn status(host: &str, path: &str, timeout: Duration) -> io::Result<u16> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect(host, deadline)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    parse_status(&answer).ok_or_else(|| io::Error::other("the answer is not HTTP"))
}

fn connect(host: &str, deadline: Instant) -> io::Result<TcpStream> {
    // A name without a port, or an IPv6 address in brackets without one.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let addresses = if has_port { resolve(host) } else { resolve(&format!("{host}:80")) };
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for address in addresses? {
        match TcpStream::connect_timeout(&to_loopback(address), left(deadline)?) {
            Ok(stream) => {
                stream.set_write_timeout(Some(left(deadline)?))?;
                return Ok(stream);
            }
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

fn to_loopback(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The status of `HTTP/1.1 200 OK` (RFC 9112 section 4).
fn parse_status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let status = rest.get(1..5)?.strip_prefix(b" ")?;
    let status = status.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(status).ok())??;
    status.parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(parse_status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.0 503 \r\n"), Some(503));
        for answer in
            [&b""[..], b"HTTP/1.1", b"HTTP/1.1 20", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 999 ", b"SSH-2.0-x\r\n"]
        {
            assert_eq!(parse_status(answer), None);
        }
    }

    #[test]
    fn where_a_server_listens_is_where_it_is_asked() {
        for (listens, asked) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.0.0.1:80", "10.0.0.1:80")]
        {
            let address: SocketAddr = listens.parse().expect("an address");
            assert_eq!(to_loopback(address).to_string(), asked);
        }
    }
}
