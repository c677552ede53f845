//! TLS, from outside: what is spoken, who gets which certificate, what hostile handshakes come to, and that everything
//! which holds without TLS holds with it.
#![cfg(feature = "tls")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::admin::{Scrape, get};
use common::tls::{Authority, Secure, client_side};
use common::{BINARY, CLOSE, Client, FIN, PATIENCE, Running, TEXT};
use common::{binary, calm, close, fragments, frame, ping, request, text};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, HandshakeKind, version};
use serde_json::Value;
use wsd::apps::{Broadcast, Echo};
use wsd::{AdminAddress, Builder, Limits, Metrics, QueueTotal, Server};

const CLOSE_NOTIFY_IN_THE_CLEAR: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];

fn server(limits: Limits) -> Builder {
    let builder = Server::builder().threads(1).limits(limits).route("/echo", Echo::default);
    builder.route("/room", || Broadcast::to_topic("room"))
}

fn echo() -> Secure {
    Secure::start(server(calm()))
}

/// What a client says first.
fn client_hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("sound settings");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("a vector takes all");
    hello
}

/// Every TLS handshake that was begun has come to one end.
fn ended(metrics: &Metrics) -> u64 {
    metrics.tls_handshakes + metrics.tls_failed + metrics.tls_timed_out
}

