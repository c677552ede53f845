//! The shell: threads with their sockets and timers. The only place with mio.

pub mod control;
pub mod dial;
pub mod link;
pub mod secure;
pub mod timer;
pub mod traffic;
pub mod worker;
