//! Listening sockets: resolving, binding, and accepting when descriptors run out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rustix::event::epoll;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Limits;
use crate::id::Millis;

/// Unsent bytes that the kernel may hold for one socket before it stops taking more. Little, so that slow
/// readers are seen here, where they are counted, and not in kernel memory.
const NOTSENT_LOWAT: u32 = 16 * 1024;

/// The kernel gives a connection up when sent data is not acknowledged for so long, or not taken: it asks no more of
/// a peer that says again and again that it has no room. At least so long, and so much longer than our own limits have
/// it, which are to be the first, and say why.
const USER_TIMEOUT_MIN: Duration = Duration::from_secs(20);
const USER_TIMEOUT_MORE: Duration = Duration::from_secs(10);

/// The option is in milliseconds, in a C int.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// After an accept that failed for lack of descriptors, the first and the longest pause.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Ports to try where one is needed that is free on several addresses.
const PORT_TRIES: usize = 16;

/// All addresses of a `HOST:PORT`.
///
/// `localhost` is both loopback addresses, whatever the hosts file says: clients try either one first (RFC 6761
/// section 6.3 lets a resolver answer by itself).
pub(crate) fn resolve(listen: &str) -> io::Result<Vec<SocketAddr>> {
    if let Some(port) = listen.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    let mut addresses: Vec<SocketAddr> = listen.to_socket_addrs()?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address"));
    }
    Ok(addresses)
}

/// Takes addresses for this process before any worker listens on them.
///
/// Listeners with `SO_REUSEPORT` would share a port with another server of the same user without a word, so each
/// port is first bound without it: that fails where anybody listens. For port 0 the port is chosen here, the same
/// one for all addresses of a name. The sockets keep the ports until the workers have bound theirs; they do not
/// listen, so nothing is queued on them.
pub(crate) fn reserve(addresses: &[SocketAddr]) -> io::Result<(Vec<SocketAddr>, Vec<Socket>)> {
    let chooses = addresses.len() > 1 && addresses.iter().all(|address| address.port() == 0);
    // The port that is free on the first address may be taken on the next.
    for _ in 1..if chooses { PORT_TRIES } else { 1 } {
        match try_reserve(addresses) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
    try_reserve(addresses)
}

fn try_reserve(addresses: &[SocketAddr]) -> io::Result<(Vec<SocketAddr>, Vec<Socket>)> {
    let mut taken = Vec::with_capacity(addresses.len());
    let mut held = Vec::with_capacity(addresses.len());
    let mut port = None;
    for &address in addresses {
        let mut address = address;
        if address.port() == 0 {
            address.set_port(port.unwrap_or(0));
        }
        let probe = if address.port() == 0 { Ok(()) } else { bind(address, false).map(drop) };
        let socket = match probe.and_then(|()| bind(address, true)) {
            Ok(socket) => socket,
            // A machine without IPv6 still has its other addresses.
            Err(error) if address.is_ipv6() && !held.is_empty() && is_unsupported(&error) => continue,
            Err(error) => return Err(error),
        };
        let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        port = Some(bound.port());
        taken.push(bound);
        held.push(socket);
    }
    Ok((taken, held))
}

fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former run in TIME_WAIT do not keep the port; a listener does.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A socket that listens already, opened by somebody who holds it too.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) socket: std::net::TcpListener,
    /// Whether its connections speak TLS.
    pub(crate) secure: bool,
}

impl Passed {
    /// Whether one of them is for TLS.
    pub(crate) fn any_secure(passed: &[Self]) -> bool {
        passed.iter().any(|passed| passed.secure)
    }
}

/// One worker's listener on one address.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    /// Whether the socket belongs to others too: to the other workers, and to whoever passed it to this process.
    inherited: bool,
    /// Whether connections came since the last rotation.
    taken: bool,
    /// Whether no event will tell of connections, because the poll could not be asked for any.
    deaf: bool,
    /// Whether its connections speak TLS.
    pub(crate) secure: bool,
    /// Kept to be given up when there is no other descriptor: with it a connection can be taken off the queue and
    /// turned away. On an edge-triggered listener a connection left in the queue is silence for good.
    reserve: Option<std::fs::File>,
    retry: Option<(Millis, Duration)>,
    /// What the kernel's time has become since some of those who wait to be accepted came, with the old one.
    overdue: Option<Duration>,
}

/// What one accept came to.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A connection.
    Stream(TcpStream, IpAddr),
    /// A connection that can only be turned away: its descriptor is the last one.
    TurnAway(TcpStream),
    /// None is waiting.
    Empty,
    /// The peer had gone before it was accepted; try the next.
    Aborted,
    /// Out of descriptors or memory; try again at [`Listener::retry_at`].
    Exhausted(io::Error),
}

