//! What an application sees of the server: callbacks in, orders out.
//!
//! An [`App`] is called by its worker's loop, one connection at a time, and answers with orders to its
//! [`Context`], which are data: the loop carries them out when the callback has returned. Each worker has its own
//! value of each app, so an app needs no locks; what it knows of connections on other workers reaches it, and
//! them, through topics.

mod place;

use std::ops::Range;

pub(crate) use place::{Place, Places};

use crate::hub::batch::{FrameRef, LARGE_FRAME_BYTES};
use crate::id::ConnId;
use crate::proto::deflate::Deflater;
use crate::proto::frame::{self, Frame};
use crate::proto::handshake::Request;
use crate::proto::{Close, CloseCode, Message};

/// An application: what happens on the connections of one route, on one worker.
///
/// Every method has a default that does the least. A callback that panics costs its own connection, which is
/// closed with 1011, and nothing else.
pub trait App {
    /// A sound opening handshake for this route: whether it may connect, and with which subprotocol.
    fn on_request(&mut self, request: &Request<'_>) -> Admission {
        let _ = request;
        Admission::accept()
    }

    /// The connection is open. The first thing that `send` sends here reaches the peer right behind the
    /// handshake.
    fn on_open(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }

    /// A whole message; text is valid UTF-8.
    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        let _ = (cx, message);
    }

    /// The connection is no longer open, for whatever reason: called once for each `on_open`. It is in no topic
    /// any more, and `send` has no effect. The code is 1005 where the peer's Close had none and 1006 where
    /// there was no Close.
    fn on_close(&mut self, cx: &mut Context<'_>, close: &Close) {
        let _ = (cx, close);
    }
}

/// An app's answer to a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission(pub(crate) Verdict);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept { subprotocol: Option<String> },
    Reject { status: u16, body: String },
}

impl Admission {
    /// Connect, without a subprotocol.
    pub const fn accept() -> Self {
        Self(Verdict::Accept { subprotocol: None })
    }

    /// Connect with a subprotocol, which must be one of [`Request::subprotocols`]: another one is left out of
    /// the answer, as RFC 6455 section 4.2.2 demands.
    pub fn accept_with(subprotocol: impl Into<String>) -> Self {
        Self(Verdict::Accept { subprotocol: Some(subprotocol.into()) })
    }

    /// Connect with the first of `known`, which is in our order of preference, that the client offers; without
    /// one where it offers none of them.
    pub fn negotiate(request: &Request<'_>, known: &[&str]) -> Self {
        let chosen = known.iter().find(|name| request.subprotocols().any(|offered| offered == **name));
        Self(Verdict::Accept { subprotocol: chosen.map(|&name| name.to_owned()) })
    }

    /// Do not connect: an HTTP answer with this status (400 to 599; anything else becomes 403) and a short text.
    pub fn reject(status: u16, body: impl Into<String>) -> Self {
        let status = if (400..=599).contains(&status) { status } else { 403 };
        Self(Verdict::Reject { status, body: body.into() })
    }
}

/// One connection, as its app sees it during a callback.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) id: ConnId,
    pub(crate) place: &'a Place,
    pub(crate) orders: &'a mut Orders,
    /// What compresses messages to this connection, where that was agreed on.
    pub(crate) deflater: Option<&'a mut Deflater>,
}

impl<'a> Context<'a> {
    /// The connection.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The path of its handshake, without the query, not percent-decoded.
    pub fn path(&self) -> &'a str {
        &self.place.path
    }

    /// The subprotocol that was agreed on.
    pub fn subprotocol(&self) -> Option<&'a str> {
        self.place.subprotocol.as_deref()
    }

    /// Sends a message to this connection. What a callback sends arrives in order; it may overtake what was
    /// published to a topic in the same turn, which goes out when all input of the turn has been read.
    pub fn send<'m>(&mut self, message: impl Into<Message<'m>>) {
        let message = message.into();
        let reply = &mut self.orders.reply;
        match &mut self.deflater {
            None => frame::encode_message(reply, &message),
            Some(deflater) => {
                frame::encode_deflated(reply, message.opcode(), message.as_bytes(), None, deflater);
            }
        }
        self.orders.reply_messages += 1;
    }

    /// Sends a message to all members of a topic, on every worker. Each member gets what one sender published to a
    /// topic in the order in which it was published. Between topics that holds from one turn of the loop to the next:
    /// what a sender publishes in the same turn goes out topic by topic.
    ///
    /// Members are those that there are when the message comes to their worker, which for other workers is a moment
    /// later; replies do not wait for it. So whoever is told that it is a member misses nothing that is published
    /// because of that, and may still get what was published just before; whoever has left may miss that, and gets
    /// nothing more.
    pub fn publish<'m>(&mut self, topic: &str, message: impl Into<Message<'m>>) {
        self.orders.publish(topic, &message.into(), false);
    }

    /// As [`publish`](Self::publish), to all members but this connection.
    pub fn publish_to_others<'m>(&mut self, topic: &str, message: impl Into<Message<'m>>) {
        self.orders.publish(topic, &message.into(), true);
    }

    /// Makes this connection a member of a topic, when the callback has returned: it gets what is published from then
    /// on, and perhaps what was just before ([`publish`](Self::publish)). A topic exists while it has members. Meant
    /// for few topics at a time: each call goes through all that the connection is in.
    pub fn subscribe(&mut self, topic: &str) {
        let topic = self.orders.keep(topic.as_bytes());
        self.orders.list.push(Order::Subscribe(topic));
    }

    /// Ends a membership, when the callback has returned: nothing of the topic is sent to this connection any more, not
    /// even what was published just before and has not come to its turn.
    pub fn unsubscribe(&mut self, topic: &str) {
        let topic = self.orders.keep(topic.as_bytes());
        self.orders.list.push(Order::Unsubscribe(topic));
    }

    /// Begins the closing handshake, behind all that was sent before. `code` must be one that may be on the wire
    /// ([`CloseCode::new`]); the reason is cut after 123 bytes.
    pub fn close(&mut self, code: CloseCode, reason: impl Into<std::borrow::Cow<'static, str>>) {
        self.orders.list.push(Order::Close(Close::new(code, reason)));
    }
}

