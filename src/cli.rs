//! What the user typed, and what it means. The only place that names clap.

mod limits;
mod tls;
mod values;

use std::io::Write as _;

use clap::builder::{ArgPredicate, PossibleValuesParser, TypedValueParser as _};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use limits::{DeflateFlags, LimitFlags};
use tls::TlsFlags;
pub(crate) use tls::certificate_line;
use values::{host_and_port, origin};
use wsd::apps::{Broadcast, CHAT_GREETING, Echo, Sink, Template};
use wsd::{Builder, Config, DescriptorTables, Origins, Page, Server};

/// A WebSocket server for connection scale.
///
/// `/` runs the app that --app names, and answers a browser with a chat page. /echo, /chat and /sink are always
/// there; /rooms/NAME broadcasts among those on the same path; /healthz answers `ok`.
#[derive(Debug, Parser)]
#[command(name = "wsd", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Address to listen on; may be repeated. `localhost` is both loopback addresses. With --tls-cert there is none
    /// unless it is named
    #[arg(long, value_name = "HOST:PORT", env = "WSD_LISTEN", value_delimiter = ',',
          default_value = "localhost:8080", default_value_if("tls_cert", ArgPredicate::IsPresent, None),
          value_parser = host_and_port)]
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

    /// Print every limit with the value in force, and exit
    #[arg(long)]
    print_limits: bool,

    #[command(flatten)]
    tls: TlsFlags,

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

impl Cli {
    /// Reads the command line and the environment. What is wrong is returned as one line.
    ///
    /// Help, version and limits are printed to stdout, and end the program.
    pub(crate) fn from_environment() -> Result<Self, String> {
        let command = Self::command();
        let parsed = command.clone().try_get_matches();
        let parsed = parsed.and_then(|matches| Self::from_arg_matches(&matches).map(|cli| (cli, matches)));
        match parsed {
            Ok((cli, matches)) if cli.print_limits => {
                let _ = write!(std::io::stdout(), "{}", limits::table(&command, &matches));
                std::process::exit(0)
            }
            Ok((cli, _)) => cli.tls.check().map(|()| cli),
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                error.exit()
            }
            Err(error) => Err(one_line(&error)),
        }
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
            tls: self.tls.config(),
            backlog: limits.backlog,
            max_conns: limits.max_conns.map(|max| max as usize),
            // The apps of this program open no descriptors.
            tables: DescriptorTables::PerWorker,
            limits: limits.limits(),
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

#[cfg(test)]
mod tests {
    use wsd::{Deflate, Limits};

    use super::*;

    #[test]
    fn the_definition_is_sound_and_its_defaults_are_the_crates() {
        Cli::command().debug_assert();
        let typed = Cli::parse_from(["wsd"]).config().limits;
        assert_eq!(format!("{typed:?}"), format!("{:?}", Limits::default()));
        assert_eq!(Cli::parse_from(["wsd"]).config().deflate, None);
        assert_eq!(Cli::parse_from(["wsd", "--deflate"]).config().deflate, Some(Deflate::default()));
        let takeover = Cli::parse_from(["wsd", "--deflate", "--deflate-takeover", "on"]).config().deflate;
        assert_eq!(takeover, Some(Deflate { takeover: true, ..Deflate::default() }));
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

    #[test]
    fn the_readme_lists_every_limit_with_its_default() {
        let readme = include_str!("../README.md");
        let command = Cli::command();
        let table = limits::table(&command, &command.clone().get_matches_from(["wsd"]));
        assert!(table.lines().count() > 15, "{table}");
        for line in table.lines() {
            let mut words = line.split_whitespace();
            let (flag, value) = (words.next().expect("a flag"), words.next().expect("a value"));
            let row = format!("| `{flag}` | {value} |");
            assert!(readme.contains(&row), "README.md has no row that begins with: {row}");
        }
    }
}
