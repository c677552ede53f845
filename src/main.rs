//! The `wsd` program: the command line, the log, the server.

mod cli;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use wsd::{Handle, RunError, StartError};

/// Bad flags or settings.
const EXIT_USAGE: u8 = 2;
/// Sound flags, but the system said no: a port in use, no descriptors.
const EXIT_SYSTEM: u8 = 1;

fn main() -> ExitCode {
    let cli = match cli::Cli::from_environment() {
        Ok(cli) => cli,
        Err(line) => return fail(EXIT_USAGE, &line),
    };
    tracing_subscriber::fmt()
        .with_max_level(cli.log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match cli.server().run_with(announce) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ RunError::Start(StartError::Route(_) | StartError::Setting(_))) => {
            fail(EXIT_USAGE, &format!("wsd: {error}; see wsd --help"))
        }
        Err(RunError::Start(StartError::Certificate(error))) => {
            fail(EXIT_USAGE, &cli::certificate_line(&error))
        }
        Err(error) => fail(EXIT_SYSTEM, &format!("wsd: {error}")),
    }
}

/// The one line that says: ready.
fn announce(handle: &Handle) {
    let plain = handle.addresses().iter().map(|address| format!("http://{address}"));
    let secure = handle.tls_addresses().iter().map(|address| format!("https://{address}"));
    let urls: Vec<String> = plain.chain(secure).collect();
    let threads = handle.threads();
    let plural = if threads == 1 { "" } else { "s" };
    let line = format!("wsd ready on {}, {threads} thread{plural}, {}", urls.join(" "), handle.ceiling());
    // Whoever started us may have closed stdout; that is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn fail(code: u8, line: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{line}");
    ExitCode::from(code)
}
