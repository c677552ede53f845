//! The configuration file: values that the flags have where nobody gives them, and routes.
//!
//! A key is a flag without its dashes, and its value is read by the flag's own parser. So flags, environment and file
//! know the same settings, in the same words, and a setting is described in one place.

use std::fmt::Debug;
use std::path::Path;

use clap::builder::{OsStr, Resettable};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _, Parser};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::app::AppFlags;
use super::limits::RouteLimitFlags;
use super::one_line;

/// Flags that are about this run, not about the server.
const NO_KEYS: [&str; 4] = ["config", "print-limits", "help", "version"];

/// The tables of routes.
const ROUTE: &str = "route";

/// How much like a key another one must be to be taken for a slip, from 0 to 1.
const LIKENESS: f64 = 0.8;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    settings: Vec<Setting>,
    /// The routes, in order. Where there are none, those of the flags are served.
    pub(super) routes: Vec<RouteFlags>,
}

#[derive(Debug)]
struct Setting {
    id: String,
    values: Vec<String>,
}

/// One `[[route]]`.
#[derive(Debug, Parser)]
pub(super) struct RouteFlags {
    /// `{name}` is any segment, `*` whatever follows
    #[arg(long)]
    pub(super) path: String,

    #[command(flatten)]
    pub(super) app: AppFlags,

    /// Broadcasts go to all paths of the same topic [default: each path has its own audience]
    #[arg(long, value_name = "NAME")]
    pub(super) topic: Option<String>,

    #[command(flatten)]
    pub(super) limits: RouteLimitFlags,
}

impl RouteFlags {
    /// What of it a running server cannot take up.
    pub(super) fn fixed(&self) -> impl Debug + '_ {
        (&self.path, &self.app, &self.topic)
    }
}

impl File {
    /// Reads a file of settings for `command`.
    ///
    /// # Errors
    /// What is wrong, as one line that names the file and, where there is one, the line in it.
    pub(super) fn read(path: &Path, command: &Command) -> Result<Self, String> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("wsd: cannot read --config {name}: {error}; see wsd --help"))?;
        Self::parse(&text, command).map_err(|(at, what)| {
            format!("wsd: {name}:{}: {what} (see wsd example-config)", line_of(&text, at))
        })
    }

    /// What is wrong comes with the byte at which it is.
    pub(super) fn parse(text: &str, command: &Command) -> Result<Self, (usize, String)> {
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            (at, error.message().lines().collect::<Vec<_>>().join(", "))
        })?;
        let bare = without_environment(command.clone());
        let mut file = Self::default();
        for (key, value) in table.get_ref() {
            if key.get_ref() == ROUTE {
                file.routes = routes(key.span().start, value, &bare)?;
                continue;
            }
            let (argument, values) = setting(&bare, key, value)?;
            check(&bare, argument, &values).map_err(|what| (value.span().start, what))?;
            file.settings.push(Setting { id: argument.get_id().to_string(), values });
        }
        Ok(file)
    }

    /// Whether it says something about this flag.
    pub(super) fn sets(&self, id: &str) -> bool {
        self.settings.iter().any(|setting| setting.id == id)
    }

    /// The command with what the file says in the place of its defaults.
    pub(super) fn apply(&self, command: Command) -> Command {
        self.settings.iter().fold(command, |command, setting| {
            command.mut_arg(&setting.id, |argument| argument.default_values(setting.values.clone()))
        })
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// `server`: the command of all settings, to tell those that are no route's from those that are nothing.
fn routes(
    at: usize,
    value: &Spanned<DeValue<'_>>,
    server: &Command,
) -> Result<Vec<RouteFlags>, (usize, String)> {
    let tables =
        || value.get_ref().as_array()?.iter().map(|it| Some((it.span(), it.get_ref().as_table()?))).collect();
    let tables: Option<Vec<_>> = tables();
    let Some(tables) = tables else { return Err((at, "routes are tables: [[route]]".to_owned())) };
    let command = without_environment(RouteFlags::command());
    let mut routes = Vec::with_capacity(tables.len());
    for (span, table) in tables {
        let mut arguments = vec![ROUTE.to_owned()];
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if find(&command, name).is_none() && find(server, name).is_some() {
                let whose =
                    "is a setting of the whole server, not of a route: it stands above the first [[route]]";
                return Err((key.span().start, format!("`{name}` {whose}")));
            }
            let (argument, values) = setting(&command, key, value)?;
            check(&command, argument, &values).map_err(|what| (value.span().start, what))?;
            arguments.extend(typed(argument, &values));
        }
        let parsed = command.clone().try_get_matches_from(arguments);
        let route = parsed.and_then(|matches| RouteFlags::from_arg_matches(&matches));
        routes.push(route.map_err(|error| match error.kind() {
            ErrorKind::MissingRequiredArgument => (span.start, "a route needs a `path`".to_owned()),
            _ => (span.start, said(&error)),
        })?);
        routes[routes.len() - 1].app.check().map_err(|what| (span.start, what))?;
    }
    Ok(routes)
}

