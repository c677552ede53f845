//! The first byte of the input says where the stream is cut, the rest is what a client sends first. The head must be
//! found or refused independently of the cuts, and what is taken for a handshake must be one by a second reading.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wsd::conn::Conn;
use wsd::id::Millis;
use wsd::proto::Status;
use wsd::proto::handshake::RequestError;
use wsd::proto::handshake::request::Upgrade;
use wsd::{Limits, Request};

const HEAD_BYTES_MAX: u32 = 512;

fuzz_target!(|input: &[u8]| {
    let Some((&step, stream)) = input.split_first() else { return };
    let whole = find(stream, stream.len().max(1));
    assert_eq!(find(stream, usize::from(step) + 1), whole);
    assert_eq!(find(stream, 1), whole);
    let Ok(Some(len)) = whole else { return };
    assert!(len <= HEAD_BYTES_MAX as usize);
    let head = &stream[..len];
    assert_eq!(head.windows(4).position(|it| it == b"\r\n\r\n"), Some(len - 4), "the first empty line");
    if let Ok(request) = Request::parse(head, 16) {
        check(head, &request);
    }
});

/// The length of the head, if the stream has one.
fn find(stream: &[u8], step: usize) -> Result<Option<usize>, RequestError> {
    let limits = Limits { max_head: HEAD_BYTES_MAX, ..Limits::default() };
    let mut conn = Conn::new(Millis(0), &limits, 0);
    let mut before = 0;
    for part in stream.chunks(step) {
        if let Status::Complete((head, used)) = conn.receive_head(part, &limits)? {
            assert_eq!(&*head, &stream[..before + used]);
            return Ok(Some(before + used));
        }
        before += part.len();
    }
    Ok(None)
}

/// A second reading, line by line, of what was taken for sound.
fn check(head: &[u8], request: &Request<'_>) {
    // One letter for each byte: the values that are no text are none of ours.
    let text: String = head.iter().map(|&byte| char::from(byte)).collect();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let start = lines.next().expect("there is always one");
    let target =
        start.strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")).expect("the one form");
    // What names a host stands for its path (RFC 9112 section 3.2.2).
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        _ => target,
    };
    assert_eq!(path, request.target());
    assert!(request.path().starts_with('/'));
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| {
            let (name, value) = line.split_once(':').expect("a header has a colon");
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
            assert!(!value.contains(['\r', '\n', '\0']), "{value:?}");
            let bytes = value.chars().map(|letter| letter as u8).collect();
            let value = String::from_utf8(bytes).ok();
            let ours =
                ["host", "upgrade", "connection", "content-length", "transfer-encoding", "origin", "expect"];
            let name = name.to_ascii_lowercase();
            assert!(
                value.is_some() || !ours.contains(&name.as_str()) && !name.starts_with("sec-websocket-"),
                "{name}"
            );
            Some((name, value?.trim_matches([' ', '\t']).to_owned()))
        })
        .collect();
    assert!(headers.len() <= 16);
    let all = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    };
    for (name, _) in &headers {
        assert_eq!(request.headers(name).collect::<Vec<_>>(), all(name));
    }
    assert_eq!(all("host").len(), 1);
    assert!(all("transfer-encoding").is_empty());
    assert!(all("content-length").iter().all(|length| *length == "0"));
    let Upgrade::WebSocket { key } = request.upgrade() else { return };
    let says = |name: &str, token: &str| {
        all(name).iter().any(|list| list.split(',').any(|it| it.trim().eq_ignore_ascii_case(token)))
    };
    assert!(says("upgrade", "websocket") && says("connection", "upgrade"));
    assert_eq!((all("sec-websocket-version"), all("sec-websocket-key")), (vec!["13"], vec![key]));
    assert!(key.len() == 24 && key.ends_with("=="));
    assert!(all("content-length").is_empty());
}
