//! Dropping what waits, message by message, as long as nothing of it is on the wire.
//!
//! The frame that is on its way is always finished. What the connection's own app sent stays where it is, whatever is
//! dropped around it, until the connection is closed.

use super::{Amount, Item, Kind, Outbox, frame_len};
use crate::metrics::WorkerMetrics;
use crate::proto::frame::{Frame, Piece};

impl Outbox {
    /// As [`publish`](Self::publish), as many messages from the first on as fit into `limit`; gives how many did not.
    pub fn publish_fitting(
        &mut self,
        pieces: &[Piece],
        limit: u32,
        notice: Option<&Frame>,
        metrics: &WorkerMetrics,
    ) -> u32 {
        let owed = self.notice.as_ref().map_or(0, |notice| notice.wire_len() as u32);
        let mut room = limit.saturating_sub(self.bytes.saturating_add(owed));
        let mut refused = 0;
        for piece in pieces {
            let taken = if refused == 0 { fitting(piece, room) } else { Amount::default() };
            refused += piece.messages - taken.messages;
            room -= taken.bytes;
            if taken.messages > 0 {
                let end = piece.start + taken.bytes;
                self.publish(Piece { end, messages: taken.messages, ..piece.clone() }, metrics);
            }
        }
        if refused > 0 {
            self.owe(notice);
        }
        refused
    }

    /// Drops the oldest of what others sent, until no more than `limit` waits or only the newest message is left;
    /// the notice takes their place. Gives how many messages were dropped.
    pub fn drop_oldest(&mut self, limit: u32, notice: Option<&Frame>, metrics: &WorkerMetrics) -> u32 {
        if self.bytes <= limit {
            return 0;
        }
        self.split_head(metrics);
        let Some(gap) = self.next_published(usize::from(self.head_begun)) else { return 0 };
        let notice = notice.filter(|_| !self.is_told(gap));
        let room = limit.saturating_sub(notice.map_or(0, |notice| notice.wire_len() as u32));
        let mut dropped = 0;
        while self.droppable.messages > 1 && self.bytes > room {
            let Some(at) = self.next_published(gap) else { break };
            dropped += self.drop_message(at, metrics);
        }
        if let Some(notice) = notice.filter(|_| dropped > 0) {
            let item = self.enter(Piece::whole(notice.clone(), 1), Kind::Notice, metrics);
            self.queue.insert(gap, item);
        }
        dropped
    }

    /// Drops all that others sent and that is not on the wire; gives how many messages.
    pub fn drop_published(&mut self, notice: Option<&Frame>, metrics: &WorkerMetrics) -> u32 {
        self.split_head(metrics);
        let keep = usize::from(self.head_begun);
        let mut dropped = 0;
        for item in self.queue.split_off(keep.min(self.queue.len())) {
            if item.kind == Kind::Own {
                self.queue.push_back(item);
            } else {
                dropped += self.forget(&item, metrics);
            }
        }
        self.droppable = Amount::default();
        if dropped > 0 {
            self.owe(notice);
        }
        dropped
    }

    /// Drops what waits, except the rest of a frame that is partly on the wire: cut there, nothing after it
    /// could be understood.
    pub fn shed(&mut self, metrics: &WorkerMetrics) -> u32 {
        self.split_head(metrics);
        let keep = usize::from(self.head_begun);
        let mut dropped = 0;
        for item in self.queue.split_off(keep.min(self.queue.len())) {
            dropped += self.forget(&item, metrics);
        }
        self.droppable = Amount::default();
        self.notice = None;
        if self.pong.take().is_some() {
            metrics.pings_unanswered_closing.add(1);
        }
        dropped
    }

    /// Messages were dropped at the end of the queue.
    fn owe(&mut self, notice: Option<&Frame>) {
        if self.notice.is_none() && !self.is_told(self.queue.len()) {
            self.notice = notice.cloned();
        }
    }

    /// Whether a notice that the peer does not have yet stands for what is missing at this place. One that it has is
    /// for what was missing then.
    fn is_told(&self, at: usize) -> bool {
        let before = self.queue.range(..at).rev().find(|item| item.kind != Kind::Own);
        before.is_some_and(|item| item.kind == Kind::Notice)
    }

    fn next_published(&self, from: usize) -> Option<usize> {
        (from..self.queue.len()).find(|&at| self.queue[at].kind == Kind::Published)
    }

    /// Drops the first message of an item that has not been begun.
    fn drop_message(&mut self, at: usize, metrics: &WorkerMetrics) -> u32 {
        let item = &mut self.queue[at];
        let first = match item.frame_len() {
            Some(bytes) if item.messages > 1 => Amount { bytes, messages: 1 },
            _ => Amount { bytes: item.len(), messages: item.messages },
        };
        item.start += first.bytes;
        item.messages -= first.messages;
        if item.messages == 0 {
            metrics.queue_memory_unshared.sub(item.weight());
            self.queue.remove(at);
        }
        self.bytes -= first.bytes;
        self.droppable.bytes -= first.bytes;
        self.droppable.messages -= first.messages;
        metrics.queued.sub(u64::from(first.messages));
        metrics.queued_bytes.sub(u64::from(first.bytes));
        first.messages
    }

    /// Parts the frame that is on its way from those behind it in the same item, which can still be dropped.
    fn split_head(&mut self, metrics: &WorkerMetrics) {
        let Some(head) = self.queue.front_mut() else { return };
        if !self.head_begun || head.kind != Kind::Published {
            return;
        }
        let mut rest = Item { frame: head.frame.clone(), kind: Kind::Published, ..*head };
        let sent_to = head.start + self.head_sent;
        while rest.start < sent_to {
            let Some(bytes) = rest.frame_len() else { return };
            rest.start += bytes;
            rest.messages -= 1;
        }
        if rest.start == head.end {
            return;
        }
        head.end = rest.start;
        head.messages -= rest.messages;
        self.droppable.bytes += rest.len();
        self.droppable.messages += rest.messages;
        if sent_to == head.end {
            // All of its frames are out.
            let messages = u64::from(head.messages);
            metrics.queued.sub(messages);
            metrics.delivered.add(messages);
            *head = rest;
            // One item as before, of the same frame.
            (self.head_begun, self.head_sent) = (false, 0);
        } else {
            metrics.queue_memory_unshared.add(rest.weight());
            self.queue.insert(1, rest);
        }
    }
}

/// How much of a piece fits, in whole frames.
fn fitting(piece: &Piece, room: u32) -> Amount {
    if piece.len() <= room {
        return Amount { bytes: piece.len(), messages: piece.messages };
    }
    let mut fits = Amount::default();
    while let Some(len) = frame_len(&piece.as_bytes()[fits.bytes as usize..])
        && len <= room - fits.bytes
    {
        fits.bytes += len;
        fits.messages += 1;
    }
    fits
}
