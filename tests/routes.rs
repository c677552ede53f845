//! What a route has of its own: each limit that may differ, at the limit and over it, beside a route that has the
//! server's; and new limits while connections are held.

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::{CLOSE, Client, PATIENCE, PING, PONG, Running, TEXT};
use common::{calm, close, fragments, ping, pong, text, wait_until};
use wsd::net::fdtable::raise_nofile;
use wsd::{App, CloseCode, Config, Context, Limits, Message, RouteLimits, Server, StartError};

/// Echoes, closes for who says `bye`, and sends everyone what is published to their path.
struct Obliging;

impl App for Obliging {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe(cx.path());
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        if message.as_bytes() == b"bye" {
            cx.close(CloseCode::NORMAL, "");
        } else {
            cx.send(message);
        }
    }
}

const OWN: &str = "/own";
const PLAIN: &str = "/plain";

/// What two routes keep to.
fn config(limits: Limits, own: RouteLimits) -> Config {
    let route_limits = [(OWN.to_owned(), own)].into();
    Config { listen: vec!["127.0.0.1:0".to_owned()], threads: 1, limits, route_limits, ..Config::default() }
}

fn server(config: Config) -> Running {
    Running::start(Server::builder().config(config).route(OWN, || Obliging).route(PLAIN, || Obliging))
}

/// Lets the worker have a turn that begins after this call, and so after all that it was told before.
fn turn(server: &Running) {
    let turns = server.metrics().turns;
    server.remote().publish("/nobody", "?");
    server.wait("another turn", |metrics| metrics.turns > turns);
}

/// What a connection came to.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// Nothing happened to it.
    Through,
    /// A Close with this code.
    Closed(u16),
    /// A ping.
    Asked,
    /// So many pings had no answer.
    Unanswered(usize),
    /// The stream ended, without a Close.
    Cut,
}

use Came::{Asked, Closed, Cut, Through, Unanswered};

