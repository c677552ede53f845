//! The input: a byte of choices, a number of cuts, the cuts, then what a server sends to the load generator: its answer
//! to the handshake, or what follows a sound one. Whole or cut, by the short way or by the long one, it means the same;
//! an answer that is taken for sound is so by a second reading, and the frames are those of a plain reader of RFC 6455.

#![no_main]

mod cuts;
mod frames;

use cuts::pieces;
use frames::{End, Rules};
use libfuzzer_sys::fuzz_target;
use loadgen::client::{Client, DEFLATE, Fault, Input, LIMITS, Offer, State};
use wsd::proto::deflate::{Inflater, Window};
use wsd::proto::handshake::{encode_accept, parse_response};
use wsd::proto::{Header, OpCode, ProtocolError, Role, Status};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const SUBPROTOCOL: &str = "v1";
/// What the client asks for, granted.
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const MASK: [u8; 4] = [1, 2, 3, 4];

const RULES: Rules =
    Rules { masked: false, bytes_max: LIMITS.message_bytes_max, fragments_max: LIMITS.fragments_max };

fuzz_target!(|input: &[u8]| {
    let Some((&[choices, count], rest)) = input.split_first_chunk() else { return };
    let (cuts, rest) = rest.split_at(usize::from(count % 8).min(rest.len()));
    let deflate = choices & 2 != 0;
    let offer = Offer {
        subprotocols: vec![SUBPROTOCOL.into()],
        deflate: deflate.then_some(DEFLATE),
        raw: choices & 4 != 0,
        ..Offer::default()
    };
    let mut stream = Vec::new();
    if choices & 1 == 0 {
        encode_accept(&mut stream, KEY, None, deflate.then_some(AGREED));
    }
    stream.extend_from_slice(rest);

    let run = |cuts: &[u8], short| run(&stream, cuts, &offer, choices & 8 != 0, short);
    let whole = run(&[], true);
    assert_eq!(run(&[], false), whole, "by the long way");
    assert_eq!(run(cuts, true), whole, "cut by {cuts:?}");
    assert_eq!(run(&[0], true), whole, "byte by byte");

    if offer.raw {
        return;
    }
    let answer = parse_response(&stream, KEY, &[SUBPROTOCOL], offer.deflate.as_ref());
    let Ok(Status::Complete(upgraded)) = answer else { return };
    assert_eq!(whole.events.first(), Some(&Event::Upgraded));
    let (head, frames) = stream.split_at(upgraded.head_len);
    check_answer(head, upgraded.subprotocol.as_deref(), upgraded.deflate.is_some());
    if upgraded.deflate.is_none() {
        check_frames(frames, &whole);
    }
});

/// What came of a stream.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    events: Vec<Event>,
    fault: Option<Fault>,
}

#[derive(Debug, PartialEq)]
enum Event {
    Upgraded,
    Message(Vec<u8>),
    Inflated(Result<Vec<u8>, ProtocolError>),
    Ping(Vec<u8>),
    Close(u16),
}

