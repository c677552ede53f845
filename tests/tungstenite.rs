//! tungstenite as a client: an implementation by other authors that shares no code with wsd.

mod common;

use std::net::TcpStream;
use std::time::Duration;

use common::{PATIENCE, Running, calm};
use tungstenite::client::{ClientRequestBuilder, client};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::coding::{CloseCode as Code, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Error, HandshakeError, Message, WebSocket};
use wsd::apps::{Broadcast, Echo};
use wsd::{Admission, App, CloseCode, Context, Limits, Request};

type Socket = WebSocket<TcpStream>;

/// A connection of tungstenite's, and the subprotocol that was agreed on.
fn connect_with(
    server: &Running,
    path: &str,
    subprotocols: &[&str],
) -> Result<(Socket, Option<String>), Error> {
    let uri = format!("ws://{}{path}", server.address).parse().expect("a URI");
    let request = subprotocols
        .iter()
        .fold(ClientRequestBuilder::new(uri), |request, subprotocol| request.with_sub_protocol(*subprotocol));
    let stream = TcpStream::connect(server.address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.set_nodelay(true).expect("TCP");
    let (socket, response) = client(request, stream).map_err(|error| match error {
        HandshakeError::Failure(error) => error,
        HandshakeError::Interrupted(_) => panic!("no answer in time"),
    })?;
    let chosen = response.headers().get("sec-websocket-protocol");
    Ok((socket, chosen.map(|chosen| chosen.to_str().expect("ASCII").to_owned())))
}

fn connect(server: &Running, path: &str) -> Socket {
    connect_with(server, path, &[]).expect("a sound handshake").0
}

#[track_caller]
fn read(socket: &mut Socket) -> Message {
    socket.read().expect("a message")
}

/// Closes with this code, and expects the same back, and a proper end.
#[track_caller]
fn close(mut socket: Socket, code: Option<Code>) {
    let frame = code.map(|code| CloseFrame { code, reason: "bye".into() });
    socket.close(frame.clone()).expect("it is open");
    assert_eq!(read(&mut socket), Message::Close(frame));
    assert_ended(&mut socket);
}

#[track_caller]
fn assert_ended(socket: &mut Socket) {
    let end = socket.read().expect_err("the end");
    assert!(matches!(end, Error::ConnectionClosed), "{end}");
}

#[test]
fn text_and_binary_come_back_as_they_were() {
    let server = Running::echo(calm());
    let mut socket = connect(&server, "/");
    for size in [0, 1, 125, 126, 127, 1000, 65_535, 65_536, 100_000] {
        let text = Message::text("é".repeat(size / 2) + &"x".repeat(size % 2));
        socket.send(text.clone()).expect("sent");
        assert_eq!(read(&mut socket), text);
        let binary = Message::binary((0..size).map(|byte| byte as u8).collect::<Vec<_>>());
        socket.send(binary.clone()).expect("sent");
        assert_eq!(read(&mut socket), binary);
    }
    close(socket, None);
    assert_eq!(server.finish().closed_by_peer, 1);
}

#[test]
fn messages_as_large_as_the_limit_and_larger() {
    let server = Running::echo(Limits { max_message: 8 << 20, ..calm() });
    let mut socket = connect(&server, "/");
    let config = WebSocketConfig::default();
    assert!(config.max_message_size > Some(8 << 20), "tungstenite takes what we send");
    let large = Message::binary(vec![0x5A; 8 << 20]);
    socket.send(large.clone()).expect("sent");
    assert_eq!(read(&mut socket), large);
    // The server says so at the header; the rest may or may not be sent by then.
    let _ = socket.send(Message::binary(vec![0; (8 << 20) + 1]));
    match read(&mut socket) {
        Message::Close(Some(close)) => assert_eq!(close.code, Code::Size),
        other => panic!("{} bytes instead of a Close", other.len()),
    }
    drop(socket);
    assert_eq!(server.finish().closed_protocol, 1);
}

#[test]
fn fragments_with_a_ping_between_them() {
    let server = Running::echo(calm());
    let mut socket = connect(&server, "/");
    let euro = "€".as_bytes();
    let frame = |bytes: &[u8], opcode, last| Message::Frame(Frame::message(bytes.to_vec(), opcode, last));
    socket.send(frame(&euro[..1], OpCode::Data(Data::Text), false)).expect("sent");
    socket.send(frame(&euro[1..2], OpCode::Data(Data::Continue), false)).expect("sent");
    socket.send(Message::Ping("between".into())).expect("sent");
    socket.send(frame(&euro[2..], OpCode::Data(Data::Continue), true)).expect("sent");
    assert_eq!(read(&mut socket), Message::Pong("between".into()));
    assert_eq!(read(&mut socket), Message::text("€"));
    close(socket, Some(Code::Normal));
    server.finish();
}

#[test]
fn pings_go_both_ways() {
    let (ping_interval, pong_timeout) = (Duration::from_millis(150), Duration::from_secs(3));
    let server = Running::echo(Limits { ping_interval, pong_timeout, ..calm() });
    let mut socket = connect(&server, "/");
    for payload in [&b""[..], b"?", &[0xff; 125]] {
        socket.send(Message::Ping(payload.to_vec().into())).expect("sent");
        assert_eq!(read(&mut socket), Message::Pong(payload.to_vec().into()));
    }
    // The server's own; tungstenite answers by itself, also on a busy machine in time.
    for _ in 0..2 {
        assert_eq!(read(&mut socket), Message::Ping("".into()));
    }
    close(socket, Some(Code::Away));
    assert_eq!(server.finish().closed_silent, 0);
}

#[test]
fn close_codes_of_the_client() {
    let server = Running::echo(calm());
    for code in [1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4000, 4999] {
        close(connect(&server, "/"), Some(Code::from(code)));
    }
    close(connect(&server, "/"), None);
    assert_eq!(server.finish().closed_by_peer, 14);
}

/// Closes each connection with the code in its path, as soon as it is open.
struct Closer;

impl App for Closer {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        let code = cx.path().trim_start_matches('/').parse().ok().and_then(CloseCode::new);
        cx.send("hello");
        cx.close(code.expect("a code that may be sent"), "grüße");
    }
}

