//! What the user typed, and what it means. The only place that names clap.

mod drain;
mod limits;
mod tls;
mod tools;
mod values;

use std::io::Write as _;

use clap::builder::{ArgPredicate, PossibleValuesParser, TypedValueParser as _};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use drain::DrainFlags;
use limits::{DeflateFlags, LimitFlags};
use tls::TlsFlags;
pub(crate) use tls::certificate_line;
use tools::Tool;
use values::{Admin, admin_address, host_and_port, network, origin};
use wsd::apps::{Broadcast, CHAT_GREETING, Echo, Sink, Template};
use wsd::{
    Builder, Config, DescriptorTables, IpNet, Origins, Page, Proxies, RouteOptions, Server, SlowPolicy,
    StartError,
};

/// A WebSocket server for connection scale.
///
/// `/` runs the app that --app names, and answers a browser with a chat page. /echo, /chat and /sink are always
/// there; /rooms/NAME broadcasts among those on the same path; /healthz answers `ok`, and /readyz whether to send
/// clients here.
///
/// Ctrl-C, SIGINT and SIGQUIT end it within 5 seconds. SIGTERM drains it for a successor: see --drain-grace.
#[derive(Debug, Parser)]
#[command(
    name = "wsd",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    tool: Option<Tool>,

    /// Whether --listen was given, here or in the environment.
    #[arg(skip)]
    listen_given: bool,

    /// Address to listen on; may be repeated. `localhost` is both loopback addresses. The default gives way to
    /// sockets that systemd passes, and to --tls-cert
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

    /// What happens on the paths of --app when others send more to a connection than it takes
    #[arg(long, value_name = "POLICY", env = "WSD_SLOW_POLICY", default_value = "close")]
    slow_policy: PolicyName,

    /// Text that a connection is sent once where messages to it were dropped, before the next one
    #[arg(long, value_name = "TEXT", env = "WSD_GAP_NOTICE")]
    gap_notice: Option<String>,

    /// Origin of web pages that may connect, such as https://app.example.com; may be repeated; `*` for any. Pages
    /// from the same host always may [default: on loopback addresses also pages from localhost and from files]
    #[arg(long, value_name = "ORIGIN", env = "WSD_ALLOW_ORIGIN", value_delimiter = ',', value_parser = origin)]
    allow_origin: Vec<String>,

    /// Network or address of a proxy whose X-Forwarded-For is believed, such as 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR", env = "WSD_TRUSTED_PROXY", value_delimiter = ',', value_parser = network)]
    trusted_proxy: Vec<IpNet>,

    /// Connections from a --trusted-proxy begin with a PROXY protocol header, version 1 or 2
    #[arg(long, env = "WSD_PROXY_PROTOCOL", requires = "trusted_proxy")]
    proxy_protocol: bool,

    /// Where to show metrics, health and connections: HOST:PORT or unix:PATH [default: nowhere]. Whoever reaches it
    /// can read all of it
    #[arg(long, value_name = "ADDRESS", env = "WSD_ADMIN", value_parser = admin_address)]
    admin: Option<Admin>,

    /// What to write to stderr; `debug` shows connects, closes and messages, never what is in them
    #[arg(long, value_name = "LEVEL", env = "WSD_LOG", default_value = "warn",
          value_parser = PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
              .map(|level| level.parse::<tracing_subscriber::filter::LevelFilter>().unwrap_or(tracing_subscriber::filter::LevelFilter::WARN)))]
    pub(crate) log: tracing_subscriber::filter::LevelFilter,

    /// How to write it: for people, or one JSON object for each line
    #[arg(long, value_name = "FORMAT", env = "WSD_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Print every limit with the value in force, and exit
    #[arg(long)]
    print_limits: bool,

    #[command(flatten)]
    tls: TlsFlags,

    #[command(flatten)]
    limits: LimitFlags,

    #[command(flatten)]
    deflate: DeflateFlags,

    #[command(flatten)]
    drain: DrainFlags,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object on each line
    Json,
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

/// The policies for those who do not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    /// The connection is closed with 1013
    Close,
    /// What does not fit into its queue is dropped
    DropNewest,
    /// The oldest messages in its queue make room
    DropOldest,
    /// Each message replaces those that wait: tickers
    Latest,
}

impl From<PolicyName> for SlowPolicy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Close => Self::Close,
            PolicyName::DropNewest => Self::DropNewest,
            PolicyName::DropOldest => Self::DropOldest,
            PolicyName::Latest => Self::Latest,
        }
    }
}

