//! The service manager: sockets that it opened for us, and what it wants to hear. systemd's protocols, sd_listen_fds(3)
//! and sd_notify(3), which others speak too.

use std::env;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;
use tracing::warn;

use super::{Handle, StartError};
use crate::net::mailbox::Mail;
use crate::net::worker::Shared;

/// What the service manager wants to hear.
#[derive(Debug)]
pub(super) struct Service {
    /// A sign of life at least so often.
    watchdog: Option<Duration>,
}

/// Gives signs of life until it is dropped.
#[derive(Debug)]
pub(super) struct Watchdog(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Service {
    /// What the environment says, and the sockets that came with it.
    pub(super) fn from_environment() -> Result<(Self, Vec<TcpListener>), StartError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(passed.len());
        for index in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
            let failed = |error| {
                StartError::Listen(format!("socket {index} (`{name}`) of the service manager"), error)
            };
            let Some(socket) = passed.take_tcp_listener(index).map_err(failed)? else { continue };
            if !SockRef::from(&socket).is_listener().map_err(failed)? {
                return Err(failed(io::Error::other("it does not listen")));
            }
            sockets.push(socket);
        }
        Ok((Self { watchdog: sd_notify::watchdog_enabled() }, sockets))
    }

    /// The server accepts connections. From now on there are signs of life, if they are asked for.
    pub(super) fn ready(&self, handle: &Handle) -> Watchdog {
        tell(&[NotifyState::Ready, NotifyState::Status(&format!("serving, {}", handle.ceiling()))]);
        let Some(limit) = self.watchdog else { return Watchdog(None) };
        let shared = Arc::clone(&handle.shared);
        let (end, ended) = mpsc::channel();
        Watchdog(Some((end, thread::spawn(move || watch(&shared, limit, &ended)))))
    }

    /// The server ends.
    pub(super) fn stopping(&self, how: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(how)]);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}

/// A sign of life is one turn of every worker since the last one. A worker that is stuck in an app has none.
fn watch(shared: &Shared, limit: Duration, ended: &mpsc::Receiver<()>) {
    // sd_watchdog_enabled(3) recommends half of the time; a quarter, because a sign takes two steps.
    let pause = (limit / 4).max(Duration::from_millis(1));
    let turns = || -> Vec<u64> { shared.metrics.iter().map(|worker| worker.turns.get()).collect() };
    let mut before = turns();
    loop {
        for mailbox in &shared.mailboxes {
            mailbox.post(Mail::Nudge);
        }
        match ended.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = turns();
        if now.iter().zip(&before).all(|(now, before)| now != before) {
            tell(&[NotifyState::Watchdog]);
            before = now;
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, and no error.
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify the service manager");
    }
}
