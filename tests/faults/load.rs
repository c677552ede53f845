//! Clients that go on while something happens to the server, and to whom nothing may happen.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::common::{Client, PING, pong, text};

/// Clients on threads of their own. A thread that ends before it is told to has failed, and says why at the end.
#[derive(Default)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Load {
    /// A message and its answer, again and again, and a Close at the end.
    pub(crate) fn echo(&mut self, client: Client) {
        let turn = |client: &mut Client, turn| {
            let message = format!("{turn:032}");
            client.send(text(&message));
            client.assert_text(&message);
        };
        self.add(client, turn, Client::close);
    }

    /// A message of one member to all of them, again and again, and a Close from each at the end.
    pub(crate) fn room(&mut self, members: Vec<Client>) {
        let turn = |members: &mut Vec<Client>, turn| say(members, &format!("{turn:032}"));
        self.add(members, turn, |members| members.into_iter().for_each(Client::close));
    }

    /// A connection that asks once, and a Close, again and again.
    pub(crate) fn churn(&mut self, open: impl Fn() -> Client + Send + 'static) {
        let turn = |open: &mut dyn Fn() -> Client, turn: u64| {
            let (mut client, message) = (open(), turn.to_string());
            client.send(text(&message));
            client.assert_text(&message);
            client.close();
        };
        self.add(open, move |open, number| turn(open, number), drop);
    }

    fn add<S: Send + 'static>(
        &mut self,
        mut state: S,
        turn: impl Fn(&mut S, u64) + Send + 'static,
        end: impl FnOnce(S) + Send + 'static,
    ) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut turns = 0;
            while !stop.load(Ordering::Relaxed) {
                turn(&mut state, turns);
                turns += 1;
            }
            end(state);
            turns
        }));
    }

    /// Ends all of it, in good order; how many turns there were, of each thread.
    #[track_caller]
    pub(crate) fn finish(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ends: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ends.into_iter().map(|end| end.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    }
}

/// The first member says something, and all of them hear it.
#[track_caller]
pub(crate) fn say(members: &mut [Client], message: &str) {
    members[0].send(text(message));
    for member in members {
        hear(member, message);
    }
}

/// The next message must be this text. Pings that come before it are answered.
#[track_caller]
pub(crate) fn hear(client: &mut Client, message: &str) {
    loop {
        let frame = client.read_frame();
        if frame.opcode == PING {
            client.send(pong(&frame.payload));
            continue;
        }
        assert_eq!(String::from_utf8_lossy(&frame.payload), message);
        return;
    }
}
