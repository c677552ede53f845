//! The vocabulary of the integration tests: a server in this process, a client that knows nothing of wsd's own
//! codec, and waiting for conditions instead of sleeping.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part of the vocabulary")]

pub(crate) mod admin;
mod client;
#[cfg(feature = "cli")]
pub(crate) mod crowd;
#[cfg(feature = "cli")]
pub(crate) mod program;
#[cfg(feature = "cli")]
pub(crate) mod restart;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod wire;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) use client::Client;
pub(crate) use wire::*;
use wsd::{AdminAddress, App, Builder, Handle, Limits, Metrics, Remote, RouteMetrics, Server};

/// How long anything may take before it counts as never: no test waits so long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// What a shutdown may take, however its peers behave: the 5 seconds that are promised and that the workers keep to,
/// and several times as much for a machine that lets them wait for a processor. Without its own limit it would take an
/// hour.
pub(crate) const SHUTDOWN_MAX: Duration = Duration::from_secs(30);

/// Limits under which nothing happens by itself while a test runs.
pub(crate) fn calm() -> Limits {
    let hour = Duration::from_secs(3600);
    Limits {
        ping_interval: Duration::ZERO,
        handshake_timeout: hour,
        close_timeout: hour,
        progress_timeout: hour,
        assembly_timeout: hour,
        control_rate: 0,
        ..Limits::default()
    }
}

/// A server in this process. Dropping it stops it; [`finish`](Self::finish) also checks its books.
pub(crate) struct Running {
    handle: Option<Handle>,
    remote: Remote,
    pub(crate) address: SocketAddr,
}

impl Running {
    /// Starts what was built, on a free port of 127.0.0.1.
    pub(crate) fn start(builder: Builder) -> Self {
        let handle = builder.listen("127.0.0.1:0").start().expect("it starts");
        Self { remote: handle.remote(), address: handle.addresses()[0], handle: Some(handle) }
    }

