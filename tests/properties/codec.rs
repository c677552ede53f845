//! Headers, frames, masks and messages.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::Index;
use proptest::{prop_assert, prop_assert_eq, proptest};
use wsd::proto::deflate::{Deflater, Inflater, Window};
use wsd::proto::frame::{encode, encode_deflated, encode_fragment};
use wsd::proto::header::HEADER_BYTES_MAX;
use wsd::proto::{
    Close, CloseCode, Decoder, Event, Header, MessageLimits, OpCode, ProtocolError, Role, Status, mask,
};
use wsd::{Deflate, Message};

use super::{any_cuts, any_mutations, cases, mutated, pieces};

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 2_000, fragments_max: 8 };

/// What an end sends, before it is cut into frames.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Message { payload: Payload, compressed: bool, cuts: Vec<Index>, between: Vec<(bool, Vec<u8>)> },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

#[derive(Clone, Debug)]
pub(super) enum Payload {
    Text(String),
    Binary(Vec<u8>),
}

impl Payload {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    fn opcode(&self) -> OpCode {
        match self {
            Self::Text(_) => OpCode::Text,
            Self::Binary(_) => OpCode::Binary,
        }
    }
}

fn control_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..=8), vec(any::<u8>(), 120..=125)]
}

fn any_payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        "\\PC{0,40}".prop_map(Payload::Text),
        "[a-cäß€😀]{100,160}".prop_map(Payload::Text),
        vec(any::<u8>(), 0..=140).prop_map(Payload::Binary),
        vec(0..4u8, 900..=1_000).prop_map(Payload::Binary),
    ]
}

pub(super) fn any_close() -> impl Strategy<Value = Option<(u16, String)>> {
    let code = prop_oneof![1000..=1003u16, 1007..=1014u16, 3000..=4999u16];
    option::of((code, "\\PC{0,30}"))
}

/// Data messages in up to 8 frames with controls between, controls, and seldom a Close.
pub(super) fn any_items(compressed: bool) -> impl Strategy<Value = Vec<Item>> {
    let between = vec((any::<bool>(), control_payload()), 0..3);
    let compressed = if compressed { any::<bool>().boxed() } else { Just(false).boxed() };
    let message = (any_payload(), compressed, vec(any::<Index>(), 0..7), between).prop_map(
        |(payload, compressed, cuts, between)| Item::Message { payload, compressed, cuts, between },
    );
    let item = prop_oneof![
        8 => message,
        2 => control_payload().prop_map(Item::Ping),
        2 => control_payload().prop_map(Item::Pong),
        1 => any_close().prop_map(Item::Close),
    ];
    vec(item, 0..6)
}

/// The frames of `items`, masked with keys that come from `seed` where a client sends.
pub(super) fn frames_of(items: &[Item], from: Role, seed: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut seed = seed;
    let mut key = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (from == Role::Client).then(|| seed.to_be_bytes())
    };
    let config = Deflate { min_bytes: 0, ..Deflate::default() };
    let mut deflater = Deflater::new(&config, Window::MAX, false);
    for item in items {
        match item {
            Item::Ping(payload) => encode(&mut out, OpCode::Ping, payload, key()),
            Item::Pong(payload) => encode(&mut out, OpCode::Pong, payload, key()),
            Item::Close(None) => encode(&mut out, OpCode::Close, b"", key()),
            Item::Close(Some((code, reason))) => {
                encode(&mut out, OpCode::Close, &close_of(*code, reason).encode(), key())
            }
            Item::Message { payload, compressed: true, .. } => {
                encode_deflated(&mut out, payload.opcode(), payload.as_bytes(), key(), &mut deflater);
            }
            Item::Message { payload, cuts, between, .. } => {
                let parts = match pieces(payload.as_bytes(), cuts) {
                    parts if parts.is_empty() => vec![&b""[..]],
                    parts => parts,
                };
                let last = parts.len() - 1;
                for (number, part) in parts.into_iter().enumerate() {
                    let opcode = if number == 0 { payload.opcode() } else { OpCode::Continuation };
                    encode_fragment(&mut out, number == last, opcode, part, key());
                    if let Some((ping, payload)) = between.get(number).filter(|_| number < last) {
                        encode(&mut out, if *ping { OpCode::Ping } else { OpCode::Pong }, payload, key());
                    }
                }
            }
        }
    }
    out
}

fn close_of(code: u16, reason: &str) -> Close {
    Close::new(CloseCode::new(code).expect("one that may be sent"), reason.to_owned())
}

