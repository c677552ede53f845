//! One run, from the plan to the verdict and the files that were asked for.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::Mode;
use crate::client::{DEFLATE, Offer};
use crate::compare::stored::Stored;
use crate::config::Config;
use crate::coordinate::Coordinator;
use crate::crew::Crew;
use crate::launch::Launched;
use crate::net::secure::Secure;
use crate::net::worker::{Assignment, LEAVING_MAX};
use crate::outcome::{connect_cost, summarize};
use crate::plan::{Machine, Plan, Wish, local_ports};
use crate::progress::Progress;
use crate::report::hlog::HlogWriter;
use crate::report::summary::Summary;
use crate::report::{csv, hgrm, html, json, table};
use crate::server::probe;
use crate::sources::SourceIps;
use crate::threshold::Checked;
use crate::verdict::Verdict;

/// The exit code of a run that the generator could not do as asked: the result says nothing about the server.
pub const INVALID: u8 = 97;
/// The exit code of a run that broke a threshold.
pub const THRESHOLD: u8 = 99;

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The plan cannot work here, or a file cannot be made: exit code 2.
    Usage(String),
    /// The server cannot be reached, or the system gave out: exit code 1.
    Broken(String),
    /// The generator could not do what was asked: exit code 97.
    Invalid(String),
}

impl Failure {
    /// The same with another line.
    #[must_use]
    pub fn map(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Usage(line) => Self::Usage(change(line)),
            Self::Broken(line) => Self::Broken(change(line)),
            Self::Invalid(line) => Self::Invalid(change(line)),
        }
    }
}

/// Starts the server where that was asked for, and points the run at it.
pub(crate) fn launch(config: &mut Config) -> Result<Option<Launched>, Failure> {
    let Some(command) = &config.server_cmd else { return Ok(None) };
    let server = Launched::start(command, Ipv4Addr::LOCALHOST.into()).map_err(Failure::Broken)?;
    config.target.set_address(server.address());
    config.server_pid = Some(server.pid());
    Ok(Some(server))
}

/// Starts the server where that was asked for, does one run, and checks its thresholds; gives the exit code.
///
/// # Errors
/// There is no result to report.
pub fn run(config: &Config, interrupted: &AtomicBool, out: &mut impl Write) -> Result<u8, Failure> {
    let mut config = config.clone();
    let server = launch(&mut config)?;
    let summary = execute(&config, interrupted, out)?;
    if let Some(server) = server {
        server.stop();
    }
    let result = json::value(&summary);
    let checked: Vec<Checked> = config.thresholds.iter().map(|it| it.check(&result)).collect();
    print(out, |out| checked.iter().try_for_each(|it| writeln!(out, "{}", it.line)))?;
    Ok(match summary.verdict {
        // What the generator could not measure breaks no threshold, and keeps none.
        Verdict::Invalid => INVALID,
        _ if checked.iter().any(|it| !it.kept) => THRESHOLD,
        _ => 0,
    })
}

/// Does one run and writes its report to `out`. `interrupted` becomes true when the user has had enough.
///
/// # Errors
/// There is no result to report; otherwise the result.
pub fn execute(config: &Config, interrupted: &AtomicBool, out: &mut impl Write) -> Result<Summary, Failure> {
    let server = config.target.resolve().map_err(Failure::Broken)?;
    let machine = machine()?;
    check_sources(&config.source_ips)?;
    let source_ips = config.source_ips.clone();
    let wish =
        Wish { conns: config.conns, threads: config.threads, leaving: leaving(config), server, source_ips };
    let plan = Plan::new(&wish, &machine).map_err(Failure::Usage)?;
    let mut hlog = match &config.hlog {
        Some(path) => {
            Some(HlogWriter::create(path, config).map_err(|error| file_error("--hlog", path, &error))?)
        }
        None => None,
    };
    for (flag, path) in
        [("--json", &config.json), ("--hgrm", &config.hgrm), ("--html", &config.html), ("--csv", &config.csv)]
    {
        if let Some(path) = path {
            std::fs::File::create(path).map_err(|error| file_error(flag, path, &error))?;
        }
    }
    print(out, |out| table::plan(out, &plan))?;

    let before = config.server_pid.and_then(probe);
    let crew = Crew::start(assignments(config, &plan, server)?)
        .map_err(|error| Failure::Broken(format!("cannot start {} threads: {error}", plan.threads)))?;
    let progress = Progress::new(config.progress);
    let mut coordinator = Coordinator::new(config, interrupted, crew, progress);
    let mut dialed = coordinator.dial()?;
    if config.mode != Mode::Connect {
        dialed.cost = connect_cost(before, config.server_pid.and_then(probe), dialed.ok());
        dialed.target_per_second = config.connect_pace.rate();
        print(out, |out| table::connecting(out, &dialed))?;
    }
    let mut measured = coordinator.load(&dialed, hlog.as_mut())?;
    if config.mode == Mode::Connect {
        dialed = measured.connecting(dialed, config, before);
        if dialed.ok() == 0 {
            return Err(coordinator.unreachable(&dialed));
        }
        print(out, |out| table::connecting(out, &dialed))?;
    }

    let summary = summarize(config, &plan, dialed, measured, before);
    print(out, |out| table::results(out, &summary))?;
    if let Some(path) = &config.json {
        json::write(path, &summary).map_err(|error| write_error("--json", path, &error))?;
    }
    if let Some(path) = &config.hgrm {
        hgrm::write(path, summary.main_times()).map_err(|error| write_error("--hgrm", path, &error))?;
    }
    if let Some(path) = &config.html {
        let stored = Stored::of(String::new(), &summary);
        let page = html::run(&stored.result, &stored.curves, &summary.by_second);
        std::fs::write(path, page).map_err(|error| write_error("--html", path, &error))?;
    }
    if let Some(path) = &config.csv {
        csv::write(path, &summary.by_second).map_err(|error| write_error("--csv", path, &error))?;
    }
    if let (Some(hlog), Some(path)) = (hlog, &config.hlog) {
        hlog.finish(&summary).map_err(|error| write_error("--hlog", path, &error))?;
    }
    coordinator.join();
    Ok(summary)
}