/// Goes as far as the limit, or over it, on a path, and waits so long for what comes of it.
type Probe = fn(&Running, &'static str, bool, Duration) -> Came;

/// A limit of its own: what else the server has, what the route has, how to try it, and what comes of too much.
type Row = (&'static str, fn() -> Limits, fn(&mut RouteLimits), Probe, Came);

const SHORT: Duration = Duration::from_millis(500);
/// As long as it takes to believe that something does not happen that would happen after `SHORT`.
const LONG: Duration = Duration::from_millis(1500);
const QUEUE: u64 = 16 * 1024;

#[rustfmt::skip]
const ROWS: [Row; 13] = [
    ("max_message", calm, |own| own.max_message = Some(100), a_message, Closed(1009)),
    ("max_fragments", calm, |own| own.max_fragments = Some(3), a_fragmented_message, Closed(1008)),
    ("assembly_timeout", calm, |own| own.assembly_timeout = Some(SHORT), half_a_message, Closed(1008)),
    ("control_rate", calm, |own| own.control_rate = Some(1), pings, Unanswered(1)),
    ("message_rate", calm, |own| own.message_rate = Some(3), messages_at_once, Closed(1008)),
    ("ping_interval", calm, |own| own.ping_interval = Some(SHORT), silence, Asked),
    ("pong_timeout", asking, |own| own.pong_timeout = Some(SHORT), silence_after_a_ping, Cut),
    ("close_timeout", calm, |own| own.close_timeout = Some(SHORT), silence_after_a_close, Cut),
    ("max_age", calm, |own| own.max_age = Some(SHORT), silence, Closed(1012)),
    ("queue_hard", roomy, |own| own.queue_hard = Some(QUEUE as u32), a_queue, Closed(1013)),
    ("queue_soft", hasty, |own| own.queue_soft = Some(QUEUE as u32), a_queue_for_long, Closed(1013)),
    ("queue_soft_time", softly, |own| own.queue_soft_time = Some(SHORT), a_queue_for_long, Closed(1013)),
    ("progress_timeout", roomy, |own| own.progress_timeout = Some(SHORT), anything_that_waits, Closed(1013)),
];

/// Asks often, and waits long for answers.
fn asking() -> Limits {
    Limits { ping_interval: SHORT / 3, pong_timeout: Duration::from_secs(3600), ..calm() }
}

/// Queues as long as they get.
fn roomy() -> Limits {
    Limits { queue_hard: 1 << 30, queue_soft: 0, ..calm() }
}

/// Queues that may not be over their soft limit for long; there is none.
fn hasty() -> Limits {
    Limits { queue_soft_time: SHORT, ..roomy() }
}

/// Queues with a soft limit, and all the time in the world.
fn softly() -> Limits {
    Limits { queue_soft: QUEUE as u32, queue_soft_time: Duration::from_secs(3600), ..roomy() }
}

/// Whoever keeps to these is a moment from the edge, and on a busy machine over it.
const TIMED: [&str; 4] = ["ping_interval", "pong_timeout", "close_timeout", "max_age"];

#[test]
fn each_limit_holds_on_its_route_and_on_no_other() {
    let covered: BTreeSet<_> = ROWS.iter().map(|row| row.0).collect();
    assert_eq!(covered, RouteLimits::NAMES.iter().copied().collect(), "each limit of a route has a row");
    let rows = ROWS.into_iter().map(|row| std::thread::spawn(move || each_on_its_route(row)));
    // All at once: what takes time is to wait for what should not happen.
    let failed = rows.collect::<Vec<_>>().into_iter().filter_map(|row| row.join().err()).count();
    assert_eq!(failed, 0, "rows failed; each says above which it is");
}

fn each_on_its_route((name, limits, set, probe, too_much): Row) {
    let (server_s, mut own) = (limits(), RouteLimits::default());
    set(&mut own);
    let try_on = |limits: &Limits, own: &RouteLimits, path, over, expected: &Came| {
        let server = server(config(limits.clone(), own.clone()));
        let patience = if *expected == Through { LONG } else { PATIENCE };
        let came = probe(&server, path, over, patience);
        server.finish();
        assert_eq!(came, *expected, "{name} on {path}, over: {over}, with {own:?}");
    };
    if !TIMED.contains(&name) {
        try_on(&server_s, &own, OWN, false, &Through);
    }
    try_on(&server_s, &own, OWN, true, &too_much);
    try_on(&server_s, &own, PLAIN, true, &Through);
    // The other way round: a route may also have more than the server.
    let (server_s, own) = (own.over(&server_s), all_of(&server_s));
    try_on(&server_s, &own, OWN, true, &Through);
    try_on(&server_s, &own, PLAIN, true, &too_much);
}

/// A route that has all of these.
fn all_of(limits: &Limits) -> RouteLimits {
    RouteLimits {
        max_message: Some(limits.max_message),
        max_fragments: Some(limits.max_fragments),
        assembly_timeout: Some(limits.assembly_timeout),
        control_rate: Some(limits.control_rate),
        message_rate: Some(limits.message_rate),
        ping_interval: Some(limits.ping_interval),
        pong_timeout: Some(limits.pong_timeout),
        close_timeout: Some(limits.close_timeout),
        max_age: Some(limits.max_age),
        queue_hard: Some(limits.queue_hard),
        queue_soft: Some(limits.queue_soft),
        queue_soft_time: Some(limits.queue_soft_time),
        progress_timeout: Some(limits.progress_timeout),
    }
}

/// Whether the connection still answers; ends it.
fn ask(mut client: Client) -> Came {
    client.send_to_whom_it_may_concern(&text("still there?"));
    let came = match client.next_frame() {
        Some(frame) if frame.opcode == CLOSE => {
            Closed(u16::from_be_bytes(*frame.payload.first_chunk().expect("a code")))
        }
        Some(frame) if frame.opcode == PING => Asked,
        Some(frame) => {
            assert_eq!(frame.payload, b"still there?");
            client.close();
            return Through;
        }
        None => Cut,
    };
    client.reset();
    came
}

fn a_message(server: &Running, path: &str, over: bool, _: Duration) -> Came {
    let mut client = server.open(path);
    let message = "x".repeat(100 + usize::from(over));
    client.send(text(&message));
    let echo = client.read_frame();
    if echo.opcode == TEXT {
        assert_eq!(echo.payload, message.as_bytes());
        return ask(client);
    }
    client.reset();
    Closed(u16::from_be_bytes(*echo.payload.first_chunk().expect("a code")))
}

fn a_fragmented_message(server: &Running, path: &str, over: bool, _: Duration) -> Came {
    let mut client = server.open(path);
    let pieces = [b"?".as_slice(); 4];
    client.send(fragments(TEXT, &pieces[usize::from(!over)..]));
    if client.read_frame().opcode == TEXT {
        return ask(client);
    }
    client.reset();
    Closed(1008)
}

fn half_a_message(server: &Running, path: &str, over: bool, patience: Duration) -> Came {
    let mut client = server.open(path);
    let message = text("still there?");
    let (begin, end) = message.split_at(5);
    if over {
        client.send(begin);
        if client.is_silent_for(patience) {
            client.send(end);
            client.assert_text("still there?");
        }
    } else {
        client.send(&message);
        client.assert_text("still there?");
    }
    ask(client)
}

fn pings(server: &Running, path: &str, over: bool, _: Duration) -> Came {
    let mut client = server.open(path);
    let sent = 2 + usize::from(over);
    client.send([ping(b"?").repeat(sent), text("end")].concat());
    let pongs =
        std::iter::repeat_with(|| client.read_frame()).take_while(|frame| frame.opcode == PONG).count();
    match sent - pongs {
        0 => ask(client),
        unanswered => {
            client.close();
            Unanswered(unanswered)
        }
    }
}

fn messages_at_once(server: &Running, path: &str, over: bool, _: Duration) -> Came {
    let mut client = server.open(path);
    // In one piece, so that they are read in one turn: the allowance grows again with time.
    let count = 3 + usize::from(over);
    client.send(text("?").repeat(count));
    for _ in 0..count {
        let frame = client.read_frame();
        if frame.opcode == CLOSE {
            client.reset();
            return Closed(u16::from_be_bytes(*frame.payload.first_chunk().expect("a code")));
        }
    }
    client.close();
    Through
}

fn silence(server: &Running, path: &str, _: bool, patience: Duration) -> Came {
    let mut client = server.open(path);
    client.is_silent_for(patience);
    ask(client)
}

fn silence_after_a_ping(server: &Running, path: &str, _: bool, patience: Duration) -> Came {
    let mut client = server.open(path);
    assert_eq!(client.read_frame().opcode, PING);
    client.is_silent_for(patience);
    client.send_to_whom_it_may_concern(&[pong(b""), close(1000, b"")].concat());
    let came = if client.next_frame().is_some() { Through } else { Cut };
    client.reset();
    came
}

fn silence_after_a_close(server: &Running, path: &str, _: bool, patience: Duration) -> Came {
    let mut client = server.open(path);
    client.send(text("bye"));
    client.assert_close(1000);
    client.is_silent_for(patience);
    client.send_to_whom_it_may_concern(&close(1000, b""));
    client.assert_eof();
    client.reset();
    let metrics = server.wait("it is gone", |metrics| metrics.connections == 0);
    if metrics.closing_timed_out == 0 { Through } else { Cut }
}

/// Has so many bytes wait for the one connection there is, which reads nothing: all of them but perhaps one.
fn queue(server: &Running, path: &str, bytes: u64) {
    loop {
        let metrics = server.metrics();
        let room = bytes.saturating_sub(metrics.queued_bytes);
        if room < 2 || metrics.closed_slow > 0 {
            return;
        }
        // Headers have 2 bytes or 4, so there are no frames of 128 or 129.
        let payload = match room {
            2..=127 => room - 2,
            128..=129 => 100,
            _ => room.min(1028) - 4,
        };
        server.remote().publish(path, "x".repeat(payload as usize));
        // To nobody, where a limit of time has ended the connection meanwhile.
        server.wait("it is handed out", |now| now.due > metrics.due || now.closed_slow > 0);
        turn(server);
    }
}

/// What became of the one connection, which does not read.
fn gone_or_not(server: &Running, client: Client) -> Came {
    let metrics = server.metrics();
    client.reset();
    if metrics.closed_slow == 0 { Through } else { Closed(1013) }
}

fn a_queue(server: &Running, path: &str, over: bool, _: Duration) -> Came {
    let client = Client::open_small(server.address, path);
    queue(server, path, QUEUE);
    assert_eq!(server.metrics().closed_slow, 0, "before the limit");
    if over {
        queue(server, path, QUEUE + 2);
    }
    gone_or_not(server, client)
}

fn a_queue_for_long(server: &Running, path: &str, over: bool, patience: Duration) -> Came {
    let client = Client::open_small(server.address, path);
    // The limit is for what is not on its way yet: behind the frame of which the kernel has a part.
    queue(server, path, if over { QUEUE + 2048 } else { QUEUE });
    wait_for_it(server, client, patience)
}

fn anything_that_waits(server: &Running, path: &str, over: bool, patience: Duration) -> Came {
    let client = Client::open_small(server.address, path);
    if over {
        queue(server, path, 1024);
    }
    wait_for_it(server, client, patience)
}

/// Waits to be closed.
fn wait_for_it(server: &Running, client: Client, patience: Duration) -> Came {
    let start = Instant::now();
    while server.metrics().closed_slow == 0 && start.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    gone_or_not(server, client)
}

// --- new limits while connections are held ---

/// Whether a connection may send a message of so many bytes.
#[track_caller]
fn takes(client: &mut Client, bytes: usize) {
    let message = "x".repeat(bytes);
    client.send(text(&message));
    client.assert_text(&message);
}

#[test]
fn a_reload_changes_the_server_s_limits_beneath_those_of_routes() {
    let own = RouteLimits { max_message: Some(50), ..RouteLimits::default() };
    let limits = Limits { max_message: 100, max_fragments: 2, ..calm() };
    let server = server(config(limits.clone(), own.clone()));
    let [mut own_client, mut plain_client] = [OWN, PLAIN].map(|path| server.open(path));
    takes(&mut own_client, 50);
    takes(&mut plain_client, 100);

    let wider = Limits { max_message: 200, max_fragments: 3, ..limits };
    let reloaded = server.remote().reload(&config(wider, own)).expect("sound");
    assert_eq!(reloaded.changed, ["max-fragments", "max-message"]);
    assert_eq!(reloaded.waiting, [""; 0]);
    turn(&server);
    takes(&mut plain_client, 200);
    // What the route says nothing of is the server's, as it is now.
    own_client.send(fragments(TEXT, &[b"a", b"b", b"c"]));
    own_client.assert_text("abc");
    takes(&mut own_client, 50);
    own_client.send(text("x".repeat(51)));
    own_client.assert_fails_with(1009);
    plain_client.send(text("x".repeat(201)));
    plain_client.assert_fails_with(1009);
    server.finish();
}

#[test]
fn a_reload_changes_and_ends_the_limits_of_routes() {
    let limits = Limits { max_message: 100, ..calm() };
    let own = |bytes| RouteLimits { max_message: bytes, ..RouteLimits::default() };
    let server = server(config(limits.clone(), own(Some(50))));
    let mut client = server.open(OWN);
    takes(&mut client, 50);
    for (bytes, most) in [(Some(300), 300), (None, 100), (Some(70), 70)] {
        let reloaded = server.remote().reload(&config(limits.clone(), own(bytes))).expect("sound");
        assert_eq!(reloaded.changed, ["max-message of /own"]);
        turn(&server);
        takes(&mut client, most);
        let mut over = server.open(OWN);
        over.send(text("x".repeat(most + 1)));
        over.assert_fails_with(1009);
    }
    // A route that there is not has to wait, and what is said of it is not in force.
    let mut more = config(limits.clone(), own(Some(70)));
    more.route_limits.insert("/more".to_owned(), own(Some(7)));
    let reloaded = server.remote().reload(&more).expect("sound");
    assert_eq!((reloaded.changed.len(), reloaded.waiting), (0, vec!["max-message of /more".to_owned()]));
    takes(&mut client, 70);
    client.close();
    server.finish();
}

/// A rate needs a row beside the connection, which those that are open have not: each gets it when it speaks.
#[test]
fn those_who_are_open_keep_to_a_rate_that_a_reload_brings() {
    let server = server(config(calm(), RouteLimits::default()));
    let before = server.open_many(OWN, 5);
    let mut other = server.open(PLAIN);
    let rate = RouteLimits { message_rate: Some(1), ..RouteLimits::default() };
    server.remote().reload(&config(calm(), rate)).expect("sound");
    turn(&server);
    for mut client in before {
        client.send(text("?").repeat(2));
        client.assert_text("?");
        client.assert_fails_with(1008);
    }
    other.send(text("?").repeat(2));
    (0..2).for_each(|_| other.assert_text("?"));
    other.close();
    assert_eq!(server.finish().closed_rate, 5);
}

/// Age needs a row beside the connection: one that comes after it was asked for has it.
#[test]
fn a_route_may_come_to_have_an_age_and_a_rate() {
    let server = server(config(calm(), RouteLimits::default()));
    let before = server.open(OWN);
    let reload = |own| {
        let reloaded = server.remote().reload(&config(calm(), own)).expect("sound");
        turn(&server);
        reloaded.changed
    };
    let rate = RouteLimits { message_rate: Some(1), ..RouteLimits::default() };
    assert_eq!(reload(rate), ["message-rate of /own"]);
    let mut eager = server.open(OWN);
    eager.send(text("?").repeat(2));
    eager.assert_text("?");
    eager.assert_fails_with(1008);
    let age = RouteLimits { max_age: Some(SHORT), ..RouteLimits::default() };
    assert_eq!(reload(age), ["max-age of /own", "message-rate of /own"]);
    let mut aged = server.open(OWN);
    assert_eq!(aged.assert_closes_with(1012), "retry=0");
    before.close();
    server.finish();
}

#[test]
fn limits_of_a_route_that_there_is_not_are_refused() {
    let builder = Server::builder().route("/rooms/{room}", || Obliging);
    let wrong = builder.route_limits("/rooms/a", RouteLimits::default());
    let error = wrong.check().expect_err("it is no route");
    assert!(matches!(error, StartError::Route(_)) && error.to_string().contains("`/rooms/a`"), "{error}");
}

// --- the ledger of each route ---

/// Everyone is in one topic, whatever the path, and who says anything says it to all.
struct Common;

impl App for Common {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe("all");
        cx.send("welcome");
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        cx.publish("all", message);
    }
}

#[test]
fn members_of_one_topic_are_in_the_ledgers_of_their_routes() {
    const MESSAGES: usize = 50;
    for threads in [1, 4] {
        let builder = Server::builder().threads(threads).limits(roomy());
        let routes = builder.route(OWN, || Common).route(PLAIN, || Common).route("/nobody", || Common);
        let server = Running::start(routes);
        // Side by side in the topic: each worker changes from one to the other all the time.
        let mut members: Vec<_> =
            (0..30).map(|number| server.open(if number % 3 == 0 { OWN } else { PLAIN })).collect();
        // Two that leave while there is something for them, one of them with much of it in its queue.
        let stuck = Client::open_small(server.address, OWN);
        let leaver = server.open(PLAIN);
        members.iter_mut().for_each(|member| member.assert_text("welcome"));
        let long = "x".repeat(16 * 1024);
        for number in 0..MESSAGES {
            members[number % 30].send(text(&long));
            members.iter_mut().for_each(|member| member.assert_text(&long));
        }
        let due = |members: usize| (members * (1 + MESSAGES)) as u64;
        wait_until("the ledgers say what was due", || {
            let routes = server.route_metrics();
            [routes[0].due, routes[1].due, routes[2].due] == [due(10 + 1), due(20 + 1), 0]
        });
        server.wait_for_routes();
        let routes = server.route_metrics();
        assert!(routes[0].queued > 0 && routes[1].delivered >= due(20), "{routes:#?}");
        leaver.reset();
        members[0].send(text("?").repeat(10));
        stuck.reset();
        members.iter_mut().for_each(|member| (0..10).for_each(|_| member.assert_text("?")));
        server.wait("both are gone", |metrics| metrics.connections == 30);
        server.wait_for_routes();
        let routes = server.route_metrics();
        assert!(routes[0].dropped_closed > 0 && routes[0].queued == 0, "{routes:#?}");
        members.into_iter().for_each(Client::close);
        server.finish();
    }
}

/// As [`Common`], and can be held up in the middle of a turn.
struct Held(Arc<Barrier>);

impl App for Held {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        Common.on_open(cx);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        if message.as_bytes() == b"hold" {
            self.0.wait();
            self.0.wait();
        } else {
            Common.on_message(cx, message);
        }
    }
}

