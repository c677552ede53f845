//! What the user typed, and what it means. The only place that names clap.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, Parser, ValueEnum};
use wsd::apps::{Broadcast, CHAT_GREETING, Echo, Sink, Template};
use wsd::{Builder, Config, Deflate, DescriptorTables, Limits, Origins, Page, Server};

/// A WebSocket server for connection scale.
///
/// `/` runs the app that --app names, and answers a browser with a chat page. /echo, /chat and /sink are always
/// there; /rooms/NAME broadcasts among those on the same path; /healthz answers `ok`.
#[derive(Debug, Parser)]
#[command(name = "wsd", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Address to listen on; may be repeated. `localhost` is both loopback addresses
    #[arg(long, value_name = "HOST:PORT", env = "WSD_LISTEN", value_delimiter = ',',
          default_value = "localhost:8080", value_parser = host_and_port)]
    listen: Vec<String>,

    /// Worker threads [default: one for each core]
    #[arg(long, short = 't', value_name = "N", env = "WSD_THREADS",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// What runs on `/`
    #[arg(long, env = "WSD_APP", default_value = "chat")]
    app: AppName,

    /// Further path on which --app runs; may be repeated. `{name}` is any segment, `*` whatever follows
    #[arg(long = "path", value_name = "PATH", env = "WSD_PATH", value_delimiter = ',')]
    paths: Vec<String>,

    /// Text that --app sends to each new connection [default: none; a JSON greeting for chat]
    #[arg(long, value_name = "TEXT", env = "WSD_GREETING")]
    greeting: Option<String>,

    /// What `--app echo` answers to a text, with {} for the text
    #[arg(long, value_name = "TEMPLATE", env = "WSD_REPLY", default_value = "{}")]
    reply: String,

    /// `--app broadcast` and `chat` send to all but the sender
    #[arg(long, env = "WSD_SKIP_SENDER")]
    skip_sender: bool,

    /// Origin of web pages that may connect, such as https://app.example.com; may be repeated; `*` for any. Pages
    /// from the same host always may [default: on loopback addresses also pages from localhost and from files]
    #[arg(long, value_name = "ORIGIN", env = "WSD_ALLOW_ORIGIN", value_delimiter = ',', value_parser = origin)]
    allow_origin: Vec<String>,

    /// What to write to stderr; `debug` shows connects, closes and messages
    #[arg(long, value_name = "LEVEL", env = "WSD_LOG", default_value = "warn",
          value_parser = PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
              .map(|level| level.parse::<tracing_subscriber::filter::LevelFilter>().unwrap_or(tracing_subscriber::filter::LevelFilter::WARN)))]
    pub(crate) log: tracing_subscriber::filter::LevelFilter,

    #[command(flatten)]
    limits: LimitFlags,

    #[command(flatten)]
    deflate: DeflateFlags,
}

/// The apps of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AppName {
    /// Everything to everyone, with a JSON greeting
    Chat,
    /// Everything to everyone
    Broadcast,
    /// Everything back to its sender
    Echo,
    /// Takes everything, answers nothing
    Sink,
}

/// Sizes are bytes or KiB, MiB, GiB; times are ms, s, m, h.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitFlags {
    /// Connections in all [default: what the descriptor limit allows]
    #[arg(long, value_name = "N", env = "WSD_MAX_CONNS", value_parser = clap::value_parser!(u32).range(1..))]
    max_conns: Option<u32>,

    /// Connections that wait to be accepted, per listener
    #[arg(long, value_name = "N", env = "WSD_BACKLOG", default_value_t = Config::default().backlog,
          value_parser = clap::value_parser!(u32).range(1..=65_535))]
    backlog: u32,

    /// Bytes in one message; more is closed with 1009
    #[arg(long, value_name = "SIZE", env = "WSD_MAX_MESSAGE", default_value = "1MiB", value_parser = size)]
    max_message: u32,

    /// Fragments of one message; more is closed with 1008
    #[arg(long, value_name = "N", env = "WSD_MAX_FRAGMENTS", default_value_t = Limits::default().max_fragments,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_fragments: u32,

    /// From the first byte of a message to its last; more is closed with 1008
    #[arg(long, value_name = "TIME", env = "WSD_ASSEMBLY_TIMEOUT", default_value = "30s", value_parser = time)]
    assembly_timeout: Duration,

    /// Pings answered each second for one connection, after twice as many at once; 0 for no limit
    #[arg(long, value_name = "N", env = "WSD_CONTROL_RATE", default_value_t = Limits::default().control_rate,
          value_parser = clap::value_parser!(u32).range(0..=1_000))]
    control_rate: u32,

    /// Bytes of a request head; more is answered with 431
    #[arg(long, value_name = "SIZE", env = "WSD_MAX_HEAD", default_value = "8KiB", value_parser = size)]
    max_head: u32,

    /// Headers of a request; more is answered with 431
    #[arg(long, value_name = "N", env = "WSD_MAX_HEADERS", default_value_t = Limits::default().max_headers,
          value_parser = clap::value_parser!(u32).range(1..=128))]
    max_headers: u32,

    /// From accept to the end of the request, however it trickles in
    #[arg(long, value_name = "TIME", env = "WSD_HANDSHAKE_TIMEOUT", default_value = "5s", value_parser = time)]
    handshake_timeout: Duration,

    /// Silence after which a connection is pinged, plus or minus 10 %; 0 for never
    #[arg(long, value_name = "TIME", env = "WSD_PING_INTERVAL", default_value = "25s", value_parser = time_or_zero)]
    ping_interval: Duration,

    /// Silence after a ping that ends a connection
    #[arg(long, value_name = "TIME", env = "WSD_PONG_TIMEOUT", default_value = "10s", value_parser = time)]
    pong_timeout: Duration,

    /// How long a peer may take for its part of the closing
    #[arg(long, value_name = "TIME", env = "WSD_CLOSE_TIMEOUT", default_value = "5s", value_parser = time)]
    close_timeout: Duration,

    /// Bytes that may wait for one connection; more closes it with 1013
    #[arg(long, value_name = "SIZE", env = "WSD_QUEUE_HARD", default_value = "256KiB", value_parser = size)]
    queue_hard: u32,

    /// A connection that takes nothing of what waits for it for so long is closed with 1013
    #[arg(long, value_name = "TIME", env = "WSD_PROGRESS_TIMEOUT", default_value = "10s", value_parser = time)]
    progress_timeout: Duration,
}

