//! Whole crowds, in which everyone is looked at. In a drain: what was accepted before it began arrives, then the Close
//! with its hint, then the end of the stream, and no reset. Where some do not read: they are cut, and the others get
//! everything. `scripts/chaos drain` and `scripts/chaos slow` do it with more clients.

#![cfg(feature = "cli")]

mod common;

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::admin::Scrape;
use common::crowd::{Crowd, Inbox, LIMIT, Member, conns, follow, number};
use common::program::Program;
use common::{CLOSE, Client, TEXT, close, text, wait_until};
use rustix::process::Signal;

/// A machine that is busy may take its time, and nobody here answers pings.
const CALM: [&str; 6] = ["--close-timeout", "1h", "--progress-timeout", "1h", "--ping-interval", "0"];

// --- a drain ---

const MESSAGES: usize = 3;
const MESSAGE_BYTES: usize = 2_000;

/// What one client saw.
struct Told {
    at: Instant,
    hint: u64,
}

/// One client.
struct Guest {
    inbox: Inbox,
    messages: usize,
    told: Option<Told>,
}

impl Member for Guest {
    fn stream(&self) -> &TcpStream {
        &self.inbox.stream
    }

    fn ready(&mut self, buffer: &mut [u8]) -> bool {
        let ended = self.inbox.read(buffer);
        let ended = ended.unwrap_or_else(|error| panic!("{error} after {} messages", self.messages));
        while let Some(frame) = self.inbox.next_frame() {
            assert!(self.told.is_none(), "more after a Close");
            match frame.opcode {
                TEXT => {
                    assert_eq!(frame.payload.len(), MESSAGE_BYTES);
                    self.messages += 1;
                }
                CLOSE => {
                    let reason = String::from_utf8_lossy(&frame.payload[2..]);
                    assert_eq!(frame.payload[..2], 1012u16.to_be_bytes(), "{reason}");
                    let hint = reason.split_once("retry=").expect("a hint").1.parse().expect("milliseconds");
                    self.told = Some(Told { at: Instant::now(), hint });
                    self.inbox.stream.write_all(&close(1012, b"")).expect("room for six bytes");
                }
                other => panic!("a frame with opcode {other:#x}"),
            }
        }
        ended
    }
}

#[test]
fn everyone_in_a_crowd_is_let_go_and_hears_all_that_was_said_before() {
    let conns = conns(15_000);
    let spread = number("WSD_TEST_SPREAD").unwrap_or(2);
    let spread_flag = format!("{spread}s");
    let flags =
        ["--threads", "4", "--drain-grace", "0", "--drain-retry", "4s", "--drain-spread", &spread_flag];
    let program = Program::serve(&[&flags[..], &CALM, &["--queue-hard", "1MiB"]].concat());
    let server = program.addresses()[0];

    let crowd = Crowd::gather(server, conns, |part| {
        let guest = |stream| Guest { inbox: Inbox::new(stream), messages: 0, told: None };
        let mut guests: Vec<_> =
            part.clients.clone().map(|_| guest(part.open("/rooms/crowd", false))).collect();
        part.has_joined();
        follow(&mut guests, Duration::from_secs(1));
        guests.into_iter().map(|guest| (guest.messages, guest.told)).collect::<Vec<_>>()
    });
    crowd.wait();
    // Heard by the speaker, so accepted; for most of the others it is still under way.
    let mut speaker = Client::open(server, "/rooms/crowd");
    let message = "x".repeat(MESSAGE_BYTES);
    (0..MESSAGES).for_each(|_| speaker.send(text(&message)));
    (0..MESSAGES).for_each(|_| speaker.assert_text(&message));
    let start = Instant::now();
    program.signal(Signal::TERM);
    speaker.assert_lets_go_with(1012);

    let guests: Vec<_> = crowd.ends().into_iter().flatten().collect();
    assert_eq!(guests.len(), conns);
    assert_eq!(program.output().status.code(), Some(0));
    let mut tenths = [0; 10];
    for (messages, told) in guests {
        assert_eq!(messages, MESSAGES, "what was accepted before the drain");
        let told = told.expect("an end without a Close");
        assert!((2_000..=6_000).contains(&told.hint), "{}", told.hint);
        let tenth = (told.at - start).as_millis() as usize / (spread * 100).max(1);
        tenths[tenth.min(9)] += 1;
    }
    let _ = writeln!(
        std::io::stdout(),
        "{conns} clients: all heard {MESSAGES} of {MESSAGES} messages, then 1012 with a hint, then an orderly end\n\
         told in each tenth of {spread} s: {tenths:?}"
    );
}

