//! The annotated file of all settings with their defaults, made from the flags so that it cannot differ from them.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};
use wsd::RouteLimits;

use super::file::is_key;

/// What settings without a default could be, as they stand in a file.
const EXAMPLES: [(&str, &str); 11] = [
    ("threads", "4"),
    ("path", r#"["/live/{name}"]"#),
    ("greeting", r#""Welcome!""#),
    ("allow-origin", r#"["https://app.example.com"]"#),
    ("trusted-proxy", r#"["10.0.0.0/8"]"#),
    ("max-conns", "50_000"),
    ("tls-cert", r#"["/etc/wsd/cert.pem"]"#),
    ("tls-key", r#"["/etc/wsd/key.pem"]"#),
    ("tls-listen", r#"["0.0.0.0:8443"]"#),
    ("admin", r#""127.0.0.1:9090""#),
    ("gap-notice", r#"'{"type":"gap"}'"#),
];

/// The setting whose default gives way to other addresses, as the same value from a file would not.
const GIVES_WAY: &str = "listen";

const HEAD: &str = "\
# wsd's settings, each with its default: wsd --config wsd.toml
#
# A flag on the command line (--max-message 64KiB) wins over the environment (WSD_MAX_MESSAGE=64KiB), and that over
# this file. `wsd check-config wsd.toml` says what is wrong with one.
";

const ROUTES: &str = r#"
# --- Routes ---
#
# A file with routes serves those and no others; without any, there are /echo, /chat, /sink, /rooms/NAME and `app` on /.
# A route has a path and the settings of its app; broadcasts reach those on the same path, or on all paths of a topic.
"#;

const EXAMPLE_ROUTES: &str = r#"
#[[route]]
#path = "/scores/{game}"
#app = "broadcast"
#greeting = '{"type":"welcome"}'
#skip-sender = true
#slow-policy = "latest"
#max-message = "4KiB"
#message-rate = 20

#[[route]]
#path = "/"
#app = "chat"
#topic = "lobby"
"#;

/// The file.
pub(super) fn file(command: &Command) -> String {
    let mut out = HEAD.to_owned();
    let mut heading = None;
    for argument in command.get_arguments().filter(|argument| is_key(argument)) {
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            let _ = writeln!(out, "\n# --- {} ---", heading.unwrap_or("The server"));
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out);
        for line in wrapped(&help) {
            let _ = writeln!(out, "# {line}");
        }
        let key = argument.get_long().unwrap_or_default();
        match default(argument) {
            Some(value) if key == GIVES_WAY => _ = writeln!(out, "#{key} = {value}"),
            Some(value) => _ = writeln!(out, "{key} = {value}"),
            None => {
                let example =
                    EXAMPLES.iter().find(|(name, _)| *name == key).map_or("\"\"", |(_, value)| value);
                let _ = writeln!(out, "#{key} = {example}");
            }
        }
    }
    out.push_str(ROUTES);
    for line in
        wrapped(&format!("It may have limits of its own, in the place of those above: {}.", own_limits()))
    {
        let _ = writeln!(out, "# {line}");
    }
    out + EXAMPLE_ROUTES
}

/// The limits that a route may have.
fn own_limits() -> String {
    RouteLimits::NAMES.join(", ").replace('_', "-")
}

fn default(argument: &Arg) -> Option<String> {
    let values: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    match argument.get_action() {
        ArgAction::SetTrue => Some("false".to_owned()),
        ArgAction::Append => {
            let quoted: Vec<_> = values.iter().map(|value| literal(value)).collect();
            (!values.is_empty()).then(|| format!("[{}]", quoted.join(", ")))
        }
        _ => values.first().map(|value| literal(value)),
    }
}

fn literal(value: &str) -> String {
    match value {
        number if number.parse::<u64>().is_ok() => number.to_owned(),
        text => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + word.len() < 115 {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;
    use crate::cli::file::{File, RouteFlags};

    /// Without the signs that make its examples comments.
    fn uncommented(file: &str) -> String {
        let is_example = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
        file.lines()
            .map(|line| if is_example(line) { &line[1..] } else { line })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_file_in_the_repository_is_the_defaults() {
        let command = Cli::command();
        let made = file(&command);
        assert_eq!(
            made,
            include_str!("../../docs/wsd.toml"),
            "`wsd example-config > docs/wsd.toml` makes it anew"
        );
        let defaults = File::parse(&made, &command).expect("it can be read").apply(command.clone());
        let config = |command: &Command| {
            let matches = command.clone().get_matches_from(["wsd"]);
            let cli = <Cli as clap::FromArgMatches>::from_arg_matches(&matches).expect("sound");
            format!("{cli:?} {:?}", cli.config())
        };
        assert_eq!(config(&defaults), config(&command));
    }

    #[test]
    fn its_examples_can_be_used() {
        let command = Cli::command();
        let text = uncommented(&file(&command));
        let read = File::parse(&text, &command).unwrap_or_else(|error| panic!("{error:?} in {text}"));
        assert_eq!(read.routes.len(), 2);
        let keys = command.get_arguments().filter(|argument| is_key(argument)).count();
        assert_eq!(
            text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count(),
            keys + 10
        );
        assert!(!text.contains(" = \"\"\n"), "a setting without a default has an example: {text}");
        RouteFlags::command().debug_assert();
    }
}
