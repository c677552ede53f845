//! How long the kernel waits for peers that are here already, where a reload gives them more time than they came with.
//!
//! A connection has it from its listener, as a socket option. Peers that the kernel gives up are lost and hear nothing,
//! so it has to wait for longer than our own limits, and those hold for everybody as soon as they are new.

use std::time::Duration;

use super::Worker;
use crate::net::entry::Entry;
use crate::net::listener::set_user_timeout;
use crate::net::slots::Slots;

/// Connections that get it in one turn, each by a system call.
const RENEWALS_PER_TURN: u32 = 1024;

/// What the kernel is asked for.
#[derive(Debug)]
pub(super) struct Patience {
    user_timeout: Duration,
    /// The first slot of which the connection may have less.
    behind: Option<u32>,
}

impl Patience {
    pub(super) const fn new(user_timeout: Duration) -> Self {
        Self { user_timeout, behind: None }
    }

    /// Whether some have less than they should, so that the loop has to go on.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Asks for another time. Who has more keeps it: it does no harm, and deadlines that are running may need it.
    fn ask_for(&mut self, user_timeout: Duration) {
        if user_timeout > self.user_timeout {
            self.behind = Some(0);
        }
        self.user_timeout = user_timeout;
    }

    /// Gives it to the connections of so many slots.
    fn spread(&mut self, slots: &mut Slots<Entry>, count: u32) {
        let Some(from) = self.behind else { return };
        let until = from.saturating_add(count).min(slots.end());
        for slot in from..until {
            if let Some((_, entry)) = slots.at(slot) {
                set_user_timeout(entry.stream.socket(), self.user_timeout);
            }
        }
        self.behind = (until < slots.end()).then_some(until);
    }
}

impl Worker {
    /// The kernel is to wait for so long, for those who come and for those who are here.
    pub(super) fn be_patient(&mut self, user_timeout: Duration) {
        self.listeners.iter_mut().for_each(|listener| listener.set_user_timeout(user_timeout));
        self.patience.ask_for(user_timeout);
    }

    /// Goes on with those who are here.
    pub(super) fn spread_patience(&mut self) {
        self.patience.spread(&mut self.slots, RENEWALS_PER_TURN);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    use super::*;
    use crate::config::Limits;
    use crate::conn::Conn;
    use crate::id::Millis;
    use crate::net::stream::Stream;

    const SHORT: Duration = Duration::from_secs(20);
    const LONG: Duration = Duration::from_secs(70);

    /// Connections with the short time.
    fn connections(count: usize) -> (Slots<Entry>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut slots = Slots::new();
        let clients = (0..count).map(|_| TcpStream::connect(address).expect("it listens")).collect();
        for _ in 0..count {
            let socket = mio::net::TcpStream::from_std(listener.accept().expect("it connected").0);
            set_user_timeout(&socket, SHORT);
            let conn = Conn::new(Millis(0), &Limits::default(), 0);
            slots.insert(Entry::new(Stream::new(socket, None), conn, 0, Millis(0)));
        }
        (slots, clients)
    }

    fn with(user_timeout: Duration, slots: &mut Slots<Entry>) -> usize {
        let keys = slots.keys();
        let has = |key| {
            let entry = slots.get_mut(key).expect("it is there");
            SockRef::from(&*entry.stream.socket()).tcp_user_timeout().expect("an option")
                == Some(user_timeout)
        };
        keys.into_iter().map(has).filter(|&has| has).count()
    }

    #[test]
    fn everybody_gets_more_time_some_in_each_turn() {
        let (mut slots, _clients) = connections(5);
        let gone = slots.keys()[1];
        slots.retire(gone);
        slots.sweep();
        let mut patience = Patience::new(SHORT);
        patience.ask_for(LONG);
        for have in [1, 3] {
            assert!(patience.is_behind());
            patience.spread(&mut slots, 2);
            assert_eq!(with(LONG, &mut slots), have);
        }
        // It is still longer than what some of them have.
        patience.ask_for(LONG - SHORT);
        while patience.is_behind() {
            patience.spread(&mut slots, 2);
        }
        assert_eq!((with(LONG, &mut slots), with(LONG - SHORT, &mut slots)), (3, 1));
        patience.ask_for(LONG);
        patience.spread(&mut slots, u32::MAX);
        assert_eq!((patience.is_behind(), with(LONG, &mut slots)), (false, 4));
    }

    #[test]
    fn who_has_more_time_keeps_it() {
        let (mut slots, _clients) = connections(1);
        let mut patience = Patience::new(SHORT);
        for user_timeout in [SHORT, SHORT / 2] {
            patience.ask_for(user_timeout);
            assert!(!patience.is_behind());
            patience.spread(&mut slots, u32::MAX);
            assert_eq!(with(SHORT, &mut slots), 1);
        }
    }
}
