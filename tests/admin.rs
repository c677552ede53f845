//! The admin listener: who may ask, what is answered, and that the figures are right.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use common::admin::{Answer, Scrape, ask, exchange, get};
use common::{Client, PATIENCE, Running, calm, text, wait_until};
use serde_json::Value;
use wsd::apps::{Broadcast, Echo};
use wsd::net::fdtable::raise_nofile;
use wsd::{AdminAddress, App, Builder, Context, Deflate, Drain, Limits, Message, Server, StartError};
use wsd::{QueueTotal, RouteOptions, SlowPolicy};

fn server(threads: usize) -> Builder {
    let admin = AdminAddress::Tcp("127.0.0.1:0".to_owned());
    Server::builder().threads(threads).limits(calm()).admin(admin).route("/rooms/{room}", Broadcast::by_path)
}

fn json(answer: &Answer) -> Value {
    assert!(answer.head.contains("\r\nContent-Type: application/json"), "{}", answer.head);
    serde_json::from_str(&answer.body).expect("JSON")
}

#[test]
fn health_readiness_and_what_is_not_there() {
    let hour = Duration::from_secs(3600);
    let patient = Drain { grace: hour, timeout: 2 * hour, ..Drain::default() };
    let server = Running::start(server(1).drain(patient));
    let admin = server.admin();
    assert_eq!((get(admin, "/healthz").status, get(admin, "/healthz").body.as_str()), (200, "ok\n"));
    assert_eq!((get(admin, "/readyz").status, get(admin, "/readyz").body.as_str()), (200, "ready"));
    assert!(get(admin, "/").body.contains("/metrics"));
    assert_eq!(get(admin, "/nope").status, 404);
    server.remote().drain();
    assert_eq!((get(admin, "/readyz").status, get(admin, "/readyz").body.as_str()), (503, "draining"));
    assert_eq!(get(admin, "/healthz").status, 200, "it is alive while it drains");
    assert_eq!(Scrape::of(admin).value("wsd_ready"), 0.0);
    assert_eq!(get(server.address, "/metrics").status, 404, "nothing of this on the public port");
    server.finish();
    // A process that is being started by another test has a copy of every socket, for a moment.
    wait_until("it ends with the server", || TcpStream::connect(admin).is_err());
}

#[test]
fn what_is_not_asked_for_properly_is_refused() {
    let server = Running::start(server(1));
    let admin = server.admin();
    let host = format!("Host: {admin}\r\n");
    for (request, status) in [
        (format!("POST /metrics HTTP/1.1\r\n{host}\r\n"), 405),
        ("GET /metrics HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET /metrics HTTP/2.0\r\n{host}\r\n"), 505),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), 400),
        (format!("GET /metrics HTTP/1.1\r\n{host}X: {}\r\n\r\n", "a".repeat(8 * 1024)), 431),
        (format!("GET /metrics HTTP/1.1\r\n{host}{}\r\n", "X: a\r\n".repeat(64)), 431),
        (format!("GET /metrics HTTP/1.1\r\n{host}{}\r\n", "X: a\r\n".repeat(63)), 200),
        // A page that had its own name point to this machine.
        ("GET /connections HTTP/1.1\r\nHost: rebound.example\r\n\r\n".to_owned(), 403),
        ("GET /connections HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 200),
        (format!("GET /connections?limit=0 HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET /connections?after=x HTTP/1.1\r\n{host}\r\n"), 400),
    ] {
        assert_eq!(ask(admin, &request).status, status, "{request}");
    }
    server.finish();
}

/// Who is turned away before its request came may see a reset behind the answer.
fn status_whatever_follows(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let _ = stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {admin}\r\n\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).chars().take(12).collect()
}

