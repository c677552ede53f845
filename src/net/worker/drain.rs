//! A worker lets its connections go.

use std::sync::atomic::Ordering;

use tracing::info;

use super::Worker;
use crate::net::drain::Draining;
use crate::net::socket::Core;

impl Worker {
    /// A drain begins. Nothing else changes before its grace is over.
    pub(super) fn drain(&mut self) {
        if self.draining.is_none() && self.stop_at.is_none() {
            info!(worker = self.index, connections = self.slots.len(), "draining");
            self.draining = Some(Draining::new(self.core.now, &self.shared.drain));
        }
    }

    /// Does what the schedule of a drain has come to.
    pub(super) fn go_on_draining(&mut self) {
        let now = self.core.now;
        let Some(draining) = &mut self.draining else { return };
        if draining.is_overdue(now) {
            self.stop();
            self.stop_at = Some(now);
            return;
        }
        if draining.grace_is_over(now) {
            self.close_listeners();
            let (keys, workers) = (self.slots.keys(), self.shared.mailboxes.len());
            if let Some(draining) = &mut self.draining {
                draining.begin(now, &self.shared.drain, keys, self.index, workers);
            }
        }
        // What was published before a Close is heard before it.
        let fan_out = self.core.hub.progress();
        let due = self.draining.as_mut().map(|draining| draining.due(now, fan_out)).unwrap_or_default();
        for key in due {
            if self.slots.get_mut(key).is_some() {
                self.attend(key, Core::let_go);
            }
        }
    }

    /// The worker of which nothing is left last tells all of them to end. Until then each goes on: it has mail to
    /// take, or the others would wait for it.
    pub(super) fn tell_if_drained(&mut self) {
        let Some(draining) = &mut self.draining else { return };
        if !draining.counted && draining.has_begun() && self.slots.len() == 0 {
            draining.counted = true;
            if self.shared.drained.fetch_add(1, Ordering::Relaxed) + 1 == self.shared.mailboxes.len() {
                self.shared.shut_down();
            }
        }
    }
}
