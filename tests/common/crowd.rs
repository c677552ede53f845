//! A crowd: more clients than one descriptor table or one address has room for, in threads with their own of both.
//! `scripts/chaos` says how many there are.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use wsd::net::fdtable;

use super::wire::{Frame, parse, request};

/// Clients of one thread.
const PART: usize = 10_000;
/// Their addresses: where a third of an address's ports are taken, the kernel begins to search for a free one.
const ADDRESSES: usize = 200;

/// How long anything may take that a whole crowd does.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// A number that `scripts/chaos` gives.
pub(crate) fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|it| it.parse().expect("a number"))
}

/// How many clients: what `scripts/chaos` says, or `usual`, or as many as there are descriptors for.
pub(crate) fn conns(usual: usize) -> usize {
    number("WSD_TEST_CONNS").unwrap_or(usual).min(most().1)
}

/// How many clients one thread, and all of them, may have.
fn most() -> (usize, usize) {
    let room = fdtable::raise_nofile().expect("up to the hard limit") as usize - 200;
    let private = std::thread::spawn(|| fdtable::unshare().is_ok()).join().expect("no panic");
    (PART.min(room), if private { usize::MAX } else { room })
}

/// One thread's part of a crowd.
#[derive(Debug)]
pub(crate) struct Part {
    /// The numbers of its clients in the crowd.
    pub(crate) clients: Range<usize>,
    number: u8,
    made: Cell<usize>,
    server: SocketAddr,
    joined: Sender<()>,
}

impl Part {
    /// A socket with one of the part's own addresses; `small` with as small a receive buffer as the system allows.
    pub(crate) fn socket(&self, small: bool) -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
        if small {
            // Before it connects: the window of a connection is scaled at its start.
            socket.set_recv_buffer_size(1).expect("the system takes its own minimum");
        }
        let place = self.made.replace(self.made.get() + 1) % ADDRESSES;
        let source = Ipv4Addr::new(127, 0, 2 + self.number, 1 + place as u8);
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("all of 127.0.0.0/8 is ours");
        socket
    }

    /// A connection, which blocks.
    pub(crate) fn connect(&self, small: bool) -> TcpStream {
        let socket = self.socket(small);
        socket.connect(&self.server.into()).unwrap_or_else(|error| panic!("not connected: {error}"));
        socket.into()
    }

    /// Begins to connect, and does not wait for it.
    pub(crate) fn dial(&self, socket: Socket) -> TcpStream {
        socket.set_nonblocking(true).expect("a socket option");
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                panic!("not connected: {error}")
            }
            _ => socket.into(),
        }
    }

    /// A WebSocket on `path`, which does not block from now on.
    pub(crate) fn open(&self, path: &str, small: bool) -> TcpStream {
        let mut stream = self.connect(small);
        stream.set_read_timeout(Some(LIMIT)).expect("not zero");
        stream.write_all(request(path).as_bytes()).expect("the server reads");
        let (mut head, mut buffer) = (Vec::new(), [0; 256]);
        while !head.ends_with(b"\r\n\r\n") {
            let len = stream.read(&mut buffer).expect("an answer");
            assert!(len > 0, "refused");
            head.extend_from_slice(&buffer[..len]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream.set_nonblocking(true).expect("a socket option");
        stream
    }

    /// Says that all clients of the part are where the others wait for them.
    pub(crate) fn has_joined(&self) {
        let _ = self.joined.send(());
    }
}

/// The threads of a crowd.
pub(crate) struct Crowd<T> {
    parts: Vec<JoinHandle<T>>,
    joined: Receiver<()>,
}

impl<T: Send + 'static> Crowd<T> {
    /// Starts `work` for each part of a crowd of `conns`. Its sockets are in its own table: none may be in what it
    /// comes to.
    pub(crate) fn gather(
        server: SocketAddr,
        conns: usize,
        work: impl Fn(Part) -> T + Clone + Send + 'static,
    ) -> Self {
        let parts = conns.div_ceil(most().0);
        let (sender, joined) = mpsc::channel();
        let start = |number| {
            let clients = conns * number / parts..conns * (number + 1) / parts;
            let (number, made) = (number as u8, Cell::new(0));
            let part = Part { clients, number, made, server, joined: sender.clone() };
            let work = work.clone();
            std::thread::spawn(move || {
                // Where it is refused, all share one table, and `conns` has said less.
                let _ = fdtable::unshare();
                work(part)
            })
        };
        Self { parts: (0..parts).map(start).collect(), joined }
    }

    /// Waits until every part has joined.
    #[track_caller]
    pub(crate) fn wait(&self) {
        for _ in &self.parts {
            self.joined.recv_timeout(LIMIT).expect("a part of the crowd did not come, and said why");
        }
    }

    /// Whether every part has come to its end.
    pub(crate) fn is_finished(&self) -> bool {
        self.parts.iter().all(JoinHandle::is_finished)
    }

    /// Whether a part has come to its end, which before the others' can only be a bad one.
    pub(crate) fn has_failed(&self) -> bool {
        self.parts.iter().any(JoinHandle::is_finished)
    }

    /// What each part came to.
    #[track_caller]
    pub(crate) fn ends(self) -> Vec<T> {
        let end = |part: JoinHandle<T>| part.join().expect("a part of the crowd failed, and said why");
        self.parts.into_iter().map(end).collect()
    }
}

