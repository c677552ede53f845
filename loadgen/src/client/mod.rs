//! One client connection without its socket: from the opening handshake to the Close, as bytes in and events
//! out.
//!
//! What is not here: sockets, clocks, what messages mean.
//!
//! ```text
//! Upgrading --101 verified--> Open --Close received, or sent at the end of the run--> Closing
//!                              \--Close sent at the end of a life--> Leaving --Close received--> Closing
//! ```

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use base64::Engine as _;
use wsd::Deflate;
use wsd::proto::deflate::Window;
use wsd::proto::handshake::ClientRequest;
use wsd::proto::handshake::client::{ResponseError, Upgraded};
use wsd::proto::handshake::parse_response;
use wsd::proto::message::Compressed;
use wsd::proto::{CloseCode, Decoder, Event, MessageLimits, ProtocolError, Role, Status, frame};
use wsd::proto::{Message, OpCode};

use crate::backoff::retry_hint;

/// What a client takes from a server in one message.
pub const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 64 << 20, fragments_max: 1 << 20 };

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The request is on its way, the answer has not come whole.
    Upgrading,
    /// Messages flow.
    Open,
    /// A Close was sent before one came: nothing more may be sent, and what comes before the answer counts.
    Leaving,
    /// A Close was sent or has come; nothing else counts.
    Closing,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// The handshake is complete, and the server has proved that it speaks the protocol.
    Upgraded,
    /// A message, text or binary.
    Message(Cow<'a, [u8]>),
    /// A message that is still compressed.
    Compressed(Compressed<'a>),
    /// Asks for a pong with the same payload: see [`encode_pong`].
    Ping(Cow<'a, [u8]>),
    /// The server closes: answer with [`Client::close`], unless this is the answer to [`Client::leave`].
    Close {
        /// With this code, 1005 where it gave none.
        code: u16,
        /// How long it asks to be spared, see [`retry_hint`].
        retry: Option<Duration>,
    },
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The handshake was refused or wrong.
    Handshake(ResponseError),
    /// The server broke the protocol.
    Protocol(ProtocolError),
}

/// What is offered as permessage-deflate: everything is compressed, and nothing is remembered between messages, so that
/// an idle connection costs no window.
pub const DEFLATE: Deflate = Deflate { min_bytes: 0, level: 1, window_bits: 15, takeover: false };

/// The longest answer without an empty line that a server of plain TCP may give.
const RAW_HEAD_BYTES_MAX: usize = 8 * 1024;

/// What stands for the connection's number in the path and in headers.
pub const CONN: &str = "{conn}";

/// What every connection asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The `Host` header.
    pub host: String,
    /// Path and query, in which [`CONN`] stands for the number of the connection.
    pub path: String,
    /// The `Origin` header.
    pub origin: Option<String>,
    /// Subprotocols, the best one first.
    pub subprotocols: Vec<String>,
    /// permessage-deflate on these terms.
    pub deflate: Option<Deflate>,
    /// Further headers; [`CONN`] in their values as in the path.
    pub headers: Vec<(String, String)>,
    /// Whether any answer will do, as long as it ends with an empty line: from a server that knows no WebSocket.
    pub raw: bool,
}

impl Offer {
    /// Appends the opening request of connection `conn`.
    pub fn encode(&self, conn: u32, key: &str, out: &mut Vec<u8>) {
        let number = conn.to_string();
        let values: Vec<String> =
            self.headers.iter().map(|(_, value)| value.replace(CONN, &number)).collect();
        let headers: Vec<(&str, &str)> =
            self.headers.iter().zip(&values).map(|((name, _), value)| (&**name, &**value)).collect();
        let (path, subprotocols) = (self.path.replace(CONN, &number), self.subprotocols());
        let request = ClientRequest {
            host: &self.host,
            target: &path,
            key,
            origin: self.origin.as_deref(),
            subprotocols: &subprotocols,
            deflate: self.deflate.as_ref(),
            headers: &headers,
        };
        request.encode(out);
    }

    /// Checks the answer to a request made with `key`.
    fn parse(&self, bytes: &[u8], key: &str) -> Result<Status<Upgraded>, ResponseError> {
        if self.raw {
            return match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => {
                    Ok(Status::Complete(Upgraded { head_len: at + 4, subprotocol: None, deflate: None }))
                }
                None if bytes.len() > RAW_HEAD_BYTES_MAX => Err(ResponseError::Malformed),
                None => Ok(Status::Partial),
            };
        }
        parse_response(bytes, key, &self.subprotocols(), self.deflate.as_ref())
    }

    fn subprotocols(&self) -> Vec<&str> {
        self.subprotocols.iter().map(String::as_str).collect()
    }
}

