//! Every request of `tests/corpus/handshakes.txt` over real sockets: each gets the answer that stands there, and only
//! that one. Then web pages that may connect and that may not; and what SECURITY.md says about tests.

#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use common::program::{Program, wsd};
use common::{Client, KEY, PATIENCE, Running, calm, close, request_with};
use wsd::apps::Echo;
use wsd::{Deflate, Limits, Origins, Page, Server};

const CORPUS: &str = include_str!("corpus/handshakes.txt");

/// Comes behind a request, and must not be answered.
const SECOND: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A line of the corpus.
struct Variant {
    name: &'static str,
    answer: u16,
    /// What Node's parser makes of it; `tests/clients/node-parser.test.mjs` holds the column.
    node: &'static str,
    bytes: Vec<u8>,
}

fn variants() -> Vec<Variant> {
    let lines = CORPUS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, rest) = line.split_once(' ').expect("a name");
            let (answer, rest) = rest.trim_start().split_once(' ').expect("an answer");
            // One space: the request may begin with more.
            let (node, request) = rest.split_once(' ').expect("what Node says, and a request");
            Variant { name, answer: answer.parse().expect("a status"), node, bytes: unescape(request) }
        })
        .collect()
}

/// Escapes and braces, as the head of the corpus explains them.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (taken, made) = match letter {
            '{' => {
                let end = rest.find('}').expect("a closing brace");
                (end + 1, expand(&rest[1..end]))
            }
            '\\' if rest.starts_with("\\x") => {
                (4, vec![u8::from_str_radix(&rest[2..4], 16).expect("two hex digits")])
            }
            '\\' => match &rest[1..2] {
                "r" => (2, b"\r".to_vec()),
                "n" => (2, b"\n".to_vec()),
                "t" => (2, b"\t".to_vec()),
                "0" => (2, b"\0".to_vec()),
                "\\" => (2, b"\\".to_vec()),
                other => panic!("no such escape: \\{other}"),
            },
            ascii if ascii.is_ascii() => (1, vec![ascii as u8]),
            other => panic!("write {other:?} as its bytes"),
        };
        bytes.extend(made);
        rest = &rest[taken..];
    }
    bytes
}

fn expand(inside: &str) -> Vec<u8> {
    if let Some((count, text)) = inside.split_once('*') {
        return unescape(text).repeat(count.parse().expect("a count"));
    }
    let line = |letter| match letter {
        'H' => "Host: localhost\r\n".to_owned(),
        'U' => "Upgrade: websocket\r\n".to_owned(),
        'C' => "Connection: Upgrade\r\n".to_owned(),
        'K' => format!("Sec-WebSocket-Key: {KEY}\r\n"),
        'V' => "Sec-WebSocket-Version: 13\r\n".to_owned(),
        other => panic!("no such line: {other}"),
    };
    inside.chars().map(line).collect::<String>().into_bytes()
}

/// What came back, from the first byte to the end of the stream.
struct Answer {
    status: u16,
    head: String,
    rest: Vec<u8>,
}

/// Sends a request in pieces of so many bytes, and reads until the server ends the stream. Says goodbye where it
/// became a WebSocket.
fn ask(address: SocketAddr, bytes: &[u8], piece: usize) -> Result<Answer, String> {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).expect("TCP");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    for piece in bytes.chunks(piece) {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut held = Vec::new();
    let mut buffer = [0; 4096];
    let mut said_goodbye = false;
    loop {
        let is_upgrade = held.starts_with(b"HTTP/1.1 101 ") && held.windows(4).any(|it| it == b"\r\n\r\n");
        if is_upgrade && !said_goodbye {
            let _ = stream.write_all(&close(1000, b""));
            said_goodbye = true;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => held.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => {
                return Err(format!("no end ({error}) after {:?}", String::from_utf8_lossy(&held)));
            }
        }
    }
    let end = held.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else { return Err(format!("no answer: {:?}", String::from_utf8_lossy(&held))) };
    let rest = held.split_off(end + 4);
    let head = String::from_utf8(held).map_err(|_| "an answer that is no text".to_owned())?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok());
    Ok(Answer { status: status.ok_or_else(|| format!("no status: {head}"))?, head, rest })
}

