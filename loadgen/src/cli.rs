//! What the user typed. What it means, and whether it makes sense, is [`config`](crate::config)'s business; this
//! is the only place that names clap.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cohort::SlowReaders;
use crate::payload::Sizes;
use crate::schedule::Arrival;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    about = "Loads a WebSocket server and measures what its users would feel",
    after_help = "Exit codes: 0 the run is VALID or SUSPECT, 1 could not connect or write a file, 2 bad usage or \
                  a plan that cannot work here, 96 inconclusive (with --strict), 97 the run is INVALID, \
                  98 regression, \
                  99 a threshold was broken.",
    args_conflicts_with_subcommands = true,
    max_term_width = 80
)]
pub struct Cli {
    /// Other things than a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// A run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Other things than a run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare two servers, in pairs of runs with fresh processes
    Ab(Box<AbArgs>),
    /// Compare runs that were stored with --hlog or --json
    Compare(CompareArgs),
    /// Say what of this machine will limit so many connections, and the remedy
    Doctor {
        /// Connections
        #[arg(short, long, default_value = "50000", value_name = "N", value_parser = whole)]
        conns: u32,
    },
    /// Make a page of a run that was stored with --hlog
    Report {
        /// The .hlog of the run
        file: PathBuf,
        /// Where the page goes
        #[arg(long, value_name = "FILE")]
        html: PathBuf,
    },
    /// Put the logs of generators together that ran side by side
    Merge {
        /// The .hlog of each generator
        #[arg(required = true, num_args = 2.., value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where the sum goes
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// The flags of `ab`.
#[derive(Debug, Args)]
pub struct AbArgs {
    /// The command that starts server A; {port} stands for its port, or it prints its address
    #[arg(long, value_name = "CMD", help_heading = "Comparison")]
    pub a: String,
    /// The command that starts server B
    #[arg(long, value_name = "CMD", help_heading = "Comparison")]
    pub b: Option<String>,
    /// Compare A with itself: the noise of this machine
    #[arg(long, help_heading = "Comparison")]
    pub aa: bool,
    /// Pairs of runs
    #[arg(long, default_value = "10", value_name = "N", value_parser = whole, help_heading = "Comparison")]
    pub pairs: u32,
    /// What decides, at most three, with the rise that is let pass: response.p50=3%,cpu
    #[arg(long, value_name = "METRIC[=PERCENT]", value_delimiter = ',', help_heading = "Comparison")]
    pub gate: Vec<String>,
    /// Exit with 96 where nothing is certain
    #[arg(long, help_heading = "Comparison")]
    pub strict: bool,
    /// Write the files of all runs, and the comparison, to this directory
    #[arg(long, value_name = "DIR", help_heading = "Comparison")]
    pub out: Option<PathBuf>,
    /// Each run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The flags of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// A file of each side: A, then B
    #[arg(value_name = "FILE", num_args = 2, conflicts_with_all = ["a", "b"])]
    pub files: Vec<PathBuf>,
    /// Several files of side A, in the order of the pairs
    #[arg(long, value_name = "FILES", num_args = 1.., requires = "b")]
    pub a: Vec<PathBuf>,
    /// As many files of side B
    #[arg(long, value_name = "FILES", num_args = 1.., requires = "a")]
    pub b: Vec<PathBuf>,
    /// What decides, at most three, with the rise that is let pass: response.p50=3%,cpu
    #[arg(long, value_name = "METRIC[=PERCENT]", value_delimiter = ',')]
    pub gate: Vec<String>,
    /// Exit with 96 where nothing is certain
    #[arg(long)]
    pub strict: bool,
    /// Write the comparison as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the comparison as a page with pictures
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl CompareArgs {
    /// The files of A and those of B.
    ///
    /// # Errors
    /// There are none.
    pub fn sides(&self) -> Result<(&[PathBuf], &[PathBuf]), String> {
        match (&self.files[..], &self.a[..], &self.b[..]) {
            ([a, b], [], []) => Ok((std::slice::from_ref(a), std::slice::from_ref(b))),
            ([], [_, ..], [_, ..]) => Ok((&self.a, &self.b)),
            _ => Err("compare: give two files, or --a FILES --b FILES".to_owned()),
        }
    }
}

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Each connection gets its own messages back
    Echo,
    /// A few senders; everyone receives
    Broadcast,
    /// Connected and silent
    Idle,
}

impl Mode {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Echo, Self::Broadcast, Self::Idle];

    /// As in the flags and the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Broadcast => "broadcast",
            Self::Idle => "idle",
        }
    }
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// On.
    On,
    /// Off.
    Off,
}