/// The state of one connection; owns no buffer between messages.
#[derive(Debug)]
pub struct Client {
    decoder: Decoder,
    /// The beginning of the server's answer, where it came in pieces.
    #[expect(
        clippy::box_collection,
        reason = "eight bytes instead of 24 in every connection that never needs it"
    )]
    head: Option<Box<Vec<u8>>>,
    state: State,
    /// The window to compress with, where that was agreed on.
    deflate: Option<Window>,
}

impl Default for Client {
    fn default() -> Self {
        Self { decoder: Decoder::new(Role::Client), head: None, state: State::Upgrading, deflate: None }
    }
}

impl Client {
    /// Where the connection stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// The window to compress messages with, where that was agreed on.
    pub const fn deflate(&self) -> Option<Window> {
        self.deflate
    }

    /// Where the payload lies if `bytes` begin with what servers nearly always send: a message in one frame, all of it
    /// there. Its first bytes say that it breaks no rule. What this does not know is left to
    /// [`handle_input`](Self::handle_input), which has to be called then.
    #[inline]
    pub fn whole_message(&self, bytes: &[u8]) -> Option<Range<usize>> {
        const TEXT: u8 = 0x81;
        const BINARY: u8 = 0x82;
        if !matches!(self.state, State::Open | State::Leaving) || self.decoder.is_mid_message() {
            return None;
        }
        let (begin, len) = match *bytes {
            [_, len @ 0..=125, ..] => (2, usize::from(len)),
            // 126 stands for two bytes of length, which a shorter message must not use.
            [_, 126, high, low, ..] if high > 0 || low > 125 => {
                (4, usize::from(high) << 8 | usize::from(low))
            }
            _ => return None,
        };
        let payload = bytes.get(begin..begin + len)?;
        let is_sound = bytes[0] == BINARY || (bytes[0] == TEXT && payload.is_ascii());
        is_sound.then_some(begin..begin + len)
    }

