//! A running server, seen from outside its workers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::Ceiling;
use crate::config::CertificateError;
use crate::hub::batch::{FrameRef, Pending};
use crate::metrics::Metrics;
use crate::net::mailbox::Mail;
use crate::net::worker::{Addresses, Shared};
use crate::proto::{Frame, Message};

/// A running server. Dropping it does not stop it.
#[derive(Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) threads: Vec<JoinHandle<io::Result<()>>>,
    pub(super) addresses: Addresses,
    pub(super) ceiling: Ceiling,
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

    /// Reads the certificates again, from the files that the server was started with. New connections get the new ones;
    /// those that there are go on. Whether there are any: a server without TLS has none.
    ///
    /// # Errors
    /// A file cannot be used; the old certificates stay, all of them.
    pub fn reload_certificates(&self) -> Result<bool, CertificateError> {
        let Some(certificates) = &self.shared.certificates else { return Ok(false) };
        let config = certificates.load()?;
        for mailbox in &self.shared.mailboxes {
            mailbox.post(Mail::Certificates(config.clone()));
        }
        Ok(true)
    }

    /// Begins a shutdown, as [`Handle::shutdown`] does, without waiting for its end.
    pub fn shutdown(&self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.post(Mail::Shutdown);
        }
    }
}