#[test]
fn close_codes_of_the_server() {
    let server = Running::app(1, calm(), || Closer);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4999] {
        let mut socket = connect(&server, &format!("/{code}"));
        assert_eq!(read(&mut socket), Message::text("hello"));
        let close = CloseFrame { code: Code::from(code), reason: "grüße".into() };
        assert_eq!(read(&mut socket), Message::Close(Some(close)));
        assert_ended(&mut socket);
    }
    let metrics = server.finish();
    assert_eq!((metrics.closed_by_server, metrics.closing_timed_out), (13, 0));
}

#[test]
fn a_broadcast_among_several() {
    let server = Running::app(2, calm(), Broadcast::by_path);
    let mut sockets: Vec<Socket> = (0..6).map(|_| connect(&server, "/rooms/x")).collect();
    sockets[0].send(Message::text("to all")).expect("sent");
    sockets[0].send(Message::binary(vec![0xff; 3000])).expect("sent");
    for socket in &mut sockets {
        assert_eq!(read(socket), Message::text("to all"));
        assert_eq!(read(socket), Message::binary(vec![0xff; 3000]));
    }
    sockets.into_iter().for_each(|socket| close(socket, Some(Code::Normal)));
    assert_eq!(server.finish().delivered, 12);
}

/// Speaks v2, or v1, or else nothing.
struct Negotiator;

impl App for Negotiator {
    fn on_request(&mut self, request: &Request<'_>) -> Admission {
        match request.path() {
            "/closed" => Admission::reject(403, "not here"),
            _ => Admission::negotiate(request, &["v2", "v1"]),
        }
    }
}

#[test]
fn subprotocols_and_rejections() {
    let server = Running::start(
        wsd::Server::builder()
            .threads(1)
            .limits(calm())
            .route("/", || Negotiator)
            .route("/closed", || Negotiator),
    );
    let (socket, chosen) = connect_with(&server, "/", &["v1", "v2"]).expect("a sound handshake");
    assert_eq!(chosen.as_deref(), Some("v2"));
    close(socket, Some(Code::Normal));
    // tungstenite, as section 4.1 allows, fails where it asked for a subprotocol and got none.
    assert!(connect_with(&server, "/", &["v9"]).is_err());
    for (path, status) in [("/closed", 403), ("/nowhere", 404)] {
        match connect_with(&server, path, &[]) {
            Err(Error::Http(response)) => assert_eq!(response.status(), status),
            other => panic!("{path}: {:?}", other.map(|(_, chosen)| chosen)),
        }
    }
    server.finish();
}

/// One connection's messages all come back, however many are under way at once.
#[test]
fn many_messages_under_way() {
    let server = Running::app(1, Limits { queue_hard: 16 << 20, ..calm() }, Echo::default);
    let mut socket = connect(&server, "/");
    for round in 0..20 {
        for number in 0..100 {
            socket.write(Message::text(format!("{round}.{number}"))).expect("taken");
        }
        socket.flush().expect("sent");
        for number in 0..100 {
            assert_eq!(read(&mut socket), Message::text(format!("{round}.{number}")));
        }
    }
    close(socket, Some(Code::Normal));
    assert_eq!(server.finish().delivered, 2_000);
}
