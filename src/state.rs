//! Whether a server wants new clients: what a balancer asks for.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether a server wants new clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not all of its workers listen yet.
    Starting,
    /// It does.
    Ready,
    /// It ends, at once or bit by bit. Who comes nevertheless may still be served for a while.
    Draining,
}

impl State {
    /// In lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The state that all threads of a server see. It only goes forward.
#[derive(Debug, Default)]
pub(crate) struct SharedState(AtomicU8);

impl SharedState {
    pub(crate) fn get(&self) -> State {
        match self.0.load(Ordering::Relaxed) {
            0 => State::Starting,
            1 => State::Ready,
            _ => State::Draining,
        }
    }

    pub(crate) fn advance(&self, to: State) {
        self.0.fetch_max(to as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_never_left_backwards() {
        let state = SharedState::default();
        assert_eq!(state.get(), State::Starting);
        for (to, now) in [
            (State::Ready, State::Ready),
            (State::Starting, State::Ready),
            (State::Draining, State::Draining),
            (State::Ready, State::Draining),
        ] {
            state.advance(to);
            assert_eq!(state.get(), now);
        }
    }
}
