//! From settings to running workers.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::ceiling::{Ceiling, table_max, warn_of_less};
use super::memory;
use super::watch::Watch;
use super::{Builder, Handle, StartError};
use crate::admin::{self, Admin, View};
use crate::config::{AdminAddress, Config, DescriptorTables, Drain, QueueTotal, Tls, Validity};
use crate::http::Page;
use crate::hub::audience::Audience;
use crate::metrics::{RouteLedger, WorkerMetrics};
use crate::net::addresses::Addresses;
use crate::net::fdtable;
use crate::net::listener::{self, Passed};
use crate::net::mailbox::Mailbox;
use crate::net::pace::Pace;
use crate::net::seats::Seats;
use crate::net::tls::{Certificates, ServerConfig};
use crate::net::worker::{Endpoints, Shared, Worker};
use crate::proto::CloseCode;
use crate::route::{ByRoute, Router};
use crate::state::State;
use crate::sync::Mutex;

/// What a worker's thread says while it starts.
enum Report {
    /// Whether it has a descriptor table of its own.
    Table(bool),
    /// Whether it listens.
    Opened(io::Result<()>),
}

/// What it is told then.
struct Go {
    addresses: Endpoints,
    config: Option<ServerConfig>,
    table_max: usize,
}

/// Starts a server, and returns when it accepts connections on all its addresses.
pub(super) fn start(builder: Builder) -> Result<Handle, StartError> {
    check_but_for_certificates(&builder)?;
    let Builder { mut config, router, pages, listeners, log_may_change, .. } = builder;
    if config.threads == 0 {
        config.threads = thread::available_parallelism().map_or(1, usize::from);
    }
    let (certificates, tls) = load(&config, &listeners)?;
    let descriptors = fdtable::raise_nofile().map_err(StartError::System)?;
    let mut shared = share(&config, router, pages, listeners).map_err(StartError::System)?;
    shared.certificates = certificates.map(Mutex::new);
    let shared = Arc::new(shared);

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
    // Dropping `goes` on an error lets the threads end.
    if ceiling.connections == 0 {
        let none = format!(
            "a limit of {descriptors} descriptors leaves none for connections: raise it (ulimit -n, LimitNOFILE)"
        );
        return Err(StartError::System(io::Error::other(none)));
    }
    shared.seats.provide(ceiling.connections);

    let (mut addresses, reserved) = reserve(&config)?;
    warn_of_less(&config, &ceiling);
    let view = View {
        shared: Arc::clone(&shared),
        private_tables: ceiling.tables > 1,
        descriptors,
        turned_away: AtomicU64::new(0),
    };
    let admin = open_admin(config.admin.clone(), &addresses.all, view)?;
    let watch = Watch::start(Arc::clone(&shared), log_may_change);
    for go in goes {
        let table_max = table_max(descriptors);
        let _ = go.send(Go { addresses: addresses.clone(), config: tls.clone(), table_max });
    }
    for passed in &shared.inherited {
        addresses.add(passed.socket.local_addr().map_err(StartError::System)?, passed.secure);
    }
    let handle = Handle { shared, threads, addresses, ceiling, admin, watch };
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
    handle.shared.state.advance(State::Ready);
    Ok(handle)
}

/// What the workers of a server have in common.
fn share(config: &Config, router: Router, pages: Vec<Page>, inherited: Vec<Passed>) -> io::Result<Shared> {
    Ok(Shared {
        audience: Arc::new(Audience::new(config.threads)),
        mailboxes: (0..config.threads).map(|_| Mailbox::new()).collect::<Result<_, _>>()?,
        metrics: (0..config.threads)
            .map(|_| Arc::new(WorkerMetrics::with_routes(router.names().len())))
            .collect(),
        ledgers: (0..config.threads).map(|_| ledgers_of(&router)).collect(),
        router: Arc::new(router),
        pages: pages.into(),
        config: Mutex::new(config.clone()),
        deflate: config.deflate,
        backlog: config.backlog,
        proxies: Arc::new(config.proxies.clone()),
        addresses: Arc::new(Addresses::new(config.max_conns_per_ip)),
        queue_total: memory::queue_total(config.queue_total),
        memory_warned: AtomicBool::new(false),
        certificates: None,
        pace: Pace::new(config.accept_rate),
        inherited,
        drain: config.drain,
        state: Arc::default(),
        drained: AtomicUsize::new(0),
        seats: Seats::new(),
        started: Instant::now(),
        published_outside: AtomicU64::new(0),
        thread_ids: (0..config.threads).map(|_| AtomicU32::new(0)).collect(),
    })
}