/// The flags of a run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The server; without a path, /echo (or /chat with --mode broadcast)
    #[arg(default_value = "ws://127.0.0.1:8080")]
    pub url: String,

    /// What the connections do
    #[arg(long, value_enum, default_value = "echo", help_heading = "Load")]
    pub mode: Mode,
    /// Connections
    #[arg(short, long, default_value = "100", value_name = "N", value_parser = whole, help_heading = "Load")]
    pub conns: u32,
    /// Messages per second over all connections (5k works), each due at its own time whatever the server does;
    /// echo sends 1,000 and broadcast 1 unless told otherwise
    #[arg(short = 'R', long, value_name = "TOTAL", value_parser = number, help_heading = "Load")]
    pub rate: Option<f64>,
    /// Instead of a rate: keep K messages of each sender in flight
    #[arg(long, value_name = "K", value_parser = whole, conflicts_with = "rate", help_heading = "Load")]
    pub closed_loop: Option<u32>,
    /// Senders of a broadcast [default: 4]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Load")]
    pub senders: Option<u32>,
    /// How the times of messages are spread
    #[arg(long, value_enum, default_value = "constant", help_heading = "Load")]
    pub arrival: Arrival,
    /// Bytes per message; 64..4096 is any size between the two
    #[arg(short, long, default_value = "128", value_name = "BYTES", value_parser = sizes, help_heading = "Load")]
    pub size: Sizes,
    /// Send text messages
    #[arg(long, conflicts_with = "binary", help_heading = "Load")]
    pub text: bool,
    /// Send binary messages (the default)
    #[arg(long, help_heading = "Load")]
    pub binary: bool,
    /// Receivers of a broadcast that read slowly, such as 1%:1KiB/s; they are reported apart
    #[arg(long, value_name = "COUNT:SPEED", value_parser = SlowReaders::parse, help_heading = "Load")]
    pub slow_readers: Option<SlowReaders>,
    /// Receivers of a broadcast that read nothing; they are reported apart
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Load")]
    pub never_read: Option<u32>,
    /// Connections opened per second [default: as fast as the server takes them]
    #[arg(long, value_name = "RATE", value_parser = number, help_heading = "Load")]
    pub connect_rate: Option<f64>,
    /// What all randomness follows from [default: a new one per run]
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub seed: Option<u64>,

    /// A further header of the handshake, 'Name: value'; {conn} in it, or in the URL, is the connection's number
    #[arg(short = 'H', long, value_name = "HEADER", value_parser = header, help_heading = "Handshake")]
    pub header: Vec<(String, String)>,
    /// The Origin header, as browsers send it
    #[arg(long, help_heading = "Handshake")]
    pub origin: Option<String>,
    /// A subprotocol to offer; may be repeated, the best one first
    #[arg(long, value_name = "NAME", help_heading = "Handshake")]
    pub subprotocol: Vec<String>,

    /// Offer compression (permessage-deflate), and compress what is sent
    #[arg(long, help_heading = "Handshake")]
    pub deflate: bool,

    /// For wss://: a PEM file with the authority that has signed the server's certificate
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = "Handshake")]
    pub cacert: Option<PathBuf>,
    /// For wss://: take every certificate
    #[arg(long, help_heading = "Handshake")]
    pub insecure: bool,
    /// For wss://: connections take up the TLS sessions of earlier ones; off, each is a client that was never here
    #[arg(long, value_enum, value_name = "on|off", default_value = "off", help_heading = "Handshake")]
    pub tls_resume: OnOff,

    /// How long to measure (10s, 500ms, 2m)
    #[arg(short, long, default_value = "10s", value_parser = duration, help_heading = "Phases")]
    pub duration: Duration,
    /// Load before the measurement, left out of it
    #[arg(long, default_value = "2s", value_parser = duration, help_heading = "Phases")]
    pub warmup: Duration,
    /// Silence between the last handshake and the first message
    #[arg(long, default_value = "1s", value_parser = duration, help_heading = "Phases")]
    pub settle: Duration,
    /// How long to wait for the last messages
    #[arg(long, default_value = "5s", value_parser = duration, help_heading = "Phases")]
    pub drain: Duration,

    /// Threads [default: as many as descriptors and cores call for]
    #[arg(short, long, value_name = "N", value_parser = whole, help_heading = "Machine")]
    pub threads: Option<u32>,
    /// The server's process, to measure what it costs
    #[arg(long, value_name = "PID", help_heading = "Machine")]
    pub server_pid: Option<u32>,

    /// The command that starts the server, which is stopped at the end; {port} stands for its port
    #[arg(long, value_name = "CMD", conflicts_with = "server_pid", help_heading = "Machine")]
    pub server_cmd: Option<String>,

    /// Exit with 99 unless this is kept, such as 'response.p99<50ms'; may be repeated
    #[arg(long, value_name = "METRIC<BOUND", help_heading = "Output")]
    pub threshold: Vec<String>,
    /// Search for the highest rate that keeps this, in whole runs from --rate on
    #[arg(long, value_name = "METRIC<BOUND", conflicts_with_all = ["closed_loop", "threshold", "json", "hlog", "hgrm", "html", "csv"], help_heading = "Output")]
    pub find_max: Option<String>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write a histogram log: one interval per second and quantity
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hlog: Option<PathBuf>,
    /// Write the percentile distribution of the response times
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hgrm: Option<PathBuf>,
    /// Write a page with pictures: one file, needs nothing else
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
    /// Write the run second by second as comma-separated values
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub csv: Option<PathBuf>,
    /// No progress bar
    #[arg(short = 'q', long = "no-progress", alias = "quiet", help_heading = "Output")]
    pub no_progress: bool,
}

