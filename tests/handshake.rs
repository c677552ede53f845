//! Opening handshakes that are none, that are too long, that come too slowly, or that hide a second request.

mod common;

use std::time::{Duration, Instant};

use common::{
    Client, FIN, KEY, PATIENCE, Running, TEXT, calm, close, frame, ping, request, request_with, text,
};
use wsd::{Admission, App, Context, Limits, Message, Page, Request, Server};

/// The `nth` line of a sound handshake, replaced.
fn with(from: &str, to: &str) -> String {
    let sound = request("/");
    assert!(sound.contains(from), "{from}");
    sound.replacen(from, to, 1)
}

fn with_header(line: &str) -> String {
    request_with("/", &format!("{line}\r\n"))
}

/// Sends `bytes` in one write and byte by byte, and expects the same refusal; gives the heads of the answers.
#[track_caller]
fn assert_refused(server: &Running, bytes: impl AsRef<[u8]>, status: u16) -> Vec<String> {
    let bytes = bytes.as_ref();
    let pieces = [bytes.len(), 1];
    pieces
        .into_iter()
        .map(|piece| {
            let mut client = server.connect();
            client.send_in_pieces(bytes, piece);
            client.assert_status(status)
        })
        .collect()
}

#[test]
fn a_wrong_method_is_told_the_right_one() {
    let server = Running::echo(calm());
    for method in ["POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT", "BREW"] {
        for head in assert_refused(&server, with("GET", method), 405) {
            assert!(head.contains("\r\nAllow: GET\r\n"), "{head}");
        }
    }
    assert_eq!(server.finish().handshakes_refused, 16);
}

#[test]
fn other_versions_of_http_are_not_spoken() {
    let server = Running::echo(calm());
    for version in ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0"] {
        assert_refused(&server, with("HTTP/1.1", version), 505);
    }
    assert_refused(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    // HTTP/0.9, which had no version.
    assert_refused(&server, with(" HTTP/1.1", ""), 400);
    assert_refused(&server, with("HTTP/1.1", "http/1.1"), 400);
    server.finish();
}