// --- readers that do not read ---

const POST_BYTES: usize = 4 * 1024;
const QUEUE_BYTES: usize = 64 * 1024;
/// Messages by which nobody who reads is behind: less than what its queue and the kernel hold, so that no machine is
/// too slow for it.
const WINDOW: usize = 8;

/// Message `number`.
fn post(number: usize) -> String {
    format!("{number:0POST_BYTES$}")
}

/// What the parts tell, and are told.
#[derive(Default)]
struct Course {
    /// How many of those who read have heard a message, and all that had its place before it: the places are used again.
    heard: [AtomicUsize; 2 * WINDOW],
    /// Now the slow ones read, too.
    over: AtomicBool,
}

impl Course {
    /// Whether each of so many has heard all messages up to this one. Nobody is ahead of another by more places than
    /// there are, because none is said before that.
    fn have_heard(&self, readers: usize, number: usize) -> bool {
        let (place, round) = (number % self.heard.len(), number / self.heard.len());
        self.heard[place].load(Ordering::Relaxed) >= readers * (round + 1)
    }
}

/// How a reader reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    AtOnce,
    Slowly,
    Never,
}

/// A member of the room.
struct Reader {
    inbox: Inbox,
    pace: Pace,
    /// Messages that it heard: they are numbered, and none is missing.
    heard: usize,
    /// The code of its Close.
    closed: Option<u16>,
    course: Arc<Course>,
}

impl Reader {
    /// Takes note of what came; true after the last message.
    fn note(&mut self) -> bool {
        while let Some(frame) = self.inbox.next_frame() {
            assert_eq!(self.closed, None, "more after a Close");
            match frame.opcode {
                TEXT if frame.payload == b"end" => return true,
                TEXT => {
                    let number = std::str::from_utf8(&frame.payload).expect("text").parse();
                    assert_eq!((number, frame.payload.len()), (Ok(self.heard), POST_BYTES));
                    self.heard += 1;
                    if self.pace == Pace::AtOnce {
                        let place = (self.heard - 1) % self.course.heard.len();
                        self.course.heard[place].fetch_add(1, Ordering::Relaxed);
                    }
                }
                CLOSE => {
                    self.closed = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    self.inbox.stream.write_all(&close(1013, b"")).expect("room for eight bytes");
                }
                other => panic!("a frame with opcode {other:#x}"),
            }
        }
        false
    }
}

impl Member for Reader {
    fn stream(&self) -> &TcpStream {
        &self.inbox.stream
    }

    fn ready(&mut self, buffer: &mut [u8]) -> bool {
        if self.pace != Pace::AtOnce && !self.course.over.load(Ordering::Relaxed) {
            return false;
        }
        let ended = self.inbox.read(buffer).unwrap_or_else(|error| panic!("{error} at {}", self.heard));
        let last = self.note();
        assert!(last || !ended || self.closed == Some(1013), "an end without a Close at {}", self.heard);
        last || ended
    }

    fn tick(&mut self, buffer: &mut [u8]) -> bool {
        match self.pace {
            Pace::AtOnce => false,
            _ if self.course.over.load(Ordering::Relaxed) => self.ready(buffer),
            Pace::Never => false,
            Pace::Slowly => {
                self.inbox.read_once(&mut buffer[..100]).expect("nobody resets it");
                self.note()
            }
        }
    }
}

