//! What two ends agree on, RFC 7692 sections 5 and 7.1.

use std::fmt;

use super::EXTENSION;
use crate::config::Deflate;

/// A window size as its base-2 logarithm, 9 to 15. RFC 7692 knows 8 too, but zlib cannot compress with it: it
/// takes 9 without a word, which a receiver with 8 could not read. So 8 is never agreed on for what we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window(u8);

impl Window {
    /// 32 KiB.
    pub const MAX: Self = Self(15);
    /// 512 bytes.
    pub const MIN: Self = Self(9);

    /// `None` unless `bits` is 9 to 15.
    pub const fn new(bits: u8) -> Option<Self> {
        match bits {
            9..=15 => Some(Self(bits)),
            _ => None,
        }
    }

    /// The logarithm.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

/// What was agreed on, seen from our own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The window with which we compress.
    pub send_window: Window,
    /// Whether our window goes on from message to message.
    pub send_takeover: bool,
    /// The window with which we must be able to decompress: 8 to 15, and zlib reads 8 as 9.
    pub receive_window: Window,
    /// Whether the peer's window goes on from message to message.
    pub receive_takeover: bool,
}

/// An answer that does not fit the offer: the connection must be failed (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferError;

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's answer does not fit the extensions that were offered")
    }
}

impl std::error::Error for OfferError {}

/// The four parameters, in an offer or in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// The inner value is `None` where an offer names the parameter without a value.
    client_max_window_bits: Option<Option<u8>>,
}

/// The server's side: takes the first offer that it can serve from the values of `Sec-WebSocket-Extensions`, in
/// the client's order of preference, and gives the answer with it. Offers that are unknown, malformed or beyond
/// us are declined, which is no error (section 5.1).
pub fn negotiate<'h>(values: impl Iterator<Item = &'h str>, config: &Deflate) -> Option<(Agreed, String)> {
    values.flat_map(split_extensions).find_map(|element| accept(parse(element)?, config))
}

/// The client's side: the offer.
pub fn offer(config: &Deflate) -> String {
    let mut out = format!("{EXTENSION}; client_max_window_bits");
    if config.window_bits < Window::MAX.bits() {
        out.push_str(&format!("; server_max_window_bits={}", config.window_bits));
    }
    if !config.takeover {
        out.push_str("; server_no_context_takeover; client_no_context_takeover");
    }
    out
}

/// The client's side: what the server's `Sec-WebSocket-Extensions` agrees to, for an offer made with the same
/// configuration; `None` where the server declined.
///
/// # Errors
/// The answer has what was not offered, or what is no sound answer to it.
pub fn parse_agreement<'h>(
    values: impl Iterator<Item = &'h str>,
    config: &Deflate,
) -> Result<Option<Agreed>, OfferError> {
    let mut elements = values.flat_map(split_extensions);
    let Some(element) = elements.next() else { return Ok(None) };
    let answer = parse(element).ok_or(OfferError)?;
    if elements.next().is_some() {
        return Err(OfferError);
    }
    let receive = answer.server_max_window_bits.unwrap_or(15);
    if receive > config.window_bits || (!config.takeover && !answer.server_no_context_takeover) {
        return Err(OfferError);
    }
    let send = match answer.client_max_window_bits {
        None => 15,
        // An answer must say which (section 7.1.2.2).
        Some(None) => return Err(OfferError),
        Some(Some(bits)) => bits,
    };
    Ok(Some(Agreed {
        // zlib cannot compress with 8; what it makes with 9 of at most 256 bytes would fit, but nobody asks for it.
        send_window: Window::new(send.min(config.window_bits)).ok_or(OfferError)?,
        send_takeover: config.takeover && !answer.client_no_context_takeover,
        receive_window: Window(receive.max(9)),
        receive_takeover: !answer.server_no_context_takeover,
    }))
}

fn accept(offer: Parameters, config: &Deflate) -> Option<(Agreed, String)> {
    let send = Window::new(offer.server_max_window_bits.unwrap_or(15).min(config.window_bits))?;
    let send_takeover = config.takeover && !offer.server_no_context_takeover;
    // A server may ask for it even if it was not offered (section 7.1.1.2).
    let receive_takeover = config.takeover && !offer.client_no_context_takeover;

    let mut answer = EXTENSION.to_owned();
    if !send_takeover {
        answer.push_str("; server_no_context_takeover");
    }
    if !receive_takeover {
        answer.push_str("; client_no_context_takeover");
    }
    if offer.server_max_window_bits.is_some() || send < Window::MAX {
        answer.push_str(&format!("; server_max_window_bits={}", send.bits()));
    }
    // Only where the client said that it understands the parameter (section 7.1.2.2).
    let receive = match offer.client_max_window_bits {
        None => 15,
        Some(bits) => {
            let bits = bits.unwrap_or(15).min(config.window_bits);
            answer.push_str(&format!("; client_max_window_bits={bits}"));
            bits
        }
    };
    let receive_window = Window(receive.max(9));
    Some((Agreed { send_window: send, send_takeover, receive_window, receive_takeover }, answer))
}

/// One element of the header as parameters; `None` for another extension, or where it is not sound.
fn parse(element: &str) -> Option<Parameters> {
    let mut parts = split_outside_quotes(element, ';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(EXTENSION) {
        return None;
    }
    let mut parameters = Parameters::default();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquote(value.trim()))),
            None => (part, None),
        };
        // Each parameter stands at most once, with a value of its kind (section 7.1).
        match (name, value) {
            ("server_no_context_takeover", None) if !parameters.server_no_context_takeover => {
                parameters.server_no_context_takeover = true;
            }
            ("client_no_context_takeover", None) if !parameters.client_no_context_takeover => {
                parameters.client_no_context_takeover = true;
            }
            ("server_max_window_bits", Some(bits)) if parameters.server_max_window_bits.is_none() => {
                parameters.server_max_window_bits = Some(window_bits(bits)?);
            }
            ("client_max_window_bits", bits) if parameters.client_max_window_bits.is_none() => {
                let bits = match bits {
                    Some(bits) => Some(window_bits(bits)?),
                    None => None,
                };
                parameters.client_max_window_bits = Some(bits);
            }
            _ => return None,
        }
    }
    Some(parameters)
}

