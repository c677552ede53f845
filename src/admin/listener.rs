//! The admin listener: few connections, each with a thread of its own while it lasts.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use tracing::warn;

use super::View;
use super::exchange::{self, Stream};
use crate::config::AdminAddress;
use crate::net::listener::{reserve, resolve};

/// Connections at one time; further ones are turned away. Prometheus has one, people have few.
const CONNECTIONS_MAX: usize = 8;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// After an accept that failed, for want of descriptors perhaps.
const RETRY: Duration = Duration::from_millis(100);

/// An admin address that is listened on, by nobody yet.
#[derive(Debug)]
pub(crate) struct Bound {
    listeners: Vec<Listener>,
    addresses: Vec<AdminAddress>,
}

/// The running admin listener. Dropping it does not stop it.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) addresses: Vec<AdminAddress>,
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Listener {
    Tcp { socket: TcpListener, loopback: bool },
    Unix { socket: UnixListener, path: PathBuf },
}

/// Listens. To be called after every worker has parted with the common descriptor table, or the port would stay
/// taken in theirs. `is_taken` knows the addresses that the workers are about to listen on.
pub(crate) fn bind(address: &AdminAddress, is_taken: impl Fn(SocketAddr) -> bool) -> io::Result<Bound> {
    match address {
        AdminAddress::Tcp(text) => {
            let wanted = resolve(text)?;
            if wanted.iter().copied().any(is_taken) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let (taken, sockets) = reserve(&wanted)?;
            let mut listeners = Vec::with_capacity(sockets.len());
            for (socket, address) in sockets.into_iter().zip(&taken) {
                socket.listen(BACKLOG)?;
                socket.set_nonblocking(true)?;
                let loopback = address.ip().to_canonical().is_loopback();
                listeners.push(Listener::Tcp { socket: socket.into(), loopback });
            }
            warn_if_public(&taken);
            let addresses = taken.iter().map(|address| AdminAddress::Tcp(address.to_string())).collect();
            Ok(Bound { listeners, addresses })
        }
        AdminAddress::Unix(path) => {
            let socket = bind_unix(path)?;
            let listeners = vec![Listener::Unix { socket, path: path.clone() }];
            Ok(Bound { listeners, addresses: vec![address.clone()] })
        }
    }
}

fn warn_if_public(addresses: &[SocketAddr]) {
    for address in addresses.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
        warn!(%address, "the admin listener is not on a loopback address: whoever reaches it can read metrics, \
            addresses of clients and the configuration");
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let left_behind = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if left_behind {
        // A socket file outlives its server. Only where nobody answers is it taken away.
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Bound {
    /// Serves, on a thread of its own.
    pub(crate) fn serve(self, view: View) -> io::Result<Admin> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (listeners, told) = (self.listeners, Arc::clone(&stop));
        let body = move || accept_until_told(&listeners, &told, &Arc::new(view));
        let thread = thread::Builder::new().name("wsd-admin".to_owned()).spawn(body)?;
        Ok(Admin { addresses: self.addresses, stop, thread })
    }
}

impl Admin {
    /// Stops accepting; answers that are under way have their deadline.
    pub(crate) fn stop(self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        let _ = self.thread.join();
    }
}

fn accept_until_told(listeners: &[Listener], told: &OwnedFd, view: &Arc<View>) {
    let busy = Arc::new(AtomicUsize::new(0));
    let mut fails = false;
    loop {
        let mut waited: Vec<PollFd<'_>> = vec![PollFd::new(told, PollFlags::IN)];
        waited
            .extend(listeners.iter().map(|listener| PollFd::from_borrowed_fd(listener.fd(), PollFlags::IN)));
        // Fails only when it is interrupted, or out of memory.
        if let Err(error) = poll(&mut waited, None) {
            if error != Errno::INTR {
                thread::sleep(RETRY);
            }
            continue;
        }
        let is_ready: Vec<bool> = waited.iter().map(|it| !it.revents().is_empty()).collect();
        if is_ready[0] {
            break;
        }
        for (listener, _) in listeners.iter().zip(&is_ready[1..]).filter(|(_, is_ready)| **is_ready) {
            match listener.accept() {
                Ok(stream) => {
                    fails = false;
                    hand_over(stream, &busy, view);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    if !std::mem::replace(&mut fails, true) {
                        warn!(%error, "the admin listener cannot accept; trying again (said once)");
                    }
                    thread::sleep(RETRY);
                }
            }
        }
    }
    for listener in listeners {
        if let Listener::Unix { path, .. } = listener {
            let _ = fs::remove_file(path);
        }
    }
}

fn hand_over(stream: Stream, busy: &Arc<AtomicUsize>, view: &Arc<View>) {
    if busy.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
        busy.fetch_sub(1, Ordering::AcqRel);
        view.turned_away.fetch_add(1, Ordering::Relaxed);
        return exchange::turn_away(stream);
    }
    let place = Place(Arc::clone(busy));
    let view = Arc::clone(view);
    let body = move || {
        let _place = place;
        exchange::serve(stream, &view);
    };
    // Where the system has no thread to give, dropping the body closes the connection.
    let _ = thread::Builder::new().name("wsd-admin-conn".to_owned()).spawn(body);
}

/// One of the connections that there may be at one time.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Listener {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp { socket, .. } => socket.as_fd(),
            Self::Unix { socket, .. } => socket.as_fd(),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp { socket, loopback } => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Stream::Tcp { stream, loopback: *loopback })
            }
            Self::Unix { socket, .. } => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Stream::Unix(stream))
            }
        }
    }
}