/// Whether a server could start, as far as that can be told without starting it; and when its certificates are valid,
/// by file.
pub(super) fn check(builder: &Builder) -> Result<BTreeMap<PathBuf, Validity>, StartError> {
    check_but_for_certificates(builder)?;
    let (certificates, _) = load(&builder.config, &builder.listeners)?;
    Ok(certificates.map(|it| it.validities().clone()).unwrap_or_default())
}

fn check_but_for_certificates(builder: &Builder) -> Result<(), StartError> {
    if let Some(error) = &builder.invalid {
        return Err(StartError::Route(error.clone()));
    }
    for pattern in builder.config.route_limits.keys() {
        builder.router.check_name(pattern).map_err(StartError::Route)?;
    }
    check_settings(&builder.config, &builder.listeners)
}

pub(super) fn check_settings(config: &Config, listeners: &[Passed]) -> Result<(), StartError> {
    if config.threads > usize::from(u16::MAX) {
        return Err(StartError::Setting("there can be at most 65535 threads"));
    }
    if let Some(deflate) = config.deflate
        && !((9..=15).contains(&deflate.window_bits) && (1..=9).contains(&deflate.level))
    {
        return Err(StartError::Setting("deflate windows are 9 to 15 bits, and levels 1 to 9"));
    }
    if matches!(config.queue_total, QueueTotal::Percent(0 | 101..)) {
        return Err(StartError::Setting("queues may hold 1 to 100 percent of the memory"));
    }
    if config.proxies.protocol && config.proxies.trusted.is_empty() {
        return Err(StartError::Setting("--proxy-protocol needs a --trusted-proxy, such as 10.0.0.0/8"));
    }
    let drain = &config.drain;
    if drain.timeout < drain.grace.saturating_add(drain.spread) {
        return Err(StartError::Setting(
            "--drain-timeout must be at least --drain-grace and --drain-spread together",
        ));
    }
    if drain.retry > Drain::RETRY_MAX {
        return Err(StartError::Setting("--drain-retry must be at most 10m: clients believe no longer wait"));
    }
    if CloseCode::new(drain.code).is_none() {
        return Err(StartError::Setting(
            "--drain-code must be one that a server may send: 1000 to 1003, 1007 to 1014, 3000 to 4999",
        ));
    }
    let tls_listen = config.tls.as_ref().map_or(0, |tls| tls.listen.len());
    if config.listen.len() + tls_listen + listeners.len() == 0 {
        return Err(StartError::Setting("no address to listen on"));
    }
    if config.tls.as_ref().is_none_or(|tls| tls.certificates.is_empty()) {
        if tls_listen > 0 {
            return Err(StartError::Setting("TLS needs a certificate and its key"));
        }
        if Passed::any_secure(listeners) {
            return Err(StartError::Setting(
                "a socket that was passed for TLS (FileDescriptorName=tls) needs a --tls-cert and its --tls-key",
            ));
        }
    }
    Ok(())
}

/// The admin listener, if one is configured. It answers from here on, so that who asks whether the server is ready
/// hears that it is not, yet.
fn open_admin(
    address: Option<AdminAddress>,
    taken: &[SocketAddr],
    view: View,
) -> Result<Option<Admin>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let bound = admin::bind(&address, |address| is_taken(address, taken));
    let bound = bound.map_err(|error| StartError::Admin(address, error))?;
    bound.serve(view).map(Some).map_err(StartError::System)
}

