//! What goes out, without a socket: headers, short texts, the answer to a handshake, batches, and the same batch on its way
//! to a thousand connections, of which all take it at once or none takes anything.
//!
//! `cargo bench --bench sending`; a figure means something only beside another of the same run.

use std::hint::black_box;
use std::io;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use wsd::conn::{Conn, QueueRules, Sent};
use wsd::hub::batch::{Batch, FrameRef, Pending};
use wsd::id::Millis;
use wsd::metrics::WorkerMetrics;
use wsd::proto::handshake::request::Upgrade;
use wsd::proto::handshake::{Request, encode_accept};
use wsd::proto::utf8::Utf8Stream;
use wsd::proto::{Frame, OpCode, frame};
use wsd::{Limits, RouteOptions};

const CONNS: usize = 1_000;

const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUser-Agent: Mozilla/5.0\r\n\
    Accept: */*\r\nAccept-Language: en\r\nSec-WebSocket-Version: 13\r\nOrigin: http://example.com\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A socket with room for everything.
struct Takes;

/// A socket without room for anything.
struct Blocks;

impl io::Write for Takes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(black_box(slices).iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Write for Blocks {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn frames(c: &mut Criterion) {
    let mut out = Vec::new();
    for len in [20, 128, 16 * 1024] {
        let payload = vec![b'x'; len];
        c.bench_function(&format!("encode/{len} B"), |b| {
            b.iter(|| {
                out.clear();
                frame::encode(&mut out, OpCode::Text, black_box(&payload), None);
            });
        });
    }
}

/// Whether setting up costs more than the text.
fn short_texts(c: &mut Criterion) {
    for len in [8, 20, 128] {
        let text = vec![b'x'; len];
        c.bench_function(&format!("utf8/{len} B"), |b| {
            b.iter(|| Utf8Stream::default().feed(black_box(&text)));
        });
    }
}

fn handshakes(c: &mut Criterion) {
    let mut out = Vec::new();
    c.bench_function("handshake/request to 101", |b| {
        b.iter(|| {
            out.clear();
            let request = Request::parse(black_box(REQUEST), 64).expect("sound");
            let Upgrade::WebSocket { key } = request.upgrade() else { panic!("an upgrade") };
            encode_accept(&mut out, key, None, None);
        });
    });
}

fn batch(messages: usize, len: usize, except: Option<u32>) -> Batch {
    let frame = Frame::message("x".repeat(len).as_str());
    let mut pending = Pending::default();
    for _ in 0..messages {
        pending.push(FrameRef::Shared(&frame), except);
    }
    pending.seal(false)
}

fn batches(c: &mut Criterion) {
    c.bench_function("batch/1 x 128 B", |b| b.iter(|| batch(1, black_box(128), None)));
    c.bench_function("batch/4 x 16 KiB, shared", |b| b.iter(|| batch(4, black_box(16 * 1024), None)));
    let sixteen = batch(16, 128, Some(7));
    c.bench_function("batch/16 x 128 B, less one member's", |b| {
        let mut own = Vec::new();
        b.iter(|| {
            sixteen.without_left_out(7, sixteen.pieces(), &mut own);
            own.len()
        });
    });
}

fn open_conns(limits: &Limits) -> Vec<Conn> {
    let open = |_| {
        let mut conn = Conn::new(Millis(0), limits, 0);
        conn.open(Millis(0), limits);
        conn
    };
    (0..CONNS).map(open).collect()
}

/// Gives the batch to everyone; all must have room for it, on the wire or in their outboxes.
fn deliver(conns: &mut [Conn], batch: &Batch, writer: &mut impl io::Write, metrics: &WorkerMetrics) {
    let rules = QueueRules::new(&Limits::default(), &RouteOptions::default(), Arc::default());
    for conn in conns {
        let sent = conn.transmit_pieces(Millis(1), batch.pieces(), writer, &rules, metrics);
        assert!(matches!(sent, Ok(Sent::Accepted)));
    }
}

fn fan_out(c: &mut Criterion) {
    let (limits, metrics) = (Limits::default(), WorkerMetrics::default());
    let mut group = c.benchmark_group("deliver to 1,000");
    group.throughput(Throughput::Elements(CONNS as u64));
    for (name, batch) in [("128 B", batch(1, 128, None)), ("4 x 16 KiB", batch(4, 16 * 1024, None))] {
        let mut conns = open_conns(&limits);
        group.bench_function(format!("{name}, taken at once"), |b| {
            b.iter(|| deliver(&mut conns, &batch, &mut Takes, &metrics));
        });
        group.bench_function(format!("{name}, queued"), |b| {
            let blocked = || {
                let mut conns = open_conns(&limits);
                deliver(&mut conns, &batch, &mut Blocks, &metrics);
                conns
            };
            b.iter_batched_ref(
                blocked,
                |conns| deliver(conns, &batch, &mut Blocks, &metrics),
                BatchSize::LargeInput,
            );
        });
    }
}

criterion_group!(benches, frames, short_texts, handshakes, batches, fan_out);
criterion_main!(benches);