/// One client of a crowd, as its part follows it.
pub(crate) trait Member {
    const INTEREST: Interest = Interest::READABLE;

    fn stream(&self) -> &TcpStream;

    /// The socket is ready; true when there is nothing to follow any more. What is left in the socket makes no event.
    fn ready(&mut self, buffer: &mut [u8]) -> bool;

    /// Comes again and again until then; true as above.
    fn tick(&mut self, _buffer: &mut [u8]) -> bool {
        false
    }
}

/// Follows each member to its end, with a tick each `pause`.
#[track_caller]
pub(crate) fn follow<M: Member>(members: &mut [M], pause: Duration) {
    let mut poll = Poll::new().expect("a descriptor");
    for (index, member) in members.iter().enumerate() {
        let fd = member.stream().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(index), M::INTEREST).expect("registered");
    }
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
    let (mut ended, mut left) = (vec![false; members.len()], members.len());
    let (start, mut ticked) = (Instant::now(), Instant::now());
    while left > 0 {
        assert!(start.elapsed() < LIMIT, "{left} of {} have not ended", members.len());
        poll.poll(&mut events, Some(pause.saturating_sub(ticked.elapsed()))).expect("it polls");
        for event in &events {
            let index = event.token().0;
            if !ended[index] && members[index].ready(&mut buffer) {
                (ended[index], left) = (true, left - 1);
            }
        }
        if ticked.elapsed() >= pause {
            ticked = Instant::now();
            for (member, ended) in members.iter_mut().zip(&mut ended).filter(|(_, ended)| !**ended) {
                if member.tick(&mut buffer) {
                    (*ended, left) = (true, left - 1);
                }
            }
        }
    }
}

/// What comes from the server over a stream that does not block.
pub(crate) struct Inbox {
    pub(crate) stream: TcpStream,
    held: Vec<u8>,
    at: usize,
}

impl Inbox {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, held: Vec::new(), at: 0 }
    }

    /// Reads what there is; true at the end of the stream.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        while let Some(len) = self.read_once(buffer)? {
            if len == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads what fits into the buffer, if there is anything; 0 bytes are the end of the stream.
    pub(crate) fn read_once(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.held.drain(..self.at);
        self.at = 0;
        match self.stream.read(buffer) {
            Ok(len) => {
                self.held.extend_from_slice(&buffer[..len]);
                Ok(Some(len))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next frame that came whole.
    #[track_caller]
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        let (frame, len) = parse(&self.held[self.at..])?;
        self.at += len;
        Some(frame)
    }

    /// What came and is no whole frame.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.held[self.at..]
    }
}
