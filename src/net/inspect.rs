//! Telling about a worker's connections, for who looks after the server. Nothing is shared for it on the hot path:
//! the question comes by mail, a turn looks at a bounded number of slots, and the answer goes back through a channel.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::entry::Entry;
use super::quotas::Quotas;
use super::slots::{Key, Slots};
use crate::id::Millis;

/// Slots that are looked at in one turn.
const SLOTS_PER_TURN: u32 = 1024;

/// Connections that are described in one turn. Each takes a system call, for its address.
const ROWS_PER_TURN: usize = 128;

/// A question about a worker's connections, and how far its answer has come.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// The slot to look at next.
    from: u32,
    /// So many connections are described, then it is done; none at all, and every slot is looked at.
    rows_max: usize,
    /// Only those for which at least so many bytes wait are described.
    queued_min: u64,
    found: Found,
    answer: SyncSender<Found>,
}

/// What was found on one worker.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of their slots.
    pub(crate) rows: Vec<Row>,
    /// Connections for which bytes wait.
    pub(crate) waiting: u64,
    /// For how long bytes have waited without a break, where it is longest.
    pub(crate) longest: Duration,
    /// As it was when the answer was complete.
    pub(crate) tables: Tables,
}

/// What a worker keeps for its connections, in numbers: what must come back when they go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tables {
    /// Slots with a connection in them.
    pub(crate) slots_used: usize,
    /// Slots that memory is kept for: as many as there were connections at one time, or up to twice as many.
    pub(crate) slots: usize,
    /// Entries of the timer wheel.
    pub(crate) timers: usize,
    /// Topics.
    pub(crate) topics: usize,
    /// Memberships in them.
    pub(crate) members: usize,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    /// `None` where the kernel no longer knows.
    pub(crate) peer: Option<SocketAddr>,
    /// For whom it is, where a setting asks for that: behind a trusted proxy, whom the proxy named.
    pub(crate) client: Option<IpAddr>,
    /// The number of its route; `None` before its handshake is done.
    pub(crate) route: Option<u16>,
    pub(crate) path: Option<String>,
    pub(crate) subprotocol: Option<String>,
    pub(crate) phase: &'static str,
    /// Since it was accepted, to the second.
    pub(crate) age: Duration,
    /// Since its peer last sent anything.
    pub(crate) idle: Duration,
    pub(crate) queued_bytes: u64,
    /// For how long bytes have waited for it without a break.
    pub(crate) waits: Option<Duration>,
}

impl Inspection {
    /// How many connections have a backlog, and the longest wait.
    pub(crate) fn survey(answer: SyncSender<Found>) -> Self {
        Self { from: 0, rows_max: 0, queued_min: 0, found: Found::default(), answer }
    }

    /// The first `rows_max` connections from slot `from` on for which `queued_min` bytes wait, or more.
    pub(crate) fn list(from: u32, rows_max: usize, queued_min: u64, answer: SyncSender<Found>) -> Self {
        Self { from, rows_max, queued_min, found: Found::default(), answer }
    }

    /// Does a turn's share; true when it is done, and answered.
    pub(super) fn advance(
        &mut self,
        slots: &mut Slots<Entry>,
        quotas: &Quotas,
        tables: Tables,
        now: Millis,
    ) -> bool {
        self.found.tables = tables;
        let end = slots.end();
        let until = end.min(self.from.saturating_add(SLOTS_PER_TURN));
        let rows_until = self.found.rows.len() + ROWS_PER_TURN;
        for slot in self.from..until {
            self.from = slot + 1;
            let Some((key, entry)) = slots.at(slot) else { continue };
            if entry.conn.is_gone() {
                continue;
            }
            let waits = entry.conn.waiting_since().map(|since| between(since, now));
            if let Some(waits) = waits {
                self.found.waiting += 1;
                self.found.longest = self.found.longest.max(waits);
            }
            if self.rows_max > 0 && entry.queued_bytes() >= self.queued_min {
                let client = quotas.known_client(slot);
                self.found.rows.push(row(key, entry, client, waits, now));
                if self.found.rows.len() == self.rows_max {
                    return self.answer();
                }
                if self.found.rows.len() == rows_until {
                    return false;
                }
            }
        }
        self.from >= end && self.answer()
    }

    fn answer(&mut self) -> bool {
        // Who asked may have stopped waiting.
        let _ = self.answer.try_send(std::mem::take(&mut self.found));
        true
    }
}

fn row(key: Key, entry: &Entry, client: Option<IpAddr>, waits: Option<Duration>, now: Millis) -> Row {
    let place = entry.place.as_deref();
    Row {
        slot: key.slot,
        generation: key.generation,
        peer: entry.stream.peer_addr().ok(),
        client,
        route: place.map(|_| entry.route),
        path: place.map(|place| place.path.to_string()),
        subprotocol: place.and_then(|place| place.subprotocol.as_deref()).map(str::to_owned),
        phase: entry.conn.phase_name(),
        age: between(Millis(u64::from(entry.accepted_at) * 1000), now),
        idle: between(entry.conn.last_input(), now),
        queued_bytes: entry.queued_bytes(),
        waits,
    }
}

fn between(earlier: Millis, now: Millis) -> Duration {
    Duration::from_millis(now.0.saturating_sub(earlier.0))
}
