//! A server that is being put together.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use super::reload::Source;
use super::service::{self, Service};
use super::signals;
use super::start::{check, start};
use super::{Handle, Reloaded, Remote, RunError, StartError};
use crate::app::App;
use crate::config::{AdminAddress, Config, Deflate, DescriptorTables, Drain, Limits, Origins};
use crate::config::{CertificateFiles, Validity};
use crate::config::{QueueTotal, RouteLimits, RouteOptions};
use crate::http::Page;
use crate::net::listener::Passed;
use crate::route::{InvalidRoute, Router};

/// A server that is being put together.
#[derive(Debug)]
pub struct Builder {
    pub(super) config: Config,
    pub(super) router: Router,
    pub(super) pages: Vec<Page>,
    pub(super) listeners: Vec<Passed>,
    pub(super) service: Option<Service>,
    pub(super) source: Option<Source>,
    /// A log that nobody writes now may be written after a reload.
    pub(super) log_may_change: bool,
    pub(super) invalid: Option<InvalidRoute>,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            router: Router::default(),
            pages: Vec::new(),
            listeners: Vec::new(),
            service: None,
            source: None,
            log_may_change: false,
            invalid: None,
        }
    }

    /// Takes all settings at once.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Changes settings as they are so far.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Listens on this `HOST:PORT` instead of `localhost:8080`; port 0 takes a free one.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.config.listen = vec![address.into()];
        self
    }

    /// Accepts also from a socket that listens already, such as one that a service manager opened. It is never closed
    /// under those who wait in its queue: whoever else holds it may go on accepting.
    #[must_use]
    pub fn listener(mut self, socket: TcpListener) -> Self {
        self.listeners.push(Passed { socket, secure: false });
        self
    }

    /// As [`listener`](Self::listener), with TLS, which needs a certificate: that of [`tls`](Self::tls), or, without
    /// an address of our own, one in [`Config::tls`].
    #[must_use]
    pub fn tls_listener(mut self, socket: TcpListener) -> Self {
        self.listeners.push(Passed { socket, secure: true });
        self
    }

    /// Works together with systemd, where that started this process: serves on the sockets that it passed instead of on
    /// the addresses so far, and lets [`run`](Self::run) tell it about readiness, the end, and signs of life of all
    /// workers (`Type=notify`, `WatchdogSec=`). Does nothing elsewhere. To be called before any thread is started: it
    /// takes the variables of that protocol out of the environment.
    ///
    /// Sockets that are named `tls` (`FileDescriptorName=`) speak TLS, with the certificates of [`tls`](Self::tls);
    /// only these take the place of its addresses.
    ///
    /// # Errors
    /// What was passed is not a listening TCP socket.
    pub fn service_manager(mut self) -> Result<Self, StartError> {
        let (service, sockets) = Service::from_environment()?;
        service::take_the_place(&sockets, &mut self.config);
        self.listeners.extend(sockets);
        self.service = Some(service);
        Ok(self)
    }

    /// What [`run`](Self::run) does on SIGHUP: reads new settings from wherever they come from, and gives them to
    /// [`Remote::reload`]; where [`service_manager`](Self::service_manager) has taken addresses out of those before, so
    /// does [`Remote::give_way`] first. What came of it is returned, with whatever else was taken up, for the log; or
    /// what is wrong with them, as one line.
    #[must_use]
    pub fn on_reload(
        mut self,
        reload: impl FnMut(&Remote) -> Result<Reloaded, String> + Send + 'static,
    ) -> Self {
        self.source = Some(Source(Box::new(reload)));
        self.log_may_change = true;
        self
    }

    /// Also listens on this `HOST:PORT` with TLS. The certificate and its key are PEM files.
    #[must_use]
    pub fn tls(
        mut self,
        address: impl Into<String>,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        let tls = self.config.tls.get_or_insert_default();
        tls.listen.push(address.into());
        tls.certificates.push(CertificateFiles { certificate: certificate.into(), key: key.into() });
        self
    }

    /// Worker threads, instead of one for each core.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.config.threads = threads;
        self
    }

    /// What one peer may cost.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// What is different on the route that is added with this pattern, earlier or later. As all limits, these can be
    /// [reloaded](crate::Remote::reload).
    ///
    /// ```
    /// use wsd::apps::{Broadcast, Echo};
    /// use wsd::{RouteLimits, Server};
    ///
    /// let small = RouteLimits { max_message: Some(1024), message_rate: Some(20), ..RouteLimits::default() };
    /// let server = Server::builder()
    ///     .route("/echo", Echo::default)
    ///     .route("/rooms/{room}", Broadcast::by_path)
    ///     .route_limits("/rooms/{room}", small);
    /// # server.check().expect("sound");
    /// ```
    #[must_use]
    pub fn route_limits(mut self, pattern: impl Into<String>, limits: RouteLimits) -> Self {
        self.config.route_limits.insert(pattern.into(), limits);
        self
    }

    /// What all queues together may hold in memory.
    #[must_use]
    pub fn queue_total(mut self, total: QueueTotal) -> Self {
        self.config.queue_total = total;
        self
    }

    /// Which web pages may connect.
    #[must_use]
    pub fn origins(mut self, origins: Origins) -> Self {
        self.config.origins = origins;
        self
    }

    /// Compresses messages for clients that offer it; off unless this is called.
    #[must_use]
    pub fn deflate(mut self, deflate: Deflate) -> Self {
        self.config.deflate = Some(deflate);
        self
    }

    /// How connections are let go for a successor.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.config.drain = drain;
        self
    }

    /// Who shares a descriptor table. Read the rule at [`DescriptorTables::PerWorker`] first.
    #[must_use]
    pub fn descriptor_tables(mut self, tables: DescriptorTables) -> Self {
        self.config.tables = tables;
        self
    }

    /// Shows metrics, health and connections there; nowhere unless this is called.
    #[must_use]
    pub fn admin(mut self, address: AdminAddress) -> Self {
        self.config.admin = Some(address);
        self
    }

    /// An app for every path. `make` is called once on each worker's thread.
    #[must_use]
    pub fn app<A: App + 'static>(self, make: impl Fn() -> A + Send + Sync + 'static) -> Self {
        self.route("/*", make)
    }

    /// An app for a path, such as `/echo`, `/rooms/{room}` or `/files/*`. `make` is called once on each worker's
    /// thread. A literal route wins over a pattern, and an earlier pattern over a later one.
    #[must_use]
    pub fn route<A: App + 'static>(
        self,
        pattern: &str,
        make: impl Fn() -> A + Send + Sync + 'static,
    ) -> Self {
        self.route_with(pattern, RouteOptions::default(), make)
    }

    /// As [`route`](Self::route), with options: such as what happens to those who do not keep up.
    #[must_use]
    pub fn route_with<A: App + 'static>(
        mut self,
        pattern: &str,
        options: RouteOptions,
        make: impl Fn() -> A + Send + Sync + 'static,
    ) -> Self {
        if let Err(error) = self.router.add(pattern, options, Arc::new(move || Box::new(make()))) {
            self.invalid.get_or_insert(error);
        }
        self
    }

    /// A page for plain GET requests. `/healthz` and `/readyz` answer without one.
    #[must_use]
    pub fn page(mut self, page: Page) -> Self {
        self.pages.push(page);
        self
    }

    /// Whether it could start, as far as that can be told without starting it: routes, settings, certificates. Gives
    /// when those are valid, by file: one that has expired is no error, for the server starts with it, too.
    ///
    /// # Errors
    /// As [`start`](Self::start), but for what the system has to say.
    pub fn check(&self) -> Result<BTreeMap<PathBuf, Validity>, StartError> {
        check(self)
    }

    /// Starts the server, and returns when it accepts connections on all its addresses.
    ///
    /// # Errors
    /// A route, an address or a number that cannot be served.
    pub fn start(self) -> Result<Handle, StartError> {
        start(self)
    }

    /// Starts the server and runs it until it is stopped: SIGTERM [drains](Handle::drain) it; SIGINT (Ctrl-C), SIGQUIT
    /// and a second SIGTERM [shut it down](Handle::shutdown), also during a drain.
    ///
    /// # Errors
    /// As [`start`](Self::start), and failures of a worker's poll.
    pub fn run(self) -> Result<(), RunError> {
        self.run_with(|_| ())
    }

    /// As [`run`](Self::run), and calls `ready` when the server accepts connections.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(self, ready: impl FnOnce(&Handle)) -> Result<(), RunError> {
        signals::run_until_stopped(self, ready)
    }
}