impl Listener {
    /// Listens on `address`, together with every other worker.
    pub(crate) fn open(
        address: SocketAddr,
        secure: bool,
        backlog: u32,
        user_timeout: Duration,
    ) -> io::Result<Self> {
        let socket = bind(address, true)?;
        set_options(&socket, user_timeout)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(Self::new(socket, secure, false))
    }

    /// Accepts from a socket that listens already, by a descriptor of our own. Its queue is one for all who hold it.
    pub(crate) fn inherit(passed: &Passed, user_timeout: Duration) -> io::Result<Self> {
        let socket = Socket::from(passed.socket.try_clone()?);
        set_options(&socket, user_timeout)?;
        Ok(Self::new(socket, passed.secure, true))
    }

    fn new(socket: Socket, secure: bool, inherited: bool) -> Self {
        Self {
            socket: TcpListener::from_std(socket.into()),
            secure,
            inherited,
            taken: false,
            deaf: false,
            reserve: open_reserve(),
            retry: None,
            overdue: None,
        }
    }

    /// Another time for connections that are not accepted yet.
    pub(crate) fn set_user_timeout(&mut self, user_timeout: Duration) {
        set_user_timeout(&self.socket, user_timeout);
        self.overdue = Some(user_timeout);
    }

    /// Asks for events. Of those who share a socket one connection wakes one, not all.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if !self.inherited {
            return registry.register(&mut self.socket, token, Interest::READABLE);
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET | epoll::EventFlags::EXCLUSIVE;
        Ok(epoll::add(registry, &self.socket, epoll::EventData::new_u64(token.0 as u64), flags)?)
    }

    /// Lets those with whom the socket is shared have the next connection: of all that wait for one the kernel wakes
    /// the one that has asked first, so without this the first worker would get nearly all.
    pub(crate) fn rotate(&mut self, registry: &Registry, token: Token, now: Millis) {
        if !self.inherited {
            return;
        }
        if std::mem::take(&mut self.taken) {
            self.deregister(registry);
            self.deaf = true;
        }
        // What came in between is an event at once.
        if self.deaf {
            match self.register(registry, token) {
                Ok(()) => self.deaf = false,
                // No memory for it just now. Until there is, this one is asked by the clock.
                Err(_) => self.pause(now),
            }
        }
    }

    /// Asks for no more events. Closing our descriptor would not do it where there are others for the same socket:
    /// they would go on waking us instead of those who accept.
    pub(crate) fn deregister(&mut self, registry: &Registry) {
        let _ = if self.inherited {
            epoll::delete(registry, &self.socket).map_err(io::Error::from)
        } else {
            registry.deregister(&mut self.socket)
        };
    }

    /// Takes one connection off the queue.
    pub(crate) fn accept(&mut self, now: Millis) -> Accepted {
        match self.socket.accept() {
            Ok((stream, peer)) => {
                self.retry = None;
                self.taken = true;
                if let Some(user_timeout) = self.overdue {
                    set_user_timeout(&stream, user_timeout);
                }
                Accepted::Stream(stream, peer.ip())
            }
            Err(error) => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::AGAIN) => {
                    // Whoever was waited for has left; a time that has passed would make every poll return at once.
                    self.retry = None;
                    self.overdue = None;
                    Accepted::Empty
                }
                // accept(2): "treat them like EAGAIN by retrying": errors of the connection, not of ours.
                Some(
                    rustix::io::Errno::INTR
                    | rustix::io::Errno::CONNABORTED
                    | rustix::io::Errno::PROTO
                    | rustix::io::Errno::NETDOWN
                    | rustix::io::Errno::NETUNREACH
                    | rustix::io::Errno::HOSTDOWN
                    | rustix::io::Errno::HOSTUNREACH
                    | rustix::io::Errno::PERM,
                ) => Accepted::Aborted,
                _ => self.exhausted(now, error),
            },
        }
    }

    /// When to accept again without waiting for an event.
    pub(crate) fn retry_at(&self) -> Option<Millis> {
        self.retry.map(|(at, _)| at)
    }

    fn exhausted(&mut self, now: Millis, error: io::Error) -> Accepted {
        if self.reserve.take().is_some()
            && let Ok((stream, _)) = self.socket.accept()
        {
            return Accepted::TurnAway(stream);
        }
        self.restock();
        self.pause(now);
        Accepted::Exhausted(error)
    }

    /// Accepts nothing for a while, and longer each time until something comes.
    pub(crate) fn pause(&mut self, now: Millis) {
        let pause = self.retry.map_or(RETRY_MIN, |(_, pause)| (pause * 2).min(RETRY_MAX));
        self.retry = Some((now.after(pause), pause));
    }

    /// Takes back the reserve, after a connection was turned away.
    pub(crate) fn restock(&mut self) {
        if self.reserve.is_none() {
            self.reserve = open_reserve();
        }
    }
}

