//! What came of input, output and time: the values that a connection gives to its shell.

use crate::proto::{Close, CloseCode, Message, ProtocolError};

/// What the shell does with the socket next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    Keep,
    /// Shut down the writing side and call `next_step` again.
    ShutdownWrite,
    /// Drop the socket.
    Drop,
}

/// What came in, beyond what the connection answers by itself.
#[derive(Debug, PartialEq)]
pub enum Received<'a> {
    /// A message for the app.
    Message(Message<'a>),
    /// The connection has just left the open phase.
    Closed(Ended),
    /// Nothing that anybody answers; it is to be counted.
    Ignored(Ignored),
}

/// What a peer said and gets no answer to, while the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// A ping over [`Limits::control_rate`](crate::config::Limits::control_rate).
    PingOverRate,
    /// A ping whose pong still waited when that of a newer one took its place.
    PingSuperseded,
    /// A ping that came when our Close was out.
    PingAfterClose,
    /// A whole message that came when our Close was out.
    MessageAfterClose,
}

/// Why a connection left the open phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Code and reason, as the peer sent them or as we did.
    pub close: Close,
    /// Which counter it belongs to.
    pub cause: Cause,
}

/// The ways in which a connection can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The peer sent a proper Close.
    Peer,
    /// The app or the server closed it.
    Local,
    /// The peer broke the protocol or a limit.
    Protocol(ProtocolError),
    /// The peer sent more messages than it may.
    Rate,
    /// It was as old as connections get.
    Aged,
    /// The peer does not read what is sent to it.
    Slow,
    /// All queues together held too much, and this one much of it.
    Shed,
    /// The peer began a message and did not finish it in time.
    Unfinished,
    /// The peer does not answer pings.
    Silent,
    /// The stream ended without a Close.
    Lost,
}

/// What a transmission came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// With the kernel, queued, or dropped and counted, as the route's policy says.
    Accepted,
    /// Refused, and counted as dropped: the queue is at its limit. Nothing of it was taken.
    Overflow,
}

impl Ended {
    /// The stream ended, or broke, without a Close.
    pub(super) fn lost() -> Self {
        Self { close: CloseCode::ABNORMAL.into(), cause: Cause::Lost }
    }
}
