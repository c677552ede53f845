//! What the user typed, and what it means. The only place that names clap.

mod app;
mod drain;
mod example;
mod file;
mod limits;
mod log;
mod tls;
mod tools;
mod unused;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use app::{AppFlags, AppName};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser};
use drain::DrainFlags;
use file::{File, RouteFlags};
use limits::{DeflateFlags, LimitFlags};
pub(crate) use log::Log;
use log::LogFlags;
use tls::{TlsFlags, certificate_line};
use tools::Tool;
use unused::Unused;
use values::{Admin, admin_address, host_and_port, network, origin};
use wsd::{Builder, Config, DescriptorTables, IpNet, Origins, Page, Proxies};
use wsd::{Reloaded, Remote, RouteLimits, Server, StartError};

/// The routes that are there beside those of --app, each with its topic, unless a file has routes.
const ALWAYS: [(&str, AppName, Option<&str>); 4] = [
    ("/echo", AppName::Echo, None),
    ("/chat", AppName::Chat, Some("chat")),
    ("/sink", AppName::Sink, None),
    ("/rooms/{room}", AppName::Broadcast, None),
];

/// A WebSocket server for connection scale.
///
/// `/` runs the app that --app names, and answers a browser with a chat page. /echo, /chat and /sink are always
/// there; /rooms/NAME broadcasts among those on the same path; /healthz answers `ok`, and /readyz whether to send
/// clients here.
///
/// Ctrl-C, SIGINT and SIGQUIT end it within 5 seconds. SIGTERM drains it for a successor: see --drain-grace.
/// SIGHUP has it read --config and certificates again.
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

    /// File of settings, in TOML: a key for each flag, and routes. Flags and environment win over it
    #[arg(long, value_name = "FILE", env = "WSD_CONFIG")]
    config: Option<PathBuf>,

    /// The routes of that file.
    #[arg(skip)]
    routes: Vec<RouteFlags>,

    /// Whether --listen was given, here, in the environment or in the file.
    #[arg(skip)]
    listen_given: bool,

    /// Address to listen on; may be repeated. `localhost` is both loopback addresses. The default gives way to
    /// sockets that systemd passes, and to --tls-cert
    #[arg(long, value_name = "HOST:PORT", env = "WSD_LISTEN", value_delimiter = ',',
          default_value = "localhost:8080", value_parser = host_and_port)]
    listen: Vec<String>,

    /// Worker threads [default: one for each core]
    #[arg(long, short = 't', value_name = "N", env = "WSD_THREADS",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    #[command(flatten)]
    app: AppFlags,

    /// Further path on which --app runs; may be repeated. `{name}` is any segment, `*` whatever follows
    #[arg(long = "path", value_name = "PATH", env = "WSD_PATH", value_delimiter = ',')]
    paths: Vec<String>,

    /// Origin of web pages that may connect, such as https://app.example.com; may be repeated; `*` for any. Pages
    /// from the same host always may [default: on loopback addresses also pages from localhost and from files]
    #[arg(long, value_name = "ORIGIN", env = "WSD_ALLOW_ORIGIN", value_delimiter = ',', value_parser = origin)]
    allow_origin: Vec<String>,

    /// Network or address of a proxy whose X-Forwarded-For is believed, such as 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR", env = "WSD_TRUSTED_PROXY", value_delimiter = ',', value_parser = network)]
    trusted_proxy: Vec<IpNet>,

    /// Connections from a --trusted-proxy begin with a PROXY protocol header, version 1 or 2
    #[arg(long, env = "WSD_PROXY_PROTOCOL")]
    proxy_protocol: bool,

    /// Where to show metrics, health and connections: HOST:PORT or unix:PATH [default: nowhere]. Whoever reaches it
    /// can read all of it
    #[arg(long, value_name = "ADDRESS", env = "WSD_ADMIN", value_parser = admin_address)]
    admin: Option<Admin>,

    #[command(flatten)]
    pub(crate) log: LogFlags,

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

impl Cli {
    /// Reads the command line, the environment and the file that they name. What is wrong is returned as one line.
    ///
    /// Help, version, limits and what the subcommands have to say are printed to stdout, and end the program.
    pub(crate) fn from_environment() -> Result<Self, String> {
        let (cli, command, matches) = Self::read(std::env::args_os().collect())?;
        if cli.print_limits {
            let _ = write!(std::io::stdout(), "{}", limits::table(&command, &matches));
            std::process::exit(0)
        }
        if let Some(tool) = &cli.tool {
            tool.run(&command, cli.listen.first().map_or("localhost:8080", String::as_str))?;
            std::process::exit(0)
        }
        Ok(cli)
    }

