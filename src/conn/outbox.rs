//! Backpressure: what one connection still has to send, as references to shared frames.
//!
//! A connection that keeps up has no outbox at all: bytes go straight to the socket, and only what the kernel
//! did not take waits here. A stalled reader costs references, not copies.
//!
//! What others sent can be dropped as long as nothing of it is on the wire, message by message; which messages, and
//! when, is said in [`rules`](super::QueueRules).

mod dropping;

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::frame::{Frame, Piece, own_header};

/// How many pieces go into one vectored write. Linux takes 1,024; more than a socket buffer's worth is idle work.
pub(super) const PIECES_PER_WRITE: usize = 64;

/// What the allocator and the reference counts add to a frame.
const FRAME_OVERHEAD: u64 = 32;

/// What waits for one connection, oldest first.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Item>,
    /// The newest pong: sent when the queue is empty. A peer that pings and does not read has at most this one.
    pong: Option<Frame>,
    /// Messages were dropped behind all that waits, and this is to be said before the next one.
    notice: Option<Frame>,
    bytes: u32,
    /// Of what others sent, the part of which nothing is on the wire.
    droppable: Amount,
    /// Whether bytes of the first item are on the wire, so that its frame must be finished before anything else.
    head_begun: bool,
    /// How many of them.
    head_sent: u32,
    /// When the kernel last took something, or when the waiting began.
    progress_at: Millis,
    /// When the waiting began.
    since: Millis,
    /// Since when more waits than the soft limit allows.
    over_soft_at: Millis,
    /// That was so for too long: until less waits, the soft limit is a hard one.
    squeezed: bool,
}

/// A run of bytes of a shared frame, as in [`Piece`].
#[derive(Debug)]
struct Item {
    frame: Frame,
    start: u32,
    end: u32,
    messages: u32,
    kind: Kind,
}

/// Who sent it, and with that whether it may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The server or the connection's own app: never dropped while the connection lives.
    Own,
    /// Somebody else.
    Published,
    /// The server, to say that messages of others are missing here.
    Notice,
}

#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    bytes: u32,
    messages: u32,
}

/// What is left after a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits any more.
    Empty,
    /// The socket takes no more for now.
    Blocked,
}

impl Outbox {
    /// An empty one, from `now` on.
    pub fn new(now: Millis) -> Self {
        Self {
            queue: VecDeque::new(),
            pong: None,
            notice: None,
            bytes: 0,
            droppable: Amount::default(),
            head_begun: false,
            head_sent: 0,
            progress_at: now,
            since: now,
            over_soft_at: Millis::NEVER,
            squeezed: false,
        }
    }

    /// Bytes that wait, pong left out.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Bytes of what others sent that could still be dropped.
    pub fn droppable_bytes(&self) -> u32 {
        self.droppable.bytes
    }

    /// When the kernel last took something, or when the waiting began.
    pub fn progress_at(&self) -> Millis {
        self.progress_at
    }

    /// When the waiting began.
    pub fn since(&self) -> Millis {
        self.since
    }

    /// Since when more than the soft limit waits; `NEVER` where that is not so, or has been acted on.
    pub fn over_soft_at(&self) -> Millis {
        self.over_soft_at
    }

    /// Notes how what waits compares with the soft limit. Zero is no limit.
    pub fn judge(&mut self, now: Millis, soft: u32) {
        if soft == 0 || self.droppable.bytes <= soft {
            self.over_soft_at = Millis::NEVER;
            self.squeezed = false;
        } else if self.over_soft_at == Millis::NEVER && !self.squeezed {
            self.over_soft_at = now;
        }
    }

    /// More than the soft limit has waited for too long, and instead of a Close that becomes a hard limit.
    pub fn squeeze(&mut self) {
        self.over_soft_at = Millis::NEVER;
        self.squeezed = true;
    }

    /// Whether the soft limit is a hard one for now.
    pub fn is_squeezed(&self) -> bool {
        self.squeezed
    }

    /// The memory that this queue holds: its own, and its part of each frame that others hold too.
    pub fn memory(&self) -> u64 {
        let part = |item: &Item| {
            (item.frame.wire_len() as u64 + FRAME_OVERHEAD).div_ceil(item.frame.holders().max(1) as u64)
        };
        let own = size_of::<Self>() + self.queue.capacity() * size_of::<Item>();
        own as u64 + self.queue.iter().map(part).sum::<u64>()
    }

    /// Adds a piece of our own to the end, whatever the limits.
    pub fn push(&mut self, piece: Piece, metrics: &WorkerMetrics) {
        self.add(piece, Kind::Own, metrics);
    }

    /// Adds a piece that others sent, behind the notice that is owed for those before it.
    pub fn publish(&mut self, piece: Piece, metrics: &WorkerMetrics) {
        self.queue_notice(metrics);
        self.add(piece, Kind::Published, metrics);
    }

