//! Floods: half-open handshakes, pings whose pongs nobody reads, connections that come and go, and all at once. Through
//! the program, and seen by its metrics. `scripts/chaos` has them larger.

#![cfg(feature = "cli")]

mod common;

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::admin::Scrape;
use common::crowd::{Crowd, Inbox, LIMIT, Member, conns, follow, number};
use common::program::Program;
use common::{CLOSE, Client, PATIENCE, binary, close, ping, request, text, wait_until};
use mio::Interest;
use wsd::net::fdtable::raise_nofile;

/// The program, and what it had before the flood.
struct Flooded {
    program: Program,
    resident: u64,
    descriptors: usize,
}

impl Flooded {
    fn serve(flags: &[&str]) -> Self {
        let program = Program::serve(&[&["--threads", "4", "--admin", "127.0.0.1:0"], flags].concat());
        program.open("/echo").close();
        let mut flooded = Self { resident: 0, descriptors: 0, program };
        wait_until("it is at rest", || flooded.connections() == 0);
        // A socket is closed at the end of the turn in which its connection ended, and a worker that answers a second
        // look is past the turn of the first.
        flooded.scrape();
        flooded.descriptors = flooded.program.descriptors();
        flooded.resident = flooded.program.resident_bytes();
        flooded
    }

    fn address(&self) -> SocketAddr {
        self.program.addresses()[0]
    }

    fn scrape(&self) -> Scrape {
        Scrape::of(self.program.admin())
    }

    /// How many connections there are.
    fn connections(&self) -> usize {
        self.scrape().sum("wsd_connections") as usize
    }

    /// What it has had more than before, at most, in bytes.
    fn grown(&self) -> u64 {
        self.program.resident_bytes_max().saturating_sub(self.resident)
    }

    /// Everybody has gone: so have their descriptors, and every message has come to an end.
    #[track_caller]
    fn assert_as_before(&self) -> Scrape {
        wait_until("everyone is gone", || self.connections() == 0);
        let descriptors = || self.program.descriptors();
        wait_until("descriptors are as before", || descriptors() == self.descriptors);
        let scrape = self.scrape();
        assert_eq!(scrape.value("wsd_messages_queued"), 0.0);
        scrape.assert_balanced();
        // No event ever came for a connection that was gone, nor for the next one in its slot.
        assert_eq!(scrape.value("wsd_stale_events_total"), 0.0);
        scrape
    }
}

/// A line for whoever runs it large.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

// --- half-open handshakes ---

/// Sends a head that never ends, a byte now and then.
struct Dribbler {
    inbox: Inbox,
    sent: usize,
    begun: Instant,
    answered: Option<Duration>,
}

impl Member for Dribbler {
    fn stream(&self) -> &TcpStream {
        &self.inbox.stream
    }

    fn ready(&mut self, buffer: &mut [u8]) -> bool {
        let ended = self.inbox.read(buffer).expect("an answer, and no reset");
        if !self.inbox.rest().is_empty() {
            self.answered.get_or_insert(self.begun.elapsed());
        }
        if ended {
            let answer = String::from_utf8_lossy(self.inbox.rest());
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
            let _ = self.inbox.stream.shutdown(std::net::Shutdown::Write);
        }
        ended
    }

    fn tick(&mut self, _: &mut [u8]) -> bool {
        if self.answered.is_none() {
            let byte = request("/echo").as_bytes().get(self.sent).copied();
            // Up to the empty line; then for ever more of one header.
            let byte = byte.filter(|_| self.sent < HEAD_BYTES).unwrap_or(b'x');
            let _ = self.inbox.stream.write(&[byte]);
            self.sent += 1;
        }
        false
    }
}

/// Of the head, what they send one after the other.
const HEAD_BYTES: usize = 60;

