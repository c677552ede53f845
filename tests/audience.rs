//! Workers hear of a publish only where they have members for it, and whoever has been told that it is a member misses
//! nothing that is published from then on.

mod common;

use common::{Client, Running, calm, text};
use wsd::apps::Broadcast;
use wsd::{App, Builder, Context, Message, Server};

/// Does as it is told: `+topic` joins, `-topic` leaves, `=topic text` publishes; each is answered with `!`.
struct Obedient;

impl App for Obedient {
    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        let order = message.as_text().unwrap_or_default();
        match order.split_at_checked(1) {
            Some(("+", topic)) => cx.subscribe(topic),
            Some(("-", topic)) => cx.unsubscribe(topic),
            Some(("=", what)) => {
                let (topic, text) = what.split_once(' ').expect("a topic and a text");
                cx.publish(topic, text);
            }
            _ => {}
        }
        cx.send("!");
    }
}

fn workers(threads: usize) -> Builder {
    Server::builder().threads(threads).limits(calm())
}

#[track_caller]
fn tell(client: &mut Client, order: &str) {
    client.send(text(order));
    client.assert_text("!");
}

#[test]
fn a_worker_without_members_is_not_woken() {
    let handle = workers(2).listen("127.0.0.1:0").app(Broadcast::by_path).start().expect("it starts");
    let address = handle.addresses()[0];
    let mut member = Client::open(address, "/room");
    // Workers come to rest once they have started: the idle one's turns are what they are.
    let idle = handle.worker_metrics().iter().position(|worker| worker.opened == 0).expect("one of two");
    member.send(text("first"));
    member.assert_text("first");
    let before = handle.worker_metrics()[idle].turns;
    for number in 0..100 {
        member.send(text(number.to_string()));
        member.assert_text(&number.to_string());
    }
    let after = handle.worker_metrics();
    assert_eq!(after[idle].turns, before, "nothing is for it");
    assert!(after[1 - idle].turns >= 100);
    drop(member);
    handle.shutdown().expect("no worker fails");
}

#[test]
fn who_was_told_that_it_is_a_member_misses_nothing() {
    let server = Running::start(workers(4).app(|| Obedient));
    let mut speakers = server.open_many("/", 4);
    let mut members = server.open_many("/", 12);
    for round in 0..1_200 {
        // Again and again a topic has its first member on a worker, and is left by its last.
        let topic = format!("topic{}", round % 7);
        let (member, speaker) = (&mut members[round % 12], &mut speakers[round % 4]);
        hear(member, &format!("+{topic}"), "!");
        tell(speaker, &format!("={topic} {round}"));
        hear(member, "", &round.to_string());
        hear(member, &format!("-{topic}"), "!");
    }
    speakers.into_iter().chain(members).for_each(Client::close);
    assert_eq!(server.finish().published, 1_200);
}

/// Sends an order, if there is one, and reads on to this text. What others were told before may come late: it is on its
/// way to several workers, and reaches some of them before the rest.
#[track_caller]
fn hear(client: &mut Client, order: &str, expected: &str) {
    if !order.is_empty() {
        client.send(text(order));
    }
    while client.read_frame().payload != expected.as_bytes() {}
}
