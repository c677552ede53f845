//! Deadlines of connections, judged by all that had come before.
//!
//! A process that was stopped, or a machine that was, finds every deadline passed at once, and beside them what peers
//! have sent in the meantime. Who has answered is heard first, and what is left to do is spread over turns.

use super::{EVENTS_PER_POLL, Worker};
use crate::id::{Micros, Millis};
use crate::net::socket::Core;

/// Deadlines that one turn looks at: a ping is a system call, and others wait for the end of the turn.
const DEADLINES_PER_TURN: usize = 1024;

/// Up to when everything that came has been told of. The clock may leap between a poll and the next look at it, so what
/// counts is when the poll began: what came before that, it has told of.
#[derive(Debug, Default)]
pub(super) struct Heard {
    until: Millis,
    /// Polls in a row that found as much as they can tell of, and when the first of them began.
    full: usize,
    began: Micros,
}

impl Heard {
    /// A poll of so many descriptors, begun at that time, has told of so many events.
    pub(super) fn note(&mut self, began: Micros, events: usize, descriptors: usize) {
        if events < EVENTS_PER_POLL {
            (self.full, self.began) = (0, began);
        } else {
            if self.full == 0 {
                self.began = began;
            }
            // It leaves some for the next one; the kernel tells of each descriptor in its turn, so after so many polls
            // all have been told of.
            self.full += 1;
            if self.full * EVENTS_PER_POLL < descriptors {
                return;
            }
            self.full = 0;
        }
        self.until = self.began.into();
    }
}

impl Worker {
    pub(super) fn expire_timers(&mut self) {
        // Later ones are judged after the next poll, which does not wait for anything then.
        let now = self.heard.until;
        let mut expired = std::mem::take(&mut self.expired);
        self.wheel.expire(now, &mut expired);
        let count = expired.len().min(DEADLINES_PER_TURN);
        for key in expired.drain(..count) {
            let Some(entry) = self.slots.get_mut(key) else { continue };
            if entry.timer_at > now {
                continue;
            }
            entry.timer_at = Millis::NEVER;
            if self.core.deadline(key, entry) <= now {
                self.attend(key, Core::timeout);
            }
            if let Some(entry) = self.slots.get_mut(key)
                && entry.timer_at == Millis::NEVER
                && !entry.conn.is_gone()
            {
                entry.timer_at = self.wheel.insert(key, self.core.deadline(key, entry));
            }
        }
        self.expired = expired;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_tells_of_what_came_before_it_began() {
        let mut heard = Heard::default();
        heard.note(Micros(7_000), 3, 50_000);
        assert_eq!(heard.until, Millis(7));
        // However late it is when somebody looks at the clock, the next one begins later.
        heard.note(Micros(9_999), EVENTS_PER_POLL - 1, 50_000);
        assert_eq!(heard.until, Millis(9));
    }

    #[test]
    fn polls_that_are_full_tell_of_all_descriptors_together() {
        let mut heard = Heard::default();
        let descriptors = 3 * EVENTS_PER_POLL;
        for (began, events, until) in [
            (1_000, EVENTS_PER_POLL, 0),
            (2_000, EVENTS_PER_POLL, 0),
            (3_000, EVENTS_PER_POLL, 1),
            // Three more, and they begin anew.
            (4_000, EVENTS_PER_POLL, 1),
            (5_000, EVENTS_PER_POLL, 1),
            (6_000, EVENTS_PER_POLL, 4),
            (7_000, EVENTS_PER_POLL, 4),
            // Nothing was left for another.
            (8_000, EVENTS_PER_POLL - 1, 8),
        ] {
            heard.note(Micros(began), events, descriptors);
            assert_eq!(heard.until, Millis(until), "after that of {began}");
        }
        heard.note(Micros(9_000), EVENTS_PER_POLL, EVENTS_PER_POLL);
        assert_eq!(heard.until, Millis(9), "there are no more than that");
    }
}
