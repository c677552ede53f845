//! The I/O shell: the only place with sockets, polls and the clock. Everything that decides something is below.
//!
//! | file | what |
//! |---|---|
//! | `worker.rs` | the loop: poll, accept, mailbox, sockets, fan-out, timers |
//! | `socket.rs` | what happens on one connection's socket |
//! | `listener.rs` | binding, accepting, running out of descriptors |
//! | `mailbox.rs` | what workers say to each other |
//! | `slots.rs` | connections by number, and stale events |
//! | `wheel.rs` | deadlines |
//! | [`fdtable`] | a descriptor table for each thread |

pub mod fdtable;
pub(crate) mod listener;
pub(crate) mod mailbox;
mod slots;
mod socket;
mod wheel;
pub(crate) mod worker;
