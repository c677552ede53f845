//! How connections and the server end: silence, loss, shutdown, panics, ceilings, and running out of descriptors.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::assert_balanced;
use common::{CLOSE, Client, FIN, PING, Running, TEXT, binary, calm, close, frame, pong, request, text};
use wsd::apps::{Broadcast, Echo};
use wsd::{Admission, App, Close, CloseCode, Config, Context, Limits, Message, Request, RouteLimits, Server};

/// Pings soon, and gives up soon.
fn hasty() -> Limits {
    Limits { ping_interval: Duration::from_millis(200), pong_timeout: Duration::from_millis(800), ..calm() }
}

#[test]
fn a_silent_peer_is_pinged_and_given_up() {
    let server = Running::echo(hasty());
    let start = Instant::now();
    let mut client = server.open("/");
    let ping = client.read_frame();
    assert_eq!((ping.fin, ping.opcode, ping.payload), (true, PING, vec![]));
    // 10 % early at most.
    assert!(
        start.elapsed() + Duration::from_millis(5) >= Duration::from_millis(180),
        "{:?}",
        start.elapsed()
    );
    client.assert_eof();
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(server.finish().closed_silent, 1);
}

#[test]
fn a_peer_that_answers_pings_lives() {
    // Long enough for an answer on a busy machine.
    let server = Running::echo(Limits { pong_timeout: Duration::from_secs(3), ..hasty() });
    let mut answers = server.open("/");
    let mut silent = server.open("/");
    // The second one comes when the time for the first answer is over, and with it that of the other.
    for _ in 0..2 {
        assert_eq!(answers.read_frame().opcode, PING);
        answers.send(pong(b""));
    }
    while silent.next_frame().is_some() {}
    answers.send(text("still here"));
    loop {
        let frame = answers.read_frame();
        if frame.opcode != PING {
            assert_eq!(frame.payload, b"still here");
            break;
        }
        answers.send(pong(b""));
    }
    assert_eq!(server.metrics().closed_silent, 1);
    drop(answers);
    assert_eq!(server.finish().closed_lost, 1);
}

#[test]
fn whoever_talks_is_not_pinged() {
    let (ping_interval, pong_timeout) = (Duration::from_secs(1), Duration::from_secs(3600));
    let server = Running::echo(Limits { ping_interval, pong_timeout, ..calm() });
    let start = Instant::now();
    let mut heard = start;
    let mut client = server.open("/");
    while start.elapsed() < Duration::from_millis(1600) {
        client.is_silent_for(Duration::from_millis(20));
        let said = Instant::now();
        client.send(text("x"));
        loop {
            let frame = client.read_frame();
            if frame.opcode != PING {
                assert_eq!(frame.payload, b"x");
                break;
            }
            // Where the machine holds the client up for so long it is silent; 10 % early at most.
            let silent = heard.elapsed() + Duration::from_millis(5);
            assert!(silent >= Duration::from_millis(900), "a ping for somebody who talks, after {silent:?}");
        }
        heard = said;
    }
    drop(client);
    server.finish();
}

/// What `Witness` saw: for each connection, by its number, how often it was opened and the codes of its closes.
type Seen = Arc<Mutex<BTreeMap<String, (u32, Vec<u16>)>>>;

/// What panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("told to, with a bomb");
    }
}

/// Writes down opens and closes; does as it is told.
struct Witness(Seen);

impl Witness {
    fn note(&self, cx: &Context<'_>, note: impl FnOnce(&mut (u32, Vec<u16>))) {
        note(self.0.lock().expect("no panic while it is held").entry(cx.id().to_string()).or_default());
    }
}

impl App for Witness {
    fn on_request(&mut self, request: &Request<'_>) -> Admission {
        if request.path() == "/panic-on-request" {
            panic!("told to, on request");
        }
        Admission::accept()
    }

