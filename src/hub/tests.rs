use super::batch::{FrameRef, Stamp};
use super::*;
use crate::proto::Frame;

fn publish(hub: &mut Hub, topic: &str, text: &str) {
    hub.publish(topic, FrameRef::Shared(&Frame::message(text)), None, Stamp::default());
}

/// Everything that is due now: `(member, bytes)` in order.
fn deliveries(hub: &mut Hub) -> Vec<(u32, String)> {
    let mut out = Vec::new();
    while let Some(delivery) = next(hub) {
        out.push(delivery);
    }
    out
}

fn next(hub: &mut Hub) -> Option<(u32, String)> {
    let mut slots = Vec::new();
    let batch = hub.next_deliveries(1, &mut slots)?;
    let [slot] = slots[..] else { panic!("one was asked for: {slots:?}") };
    let bytes: Vec<u8> = batch.pieces().iter().flat_map(|piece| piece.as_bytes().to_vec()).collect();
    // Each text is one letter, in a frame of three bytes.
    Some((slot, bytes.chunks(3).map(|frame| char::from(frame[2])).collect()))
}

fn hub_with(topic: &str, slots: impl IntoIterator<Item = u32>) -> Hub {
    let mut hub = Hub::default();
    for slot in slots {
        assert!(hub.subscribe(slot, topic));
    }
    hub
}

#[test]
fn each_member_gets_the_turn_as_one_batch_in_order() {
    let mut hub = hub_with("t", [3, 1, 2]);
    hub.subscribe(9, "other");
    for text in ["a", "b", "c"] {
        publish(&mut hub, "t", text);
    }
    hub.seal(|_, _| {});
    let expected = [(3, "abc"), (1, "abc"), (2, "abc")].map(|(slot, text)| (slot, text.to_owned()));
    assert_eq!(deliveries(&mut hub), expected);
    assert!(!hub.has_work());
}

#[test]
fn membership_is_a_set() {
    let mut hub = hub_with("t", [1]);
    assert!(!hub.subscribe(1, "t"));
    assert_eq!(hub.member_count("t"), 1);
    assert!(hub.unsubscribe(1, "t"));
    assert!(!hub.unsubscribe(1, "t"));
    assert!(!hub.unsubscribe(7, "nowhere"));
}

#[test]
fn a_topic_without_members_leaves_nothing_behind() {
    let mut hub = hub_with("t", [1, 2]);
    hub.subscribe(1, "u");
    publish(&mut hub, "nobody", "x");
    hub.seal(|_, _| {});
    hub.leave_all(1);
    hub.leave_all(2);
    hub.leave_all(99);
    assert!(hub.topics.is_empty() && hub.names.is_empty() && hub.nodes.is_empty());
    assert_eq!(deliveries(&mut hub), []);
}

#[test]
fn other_workers_get_every_batch_even_without_members_here() {
    let mut hub = hub_with("t", [1]);
    publish(&mut hub, "t", "a");
    publish(&mut hub, "u", "b");
    let mut remote = Vec::new();
    hub.seal(|topic, batch| remote.push((topic.to_string(), batch.messages())));
    assert_eq!(remote, [("t".to_owned(), 1), ("u".to_owned(), 1)]);
    let mut other = hub_with("t", [5]);
    publish(&mut hub, "t", "c");
    hub.seal(|topic, batch| other.receive(topic, batch.for_other_workers()));
    assert_eq!(deliveries(&mut other), [(5, "c".to_owned())]);
}

#[test]
fn who_leaves_in_the_middle_of_a_fan_out_is_skipped_and_counted_and_moves_nobody() {
    let mut hub = hub_with("t", 0..6);
    publish(&mut hub, "t", "x");
    publish(&mut hub, "t", "y");
    hub.seal(|_, _| {});
    assert_eq!(next(&mut hub).map(|it| it.0), Some(0));
    assert_eq!(next(&mut hub).map(|it| it.0), Some(1));
    hub.leave_all(0);
    hub.leave_all(3);
    hub.subscribe(7, "t");
    let rest: Vec<u32> = deliveries(&mut hub).into_iter().map(|it| it.0).collect();
    assert_eq!(rest, [2, 4, 5], "0 had its part, 3 left, 7 came later");
    assert_eq!(hub.take_missed(), 2, "two messages for member 3");
    publish(&mut hub, "t", "z");
    hub.seal(|_, _| {});
    let mut all: Vec<u32> = deliveries(&mut hub).into_iter().map(|it| it.0).collect();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 4, 5, 7]);
}

