//! Opening connections: at the asked pace, from the planned addresses, and, where no pace is asked for, never so many
//! at a time that a server's accept queue overflows.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::SECOND_NS;
use crate::connects::{ConnectPace, ConnectSlice, Fates};

/// Handshakes under way in the whole run where no pace is asked for. A quarter of a common accept queue (1,024), and
/// enough to keep a server busy.
const UNDER_WAY_MAX: u32 = 256;

/// What a thread opens, and how.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// How many connections.
    pub count: u32,
    /// Which thread this is, of how many: they take turns.
    pub thread: (u32, u32),
    /// How fast, over all threads.
    pub pace: ConnectPace,
    /// When the first is due.
    pub start_ns: u64,
    /// How long a server may take to answer the handshake.
    pub timeout_ns: u64,
}

/// The connections of one thread that are yet to be opened, or to be opened again.
#[derive(Debug)]
pub struct Dialer {
    order: Order,
    next: u32,
    /// Between two connects of the whole run; 0 where there is no rate.
    interval_ns: f64,
    /// Connections to open again: (when, which), the earliest first.
    again: BinaryHeap<Reverse<(u64, u32)>>,
    /// (when it was asked for, connection) in that order; connections that are settled stay until their turn.
    under_way: VecDeque<(u64, u32)>,
    under_way_count: usize,
    asked: Vec<Asked>,
    /// The times since they were last taken.
    pub times: ConnectSlice,
    /// What became of the connections.
    pub fates: Fates,
}

/// When a connection is to be asked for, and when it was; both 0 where it is neither on its way nor will be.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    intended_ns: u64,
    begun_ns: u64,
}

impl Dialer {
    /// For connections that are numbered below `conns`.
    pub fn new(conns: u32, order: Order) -> Self {
        Self {
            order,
            next: 0,
            interval_ns: order.pace.rate().map_or(0.0, |rate| SECOND_NS as f64 / rate),
            again: BinaryHeap::new(),
            under_way: VecDeque::new(),
            under_way_count: 0,
            asked: vec![Asked::default(); conns as usize],
            times: ConnectSlice::default(),
            fates: Fates::default(),
        }
    }

    /// The next connection to open now.
    pub fn next(&mut self, now_ns: u64) -> Option<u32> {
        if let Some(&Reverse((due_ns, conn))) = self.again.peek()
            && due_ns <= now_ns
        {
            self.again.pop();
            self.begin(conn, due_ns, now_ns);
            return Some(conn);
        }
        let due_ns = self.due_ns().filter(|due_ns| *due_ns <= now_ns && self.has_room())?;
        let conn = self.next;
        self.next += 1;
        let own_time = self.order.pace.rate().is_some();
        self.begin(conn, if own_time { due_ns } else { now_ns }, now_ns);
        Some(conn)
    }

    /// Opens a connection again, at this time, unless it is on its way already.
    pub fn again(&mut self, conn: u32, due_ns: u64) {
        let asked = &mut self.asked[conn as usize];
        if asked.intended_ns == 0 {
            asked.intended_ns = due_ns;
            self.again.push(Reverse((due_ns, conn)));
        }
    }

    /// When to look again, apart from answers.
    pub fn deadline_ns(&self) -> Option<u64> {
        let due = self.due_ns().filter(|_| self.has_room());
        let again = self.again.peek().map(|Reverse((due_ns, _))| *due_ns);
        let overdue = self.under_way.front().map(|(begun_ns, _)| begun_ns + self.order.timeout_ns);
        due.into_iter().chain(again).chain(overdue).min()
    }

    /// A connection whose server has not answered in time.
    pub fn overdue(&mut self, now_ns: u64) -> Option<u32> {
        while let Some(&(begun_ns, conn)) = self.under_way.front() {
            if self.asked[conn as usize].begun_ns != begun_ns {
                self.under_way.pop_front();
            } else if begun_ns + self.order.timeout_ns <= now_ns {
                return Some(conn);
            } else {
                return None;
            }
        }
        None
    }

    /// `connect` has come to a good end.
    pub fn connected(&mut self, conn: u32, now_ns: u64) {
        let Asked { intended_ns, begun_ns } = self.asked[conn as usize];
        if begun_ns != 0 {
            self.times.of(intended_ns).tcp.record(now_ns.saturating_sub(intended_ns));
        }
    }

