//! What else the program does than serve.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Command, Subcommand};
use clap_complete::Shell;
use wsd::net::probe;

use super::one_line;
use super::values::time;

/// TLS is not spoken here: whether a certificate is good is not what a health check asks.
const NO_URL: &str = "a URL begins with http://; of a server with TLS alone ask the --admin address";

/// What else the program does than serve.
#[derive(Debug, Subcommand)]
pub(super) enum Tool {
    /// Asks a running server whether it is well; exits with 0 if it is
    ///
    /// For health checks where there is no curl. Without a URL it asks the first address of WSD_LISTEN, or
    /// localhost:8080, for /healthz.
    Health {
        /// http://HOST:PORT, and perhaps a path: /readyz asks whether it wants new clients
        url: Option<String>,

        /// How long to wait for the answer
        #[arg(long, value_name = "TIME", default_value = "3s", value_parser = time)]
        timeout: Duration,
    },
    /// Prints a completion script
    Completions {
        /// Whose
        shell: Shell,
    },
    /// Prints the manual page, for `man -l -`
    Man,
    /// Says what is wrong with a configuration file; exits with 0 if it can be served
    ///
    /// With it go the certificates that it names. One that has expired, ends soon or is not valid yet is no reason for
    /// wsd not to start, so it is a warning. So is a setting that nothing uses, such as a reply of an app that does not
    /// answer.
    CheckConfig {
        /// The file
        file: PathBuf,

        /// Exit with 1 for a warning, too: for a check before a deploy
        #[arg(long)]
        strict: bool,
    },
    /// Prints a configuration file with all settings, their defaults and what they mean
    ExampleConfig,
}

impl Tool {
    /// Does it. `listen` is where a server with the same settings listens.
    ///
    /// # Errors
    /// One line.
    pub(super) fn run(&self, command: &Command, listen: &str) -> Result<(), String> {
        let mut out = Vec::new();
        match self {
            Self::Health { url, timeout } => {
                let url = url.clone().unwrap_or_else(|| format!("http://{listen}"));
                health(&url, *timeout).unwrap_or_else(|problem| {
                    let _ = writeln!(io::stderr(), "wsd: {url}: {problem}");
                    std::process::exit(1)
                });
            }
            Self::Completions { shell } => {
                clap_complete::generate(*shell, &mut command.clone(), "wsd", &mut out);
            }
            Self::Man => out = manual_page(command).map_err(|error| one_line(&error.into()))?,
            Self::CheckConfig { file, strict } => {
                let warnings = super::Cli::check_file(file)?;
                for line in &warnings {
                    let _ = writeln!(io::stderr(), "{line}");
                }
                if *strict && !warnings.is_empty() {
                    std::process::exit(1)
                }
                out.extend(format!("{}: ok\n", file.display()).into_bytes());
            }
            Self::ExampleConfig => out.extend(super::example::file(command).into_bytes()),
        }
        // A reader that has seen enough is no error.
        let _ = io::stdout().write_all(&out);
        Ok(())
    }
}

/// The only page there is: commands stand in it as one types them, not as pages of their own.
fn manual_page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    let page = String::from_utf8_lossy(&page).into_owned();
    let as_typed = |page: String, name: &str| {
        let name = name.replace('-', "\\-");
        page.replace(&format!("wsd\\-{name}(1)"), &format!("wsd {name}"))
    };
    Ok(command.get_subcommands().map(Command::get_name).fold(page, as_typed).into_bytes())
}

/// Whether the answer is 200.
fn health(url: &str, timeout: Duration) -> Result<(), String> {
    let rest = url.strip_prefix("http://").ok_or(NO_URL)?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/healthz" } else { path };
    match probe::status(host, path, timeout) {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!("answers {status}")),
        Err(error) => Err(error.to_string()),
    }
}