#[test]
fn messages_of_every_size_in_both_versions() {
    let secure = Secure::start(server(Limits { max_message: 4 << 20, ..calm() }));
    for (number, version) in [&version::TLS12, &version::TLS13].into_iter().enumerate() {
        let mut client = secure.connect_as(&secure.authority.client(&[version]), "localhost");
        client.handshake("/echo");
        assert_eq!(client.tls().protocol_version(), Some(version.version));
        assert_eq!(client.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
        for len in [0, 1, 125, 126, 16_383, 16_384, 16_385, 32_768, 65_535, 65_536, 100_000, 3_000_000] {
            let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            client.send(binary(&payload));
            client.assert_binary(&payload);
        }
        client.send(fragments(TEXT, &[b"in ", b"three ", b"records"]));
        client.assert_text("in three records");
        client.send([ping(b"here?"), text("and a message in the same record")].concat());
        client.assert_pong(b"here?");
        client.assert_text("and a message in the same record");
        client.close();
        secure.server.wait("the handshake is counted", |metrics| metrics.tls_handshakes == number as u64 + 1);
    }
    let metrics = secure.server.finish();
    assert_eq!((metrics.tls_failed, metrics.closed_by_peer), (0, 2));
}

#[test]
fn the_request_may_come_with_the_end_of_the_handshake_and_frames_behind_it() {
    let secure = echo();
    let mut client = secure.connect();
    // rustls sends all of it in one go, behind its Finished.
    client.send([request("/echo").into_bytes(), text("early"), text("bird")].concat());
    client.assert_upgraded();
    client.assert_text("early");
    client.assert_text("bird");
    client.close();
    secure.server.finish();
}

#[test]
fn pages_and_plain_connections_beside_it() {
    let secure = echo();
    let mut page = secure.connect();
    page.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    page.assert_status(200);
    let mut plain = secure.server.open("/room");
    let mut encrypted = secure.open("/room");
    let messages: Vec<String> = (0..300).map(|number| format!("{number:0999}")).collect();
    for (number, message) in messages.iter().enumerate() {
        if number % 2 == 0 { &mut plain } else { &mut encrypted }.send(text(message));
        plain.assert_text(message);
        encrypted.assert_text(message);
    }
    plain.close();
    encrypted.close();
    let metrics = secure.server.finish();
    assert_eq!((metrics.due, metrics.delivered, metrics.tls_handshakes), (600, 600, 2));
}

#[test]
fn keys_may_be_renewed_at_any_time() {
    let secure = echo();
    let mut client = secure.connect_as(&secure.authority.client(&[&version::TLS13]), "localhost");
    client.handshake("/echo");
    for round in 0..20 {
        client.tls().refresh_traffic_keys().expect("TLS 1.3");
        let message = format!("round {round}");
        client.send(text(&message));
        client.assert_text(&message);
    }
    client.close();
    secure.server.finish();
}

/// Each of these asks for an answer, and costs keys on both sides.
#[test]
fn keys_that_are_renewed_again_and_again_end_the_connection() {
    const IN_A_ROW: usize = 32;
    let secure = echo();
    for (count, goes_on) in [(IN_A_ROW, true), (IN_A_ROW + 1, false)] {
        let mut client = secure.connect_as(&secure.authority.client(&[&version::TLS13]), "localhost");
        client.handshake("/echo");
        for _ in 0..count {
            client.tls().refresh_traffic_keys().expect("TLS 1.3");
        }
        client.send_to_whom_it_may_concern(&text("still here?"));
        if goes_on {
            client.assert_text("still here?");
            client.close();
        } else {
            secure.server.wait("it is cut", |metrics| metrics.closed_lost == 1);
        }
    }
    assert_eq!(secure.server.finish().closed_by_peer, 1);
}

#[test]
fn who_speaks_nothing_that_is_spoken_here_hears_why() {
    let secure = echo();
    for (version, protocols, alert) in [
        (&version::TLS13, &["h2"][..], Some(AlertDescription::NoApplicationProtocol)),
        (&version::TLS12, &["h2"], Some(AlertDescription::NoApplicationProtocol)),
        (&version::TLS13, &["h2", "http/1.1"], None),
        (&version::TLS13, &[], None),
    ] {
        let mut config = ClientConfig::clone(&secure.authority.client(&[version]));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(secure.address()).expect("the server accepts");
        let mut tls = client_side(socket, &Arc::new(config), "localhost");
        let outcome = tls.write_all(request("/echo").as_bytes()).and_then(|()| tls.read_exact(&mut [0; 12]));
        let heard = outcome.err().map(|error| match error.downcast::<rustls::Error>() {
            Ok(rustls::Error::AlertReceived(alert)) => alert,
            other => panic!("{other:?} for {protocols:?}"),
        });
        assert_eq!(heard, alert, "for {protocols:?}");
    }
    let metrics = secure.server.finish();
    assert_eq!((metrics.tls_failed, metrics.tls_handshakes), (2, 2));
}

#[test]
fn sessions_are_taken_up_again() {
    let secure = echo();
    for version in [&version::TLS12, &version::TLS13] {
        let config = secure.authority.client(&[version]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut client = secure.connect_as(&config, "localhost");
            client.handshake("/echo");
            client.send(text("hi"));
            client.assert_text("hi");
            assert_eq!(client.tls().handshake_kind(), Some(kind), "{version:?}");
            client.close();
        }
    }
    let metrics = secure.server.finish();
    assert_eq!((metrics.tls_handshakes, metrics.tls_resumed), (6, 4));
}

// The end.

#[test]
fn the_end_of_the_stream_is_the_peers_word_and_a_cut_is_a_loss() {
    let secure = echo();
    // Ours is said too: without it, reading to the end is an error of rustls.
    secure.open("/echo").close();
    let mut said = secure.open("/echo");
    said.tls().send_close_notify();
    said.send("");
    said.flush();
    said.assert_eof();
    let cut = secure.open("/echo");
    cut.shutdown_write();
    secure.server.wait("both are lost", |metrics| metrics.closed_lost == 2);
    let reset = secure.open("/echo");
    reset.reset();
    secure.server.wait("and the third", |metrics| metrics.closed_lost == 3);
    drop((said, cut));
    secure.server.finish();
}

#[test]
fn a_server_that_stops_says_so_through_tls() {
    let mut secure = Secure::start(server(calm()));
    let mut client = secure.open("/echo");
    let half = TcpStream::connect(secure.address()).expect("the server accepts");
    secure.server.wait("both are there", |metrics| metrics.connections == 2);
    let reader = std::thread::spawn(move || {
        client.assert_close(1001);
        client.send(close(1001, b""));
        client.assert_eof();
    });
    let metrics = secure.server.stop();
    reader.join().expect("the Close came");
    assert_eq!((metrics.closed_by_server, metrics.tls_failed), (1, 1));
    drop(half);
}

#[test]
fn a_full_server_turns_away_with_an_alert() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost", &["localhost"]);
    let config = wsd::Config { max_conns: Some(1), threads: 1, limits: calm(), ..wsd::Config::default() };
    let builder = Server::builder().config(config).app(Echo::default);
    let server = Running::start(builder.tls("127.0.0.1:0", certificate, key));
    let first = server.open("/");
    let mut socket = TcpStream::connect(server.tls_addresses()[0]).expect("accepted by the kernel");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let mut heard = Vec::new();
    let _ = socket.read_to_end(&mut heard);
    assert_eq!(heard, [21, 3, 3, 0, 2, 2, 80]);
    first.close();
    assert_eq!(server.finish().refused_full, 1);
}

// H5: hostile handshakes.

#[test]
fn h5_a_client_hello_byte_by_byte() {
    let secure = echo();
    let config = secure.authority.client(&[&version::TLS13]);
    let socket = TcpStream::connect(secure.address()).expect("the server accepts");
    socket.set_nodelay(true).expect("TCP");
    let mut tls = client_side(socket, &config, "localhost");
    let mut hello = Vec::new();
    tls.conn.write_tls(&mut hello).expect("a vector takes all");
    for byte in &hello {
        tls.sock.write_all(&[*byte]).expect("the server reads");
    }
    tls.write_all(request("/echo").as_bytes()).expect("the server reads");
    let mut answer = [0; 12];
    tls.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    drop(tls);
    let metrics = secure.server.finish();
    assert!(metrics.turns < 2 * hello.len() as u64 + 100, "{} turns", metrics.turns);
}