    /// Notes that `sent` bytes of the first piece went out past this queue, or some that are not in it at all.
    pub fn begin_head(&mut self, sent: u32, metrics: &WorkerMetrics) {
        metrics.queued_bytes.sub(u64::from(sent));
        self.bytes -= sent;
        self.head_sent += sent;
        if !self.head_begun
            && let Some(head) = self.queue.front()
            && head.kind == Kind::Published
        {
            self.droppable.bytes -= head.len();
            self.droppable.messages -= head.messages;
        }
        self.head_begun = true;
    }

    /// Sets the pong to send; true where it takes the place of an older one.
    pub fn set_pong(&mut self, pong: Frame) -> bool {
        self.pong.replace(pong).is_some()
    }

    /// Gives the notice and the pong their places behind what is queued: a Close is about to follow, and nothing may
    /// come after that.
    pub fn queue_owed(&mut self, metrics: &WorkerMetrics) {
        self.queue_notice(metrics);
        if let Some(pong) = self.pong.take() {
            self.push(Piece::whole(pong, 0), metrics);
        }
    }

    /// Writes as much as `writer` takes.
    ///
    /// # Errors
    /// Whatever the writer gives except `WouldBlock` and `Interrupted`.
    pub fn flush(
        &mut self,
        now: Millis,
        writer: &mut impl Write,
        metrics: &WorkerMetrics,
    ) -> io::Result<Flushed> {
        loop {
            if self.queue.is_empty() {
                self.queue_owed(metrics);
                if self.queue.is_empty() {
                    return Ok(Flushed::Empty);
                }
            }
            let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
            let mut count = 0;
            let mut offered = 0;
            let mut sent = self.head_sent as usize;
            for (slice, item) in slices.iter_mut().zip(&self.queue) {
                let bytes = &item.as_bytes()[std::mem::take(&mut sent)..];
                *slice = IoSlice::new(bytes);
                count += 1;
                offered += bytes.len();
            }
            let taken = match writer.write_vectored(&slices[..count]) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.advance(taken as u32, metrics);
            self.progress_at = now;
            // A short write means that the socket is full, and that it will say when it is not.
            if taken < offered {
                return Ok(Flushed::Blocked);
            }
        }
    }

    /// Messages that will never be delivered because the connection is gone.
    pub fn abandon(mut self, metrics: &WorkerMetrics) -> u32 {
        metrics.queued_bytes.sub(u64::from(self.bytes));
        let mut messages = 0;
        for item in self.queue.drain(..) {
            metrics.queued.sub(u64::from(item.messages));
            metrics.queue_memory_unshared.sub(item.weight());
            messages += item.messages;
        }
        messages
    }

    fn add(&mut self, piece: Piece, kind: Kind, metrics: &WorkerMetrics) {
        let item = self.enter(piece, kind, metrics);
        self.queue.push_back(item);
    }

    /// Enters a piece in the books.
    fn enter(&mut self, piece: Piece, kind: Kind, metrics: &WorkerMetrics) -> Item {
        let Piece { frame, start, end, messages } = piece;
        metrics.queued.add(u64::from(messages));
        metrics.queued_bytes.add(u64::from(end - start));
        self.bytes = self.bytes.saturating_add(end - start);
        match kind {
            Kind::Own => {}
            Kind::Published => {
                self.droppable.bytes += end - start;
                self.droppable.messages += messages;
            }
            Kind::Notice => {
                metrics.due.add(u64::from(messages));
                metrics.gap_notices.add(u64::from(messages));
            }
        }
        let item = Item { frame, start, end, messages, kind };
        metrics.queue_memory_unshared.add(item.weight());
        item
    }

    /// Strikes an item of which nothing was sent from the books, but for what is droppable; gives its messages.
    fn forget(&mut self, item: &Item, metrics: &WorkerMetrics) -> u32 {
        metrics.queued.sub(u64::from(item.messages));
        metrics.queued_bytes.sub(u64::from(item.len()));
        metrics.queue_memory_unshared.sub(item.weight());
        self.bytes -= item.len();
        item.messages
    }

    fn queue_notice(&mut self, metrics: &WorkerMetrics) {
        if let Some(notice) = self.notice.take() {
            self.add(Piece::whole(notice, 1), Kind::Notice, metrics);
        }
    }

    /// Notes that so many bytes from the front on are with the kernel.
    pub(super) fn advance(&mut self, mut taken: u32, metrics: &WorkerMetrics) {
        metrics.bytes_out.add(u64::from(taken));
        while let Some(head) = self.queue.front() {
            let left = head.len() - self.head_sent;
            if taken == 0 && left > 0 {
                return;
            }
            self.begin_head(taken.min(left), metrics);
            if taken < left {
                return;
            }
            taken -= left;
            let Some(done) = self.queue.pop_front() else { return };
            metrics.queued.sub(u64::from(done.messages));
            metrics.delivered.add(u64::from(done.messages));
            metrics.queue_memory_unshared.sub(done.weight());
            (self.head_begun, self.head_sent) = (false, 0);
        }
    }
}

