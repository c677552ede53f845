//! Fan-out within a worker and across workers: the same suite on one worker and on four. Each test ends with the
//! ledger: every message that was due to a member was delivered, or dropped for a reason that is counted.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::{BINARY, CLOSE, Client, FIN, Running, TEXT, calm, close, frame, text};
use wsd::apps::Broadcast;
use wsd::{App, Close, Context, Limits, Message};

macro_rules! on_one_worker_and_on_four {
    ($($name:ident)+) => {
        mod one_worker {
            $(#[test] fn $name() { super::$name(1); })+
        }
        mod four_workers {
            $(#[test] fn $name() { super::$name(4); })+
        }
    };
}

on_one_worker_and_on_four! {
    everyone_gets_every_message_once_and_in_order
    the_sender_is_left_out_of_its_own
    large_and_small_messages_keep_their_order_and_type
    rooms_hear_nothing_of_each_other
    a_member_can_join_leave_and_be_in_several_topics
    what_is_published_from_outside_reaches_all
    what_is_said_right_before_a_close_is_heard
    a_room_larger_than_one_turn
    members_that_vanish_from_a_large_room
    churn_loses_nothing_of_those_who_stay
    what_was_handed_out_is_forgotten
    a_slow_reader_is_closed_and_the_others_lose_nothing
    a_reader_without_progress_is_closed
}

/// No limit on what may wait: the tests below read one client after another.
fn roomy() -> Limits {
    Limits { queue_hard: 1 << 30, ..calm() }
}

fn rooms(threads: usize, limits: Limits) -> Running {
    Running::app(threads, limits, Broadcast::by_path)
}

/// Reads `senders` x `each` messages of the form `sender:number`, in any mixture of senders, but each sender's in
/// the order of their numbers.
#[track_caller]
fn assert_hears(member: &mut Client, senders: &[usize], each: usize) {
    let mut next = vec![0; senders.iter().max().map_or(0, |max| max + 1)];
    for _ in 0..senders.len() * each {
        let frame = member.read_frame();
        let text = String::from_utf8(frame.payload).expect("text");
        let (sender, number) = text.split_once(':').expect("sender:number");
        let (sender, number): (usize, usize) =
            (sender.parse().expect("a number"), number.parse().expect("a number"));
        assert!(senders.contains(&sender), "{text} is not for this member");
        assert_eq!(number, next[sender], "from sender {sender}: lost, doubled or out of order");
        next[sender] += 1;
    }
}

fn everyone_gets_every_message_once_and_in_order(threads: usize) {
    let server = rooms(threads, roomy());
    let mut members = server.open_many("/room", 12);
    for number in 0..200 {
        for (sender, member) in members.iter_mut().enumerate().take(3) {
            member.send(text(format!("{sender}:{number}")));
        }
    }
    members.iter_mut().for_each(|member| assert_hears(member, &[0, 1, 2], 200));
    members.into_iter().for_each(Client::close);
    let metrics = server.finish();
    assert_eq!((metrics.published, metrics.due, metrics.delivered), (600, 7_200, 7_200));
}

fn the_sender_is_left_out_of_its_own(threads: usize) {
    let server = Running::app(threads, roomy(), || Broadcast::by_path().skip_sender(true));
    let mut members = server.open_many("/room", 8);
    for number in 0..50 {
        for (sender, member) in members.iter_mut().enumerate() {
            member.send(text(format!("{sender}:{number}")));
        }
    }
    for (index, member) in members.iter_mut().enumerate() {
        let others: Vec<usize> = (0..8).filter(|&sender| sender != index).collect();
        assert_hears(member, &others, 50);
    }
    // Closing in good order shows that nothing else has come.
    members.into_iter().for_each(Client::close);
    let metrics = server.finish();
    assert_eq!((metrics.published, metrics.due, metrics.delivered), (400, 2_800, 2_800));
}

fn large_and_small_messages_keep_their_order_and_type(threads: usize) {
    let server = Running::app(threads, roomy(), || Broadcast::by_path().skip_sender(true));
    let mut sender = server.open("/room");
    let mut members = server.open_many("/room", 5);
    // Around the size from which frames are shared rather than copied, and around those of the length field.
    let sizes =
        [0, 1, 125, 126, 1019, 1020, 1023, 1024, 1025, 4, 65_535, 65_536, 100 * 1024, 7, 100 * 1024, 1, 2];
    for (index, &size) in sizes.iter().enumerate() {
        let opcode = if index % 3 == 1 { BINARY } else { TEXT };
        sender.send(frame(FIN | opcode, &vec![b'a' + index as u8; size]));
    }
    for member in &mut members {
        for (index, &size) in sizes.iter().enumerate() {
            let expected = vec![b'a' + index as u8; size];
            if index % 3 == 1 {
                member.assert_binary(&expected);
            } else {
                member.assert_text(&String::from_utf8(expected).expect("ASCII"));
            }
        }
    }
    members.into_iter().chain([sender]).for_each(Client::close);
    assert_eq!(server.finish().delivered, 5 * sizes.len() as u64);
}

fn rooms_hear_nothing_of_each_other(threads: usize) {
    let server = rooms(threads, roomy());
    let paths = ["/a", "/b", "/a/", "/A"];
    let mut rooms: Vec<Vec<Client>> = paths.iter().map(|path| server.open_many(path, 4)).collect();
    for number in 0..30 {
        for (sender, member) in rooms.iter_mut().flatten().enumerate() {
            member.send(text(format!("{sender}:{number}")));
        }
    }
    for (room, members) in rooms.iter_mut().enumerate() {
        let senders: Vec<usize> = (4 * room..4 * room + 4).collect();
        members.iter_mut().for_each(|member| assert_hears(member, &senders, 30));
    }
    rooms.into_iter().flatten().for_each(Client::close);
    assert_eq!(server.finish().due, 4 * 4 * 4 * 30);
}

/// Does as it is told: `+topic` and `-topic` join and leave, `=topic text` publishes, `?` is answered.
struct Obedient;

impl App for Obedient {
    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        let order = message.as_text().unwrap_or_default();
        match (order.split_at_checked(1), order.split_once(' ')) {
            (Some(("+", topic)), _) => cx.subscribe(topic),
            (Some(("-", topic)), _) => cx.unsubscribe(topic),
            (Some(("=", _)), Some((topic, text))) => cx.publish(&topic[1..], text),
            _ => cx.send("!"),
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_>, close: &Close) {
        cx.publish("closes", close.code.get().to_string());
    }
}

/// Tells a client's app something, and waits until it has been done.
#[track_caller]
fn tell(client: &mut Client, orders: &[&str]) {
    let bytes: Vec<u8> = orders.iter().chain(&["?"]).flat_map(text).collect();
    client.send(bytes);
    client.assert_text("!");
}

fn a_member_can_join_leave_and_be_in_several_topics(threads: usize) {
    let server = Running::app(threads, roomy(), || Obedient);
    let [mut speaker, mut one, mut two] = [(); 3].map(|()| server.open("/"));
    tell(&mut one, &["+a", "+b", "+a", "-nothing"]);
    tell(&mut two, &["+b", "+c", "-c"]);
    // Each in a turn of its own, so that whoever has heard the next one is past it: other workers take mail in order.
    for order in ["=c to nobody", "=a to a", "=b to b"] {
        tell(&mut speaker, &[order]);
    }
    one.assert_text("to a");
    one.assert_text("to b");
    two.assert_text("to b");
    tell(&mut one, &["-a", "-a", "+c"]);
    for order in ["=a to nobody", "=c to c", "=b past it"] {
        tell(&mut speaker, &[order]);
    }
    one.assert_text("to c");
    one.assert_text("past it");
    two.assert_text("past it");
    // A topic that everyone has left can be joined anew, and what an app publishes on a close is heard. Whoever joins
    // may hear what is still under way between the workers, but there is nothing.
    tell(&mut two, &["+a", "+closes"]);
    tell(&mut speaker, &["=a again"]);
    two.assert_text("again");
    one.send(close(4000, b""));
    one.assert_close(4000);
    two.assert_text("4000");
    two.close();
    speaker.close();
    assert_eq!(server.finish().published, 7 + 3);
}

fn what_is_published_from_outside_reaches_all(threads: usize) {
    let server = rooms(threads, roomy());
    let mut members = server.open_many("/room", 10);
    let mut elsewhere = server.open("/elsewhere");
    let publishers: Vec<_> = (0..3)
        .map(|sender| {
            let remote = server.remote().clone();
            std::thread::spawn(move || {
                for number in 0..100 {
                    remote.publish("/room", format!("{sender}:{number}"));
                    remote.publish("/nobody", "?");
                }
            })
        })
        .collect();
    members[0].send(text("3:0"));
    publishers.into_iter().for_each(|publisher| publisher.join().expect("no panic"));
    server.remote().publish("/elsewhere", vec![0xff; 5000]);
    elsewhere.assert_binary(&[0xff; 5000]);
    for member in &mut members {
        let mut next = [0; 4];
        for _ in 0..301 {
            let text = String::from_utf8(member.read_frame().payload).expect("text");
            let (sender, number) = text.split_once(':').expect("sender:number");
            let sender: usize = sender.parse().expect("a number");
            assert_eq!(number, next[sender].to_string());
            next[sender] += 1;
        }
    }
    members.into_iter().chain([elsewhere]).for_each(Client::close);
    assert_eq!(server.finish().due, 10 * 301 + 1);
}

fn what_is_said_right_before_a_close_is_heard(threads: usize) {
    let server = rooms(threads, roomy());
    let mut member = server.open("/room");
    for number in 0..20 {
        let mut leaver = server.open("/room");
        leaver.send([text(format!("0:{number}")), close(1000, b"")].concat());
        // What it said itself reaches it only if the Close does not come first, and it does: it left its topics.
        leaver.assert_close(1000);
        leaver.assert_eof();
    }
    assert_hears(&mut member, &[0], 20);
    member.close();
    assert_eq!(server.finish().closed_by_peer, 21);
}

/// More members on each worker than it delivers to in a turn, and more messages while it does.
fn a_room_larger_than_one_turn(threads: usize) {
    let server = rooms(threads, roomy());
    let mut members = server.open_many("/room", 400 * threads);
    for number in 0..20 {
        for (sender, member) in members.iter_mut().enumerate().take(2) {
            member.send(text(format!("{sender}:{number}")));
        }
    }
    members.iter_mut().for_each(|member| assert_hears(member, &[0, 1], 20));
    let due = 40 * members.len() as u64;
    drop(members);
    let metrics = server.finish();
    assert_eq!((metrics.due, metrics.delivered), (due, due));
}

/// Half of a large room leaves, by Close or by reset, while there is much to hand out.
fn members_that_vanish_from_a_large_room(threads: usize) {
    let server = rooms(threads, roomy());
    let mut stay = server.open_many("/room", 100 * threads);
    let mut leave = server.open_many("/room", 200 * threads);
    let mut speaker = server.open("/room");
    for number in 0..50 {
        speaker.send(text(format!("0:{number}")));
        for _ in 0..4 * threads {
            match leave.pop() {
                Some(mut member) if number % 2 == 0 => member.send(close(1000, b"")),
                Some(member) => member.reset(),
                None => {}
            }
        }
    }
    stay.iter_mut().for_each(|member| assert_hears(member, &[0], 50));
    drop((stay, speaker));
    let metrics = server.finish();
    assert_eq!(metrics.opened, 300 * threads as u64 + 1);
    assert_eq!(metrics.dropped_slow, 0);
}

fn churn_loses_nothing_of_those_who_stay(threads: usize) {
    let server = Running::app(threads, roomy(), || Obedient);
    let mut witness = server.open("/");
    tell(&mut witness, &["+room"]);
    let mut speaker = server.open("/");
    let address = server.address;
    let churners: Vec<_> = (0..2)
        .map(|churner| {
            std::thread::spawn(move || {
                for round in 0..60 {
                    let mut client = Client::open(address, "/");
                    client
                        .send([text("+room"), text("+closes"), text("=room churn"), text("-room")].concat());
                    match (churner + round) % 3 {
                        0 => client.send(close(1000, b"")),
                        1 => client.reset(),
                        // What drops a socket with unread bytes resets it; this one ends in good order.
                        _ => client.shutdown_write(),
                    }
                }
            })
        })
        .collect();
    for number in 0..300 {
        speaker.send(text(format!("=room 0:{number}")));
    }
    churners.into_iter().for_each(|churner| churner.join().expect("no panic"));
    let mut next = 0;
    while next < 300 {
        let text = String::from_utf8(witness.read_frame().payload).expect("text");
        match text.strip_prefix("0:") {
            Some(number) => {
                assert_eq!(number, next.to_string());
                next += 1;
            }
            None => assert_eq!(text, "churn"),
        }
    }
    drop((witness, speaker));
    let metrics = server.finish();
    assert_eq!((metrics.opened, metrics.dropped_slow), (122, 0));
}

/// Input is not read while too much waits to be handed out, on any worker: if the books of that were wrong, nobody
/// would be heard any more after a while.
fn what_was_handed_out_is_forgotten(threads: usize) {
    let server = rooms(threads, roomy());
    let mut members = server.open_many("/room", 3);
    let large = frame(FIN | BINARY, &[7; 1 << 20]);
    for round in 0..20 {
        members[round % 3].send(&large);
        server.remote().publish("/nobody", vec![7; 1 << 20]);
        // Leaves before it has got what it is due.
        let mut leaver = server.open("/room");
        leaver.send(&large);
        leaver.reset();
        members.iter_mut().for_each(|member| assert_eq!(member.read_frame().payload.len(), 1 << 20));
    }
    let mut late = server.open("/elsewhere");
    late.send(text("still heard"));
    late.assert_text("still heard");
    drop((members, late));
    server.finish();
}

const TOPICS_EACH: usize = 1_000;
const MEMBERS: usize = 40;

/// Members of topics of their own. `all` publishes to every one of them; each message is read when the test says so.
#[derive(Clone)]
struct Stepwise(Arc<Barrier>);

impl App for Stepwise {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        if cx.path().starts_with("/member/") {
            (0..TOPICS_EACH).for_each(|topic| cx.subscribe(&format!("{}/{topic}", cx.path())));
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        if message.as_bytes() == b"all" {
            let topics = (0..MEMBERS).flat_map(|member| (0..TOPICS_EACH).map(move |topic| (member, topic)));
            topics.for_each(|(member, topic)| cx.publish(&format!("/member/{member}/{topic}"), "x"));
        }
        // Begun, and let go on.
        self.0.wait();
        self.0.wait();
    }
}

/// What a batch costs us while it waits is far more than a message of one byte.
#[test]
fn many_small_batches_hold_input_up_before_they_fill_the_memory() {
    let step = Arc::new(Barrier::new(2));
    let app = Stepwise(Arc::clone(&step));
    let server = Running::app(1, roomy(), move || app.clone());
    let members: Vec<_> = (0..MEMBERS).map(|member| server.open(&format!("/member/{member}"))).collect();
    let (mut publisher, mut other) = (server.open("/"), server.open("/"));
    publisher.send(text("all"));
    step.wait();
    other.send(text("and this"));
    step.wait();
    // The other one's message is read.
    step.wait();
    let due = server.metrics().due;
    step.wait();
    let batches = (MEMBERS * TOPICS_EACH) as u64;
    // 8 MiB wait at most, and each batch is 256 bytes beside its frame of 3.
    let waiting = 8 * 1024 * 1024 / 259;
    assert!(due >= batches - waiting && due < batches, "{due} of {batches} handed out");
    server.wait("the others follow", |metrics| metrics.due == batches);
    members.into_iter().chain([publisher, other]).for_each(Client::reset);
    server.finish();
}

/// Publishes a mebibyte for each message, when the test says so.
#[derive(Clone)]
struct Mebibytes(Arc<Barrier>);

impl App for Mebibytes {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe(cx.path());
    }

    fn on_message(&mut self, cx: &mut Context<'_>, _: Message<'_>) {
        self.0.wait();
        cx.publish("/member", vec![7; 1 << 20]);
        self.0.wait();
    }
}

/// It is not handed out before the turn ends: who has waited until the others were read is no exception.
#[test]
fn one_turn_takes_no_more_in_than_may_wait() {
    const MESSAGES: usize = 20;
    let step = Arc::new(Barrier::new(2));
    let app = Mebibytes(Arc::clone(&step));
    let server = Running::app(1, roomy(), move || app.clone());
    let member = server.open("/member");
    let mut clients = server.open_many("/", MESSAGES);
    clients[0].send(text("?"));
    step.wait();
    // They are all there when the next turn begins.
    clients[1..].iter_mut().for_each(|client| client.send(text("?")));
    step.wait();
    let mut by_turn = BTreeMap::<u64, usize>::new();
    for _ in 1..MESSAGES {
        step.wait();
        *by_turn.entry(server.metrics().turns).or_default() += 1;
        step.wait();
    }
    assert!(by_turn.values().all(|&messages| messages <= 9), "8 MiB and one more: {by_turn:?}");
    clients.into_iter().chain([member]).for_each(Client::reset);
    server.finish();
}

/// What a member got that stopped reading: the first messages of 1 KiB, whole and in order, and then
/// a Close with 1013. Gives how many messages.
#[track_caller]
fn read_prefix_and_1013(slow: &mut Client) -> usize {
    slow.widen();
    for got in 0.. {
        let frame = slow.read_frame();
        if frame.opcode == CLOSE {
            assert_eq!(frame.payload.first_chunk(), Some(&1013u16.to_be_bytes()));
            return got;
        }
        assert_eq!(frame.payload, numbered(got), "after {got} messages");
    }
    unreachable!("every stream ends")
}

/// A message of 1 KiB.
fn numbered(number: usize) -> Vec<u8> {
    format!("{number:01024}").into_bytes()
}

fn a_slow_reader_is_closed_and_the_others_lose_nothing(threads: usize) {
    let server = rooms(threads, Limits { queue_hard: 64 * 1024, ..calm() });
    let mut slow = Client::open_small(server.address, "/room");
    let mut others = server.open_many("/room", 6);
    let mut sent = 0;
    // In steps that everyone else has read before the next: a busy machine makes nobody else slow.
    let start = Instant::now();
    while server.metrics().closed_slow == 0 {
        assert!(start.elapsed() < common::PATIENCE, "{sent} KiB wait for somebody who does not read");
        (sent..sent + 8).for_each(|number| others[0].send(text(String::from_utf8_lossy(&numbered(number)))));
        for other in &mut others {
            (sent..sent + 8).for_each(|number| assert_eq!(other.read_frame().payload, numbered(number)));
        }
        sent += 8;
        assert!(server.metrics().queued_bytes <= 64 * 1024 + 100, "the queue, and a Close");
    }
    others[0].send(text("after"));
    others.iter_mut().for_each(|other| other.assert_text("after"));

    let got = read_prefix_and_1013(&mut slow);
    assert!(got < sent, "{got} of {sent} were delivered to somebody slow");
    slow.send(close(1013, b""));
    slow.assert_eof();
    others.into_iter().for_each(Client::close);
    let metrics = server.finish();
    assert_eq!((metrics.closed_slow, metrics.closed_by_peer), (1, 6));
    assert_eq!(metrics.delivered, 6 * (sent as u64 + 1) + got as u64);
    assert!(metrics.dropped_slow > 0);
}

fn a_reader_without_progress_is_closed(threads: usize) {
    let limits = Limits { progress_timeout: Duration::from_millis(300), ..roomy() };
    let server = rooms(threads, limits);
    let mut slow = Client::open_small(server.address, "/room");
    let mut other = server.open("/room");
    for number in 0..300 {
        other.send(text(String::from_utf8_lossy(&numbered(number))));
        assert_eq!(other.read_frame().payload, numbered(number));
    }
    server.wait("no progress is noticed", |metrics| metrics.closed_slow == 1);
    other.send(text("after"));
    other.assert_text("after");
    // It still has the time of a closing handshake to come back and hear why.
    server.assert_stays("the slow one is waited for", Duration::from_millis(700), |metrics| {
        metrics.connections == 2
    });
    let got = read_prefix_and_1013(&mut slow);
    slow.send(close(1013, b""));
    slow.assert_eof();
    other.close();
    let metrics = server.finish();
    assert_eq!(metrics.delivered, 301 + got as u64);
    // On a busy machine it was closed before the last of them, which were not for it any more.
    assert_eq!(metrics.dropped_slow, metrics.due - metrics.delivered);
    assert!(metrics.dropped_slow > 0 && metrics.due <= 601, "{metrics:#?}");
}