    fn on_open(&mut self, cx: &mut Context<'_>) {
        self.note(cx, |(opens, _)| *opens += 1);
        cx.subscribe("all");
        if cx.path() == "/panic" {
            panic!("told to, on open");
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        match message.as_text() {
            Some("panic") => {
                cx.send("before");
                cx.publish("all", "never");
                panic!("told to");
            }
            Some("panic twice") => std::panic::panic_any(Bomb),
            Some("close") => {
                cx.close(CloseCode::NORMAL, "");
                cx.close(CloseCode::POLICY, "once is enough");
                cx.send("last words");
            }
            Some("flood") => cx.send(vec![0; 8 << 20]),
            _ => cx.send(message),
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, close: &Close) {
        self.note(cx, |(_, closes)| closes.push(close.code.get()));
        cx.send("to nobody");
        cx.subscribe("all");
        if cx.path() == "/panic-on-close" {
            panic!("told to, on close");
        }
    }
}

fn witnessed(threads: usize, limits: Limits) -> (Running, Seen) {
    let seen = Seen::default();
    let shared = Arc::clone(&seen);
    (Running::app(threads, limits, move || Witness(Arc::clone(&shared))), seen)
}

/// The codes with which connections closed, each opened once and closed once.
#[track_caller]
fn codes(seen: &Seen) -> Vec<u16> {
    let seen = seen.lock().expect("no panic while it was held");
    let mut codes: Vec<u16> = seen
        .iter()
        .map(|(id, (opens, closes))| {
            assert_eq!((*opens, closes.len()), (1, 1), "connection {id} saw {closes:?}");
            closes[0]
        })
        .collect();
    codes.sort_unstable();
    codes
}

#[test]
fn on_close_comes_once_for_each_on_open_whatever_the_reason() {
    // Silence is noticed soon on one path alone: elsewhere a busy machine makes everyone silent now and then.
    let silence = RouteLimits {
        ping_interval: Some(hasty().ping_interval),
        pong_timeout: Some(hasty().pong_timeout),
        ..RouteLimits::default()
    };
    let seen = Seen::default();
    let shared = Arc::clone(&seen);
    let witness = move || Witness(Arc::clone(&shared));
    let builder = Server::builder().threads(2).limits(Limits { queue_hard: 1000, ..calm() });
    let builder = builder.route("/silent", witness.clone()).route_limits("/silent", silence);
    let server = Running::start(builder.app(witness));
    server.open("/").close();
    let mut no_code = server.open("/");
    no_code.send(frame(FIN | CLOSE, b""));
    assert_eq!(no_code.read_frame().payload, b"");
    let mut mistaken = server.open("/");
    mistaken.send(frame(FIN | TEXT, b"\xff"));
    mistaken.assert_fails_with(1007);
    server.open("/").reset();
    server.open("/").shutdown_write();
    let mut closed = server.open("/");
    closed.send(text("close"));
    closed.assert_text("last words");
    closed.assert_closes_with(1000);
    let mut panicked = server.open("/");
    panicked.send(text("panic"));
    panicked.assert_text("before");
    panicked.assert_closes_with(1011);
    // Never refused while the queue is empty; the one behind it is too much.
    let mut slow = Client::open_small(server.address, "/silent");
    slow.send([text("flood"), text("flood")].concat());
    let mut refused = server.connect();
    refused.send(request("/").replace("13", "8"));
    refused.assert_status(426);
    let silent = server.open("/silent");
    server.wait("the silent ones are given up", |metrics| metrics.closed_silent + metrics.closed_slow == 2);
    drop((silent, slow));
    let metrics = server.finish();
    assert_eq!(metrics.opened, 9);
    let codes = codes(&seen);
    assert_eq!(codes.len(), 9);
    assert_eq!(codes[..5], [1000, 1000, 1005, 1006, 1006]);
    assert!(codes.contains(&1007) && codes.contains(&1011), "{codes:?}");
}

/// Tells the others when somebody leaves.
struct Parting;

impl App for Parting {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe("all");
    }

    fn on_close(&mut self, cx: &mut Context<'_>, _: &Close) {
        cx.publish("all", "left");
    }
}

/// A deadline is judged when the fan-out of its turn is over, and nothing else happens on this server.
#[test]
fn what_an_app_publishes_when_it_hears_of_silence_is_sent_at_once() {
    let hasty = hasty();
    let pings = RouteLimits {
        ping_interval: Some(hasty.ping_interval),
        pong_timeout: Some(hasty.pong_timeout),
        ..RouteLimits::default()
    };
    for threads in [1, 2] {
        let builder =
            Server::builder().threads(threads).limits(calm()).route_limits("/pinged", pings.clone());
        let server = Running::start(builder.route("/pinged", || Parting).route("/", || Parting));
        let mut others = server.open_many("/", 4);
        let silent = server.open("/pinged");
        others.iter_mut().for_each(|other| other.assert_text("left"));
        drop((others, silent));
        assert_eq!(server.finish().closed_silent, 1);
    }
}

#[test]
fn a_peer_that_is_gone_without_a_close_is_lost() {
    let (server, seen) = witnessed(1, calm());
    server.open("/").reset();
    drop(server.open("/"));
    let mut cut = server.open("/");
    cut.send(&text("half of it")[..7]);
    drop(cut);
    let metrics = server.wait("all are noticed", |metrics| metrics.connections == 0);
    assert_eq!((metrics.closed_lost, metrics.opened), (3, 3));
    server.finish();
    assert_eq!(codes(&seen), [1006; 3]);
}

/// The end of the peer's side without a Close is the end of the connection, but not of what came before it.
#[test]
fn what_came_before_a_half_close_is_answered() {
    let server = Running::echo(calm());
    let mut client = server.open("/");
    client.send([text("one"), text("two")].concat());
    client.shutdown_write();
    client.assert_text("one");
    client.assert_text("two");
    client.assert_eof();
    // A request is answered to whoever has nothing to add to it.
    let mut client = server.connect();
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    client.shutdown_write();
    client.assert_status(200);
    assert_eq!(server.finish().closed_lost, 1);
}

#[test]
fn a_shutdown_closes_everyone_with_1001_behind_what_was_queued() {
    for threads in [1, 4] {
        let mut server = Running::app(threads, calm(), Broadcast::by_path);
        let mut clients = server.open_many("/room", 20);
        let mut half_open = server.connect();
        clients[0].send(text("queued"));
        let peers = std::thread::spawn(move || {
            for client in &mut clients {
                client.assert_text("queued");
                client.assert_closes_with(1001);
            }
            half_open.assert_status(503);
        });
        server.wait("the message is on its way", |metrics| metrics.delivered == 20);
        let metrics = server.stop();
        peers.join().expect("all clients saw what they should");
        assert_eq!((metrics.closed_by_server, metrics.delivered), (20, 20));
    }
}

#[test]
fn what_was_published_right_before_a_shutdown_is_heard() {
    for threads in [1, 4] {
        let mut server = Running::app(threads, calm(), Broadcast::by_path);
        let mut clients = server.open_many("/room", 300);
        for number in 0..5 {
            server.remote().publish("/room", number.to_string());
        }
        let peers = std::thread::spawn(move || {
            for client in &mut clients {
                (0..5).for_each(|number| client.assert_text(&number.to_string()));
                client.assert_closes_with(1001);
            }
        });
        let metrics = server.stop();
        peers.join().expect("all clients heard it all");
        assert_eq!((metrics.delivered, metrics.connections), (1_500, 0));
    }
}

/// `Running::stop` holds the promise of 5 seconds.
#[test]
fn a_shutdown_does_not_wait_for_peers_that_never_answer() {
    let (mut server, seen) = witnessed(2, calm());
    let mut mute = server.open("/");
    let mut deaf = Client::open_small(server.address, "/");
    deaf.send(text("flood"));
    server.wait("it is stuck", |metrics| metrics.queued == 1);
    let half_open = server.connect();
    let metrics = server.stop();
    assert_eq!((metrics.closed_by_server, metrics.closed_lost), (2, 0));
    mute.assert_close(1001);
    mute.assert_eof();
    assert_eq!(codes(&seen), [1001, 1001]);
    drop((half_open, deaf));
}

#[test]
fn nobody_is_accepted_after_a_shutdown() {
    let mut server = Running::echo(calm());
    let address = server.address;
    server.stop();
    assert!(std::net::TcpStream::connect(address).is_err(), "somebody still listens");
    // The port is free for the next one.
    let next = Server::builder().threads(1).listen(address.to_string()).app(Echo::default).start();
    next.expect("the address is free").shutdown().expect("no worker fails");
}

#[test]
fn a_panic_costs_its_own_connection_and_no_other() {
    let (server, seen) = witnessed(1, calm());
    let mut other = server.open("/");
    let mut in_message = server.open("/");
    in_message.send(text("panic"));
    in_message.assert_text("before");
    in_message.assert_closes_with(1011);
    let mut twice = server.open("/");
    twice.send(text("panic twice"));
    twice.assert_closes_with(1011);
    let mut in_open = server.open("/panic");
    in_open.assert_closes_with(1011);
    server.open("/panic-on-close").close();
    // Nothing is open yet, so the answer is HTTP's.
    let mut in_request = server.connect();
    in_request.send(request("/panic-on-request"));
    in_request.assert_status(500);
    // Those who were in the topic with them hear of nothing, and can be heard.
    server.remote().publish("all", "still all here");
    other.assert_text("still all here");
    other.send(text("still here"));
    other.assert_text("still here");
    other.close();
    let metrics = server.finish();
    assert_eq!((metrics.app_panics, metrics.closed_by_server, metrics.closed_by_peer), (5, 3, 2));
    assert_eq!((metrics.handshakes_rejected, metrics.opened), (1, 5));
    assert_eq!(metrics.published, 0, "the orders of a callback that panics are not carried out");
    assert_eq!(codes(&seen), [1000, 1000, 1011, 1011, 1011]);
}

#[test]
fn the_ceiling_holds_at_the_limit_and_one_more() {
    for threads in [1, 4] {
        let config = Config { threads, max_conns: Some(8), limits: calm(), ..Config::default() };
        let server = Running::start(Server::builder().config(config).app(Echo::default));
        let mut clients = server.open_many("/", 8);
        for _ in 0..3 {
            let mut refused = server.connect();
            refused.send_to_whom_it_may_concern(request("/").as_bytes());
            let head = refused.assert_status(503);
            assert!(head.contains("\r\nRetry-After: "), "{head}");
        }
        assert_eq!((server.metrics().refused_full, server.metrics().connections), (3, 8));
        clients.pop().expect("eight").close();
        server.wait("there is room", |metrics| metrics.connections == 7);
        clients.push(server.open("/"));
        clients.into_iter().for_each(Client::close);
        assert_eq!(server.finish().opened, 9);
    }
}

/// As above, where everyone comes at once and each worker admits whom it accepts.
#[test]
fn the_ceiling_holds_when_everyone_comes_at_once() {
    let config = Config { threads: 4, max_conns: Some(8), limits: calm(), ..Config::default() };
    let server = Running::start(Server::builder().config(config).app(Echo::default));
    let address = server.address;
    for round in 1..=20 {
        let crowds: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || (0..10).map(|_| Client::connect(address)).collect::<Vec<_>>())
            })
            .collect();
        let crowd: Vec<Client> =
            crowds.into_iter().flat_map(|crowd| crowd.join().expect("all are accepted")).collect();
        // Whoever is accepted is counted among the connections right after that.
        let most = server.wait("all are looked at", |metrics| {
            metrics.accepted + metrics.refused_full == 40 * round && metrics.connections >= 8
        });
        assert_eq!(most.connections, 8, "in round {round}");
        drop(crowd);
        server.wait("all are gone", |metrics| metrics.connections == 0);
    }
    server.finish();
}