impl Item {
    /// The memory that it holds if nobody else holds its frame; a queue has up to two places for each item.
    fn weight(&self) -> u64 {
        self.frame.wire_len() as u64 + FRAME_OVERHEAD + 2 * size_of::<Self>() as u64
    }

    fn len(&self) -> u32 {
        self.end - self.start
    }

    fn as_bytes(&self) -> &[u8] {
        &self.frame.as_bytes()[self.start as usize..self.end as usize]
    }

    /// How long its first frame is.
    fn frame_len(&self) -> Option<u32> {
        frame_len(self.as_bytes())
    }
}

fn frame_len(bytes: &[u8]) -> Option<u32> {
    own_header(bytes).map(|(header, used)| used as u32 + header.payload_len as u32)
}

const _: () = assert!(size_of::<Item>() <= 32, "every message to everybody who is slow pays for this");

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that takes so many bytes at each write, then blocks.
    struct Stub {
        takes: VecDeque<usize>,
        got: Vec<u8>,
    }

    impl Write for Stub {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self.takes.pop_front().ok_or(io::ErrorKind::WouldBlock)?.min(bytes.len());
            self.got.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.write(&slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stub(takes: &[usize]) -> Stub {
        Stub { takes: takes.iter().copied().collect(), got: Vec::new() }
    }

    fn piece(text: &str) -> Piece {
        Piece::whole(Frame::message(text), 1)
    }

    #[test]
    fn everything_goes_out_once_and_in_order_however_little_is_taken() {
        for step in 1..20 {
            let metrics = WorkerMetrics::default();
            let mut outbox = Outbox::new(Millis(0));
            for text in ["one", "two", "three"] {
                outbox.push(piece(text), &metrics);
            }
            assert_eq!((outbox.bytes(), metrics.queued.get()), (17, 3));
            let mut socket = stub(&[step; 20]);
            while outbox.flush(Millis(5), &mut socket, &metrics).expect("no error") == Flushed::Blocked {}
            assert_eq!(socket.got, b"\x81\x03one\x81\x03two\x81\x05three");
            assert_eq!((metrics.delivered.get(), metrics.queued.get()), (3, 0));
            assert_eq!((metrics.bytes_out.get(), metrics.queued_bytes.get()), (17, 0));
        }
    }

    #[test]
    fn progress_is_what_the_socket_took() {
        let metrics = WorkerMetrics::default();
        let mut outbox = Outbox::new(Millis(1));
        outbox.push(piece("one"), &metrics);
        assert_eq!(outbox.flush(Millis(9), &mut stub(&[]), &metrics).expect("no error"), Flushed::Blocked);
        assert_eq!(outbox.progress_at(), Millis(1));
        assert_eq!(outbox.flush(Millis(9), &mut stub(&[1]), &metrics).expect("no error"), Flushed::Blocked);
        assert_eq!(outbox.progress_at(), Millis(9));
    }

    #[test]
    fn shedding_keeps_the_frame_that_was_begun() {
        let metrics = WorkerMetrics::default();
        let mut outbox = Outbox::new(Millis(0));
        for text in ["one", "two", "three"] {
            outbox.push(piece(text), &metrics);
        }
        let mut socket = stub(&[7]);
        assert_eq!(outbox.flush(Millis(0), &mut socket, &metrics).expect("no error"), Flushed::Blocked);
        assert_eq!(outbox.shed(&metrics), 1, "`three` has not been begun");
        outbox.push(piece("end"), &metrics);
        socket.takes = [100, 100].into();
        assert_eq!(outbox.flush(Millis(0), &mut socket, &metrics).expect("no error"), Flushed::Empty);
        assert_eq!(socket.got, b"\x81\x03one\x81\x03two\x81\x03end");
        assert_eq!((metrics.queued.get(), metrics.queued_bytes.get()), (0, 0));
    }

    #[test]
    fn only_the_newest_pong_waits() {
        let metrics = WorkerMetrics::default();
        let mut outbox = Outbox::new(Millis(0));
        outbox.push(piece("one"), &metrics);
        for payload in ["a", "b"] {
            let mut bytes = Vec::new();
            crate::proto::frame::encode(&mut bytes, crate::proto::OpCode::Pong, payload.as_bytes(), None);
            outbox.set_pong(Frame::from_encoded(&bytes));
        }
        let mut socket = stub(&[100, 100]);
        assert_eq!(outbox.flush(Millis(0), &mut socket, &metrics).expect("no error"), Flushed::Empty);
        assert_eq!(socket.got, b"\x81\x03one\x8a\x01b");
    }
}