/// Reads the command line.
///
/// # Errors
/// The text to print and the exit code: help and version on code 0, one line on code 2.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, (String, u8)> {
    Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => (error.render().to_string(), 0),
        _ => (one_line(&error.render().to_string()), 2),
    })
}

/// clap explains in paragraphs; here, what is wrong and its tip go on one line.
fn one_line(text: &str) -> String {
    let said = text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next().unwrap_or(text);
    let said = said.trim().strip_prefix("error: ").unwrap_or(said);
    let parts: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("{} (loadgen --help lists the flags)", parts.join("; "))
}

/// A number with an optional suffix: 5k, 1.5M, 50_000, 50,000.
fn number(text: &str) -> Result<f64, String> {
    let plain: String = text.chars().filter(|it| !matches!(it, ',' | '_')).collect();
    let (digits, factor) = match plain.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&plain[..at], 1e3),
        Some((at, 'm' | 'M')) => (&plain[..at], 1e6),
        _ => (&plain[..], 1.0),
    };
    match digits.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 && value * factor <= 1e9 => Ok(value * factor),
        _ => Err("give a number above 0, such as 500, 0.5 or 5k".to_owned()),
    }
}

/// A whole number with an optional suffix.
fn whole(text: &str) -> Result<u32, String> {
    match number(text) {
        Ok(value) if value.fract() == 0.0 && value <= f64::from(u32::MAX) => Ok(value as u32),
        _ => Err("give a whole number from 1 on, such as 500 or 50k".to_owned()),
    }
}

