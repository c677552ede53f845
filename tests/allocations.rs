//! What a message costs in allocations: none for an echo, one for a broadcast however many receive it.
//!
//! Counted in the whole process; the clients are written so that they allocate nothing while it is counted. One
//! test, because another one beside it would be counted too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wsd::Server;
use wsd::apps::{Broadcast, Echo};

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

/// A masked text of 100 bytes (the key is zero, so the payload stands as it is), and what comes back.
fn frames() -> ([u8; 106], [u8; 102]) {
    let (mut sent, mut received) = ([b'x'; 106], [b'x'; 102]);
    sent[..6].copy_from_slice(&[0x81, 0x80 | 100, 0, 0, 0, 0]);
    received[..2].copy_from_slice(&[0x81, 100]);
    (sent, received)
}

fn connect(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a 101");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    stream
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

#[test]
fn an_echo_costs_none_and_a_broadcast_one_for_all_its_receivers() {
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .threads(1)
        .route("/echo", Echo::default)
        .route("/room", Broadcast::by_path)
        .start()
        .expect("it starts");
    let address = server.addresses()[0];

    let mut one = [connect(address, "/echo")];
    assert_eq!(exchange(&mut one), 0, "for {MESSAGES} echoes");

    let mut room: Vec<TcpStream> = (0..20).map(|_| connect(address, "/room")).collect();
    assert_eq!(exchange(&mut room), MESSAGES, "for {MESSAGES} broadcasts to {} members", room.len());
    server.shutdown().expect("it stops");
}
