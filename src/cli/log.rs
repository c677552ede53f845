//! The log: what is written to stderr and how, both of which may change while the server runs.

use std::io::{IsTerminal as _, stderr};

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, ValueEnum};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, registry, reload};

/// The flags for it.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct LogFlags {
    /// What to write to stderr; `debug` shows connects, closes and messages, never what is in them
    #[arg(long, value_name = "LEVEL", env = "WSD_LOG", default_value = "warn",
          value_parser = PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
              .map(|level| level.parse::<LevelFilter>().unwrap_or(LevelFilter::WARN)))]
    log: LevelFilter,

    /// How to write it: for people, or one JSON object for each line
    #[arg(long, value_name = "FORMAT", env = "WSD_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object on each line
    Json,
}

/// The log of this process. An event that the level leaves out costs the same load and branch as with a level that
/// cannot change: `tracing` asks only when a level is new.
pub(crate) struct Log {
    flags: LogFlags,
    level: reload::Handle<LevelFilter, Registry>,
    writer: reload::Handle<Writer, Leveled>,
}

type Leveled = Layered<reload::Layer<LevelFilter, Registry>, Registry>;
type Writer = Box<dyn Layer<Leveled> + Send + Sync>;

impl Log {
    /// Begins to write it; once in a process.
    pub(crate) fn start(flags: LogFlags) -> Self {
        let (level, level_handle) = reload::Layer::new(flags.log);
        let (writer, writer_handle) = reload::Layer::new(writer(flags.log_format));
        registry().with(level).with(writer).init();
        Self { flags, level: level_handle, writer: writer_handle }
    }

    /// Goes on as these flags say; gives the names of those that are new.
    pub(super) fn change(&mut self, flags: LogFlags) -> Vec<String> {
        let mut changed = Vec::new();
        if flags.log != self.flags.log && self.level.reload(flags.log).is_ok() {
            self.flags.log = flags.log;
            changed.push("log".to_owned());
        }
        let format = flags.log_format;
        if format != self.flags.log_format && self.writer.reload(writer(format)).is_ok() {
            self.flags.log_format = format;
            changed.push("log-format".to_owned());
        }
        changed
    }
}

fn writer(format: LogFormat) -> Writer {
    let layer = fmt::layer().with_writer(stderr).with_target(false);
    // A line that cannot be written, to a full disk or a reader that is gone, would be complained about on stderr as
    // well, and failing at that is a panic.
    let layer = layer.log_internal_errors(false);
    match format {
        LogFormat::Text => layer.with_ansi(stderr().is_terminal()).boxed(),
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    }
}