    /// Whether a file alone could be served, as `wsd check-config` asks; gives what it should be warned of, line by
    /// line.
    fn check_file(file: &Path) -> Result<Vec<String>, String> {
        let (cli, _, _) = Self::read(vec!["wsd".into(), "--config".into(), file.into()])?;
        let server = cli.add_routes(Server::builder().config(cli.config()));
        let validities = server.check().map_err(|error| cli.start_line(&error))?;
        let unused = Unused::of(&cli);
        let unused = unused.iter().map(|unused| format!("wsd: warning: {}: {unused}", file.display()));
        let warning = |(file, validity): (&PathBuf, _)| {
            Some(format!("wsd: warning: --tls-cert {}: {}", file.display(), tls::warning(validity)?))
        };
        Ok(unused.chain(validities.iter().filter_map(warning)).collect())
    }

    /// What these arguments mean, and the command with the file's values for defaults.
    fn read(arguments: Vec<OsString>) -> Result<(Self, Command, ArgMatches), String> {
        let mut command = Self::command();
        let arguments = signed(arguments);
        // Which file, if any. What else may be wrong is told when its values are known.
        let first = command.clone().ignore_errors(true).try_get_matches_from(&arguments);
        let path = first.ok().and_then(|matches| matches.get_one::<PathBuf>("config").cloned());
        let file = path.map(|path| File::read(&path, &command)).transpose()?.unwrap_or_default();
        command = file.apply(command);
        let parsed = command.clone().try_get_matches_from(&arguments);
        let parsed = parsed.and_then(|matches| Self::from_arg_matches(&matches).map(|cli| (cli, matches)));
        let (mut cli, matches) = match parsed {
            Ok(parsed) => parsed,
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                error.exit()
            }
            Err(error) => return Err(one_line(&error)),
        };
        cli.check()?;
        let source = matches.value_source("listen");
        cli.listen_given = file.sets("listen") || source.is_some_and(|it| it != ValueSource::DefaultValue);
        if !cli.listen_given && cli.tls.is_on() {
            cli.listen.clear();
        }
        cli.routes = file.routes;
        Ok((cli, command, matches))
    }

    /// What no single flag can know to be wrong.
    fn check(&self) -> Result<(), String> {
        self.tls.check()?;
        self.app.check().map_err(|what| format!("wsd: {what}; see wsd --help"))
    }

    /// Why the server that was asked for does not start, with the flag and the remedy.
    pub(crate) fn start_line(&self, error: &StartError) -> String {
        match error {
            StartError::Certificate(error) => certificate_line(error),
            StartError::Route(_) if self.routes.is_empty() => format!("wsd: --path: {error}; see wsd --help"),
            StartError::Route(_) => format!("wsd: [[route]]: {error}; see wsd example-config"),
            StartError::Listen(address, _) => {
                let is_tls = self.tls.config().is_some_and(|tls| tls.listen.contains(address));
                let flag = if is_tls { "--tls-listen" } else { "--listen" };
                format!("wsd: {error}; choose another address with {flag}")
            }
            StartError::Admin(..) => format!("wsd: {error}; choose another one with --admin"),
            StartError::Setting(_) => format!("wsd: {error}; see wsd --help"),
            _ => format!("wsd: {error}"),
        }
    }

    /// The server that was asked for, on the sockets that systemd passes, if it does. `log` changes when the file says
    /// so.
    ///
    /// # Errors
    /// What it passes is no socket to serve on.
    pub(crate) fn server(&self, log: Log) -> Result<Builder, StartError> {
        Unused::of(self).iter().for_each(Unused::warn);
        let mut builder = Server::builder().config(self.config()).service_manager()?;
        builder = builder.configure(|config| self.keep_given(config));
        if self.config.is_some() {
            builder = builder.on_reload(self.reloader(log));
        }
        Ok(self.add_routes(builder))
    }

    /// Of addresses only the defaults give way to sockets that are passed.
    fn keep_given(&self, config: &mut Config) {
        let given = self.config();
        if self.listen_given {
            config.listen = given.listen;
        }
        if self.tls.listen_given() {
            config.tls = given.tls;
        }
    }

    /// Reads everything again. Of the log and the routes' apps the server itself does not know.
    fn reloader(&self, mut log: Log) -> impl FnMut(&Remote) -> Result<Reloaded, String> + Send + 'static {
        let fixed = |cli: &Self| {
            let routes: Vec<_> = cli.routes.iter().map(RouteFlags::fixed).collect();
            format!("{routes:?} {:?} {:?}", cli.app, cli.paths)
        };
        let present = fixed(self);
        let mut in_force = self.route_limits();
        move |server| {
            let (cli, _, _) = Self::read(std::env::args_os().collect())?;
            let mut config = cli.config();
            server.give_way(&mut config);
            cli.keep_given(&mut config);
            // A route that is gone from the file is served until the restart, as it was.
            let mut gone = in_force.clone();
            gone.retain(|path, _| !cli.routes.iter().any(|route| route.path == *path));
            config.route_limits.append(&mut gone);
            let mut reloaded = server.reload(&config).map_err(|error| error.to_string())?;
            in_force = config.route_limits;
            reloaded.changed.extend(log.change(cli.log));
            Unused::of(&cli).iter().for_each(Unused::warn);
            if fixed(&cli) != present {
                reloaded.waiting.push("routes".to_owned());
            }
            Ok(reloaded)
        }
    }

    /// The routes of the file, or, where it has none, those that are always there and the app of the flags.
    fn add_routes(&self, mut builder: Builder) -> Builder {
        for route in &self.routes {
            builder = route.app.add(builder, &route.path, route.topic.as_deref());
        }
        if self.routes.is_empty() {
            for (path, app, topic) in ALWAYS {
                builder = AppFlags::plain(app).add(builder, path, topic);
            }
            for path in std::iter::once("/").chain(self.paths.iter().map(String::as_str)) {
                builder = self.app.add(builder, path, Some(self.app.common_topic()));
            }
        }
        // The page talks to the path that it is on.
        if self.routes.is_empty() || self.routes.iter().any(|route| route.path == "/") {
            builder = builder.page(Page::html("/", wsd::http::CHAT_PAGE));
        }
        builder
    }

    fn origins(&self) -> Origins {
        match self.allow_origin.as_slice() {
            [] => Origins::SameHost,
            list if list.iter().any(|origin| origin == "*") => Origins::Any,
            list => Origins::List(list.to_vec()),
        }
    }

    /// Of the routes that have any.
    fn route_limits(&self) -> BTreeMap<String, RouteLimits> {
        let own = self.routes.iter().map(|route| (route.path.clone(), route.limits.0.clone()));
        own.filter(|(_, limits)| *limits != RouteLimits::default()).collect()
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
            route_limits: self.route_limits(),
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

/// With `--flag -1` as `--flag=-1`, so that the flag says what is wrong with it: no flag begins with a dash and a digit.
fn signed(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let is_signed = matches!(argument.as_encoded_bytes(), [b'-', b'0'..=b'9', ..]);
        match joined.last_mut() {
            Some(flag) if is_signed && flag.as_encoded_bytes().starts_with(b"--") => {
                flag.push("=");
                flag.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// What is wrong, with the flag and the remedy, on one line.
fn one_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let first = rendered.lines().next().unwrap_or_default();
    let mut line = format!("wsd: {}", first.trim_start_matches("error: ").trim_end_matches(':'));
    // The standard library's words for what is no number at all.
    for words in ["invalid digit found in string", "cannot parse integer from empty string"] {
        line = line.replace(words, "a whole number is needed");
    }
    let listed = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => Some(values.join(", ")),
        _ => None,
    };
    if let Some(values) = listed {
        line.push_str(&format!(" (one of: {values})"));
    }
    if error.kind() == ErrorKind::MissingRequiredArgument
        && let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg)
    {
        line.push_str(&format!(": {}", missing.join(" ")));
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
            (["wsd", "--threads=nope", "--app=sink"], "a whole number is needed"),
            (["wsd", "--threads=", "--app=sink"], "a whole number is needed"),
            (["wsd", "--nope", "1"], "--nope"),
            (["wsd", "check-config", ""], "<FILE>"),
        ] {
            let args = args.into_iter().filter(|word| !word.is_empty());
            let error = Cli::try_parse_from(args).expect_err("must be refused");
            let line = one_line(&error);
            assert!(line.contains(flag) && !line.contains('\n'), "{line}");
            assert!(line.ends_with("see wsd --help"), "{line}");
        }
    }

    #[test]
    fn a_gap_notice_needs_gaps() {
        let parse = |args: &[&str]| Cli::parse_from([&["wsd", "--gap-notice", "gap"], args].concat()).check();
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
