//! Who is let in, for how long, and with how many messages: limits by address, rate and age, and clients that come
//! through proxies.

mod common;

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use common::admin::get;
use common::{CLOSE, Client, PATIENCE, Running, calm, close, request, request_with, text};
use serde_json::Value;
use wsd::apps::Echo;
use wsd::{AdminAddress, Config, Drain, Limits, Proxies, Server, StartError};

fn server(config: Config) -> Running {
    Running::start(Server::builder().config(Config { threads: 1, ..config }).app(Echo::default))
}

fn proxies(networks: &[&str], protocol: bool) -> Proxies {
    let trusted = networks.iter().map(|network| network.parse().expect("a network")).collect();
    Proxies { trusted, protocol }
}

#[test]
fn an_address_may_hold_so_many_connections_and_not_one_more() {
    let server = server(Config { max_conns_per_ip: 3, limits: calm(), ..Config::default() });
    let mut clients = server.open_many("/", 3);
    for refused in 1..=2 {
        let mut client = server.connect();
        client.send_to_whom_it_may_concern(request("/").as_bytes());
        client.assert_status(429);
        server.wait("it is counted", |metrics| metrics.refused_address == refused);
    }
    clients.pop().expect("three").close();
    server.wait("its place is free", |metrics| metrics.connections == 2);
    clients.push(server.open("/"));
    clients.into_iter().for_each(Client::close);
    assert_eq!(server.finish().opened, 4);
}

#[test]
fn every_worker_counts_the_same_addresses() {
    let config = Config { threads: 4, max_conns_per_ip: 10, limits: calm(), ..Config::default() };
    let server = Running::start(Server::builder().config(config).app(Echo::default));
    let clients: Vec<_> = (0..30)
        .map(|_| {
            let mut client = server.connect();
            client.send_to_whom_it_may_concern(request("/").as_bytes());
            client
        })
        .collect();
    let metrics = server.wait("all have an answer", |it| it.opened + it.refused_address == 30);
    assert_eq!((metrics.opened, metrics.refused_address), (10, 20));
    clients.into_iter().for_each(Client::reset);
    server.finish();
}

#[test]
fn connections_over_the_rate_wait_and_are_not_refused() {
    // All of them are in the backlog when the server starts.
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    let clients: Vec<_> = (0..4).map(|_| Client::connect(address)).collect();
    let config = Config { threads: 1, accept_rate: 1, limits: calm(), ..Config::default() };
    let builder = Server::builder().config(config).listener(socket).app(Echo::default);
    let server = Running::start(builder);
    let metrics = server.wait("each is accepted", |metrics| metrics.accepted == 4);
    assert_eq!(metrics.accepted_late, 3, "{metrics:#?}");
    clients.into_iter().for_each(Client::reset);
    server.finish();
}

/// Who connects to one address does not wait until nobody comes to another any more.
#[test]
fn listeners_have_equal_shares_of_the_rate() {
    let config = Config { threads: 1, accept_rate: 1, limits: calm(), ..Config::default() };
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [here, elsewhere] = [&first, &second].map(|socket| socket.local_addr().expect("bound"));
    // All of them are there before the server, however long it takes to connect.
    let crowd: Vec<_> = (0..20).map(|_| Client::connect(here)).collect();
    let mut other = Client::connect(elsewhere);
    let builder = Server::builder().config(config).listener(first).listener(second).app(Echo::default);
    let server = Running::start(builder);
    other.handshake("/");
    let accepted = server.metrics().accepted;
    assert!(accepted < 12, "{accepted} of 20 were before the one that came to another address");
    crowd.into_iter().chain([other]).for_each(Client::reset);
    server.finish();
}

/// Whoever waits for its turn when the server ends is let in to be told so.
#[test]
fn a_drain_does_not_wait_for_the_rate() {
    let at_once = Drain { grace: Duration::ZERO, spread: Duration::ZERO, ..Drain::default() };
    let server = server(Config { accept_rate: 1, drain: at_once, limits: calm(), ..Config::default() });
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(request("/")));
    clients[0].assert_upgraded();
    server.remote().drain();
    clients[0].assert_closes_with(1012);
    for client in &mut clients[1..] {
        client.assert_upgraded();
        client.assert_closes_with(1012);
    }
    assert_eq!(server.finish().opened, 4);
}

#[test]
fn so_many_messages_a_second_and_not_one_more() {
    let limits = Limits { message_rate: 3, ..calm() };
    let server = server(Config { limits, ..Config::default() });
    let messages = text("hi").repeat(3);
    let mut within = server.open("/");
    within.send(&messages);
    (0..3).for_each(|_| within.assert_text("hi"));

    let mut over = server.open("/");
    over.send([messages, text("one too many")].concat());
    (0..3).for_each(|_| over.assert_text("hi"));
    over.assert_fails_with(1008);
    within.close();
    let metrics = server.finish();
    assert_eq!((metrics.closed_rate, metrics.messages_in), (1, 6));
}

