//! Deadlines of a connection: the handshake's, the keep-alive's, the closing's.

use std::time::Duration;

use super::{Cause, Conn, Ended, Phase, QueueRules};
use crate::config::Limits;
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::{Close, CloseCode, OpCode, frame};

/// A connection is not asked twice in the same moment.
const PING_INTERVAL_MIN: Duration = Duration::from_millis(1);

impl Conn {
    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next, at the latest.
    pub fn deadline(&self, limits: &Limits) -> Millis {
        // Once a Close is queued, the time for closing is all there is.
        if !self.is_open() {
            return self.deadline;
        }
        // Asked for with every message: mostly nothing waits for the peer, and nothing is half there.
        let mut deadline = self.ping_deadline(limits);
        if let Some(outbox) = &self.outbox {
            let over_soft = outbox.over_soft_at().after(limits.queue_soft_time);
            deadline = deadline.min(over_soft).min(outbox.progress_at().after(limits.progress_timeout));
        }
        if self.message_began != Millis::NEVER {
            deadline = deadline.min(self.message_began.after(limits.assembly_timeout));
        }
        deadline
    }

    /// The deadline has passed, perhaps. A ping goes to `out`.
    pub fn handle_timeout(
        &mut self,
        now: Millis,
        limits: &Limits,
        rules: &QueueRules,
        out: &mut Vec<u8>,
        metrics: &WorkerMetrics,
    ) -> Option<Ended> {
        let over_soft = self.outbox.as_ref().map_or(Millis::NEVER, |it| it.over_soft_at());
        if self.is_open() && now >= over_soft.after(limits.queue_soft_time) {
            let ended = self.over_soft(now, limits, rules, metrics);
            if ended.is_some() {
                return ended;
            }
        }
        let stalled =
            self.outbox.as_ref().is_some_and(|it| now >= it.progress_at().after(limits.progress_timeout));
        match self.phase {
            Phase::Open { .. } if stalled => self.shed(now, limits, rules, metrics),
            Phase::Open { .. } if now >= self.message_began.after(limits.assembly_timeout) => {
                let close = Close::new(CloseCode::POLICY, "message not finished in time");
                self.fail(now, close, Cause::Unfinished, limits, out)
            }
            Phase::Open { pinged_at } => self.keep_alive(now, pinged_at, limits, out),
            Phase::Handshake(_) if now >= self.deadline => {
                self.finish(now, limits);
                None
            }
            Phase::CloseSent | Phase::Finishing { .. } | Phase::Lingering if now >= self.deadline => {
                self.phase = Phase::Gone;
                None
            }
            _ => None,
        }
    }

    /// The rest of a message may be there, and is not read yet: its time begins anew.
    pub fn put_off(&mut self, now: Millis) {
        if self.message_began != Millis::NEVER {
            self.message_began = now;
        }
    }

    /// The peer has said something that is not read yet: whoever is kept waiting is not silent.
    pub fn heard(&mut self, now: Millis) {
        self.last_input = now;
    }

    /// Silence is answered with a ping, silence after a ping with the end.
    fn keep_alive(
        &mut self,
        now: Millis,
        pinged_at: Millis,
        limits: &Limits,
        out: &mut Vec<u8>,
    ) -> Option<Ended> {
        if now < self.ping_deadline(limits) {
            return None;
        }
        // A peer that takes what waits for it is alive, even if it has nothing to say.
        let alive_at =
            self.outbox.as_ref().map_or(self.last_input, |it| it.progress_at().max(self.last_input));
        if pinged_at != Millis::NEVER && alive_at < pinged_at {
            self.phase = Phase::Gone;
            let close = Close::new(CloseCode::ABNORMAL, "no answer to a ping");
            return Some(Ended { close, cause: Cause::Silent });
        }
        self.last_input = alive_at;
        self.deadline = self.next_ping(limits);
        self.phase = Phase::Open { pinged_at: Millis::NEVER };
        if now >= self.deadline {
            frame::encode(out, OpCode::Ping, b"", None);
            self.phase = Phase::Open { pinged_at: now };
            self.deadline = now.after(limits.pong_timeout);
        }
        None
    }

    /// When a ping is due, or the answer to one: never while there are none, and what was reckoned then is no deadline.
    fn ping_deadline(&self, limits: &Limits) -> Millis {
        match self.deadline {
            _ if limits.ping_interval.is_zero() => Millis::NEVER,
            Millis::NEVER => self.next_ping(limits),
            deadline => deadline,
        }
    }

    pub(super) fn next_ping(&self, limits: &Limits) -> Millis {
        if limits.ping_interval.is_zero() {
            return Millis::NEVER;
        }
        let times = 0.9 + 0.2 * f64::from(self.jitter) / 255.0;
        self.last_input.after_times(times, limits.ping_interval).max(self.last_input.after(PING_INTERVAL_MIN))
    }
}
