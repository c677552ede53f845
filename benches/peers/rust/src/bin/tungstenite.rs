//! tokio-tungstenite, as its examples have it: `echo-server.rs`, and `server.rs` for the broadcast (but that a sender
//! hears itself), on tokio's single-threaded runtime.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_channel::mpsc::{UnboundedSender, unbounded};
use futures_util::{StreamExt, TryStreamExt, future, pin_mut};
use peers::{Mode, serve};
use tokio::net::TcpStream;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// Everyone in the room, by port.
type Room = Arc<Mutex<HashMap<u32, UnboundedSender<Message>>>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let room = Room::default();
    let numbers = std::sync::atomic::AtomicU32::new(0);
    serve(move |mode, stream| {
        let number = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let room = Arc::clone(&room);
        async move {
            match mode {
                Mode::Echo => echo(stream).await,
                Mode::Broadcast => broadcast(stream, room, number).await,
            }
        }
    })
}

async fn echo(stream: TcpStream) {
    let Ok(stream) = accept_async(stream).await else { return };
    let (write, read) = stream.split();
    // A client that has gone is no error.
    let _ = read.try_filter(|message| future::ready(is_data(message))).forward(write).await;
}

async fn broadcast(stream: TcpStream, room: Room, number: u32) {
    let Ok(stream) = accept_async(stream).await else { return };
    let (sender, receiver) = unbounded();
    room.lock().expect("no panics").insert(number, sender);
    let (outgoing, incoming) = stream.split();
    let publishing = incoming.try_for_each(|message| {
        if is_data(&message) {
            for member in room.lock().expect("no panics").values() {
                // A member that is gone is about to be removed.
                let _ = member.unbounded_send(message.clone());
            }
        }
        future::ok(())
    });
    let receiving = receiver.map(Ok).forward(outgoing);
    pin_mut!(publishing, receiving);
    future::select(publishing, receiving).await;
    room.lock().expect("no panics").remove(&number);
}

fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}
