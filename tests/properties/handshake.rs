//! The opening handshake, and the payload of the closing one.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::sample::{Index, select};
use proptest::{prop_assert, prop_assert_eq, proptest};
use wsd::conn::Conn;
use wsd::id::Millis;
use wsd::proto::close::REASON_BYTES_MAX;
use wsd::proto::deflate::negotiate;
use wsd::proto::handshake::request::Upgrade;
use wsd::proto::handshake::{
    ClientRequest, HeadScanner, RequestError, Response, accept_key, encode_accept, parse_response,
};
use wsd::proto::{Close, CloseCode, Status};
use wsd::{Deflate, Limits, Request};

use super::{any_cuts, any_mutations, cases, mutated, pieces};

/// FIPS 180-4, section 6.1.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if message.len() % 64 >= 56 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len() - 8;
    padded[end..].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());

    let mut state: [u32; 5] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
    for block in padded.chunks(64) {
        let mut w = [0u32; 80];
        for (word, bytes) in w.iter_mut().zip(block.chunks(4)) {
            *word = u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        }
        for t in 16..80 {
            w[t] = (w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (t, word) in w.iter().enumerate() {
            let (f, k) = match t / 20 {
                0 => ((b & c) ^ (!b & d), 0x5a827999),
                1 => (b ^ c ^ d, 0x6ed9eba1),
                2 => ((b & c) ^ (b & d) ^ (c & d), 0x8f1bbcdc),
                _ => (b ^ c ^ d, 0xca62c1d6),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (sum, add) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(add);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let value =
            group.iter().enumerate().fold(0u32, |sum, (at, byte)| sum | u32::from(*byte) << (16 - 8 * at));
        for place in 0..4 {
            let six = value >> (18 - 6 * place) & 0x3f;
            out.push(if place <= group.len() { char::from(ALPHABET[six as usize]) } else { '=' });
        }
    }
    out
}

fn any_head() -> impl Strategy<Value = Vec<u8>> {
    const LINES: [&str; 16] = [
        "Host: example.com",
        "Host: other",
        "Upgrade: websocket",
        "Upgrade: h2c, WebSocket",
        "Connection: keep-alive, Upgrade",
        "Connection: close",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Version: 8",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Key: short",
        "Sec-WebSocket-Protocol: chat, superchat",
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "X-Empty:",
        "X-Latin: caf\u{e9}",
        " folded: line",
    ];
    let start =
        select(vec!["GET /chat?x=1 HTTP/1.1", "GET / HTTP/1.0", "POST / HTTP/1.1", "GET http://a/ HTTP/1.1"]);
    // Half of them sound, so that what follows is reached.
    let sound = [LINES[0], LINES[2], LINES[4], LINES[6], LINES[8]].map(str::to_owned).to_vec();
    (start, any::<bool>(), vec(select(LINES.to_vec()), 0..8), vec(any::<u8>(), 0..9), any_mutations())
        .prop_map(move |(start, is_sound, extra, after, mutations)| {
            let mut lines = if is_sound { sound.clone() } else { vec![] };
            lines.extend(extra.into_iter().map(str::to_owned));
            let mut head = format!("{start}\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes();
            head.extend(after);
            mutated(head, &mutations)
        })
}

/// The head that a connection finds, and how many bytes of the stream it used up.
fn find_head(parts: &[&[u8]], limits: &Limits) -> Result<Option<(Vec<u8>, usize)>, RequestError> {
    let mut conn = Conn::new(Millis(0), limits, 0);
    let mut before = 0;
    for part in parts {
        if let Status::Complete((head, used)) = conn.receive_head(part, limits)? {
            assert!(used <= part.len());
            return Ok(Some((Cow::into_owned(head), before + used)));
        }
        before += part.len();
    }
    Ok(None)
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_head_is_found_or_refused_whatever_the_cuts(stream in any_head(), cuts in any_cuts(), max_head in 20..400u32) {
        let limits = Limits { max_head, ..Limits::default() };
        let whole = find_head(&[&stream], &limits);
        prop_assert_eq!(&find_head(&pieces(&stream, &cuts), &limits), &whole);
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&find_head(&single, &limits), &whole);
        if let Ok(Some((head, used))) = whole {
            prop_assert_eq!(&stream[..used], &head);
            prop_assert!(head.len() <= max_head as usize && head.ends_with(b"\r\n\r\n"));
            prop_assert_eq!(head.windows(4).position(|it| it == b"\r\n\r\n"), Some(head.len() - 4), "the first end");
        }
    }

    #[test]
    fn what_is_taken_for_a_handshake_is_one(stream in any_head()) {
        let Ok(Status::Complete(len)) = HeadScanner::default().scan(&stream, 8_192) else { return Ok(()) };
        let request = match Request::parse(&stream[..len], 64) {
            Ok(request) => request,
            Err(error) => {
                prop_assert!(matches!(error.status(), 400 | 405 | 426 | 431 | 505) && !error.to_string().is_empty());
                return Ok(());
            }
        };
        prop_assert!(stream.starts_with(b"GET ") && request.path().starts_with('/'));
        prop_assert_eq!(request.headers("host").count(), 1);
        prop_assert!(request.header("transfer-encoding").is_none());
        let after_path = request.query().map_or(String::new(), |query| format!("?{query}"));
        prop_assert!(request.target().ends_with(&after_path));
        if let Upgrade::WebSocket { key } = request.upgrade() {
            prop_assert_eq!(key.len(), 24);
            prop_assert!(key.ends_with("=="));
            for (name, token) in [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")] {
                let value = request.headers(name).collect::<Vec<_>>().join(",").to_ascii_lowercase();
                prop_assert!(value.split(',').any(|it| it.trim() == token), "{}: {}", name, value);
            }
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in vec(any::<u8>(), 0..200), headers_max in 0..200usize) {
        prop_assert!(Request::parse(&bytes, headers_max).is_err(), "noise is no request");
        let mut scanner = HeadScanner::default();
        let _ = scanner.scan(&bytes, 100);
    }

    #[test]
    fn our_own_ends_understand_each_other(
        nonce in any::<[u8; 16]>(), target in "/[!$-;=?-~]{0,30}", offered in vec("[a-z.]{1,9}", 0..4), chosen in any::<Index>(),
        after in vec(any::<u8>(), 0..9), compressed in any::<bool>(), cuts in any_cuts(),
    ) {
        let deflate = compressed.then(Deflate::default);
        let key = ClientRequest::key(nonce);
        let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
        let asks = ClientRequest {
            host: "example.com",
            target: &target,
            key: &key,
            origin: None,
            subprotocols: &offered,
            deflate: deflate.as_ref(),
            headers: &[],
        };
        let mut head = Vec::new();
        asks.encode(&mut head);
        prop_assert_eq!(find_head(&pieces(&head, &cuts), &Limits::default()), Ok(Some((head.clone(), head.len()))));
        let request = Request::parse(&head, 64).expect("our own");
        prop_assert_eq!((request.upgrade(), request.target()), (Upgrade::WebSocket { key: &key }, target.as_str()));
        prop_assert_eq!(request.subprotocols().collect::<Vec<_>>(), offered.clone());

        let subprotocol = (!offered.is_empty()).then(|| *chosen.get(&offered));
        let agreed = negotiate(request.headers("sec-websocket-extensions"), &Deflate::default());
        prop_assert_eq!(agreed.is_some(), compressed);
        let mut answer = Vec::new();
        encode_accept(&mut answer, &key, subprotocol, agreed.as_ref().map(|(_, answer)| answer.as_str()));
        let head_len = answer.len();
        for cut in 0..head_len {
            prop_assert_eq!(asks.parse_response(&answer[..cut]), Ok(Status::Partial));
        }
        answer.extend(after);
        let Ok(Status::Complete(upgraded)) = asks.parse_response(&answer) else { panic!("our own answer") };
        prop_assert_eq!((upgraded.head_len, upgraded.subprotocol.as_deref()), (head_len, subprotocol));
        prop_assert_eq!(upgraded.deflate.is_some(), compressed);
    }

    #[test]
    fn any_answer_is_understood_or_refused(mutations in any_mutations(), noise in vec(any::<u8>(), 0..60)) {
        let key = ClientRequest::key([7; 16]);
        let mut answer = Vec::new();
        encode_accept(&mut answer, &key, Some("chat"), None);
        let nearly = mutated(answer.clone(), &mutations);
        for bytes in [nearly, noise] {
            match parse_response(&bytes, &key, &["chat"], None) {
                Ok(Status::Complete(upgraded)) => prop_assert!(upgraded.head_len <= bytes.len()),
                Ok(Status::Partial) => {}
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn a_plain_answer_says_how_long_it_is(status in 100..600u16, body in "\\PC{0,80}") {
        let mut out = Vec::new();
        Response::text(status, body.clone()).encode(&mut out);
        let text = String::from_utf8(out).expect("text");
        let (head, rest) = text.split_once("\r\n\r\n").expect("an empty line");
        prop_assert_eq!(rest, body.as_str());
        let line = format!("HTTP/1.1 {status} ");
        let length = format!("Content-Length: {}", body.len());
        prop_assert!(head.starts_with(&line) && head.lines().any(|line| line == length));
        prop_assert!(head.lines().any(|line| line == "Connection: close"));
    }

    #[test]
    fn the_accept_key_is_what_the_standards_say(key in vec(any::<u8>(), 0..200)) {
        let salted = [key.as_slice(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
        let accept = accept_key(&key);
        prop_assert_eq!(accept.to_vec(), base64(&sha1(&salted)).into_bytes());
    }

    #[test]
    fn a_close_comes_back(code in any::<u16>(), reason in "\\PC{0,80}") {
        let Some(sendable) = CloseCode::new(code) else {
            prop_assert!(Close::decode(&code.to_be_bytes()).is_err());
            return Ok(());
        };
        let close = Close::new(sendable, reason.clone());
        let payload = close.encode();
        let back = Close::decode(&payload).expect("our own").expect("not empty");
        prop_assert_eq!(back.code, sendable);
        prop_assert!(reason.starts_with(&*back.reason));
        let cut_short = reason.len() - back.reason.len();
        prop_assert!(cut_short == 0 || back.reason.len() > REASON_BYTES_MAX - 4, "cut at a character, not before");
    }

    #[test]
    fn any_close_payload_is_understood_or_refused(payload in vec(any::<u8>(), 0..=125), code in 990..1020u16) {
        for payload in [payload.clone(), [&code.to_be_bytes(), payload.as_slice()].concat()] {
            let sound = match payload.as_slice() {
                [] => true,
                [_] => false,
                [high, low, reason @ ..] => {
                    CloseCode::new(u16::from_be_bytes([*high, *low])).is_some() && std::str::from_utf8(reason).is_ok()
                }
            };
            match Close::decode(&payload) {
                Ok(None) => prop_assert!(payload.is_empty()),
                Ok(Some(close)) => {
                    prop_assert!(sound);
                    if payload.len() <= 125 {
                        prop_assert_eq!(&*close.encode(), payload.as_slice());
                    }
                }
                Err(_) => prop_assert!(!sound),
            }
        }
    }
}

#[test]
fn the_test_knows_sha1_and_base64() {
    assert_eq!(base64(&sha1(b"abc")), "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=");
    assert_eq!(base64(&sha1(&[b'a'; 119])), "7pcQZaqgF+BjKoymx3uzv4sd/FY=");
    assert_eq!(base64(b"a"), "YQ==");
}
