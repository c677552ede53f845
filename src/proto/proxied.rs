//! Who a client behind a proxy is: `X-Forwarded-For`, and the PROXY protocol.
//!
//! Both are the word of whoever is on the other end of the connection, so they are read only where that is a trusted
//! proxy; who is one, the caller knows.

use core::net::{IpAddr, SocketAddr};

use ppp::v2::ParseError;
use ppp::{PartialResult as _, v1, v2};

use super::Status;

/// Bytes that a PROXY header may have. Version 1 ends within 107; version 2 carries extensions that we do not read,
/// of which this is room for the usual ones.
pub const PROXY_HEADER_MAX: usize = 2048;

/// How version 1 begins, and the bytes that it may have.
const LINE_START: &[u8] = b"PROXY ";
const LINE_MAX: usize = 107;

/// What version 2 has in front of the addresses: it ends with their length.
const BLOCK_START_BYTES: usize = 16;

/// What comes first on a connection is no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidProxyHeader;

/// A PROXY header: its length, and the client that it names. A proxy that speaks for itself, to see whether the server
/// is well, names none.
pub type ProxyHeader = (usize, Option<IpAddr>);

/// Reads a PROXY protocol header, version 1 or 2, from the beginning of a connection.
///
/// # Errors
/// It is none, or longer than [`PROXY_HEADER_MAX`].
pub fn proxy_header(input: &[u8]) -> Result<Status<ProxyHeader>, InvalidProxyHeader> {
    let is_line = input.starts_with(LINE_START) || LINE_START.starts_with(input);
    if is_line { line(input) } else { block(input) }
}

/// Version 1. The parser takes a line that is cut in two for a wrong one: it gets whole lines.
fn line(input: &[u8]) -> Result<Status<ProxyHeader>, InvalidProxyHeader> {
    let window = &input[..input.len().min(LINE_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < LINE_MAX { Ok(Status::Partial) } else { Err(InvalidProxyHeader) };
    };
    let len = end + 2;
    let header = v1::Header::try_from(&input[..len]).map_err(|_| InvalidProxyHeader)?;
    let client = match header.addresses {
        v1::Addresses::Tcp4(tcp) => Some(IpAddr::V4(tcp.source_address)),
        v1::Addresses::Tcp6(tcp) => Some(IpAddr::V6(tcp.source_address).to_canonical()),
        v1::Addresses::Unknown => None,
    };
    Ok(Status::Complete((len, client)))
}

/// Version 2.
fn block(input: &[u8]) -> Result<Status<ProxyHeader>, InvalidProxyHeader> {
    let header = match v2::Header::try_from(input) {
        Ok(header) if header.len() <= PROXY_HEADER_MAX => header,
        // Refused when it says how long it is, and not when that much has come.
        Err(ParseError::Partial(_, rest)) if BLOCK_START_BYTES + rest > PROXY_HEADER_MAX => {
            return Err(InvalidProxyHeader);
        }
        Err(error) if error.is_incomplete() => return Ok(Status::Partial),
        _ => return Err(InvalidProxyHeader),
    };
    let client = match (header.command, &header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some(IpAddr::V4(ip.source_address)),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some(IpAddr::V6(ip.source_address).to_canonical()),
        _ => None,
    };
    Ok(Status::Complete((header.len(), client)))
}

/// The client of a request that came through trusted proxies: the last address in the `X-Forwarded-For` headers that
/// is not one of theirs. Each proxy adds whom it saw at the end; what stands before an address that nobody trusted
/// wrote may be anything. `None` where there is no such header, or it does not end with an address.
pub fn forwarded_for<'h>(
    headers: impl DoubleEndedIterator<Item = &'h str>,
    trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut nearest = None;
    for hop in headers.rev().flat_map(|value| value.rsplit(',')) {
        let Some(address) = hop_address(hop.trim()) else { break };
        nearest = Some(address);
        if !trusted(address) {
            break;
        }
    }
    nearest
}

