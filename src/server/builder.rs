//! A server that is being put together.

use std::path::PathBuf;
use std::sync::Arc;

use super::signals;
use super::start::start;
use super::{Handle, RunError, StartError};
use crate::app::App;
use crate::config::{CertificateFiles, Config, Deflate, DescriptorTables, Limits, Origins};
use crate::http::Page;
use crate::route::{InvalidRoute, Router};

/// A server that is being put together.
#[derive(Debug)]
pub struct Builder {
    pub(super) config: Config,
    pub(super) router: Router,
    pub(super) pages: Vec<Page>,
    pub(super) invalid: Option<InvalidRoute>,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self { config, router: Router::default(), pages: Vec::new(), invalid: None }
    }

    /// Takes all settings at once.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Listens on this `HOST:PORT` instead of `localhost:8080`; port 0 takes a free one.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.config.listen = vec![address.into()];
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

    /// Who shares a descriptor table. Read the rule at [`DescriptorTables::PerWorker`] first.
    #[must_use]
    pub fn descriptor_tables(mut self, tables: DescriptorTables) -> Self {
        self.config.tables = tables;
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
        mut self,
        pattern: &str,
        make: impl Fn() -> A + Send + Sync + 'static,
    ) -> Self {
        if let Err(error) = self.router.add(pattern, Arc::new(move || Box::new(make()))) {
            self.invalid.get_or_insert(error);
        }
        self
    }

    /// A page for plain GET requests. `/healthz` answers `ok` without one.
    #[must_use]
    pub fn page(mut self, page: Page) -> Self {
        self.pages.push(page);
        self
    }

    /// Starts the server, and returns when it accepts connections on all its addresses.
    ///
    /// # Errors
    /// A route, an address or a number that cannot be served.
    pub fn start(self) -> Result<Handle, StartError> {
        start(self)
    }

    /// Starts the server and runs it until SIGINT or SIGTERM, which close every connection with 1001.
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
