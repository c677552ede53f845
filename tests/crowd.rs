//! A drain of a whole crowd, in which everyone is looked at: what was accepted before it began arrives, then the Close
//! with its hint, then the end of the stream, and no reset. `scripts/chaos drain` does it with more clients.

#![cfg(feature = "cli")]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use common::program::Program;
use common::{Client, close, request, text};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use wsd::net::fdtable;

/// Clients of one thread, each of which has its own descriptors and its own source address.
const PART: usize = 10_000;
const MESSAGES: usize = 3;
const MESSAGE_BYTES: usize = 2_000;
/// How long any of it may take.
const LIMIT: Duration = Duration::from_secs(180);

/// One client.
struct Member {
    stream: TcpStream,
    heard: Vec<u8>,
    messages: usize,
    told: Option<(Instant, u64)>,
}

/// What one client saw.
struct Told {
    at: Instant,
    hint: u64,
}

impl Member {
    fn join(number: usize, part: usize, server: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
        let source = Ipv4Addr::new(127, 0, 0, 2 + part as u8);
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("all of 127.0.0.0/8 is ours");
        socket.connect(&server.into()).unwrap_or_else(|error| panic!("client {number}: {error}"));
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT)).expect("not zero");
        stream.write_all(request("/rooms/crowd").as_bytes()).expect("the server reads");
        let mut heard = Vec::new();
        let mut byte = [0; 256];
        while !heard.ends_with(b"\r\n\r\n") {
            let len = stream.read(&mut byte).expect("an answer");
            assert!(len > 0, "client {number} was refused");
            heard.extend_from_slice(&byte[..len]);
        }
        assert!(heard.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&heard));
        stream.set_nonblocking(true).expect("a socket option");
        Self { stream, heard: Vec::new(), messages: 0, told: None }
    }

    /// Reads what there is; true at the end of the stream.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return true,
                Ok(len) => self.heard.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error} after {} messages, told {:?}", self.messages, self.told),
            }
        }
        while let [first, len, ..] = self.heard[..] {
            assert!(self.told.is_none(), "more after a Close");
            let header = if len == 126 { 4 } else { 2 };
            let len = if len == 126 { MESSAGE_BYTES } else { usize::from(len) };
            if self.heard.len() < header + len {
                break;
            }
            let payload = &self.heard[header..header + len];
            match first {
                0x81 => self.messages += 1,
                0x88 => {
                    let reason = String::from_utf8_lossy(&payload[2..]);
                    assert_eq!(payload[..2], 1012u16.to_be_bytes(), "{reason}");
                    let hint = reason.split_once("retry=").expect("a hint").1.parse().expect("milliseconds");
                    self.told = Some((Instant::now(), hint));
                    self.stream.write_all(&close(1012, b"")).expect("room for six bytes");
                }
                other => panic!("a frame that begins with {other:#x}"),
            }
            self.heard.drain(..header + len);
        }
        false
    }
}

/// Connects `count` clients, says so, and follows each to its end.
fn part(number: usize, count: usize, server: SocketAddr, joined: &Barrier) -> Vec<Told> {
    // Where it is refused, all share one table, and [`most`] says less.
    let _ = fdtable::unshare();
    let mut poll = Poll::new().expect("a descriptor");
    let mut members: Vec<Member> = (0..count).map(|index| Member::join(index, number, server)).collect();
    for (index, member) in members.iter().enumerate() {
        let fd = member.stream.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(index), Interest::READABLE).expect("registered");
    }
    joined.wait();
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
    let (mut ended, start) = (vec![false; count], Instant::now());
    let mut left = count;
    while left > 0 {
        assert!(start.elapsed() < LIMIT, "{left} of {count} have not ended");
        poll.poll(&mut events, Some(Duration::from_secs(1))).expect("it polls");
        for event in &events {
            let index = event.token().0;
            if !ended[index] && members[index].read(&mut buffer) {
                ended[index] = true;
                left -= 1;
            }
        }
    }
    members
        .into_iter()
        .map(|member| {
            assert_eq!(member.messages, MESSAGES, "what was accepted before the drain");
            let (at, hint) = member.told.expect("an end without a Close");
            Told { at, hint }
        })
        .collect()
}

/// How many clients one thread, and all of them, may have.
fn most() -> (usize, usize) {
    let room = fdtable::raise_nofile().expect("up to the hard limit") as usize - 200;
    let private = std::thread::spawn(|| fdtable::unshare().is_ok()).join().expect("no panic");
    (PART.min(room), if private { usize::MAX } else { room })
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|it| it.parse().expect("a number"))
}

#[test]
fn everyone_in_a_crowd_is_let_go_and_hears_all_that_was_said_before() {
    let (each, all) = most();
    let conns = number("WSD_TEST_CONNS").unwrap_or(15_000).min(all);
    let spread = number("WSD_TEST_SPREAD").unwrap_or(2);
    let spread_flag = format!("{spread}s");
    let flags =
        ["--threads", "4", "--drain-grace", "0", "--drain-retry", "4s", "--drain-spread", &spread_flag];
    // A machine that is busy may take its time to answer a Close.
    let program = Program::serve(&[&flags[..], &["--close-timeout", "60s", "--queue-hard", "1MiB"]].concat());
    let server = program.addresses()[0];

    let parts = conns.div_ceil(each);
    let joined = Arc::new(Barrier::new(parts + 1));
    let (done, ends) = mpsc::channel();
    for number in 0..parts {
        let (joined, done) = (Arc::clone(&joined), done.clone());
        let count = conns / parts + usize::from(number < conns % parts);
        std::thread::spawn(move || done.send(part(number, count, server, &joined)));
    }
    drop(done);
    joined.wait();
    // Heard by the speaker, so accepted; for most of the others it is still under way.
    let mut speaker = Client::open(server, "/rooms/crowd");
    let message = "x".repeat(MESSAGE_BYTES);
    (0..MESSAGES).for_each(|_| speaker.send(text(&message)));
    (0..MESSAGES).for_each(|_| speaker.assert_text(&message));
    let start = Instant::now();
    program.signal(Signal::TERM);
    speaker.assert_lets_go_with(1012);

    let told: Vec<Told> = ends.iter().flatten().collect();
    assert_eq!(told.len(), conns, "the others failed, and said why");
    assert_eq!(program.output().status.code(), Some(0));
    assert!(told.iter().all(|told| (2_000..=6_000).contains(&told.hint)));
    let mut tenths = [0; 10];
    for told in &told {
        let tenth = (told.at - start).as_millis() as usize / (spread * 100).max(1);
        tenths[tenth.min(9)] += 1;
    }
    let _ = writeln!(
        std::io::stdout(),
        "{conns} clients: all heard {MESSAGES} of {MESSAGES} messages, then 1012 with a hint, then an orderly end\n\
         told in each tenth of {spread} s: {tenths:?}"
    );
}
