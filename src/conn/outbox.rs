//! Backpressure: what one connection still has to send, as references to shared frames.
//!
//! A connection that keeps up has no outbox at all: bytes go straight to the socket, and only what the kernel
//! did not take waits here. A stalled reader costs references, not copies.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::frame::{Frame, Piece};

/// How many pieces go into one vectored write. Linux takes 1,024; more than a socket buffer's worth is idle work.
const PIECES_PER_WRITE: usize = 64;

/// What waits for one connection, oldest first.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Piece>,
    /// The newest pong: sent when the queue is empty. A peer that pings and does not read has at most this one.
    pong: Option<Frame>,
    bytes: u32,
    /// Whether bytes of the first piece are on the wire, so that it must be finished before anything else.
    head_begun: bool,
    /// When the kernel last took something, or when the waiting began.
    progress_at: Millis,
    /// When the waiting began.
    since: Millis,
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
        Self { queue: VecDeque::new(), pong: None, bytes: 0, head_begun: false, progress_at: now, since: now }
    }

    /// Bytes that wait, pong left out.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// When the kernel last took something, or when the waiting began.
    pub fn progress_at(&self) -> Millis {
        self.progress_at
    }

    /// When the waiting began.
    pub fn since(&self) -> Millis {
        self.since
    }

    /// Adds a piece to the end, whatever the limits.
    pub fn push(&mut self, piece: Piece, metrics: &WorkerMetrics) {
        metrics.queued.add(u64::from(piece.messages));
        metrics.queued_bytes.add(u64::from(piece.len()));
        self.bytes = self.bytes.saturating_add(piece.len());
        self.queue.push_back(piece);
    }

    /// Notes that the first piece has been begun by somebody who wrote its beginning past this queue.
    pub fn mark_head_begun(&mut self) {
        self.head_begun = true;
    }

    /// Sets the pong to send, in place of an older one.
    pub fn set_pong(&mut self, pong: Frame) {
        self.pong = Some(pong);
    }

    /// Gives the pong its place behind what is queued: a Close is about to follow, and nothing may come after that.
    pub fn queue_pong(&mut self, metrics: &WorkerMetrics) {
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
                self.queue_pong(metrics);
                if self.queue.is_empty() {
                    return Ok(Flushed::Empty);
                }
            }
            let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
            let mut count = 0;
            let mut offered = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(piece.as_bytes());
                count += 1;
                offered += piece.len() as usize;
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

    /// Drops what waits, except the rest of a frame that is partly on the wire: cut there, nothing after it
    /// could be understood.
    pub fn shed(&mut self, metrics: &WorkerMetrics) -> u32 {
        let keep = usize::from(self.head_begun);
        let mut dropped = 0;
        for piece in self.queue.drain(keep.min(self.queue.len())..) {
            dropped += piece.messages;
            self.bytes -= piece.len();
            metrics.queued.sub(u64::from(piece.messages));
            metrics.queued_bytes.sub(u64::from(piece.len()));
        }
        self.pong = None;
        dropped
    }

    /// Messages that will never be delivered because the connection is gone.
    pub fn abandon(mut self, metrics: &WorkerMetrics) -> u32 {
        self.head_begun = false;
        self.shed(metrics)
    }

    fn advance(&mut self, mut taken: u32, metrics: &WorkerMetrics) {
        metrics.bytes_out.add(u64::from(taken));
        metrics.queued_bytes.sub(u64::from(taken));
        self.bytes -= taken;
        while let Some(first) = self.queue.front_mut() {
            if taken < first.len() {
                first.start += taken;
                self.head_begun |= taken > 0;
                return;
            }
            taken -= first.len();
            metrics.queued.sub(u64::from(first.messages));
            metrics.delivered.add(u64::from(first.messages));
            self.queue.pop_front();
            self.head_begun = false;
        }
    }
}

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