#[test]
fn a_connection_ends_at_its_age_and_may_come_back_at_once() {
    let limits = Limits { max_age: Duration::from_millis(200), ..calm() };
    let server = server(Config { limits, ..Config::default() });
    let mut client = server.open("/");
    // However much it has to say.
    let start = Instant::now();
    let end = loop {
        assert!(start.elapsed() < PATIENCE, "it does not age");
        client.send(text("hi"));
        let frame = client.read_frame();
        if frame.opcode == CLOSE {
            break frame;
        }
        assert_eq!(frame.payload, b"hi");
    };
    assert_eq!(end.payload, [&1012u16.to_be_bytes()[..], b"retry=0"].concat());
    client.send_to_whom_it_may_concern(&close(1012, b""));
    client.assert_eof();
    assert_eq!(server.finish().closed_aged, 1);
}

#[test]
fn without_an_age_connections_stay() {
    let server = Running::echo(calm());
    let mut client = server.open("/");
    assert!(client.is_silent_for(Duration::from_millis(300)));
    client.close();
    server.finish();
}

// --- X-Forwarded-For ---

fn forwarded(value: &str) -> String {
    request_with("/", &format!("X-Forwarded-For: {value}\r\n"))
}

#[test]
fn behind_a_trusted_proxy_the_client_that_it_names_is_counted() {
    let proxies = proxies(&["127.0.0.0/8"], false);
    let server = server(Config { max_conns_per_ip: 1, proxies, limits: calm(), ..Config::default() });
    let open = |value| {
        let mut client = server.connect();
        client.send(forwarded(value));
        client
    };
    let mut first = open("192.0.2.1");
    first.assert_upgraded();
    open("192.0.2.1").assert_status(429);
    open("203.0.113.9, 192.0.2.1").assert_status(429);
    open("192.0.2.1, 127.0.0.2").assert_status(429);
    let mut other = open("192.0.2.1, 192.0.2.2");
    other.assert_upgraded();
    first.close();
    server.wait("the place is free", |metrics| metrics.connections == 1);
    let mut again = open("192.0.2.1");
    again.assert_upgraded();
    again.close();
    other.close();
    let metrics = server.finish();
    assert_eq!((metrics.opened, metrics.refused_address), (3, 3));
}

#[test]
fn nobody_else_is_believed() {
    let proxies = proxies(&["192.0.2.0/24"], false);
    let server = server(Config { max_conns_per_ip: 1, proxies, limits: calm(), ..Config::default() });
    let mut first = server.connect();
    first.send(forwarded("192.0.2.1"));
    first.assert_upgraded();
    let mut second = server.connect();
    second.send_to_whom_it_may_concern(forwarded("192.0.2.2").as_bytes());
    second.assert_status(429);
    first.close();
    server.finish();
}

/// Pages from localhost may connect to a server on a loopback address, for development. Behind a proxy on the same
/// machine every connection is a loopback one, and the client's address decides.
#[test]
fn a_proxy_on_this_machine_does_not_make_its_clients_local() {
    let server =
        server(Config { proxies: proxies(&["127.0.0.1/32"], false), limits: calm(), ..Config::default() });
    for (client, status) in [("192.0.2.1", 403), ("127.0.0.1", 101)] {
        let mut it = server.connect();
        let headers = format!("Origin: http://localhost:3000\r\nX-Forwarded-For: {client}\r\n");
        it.send(request_with("/", &headers));
        if status == 101 {
            it.assert_upgraded();
            it.close();
        } else {
            it.assert_status(status);
        }
    }
    assert_eq!(server.finish().handshakes_foreign_origin, 1);
}

/// Otherwise all that is seen of a thousand clients is one proxy.
#[test]
fn who_looks_at_the_connections_sees_for_whom_they_are() {
    let admin = Some(AdminAddress::Tcp("127.0.0.1:0".to_owned()));
    for (proxies, expected) in [
        (
            proxies(&["127.0.0.0/8"], false),
            vec![Some("192.0.2.1"), Some("2001:db8::7"), Some("127.0.0.1"), None],
        ),
        (Proxies::default(), vec![None; 4]),
    ] {
        let server = server(Config { proxies, admin: admin.clone(), limits: calm(), ..Config::default() });
        let heads = [forwarded("192.0.2.1"), forwarded("2001:db8::7"), request("/")];
        let mut clients: Vec<_> = heads.iter().map(|head| (server.connect(), head)).collect();
        for (client, head) in &mut clients {
            client.send(head);
            client.assert_upgraded();
        }
        let asks = server.connect();
        server.wait("all are accepted", |metrics| metrics.connections == 4);
        let page: Value = serde_json::from_str(&get(server.admin(), "/connections").body).expect("JSON");
        let rows = page["connections"].as_array().expect("a list");
        let named: Vec<_> = rows.iter().map(|row| row["client"].as_str()).collect();
        assert_eq!(named, expected, "{page}");
        drop(asks);
        clients.into_iter().for_each(|(client, _)| client.close());
        server.finish();
    }
}

