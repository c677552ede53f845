//! `floor echo PORT` and `floor broadcast PORT`: the kernel's floor as a process, for `scripts/bench-peers`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use floor::{Floor, Mode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, port] = &arguments[..] else { return usage("give a mode and a port") };
    let Some(mode) = Mode::named(mode) else { return usage("the mode is echo or broadcast") };
    let Ok(port) = port.parse() else { return usage("the port is a number up to 65535; 0 is any free one") };
    match serve(mode, port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do where stderr is gone.
            let _ = writeln!(io::stderr(), "floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mode: Mode, port: u16) -> io::Result<()> {
    let floor = Floor::listen(mode, port)?;
    writeln!(io::stdout(), "listening on {}", floor.address()?)?;
    floor.run()
}

fn usage(problem: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "floor: {problem}: floor echo|broadcast PORT");
    ExitCode::from(2)
}