    /// Takes bytes up to the end of the next event, and says how many: call it again with the rest while there
    /// is any. `offer` and `key` are what the request was made with.
    ///
    /// # Errors
    /// The connection cannot go on; nothing more must be fed.
    // Not inlined: it is the rare way, and would keep the usual one from the registers.
    #[inline(never)]
    pub fn handle_input<'a>(
        &mut self,
        bytes: &'a mut [u8],
        offer: &Offer,
        key: impl FnOnce() -> String,
    ) -> Result<(usize, Option<Input<'a>>), Fault> {
        match self.state {
            State::Upgrading => self.handle_answer(bytes, offer, &key()),
            State::Open | State::Leaving => self.handle_frames(bytes),
            State::Closing => Ok((bytes.len(), None)),
        }
    }

    /// Appends a Close frame with code 1000 and goes on receiving until the server has answered it.
    pub fn leave(&mut self, mask: [u8; 4], out: &mut Vec<u8>) {
        self.close(CloseCode::NORMAL.get(), mask, out);
        self.state = State::Leaving;
    }

    /// Appends a Close frame with `code` (without one for 1005) and counts the connection as closing.
    pub fn close(&mut self, code: u16, mask: [u8; 4], out: &mut Vec<u8>) {
        self.state = State::Closing;
        let code = code.to_be_bytes();
        // "1005 is a reserved value and MUST NOT be set as a status code" (section 7.4.1).
        let payload: &[u8] = if code == 1005u16.to_be_bytes() { &[] } else { &code };
        frame::encode(out, OpCode::Close, payload, Some(mask));
    }

    fn handle_answer<'a>(
        &mut self,
        bytes: &'a mut [u8],
        offer: &Offer,
        key: &str,
    ) -> Result<(usize, Option<Input<'a>>), Fault> {
        let held = self.head.as_ref().map_or(0, |head| head.len());
        let outcome = match &mut self.head {
            None => offer.parse(bytes, key),
            Some(head) => {
                head.extend_from_slice(bytes);
                offer.parse(head, key)
            }
        };
        match outcome.map_err(Fault::Handshake)? {
            Status::Complete(upgraded) => {
                self.head = None;
                self.state = State::Open;
                if let Some(agreed) = upgraded.deflate {
                    self.decoder.enable_deflate();
                    self.deflate = Some(agreed.send_window);
                }
                Ok((upgraded.head_len - held, Some(Input::Upgraded)))
            }
            Status::Partial => {
                self.head.get_or_insert_with(|| Box::new(bytes.to_vec()));
                Ok((bytes.len(), None))
            }
        }
    }

    fn handle_frames<'a>(&mut self, bytes: &'a mut [u8]) -> Result<(usize, Option<Input<'a>>), Fault> {
        let (used, event) = self.decoder.decode(bytes, &LIMITS).map_err(Fault::Protocol)?;
        let input = match event {
            None => None,
            Some(Event::Message(Message::Binary(bytes))) => Some(Input::Message(bytes)),
            Some(Event::Message(Message::Text(text))) => Some(Input::Message(match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            })),
            Some(Event::Compressed(message)) => Some(Input::Compressed(message)),
            Some(Event::Ping(payload)) => Some(Input::Ping(payload)),
            Some(Event::Close(close)) => {
                if self.state == State::Leaving {
                    self.state = State::Closing;
                }
                let retry = close.as_ref().and_then(|close| retry_hint(&close.reason));
                Some(Input::Close { code: close.map_or(1005, |close| close.code.get()), retry })
            }
            // A heartbeat that nobody asked for: legal, and of no use here.
            Some(Event::Pong(_)) => None,
        };
        Ok((used, input))
    }
}

/// Appends the answer to a ping.
pub fn encode_pong(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    frame::encode(out, OpCode::Pong, payload, Some(mask));
}

