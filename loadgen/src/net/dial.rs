//! Opening connections: at the asked pace, from the planned addresses, and never so many at a time that a server's
//! accept queue overflows.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::SECOND_NS;
use crate::record::Latencies;

/// Handshakes under way in the whole run. A quarter of a common accept queue (1,024), and enough to keep a server
/// busy.
const UNDER_WAY_MAX: u32 = 256;
/// How long a server may take to answer the handshake.
const ANSWER_NS_MAX: u64 = 10 * SECOND_NS;

/// The connections of one thread that are yet to be opened.
#[derive(Debug)]
pub struct Dialer {
    count: u32,
    next: u32,
    start_ns: u64,
    /// Between two connects; 0 where there is no limit.
    interval_ns: f64,
    under_way_max: usize,
    /// (deadline, connection) in the order of the connects; connections that are settled stay until their turn.
    under_way: VecDeque<(u64, u32)>,
    under_way_count: usize,
    /// Per connection, when it was asked for; 0 once it is settled.
    asked_ns: Vec<u64>,
    open: u32,
    /// Failures by reason.
    pub failed: BTreeMap<String, u64>,
    /// From `connect` to the verified answer.
    pub upgrade: Latencies,
}

impl Dialer {
    /// For `count` connections, `rate` per second where that is limited, one of `threads` that do the same.
    pub fn new(count: u32, rate: Option<f64>, threads: u32, start_ns: u64) -> Self {
        Self {
            count,
            next: 0,
            start_ns,
            interval_ns: rate.map_or(0.0, |rate| SECOND_NS as f64 / rate),
            under_way_max: (UNDER_WAY_MAX / threads).max(8) as usize,
            under_way: VecDeque::new(),
            under_way_count: 0,
            asked_ns: vec![0; count as usize],
            open: 0,
            failed: BTreeMap::new(),
            upgrade: Latencies::default(),
        }
    }

    /// The next connection to open now.
    pub fn next(&mut self, now_ns: u64) -> Option<u32> {
        if self.under_way_count >= self.under_way_max || self.due_ns()? > now_ns {
            return None;
        }
        let conn = self.next;
        self.next += 1;
        self.under_way_count += 1;
        self.under_way.push_back((now_ns + ANSWER_NS_MAX, conn));
        self.asked_ns[conn as usize] = now_ns;
        Some(conn)
    }

    /// When to look again, apart from answers.
    pub fn deadline_ns(&self) -> Option<u64> {
        let due = self.due_ns().filter(|_| self.under_way_count < self.under_way_max);
        due.into_iter().chain(self.under_way.front().map(|&(deadline, _)| deadline)).min()
    }

    /// A connection whose server has not answered in time.
    pub fn overdue(&mut self, now_ns: u64) -> Option<u32> {
        while let Some(&(deadline, conn)) = self.under_way.front() {
            if self.asked_ns[conn as usize] == 0 {
                self.under_way.pop_front();
            } else if deadline <= now_ns {
                return Some(conn);
            } else {
                return None;
            }
        }
        None
    }

    /// A connection is open.
    pub fn opened(&mut self, conn: u32, now_ns: u64) {
        if let Some(asked_ns) = self.settle(conn) {
            self.upgrade.record(now_ns - asked_ns);
            self.open += 1;
        }
    }

    /// A connection has failed.
    pub fn fail(&mut self, conn: u32, reason: &str) {
        if self.settle(conn).is_some() {
            *self.failed.entry(reason.to_owned()).or_default() += 1;
        }
    }

    /// Gives up on what is not open yet.
    pub fn give_up(&mut self) {
        self.count = self.next;
        for conn in 0..self.next {
            self.fail(conn, "interrupted");
        }
    }

    /// Whether a connection is still on its way.
    pub fn is_under_way(&self, conn: u32) -> bool {
        self.asked_ns[conn as usize] != 0
    }

    /// Whether every connection is open or has failed.
    pub const fn is_finished(&self) -> bool {
        self.next == self.count && self.under_way_count == 0
    }

    /// Connections that were opened.
    pub const fn open(&self) -> u32 {
        self.open
    }

    fn due_ns(&self) -> Option<u64> {
        (self.next < self.count).then(|| self.start_ns + (f64::from(self.next) * self.interval_ns) as u64)
    }

    fn settle(&mut self, conn: u32) -> Option<u64> {
        let asked_ns = std::mem::take(&mut self.asked_ns[conn as usize]);
        (asked_ns != 0).then(|| {
            self.under_way_count -= 1;
            asked_ns
        })
    }
}

/// A socket that connects from `source` to `server`; the poll tells when it has.
///
/// # Errors
/// Whatever the kernel has against it.
pub fn connect(server: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(server), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // The port is then chosen when the destination is known, and can be shared among destinations.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&server.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// A system error as a reason to count by.
pub fn reason(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset",
        io::ErrorKind::TimedOut => "timed out",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        io::ErrorKind::AddrNotAvailable => "no source port left",
        _ => "system error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_at_a_time_than_allowed() {
        let mut dialer = Dialer::new(100, None, 32, 1);
        let first: Vec<u32> = std::iter::from_fn(|| dialer.next(1)).collect();
        assert!(first.into_iter().eq(0..8));
        dialer.opened(3, 41);
        dialer.opened(3, 99);
        dialer.fail(4, "refused");
        assert_eq!((dialer.next(2), dialer.next(2), dialer.next(2)), (Some(8), Some(9), None));
        assert_eq!((dialer.open(), dialer.failed["refused"], dialer.upgrade.max_ns()), (1, 1, Some(40)));
    }

    #[test]
    fn paced_by_the_rate() {
        let mut dialer = Dialer::new(3, Some(10.0), 1, 1);
        assert_eq!((dialer.next(1), dialer.next(1)), (Some(0), None));
        assert_eq!(dialer.deadline_ns(), Some(100_000_001));
        assert_eq!((dialer.next(100_000_001), dialer.next(200_000_000)), (Some(1), None));
        assert_eq!(dialer.next(200_000_001), Some(2));
        for conn in 0..3 {
            assert!(!dialer.is_finished());
            dialer.opened(conn, 300_000_000);
        }
        assert!(dialer.is_finished());
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up() {
        let mut dialer = Dialer::new(2, None, 1, 1);
        assert_eq!((dialer.next(1), dialer.next(5)), (Some(0), Some(1)));
        dialer.opened(0, 6);
        assert_eq!(dialer.overdue(ANSWER_NS_MAX + 4), None);
        assert_eq!(dialer.overdue(ANSWER_NS_MAX + 5), Some(1));
        dialer.fail(1, "timed out");
        assert_eq!(dialer.overdue(u64::MAX), None);
        assert!(dialer.is_finished());
    }

    #[test]
    fn giving_up_settles_everything() {
        let mut dialer = Dialer::new(1000, None, 32, 1);
        assert_eq!(dialer.next(1), Some(0));
        dialer.give_up();
        assert!(dialer.is_finished());
        assert_eq!(dialer.failed["interrupted"], 1);
    }
}
