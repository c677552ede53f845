//! Membership and fan-out against a model made of plain sets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{option, prop_assert, prop_assert_eq, proptest};
use wsd::Deflate;
use wsd::hub::Hub;
use wsd::hub::audience::Audience;
use wsd::hub::batch::{Batch, FrameRef, Stamp};
use wsd::proto::Frame;
use wsd::proto::deflate::{Pool, Window};

use super::cases;

const TOPICS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Order {
    Subscribe(u32, &'static str),
    Unsubscribe(u32, &'static str),
    LeaveAll(u32),
    Publish {
        topic: &'static str,
        len: usize,
        except: Option<u32>,
    },
    /// Ends the turn.
    Seal,
    /// From another worker, one message.
    Receive(&'static str),
    /// So many steps of the fan-out.
    Deliver(usize),
}

fn any_orders() -> impl Strategy<Value = Vec<Order>> {
    let slot = || 0..7u32;
    let topic = || select(TOPICS.to_vec());
    // Around the size from which a frame is not copied any more.
    let len = prop_oneof![Just(3usize), 1_000..1_050usize];
    let order = prop_oneof![
        6 => (slot(), topic()).prop_map(|(slot, topic)| Order::Subscribe(slot, topic)),
        2 => (slot(), topic()).prop_map(|(slot, topic)| Order::Unsubscribe(slot, topic)),
        1 => slot().prop_map(Order::LeaveAll),
        4 => (topic(), len, option::of(slot())).prop_map(|(topic, len, except)| Order::Publish { topic, len, except }),
        3 => any::<()>().prop_map(|()| Order::Seal),
        1 => topic().prop_map(Order::Receive),
        3 => (0..6usize).prop_map(Order::Deliver),
    ];
    vec(order, 0..60)
}

/// A message: its frame, and who does not get it.
type Published = (Vec<u8>, Option<u32>);

/// A batch on its way, and who has not had it yet.
#[derive(Debug)]
struct Job {
    topic: &'static str,
    messages: Vec<Published>,
    waiting: BTreeSet<u32>,
}

impl Job {
    fn due_to(&self, slot: u32) -> Vec<&[u8]> {
        let due = self.messages.iter().filter(|(_, except)| *except != Some(slot));
        due.map(|(frame, _)| frame.as_slice()).collect()
    }
}

#[derive(Debug, Default)]
struct Model {
    members: BTreeMap<&'static str, BTreeSet<u32>>,
    pending: BTreeMap<&'static str, Vec<Published>>,
    jobs: VecDeque<Job>,
    missed: u64,
    backlog_bytes: usize,
}

impl Model {
    fn leave(&mut self, slot: u32, topic: &str) -> bool {
        let left = self.members.get_mut(topic).is_some_and(|members| members.remove(&slot));
        for job in self.jobs.iter_mut().filter(|job| left && job.topic == topic) {
            if job.waiting.remove(&slot) {
                self.missed += job.due_to(slot).len() as u64;
            }
        }
        left
    }

    fn start(&mut self, topic: &'static str, messages: Vec<Published>) {
        let waiting = self.members.get(topic).cloned().unwrap_or_default();
        if !waiting.is_empty() {
            self.jobs.push_back(Job { topic, messages, waiting });
        }
    }
}

/// The bytes that `slot` gets of a batch, and how many messages they are said to be.
fn bytes_for(batch: &Batch, slot: u32) -> (Vec<u8>, u32) {
    let mut own = Vec::new();
    let pieces = if batch.leaves_out(slot) {
        batch.without_left_out(slot, batch.pieces(), &mut own);
        &own
    } else {
        batch.pieces()
    };
    let bytes = pieces.iter().flat_map(|piece| piece.as_bytes().to_vec()).collect();
    (bytes, pieces.iter().map(|piece| piece.messages).sum())
}

/// One step of both; false where nothing is left to deliver.
fn deliver(hub: &mut Hub, model: &mut Model, max: usize) -> bool {
    let mut slots = Vec::new();
    let Some(batch) = hub.next_deliveries(max, &mut slots) else {
        assert!(model.jobs.iter().all(|job| job.waiting.is_empty()), "left over: {:?}", model.jobs);
        model.jobs.clear();
        return false;
    };
    assert!((1..=max).contains(&slots.len()));
    slots.into_iter().for_each(|slot| deliver_to(slot, &batch, model));
    true
}

fn deliver_to(slot: u32, batch: &Batch, model: &mut Model) {
    while model.jobs.front().is_some_and(|job| job.waiting.is_empty()) {
        model.jobs.pop_front();
    }
    // Several of the model's jobs may go out as one: those of one topic, one behind the other.
    let topic = model.jobs.front().expect("a delivery that the model does not know").topic;
    let (mut due, mut left) = (Vec::new(), batch.messages() as usize);
    for job in &mut model.jobs {
        if left == 0 {
            break;
        }
        assert_eq!(job.topic, topic, "joined across another topic's batch");
        assert!(job.waiting.remove(&slot), "{slot} is no member, or had it already");
        left = left.checked_sub(job.messages.len()).expect("no part of a batch");
        due.extend(job.due_to(slot));
    }
    assert_eq!(left, 0, "more than was published");
    assert_eq!(bytes_for(batch, slot), (due.concat(), due.len() as u32));
    assert_eq!(batch.messages_for(slot), due.len() as u32);
    let mut pool = Pool::new(Deflate { min_bytes: 1, ..Deflate::default() });
    let compressed = batch.deflated(Window::MAX, &mut pool);
    let messages: u32 = compressed.iter().map(|piece| piece.messages).sum();
    assert_eq!(messages, batch.messages(), "compressed, it is the same messages");
}

fn frame_of(number: usize, len: usize) -> Frame {
    Frame::message(format!("{number:0len$}"))
}

fn carry_out(hub: &mut Hub, model: &mut Model, number: usize, order: &Order) {
    match *order {
        Order::Subscribe(slot, topic) => {
            assert_eq!(hub.subscribe(slot, topic), model.members.entry(topic).or_default().insert(slot));
        }
        Order::Unsubscribe(slot, topic) => assert_eq!(hub.unsubscribe(slot, topic), model.leave(slot, topic)),
        Order::LeaveAll(slot) => {
            hub.leave_all(slot);
            for topic in TOPICS {
                model.leave(slot, topic);
            }
        }
        Order::Publish { topic, len, except } => {
            let frame = frame_of(number, len);
            let shared = if number.is_multiple_of(2) {
                FrameRef::Shared(&frame)
            } else {
                FrameRef::Bytes(frame.as_bytes())
            };
            hub.publish(topic, shared, except, Stamp::default());
            model.pending.entry(topic).or_default().push((frame.as_bytes().to_vec(), except));
        }
        Order::Seal => {
            // Topics are sealed in the order in which they were first published to.
            let mut sealed = Vec::new();
            hub.seal(|topic, batch| sealed.push((topic.to_string(), batch.clone())));
            for (topic, batch) in sealed {
                let (topic, published) =
                    model.pending.remove_entry(topic.as_str()).expect("it was published to");
                assert_eq!(batch.messages() as usize, published.len());
                let bytes: usize = published.iter().map(|(frame, _)| frame.len()).sum();
                assert!(batch.wire_len() == bytes && batch.backlog_bytes() > bytes);
                model.backlog_bytes += batch.backlog_bytes();
                model.start(topic, published);
            }
            assert!(model.pending.is_empty() && hub.pending_bytes() == 0);
        }
        Order::Receive(topic) => {
            let mut elsewhere = Hub::default();
            let frame = frame_of(number, 5);
            elsewhere.publish(topic, FrameRef::Shared(&frame), Some(1), Stamp::default());
            elsewhere.seal(|topic, batch| {
                model.backlog_bytes += batch.backlog_bytes();
                hub.receive(topic, batch.for_other_workers());
            });
            model.start(topic, vec![(frame.as_bytes().to_vec(), None)]);
        }
        Order::Deliver(steps) => {
            for _ in 0..steps {
                if !deliver(hub, model, 1 + number % 3) {
                    break;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn members_and_deliveries_are_those_of_a_plain_model(orders in any_orders()) {
        let audience = Arc::new(Audience::new(2));
        let (mut hub, mut model) = (Hub::new(1, Arc::clone(&audience), true), Model::default());
        for (number, order) in orders.iter().enumerate() {
            carry_out(&mut hub, &mut model, number, order);
            for topic in TOPICS {
                let members = model.members.get(topic).map_or(0, BTreeSet::len);
                prop_assert_eq!(hub.member_count(topic), members);
                prop_assert!(members == 0 || audience.has(1, audience.mark(topic)), "the others must know");
            }
        }
        carry_out(&mut hub, &mut model, 0, &Order::Seal);
        while deliver(&mut hub, &mut model, 2) {}
        prop_assert!(!hub.has_work());
        prop_assert_eq!(hub.take_missed(), model.missed);
        (0..7).for_each(|slot| hub.leave_all(slot));
        for topic in TOPICS {
            prop_assert!(!audience.has(1, audience.mark(topic)) && !audience.has(0, audience.mark(topic)));
        }
        prop_assert_eq!(hub.take_finished_bytes(), model.backlog_bytes, "every batch is done with once");
    }
}
