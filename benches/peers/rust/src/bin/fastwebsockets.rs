//! fastwebsockets, as its `echo_server.rs` has it, on tokio's single-threaded runtime. For the broadcast there is no
//! example: each connection is split, a task of its own writes what its channel holds, and all that waits there at the
//! moment is flushed at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fastwebsockets::{
    FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError, WebSocketWrite, upgrade,
};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use peers::{Mode, serve};
use tokio::io::{AsyncWrite, BufWriter};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A message on its way to a member.
type Outgoing = (OpCode, Bytes);

/// Everyone in the room, by number.
#[derive(Default)]
struct Room {
    next: u32,
    members: HashMap<u32, UnboundedSender<Outgoing>>,
}

type SharedRoom = Arc<Mutex<Room>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let room = SharedRoom::default();
    serve(move |mode, stream| {
        let room = Arc::clone(&room);
        async move {
            let service = service_fn(move |request| upgraded(mode, Arc::clone(&room), request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A client that has gone is no error.
            let _ = connection.with_upgrades().await;
        }
    })
}

async fn upgraded(
    mode: Mode,
    room: SharedRoom,
    mut request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, socket) = upgrade::upgrade(&mut request)?;
    tokio::spawn(tokio::task::unconstrained(async move {
        let _ = match mode {
            Mode::Echo => echo(socket).await,
            Mode::Broadcast => broadcast(socket, room).await,
        };
    }));
    Ok(response)
}

async fn echo(socket: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(socket.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

async fn broadcast(socket: upgrade::UpgradeFut, room: SharedRoom) -> Result<(), WebSocketError> {
    let (read, write) = socket.await?.split(|stream| {
        let (read, write) = tokio::io::split(stream);
        (read, BufWriter::new(write))
    });
    let (sender, receiver) = unbounded_channel();
    let number = {
        let mut room = room.lock().expect("no panics");
        room.next += 1;
        let number = room.next;
        room.members.insert(number, sender);
        number
    };
    tokio::spawn(tokio::task::unconstrained(async move {
        let _ = write_all(write, receiver).await;
    }));
    let mut read = FragmentCollectorRead::new(read);
    loop {
        // Nobody pings, and after a Close the connection ends: no frame has to be answered.
        let frame = read.read_frame::<_, WebSocketError>(&mut |_| async { Ok(()) }).await;
        match frame {
            Ok(frame) if matches!(frame.opcode, OpCode::Text | OpCode::Binary) => {
                let message = Bytes::copy_from_slice(&frame.payload);
                for member in room.lock().expect("no panics").members.values() {
                    // A member that is gone is about to be removed.
                    let _ = member.send((frame.opcode, message.clone()));
                }
            }
            Ok(frame) if frame.opcode != OpCode::Close => {}
            ended => {
                room.lock().expect("no panics").members.remove(&number);
                return ended.map(drop);
            }
        }
    }
}

async fn write_all(
    mut write: WebSocketWrite<impl AsyncWrite + Unpin>,
    mut receiver: UnboundedReceiver<Outgoing>,
) -> Result<(), WebSocketError> {
    let mut waiting = Vec::new();
    while receiver.recv_many(&mut waiting, 64).await > 0 {
        for (opcode, message) in waiting.drain(..) {
            write.write_frame(Frame::new(true, opcode, None, Payload::Borrowed(&message))).await?;
        }
        write.flush().await?;
    }
    Ok(())
}