#[test]
fn h5_a_client_hello_in_records_of_one_byte() {
    let secure = echo();
    let config = secure.authority.client(&[&version::TLS13]);
    let socket = TcpStream::connect(secure.address()).expect("the server accepts");
    let mut tls = client_side(socket, &config, "localhost");
    let mut hello = Vec::new();
    tls.conn.write_tls(&mut hello).expect("a vector takes all");
    // Records may be cut anywhere (RFC 8446 section 5.1).
    let records: Vec<u8> = hello[5..].iter().flat_map(|&byte| [22, 3, 1, 0, 1, byte]).collect();
    for cut in records.chunks(100) {
        tls.sock.write_all(cut).expect("the server reads");
    }
    tls.write_all(request("/echo").as_bytes()).expect("the server reads");
    let mut answer = [0; 12];
    tls.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    drop(tls);
    secure.server.finish();
}

/// Sends bytes and the end of the stream, and expects the connection to end, with or without an alert.
#[track_caller]
fn assert_refused(secure: &Secure, bytes: &[u8]) {
    let before = secure.server.metrics();
    let mut socket = TcpStream::connect(secure.address()).expect("the server accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let _ = socket.write_all(bytes);
    // rustls does not believe a close_notify that anybody could have sent, and goes on waiting.
    let _ = socket.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    if let Err(error) = socket.read_to_end(&mut heard) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "for {bytes:?}");
    }
    assert!(heard.is_empty() || heard[0] == 21 || heard.starts_with(&[22, 3, 3]), "{heard:?} for {bytes:?}");
    let after = secure.server.wait("it is over", |metrics| metrics.connections == 0);
    assert_eq!(after.tls_failed, before.tls_failed + 1, "for {bytes:?}");
    assert!(after.turns - before.turns < 200, "{} turns for {bytes:?}", after.turns - before.turns);
}

#[test]
fn h5_close_notify_within_the_handshake() {
    let secure = echo();
    let hello = client_hello(&secure.config);
    assert_refused(&secure, &CLOSE_NOTIFY_IN_THE_CLEAR);
    assert_refused(&secure, &[&hello[..], &CLOSE_NOTIFY_IN_THE_CLEAR].concat());
    assert_refused(&secure, &[&hello[..40], &CLOSE_NOTIFY_IN_THE_CLEAR].concat());
    let tls12 = client_hello(&secure.authority.client(&[&version::TLS12]));
    assert_refused(&secure, &[&tls12[..], &CLOSE_NOTIFY_IN_THE_CLEAR].concat());
    assert_eq!(ended(&secure.server.finish()), 4);
}

/// The worker of CVE-2024-32650 turned for ever when the close_notify came and the socket stayed open.
#[test]
fn h5_after_close_notify_the_worker_rests() {
    let secure = echo();
    let hello = client_hello(&secure.config);
    let mut sockets = Vec::new();
    for bytes in [&[][..], &hello, &hello[..100]] {
        let mut socket = TcpStream::connect(secure.address()).expect("the server accepts");
        socket.write_all(&[bytes, &CLOSE_NOTIFY_IN_THE_CLEAR].concat()).expect("the server reads");
        sockets.push(socket);
    }
    let before = secure.server.wait("they are there", |metrics| metrics.accepted == 3);
    secure.server.assert_stays("the worker waits", Duration::from_millis(200), |metrics| {
        metrics.turns <= before.turns + 20
    });
    drop(sockets);
    secure.server.finish();
}

#[test]
fn h5_garbage_and_records_too_long() {
    let secure = echo();
    let hello = client_hello(&secure.config);
    let oversized = [&[22, 3, 1, 0xFF, 0xFF][..], &[1; 40_000]].concat();
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0xFF, 0xFF, 0xFF][..], &[0; 16_380]].concat();
    for garbage in [
        &[0; 100][..],
        &[0xFF; 20_000],
        &[22, 3, 1, 0, 0],
        &[23, 3, 3, 0, 1, 0],
        &[20, 3, 3, 0, 1, 1],
        &[22, 3, 1, 0, 4, 2, 0, 0, 0],
        &[21, 3, 3, 0, 2, 2, 40],
        &oversized,
        &endless.repeat(6),
        &[&hello[..], &hello].concat(),
        &[&hello[..], &[23, 3, 3, 0, 20], &[7; 20]].concat(),
        &[22, 3, 1, 0, 1, 1].repeat(20_000),
        &[21, 3, 3, 0, 2, 1, 90].repeat(2_000),
    ] {
        assert_refused(&secure, garbage);
    }
    secure.open("/echo").close();
    let metrics = secure.server.finish();
    assert_eq!((metrics.tls_handshakes, ended(&metrics)), (1, metrics.accepted));
}

