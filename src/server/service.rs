//! The service manager: sockets that it opened for us, and what it wants to hear. systemd's protocols, sd_listen_fds(3)
//! and sd_notify(3), which others speak too.

use std::env;
use std::io;
use std::iter;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;
use tracing::warn;

use super::{Handle, StartError};
use crate::config::Config;
use crate::net::listener::Passed;
use crate::net::mailbox::Mail;
use crate::net::worker::Shared;

/// What the service manager wants to hear.
#[derive(Debug)]
pub(super) struct Service {
    /// Whether there is one.
    listens: bool,
    /// A sign of life at least so often.
    watchdog: Option<Duration>,
    /// What it is told while all is well.
    serving: String,
}

/// A shutdown takes no longer, also the one at the end of a drain.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The name of sockets that speak TLS.
const SECURE: &str = "tls";

/// Gives signs of life until it is dropped.
#[derive(Debug)]
pub(super) struct Watchdog(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Service {
    /// What the environment says, and the sockets that came with it.
    pub(super) fn from_environment() -> Result<(Self, Vec<Passed>), StartError> {
        let listed = env::var_os("LISTEN_FDNAMES").unwrap_or_default();
        let listed = listed.to_string_lossy();
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(passed.len());
        for (index, name) in (0..passed.len()).zip(names(&listed)) {
            let failed = |error| {
                StartError::Listen(format!("socket {index} (`{name}`) of the service manager"), error)
            };
            let Some(socket) = passed.take_tcp_listener(index).map_err(failed)? else { continue };
            if !SockRef::from(&socket).is_listener().map_err(failed)? {
                return Err(failed(io::Error::other("it does not listen")));
            }
            sockets.push(Passed { socket, secure: name == SECURE });
        }
        let listens = env::var_os("NOTIFY_SOCKET").is_some();
        Ok((Self { listens, watchdog: sd_notify::watchdog_enabled(), serving: String::new() }, sockets))
    }

    /// Whether there is a service manager that wants to hear anything.
    pub(super) fn listens(&self) -> bool {
        self.listens
    }

    /// The server accepts connections. From now on there are signs of life, if they are asked for.
    pub(super) fn ready(&mut self, handle: &Handle) -> Watchdog {
        self.serving = format!("serving, {}", handle.ceiling());
        tell(&[NotifyState::Ready, NotifyState::Status(&self.serving)]);
        let Some(limit) = self.watchdog else { return Watchdog(None) };
        let shared = Arc::clone(&handle.shared);
        let (end, ended) = mpsc::channel();
        Watchdog(Some((end, thread::spawn(move || watch(&shared, limit, &ended)))))
    }

    /// The server reads its settings again. `reload` says whether they were sound; if not, the old ones are in force.
    pub(super) fn reload(&self, reload: impl FnOnce() -> bool) {
        let mut begun = vec![NotifyState::Reloading, NotifyState::Status("reloading")];
        // With `Type=notify-reload` it tells this reload from one that was asked for later; without it is ignored.
        begun.extend(NotifyState::monotonic_usec_now());
        tell(&begun);
        let failed = format!("{}; the last reload failed, see the log", self.serving);
        let status = if reload() { &self.serving } else { &failed };
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The server ends within 5 seconds.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// The server lets everyone go, for so long at most. Who set that limit need not set it again in the unit: a
    /// shorter `TimeoutStopSec=` would cut the drain.
    pub(super) fn draining(&self, timeout: Duration) {
        let longest = timeout.saturating_add(SHUTDOWN).as_micros();
        // In our own words: the crate's have 32 bits, which is an hour.
        let longest = format!("EXTEND_TIMEOUT_USEC={}", u64::try_from(longest).unwrap_or(u64::MAX));
        tell(&[NotifyState::Stopping, NotifyState::Status("draining"), NotifyState::Custom(&longest)]);
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

/// What is passed is there instead of addresses; with only sockets in the clear TLS keeps its own, which somebody has
/// named certificates for.
pub(super) fn take_the_place(passed: &[Passed], config: &mut Config) {
    if !passed.is_empty() {
        config.listen.clear();
    }
    if let Some(tls) = &mut config.tls
        && Passed::any_secure(passed)
    {
        tls.listen.clear();
    }
}

/// The names of passed sockets in their order, without end: those that have none are `unknown`, as sd_listen_fds(3) has
/// it. The list is `name:name`, so no name contains a colon.
fn names(listed: &str) -> impl Iterator<Item = &str> {
    let names = listed.split(':').chain(iter::repeat(""));
    names.map(|name| if name.is_empty() { "unknown" } else { name })
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::Tls;

    #[test]
    fn every_socket_has_a_name() {
        for (listed, expected) in [
            ("", ["unknown", "unknown", "unknown"]),
            ("web", ["web", "unknown", "unknown"]),
            ("web:tls", ["web", "tls", "unknown"]),
            (":tls:", ["unknown", "tls", "unknown"]),
            ("tls:tls:web:more", ["tls", "tls", "web"]),
        ] {
            let found: Vec<_> = names(listed).take(3).collect();
            assert_eq!(found, expected, "{listed}");
        }
    }

    #[test]
    fn passed_sockets_take_the_place_of_addresses_of_their_kind() {
        for (passed, plain, secure) in
            [(&[][..], 1, 1), (&[false], 0, 1), (&[true], 0, 0), (&[false, true, true], 0, 0)]
        {
            let socket = || TcpListener::bind("127.0.0.1:0").expect("a free port");
            let sockets: Vec<_> = passed.iter().map(|&secure| Passed { socket: socket(), secure }).collect();
            let tls = Tls { listen: vec!["localhost:8443".to_owned()], ..Tls::default() };
            let mut config = Config { tls: Some(tls), ..Config::default() };
            take_the_place(&sockets, &mut config);
            let left = (config.listen.len(), config.tls.map(|tls| tls.listen.len()));
            assert_eq!(left, (plain, Some(secure)), "{passed:?}");
        }
    }
}
