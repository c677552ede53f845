//! What compression costs a broadcast: the processor time of the server's thread for 2 KiB JSON messages to 1,000
//! members that agreed on permessage-deflate, against 1,000 that did not.
//!
//! `cargo bench --bench deflate`; runs are interleaved (A B B A ...), and the figure is the ratio of the medians.

#![expect(clippy::print_stdout, reason = "a benchmark shows what it measured")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use wsd::apps::Broadcast;
use wsd::{Deflate, Handle, Limits, Server};

const MEMBERS: usize = 1_000;
const MESSAGES: usize = 100;
const PAIRS: usize = 10;

fn main() {
    // `cargo test` builds and runs benches too, with this flag missing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .threads(1)
        .limits(Limits { ping_interval: Duration::ZERO, ..Limits::default() })
        .deflate(Deflate::default())
        .route("/plain", Broadcast::by_path)
        .route("/deflate", Broadcast::by_path)
        .start()
        .expect("it starts");
    let address = server.addresses()[0];
    let mut groups = [("/plain", ""), ("/deflate", "Sec-WebSocket-Extensions: permessage-deflate\r\n")]
        .map(|(path, offer)| (path, (0..MEMBERS).map(|_| connect(address, path, offer)).collect::<Vec<_>>()));

    let mut costs = [Vec::new(), Vec::new()];
    for pair in 0..PAIRS {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let (path, members) = &mut groups[which];
            costs[which].push(run(&server, path, members));
        }
    }
    let [plain, deflated] = costs.map(|mut costs| {
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
    });
    println!("{MESSAGES} JSON messages of 2 KiB to {MEMBERS} members, {PAIRS} interleaved pairs, medians:");
    println!("  plain    {:.2} us of processor time for each delivery", plain * 1e6);
    println!("  deflate  {:.2} us", deflated * 1e6);
    println!("  ratio    {:.2}", deflated / plain);
    server.shutdown().expect("it stops");
}

/// Publishes messages, each received by all before the next; seconds of the server's thread for one delivery.
fn run(server: &Handle, topic: &str, members: &mut [TcpStream]) -> f64 {
    let remote = server.remote();
    let before = thread_time("wsd-0");
    for number in 0..MESSAGES {
        remote.publish(topic, json(number).as_str());
        for member in &mut *members {
            read_frame(member);
        }
    }
    (thread_time("wsd-0") - before) / (MESSAGES * members.len()) as f64
}

/// A message as a ticker would send it, 2 KiB, different each time.
fn json(number: usize) -> String {
    let rows: Vec<String> = (0..26)
        .map(|row| {
            let price = (number * 7_919 + row * 104_729) % 100_000;
            format!(r#"{{"symbol":"SYM{row:02}","bid":{price}.25,"ask":{price}.75,"volume":{}}}"#, price * 13)
        })
        .collect();
    let mut text = format!(r#"{{"type":"quotes","sequence":{number},"rows":[{}]}}"#, rows.join(","));
    text.truncate(2_048);
    text
}

fn read_frame(stream: &mut TcpStream) {
    let mut header = [0; 4];
    stream.read_exact(&mut header).expect("a frame");
    assert_eq!(header[1], 126, "more than 125 bytes and less than 64 KiB");
    let mut payload = [0; 4_096];
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    stream.read_exact(&mut payload[..len]).expect("its payload");
}

fn connect(address: SocketAddr, path: &str, offer: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a 101");
        head.push(byte[0]);
    }
    let agreed = String::from_utf8_lossy(&head).contains("permessage-deflate");
    assert_eq!(agreed, !offer.is_empty());
    stream
}

/// User and system time of the thread with this name, in seconds.
fn thread_time(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    for task in tasks.flatten() {
        let comm = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if comm.trim() == name {
            let text =
                std::fs::read_to_string(task.path().join("schedstat")).expect("its first word is run time");
            let nanos: f64 =
                text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
            return nanos / 1e9;
        }
    }
    panic!("no thread {name}");
}
