//! Tick batches: all that a topic gets in one turn of the loop, encoded once.
//!
//! Small frames are laid end to end in one shared buffer, so that M messages to N members cost N writes and not
//! M x N; a large frame stays as it is, shared by itself. A member that is left out of some messages (the sender,
//! in a chat without echo) gets the batch less those bytes, and nobody else pays for that.

use std::sync::Arc;

use crate::proto::frame::{Frame, Piece};

/// From this size on a frame is shared as it is: copying it would cost more than the second slice of a
/// vectored write.
pub const LARGE_FRAME_BYTES: usize = 1024;

/// Small frames go on in a new buffer after this many bytes, so that no turn asks for one huge allocation.
const BUFFER_BYTES: usize = 64 * 1024;

/// A buffer larger than this is not kept for the next turn.
const KEPT_BYTES: usize = 4 * 1024;

/// One encoded frame with one message in it.
#[derive(Clone, Copy, Debug)]
pub enum FrameRef<'a> {
    /// Bytes to copy.
    Bytes(&'a [u8]),
    /// A frame to share.
    Shared(&'a Frame),
}

impl FrameRef<'_> {
    /// How many bytes go on the wire.
    pub fn wire_len(&self) -> usize {
        match self {
            FrameRef::Bytes(bytes) => bytes.len(),
            FrameRef::Shared(frame) => frame.wire_len(),
        }
    }
}

/// What a topic gets in the present turn.
#[derive(Debug, Default)]
pub struct Pending {
    sealed: Vec<Piece>,
    open: Vec<u8>,
    open_messages: u32,
    left_out: Vec<LeftOut>,
}

/// Bytes of a batch that one member does not get: the whole frame of one message.
#[derive(Clone, Copy, Debug)]
struct LeftOut {
    slot: u32,
    piece: u32,
    start: u32,
    end: u32,
}

/// A sealed batch. Cloning it costs reference counts.
#[derive(Clone, Debug)]
pub struct Batch {
    pieces: Arc<[Piece]>,
    left_out: Arc<[LeftOut]>,
    messages: u32,
    wire_len: usize,
}

impl Pending {
    /// Whether nothing was published.
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    /// Adds one message, for all but `except`.
    pub fn push(&mut self, frame: FrameRef<'_>, except: Option<u32>) {
        let len = frame.wire_len();
        if len >= LARGE_FRAME_BYTES || self.open.len() + len > BUFFER_BYTES {
            self.close_buffer();
        }
        if let Some(slot) = except {
            let start = self.open.len() as u32;
            let piece = self.sealed.len() as u32;
            self.left_out.push(LeftOut { slot, piece, start, end: start + len as u32 });
        }
        match frame {
            FrameRef::Shared(frame) if len >= LARGE_FRAME_BYTES => {
                self.sealed.push(Piece::whole(frame.clone(), 1))
            }
            FrameRef::Bytes(bytes) if len >= LARGE_FRAME_BYTES => {
                self.sealed.push(Piece::whole(Frame::from_encoded(bytes), 1));
            }
            FrameRef::Bytes(bytes) => self.copy(bytes),
            FrameRef::Shared(frame) => self.copy(frame.as_bytes()),
        }
    }

    /// Everything so far, as a batch; the next turn starts empty.
    pub fn seal(&mut self) -> Batch {
        self.close_buffer();
        Batch {
            messages: self.sealed.iter().map(|piece| piece.messages).sum(),
            wire_len: self.sealed.iter().map(|piece| piece.len() as usize).sum(),
            pieces: self.sealed.drain(..).collect(),
            left_out: self.left_out.drain(..).collect(),
        }
    }

    fn copy(&mut self, frame: &[u8]) {
        self.open.extend_from_slice(frame);
        self.open_messages += 1;
    }

    fn close_buffer(&mut self) {
        if !self.open.is_empty() {
            self.sealed.push(Piece::whole(Frame::from_encoded(&self.open), self.open_messages));
            self.open.clear();
            self.open.shrink_to(KEPT_BYTES);
            self.open_messages = 0;
        }
    }
}

impl Batch {
    /// What a member that is left out of nothing gets.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Messages in it.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Bytes in it.
    pub fn wire_len(&self) -> usize {
        self.wire_len
    }

    /// Messages in it for one member.
    pub fn messages_for(&self, slot: u32) -> u32 {
        self.messages - self.left_out.iter().filter(|part| part.slot == slot).count() as u32
    }

    /// Whether `slot` gets less than the whole.
    pub fn leaves_out(&self, slot: u32) -> bool {
        self.left_out.iter().any(|part| part.slot == slot)
    }

