//! Deadlines of connections, judged by all that had come before.
//!
//! A process that was stopped, or a machine that was, finds every deadline passed at once, and beside them what peers
//! have sent in the meantime. Who has answered is heard first, and what is left to do is spread over turns.

use super::{EVENTS_PER_POLL, Worker};
use crate::id::Millis;
use crate::net::socket::Core;

/// Deadlines that one turn looks at: a ping is a system call, and others wait for the end of the turn.
const DEADLINES_PER_TURN: usize = 1024;

impl Worker {
    pub(super) fn expire_timers(&mut self) {
        if self.may_not_have_heard() {
            return;
        }
        let now = self.core.now;
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

    /// Whether there may be events from before this turn of which no poll has told. A poll that is full leaves some for
    /// the next one; the kernel tells of each descriptor in its turn, so after so many polls all have been told of.
    fn may_not_have_heard(&self) -> bool {
        let descriptors = self.slots.len() + self.listeners.len() + 1;
        self.full_polls > 0 && self.full_polls * EVENTS_PER_POLL < descriptors
    }
}