/// An address, perhaps with a port, an IPv6 address perhaps in brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().or_else(|_| hop.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// A version 2 header of the TCP over IPv4 kind, with extensions of so many bytes.
    fn version_2(command: u8, extensions: usize) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([0x20 | command, 0x11]);
        bytes.extend(((12 + extensions) as u16).to_be_bytes());
        bytes.extend([192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x34, 0x1f, 0x90]);
        bytes.resize(28 + extensions, 0);
        bytes
    }

    #[test]
    fn both_versions_name_the_client_however_they_are_cut() {
        let v1 = b"PROXY TCP4 192.0.2.7 127.0.0.1 4660 8080\r\n".to_vec();
        let v6 = b"PROXY TCP6 2001:db8::7 ::1 4660 8080\r\n".to_vec();
        for (header, client) in [(v1, "192.0.2.7"), (v6, "2001:db8::7"), (version_2(1, 9), "192.0.2.7")] {
            for cut in 0..header.len() {
                assert_eq!(proxy_header(&header[..cut]), Ok(Status::Partial), "{cut} of {header:?}");
            }
            let mut input = header.clone();
            input.extend(b"GET / HTTP/1.1\r\n");
            assert_eq!(proxy_header(&input), Ok(Status::Complete((header.len(), Some(ip(client))))));
        }
    }

    /// As a proxy writes it whose listener takes both kinds.
    #[test]
    fn an_ipv4_address_is_one_however_it_is_written() {
        let line = b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4660 8080\r\n";
        assert_eq!(proxy_header(line), Ok(Status::Complete((line.len(), Some(ip("192.0.2.7"))))));
        let mut block = version_2(1, 24);
        block[13] = 0x21;
        block[16..32].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7]);
        assert_eq!(proxy_header(&block), Ok(Status::Complete((52, Some(ip("192.0.2.7"))))));
    }

    #[test]
    fn a_proxy_that_asks_for_itself_names_nobody() {
        let local = version_2(0, 0);
        assert_eq!(proxy_header(&local), Ok(Status::Complete((local.len(), None))));
        assert_eq!(proxy_header(b"PROXY UNKNOWN\r\n"), Ok(Status::Complete((15, None))));
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        for input in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 nonsense\r\n",
            b"PROXY\r",
            b"PROXY\rT",
            b"\x16\x03\x01\x02\x00\x01",
        ] {
            assert_eq!(proxy_header(input), Err(InvalidProxyHeader), "{input:?}");
        }
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        assert_eq!(proxy_header(&endless), Err(InvalidProxyHeader));
    }

    #[test]
    fn the_length_has_a_limit() {
        let whole = version_2(1, PROXY_HEADER_MAX - 28);
        assert!(matches!(proxy_header(&whole), Ok(Status::Complete((PROXY_HEADER_MAX, Some(_))))));
        let long = version_2(1, PROXY_HEADER_MAX - 27);
        assert_eq!(proxy_header(&long), Err(InvalidProxyHeader));
        assert_eq!(proxy_header(&long[..16]), Err(InvalidProxyHeader), "it says so at once");
        assert_eq!(proxy_header(&long[..15]), Ok(Status::Partial));
    }

    #[test]
    fn the_last_address_that_no_trusted_proxy_has() {
        let trusted = |address: IpAddr| address == ip("10.0.0.1") || address == ip("10.0.0.2");
        for (headers, client) in [
            (&["192.0.2.7"][..], Some("192.0.2.7")),
            (&["6.6.6.6, 192.0.2.7, 10.0.0.1"], Some("192.0.2.7")),
            (&["6.6.6.6", "192.0.2.7", "10.0.0.1,10.0.0.2"], Some("192.0.2.7")),
            (&["10.0.0.1"], Some("10.0.0.1")),
            (&["unknown, 10.0.0.2"], Some("10.0.0.2")),
            (&["192.0.2.7:4660"], Some("192.0.2.7")),
            (&["[2001:db8::7]:4660"], Some("2001:db8::7")),
            (&["[2001:db8::7]"], Some("2001:db8::7")),
            (&["::ffff:192.0.2.7"], Some("192.0.2.7")),
            (&["unknown"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(forwarded_for(headers.iter().copied(), trusted), client.map(ip), "{headers:?}");
        }
    }
}