// --- the PROXY protocol ---

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 127.0.0.1 4660 8080\r\n";

fn version_1(client: Ipv4Addr) -> Vec<u8> {
    format!("PROXY TCP4 {client} 127.0.0.1 4660 8080\r\n").into_bytes()
}

/// Version 2, with an extension.
fn version_2(client: Ipv4Addr) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f".to_vec();
    bytes.extend(client.octets());
    bytes.extend([127, 0, 0, 1, 0x12, 0x34, 0x1f, 0x90, 4, 0, 0]);
    bytes
}

fn behind_proxy(max_conns_per_ip: u32, limits: Limits) -> Running {
    let proxies = proxies(&["127.0.0.0/8"], true);
    server(Config { max_conns_per_ip, proxies, limits, ..Config::default() })
}

#[test]
fn the_header_names_the_client_in_both_versions_and_however_it_is_cut() {
    let server = behind_proxy(1, calm());
    for header in [V1.to_vec(), version_2(Ipv4Addr::new(192, 0, 2, 1))] {
        for piece in [1, 7, 4096] {
            let mut client = server.connect();
            client.send_in_pieces(&[&header, request("/").as_bytes()].concat(), piece);
            client.assert_upgraded();
            let mut second = server.connect();
            second.send([&header, request("/").as_bytes()].concat());
            second.assert_status(429);
            client.send(text("hi"));
            client.assert_text("hi");
            client.close();
            server.wait("the place is free", |metrics| metrics.connections == 0);
        }
    }
    let metrics = server.finish();
    assert_eq!((metrics.opened, metrics.refused_address, metrics.proxy_headers_invalid), (6, 6, 0));
}

#[test]
fn without_the_header_a_proxy_s_connection_is_dropped() {
    let server = behind_proxy(0, calm());
    for input in [request("/").into_bytes(), vec![b'x'; 4096], b"PROXY nonsense\r\n".to_vec()] {
        let mut client = server.connect();
        client.send_to_whom_it_may_concern(&input);
        client.assert_eof();
    }
    let mut half = server.connect();
    half.send(&V1[..20]);
    half.shutdown_write();
    half.assert_eof();
    let metrics = server.finish();
    assert_eq!((metrics.proxy_headers_invalid, metrics.opened), (3, 0));
}

#[test]
fn the_header_has_the_handshake_s_time() {
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..calm() };
    let server = behind_proxy(0, limits);
    let mut client = server.connect();
    client.send(&V1[..20]);
    client.assert_status(408);
    assert_eq!(server.finish().handshakes_timed_out, 1);
}

#[test]
fn a_proxy_that_asks_for_itself_is_not_counted() {
    let server = behind_proxy(1, calm());
    let mut clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = server.connect();
            client.send(["PROXY UNKNOWN\r\n", &request("/")].concat());
            client.assert_upgraded();
            client
        })
        .collect();
    clients.iter_mut().for_each(|client| client.send(text("hi")));
    clients.iter_mut().for_each(|client| client.assert_text("hi"));
    clients.into_iter().for_each(Client::close);
    assert_eq!(server.finish().opened, 3);
}