/// What the receiver must make of `items`, in the shape of `decode_all`.
fn expected(items: &[Item]) -> Vec<String> {
    let mut out = Vec::new();
    for item in items {
        match item {
            Item::Ping(payload) => out.push(format!("{:?}", Event::Ping(payload.into()))),
            Item::Pong(payload) => out.push(format!("{:?}", Event::Pong(payload.into()))),
            Item::Close(close) => {
                let close = close.as_ref().map(|(code, reason)| close_of(*code, reason));
                out.push(format!("{:?}", Event::Close(close)));
            }
            Item::Message { payload, cuts, between, .. } => {
                let parts = pieces(payload.as_bytes(), cuts).len().max(1);
                for (ping, payload) in between.iter().take(parts - 1) {
                    let event = if *ping { Event::Ping(payload.into()) } else { Event::Pong(payload.into()) };
                    out.push(format!("{event:?}"));
                }
                let message: Message<'_> = match payload {
                    Payload::Text(text) => text.as_str().into(),
                    Payload::Binary(bytes) => bytes.as_slice().into(),
                };
                out.push(format!("{:?}", Event::Message(message)));
            }
        }
    }
    out
}

/// The events of a stream that comes in pieces, compressed ones inflated, and the error that ended it.
fn decode_all(parts: &[&[u8]], role: Role, deflate: bool) -> (Vec<String>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(role);
    if deflate {
        decoder.enable_deflate();
    }
    let mut inflater = Inflater::new(Window::MAX, false);
    let mut events = Vec::new();
    for part in parts {
        let mut input = part.to_vec();
        let mut at = 0;
        while at < input.len() {
            let (used, event) = match decoder.decode(&mut input[at..], &LIMITS) {
                Ok(decoded) => decoded,
                Err(error) => return (events, Some(error)),
            };
            assert!(used > 0, "no progress");
            at += used;
            let event = match event {
                Some(Event::Compressed(message)) => match message.inflate(&mut inflater, &LIMITS) {
                    Ok(message) => Some(Event::Message(message)),
                    Err(error) => return (events, Some(error)),
                },
                event => event,
            };
            if let Some(Event::Message(message)) = &event {
                let len = message.as_bytes().len();
                assert!(
                    len <= LIMITS.message_bytes_max as usize,
                    "a message of {len} bytes passed the limit"
                );
            }
            events.extend(event.map(|event| format!("{event:?}")));
        }
    }
    (events, None)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn what_is_encoded_is_decoded_by_the_other_end(
        items in any_items(false), client in any::<bool>(), seed in any::<u32>(), cuts in any_cuts(),
    ) {
        let (from, to) = if client { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        let bytes = frames_of(&items, from, seed);
        prop_assert_eq!(decode_all(&pieces(&bytes, &cuts), to, false), (expected(&items), None));
        // Our own frames, come back to us: the mask is wrong, whatever the frame.
        if !bytes.is_empty() {
            let wrong = if client { ProtocolError::MaskedFrame } else { ProtocolError::UnmaskedFrame };
            prop_assert_eq!(decode_all(&[&bytes], from, false), (vec![], Some(wrong)));
        }
    }

    #[test]
    fn what_is_compressed_is_decoded_by_the_other_end(
        items in any_items(true), seed in any::<u32>(), cuts in any_cuts(),
    ) {
        // What is compressed has no room for controls between its frames.
        let whole = |item: &Item| match item.clone() {
            Item::Message { payload, compressed: true, .. } => {
                Item::Message { payload, compressed: true, cuts: vec![], between: vec![] }
            }
            item => item,
        };
        let items: Vec<Item> = items.iter().map(whole).collect();
        let bytes = frames_of(&items, Role::Client, seed);
        prop_assert_eq!(decode_all(&pieces(&bytes, &cuts), Role::Server, true), (expected(&items), None));
    }

    #[test]
    fn the_outcome_does_not_depend_on_the_cuts(
        items in any_items(true), seed in any::<u32>(), mutations in any_mutations(), cuts in any_cuts(),
        deflate in any::<bool>(),
    ) {
        let bytes = mutated(frames_of(&items, Role::Client, seed), &mutations);
        let whole = decode_all(&[&bytes], Role::Server, deflate);
        prop_assert_eq!(&decode_all(&pieces(&bytes, &cuts), Role::Server, deflate), &whole);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&decode_all(&single, Role::Server, deflate), &whole);
        if let Some(error) = whole.1 {
            let close = error.to_close();
            prop_assert!(matches!(close.code.get(), 1002 | 1007 | 1008 | 1009));
            prop_assert!(error.to_string().starts_with(&*close.reason) && !close.reason.is_empty());
        }
    }

    #[test]
    fn a_message_over_the_limit_never_passes(
        over in 0..100usize, text in any::<bool>(), deflate in any::<bool>(), cuts in vec(any::<Index>(), 0..7),
    ) {
        let len = LIMITS.message_bytes_max as usize - 20 + over;
        let payload = if text { Payload::Text("x".repeat(len)) } else { Payload::Binary(vec![7; len]) };
        let item = Item::Message { payload, compressed: false, cuts, between: vec![] };
        let bytes = frames_of(&[item], Role::Client, 1);
        let (events, error) = decode_all(&[&bytes], Role::Server, deflate);
        let fits = len <= LIMITS.message_bytes_max as usize;
        prop_assert_eq!((events.len(), error), if fits { (1, None) } else { (0, Some(ProtocolError::MessageTooBig)) });
    }

    #[test]
    fn a_header_comes_back_and_no_beginning_of_it_is_taken_for_one(
        fin in any::<bool>(), number in 0..6usize, key in option::of(any::<[u8; 4]>()), compressed in any::<bool>(),
        payload_len in prop_oneof![0..130u64, 65_500..65_600u64, 0..=i64::MAX as u64],
    ) {
        let opcode = [OpCode::Continuation, OpCode::Text, OpCode::Binary, OpCode::Close, OpCode::Ping, OpCode::Pong][number];
        let control = opcode.is_control();
        let header = Header {
            fin: fin || control,
            compressed: compressed && opcode.begins_message(),
            opcode,
            mask: key,
            payload_len: if control { payload_len % 126 } else { payload_len },
        };
        let mut out = [0; HEADER_BYTES_MAX];
        let len = header.encode(&mut out);
        let role = if key.is_some() { Role::Server } else { Role::Client };
        for cut in 0..len {
            prop_assert_eq!(Header::decode(&out[..cut], role, true), Ok(Status::Partial));
        }
        prop_assert_eq!(Header::decode(&out, role, true), Ok(Status::Complete((header, len))));
        let without = Header::decode(&out, role, false);
        prop_assert_eq!(without.is_err(), header.compressed, "RSV1 means something only where it was agreed on");
    }

    #[test]
    fn fast_masking_is_the_definition(
        key in any::<[u8; 4]>(), payload in vec(any::<u8>(), 0..300), offset in 0..40usize, cuts in any_cuts(),
    ) {
        let offset = offset.min(payload.len());
        let mut want = payload.clone();
        for (index, byte) in want[offset..].iter_mut().enumerate() {
            *byte ^= key[index % 4];
        }
        let mut masked = payload.clone();
        let mut turned = key;
        let mut at = offset;
        for part in pieces(&payload[offset..], &cuts) {
            turned = mask::apply(turned, &mut masked[at..at + part.len()]);
            at += part.len();
        }
        prop_assert_eq!(&masked, &want);
        let again = mask::apply(key, &mut masked[offset..]);
        prop_assert_eq!(again, turned, "the key is turned by the length, however that was cut");
        prop_assert_eq!(masked, payload, "twice is nothing");
    }
}

#[test]
fn masks_at_every_offset_and_length() {
    let key = [0x11, 0x80, 0xFE, 0x05];
    let plain: Vec<u8> = (0..=255).collect();
    for offset in 0..64 {
        for len in 0..=plain.len() - offset {
            let mut masked = plain.clone();
            mask::apply(key, &mut masked[offset..offset + len]);
            let sound = masked.iter().zip(&plain).enumerate().all(|(index, (masked, plain))| {
                let inside = (offset..offset + len).contains(&index);
                *masked == if inside { plain ^ key[(index - offset) % 4] } else { *plain }
            });
            assert!(sound, "{len} bytes at {offset}");
        }
    }
}

/// With compression agreed on, a message that is not compressed has the same limit as without.
#[test]
fn a_plain_message_over_the_limit_fails_with_compression_agreed_on() {
    let mut bytes = b"\x82\xfe\x07\xd1\x00\x00\x00\x00".to_vec();
    bytes.resize(8 + 2_001, 0);
    assert_eq!(decode_all(&[&bytes], Role::Server, true), (vec![], Some(ProtocolError::MessageTooBig)));
}
