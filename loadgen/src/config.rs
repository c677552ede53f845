//! What the command line means: defaults by mode, and what does not go together.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{Mode, OnOff, RunArgs};
use crate::cohort::Cohorts;
use crate::payload::{Format, Sizes};
use crate::schedule::Arrival;
use crate::target::Target;
use crate::threshold::Threshold;

/// Streams (receivers times senders) that the ledger keeps, at four bytes each.
const STREAMS_MAX: u64 = 1 << 28;
/// The largest message, which the receiving side is told to take.
const SIZE_MAX: u32 = 16 << 20;
/// Senders of a broadcast where the user does not say.
const SENDERS: u32 = 4;

/// How messages are paced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// No messages.
    None,
    /// So many messages per second in total, each at its own time.
    Open {
        /// Messages per second over all connections.
        rate: f64,
    },
    /// A sender sends when one of its messages has come back.
    Closed {
        /// Messages under way per sender.
        in_flight: u32,
    },
}

/// One run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to connect.
    pub target: Target,
    /// The path and query that are asked for.
    pub path: String,
    /// Who may have signed the server's certificate; `None` for anybody.
    pub cacert: Option<PathBuf>,
    /// Whether connections take up the TLS sessions of earlier ones.
    pub tls_resume: bool,
    /// What the connections do.
    pub mode: Mode,
    /// Connections.
    pub conns: u32,
    /// How messages are paced.
    pub load: Load,
    /// Senders of a broadcast; in echo, all are.
    pub senders: u32,
    /// Who reads how.
    pub cohorts: Cohorts,
    /// Bytes per message.
    pub sizes: Sizes,
    /// How the times of messages are spread.
    pub arrival: Arrival,
    /// Further headers of the handshake.
    pub headers: Vec<(String, String)>,
    /// Its `Origin`.
    pub origin: Option<String>,
    /// Whether compression is offered.
    pub deflate: bool,
    /// The subprotocols that it offers.
    pub subprotocols: Vec<String>,
    /// Text or binary.
    pub format: Format,
    /// Connections opened per second, where that is limited.
    pub connect_rate: Option<f64>,
    /// What all randomness follows from.
    pub seed: u64,
    /// The measurement.
    pub duration: Duration,
    /// Load before it.
    pub warmup: Duration,
    /// Silence before the load.
    pub settle: Duration,
    /// The longest wait for the last messages.
    pub drain: Duration,
    /// Threads, where the user has said how many.
    pub threads: Option<u32>,
    /// The server's process.
    pub server_pid: Option<u32>,
    /// The command that starts it.
    pub server_cmd: Option<String>,
    /// Bounds that the run must keep.
    pub thresholds: Vec<Threshold>,
    /// The bound that the highest rate is searched for.
    pub find_max: Option<Threshold>,
    /// Where the JSON goes.
    pub json: Option<PathBuf>,
    /// Where the histogram log goes.
    pub hlog: Option<PathBuf>,
    /// Where the percentile distribution goes.
    pub hgrm: Option<PathBuf>,
    /// Where the page with pictures goes.
    pub html: Option<PathBuf>,
    /// Where the table of seconds goes.
    pub csv: Option<PathBuf>,
    /// Whether to show progress.
    pub progress: bool,
}

impl Config {
    /// Makes sense of the flags. `fresh_seed` is used where none was given.
    ///
    /// # Errors
    /// One line that names the flag and what to do.
    pub fn new(args: RunArgs, fresh_seed: u64) -> Result<Self, String> {
        let target = Target::parse(&args.url)?;
        if target.secure && args.cacert.is_none() && !args.insecure {
            return Err(format!(
                "{}: whom to trust? Give --cacert FILE with the authority's certificate, or --insecure",
                args.url
            ));
        }
        if !target.secure && (args.cacert.is_some() || args.insecure) {
            return Err("--cacert, --insecure: only with a wss:// URL".to_owned());
        }
        let format = if args.text { Format::Text } else { Format::Binary };
        if (args.size.min as usize) < format.bytes_min() {
            return Err(format!(
                "--size {}: run, sender, sequence, times and checksum take {} bytes: give --size {1} or more",
                args.size,
                format.bytes_min()
            ));
        }
        if args.size.max > SIZE_MAX {
            return Err(format!("--size {}: give at most {SIZE_MAX}", args.size));
        }
        let senders = match (args.mode, args.senders) {
            (Mode::Broadcast, senders) => senders.unwrap_or(SENDERS.min(args.conns)),
            (_, None) => args.conns,
            (mode, Some(_)) => {
                return Err(format!("--senders: only with --mode broadcast, not with {}", mode.name()));
            }
        };
        let cohorts = cohorts(&args)?;
        if senders > args.conns - cohorts.lazy() {
            if cohorts.lazy() > 0 {
                return Err(format!(
                    "--senders {senders}: only {} of {} connections read as they should",
                    args.conns - cohorts.lazy(),
                    args.conns
                ));
            }
            return Err(format!("--senders {senders}: there are only {} connections (--conns)", args.conns));
        }
        if args.mode == Mode::Broadcast && u64::from(args.conns) * u64::from(senders) > STREAMS_MAX {
            return Err(format!(
                "--senders {senders}: with {} connections at most {} can be kept apart",
                args.conns,
                STREAMS_MAX / u64::from(args.conns)
            ));
        }
        let load = load(&args)?;
        if args.duration.is_zero() {
            return Err("--duration: give a time above 0, such as 10s".to_owned());
        }
        if let Some(pid) = args.server_pid
            && crate::server::probe(pid).is_none()
        {
            return Err(format!("--server-pid {pid}: there is no such process on this machine"));
        }
        let thresholds = args
            .threshold
            .iter()
            .map(|text| Threshold::parse(text).map_err(|problem| format!("--threshold {problem}")));
        let thresholds = thresholds.collect::<Result<Vec<_>, _>>()?;
        let find_max = args
            .find_max
            .as_deref()
            .map(|text| Threshold::parse(text).map_err(|problem| format!("--find-max {problem}")));
        let find_max = find_max.transpose()?;
        let default_path = if args.mode == Mode::Broadcast { "/chat" } else { "/echo" };
        Ok(Self {
            path: target.path.clone().unwrap_or_else(|| default_path.to_owned()),
            target,
            cacert: args.cacert,
            tls_resume: args.tls_resume == OnOff::On,
            mode: args.mode,
            conns: args.conns,
            load,
            senders,
            cohorts,
            sizes: args.size,
            arrival: args.arrival,
            headers: args.header,
            origin: args.origin,
            deflate: args.deflate,
            subprotocols: args.subprotocol,
            format,
            connect_rate: args.connect_rate,
            seed: args.seed.unwrap_or(fresh_seed),
            duration: args.duration,
            warmup: args.warmup,
            settle: args.settle,
            drain: args.drain,
            threads: args.threads,
            server_pid: args.server_pid,
            server_cmd: args.server_cmd,
            thresholds,
            find_max,
            json: args.json,
            hlog: args.hlog,
            hgrm: args.hgrm,
            html: args.html,
            csv: args.csv,
            progress: !args.no_progress,
        })
    }