#[test]
fn a_few_connections_and_none_for_long() {
    let server = Running::start(server(1));
    let admin = server.admin();
    let mut idle: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(admin).expect("accepted")).collect();
    // Connections are taken in turn, so this one is the ninth.
    assert_eq!(status_whatever_follows(admin), "HTTP/1.1 503");
    drop(idle.pop());
    let mut turned_away = 1;
    wait_until("a place is free again", || {
        let is_free = status_whatever_follows(admin) == "HTTP/1.1 200";
        turned_away += usize::from(!is_free);
        is_free
    });
    let mut late = idle.pop().expect("there are seven");
    late.set_read_timeout(Some(PATIENCE)).expect("not zero");
    late.write_all(b"GET /healthz HTTP/1.1\r\n").expect("it is read");
    let mut answer = String::new();
    late.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(Scrape::of(admin).value("wsd_admin_refused_total") as usize, turned_away);
    server.finish();
}

#[cfg(feature = "tls")]
#[test]
fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let common::tls::Secure { server, .. } =
        common::tls::Secure::start(server(2).deflate(Deflate::default()));
    let scrape = Scrape::of(server.admin());
    let docs = include_str!("../docs/metrics.md");
    // Those in the first column of a table.
    let documented: BTreeSet<&str> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .filter(|name| name.starts_with("wsd_") || name.starts_with("process_"))
        .collect();
    let exported: BTreeSet<&str> = scrape.families.iter().map(String::as_str).collect();
    assert_eq!(exported, documented);
    assert_eq!(exported.len(), scrape.families.len(), "none stands twice");
    for label in ["reason", "result"] {
        let values = scrape.label_values(label);
        assert!(values.len() >= 5, "{values:?}");
        for value in values {
            assert!(docs.contains(&format!("`{value}`")), "docs/metrics.md does not explain {label}={value}");
        }
    }
    server.finish();
}

#[test]
fn openmetrics_for_who_asks_for_it() {
    let server = Running::start(server(1));
    let admin = server.admin();
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nAccept: application/openmetrics-text\r\n\r\n");
    let answer = ask(admin, &request);
    assert!(
        answer.head.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0"),
        "{}",
        answer.head
    );
    assert!(answer.body.ends_with("# EOF\n"));
    assert!(answer.body.contains("# TYPE wsd_messages_due counter\n"));
    assert!(get(admin, "/metrics").body.contains("# TYPE wsd_messages_due_total counter\n"));
    server.finish();
}

/// A look at counters that are not in the middle of a turn. Whoever has read a message may be ahead of the counter that
/// says that it was delivered, but each worker answers a first look after the turn that it was in.
fn settled(admin: SocketAddr) -> Scrape {
    Scrape::of(admin);
    Scrape::of(admin)
}