#[test]
fn h5_every_prefix_of_a_handshake_may_be_the_end() {
    let secure = echo();
    let hello = client_hello(&secure.config);
    for end in (0..hello.len()).step_by(7) {
        let mut socket = TcpStream::connect(secure.address()).expect("the server accepts");
        socket.write_all(&hello[..end]).expect("the server reads");
    }
    secure.open("/echo").close();
    let metrics = secure.server.finish();
    assert_eq!((metrics.tls_handshakes, ended(&metrics)), (1, metrics.accepted));
}

#[test]
fn h5_half_a_handshake_and_then_silence() {
    let timeout = Duration::from_millis(400);
    let secure = Secure::start(server(Limits { tls_timeout: timeout, ..calm() }));
    let hello = client_hello(&secure.config);
    // Nothing; a half; all of it, but no answer to the server's; and one that trickles in.
    for bytes in [&[][..], &hello[..hello.len() / 2], &hello] {
        let start = Instant::now();
        let mut socket = TcpStream::connect(secure.address()).expect("the server accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        socket.write_all(bytes).expect("the server reads");
        let _ = socket.read_to_end(&mut Vec::new());
        assert!(start.elapsed() + Duration::from_millis(5) >= timeout, "{:?}", start.elapsed());
    }
    let mut socket = TcpStream::connect(secure.address()).expect("the server accepts");
    let start = Instant::now();
    for byte in hello.iter().cycle() {
        if socket.write_all(&[*byte]).is_err() || secure.server.metrics().tls_timed_out == 4 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "bytes that trickle in extend the handshake");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(socket);
    let metrics = secure.server.finish();
    assert_eq!((metrics.tls_timed_out, metrics.tls_failed, metrics.handshakes_timed_out), (4, 0, 0));
}

#[test]
fn after_tls_the_time_for_the_request_begins() {
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..calm() };
    let secure = Secure::start(server(limits));
    let mut client = secure.connect();
    client.send("GET /echo HT");
    client.assert_status(408);
    let metrics = secure.server.finish();
    assert_eq!((metrics.handshakes_timed_out, metrics.tls_timed_out, metrics.tls_handshakes), (1, 0, 1));
}

#[test]
fn the_wrong_port_says_so() {
    let secure = echo();
    let mut plain = Client::connect(secure.address());
    plain.send(request("/echo"));
    plain.assert_status(400);
    let mut encrypted = secure.server.connect();
    encrypted.send(client_hello(&secure.config));
    encrypted.assert_status(400);
    let metrics = secure.server.finish();
    assert_eq!((metrics.tls_failed, metrics.handshakes_refused, metrics.opened), (1, 1, 0));
}

// Backpressure is the same with TLS.

/// What may wait behind a queue, encrypted, with what TLS adds.
const ENCRYPTED_AT_ONCE: u64 = 33 * 1024;

/// A message of 1 KiB.
fn numbered(number: usize) -> Vec<u8> {
    format!("{number:01024}").into_bytes()
}

fn small(secure: &Secure, path: &str) -> Client {
    let mut client = Client::over_tls(Client::small_socket(secure.address()), &secure.config, "localhost");
    client.handshake(path);
    client
}

#[test]
fn a_slow_reader_is_closed_with_1013_and_the_books_balance() {
    let secure = Secure::start(server(Limits { queue_hard: 64 * 1024, ..calm() }));
    let mut slow = small(&secure, "/room");
    let mut others: Vec<_> = (0..4).map(|_| secure.open("/room")).collect();
    let mut sent = 0;
    let start = Instant::now();
    while secure.server.metrics().closed_slow == 0 {
        assert!(start.elapsed() < PATIENCE, "{sent} KiB wait for somebody who does not read");
        (sent..sent + 8).for_each(|number| others[0].send(frame(FIN | TEXT, &numbered(number))));
        for other in &mut others {
            (sent..sent + 8).for_each(|number| assert_eq!(other.read_frame().payload, numbered(number)));
        }
        sent += 8;
        // What goes to the others is in the books for a moment.
        let most = 64 * 1024 + ENCRYPTED_AT_ONCE + 8 * 1030 + 100;
        assert!(secure.server.metrics().queued_bytes <= most, "the queue, two records, and a Close");
    }
    slow.widen();
    let mut got = 0;
    loop {
        let frame = slow.read_frame();
        if frame.opcode == CLOSE {
            assert_eq!(frame.payload.first_chunk(), Some(&1013u16.to_be_bytes()));
            break;
        }
        assert_eq!(frame.payload, numbered(got), "after {got} messages");
        got += 1;
    }
    assert!(got < sent, "{got} of {sent} were delivered to somebody slow");
    slow.send(close(1013, b""));
    slow.assert_eof();
    others.into_iter().for_each(Client::close);
    let metrics = secure.server.finish();
    assert_eq!((metrics.closed_slow, metrics.closed_by_peer), (1, 4));
    assert_eq!(metrics.delivered, 4 * sent as u64 + got as u64, "what the kernel took whole, it delivered");
    assert!(metrics.dropped_slow > 0);
}