impl Cli {
    /// Reads the command line and the environment. What is wrong is returned as one line.
    ///
    /// Help, version, limits and what the subcommands have to say are printed to stdout, and end the program.
    pub(crate) fn from_environment() -> Result<Self, String> {
        let command = Self::command();
        let parsed = command.clone().try_get_matches();
        let parsed = parsed.and_then(|matches| Self::from_arg_matches(&matches).map(|cli| (cli, matches)));
        match parsed {
            Ok((cli, matches)) if cli.print_limits => {
                let _ = write!(std::io::stdout(), "{}", limits::table(&command, &matches));
                std::process::exit(0)
            }
            Ok((Self { tool: Some(tool), listen, .. }, _)) => {
                tool.run(&command, &listen[0])?;
                std::process::exit(0)
            }
            Ok((mut cli, matches)) => {
                let source = matches.value_source("listen");
                cli.listen_given = source.is_some_and(|source| source != ValueSource::DefaultValue);
                cli.checked()
            }
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                error.exit()
            }
            Err(error) => Err(one_line(&error)),
        }
    }

    /// What no single flag can know to be wrong.
    fn checked(self) -> Result<Self, String> {
        self.tls.check()?;
        if self.gap_notice.is_some() && self.slow_policy == PolicyName::Close {
            let why =
                "nothing is dropped with --slow-policy close; choose drop-newest, drop-oldest or latest";
            return Err(format!("wsd: --gap-notice is of no use: {why}; see wsd --help"));
        }
        Ok(self)
    }

    /// The server that was asked for, on the sockets that systemd passes, if it does.
    ///
    /// # Errors
    /// What it passes is no socket to serve on.
    pub(crate) fn server(&self) -> Result<Builder, StartError> {
        let mut builder = Server::builder().config(self.config()).service_manager()?;
        if self.listen_given {
            builder = builder.config(self.config());
        }
        Ok(self.add_routes(builder))
    }

    fn add_routes(&self, builder: Builder) -> Builder {
        let mut builder = builder
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
        let options =
            RouteOptions { slow_policy: self.slow_policy.into(), gap_notice: self.gap_notice.clone() };
        match self.app {
            AppName::Echo => {
                let reply = Template::new(&self.reply);
                builder.route_with(path, options, move || Echo::new(greeting.clone(), reply.clone()))
            }
            AppName::Sink => builder.route_with(path, options, move || Sink::new(greeting.clone())),
            // One audience, whatever the path.
            AppName::Broadcast => builder.route_with(path, options, move || {
                Broadcast::to_topic("broadcast").greeting(greeting.clone()).skip_sender(skip)
            }),
            AppName::Chat => builder.route_with(path, options, move || {
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
            max_conns_per_ip: limits.max_conns_per_ip,
            accept_rate: limits.accept_rate,
            proxies: Proxies { trusted: self.trusted_proxy.clone(), protocol: self.proxy_protocol },
            // The apps of this program open no descriptors.
            tables: DescriptorTables::PerWorker,
            queue_total: limits.queue_total,
            limits: limits.limits(),
            origins: self.origins(),
            deflate: self.deflate.config(),
            admin: self.admin.clone().and_then(|admin| admin.0),
            drain: self.drain.config(),
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
    use wsd::{Deflate, Drain, Limits};

    use super::*;

    #[test]
    fn the_definition_is_sound_and_its_defaults_are_the_crates() {
        Cli::command().debug_assert();
        let typed = Cli::parse_from(["wsd"]).config();
        assert_eq!(typed.queue_total, Config::default().queue_total);
        let typed = typed.limits;
        assert_eq!(format!("{typed:?}"), format!("{:?}", Limits::default()));
        assert_eq!(Cli::parse_from(["wsd"]).config().deflate, None);
        assert_eq!(Cli::parse_from(["wsd"]).config().drain, Drain::default());
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
            (["wsd", "--drain-code", "1005"], "--drain-code"),
            (["wsd", "completions", "perl"], "perl"),
            (["wsd", "--nope", "1"], "--nope"),
        ] {
            let error = Cli::try_parse_from(args).expect_err("must be refused");
            let line = one_line(&error);
            assert!(line.contains(flag) && !line.contains('\n'), "{line}");
            assert!(line.ends_with("see wsd --help"), "{line}");
        }
    }

    #[test]
    fn a_gap_notice_needs_gaps() {
        let parse =
            |args: &[&str]| Cli::parse_from([&["wsd", "--gap-notice", "gap"], args].concat()).checked();
        let line = parse(&[]).expect_err("nothing is dropped");
        assert!(line.contains("--gap-notice") && line.contains("--slow-policy"), "{line}");
        for policy in ["drop-newest", "drop-oldest", "latest"] {
            assert!(parse(&["--slow-policy", policy]).is_ok(), "{policy}");
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