/// R1: they are closed with 1013 and cost memory once, not each; everybody else gets every message, and the server's
/// own counts say the same as the clients'.
#[test]
fn r1_slow_readers_in_a_crowd_are_cut_and_the_others_lose_nothing() {
    let conns = conns(2_000);
    let slow = number("WSD_TEST_SLOW").unwrap_or(conns / 5).min(conns - 1);
    let queue = QUEUE_BYTES.to_string();
    let flags = ["--threads", "4", "--admin", "127.0.0.1:0", "--queue-hard", &queue];
    let program = Program::serve(&[&flags[..], &CALM].concat());
    let (server, admin) = (program.addresses()[0], program.admin());

    let course = Arc::new(Course::default());
    let shared = Arc::clone(&course);
    let crowd = Crowd::gather(server, conns, move |part| {
        let mut readers: Vec<_> = part
            .clients
            .clone()
            .map(|number| {
                // Evenly among the others; every second one reads nothing at all.
                let pace = match (number * slow % conns < slow, number * slow / conns % 2) {
                    (false, _) => Pace::AtOnce,
                    (true, 0) => Pace::Never,
                    (true, _) => Pace::Slowly,
                };
                let inbox = Inbox::new(part.open("/rooms/crowd", pace != Pace::AtOnce));
                Reader { inbox, pace, heard: 0, closed: None, course: Arc::clone(&shared) }
            })
            .collect();
        part.has_joined();
        follow(&mut readers, Duration::from_millis(100));
        readers.into_iter().map(|it| (it.pace == Pace::AtOnce, it.heard, it.closed)).collect::<Vec<_>>()
    });
    crowd.wait();
    let mut speaker = Client::open(server, "/rooms/crowd");
    let before = program.resident_bytes();

    // Until all of them are cut, and then some more.
    let (start, mut sent, mut after) = (Instant::now(), 0, WINDOW);
    let mut say = |sent: &mut usize| {
        speaker.send(text(post(*sent)));
        speaker.assert_text(&post(*sent));
        *sent += 1;
        // Each of them, and not all together: the last one may be far behind the rest.
        let Some(late) = sent.checked_sub(WINDOW + 1) else { return };
        while !course.have_heard(conns - slow, late) {
            assert!(
                !crowd.has_failed() && start.elapsed() < LIMIT,
                "not everybody else heard message {late}"
            );
            std::thread::yield_now();
        }
    };
    while after > 0 {
        say(&mut sent);
        let now = Scrape::of(admin);
        let cut = now.value(r#"wsd_connections_closed_total{reason="slow"}"#) as usize;
        assert!(cut <= slow && now.value("wsd_queued_bytes") as usize <= conns * QUEUE_BYTES);
        after -= usize::from(cut == slow);
    }
    let grown = program.resident_bytes_max().saturating_sub(before);
    // All messages once; for each connection a list of references of 32 bytes, which may be half empty; and change.
    let bound = 2 * sent * POST_BYTES + conns * (2 * 32 * QUEUE_BYTES / POST_BYTES + 512) + (2 << 20);
    assert!(grown <= bound as u64, "{grown} bytes, at most {bound} expected");

    course.over.store(true, Ordering::Relaxed);
    let there = |count: usize| Scrape::of(admin).sum("wsd_connections") as usize == count;
    wait_until("those who were cut are gone", || there(conns - slow + 1));
    speaker.send(text("end"));
    speaker.assert_text("end");
    let readers: Vec<_> = crowd.ends().into_iter().flatten().collect();
    let (others, cut): (Vec<_>, Vec<_>) = readers.into_iter().partition(|&(reads, ..)| reads);
    assert_eq!((others.len(), cut.len()), (conns - slow, slow));
    assert!(others.iter().all(|&(_, heard, closed)| (heard, closed) == (sent, None)), "to the message");
    assert!(cut.iter().all(|&(_, heard, closed)| heard < sent && closed == Some(1013)), "{cut:?}");
    speaker.close();
    wait_until("everyone is gone", || there(0));
    let heard: usize =
        cut.iter().map(|&(_, heard, _)| heard).sum::<usize>() + (others.len() + 1) * (sent + 1);
    let end = Scrape::of(admin);
    assert_eq!(end.value("wsd_messages_delivered_total") as usize, heard);
    end.assert_balanced();
    let _ = writeln!(
        std::io::stdout(),
        "{conns} readers, {slow} of them slow: those were cut with 1013, the others heard {sent} of {sent} messages; \
         {} KiB of memory at most, {} KiB expected",
        grown / 1024,
        bound / 1024
    );
}
