//! permessage-deflate: streams and negotiation.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{prop_assert, prop_assert_eq, proptest};
use wsd::Deflate;
use wsd::proto::deflate::{
    Agreed, Deflater, EXTENSION, Inflater, Pool, Window, negotiate, offer, parse_agreement,
};
use wsd::proto::{MessageLimits, ProtocolError};

use super::{any_mutations, cases, mutated};

fn any_config() -> impl Strategy<Value = Deflate> {
    (9..=15u8, 1..=9u8, any::<bool>()).prop_map(|(window_bits, level, takeover)| Deflate {
        min_bytes: 0,
        level,
        window_bits,
        takeover,
    })
}

/// Noise, words, one byte many times over, and what repeats at the distance of a window.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..2_000),
        vec(select(vec!["the ", "same ", "words ", "\n", "{\"price\":1}"]), 0..400)
            .prop_map(|words| words.concat().into_bytes()),
        (any::<u8>(), 0..40_000usize).prop_map(|(byte, len)| vec![byte; len]),
        (vec(any::<u8>(), 1..600), 1..20usize).prop_map(|(bytes, times)| bytes.repeat(times)),
    ]
}

fn any_offer() -> impl Strategy<Value = String> {
    let parameter = select(vec![
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits=8",
        "server_max_window_bits=9",
        "server_max_window_bits=\"12\"",
        "server_max_window_bits",
        "client_max_window_bits",
        "client_max_window_bits=8",
        "client_max_window_bits=10",
        "client_max_window_bits=16",
        "x=\"a;b,c\\\"d\"",
    ]);
    let element = (select(vec![EXTENSION, "Permessage-Deflate", "x-other"]), vec(parameter, 0..4))
        .prop_map(|(name, parameters)| [&[name], parameters.as_slice()].concat().join("; "));
    vec(element, 0..4).prop_map(|elements| elements.join(", "))
}

/// What the parameters of an answer are, read by other means: the name, and the value if there is one.
fn parameters(answer: &str) -> Vec<(&str, Option<u8>)> {
    answer
        .split("; ")
        .map(|part| match part.split_once('=') {
            Some((name, value)) => (name, Some(value.parse().expect("a number"))),
            None => (part, None),
        })
        .collect()
}

