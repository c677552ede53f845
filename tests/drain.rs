//! A server lets its clients go for a successor: what they see, when, and that nothing is lost on the way.

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Client, PATIENCE, Running, SHUTDOWN_MAX, calm, request, text, wait_until};
use wsd::apps::{Broadcast, Echo};
use wsd::net::fdtable::raise_nofile;
use wsd::{Drain, Limits, Server, State};

const HOUR: Duration = Duration::from_secs(3600);

/// Everything at once, and time for everyone to answer.
fn at_once() -> Drain {
    Drain { grace: Duration::ZERO, spread: Duration::ZERO, timeout: HOUR, ..Drain::default() }
}

fn server(threads: usize, limits: Limits, drain: Drain) -> Running {
    Running::start(Server::builder().threads(threads).limits(limits).drain(drain).app(Broadcast::by_path))
}

/// The hint in a reason, in milliseconds.
#[track_caller]
fn hint(reason: &str) -> u64 {
    let (_, hint) = reason.split_once("retry=").unwrap_or_else(|| panic!("no hint in {reason}"));
    hint.parse().expect("milliseconds, and nothing after them")
}

#[track_caller]
fn get(client: &mut Client, path: &str, status: u16) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.assert_status(status);
}

#[test]
fn a_thousand_clients_are_let_go_with_a_hint_and_lose_nothing() {
    const CLIENTS: usize = 1_000;
    raise_nofile().expect("up to the maximum");
    for threads in [1, 4] {
        let drain = Drain { spread: Duration::from_secs(1), retry: Duration::from_secs(4), ..at_once() };
        let mut server = server(threads, calm(), drain);
        let mut clients = server.open_many("/room", CLIENTS);
        // Each of the first ten says something, and all of that has been accepted when the drain begins.
        for (number, client) in clients[..10].iter_mut().enumerate() {
            client.send(text(number.to_string()));
        }
        server.wait("all is accepted", |metrics| metrics.messages_in == 10);
        let start = Instant::now();
        server.remote().drain();
        let peers = std::thread::spawn(move || {
            let see = |client: &mut Client| {
                let mut heard: Vec<u8> = Vec::new();
                for _ in 0..10 {
                    heard.extend(client.read_frame().payload);
                }
                heard.sort_unstable();
                assert_eq!(heard, b"0123456789");
                hint(&client.assert_lets_go_with(1012))
            };
            clients.iter_mut().map(see).collect::<Vec<u64>>()
        });
        let metrics = server.drain();
        let took = start.elapsed();
        let mut hints = peers.join().expect("everyone saw what they should");
        assert!(hints.iter().all(|hint| (2_000..=6_000).contains(hint)), "{hints:?}");
        hints.sort_unstable();
        hints.dedup();
        assert!(hints.len() > CLIENTS / 2, "{} different ones", hints.len());
        // The last of a thousand has its turn a millisecond before the end.
        assert!(took >= Duration::from_millis(980), "{took:?}");
        assert_eq!((metrics.closed_by_server, metrics.delivered), (CLIENTS as u64, 10 * CLIENTS as u64));
        assert_eq!((metrics.dropped_closed, metrics.dropped_slow, metrics.connections), (0, 0, 0));
    }
}

#[test]
fn readyz_says_no_at_once_and_the_grace_is_for_those_who_come_nevertheless() {
    let mut server = server(2, calm(), Drain { grace: HOUR, timeout: 2 * HOUR, ..at_once() });
    get(&mut server.connect(), "/readyz", 200);
    server.remote().drain();
    get(&mut server.connect(), "/readyz", 503);
    get(&mut server.connect(), "/healthz", 200);
    let mut late = server.open("/");
    late.send(text("served"));
    late.assert_text("served");
    drop(late);
    server.stop();
}