impl Answer {
    /// Whether it is the answer to this variant, whole and alone.
    fn check(&self, variant: &Variant) -> Result<(), String> {
        let Self { status, head, rest } = self;
        if *status != variant.answer {
            let body = String::from_utf8_lossy(rest);
            return Err(format!("{status} instead of {}, {:?}", variant.answer, body.trim_end()));
        }
        if *status == 101 {
            return check_frames(rest);
        }
        let has = |line: &str| head.contains(&format!("\r\n{line}\r\n"));
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        // "The server MUST NOT send content in the response" to HEAD (RFC 9110 section 9.3.2).
        let body_len =
            if variant.bytes.starts_with(b"HEAD ") { Some(0) } else { length.and_then(|it| it.parse().ok()) };
        if body_len != Some(rest.len()) {
            return Err(format!(
                "{body_len:?} bytes expected behind {head}{:?}",
                String::from_utf8_lossy(rest)
            ));
        }
        let wanted = match status {
            405 => "Allow: GET",
            426 => "Sec-WebSocket-Version: 13",
            _ => "Connection: close",
        };
        if has("Connection: close") && has(wanted) { Ok(()) } else { Err(format!("no `{wanted}`: {head}")) }
    }
}

/// Behind a 101 come frames and nothing else, and a Close at the end.
fn check_frames(mut bytes: &[u8]) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {:?}", String::from_utf8_lossy(bytes)));
    let mut last = 0;
    while let &[first, second, ..] = bytes {
        if !matches!(first, 0x81 | 0x82 | 0x88 | 0x8A)
            || second > 125
            || bytes.len() < 2 + usize::from(second)
        {
            return wrong("not a frame that was expected");
        }
        last = first;
        bytes = &bytes[2 + usize::from(second)..];
    }
    if last == 0x88 && bytes.is_empty() { Ok(()) } else { wrong("no Close at the end") }
}