/// Who leaves while a message is on its way through a large room has missed it, and that is counted where it was.
#[test]
fn what_is_missed_by_those_who_leave_is_in_the_ledger_of_their_route() {
    // More than one turn's share: the last one in the room has to wait for another turn.
    const STAY: usize = 400;
    raise_nofile().expect("up to the maximum");
    let gate = Arc::new(Barrier::new(2));
    let shared = Arc::clone(&gate);
    let held = move || Held(Arc::clone(&shared));
    let builder = Server::builder().threads(1).limits(roomy());
    let server = Running::start(builder.route(OWN, held.clone()).route(PLAIN, held));
    let mut members = server.open_many(PLAIN, STAY);
    let mut leaver = server.open(OWN);
    members.iter_mut().chain([&mut leaver]).for_each(|member| member.assert_text("welcome"));
    // The worker stands still in the turn in which the message was published: the Close is there for the next one.
    members[0].send([text("?"), text("hold")].concat());
    gate.wait();
    leaver.send(close(1000, b""));
    gate.wait();
    leaver.assert_close(1000);
    leaver.assert_eof();
    drop(leaver);
    members.iter_mut().for_each(|member| member.assert_text("?"));
    server.wait("it is gone", |metrics| metrics.connections == STAY as u64);
    server.wait_for_routes();
    let routes = server.route_metrics();
    assert_eq!([routes[0].due, routes[0].dropped_closed], [2, 1], "its welcome, and what it has missed");
    assert_eq!([routes[1].due, routes[1].dropped_closed], [2 * STAY as u64, 0]);
    members.into_iter().for_each(Client::close);
    server.finish();
}