/// Sends messages from an end that compresses to one that inflates, as connections do.
fn exchange(
    messages: &[Vec<u8>],
    sender: (&Deflate, Agreed),
    receiver: (&Deflate, Agreed),
) -> Result<(), ProtocolError> {
    let mut pools = [Pool::new(*sender.0), Pool::new(*receiver.0)];
    let (mut from, mut to) = (pools[0].own_streams(sender.1), pools[1].own_streams(receiver.1));
    for message in messages {
        let own = from.as_mut().and_then(|streams| streams.deflater.as_mut());
        let deflater = match own {
            Some(own) => own,
            None => pools[0].deflater(sender.1.send_window),
        };
        let Some(wire) = deflater.deflate(message).map(<[u8]>::to_vec) else { continue };
        let own = to.as_mut().and_then(|streams| streams.inflater.as_mut());
        let inflater = match own {
            Some(own) => own,
            None => pools[1].inflater(),
        };
        assert_eq!(&inflater.inflate(&wire, 1 << 20)?, message);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn what_is_deflated_inflates_to_itself(config in any_config(), messages in vec(any_payload(), 1..4)) {
        let window = Window::new(config.window_bits).expect("9 to 15");
        let mut deflater = Deflater::new(&config, window, config.takeover);
        let mut inflater = Inflater::new(window, config.takeover);
        for message in messages {
            match deflater.deflate(&message) {
                Some(wire) => {
                    let wire = wire.to_vec();
                    let back = inflater.inflate(&wire, message.len() as u32);
                    prop_assert_eq!(back.as_ref(), Ok(&message), "at the limit");
                    if !message.is_empty() && !config.takeover {
                        let less = inflater.inflate(&wire, message.len() as u32 - 1);
                        prop_assert_eq!(less, Err(ProtocolError::MessageTooBig));
                    }
                }
                None => prop_assert!(!config.takeover, "the window goes on"),
            }
        }
    }

    #[test]
    fn both_ends_agree_and_understand_each_other(
        client in any_config(), server in any_config(), messages in vec(any_payload(), 1..4),
    ) {
        let offered = offer(&client);
        let (at_server, answer) = negotiate([offered.as_str()].into_iter(), &server).expect("a sound offer");
        let at_client = parse_agreement([answer.as_str()].into_iter(), &client).expect("a sound answer").expect("agreed");
        for (sends, receives) in [(at_client, at_server), (at_server, at_client)] {
            prop_assert!(sends.send_window <= receives.receive_window);
            prop_assert!(!sends.send_takeover || receives.receive_takeover);
        }
        prop_assert!(at_server.send_window.bits() <= server.window_bits.min(client.window_bits));
        prop_assert!(at_client.send_window.bits() <= server.window_bits.min(client.window_bits));
        prop_assert_eq!(exchange(&messages, (&client, at_client), (&server, at_server)), Ok(()));
        prop_assert_eq!(exchange(&messages, (&server, at_server), (&client, at_client)), Ok(()));
    }
}

proptest! {
    #![proptest_config(cases(500))]

    /// Section 7.1: an answer has nothing that the offer does not allow.
    #[test]
    fn an_answer_fits_the_offer(offers in any_offer(), config in any_config()) {
        let Some((agreed, answer)) = negotiate([offers.as_str()].into_iter(), &config) else { return Ok(()) };
        let parameters = parameters(&answer);
        prop_assert_eq!(parameters[0], (EXTENSION, None));
        let value = |name| parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        prop_assert_eq!(value("server_no_context_takeover").is_none(), agreed.send_takeover);
        prop_assert_eq!(value("client_no_context_takeover").is_none(), agreed.receive_takeover);
        prop_assert!(config.takeover || !agreed.send_takeover && !agreed.receive_takeover);
        let sends = value("server_max_window_bits").map_or(15, |bits| bits.expect("with a value"));
        prop_assert_eq!(sends, agreed.send_window.bits());
        prop_assert!(sends <= config.window_bits);
        if let Some(bits) = value("client_max_window_bits") {
            prop_assert!(offers.contains("client_max_window_bits"), "only where the client knows the parameter");
            prop_assert!(bits.expect("with a value") <= agreed.receive_window.bits());
        } else {
            prop_assert_eq!(agreed.receive_window, Window::MAX);
        }
    }

    #[test]
    fn any_header_is_answered_or_declined(
        sound in any_offer(), mutations in any_mutations(), text in "\\PC{0,60}", config in any_config(),
    ) {
        let nearly = mutated(sound.into_bytes(), &mutations);
        let nearly = String::from_utf8_lossy(&nearly);
        for offers in [&nearly, text.as_str()] {
            if let Some((_, answer)) = negotiate([offers].into_iter(), &config) {
                prop_assert!(parameters(&answer).len() <= 5);
            }
            if let Ok(Some(agreed)) = parse_agreement([offers].into_iter(), &config) {
                prop_assert!(agreed.send_window.bits() <= config.window_bits);
                prop_assert!(agreed.receive_window.bits() <= config.window_bits);
            }
        }
    }

    #[test]
    fn inflating_anything_ends_at_the_limit(bytes in vec(any::<u8>(), 0..200), max in 0..3_000u32, takeover in any::<bool>()) {
        let mut inflater = Inflater::new(Window::MAX, takeover);
        for _ in 0..2 {
            match inflater.inflate(&bytes, max) {
                Ok(out) => prop_assert!(out.len() <= max as usize && out.capacity() <= 1 << 20),
                Err(error) => prop_assert!(matches!(error, ProtocolError::MessageTooBig | ProtocolError::InvalidDeflate)),
            }
        }
    }
}

#[test]
fn text_that_inflates_to_no_text_is_refused() {
    let mut deflater = Deflater::new(&Deflate { min_bytes: 0, ..Deflate::default() }, Window::MAX, true);
    let wire = deflater.deflate(b"\xc3\x28").expect("with takeover always").to_vec();
    let limits = MessageLimits { message_bytes_max: 100, fragments_max: 1 };
    let compressed = wsd::proto::message::Compressed { text: true, payload: wire.into() };
    let mut inflater = Inflater::new(Window::MAX, true);
    assert_eq!(compressed.inflate(&mut inflater, &limits), Err(ProtocolError::InvalidUtf8));
}
