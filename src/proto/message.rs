//! Frames and fragments to messages, RFC 6455 sections 5.4 and 5.5, without a buffer for those that are whole.
//!
//! [`Decoder::decode`] works in place on the bytes that were just read: a frame that is whole there becomes an
//! event that borrows it. Only a message or control frame that the bytes cut in two is kept, in a buffer that
//! grows with what was received, never with what was announced, and that leaves with the event. An idle
//! connection owns no buffer.

use std::borrow::Cow;

use super::close::Close;
use super::deflate::Inflater;
use super::error::ProtocolError;
use super::header::{HEADER_BYTES_MAX, Header, OpCode};
use super::utf8::Utf8Stream;
use super::{Role, Status, mask};

/// What one peer may make us hold for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Bytes of payload in one message, all fragments together.
    pub message_bytes_max: u32,
    /// Frames in one message.
    pub fragments_max: u32,
}

/// A whole message, borrowed from the read buffer where it arrived in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Valid UTF-8.
    Text(Cow<'a, str>),
    /// Any bytes.
    Binary(Cow<'a, [u8]>),
}

impl Message<'_> {
    /// The payload.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The text, unless the message is binary.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// The opcode of its first frame.
    pub const fn opcode(&self) -> OpCode {
        match self {
            Self::Text(_) => OpCode::Text,
            Self::Binary(_) => OpCode::Binary,
        }
    }

    /// The same message, borrowed from this one.
    pub fn borrow(&self) -> Message<'_> {
        match self {
            Self::Text(text) => Message::Text(Cow::Borrowed(text)),
            Self::Binary(bytes) => Message::Binary(Cow::Borrowed(bytes)),
        }
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Message<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Binary(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Message<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(Cow::Owned(bytes))
    }
}

impl<'a> From<&'a Message<'_>> for Message<'a> {
    fn from(message: &'a Message<'_>) -> Self {
        message.borrow()
    }
}

/// What a stream of frames amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message(Message<'a>),
    /// A whole message as permessage-deflate made it: to be inflated, and checked, by the receiver.
    Compressed(Compressed<'a>),
    /// To be answered with a pong of the same payload.
    Ping(Cow<'a, [u8]>),
    /// The answer to a ping, or a heartbeat.
    Pong(Cow<'a, [u8]>),
    /// The peer's Close. Nothing after it counts.
    Close(Option<Close>),
}

/// A message that has not been inflated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed<'a> {
    /// Whether what comes out must be UTF-8.
    pub text: bool,
    /// DEFLATE blocks without the tail (RFC 7692 section 7.2.1).
    pub payload: Cow<'a, [u8]>,
}

impl Compressed<'_> {
    /// Inflates it and checks what came out.
    ///
    /// # Errors
    /// Too big, no DEFLATE, or text that is not UTF-8.
    pub fn inflate(
        &self,
        inflater: &mut Inflater,
        limits: &MessageLimits,
    ) -> Result<Message<'static>, ProtocolError> {
        let bytes = inflater.inflate(&self.payload, limits.message_bytes_max)?;
        if self.text {
            return Ok(String::from_utf8(bytes).map_err(|_| ProtocolError::InvalidUtf8)?.into());
        }
        Ok(bytes.into())
    }
}

/// The receiving side of one connection. 56 bytes, and no buffer between messages.
#[derive(Debug)]
pub struct Decoder {
    /// A data message whose end has not come.
    assembly: Option<Box<Assembly>>,
    /// The payload so far of a control frame that was cut in two.
    #[expect(
        clippy::box_collection,
        reason = "one word in every connection instead of three, for what is rare"
    )]
    control: Option<Box<Vec<u8>>>,
    frame: Option<Frame>,
    /// The beginning of a header that was cut in two; at most `HEADER_BYTES_MAX - 1` bytes are ever held.
    head: [u8; HEADER_BYTES_MAX],
    head_len: u8,
    role: Role,
    /// Whether permessage-deflate was agreed on.
    deflate: bool,
}

/// The frame whose payload is being read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    remaining: u32,
    /// Turned so that the next byte is masked with `mask[0]`.
    mask: Option<[u8; 4]>,
    opcode: OpCode,
    fin: bool,
    compressed: bool,
}

/// A data message in progress.
#[derive(Debug)]
struct Assembly {
    payload: Vec<u8>,
    fragments: u32,
    kind: Kind,
}

