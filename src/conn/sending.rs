//! Sending: straight to the socket while it takes everything, into the outbox when it does not.

use std::io::{self, IoSlice, Write};

use super::outbox::PIECES_PER_WRITE;
use super::{Cause, Conn, Ended, Flushed, Outbox, Phase, Sent};
use crate::config::Limits;
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::frame::{Frame, Piece};
use crate::proto::{Close, CloseCode};

impl Conn {
    /// Too much waits for the peer: drops it, except what is partly sent, and says so with 1013. The Close has
    /// room however full the queue was.
    pub fn shed(&mut self, now: Millis, limits: &Limits, metrics: &WorkerMetrics) -> Option<Ended> {
        let close = Close::new(CloseCode::TRY_AGAIN_LATER, "slow consumer");
        let outbox = self.outbox.get_or_insert_with(|| Box::new(Outbox::new(now)));
        metrics.dropped_slow.add(u64::from(outbox.shed(metrics)));
        outbox.push(Piece::whole(Frame::close(&close), 0), metrics);
        if !self.is_open() {
            return None;
        }
        self.phase = Phase::CloseSent;
        self.deadline = now.after(limits.close_timeout);
        Some(Ended { close, cause: Cause::Slow })
    }

    /// Sends bytes of our own making, which carry `messages` whole messages: to the writer as far as it takes
    /// them, the rest is queued, whatever its size. What a peer's own requests cause is bounded by not reading
    /// further ones ([`pauses_reading`](Self::pauses_reading)); the hard limit is for what others send to it.
    ///
    /// # Errors
    /// The writer's own, other than that it takes no more; the messages are counted as dropped.
    pub fn transmit(
        &mut self,
        now: Millis,
        bytes: &[u8],
        messages: u32,
        writer: &mut impl Write,
        metrics: &WorkerMetrics,
    ) -> io::Result<()> {
        if let Some(outbox) = &mut self.outbox {
            // Nothing follows a Close (section 5.5.1): what a ping is owed goes out before it.
            if !matches!(self.phase, Phase::Open { .. }) {
                outbox.queue_pong(metrics);
            }
            outbox.push(Piece::whole(Frame::from_encoded(bytes), messages), metrics);
            return Ok(());
        }
        let taken =
            write_some(writer, bytes).inspect_err(|_| metrics.dropped_closed.add(u64::from(messages)))?;
        metrics.bytes_out.add(taken as u64);
        if taken == bytes.len() {
            metrics.delivered.add(u64::from(messages));
        } else {
            self.hold(now, Piece::whole(Frame::from_encoded(&bytes[taken..]), messages), taken > 0, metrics);
        }
        Ok(())
    }

    /// Sends pieces of shared frames, as one, unless too much waits already.
    ///
    /// # Errors
    /// The writer's own, other than that it takes no more; the messages are counted as dropped.
    pub fn transmit_pieces(
        &mut self,
        now: Millis,
        pieces: &[Piece],
        writer: &mut impl Write,
        limits: &Limits,
        metrics: &WorkerMetrics,
    ) -> io::Result<Sent> {
        if self.outbox.is_some() {
            return Ok(self.enqueue(pieces, limits, metrics));
        }
        if let [piece] = pieces {
            let taken = write_some(writer, piece.as_bytes())
                .inspect_err(|_| metrics.dropped_closed.add(u64::from(piece.messages)))?
                as u32;
            metrics.bytes_out.add(u64::from(taken));
            if taken == piece.len() {
                metrics.delivered.add(u64::from(piece.messages));
            } else {
                let rest = Piece { start: piece.start + taken, ..piece.clone() };
                self.hold(now, rest, taken > 0, metrics);
            }
            return Ok(Sent::Accepted);
        }
        let messages: u32 = pieces.iter().map(|piece| piece.messages).sum();
        let (first, more) = pieces.split_at(pieces.len().min(PIECES_PER_WRITE));
        let offered: usize = first.iter().map(|piece| piece.len() as usize).sum();
        let taken =
            write_pieces(writer, first).inspect_err(|_| metrics.dropped_closed.add(u64::from(messages)))?;
        if taken == offered && more.is_empty() {
            metrics.bytes_out.add(taken as u64);
            metrics.delivered.add(u64::from(messages));
            return Ok(Sent::Accepted);
        }
        let mut outbox = Box::new(Outbox::new(now));
        for piece in pieces {
            outbox.push(piece.clone(), metrics);
        }
        outbox.advance(taken as u32, metrics);
        if taken < offered {
            self.outbox = Some(outbox);
            return Ok(Sent::Accepted);
        }
        match outbox.flush(now, writer, metrics) {
            Ok(Flushed::Empty) => {}
            Ok(Flushed::Blocked) => self.outbox = Some(outbox),
            Err(error) => {
                metrics.dropped_closed.add(u64::from(outbox.abandon(metrics)));
                return Err(error);
            }
        }
        Ok(Sent::Accepted)
    }

    /// The socket takes bytes again: sends what waits.
    ///
    /// # Errors
    /// The writer's own, other than that it takes no more.
    pub fn flush(&mut self, now: Millis, writer: &mut impl Write, metrics: &WorkerMetrics) -> io::Result<()> {
        if let Some(outbox) = &mut self.outbox
            && outbox.flush(now, writer, metrics)? == Flushed::Empty
        {
            self.outbox = None;
        }
        Ok(())
    }

    /// Queues pieces behind what waits already, all or none of them. The limit is for open connections: a Close
    /// always has room.
    fn enqueue(&mut self, pieces: &[Piece], limits: &Limits, metrics: &WorkerMetrics) -> Sent {
        let added: u32 = pieces.iter().map(Piece::len).sum();
        let Some(outbox) = &mut self.outbox else { return Sent::Accepted };
        let full = outbox.bytes().saturating_add(added) > limits.queue_hard;
        if full && matches!(self.phase, Phase::Open { .. }) {
            let messages: u32 = pieces.iter().map(|piece| piece.messages).sum();
            metrics.dropped_slow.add(u64::from(messages));
            return Sent::Overflow;
        }
        for piece in pieces {
            outbox.push(piece.clone(), metrics);
        }
        Sent::Accepted
    }

    /// Starts a queue with the rest of what the socket did not take.
    fn hold(&mut self, now: Millis, rest: Piece, begun: bool, metrics: &WorkerMetrics) {
        let mut outbox = Box::new(Outbox::new(now));
        outbox.push(rest, metrics);
        if begun {
            outbox.mark_head_begun();
        }
        self.outbox = Some(outbox);
    }
}

/// One vectored write, of at most [`PIECES_PER_WRITE`]: how much was taken, 0 when the writer takes nothing now.
fn write_pieces(writer: &mut impl Write, pieces: &[Piece]) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece.as_bytes());
    }
    loop {
        match writer.write_vectored(&slices[..pieces.len()]) {
            Ok(taken) => return Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One write: how much was taken, 0 when the writer takes nothing now.
fn write_some(writer: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match writer.write(bytes) {
            Ok(taken) => return Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