/// The `Sec-WebSocket-Key` of connection `conn`: found again when the answer comes, instead of kept.
///
/// Not inlined: the compiler would draw its random numbers before each read, for a handshake that is long over.
#[cold]
#[inline(never)]
pub fn key(seed: u64, conn: u32) -> String {
    let mut rng = fastrand::Rng::with_seed(seed ^ u64::from(conn).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let nonce: [u8; 16] = std::array::from_fn(|_| rng.u8(..));
    base64::engine::general_purpose::STANDARD.encode(nonce)
}

#[cfg(test)]
mod tests {
    use wsd::proto::Close;
    use wsd::proto::handshake::encode_accept;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// What a server sends: its answer, then frames.
    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        encode_accept(&mut out, KEY, None, None);
        frame::encode(&mut out, OpCode::Text, b"hello", None);
        frame::encode(&mut out, OpCode::Pong, b"unasked", None);
        frame::encode(&mut out, OpCode::Ping, b"?", None);
        frame::encode(&mut out, OpCode::Binary, b"\0\xff", None);
        frame::encode_close(&mut out, &Close::from(CloseCode::GOING_AWAY));
        out
    }

    fn events(stream: &[u8], piece: usize) -> Vec<String> {
        let (mut client, mut out) = (Client::default(), Vec::new());
        for chunk in stream.chunks(piece) {
            let mut chunk = chunk.to_vec();
            let mut at = 0;
            while at < chunk.len() {
                let (used, input) = client
                    .handle_input(&mut chunk[at..], &Offer::default(), || KEY.to_owned())
                    .expect("sound");
                out.extend(input.map(|input| format!("{input:?}")));
                at += used;
            }
        }
        out
    }

    #[test]
    fn a_conversation_however_it_is_cut() {
        let stream = stream();
        let whole = events(&stream, stream.len());
        let expected = [
            "Upgraded",
            "Message([104, 101, 108, 108, 111])",
            "Ping([63])",
            "Message([0, 255])",
            "Close { code: 1001, retry: None }",
        ];
        assert_eq!(whole, expected);
        for piece in 1..stream.len() {
            assert_eq!(events(&stream, piece), whole, "in pieces of {piece}");
        }
    }

    #[test]
    fn the_short_cut_is_for_open_connections() {
        let mut message = Vec::new();
        frame::encode(&mut message, OpCode::Binary, b"hello", None);
        for (state, expected) in [
            (State::Upgrading, None),
            (State::Open, Some(2..7)),
            (State::Leaving, Some(2..7)),
            (State::Closing, None),
        ] {
            let client = Client { state, ..Client::default() };
            assert_eq!(client.whole_message(&message), expected, "{state:?}");
        }
    }

    /// Frames of all kinds and lengths, some of them damaged, read with the short cut and without it.
    #[test]
    fn the_short_cut_sees_what_the_decoder_sees() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut whole = 0;
        for round in 0..20_000 {
            let mut stream = Vec::new();
            for _ in 0..rng.usize(1..4) {
                let len = [0, 1, 5, 125, 126, 127, 200, 65_535, 65_536]
                    [rng.usize(..if round % 50 == 0 { 9 } else { 7 })];
                let byte = if rng.u8(..8) == 0 { 0xe9 } else { b'e' };
                let opcode =
                    [OpCode::Text, OpCode::Binary, OpCode::Ping][rng.usize(..if len > 125 { 2 } else { 3 })];
                frame::encode(&mut stream, opcode, &vec![byte; len], None);
            }
            if rng.bool() {
                let at = rng.usize(..stream.len().min(6));
                stream[at] ^= 1 << rng.u8(..8);
            }
            let cut = rng.usize(..=stream.len());
            let mut pieces = [stream[..cut].to_vec(), stream[cut..].to_vec()];
            let mut decoder = Decoder::new(Role::Client);
            let mut client = Client { state: State::Open, ..Client::default() };
            'pieces: for piece in &mut pieces {
                let mut copy = piece.clone();
                let mut at = 0;
                while at < piece.len() {
                    let seen = match client.whole_message(&piece[at..]) {
                        Some(payload) => {
                            whole += 1;
                            let message = Input::Message(Cow::Borrowed(&piece[at..][payload.clone()]));
                            Ok((payload.end, Some(message)))
                        }
                        None => client.handle_input(&mut piece[at..], &Offer::default(), String::new),
                    };
                    let expected = decoder.decode(&mut copy[at..], &LIMITS).map_err(Fault::Protocol);
                    match (seen, expected) {
                        (Err(seen), Err(expected)) => {
                            assert_eq!(seen, expected);
                            break 'pieces;
                        }
                        (
                            Ok((used, Some(Input::Message(bytes)))),
                            Ok((expected, Some(Event::Message(message)))),
                        ) => {
                            assert_eq!((used, &*bytes), (expected, message.as_bytes()));
                            at += used;
                        }
                        (Ok((used, input)), Ok((expected, event))) => {
                            assert_eq!(used, expected);
                            assert!(
                                !matches!(input, Some(Input::Message(_)))
                                    && !matches!(event, Some(Event::Message(_)))
                            );
                            at += used;
                        }
                        (seen, expected) => panic!("{seen:?} instead of {expected:?}"),
                    }
                }
            }
        }
        assert!(whole > 10_000, "{whole} took the short cut");
    }

    #[test]
    fn a_wrong_accept_and_a_refusal_are_faults() {
        let mut answer = stream();
        let fault = Client::default()
            .handle_input(&mut answer, &Offer::default(), || "AAAAAAAAAAAAAAAAAAAAAA==".to_owned());
        assert_eq!(fault, Err(Fault::Handshake(ResponseError::AcceptKey)));
        let mut answer = b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec();
        let fault = Client::default().handle_input(&mut answer, &Offer::default(), || KEY.to_owned());
        assert_eq!(fault, Err(Fault::Handshake(ResponseError::Status(404))));
    }

    #[test]
    fn plain_tcp_is_open_after_any_empty_line() {
        let offer = Offer { raw: true, ..Offer::default() };
        let feed = |client: &mut Client, bytes: &mut [u8]| {
            let (used, input) = client.handle_input(bytes, &offer, String::new)?;
            Ok::<_, Fault>((used, input.is_some()))
        };
        let mut client = Client::default();
        assert_eq!(feed(&mut client, &mut b"anything\r\n\r".to_vec()), Ok((11, false)));
        assert_eq!(feed(&mut client, &mut b"\n\x81\x01x".to_vec()), Ok((1, true)), "frames follow");
        assert_eq!(client.state(), State::Open);

        let mut client = Client::default();
        assert_eq!(feed(&mut client, &mut [b'x'; RAW_HEAD_BYTES_MAX]), Ok((RAW_HEAD_BYTES_MAX, false)));
        assert_eq!(feed(&mut client, &mut [b'x']), Err(Fault::Handshake(ResponseError::Malformed)));
    }

    #[test]
    fn nothing_counts_after_our_close() {
        let (mut client, mut stream, mut out) = (Client::default(), stream(), Vec::new());
        let (used, _) =
            client.handle_input(&mut stream, &Offer::default(), || KEY.to_owned()).expect("sound");
        client.close(1000, MASK, &mut out);
        assert_eq!(out, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe8 ^ 2]);
        let rest = stream.len() - used;
        assert_eq!(
            client.handle_input(&mut stream[used..], &Offer::default(), String::new),
            Ok((rest, None))
        );
        out.clear();
        client.close(1005, MASK, &mut out);
        assert_eq!(out, [0x88, 0x80, 1, 2, 3, 4], "no code is answered by none");
    }

    /// After our own Close what was under way still counts, up to the answer.
    #[test]
    fn who_leaves_hears_the_last_messages() {
        let mut client = Client::default();
        let mut stream = stream();
        stream.extend(b"\x81\x01x");
        let (mut at, mut inputs, mut out) = (0, Vec::new(), Vec::new());
        while at < stream.len() {
            let bytes = &mut stream[at..];
            let (used, input) =
                client.handle_input(bytes, &Offer::default(), || KEY.to_owned()).expect("sound");
            inputs.extend(input.map(|input| format!("{input:?}")));
            if at == 0 {
                client.leave(MASK, &mut out);
            }
            at += used;
        }
        assert_eq!(out, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe8 ^ 2]);
        assert_eq!(inputs.len(), 5, "not what follows the Close: {inputs:?}");
        assert_eq!(client.state(), State::Closing);
    }

    #[test]
    fn a_close_may_ask_to_be_spared() {
        let close = Close { code: CloseCode::RESTART, reason: "retry=3120".into() };
        let mut stream = Vec::new();
        encode_accept(&mut stream, KEY, None, None);
        frame::encode_close(&mut stream, &close);
        let last = "Close { code: 1012, retry: Some(3.12s) }";
        assert_eq!(events(&stream, stream.len()).last().map(String::as_str), Some(last));
    }

    #[test]
    fn keys_are_valid_and_differ() {
        assert_eq!(key(1, 2).len(), 24);
        assert_eq!(key(1, 2), key(1, 2));
        assert_ne!(key(1, 2), key(1, 3));
    }

    #[test]
    fn each_connection_can_ask_for_its_own() {
        let offer = Offer {
            host: "h:1".into(),
            path: "/echo?id={conn}".into(),
            origin: Some("http://h".into()),
            subprotocols: vec!["v2".into(), "v1".into()],
            deflate: Some(Deflate { takeover: false, ..Deflate::default() }),
            headers: vec![("X-User".into(), "u{conn}".into())],
            raw: false,
        };
        let mut request = Vec::new();
        offer.encode(7, KEY, &mut request);
        let text = String::from_utf8(request).expect("ASCII");
        assert!(text.starts_with("GET /echo?id=7 HTTP/1.1\r\nHost: h:1\r\n"), "{text}");
        for line in [
            "Origin: http://h\r\n",
            "Sec-WebSocket-Protocol: v2, v1\r\n",
            "X-User: u7\r\n",
            "permessage-deflate;",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