/// "a decimal integer value without leading zeroes between 8 to 15 inclusive" (section 7.1.2.1)
fn window_bits(text: &str) -> Option<u8> {
    match text {
        "8" => Some(8),
        "9" => Some(9),
        "10" => Some(10),
        "11" => Some(11),
        "12" => Some(12),
        "13" => Some(13),
        "14" => Some(14),
        "15" => Some(15),
        _ => None,
    }
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

fn split_extensions(value: &str) -> impl Iterator<Item = &str> {
    split_outside_quotes(value, ',').map(str::trim).filter(|element| !element.is_empty())
}

/// The parts of `text` between separators that stand in no quoted string. One pass, whatever the text: the
/// quadratic version of this was ws's CVE-2021-32640.
fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |letter: char| {
        if escaped {
            escaped = false;
            return false;
        }
        match letter {
            '"' => quoted = !quoted,
            '\\' if quoted => escaped = true,
            _ => return letter == separator && !quoted,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(offers: &str, config: &Deflate) -> Option<String> {
        negotiate([offers].into_iter(), config).map(|(_, answer)| answer)
    }

    fn default_answer(offers: &str) -> Option<String> {
        answer(offers, &Deflate::default())
    }

    const NO_TAKEOVER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn offers_as_browsers_and_libraries_make_them() {
        assert_eq!(default_answer("permessage-deflate").as_deref(), Some(NO_TAKEOVER));
        assert_eq!(
            default_answer("permessage-deflate; client_max_window_bits"),
            Some(format!("{NO_TAKEOVER}; client_max_window_bits=15"))
        );
        assert_eq!(
            default_answer("permessage-deflate; server_max_window_bits=10; client_max_window_bits=\"12\""),
            Some(format!("{NO_TAKEOVER}; server_max_window_bits=10; client_max_window_bits=12"))
        );
        assert_eq!(
            default_answer("PerMessage-Deflate;server_no_context_takeover").as_deref(),
            Some(NO_TAKEOVER)
        );
    }

    #[test]
    fn takeover_is_what_both_want() {
        let config = Deflate { takeover: true, ..Deflate::default() };
        assert_eq!(answer("permessage-deflate", &config).as_deref(), Some("permessage-deflate"));
        assert_eq!(
            answer("permessage-deflate; server_no_context_takeover", &config).as_deref(),
            Some("permessage-deflate; server_no_context_takeover")
        );
        let (agreed, _) = negotiate(["permessage-deflate; client_no_context_takeover"].into_iter(), &config)
            .expect("a sound offer");
        assert!(agreed.send_takeover && !agreed.receive_takeover);
    }

    #[test]
    fn what_is_unsound_is_declined_and_the_next_offer_taken() {
        for unsound in [
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "permessage-deflate; x=\"a, permessage-deflate\"",
            "x-webkit-deflate-frame",
            "",
        ] {
            assert_eq!(default_answer(unsound), None, "{unsound}");
            assert_eq!(
                default_answer(&format!("{unsound}, permessage-deflate")).as_deref(),
                Some(NO_TAKEOVER),
                "{unsound}"
            );
        }
    }

    #[test]
    fn a_smaller_window_of_ours_is_announced() {
        let config = Deflate { window_bits: 9, ..Deflate::default() };
        assert_eq!(
            answer("permessage-deflate; client_max_window_bits", &config),
            Some(format!("{NO_TAKEOVER}; server_max_window_bits=9; client_max_window_bits=9"))
        );
    }

    #[test]
    fn both_ends_agree_on_the_same_thing() {
        for (window_bits, takeover) in (9..=15).flat_map(|bits| [(bits, true), (bits, false)]) {
            let ours = Deflate { window_bits, takeover, ..Deflate::default() };
            for theirs in [Deflate::default(), Deflate { takeover: true, ..ours }] {
                let (server, answer) =
                    negotiate([offer(&ours).as_str()].into_iter(), &theirs).expect("sound");
                let client =
                    parse_agreement([answer.as_str()].into_iter(), &ours).expect("sound").expect("agreed");
                assert_eq!(client.receive_window, server.send_window);
                assert_eq!(client.receive_takeover, server.send_takeover);
                assert!(client.send_window <= server.receive_window);
                assert!(!client.send_takeover || server.receive_takeover);
            }
        }
    }

    #[test]
    fn answers_that_do_not_fit_are_errors() {
        let config = Deflate::default();
        let check = |answer: &str| parse_agreement([answer].into_iter(), &config);
        assert_eq!(check(""), Ok(None));
        for unsound in [
            "permessage-deflate",
            "x; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=8",
            "permessage-deflate; server_no_context_takeover, permessage-deflate",
        ] {
            assert_eq!(check(unsound), Err(OfferError), "{unsound}");
        }
    }

    #[test]
    fn a_long_value_costs_linear_time() {
        // Quadratic code needs minutes for this.
        let value = "permessage-deflate; a=\"".to_owned() + &"\\\"".repeat(200_000);
        assert_eq!(default_answer(&value), None);
        assert_eq!(default_answer(&"permessage-deflate; x,".repeat(50_000)), None);
    }
}