/// Feeds a stream in pieces whose lengths are those of `cuts`, over and over. `leaving`: once it can, the client says
/// that it goes. `short`: whole messages are looked for first, as on a socket.
fn run(stream: &[u8], cuts: &[u8], offer: &Offer, leaving: bool, short: bool) -> Outcome {
    let mut client = Client::default();
    let mut inflater = None;
    let mut outcome = Outcome::default();
    for mut part in pieces(stream, cuts) {
        let mut at = 0;
        while at < part.len() {
            if let Some(payload) = client.whole_message(&part[at..]).filter(|_| short) {
                outcome.events.push(Event::Message(part[at..][payload.clone()].to_vec()));
                at += payload.end;
                continue;
            }
            let before = client.state();
            let (used, input) = match client.handle_input(&mut part[at..], offer, || KEY.to_owned()) {
                Ok(taken) => taken,
                Err(fault) => {
                    outcome.fault = Some(fault);
                    return outcome;
                }
            };
            assert!(used > 0, "no progress");
            at += used;
            assert!(input.is_none() || before != State::Closing, "something after the end");
            outcome.events.extend(input.map(|input| match input {
                Input::Upgraded => Event::Upgraded,
                Input::Message(bytes) => Event::Message(bytes.into_owned()),
                Input::Compressed(message) => {
                    let inflater = inflater.get_or_insert_with(|| Inflater::new(Window::MAX, false));
                    let message = message.inflate(inflater, &LIMITS);
                    Event::Inflated(message.map(|message| message.as_bytes().to_vec()))
                }
                Input::Ping(payload) => Event::Ping(payload.into_owned()),
                Input::Close { code, .. } => Event::Close(code),
            }));
            match outcome.events.last() {
                Some(Event::Upgraded) if leaving && client.state() == State::Open => {
                    client.leave(MASK, &mut Vec::new());
                }
                Some(Event::Close(code)) if client.state() != State::Closing => close(&mut client, *code),
                _ => {}
            }
        }
    }
    outcome
}

/// The answer to a Close has its code.
fn close(client: &mut Client, code: u16) {
    let mut out = Vec::new();
    client.close(code, MASK, &mut out);
    assert_eq!(client.state(), State::Closing);
    let Ok(Status::Complete((header, used))) = Header::decode(&out, Role::Server, false) else {
        panic!("not sound: {out:02x?}")
    };
    assert_eq!(header.opcode, OpCode::Close);
    match out[used..] {
        [] => assert_eq!(code, 1005),
        [high, low] => assert_eq!(code, u16::from_be_bytes([high ^ MASK[0], low ^ MASK[1]])),
        _ => panic!("a code and nothing else: {out:02x?}"),
    }
}

/// A second reading, line by line, of an answer that was taken for sound.
fn check_answer(head: &[u8], subprotocol: Option<&str>, deflate: bool) {
    // One letter for each byte: the values that are no text are none of ours.
    let text: String = head.iter().map(|&byte| char::from(byte)).collect();
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let status = lines.find(|line| !line.is_empty()).expect("there is always one");
    assert!(status.starts_with("HTTP/1.") && status.get(8..12) == Some(" 101"), "{status:?}");
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])))
        .collect();
    let all = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect()
    };
    let says = |name: &str, token: &str| {
        all(name).iter().any(|list| list.split(',').any(|it| it.trim().eq_ignore_ascii_case(token)))
    };
    assert!(says("upgrade", "websocket") && says("connection", "upgrade"), "{text:?}");
    assert!(all("sec-websocket-accept").contains(&ACCEPT), "{text:?}");
    assert!(subprotocol.is_none_or(|chosen| chosen == SUBPROTOCOL));
    assert_eq!(subprotocol.is_some(), !all("sec-websocket-protocol").is_empty(), "{text:?}");
    let extensions = all("sec-websocket-extensions").concat().to_ascii_lowercase();
    assert_eq!(deflate, extensions.contains("permessage-deflate"), "{text:?}");
}

fn check_frames(stream: &[u8], outcome: &Outcome) {
    let (messages, end) = frames::read(stream, RULES);
    let found = outcome.events.iter().filter_map(|event| match event {
        Event::Message(bytes) => Some(bytes),
        _ => None,
    });
    assert!(found.eq(messages.iter().map(|(_, bytes)| bytes)), "{messages:?}, but {:?}", outcome.events);
    let closed = match (&outcome.fault, outcome.events.last()) {
        (Some(Fault::Protocol(error)), _) => Some(error.close_code().get()),
        (Some(Fault::Handshake(error)), _) => panic!("it was sound, but {error:?}"),
        (None, Some(Event::Close(code))) => Some(*code),
        (None, _) => None,
    };
    match end {
        End::Code(code) => assert_eq!(closed, Some(code)),
        End::Whole => assert_eq!(closed, None),
        // The frame at the end is cut: it may be known to be wrong already.
        End::Cut => {}
    }
}