/// Sends every variant that `chosen` says in one write and in pieces, alone and with another request behind it; gives
/// how often the answer was a 101.
#[track_caller]
fn assert_answers(server: &Running, followed: bool, chosen: impl Fn(&Variant) -> bool) -> u64 {
    let (mut wrong, mut upgrades) = (Vec::new(), 0);
    'variants: for variant in variants().iter().filter(|variant| chosen(variant)) {
        let alone = variant.bytes.clone();
        let both = [&alone, SECOND].concat();
        for (bytes, how) in [(&alone, "alone"), (&both, "with a request behind it")] {
            if bytes == &both && !followed {
                continue;
            }
            // One byte each, but not thousands of them.
            for piece in [bytes.len(), bytes.len().div_ceil(1000)] {
                let outcome = ask(server.address, bytes, piece).and_then(|answer| answer.check(variant));
                if let Err(what) = outcome {
                    wrong.push(format!("{}, {how}, in pieces of {piece}: {what}", variant.name));
                    continue 'variants;
                }
                upgrades += u64::from(variant.answer == 101);
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    upgrades
}

fn corpus_server(limits: Limits, deflate: Option<Deflate>) -> Running {
    let mut builder =
        Server::builder().threads(1).limits(limits).page(Page::html("/", "<p>hi")).app(Echo::default);
    if let Some(deflate) = deflate {
        builder = builder.deflate(deflate);
    }
    Running::start(builder)
}

#[test]
fn h7_every_variant_has_its_answer_and_no_second_one() {
    // Whether compression is on makes no difference to who is upgraded.
    for deflate in [None, Some(Deflate::default())] {
        let server = corpus_server(calm(), deflate);
        let upgrades = assert_answers(&server, true, |variant| variant.answer != 408);
        assert_eq!(server.finish().opened, upgrades);
    }
}

#[test]
fn h7_what_never_ends_is_no_request() {
    let server = corpus_server(Limits { handshake_timeout: Duration::from_millis(300), ..calm() }, None);
    assert_answers(&server, false, |variant| variant.answer == 408);
    assert_eq!(server.finish().opened, 0);
}

/// Two parsers that share nothing with each other: whoever is upgraded is understood by at least one of them. Node's
/// answers are the corpus's column, which `tests/clients/node-parser.test.mjs` compares with Node.
#[test]
fn h7_nothing_is_upgraded_that_both_httparse_and_node_reject() {
    let rejected_by_httparse = |bytes: &[u8]| {
        let mut headers = [httparse::EMPTY_HEADER; 2048];
        !matches!(httparse::Request::new(&mut headers).parse(bytes), Ok(httparse::Status::Complete(_)))
    };
    let (mut by_both, mut by_node) = (0, Vec::new());
    for variant in variants() {
        let by_httparse = rejected_by_httparse(&variant.bytes);
        by_both += usize::from(by_httparse && variant.node == "rejects");
        assert!(
            variant.answer != 101 || !by_httparse || variant.node != "rejects",
            "{} is upgraded, and neither parser understands it",
            variant.name
        );
        if variant.answer == 101 && variant.node == "rejects" {
            by_node.push(variant.name);
        }
    }
    assert!(by_both > 50, "{by_both} variants are rejected by both: too few to mean anything");
    assert_eq!(by_node, [""; 0], "more than is promised: Node rejects none of those that are upgraded");
}

#[test]
fn the_corpus_is_large_and_well_formed() {
    let variants = variants();
    assert!(variants.len() >= 200, "{}", variants.len());
    let names: BTreeSet<_> = variants.iter().map(|variant| variant.name).collect();
    assert_eq!(names.len(), variants.len(), "a name stands twice");
    for variant in &variants {
        assert!(
            ["upgrade", "request", "rejects"].contains(&variant.node),
            "{}: {}",
            variant.name,
            variant.node
        );
    }
    let upgrades = variants.iter().filter(|variant| variant.answer == 101).count();
    assert!((50..variants.len() - 100).contains(&upgrades), "{upgrades} of {} are upgraded", variants.len());
    assert_eq!(unescape(r"a\r\n\\\x7f{2*b\t}"), b"a\r\n\\\x7fb\tb\t");
}

// --- origins ---

/// The status for a page from `origin` that connects to `host`.
#[track_caller]
fn status(address: SocketAddr, host: &str, origin: &str) -> u16 {
    let mut client = Client::connect(address);
    let head = request_with("/echo", &format!("Origin: {origin}\r\n"));
    client.send(head.replacen("Host: localhost", &format!("Host: {host}"), 1));
    let head = client.read_head();
    if head.starts_with("HTTP/1.1 101 ") {
        client.close();
        return 101;
    }
    let rest = client.read_to_end();
    assert_eq!(rest, b"pages from this origin may not connect\n", "{head}");
    head[9..12].parse().expect("a status")
}

/// Pages that no list has in it, however much they look like it.
const STRANGERS: [&str; 12] = [
    "https://evil.test",
    "http://app.test",
    "https://app.test:444",
    "https://app.test.evil.test",
    "https://evilapp.test",
    "https://sub.app.test",
    "https://test",
    "https://app.test@evil.test",
    "https://evil.test/https://app.test",
    "https://app.test, https://evil.test",
    "app.test",
    "NULL",
];

#[test]
fn h6_a_list_of_origins_is_all_that_may_connect_but_the_host_itself() {
    let list = ["--allow-origin", "https://app.test", "--allow-origin", "http://a.test:8000"];
    let program = Program::serve(&[&["--threads", "1"], &list[..]].concat());
    let status = |host, origin| status(program.addresses()[0], host, origin);
    for origin in [
        "https://app.test",
        "https://app.test:443",
        "HTTPS://APP.TEST",
        "http://a.test:8000",
        "http://ws.test",
        "https://ws.test",
    ] {
        assert_eq!(status("ws.test", origin), 101, "{origin}");
    }
    // With a list, nothing is taken for development.
    for origin in
        STRANGERS.iter().chain(&["null", "http://localhost", "http://127.0.0.1:3000", "http://a.test"])
    {
        assert_eq!(status("ws.test", origin), 403, "{origin}");
    }
    assert_eq!(status("ws.test:8080", "http://ws.test"), 403, "another port of the host");
}

#[test]
fn h6_any_origin_may_connect_where_that_was_asked_for() {
    let program = Program::serve(&["--threads", "1", "--allow-origin", "*"]);
    for origin in STRANGERS.iter().chain(&["null", "", "http://localhost", "file://"]) {
        assert_eq!(status(program.addresses()[0], "ws.test", origin), 101, "{origin}");
    }
    let only_null = Running::start(
        Server::builder()
            .threads(1)
            .limits(calm())
            .origins(Origins::List(vec!["null".into()]))
            .app(Echo::default),
    );
    assert_eq!(status(only_null.address, "ws.test", "null"), 101);
    assert_eq!(status(only_null.address, "ws.test", "http://localhost"), 403);
    assert_eq!(only_null.finish().handshakes_foreign_origin, 1);
}

/// An address of this machine that others could reach, if there is one. Nothing is sent.
fn outer_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// The same listener on all addresses: what is for development is so on loopback alone.
#[test]
fn h6_pages_from_localhost_are_for_connections_on_loopback() {
    let program = Program::start(wsd(&["--listen", "0.0.0.0:0", "--threads", "1"]));
    let port = program.addresses()[0].port();
    let inner = SocketAddr::from(([127, 0, 0, 1], port));
    for origin in ["http://localhost:5500", "http://127.0.0.1", "http://[::1]:3000", "null", "http://ws.test"]
    {
        assert_eq!(status(inner, "ws.test", origin), 101, "{origin}");
    }
    for origin in STRANGERS {
        assert_eq!(status(inner, "ws.test", origin), 403, "{origin}");
    }
    let Some(ip) = outer_address() else { return };
    let outer = SocketAddr::from((ip, port));
    assert_eq!(status(outer, "ws.test", "http://ws.test"), 101);
    for origin in
        STRANGERS.iter().chain(&["http://localhost:5500", "http://127.0.0.1", "http://[::1]", "null"])
    {
        assert_eq!(status(outer, "ws.test", origin), 403, "{origin}");
    }
}

// --- SECURITY.md ---

/// Every row of the table has tests, and there is each of them.
#[test]
fn security_md_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let mut classes = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let class = row.trim_start_matches("| ").split(' ').next().unwrap_or_default();
        let tests: Vec<_> = row.split('`').filter_map(|code| code.split_once("::")).collect();
        for &(file, name) in &tests {
            let source =
                std::fs::read_to_string(root.join(file)).unwrap_or_else(|_| panic!("no file {file}"));
            assert!(source.contains(&format!("fn {name}(")), "{file} has no test {name}");
        }
        if class.starts_with(['H', 'F', 'R']) && class[1..].parse::<u8>().is_ok() {
            assert!(!tests.is_empty() || row.contains("not applicable"), "no test for {class}");
            classes.insert(class.to_owned());
        }
    }
    let wanted =
        (1..=8).map(|number| format!("H{number}")).chain((1..=10).map(|number| format!("F{number}")));
    let numbers = [1, 2, 3, 4, 7, 8, 9, 11, 12, 14, 16];
    let wanted = wanted.chain(numbers.map(|number| format!("R{number}")));
    assert_eq!(classes, wanted.collect());
}
