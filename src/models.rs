//! What threads decide together, walked through in every order in which they can meet.
//!
//! [loom](https://docs.rs/loom) runs a model again and again, each time with another interleaving of its threads, and
//! with every value that an atomic may show under the memory model; a thread that nobody wakes any more is a deadlock,
//! which it reports. The code is what is shipped: `sync.rs` only has loom's locks and atomics in place of the usual
//! ones, and the event descriptor of a mailbox is [`Bell`]. `scripts/test models` runs these, and nothing else does.
//!
//! Not in here: what is a single atomic operation, such as the state of the server, and counters with one writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::model::Builder;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::hub::Hub;
use crate::hub::audience::Audience;
use crate::hub::batch::{Batch, FrameRef, Stamp};
use crate::id::Millis;
use crate::net::addresses::Addresses;
use crate::net::mailbox::{Mail, Mailbox, Wake, post_to_all};
use crate::net::pace::Pace;
use crate::net::seats::Seats;
use crate::proto::Frame;

/// How often a thread may be interrupted where it would not wait. What is wrong in a protocol of a few steps shows with
/// two of them (Musuvathi and Qadeer, PLDI 2007); without a bound some of these do not end within minutes.
const PREEMPTIONS: usize = 3;

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(run);
}

/// An event descriptor in an edge-triggered poll (epoll(7)): each write makes an edge, edges that nobody has seen are
/// one, and a poll that reports it takes it away.
#[derive(Debug)]
struct Bell {
    edge: Mutex<bool>,
    changed: Condvar,
    rings: AtomicUsize,
}

impl Wake for Arc<Bell> {
    fn wake(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        *self.edge.lock().expect("no panic") = true;
        self.changed.notify_one();
    }
}

impl Bell {
    fn new() -> Arc<Self> {
        Arc::new(Self { edge: Mutex::new(false), changed: Condvar::new(), rings: AtomicUsize::new(0) })
    }

    /// A poll without a timeout.
    fn poll(&self) {
        let mut edge = self.edge.lock().expect("no panic");
        while !*edge {
            edge = self.changed.wait(edge).expect("no panic");
        }
        *edge = false;
    }

    /// A poll that does not wait, or that something else has ended.
    fn poll_at_once(&self) {
        *self.edge.lock().expect("no panic") = false;
    }

    fn rings(&self) -> usize {
        self.rings.load(Ordering::SeqCst)
    }
}

/// A worker's mailbox, and what wakes the worker.
#[derive(Clone, Debug)]
struct Post {
    mailbox: Arc<Mailbox<Arc<Bell>>>,
    bell: Arc<Bell>,
}

impl Post {
    fn new() -> Self {
        let bell = Bell::new();
        Self { mailbox: Arc::new(Mailbox::waking(Arc::clone(&bell))), bell }
    }

    /// A thread that posts these, one after the other.
    fn sender(&self, texts: &'static [&str]) -> thread::JoinHandle<()> {
        let mailbox = Arc::clone(&self.mailbox);
        thread::spawn(move || texts.iter().for_each(|text| mailbox.publish(Arc::from(*text), batch())))
    }
}

fn batch() -> Batch {
    Batch::single(Frame::message("text"), false, Stamp::default())
}

/// The topics of these mails, in their order.
fn topics(mail: &[Mail]) -> Vec<&str> {
    let topic_of = |mail| match mail {
        &Mail::Publish { ref topic, .. } => &**topic,
        other => panic!("nobody sent {other:?}"),
    };
    mail.iter().map(topic_of).collect()
}

/// Each mail came once, and those of one sender in the order in which they were sent.
#[track_caller]
fn assert_got(mail: &[Mail], senders: &[&[&str]]) {
    let got = topics(mail);
    assert_eq!(got.len(), senders.iter().map(|sent| sent.len()).sum::<usize>(), "{got:?}");
    for sent in senders {
        let of_this: Vec<&str> = got.iter().copied().filter(|topic| sent.contains(topic)).collect();
        assert_eq!(of_this, *sent);
    }
}