/// The queues alone would not fill the budget: what is encrypted is not shared, and fills it.
#[test]
fn what_is_encrypted_counts_in_the_budget_and_its_slow_readers_are_shed() {
    const READERS: usize = 48;
    let limits = Limits { queue_soft: 0, queue_hard: 1 << 30, ..calm() };
    let secure = Secure::start(server(limits).queue_total(QueueTotal::Bytes(256 << 10)));
    let mut slow: Vec<_> = (0..READERS).map(|_| small(&secure, "/room")).collect();
    // Large enough for a record to be left over whatever the kernel takes.
    let message = "x".repeat(30 * 1024);
    let mut sent = 0;
    let waits = |now: &Metrics| now.queued >= READERS as u64 || now.closed_shed > 0;
    while !waits(&secure.server.metrics()) {
        assert!(sent < 20, "the kernel takes {sent} of them, and more");
        let due = secure.server.metrics().due + READERS as u64;
        secure.server.remote().publish("room", message.as_str());
        secure.server.wait("it is handed out to all", |now| now.due == due || now.closed_shed > 0);
        sent += 1;
    }
    // Nothing more is published but to nobody, so that there are turns in which the memory is looked at.
    common::wait_until("some are shed", || {
        secure.server.remote().publish("nobody", "?");
        secure.server.metrics().closed_shed > 0
    });
    let metrics = secure.server.metrics();
    let queues = metrics.queued / READERS as u64 * message.len() as u64;
    assert!(queues < 100 << 10, "{queues} bytes of frames, which are shared");
    assert!(metrics.queue_memory > 200 << 10, "{} bytes before anybody was shed", metrics.queue_memory);
    assert!(metrics.closed_shed < READERS as u64, "no more than have to go");
    // They go, and so does all that waited for them: `finish` looks at the books.
    slow.drain(..).for_each(Client::reset);
    let metrics = secure.server.finish();
    assert_eq!(metrics.closed_shed + metrics.closed_lost, READERS as u64);
}

#[test]
fn what_is_encrypted_is_shown_with_its_connection() {
    let secure = Secure::start(server(calm()).admin(AdminAddress::Tcp("127.0.0.1:0".to_owned())));
    let mut slow = small(&secure, "/room");
    let message = "x".repeat(30 * 1024);
    // One record or two wait behind the queue, which has the last byte of them.
    let mut sent = 0;
    while secure.server.metrics().queued_bytes < 1_000 {
        assert!(sent < 200, "the kernel takes {sent} of them, and more");
        secure.server.remote().publish("room", message.as_str());
        sent += 1;
        secure.server.wait("it is handed out", |now| now.due == sent);
    }
    common::wait_until("all say the same", || {
        let queued = secure.server.metrics().queued_bytes;
        let page: Value =
            serde_json::from_str(&get(secure.server.admin(), "/connections").body).expect("JSON");
        let scraped = Scrape::of(secure.server.admin()).value("wsd_queued_bytes");
        page["connections"][0]["queued_bytes"] == queued && scraped == queued as f64
    });
    slow.widen();
    (0..sent).for_each(|_| slow.assert_text(&message));
    secure.server.wait("nothing waits", |now| (now.queued_bytes, now.queue_memory_unshared) == (0, 0));
    slow.close();
    secure.server.finish();
}

#[test]
fn a_reader_without_progress_is_closed() {
    let limits = Limits { progress_timeout: Duration::from_millis(300), queue_hard: 1 << 30, ..calm() };
    let secure = Secure::start(server(limits));
    let mut slow = small(&secure, "/echo");
    slow.send(frame(FIN | BINARY, &[b'x'; 900_000]));
    secure.server.wait("no progress is noticed", |metrics| metrics.closed_slow == 1);
    slow.widen();
    slow.assert_binary(&[b'x'; 900_000]);
    assert_eq!(slow.assert_close(1013), "slow consumer");
    drop(slow);
    let metrics = secure.server.finish();
    assert_eq!((metrics.delivered, metrics.dropped_slow), (1, 0), "what was begun was finished");
}

#[test]
fn what_a_peer_does_not_read_holds_up_its_requests() {
    // More than the buffers of both kernels take.
    const FLOOD: usize = 600;

    let secure = echo();
    let mut client = small(&secure, "/echo");
    let message = binary(&[7; 50_000]);
    let flood = message.repeat(FLOOD);
    let taken = client.send_until_blocked(&flood, Duration::from_millis(50));
    assert!(taken < flood.len(), "everything was taken");
    secure.server.assert_stays("its answers are bounded", Duration::from_millis(100), |metrics| {
        metrics.queued_bytes < 2 * 1024 * 1024
    });
    drop(client);
    let metrics = secure.server.finish();
    assert!(metrics.delivered + metrics.dropped_closed < FLOOD as u64, "its requests were not all heard");
}

