//! What a message costs in allocations: none for an echo, one for a broadcast however many receive it; and a connection:
//! none of its own.
//!
//! Counted in the whole process; the clients are written so that they allocate nothing while it is counted. One
//! test, because another one beside it would be counted too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wsd::apps::{Broadcast, Echo};
use wsd::{Limits, Server};

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; every call goes to the system's")]
// SAFETY: every method passes its arguments to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: u64 = 1_000;
const CONNECTIONS: u64 = 500;

/// Bytes of a large message: a frame of this size is not copied into a batch.
const LARGE: usize = 16 * 1024;

/// A masked text of 100 bytes (the key is zero, so the payload stands as it is), and what comes back.
fn frames() -> ([u8; 106], [u8; 102]) {
    let (mut sent, mut received) = ([b'x'; 106], [b'x'; 102]);
    sent[..6].copy_from_slice(&[0x81, 0x80 | 100, 0, 0, 0, 0]);
    received[..2].copy_from_slice(&[0x81, 100]);
    (sent, received)
}

fn request(path: &str) -> String {
    // As a browser asks for it: 14 headers.
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://a\r\n\
         User-Agent: one\r\nAccept: */*\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\nPragma: no-cache\r\n\
         Cache-Control: no-cache\r\nCookie: a=b\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
}

fn connect(address: SocketAddr, path: &str) -> TcpStream {
    shake_hands(address, &request(path))
}

/// A connection past its handshake, without an allocation on this side.
fn shake_hands(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut head = [0; 256];
    let mut len = 0;
    while !head[..len].ends_with(b"\r\n\r\n") {
        len += stream.read(&mut head[len..]).expect("a 101");
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    stream
}

/// Allocations while [`CONNECTIONS`] connect one after the other, each gone before the next, on a path where somebody is.
fn connections(address: SocketAddr, path: &str) -> u64 {
    let _one = connect(address, path);
    let request = request(path);
    let mut before = 0;
    for number in 0..CONNECTIONS + 100 {
        if number == 100 {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
        drop(shake_hands(address, &request));
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Allocations for messages of 16 KiB that come back to all of the room. `publish` sends `at_once` of them.
fn large(room: &mut [TcpStream], mut publish: impl FnMut(&mut TcpStream), at_once: usize) -> u64 {
    let mut got = vec![0; LARGE + 4];
    let mut before = 0;
    for number in 0..MESSAGES + 100 {
        if number == 100 {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
        publish(&mut room[0]);
        for stream in &mut *room {
            for _ in 0..at_once {
                stream.read_exact(&mut got).expect("it answers");
                assert!(got[0] == 0x81 && got[LARGE + 3] == b'x');
            }
        }
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Sends messages on the first stream, one after the other, and waits for each on every stream; gives the allocations
/// of the last [`MESSAGES`] of them. The first ones warm up buffers that are used again.
fn exchange(streams: &mut [TcpStream]) -> u64 {
    let (sent, received) = frames();
    let mut got = [0; 102];
    let mut before = 0;
    for number in 0..MESSAGES + 100 {
        if number == 100 {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
        streams[0].write_all(&sent).expect("it reads");
        for stream in &mut *streams {
            stream.read_exact(&mut got).expect("it answers");
            assert!(got == received);
        }
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// The least of a few counts. On a busy machine a socket may be full for a moment, whose queue is an allocation, or a
/// message may come in two parts, of which the first is kept; what a message costs, it costs each time.
fn least(expected: u64, mut count: impl FnMut() -> u64) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..5 {
        least = least.min(count());
        if least <= expected {
            break;
        }
    }
    least
}

#[test]
fn an_echo_and_a_connection_cost_none_and_a_broadcast_one_for_all_its_receivers() {
    // Most of these connections never say anything, and a ping is not what they wait for.
    let limits = Limits { ping_interval: Duration::ZERO, ..Limits::default() };
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .threads(1)
        .limits(limits)
        .route("/echo", Echo::default)
        .route("/room", Broadcast::by_path)
        .start()
        .expect("it starts");
    let address = server.addresses()[0];

    let mut one = [connect(address, "/echo")];
    assert_eq!(least(0, || exchange(&mut one)), 0, "for {MESSAGES} echoes");

    let mut room: Vec<TcpStream> = (0..20).map(|_| connect(address, "/room")).collect();
    let count = least(MESSAGES, || exchange(&mut room));
    assert_eq!(count, MESSAGES, "for {MESSAGES} broadcasts to {} members", room.len());

    let text = "x".repeat(LARGE);
    let mut frame = vec![0x81, 0x80 | 126, (LARGE >> 8) as u8, LARGE as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    let count = least(0, || large(&mut one, |stream| stream.write_all(&frame).expect("it reads"), 1));
    assert_eq!(count, 0, "for {MESSAGES} large echoes");
    let send = |stream: &mut TcpStream| stream.write_all(&frame).expect("it reads");
    let count = least(MESSAGES, || large(&mut room, send, 1));
    assert_eq!(count, MESSAGES, "for {MESSAGES} large broadcasts");

    // Two in one turn go out as two pieces: their frames, and the list of them that all members share. Now and then a
    // socket is full, and its queue is an allocation too; one for each of the 20 members would be many more.
    let pair = frame.repeat(2);
    let count = large(&mut room, |stream| stream.write_all(&pair).expect("it reads"), 2);
    assert!(count <= 10 * MESSAGES, "{count} for {MESSAGES} pairs of large broadcasts");

    // From outside: the encoded bytes, the frame, the topic's name, and nothing for each member.
    let remote = server.remote();
    let count = least(3 * MESSAGES, || large(&mut room, |_| remote.publish("/room", text.as_str()), 1));
    assert_eq!(count, 3 * MESSAGES, "for {MESSAGES} large messages from outside");

    let count = connections(address, "/echo");
    assert!(
        count * 10 <= CONNECTIONS,
        "{count} allocations for {CONNECTIONS} connections: the tables' growth at most"
    );
    server.shutdown().expect("it stops");
}
