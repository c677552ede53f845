//! The I/O shell: the only place with sockets, polls and the clock. Everything that decides something is below.
//!
//! | file | what |
//! |---|---|
//! | `worker.rs` | the loop: poll, accept, mailbox, sockets, fan-out, timers |
//! | `entry.rs` | one connection and its socket; deliveries to it |
//! | `socket.rs` | what happens on a connection's socket: reading, deadlines, writing |
//! | `handshake.rs` | a whole request head: a page, a refusal, or the way to an app |
//! | `calls.rs` | calling an app, and carrying out what it orders |
//! | [`stream`] | a socket, and its TLS if it has one |
//! | [`tls`] | TLS over a socket, without buffers of its own; certificates |
//! | `secure.rs` | the handshake of TLS on a connection |
//! | `listener.rs` | binding, accepting, running out of descriptors |
//! | `mailbox.rs` | what workers say to each other |
//! | `slots.rs` | connections by number, and stale events |
//! | `wheel.rs` | deadlines |
//! | [`fdtable`] | a descriptor table for each thread |

mod calls;
mod entry;
pub mod fdtable;
mod handshake;
pub(crate) mod listener;
pub(crate) mod mailbox;
mod secure;
mod slots;
mod socket;
pub mod stream;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_absent.rs"]
pub mod tls;
mod wheel;
pub(crate) mod worker;