/// permessage-deflate, RFC 7692.
#[derive(Args, Debug)]
#[command(next_help_heading = "Compression")]
struct DeflateFlags {
    /// Compress messages for clients that offer permessage-deflate
    #[arg(long, env = "WSD_DEFLATE")]
    deflate: bool,

    /// Bytes from which on a message is compressed
    #[arg(long, value_name = "SIZE", env = "WSD_DEFLATE_MIN", default_value = "1KiB", value_parser = size)]
    deflate_min: u32,

    /// 1 is fast, 9 is small
    #[arg(long, value_name = "N", env = "WSD_DEFLATE_LEVEL", default_value_t = Deflate::default().level,
          value_parser = clap::value_parser!(u8).range(1..=9))]
    deflate_level: u8,

    /// The largest window: 9 is 512 bytes, 15 is 32 KiB
    #[arg(long, value_name = "BITS", env = "WSD_DEFLATE_WINDOW", default_value_t = Deflate::default().window_bits,
          value_parser = clap::value_parser!(u8).range(9..=15))]
    deflate_window: u8,

    /// `on` keeps the window between messages: smaller, but up to 300 KiB for each connection, and broadcasts are
    /// compressed for each receiver instead of once
    #[arg(long, value_name = "on|off", env = "WSD_DEFLATE_TAKEOVER", default_value = "off", action = ArgAction::Set,
          value_parser = PossibleValuesParser::new(["on", "off"]).map(|value| value == "on"))]
    deflate_takeover: bool,
}

impl Cli {
    /// Reads the command line and the environment. Help and version are printed to stdout; what is wrong is
    /// returned as one line.
    pub(crate) fn from_environment() -> Result<Self, String> {
        Self::try_parse().or_else(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
            _ => Err(one_line(&error)),
        })
    }

    /// The server that was asked for.
    pub(crate) fn server(&self) -> Builder {
        let mut builder = Server::builder()
            .config(self.config())
            .route("/echo", Echo::default)
            .route("/chat", chat)
            .route("/sink", Sink::default)
            .route("/rooms/{room}", Broadcast::by_path)
            .page(Page::html("/", wsd::http::CHAT_PAGE));
        for path in std::iter::once("/").chain(self.paths.iter().map(String::as_str)) {
            builder = self.add_app(builder, path);
        }
        builder
    }

    fn add_app(&self, builder: Builder, path: &str) -> Builder {
        let greeting = self.greeting.clone();
        let skip = self.skip_sender;
        match self.app {
            AppName::Echo => {
                let reply = Template::new(&self.reply);
                builder.route(path, move || Echo::new(greeting.clone(), reply.clone()))
            }
            AppName::Sink => builder.route(path, move || Sink::new(greeting.clone())),
            // One audience, whatever the path.
            AppName::Broadcast => builder.route(path, move || {
                Broadcast::to_topic("broadcast").greeting(greeting.clone()).skip_sender(skip)
            }),
            AppName::Chat => builder.route(path, move || {
                let chat = chat().skip_sender(skip);
                if greeting.is_some() { chat.greeting(greeting.clone()) } else { chat }
            }),
        }
    }

    fn origins(&self) -> Origins {
        match self.allow_origin.as_slice() {
            [] => Origins::SameHost,
            list if list.iter().any(|origin| origin == "*") => Origins::Any,
            list => Origins::List(list.to_vec()),
        }
    }

    fn config(&self) -> Config {
        let limits = &self.limits;
        let mut config = Config {
            listen: self.listen.clone(),
            backlog: limits.backlog,
            max_conns: limits.max_conns.map(|max| max as usize),
            // The apps of this program open no descriptors.
            tables: DescriptorTables::PerWorker,
            limits: Limits {
                max_message: limits.max_message,
                max_fragments: limits.max_fragments,
                assembly_timeout: limits.assembly_timeout,
                control_rate: limits.control_rate,
                max_head: limits.max_head,
                max_headers: limits.max_headers,
                handshake_timeout: limits.handshake_timeout,
                ping_interval: limits.ping_interval,
                pong_timeout: limits.pong_timeout,
                close_timeout: limits.close_timeout,
                queue_hard: limits.queue_hard,
                progress_timeout: limits.progress_timeout,
            },
            origins: self.origins(),
            deflate: self.deflate.config(),
            ..Config::default()
        };
        if let Some(threads) = self.threads {
            config.threads = usize::from(threads);
        }
        config
    }
}