    /// The batch for members on other workers: slots here mean nothing there.
    pub fn for_other_workers(&self) -> Self {
        Self { left_out: Arc::default(), ..self.clone() }
    }

    /// Writes to `out` what `slot` gets: the pieces less the bytes that it is left out of.
    pub fn pieces_for(&self, slot: u32, out: &mut Vec<Piece>) {
        out.clear();
        let mut gaps = self.left_out.iter().filter(|part| part.slot == slot).peekable();
        for (index, piece) in self.pieces.iter().enumerate() {
            let mut at = piece.start;
            let mut messages = piece.messages;
            let first = out.len();
            while let Some(gap) = gaps.next_if(|gap| gap.piece as usize == index) {
                if gap.start > at {
                    out.push(Piece { frame: piece.frame.clone(), start: at, end: gap.start, messages: 0 });
                }
                at = gap.end;
                messages -= 1;
            }
            if at < piece.end {
                out.push(Piece { frame: piece.frame.clone(), start: at, end: piece.end, messages: 0 });
            }
            // The last part of a piece stands for all its messages.
            if let Some(last) = out[first..].last_mut() {
                last.messages = messages;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_for(batch: &Batch, slot: u32) -> (Vec<u8>, u32) {
        let mut pieces = Vec::new();
        batch.pieces_for(slot, &mut pieces);
        let bytes = pieces.iter().flat_map(|piece| piece.as_bytes().to_vec()).collect();
        (bytes, pieces.iter().map(|piece| piece.messages).sum())
    }

    #[test]
    fn small_frames_share_one_buffer() {
        let mut pending = Pending::default();
        for text in ["a", "b", "c"] {
            pending.push(FrameRef::Shared(&Frame::message(text)), None);
        }
        let batch = pending.seal();
        assert_eq!(batch.pieces().len(), 1);
        assert_eq!(batch.pieces()[0].as_bytes(), b"\x81\x01a\x81\x01b\x81\x01c");
        assert_eq!((batch.messages(), batch.pieces()[0].messages), (3, 3));
        assert!(pending.is_empty());
    }

    #[test]
    fn a_large_frame_is_shared_and_keeps_its_place() {
        let large = Frame::message(&[9u8; LARGE_FRAME_BYTES][..]);
        let mut pending = Pending::default();
        pending.push(FrameRef::Bytes(b"\x81\x01a"), None);
        pending.push(FrameRef::Shared(&large), None);
        pending.push(FrameRef::Bytes(b"\x81\x01b"), None);
        let batch = pending.seal();
        let shapes: Vec<_> = batch.pieces().iter().map(|piece| (piece.len(), piece.messages)).collect();
        assert_eq!(shapes, [(3, 1), (large.wire_len() as u32, 1), (3, 1)]);
        assert_eq!(batch.pieces()[1].frame.as_bytes().as_ptr(), large.as_bytes().as_ptr(), "not copied");
    }

    #[test]
    fn buffers_are_bounded() {
        let mut pending = Pending::default();
        for _ in 0..200 {
            pending.push(FrameRef::Bytes(&[0; 1000]), None);
        }
        let batch = pending.seal();
        assert!(batch.pieces().iter().all(|piece| piece.len() as usize <= BUFFER_BYTES));
        assert_eq!(batch.messages(), 200);
    }

    #[test]
    fn a_sender_gets_the_batch_less_its_own() {
        let large = [7; LARGE_FRAME_BYTES];
        let mut pending = Pending::default();
        pending.push(FrameRef::Bytes(b"one"), Some(1));
        pending.push(FrameRef::Bytes(b"two"), Some(2));
        pending.push(FrameRef::Bytes(b"three"), Some(1));
        pending.push(FrameRef::Bytes(&large), Some(2));
        pending.push(FrameRef::Bytes(b"four"), None);
        let batch = pending.seal();
        let large = String::from_utf8_lossy(&large);
        let check = |slot, text: String, messages| {
            assert_eq!(bytes_for(&batch, slot), (text.into_bytes(), messages));
            assert_eq!(batch.messages_for(slot), messages);
        };
        check(1, format!("two{large}four"), 3);
        check(2, "onethreefour".to_owned(), 3);
        check(3, format!("onetwothree{large}four"), 5);
        assert!(batch.leaves_out(1) && !batch.leaves_out(3) && !batch.for_other_workers().leaves_out(1));
    }

    #[test]
    fn a_batch_of_ones_own_only_is_nothing() {
        let mut pending = Pending::default();
        pending.push(FrameRef::Bytes(b"mine"), Some(1));
        assert_eq!(bytes_for(&pending.seal(), 1), (vec![], 0));
    }
}