    /// One app for every path.
    pub(crate) fn app<A: App + 'static>(
        threads: usize,
        limits: Limits,
        make: impl Fn() -> A + Send + Sync + 'static,
    ) -> Self {
        Self::start(Server::builder().threads(threads).limits(limits).app(make))
    }

    /// An echo server with one worker.
    pub(crate) fn echo(limits: Limits) -> Self {
        Self::app(1, limits, wsd::apps::Echo::default)
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    pub(crate) fn tls_addresses(&self) -> &[SocketAddr] {
        self.handle.as_ref().expect("not finished").tls_addresses()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.handle.as_ref().expect("not finished").metrics()
    }

    pub(crate) fn route_metrics(&self) -> Vec<RouteMetrics> {
        self.handle.as_ref().expect("not finished").route_metrics()
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.handle.as_ref().expect("not finished")
    }

    /// Where the admin listener is, which must have been asked for.
    #[track_caller]
    pub(crate) fn admin(&self) -> SocketAddr {
        match self.handle().admin_addresses() {
            [AdminAddress::Tcp(address)] => address.parse().expect("an address"),
            other => panic!("{other:?}"),
        }
    }

    /// A TCP connection.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// A WebSocket on `path`.
    pub(crate) fn open(&self, path: &str) -> Client {
        Client::open(self.address, path)
    }

    /// `count` WebSockets on `path`, all of them past their `on_open`.
    pub(crate) fn open_many(&self, path: &str, count: usize) -> Vec<Client> {
        (0..count).map(|_| self.open(path)).collect()
    }

    /// Waits until the counters say so, and gives them.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Metrics) -> bool) -> Metrics {
        let start = Instant::now();
        loop {
            let metrics = self.metrics();
            if condition(&metrics) {
                return metrics;
            }
            assert!(start.elapsed() < PATIENCE, "never: {what}; {metrics:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until what happened has been entered in the ledgers of routes. It must come to an end by itself.
    #[track_caller]
    pub(crate) fn wait_for_routes(&self) {
        wait_until("the routes' ledgers balance, and add up to the server's", || {
            routes_add_up(&self.route_metrics(), &self.metrics())
        });
    }

    /// Watches that the counters go on saying so, for a time in which a mistake would show.
    #[track_caller]
    pub(crate) fn assert_stays(&self, what: &str, watch: Duration, condition: impl Fn(&Metrics) -> bool) {
        let start = Instant::now();
        while start.elapsed() < watch {
            let metrics = self.metrics();
            assert!(condition(&metrics), "no longer: {what}; {metrics:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until every connection is gone, stops the server, and checks that its books balance and that
    /// nothing is left in them. The clients must have gone, or be about to be closed.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Metrics {
        self.wait("every connection is gone", |metrics| metrics.connections == 0);
        self.wait_for_routes();
        let metrics = self.stop();
        let left = (metrics.queued, metrics.queued_bytes, metrics.queue_memory_unshared, metrics.connections);
        assert_eq!(left, (0, 0, 0, 0), "{metrics:#?}");
        metrics
    }

    /// Drains the server, to the end, and checks that its books balance.
    #[track_caller]
    pub(crate) fn drain(&mut self) -> Metrics {
        let metrics = self.handle.take().expect("not finished").drain().expect("no worker fails");
        assert_balanced(&metrics);
        metrics
    }

    /// Stops the server with whatever connections it has, within the time that is promised, and checks that its
    /// books balance.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> Metrics {
        let start = Instant::now();
        let metrics = self.handle.take().expect("not finished").shutdown().expect("no worker fails");
        let took = start.elapsed();
        assert!(took < SHUTDOWN_MAX, "the shutdown took {took:?}");
        assert_balanced(&metrics);
        metrics
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.remote.shutdown();
    }
}

/// The ledger: every message that was due came to exactly one end, and so did every WebSocket; and every connection
/// that was accepted came to something that is counted.
#[track_caller]
pub(crate) fn assert_balanced(metrics: &Metrics) {
    let dropped: u64 =
        metrics.iter().filter(|(name, _)| name.starts_with("dropped_")).map(|(_, count)| count).sum();
    let ends = metrics.delivered + dropped + metrics.queued;
    assert_eq!(metrics.due, ends, "{metrics:#?}");
    let reasons = metrics.iter().filter(|(name, _)| name.starts_with("closed_"));
    let closed: u64 = reasons.map(|(_, count)| count).sum();
    assert_eq!(metrics.opened, closed, "{metrics:#?}");
    let failed = metrics.iter().filter(|(name, _)| name.starts_with("handshakes_"));
    let failed: u64 = failed.map(|(_, count)| count).sum();
    let came_to = metrics.opened
        + metrics.http_requests
        + metrics.connections_abandoned
        + metrics.refused_stopping
        + metrics.proxy_headers_invalid
        + metrics.tls_failed
        + metrics.tls_timed_out
        + failed;
    // Behind a proxy an address is known, and may have too many, when the connection has long been accepted.
    let accepted = came_to..=came_to + metrics.refused_address;
    assert!(accepted.contains(&metrics.accepted), "{accepted:?} {metrics:#?}");
}

/// Whether the ledger of each route balances, and all together are the server's.
fn routes_add_up(routes: &[RouteMetrics], server: &Metrics) -> bool {
    let balances = |route: &RouteMetrics| {
        let dropped = route.iter().filter(|(name, _)| name.starts_with("dropped_"));
        route.due == route.delivered + route.queued + dropped.map(|(_, count)| count).sum::<u64>()
    };
    let names = RouteMetrics::default();
    let adds_up = |name: &str| {
        let of_routes = routes.iter().flat_map(RouteMetrics::iter).filter(|(own, _)| *own == name);
        let of_server = server.iter().find(|(own, _)| *own == name).map(|(_, count)| count);
        of_server == Some(of_routes.map(|(_, count)| count).sum())
    };
    routes.iter().all(balances) && names.iter().all(|(name, _)| adds_up(name))
}

/// Waits until a condition holds that no counter tells.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