// Certificates.

/// The names of the certificate that a client gets that asks for `name`.
fn certificate_for(secure: &Secure, name: &str) -> Vec<u8> {
    let mut client = secure.connect_as(&secure.authority.client(rustls::ALL_VERSIONS), name);
    client.handshake("/echo");
    let certificate = client.tls().peer_certificates().expect("the handshake is over")[0].to_vec();
    client.close();
    certificate
}

#[test]
fn clients_get_the_certificate_for_the_name_they_ask_for() {
    let authority = Authority::new();
    let mut builder = server(calm());
    for (file, names) in
        [("first", &["localhost"][..]), ("second", &["a.example", "*.b.example"]), ("third", &["c.example"])]
    {
        let (certificate, key) = authority.issue(file, names);
        builder = builder.tls("127.0.0.1:0", certificate, key);
    }
    let config = authority.client(rustls::ALL_VERSIONS);
    let secure = Secure { server: Running::start(builder), authority, config };
    let localhost = certificate_for(&secure, "localhost");
    let (second, third) = (certificate_for(&secure, "a.example"), certificate_for(&secure, "c.example"));
    assert_eq!(certificate_for(&secure, "any.b.example"), second);
    assert!(localhost != second && second != third && localhost != third);
    // Any other name gets the first, which such a client then refuses.
    let mut stranger = secure.connect_as(&secure.config, "d.example");
    stranger.send_to_whom_it_may_concern(request("/echo").as_bytes());
    drop(stranger);
    secure.server.finish();
}

#[test]
fn certificates_are_renewed_without_losing_a_connection() {
    let secure = echo();
    let mut old = secure.open("/echo");
    let before = certificate_for(&secure, "localhost");
    let half = TcpStream::connect(secure.address()).expect("the server accepts");
    secure.server.wait("it is accepted", |metrics| metrics.connections == 2);

    // A file that is no good: nothing changes.
    let (certificate, _key) = secure.authority.issue("other", &["localhost"]);
    std::fs::copy(&certificate, secure.authority.directory().join("localhost.crt")).expect("writable");
    let error = secure.server.remote().reload_certificates().expect_err("the key is another one's");
    assert!(error.to_string().contains("localhost.key"), "{error}");
    assert_eq!(certificate_for(&secure, "localhost"), before);

    secure.authority.issue("localhost", &["localhost"]);
    assert_eq!(secure.server.remote().reload_certificates(), Ok(true));
    common::wait_until("new connections get the new one", || certificate_for(&secure, "localhost") != before);
    old.send(text("still here"));
    old.assert_text("still here");
    // A handshake that was begun goes on with the certificate that there was.
    let mut half = Client::over_tls(half, &secure.config, "localhost");
    half.handshake("/echo");
    assert_eq!(half.tls().peer_certificates().expect("the handshake is over")[0].to_vec(), before);
    // Sessions outlive certificates.
    let mut again = secure.connect();
    again.handshake("/echo");
    assert_eq!(again.tls().handshake_kind(), Some(HandshakeKind::Resumed));
    [old, half, again].into_iter().for_each(Client::close);
    let metrics = secure.server.finish();
    assert_eq!((metrics.tls_failed, metrics.closed_lost), (0, 0));
    assert_eq!(Running::echo(calm()).remote().reload_certificates(), Ok(false), "there is no TLS");
}

/// What the metrics say about the end of each file's certificates.
fn expiries(secure: &Secure) -> Vec<f64> {
    let scrape = Scrape::of(secure.server.admin());
    let directory = secure.authority.directory().display();
    let of = |file| {
        scrape.value(&format!("wsd_tls_certificate_expiry_timestamp_seconds{{file=\"{directory}/{file}\"}}"))
    };
    ["one.crt", "two.crt"].map(of).to_vec()
}