/// What becomes of a message's bytes.
#[derive(Debug)]
enum Kind {
    Text(Utf8Stream),
    Binary,
    Compressed { text: bool },
}

impl Decoder {
    /// A decoder at the start of the frames. `role` is our own end.
    pub const fn new(role: Role) -> Self {
        Self {
            assembly: None,
            control: None,
            frame: None,
            head: [0; HEADER_BYTES_MAX],
            head_len: 0,
            role,
            deflate: false,
        }
    }

    /// permessage-deflate was agreed on: messages may be compressed.
    pub const fn enable_deflate(&mut self) {
        self.deflate = true;
    }

    /// Takes bytes up to the end of the next event, and says how many. With no event, all of `input` was taken.
    ///
    /// Call it again with the rest while there is any. `input` is unmasked in place.
    ///
    /// # Errors
    /// The peer broke the protocol or a limit; the decoder must not be used again.
    pub fn decode<'a>(
        &mut self,
        input: &'a mut [u8],
        limits: &MessageLimits,
    ) -> Result<(usize, Option<Event<'a>>), ProtocolError> {
        let total = input.len();
        let mut rest = input;
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => {
                    let Some((frame, used)) = self.read_header(rest, limits)? else {
                        return Ok((total, None));
                    };
                    rest = &mut rest[used..];
                    self.frame = Some(frame);
                    frame
                }
            };
            if rest.is_empty() && frame.remaining > 0 {
                return Ok((total, None));
            }
            let take = rest.len().min(frame.remaining as usize);
            let (payload, after) = rest.split_at_mut(take);
            let turned = frame.mask.map(|key| mask::apply(key, payload));
            rest = after;
            let consumed = total - rest.len();

            let whole = frame.remaining as usize == take;
            if whole {
                self.frame = None;
            } else {
                self.frame = Some(Frame { remaining: frame.remaining - take as u32, mask: turned, ..frame });
            }
            let event = if frame.opcode.is_control() {
                self.control_payload(frame, payload, whole)?
            } else {
                self.data_payload(frame, payload, whole)?
            };
            if event.is_some() {
                return Ok((consumed, event));
            }
        }
    }

    /// Whether the peer is in the middle of a frame or message.
    pub fn is_mid_message(&self) -> bool {
        self.assembly.is_some() || self.frame.is_some() || self.head_len > 0
    }

    /// The next header, from bytes held and `input`, and how much of `input` it took.
    fn read_header(
        &mut self,
        input: &[u8],
        limits: &MessageLimits,
    ) -> Result<Option<(Frame, usize)>, ProtocolError> {
        let held = self.head_len as usize;
        let (header, used) = if held == 0 {
            match Header::decode(input, self.role, self.deflate)? {
                Status::Complete(complete) => complete,
                Status::Partial => {
                    self.head[..input.len()].copy_from_slice(input);
                    self.head_len = input.len() as u8;
                    return Ok(None);
                }
            }
        } else {
            let fresh = input.len().min(HEADER_BYTES_MAX - held);
            self.head[held..held + fresh].copy_from_slice(&input[..fresh]);
            match Header::decode(&self.head[..held + fresh], self.role, self.deflate)? {
                Status::Complete((header, used)) => (header, used - held),
                Status::Partial => {
                    self.head_len = (held + fresh) as u8;
                    return Ok(None);
                }
            }
        };
        self.head_len = 0;
        let frame = self.admit(header, limits)?;
        Ok(Some((frame, used)))
    }

    /// The rules for sequences of frames, and the limits: checked before a byte of payload is kept.
    fn admit(&mut self, header: Header, limits: &MessageLimits) -> Result<Frame, ProtocolError> {
        if !header.opcode.is_control() {
            let (so_far, compressed) = match (header.opcode, &mut self.assembly) {
                (OpCode::Continuation, None) => return Err(ProtocolError::StrayContinuation),
                (OpCode::Text | OpCode::Binary, Some(_)) => return Err(ProtocolError::InterleavedMessage),
                (_, Some(assembly)) => {
                    if assembly.fragments >= limits.fragments_max {
                        return Err(ProtocolError::TooManyFragments);
                    }
                    assembly.fragments += 1;
                    (assembly.payload.len() as u64, matches!(assembly.kind, Kind::Compressed { .. }))
                }
                (_, None) => (0, header.compressed),
            };
            // What cannot be compressed grows by 5 bytes for each 16 KiB: a message at the limit must still fit.
            let max = u64::from(limits.message_bytes_max);
            let growth = if compressed { max / 1024 + 64 } else { 0 };
            if so_far.saturating_add(header.payload_len) > max + growth {
                return Err(ProtocolError::MessageTooBig);
            }
        }
        let remaining = u32::try_from(header.payload_len).map_err(|_| ProtocolError::MessageTooBig)?;
        let Header { fin, compressed, opcode, mask, .. } = header;
        Ok(Frame { remaining, mask, opcode, fin, compressed })
    }

    fn control_payload<'a>(
        &mut self,
        frame: Frame,
        payload: &'a [u8],
        whole: bool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let payload = match self.control.take() {
            None if whole => Cow::Borrowed(payload),
            held => {
                let mut held = held.unwrap_or_default();
                held.extend_from_slice(payload);
                if !whole {
                    self.control = Some(held);
                    return Ok(None);
                }
                Cow::Owned(*held)
            }
        };
        Ok(Some(match frame.opcode {
            OpCode::Ping => Event::Ping(payload),
            OpCode::Pong => Event::Pong(payload),
            _ => Event::Close(Close::decode(&payload)?),
        }))
    }

    fn data_payload<'a>(
        &mut self,
        frame: Frame,
        payload: &'a [u8],
        whole: bool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if whole && frame.fin && self.assembly.is_none() {
            return whole_message(frame, payload).map(Some);
        }

        let assembly = self.assembly.get_or_insert_with(|| {
            let kind = match frame.opcode {
                opcode if frame.compressed => Kind::Compressed { text: opcode == OpCode::Text },
                OpCode::Text => Kind::Text(Utf8Stream::default()),
                _ => Kind::Binary,
            };
            Box::new(Assembly { payload: Vec::new(), fragments: 1, kind })
        });
        // "as soon as the bytes are impossible": within the frame, not at its end.
        if let Kind::Text(utf8) = &mut assembly.kind {
            utf8.feed(payload).map_err(|_| ProtocolError::InvalidUtf8)?;
        }
        assembly.payload.extend_from_slice(payload);
        if !(whole && frame.fin) {
            return Ok(None);
        }
        let Some(assembly) = self.assembly.take() else { return Ok(None) };
        Ok(Some(match assembly.kind {
            Kind::Text(_) => {
                let text = String::from_utf8(assembly.payload).map_err(|_| ProtocolError::InvalidUtf8)?;
                Event::Message(text.into())
            }
            Kind::Binary => Event::Message(assembly.payload.into()),
            Kind::Compressed { text } => {
                Event::Compressed(Compressed { text, payload: assembly.payload.into() })
            }
        }))
    }
}

