//! Threads, signals, start and stop. Knows no app.

mod ceiling;
mod error;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub use ceiling::Ceiling;
use ceiling::table_max;
pub use error::{RunError, StartError};

use crate::app::App;
use crate::config::{Config, Deflate, DescriptorTables, Limits, Origins};
use crate::http::Page;
use crate::hub::batch::{FrameRef, Pending};
use crate::metrics::{Metrics, WorkerMetrics};
use crate::net::fdtable;
use crate::net::listener;
use crate::net::mailbox::{Mail, Mailbox};
use crate::net::worker::{Shared, Worker};
use crate::proto::{Frame, Message};
use crate::route::{InvalidRoute, Router};

/// The way to a server: [`Server::builder`].
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server with the defaults of [`Config`], and no routes.
    pub fn builder() -> Builder {
        Builder { config: Config::default(), router: Router::default(), pages: Vec::new(), invalid: None }
    }
}

/// A server that is being put together.
#[derive(Debug)]
pub struct Builder {
    config: Config,
    router: Router,
    pages: Vec<Page>,
    invalid: Option<InvalidRoute>,
}

impl Builder {
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
        // Before the workers start: a signal may be handled on any thread, so the descriptor that its handler
        // writes to must be in every table.
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(RunError::Worker)?;
        let handle = self.start()?;
        ready(&handle);
        let (stopper, closer) = (handle.remote(), signals.handle());
        let waiter = thread::spawn(move || {
            if signals.forever().next().is_some() {
                stopper.shutdown();
            }
        });
        let outcome = handle.join().map_err(RunError::Worker);
        closer.close();
        let _ = waiter.join();
        outcome
    }
}

/// A running server. Dropping it does not stop it.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    addresses: Vec<SocketAddr>,
    ceiling: Ceiling,
}

/// Publishes to a running server, or stops it, from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    shared: Arc<Shared>,
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

/// What a worker's thread says while it starts.
enum Report {
    /// Whether it has a descriptor table of its own.
    Table(bool),
    /// Whether it listens.
    Opened(io::Result<()>),
}

/// What it is told then.
struct Go {
    addresses: Vec<SocketAddr>,
    table_max: usize,
}

fn start(builder: Builder) -> Result<Handle, StartError> {
    let Builder { mut config, router, pages, invalid } = builder;
    if let Some(error) = invalid {
        return Err(StartError::Route(error));
    }
    check(&config)?;
    if config.threads == 0 {
        config.threads = thread::available_parallelism().map_or(1, usize::from);
    }
    let descriptors = fdtable::raise_nofile().map_err(StartError::System)?;
    let shared = Arc::new(Shared {
        mailboxes: (0..config.threads)
            .map(|_| Mailbox::new())
            .collect::<Result<_, _>>()
            .map_err(StartError::System)?,
        metrics: (0..config.threads).map(|_| Arc::new(WorkerMetrics::default())).collect(),
        router: Arc::new(router),
        pages: pages.into(),
        limits: config.limits.clone(),
        origins: config.origins.clone(),
        deflate: config.deflate,
        backlog: config.backlog,
        connections: AtomicUsize::new(0),
        connections_max: AtomicUsize::new(0),
    });

    // Every thread first parts with the common table; only then are addresses bound, so that no table has a
    // copy of another's sockets.
    let (report, reports) = mpsc::channel();
    let mut threads = Vec::with_capacity(config.threads);
    let mut goes = Vec::with_capacity(config.threads);
    for index in 0..config.threads {
        let (go, wait) = mpsc::channel();
        goes.push(go);
        threads.push(spawn(index, config.tables, Arc::clone(&shared), report.clone(), wait)?);
    }
    drop(report);
    let private = (0..config.threads).filter(|_| matches!(reports.recv(), Ok(Report::Table(true)))).count();
    let ceiling = Ceiling::new(&config, private, descriptors);
    shared.connections_max.store(ceiling.connections, Ordering::Relaxed);

    // Dropping `goes` on an error lets the threads end.
    let (addresses, reserved) = reserve(&config.listen)?;
    for go in goes {
        let _ = go.send(Go { addresses: addresses.clone(), table_max: table_max(descriptors) });
    }
    let handle = Handle { shared, threads, addresses, ceiling };
    for _ in 0..config.threads {
        let failure = match reports.recv() {
            Ok(Report::Opened(Ok(()))) | Ok(Report::Table(_)) => continue,
            Ok(Report::Opened(Err(error))) => StartError::Listen(config.listen.join(", "), error),
            Err(_) => StartError::System(io::Error::other("a worker panicked while it started")),
        };
        let _ = handle.shutdown();
        return Err(failure);
    }
    drop(reserved);
    Ok(handle)
}

