//! The first byte of the input is the server's configuration, the rest a `Sec-WebSocket-Extensions`. The answer must be
//! one that the offer allows by a second reading of both, and must tell both ends the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wsd::Deflate;
use wsd::proto::deflate::{Agreed, EXTENSION, negotiate, offer, parse_agreement};

fuzz_target!(|input: &[u8]| {
    let Some((&first, header)) = input.split_first() else { return };
    let config = Deflate { window_bits: 9 + first % 7, takeover: first & 0x80 != 0, ..Deflate::default() };
    let Ok(header) = std::str::from_utf8(header) else { return };
    if let Some((agreed, answer)) = negotiate([header].into_iter(), &config) {
        check(header, &config, agreed, &answer);
    }
    // The same bytes as a server's answer to what we offer.
    if let Ok(Some(agreed)) = parse_agreement([header].into_iter(), &config) {
        assert!(agreed.send_window.bits() <= config.window_bits);
        assert!(agreed.receive_window.bits() <= config.window_bits);
        assert!(config.takeover || !agreed.send_takeover && !agreed.receive_takeover);
    }
    let (server, answer) =
        negotiate([header, &offer(&config)].into_iter(), &config).expect("the second is sound");
    assert!(server.send_window.bits() <= config.window_bits);
    assert!(answer.starts_with(EXTENSION));
});

fn check(header: &str, config: &Deflate, agreed: Agreed, answer: &str) {
    let mut parts = answer.split("; ");
    assert_eq!(parts.next(), Some(EXTENSION));
    let (mut send, mut receive) = (15, 15);
    let (mut send_takeover, mut receive_takeover) = (true, true);
    for part in parts {
        match part.split_once('=') {
            None if part == "server_no_context_takeover" => send_takeover = false,
            None if part == "client_no_context_takeover" => receive_takeover = false,
            Some(("server_max_window_bits", bits)) => send = bits.parse().expect("a number"),
            Some(("client_max_window_bits", bits)) => {
                assert!(header.contains("client_max_window_bits"), "only where the client knows it");
                receive = bits.parse().expect("a number");
            }
            _ => panic!("an answer with {part:?}"),
        }
    }
    assert_eq!((send, send_takeover), (agreed.send_window.bits(), agreed.send_takeover));
    assert!((8..=agreed.receive_window.bits()).contains(&receive));
    assert_eq!(receive_takeover, agreed.receive_takeover);
    assert!(send <= config.window_bits && (config.takeover || !send_takeover && !receive_takeover));
}