/// A large message into an empty queue is always taken, whatever the limit on what waits.
#[test]
fn a_frame_larger_than_the_queue_is_taken_while_nothing_waits() {
    let server = Running::echo(Limits { queue_hard: 1000, max_message: 2 << 20, ..calm() });
    let large = vec![9; 2 << 20];
    let mut client = Client::open_small(server.address, "/");
    client.send(binary(&large));
    server.wait("it is taken, and does not go out at once", |metrics| metrics.queued_bytes > 1 << 20);
    client.widen();
    client.assert_binary(&large);
    client.close();
    assert_eq!(server.finish().delivered, 1);
}

/// Whoever asks faster than it reads is not read itself for a while, and loses nothing.
#[test]
fn whoever_asks_before_reading_the_answers_gets_them_all() {
    let server = Running::echo(calm());
    let mut client = Client::open_small(server.address, "/");
    let questions: Vec<u8> = (0..4_000).flat_map(|number| text(format!("{number:01000}"))).collect();
    let sent = client.send_until_blocked(&questions, Duration::from_millis(200));
    server.wait("answers wait", |metrics| metrics.queued_bytes > 0);
    // Much of what was sent is in the buffers of the kernel, and stays there.
    server.assert_stays("it is not read", Duration::from_millis(200), |metrics| {
        metrics.messages_in < 4_000 && metrics.queued_bytes <= 128 * 1024
    });
    client.widen();
    let sender = client.send_in_background(questions[sent..].to_vec());
    (0..4_000).for_each(|number| client.assert_text(&format!("{number:01000}")));
    sender.join().expect("all was taken");
    client.close();
    let metrics = server.finish();
    assert_eq!((metrics.delivered, metrics.closed_slow), (4_000, 0));
}