#[test]
fn the_end_of_certificates_is_shown_and_moves_with_a_reload() {
    const IN_2030: f64 = 1_893_456_000.0;
    const IN_2040: f64 = 2_208_988_800.0;
    let authority = Authority::new();
    let (one, one_key) = authority.issue_until("one", &["localhost"], 2040);
    let (two, two_key) = authority.issue_until("two", &["a.example"], 2040);
    // Behind its own a file has those between it and the root: any of them that ends is the end.
    let (between, _) = authority.issue_until("between", &["between"], 2030);
    let chain = [&two, &between].map(|file| std::fs::read_to_string(file).expect("it is there")).concat();
    authority.write("two.crt", &chain);
    let builder = server(calm()).admin(AdminAddress::Tcp("127.0.0.1:0".to_owned()));
    // One of them on two addresses.
    let builder = builder.tls("127.0.0.1:0", &one, &one_key).tls("127.0.0.2:0", one, one_key);
    let builder = builder.tls("127.0.0.1:0", two, two_key);
    let config = authority.client(rustls::ALL_VERSIONS);
    let secure = Secure { server: Running::start(builder), authority, config };
    assert_eq!(expiries(&secure), [IN_2040, IN_2030]);
    let scrape = get(secure.server.admin(), "/metrics").body;
    assert_eq!(
        scrape.matches("/one.crt\"").count(),
        1,
        "a scrape with a sample that stands twice is thrown away"
    );
    secure.authority.issue_until("two", &["a.example"], 2040);
    secure.authority.write("one.crt", "no certificate");
    secure.server.remote().reload_certificates().expect_err("one file is no good");
    assert_eq!(expiries(&secure), [IN_2040, IN_2030], "of those in force, not of those on the disk");
    secure.authority.issue_until("one", &["localhost"], 2030);
    assert_eq!(secure.server.remote().reload_certificates(), Ok(true));
    assert_eq!(expiries(&secure), [IN_2030, IN_2040]);
    secure.server.finish();
}

// The program.

#[cfg(feature = "cli")]
mod program {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::time::SystemTime;

    use rustix::process::Signal;

    use super::*;
    use crate::common::admin::wait_for_workers;
    use crate::common::program::{Program, run, wsd};

    fn path(path: &Path) -> &str {
        path.to_str().expect("UTF-8")
    }