/// A message in one frame, borrowed from where it was read.
fn whole_message(frame: Frame, payload: &[u8]) -> Result<Event<'_>, ProtocolError> {
    let text = frame.opcode == OpCode::Text;
    if frame.compressed {
        return Ok(Event::Compressed(Compressed { text, payload: Cow::Borrowed(payload) }));
    }
    if !text {
        return Ok(Event::Message(payload.into()));
    }
    let text = simdutf8::basic::from_utf8(payload).map_err(|_| ProtocolError::InvalidUtf8)?;
    Ok(Event::Message(text.into()))
}

const _: () = assert!(size_of::<Decoder>() <= 56, "every connection pays for this");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::close::CloseCode;
    use crate::proto::frame::{encode, encode_fragment};

    const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 1000, fragments_max: 4 };
    const KEY: Option<[u8; 4]> = Some([0x11, 0x22, 0x33, 0x44]);

    /// A stream of client frames: `(fin, opcode, payload)`.
    fn frames(list: &[(bool, OpCode, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (fin, opcode, payload) in list {
            encode_fragment(&mut out, *fin, *opcode, payload, KEY);
        }
        out
    }

    /// All events of `stream` when it arrives in pieces of `piece` bytes, and the error that ended it.
    fn decode(stream: &[u8], piece: usize) -> (Vec<Event<'static>>, Option<ProtocolError>) {
        let mut decoder = Decoder::new(Role::Server);
        let mut events = Vec::new();
        for chunk in stream.chunks(piece) {
            let mut chunk = chunk.to_vec();
            let mut at = 0;
            while at < chunk.len() {
                match decoder.decode(&mut chunk[at..], &LIMITS) {
                    Ok((used, event)) => {
                        at += used;
                        events.extend(event.map(into_static));
                    }
                    Err(error) => return (events, Some(error)),
                }
            }
        }
        (events, None)
    }

    fn into_static(event: Event<'_>) -> Event<'static> {
        match event {
            Event::Message(Message::Text(text)) => Event::Message(text.into_owned().into()),
            Event::Message(Message::Binary(bytes)) => Event::Message(bytes.into_owned().into()),
            Event::Compressed(it) => {
                Event::Compressed(Compressed { text: it.text, payload: it.payload.into_owned().into() })
            }
            Event::Ping(bytes) => Event::Ping(Cow::Owned(bytes.into_owned())),
            Event::Pong(bytes) => Event::Pong(Cow::Owned(bytes.into_owned())),
            Event::Close(close) => Event::Close(close),
        }
    }

    /// Decodes at every piece size, asserts that the cuts make no difference, and gives the outcome.
    #[track_caller]
    fn decode_at_every_cut(stream: &[u8]) -> (Vec<Event<'static>>, Option<ProtocolError>) {
        let whole = decode(stream, stream.len().max(1));
        for piece in 1..stream.len() {
            assert_eq!(decode(stream, piece), whole, "in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn whole_messages_are_borrowed_from_the_input() {
        let mut bytes = frames(&[(true, OpCode::Text, b"hi")]);
        let mut decoder = Decoder::new(Role::Server);
        let (used, event) = decoder.decode(&mut bytes, &LIMITS).expect("valid");
        assert_eq!(used, 8);
        assert!(matches!(event, Some(Event::Message(Message::Text(Cow::Borrowed("hi"))))));
        assert!(!decoder.is_mid_message());
    }

    #[test]
    fn fragments_with_a_ping_between_them() {
        let stream = frames(&[
            (false, OpCode::Text, "hé".as_bytes()),
            (true, OpCode::Ping, b"?"),
            (false, OpCode::Continuation, b""),
            (true, OpCode::Continuation, b"llo"),
            (true, OpCode::Binary, b""),
            (true, OpCode::Pong, b""),
            (true, OpCode::Close, b"\x03\xe8bye"),
        ]);
        let (events, error) = decode_at_every_cut(&stream);
        assert_eq!(error, None);
        assert_eq!(
            events,
            [
                Event::Ping(Cow::Borrowed(b"?")),
                Event::Message("héllo".into()),
                Event::Message(Vec::new().into()),
                Event::Pong(Cow::Borrowed(b"")),
                Event::Close(Some(Close::new(CloseCode::NORMAL, "bye"))),
            ]
        );
    }

    #[test]
    fn a_character_may_be_cut_between_fragments() {
        let (euro, stream) = ("€".as_bytes(), Vec::new());
        let mut stream: Vec<u8> = stream;
        encode_fragment(&mut stream, false, OpCode::Text, &euro[..1], KEY);
        encode_fragment(&mut stream, false, OpCode::Continuation, &euro[1..2], KEY);
        encode_fragment(&mut stream, true, OpCode::Continuation, &euro[2..], KEY);
        assert_eq!(decode_at_every_cut(&stream), (vec![Event::Message("€".into())], None));
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_not_a_byte_longer() {
        let at_limit = frames(&[(true, OpCode::Binary, &[7; 1000])]);
        assert_eq!(decode(&at_limit, 64).0, [Event::Message(vec![7; 1000].into())]);
        let over = frames(&[(true, OpCode::Binary, &[7; 1001])]);
        assert_eq!(decode(&over[..8], 1).1, Some(ProtocolError::MessageTooBig), "at the header");
        let in_two = frames(&[(false, OpCode::Binary, &[7; 600]), (true, OpCode::Continuation, &[7; 401])]);
        assert_eq!(decode(&in_two, 64).1, Some(ProtocolError::MessageTooBig));
        let in_two = frames(&[(false, OpCode::Binary, &[7; 600]), (true, OpCode::Continuation, &[7; 400])]);
        assert_eq!(decode(&in_two, 64).1, None);
    }

    #[test]
    fn a_message_may_have_as_many_fragments_as_the_limit() {
        let fragment = (false, OpCode::Continuation, &b"x"[..]);
        let last = (true, OpCode::Continuation, &b"x"[..]);
        let first = (false, OpCode::Text, &b"x"[..]);
        assert_eq!(
            decode_at_every_cut(&frames(&[first, fragment, fragment, last])),
            (vec![Event::Message("xxxx".into())], None)
        );
        assert_eq!(
            decode_at_every_cut(&frames(&[first, fragment, fragment, fragment, last])).1,
            Some(ProtocolError::TooManyFragments)
        );
    }

    #[test]
    fn a_length_of_63_bits_allocates_nothing() {
        let mut stream = vec![0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4];
        let mut decoder = Decoder::new(Role::Server);
        assert_eq!(decoder.decode(&mut stream, &LIMITS), Err(ProtocolError::MessageTooBig));
        assert!(decoder.assembly.is_none());
    }

    #[test]
    fn the_buffer_grows_with_what_came() {
        let mut stream = frames(&[(true, OpCode::Binary, &[0; 900])]);
        stream.truncate(8 + 10);
        let mut decoder = Decoder::new(Role::Server);
        assert_eq!(decoder.decode(&mut stream, &LIMITS), Ok((18, None)));
        let assembly = decoder.assembly.expect("a message is in progress");
        assert_eq!(assembly.payload.len(), 10);
        assert!(assembly.payload.capacity() < 64);
    }

    #[test]
    fn sequences_that_are_none() {
        let stray = frames(&[(true, OpCode::Continuation, b"x")]);
        assert_eq!(decode_at_every_cut(&stray), (vec![], Some(ProtocolError::StrayContinuation)));
        let nested = frames(&[(false, OpCode::Text, b"x"), (true, OpCode::Binary, b"y")]);
        assert_eq!(decode_at_every_cut(&nested), (vec![], Some(ProtocolError::InterleavedMessage)));
    }

    #[test]
    fn impossible_text_fails_inside_its_frame() {
        let mut decoder = Decoder::new(Role::Server);
        let mut stream = frames(&[(true, OpCode::Text, b"\xce\xba\xf4\x90\x80\x80\xed")]);
        stream.truncate(6 + 4);
        assert_eq!(decoder.decode(&mut stream, &LIMITS), Err(ProtocolError::InvalidUtf8));
        let cut_character = frames(&[(true, OpCode::Text, b"\xe2\x82")]);
        assert_eq!(decode_at_every_cut(&cut_character).1, Some(ProtocolError::InvalidUtf8));
    }

    #[test]
    fn compressed_messages_come_out_whole_and_unlooked_at() {
        // "Hello" of RFC 7692 section 7.2.3.1, as one frame and as two.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let mut stream = frames(&[(true, OpCode::Text, &hello)]);
        stream
            .extend(frames(&[(false, OpCode::Text, &hello[..3]), (true, OpCode::Continuation, &hello[3..])]));
        stream[0] |= 0x40;
        stream[13] |= 0x40;
        for piece in 1..=stream.len() {
            let mut decoder = Decoder::new(Role::Server);
            decoder.enable_deflate();
            let mut inflater = Inflater::new(crate::proto::deflate::Window::MAX, false);
            let mut texts = Vec::new();
            for chunk in stream.chunks(piece) {
                let mut chunk = chunk.to_vec();
                let mut at = 0;
                while at < chunk.len() {
                    let (used, event) = decoder.decode(&mut chunk[at..], &LIMITS).expect("sound");
                    at += used;
                    if let Some(Event::Compressed(message)) = event {
                        texts.push(message.inflate(&mut inflater, &LIMITS));
                    }
                }
            }
            assert_eq!(texts, [Ok("Hello".into()), Ok("Hello".into())], "in pieces of {piece}");
        }
        assert_eq!(decode_at_every_cut(&stream).1, Some(ProtocolError::ReservedBits), "unless agreed on");
    }

    #[test]
    fn a_client_takes_what_a_server_sends() {
        let mut bytes = Vec::new();
        encode(&mut bytes, OpCode::Text, b"Hello", None);
        let mut decoder = Decoder::new(Role::Client);
        let (_, event) = decoder.decode(&mut bytes, &LIMITS).expect("valid");
        assert_eq!(event, Some(Event::Message("Hello".into())));
    }
}
