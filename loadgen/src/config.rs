//! What the command line means: defaults by mode, and what does not go together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Reconnect;
use crate::cli::{Mode, OnOff, RunArgs};
use crate::cohort::Cohorts;
use crate::connects::ConnectPace;
use crate::lives::Lifetime;
use crate::payload::Format;
use crate::payload::compact::SENDERS_MAX;
use crate::schedule::Arrival;
use crate::sizes::Sizes;
use crate::sources::SourceIps;
use crate::stages::{STAGES_MAX, Stage};
use crate::target::Target;
use crate::threshold::Threshold;

/// Streams (receivers times senders) that the ledger keeps, at four bytes each.
const STREAMS_MAX: u64 = 1 << 28;
/// The largest message, which the receiving side is told to take.
const SIZE_MAX: u32 = 16 << 20;
/// How long connections live that come and go, where the user does not say.
const LIFETIME: &str = "5s";
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
    /// Its steps, where it has any; `load` is then their mean, and `duration` their sum.
    pub stages: Arc<[Stage]>,
    /// Senders of a broadcast; in echo, all are.
    pub senders: u32,
    /// Whether the server leaves the sender of a message out of its receivers.
    pub skip_sender: bool,
    /// Who reads how.
    pub cohorts: Cohorts,
    /// Bytes per message.
    pub sizes: Sizes,
    /// The addresses to connect from.
    pub source_ips: SourceIps,
    /// How the times of messages are spread.
    pub arrival: Arrival,
    /// Further headers of the handshake.
    pub headers: Vec<(String, String)>,
    /// Its `Origin`.
    pub origin: Option<String>,
    /// Whether compression is offered.
    pub deflate: bool,
    /// Whether it is plain TCP that is spoken: no proof of the protocol, no masks.
    pub raw: bool,
    /// The subprotocols that it offers.
    pub subprotocols: Vec<String>,
    /// Text or binary.
    pub format: Format,
    /// How fast connections are opened.
    pub connect_pace: ConnectPace,
    /// How long a server may take to answer a handshake.
    pub connect_timeout: Duration,
    /// How long connections live, where they come and go.
    pub lifetime: Option<Lifetime>,
    /// Who comes back by itself.
    pub reconnect: Reconnect,
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
        trust(&args, &target)?;
        let format = format(&args)?;
        let cohorts = cohorts(&args)?;
        let senders = senders(&args, format, &cohorts)?;
        let load = load(&args, senders)?;
        skip_sender(&args, load, &cohorts)?;
        let (connect_pace, lifetime) = (connect_pace(&args)?, lifetime(&args)?);
        let duration = stages(&args)?.unwrap_or(args.duration);
        if duration.is_zero() {
            return Err("--duration: give a time above 0, such as 10s".to_owned());
        }
        if let Some(pid) = args.server_pid
            && crate::server::probe(pid).is_none()
        {
            return Err(format!("--server-pid {pid}: there is no such process on this machine"));
        }
        let threshold =
            |flag: &str, text: &str| Threshold::parse(text).map_err(|problem| format!("{flag} {problem}"));
        let thresholds = args.threshold.iter().map(|text| threshold("--threshold", text));
        let thresholds = thresholds.collect::<Result<Vec<_>, _>>()?;
        let find_max = args.find_max.as_deref().map(|text| threshold("--find-max", text)).transpose()?;
        let default_path = if args.mode == Mode::Broadcast { "/chat" } else { "/echo" };
        Ok(Self {
            path: target.path.clone().unwrap_or_else(|| default_path.to_owned()),
            target,
            cacert: args.cacert,
            tls_resume: args.tls_resume == OnOff::On,
            mode: args.mode,
            conns: args.conns,
            load,
            stages: args.stage.into(),
            senders,
            skip_sender: args.skip_sender,
            cohorts,
            sizes: args.size,
            source_ips: args.source_ip,
            arrival: args.arrival,
            headers: args.header,
            origin: args.origin,
            deflate: args.deflate,
            raw: args.raw,
            subprotocols: args.subprotocol,
            format,
            connect_pace,
            connect_timeout: args.connect_timeout,
            lifetime,
            reconnect: args.reconnect,
            seed: args.seed.unwrap_or(fresh_seed),
            duration,
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

    /// How many connections are to receive each message, when so many are there.
    pub const fn audience(&self, receivers: u64) -> u64 {
        match self.mode {
            Mode::Broadcast => receivers.saturating_sub(self.skip_sender as u64),
            _ => 1,
        }
    }

    /// Whether connections are made during the run as well.
    pub fn comes_and_goes(&self) -> bool {
        self.lifetime.is_some() || self.reconnect != Reconnect::None
    }

    /// Messages per second that are due, where messages have times of their own.
    pub const fn target_rate(&self) -> Option<f64> {
        match self.load {
            Load::Open { rate } => Some(rate),
            Load::None | Load::Closed { .. } => None,
        }
    }

    /// Whether connecting as fast as possible is what is measured.
    pub fn measures_a_storm(&self) -> bool {
        self.mode == Mode::Connect && self.connect_pace == ConnectPace::Storm
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

fn connect_pace(args: &RunArgs) -> Result<ConnectPace, String> {
    let per_second = match args.ramp {
        Some(ramp) if ramp.is_zero() => return Err("--ramp: give a time above 0, or --storm".to_owned()),
        Some(ramp) => Some(f64::from(args.conns) / ramp.as_secs_f64()),
        None => args.connect_rate,
    };
    if args.connect_timeout.is_zero() {
        return Err("--connect-timeout: give a time above 0, such as 10s".to_owned());
    }
    Ok(match per_second {
        Some(rate) => ConnectPace::Rate(rate),
        None if args.storm => ConnectPace::Storm,
        None => ConnectPace::Gentle,
    })
}

fn lifetime(args: &RunArgs) -> Result<Option<Lifetime>, String> {
    match (args.mode, &args.lifetime) {
        (Mode::Churn, Some(lifetime)) => Ok(Some(lifetime.clone())),
        (Mode::Churn, None) => Lifetime::parse(LIFETIME).map(Some),
        (_, None) => Ok(None),
        (mode, Some(_)) => {
            Err(format!("--lifetime: only with --mode churn; connections of {} stay", mode.name()))
        }
    }
}

/// How long the stages take together; `None` where there are none.
fn stages(args: &RunArgs) -> Result<Option<Duration>, String> {
    if args.stage.is_empty() {
        return Ok(None);
    }
    if args.stage.len() > STAGES_MAX {
        return Err(format!("--stage: {} stages, of at most {STAGES_MAX}", args.stage.len()));
    }
    if let Some(stage) = args.stage.iter().find(|stage| stage.time.is_zero()) {
        return Err(format!("--stage {stage}: give a time above 0, such as 30s:10k"));
    }
    if args.stage.iter().all(|stage| stage.rate <= 0.0) {
        return Err("--stage: all are pauses; give one a rate above 0".to_owned());
    }
    Ok(Some(Stage::time_of_all(&args.stage)))
}

/// Whom to trust, where there is somebody to be trusted.
fn trust(args: &RunArgs, target: &Target) -> Result<(), String> {
    if target.secure && args.cacert.is_none() && !args.insecure {
        return Err(format!(
            "{}: whom to trust? Give --cacert FILE with the authority's certificate, or --insecure",
            args.url
        ));
    }
    if !target.secure && (args.cacert.is_some() || args.insecure) {
        return Err("--cacert, --insecure: only with a wss:// URL".to_owned());
    }
    Ok(())
}

/// How messages travel that are as small as asked for.
fn format(args: &RunArgs) -> Result<Format, String> {
    let format = match args.text {
        true => Format::Text,
        false if (args.size.min as usize) < Format::Binary.bytes_min() => Format::Compact,
        false => Format::Binary,
    };
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
    Ok(format)
}

/// How many connections send.
fn senders(args: &RunArgs, format: Format, cohorts: &Cohorts) -> Result<u32, String> {
    let senders = match (args.mode, args.senders) {
        (Mode::Broadcast, senders) => senders.unwrap_or(SENDERS.min(args.conns)),
        (_, None) => args.conns,
        (mode, Some(_)) => {
            return Err(format!("--senders: only with --mode broadcast, not with {}", mode.name()));
        }
    };
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
    if format == Format::Compact && senders > SENDERS_MAX {
        return Err(format!(
            "--size {}: of more than {SENDERS_MAX} senders each message takes {} bytes: give --size {1} or more",
            args.size,
            Format::Binary.bytes_min()
        ));
    }
    Ok(senders)
}

fn skip_sender(args: &RunArgs, load: Load, cohorts: &Cohorts) -> Result<(), String> {
    if !args.skip_sender {
        return Ok(());
    }
    if args.mode != Mode::Broadcast {
        return Err(
            "--skip-sender: only with --mode broadcast; in an echo the sender is the receiver".to_owned()
        );
    }
    if matches!(load, Load::Closed { .. }) {
        return Err(
            "--skip-sender: --closed-loop waits for what comes back to the sender; give --rate".to_owned()
        );
    }
    if args.conns - cohorts.lazy() < 2 {
        return Err("--skip-sender: nobody is left to receive; give --conns 2 or more".to_owned());
    }
    Ok(())
}

fn load(args: &RunArgs, senders: u32) -> Result<Load, String> {
    let per_conn = args.rate_per_conn.map(|rate| rate * f64::from(senders));
    if let Mode::Idle | Mode::Connect = args.mode {
        let flags = [
            ("--rate", args.rate.is_some()),
            ("--rate-per-conn", per_conn.is_some()),
            ("--closed-loop", args.closed_loop.is_some()),
            ("--stage", !args.stage.is_empty()),
        ];
        return match flags.iter().find(|(_, given)| *given) {
            Some((flag, _)) if args.mode == Mode::Connect => {
                Err(format!("{flag}: --mode connect sends nothing; its rate is --connect-rate"))
            }
            Some((flag, _)) => Err(format!("{flag}: --mode idle sends nothing; leave it out")),
            None => Ok(Load::None),
        };
    }
    if args.mode == Mode::Churn && args.closed_loop.is_some() {
        return Err(
            "--closed-loop: connections of --mode churn do not wait for answers; give --rate".to_owned()
        );
    }
    if args.mode == Mode::Churn && args.rate.or(per_conn).is_none() && args.stage.is_empty() {
        return Ok(Load::None);
    }
    let default = if args.mode == Mode::Echo { 1_000.0 } else { 1.0 };
    Ok(match args.closed_loop {
        Some(in_flight) => Load::Closed { in_flight },
        None if !args.stage.is_empty() => Load::Open { rate: Stage::rate_of_all(&args.stage) },
        None => Load::Open { rate: args.rate.or(per_conn).unwrap_or(default) },
    })
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
        assert_eq!(config("-c 50 -r 0.5").expect("sound").load, Load::Open { rate: 25.0 });
        let three = config("--mode broadcast -c 50 --senders 3 -r 2").expect("sound");
        assert_eq!(three.load, Load::Open { rate: 6.0 }, "each sender");
        let stages = config("--stage 1s:4 --stage 3s:8").expect("sound");
        assert_eq!((stages.load, stages.duration.as_secs()), (Load::Open { rate: 7.0 }, 4));
        assert_eq!(config(&"--stage 1s:1 ".repeat(64)).expect("sound").stages.len(), 64);
        assert!(config(&"--stage 1s:1 ".repeat(65)).expect_err("too many").contains("at most 64"));
        assert_eq!(config("--closed-loop 3").expect("sound").load, Load::Closed { in_flight: 3 });
    }

    #[test]
    fn connections_come_at_a_pace_and_may_go() {
        assert_eq!(config("").expect("sound").connect_pace, ConnectPace::Gentle);
        assert_eq!(config("-c 500 --ramp 2s").expect("sound").connect_pace, ConnectPace::Rate(250.0));
        assert_eq!(config("--connect-rate 5k").expect("sound").connect_pace, ConnectPace::Rate(5e3));
        let storm = config("--mode connect --storm").expect("sound");
        assert_eq!((storm.connect_pace, storm.load, &*storm.path), (ConnectPace::Storm, Load::None, "/echo"));
        let churn = config("--mode churn").expect("sound");
        assert_eq!((churn.lifetime.map(|it| it.mean().as_secs()), churn.load), (Some(5), Load::None));
        let echo = config("--mode churn --lifetime 1s..2s -c 10 -r 3").expect("sound");
        assert_eq!(echo.load, Load::Open { rate: 30.0 });
        let back = config("--reconnect backoff:50ms..1s").expect("sound").reconnect;
        assert_eq!(back.to_string(), "backoff:50ms..1s");
    }

    #[test]
    fn the_size_has_a_floor_for_each_format() {
        let format = |line: &str| config(line).map(|it| it.format);
        assert_eq!(
            (format("--size 39"), format("--size 38"), format("--size 20..99"), format("--size 52 --text")),
            (Ok(Format::Binary), Ok(Format::Compact), Ok(Format::Compact), Ok(Format::Text))
        );
        assert!(config("--size 19").expect_err("too small").contains("--size 20"));
        assert!(config("-c 65536 --size 20").is_ok());
        assert!(config("-c 65537 --size 20").expect_err("too many").contains("--size 39"));
        assert!(config("--size 51 --text").expect_err("too small").contains("--size 52"));
    }

    #[test]
    fn what_does_not_go_together() {
        for (line, flag) in [
            ("--mode idle --rate 5", "--rate"),
            ("--mode idle --closed-loop 5", "--closed-loop"),
            ("--mode idle -r 5", "--rate-per-conn"),
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
            ("--mode idle --stage 1s:5", "--stage"),
            ("--stage 0s:5", "--stage 0s:5"),
            ("--stage 1s:0 --stage 2s:0", "above 0"),
            ("--mode connect --rate 5", "--connect-rate"),
            ("--mode connect --stage 5s:5", "--stage"),
            ("--mode churn --closed-loop 1", "--rate"),
            ("--lifetime 5s", "--mode churn"),
            ("--mode connect --ramp 0s", "--storm"),
            ("--connect-timeout 0s", "--connect-timeout"),
            ("--skip-sender", "--mode broadcast"),
            ("--mode broadcast --skip-sender --closed-loop 1", "--rate"),
            ("--mode broadcast --skip-sender -c 1", "--conns 2"),
            ("wss://h", "--cacert"),
            ("ws://h --insecure", "wss://"),
        ] {
            let error = config(line).expect_err(line);
            assert!(error.contains(flag) && !error.contains('\n'), "{error}");
        }
    }
}
