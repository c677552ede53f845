//! What one connection or one room may take of a worker before the others have their turn, in counts: how long that
//! takes is for `scripts/bench-fairness`.

mod common;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::{BINARY, Client, FIN, PATIENCE, Running, calm, frame, request_with, wait_until};
use wsd::apps::Broadcast;
use wsd::{App, Context, Deflate, Message, Server};

/// What a connection may have read in one turn (`READ_BYTES` in `net/socket.rs`).
const SHARE_BYTES: usize = 64 * 1024;

/// The most deliveries in one turn (`ALONE` in `net/worker/share.rs`).
const DELIVERIES: u64 = 128;

/// Writes down what comes from whom, and can be held up in the middle of a turn.
#[derive(Default)]
struct Diary {
    /// The first byte of each message, and how long it is.
    entries: Mutex<Vec<(u8, usize)>>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    /// A worker stands before it.
    Shut,
}

impl Diary {
    /// Called by the worker: it stays here until it is let go, by a test that waits for several things before.
    fn hold(&self) {
        self.set(Gate::Shut);
        self.wait_for(Gate::Open, 4 * PATIENCE);
    }

    fn set(&self, gate: Gate) {
        *self.gate.lock().expect("no panic") = gate;
        self.changed.notify_all();
    }

    fn wait_for(&self, wanted: Gate, patience: Duration) {
        let gate = self.gate.lock().expect("no panic");
        let waited =
            self.changed.wait_timeout_while(gate, patience, |gate| *gate != wanted).expect("no panic");
        assert!(!waited.1.timed_out(), "never {wanted:?}");
    }
}

struct Writer(Arc<Diary>);

impl App for Writer {
    fn on_message(&mut self, _: &mut Context<'_>, message: Message<'_>) {
        let bytes = message.as_bytes();
        match bytes[0] {
            b'h' => self.0.hold(),
            who => self.0.entries.lock().expect("no panic").push((who, bytes.len())),
        }
    }
}

/// Whether the kernel holds bytes of all these clients for the server. One look at the table, which is long where
/// others have many sockets.
fn have_sent(server: SocketAddr, clients: &[Client]) -> bool {
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux");
    // `sl local remote state sent:received ...`: the server's ends with something received.
    let local = format!(":{:04X}", server.port());
    let waiting = |row: &str| {
        let words: Vec<&str> = row.split_whitespace().take(5).collect();
        let received = words.get(4)?.split_once(':')?.1;
        (words[1].ends_with(&local) && received != "00000000").then(|| words[2].to_owned())
    };
    let waiting: HashSet<String> = table.lines().filter_map(waiting).collect();
    clients.iter().all(|client| waiting.contains(&format!("0100007F:{:04X}", client.address().port())))
}

#[test]
fn r9_a_chatty_connection_has_one_share_before_the_others_have_theirs() {
    let diary = Arc::new(Diary::default());
    let server = {
        let diary = Arc::clone(&diary);
        Running::app(1, calm(), move || Writer(Arc::clone(&diary)))
    };
    let (mut holder, chatty) = (server.open("/"), [server.open("/")]);
    let mut quiet = server.open_many("/", 10);
    holder.send(frame(FIN | BINARY, b"h"));
    diary.wait_for(Gate::Shut, PATIENCE);

    // While the worker stands still, all of them send: who has the most to say, first.
    let flood = frame(FIN | BINARY, &[b'c'; 1000]).repeat(2_000);
    let sender = chatty[0].send_in_background(flood);
    wait_until("it is the first with something to say", || have_sent(server.address, &chatty));
    for client in &mut quiet {
        client.send(frame(FIN | BINARY, b"q"));
    }
    wait_until("everybody has said something", || have_sent(server.address, &quiet));
    diary.set(Gate::Open);
    sender.join().expect("all of it is taken");
    server.wait("all is read", |metrics| metrics.messages_in == 1 + 2_000 + 10);

    let entries = diary.entries.lock().expect("no panic");
    let last = entries.iter().rposition(|&(who, _)| who == b'q').expect("the others were heard");
    let before: usize = entries[..last].iter().filter(|&&(who, _)| who == b'c').map(|&(_, len)| len).sum();
    assert!(before > 0, "it was the first");
    assert!(before <= SHARE_BYTES, "{before} bytes were read of one before the last of the others was heard");
    drop(entries);
    quiet.into_iter().chain(chatty).chain([holder]).for_each(Client::close);
    server.finish();
}

/// One room for everybody, in which whoever says something holds the worker up in the middle of a turn.
struct Room(Arc<Diary>);

impl App for Room {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe("room");
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: Message<'_>) {
        self.0.hold();
    }
}

#[test]
fn r9_a_room_has_so_many_deliveries_in_a_turn_and_not_one_more() {
    // One more than five turns have.
    const MEMBERS: u64 = 5 * DELIVERIES + 1;
    let diary = Arc::new(Diary::default());
    let server = {
        let diary = Arc::clone(&diary);
        Running::app(1, calm(), move || Room(Arc::clone(&diary)))
    };
    let mut members = server.open_many("/", MEMBERS as usize);
    // While nobody else wants anything a turn has the most deliveries. What was wanted is counted over a time.
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(50));
        let turns = server.metrics().turns;
        server.remote().publish("nobody", "?");
        server.wait("a turn", |metrics| metrics.turns > turns);
    }
    members[0].send(frame(FIN | BINARY, b"h"));
    diary.wait_for(Gate::Shut, PATIENCE);
    // The turn in which the worker stands is counted, and the first of those that deliver.
    let before = server.metrics();
    assert_eq!(before.delivered, 0);
    server.remote().publish("room", "to all");
    diary.set(Gate::Open);
    let after = server.wait("everyone has it", |metrics| metrics.delivered == MEMBERS);
    let turns = 1 + after.turns - before.turns;
    assert!(turns > 5, "{MEMBERS} deliveries in {turns} turns");
    drop(members);
    server.finish();
}

/// Compressed for each member by itself, a large message is far more work than a delivery.
#[test]
fn r9_what_is_compressed_for_one_member_counts_by_its_size() {
    let deflate = Deflate { takeover: true, ..Deflate::default() };
    let builder = Server::builder().threads(1).limits(calm()).deflate(deflate);
    let server = Running::start(builder.app(Broadcast::by_path));
    let members: Vec<Client> = (0..20)
        .map(|_| {
            let mut member = server.connect();
            member.send(request_with("/room", "Sec-WebSocket-Extensions: permessage-deflate\r\n"));
            assert!(member.assert_upgraded().contains("permessage-deflate"));
            member
        })
        .collect();
    let turns = |bytes: usize| {
        let before = server.metrics();
        server.remote().publish("/room", "x".repeat(bytes));
        let after = server.wait("everyone has it", |metrics| metrics.delivered == before.delivered + 20);
        after.turns - before.turns
    };
    let (small, large) = (turns(2_000), turns(DELIVERIES as usize * 1024));
    assert!(small < 10 && large > 15, "{small} turns for a small message, {large} for a large one");
    drop(members);
    server.finish();
}