/// An arena larger than this is not kept for the next callback.
const ARENA_BYTES: usize = 128 * 1024;

/// What a callback ordered. The texts and frames are in one arena that every callback uses again, so that orders
/// cost no allocation.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// Encoded frames for the connection itself.
    pub(crate) reply: Vec<u8>,
    /// Messages in `reply`.
    pub(crate) reply_messages: u32,
    list: Vec<Order>,
    arena: Vec<u8>,
}

#[derive(Debug)]
enum Order {
    Publish { topic: Range<usize>, frame: Encoded, others_only: bool },
    Subscribe(Range<usize>),
    Unsubscribe(Range<usize>),
    Close(Close),
}

#[derive(Debug)]
enum Encoded {
    InArena(Range<usize>),
    Shared(Frame),
}

/// One order, with what it refers to.
#[derive(Debug)]
pub(crate) enum OrderRef<'a> {
    Publish { topic: &'a str, frame: FrameRef<'a>, others_only: bool },
    Subscribe(&'a str),
    Unsubscribe(&'a str),
    Close(&'a Close),
}

impl Orders {
    /// The orders of the callback, in order; the reply is apart.
    pub(crate) fn iter(&self) -> impl Iterator<Item = OrderRef<'_>> {
        self.list.iter().map(|order| match order {
            Order::Publish { topic, frame, others_only } => {
                let frame = match frame {
                    Encoded::InArena(range) => FrameRef::Bytes(&self.arena[range.clone()]),
                    Encoded::Shared(frame) => FrameRef::Shared(frame),
                };
                OrderRef::Publish { topic: self.text(topic), frame, others_only: *others_only }
            }
            Order::Subscribe(topic) => OrderRef::Subscribe(self.text(topic)),
            Order::Unsubscribe(topic) => OrderRef::Unsubscribe(self.text(topic)),
            Order::Close(close) => OrderRef::Close(close),
        })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Forgets the orders, not the reply.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.arena.clear();
        self.arena.shrink_to(ARENA_BYTES);
    }

    fn publish(&mut self, topic: &str, message: &Message<'_>, others_only: bool) {
        let topic = self.keep(topic.as_bytes());
        let start = self.arena.len();
        frame::encode_message(&mut self.arena, message);
        let frame = if message.as_bytes().len() >= LARGE_FRAME_BYTES {
            let frame = Frame::from_encoded(&self.arena[start..]);
            self.arena.truncate(start);
            Encoded::Shared(frame)
        } else {
            Encoded::InArena(start..self.arena.len())
        };
        self.list.push(Order::Publish { topic, frame, others_only });
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }

    fn text(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.arena[range.clone()]).expect("`keep` was given a str")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(offers: &str) -> Vec<u8> {
        format!("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Protocol: {offers}\r\n\r\n").into_bytes()
    }

    #[test]
    fn our_preference_decides_among_what_is_offered() {
        let head = request("v1, v2");
        let offered = Request::parse(&head, 64).expect("sound");
        assert_eq!(Admission::negotiate(&offered, &["v3", "v2", "v1"]), Admission::accept_with("v2"));
        assert_eq!(Admission::negotiate(&offered, &["v9"]), Admission::accept());
    }

    #[test]
    fn a_rejection_is_an_error_status() {
        assert_eq!(Admission::reject(200, "x"), Admission::reject(403, "x"));
    }

    #[test]
    fn orders_come_out_as_they_went_in() {
        let mut orders = Orders::default();
        let place = Place { path: "/p".into(), subprotocol: None };
        let id = ConnId { worker: 0, slot: 1, generation: 2 };
        let mut cx = Context { id, place: &place, orders: &mut orders, deflater: None };
        cx.subscribe("t");
        cx.send("hi");
        cx.publish("t", "x");
        cx.publish_to_others("t", &[0u8; LARGE_FRAME_BYTES][..]);
        cx.close(CloseCode::NORMAL, "bye");
        let seen: Vec<String> = orders
            .iter()
            .map(|order| match order {
                OrderRef::Publish { topic, frame: FrameRef::Bytes(bytes), others_only } => {
                    format!("publish {topic} {bytes:?} {others_only}")
                }
                OrderRef::Publish { topic, frame: FrameRef::Shared(frame), others_only } => {
                    format!("publish {topic} {} {others_only}", frame.wire_len())
                }
                OrderRef::Subscribe(topic) => format!("subscribe {topic}"),
                OrderRef::Unsubscribe(topic) => format!("unsubscribe {topic}"),
                OrderRef::Close(close) => format!("close {}", close.code),
            })
            .collect();
        assert_eq!(
            seen,
            ["subscribe t", "publish t [129, 1, 120] false", "publish t 1028 true", "close 1000"]
        );
        assert_eq!((orders.reply.as_slice(), orders.reply_messages), (&b"\x81\x02hi"[..], 1));
    }
}
