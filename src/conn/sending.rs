//! Sending: straight to the socket while it takes everything, into the outbox when it does not.

use std::io::{self, Write};

use super::{Conn, Flushed, Outbox, Phase, QueueRules, Sent};
use crate::config::Limits;
use crate::id::Millis;
use crate::metrics::WorkerMetrics;
use crate::proto::frame::{Frame, Piece};

impl Conn {
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
                outbox.queue_owed(metrics);
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
            let mut outbox = Box::new(Outbox::new(now));
            outbox.push(Piece::whole(Frame::from_encoded(&bytes[taken..]), messages), metrics);
            if taken > 0 {
                outbox.begin_head(0, metrics);
            }
            self.outbox = Some(outbox);
        }
        Ok(())
    }

    /// Sends pieces of shared frames, as one; where something waits already, what the route's rules say.
    ///
    /// # Errors
    /// The writer's own, other than that it takes no more; the messages are counted as dropped.
    pub fn transmit_pieces(
        &mut self,
        now: Millis,
        pieces: &[Piece],
        writer: &mut impl Write,
        rules: &QueueRules,
        metrics: &WorkerMetrics,
    ) -> io::Result<Sent> {
        if self.outbox.is_some() {
            return Ok(self.enqueue(now, pieces, rules, metrics));
        }
        if let [piece] = pieces {
            let taken = write_some(writer, piece.as_bytes())
                .inspect_err(|_| metrics.dropped_closed.add(u64::from(piece.messages)))?
                as u32;
            metrics.bytes_out.add(u64::from(taken));
            if taken == piece.len() {
                metrics.delivered.add(u64::from(piece.messages));
            } else {
                let mut outbox = self.outbox_for(now, pieces, metrics);
                if taken > 0 {
                    outbox.begin_head(taken, metrics);
                }
                self.keep(now, outbox, rules);
            }
            return Ok(Sent::Accepted);
        }
        let mut outbox = self.outbox_for(now, pieces, metrics);
        match outbox.flush(now, writer, metrics) {
            Ok(Flushed::Empty) => {}
            Ok(Flushed::Blocked) => self.keep(now, outbox, rules),
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
    pub fn flush(
        &mut self,
        now: Millis,
        writer: &mut impl Write,
        limits: &Limits,
        metrics: &WorkerMetrics,
    ) -> io::Result<()> {
        if let Some(outbox) = &mut self.outbox {
            match outbox.flush(now, writer, metrics)? {
                Flushed::Empty => self.outbox = None,
                Flushed::Blocked => outbox.judge(now, limits.queue_soft),
            }
        }
        Ok(())
    }

    /// A queue of pieces that the socket may not take whole.
    fn outbox_for(&self, now: Millis, pieces: &[Piece], metrics: &WorkerMetrics) -> Box<Outbox> {
        let mut outbox = Box::new(Outbox::new(now));
        // What was compressed with a window of the connection's own is what the next message may refer to.
        let droppable = self.streams.as_ref().is_none_or(|streams| streams.deflater.is_none());
        for piece in pieces {
            if droppable {
                outbox.publish(piece.clone(), metrics);
            } else {
                outbox.push(piece.clone(), metrics);
            }
        }
        outbox
    }

    fn keep(&mut self, now: Millis, mut outbox: Box<Outbox>, rules: &QueueRules) {
        outbox.judge(now, rules.soft);
        self.outbox = Some(outbox);
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