impl DeflateFlags {
    fn config(&self) -> Option<Deflate> {
        self.deflate.then_some(Deflate {
            min_bytes: self.deflate_min,
            level: self.deflate_level,
            window_bits: self.deflate_window,
            takeover: self.deflate_takeover,
        })
    }
}

/// The tutorial's chat, which `/` and `/chat` share.
fn chat() -> Broadcast {
    Broadcast::to_topic("chat").greeting(Some(CHAT_GREETING.to_owned()))
}

/// What is wrong, with the flag and the remedy, on one line.
fn one_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let first = rendered.lines().next().unwrap_or_default();
    let mut line = format!("wsd: {}", first.trim_start_matches("error: ").trim_end_matches(':'));
    let listed = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => Some(values.join(", ")),
        _ => None,
    };
    if let Some(values) = listed {
        line.push_str(&format!(" (one of: {values})"));
    }
    let tip = rendered.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    if let Some(tip) = tip {
        line.push_str(&format!("; {tip}"));
    }
    line.push_str("; see wsd --help");
    line
}

fn host_and_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("HOST:PORT is needed, such as localhost:8080")?;
    if host.is_empty() {
        return Err("the host is missing; 0.0.0.0 is every IPv4 address, [::] every IPv6 address".to_owned());
    }
    port.parse::<u16>().map_err(|_| format!("`{port}` is not a port (0 to 65535)"))?;
    Ok(text.to_owned())
}

fn origin(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    if text != "*" && !wsd::proto::handshake::origin::is_valid(text) {
        return Err("an origin is scheme, host and perhaps port, such as https://app.example.com".to_owned());
    }
    Ok(text.to_owned())
}

fn size(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit: u64 = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        other => return Err(format!("`{other}` is no unit of size (KiB, MiB, GiB)")),
    };
    let number: u64 = digits.parse().map_err(|_| "a number of bytes is needed, such as 64KiB".to_owned())?;
    match number.checked_mul(unit).and_then(|bytes| u32::try_from(bytes).ok()) {
        Some(bytes) if (1..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("must be 1 byte to 1GiB".to_owned()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    match time_or_zero(text)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        time => Ok(time),
    }
}

fn time_or_zero(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| "a time is needed, such as 500ms or 10s".to_owned())?;
    let millis: u64 = match text[digits.len()..].trim() {
        "" if number == 0 => 0,
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a unit is needed: ms, s, m or h".to_owned()),
    };
    match number.checked_mul(millis) {
        Some(millis) if millis <= 7 * 24 * 3_600_000 => Ok(Duration::from_millis(millis)),
        _ => Err("must be at most a week".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_its_defaults_are_the_crates() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        let typed = Cli::parse_from(["wsd"]).config().limits;
        assert_eq!(format!("{typed:?}"), format!("{:?}", Limits::default()));
        assert_eq!(Cli::parse_from(["wsd"]).config().deflate, None);
        assert_eq!(Cli::parse_from(["wsd", "--deflate"]).config().deflate, Some(Deflate::default()));
        let takeover = Cli::parse_from(["wsd", "--deflate", "--deflate-takeover", "on"]).config().deflate;
        assert_eq!(takeover, Some(Deflate { takeover: true, ..Deflate::default() }));
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!((size("17"), size("8KiB"), size("1GiB")), (Ok(17), Ok(8192), Ok(1 << 30)));
        for text in ["", "0", "KiB", "1.5MiB", "2GiB", "9999999999GiB", "1KB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!((time("2h"), time_or_zero("0")), (Ok(Duration::from_secs(7200)), Ok(Duration::ZERO)));
        for text in ["", "5", "0s", "s", "-1s", "1y", "99999h"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_one_line_with_the_flag_and_the_remedy() {
        for (args, flag) in [
            (["wsd", "--threads", "nope"], "--threads"),
            (["wsd", "--threads", "0"], "--threads"),
            (["wsd", "--listen", "nonsense"], "--listen"),
            (["wsd", "--app", "poker"], "--app"),
            (["wsd", "--max-message", "1KB"], "--max-message"),
            (["wsd", "--nope", "1"], "--nope"),
        ] {
            let error = Cli::try_parse_from(args).expect_err("must be refused");
            let line = one_line(&error);
            assert!(line.contains(flag) && !line.contains('\n'), "{line}");
            assert!(line.ends_with("see wsd --help"), "{line}");
        }
    }
}