/// Sizes of messages: 128, 4k or 64..4096.
fn sizes(text: &str) -> Result<Sizes, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    match (whole(min)?, whole(max)?) {
        (min, max) if min <= max => Ok(Sizes { min, max }),
        (min, max) => Err(format!("{min} is more than {max}: give the smaller one first")),
    }
}

/// A header: its name and value, sound as RFC 9110 has it (section 5).
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("give 'Name: value'")?;
    let is_token = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("'{name}' is no header name"));
    }
    if value.bytes().any(|it| it.is_ascii_control() && it != b'\t') {
        return Err("a header's value is one line".to_owned());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// A duration with its unit: 10s, 1.5s, 500ms, 2m, 1h; seconds without one.
///
/// # Errors
/// One line that says what to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];
    let (digits, unit) = UNITS
        .iter()
        .find_map(|&(name, unit)| text.strip_suffix(name).map(|digits| (digits, unit)))
        .unwrap_or((text, 1.0));
    match digits.parse::<f64>() {
        Ok(value) if value >= 0.0 && value * unit <= 86_400.0 => Ok(Duration::from_secs_f64(value * unit)),
        _ => Err("give a time up to 24h, such as 10s, 500ms or 2m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_parse(line: &str) -> Result<Cli, (String, u8)> {
        parse(std::iter::once("loadgen").chain(line.split_whitespace()).map(Into::into))
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_and_durations() {
        assert_eq!(
            (number("5k"), number("1.5M"), number("50,000"), number("0.5")),
            (Ok(5e3), Ok(1.5e6), Ok(5e4), Ok(0.5))
        );
        assert_eq!((whole("50k"), whole("1.5k"), whole("7")), (Ok(50_000), Ok(1_500), Ok(7)));
        for bad in ["0", "-1", "x", "", "k", "inf", "NaN", "2G"] {
            assert!(number(bad).is_err(), "{bad}");
        }
        assert!(whole("1.5").is_err());
        let ms = |text| duration(text).map(|it| it.as_millis());
        assert_eq!(
            (ms("10s"), ms("500ms"), ms("2m"), ms("1.5"), ms("0s")),
            (Ok(10_000), Ok(500), Ok(120_000), Ok(1_500), Ok(0))
        );
        assert!(duration("-1s").is_err() && duration("25h").is_err() && duration("s").is_err());
    }

    #[test]
    fn mistakes_are_one_line_that_names_the_flag() {
        for (line, flag) in [
            ("--conns many", "--conns"),
            ("--mode shout", "--mode"),
            ("--rate 1 --closed-loop 2", "--closed-loop"),
            ("--find-max cpu<5us --json x", "--find-max"),
            ("--text --binary", "--binary"),
            ("--cons 5", "--conns"),
            ("--duration", "--duration"),
            ("--size 90..80", "--size"),
            ("-H nonsense", "Name: value"),
            ("-H a\u{7f}b:c", "no header name"),
            ("compare a.hlog", "2 values"),
        ] {
            let (text, code) = try_parse(line).expect_err(line);
            assert_eq!(code, 2, "{line}");
            assert!(text.contains(flag) && !text.contains('\n'), "{text}");
        }
        assert_eq!(try_parse("--help").expect_err("help").1, 0);
    }

    #[test]
    fn runs_and_subcommands() {
        let run = try_parse("ws://h:1/x --conns 50k -R 5k --mode broadcast").expect("sound").run;
        assert_eq!(
            (run.url.as_str(), run.conns, run.rate, run.mode),
            ("ws://h:1/x", 50_000, Some(5e3), Mode::Broadcast)
        );
        assert!(matches!(try_parse("compare a b").expect("sound").command, Some(Command::Compare(_))));
    }
}
