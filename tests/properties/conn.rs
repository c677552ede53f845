//! A connection without I/O: the same events and the same bytes out, however its input is cut.

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::{prop_assert, prop_assert_eq, proptest};
use wsd::conn::{Conn, Received};
use wsd::id::Millis;
use wsd::proto::deflate::{Agreed, Inflater, Pool, Window};
use wsd::proto::frame::encode_deflated;
use wsd::proto::{Decoder, Event, MessageLimits, OpCode, Role};
use wsd::{Deflate, Limits};

use super::codec::{any_items, frames_of};
use super::{any_cuts, any_mutations, cases, mutated, pieces};

/// What came of a stream.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<String>,
    out: Vec<u8>,
    open: bool,
}

fn run(parts: &[&[u8]], agreed: Option<Agreed>, limits: &Limits) -> Outcome {
    let mut pool = Pool::new(Deflate::default());
    let mut conn = Conn::new(Millis(0), limits, 0);
    conn.open(Millis(0), limits);
    if let Some(agreed) = agreed {
        conn.enable_deflate(agreed, &pool);
    }
    let (mut events, mut out) = (Vec::new(), Vec::new());
    for part in parts {
        let mut input = part.to_vec();
        let mut at = 0;
        while at < input.len() {
            let (used, received) = conn.receive(Millis(1), &mut input[at..], limits, &mut pool, &mut out);
            assert!(used > 0, "no progress");
            at += used;
            if let Some(Received::Message(message)) = &received {
                assert!(message.as_bytes().len() <= limits.max_message as usize);
            }
            events.extend(received.map(|received| format!("{received:?}")));
        }
    }
    Outcome { events, out, open: conn.is_open() }
}

fn agreed(receive_takeover: bool) -> Agreed {
    Agreed { send_window: Window::MAX, send_takeover: false, receive_window: Window::MAX, receive_takeover }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn cuts_change_nothing(
        items in any_items(true), seed in any::<u32>(), mutations in any_mutations(), cuts in any_cuts(),
        deflate in any::<bool>(), takeover in any::<bool>(), max_message in 50..2_000u32, control_rate in 0..3u32,
    ) {
        let limits = Limits { max_message, max_fragments: 6, control_rate, ..Limits::default() };
        let agreed = deflate.then(|| agreed(takeover));
        let bytes = mutated(frames_of(&items, Role::Client, seed), &mutations);
        let whole = run(&[&bytes], agreed, &limits);
        prop_assert_eq!(&run(&pieces(&bytes, &cuts), agreed, &limits), &whole);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&run(&single, agreed, &limits), &whole);
        let closed = whole.events.last().is_some_and(|event| event.starts_with("Closed"));
        prop_assert_eq!(whole.open, !closed, "it ends with an event, and only once");
    }

    #[test]
    fn what_it_compresses_its_peer_reads(
        messages in vec("[a-c ]{0,300}", 1..5), send_takeover in any::<bool>(), bits in 9..=15u8,
    ) {
        let config = Deflate { min_bytes: 20, ..Deflate::default() };
        let mut pool = Pool::new(config);
        let limits = Limits::default();
        let mut conn = Conn::new(Millis(0), &limits, 0);
        conn.open(Millis(0), &limits);
        prop_assert!(!conn.deflates() && conn.deflater(&mut pool).is_none());
        let send_window = Window::new(bits).expect("9 to 15");
        conn.enable_deflate(Agreed { send_window, send_takeover, ..agreed(false) }, &pool);
        prop_assert_eq!(conn.shared_window(), (!send_takeover).then_some(send_window));

        let mut wire = Vec::new();
        for message in &messages {
            let deflater = conn.deflater(&mut pool).expect("agreed on");
            encode_deflated(&mut wire, OpCode::Text, message.as_bytes(), None, deflater);
        }
        let mut decoder = Decoder::new(Role::Client);
        decoder.enable_deflate();
        let mut inflater = Inflater::new(send_window, send_takeover);
        let limits = MessageLimits { message_bytes_max: 300, fragments_max: 1 };
        let mut at = 0;
        for message in &messages {
            let (used, event) = decoder.decode(&mut wire[at..], &limits).expect("sound");
            let text = match event.expect("a whole message") {
                Event::Compressed(compressed) => compressed.inflate(&mut inflater, &limits).expect("sound"),
                Event::Message(plain) => {
                    prop_assert!(message.len() < 20 || !send_takeover);
                    plain
                }
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(text.as_text(), Some(message.as_str()));
            at += used;
        }
        prop_assert_eq!(at, wire.len());
    }

    #[test]
    fn any_bytes_end_in_an_orderly_way(bytes in vec(any::<u8>(), 0..300), deflate in any::<bool>()) {
        let outcome = run(&[&bytes], deflate.then(|| agreed(true)), &Limits::default());
        if !outcome.open {
            let close = outcome.out.iter().rposition(|&byte| byte == 0x88);
            prop_assert!(close.is_some(), "a connection that is failed says why");
        }
    }
}
