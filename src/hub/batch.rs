//! Tick batches: all that a topic gets in one turn of the loop, encoded once.
//!
//! Small frames are laid end to end in one shared buffer, so that M messages to N members cost N writes and not
//! M x N; a large frame stays as it is, shared by itself. A member that is left out of some messages (the sender,
//! in a chat without echo) gets the batch less those bytes, and nobody else pays for that.

use std::sync::{Arc, OnceLock};

use crate::id::Micros;
use crate::metrics::NO_ROUTE;
use crate::proto::OpCode;
use crate::proto::deflate::{Deflater, Pool, Window};
use crate::proto::frame::{self, Frame, Piece, own_header};

/// From this size on a frame is shared as it is: copying it would cost more than the second slice of a
/// vectored write.
pub const LARGE_FRAME_BYTES: usize = 1024;

/// Small frames go on in a new buffer after this many bytes, so that no turn asks for one huge allocation.
const BUFFER_BYTES: usize = 64 * 1024;

/// A buffer larger than this is not kept for the next turn.
const KEPT_BYTES: usize = 4 * 1024;

/// Batches that wait for the same members go out as one up to this many bytes. More would save little, and a member's
/// queue takes a batch as a whole or not at all.
const JOINED_BYTES: usize = 16 * 1024;

/// What a batch costs while it waits beside what goes on the wire: itself, in lists that may be half empty, and its
/// frame's allocation. Where it is kept compressed too, about twice as much.
const BATCH_BYTES: usize = 256;

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

/// Where and when something was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The publisher's route.
    pub route: u16,
    /// When the turn began in which it was.
    pub at: Micros,
}

impl Default for Stamp {
    fn default() -> Self {
        Self { route: NO_ROUTE, at: Micros(0) }
    }
}

/// What a topic gets in the present turn.
#[derive(Debug, Default)]
pub struct Pending {
    stamp: Stamp,
    sealed: Vec<Piece>,
    open: Vec<u8>,
    open_messages: u32,
    messages: u32,
    left_out: Vec<LeftOut>,
}

/// A message that one member does not get, by its number in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LeftOut {
    slot: u32,
    message: u32,
}

/// A sealed batch. Cloning it costs reference counts, and making one of a single buffer one allocation: the frame's.
#[derive(Clone, Debug)]
pub struct Batch {
    plain: Pieces,
    /// `None` where nobody can have agreed on compression.
    deflated: Option<Arc<Deflated>>,
    /// What it was joined from, where that may be wanted compressed: each part is compressed once for all workers.
    parts: Option<Arc<[Batch]>>,
    /// By slot and message.
    left_out: Option<Arc<[LeftOut]>>,
    messages: u32,
    /// How many it was joined from.
    batches: u32,
    wire_len: usize,
    stamp: Stamp,
}

const _: () = assert!(2 * size_of::<Batch>() + 32 <= BATCH_BYTES, "what waits is counted for what it costs");

#[derive(Clone, Debug)]
enum Pieces {
    One(Piece),
    Many(Arc<[Piece]>),
}

/// By window: the same messages compressed, made by the first worker that needs them, for all workers.
type Deflated = [OnceLock<Box<[Piece]>>; 7];

impl Pending {
    /// Whether nothing was published.
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    /// Says where and when the first of the messages was published; it speaks for the whole batch.
    pub fn stamp(&mut self, stamp: Stamp) {
        self.stamp = stamp;
    }

