//! The I/O shell: the only place with sockets, polls and the clock. Everything that decides something is below.
//!
//! | file | what |
//! |---|---|
//! | `worker.rs` | the loop: poll, accept, mailbox, sockets, fan-out, timers |
//! | `entry.rs` | one connection and its socket; deliveries to it |
//! | `socket.rs` | what happens on a connection's socket: reading, deadlines, writing |
//! | `direct.rs` | reading and writing by system calls of our own |
//! | `handshake.rs` | a whole request head: a page, a refusal, or the way to an app |
//! | `calls.rs` | calling an app, and carrying out what it orders |
//! | [`stream`] | a socket, and its TLS if it has one |
//! | [`tls`] | TLS over a socket, without buffers of its own; certificates |
//! | `secure.rs` | the handshake of TLS on a connection |
//! | `listener.rs` | binding, accepting, running out of descriptors |
//! | `mailbox.rs` | what workers say to each other |
//! | `seats.rs`, `pace.rs`, `addresses.rs` | how many are accepted: in all, each second, and from one address |
//! | `quotas.rs` | what a connection's age and its messages are held to |
//! | `proxied.rs` | who a connection from a trusted proxy is for |
//! | `inspect.rs` | telling about the connections, a few in each turn |
//! | `drain.rs` | a drain as a schedule: who is told when, and what |
//! | `slots.rs` | connections by number, and stale events |
//! | `wheel.rs` | deadlines |
//! | [`fdtable`] | a descriptor table for each thread |
//! | [`probe`] | what `wsd health` asks |

pub(crate) mod addresses;
mod calls;
mod direct;
mod drain;
mod entry;
pub mod fdtable;
mod handshake;
pub(crate) mod inspect;
pub(crate) mod listener;
pub(crate) mod mailbox;
pub(crate) mod pace;
pub mod probe;
mod proxied;
mod quotas;
pub(crate) mod seats;
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