/// One worker's ledgers.
fn ledgers_of(router: &Router) -> ByRoute<Arc<RouteLedger>> {
    (0..=router.none()).map(|_| Arc::default()).collect()
}

/// Reads the certificates, if there is to be TLS: what is wrong with them is said before anything is bound.
fn load(
    config: &Config,
    listeners: &[Passed],
) -> Result<(Option<Certificates>, Option<ServerConfig>), StartError> {
    let speaks_tls = |tls: &&Tls| !tls.listen.is_empty() || Passed::any_secure(listeners);
    let Some(tls) = config.tls.as_ref().filter(speaks_tls) else { return Ok((None, None)) };
    let mut certificates = Certificates::new(&tls.certificates).map_err(StartError::System)?;
    let loaded = certificates.load().map_err(StartError::Certificate)?;
    Ok((Some(certificates), Some(loaded)))
}

type Reserved = (Endpoints, Vec<socket2::Socket>);

fn reserve(config: &Config) -> Result<Reserved, StartError> {
    let (mut all, mut held) = (Vec::new(), Vec::new());
    reserve_each(&config.listen, &mut all, &mut held)?;
    let plain = all.len();
    if let Some(tls) = &config.tls {
        reserve_each(&tls.listen, &mut all, &mut held)?;
    }
    Ok((Endpoints { all, plain }, held))
}

/// Adds those of one kind, each of them once.
fn reserve_each(
    listen: &[String],
    addresses: &mut Vec<SocketAddr>,
    held: &mut Vec<socket2::Socket>,
) -> Result<(), StartError> {
    let others = addresses.len();
    for text in listen {
        let failed = |error| StartError::Listen(text.clone(), error);
        let mut wanted = listener::resolve(text).map_err(failed)?;
        wanted.retain(|address| address.port() == 0 || !addresses[others..].contains(address));
        if wanted.iter().any(|&address| is_taken(address, &addresses[..others])) {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        let (taken, sockets) = listener::reserve(&wanted).map_err(failed)?;
        addresses.extend(taken);
        held.extend(sockets);
    }
    Ok(())
}

/// Whether listeners on these addresses would get connections to this one. Nobody else says so: ours share their ports.
fn is_taken(address: SocketAddr, taken: &[SocketAddr]) -> bool {
    let (ip, port) = (address.ip(), address.port());
    taken.iter().any(|other| {
        let is_same = other.ip() == ip || other.ip().is_unspecified() || ip.is_unspecified();
        port != 0 && other.port() == port && other.is_ipv4() == address.is_ipv4() && is_same
    })
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
        let guard = StopOnExit(Arc::clone(&shared), index);
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

/// Stops the whole server when a worker's thread ends, however it ends, and keeps no mail for it.
struct StopOnExit(Arc<Shared>, usize);

impl Drop for StopOnExit {
    fn drop(&mut self) {
        self.0.mailboxes[self.1].close();
        self.0.shut_down();
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
    fn an_address_is_taken_once_by_one_kind_and_never_by_two() {
        // Nobody else's: below the ports that the system chooses, on an address from which no connection comes.
        let port = 10_000 + std::process::id() % 20_000;
        let [one, same] = [format!("127.43.21.11:{port}"), format!("127.43.21.11:0{port}")];
        let (mut all, mut held) = (Vec::new(), Vec::new());
        reserve_each(&[one.clone(), same.clone(), one.clone()], &mut all, &mut held).expect("it is free");
        assert_eq!((all.len(), held.len()), (1, 1), "{all:?}");
        let refused = reserve_each(&[same], &mut all, &mut held);
        assert!(
            matches!(&refused, Err(StartError::Listen(_, error)) if error.kind() == io::ErrorKind::AddrInUse),
            "{refused:?}"
        );
    }

    #[test]
    fn an_address_is_taken_by_itself_and_by_every_address() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (wanted, listener, taken) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", false),
            ("[::]:80", "[::1]:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(is_taken(address(wanted), &[address(listener)]), taken, "{wanted} beside {listener}");
        }
    }
}