#[test]
fn after_the_grace_nobody_is_accepted() {
    let grace = Duration::from_millis(300);
    let mut server = server(2, calm(), Drain { grace, ..at_once() });
    let mut client = server.open("/");
    let start = Instant::now();
    server.remote().drain();
    client.assert_lets_go_with(1012);
    assert!(start.elapsed() + Duration::from_millis(5) >= grace, "{:?}", start.elapsed());
    wait_until("nobody listens any more", || TcpStream::connect(server.address).is_err());
    assert_eq!(server.drain().closed_by_server, 1);
}

#[test]
fn the_grace_is_kept_even_if_nobody_is_there() {
    let grace = Duration::from_millis(300);
    let start = Instant::now();
    let mut server = server(2, calm(), Drain { grace, ..at_once() });
    server.drain();
    assert!(start.elapsed() + Duration::from_millis(5) >= grace, "{:?}", start.elapsed());
    // And nothing else is waited for: the spread is for connections.
    let start = Instant::now();
    let mut server = self::server(2, calm(), Drain { spread: HOUR, ..at_once() });
    server.drain();
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn what_waits_in_a_queue_goes_out_before_the_close() {
    let limits = Limits { queue_hard: 64 << 20, ..calm() };
    let mut server = server(2, limits, at_once());
    let mut slow: Vec<Client> = (0..5).map(|_| Client::open_small(server.address, "/")).collect();
    let large = "x".repeat(100_000);
    (0..10).for_each(|_| server.remote().publish("/", large.as_str()));
    server.wait("it is stuck", |metrics| metrics.due == 50 && metrics.queued > 0);
    server.remote().drain();
    wait_until("nobody listens", || TcpStream::connect(server.address).is_err());
    let peers = std::thread::spawn(move || {
        for client in &mut slow {
            client.widen();
            (0..10).for_each(|_| client.assert_text(&large));
            client.assert_lets_go_with(1012);
        }
    });
    let metrics = server.drain();
    peers.join().expect("all of it came");
    assert_eq!((metrics.delivered, metrics.dropped_closed, metrics.closed_slow), (50, 0, 0));
}

/// Accepted in time, but the request came when the listeners were closed.
#[test]
fn a_late_handshake_is_answered_and_let_go_at_once() {
    let mut server = server(1, calm(), at_once());
    // One that will have to be waited for.
    let mut mute = server.open("/");
    let mut half_open = server.connect();
    server.wait("both are accepted", |metrics| metrics.accepted == 2);
    server.remote().drain();
    mute.assert_close(1012);
    half_open.send(request("/"));
    half_open.assert_upgraded();
    hint(&half_open.assert_lets_go_with(1012));
    drop(mute);
    assert_eq!((server.drain().opened), 2);
}

#[test]
fn a_client_that_does_not_answer_is_waited_for_as_long_as_for_any_close() {
    let limits = Limits { close_timeout: Duration::from_millis(200), ..calm() };
    let mut server = server(2, limits, at_once());
    let mut mute = server.open_many("/", 10);
    let metrics = server.drain();
    assert_eq!((metrics.closed_by_server, metrics.closing_timed_out), (10, 10));
    mute.iter_mut().for_each(|client| {
        client.assert_close(1012);
        client.assert_eof();
    });
}

#[test]
fn the_timeout_ends_it_whoever_is_left() {
    let timeout = Duration::from_millis(400);
    let mut server = server(2, calm(), Drain { timeout, ..at_once() });
    let mut mute = server.open("/");
    let half_open = server.connect();
    server.wait("both are accepted", |metrics| metrics.accepted == 2);
    let start = Instant::now();
    let metrics = server.drain();
    assert!(start.elapsed() + Duration::from_millis(5) >= timeout, "{:?}", start.elapsed());
    assert_eq!((metrics.closed_by_server, metrics.connections), (1, 0));
    mute.assert_close(1012);
    mute.assert_eof();
    drop(half_open);
}

#[test]
fn a_shutdown_cuts_a_drain_short() {
    for drain in [
        Drain { grace: HOUR, timeout: 2 * HOUR, ..at_once() },
        Drain { spread: HOUR, timeout: 2 * HOUR, ..at_once() },
    ] {
        let mut server = server(2, calm(), drain);
        let mut clients = server.open_many("/", 20);
        server.remote().drain();
        if drain.grace.is_zero() {
            wait_until("nobody listens", || TcpStream::connect(server.address).is_err());
        }
        let start = Instant::now();
        let peers = std::thread::spawn(move || {
            let codes = |client: &mut Client| {
                let close = client.read_frame();
                client.send_to_whom_it_may_concern(&common::close(1001, b""));
                u16::from_be_bytes([close.payload[0], close.payload[1]])
            };
            clients.iter_mut().map(codes).collect::<Vec<u16>>()
        });
        // Twice is as good as once.
        server.remote().drain();
        let metrics = server.stop();
        assert!(start.elapsed() < SHUTDOWN_MAX, "{:?}", start.elapsed());
        let codes = peers.join().expect("everyone was told");
        // With a spread of an hour the first one of each worker has its turn at once.
        let early = codes.iter().filter(|code| **code == 1012).count();
        assert!(early <= if drain.grace.is_zero() { 2 } else { 0 }, "{codes:?}");
        assert_eq!(codes.iter().filter(|code| **code == 1001).count(), 20 - early);
        assert_eq!(metrics.closed_by_server, 20);
    }
}

/// A worker without connections does not end before the others: what they publish would wait for it for ever, and in
/// the end they would read nothing more.
#[test]
fn an_empty_worker_takes_its_mail_until_the_others_are_done() {
    let message = "x".repeat(1 << 20);
    for _ in 0..50 {
        let mut server = server(4, calm(), Drain { spread: HOUR, timeout: 2 * HOUR, ..at_once() });
        let mut clients = server.open_many("/room", 2);
        // Those of worker 0 have their turn at once, those of others in many minutes.
        let is_empty = server.handle().worker_metrics()[0].opened == 0;
        server.remote().drain();
        wait_until("nobody listens any more", || TcpStream::connect(server.address).is_err());
        if is_empty {
            for _ in 0..20 {
                clients[0].send(text(&message));
                clients.iter_mut().for_each(|client| client.assert_text(&message));
            }
            drop(clients);
            assert_eq!(server.drain().delivered, 40);
            return;
        }
        drop(clients);
        server.drain();
    }
    panic!("the kernel puts everyone on worker 0");
}

#[test]
fn the_code_is_a_setting_and_the_state_can_be_asked_for() {
    let drain = Drain { code: 4_000, retry: Duration::ZERO, ..at_once() };
    let builder = Server::builder().threads(1).limits(calm()).drain(drain).app(Echo::default);
    let handle = builder.listen("127.0.0.1:0").start().expect("it starts");
    assert_eq!(handle.state(), State::Ready);
    let mut client = Client::open(handle.addresses()[0], "/");
    handle.remote().drain();
    assert_eq!(handle.state(), State::Draining);
    assert_eq!(hint(&client.assert_lets_go_with(4_000)), 0);
    handle.join().expect("no worker fails");
}

#[test]
fn settings_that_cannot_be_kept_are_refused() {
    let second = Duration::from_secs(1);
    let exact = Drain { grace: second, spread: second, timeout: 2 * second, ..Drain::default() };
    let start = |drain| {
        let builder = Server::builder().threads(1).listen("127.0.0.1:0").drain(drain).app(Echo::default);
        builder.start().map(|handle| handle.shutdown().expect("no worker fails"))
    };
    start(exact).expect("at the limit");
    let error =
        start(Drain { timeout: 2 * second - Duration::from_millis(1), ..exact }).expect_err("one less");
    assert!(error.to_string().contains("--drain-timeout"), "{error}");
    let retry = Drain::RETRY_MAX;
    start(Drain { retry, ..exact }).expect("at the limit");
    let retry = retry + Duration::from_millis(1);
    let error = start(Drain { retry, ..exact }).expect_err("one more");
    assert!(error.to_string().contains("--drain-retry"), "{error}");
    for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let error = start(Drain { code, ..exact }).expect_err("no code to send");
        assert!(error.to_string().contains("--drain-code"), "{error}");
    }
}