/// A balancer that names the proxy before it, which says in the request for whom it is.
#[test]
fn behind_a_proxy_that_the_header_names_is_whom_that_one_names() {
    let admin = Some(AdminAddress::Tcp("127.0.0.1:0".to_owned()));
    let proxies = proxies(&["127.0.0.0/8", "198.51.100.0/24"], true);
    let server = server(Config { max_conns_per_ip: 1, proxies, admin, limits: calm(), ..Config::default() });
    let cases = [
        ("198.51.100.1", "X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
        ("198.51.100.1", "X-Forwarded-For: 203.0.113.9, 192.0.2.1, 198.51.100.2\r\n", "192.0.2.1"),
        (
            "198.51.100.1",
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 198.51.100.3,127.0.0.9\r\n",
            "192.0.2.1",
        ),
        ("198.51.100.1", "X-Forwarded-For: 198.51.100.3, 198.51.100.2\r\n", "198.51.100.3"),
        // No address: whoever is the last on the way there.
        ("198.51.100.1", "X-Forwarded-For: 192.0.2.1, unknown\r\n", "198.51.100.1"),
        ("198.51.100.1", "X-Forwarded-For: 192.0.2.1, unknown, 198.51.100.2\r\n", "198.51.100.2"),
        ("198.51.100.1", "", "198.51.100.1"),
        // Nobody trusts whoever wrote that.
        ("192.0.2.7", "X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.7"),
    ];
    let headers = [version_1, version_2];
    for ((named, forwarded, client), header) in cases.iter().flat_map(|case| headers.map(|it| (case, it))) {
        let head = [header(named.parse().expect("an address")), request_with("/", forwarded).into()].concat();
        let mut first = server.connect();
        first.send(&head);
        first.assert_upgraded();
        let page: Value = serde_json::from_str(&get(server.admin(), "/connections").body).expect("JSON");
        assert_eq!(page["connections"][0]["client"], *client, "{named} {forwarded}");
        let mut second = server.connect();
        second.send(&head);
        second.assert_status(429);
        first.close();
        server.wait("its place is free", |metrics| metrics.connections == 0);
    }
    let metrics = server.finish();
    assert_eq!((metrics.opened, metrics.refused_address), (16, 16));
}

/// From anybody else it is what it looks like: no HTTP.
#[test]
fn a_header_from_a_stranger_is_a_bad_request() {
    let proxies = proxies(&["192.0.2.0/24"], true);
    let server = server(Config { proxies, limits: calm(), ..Config::default() });
    let mut client = server.connect();
    client.send_to_whom_it_may_concern(&[V1, request("/").as_bytes()].concat());
    client.assert_status(400);
    assert_eq!(server.finish().handshakes_refused, 1);
}

#[test]
fn the_protocol_without_a_proxy_to_trust_is_a_mistake() {
    let proxies = Proxies { trusted: Vec::new(), protocol: true };
    let builder = Server::builder().config(Config { proxies, ..Config::default() }).app(Echo::default);
    assert!(matches!(builder.start(), Err(StartError::Setting(_))));
}

// --- descriptors ---

/// R3: 2,000 clients and 512 descriptors, of which the program inherits more than it counts on, so that accept itself
/// fails. Everybody has an answer, those inside are served, and there is room again when some leave.
#[cfg(feature = "cli")]
#[test]
fn r3_two_thousand_clients_and_512_descriptors() {
    use common::program::Program;
    use wsd::net::fdtable::raise_nofile;

    const CLIENTS: usize = 2_000;
    raise_nofile().expect("up to the maximum");
    // Opened by the shell: what is inheritable here, the programs of other tests would inherit as well.
    let script = r#"ulimit -n 512; for _ in {1..100}; do exec {any}</dev/null; done; exec "$0" "$@""#;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_wsd")]);
    command.args(["--listen", "127.0.0.1:0", "--threads", "1", "--log", "off"]);
    let program = Program::start(command);

    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = program.connect();
            client.send_to_whom_it_may_concern(request("/echo").as_bytes());
            client
        })
        .collect();
    let mut inside = Vec::new();
    for mut client in clients.drain(..) {
        let head = client.read_head();
        if head.starts_with("HTTP/1.1 101 ") {
            inside.push(client);
        } else {
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        }
    }
    assert!((300..448).contains(&inside.len()), "{} are inside", inside.len());
    for client in &mut inside {
        client.send(text("hello"));
        client.assert_text("hello");
    }
    let before = program.processor_ticks();
    assert!(inside[0].is_silent_for(Duration::from_millis(600)));
    let used = program.processor_ticks() - before;
    assert!(used < 12, "{used}0 ms of processor time in 600 ms of rest");

    inside.drain(..200).for_each(Client::close);
    let mut fresh = 0;
    common::wait_until("200 more are inside", || {
        let mut client = program.connect();
        client.send_to_whom_it_may_concern(request("/echo").as_bytes());
        if client.read_head().starts_with("HTTP/1.1 101 ") {
            inside.push(client);
            fresh += 1;
        }
        fresh == 200
    });
}

/// A server that can hold nobody would be ready, and refuse everyone.
#[cfg(feature = "cli")]
#[test]
fn r3_no_room_at_all_is_a_reason_not_to_start() {
    use common::program::run;

    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"ulimit -n 64; exec "$0" "$@""#, env!("CARGO_BIN_EXE_wsd")]);
    command.args(["--listen", "127.0.0.1:0", "--threads", "2"]);
    let output = run(command);
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    for words in ["64 descriptors", "ulimit -n", "LimitNOFILE"] {
        assert!(line.contains(words), "{line}");
    }
}