/// Published times members is delivered, dropped or queued: at every moment in which nothing moves.
#[test]
fn the_ledger_balances_in_the_metrics() {
    const MEMBERS: usize = 10;
    const MESSAGES: usize = 200;
    let limits = Limits { queue_hard: 1 << 30, ..calm() };
    let server = Running::start(server(2).limits(limits));
    let admin = server.admin();
    let mut members = server.open_many("/rooms/a", MEMBERS - 1);
    let stuck = Client::open_small(server.address, "/rooms/a");
    let message = "x".repeat(8 * 1024);
    for _ in 0..MESSAGES {
        members[0].send(text(&message));
    }
    for member in &mut members {
        (0..MESSAGES).for_each(|_| member.assert_text(&message));
    }
    server.wait("the batches are with the one who reads nothing, too", |metrics| {
        metrics.due == (MEMBERS * MESSAGES) as u64
    });
    server.wait_for_routes();
    let due = (MEMBERS * MESSAGES) as f64;
    let scrape = settled(admin);
    assert_eq!(scrape.value(r#"wsd_messages_published_total{route="/rooms/{room}"}"#), MESSAGES as f64);
    assert_eq!(scrape.value(r#"wsd_messages_received_total{route="/rooms/{room}"}"#), MESSAGES as f64);
    assert_eq!(scrape.value("wsd_messages_due_total"), due);
    scrape.assert_balanced();
    let of_route = |scrape: &Scrape| {
        ["due_total", "delivered_total", "queued"]
            .map(|what| scrape.value(&format!("wsd_route_messages_{what}{{route=\"/rooms/{{room}}\"}}")))
    };
    let delivered = scrape.value("wsd_messages_delivered_total");
    assert_eq!(of_route(&scrape), [due, delivered, due - delivered]);
    assert!(scrape.value("wsd_messages_queued") > 0.0 && scrape.value("wsd_queued_bytes") > 0.0);
    assert_eq!(scrape.sum("wsd_queued_connections"), 1.0);
    assert_eq!(scrape.sum("wsd_connections"), MEMBERS as f64);
    assert_eq!(scrape.value(r#"wsd_route_connections{route="/rooms/{room}"}"#), MEMBERS as f64);

    let queued = scrape.value("wsd_messages_queued");
    stuck.reset();
    server.wait("it is gone", |metrics| metrics.connections == (MEMBERS - 1) as u64);
    server.remote().publish("/rooms/a", "from outside");
    members.iter_mut().for_each(|member| member.assert_text("from outside"));
    server.wait("all of it is counted", |metrics| metrics.delivered + metrics.dropped_closed == metrics.due);
    server.wait_for_routes();
    let scrape = settled(admin);
    let due = due + (MEMBERS - 1) as f64;
    assert_eq!(scrape.value("wsd_messages_due_total"), due);
    scrape.assert_balanced();
    assert_eq!(scrape.value(r#"wsd_messages_dropped_total{reason="closed"}"#), queued);
    assert_eq!(of_route(&scrape), [due, due - queued, 0.0]);
    let dropped = scrape.value(r#"wsd_route_messages_dropped_total{route="/rooms/{room}",reason="closed"}"#);
    assert_eq!(dropped, queued);
    assert_eq!(scrape.value(r#"wsd_messages_published_total{route="outside"}"#), 1.0);
    assert_eq!(scrape.value(r#"wsd_connections_closed_total{reason="lost"}"#), 1.0);
    members.into_iter().for_each(Client::close);
    server.finish();
}

/// One worker, so that each message is one batch with one end.
#[test]
fn a_fan_out_is_measured_once_for_each_batch_on_the_publishers_route() {
    let server = Running::start(server(1).route("/echo", Echo::default));
    let mut members = server.open_many("/rooms/a", 300);
    let mut echo = server.open("/echo");
    for number in 0..5 {
        members[7].send(text(format!("{number}")));
        members.iter_mut().for_each(|member| member.assert_text(&format!("{number}")));
    }
    echo.send(text("no batch"));
    echo.assert_text("no batch");
    server.remote().publish("/rooms/a", "from outside");
    members.iter_mut().for_each(|member| member.assert_text("from outside"));
    server.remote().publish("/rooms/nobody", "to nobody");
    // The end of a turn is counted after its last write.
    wait_until("both routes have their counts", || {
        let scrape = Scrape::of(server.admin());
        let count = |route| scrape.value(&format!("wsd_fan_out_seconds_count{{route=\"{route}\"}}"));
        (count("/rooms/{room}"), count("outside"), count("/echo")) == (5.0, 1.0, 0.0)
    });
    let scrape = Scrape::of(server.admin());
    assert!(scrape.value(r#"wsd_fan_out_seconds_sum{route="/rooms/{room}"}"#) > 0.0);
    assert_eq!(scrape.value(r#"wsd_fan_out_seconds_bucket{le="+Inf",route="outside"}"#), 1.0);
    assert!(scrape.value(r#"wsd_turn_seconds_count{worker="0"}"#) > 5.0);
    members.into_iter().chain([echo]).for_each(Client::close);
    server.finish();
}

#[test]
fn compression_is_counted_in_bytes_and_time() {
    let server = Running::start(server(2).deflate(Deflate::default()).route("/echo", Echo::default));
    let mut plain = server.open("/rooms/a");
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let compressed: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = server.connect();
            client.send(common::request_with("/rooms/a", offer));
            assert!(client.assert_upgraded().contains("permessage-deflate"));
            client
        })
        .collect();
    let message = "a".repeat(10_000);
    plain.send(text(&message));
    plain.assert_text(&message);
    wait_until("the work is counted", || {
        Scrape::of(server.admin()).value("wsd_deflate_input_bytes_total") > 0.0
    });
    let scrape = Scrape::of(server.admin());
    assert_eq!(scrape.value("wsd_deflate_input_bytes_total"), 10_000.0, "once for all");
    let output = scrape.value("wsd_deflate_output_bytes_total");
    assert!((2.0..200.0).contains(&output), "{output}");
    let rest = scrape.value("wsd_sent_bytes_total");
    assert!(rest < 10_000.0 + 7.0 * 500.0, "handshakes, one message as it is and six compressed: {rest}");
    assert!(scrape.value("wsd_deflate_seconds_total") > 0.0);
    compressed.into_iter().for_each(Client::reset);
    plain.close();
    server.finish();
}

#[test]
fn connections_come_in_pages_and_each_once() {
    let server = Running::start(server(3));
    let admin = server.admin();
    let mut clients = server.open_many("/rooms/a", 20);
    clients.extend(server.open_many("/rooms/b", 4));
    let handshaking = server.connect();
    server.wait("all are accepted", |metrics| metrics.connections == 25);
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = json(&get(admin, &format!("/connections?limit=7{after}")));
        let rows = page["connections"].as_array().expect("a list");
        assert_eq!(page["workers_without_answer"], serde_json::json!([]));
        seen.extend(rows.iter().cloned());
        match page["next"].as_str() {
            Some(next) => {
                assert_eq!(rows.len(), 7, "only the last page is shorter");
                after = format!("&after={next}");
            }
            None => break,
        }
    }
    let ids: BTreeSet<&str> = seen.iter().map(|row| row["id"].as_str().expect("an id")).collect();
    assert_eq!((seen.len(), ids.len()), (25, 25));
    let count = |path: &str| seen.iter().filter(|row| row["path"] == path).count();
    assert_eq!((count("/rooms/a"), count("/rooms/b")), (20, 4));
    for row in &seen {
        assert!(row["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{row}");
        assert_eq!((&row["queued_bytes"], &row["waiting_seconds"]), (&Value::from(0), &Value::Null), "{row}");
        let open = row["path"].is_string();
        assert_eq!(row["phase"], if open { "open" } else { "handshake" }, "{row}");
        assert_eq!(row["route"], if open { Value::from("/rooms/{room}") } else { Value::Null }, "{row}");
        assert!(row["age_seconds"].is_u64() && row["idle_seconds"].is_f64(), "{row}");
    }
    drop(handshaking);
    clients.into_iter().for_each(Client::close);
    server.finish();
}

/// More slots than a worker looks at in one turn, most of them free again.
/// To describe a connection takes a system call. A thousand of them in one turn would hold up everybody on that worker.
#[test]
fn a_large_page_is_made_in_several_turns() {
    const COUNT: usize = 600;
    const EACH_TURN: u64 = 128;
    raise_nofile().expect("up to the maximum");
    let server = Running::start(server(1));
    let clients = server.open_many("/rooms/a", COUNT);
    // The turn of the last handshake, which is counted, could still read the question.
    settled(server.admin());
    let before = server.metrics().turns;
    let page = json(&get(server.admin(), "/connections?limit=1000"));
    let turns = server.metrics().turns - before;
    let rows = page["connections"].as_array().expect("rows");
    let mut ids: Vec<_> = rows.iter().map(|row| row["id"].as_str().expect("an id")).collect();
    ids.dedup();
    assert_eq!((rows.len(), ids.len(), page["next"].is_null()), (COUNT, COUNT, true));
    assert!(turns >= (COUNT as u64).div_ceil(EACH_TURN), "{turns} turns");
    drop(clients);
    server.finish();
}

#[test]
fn a_page_behind_many_free_slots_is_found() {
    let server = Running::start(server(1));
    let mut clients = server.open_many("/rooms/a", 1500);
    let last = clients.pop().expect("there are many");
    clients.into_iter().for_each(Client::close);
    server.wait("one is left", |metrics| metrics.connections == 1);
    let page = json(&get(server.admin(), "/connections?limit=2"));
    assert_eq!(page["connections"].as_array().map(Vec::len), Some(1), "{page}");
    assert_eq!(page["next"], Value::Null);
    last.close();
    server.finish();
}

/// What a worker keeps for connections is given back when they go; only the room for as many again stays.
#[test]
fn slots_topics_and_memberships_come_and_go_with_connections() {
    const CLIENTS: usize = 40;
    let server = Running::start(server(2));
    let admin = server.admin();
    let sums = |scrape: &Scrape| {
        let slots = |state: &str| -> f64 {
            let of = |worker| scrape.value(&format!(r#"wsd_slots{{worker="{worker}",state="{state}"}}"#));
            of(0) + of(1)
        };
        [slots("used"), slots("free"), scrape.sum("wsd_topics"), scrape.sum("wsd_topic_members")]
    };
    assert_eq!(sums(&Scrape::of(admin)), [0.0; 4]);
    // Three in each room, on either worker.
    let clients: Vec<Client> =
        (0..CLIENTS).map(|number| server.open(&format!("/rooms/{}", number / 3))).collect();
    let scrape = Scrape::of(admin);
    let [used, free, topics, members] = sums(&scrape);
    assert_eq!((used, members), (CLIENTS as f64, CLIENTS as f64));
    assert!((14.0..=28.0).contains(&topics), "{topics}: 14 rooms, with members on one worker or on both");
    assert!(scrape.sum("wsd_timers") >= used, "each has its deadline");
    clients.into_iter().for_each(Client::close);
    wait_until("all is given back but the room", || sums(&Scrape::of(admin)) == [0.0, used + free, 0.0, 0.0]);
    server.finish();
}

#[test]
fn who_waits_is_seen() {
    let limits = Limits { queue_hard: 1 << 30, ..calm() };
    let server = Running::start(server(2).limits(limits));
    let mut sender = server.open("/rooms/a");
    let stuck = Client::open_small(server.address, "/rooms/a");
    let message = "x".repeat(64 * 1024);
    for _ in 0..100 {
        sender.send(text(&message));
        sender.assert_text(&message);
    }
    server.wait("something waits, and nothing is under way", |metrics| {
        metrics.queued_bytes > 0 && metrics.due == 200 && metrics.due == metrics.delivered + metrics.queued
    });
    wait_until("it has waited for a moment", || {
        Scrape::of(server.admin()).sum("wsd_queued_oldest_seconds") > 0.0
    });
    let with_queue = |bytes: f64| {
        let page = json(&get(server.admin(), &format!("/connections?queued={bytes}")));
        page["connections"].as_array().expect("a list").len()
    };
    // The kernel may take a little more at any time.
    wait_until("all pages and the metrics say the same", || {
        let page = json(&get(server.admin(), "/connections"));
        let rows = page["connections"].as_array().expect("a list");
        let waiting: Vec<&Value> = rows.iter().filter(|row| row["waiting_seconds"].is_f64()).collect();
        assert_eq!(waiting.len(), 1, "{page}");
        let queued = waiting[0]["queued_bytes"].as_f64().expect("a number");
        let counts = [0.0, 1.0, queued, queued + 1.0].map(with_queue);
        queued == Scrape::of(server.admin()).value("wsd_queued_bytes") && counts == [2, 1, 1, 0]
    });
    stuck.reset();
    sender.close();
    server.finish();
}

/// Waits in a callback until it is released, and its worker with it.
struct Stuck(Arc<Barrier>);

impl App for Stuck {
    fn on_message(&mut self, _: &mut Context<'_>, _: Message<'_>) {
        self.0.wait();
    }
}

#[test]
fn a_worker_that_is_stuck_is_left_out_and_the_rest_is_shown() {
    let barrier = Arc::new(Barrier::new(2));
    let shared = Arc::clone(&barrier);
    let server = Running::start(server(2).route("/stuck", move || Stuck(Arc::clone(&shared))));
    let mut client = server.open("/stuck");
    client.send(text("stop here"));
    server.wait("it is in the callback", |metrics| metrics.messages_in == 1);
    // When one has used up the time of all, the other one has a moment, and on a busy machine may miss it.
    wait_until("the other one is there", || {
        let page = json(&get(server.admin(), "/connections"));
        let stuck = page["workers_without_answer"].as_array().expect("a list");
        assert_eq!(page["connections"], serde_json::json!([]), "{page}");
        assert!((1..=2).contains(&stuck.len()), "{page}");
        stuck.len() == 1
    });
    let scrape = Scrape::of(server.admin());
    assert_eq!(scrape.label_values("worker"), ["0", "1"]);
    wait_until("of the other one everything is there", || {
        let scrape = Scrape::of(server.admin());
        let seen = ["wsd_queued_connections", "wsd_topics"].map(|metric| scrape.samples_of(metric));
        assert!(seen.iter().all(|samples| *samples <= 1), "{seen:?}");
        seen == [1, 1]
    });
    assert_eq!(scrape.value(r#"wsd_messages_received_total{route="/stuck"}"#), 1.0);
    assert_eq!(get(server.admin(), "/healthz").status, 200);
    barrier.wait();
    wait_until("it is back", || Scrape::of(server.admin()).samples_of("wsd_queued_connections") == 2);
    client.close();
    server.finish();
}

#[test]
fn the_configuration_in_force() {
    let limits = Limits { max_message: 4321, ..calm() };
    let builder = server(2).limits(limits).deflate(Deflate { level: 7, ..Deflate::default() });
    let about = BTreeMap::from([("app", "ticker".into()), ("quotes_token", "abc".into())]);
    let ticker =
        RouteOptions { about, slow_policy: SlowPolicy::DropOldest, gap_notice: Some("gap".to_owned()) };
    let builder = builder.queue_total(QueueTotal::Bytes(123_456));
    let server = Running::start(builder.route_with("/ticker", ticker, Broadcast::by_path));
    let shown = json(&get(server.admin(), "/config"));
    assert_eq!(shown["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(shown["config"]["limits"]["max_message"], 4321);
    assert_eq!(shown["config"]["limits"]["close_timeout"], "3600s");
    assert_eq!((&shown["config"]["threads"], &shown["config"]["deflate"]["level"]), (&2.into(), &7.into()));
    // What nobody has said of an app is not there, and secrets are not shown.
    let routes = serde_json::json!([
        {"path": "/rooms/{room}", "slow_policy": "close", "gap_notice": null},
        {"path": "/ticker", "app": "ticker", "quotes_token": "***", "slow_policy": "drop-oldest", "gap_notice": "gap"},
    ]);
    assert_eq!(shown["routes"], routes);
    assert_eq!((&shown["queue_memory_max"], &shown["log"]), (&123_456.into(), &"off".into()));
    assert_eq!(Scrape::of(server.admin()).value("wsd_queue_memory_limit_bytes"), 123_456.0);
    server.finish();
}

/// A path for a socket in a directory of its own.
fn socket_path(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("admin-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("the directory of the tests is writable");
    directory.join(name)
}

#[test]
fn a_unix_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let path = socket_path("a.sock");
    drop(UnixListener::bind(&path).expect("a new path"));
    assert!(path.exists(), "a socket file outlives its listener");
    // A process that is being started by another test has a copy of every socket, for a moment.
    wait_until("nobody listens there", || UnixStream::connect(&path).is_err());
    let at = |path: &PathBuf| server(1).admin(AdminAddress::Unix(path.clone()));
    let running = Running::start(at(&path));
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // No rule about names here: no web page reaches it.
    let request = "GET /healthz HTTP/1.1\r\nHost: wsd\r\n\r\n";
    let answer = exchange(UnixStream::connect(&path).expect("it listens"), request);
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    let refused = at(&path).listen("127.0.0.1:0").start();
    assert!(matches!(refused, Err(StartError::Admin(AdminAddress::Unix(_), _))), "{refused:?}");
    running.finish();
    assert!(!path.exists(), "it is taken away with the server");
    std::fs::write(&path, "not a socket").expect("writable");
    let refused = at(&path).listen("127.0.0.1:0").start();
    assert!(matches!(refused, Err(StartError::Admin(AdminAddress::Unix(_), _))), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), "not a socket", "nothing is overwritten");
}

#[test]
fn an_address_in_use_is_an_error_of_the_admin_listener() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("port 0 is free");
    let address = taken.local_addr().expect("bound").to_string();
    let refused =
        server(1).admin(AdminAddress::Tcp(address.clone())).listen("127.0.0.1:0").start().expect_err("taken");
    let said = refused.to_string();
    assert!(
        said.contains("admin") && said.contains(&address) && said.contains("something listens there"),
        "{said}"
    );
}

#[cfg(feature = "cli")]
mod program {
    use std::collections::BTreeMap;

    use rustix::process::Signal;
    use serde_json::{Value, json};

    use super::common::program::{Program, run, wsd};
    use super::{Scrape, get, socket_path, text};

    #[test]
    fn a_bad_address_is_one_line_and_so_is_one_in_use() {
        for bad in ["9090", "unix:", ":9090", "localhost:http"] {
            let output = run(wsd(&["--listen", "127.0.0.1:0", "--admin", bad]));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
            assert!(stderr.contains("--admin") && stderr.contains("see wsd --help"), "{stderr}");
        }
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("port 0 is free");
        let address = taken.local_addr().expect("bound").to_string();
        let missing = format!("unix:{}/no/such/directory/admin.sock", socket_path("x").display());
        for bad in [address, missing] {
            let output = run(wsd(&["--listen", "127.0.0.1:0", "--admin", &bad]));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
            assert!(stderr.starts_with("wsd: ") && stderr.contains(&bad), "{stderr}");
            assert!(stderr.ends_with("choose another one with --admin\n"), "{stderr}");
        }
    }

    #[test]
    fn empty_is_off_and_a_public_address_is_warned_about() {
        let off = Program::serve(&["--admin", ""]);
        assert!(!off.ready.contains("admin"), "{}", off.ready);
        for (address, warned) in [("127.0.0.1:0", false), ("localhost:0", false), ("0.0.0.0:0", true)] {
            let program = Program::serve(&["--admin", address]);
            assert!(program.ready.contains(", admin on http://"), "{}", program.ready);
            program.signal(Signal::TERM);
            let stderr = String::from_utf8_lossy(&program.output().stderr).into_owned();
            assert_eq!(stderr.contains("not on a loopback address"), warned, "{address}: {stderr}");
        }
    }

    /// What `/config` says of the routes.
    fn routes(flags: &[&str]) -> Value {
        let program = Program::serve(&[&["--admin", "127.0.0.1:0"], flags].concat());
        super::json(&get(program.admin(), "/config"))["routes"].take()
    }

    /// What it should say of one: the defaults, but for these settings.
    fn route(path: &str, app: &str, own: Value) -> Value {
        let mut route =
            json!({"path": path, "app": app, "greeting": null, "slow_policy": "close", "gap_notice": null});
        let Value::Object(own) = own else { panic!("an object") };
        route.as_object_mut().expect("an object").extend(own);
        route
    }

    #[test]
    fn it_is_said_which_app_serves_which_path_with_the_settings_that_it_uses() {
        let chat = json!({"greeting": wsd::apps::CHAT_GREETING, "skip_sender": false, "topic": "chat"});
        let always = [
            route("/echo", "echo", json!({"reply": "{}"})),
            route("/chat", "chat", chat.clone()),
            route("/sink", "sink", json!({})),
            route("/rooms/{room}", "broadcast", json!({"skip_sender": false, "topic": null})),
        ];
        let with = |own: &[Value]| Value::Array([&always, own].concat());
        assert_eq!(routes(&[]), with(&[route("/", "chat", chat)]));
        let echo = route("/", "echo", json!({"reply": "<{}>"}));
        assert_eq!(routes(&["--app=echo", "--reply=<{}>"]), with(&[echo]));
        let own = ["/", "/more"].map(|path| {
            let rest =
                json!({"greeting": "hi", "skip_sender": true, "topic": "broadcast", "slow_policy": "latest"});
            route(path, "broadcast", rest)
        });
        let flags =
            ["--app=broadcast", "--path=/more", "--greeting=hi", "--skip-sender", "--slow-policy=latest"];
        assert_eq!(routes(&flags), with(&own));
    }

    #[test]
    fn the_same_is_said_of_a_file_s_routes() {
        let file = socket_path("routes.toml");
        let text = r#"
            [[route]]
            path = "/scores/{game}"
            app = "broadcast"
            slow-policy = "drop-oldest"
            gap-notice = "gap"

            [[route]]
            path = "/"
            topic = "lobby"
            greeting = "hi"
        "#;
        std::fs::write(&file, text).expect("writable");
        let policy =
            json!({"slow_policy": "drop-oldest", "gap_notice": "gap", "skip_sender": false, "topic": null});
        let lobby = json!({"greeting": "hi", "skip_sender": false, "topic": "lobby"});
        let expected = json!([route("/scores/{game}", "broadcast", policy), route("/", "chat", lobby)]);
        assert_eq!(routes(&["--config", file.to_str().expect("UTF-8")]), expected);
    }

    /// A worker's table is a copy of the main one from before the admin listener was opened: it has no share in it.
    #[test]
    fn the_listener_is_in_one_table_and_descriptors_are_counted_in_each() {
        let program = Program::serve(&["--threads", "2", "--admin", "127.0.0.1:0"]);
        let clients: Vec<_> = (0..30).map(|_| program.open("/chat")).collect();
        let scrape = Scrape::of(program.admin());
        assert_eq!(scrape.sum("wsd_connections"), 30.0);
        let private = program.ready.contains("private tables");
        let own: f64 = scrape.sum("wsd_descriptors") - scrape.value(r#"wsd_descriptors{table="main"}"#);
        if private {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", program.pid())).expect("it runs");
            let listener = listener(&program).expect("it listens");
            let mut holders: BTreeMap<String, usize> = BTreeMap::new();
            for task in tasks {
                let task = task.expect("readable").path();
                // The thread that answered the scrape may end meanwhile.
                let (Ok(name), Ok(table)) =
                    (std::fs::read_to_string(task.join("comm")), std::fs::read_dir(task.join("fd")))
                else {
                    continue;
                };
                let held = table.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
                let listens = held.filter(|link| link.to_string_lossy() == listener).count();
                *holders.entry(name.trim().to_owned()).or_default() += listens;
            }
            assert_eq!((holders["wsd-0"], holders["wsd-1"], holders["wsd-admin"]), (0, 0, 1), "{holders:?}");
            let fixed: f64 = own - 30.0;
            assert!((8.0..60.0).contains(&fixed), "{own} descriptors for 30 connections");
        }
        drop(clients);
    }

    /// What the admin listener's descriptor links to.
    fn listener(program: &Program) -> Option<String> {
        let port = format!(":{:04X}", program.admin().port());
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", program.pid())).expect("readable");
        let row = table.lines().find(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some("0A")
        })?;
        Some(format!("socket:[{}]", row.split_whitespace().nth(9)?))
    }

    #[test]
    fn the_log_has_json_lines_and_never_what_a_message_says() {
        let program = Program::serve(&["--log", "trace", "--log-format", "json", "--admin", "127.0.0.1:0"]);
        let mut client = program.open("/echo");
        client.send(text("a secret of theirs"));
        client.assert_text("a secret of theirs");
        client.close();
        let mut refused = program.connect();
        refused.send("POST / HTTP/1.1\r\nHost: a\r\n\r\n");
        refused.assert_status(405);
        assert_eq!(get(program.admin(), "/healthz").status, 200);
        program.signal(Signal::TERM);
        let stderr = String::from_utf8_lossy(&program.output().stderr).into_owned();
        assert!(!stderr.contains("secret"), "{stderr}");
        let lines: Vec<serde_json::Value> =
            stderr.lines().map(|line| serde_json::from_str(line).expect("an object on each line")).collect();
        let with = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
        assert_eq!(with("message")[0]["bytes"], 18, "{stderr}");
        let summary = with("handshakes refused (malformed)");
        assert_eq!((summary.len(), &summary[0]["count"]), (1, &1.into()), "{stderr}");
    }
}
