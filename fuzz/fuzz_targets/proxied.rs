//! The input: what a proxy that is trusted sends first, or a value of `X-Forwarded-For`. The PROXY header must be found
//! or refused at the first byte that decides, as by a plain reading of its specification; and nobody can write
//! themselves another address in front of the one that a proxy has seen.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use wsd::proto::Status;
use wsd::proto::proxied::{InvalidProxyHeader, PROXY_HEADER_MAX, forwarded_for, proxy_header};

/// Room for the specification's longest line.
const LINE_MAX: usize = 107;

fuzz_target!(|input: &[u8]| {
    check_header(input);
    if let Ok(value) = std::str::from_utf8(input) {
        check_forwarded(value);
    }
});

fn check_header(input: &[u8]) {
    let whole = proxy_header(input);
    match (plain(input), whole) {
        (Reading::Sound(len, client), Ok(Status::Complete(found))) => {
            assert!(len <= PROXY_HEADER_MAX);
            assert_eq!(found, (len, client));
        }
        (Reading::Short, Ok(Status::Partial)) => assert!(input.len() < PROXY_HEADER_MAX),
        (Reading::Wrong | Reading::Odd, Err(InvalidProxyHeader)) => {}
        (Reading::Odd, Ok(Status::Complete((_, None)))) => {}
        (plain, found) => panic!("{input:02x?}: {plain:?}, but {found:?}"),
    }
    // It is waited for until something decides, and then that stays.
    let decides = (0..input.len()).find(|cut| proxy_header(&input[..*cut]) != Ok(Status::Partial));
    if let Some(cut) = decides {
        assert_eq!(proxy_header(&input[..cut]), whole, "{input:02x?}: decided after {cut}");
        assert_eq!(proxy_header(&input[..(cut + input.len()) / 2]), whole);
        assert_eq!(proxy_header(&[input, &[0; 64]].concat()), whole);
    }
}

#[derive(Debug)]
enum Reading {
    Sound(usize, Option<IpAddr>),
    Short,
    Wrong,
    /// A line of a protocol that is not known, which may be taken or not.
    Odd,
}

/// Version 2 is judged when its fixed part is there, version 1 with its line.
fn plain(input: &[u8]) -> Reading {
    const LINE: &[u8] = b"PROXY ";
    const BLOCK: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let begins = |start: &[u8]| input.iter().zip(start).all(|(a, b)| a == b);
    match (begins(LINE), begins(BLOCK)) {
        (true, _) => {
            let window = &input[..input.len().min(LINE_MAX)];
            match window.windows(2).position(|pair| pair == b"\r\n") {
                Some(at) => line(&input[..at]),
                None if window.len() < LINE_MAX => Reading::Short,
                None => Reading::Wrong,
            }
        }
        (_, true) => block(input),
        _ => Reading::Wrong,
    }
}

/// Section 2.1.
fn line(line: &[u8]) -> Reading {
    let len = line.len() + 2;
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    match words[..] {
        [_, b"UNKNOWN"] => Reading::Sound(len, None),
        [_, b"UNKNOWN", ..] => Reading::Odd,
        [_, family, source, destination, from, to] if is_port(from) && is_port(to) => {
            let source = match family {
                b"TCP4" => address::<Ipv4Addr>(source).zip(address::<Ipv4Addr>(destination)),
                b"TCP6" => address::<Ipv6Addr>(source).zip(address::<Ipv6Addr>(destination)),
                _ => None,
            };
            source.map_or(Reading::Wrong, |(source, _)| Reading::Sound(len, Some(source)))
        }
        _ => Reading::Wrong,
    }
}

fn address<A: FromStr + Into<IpAddr>>(text: &[u8]) -> Option<IpAddr> {
    let address: A = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.into().to_canonical())
}

fn is_port(text: &[u8]) -> bool {
    let port = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u16>().ok());
    port.is_some() && (text == b"0" || text[0] != b'0')
}

/// Section 2.2.
fn block(input: &[u8]) -> Reading {
    let Some((&[version, family, high, low], rest)) = input.get(12..).and_then(|it| it.split_first_chunk())
    else {
        return Reading::Short;
    };
    let length = usize::from(high) << 8 | usize::from(low);
    let addresses = match family >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Reading::Wrong,
    };
    if !matches!(version, 0x20 | 0x21) || family & 15 > 2 || length < addresses {
        return Reading::Wrong;
    }
    if 16 + length > PROXY_HEADER_MAX {
        return Reading::Wrong;
    }
    if rest.len() < length {
        return Reading::Short;
    }
    let client = match family >> 4 {
        1 => rest.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        2 => rest.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes).to_canonical()),
        _ => None,
    };
    Reading::Sound(16 + length, client.filter(|_| version == 0x21))
}

/// The proxies are those of 10.0.0.0/8.
fn is_trusted(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
}

fn check_forwarded(value: &str) {
    let client = |value: &str| forwarded_for([value].into_iter(), is_trusted);
    let found = client(value);
    // "as if combined into one, separated by comma" (RFC 9110 section 5.3).
    assert_eq!(forwarded_for(value.split(','), is_trusted), found);
    match found {
        Some(address) => {
            assert_eq!(address, address.to_canonical());
            assert_eq!(client(&format!("{value}, 10.1.2.3")), found, "another proxy of ours changes nothing");
        }
        None => assert_eq!(client(&format!("{value}, 10.1.2.3")), client("10.1.2.3")),
    }
    assert_eq!(client(&format!("{value}, 192.0.2.7")), client("192.0.2.7"), "whom the last proxy has seen");
    if found.is_some_and(|address| !is_trusted(address)) {
        assert_eq!(client(&format!("6.6.6.6, {value}")), found, "what stands in front may be anything");
    }
}