/// While answers wait for it, a peer is not read: that the rest of a message is not heard is then our doing.
#[test]
fn whoever_is_not_read_because_of_the_answers_that_wait_is_not_too_late() {
    let timeout = Duration::from_millis(300);
    let server = Running::echo(Limits { assembly_timeout: timeout, ..calm() });
    let mut client = Client::open_small(server.address, "/");
    // Of the second one the beginning comes with the end of the first, and the rest finds room in the kernel.
    let (large, small) = (vec![1; 250_000], vec![2; 100_000]);
    let sender = client.send_in_background([binary(&large), binary(&small)].concat());
    server.wait("answers wait", |metrics| metrics.queued == 1);
    server.assert_stays("nobody is blamed", 4 * timeout, |metrics| metrics.closed_unfinished == 0);
    client.widen();
    client.assert_binary(&large);
    client.assert_binary(&small);
    sender.join().expect("all was taken");
    client.close();
    server.finish();
}

#[test]
fn what_waits_for_a_peer_that_resets_is_dropped() {
    let (server, seen) = witnessed(1, calm());
    let mut client = Client::open_small(server.address, "/");
    client.send(text("flood"));
    server.wait("it is stuck", |metrics| metrics.queued == 1 && metrics.queued_bytes > 1 << 20);
    client.reset();
    let metrics = server.finish();
    assert_eq!((metrics.dropped_closed, metrics.closed_lost), (1, 1));
    assert_eq!(codes(&seen), [1006]);
}