#[test]
fn a_worker_never_sleeps_on_mail_and_takes_each_once() {
    model(|| {
        let post = Post::new();
        let senders = [post.sender(&["a", "b"]), post.sender(&["c"])];
        let (mut mail, mut turns) = (Vec::new(), 0);
        while mail.len() < 3 {
            post.bell.poll();
            post.mailbox.take(&mut mail);
            turns += 1;
        }
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
        assert_got(&mail, &[&["a", "b"], &["c"]]);
        let rings = post.bell.rings();
        assert!(rings <= turns + 1, "{rings} wake-ups for {turns} turns: one for each, and one for the next");
    });
}

/// A turn that other events brought about takes mail too, and with it whatever edge there is.
#[test]
fn a_turn_for_another_reason_takes_no_wake_up_away() {
    model(|| {
        let post = Post::new();
        let senders = [post.sender(&["a"]), post.sender(&["b"])];
        let mut mail = Vec::new();
        for _ in 0..2 {
            post.bell.poll_at_once();
            post.mailbox.take(&mut mail);
        }
        while mail.len() < 2 {
            post.bell.poll();
            post.mailbox.take(&mut mail);
        }
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
        assert_got(&mail, &[&["a"], &["b"]]);
    });
}

#[test]
fn until_mail_is_taken_it_rings_once() {
    model(|| {
        let post = Post::new();
        for round in 1..=2 {
            let senders = [post.sender(&["a", "b"]), post.sender(&["c"])];
            senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
            assert_eq!(post.bell.rings(), round);
            let mut mail = Vec::new();
            post.mailbox.take(&mut mail);
            assert_got(&mail, &[&["a", "b"], &["c"]]);
        }
    });
}

/// More would stop all input for good: whoever looks would see the backlog of nearly 2^64 bytes.
#[test]
fn a_backlog_is_never_less_than_nothing() {
    model(|| {
        let post = Post::new();
        let one = batch().backlog_bytes();
        let sender = post.sender(&["a", "b"]);
        let worker = {
            let post = post.clone();
            thread::spawn(move || {
                let (mut hub, mut mail) = (Hub::new(0, Arc::new(Audience::new(1)), false), Vec::new());
                let mut taken = 0;
                while taken < 2 {
                    post.bell.poll();
                    post.mailbox.take(&mut mail);
                    taken += mail.len();
                    for item in mail.drain(..) {
                        let Mail::Publish { topic, batch } = item else { panic!("nobody sent {item:?}") };
                        hub.receive(&topic, batch);
                    }
                    post.mailbox.sub_backlog(hub.take_finished_bytes());
                }
            })
        };
        let seen = post.mailbox.backlog();
        assert!(seen <= 2 * one, "{seen} bytes");
        sender.join().expect("no panic");
        worker.join().expect("no panic");
        assert_eq!(post.mailbox.backlog(), 0, "all of it was handed out");
    });
}

/// Whoever publishes because it was told that somebody is a member reaches that member, on whatever worker, and whoever
/// leaves a topic with the same count takes nobody with it.
#[test]
fn who_is_told_of_a_member_reaches_it() {
    model(|| {
        let audience = Arc::new(Audience::new(2));
        let (post, told) = (Post::new(), Arc::new((Mutex::new(false), Condvar::new())));
        let publisher = {
            let (audience, post, told) = (Arc::clone(&audience), post.clone(), Arc::clone(&told));
            thread::spawn(move || {
                let mut is_told = told.0.lock().expect("no panic");
                while !*is_told {
                    is_told = told.1.wait(is_told).expect("no panic");
                }
                drop(is_told);
                let mut hub = Hub::new(0, Arc::clone(&audience), false);
                hub.publish("room", FrameRef::Shared(&Frame::message("text")), None, Stamp::default());
                hub.seal(|topic, batch| {
                    if audience.has(1, audience.mark(topic)) {
                        post.mailbox.publish(Arc::clone(topic), batch.for_other_workers());
                    }
                });
            })
        };
        let mut hub = Hub::new(1, audience, false);
        hub.subscribe(1, "elsewhere");
        hub.subscribe(2, "room");
        *told.0.lock().expect("no panic") = true;
        told.1.notify_one();
        hub.unsubscribe(1, "elsewhere");
        let (mut mail, mut receivers) = (Vec::new(), Vec::new());
        post.bell.poll();
        post.mailbox.take(&mut mail);
        for item in mail {
            let Mail::Publish { topic, batch } = item else { panic!("nobody sent {item:?}") };
            hub.receive(&topic, batch);
        }
        assert!(hub.next_deliveries(10, &mut receivers).is_some());
        assert_eq!(receivers, [2]);
        publisher.join().expect("no panic");
    });
}

