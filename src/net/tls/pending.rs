//! Ciphertext that the kernel did not take. No queue knows of it, so it is entered in the books here: `queued_bytes`
//! and the memory that all queues hold count it, from the moment in which it waits until it is gone or given up.

use std::io::{self, Write};
use std::sync::Arc;

use crate::metrics::WorkerMetrics;

/// What waits for one socket, oldest first.
pub(super) struct Pending {
    bytes: Vec<u8>,
    metrics: Arc<WorkerMetrics>,
}

impl Pending {
    /// Nothing yet, in the books of this worker.
    pub(super) const fn new(metrics: Arc<WorkerMetrics>) -> Self {
        Self { bytes: Vec::new(), metrics }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory for them.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Puts more behind what waits.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.change(|waiting| {
                // Not more than that: it is what a slow reader costs.
                if waiting.is_empty() {
                    waiting.reserve_exact(bytes.len());
                }
                waiting.extend_from_slice(bytes);
            });
        }
    }

    /// Gives the socket what it takes; whether nothing waits any more.
    ///
    /// # Errors
    /// The socket's own, other than that it takes no more.
    pub(super) fn send(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        if self.bytes.is_empty() {
            return Ok(true);
        }
        let taken = super::write_all(socket, &self.bytes)?;
        if taken < self.bytes.len() {
            self.change(|waiting| drop(waiting.drain(..taken)));
            return Ok(false);
        }
        self.change(|waiting| *waiting = Vec::new());
        Ok(true)
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = (self.bytes.len() as u64, self.bytes.capacity() as u64);
        change(&mut self.bytes);
        let after = (self.bytes.len() as u64, self.bytes.capacity() as u64);
        // Counters wrap: one step up or down, without a moment in between that others could see.
        self.metrics.queued_bytes.add(after.0.wrapping_sub(before.0));
        self.metrics.queue_memory_unshared.add(after.1.wrapping_sub(before.1));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.change(|waiting| *waiting = Vec::new());
    }
}