/// Whether a flag is a setting of the server, and so a key.
pub(super) fn is_key(argument: &Arg) -> bool {
    argument.get_long().is_some_and(|name| !NO_KEYS.contains(&name))
}

/// The flag of this name.
fn find<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().filter(|argument| is_key(argument)).find(|it| it.get_long() == Some(name))
}

/// The flag that a key stands for, and its values as one would type them.
fn setting<'c>(
    command: &'c Command,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<(&'c Arg, Vec<String>), (usize, String)> {
    let name = key.get_ref().as_ref();
    let Some(argument) = find(command, name) else {
        if is_table(value.get_ref()) {
            return Err((key.span().start, format!("`{name}` is no table{}", meant_table(name))));
        }
        let likeness = |argument: &&Arg| strsim::jaro_winkler(name, argument.get_long().unwrap_or_default());
        let known = command.get_arguments().filter(|argument| is_key(argument));
        let nearest = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let nearest = nearest.filter(|argument| likeness(argument) >= LIKENESS).and_then(Arg::get_long);
        let meant = nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"));
        return Err((key.span().start, format!("`{name}` is no setting{meant}")));
    };
    let wrong = |what: &str| Err((value.span().start, format!("`{name}` {what}")));
    match (value.get_ref(), argument.get_action()) {
        (DeValue::Boolean(is_on), ArgAction::SetTrue) => Ok((argument, vec![is_on.to_string()])),
        (_, ArgAction::SetTrue) => wrong("is true or false"),
        (DeValue::Boolean(_), _) if !is_switch(argument) => wrong("takes one text or number"),
        (DeValue::Array(array), ArgAction::Append) => {
            let values: Option<Vec<_>> = array.iter().map(|item| scalar(item.get_ref())).collect();
            values.map_or_else(|| wrong("is a list of texts"), |values| Ok((argument, values)))
        }
        (one, _) => match scalar(one) {
            Some(text) => Ok((argument, vec![text])),
            None => wrong("takes one text or number"),
        },
    }
}

/// A table, or several of one name.
fn is_table(value: &DeValue<'_>) -> bool {
    let first = value.as_array().and_then(|array| array.iter().next());
    value.is_table() || first.is_some_and(|first| first.get_ref().is_table())
}

/// What who writes a table should write instead.
fn meant_table(name: &str) -> &'static str {
    if strsim::jaro_winkler(name, ROUTE) >= LIKENESS {
        "; did you mean [[route]]?"
    } else {
        ": settings stand by themselves, and only routes are tables, [[route]]"
    }
}

/// Whether a flag takes `on` and `off`.
fn is_switch(argument: &Arg) -> bool {
    argument.get_possible_values().iter().any(|value| value.matches("on", false))
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(is_on) => Some(if *is_on { "on" } else { "off" }.to_owned()),
        _ => None,
    }
}

/// As it would stand on a command line.
fn typed(argument: &Arg, values: &[String]) -> Vec<String> {
    let flag = argument.get_long().unwrap_or_default();
    match argument.get_action() {
        ArgAction::SetTrue if values == ["true"] => vec![format!("--{flag}")],
        ArgAction::SetTrue => Vec::new(),
        _ => values.iter().map(|value| format!("--{flag}={value}")).collect(),
    }
}

/// Reads the values as the flag would.
fn check(command: &Command, argument: &Arg, values: &[String]) -> Result<(), String> {
    let arguments = std::iter::once(command.get_name().to_owned()).chain(typed(argument, values));
    match command.clone().try_get_matches_from(arguments) {
        Err(error) if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) => {
            Err(said(&error))
        }
        // Of what else it needs, all settings together decide.
        _ => Ok(()),
    }
}

/// clap's words without the program's name.
fn said(error: &clap::Error) -> String {
    one_line(error).trim_start_matches("wsd: ").trim_end_matches("; see wsd --help").to_owned()
}

fn without_environment(command: Command) -> Command {
    command.mut_args(|argument| argument.env(Resettable::<OsStr>::Reset))
}

#[cfg(test)]
pub(super) mod tests {
    use wsd::RouteLimits;

    use super::*;
    use crate::cli::Cli;

    fn read(text: &str) -> Result<File, String> {
        File::parse(text, &Cli::command()).map_err(|(at, what)| format!("{}: {what}", line_of(text, at)))
    }

    /// What the program would be with this file and these arguments.
    fn cli(text: &str, arguments: &[&str]) -> Cli {
        let command = read(text).expect("a sound file").apply(without_environment(Cli::command()));
        let matches = command.get_matches_from([&["wsd"], arguments].concat());
        Cli::from_arg_matches(&matches).expect("sound")
    }