    /// Adds one message, for all but `except`.
    pub fn push(&mut self, frame: FrameRef<'_>, except: Option<u32>) {
        let len = frame.wire_len();
        if len >= LARGE_FRAME_BYTES || self.open.len() + len > BUFFER_BYTES {
            self.close_buffer();
        }
        if let Some(slot) = except {
            self.left_out.push(LeftOut { slot, message: self.messages });
        }
        self.messages += 1;
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

    /// Everything so far, as a batch; the next turn starts empty. `deflates` is whether some members may get it
    /// compressed.
    pub fn seal(&mut self, deflates: bool) -> Batch {
        self.close_buffer();
        let wire_len = self.sealed.iter().map(|piece| piece.len() as usize).sum();
        self.left_out.sort_unstable();
        Batch {
            plain: Pieces::from_list(&mut self.sealed),
            deflated: deflates.then(Arc::default),
            parts: None,
            left_out: (!self.left_out.is_empty()).then(|| self.left_out.drain(..).collect()),
            messages: std::mem::take(&mut self.messages),
            batches: 1,
            wire_len,
            stamp: self.stamp,
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

impl Pieces {
    /// Empties the list, and leaves it its room.
    fn from_list(list: &mut Vec<Piece>) -> Self {
        match list.pop() {
            Some(only) if list.is_empty() => Self::One(only),
            last => Self::Many(list.drain(..).chain(last).collect()),
        }
    }
}

impl Batch {
    /// One message for all.
    pub fn single(frame: Frame, deflates: bool, stamp: Stamp) -> Self {
        let wire_len = frame.wire_len();
        Self {
            plain: Pieces::One(Piece::whole(frame, 1)),
            deflated: deflates.then(Arc::default),
            parts: None,
            left_out: None,
            messages: 1,
            batches: 1,
            wire_len,
            stamp,
        }
    }

    /// How many of these batches, from the first on, may go out as one: at least one.
    pub fn joinable<'a>(batches: impl Iterator<Item = &'a Self>) -> usize {
        let mut bytes = 0;
        let fits = |batch: &&Self| {
            bytes += batch.wire_len;
            bytes <= JOINED_BYTES
        };
        batches.take_while(fits).count().max(1)
    }

    /// One batch of several for the same members, in their order: one write to each member instead of one for each.
    pub fn join<'a>(batches: impl Iterator<Item = &'a Self> + Clone) -> Self {
        // The first was published first.
        let stamp = batches.clone().next().map(Self::stamp).unwrap_or_default();
        let (mut messages, mut parts, mut wire_len, mut left_out) = (0, 0, 0, Vec::new());
        for batch in batches.clone() {
            let own = batch.left_out.as_deref().unwrap_or_default();
            left_out.extend(own.iter().map(|it| LeftOut { message: it.message + messages, ..*it }));
            messages += batch.messages;
            parts += batch.batches;
            wire_len += batch.wire_len;
        }
        left_out.sort_unstable();
        let deflates = batches.clone().any(|batch| batch.deflated.is_some());
        Self {
            plain: Pieces::from_list(&mut join_pieces(batches.clone().flat_map(Self::pieces))),
            deflated: deflates.then(Arc::default),
            parts: deflates.then(|| batches.cloned().collect()),
            left_out: (!left_out.is_empty()).then(|| left_out.into()),
            messages,
            batches: parts,
            wire_len,
            stamp,
        }
    }

    /// What a member gets that is left out of nothing.
    pub fn pieces(&self) -> &[Piece] {
        match &self.plain {
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many(pieces) => pieces,
        }
    }

    /// The same, compressed for members with this window: at most once for all of them.
    pub fn deflated(&self, window: Window, pool: &mut Pool) -> &[Piece] {
        let Some(deflated) = &self.deflated else { return self.pieces() };
        let slot = &deflated[usize::from(window.bits() - Window::MIN.bits())];
        slot.get_or_init(|| match &self.parts {
            None => deflate(self.pieces(), pool.deflater(window), false),
            Some(parts) => {
                let mut pieces = Vec::new();
                for part in parts.iter() {
                    pieces.extend_from_slice(part.deflated(window, pool));
                }
                join_pieces(pieces.iter()).into_boxed_slice()
            }
        })
    }

    /// Messages in it.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Bytes in it, as they are without compression.
    pub fn wire_len(&self) -> usize {
        self.wire_len
    }

    /// Bytes that it counts for while it waits for its members: many small batches cost far more than what is in them.
    /// Joined, as many as what it was joined from.
    pub fn backlog_bytes(&self) -> usize {
        self.wire_len + self.batches as usize * BATCH_BYTES
    }

    /// The same, published there and then.
    #[must_use]
    pub fn stamped(self, stamp: Stamp) -> Self {
        Self { stamp, ..self }
    }

    /// Where and when its first message was published.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Messages in it for one member.
    pub fn messages_for(&self, slot: u32) -> u32 {
        self.messages - self.left_out(slot).count() as u32
    }

    /// Whether `slot` gets less than the whole.
    pub fn leaves_out(&self, slot: u32) -> bool {
        self.left_out.is_some() && self.left_out(slot).next().is_some()
    }

    /// The batch for members on other workers: slots here mean nothing there.
    pub fn for_other_workers(&self) -> Self {
        Self { left_out: None, ..self.clone() }
    }

    /// The numbers of the messages that `slot` is left out of, ascending.
    fn left_out(&self, slot: u32) -> impl Iterator<Item = u32> {
        let all = self.left_out.as_deref().unwrap_or_default();
        let first = all.partition_point(|it| it.slot < slot);
        all[first..].iter().take_while(move |it| it.slot == slot).map(|it| it.message)
    }

    /// Writes to `out` what `slot` gets of `pieces`, which are all of this batch, plain or compressed: less the
    /// messages that it is left out of.
    pub fn without_left_out(&self, slot: u32, pieces: &[Piece], out: &mut Vec<Piece>) {
        out.clear();
        let mut gaps = self.left_out(slot).peekable();
        let mut number = 0;
        for piece in pieces {
            let mut run: Option<Piece> = None;
            for (start, end) in frames(piece) {
                if gaps.next_if_eq(&number).is_some() {
                    out.extend(run.take());
                } else {
                    let run = run.get_or_insert_with(|| Piece { start, end, messages: 0, ..piece.clone() });
                    run.end = end;
                    run.messages += 1;
                }
                number += 1;
            }
            out.extend(run);
        }
    }
}

/// The same bytes in fewer pieces: small ones are laid end to end, large ones stay as they are.
fn join_pieces<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Vec<Piece> {
    let (mut joined, mut open, mut messages) = (Vec::new(), Vec::new(), 0);
    let close = |open: &mut Vec<u8>, messages: &mut u32, joined: &mut Vec<Piece>| {
        if !open.is_empty() {
            joined.push(Piece::whole(Frame::from_encoded(open), std::mem::take(messages)));
            open.clear();
        }
    };
    for piece in pieces {
        // A run of small frames is copied again; a frame that is large by itself is not.
        if piece.messages <= 1 && piece.len() as usize >= LARGE_FRAME_BYTES {
            close(&mut open, &mut messages, &mut joined);
            joined.push(piece.clone());
        } else {
            open.extend_from_slice(piece.as_bytes());
            messages += piece.messages;
        }
    }
    close(&mut open, &mut messages, &mut joined);
    joined
}

/// The pieces for one member, compressed by `deflater`, in new frames. `droppable`: some of the messages may never
/// be sent, so nothing that follows refers to them.
pub fn deflate(pieces: &[Piece], deflater: &mut Deflater, droppable: bool) -> Box<[Piece]> {
    let one = |piece: &Piece| {
        let mut bytes = Vec::with_capacity(piece.len() as usize / 2);
        for (start, end) in frames(piece) {
            let frame = &piece.frame.as_bytes()[start as usize..end as usize];
            let (opcode, payload) = unwrap_frame(frame);
            frame::encode_deflated(&mut bytes, opcode, payload, None, deflater);
            if droppable {
                deflater.forget();
            }
        }
        Piece::whole(Frame::from_encoded(&bytes), piece.messages)
    };
    pieces.iter().map(one).collect()
}

/// Where each frame of a piece starts and ends, within the piece's shared frame.
fn frames(piece: &Piece) -> impl Iterator<Item = (u32, u32)> {
    let mut at = piece.start;
    std::iter::from_fn(move || {
        let bytes = &piece.frame.as_bytes()[at as usize..piece.end as usize];
        let (header, used) = own_header(bytes)?;
        let start = at;
        at += used as u32 + header.payload_len as u32;
        Some((start, at))
    })
}

fn unwrap_frame(frame: &[u8]) -> (OpCode, &[u8]) {
    match own_header(frame) {
        Some((header, used)) => (header.opcode, &frame[used..]),
        None => (OpCode::Binary, frame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_for(batch: &Batch, slot: u32) -> (Vec<u8>, u32) {
        join(batch, slot, batch.pieces())
    }

    fn join(batch: &Batch, slot: u32, pieces: &[Piece]) -> (Vec<u8>, u32) {
        let mut out = Vec::new();
        batch.without_left_out(slot, pieces, &mut out);
        let bytes = out.iter().flat_map(|piece| piece.as_bytes().to_vec()).collect();
        (bytes, out.iter().map(|piece| piece.messages).sum())
    }

    /// The payloads in a run of frames, inflated where they are compressed, and how many are.
    fn payloads(bytes: &[u8]) -> (Vec<String>, usize) {
        let mut inflater = crate::proto::deflate::Inflater::new(Window::MAX, false);
        let (mut rest, mut out, mut compressed) = (bytes, Vec::new(), 0);
        while let Some((header, used)) = own_header(rest) {
            let payload = &rest[used..used + header.payload_len as usize];
            compressed += usize::from(header.compressed);
            let text = if header.compressed {
                inflater.inflate(payload, 1 << 20).expect("sound")
            } else {
                payload.to_vec()
            };
            out.push(String::from_utf8(text).expect("text"));
            rest = &rest[used + header.payload_len as usize..];
        }
        (out, compressed)
    }

    #[test]
    fn small_frames_share_one_buffer() {
        let mut pending = Pending::default();
        for text in ["a", "b", "c"] {
            pending.push(FrameRef::Shared(&Frame::message(text)), None);
        }
        let batch = pending.seal(true);
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
        let batch = pending.seal(true);
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
        let batch = pending.seal(true);
        assert!(batch.pieces().iter().all(|piece| piece.len() as usize <= BUFFER_BYTES));
        assert_eq!(batch.messages(), 200);
    }

    /// Messages from two senders, small and large, and one from nobody here.
    fn mixed() -> (Batch, String) {
        let large = "long ".repeat(500);
        let mut pending = Pending::default();
        for (text, sender) in
            [("one", Some(1)), ("two", Some(2)), ("three", Some(1)), (&large, Some(2)), ("four", None)]
        {
            pending.push(FrameRef::Shared(&Frame::message(text)), sender);
        }
        (pending.seal(true), large)
    }

    #[test]
    fn a_sender_gets_the_batch_less_its_own() {
        let (batch, large) = mixed();
        let expected: [(u32, &[&str]); 3] = [
            (1, &["two", &large, "four"]),
            (2, &["one", "three", "four"]),
            (3, &["one", "two", "three", &large, "four"]),
        ];
        let mut pool = Pool::new(crate::config::Deflate::default());
        for (slot, texts) in expected {
            let (bytes, messages) = bytes_for(&batch, slot);
            assert_eq!(payloads(&bytes), (texts.iter().map(|&text| text.to_owned()).collect(), 0));
            assert_eq!((messages, batch.messages_for(slot)), (texts.len() as u32, texts.len() as u32));
            let (bytes, messages) = join(&batch, slot, batch.deflated(Window::MAX, &mut pool));
            let long = usize::from(texts.contains(&large.as_str()));
            assert_eq!(payloads(&bytes), (texts.iter().map(|&text| text.to_owned()).collect(), long));
            assert_eq!(messages, texts.len() as u32);
        }
        assert!(batch.leaves_out(1) && !batch.leaves_out(3) && !batch.for_other_workers().leaves_out(1));
    }

    #[test]
    fn a_batch_is_compressed_once_for_all_members_with_a_window() {
        let (batch, _) = mixed();
        let elsewhere = batch.for_other_workers();
        let mut pools =
            [Pool::new(crate::config::Deflate::default()), Pool::new(crate::config::Deflate::default())];
        let first = batch.deflated(Window::MAX, &mut pools[0]).as_ptr();
        assert_eq!(batch.deflated(Window::MAX, &mut pools[0]).as_ptr(), first);
        assert_eq!(elsewhere.deflated(Window::MAX, &mut pools[1]).as_ptr(), first, "on other workers too");
        assert_ne!(batch.deflated(Window::MIN, &mut pools[0]).as_ptr(), first);
    }

    #[test]
    fn joined_batches_are_one_buffer_and_leave_out_what_their_parts_do() {
        let batch = |texts: &[(&str, u32)]| {
            let mut pending = Pending::default();
            for (text, sender) in texts {
                pending.push(FrameRef::Shared(&Frame::message(*text)), Some(*sender));
            }
            pending.seal(true)
        };
        let parts = [batch(&[("a", 1), ("b", 2)]), batch(&[("c", 1)]), batch(&[("d", 3)])];
        assert_eq!(Batch::joinable(parts.iter()), 3);
        let joined = Batch::join(parts.iter());
        assert_eq!((joined.pieces().len(), joined.messages(), joined.wire_len()), (1, 4, 12));
        assert_eq!(joined.backlog_bytes(), parts.iter().map(Batch::backlog_bytes).sum::<usize>());
        for (slot, expected) in [(1, "bd"), (2, "acd"), (3, "abc"), (4, "abcd")] {
            let (bytes, messages) = bytes_for(&joined, slot);
            assert_eq!((payloads(&bytes).0.concat(), messages), (expected.to_owned(), expected.len() as u32));
        }
    }

    #[test]
    fn joining_has_a_limit_and_copies_no_large_frame() {
        let of_size = |len: usize| {
            let mut pending = Pending::default();
            pending.push(FrameRef::Shared(&Frame::message(&vec![0; len][..])), None);
            pending.seal(false)
        };
        // 4 bytes of header each.
        let half = of_size(JOINED_BYTES / 2 - 4);
        assert_eq!(Batch::joinable([&half, &half, &half].into_iter()), 2);
        assert_eq!(Batch::joinable([&half, &of_size(JOINED_BYTES / 2 - 3)].into_iter()), 1);
        assert_eq!(Batch::joinable([&of_size(2 * JOINED_BYTES), &half].into_iter()), 1);
        let joined = Batch::join([&of_size(1), &half].into_iter());
        assert_eq!(joined.pieces()[1].frame.as_bytes().as_ptr(), half.pieces()[0].frame.as_bytes().as_ptr());
    }

    #[test]
    fn a_part_of_a_joined_batch_is_compressed_once_for_all_workers() {
        let (batch, large) = mixed();
        let mut pool = Pool::new(crate::config::Deflate::default());
        let elsewhere = batch.deflated(Window::MAX, &mut pool).to_vec();
        let joined = Batch::join([&batch, &batch].into_iter());
        let (bytes, messages) = join(&joined, 9, joined.deflated(Window::MAX, &mut pool));
        assert_eq!(messages, 2 * batch.messages());
        assert_eq!(payloads(&bytes).0, ["one", "two", "three", &large, "four"].repeat(2));
        let once: usize = elsewhere.iter().map(|piece| piece.len() as usize).sum();
        assert_eq!(bytes.len(), 2 * once);
    }

    #[test]
    fn a_batch_of_ones_own_only_is_nothing() {
        let mut pending = Pending::default();
        pending.push(FrameRef::Shared(&Frame::message("mine")), Some(1));
        assert_eq!(bytes_for(&pending.seal(false), 1), (vec![], 0));
    }
}