    /// A connection is open.
    pub fn opened(&mut self, conn: u32, now_ns: u64) {
        if let Some(asked) = self.settle(conn) {
            self.times.of(asked.intended_ns).upgrade.record(now_ns.saturating_sub(asked.intended_ns));
            self.fates.opened += 1;
            self.fates.opened_within_ns = now_ns.saturating_sub(self.order.start_ns);
        }
    }

    /// A connection has failed.
    pub fn fail(&mut self, conn: u32, reason: &str) {
        if self.settle(conn).is_some() {
            *self.fates.failed.entry(reason.to_owned()).or_default() += 1;
        }
    }

    /// Gives up on what is not open yet.
    pub fn give_up(&mut self) {
        self.order.count = self.next;
        for Reverse((_, conn)) in self.again.drain() {
            self.asked[conn as usize] = Asked::default();
        }
        for conn in 0..self.asked.len() as u32 {
            self.fail(conn, "interrupted");
        }
    }

    /// Whether a connection is still on its way.
    pub fn is_under_way(&self, conn: u32) -> bool {
        self.asked[conn as usize].begun_ns != 0
    }

    /// Whether every connection of the order is open or has failed.
    pub const fn is_finished(&self) -> bool {
        self.next == self.order.count && self.under_way_count == 0
    }

    /// Whether there is nothing to open and nothing to wait for.
    pub fn is_idle(&self) -> bool {
        self.is_finished() && self.again.is_empty()
    }

    /// Whether one is waited for that will be tried again.
    pub fn will_try_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Connections that were opened, again or for the first time.
    pub const fn open(&self) -> u64 {
        self.fates.opened
    }

    fn begin(&mut self, conn: u32, intended_ns: u64, now_ns: u64) {
        self.under_way_count += 1;
        self.under_way.push_back((now_ns, conn));
        self.asked[conn as usize] = Asked { intended_ns, begun_ns: now_ns };
        self.fates.begun += 1;
        self.fates.begun_within_ns = now_ns.saturating_sub(self.order.start_ns);
        self.times.of(intended_ns).late.record(now_ns.saturating_sub(intended_ns));
    }

    fn has_room(&self) -> bool {
        let most = (UNDER_WAY_MAX / self.order.thread.1).max(8) as usize;
        self.order.pace != ConnectPace::Gentle || self.under_way_count < most
    }

    fn due_ns(&self) -> Option<u64> {
        let (thread, threads) = self.order.thread;
        let number = f64::from(self.next) * f64::from(threads) + f64::from(thread);
        (self.next < self.order.count).then(|| self.order.start_ns + (number * self.interval_ns) as u64)
    }

    fn settle(&mut self, conn: u32) -> Option<Asked> {
        let asked = self.asked[conn as usize];
        (asked.begun_ns != 0).then(|| {
            self.asked[conn as usize] = Asked::default();
            self.under_way_count -= 1;
            asked
        })
    }
}

/// A socket that connects from `source` to `server`; the poll tells when it has. `small` ones have the smallest receive
/// buffer there is, so that what they do not read waits at the server and not here.
///
/// # Errors
/// Whatever the kernel has against it.
pub fn connect(server: SocketAddr, source: Option<IpAddr>, small: bool) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(server), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if small {
        // Before it connects: the window of a connection is scaled at its start.
        socket.set_recv_buffer_size(1)?;
    }
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

