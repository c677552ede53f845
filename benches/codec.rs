//! What the core costs without a socket: headers, masks, UTF-8, handshakes, batches, fan-out.
//!
//! `cargo bench --bench codec`; a figure means something only beside another of the same run.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use wsd::hub::Hub;
use wsd::hub::batch::{FrameRef, Pending, Stamp};
use wsd::proto::handshake::{Request, accept_key};
use wsd::proto::message::{Decoder, MessageLimits};
use wsd::proto::utf8::Utf8Stream;
use wsd::proto::{Frame, Header, OpCode, Role, frame, mask};

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 1 << 20, fragments_max: 1024 };
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUser-Agent: Mozilla/5.0\r\n\
    Accept: */*\r\nAccept-Language: en\r\nSec-WebSocket-Version: 13\r\nOrigin: http://example.com\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn headers(c: &mut Criterion) {
    let masked = [0x82, 0xFE, 0x01, 0x00, 1, 2, 3, 4];
    c.bench_function("header/decode", |b| b.iter(|| Header::decode(black_box(&masked), Role::Server, false)));
}

fn masks(c: &mut Criterion) {
    for len in [20, 128, 16 * 1024] {
        let mut payload = vec![7u8; len];
        let mut group = c.benchmark_group("mask");
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(len.to_string(), |b| b.iter(|| mask::apply(KEY, black_box(&mut payload))));
    }
}

fn texts(c: &mut Criterion) {
    let ascii = "The quick brown fox jumps over the lazy dog. ".repeat(365);
    let mixed = "Zwölf Boxkämpfer jagen Виктор über den 大きな sylter Deich 🦊 ".repeat(220);
    for (name, text) in [("ascii", &ascii[..16_384]), ("mixed", mixed.as_str())] {
        let mut group = c.benchmark_group("utf8");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| b.iter(|| Utf8Stream::default().feed(black_box(text.as_bytes()))));
    }
}

fn messages(c: &mut Criterion) {
    for (count, len) in [(100, 128), (4, 16 * 1024)] {
        let mut stream = Vec::new();
        for _ in 0..count {
            frame::encode(&mut stream, OpCode::Text, &vec![b'x'; len], Some(KEY));
        }
        let mut group = c.benchmark_group("decode");
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} x {len} B"), |b| {
            b.iter_batched_ref(
                || stream.clone(),
                |bytes| {
                    let mut decoder = Decoder::new(Role::Server);
                    let mut at = 0;
                    while at < bytes.len() {
                        let (used, event) = decoder.decode(&mut bytes[at..], &LIMITS).expect("sound frames");
                        black_box(event);
                        at += used;
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
}

fn handshakes(c: &mut Criterion) {
    c.bench_function("handshake/parse", |b| b.iter(|| Request::parse(black_box(REQUEST), 64)));
    c.bench_function("handshake/accept key", |b| {
        b.iter(|| accept_key(black_box(b"dGhlIHNhbXBsZSBub25jZQ==")))
    });
}

fn fan_out(c: &mut Criterion) {
    let small = Frame::message("x".repeat(128).as_str());
    c.bench_function("batch/16 x 128 B", |b| {
        let mut pending = Pending::default();
        b.iter(|| {
            for _ in 0..16 {
                pending.push(FrameRef::Bytes(small.as_bytes()), None);
            }
            pending.seal(false)
        });
    });
    for members in [1_000, 50_000] {
        let (mut hub, mut slots) = (Hub::default(), Vec::new());
        for slot in 0..members {
            hub.subscribe(slot, "room");
        }
        let mut group = c.benchmark_group("fan-out");
        group.throughput(Throughput::Elements(u64::from(members)));
        group.bench_function(format!("{members} members"), |b| {
            b.iter(|| {
                hub.publish("room", FrameRef::Bytes(small.as_bytes()), None, Stamp::default());
                hub.seal(|_, _| {});
                while let Some(batch) = hub.next_deliveries(256, &mut slots) {
                    for slot in &slots {
                        black_box((slot, batch.pieces().len()));
                    }
                }
            });
        });
    }
}

criterion_group!(benches, headers, masks, texts, messages, handshakes, fan_out);
criterion_main!(benches);