/// Connections and disconnections by many threads leave nothing behind.
#[test]
fn connect_and_close_churn_leaves_nothing_behind() {
    let (server, seen) = witnessed(2, calm());
    let address = server.address;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for round in 0..50 {
                    let mut client = Client::open(address, "/");
                    client.send(text("x"));
                    match round % 4 {
                        0 => client.reset(),
                        1 => drop(client),
                        2 => client.shutdown_write(),
                        _ => {
                            client.assert_text("x");
                            client.send(close(1000, b""));
                        }
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    server.wait("all are gone", |metrics| metrics.connections == 0 && metrics.opened == 200);
    let metrics = server.finish();
    assert_eq!((metrics.opened, metrics.accepted), (200, 200));
    assert_eq!(codes(&seen).len(), 200);
}

#[test]
fn a_server_can_be_stopped_twice_and_from_anywhere() {
    let mut server = Running::echo(calm());
    let remote = server.remote().clone();
    remote.shutdown();
    remote.shutdown();
    let metrics = server.stop();
    assert_balanced(&metrics);
    // Nobody hears this, and nothing waits for somebody to.
    remote.publish("x", "too late");
}

const TOPICS: usize = 600;
const MEMBERS: usize = 500;

/// Everybody is in every topic, and what anybody says goes to each of them.
struct Everywhere;

impl App for Everywhere {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        (0..TOPICS).for_each(|topic| cx.subscribe(&topic.to_string()));
    }

    fn on_message(&mut self, cx: &mut Context<'_>, _: Message<'_>) {
        (0..TOPICS).for_each(|topic| cx.publish(&topic.to_string(), "x"));
        cx.send("published");
    }
}

/// What is left to be handed out may take longer than a shutdown: then not all of it is.
#[test]
fn a_shutdown_does_not_wait_for_a_long_fan_out() {
    wsd::net::fdtable::raise_nofile().expect("up to the hard limit it is allowed");
    let limits = Limits { queue_hard: 1 << 30, close_timeout: Duration::from_millis(100), ..calm() };
    let mut server = Running::app(1, limits, || Everywhere);
    let mut members = server.open_many("/", MEMBERS);
    members[0].send(text("now"));
    members[0].assert_text("published");
    let start = Instant::now();
    // The books balance, and what there was no time for is in them.
    let metrics = server.stop();
    assert_eq!(metrics.due, (MEMBERS * TOPICS + 1) as u64);
    let promised = Duration::from_secs(5);
    assert!(metrics.dropped_closed > 0 || start.elapsed() < promised, "{:?} for all", start.elapsed());
}