    /// The whole URL, path included.
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.target.scheme(), self.target.host, self.path)
    }
}

fn cohorts(args: &RunArgs) -> Result<Cohorts, String> {
    let (slow, never) = (args.slow_readers.map_or(0, |it| it.of(args.conns)), args.never_read.unwrap_or(0));
    for (flag, count) in [("--slow-readers", slow), ("--never-read", never)] {
        if count > 0 && args.mode != Mode::Broadcast {
            return Err(format!("{flag}: only with --mode broadcast, where a server must send to them"));
        }
        if slow.saturating_add(never) >= args.conns && count > 0 {
            return Err(format!(
                "{flag}: nobody of {} connections is left to send and to be timed",
                args.conns
            ));
        }
    }
    let slow_bytes_per_second = args.slow_readers.map_or(0, |it| it.bytes_per_second);
    Ok(Cohorts { conns: args.conns, slow, slow_bytes_per_second, never })
}

fn load(args: &RunArgs) -> Result<Load, String> {
    match (args.mode, args.rate, args.closed_loop) {
        (Mode::Idle, None, None) => Ok(Load::None),
        (Mode::Idle, Some(_), _) => Err("--rate: --mode idle sends nothing; leave it out".to_owned()),
        (Mode::Idle, _, Some(_)) => Err("--closed-loop: --mode idle sends nothing; leave it out".to_owned()),
        (_, _, Some(in_flight)) => Ok(Load::Closed { in_flight }),
        (Mode::Echo, rate, _) => Ok(Load::Open { rate: rate.unwrap_or(1_000.0) }),
        (Mode::Broadcast, rate, _) => Ok(Load::Open { rate: rate.unwrap_or(1.0) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(line: &str) -> Result<Config, String> {
        let args = std::iter::once("loadgen").chain(line.split_whitespace()).map(Into::into);
        Config::new(crate::cli::parse(args).expect("clap takes it").run, 42)
    }

    #[test]
    fn defaults_by_mode() {
        let echo = config("").expect("sound");
        assert_eq!(
            (echo.url().as_str(), echo.load, echo.seed),
            ("ws://127.0.0.1:8080/echo", Load::Open { rate: 1e3 }, 42)
        );
        let broadcast = config("--mode broadcast").expect("sound");
        assert_eq!(
            (broadcast.path.as_str(), broadcast.load, broadcast.senders),
            ("/chat", Load::Open { rate: 1.0 }, 4)
        );
        assert_eq!(config("--mode broadcast -c 2").expect("sound").senders, 2);
        let idle = config("ws://h/x --mode idle --seed 7").expect("sound");
        assert_eq!((idle.path.as_str(), idle.load, idle.seed), ("/x", Load::None, 7));
        assert_eq!(config("--closed-loop 3").expect("sound").load, Load::Closed { in_flight: 3 });
    }

    #[test]
    fn the_size_has_a_floor_for_each_format() {
        assert!(config("--size 39").is_ok() && config("--size 52 --text").is_ok());
        assert!(config("--size 38").expect_err("too small").contains("--size 39"));
        assert!(config("--size 51 --text").expect_err("too small").contains("--size 52"));
    }

    #[test]
    fn what_does_not_go_together() {
        for (line, flag) in [
            ("--mode idle --rate 5", "--rate"),
            ("--mode idle --closed-loop 5", "--closed-loop"),
            ("--senders 2", "--senders"),
            ("--mode broadcast -c 3 --senders 4", "--conns"),
            ("--mode broadcast -c 50k --senders 50k", "--senders"),
            ("--duration 0s", "--duration"),
            ("--server-pid 4194305", "--server-pid"),
            ("--size 17M", "--size"),
            ("--threshold p99", "--threshold"),
            ("--never-read 5", "--mode broadcast"),
            ("--mode broadcast -c 5 --never-read 5", "--never-read"),
            ("--mode broadcast -c 5 --never-read 2 --senders 4", "--senders"),
            ("wss://h", "--cacert"),
            ("ws://h --insecure", "wss://"),
        ] {
            let error = config(line).expect_err(line);
            assert!(error.contains(flag) && !error.contains('\n'), "{error}");
        }
    }
}