    /// What a file alone makes of the program, routes included.
    pub(in crate::cli) fn cli_of(text: &str) -> Cli {
        let routes = read(text).expect("a sound file").routes;
        Cli { routes, ..cli(text, &[]) }
    }

    #[test]
    fn the_file_stands_where_defaults_stood() {
        let text =
            "threads = 3\nmax-message = \"64KiB\"\nlisten = [\"127.0.0.1:1\", \"[::1]:2\"]\ndeflate = true\n";
        let config = cli(text, &[]).config();
        assert_eq!((config.threads, config.limits.max_message), (3, 65_536));
        assert_eq!(config.listen, ["127.0.0.1:1", "[::1]:2"]);
        assert!(config.deflate.is_some());
        let config = cli(text, &["--threads", "5", "--listen", "127.0.0.1:3"]).config();
        assert_eq!(
            (config.threads, config.listen, config.limits.max_message),
            (5, vec!["127.0.0.1:3".to_owned()], 65_536)
        );
    }

    #[test]
    fn routes_have_the_settings_of_apps() {
        let file = read(
            "[[route]]\npath = \"/a\"\napp = \"echo\"\n[[route]]\npath = \"/b\"\ntopic = \"t\"\nskip-sender = true\n",
        );
        let routes = file.expect("sound").routes;
        let paths: Vec<_> =
            routes.iter().map(|route| (route.path.as_str(), route.topic.as_deref())).collect();
        assert_eq!(paths, [("/a", None), ("/b", Some("t"))]);
    }

    #[test]
    fn a_route_may_have_each_limit_that_holds_once_it_is_known() {
        for name in RouteLimits::NAMES {
            let key = name.replace('_', "-");
            let is_time = ["_timeout", "_interval", "_time", "_age"].iter().any(|unit| name.ends_with(unit));
            let (value, read_as) = if is_time { ("\"7s\"", "7s") } else { ("7", "7") };
            let text = format!("[[route]]\npath = \"/a\"\n{key} = {value}\n[[route]]\npath = \"/b\"\n");
            let limits = cli_of(&text).config().route_limits;
            assert_eq!(limits.keys().collect::<Vec<_>>(), ["/a"], "{key}");
            let own = format!("{:?}", limits["/a"]);
            assert!(own.contains(&format!("{name}: Some({read_as})")), "{key} in {own}");
            assert_eq!(own.matches("Some").count(), 1, "{key} in {own}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_what_was_meant() {
        for (text, expected) in [
            ("max-mesage = 1", "1: `max-mesage` is no setting; did you mean `max-message`?"),
            ("\nzzz = 1", "2: `zzz` is no setting"),
            ("config = \"x\"", "1: `config` is no setting"),
            ("threads = 0", "1: invalid value '0' for '--threads <N>'"),
            ("listen = 8080", "1: invalid value '8080' for '--listen <HOST:PORT>'"),
            ("listen = [[1]]", "1: `listen` is a list of texts"),
            ("threads = [1, 2]", "1: `threads` takes one text or number"),
            ("threads = 1.5", "1: `threads` takes one text or number"),
            ("deflate = \"yes\"", "1: `deflate` is true or false"),
            ("route = 3", "1: routes are tables: [[route]]"),
            ("[[routes]]\npath = \"/\"", "1: `routes` is no table; did you mean [[route]]?"),
            ("[limits]\nmax-head = 1", "1: `limits` is no table: settings stand by themselves"),
            (
                "[[route]]\npath = \"/\"\n[route.limits]\nmax-age = 0",
                "3: `limits` is no table: settings stand by themselves",
            ),
            ("max-head = true", "1: `max-head` takes one text or number"),
            ("\n[[route]]\napp = \"chat\"", "2: a route needs a `path`"),
            ("[[route]]\npath = \"/\"\napp = \"poker\"", "3: invalid value 'poker' for '--app <APP>'"),
            ("[[route]]\npth = \"/\"", "2: `pth` is no setting; did you mean `path`?"),
            (
                "[[route]]\npath = \"/\"\nmax-mesage = 1",
                "3: `max-mesage` is no setting; did you mean `max-message`?",
            ),
            ("[[route]]\npath = \"/\"\nmax-fragments = 0", "3: invalid value '0' for '--max-fragments <N>'"),
            ("[[route]]\npath = \"/\"\nmax-age = 1", "3: invalid value '1' for '--max-age <TIME>'"),
            (
                "[[route]]\nmax-head = 1\npath = \"/\"",
                "2: `max-head` is a setting of the whole server, not of a route",
            ),
            (
                "[[route]]\npath = \"/\"\nhandshake-timeout = \"1s\"",
                "3: `handshake-timeout` is a setting of the whole",
            ),
            ("[[route]]\npath = \"/\"\nthreads = 1", "3: `threads` is a setting of the whole server"),
            ("threads = 1\nthreads = 2", "2: duplicate key"),
            ("threads = ", "1: "),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.starts_with(expected) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