/// Two reloads at a time: all workers end with the settings that are in force.
#[test]
fn changes_reach_every_worker_in_the_same_order() {
    model(|| {
        let mailboxes = Arc::new([(); 2].map(|()| Mailbox::waking(Bell::new())));
        let present = Arc::new(crate::sync::Mutex::new("at first"));
        let reloads = ["one", "two"].map(|new| {
            let (mailboxes, present) = (Arc::clone(&mailboxes), Arc::clone(&present));
            thread::spawn(move || {
                let mut present = present.lock().expect("no panic");
                *present = new;
                post_to_all(&*mailboxes, &present, || Mail::Publish { topic: new.into(), batch: batch() });
            })
        });
        reloads.into_iter().for_each(|reload| reload.join().expect("no panic"));
        for mailbox in &*mailboxes {
            let mut mail = Vec::new();
            mailbox.take(&mut mail);
            assert_eq!(topics(&mail).last(), Some(&*present.lock().expect("no panic")));
        }
    });
}

/// How many hold something, and that it is never more than so many.
#[derive(Debug)]
struct Held {
    now: AtomicUsize,
    max: usize,
}

impl Held {
    fn none_of(max: usize) -> Arc<Self> {
        Arc::new(Self { now: AtomicUsize::new(0), max })
    }

    fn take(&self) {
        let before = self.now.fetch_add(1, Ordering::SeqCst);
        assert!(before < self.max, "one more than {}", self.max);
    }

    fn give_back(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs this on three workers, and waits for them.
fn on_three_workers(work: impl Fn() + Clone + Send + 'static) {
    let workers = [(); 3].map(|()| thread::spawn(work.clone()));
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
}

#[test]
fn no_more_connections_than_there_are_seats() {
    model(|| {
        let (seats, held) = (Arc::new(Seats::new()), Held::none_of(2));
        seats.provide(2);
        let all = Arc::clone(&seats);
        on_three_workers(move || {
            if all.take() {
                held.take();
                // Here others come and find fewer seats.
                thread::yield_now();
                held.give_back();
                all.leave();
            }
        });
        assert_eq!([(); 3].map(|()| seats.take()), [true, true, false], "all were given back");
    });
}

#[test]
fn an_address_holds_no_more_than_it_may() {
    model(|| {
        let (addresses, held) = (Arc::new(Addresses::new(2)), Held::none_of(2));
        let client = "192.0.2.1".parse().expect("an address");
        let all = Arc::clone(&addresses);
        on_three_workers(move || {
            if all.claim(client) {
                held.take();
                thread::yield_now();
                held.give_back();
                all.release(client);
            }
        });
        assert_eq!([(); 3].map(|()| addresses.claim(client)), [true, true, false], "all were given back");
    });
}

/// Three workers at one moment, and a rate of two: whoever found nobody waiting gives back what it paid.
#[test]
fn all_workers_accept_no_faster_than_the_rate() {
    model(|| {
        let (pace, now) = (Arc::new(Pace::new(2)), Millis(5_000));
        let accepted = Arc::new(AtomicUsize::new(0));
        let workers = [true, true, false].map(|waiting| {
            let (pace, accepted) = (Arc::clone(&pace), Arc::clone(&accepted));
            thread::spawn(move || match pace.take(now) {
                Ok(()) if waiting => drop(accepted.fetch_add(1, Ordering::SeqCst)),
                Ok(()) => pace.give_back(),
                Err(at) => assert_eq!(at, Millis(5_500), "when there is more"),
            })
        });
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        let left = (0..3).filter(|_| pace.take(now).is_ok()).count();
        assert_eq!(accepted.load(Ordering::SeqCst) + left, 2);
    });
}