fn check(config: &Config) -> Result<(), StartError> {
    if config.threads > usize::from(u16::MAX) {
        return Err(StartError::Setting("there can be at most 65535 threads"));
    }
    if let Some(deflate) = config.deflate
        && !((9..=15).contains(&deflate.window_bits) && (1..=9).contains(&deflate.level))
    {
        return Err(StartError::Setting("deflate windows are 9 to 15 bits, and levels 1 to 9"));
    }
    if config.listen.is_empty() {
        return Err(StartError::Setting("no address to listen on"));
    }
    Ok(())
}

type Reserved = (Vec<SocketAddr>, Vec<socket2::Socket>);

fn reserve(listen: &[String]) -> Result<Reserved, StartError> {
    let mut addresses = Vec::new();
    let mut held = Vec::new();
    for (index, text) in listen.iter().enumerate() {
        if listen[..index].contains(text) {
            continue;
        }
        let failed = |error| StartError::Listen(text.clone(), error);
        let (taken, sockets) =
            listener::reserve(&listener::resolve(text).map_err(failed)?).map_err(failed)?;
        addresses.extend(taken);
        held.extend(sockets);
    }
    Ok((addresses, held))
}

fn spawn(
    index: usize,
    tables: DescriptorTables,
    shared: Arc<Shared>,
    report: mpsc::Sender<Report>,
    wait: mpsc::Receiver<Go>,
) -> Result<JoinHandle<io::Result<()>>, StartError> {
    let body = move || {
        let private = tables == DescriptorTables::PerWorker && fdtable::unshare().is_ok();
        let _ = report.send(Report::Table(private));
        let Ok(Go { addresses, table_max }) = wait.recv() else { return Ok(()) };
        // An app that cannot be made, or a worker that dies, must not leave the others serving half a server.
        let guard = StopOnExit(Arc::clone(&shared));
        match Worker::open(index, shared, &addresses, table_max) {
            Ok(worker) => {
                let _ = report.send(Report::Opened(Ok(())));
                drop(report);
                let outcome = worker.run();
                drop(guard);
                outcome
            }
            Err(error) => {
                let _ = report.send(Report::Opened(Err(error)));
                Ok(())
            }
        }
    };
    thread::Builder::new().name(format!("wsd-{index}")).spawn(body).map_err(StartError::System)
}

/// Stops the whole server when a worker's thread ends, however it ends.
struct StopOnExit(Arc<Shared>);

impl Drop for StopOnExit {
    fn drop(&mut self) {
        Remote { shared: Arc::clone(&self.0) }.shutdown();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("workers", &self.metrics.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused() {
        assert!(matches!(Server::builder().threads(70_000).start(), Err(StartError::Setting(_))));
        let twice =
            Server::builder().route("/a", crate::apps::Sink::default).route("/a", crate::apps::Sink::default);
        assert!(matches!(twice.start(), Err(StartError::Route(_))));
        let nowhere = Server::builder().listen("nonsense");
        assert!(matches!(nowhere.start(), Err(StartError::Listen(_, _))));
    }
}
