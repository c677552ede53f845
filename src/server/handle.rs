//! A running server, seen from outside its workers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::Ceiling;
use crate::hub::batch::{FrameRef, Pending};
use crate::metrics::{Metrics, RouteMetrics};
use crate::net::mailbox::Mail;
use crate::net::worker::Shared;
use crate::proto::{Frame, Message};

/// A running server. Dropping it does not stop it.
#[derive(Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) threads: Vec<JoinHandle<io::Result<()>>>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) ceiling: Ceiling,
}

/// Publishes to a running server, or stops it, from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// The addresses that are listened on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// How many connections it can hold.
    pub fn ceiling(&self) -> Ceiling {
        self.ceiling
    }

    /// What happened so far.
    pub fn metrics(&self) -> Metrics {
        Metrics::sum(self.shared.metrics.iter().map(Arc::as_ref))
    }

    /// What was dropped so far on each route, in the order in which the routes were added.
    pub fn route_metrics(&self) -> Vec<RouteMetrics> {
        let names = self.shared.router.names().iter().enumerate();
        let of = |route: usize| self.shared.drops.iter().map(move |worker| worker[route].as_ref());
        names.map(|(route, name)| RouteMetrics::sum(name.clone(), of(route))).collect()
    }

    /// Publishes and stops from other threads.
    pub fn remote(&self) -> Remote {
        Remote { shared: Arc::clone(&self.shared) }
    }

    /// Stops accepting, closes every connection with 1001 behind what is queued for it, and waits for the end:
    /// at most 5 seconds.
    ///
    /// # Errors
    /// A worker failed.
    pub fn shutdown(self) -> io::Result<Metrics> {
        self.remote().shutdown();
        let shared = Arc::clone(&self.shared);
        self.join()?;
        Ok(Metrics::sum(shared.metrics.iter().map(Arc::as_ref)))
    }

    /// Waits until the server has been stopped.
    ///
    /// # Errors
    /// A worker failed; the others have been stopped.
    pub fn join(self) -> io::Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a worker panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

impl Remote {
    /// Sends a message to all members of a topic, on every worker.
    pub fn publish<'m>(&self, topic: &str, message: impl Into<Message<'m>>) {
        let mut pending = Pending::default();
        pending.push(FrameRef::Shared(&Frame::message(message)), None);
        let (topic, batch): (Arc<str>, _) = (Arc::from(topic), pending.seal(self.shared.deflate.is_some()));
        for mailbox in &self.shared.mailboxes {
            mailbox.add_backlog(batch.wire_len());
            mailbox.post(Mail::Publish { topic: Arc::clone(&topic), batch: batch.clone() });
        }
    }

    /// Begins a shutdown, as [`Handle::shutdown`] does, without waiting for its end.
    pub fn shutdown(&self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.post(Mail::Shutdown);
        }
    }
}