/// An error as a reason to count by. Those of TLS come with its own words.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable".to_owned(),
        io::ErrorKind::AddrNotAvailable => "no source port left".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT_NS: u64 = 10 * SECOND_NS;

    fn dialer(count: u32, pace: ConnectPace, thread: (u32, u32)) -> Dialer {
        Dialer::new(count, Order { count, thread, pace, start_ns: 1, timeout_ns: TIMEOUT_NS })
    }

    fn max_ns(dialer: &mut Dialer) -> (Option<u64>, Option<u64>) {
        let times = dialer.times.take().measured.expect("all is measured");
        (times.tcp.max_ns(), times.upgrade.max_ns())
    }

    #[test]
    fn no_more_at_a_time_than_allowed() {
        let mut dialer = dialer(100, ConnectPace::Gentle, (0, 32));
        let first: Vec<u32> = std::iter::from_fn(|| dialer.next(1)).collect();
        assert!(first.into_iter().eq(0..8));
        dialer.connected(3, 21);
        dialer.opened(3, 41);
        dialer.connected(3, 98);
        dialer.opened(3, 99);
        dialer.fail(4, "refused");
        assert_eq!((dialer.next(2), dialer.next(2), dialer.next(2)), (Some(8), Some(9), None));
        assert_eq!((dialer.open(), dialer.fates.failed["refused"], dialer.fates.begun), (1, 1, 10));
        assert_eq!(max_ns(&mut dialer), (Some(20), Some(40)));
    }

    #[test]
    fn a_storm_waits_for_nobody() {
        let mut dialer = dialer(1_000, ConnectPace::Storm, (0, 32));
        assert_eq!(std::iter::from_fn(|| dialer.next(1)).count(), 1_000);
        dialer.opened(0, 51);
        assert_eq!(max_ns(&mut dialer).1, Some(50), "from its own connect");
    }

    /// The second of two threads, at 10 per second over both: every 200 ms, between those of the first.
    #[test]
    fn paced_by_the_rate_and_timed_from_when_it_was_due() {
        let mut dialer = dialer(3, ConnectPace::Rate(10.0), (1, 2));
        assert_eq!((dialer.next(1), dialer.deadline_ns()), (None, Some(100_000_001)));
        assert_eq!((dialer.next(100_000_001), dialer.next(300_000_000)), (Some(0), None));
        assert_eq!(dialer.next(300_000_001), Some(1));
        // 40 ms late: that is part of what its user waits.
        assert_eq!(dialer.next(540_000_001), Some(2));
        for conn in 0..3 {
            assert!(!dialer.is_finished());
            dialer.opened(conn, 550_000_001);
        }
        assert!(dialer.is_finished());
        let times = dialer.times.take().measured.expect("three");
        assert_eq!((times.late.max_ns(), times.upgrade.max_ns()), (Some(40_000_000), Some(450_000_000)));
        assert_eq!((dialer.fates.begun_within_ns, dialer.fates.opened_within_ns), (540_000_000, 550_000_000));
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up() {
        let mut dialer = dialer(2, ConnectPace::Gentle, (0, 1));
        assert_eq!((dialer.next(1), dialer.next(5)), (Some(0), Some(1)));
        dialer.opened(0, 6);
        assert_eq!(dialer.overdue(TIMEOUT_NS + 4), None);
        assert_eq!(dialer.overdue(TIMEOUT_NS + 5), Some(1));
        dialer.fail(1, "timed out");
        assert_eq!(dialer.overdue(u64::MAX), None);
        assert!(dialer.is_finished());
    }

    #[test]
    fn what_has_ended_is_opened_again_at_its_time() {
        let mut dialer = dialer(1, ConnectPace::Gentle, (0, 1));
        assert_eq!(dialer.next(1), Some(0));
        dialer.opened(0, 6);
        dialer.again(0, 500);
        dialer.again(0, 400);
        assert!(dialer.will_try_again() && dialer.is_finished());
        assert_eq!((dialer.deadline_ns(), dialer.next(499), dialer.next(507)), (Some(500), None, Some(0)));
        assert!(dialer.is_under_way(0) && !dialer.is_finished());
        // The deadline of the first attempt is not that of the second.
        assert_eq!(dialer.overdue(TIMEOUT_NS + 506), None);
        assert_eq!(dialer.overdue(TIMEOUT_NS + 507), Some(0));
        dialer.opened(0, 510);
        assert_eq!((dialer.open(), max_ns(&mut dialer).1), (2, Some(10)));
    }

    #[test]
    fn giving_up_settles_everything() {
        let mut dialer = dialer(1000, ConnectPace::Gentle, (0, 32));
        assert_eq!(dialer.next(1), Some(0));
        dialer.again(7, 9);
        dialer.give_up();
        assert!(dialer.is_finished() && !dialer.will_try_again());
        assert_eq!(dialer.fates.failed["interrupted"], 1);
    }
}
