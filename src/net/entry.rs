//! One connection and its socket, as the worker keeps it in its slab.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::stream::Stream;
use super::tls::TURNED_AWAY;
use crate::app::Place;
use crate::config::{Deflate, SlowPolicy};
use crate::conn::{Conn, QueueRules, Sent};
use crate::hub::batch::{Batch, deflate};
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::deflate::{Pool, Work};
use crate::proto::frame::Piece;
use crate::proto::handshake::Response;

/// One connection and its socket.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stream: Stream,
    pub(super) conn: Conn,
    pub(super) place: Option<Rc<Place>>,
    /// Input that was read and has to wait, because the connection's share of the turn is used up.
    #[expect(
        clippy::box_collection,
        reason = "one word in every connection instead of three, for what is rare"
    )]
    pub(super) held: Option<Box<Vec<u8>>>,
    /// The number of its route, and with that of its app, its limits and its rules; that of none before its handshake.
    pub(super) route: u16,
    /// The PROXY header that it must begin with is still to come.
    pub(super) proxied: bool,
    /// In seconds since the server started.
    pub(super) accepted_at: u32,
    /// The socket may hold more than was read.
    pub(super) unread: bool,
    /// The peer has ended its side: read on until that is all there is.
    pub(super) eof_ahead: bool,
    /// On the worker's ready list.
    pub(super) listed: bool,
    /// To be closed as soon as it is open.
    pub(super) leaving: bool,
    /// When the wheel will look at it.
    pub(super) timer_at: Millis,
}

/// What preparing bytes for a connection needs, used by each in turn.
#[derive(Debug)]
pub(super) struct Workbench {
    pub(super) pool: Pool,
    scratch: Vec<Piece>,
}

impl Workbench {
    pub(super) fn new(config: Deflate) -> Self {
        Self { pool: Pool::timed(config, monotonic), scratch: Vec::new() }
    }
}

/// For what is measured where no turn's clock reading is at hand.
fn monotonic() -> Duration {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed()
}

/// Counts what a compressor did since the last time.
pub(super) fn count_work(metrics: &WorkerMetrics, work: Work) {
    if work.input_bytes == 0 {
        return;
    }
    metrics.deflate_input_bytes.add(work.input_bytes);
    metrics.deflate_output_bytes.add(work.output_bytes);
    metrics.deflate_nanos.add(u64::try_from(work.time.as_nanos()).unwrap_or(u64::MAX));
}

/// How a worker's attention to one socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Wait for an event.
    Wait,
    /// There is more to read than one turn's share.
    Ready,
    /// The connection is gone.
    Drop,
}

impl Entry {
    pub(super) fn new(stream: Stream, conn: Conn, route: u16, now: Millis) -> Self {
        Self {
            stream,
            conn,
            place: None,
            held: None,
            route,
            proxied: false,
            accepted_at: u32::try_from(now.0 / 1000).unwrap_or(u32::MAX),
            unread: false,
            eof_ahead: false,
            listed: false,
            leaving: false,
            timer_at: Millis::NEVER,
        }
    }

    /// The socket is readable, but has to wait.
    pub(super) fn defer(&mut self, eof_ahead: bool) {
        self.unread = true;
        self.eof_ahead |= eof_ahead;
    }

    /// Whether it has perhaps said something that is not handled yet.
    pub(super) fn is_kept_waiting(&self) -> bool {
        self.unread || self.held.is_some()
    }

    /// Where it comes from, for the log. Asked of the kernel, because no connection keeps it: only where somebody
    /// listens.
    pub(super) fn peer(&self) -> String {
        self.stream.peer_addr().map_or_else(|_| "gone".to_owned(), |peer| peer.to_string())
    }

    /// Bytes that wait to be sent, in the queue and behind it.
    pub(super) fn queued_bytes(&self) -> u64 {
        u64::from(self.conn.queued_bytes()) + self.stream.pending_bytes() as u64
    }

    /// The memory that they hold.
    pub(super) fn queue_memory(&self) -> u64 {
        self.conn.queue_memory() + self.stream.pending_memory() as u64
    }

    /// Gives a member what its topic got: directly from the shared bytes where nothing waits for it.
    pub(super) fn deliver(
        &mut self,
        slot: u32,
        batch: &Batch,
        now: Millis,
        rules: &QueueRules,
        metrics: &WorkerMetrics,
        Workbench { pool, scratch }: &mut Workbench,
    ) -> Delivered {
        let mut pieces = match self.conn.shared_window() {
            Some(window) => {
                let pieces = batch.deflated(window, pool);
                count_work(metrics, pool.take_work(window));
                pieces
            }
            None => batch.pieces(),
        };
        let mut messages = batch.messages();
        if batch.leaves_out(slot) {
            batch.without_left_out(slot, pieces, scratch);
            pieces = scratch.as_slice();
            messages = batch.messages_for(slot);
            if messages == 0 {
                return Delivered::Taken;
            }
        }
        let own;
        let has_backlog = self.conn.has_backlog();
        if let Some(deflater) = self.conn.own_deflater() {
            let droppable = has_backlog && rules.policy != SlowPolicy::Close;
            own = deflate(pieces, deflater, droppable);
            count_work(metrics, deflater.take_work());
            pieces = &own;
        }
        metrics.due.add(u64::from(messages));
        match self.conn.transmit_pieces(now, pieces, &mut self.stream, rules, metrics) {
            Ok(Sent::Accepted) if self.conn.has_backlog() => Delivered::Backlogged,
            Ok(Sent::Accepted) => Delivered::Taken,
            Ok(Sent::Overflow) => Delivered::Overflow,
            Err(_) => Delivered::Broken,
        }
    }
}

/// What a delivery came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// With the kernel.
    Taken,
    /// Some of it waits.
    Backlogged,
    /// Refused: too much waits already.
    Overflow,
    /// The socket failed.
    Broken,
}

const _: () = assert!(size_of::<Entry>() <= 184, "every connection pays for this");

/// Turns a connection away that there is no room for, so that its client knows why.
pub(super) fn turn_away(mut stream: TcpStream, secure: bool, why: &Response) {
    let mut out = Vec::new();
    if secure {
        out.extend(TURNED_AWAY);
    } else {
        why.encode(&mut out);
    }
    // What is unread when a socket is closed makes the kernel reset the connection, and with it the answer.
    let _ = stream.read(&mut [0; 2048]);
    let _ = stream.write(&out);
    let _ = stream.shutdown(Shutdown::Write);
}
