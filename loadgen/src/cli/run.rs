//! The flags of a run, by heading.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{duration, header, number, stage, whole};
use crate::backoff::Reconnect;
use crate::cohort::SlowReaders;
use crate::lives::Lifetime;
use crate::schedule::Arrival;
use crate::sizes::Sizes;
use crate::sources::SourceIps;
use crate::stages::Stage;

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Each connection gets its own messages back
    Echo,
    /// A few senders; everyone receives
    Broadcast,
    /// Connected and silent
    Idle,
    /// Connecting itself is what is measured: all connections once, then they close
    Connect,
    /// Connections come and go, see --lifetime; with a rate those that live echo
    Churn,
}

impl Mode {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Echo, Self::Broadcast, Self::Idle, Self::Connect, Self::Churn];

    /// As in the flags and the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Broadcast => "broadcast",
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Churn => "churn",
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
    /// The server; without a path, or with / alone, /echo (or /chat with --mode broadcast). /? is the path / itself
    #[arg(default_value = "ws://127.0.0.1:8080")]
    pub url: String,

    /// What the connections do
    #[arg(long, value_enum, default_value = "echo", help_heading = "Load")]
    pub mode: Mode,
    /// Messages per second over all connections (5k works), each due at its own time whatever the server does;
    /// echo sends 1,000 and broadcast 1 unless told otherwise
    #[arg(short = 'R', long, value_name = "TOTAL", value_parser = number, help_heading = "Load")]
    pub rate: Option<f64>,
    /// Messages per second of each sender, instead of --rate
    #[arg(short = 'r', long, value_name = "X", value_parser = number, conflicts_with_all = ["rate", "closed_loop"], help_heading = "Load")]
    pub rate_per_conn: Option<f64>,
    /// A step of the load, TIME:RATE, instead of --rate and --duration; may be repeated (the rate jumps from one to
    /// the next, it does not ramp). 10s:0 is a pause
    #[arg(long, value_name = "30s:10k", value_parser = stage, conflicts_with_all = ["rate", "rate_per_conn", "closed_loop", "duration"], help_heading = "Load")]
    pub stage: Vec<Stage>,
    /// Instead of a rate: keep K messages of each sender in flight
    #[arg(long, value_name = "K", value_parser = whole, conflicts_with = "rate", help_heading = "Load")]
    pub closed_loop: Option<u32>,
    /// Senders of a broadcast [default: 4]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Load")]
    pub senders: Option<u32>,
    /// The server does not send a message to its sender (wsd --skip-sender): do not expect it there
    #[arg(long, help_heading = "Load")]
    pub skip_sender: bool,
    /// How the times of messages are spread
    #[arg(long, value_enum, default_value = "constant", help_heading = "Load")]
    pub arrival: Arrival,
    /// Bytes per message: 128, or 64..4096 (any size between), or shares as in 64:70%,1KiB:25%,64KiB:5%, or
    /// lognormal:512:2 (two thirds within a factor of 2 of 512)
    #[arg(short, long, default_value = "128", value_name = "SIZE", value_parser = Sizes::parse, help_heading = "Load")]
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
    /// What all randomness follows from [default: a new one per run]
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub seed: Option<u64>,

    /// Connections
    #[arg(short, long, default_value = "100", value_name = "N", value_parser = whole, help_heading = "Connections")]
    pub conns: u32,
    /// Connections opened per second, each at its own time whatever the server does [default: as fast as the server
    /// takes them, 256 handshakes at a time]
    #[arg(long, value_name = "RATE", value_parser = number, conflicts_with_all = ["ramp", "storm"], help_heading = "Connections")]
    pub connect_rate: Option<f64>,
    /// Open all connections in this time, instead of --connect-rate
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "storm", help_heading = "Connections")]
    pub ramp: Option<Duration>,
    /// Open all connections at once, as after a restart
    #[arg(long, help_heading = "Connections")]
    pub storm: bool,
    /// How long the server may take to answer a handshake
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration, help_heading = "Connections")]
    pub connect_timeout: Duration,
    /// How long connections live with --mode churn: 5s, or any time in 1s..10s [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = Lifetime::parse, help_heading = "Connections")]
    pub lifetime: Option<Lifetime>,
    /// Whether clients come back whose connection ended or, in connect and churn, failed: none, backoff (100ms doubling
    /// up to 10s, half of it chance; a Close with the reason retry=MILLISECONDS is obeyed), or backoff:FIRST..MAX
    #[arg(long, default_value = "none", value_name = "HOW", value_parser = Reconnect::parse, help_heading = "Connections")]
    pub reconnect: Reconnect,
    /// Where connections come from: addresses, networks such as 127.1.0.0/28, or auto
    #[arg(long, default_value = "auto", value_name = "LIST", value_parser = SourceIps::parse, help_heading = "Connections")]
    pub source_ip: SourceIps,

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
    /// Plain TCP in place of WebSocket: any answer that ends with an empty line opens a connection, and frames go
    /// without masks, so that what comes back from a server that echoes bytes is what a WebSocket server sends
    #[arg(long, conflicts_with = "deflate", help_heading = "Handshake")]
    pub raw: bool,

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
    #[arg(long, value_name = "METRIC<BOUND", conflicts_with_all = ["closed_loop", "stage", "threshold", "json", "hlog", "hgrm", "html", "csv"], help_heading = "Output")]
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
    /// No live view: neither a bar nor, where stderr is no terminal, a line every 5 seconds
    #[arg(short = 'q', long = "no-progress", alias = "quiet", help_heading = "Output")]
    pub no_progress: bool,
}
