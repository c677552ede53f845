//! From settings to running workers.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use super::ceiling::{Ceiling, table_max};
use super::{Builder, Handle, Remote, StartError};
use crate::config::{Config, DescriptorTables};
use crate::metrics::WorkerMetrics;
use crate::net::fdtable;
use crate::net::listener;
use crate::net::mailbox::Mailbox;
use crate::net::tls::{Certificates, ServerConfig};
use crate::net::worker::{Addresses, Shared, Worker};

/// What a worker's thread says while it starts.
enum Report {
    /// Whether it has a descriptor table of its own.
    Table(bool),
    /// Whether it listens.
    Opened(io::Result<()>),
}

/// What it is told then.
struct Go {
    addresses: Addresses,
    config: Option<ServerConfig>,
    table_max: usize,
}

/// Starts a server, and returns when it accepts connections on all its addresses.
pub(super) fn start(builder: Builder) -> Result<Handle, StartError> {
    let Builder { mut config, router, pages, invalid } = builder;
    if let Some(error) = invalid {
        return Err(StartError::Route(error));
    }
    check(&config)?;
    if config.threads == 0 {
        config.threads = thread::available_parallelism().map_or(1, usize::from);
    }
    let (certificates, tls) = load(&config)?;
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
        certificates,
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
    let (addresses, reserved) = reserve(&config)?;
    for go in goes {
        let table_max = table_max(descriptors);
        let _ = go.send(Go { addresses: addresses.clone(), config: tls.clone(), table_max });
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
    let tls_listen = config.tls.as_ref().map_or(0, |tls| tls.listen.len());
    if config.listen.len() + tls_listen == 0 {
        return Err(StartError::Setting("no address to listen on"));
    }
    if tls_listen > 0 && config.tls.as_ref().is_some_and(|tls| tls.certificates.is_empty()) {
        return Err(StartError::Setting("TLS needs a certificate and its key"));
    }
    Ok(())
}

/// Reads the certificates, if there is to be TLS: what is wrong with them is said before anything is bound.
fn load(config: &Config) -> Result<(Option<Certificates>, Option<ServerConfig>), StartError> {
    let Some(tls) = config.tls.as_ref().filter(|tls| !tls.listen.is_empty()) else { return Ok((None, None)) };
    let certificates = Certificates::new(&tls.certificates).map_err(StartError::System)?;
    let loaded = certificates.load().map_err(StartError::Certificate)?;
    Ok((Some(certificates), Some(loaded)))
}

type Reserved = (Addresses, Vec<socket2::Socket>);

fn reserve(config: &Config) -> Result<Reserved, StartError> {
    let (mut all, mut held) = (Vec::new(), Vec::new());
    reserve_each(&config.listen, &mut all, &mut held)?;
    let plain = all.len();
    if let Some(tls) = &config.tls {
        reserve_each(&tls.listen, &mut all, &mut held)?;
    }
    Ok((Addresses { all, plain }, held))
}

fn reserve_each(
    listen: &[String],
    addresses: &mut Vec<SocketAddr>,
    held: &mut Vec<socket2::Socket>,
) -> Result<(), StartError> {
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
    Ok(())
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
        let Ok(Go { addresses, config, table_max }) = wait.recv() else { return Ok(()) };
        // An app that cannot be made, or a worker that dies, must not leave the others serving half a server.
        let guard = StopOnExit(Arc::clone(&shared));
        match Worker::open(index, shared, &addresses, config, table_max) {
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
