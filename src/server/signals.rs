//! What the program's signals do to a server.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM | drains: a successor takes over |
//! | SIGHUP | reads certificates and settings again, where there are files to read, or a service manager that may ask |
//! | SIGTERM once more, SIGINT, SIGQUIT | stops it within 5 seconds, also during a drain |

use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use super::reload::Source;
use super::service::Service;
use super::{Builder, Handle, Reloaded, Remote, RunError};
use crate::guard;

/// Starts a server and runs it until a signal stops it.
pub(super) fn run_until_stopped(mut builder: Builder, ready: impl FnOnce(&Handle)) -> Result<(), RunError> {
    // Before the workers start: a signal may be handled on any thread, so the descriptor that its handler
    // writes to must be in every table.
    let mut signals = Signals::new([SIGINT, SIGQUIT, SIGTERM]).map_err(RunError::Worker)?;
    let mut source = builder.source.take();
    let mut service = builder.service.take();
    let is_managed = service.as_ref().is_some_and(Service::listens);
    if builder.config.tls.is_some() || source.is_some() || is_managed {
        signals.add_signal(SIGHUP).map_err(RunError::Worker)?;
    }
    let handle = builder.start()?;
    ready(&handle);
    let watchdog = service.as_mut().map(|service| service.ready(&handle));
    let (remote, closer) = (handle.remote(), signals.handle());
    let waiter = thread::spawn(move || obey(&mut signals, &remote, source.as_mut(), service.as_ref()));
    let outcome = handle.join().map_err(RunError::Worker);
    closer.close();
    let _ = waiter.join();
    drop(watchdog);
    outcome
}

/// Does what signals say, until the server has ended.
fn obey(signals: &mut Signals, remote: &Remote, mut source: Option<&mut Source>, service: Option<&Service>) {
    let mut draining = false;
    for signal in signals.forever() {
        if signal == SIGHUP {
            let mut reload = || reload(remote, source.as_deref_mut());
            match service {
                // Once it has heard of the end, it wants to hear of nothing else.
                Some(service) if !draining => service.reload(reload),
                _ => drop(reload()),
            }
            continue;
        }
        let drains = signal == SIGTERM && !draining;
        match service {
            Some(service) if drains => service.draining(remote.shared.drain.timeout),
            Some(service) => service.stopping(),
            None => {}
        }
        if drains {
            draining = true;
            remote.drain();
        } else {
            remote.shutdown();
        }
    }
}

/// Reads again what there is to read; whether all of it was sound.
fn reload(server: &Remote, source: Option<&mut Source>) -> bool {
    let settings = source.is_none_or(|source| reload_settings(server, source));
    reload_certificates(server) && settings
}

/// New settings, as far as they can be taken up; the others are named.
fn reload_settings(server: &Remote, source: &mut Source) -> bool {
    // This thread has signals to hear after that, whatever becomes of a closure of somebody's own.
    let read = guard::call(|| (source.0)(server));
    match read.unwrap_or_else(|| Err("reading them panicked".to_owned())) {
        Ok(Reloaded { changed, waiting }) => {
            info!(changed = changed.join(", "), "settings reloaded");
            if !waiting.is_empty() {
                warn!(settings = waiting.join(", "), "settings that need a restart");
            }
            true
        }
        Err(error) => {
            error!(error, "settings not reloaded: the old ones stay");
            false
        }
    }
}

/// Certificates change while the server runs; a file that is no good must not end it.
fn reload_certificates(server: &Remote) -> bool {
    match server.reload_certificates() {
        Ok(true) => info!("certificates reloaded"),
        Ok(false) => {}
        Err(error) => {
            error!(%error, "certificates not reloaded: the old ones stay");
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Server;
    use crate::apps::Sink;

    /// Or nobody would be left to hear the signal that ends the server.
    #[test]
    fn a_reload_that_panics_is_a_failed_one() {
        let builder = Server::builder().listen("127.0.0.1:0").threads(1).app(Sink::default);
        let handle = builder.start().expect("it starts");
        let mut source = Source(Box::new(|_| panic!("told to")));
        assert!(!reload(&handle.remote(), Some(&mut source)));
        let mut sound = Source(Box::new(|_| Ok(Reloaded::default())));
        assert!(reload(&handle.remote(), Some(&mut sound)));
        handle.shutdown().expect("no worker fails");
    }
}
