//! The `wsd` program: the command line, the log, the server.

mod cli;

use std::io::Write as _;
use std::process::ExitCode;

use wsd::{AdminAddress, Handle, RunError, StartError};

/// Bad flags or settings.
const EXIT_USAGE: u8 = 2;
/// Sound flags, but the system said no: a port in use, no descriptors.
const EXIT_SYSTEM: u8 = 1;

fn main() -> ExitCode {
    let cli = match cli::Cli::from_environment() {
        Ok(cli) => cli,
        Err(line) => return fail(EXIT_USAGE, &line),
    };
    let log = cli::Log::start(cli.log);
    match cli.server(log).map_err(RunError::Start).and_then(|server| server.run_with(announce)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Start(error)) => {
            let typed =
                matches!(error, StartError::Route(_) | StartError::Setting(_) | StartError::Certificate(_));
            fail(if typed { EXIT_USAGE } else { EXIT_SYSTEM }, &cli.start_line(&error))
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
    let mut line = format!("wsd ready on {}, {threads} thread{plural}, {}", urls.join(" "), handle.ceiling());
    for admin in handle.admin_addresses() {
        line.push_str(&match admin {
            AdminAddress::Tcp(address) => format!(", admin on http://{address}"),
            unix => format!(", admin on {unix}"),
        });
    }
    // Whoever started us may have closed stdout; that is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn fail(code: u8, line: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{line}");
    ExitCode::from(code)
}