    #[test]
    fn what_is_wrong_is_one_line_with_the_flag_and_the_remedy() {
        let authority = Authority::new();
        let (certificate, key) = authority.issue("one", &["localhost"]);
        let (_, other) = authority.issue("other", &["localhost"]);
        let garbage =
            authority.write("garbage", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
        let hollow =
            authority.write("hollow", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let (certificate, key, other) = (path(&certificate), path(&key), path(&other));
        for (args, words) in [
            (&["--tls-cert", certificate][..], ["--tls-cert needs", "--tls-key"]),
            (&["--tls-key", key], ["--tls-key needs", "--tls-cert"]),
            (&["--tls-listen", "localhost:0"], ["--tls-listen needs", "--tls-cert"]),
            (
                &["--tls-cert", certificate, "--tls-cert", certificate, "--tls-key", key],
                ["--tls-key", "for each"],
            ),
            (&["--tls-cert", "/nowhere", "--tls-key", key], ["--tls-cert /nowhere", "No such file"]),
            (&["--tls-cert", certificate, "--tls-key", "/nowhere"], ["--tls-key /nowhere", "No such file"]),
            (&["--tls-cert", certificate, "--tls-key", other], ["--tls-key", "is not the key of"]),
            (&["--tls-cert", key, "--tls-key", key], ["--tls-cert", "no CERTIFICATE"]),
            (&["--tls-cert", certificate, "--tls-key", certificate], ["--tls-key", "no PRIVATE KEY"]),
            (&["--tls-cert", path(&garbage), "--tls-key", key], ["--tls-cert", "garbage"]),
            (&["--tls-cert", path(&hollow), "--tls-key", key], ["--tls-cert", "hollow"]),
        ] {
            let output = run(wsd(args));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            for word in words {
                assert!(stderr.contains(word), "no `{word}` in: {stderr}");
            }
        }
    }

    /// A `wsd` on free ports, and where it speaks TLS.
    fn serve(authority: &Authority, flags: &[&str]) -> (Program, SocketAddr) {
        let (certificate, key) = authority.issue("localhost", &["localhost"]);
        let files =
            ["--tls-cert", path(&certificate), "--tls-key", path(&key), "--tls-listen", "127.0.0.1:0"];
        let program = Program::serve(&[&files[..], &["--threads", "2"], flags].concat());
        let words = program.ready.split([' ', ',']);
        let address = words.filter_map(|word| word.strip_prefix("https://")).next().expect("an address");
        let address = address.parse().expect("an address");
        (program, address)
    }

    /// So many days from now, since 1970.
    fn days_from_now(days: i32) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
        let day = Duration::from_secs(24 * 60 * 60);
        if days < 0 { now - day * days.unsigned_abs() } else { now + day * days.unsigned_abs() }
    }

    #[test]
    fn a_certificate_that_is_not_valid_is_used_and_named_in_the_log() {
        for (span, expected) in [
            ([-9, -1], Some("a certificate has expired")),
            ([1, 9], Some("a certificate is not valid yet")),
            ([-1, 9], None),
        ] {
            let authority = Authority::new();
            let (certificate, key) = authority.issue_between("localhost", span.map(days_from_now));
            let files = ["--tls-cert", path(&certificate), "--tls-key", path(&key)];
            let program = Program::serve(&[&files[..], &["--tls-listen", "127.0.0.1:0"]].concat());
            program.signal(Signal::INT);
            let output = program.output();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{stderr}");
            assert_eq!(stderr.lines().count(), usize::from(expected.is_some()), "{stderr}");
            let named = expected.is_none_or(|line| stderr.contains(line) && stderr.contains("localhost.crt"));
            assert!(named, "{stderr}");
        }
    }

    #[test]
    fn check_config_warns_of_certificates_that_are_not_valid_or_not_for_long() {
        let authority = Authority::new();
        for (number, (span, expected)) in [
            ([-99, -1], Some("it ended at ")),
            ([-99, 13], Some("it ends at ")),
            ([1, 99], Some("it begins at ")),
            ([-99, 15], None),
            // Short ones are renewed when a third of their time is left.
            ([-3, 3], None),
            ([-5, 1], Some("it ends at ")),
        ]
        .into_iter()
        .enumerate()
        {
            let (certificate, key) = authority.issue_between(&number.to_string(), span.map(days_from_now));
            let settings = format!("tls-cert = [{certificate:?}]\ntls-key = [{key:?}]\n");
            let file = authority.write("wsd.toml", &settings);
            for (strict, failed) in [(&[][..], 0), (&["--strict"], 1)] {
                let output = run(wsd(&[&["check-config", path(&file)], strict].concat()));
                let stderr = String::from_utf8_lossy(&output.stderr);
                let code = if expected.is_some() { failed } else { 0 };
                assert_eq!(output.status.code(), Some(code), "{span:?}: {stderr}");
                assert_eq!(output.stdout.ends_with(b": ok\n"), code == 0, "{span:?}");
                assert_eq!(stderr.lines().count(), usize::from(expected.is_some()), "{span:?}: {stderr}");
                let begin = format!("wsd: warning: --tls-cert {}: ", path(&certificate));
                let is_told =
                    |what: &str| stderr.starts_with(&format!("{begin}{what}")) && stderr.contains(" UTC");
                assert!(expected.is_none_or(is_told), "{span:?}: {stderr}");
            }
        }
    }

    #[test]
    fn sighup_reloads_certificates_and_drops_nobody() {
        let authority = Authority::new();
        let (mut program, address) = serve(&authority, &["--admin", "127.0.0.1:0", "--log", "info"]);
        let log = program.log();
        let open = || {
            let socket = TcpStream::connect(address).expect("the server accepts");
            // Who takes up a session is not shown a certificate.
            let config = authority.client(rustls::ALL_VERSIONS);
            let mut client = Client::over_tls(socket, &config, "localhost");
            client.handshake("/echo");
            let certificate = client.tls().peer_certificates().expect("a certificate")[0].to_vec();
            (client, certificate)
        };
        // The worker that has the next connection may not be the first to hear of it.
        let reload = |outcome: &str| {
            program.signal(Signal::HUP);
            while !log.recv_timeout(PATIENCE).expect("each SIGHUP is answered in the log").contains(outcome) {
            }
            wait_for_workers(program.admin());
        };
        let (mut first, mut current) = open();
        for round in 0..5 {
            // Before each new pair a bad one, which changes nothing.
            authority.write("localhost.crt", "no certificate");
            reload("certificates not reloaded");
            first.send(text("still here"));
            first.assert_text("still here");
            assert_eq!(open().1, current, "round {round}");
            authority.issue("localhost", &["localhost"]);
            reload("certificates reloaded");
            let renewed = open().1;
            assert_ne!(renewed, current, "round {round}");
            current = renewed;
        }
        first.send(text("all the time"));
        first.assert_text("all the time");
        authority.write("localhost.crt", "no certificate");
        program.signal(Signal::HUP);
        program.signal(Signal::INT);
        first.assert_close(1001);
        first.send(close(1001, b""));
        assert!(program.wait().success());
        let said: Vec<String> = log.iter().collect();
        let is_named = |line: &String| line.contains("the old ones stay") && line.contains("localhost.crt");
        assert!(said.iter().any(is_named), "{said:?}");
    }

    #[test]
    fn an_idle_connection_costs_a_few_kibibytes() {
        const COUNT: usize = 1_000;
        let authority = Authority::new();
        let (program, address) = serve(&authority, &[]);
        let config = authority.client(&[&version::TLS13]);
        let open = |count| -> Vec<_> {
            let clients = (0..count).map(|_| {
                let socket = TcpStream::connect(address).expect("the server accepts");
                let mut client = Client::over_tls(socket, &config, "localhost");
                client.handshake("/echo");
                client.send(text("hi"));
                client.assert_text("hi");
                client
            });
            clients.collect()
        };
        let _warm = open(50);
        let before = resident_bytes(program.pid());
        let clients = open(COUNT);
        let each = (resident_bytes(program.pid()).saturating_sub(before)) / COUNT;
        assert!(each < 8 * 1024, "{each} bytes for each connection");
        drop(clients);
    }

    fn resident_bytes(pid: u32) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc(5)");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("proc(5)") * 1024
    }
}
