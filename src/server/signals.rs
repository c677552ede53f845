//! What the program's signals do to a server.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM | drains: a successor takes over |
//! | SIGTERM once more, SIGINT, SIGQUIT | stops it within 5 seconds, also during a drain |

use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info};

use super::service::Service;
use super::{Builder, Handle, Remote, RunError};

/// Starts a server and runs it until a signal stops it.
pub(super) fn run_until_stopped(mut builder: Builder, ready: impl FnOnce(&Handle)) -> Result<(), RunError> {
    // Before the workers start: a signal may be handled on any thread, so the descriptor that its handler
    // writes to must be in every table.
    let mut signals = Signals::new([SIGINT, SIGQUIT, SIGTERM]).map_err(RunError::Worker)?;
    if builder.config.tls.is_some() {
        signals.add_signal(SIGHUP).map_err(RunError::Worker)?;
    }
    let service = builder.service.take();
    let handle = builder.start()?;
    ready(&handle);
    let watchdog = service.as_ref().map(|service| service.ready(&handle));
    let (remote, closer) = (handle.remote(), signals.handle());
    let waiter = thread::spawn(move || obey(&mut signals, &remote, service.as_ref()));
    let outcome = handle.join().map_err(RunError::Worker);
    closer.close();
    let _ = waiter.join();
    drop(watchdog);
    outcome
}

/// Does what signals say, until the server has ended.
fn obey(signals: &mut Signals, remote: &Remote, service: Option<&Service>) {
    let mut draining = false;
    for signal in signals.forever() {
        if signal == SIGHUP {
            reload(remote);
            continue;
        }
        let drains = signal == SIGTERM && !draining;
        if let Some(service) = service {
            service.stopping(if drains { "draining" } else { "stopping" });
        }
        if drains {
            draining = true;
            remote.drain();
        } else {
            remote.shutdown();
        }
    }
}

/// Certificates change while the server runs; a file that is no good must not end it.
fn reload(server: &Remote) {
    match server.reload_certificates() {
        Ok(true) => info!("certificates reloaded"),
        Ok(false) => {}
        Err(error) => error!(%error, "certificates not reloaded: the old ones stay"),
    }
}
