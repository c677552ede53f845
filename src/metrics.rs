//! What happened, in numbers. Every message that was due to a connection ends in exactly one of delivered,
//! dropped (by reason) or still queued: the ledger that the tests balance.

mod histogram;
mod routes;

use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{BOUNDS, Histogram, HistogramSum};
pub use routes::{Entered, RouteLedger, RouteMetrics};

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

    /// Puts another value in its place, for those that are measured now and then.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The counters of one worker.
        #[derive(Debug)]
        pub struct WorkerMetrics {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// How long the turns of the loop took, the waiting left out.
            pub turn_time: Histogram,
            /// By route, and last what comes from outside of all routes.
            routes: Box<[RouteCounters]>,
        }

        impl WorkerMetrics {
            /// Nothing counted yet, for so many routes.
            pub fn with_routes(routes: usize) -> Self {
                Self {
                    $($name: Counter::default(),)+
                    turn_time: Histogram::default(),
                    routes: (0..=routes).map(|_| RouteCounters::default()).collect(),
                }
            }
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

            /// What each counter counts, by name.
            pub const HELP: &[(&str, &str)] = &[$((stringify!($name), concat!($($doc),+))),+];

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
    /// Of those, connections that waited because the rate of accepting was used up.
    accepted_late,
    /// TCP connections turned away because the ceiling was reached.
    refused_full,
    /// Connections turned away because their client's address holds as many as it may.
    refused_address,
    /// Connections turned away because the server was stopping when they had not sent their request.
    refused_stopping,
    /// Connections that their client gave up, or that broke, before their request was whole.
    connections_abandoned,
    /// Connections from trusted proxies that did not begin with a PROXY header.
    proxy_headers_invalid,
    /// TCP connections turned away because queues held too much memory.
    refused_memory,
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
    /// Handshakes for a path that no route serves, answered with 404.
    handshakes_no_route,
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
    /// Messages that came after the Close that was sent to their peer, which nobody looks at.
    messages_ignored,
    /// Pings without an answer because they were more than the rate of control frames allows.
    pings_unanswered_rate,
    /// Pings without an answer because a newer one's took its place while it waited to be sent.
    pings_unanswered_superseded,
    /// Pings without an answer because a Close had been sent, which nothing may follow.
    pings_unanswered_closing,
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
    /// Of those, messages dropped because their receiver was too slow and was closed for it.
    dropped_slow,
    /// Of those, messages that found the queue full, on routes that drop the newest.
    dropped_newest,
    /// Of those, messages that made room in the queue for newer ones, on routes that drop the oldest.
    dropped_oldest,
    /// Of those, messages that a newer one replaced in the queue, on routes that keep the latest.
    dropped_superseded,
    /// Of those, messages dropped because all queues together held too much.
    dropped_shed,
    /// Of those, messages dropped because their receiver's connection had ended.
    dropped_closed,
    /// Notices that messages had been dropped; each is due to a connection like any message.
    gap_notices,
    /// Bytes that wait in queues now, counted for each receiver; with what is encrypted and waits for its socket.
    queued_bytes,
    /// Bytes of memory that queues would hold now if they shared nothing, and what is encrypted: they hold no more.
    queue_memory_unshared,
    /// Bytes of memory that queues held at the last look: what several of them share counts once.
    queue_memory,
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
    /// Connections closed because the peer sent more messages than it may.
    closed_rate,
    /// Connections closed because they were as old as they get.
    closed_aged,
    /// Connections closed with 1013 because all queues together held too much.
    closed_shed,
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
    /// Bytes of messages that were compressed.
    deflate_input_bytes,
    /// What these bytes became; where a message would not have become shorter, its own length.
    deflate_output_bytes,
    /// Nanoseconds spent on compressing.
    deflate_nanos,
}

/// The mark of what comes from outside of all routes: a publish by a thread that is no worker.
pub const NO_ROUTE: u16 = u16::MAX;

/// What one worker counts for one route.
#[derive(Debug, Default)]
pub struct RouteCounters {
    /// WebSockets that are held now.
    pub connections: Counter,
    /// Messages received.
    pub messages_in: Counter,
    /// Messages that the route's app published.
    pub published: Counter,
    /// From the beginning of the turn in which something was published to the end of the turn in which the last
    /// member on this worker was handed it.
    pub fan_out_time: Histogram,
}

impl WorkerMetrics {
    /// The counters of a route, by its number; [`NO_ROUTE`] has some too.
    pub fn route(&self, number: u16) -> &RouteCounters {
        let last = self.routes.len() - 1;
        &self.routes[usize::from(number).min(last)]
    }
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        Self::with_routes(0)
    }
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