fn print<W: Write>(out: &mut W, what: impl FnOnce(&mut W) -> std::io::Result<()>) -> Result<(), Failure> {
    what(out).and_then(|()| out.flush()).map_err(|error| Failure::Broken(format!("standard output: {error}")))
}

fn file_error(flag: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("{flag} {}: {error}", path.display()))
}

/// The file could be made, but not be filled: no longer the user's mistake.
/// A line about a file that could be made, but not be filled.
pub fn write_error(flag: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::Broken(format!("{flag} {}: {error}", path.display()))
}

/// Descriptors for connections that have said Close while others take their places.
fn leaving(config: &Config) -> u32 {
    if config.comes_and_goes() { LEAVING_MAX.min(config.conns) } else { 0 }
}

/// Whether the listed source addresses are this machine's.
///
/// # Errors
/// One line that names the first that is not.
pub fn check_sources(source_ips: &SourceIps) -> Result<(), Failure> {
    for address in source_ips.listed() {
        std::net::TcpListener::bind((*address, 0)).map_err(|error| {
            Failure::Usage(format!("--source-ip {address}: {error}: give addresses of this machine"))
        })?;
    }
    Ok(())
}

/// What matters of this machine.
///
/// # Errors
/// It does not tell.
pub fn machine() -> Result<Machine, Failure> {
    let descriptors = wsd::net::fdtable::raise_nofile()
        .map_err(|error| Failure::Broken(format!("cannot read RLIMIT_NOFILE: {error}")))?;
    // Tried in a thread that then ends: this one keeps its table.
    let private_tables = std::thread::spawn(|| wsd::net::fdtable::unshare().is_ok()).join().unwrap_or(false);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    Ok(Machine { descriptors, private_tables, cores, ports: local_ports() })
}

fn assignments(config: &Config, plan: &Plan, server: SocketAddr) -> Result<Vec<Assignment>, Failure> {
    let secure = config
        .target
        .secure
        .then(|| Secure::new(config.target.name(), config.cacert.as_deref(), config.tls_resume));
    let secure = secure.transpose().map_err(Failure::Usage)?;
    let mut rng = fastrand::Rng::with_seed(config.seed);
    let run = rng.u64(..);
    let offer = Arc::new(Offer {
        host: config.target.host.clone(),
        path: config.path.clone(),
        origin: config.origin.clone(),
        subprotocols: config.subprotocols.clone(),
        deflate: config.deflate.then_some(DEFLATE),
        headers: config.headers.clone(),
        raw: config.raw,
    });
    Ok((0..plan.threads)
        .map(|thread| Assignment {
            thread,
            threads: plan.threads,
            conns: plan.share(thread),
            server,
            secure: secure.clone(),
            sources: plan.sources.clone(),
            offer: Arc::clone(&offer),
            connect_pace: config.connect_pace,
            connect_timeout: config.connect_timeout,
            connect_only: config.mode == Mode::Connect,
            lifetime: config.lifetime.clone(),
            reconnect: config.reconnect.clone(),
            load: config.load,
            stages: Arc::clone(&config.stages),
            warmup: config.warmup,
            broadcast: config.mode == Mode::Broadcast,
            skip_sender: config.skip_sender,
            format: config.format,
            cohorts: config.cohorts,
            sizes: config.sizes.clone(),
            arrival: config.arrival,
            run,
            seed: config.seed,
        })
        .collect())
}
