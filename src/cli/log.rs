//! The log: what is written to stderr and how, both of which may change while the server runs.

use std::env;
use std::fs::File;
use std::io::{IsTerminal as _, stderr};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, ValueEnum};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{self, FmtContext};
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, registry, reload};

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
    writer: reload::Handle<Output, Leveled>,
}

type Leveled = Layered<reload::Layer<LevelFilter, Registry>, Registry>;
type Output = Box<dyn Layer<Leveled> + Send + Sync>;

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

fn writer(format: LogFormat) -> Output {
    let layer = fmt::layer().with_writer(stderr);
    // A line that cannot be written, to a full disk or a reader that is gone, would be complained about on stderr as
    // well, and failing at that is a panic.
    let layer = layer.log_internal_errors(false);
    let text = fmt::format().with_target(false);
    let json = || text.clone().json().flatten_event(true).with_current_span(false).with_span_list(false);
    match (format, is_journal()) {
        (LogFormat::Text, false) => layer.event_format(text).with_ansi(stderr().is_terminal()).boxed(),
        (LogFormat::Text, true) => layer.event_format(Journal(text.without_time())).with_ansi(false).boxed(),
        (LogFormat::Json, false) => layer.fmt_fields(JsonFields::new()).event_format(json()).boxed(),
        (LogFormat::Json, true) => layer.fmt_fields(JsonFields::new()).event_format(Journal(json())).boxed(),
    }
}

/// Whether stderr is a stream of systemd's journal: `$JOURNAL_STREAM` (systemd.exec(5)) is its device and inode.
fn is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(own) = stderr().as_fd().try_clone_to_owned() else { return false };
    File::from(own).metadata().is_ok_and(|it| stream == format!("{}:{}", it.dev(), it.ino()))
}

/// Lines for the journal: they begin with their priority, which it takes off (sd-daemon(3)), so that
/// `journalctl --priority` knows them; the time is its own.
struct Journal<F>(F);

impl<S, N, F> FormatEvent<S, N> for Journal<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