#[test]
fn other_versions_of_the_protocol_are_told_the_right_one() {
    let server = Running::echo(calm());
    for version in ["8", "0", "14", "013", "13, 8", "", "x"] {
        let head = with("Sec-WebSocket-Version: 13", &format!("Sec-WebSocket-Version: {version}"));
        for head in assert_refused(&server, head, 426) {
            assert!(head.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{head}");
        }
    }
    server.finish();
}

#[test]
fn headers_that_are_missing_doubled_or_wrong() {
    let server = Running::echo(calm());
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let heads = [
        with("Host: localhost\r\n", ""),
        with_header("Host: localhost"),
        with("Connection: Upgrade\r\n", ""),
        with("Connection: Upgrade\r\n", "Connection: keep-alive\r\n"),
        with("Sec-WebSocket-Version: 13\r\n", ""),
        with_header("Sec-WebSocket-Version: 13"),
        with_header("Sec-WebSocket-Version: 8"),
        with(&key, ""),
        with_header(key.trim_end()),
        with(KEY, ""),
        with(KEY, "dGhlIHNhbXBsZSBub25j"),
        with(KEY, "dGhlIHNhbXBsZSBub25jZQ"),
        with(KEY, "dGhlIHNhbXBsZSBub25jZQ=A"),
        with(KEY, "dGhlIHNhbXBsZSBub25jZTE="),
        with(KEY, "!!!!!!!!!!!!!!!!!!!!!!=="),
        with(KEY, &KEY.repeat(2)),
    ];
    for head in heads {
        assert_refused(&server, head, 400);
    }
    server.finish();
}

/// Smuggling through the upgrade (Pingora's CVE-2026-2833, aiohttp's CVE-2026-69243): whatever two readers could
/// take for two different requests is none.
#[test]
fn h7_what_two_readers_could_read_in_two_ways_is_refused() {
    let server = Running::echo(calm());
    let heads = [
        with_header("Content-Length: 0"),
        with_header("Content-Length: 5") + "hello",
        with_header("Content-Length: 5\r\nContent-Length: 6") + "hello",
        with_header("Transfer-Encoding: chunked") + "0\r\n\r\n",
        with_header("Transfer-Encoding: chunked\r\nContent-Length: 5") + "0\r\n\r\n",
        with_header("Transfer-Encoding: identity"),
        // obs-fold
        with_header("X: a\r\n b"),
        with_header("X: a\r\n\tb"),
        // A line that ends with LF alone, or a CR that ends none.
        with("Host: localhost\r\n", "Host: localhost\n"),
        with("HTTP/1.1\r\n", "HTTP/1.1\n"),
        with_header("X: a\rb"),
        request("/").replace("\r\n", "\n"),
        // Space before the colon, and names that are none.
        with("Host:", "Host :"),
        with_header("X : a"),
        with_header(" X: a"),
        with_header(": a"),
        with_header("X"),
        with_header("X\0: a"),
        with_header("X: a\0b"),
        with_header("X: a\x7fb"),
        // Targets for proxies.
        with("GET / ", "GET * "),
        with("GET / ", "GET localhost:80 "),
        with("GET / ", "GET  / "),
        with("GET / ", "GET "),
        with("GET / ", " GET / "),
        with("GET ", "get "),
        format!("\r\n\r\n{}", request("/")),
    ];
    for head in heads {
        assert_refused(&server, head, 400);
    }
    server.finish();
}

/// What came behind a request that was answered with anything but 101 is no request.
#[test]
fn h7_a_second_request_behind_the_first_is_not_answered() {
    let builder = Server::builder().threads(1).limits(calm()).page(Page::html("/", "<p>hi"));
    let server = Running::start(builder.route("/ws", wsd::apps::Echo::default));
    let health = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    for (first, status) in [
        (health.to_owned(), 200),
        (health.replace("/healthz", "/"), 200),
        (health.replace("/healthz", "/nowhere"), 404),
        (request("/nowhere"), 404),
        (health.replace("GET", "POST"), 405),
    ] {
        let both = format!("{first}{health}");
        for piece in [both.len(), first.len(), 1] {
            let mut client = server.connect();
            client.send_in_pieces(both.as_bytes(), piece);
            client.assert_status(status);
        }
    }
    let metrics = server.finish();
    assert_eq!((metrics.http_requests, metrics.handshakes_no_route), (9, 3));
    assert_eq!((metrics.handshakes_refused, metrics.opened), (3, 0));
}

/// Behind a 101 there are frames and nothing else.
#[test]
fn h7_a_request_behind_the_handshake_is_a_bad_frame() {
    let server = Running::echo(calm());
    for piece in [1 << 16, 1] {
        let mut client = server.connect();
        client.send_in_pieces((request("/") + "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), piece);
        client.assert_upgraded();
        client.assert_fails_with(1002);
    }
    server.finish();
}

#[test]
fn h7_frames_right_behind_the_handshake_are_heard() {
    let server = Running::echo(calm());
    let mut bytes = request("/").into_bytes();
    bytes.extend([text("one"), ping(b"?"), text("two"), close(1000, b"")].concat());
    for piece in [bytes.len(), 7, 1] {
        let mut client = server.connect();
        client.send_in_pieces(&bytes, piece);
        client.assert_upgraded();
        client.assert_text("one");
        client.assert_pong(b"?");
        client.assert_text("two");
        client.assert_close(1000);
        client.assert_eof();
    }
    assert_eq!(server.finish().closed_by_peer, 3);
}

#[test]
fn what_is_not_http_is_refused_at_its_first_byte() {
    let server = Running::echo(calm());
    let client_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for bytes in [&client_hello[..], b"\x80\x2e\x01\x03\x01", b"\0", b"\x81\x85\x37\xfa\x21\x3d"] {
        assert_refused(&server, bytes, 400);
        assert_refused(&server, &bytes[..1], 400);
    }
    server.finish();
}

/// A header line that makes a head of `len` bytes.
fn head_of(len: usize) -> String {
    let fill = len - with_header("X: ").len();
    with_header(&format!("X: {}", "y".repeat(fill)))
}

/// A head with `count` headers.
fn head_with(count: usize) -> String {
    request_with("/", &"X: y\r\n".repeat(count - 5))
}

/// tungstenite's CVE-2023-43669: a long head that comes byte by byte was parsed from its start each time.
#[test]
fn h1_a_long_head_fed_byte_by_byte() {
    let server = Running::echo(calm());
    for (len, status) in [(8 * 1024, 101), (8 * 1024 + 1, 431), (100 * 1024, 431)] {
        let head = head_of(len);
        assert_eq!(head.len(), len);
        for piece in [len, 1] {
            let mut client = server.connect();
            client.send_in_pieces(head.as_bytes(), piece);
            if status == 101 {
                client.assert_upgraded();
                client.close();
            } else {
                client.assert_status(status);
            }
        }
    }
    server.finish();
}

/// As above, with a head so long that anything but one scan would not end in time.
#[test]
fn h1_the_cost_of_a_head_in_pieces_is_linear() {
    let server = Running::echo(Limits { max_head: 2 << 20, ..calm() });
    let mut client = server.connect();
    let start = Instant::now();
    client.send_in_pieces(head_of(1 << 20).as_bytes(), 64);
    client.assert_upgraded();
    assert!(start.elapsed() < PATIENCE, "16,384 pieces took {:?}", start.elapsed());
    client.close();
    server.finish();
}

/// ws's CVE-2024-37890: a server that crashed at more headers than it had room for.
#[test]
fn h2_very_many_headers() {
    let server = Running::echo(calm());
    let mut client = server.connect();
    client.send(head_with(64));
    client.assert_upgraded();
    client.close();
    for count in [65, 129, 2_000] {
        assert_refused(&server, head_with(count), 431);
    }
    let mut client = server.connect();
    client.send_to_whom_it_may_concern(head_with(100_000).as_bytes());
    client.assert_status(431);
    server.finish();
}

/// As above, where the head is short enough for the count to be what is wrong.
#[test]
fn h2_the_count_is_a_limit_of_its_own() {
    let server = Running::echo(Limits { max_head: 1 << 20, max_headers: 128, ..calm() });
    let mut client = server.connect();
    client.send(head_with(128));
    client.assert_upgraded();
    client.close();
    for count in [129, 2_000, 100_000] {
        let mut client = server.connect();
        client.send(head_with(count));
        client.assert_status(431);
    }
    server.finish();
}

/// Answers with the first subprotocol that it knows, after looking at all of them.
struct Negotiator;

impl App for Negotiator {
    fn on_request(&mut self, request: &Request<'_>) -> Admission {
        Admission::negotiate(request, &["v3", "v2"])
    }
}

/// ws's CVE-2021-32640 and CVE-2020-7662: values of headers that took quadratic time to read.
#[test]
fn h3_values_of_headers_are_read_in_linear_time() {
    let long = Limits { max_head: 2 << 20, ..calm() };
    for (limits, bytes) in [(calm(), 7 * 1024), (long, 1 << 20)] {
        let server = Running::app(1, limits, || Negotiator);
        for unit in
            [" ", "\t", ",", ", ", "a,", "a, ", "\"", "\\\"", ";", "a;b=\"c\",", "=", "upgrade ", "\u{e9}"]
        {
            let value = unit.repeat(bytes / unit.len());
            for head in [
                with("Connection: Upgrade", &format!("Connection: {value},Upgrade")),
                with("Upgrade: websocket", &format!("Upgrade: {value},websocket")),
                with_header(&format!("Sec-WebSocket-Protocol: {value}, v2")),
                with_header(&format!("Sec-WebSocket-Extensions: {value}")),
            ] {
                let mut client = server.connect();
                client.send(head);
                // In time, or it panics: in quadratic time a mebibyte takes hours.
                let answer = client.read_head();
                assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
            }
        }
        assert_eq!(server.finish().app_panics, 0);
    }
}

/// Reads until the server gives up, and says after what time.
fn time_until_408(server: &Running, mut client: Client, mut trickle: impl Iterator<Item = u8>) -> Duration {
    let start = Instant::now();
    // The pace of the trickle, and the chance to see the answer, in one.
    while client.is_silent_for(Duration::from_millis(20)) {
        assert!(start.elapsed() < PATIENCE, "{:?}", server.metrics());
        if let Some(byte) = trickle.next() {
            client.send_to_whom_it_may_concern(&[byte]);
        }
    }
    let waited = start.elapsed();
    client.assert_status(408);
    waited
}

/// Slowloris: the time for a handshake is absolute.
#[test]
fn h4_bytes_that_trickle_in_do_not_extend_the_handshake() {
    let timeout = Duration::from_millis(400);
    let server = Running::echo(Limits { handshake_timeout: timeout, ..calm() });
    let endless = || std::iter::once(b'G').chain(std::iter::repeat(b'E'));
    let silent = time_until_408(&server, server.connect(), std::iter::empty());
    let trickling = time_until_408(&server, server.connect(), endless());
    for waited in [silent, trickling] {
        // The clock of the server may be a millisecond apart from ours.
        assert!(waited + Duration::from_millis(5) >= timeout, "too early: {waited:?}");
    }
    assert_eq!(server.finish().handshakes_timed_out, 2);
}

#[test]
fn h4_half_open_connections_do_not_disturb_the_others() {
    let timeout = Duration::from_millis(1500);
    let server = Running::echo(Limits { handshake_timeout: timeout, ..calm() });
    let start = Instant::now();
    let half: Vec<Client> = (0..500)
        .map(|index| {
            let mut client = server.connect();
            client.send_to_whom_it_may_concern(&request("/").as_bytes()[..index % 100]);
            client
        })
        .collect();
    let mut legitimate = server.open("/");
    let then = server.metrics();
    // Unless the machine took longer than they have.
    if start.elapsed() < timeout {
        assert_eq!((then.connections, then.handshakes_timed_out), (501, 0), "all are still there");
    }
    legitimate.send(text("hello"));
    legitimate.assert_text("hello");
    legitimate.close();
    server.wait("all half-open connections are given up", |metrics| metrics.handshakes_timed_out == 500);
    drop(half);
    assert_eq!(server.finish().opened, 1);
}

/// Answers with a subprotocol that the path names, offered or not.
struct Careless;

impl App for Careless {
    fn on_request(&mut self, request: &Request<'_>) -> Admission {
        match request.path() {
            "/split" => Admission::accept_with("v1\r\nSet-Cookie: owned=1"),
            "/unasked" => Admission::accept_with("v9"),
            "/list" => Admission::accept_with("v1, v2"),
            "/reject" => Admission::reject(401, "no\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
            _ => Admission::accept_with("v2"),
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, _: Message<'_>) {
        cx.send(cx.subprotocol().unwrap_or("none"));
    }
}

/// Response splitting: only what the client offered, and the app chose, is echoed.
#[test]
fn h8_only_an_offered_subprotocol_is_echoed() {
    let server = Running::app(1, calm(), || Careless);
    let offers = "Sec-WebSocket-Protocol: v1, v2\r\n";
    for (path, headers, chosen) in [
        ("/", offers, Some("v2")),
        ("/", "Sec-WebSocket-Protocol: v1\r\nSec-WebSocket-Protocol: v2\r\n", Some("v2")),
        ("/", "", None),
        ("/", "Sec-WebSocket-Protocol: V2, v22\r\n", None),
        ("/unasked", offers, None),
        ("/list", offers, None),
        ("/split", offers, None),
        ("/split", "", None),
    ] {
        let mut client = server.connect();
        client.send(request_with(path, headers));
        let head = client.assert_upgraded();
        let echoed = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
        assert_eq!(echoed, chosen, "{path} {headers}");
        assert_eq!(head.lines().count(), if chosen.is_some() { 6 } else { 5 }, "{head}");
        client.send(frame(FIN | TEXT, b"?"));
        client.assert_text(chosen.unwrap_or("none"));
        client.close();
    }
    let mut client = server.connect();
    client.send(request("/reject"));
    client.assert_status(401);
    assert_eq!(server.finish().handshakes_rejected, 1);
}
