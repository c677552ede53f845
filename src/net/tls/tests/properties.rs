//! Bytes and orders that nobody thought of.

use std::io;

use proptest::prelude::{ProptestConfig, any, prop_assert_eq, prop_oneof, proptest};

use super::super::{ENCRYPT_BYTES, PENDING_BYTES_MAX};
use super::{Pair, READ_BYTES, Writer, hello, read_all, slices};
use crate::conn::{Flushed, Outbox};
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::frame::{Piece, own_header};
use crate::proto::{Frame, OpCode, frame};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However both directions are cut, and however little the socket takes, everything arrives once and in order.
    #[test]
    fn everything_arrives_however_it_is_cut(
        tls13 in any::<bool>(),
        messages in proptest::collection::vec(1usize..40_000, 1..8),
        rooms in proptest::collection::vec(1usize..20_000, 1..40),
        reads in proptest::collection::vec(prop_oneof![1usize..20, 1usize..9_000], 0..200),
        record_max in proptest::option::of(32usize..600),
    ) {
        let mut pair = Pair::with_records(tls13, record_max);
        pair.near.reads.extend(&reads);
        pair.far.reads.extend(&reads);
        pair.client.begin(&mut pair.near).expect("there is room");
        let sent: Vec<u8> = messages.iter().enumerate().flat_map(|(at, &len)| vec![at as u8; len]).collect();
        let (mut at, mut heard, mut rooms) = (0, Vec::new(), rooms.iter().cycle());
        for turn in 0.. {
            assert!(turn < 10_000, "it never ends: {at} of {}", sent.len());
            pair.carry();
            read_all(&mut pair.server, &mut pair.far, &mut pair.plain).expect("sound records");
            pair.far.room = rooms.next().copied();
            pair.server.send_pending(&mut pair.far).expect("no error");
            let end = sent.len().min(at + 30_000);
            match pair.server.write(&mut pair.far, &slices(&sent[at..end])) {
                Ok(taken) => at += taken,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            pair.assert_booked();
            heard.extend(pair.heard());
            if heard.len() == sent.len() && at == sent.len() {
                break;
            }
        }
        prop_assert_eq!(heard, sent);
        prop_assert_eq!((pair.books.queued_bytes.get(), pair.books.queue_memory_unshared.get()), (0, 0));
    }

    /// Whatever is dropped of a queue, and whenever, what the peer gets is whole frames in their order.
    #[test]
    fn what_is_dropped_is_dropped_whole(
        steps in proptest::collection::vec((0usize..8, 0usize..4, any::<proptest::sample::Index>()), 1..25),
    ) {
        let mut pair = Pair::connected(true);
        let metrics = WorkerMetrics::default();
        let mut outbox = Outbox::new(Millis(0));
        let mut number = 0u32;
        for (what, kind, index) in steps {
            match what {
                // One large frame, about as long as what is encrypted at once; or many small ones, side by side.
                0..3 => {
                    let (count, len) = match kind {
                        0 => (1, ENCRYPT_BYTES - 12 + index.index(16)),
                        1 => (1, index.index(200)),
                        // 217 of these are one byte less than what is encrypted at once.
                        2 => (1 + index.index(300) as u32, 143),
                        _ => (1 + index.index(20) as u32, index.index(1_000)),
                    };
                    let mut bytes = Vec::new();
                    for _ in 0..count {
                        let payload = [&number.to_be_bytes()[..], &vec![0; len]].concat();
                        frame::encode(&mut bytes, OpCode::Binary, &payload, None);
                        number += 1;
                    }
                    outbox.publish(Piece::whole(Frame::from_encoded(&bytes), count), &metrics);
                }
                3 => drop(outbox.drop_published(None, &metrics)),
                4 => drop(outbox.drop_oldest(index.index(50_000) as u32, None, &metrics)),
                _ => {
                    pair.far.room = Some(index.index(20_000));
                    let mut writer = Writer(&mut pair.server, &mut pair.far);
                    let _ = outbox.flush(Millis(1), &mut writer, &metrics).expect("no error");
                }
            }
        }
        outbox.push(Piece::whole(Frame::message("the end"), 1), &metrics);
        pair.far.room = None;
        let mut writer = Writer(&mut pair.server, &mut pair.far);
        while outbox.flush(Millis(2), &mut writer, &metrics).expect("no error") == Flushed::Blocked {}
        let heard = pair.heard();
        let (mut rest, mut next) = (heard.as_slice(), 0);
        while let Some((header, used)) = own_header(rest).filter(|(header, _)| header.opcode == OpCode::Binary) {
            let payload = &rest[used..used + header.payload_len as usize];
            let number = u32::from_be_bytes(*payload.first_chunk().expect("it has a number"));
            assert!(number >= next, "{number} instead of {next} or later");
            next = number + 1;
            rest = &rest[used + payload.len()..];
        }
        prop_assert_eq!(rest, b"\x81\x07the end");
        prop_assert_eq!((metrics.queued.get(), metrics.queued_bytes.get()), (0, 0));
    }

    /// Whatever comes in place of a handshake or of records, cut anywhere: an error or nothing, but no panic, no
    /// plaintext, and nothing that is kept without bound.
    #[test]
    fn no_bytes_do_harm(
        tls13 in any::<bool>(),
        stage in 0usize..3,
        keep in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        garbage in proptest::collection::vec(any::<u8>(), 0..3_000),
        header in proptest::option::of((20u8..25, 0u16..20_000)),
        reads in proptest::collection::vec(1usize..600, 0..200),
    ) {
        let (mut pair, mut bytes) = match stage {
            0 => hello(tls13),
            1 => {
                let mut pair = Pair::new(tls13);
                pair.client.begin(&mut pair.near).expect("there is room");
                pair.carry();
                read_all(&mut pair.server, &mut pair.far, &mut pair.plain).expect("sound records");
                pair.heard();
                let bytes = std::mem::take(&mut pair.near.output);
                (pair, bytes)
            }
            _ => {
                let mut pair = Pair::connected(tls13);
                pair.client.write(&mut pair.near, &slices(&[b'x'; 300])).expect("there is room");
                let bytes = std::mem::take(&mut pair.near.output);
                (pair, bytes)
            }
        };
        for (at, value) in &edits {
            if let Some(byte) = (!bytes.is_empty()).then(|| at.index(bytes.len())) {
                bytes[byte] = *value;
            }
        }
        bytes.truncate(keep.index(bytes.len() + 1));
        if let Some((kind, len)) = header {
            bytes.extend([kind, 3, 3]);
            bytes.extend(len.to_be_bytes());
        }
        bytes.extend(garbage);
        pair.far.input.extend(bytes);
        pair.far.reads.extend(reads);
        let outcome = read_all(&mut pair.server, &mut pair.far, &mut pair.plain);
        prop_assert_eq!(outcome.is_ok_and(|plain| !plain.is_empty() && stage < 2), false);
        assert!(pair.server.held.len() <= READ_BYTES && pair.server.pending_bytes() <= PENDING_BYTES_MAX);
        // Nor do the calls that may follow.
        let _ = pair.server.write(&mut pair.far, &slices(b"anybody there?"));
        let _ = pair.server.close(&mut pair.far);
    }
}
