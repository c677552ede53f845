//! RFC 6455 as bytes and rules: frame headers, masking, UTF-8, messages, close codes, the opening handshake.
//!
//! What is **not** here: sockets, clocks, threads, and what to do about an error. Everything takes bytes and
//! gives values, for both ends of a connection ([`Role`]), so that a server and a load generator built on it
//! check each other.
//!
//! | file | rule |
//! |---|---|
//! | `header.rs` | frame headers, section 5.2 |
//! | `mask.rs` | masking, section 5.3 |
//! | `utf8.rs` | UTF-8 across fragments, section 8.1 |
//! | `message.rs` | frames and fragments to messages, section 5.4 |
//! | `close.rs` | close codes and payloads, sections 5.5.1 and 7.4 |
//! | `deflate/` | permessage-deflate, RFC 7692 |
//! | `frame.rs` | the outgoing side: encoding, and the shared frame |
//! | `handshake/` | the opening handshake, section 4 |
//! | `proxied.rs` | who a client behind a proxy is: `X-Forwarded-For`, the PROXY protocol |
//! | `error.rs` | what a peer can do wrong, and the close code it earns |

pub mod close;
pub mod deflate;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod header;
pub mod mask;
pub mod message;
pub mod proxied;
pub mod utf8;

pub use close::{Close, CloseCode};
pub use error::ProtocolError;
pub use frame::Frame;
pub use header::{Header, OpCode};
pub use message::{Decoder, Event, Message, MessageLimits};

/// Which end of the connection *we* are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We opened the connection: we mask what we send, and what we receive must not be masked.
    Client,
    /// We accepted the connection: what we receive must be masked, and we never mask.
    Server,
}

/// The outcome of parsing a prefix of a stream, in the manner of `httparse`: too few bytes is not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status<T> {
    /// The whole item was there.
    Complete(T),
    /// So far nothing is wrong, but the item does not end within the bytes given.
    Partial,
}
