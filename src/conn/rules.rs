//! What happens to those who do not keep up: which messages wait, which are dropped, who is closed.
//!
//! A connection without an outbox is up to date, and none of this concerns it.

use std::sync::Arc;

use super::{Cause, Conn, Ended, Outbox, Sent};
use crate::config::{Limits, RouteOptions, SlowPolicy};
use crate::id::Millis;
use crate::metrics::{Counter, RouteLedger, WorkerMetrics};
use crate::proto::frame::{Frame, Piece};
use crate::proto::{Close, CloseCode};

/// No queue is longer, whatever the limit says: what is added to it must not go beyond 32 bits.
const QUEUE_MAX: u32 = 1 << 30;

/// The rules for the queues of one route's connections, on one worker.
#[derive(Clone, Debug)]
pub struct QueueRules {
    /// As [`Limits::queue_hard`], at most 1 GiB.
    pub hard: u32,
    /// As [`Limits::queue_soft`].
    pub soft: u32,
    /// What happens at the limit.
    pub policy: SlowPolicy,
    /// What is sent where messages were dropped.
    pub notice: Option<Frame>,
    /// The route's ledger on this worker.
    pub ledger: Arc<RouteLedger>,
}

impl QueueRules {
    /// The rules for one route.
    pub fn new(limits: &Limits, options: &RouteOptions, ledger: Arc<RouteLedger>) -> Self {
        Self {
            hard: limits.queue_hard.min(QUEUE_MAX),
            soft: limits.queue_soft,
            policy: options.slow_policy,
            notice: options.gap_notice.as_deref().map(Frame::message),
            ledger,
        }
    }

    /// Bytes that may wait in this queue now.
    fn limit(&self, outbox: &Outbox) -> u32 {
        if outbox.is_squeezed() && self.soft > 0 { self.soft.min(self.hard) } else { self.hard }
    }
}

fn count(messages: u32, of_worker: &Counter, of_route: &Counter) {
    of_worker.add(u64::from(messages));
    of_route.add(u64::from(messages));
}

impl Conn {
    /// Too much waits for the peer: drops it, except what is partly sent, and says so with 1013. The Close has
    /// room however full the queue was.
    pub fn shed(
        &mut self,
        now: Millis,
        limits: &Limits,
        rules: &QueueRules,
        metrics: &WorkerMetrics,
    ) -> Option<Ended> {
        let (dropped, ended) = self.cut(now, limits, "slow consumer", Cause::Slow, metrics);
        count(dropped, &metrics.dropped_slow, &rules.ledger.dropped_slow);
        ended
    }

    /// All queues together hold too much, and this one much of that: drops what others sent where the route does
    /// so, and closes with 1013 where it does not or where that is not what the memory went to.
    pub fn relieve(
        &mut self,
        now: Millis,
        limits: &Limits,
        rules: &QueueRules,
        metrics: &WorkerMetrics,
    ) -> Option<Ended> {
        if !self.is_open() {
            return None;
        }
        if rules.policy != SlowPolicy::Close
            && let Some(outbox) = &mut self.outbox
        {
            let dropped = outbox.drop_published(rules.notice.as_ref(), metrics);
            outbox.judge(now, rules.soft);
            if dropped > 0 {
                count(dropped, &metrics.dropped_shed, &rules.ledger.dropped_shed);
                return None;
            }
        }
        let (dropped, ended) = self.cut(now, limits, "server is short of memory", Cause::Shed, metrics);
        count(dropped, &metrics.dropped_shed, &rules.ledger.dropped_shed);
        ended
    }

    /// More than the soft limit has waited for too long.
    pub(super) fn over_soft(
        &mut self,
        now: Millis,
        limits: &Limits,
        rules: &QueueRules,
        metrics: &WorkerMetrics,
    ) -> Option<Ended> {
        if rules.policy == SlowPolicy::Close {
            return self.shed(now, limits, rules, metrics);
        }
        if let Some(outbox) = &mut self.outbox {
            outbox.squeeze();
        }
        None
    }

    /// Queues pieces behind what waits already. The limit is for open connections: a Close always has room.
    pub(super) fn enqueue(
        &mut self,
        now: Millis,
        pieces: &[Piece],
        rules: &QueueRules,
        metrics: &WorkerMetrics,
    ) -> Sent {
        let is_open = self.is_open();
        let Some(outbox) = &mut self.outbox else { return Sent::Accepted };
        let limit = rules.limit(outbox);
        let notice = rules.notice.as_ref();
        if is_open && rules.policy == SlowPolicy::DropNewest {
            let dropped = outbox.publish_fitting(pieces, limit, notice, metrics);
            count(dropped, &metrics.dropped_newest, &rules.ledger.dropped_newest);
            outbox.judge(now, rules.soft);
            return Sent::Accepted;
        }
        let added = pieces.iter().fold(0u32, |sum, piece| sum.saturating_add(piece.len()));
        if is_open && rules.policy == SlowPolicy::Close && outbox.bytes().saturating_add(added) > limit {
            let messages = pieces.iter().map(|piece| piece.messages).sum();
            count(messages, &metrics.dropped_slow, &rules.ledger.dropped_slow);
            return Sent::Overflow;
        }
        for piece in pieces {
            outbox.publish(piece.clone(), metrics);
        }
        match rules.policy {
            SlowPolicy::DropOldest if is_open => {
                let dropped = outbox.drop_oldest(limit, notice, metrics);
                count(dropped, &metrics.dropped_oldest, &rules.ledger.dropped_oldest);
            }
            SlowPolicy::Latest if is_open => {
                let dropped = outbox.drop_oldest(0, notice, metrics);
                count(dropped, &metrics.dropped_superseded, &rules.ledger.dropped_superseded);
            }
            _ => {}
        }
        outbox.judge(now, rules.soft);
        Sent::Accepted
    }

    /// Drops what waits and closes; gives how many messages that were, too.
    fn cut(
        &mut self,
        now: Millis,
        limits: &Limits,
        reason: &'static str,
        cause: Cause,
        metrics: &WorkerMetrics,
    ) -> (u32, Option<Ended>) {
        let close = Close::new(CloseCode::TRY_AGAIN_LATER, reason);
        let outbox = self.outbox.get_or_insert_with(|| Box::new(Outbox::new(now)));
        let dropped = outbox.shed(metrics);
        outbox.push(Piece::whole(Frame::close(&close), 0), metrics);
        (dropped, self.leave_open(now, close, cause, limits))
    }
}
