//! An app that panics now and then.

use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Once};

use wsd::{App, Context, Message};

use crate::common::{Client, Running, calm, text};
use crate::number;

const PANICS_EVERY: u64 = 10_000;
const CONNECTIONS: usize = 32;
/// Messages of each connection that are under way at once.
const WINDOW: usize = 50;

const TOLD: &str = "told to";

/// Echoes, and panics at every so manieth message of all workers together.
struct Trap {
    heard: Arc<AtomicU64>,
}

impl App for Trap {
    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        if (self.heard.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(PANICS_EVERY) {
            panic!("{TOLD}");
        }
        cx.send(message);
    }
}

/// Panics that a test asks for say nothing; others do.
fn expect_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Of a literal, or of one that was written into a text.
            let said = info.payload().downcast_ref::<&str>().copied();
            if said.or_else(|| info.payload().downcast_ref::<String>().map(String::as_str)) != Some(TOLD) {
                usual(info);
            }
        }));
    });
}

/// What some connections came to.
#[derive(Default)]
struct Tally {
    answers: u64,
    cut: u64,
}

/// Sends a window on each connection, then reads the answers. One that is closed has all answers up to the message that
/// its app did not survive, and comes back.
fn exchange(server: std::net::SocketAddr, clients: &mut [Client], from: u64, tally: &mut Tally) {
    let texts: Vec<String> = (0..WINDOW as u64).map(|index| format!("{:012}", from + index)).collect();
    let window: Vec<u8> = texts.iter().flat_map(text).collect();
    clients.iter_mut().for_each(|client| client.send(&window));
    for client in clients {
        for expected in &texts {
            let frame = client.read_frame();
            if frame.opcode == crate::common::CLOSE {
                assert_eq!(frame.payload[..2], 1011u16.to_be_bytes(), "{frame:?}");
                client.send(crate::common::close(1011, b""));
                client.assert_eof();
                *client = Client::open(server, "/");
                tally.cut += 1;
                break;
            }
            assert_eq!(frame.payload, expected.as_bytes(), "in order, and none left out");
            tally.answers += 1;
        }
    }
}

#[test]
fn an_app_that_panics_once_in_10_000_messages_costs_one_connection_each_time() {
    let messages = number("WSD_TEST_MESSAGES", 60_000);
    expect_panics();
    for threads in [1, 2] {
        let heard = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&heard);
        let server = Running::app(threads, calm(), move || Trap { heard: Arc::clone(&shared) });
        let address = server.address;
        let parts: Vec<_> = (0..2)
            .map(|_| {
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || {
                    let mut clients: Vec<Client> =
                        (0..CONNECTIONS / 2).map(|_| Client::open(address, "/")).collect();
                    let (mut tally, mut from) = (Tally::default(), 0);
                    while heard.load(Ordering::Relaxed) < messages {
                        exchange(address, &mut clients, from, &mut tally);
                        from += WINDOW as u64;
                    }
                    clients.into_iter().for_each(Client::close);
                    tally
                })
            })
            .collect();
        let tallies: Vec<Tally> =
            parts.into_iter().map(|part| part.join().expect("no client fails")).collect();
        let answers: u64 = tallies.iter().map(|tally| tally.answers).sum();
        let cut: u64 = tallies.iter().map(|tally| tally.cut).sum();
        let metrics = server.finish();
        let heard = heard.load(Ordering::Relaxed);
        assert_eq!((cut, answers), (heard / PANICS_EVERY, heard - cut), "{heard} messages");
        assert_eq!((metrics.app_panics, metrics.closed_by_server), (cut, cut));
        assert_eq!((metrics.messages_in, metrics.delivered), (heard, answers));
        let opened = CONNECTIONS as u64 + cut;
        assert_eq!((metrics.opened, metrics.closed_by_peer), (opened, CONNECTIONS as u64));
        println!(
            "{threads} threads: {heard} messages, {cut} panics, {answers} answers, {opened} connections"
        );
    }
}

/// Does as it is told by its clients.
struct Gate(Arc<Barrier>);

impl App for Gate {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe("all");
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        match message.as_text() {
            Some("wait") => {
                self.0.wait();
                self.0.wait();
            }
            Some("panic") => panic!("{TOLD}"),
            _ => {
                cx.send("mine");
                cx.publish("all", message);
            }
        }
    }
}

#[test]
fn a_panic_leaves_the_rest_of_its_turn_as_it_was() {
    expect_panics();
    let gate = Arc::new(Barrier::new(2));
    let shared = Arc::clone(&gate);
    let server = Running::app(1, calm(), move || Gate(Arc::clone(&shared)));
    let mut waits = server.open("/");
    let mut clients = server.open_many("/", 5);
    waits.send(text("wait"));
    gate.wait();
    // The worker stands in a callback: what comes now is there together when it looks again.
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(if index == 2 {
            [text("before"), text("panic"), text("after")].concat()
        } else {
            text("hello")
        });
    }
    gate.wait();
    for (index, client) in clients.iter_mut().enumerate() {
        if index == 2 {
            // Its orders up to the panic were carried out; it is in no topic any more, and gets nothing else.
            client.assert_text("mine");
            client.assert_closes_with(1011);
            continue;
        }
        client.assert_text("mine");
        let mut said: Vec<Vec<u8>> = (0..5).map(|_| client.read_frame().payload).collect();
        said.sort_unstable();
        assert_eq!(said, [&b"before"[..], b"hello", b"hello", b"hello", b"hello"]);
    }
    (0..5).for_each(|_| drop(waits.read_frame()));
    waits.close();
    clients.remove(2);
    clients.into_iter().for_each(Client::close);
    let metrics = server.finish();
    assert_eq!((metrics.app_panics, metrics.closed_by_server, metrics.published), (1, 1, 5));
}
