//! What the program's signals do to a server.

use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Builder, Handle, RunError};

/// Starts a server and runs it until a signal stops it.
pub(super) fn run_until_stopped(builder: Builder, ready: impl FnOnce(&Handle)) -> Result<(), RunError> {
    // Before the workers start: a signal may be handled on any thread, so the descriptor that its handler
    // writes to must be in every table.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(RunError::Worker)?;
    let handle = builder.start()?;
    ready(&handle);
    let (stopper, closer) = (handle.remote(), signals.handle());
    let waiter = thread::spawn(move || {
        if signals.forever().next().is_some() {
            stopper.shutdown();
        }
    });
    let outcome = handle.join().map_err(RunError::Worker);
    closer.close();
    let _ = waiter.join();
    outcome
}