/// H4: all of them have the same time, whatever they send in it; a client that means it is served meanwhile.
#[test]
fn h4_five_thousand_half_open_handshakes_end_in_time_and_disturb_nobody() {
    let conns = conns(5_000);
    // All are to be there before the first must go.
    let timeout = Duration::from_secs(5 + conns as u64 / 5_000);
    let handshake_timeout = format!("{}s", timeout.as_secs());
    let flags = ["--handshake-timeout", &handshake_timeout, "--close-timeout", "1h"];
    let flooded = Flooded::serve(&flags);
    let start = Instant::now();
    let crowd = Crowd::gather(flooded.address(), conns, move |part| {
        let dribbler = |number: usize| {
            let begun = Instant::now();
            let mut stream = part.connect(false);
            let sent = number % HEAD_BYTES;
            stream.write_all(&request("/echo").as_bytes()[..sent]).expect("the kernel takes it");
            stream.set_nonblocking(true).expect("a socket option");
            Dribbler { inbox: Inbox::new(stream), sent, begun, answered: None }
        };
        let mut dribblers: Vec<_> = part.clients.clone().map(dribbler).collect();
        part.has_joined();
        follow(&mut dribblers, Duration::from_millis(300));
        let times = dribblers.iter().map(|it| it.answered.expect("it has come to its end"));
        times.collect::<Vec<_>>()
    });
    crowd.wait();
    let timed_out = |scrape: &Scrape| scrape.value(r#"wsd_handshakes_total{result="timed_out"}"#) as usize;
    // Unless the machine takes longer for so many connections than they have.
    wait_until("all of them are there", || flooded.connections() == conns || start.elapsed() >= timeout);
    let gone = timed_out(&flooded.scrape());
    assert!(gone == 0 || start.elapsed() >= timeout, "{gone} of them are not there any more");

    let mut served = 0;
    while !crowd.is_finished() {
        let mut client = flooded.program.open("/echo");
        client.send(text("hello"));
        client.assert_text("hello");
        client.close();
        served += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut times: Vec<Duration> = crowd.ends().into_iter().flatten().collect();
    times.sort_unstable();
    let (first, last) = (times[0], times[times.len() - 1]);
    // The clock of the server may be a millisecond apart from ours.
    assert!(first + Duration::from_millis(5) >= timeout, "too early: {first:?}");
    assert!(last < timeout + PATIENCE, "too late: {last:?}, and they go on sending");
    let bound = conns as u64 * 1024 + (2 << 20);
    assert!(flooded.grown() <= bound, "{} bytes, at most {bound} expected", flooded.grown());
    let scrape = flooded.assert_as_before();
    assert_eq!(timed_out(&scrape), conns);
    assert_eq!(scrape.value(r#"wsd_handshakes_total{result="opened"}"#) as usize, served + 1);
    say(format_args!(
        "{conns} half-open handshakes: each was answered 408, after {first:.2?} to {last:.2?} of {timeout:?}; \
         {served} others were served meanwhile; {} KiB of memory at most, {} KiB expected",
        flooded.grown() / 1024,
        bound / 1024
    ));
}

// --- pings whose pongs nobody reads ---

const FLOODERS: usize = 200;
/// Pings in one lot: their pongs may all wait, since they are the answer to one read.
const LOT: usize = 20;
const PING_BYTES: usize = 131;
const PONG_BYTES: usize = 127;

/// F6: while something waits only the newest pong does, so what waits is never more than one lot. Who goes on like this
/// is closed for it, and others notice nothing.
#[test]
fn f6_ping_floods_by_many_cost_little_memory_and_then_the_flooders() {
    let flooded = Flooded::serve(&["--control-rate", "0", "--close-timeout", "1s"]);
    let mut flooders: Vec<_> =
        (0..FLOODERS).map(|_| Client::open_small(flooded.address(), "/echo")).collect();
    let lot = ping(&[b'?'; 125]).repeat(LOT);
    assert_eq!(lot.len(), LOT * PING_BYTES);
    let little = |scrape: &Scrape| {
        let (queued, bound) = (scrape.value("wsd_queued_bytes") as usize, FLOODERS * (LOT + 1) * PONG_BYTES);
        assert!(queued <= bound, "{queued} bytes wait, at most {bound} expected");
    };

    // One lot each, when those before it have been read; and on, when nobody's socket takes any more.
    let received = |scrape: &Scrape| scrape.value("wsd_received_bytes_total") as usize;
    let cut = |scrape: &Scrape| scrape.value(r#"wsd_connections_closed_total{reason="slow"}"#) as usize;
    let (mut expected, mut full) = (received(&flooded.scrape()), 0);
    // Or until the time is over that a full socket has: then the machine is too busy for more.
    while full < 20 && cut(&flooded.scrape()) == 0 {
        flooders.iter_mut().for_each(|flooder| flooder.send_to_whom_it_may_concern(&lot));
        expected += FLOODERS * lot.len();
        wait_until("all have been read", || {
            let scrape = flooded.scrape();
            received(&scrape) == expected || cut(&scrape) > 0
        });
        let scrape = flooded.scrape();
        little(&scrape);
        full += usize::from(scrape.sum("wsd_queued_connections") as usize == FLOODERS);
    }

    // As fast as the program reads, while others work.
    let over = Arc::new(AtomicBool::new(false));
    let others = talk_until(&over, flooded.address());
    let threads: Vec<_> = (0..4).map(|_| flooders.split_off(flooders.len() - FLOODERS / 4)).collect();
    let threads: Vec<_> = threads.into_iter().map(|part| flood_until(&over, part, lot.clone())).collect();
    let start = Instant::now();
    while cut(&flooded.scrape()) < FLOODERS {
        little(&flooded.scrape());
        assert!(start.elapsed() < LIMIT, "{} of {FLOODERS} are cut", cut(&flooded.scrape()));
        std::thread::sleep(Duration::from_millis(20));
    }
    over.store(true, Ordering::Relaxed);
    let said = others.join().expect("nobody else notices");
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let bound = FLOODERS as u64 * 8 * 1024 + (2 << 20);
    assert!(flooded.grown() <= bound, "{} bytes, at most {bound} expected", flooded.grown());
    let scrape = flooded.assert_as_before();
    assert_eq!(cut(&scrape), FLOODERS);
    assert_eq!(scrape.value("wsd_messages_delivered_total") as usize, said);
    assert_eq!(scrape.value("wsd_messages_due_total") as usize, said);
}

/// Some who wait for each answer; how many there were in the end.
fn talk_until(over: &Arc<AtomicBool>, address: SocketAddr) -> JoinHandle<usize> {
    let over = Arc::clone(over);
    std::thread::spawn(move || {
        let mut clients: Vec<_> = (0..10).map(|_| Client::open(address, "/echo")).collect();
        let mut said = 0;
        while !over.load(Ordering::Relaxed) {
            for (index, client) in clients.iter_mut().enumerate() {
                let words = format!("{said} from {index}");
                client.send(text(&words));
                client.assert_text(&words);
                said += 1;
            }
        }
        clients.into_iter().for_each(Client::close);
        said
    })
}

/// Sends the same frames again and again, wherever the socket takes them.
fn flood_until(over: &Arc<AtomicBool>, clients: Vec<Client>, frames: Vec<u8>) -> JoinHandle<()> {
    let over = Arc::clone(over);
    std::thread::spawn(move || {
        let mut clients: Vec<_> = clients.into_iter().map(|client| (client, 0)).collect();
        while !over.load(Ordering::Relaxed) {
            for (client, at) in &mut clients {
                *at += client.send_until_blocked(&frames[*at..], Duration::from_millis(1));
                *at %= frames.len();
            }
        }
    })
}

// --- coming and going ---

const KINDS: usize = 8;
const ROOMS: usize = 4;
/// Those who come and go at the same time.
const AT_ONCE: usize = 4;

/// R7 and R14: whoever comes hears what is for it, and nothing that was for the one before it in its slot. What is left
/// of all of them is nothing.
#[test]
fn r14_connections_that_come_and_go_in_every_way_leave_nothing_behind() {
    raise_nofile().expect("up to the maximum");
    let half = number("WSD_TEST_TIMES").unwrap_or(6_000) / 2;
    let half = half.next_multiple_of(KINDS * ROOMS * AT_ONCE);
    let timeout = Duration::from_secs(5);
    let flooded = Flooded::serve(&["--handshake-timeout", "5s"]);
    churn(flooded.address(), half);
    let before = flooded.assert_as_before();
    let resident = flooded.program.resident_bytes();
    // The timers of those who are gone are there until they would have gone off, and their memory is used again.
    std::thread::sleep(timeout + Duration::from_secs(1));
    churn(flooded.address(), half);
    let after = flooded.assert_as_before();

    let grown = flooded.program.resident_bytes().saturating_sub(resident);
    assert!(grown <= 1 << 20, "{grown} bytes more than before");
    let counted = |sample: &str| (after.value(sample) - before.value(sample)) as usize;
    let each = half / KINDS;
    let (witnesses, closed) =
        (2 * ROOMS, |reason| counted(&format!("wsd_connections_closed_total{{reason=\"{reason}\"}}")));
    assert_eq!(counted("wsd_connections_accepted_total"), half + witnesses);
    assert_eq!(counted(r#"wsd_handshakes_total{result="opened"}"#), 5 * each + witnesses);
    assert_eq!((closed("peer"), closed("lost")), (2 * each + witnesses, 3 * each));
    say(format_args!(
        "{} connections came and went in {KINDS} ways: counted to the last one, descriptors as before, \
         {} KiB of memory more than after half of them",
        2 * half,
        grown / 1024
    ));
}

fn churn(address: SocketAddr, times: usize) {
    let witnesses: Vec<_> = (0..ROOMS).map(|room| Witness::join(address, room)).collect();
    let threads = (0..AT_ONCE).map(|thread| {
        std::thread::spawn(move || (thread..times).step_by(AT_ONCE).for_each(|number| visit(address, number)))
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|it| it.join().expect("each hears what is for it"));
    let heard: usize = witnesses.into_iter().map(Witness::leave).sum();
    assert_eq!(heard, times / KINDS, "what was said by those who waited for it");
}

/// Comes and goes. All kinds do it at the same time as all others.
fn visit(address: SocketAddr, number: usize) {
    let word = number.to_string();
    let echo = || {
        let mut client = Client::open(address, "/echo");
        client.send(text(&word));
        client.assert_text(&word);
        client
    };
    let half = || {
        let mut client = Client::connect(address);
        client.send(&request("/echo").as_bytes()[..number % 100]);
        client
    };
    let speak = |word: &str| {
        let mut client = Client::open(address, &room_of(number));
        client.send(text(word));
        client
    };
    match (number % AT_ONCE * 3 + number / AT_ONCE) % KINDS {
        0 => echo().close(),
        1 => echo().reset(),
        2 => drop(half()),
        3 => half().reset(),
        4 => Client::connect(address).reset(),
        5 => {
            let mut client = speak(&word);
            while assert_is_for(number, &client.read_frame().payload) != Some(number) {}
            leave(client, number);
        }
        6 => speak("cut").reset(),
        _ => {
            let mut client = Client::open_small(address, "/echo");
            client.send(binary(&vec![0; 64 * 1024]));
            client.reset();
        }
    }
}

fn room_of(number: usize) -> String {
    format!("/rooms/{}", number / AT_ONCE / KINDS % ROOMS)
}

/// What is heard in a room was said there; by whom, where it says so.
#[track_caller]
fn assert_is_for(number: usize, payload: &[u8]) -> Option<usize> {
    let word = std::str::from_utf8(payload).expect("text");
    let speaker = word.parse().ok();
    assert!(word == "cut" || speaker.is_some_and(|speaker| room_of(speaker) == room_of(number)), "{word:?}");
    speaker
}

/// Closes in good order, while others may still be heard.
fn leave(mut client: Client, number: usize) {
    client.send(close(1000, b""));
    loop {
        let frame = client.read_frame();
        if frame.opcode == CLOSE {
            return client.assert_eof();
        }
        assert_is_for(number, &frame.payload);
    }
}

/// A member of a room that stays, and counts what it hears.
struct Witness {
    number: usize,
    address: SocketAddr,
    thread: JoinHandle<usize>,
}

impl Witness {
    fn join(address: SocketAddr, room: usize) -> Self {
        let number = room * AT_ONCE * KINDS;
        let mut client = Client::open(address, &room_of(number));
        let thread = std::thread::spawn(move || {
            let mut heard = std::collections::BTreeSet::new();
            loop {
                let frame = client.read_frame();
                if frame.payload == b"end" {
                    leave(client, number);
                    return heard.len();
                }
                if let Some(speaker) = assert_is_for(number, &frame.payload) {
                    assert!(heard.insert(speaker), "{speaker} twice");
                }
            }
        });
        Self { number, address, thread }
    }

    /// Gives how many were heard.
    fn leave(self) -> usize {
        let mut client = Client::open(self.address, &room_of(self.number));
        client.send(text("end"));
        while client.read_frame().payload != b"end" {}
        leave(client, self.number);
        self.thread.join().expect("it hears what is said in its room")
    }
}

// --- all at once ---

/// One of a storm.
struct Comer {
    inbox: Inbox,
    asked: bool,
}

impl Member for Comer {
    const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

    fn stream(&self) -> &TcpStream {
        &self.inbox.stream
    }

    fn ready(&mut self, buffer: &mut [u8]) -> bool {
        if !self.asked {
            match self.inbox.stream.write(request("/echo").as_bytes()) {
                Ok(_) => self.asked = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("not connected: {error}"),
            }
        }
        assert!(!self.inbox.read(buffer).expect("no reset"), "the end instead of an answer");
        let head = self.inbox.rest();
        assert!(
            head.starts_with(&b"HTTP/1.1 101 "[..head.len().min(13)]),
            "{}",
            String::from_utf8_lossy(head)
        );
        head.ends_with(b"\r\n\r\n")
    }
}

/// R4: as many as there are connect at the same moment, without a pause; each of them is let in.
#[test]
fn r4_whoever_comes_in_a_storm_is_let_in() {
    let conns = conns(3_000);
    // Nobody goes while it lasts, however busy the machine is.
    let flooded = Flooded::serve(&["--handshake-timeout", "1h", "--ping-interval", "0"]);
    let counted = Arc::new(AtomicBool::new(false));
    let stay_until = Arc::clone(&counted);
    let crowd = Crowd::gather(flooded.address(), conns, move |part| {
        let sockets: Vec<_> = part.clients.clone().map(|_| part.socket(false)).collect();
        let comer = |socket| Comer { inbox: Inbox::new(part.dial(socket)), asked: false };
        let mut comers: Vec<_> = sockets.into_iter().map(comer).collect();
        follow(&mut comers, Duration::from_secs(1));
        part.has_joined();
        while !stay_until.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    crowd.wait();
    let scrape = flooded.scrape();
    assert_eq!(scrape.value(r#"wsd_handshakes_total{result="opened"}"#) as usize, conns + 1);
    assert_eq!(
        (scrape.sum("wsd_connections") as usize, scrape.sum("wsd_connections_refused_total")),
        (conns, 0.0)
    );
    counted.store(true, Ordering::Relaxed);
    crowd.ends();
    flooded.assert_as_before();
    say(format_args!("{conns} connections at once: all are open, none was refused or reset"));
}
