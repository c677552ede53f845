//! The program: flags in, a report out, and an exit code that scripts can use.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use loadgen::ab::{self, Session};
use loadgen::cli::{self, Cli, Command};
use loadgen::config::Config;
use loadgen::doctor;
use loadgen::files;
use loadgen::find_max;
use loadgen::run::{self, Failure, INVALID};

/// Could not connect, or the system gave out.
const BROKEN: u8 = 1;
/// Bad usage, or a plan that cannot work on this machine.
const USAGE: u8 = 2;

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
    obey(cli).map_err(|failure| match failure {
        Failure::Usage(line) => (line, USAGE),
        Failure::Broken(line) => (line, BROKEN),
        Failure::Invalid(line) => (line, INVALID),
    })
}

fn obey(cli: Cli) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    let fresh_seed = fastrand::u64(..SEED_MAX);
    match cli.command {
        Some(Command::Compare(args)) => files::compare(&args, &mut out),
        Some(Command::Doctor { conns, source_ip }) => {
            let broken = |error| Failure::Broken(format!("standard output: {error}"));
            run::check_sources(&source_ip)?;
            doctor::run(conns, source_ip, run::machine()?, &mut out).map_err(broken)
        }
        Some(Command::Report { file, html }) => files::report(&file, &html),
        Some(Command::Merge { files: logs, out: to }) => files::merge(&logs, &to, &mut out),
        Some(Command::Ab(args)) => {
            let session = Session::new(*args, fresh_seed).map_err(Failure::Usage)?;
            ab::run(&session, &*on_ctrl_c()?, &mut out)
        }
        None => {
            let config = Config::new(cli.run, fresh_seed).map_err(Failure::Usage)?;
            if let Some(bound) = &config.find_max {
                return find_max::run(&config, bound, &*on_ctrl_c()?, &mut out);
            }
            run::run(&config, &*on_ctrl_c()?, &mut out)
        }
    }
}

/// A flag that the first Ctrl-C raises; the second ends the program at once.
fn on_ctrl_c() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    let register = |signal| {
        // In this order: the flag that is already up ends the program, and only then is it raised.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag)).map(|_| ())
    };
    let watched = [SIGINT, SIGTERM].into_iter().try_for_each(register);
    watched.map_err(|error| Failure::Broken(format!("cannot watch for Ctrl-C: {error}")))?;
    Ok(flag)
}