/// After what time without progress the kernel may give up a connection that keeps to one of these limits.
pub(crate) fn user_timeout(limits: &[Limits]) -> Duration {
    let own = limits.iter().map(|it| it.progress_timeout.max(it.close_timeout)).max();
    own.unwrap_or_default().saturating_add(USER_TIMEOUT_MORE).clamp(USER_TIMEOUT_MIN, USER_TIMEOUT_MAX)
}

/// A kernel that had the option keeps the old one where it does not take the new one.
pub(crate) fn set_user_timeout(socket: &impl AsFd, user_timeout: Duration) {
    let _ = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(user_timeout));
}

/// Linux hands them down to the sockets that are accepted.
fn set_options(socket: &Socket, user_timeout: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    socket.set_nonblocking(true)
}

fn open_reserve() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_all_its_addresses_with_one_port() {
        let addresses = resolve("localhost:0").expect("localhost resolves");
        let (taken, _held) = reserve(&addresses).expect("port 0 is always free");
        assert!(taken.iter().all(|address| address.port() == taken[0].port() && address.ip().is_loopback()));
    }

    fn accept(listener: &mut Listener) -> TcpStream {
        loop {
            match listener.accept(Millis(0)) {
                Accepted::Stream(stream, _) => break stream,
                Accepted::Empty => std::thread::yield_now(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn user_timeout_of(stream: &TcpStream) -> Option<Duration> {
        socket2::SockRef::from(stream).tcp_user_timeout().expect("an option")
    }

    /// Three system calls less for each connection, as long as the system does so.
    #[test]
    fn accepted_sockets_inherit_the_options_of_their_listener() {
        let (taken, _held) = reserve(&["127.0.0.1:0".parse().expect("an address")]).expect("free");
        let mut listener = Listener::open(taken[0], false, 16, USER_TIMEOUT_MIN).expect("held for us");
        let _client = std::net::TcpStream::connect(taken[0]).expect("it listens");
        let stream = accept(&mut listener);
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_nodelay().expect("an option"));
        assert_eq!(socket.tcp_notsent_lowat().expect("an option"), NOTSENT_LOWAT);
        assert_eq!(user_timeout_of(&stream), Some(USER_TIMEOUT_MIN));
    }

    #[test]
    fn another_time_holds_for_those_who_are_not_accepted_yet() {
        let (taken, _held) = reserve(&["127.0.0.1:0".parse().expect("an address")]).expect("free");
        let mut listener = Listener::open(taken[0], false, 16, USER_TIMEOUT_MIN).expect("held for us");
        // They are in the queue, some as they came before and some as they come after.
        let connect = || std::net::TcpStream::connect(taken[0]).expect("it listens");
        let mut clients = vec![connect(), connect()];
        let hour = Duration::from_secs(3600);
        listener.set_user_timeout(hour);
        clients.push(connect());
        for _ in 0..2 {
            for _ in &clients {
                assert_eq!(user_timeout_of(&accept(&mut listener)), Some(hour));
            }
            assert!(matches!(listener.accept(Millis(0)), Accepted::Empty));
            assert_eq!(listener.overdue, None, "those who come later have it by themselves");
            clients = vec![connect()];
        }
    }

    #[test]
    fn the_kernel_is_more_patient_than_every_limit() {
        let second = Duration::from_secs(1);
        let limits = |progress, close| Limits {
            progress_timeout: progress * second,
            close_timeout: close * second,
            ..Limits::default()
        };
        assert_eq!(user_timeout(&[limits(1, 1)]), USER_TIMEOUT_MIN);
        // The longest that there is is one that the kernel takes.
        let longest = user_timeout(&[Limits { close_timeout: Duration::MAX, ..Limits::default() }]);
        let (taken, _held) = reserve(&["127.0.0.1:0".parse().expect("an address")]).expect("free");
        Listener::open(taken[0], false, 16, longest).expect("held for us");
        assert_eq!(user_timeout(&[Limits::default()]), 20 * second);
        assert_eq!(user_timeout(&[limits(11, 5)]), 21 * second);
        assert_eq!(user_timeout(&[limits(1, 1), limits(1, 30), limits(25, 1)]), 40 * second);
    }

    #[test]
    fn a_port_where_somebody_listens_is_taken_even_with_reuse_port() {
        let (taken, _held) = reserve(&["127.0.0.1:0".parse().expect("an address")]).expect("free");
        let _listener = Listener::open(taken[0], false, 16, USER_TIMEOUT_MIN).expect("held for us");
        let error = reserve(&taken).expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
