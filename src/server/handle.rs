//! A running server, seen from outside its workers.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use super::Ceiling;
use super::watch::Watch;
use crate::admin::Admin;
use crate::config::{AdminAddress, CertificateError};
use crate::hub::batch::{Batch, Stamp};
use crate::metrics::{Metrics, NO_ROUTE, RouteMetrics};
use crate::net::mailbox::{Mail, post_to_all};
use crate::net::worker::{Endpoints, Shared};
use crate::proto::{Frame, Message};
use crate::state::State;

/// A running server. Dropping it does not stop it.
#[derive(Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) threads: Vec<JoinHandle<io::Result<()>>>,
    pub(super) addresses: Endpoints,
    pub(super) ceiling: Ceiling,
    pub(super) admin: Option<Admin>,
    pub(super) watch: Option<Watch>,
}

/// Publishes to a running server, or stops it, from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// The addresses that are listened on without TLS.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses.all[..self.addresses.plain]
    }

    /// The addresses that are listened on with TLS.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.addresses.all[self.addresses.plain..]
    }

    /// Where the admin listener is; empty without one.
    pub fn admin_addresses(&self) -> &[AdminAddress] {
        self.admin.as_ref().map_or(&[], |admin| &admin.addresses)
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

    /// What happened so far on each worker: how evenly connections and work are spread.
    pub fn worker_metrics(&self) -> Vec<Metrics> {
        self.shared.metrics.iter().map(|worker| Metrics::sum([worker.as_ref()])).collect()
    }

    /// The ledger of each route so far, in the order in which the routes were added.
    pub fn route_metrics(&self) -> Vec<RouteMetrics> {
        self.shared.route_metrics()
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
        self.last_words()
    }

    /// Lets everyone go bit by bit, for a successor to take over, and waits for the end: `/readyz` says 503 at once;
    /// after [`Drain::grace`](crate::Drain::grace) nobody is accepted any more; then connections are closed, evenly
    /// over [`Drain::spread`](crate::Drain::spread), each behind what is queued for it and with the hint when to come
    /// back. Ends when nobody is left, and at [`Drain::timeout`](crate::Drain::timeout) in any case.
    ///
    /// # Errors
    /// A worker failed.
    pub fn drain(self) -> io::Result<Metrics> {
        self.remote().drain();
        self.last_words()
    }

    /// Whether the server wants new clients.
    pub fn state(&self) -> State {
        self.shared.state.get()
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
        if let Some(watch) = self.watch {
            watch.stop();
        }
        // Last, so that the end of the others can be watched.
        if let Some(admin) = self.admin {
            admin.stop();
        }
        outcome
    }

    fn last_words(self) -> io::Result<Metrics> {
        let shared = Arc::clone(&self.shared);
        self.join()?;
        Ok(Metrics::sum(shared.metrics.iter().map(Arc::as_ref)))
    }
}

impl Remote {
    /// Sends a message to all members of a topic, on every worker. Does not wait: what is published faster than it can
    /// be sent is in memory until then, and stops the reading of connections, but not the caller.
    /// Nothing is kept for a server that has ended.
    pub fn publish<'m>(&self, topic: &str, message: impl Into<Message<'m>>) {
        let topic: Arc<str> = Arc::from(topic);
        let stamp = Stamp { route: NO_ROUTE, at: self.shared.now() };
        self.shared.published_outside.fetch_add(1, Ordering::Relaxed);
        let batch = Batch::single(Frame::message(message), self.shared.deflate.is_some(), stamp);
        for mailbox in &self.shared.mailboxes {
            mailbox.publish(Arc::clone(&topic), batch.clone());
        }
    }

    /// Reads the certificates again, from the files that the server was started with. New connections get the new ones;
    /// those that there are go on. Whether there are any: a server without TLS has none.
    ///
    /// # Errors
    /// A file cannot be used; the old certificates stay, all of them.
    pub fn reload_certificates(&self) -> Result<bool, CertificateError> {
        let Some(certificates) = &self.shared.certificates else { return Ok(false) };
        let mut certificates = certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let config = certificates.load()?;
        post_to_all(&self.shared.mailboxes, &certificates, || Mail::Certificates(config.clone()));
        Ok(true)
    }

    /// Whether it wants new clients.
    pub fn state(&self) -> State {
        self.shared.state.get()
    }

    /// Begins a drain, as [`Handle::drain`] does, without waiting for its end. A
    /// [`shutdown`](Self::shutdown) cuts it short.
    pub fn drain(&self) {
        self.shared.state.advance(State::Draining);
        for mailbox in &self.shared.mailboxes {
            mailbox.post(Mail::Drain);
        }
    }

    /// Begins a shutdown, as [`Handle::shutdown`] does, without waiting for its end.
    pub fn shutdown(&self) {
        self.shared.shut_down();
    }
}
