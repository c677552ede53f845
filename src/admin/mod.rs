//! What can be seen of a running server, on a listener of its own: metrics, health, connections, configuration.
//!
//! What is **not** here: counting. The workers count, each for itself; this reads. Where a question needs a worker
//! (its connections), it goes through the worker's mailbox. Nothing here ever makes a worker wait.
//!
//! | file | what |
//! |---|---|
//! | `listener.rs` | binding, accepting, a thread for each of few connections |
//! | `exchange.rs` | one request and one answer, within a deadline |
//! | `pages.rs` | which path gets what |
//! | `families.rs` | `/metrics`: which metrics there are, with names and labels |
//! | `exposition.rs` | `/metrics`: the formats that Prometheus reads |
//! | `process.rs` | what the system knows about this process |
//! | `connections.rs` | `/connections` |
//! | `settings.rs` | `/config` |

mod connections;
mod exchange;
mod exposition;
mod families;
mod listener;
mod pages;
mod process;
mod settings;

pub(crate) use listener::{Admin, bind};

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::net::worker::Shared;

/// What is shown.
pub(crate) struct View {
    pub(crate) shared: Arc<Shared>,
    /// Whether each worker has a descriptor table of its own.
    pub(crate) private_tables: bool,
    /// Descriptors in each table.
    pub(crate) descriptors: u64,
    /// Connections to the admin listener for which there was no place.
    pub(crate) turned_away: AtomicU64,
}
