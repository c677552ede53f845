//! What happened, in numbers. Every message that was due to a connection ends in exactly one of delivered,
//! dropped (by reason) or still queued: the ledger that the tests balance.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread writes and any thread reads: no locked instruction on the hot path.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only its own worker may: two writers would lose counts.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes from it, for those that are levels rather than sums.
    pub fn sub(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// Its present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The counters of one worker.
        #[derive(Debug, Default)]
        pub struct WorkerMetrics {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        /// The counters of all workers, summed at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Metrics {
            /// Adds up workers.
            pub fn sum<'a>(workers: impl IntoIterator<Item = &'a WorkerMetrics>) -> Self {
                let mut sum = Self::default();
                for worker in workers {
                    $(sum.$name = sum.$name.wrapping_add(worker.$name.get());)+
                }
                sum
            }

            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }
        }
    };
}

metrics! {
    /// TCP connections accepted.
    accepted,
    /// TCP connections turned away because the ceiling was reached.
    refused_full,
    /// Calls of accept that failed: out of descriptors or memory.
    accept_errors,
    /// TCP connections held now, whatever their phase.
    connections,
    /// Handshakes that ended in a WebSocket.
    opened,
    /// Requests answered as plain HTTP: pages, health, 404.
    http_requests,
    /// Requests refused: malformed, too long, wrong method or version.
    handshakes_refused,
    /// Handshakes from web pages that may not connect.
    handshakes_foreign_origin,
    /// Handshakes that a route's app turned down.
    handshakes_rejected,
    /// Connections that never finished their request in time.
    handshakes_timed_out,
    /// Handshakes of TLS that were completed, before anything of HTTP.
    tls_handshakes,
    /// Of those, the ones that took up an earlier session.
    tls_resumed,
    /// Handshakes of TLS that failed: no TLS at all, no version or cipher in common, or given up by the client.
    tls_failed,
    /// Handshakes of TLS that were not completed in time.
    tls_timed_out,
    /// Messages received.
    messages_in,
    /// Bytes received, frames and handshakes included, without what TLS adds.
    bytes_in,
    /// Messages that apps published. What is published from outside the workers is counted where it is due.
    published,
    /// Messages due to connections: what apps sent, and one for each member of a topic that was published to.
    due,
    /// Of those, messages that the kernel took whole; encrypted, where there is TLS.
    delivered,
    /// Of those, messages that wait in a queue now.
    queued,
    /// Of those, messages dropped because their receiver was too slow.
    dropped_slow,
    /// Of those, messages dropped because their receiver's connection had ended.
    dropped_closed,
    /// Bytes that wait in queues now.
    queued_bytes,
    /// Bytes that the kernel took, without what TLS adds.
    bytes_out,
    /// Connections that the peer closed properly.
    closed_by_peer,
    /// Connections that an app or the server closed.
    closed_by_server,
    /// Connections that ended, or broke, without a Close.
    closed_lost,
    /// Connections failed because the peer broke the protocol or a limit.
    closed_protocol,
    /// Connections closed with 1013 because the peer did not keep up.
    closed_slow,
    /// Connections closed because a message was begun and not finished in time.
    closed_unfinished,
    /// Connections given up because a ping was not answered.
    closed_silent,
    /// Connections cut because the peer did not do its part of the closing in time.
    closing_timed_out,
    /// Callbacks of an app that panicked; each cost its connection, with 1011.
    app_panics,
    /// Events for connections that were gone already.
    stale_events,
    /// Turns of the loop.
    turns,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up() {
        let workers = [WorkerMetrics::default(), WorkerMetrics::default()];
        workers[0].accepted.add(2);
        workers[1].accepted.add(3);
        workers[1].queued.add(5);
        workers[1].queued.sub(4);
        let sum = Metrics::sum(&workers);
        assert_eq!((sum.accepted, sum.queued, sum.due), (5, 1, 0));
        assert!(sum.iter().any(|(name, value)| name == "accepted" && value == 5));
    }
}
