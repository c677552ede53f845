use super::*;
use crate::app::{App, Context, OrderRef, Orders, Place};
use crate::hub::batch::FrameRef;
use crate::id::ConnId;
use crate::proto::Message;

/// What an app answers on open and to one message: the bytes it sends, and its orders in words.
fn run(app: &mut dyn App, message: Message<'_>) -> (Vec<u8>, Vec<String>) {
    let mut orders = Orders::default();
    let place = Place { path: "/rooms/x".into(), subprotocol: None };
    let id = ConnId { worker: 0, slot: 0, generation: 1 };
    app.on_open(&mut Context { id, place: &place, orders: &mut orders, deflater: None });
    app.on_message(&mut Context { id, place: &place, orders: &mut orders, deflater: None }, message);
    let words = orders
        .iter()
        .map(|order| match order {
            OrderRef::Subscribe(topic) => format!("subscribe {topic}"),
            OrderRef::Publish { topic, frame: FrameRef::Bytes(bytes), others_only } => {
                format!("publish {topic} {bytes:?} {others_only}")
            }
            other => format!("{other:?}"),
        })
        .collect();
    (orders.reply.clone(), words)
}

#[test]
fn echo_sends_back_what_came() {
    assert_eq!(run(&mut Echo::default(), "hi".into()), (b"\x81\x02hi".to_vec(), vec![]));
    assert_eq!(run(&mut Echo::default(), b"\x00"[..].into()), (b"\x82\x01\x00".to_vec(), vec![]));
}

#[test]
fn echo_greets_and_fills_its_template() {
    let mut echo = Echo::new(Some("hello".into()), Template::new("<{}|{}>"));
    assert_eq!(run(&mut echo, "a{}".into()).0, b"\x81\x05hello\x81\x09<a{}|a{}>");
    assert_eq!(run(&mut echo, b"b"[..].into()).0, b"\x81\x05hello\x82\x01b", "binary as it came");
    assert_eq!(run(&mut Echo::new(None, Template::new("fixed")), "a".into()).0, b"\x81\x05fixed");
}

#[test]
fn broadcast_publishes_by_path_or_to_its_topic() {
    let (sent, orders) = run(&mut Broadcast::by_path(), "a".into());
    assert!(sent.is_empty());
    assert_eq!(orders, ["subscribe /rooms/x", "publish /rooms/x [129, 1, 97] false"]);
    let mut chat = Broadcast::to_topic("chat").greeting(Some("{}".into())).skip_sender(true);
    let (sent, orders) = run(&mut chat, b"a"[..].into());
    assert_eq!(sent, b"\x81\x02{}");
    assert_eq!(orders, ["subscribe chat", "publish chat [130, 1, 97] true"]);
}

#[test]
fn sink_says_nothing_but_its_greeting() {
    assert_eq!(run(&mut Sink::default(), "a".into()), (vec![], vec![]));
    assert_eq!(run(&mut Sink::new(Some("x".into())), "a".into()), (b"\x81\x01x".to_vec(), vec![]));
}
