//! The program: flags in, a report out, and an exit code that scripts can use.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use loadgen::cli::{self, Command};
use loadgen::config::Config;
use loadgen::report::compare;
use loadgen::run::{self, Failure};
use loadgen::verdict::Verdict;

/// Could not connect, or the system gave out.
const BROKEN: u8 = 1;
/// Bad usage, or a plan that cannot work on this machine.
const USAGE: u8 = 2;
/// The generator could not do what was asked: the result says nothing about the server.
const INVALID: u8 = 97;

/// Fresh seeds stay below what every reader of JSON keeps exactly.
const SEED_MAX: u64 = 1 << 53;

fn main() -> ExitCode {
    match program() {
        Ok(code) => code.into(),
        Err((line, code)) => {
            // Nothing is left to do where stderr is gone.
            let _ = writeln!(io::stderr(), "loadgen: {line}");
            code.into()
        }
    }
}

fn program() -> Result<u8, (String, u8)> {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err((text, 0)) => {
            let _ = write!(io::stdout(), "{text}");
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    let mut out = io::stdout().lock();
    if let Some(Command::Compare { a, b }) = cli.command {
        return compare::run(&a, &b, &mut out).map(|()| 0).map_err(|line| (line, USAGE));
    }
    let config = Config::new(cli.run, fastrand::u64(..SEED_MAX)).map_err(|line| (line, USAGE))?;
    let interrupted = on_ctrl_c().map_err(|error| (format!("cannot watch for Ctrl-C: {error}"), BROKEN))?;
    match run::run(&config, &interrupted, &mut out) {
        Ok(Verdict::Invalid) => Ok(INVALID),
        Ok(_) => Ok(0),
        Err(Failure::Usage(line)) => Err((line, USAGE)),
        Err(Failure::Broken(line)) => Err((line, BROKEN)),
    }
}

/// A flag that the first Ctrl-C raises; the second ends the program at once.
fn on_ctrl_c() -> io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the flag that is already up ends the program, and only then is it raised.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}
