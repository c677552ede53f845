//! What the program's signals do to a server.

use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info};

use super::{Builder, Handle, Remote, RunError};

/// Starts a server and runs it until a signal stops it.
pub(super) fn run_until_stopped(builder: Builder, ready: impl FnOnce(&Handle)) -> Result<(), RunError> {
    // Before the workers start: a signal may be handled on any thread, so the descriptor that its handler
    // writes to must be in every table.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(RunError::Worker)?;
    if builder.config.tls.is_some() {
        signals.add_signal(SIGHUP).map_err(RunError::Worker)?;
    }
    let handle = builder.start()?;
    ready(&handle);
    let (stopper, closer) = (handle.remote(), signals.handle());
    let waiter = thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                reload(&stopper);
                continue;
            }
            return stopper.shutdown();
        }
    });
    let outcome = handle.join().map_err(RunError::Worker);
    closer.close();
    let _ = waiter.join();
    outcome
}

/// Certificates change while the server runs; a file that is no good must not end it.
fn reload(server: &Remote) {
    match server.reload_certificates() {
        Ok(true) => info!("certificates reloaded"),
        Ok(false) => {}
        Err(error) => error!(%error, "certificates not reloaded: the old ones stay"),
    }
}
