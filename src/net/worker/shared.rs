//! What all workers of a server share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::config::{Config, Deflate, Drain, Limits, Origins, Proxies, RouteOptions};
use crate::conn::QueueRules;
use crate::http::Page;
use crate::hub::audience::Audience;
use crate::id::Micros;
use crate::metrics::{RouteLedger, RouteMetrics, WorkerMetrics};
use crate::net::addresses::Addresses;
use crate::net::listener::Passed;
use crate::net::mailbox::{Mail, Mailbox};
use crate::net::pace::Pace;
use crate::net::seats::Seats;
use crate::net::tls::Certificates;
use crate::route::{ByRoute, Router};
use crate::state::{SharedState, State};
use crate::sync::Mutex;

/// What all workers of a server share.
pub(crate) struct Shared {
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) metrics: Vec<Arc<WorkerMetrics>>,
    pub(crate) audience: Arc<Audience>,
    /// By worker.
    pub(crate) ledgers: Vec<ByRoute<Arc<RouteLedger>>>,
    pub(crate) router: Arc<Router>,
    pub(crate) pages: Arc<[Page]>,
    /// What is in force. Workers have what they need of it as [`Settings`].
    pub(crate) config: Mutex<Config>,
    pub(crate) deflate: Option<Deflate>,
    pub(crate) backlog: u32,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) pace: Pace,
    /// Listening sockets from elsewhere, in every descriptor table under the same number.
    pub(crate) inherited: Vec<Passed>,
    pub(crate) drain: Drain,
    pub(crate) state: Arc<SharedState>,
    /// Workers of which a drain has left nothing.
    pub(crate) drained: AtomicUsize,
    /// Bytes of memory that all queues together may hold; 0 for no limit.
    pub(crate) queue_total: u64,
    /// Whether the log says that there were too many.
    pub(crate) memory_warned: AtomicBool,
    /// Where certificates come from, if there is a listener that needs them.
    pub(crate) certificates: Option<Mutex<Certificates>>,
    /// Connections that all workers together hold, and may hold.
    pub(crate) seats: Seats,
    /// When the server started: the zero of every worker's time.
    pub(crate) started: Instant,
    /// Messages published by threads that are no workers.
    pub(crate) published_outside: AtomicU64,
    /// The kernel's names for the workers' threads; 0 before they run.
    pub(crate) thread_ids: Vec<AtomicU32>,
}

impl Shared {
    /// The time since the server started.
    pub(crate) fn now(&self) -> Micros {
        let elapsed = self.started.elapsed();
        // Twice in each turn: `as_micros` would reckon in 128 bits.
        Micros(elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros()))
    }

    /// What workers are told to keep to.
    pub(in crate::net) fn settings(&self) -> Settings {
        Settings::of(&self.config.lock().unwrap_or_else(PoisonError::into_inner), &self.router)
    }

    /// Tells every worker to stop.
    pub(crate) fn shut_down(&self) {
        self.state.advance(State::Draining);
        for mailbox in &self.mailboxes {
            mailbox.post(Mail::Shutdown);
        }
    }

    /// What happens to those who do not keep up.
    pub(in crate::net) fn queue_rules(&self, worker: u16, limits: &ByRoute<Limits>) -> ByRoute<QueueRules> {
        let none = RouteOptions::default();
        let options = self.router.options().iter().chain([&none]);
        let ledgers = self.ledgers[usize::from(worker)].as_slice();
        let each = limits.as_slice().iter().zip(options).zip(ledgers);
        each.map(|((limits, options), ledger)| QueueRules::new(limits, options, Arc::clone(ledger))).collect()
    }

    /// The ledger of each route, on all workers, in the order in which the routes were added.
    pub(crate) fn route_metrics(&self) -> Vec<RouteMetrics> {
        let names = self.router.names().iter().zip(0..);
        let of = |route: u16| self.ledgers.iter().map(move |worker| worker[route].as_ref());
        names.map(|(name, route)| RouteMetrics::sum(name.clone(), of(route))).collect()
    }
}

/// The settings that may change while the server runs.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Those of no route are the server's.
    pub(crate) limits: ByRoute<Limits>,
    pub(crate) origins: Origins,
}

impl Settings {
    /// What is asked for, with what is different on each of these routes.
    pub(crate) fn of(config: &Config, router: &Router) -> Self {
        let own = |route| config.route_limits.get(route).map(|own| own.over(&config.limits));
        let server = || config.limits.clone();
        let routes = router.names().iter().map(|route| own(route).unwrap_or_else(server));
        Self { limits: routes.chain([server()]).collect(), origins: config.origins.clone() }
    }
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    pub(crate) all: Vec<SocketAddr>,
    /// How many of them speak no TLS; those come first.
    pub(crate) plain: usize,
}

impl Endpoints {
    /// Behind those of its kind.
    pub(crate) fn add(&mut self, address: SocketAddr, secure: bool) {
        if secure {
            self.all.push(address);
        } else {
            self.all.insert(self.plain, address);
            self.plain += 1;
        }
    }
}