#[test]
fn batches_of_one_topic_stay_in_order_over_turns() {
    let mut hub = hub_with("t", [1, 2]);
    publish(&mut hub, "t", "a");
    hub.seal(|_, _| {});
    assert_eq!(next(&mut hub), Some((1, "a".into())));
    publish(&mut hub, "t", "b");
    hub.seal(|_, _| {});
    assert_eq!(deliveries(&mut hub), [(2, "a".into()), (1, "b".into()), (2, "b".into())]);
}

#[test]
fn random_joins_and_leaves_agree_with_a_plain_set() {
    let mut hub = Hub::default();
    let mut sets = [std::collections::BTreeSet::new(), std::collections::BTreeSet::new()];
    let mut state = 1u64;
    let mut random = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    for round in 0..5_000 {
        let (slot, which) = (random(40) as u32, random(2) as usize);
        let topic = ["t", "u"][which];
        match random(5) {
            0 | 1 => assert_eq!(hub.subscribe(slot, topic), sets[which].insert(slot)),
            2 => assert_eq!(hub.unsubscribe(slot, topic), sets[which].remove(&slot)),
            3 => {
                hub.leave_all(slot);
                sets.iter_mut().for_each(|set| set.retain(|&it| it != slot));
            }
            _ => {
                // Leaves a fan-out unfinished now and then.
                publish(&mut hub, topic, "x");
                hub.seal(|_, _| {});
                for _ in 0..random(30) {
                    let _ = next(&mut hub);
                }
            }
        }
        if round % 50 == 0 {
            let _ = deliveries(&mut hub);
            for (which, topic) in ["t", "u"].into_iter().enumerate() {
                publish(&mut hub, topic, "x");
                hub.seal(|_, _| {});
                let got: std::collections::BTreeSet<u32> =
                    deliveries(&mut hub).into_iter().map(|it| it.0).collect();
                assert_eq!(got, sets[which]);
                assert_eq!(hub.member_count(topic), sets[which].len());
            }
        }
    }
}

#[test]
fn batches_that_wait_for_the_same_members_go_out_as_one() {
    let mut hub = hub_with("t", [1, 2]);
    let mut waiting = 0;
    for text in ["a", "b", "c"] {
        publish(&mut hub, "t", text);
        hub.seal(|_, batch| waiting += batch.backlog_bytes());
    }
    assert_eq!(hub.progress(), Progress { begun: 3, done: 0 });
    assert_eq!(hub.next_deliveries(1, &mut Vec::new()).map(|batch| batch.messages()), Some(3));
    assert_eq!(hub.progress(), Progress { begun: 3, done: 0 }, "as one that is not over");
    assert_eq!(deliveries(&mut hub), [(2, "abc".to_owned())]);
    assert_eq!(hub.progress(), Progress { begun: 3, done: 3 });
    assert_eq!(hub.take_finished_bytes(), waiting, "joined they count for as much");

    // One that has begun takes in no more, and neither does one with another topic's behind it.
    publish(&mut hub, "t", "d");
    hub.seal(|_, _| {});
    assert_eq!(next(&mut hub), Some((1, "d".to_owned())));
    hub.subscribe(9, "u");
    for (topic, text) in [("t", "e"), ("u", "f"), ("t", "g")] {
        publish(&mut hub, topic, text);
        hub.seal(|_, _| {});
    }
    let expected = [(2, "d"), (1, "e"), (2, "e"), (9, "f"), (1, "g"), (2, "g")];
    assert_eq!(deliveries(&mut hub), expected.map(|(slot, text)| (slot, text.to_owned())));
}

#[test]
fn who_came_between_two_batches_gets_the_second_alone() {
    let mut hub = hub_with("t", [1]);
    publish(&mut hub, "t", "a");
    hub.seal(|_, _| {});
    hub.subscribe(2, "t");
    for text in ["b", "c"] {
        publish(&mut hub, "t", text);
        hub.seal(|_, _| {});
    }
    let expected = [(1, "a"), (1, "bc"), (2, "bc")].map(|(slot, text)| (slot, text.to_owned()));
    assert_eq!(deliveries(&mut hub), expected);
}

#[test]
fn what_waits_together_with_others_is_missed_when_a_member_leaves() {
    let mut hub = hub_with("t", [1, 2]);
    for text in ["a", "b"] {
        publish(&mut hub, "t", text);
        hub.seal(|_, _| {});
    }
    hub.leave_all(2);
    publish(&mut hub, "t", "c");
    hub.seal(|_, _| {});
    assert_eq!(deliveries(&mut hub), [(1, "abc".to_owned())]);
    assert_eq!(hub.take_missed(), 2, "a and b");
}
