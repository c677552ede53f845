//! One message in, one message out, RFC 7692 section 7.2.

use std::time::Duration;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Agreed, Window};
use crate::config::Deflate;
use crate::proto::ProtocolError;

/// "Remove 4 octets (that are 0x00 0x00 0xff 0xff) from the tail end" (7.2.1), and put them back (7.2.2).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// A compressor's buffer that grew larger is not kept.
const OUT_KEPT_BYTES: usize = 64 * 1024;

/// How far the output is let grow between two looks at the limit.
const STEP_BYTES: usize = 16 * 1024;

/// Reads a clock that never goes back, from any moment on: what compressing costs is measured by the caller's.
pub type Clock = fn() -> Duration;

/// What a compressor did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes that were to be compressed.
    pub input_bytes: u64,
    /// Bytes that they became; where they would not have become fewer, as many.
    pub output_bytes: u64,
    /// By the clock that was given.
    pub time: Duration,
}

/// Compresses messages.
#[derive(Debug)]
pub struct Deflater {
    stream: Compress,
    takeover: bool,
    min_bytes: usize,
    out: Vec<u8>,
    clock: Clock,
    work: Work,
}

impl Deflater {
    /// A compressor for a window. Without takeover it begins anew with each message, and can serve any number of
    /// connections with the same window, or a larger one.
    pub fn new(config: &Deflate, window: Window, takeover: bool) -> Self {
        let level = Compression::new(u32::from(config.level));
        let stream = Compress::new_with_window_bits(level, false, window.bits());
        let min_bytes = config.min_bytes as usize;
        Self { stream, takeover, min_bytes, out: Vec::new(), clock: || Duration::ZERO, work: Work::default() }
    }

    /// Measures its work with this clock.
    #[must_use]
    pub fn timed(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// What it did since the last call.
    pub fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// The compressed message; `None` where it is to be sent as it is: because it is short, or because it would
    /// not become shorter.
    pub fn deflate(&mut self, payload: &[u8]) -> Option<&[u8]> {
        if payload.len() < self.min_bytes {
            return None;
        }
        if !self.takeover {
            self.stream.reset();
        }
        self.out.clear();
        self.out.shrink_to(OUT_KEPT_BYTES);
        let began = (self.clock)();
        self.run(payload);
        self.work.time += (self.clock)().saturating_sub(began);
        self.work.input_bytes += payload.len() as u64;
        let output = if self.takeover { self.out.len() } else { self.out.len().min(payload.len()) };
        self.work.output_bytes += output as u64;
        // With takeover the peer needs it all the same: its window goes on.
        (self.takeover || self.out.len() < payload.len()).then_some(&self.out)
    }

    /// Begins anew: what follows refers to nothing before it. With takeover too, which lets a compressor refer back
    /// and never makes it.
    pub fn forget(&mut self) {
        self.stream.reset();
    }

    fn run(&mut self, payload: &[u8]) {
        let before = self.stream.total_in();
        let mut used = 0;
        loop {
            self.out.reserve(STEP_BYTES.min(payload.len() - used + 64));
            let status = self.stream.compress_vec(&payload[used..], &mut self.out, FlushCompress::Sync);
            debug_assert!(status.is_ok(), "compressing to memory fails only on a stream that was finished");
            used = (self.stream.total_in() - before) as usize;
            // Output room left over means that everything, and the flush, is out.
            if self.out.len() < self.out.capacity() && used == payload.len() {
                break;
            }
        }
        if self.out.ends_with(&TAIL) {
            self.out.truncate(self.out.len() - TAIL.len());
        }
        // "an empty message ... 0x00" (7.2.3.6)
        if self.out.is_empty() {
            self.out.push(0x00);
        }
    }
}

/// The streams of one worker that every connection without takeover uses in turn, each made when it is first
/// needed. An idle connection holds none.
#[derive(Debug)]
pub struct Pool {
    config: Deflate,
    clock: Clock,
    deflaters: [Option<Box<Deflater>>; 7],
    inflater: Option<Box<Inflater>>,
}

impl Pool {
    /// None yet.
    pub fn new(config: Deflate) -> Self {
        Self::timed(config, || Duration::ZERO)
    }

    /// None yet; their work will be measured with this clock.
    pub fn timed(config: Deflate, clock: Clock) -> Self {
        Self { config, clock, deflaters: Default::default(), inflater: None }
    }

    /// The compressor for a window.
    pub fn deflater(&mut self, window: Window) -> &mut Deflater {
        let slot = &mut self.deflaters[usize::from(window.bits() - Window::MIN.bits())];
        slot.get_or_insert_with(|| Box::new(Deflater::new(&self.config, window, false).timed(self.clock)))
    }

    /// What the compressor for a window did since the last call; there may be none.
    pub fn take_work(&mut self, window: Window) -> Work {
        let slot = &mut self.deflaters[usize::from(window.bits() - Window::MIN.bits())];
        slot.as_mut().map_or_else(Work::default, |deflater| deflater.take_work())
    }

    /// The decompressor, which reads every window.
    pub fn inflater(&mut self) -> &mut Inflater {
        self.inflater.get_or_insert_with(|| Box::new(Inflater::new(Window::MAX, false)))
    }

    /// What a connection has to own because of a takeover; `None` where there is none.
    pub fn own_streams(&self, agreed: Agreed) -> Option<Box<Streams>> {
        let Agreed { send_window, receive_window, .. } = agreed;
        (agreed.send_takeover || agreed.receive_takeover).then(|| {
            Box::new(Streams {
                deflater: agreed
                    .send_takeover
                    .then(|| Deflater::new(&self.config, send_window, true).timed(self.clock)),
                inflater: agreed.receive_takeover.then(|| Inflater::new(receive_window, true)),
            })
        })
    }
}

/// The streams of one connection with takeover.
#[derive(Debug)]
pub struct Streams {
    /// Ours goes on from message to message.
    pub deflater: Option<Deflater>,
    /// The peer's does.
    pub inflater: Option<Inflater>,
}

/// Decompresses messages.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
    takeover: bool,
}

impl Inflater {
    /// A decompressor. Without `takeover` it begins anew with each message.
    pub fn new(window: Window, takeover: bool) -> Self {
        Self { stream: Decompress::new_with_window_bits(false, window.bits()), takeover }
    }

    /// Decompresses a whole message of at most `message_bytes_max` bytes. Works in steps, so a bomb costs no more
    /// than the limit.
    ///
    /// One that ends inside a block is as long as it came, and what the tail then means in it: section 7.2.2 asks for
    /// no more than to append that and to decompress, and zlib's readers, browsers among them, do no more. No check of
    /// a block's end would find all that is cut, and what is cut is the sender's own.
    ///
    /// # Errors
    /// [`ProtocolError::MessageTooBig`] at the limit, [`ProtocolError::InvalidDeflate`] for what is no DEFLATE.
    pub fn inflate(&mut self, payload: &[u8], message_bytes_max: u32) -> Result<Vec<u8>, ProtocolError> {
        if !self.takeover {
            self.stream.reset(false);
        }
        let mut out = Vec::new();
        let ended = self.run(payload, message_bytes_max, &mut out)?;
        // A final block ends the stream before the tail (section 7.2.3.4 allows one).
        if ended || self.run(&TAIL, message_bytes_max, &mut out)? {
            self.stream.reset(false);
        }
        Ok(out)
    }

    /// Feeds `input`; true where the stream says that it has ended.
    fn run(&mut self, input: &[u8], max: u32, out: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        let before = self.stream.total_in();
        loop {
            let used = (self.stream.total_in() - before) as usize;
            let rest = &input[used..];
            // One byte more than the limit, so that going over it shows.
            let room = (max as usize + 1).saturating_sub(out.len());
            let step = STEP_BYTES.max(rest.len().saturating_mul(2)).min(room).min(STEP_BYTES * 16);
            out.reserve(step);
            let filled = out.len();
            let status = self
                .stream
                .decompress_vec(rest, out, FlushDecompress::Sync)
                .map_err(|_| ProtocolError::InvalidDeflate)?;
            if out.len() > max as usize {
                return Err(ProtocolError::MessageTooBig);
            }
            let used_now = (self.stream.total_in() - before) as usize;
            if status == Status::StreamEnd {
                return Ok(true);
            }
            if used_now == input.len() && out.len() < out.capacity() {
                return Ok(false);
            }
            if used_now == used && out.len() == filled {
                return Err(ProtocolError::InvalidDeflate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(level: u8) -> Deflate {
        Deflate { level, min_bytes: 0, ..Deflate::default() }
    }

    fn windows() -> impl Iterator<Item = Window> {
        (9..=15).filter_map(Window::new)
    }

    fn payloads() -> Vec<Vec<u8>> {
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        vec![
            vec![],
            b"Hello".to_vec(),
            vec![b'a'; 100_000],
            noise.take(100_000).collect(),
            (0..40_000u32).flat_map(|n| n.to_string().into_bytes()).collect(),
        ]
    }

    #[test]
    fn the_examples_of_section_7_2_3() {
        let mut inflater = Inflater::new(Window::MAX, true);
        // 7.2.3.1, one compressed block; 7.2.3.2, the same again with the window shared; 7.2.3.3, no compression.
        let first = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let second = [0xf2, 0x00, 0x11, 0x00, 0x00];
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        for bytes in [&first[..], &second, &stored] {
            assert_eq!(inflater.inflate(bytes, 100).as_deref(), Ok(&b"Hello"[..]));
        }
        // 7.2.3.4, a final block; 7.2.3.5, two blocks in one message.
        let mut fresh = Inflater::new(Window::MAX, false);
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        for bytes in [&last[..], &two, &first] {
            assert_eq!(fresh.inflate(bytes, 100).as_deref(), Ok(&b"Hello"[..]));
        }
    }

    #[test]
    fn everything_comes_back_at_every_window_level_and_takeover() {
        for window in windows() {
            for (level, takeover) in [(1, false), (1, true), (6, false), (6, true), (9, true)] {
                let mut deflater = Deflater::new(&config(level), window, takeover);
                let mut inflater = Inflater::new(window, takeover);
                for payload in payloads().iter().chain(&payloads()) {
                    let Some(wire) = deflater.deflate(payload) else { continue };
                    let back = inflater.inflate(wire, 1 << 20);
                    assert_eq!(
                        back.as_ref(),
                        Ok(payload),
                        "window {window:?} level {level} takeover {takeover}"
                    );
                }
            }
        }
    }

    #[test]
    fn without_takeover_every_message_stands_alone() {
        let text = b"the same words, the same words, the same words";
        let mut deflater = Deflater::new(&config(1), Window::MAX, false);
        let once = deflater.deflate(text).expect("shorter").to_vec();
        for _ in 0..3 {
            assert_eq!(deflater.deflate(text), Some(once.as_slice()));
        }
    }

    #[test]
    fn what_is_short_or_would_not_shrink_stays_as_it_is() {
        let mut deflater = Deflater::new(&Deflate::default(), Window::MAX, false);
        assert_eq!(deflater.deflate(&[b'a'; 1023]), None);
        assert!(deflater.deflate(&[b'a'; 1024]).is_some(), "at the limit");
        assert_eq!(deflater.deflate(&payloads()[3]), None, "noise");
        let mut own = Deflater::new(&Deflate::default(), Window::MAX, true);
        assert!(own.deflate(&payloads()[3]).is_some(), "the window must go on");
    }

    #[test]
    fn work_is_counted_as_it_goes_on_the_wire() {
        let mut deflater = Deflater::new(&Deflate::default(), Window::MAX, false);
        assert_eq!(deflater.deflate(b"short"), None);
        assert_eq!(deflater.take_work(), Work::default());
        let len = deflater.deflate(&[b'a'; 2048]).expect("shorter").len() as u64;
        let work = deflater.take_work();
        assert_eq!((work.input_bytes, work.output_bytes), (2048, len));
        let noise = &payloads()[3];
        assert_eq!(deflater.deflate(noise), None);
        let work = deflater.take_work();
        assert_eq!((work.input_bytes, work.output_bytes), (noise.len() as u64, noise.len() as u64));
        assert_eq!(deflater.take_work(), Work::default());
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut deflater = Deflater::new(&config(9), Window::MAX, false);
        let wire = deflater.deflate(&vec![0; 10_000_000]).expect("shorter");
        assert!(wire.len() < 11_000, "a thousand to one");
        let mut inflater = Inflater::new(Window::MAX, false);
        assert_eq!(inflater.inflate(wire, 10_000_000).map(|out| out.len()), Ok(10_000_000), "at the limit");
        assert_eq!(inflater.inflate(wire, 9_999_999), Err(ProtocolError::MessageTooBig));
        assert_eq!(inflater.inflate(wire, 1_000), Err(ProtocolError::MessageTooBig));
    }

    #[test]
    fn a_message_that_ends_inside_a_block_harms_no_other() {
        let (whole, refers_back) =
            ([0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], [0xf2, 0x00, 0x11, 0x00, 0x00]);
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        let mut inflater = Inflater::new(Window::MAX, false);
        // What is missing is made up for with the tail, no more.
        assert_eq!(inflater.inflate(&stored[..6], 100).as_deref(), Ok(&b"H\0\0\xff\xff"[..]));
        assert_eq!(
            inflater.inflate(&stored[..6], 4),
            Err(ProtocolError::MessageTooBig),
            "a limit all the same"
        );
        for cut in
            (0..whole.len()).map(|end| &whole[..end]).chain((0..stored.len()).map(|end| &stored[..end]))
        {
            if let Ok(out) = inflater.inflate(cut, 100) {
                assert!(out.len() <= 5 + 4, "{cut:02x?} became {out:02x?}");
            }
            assert!(
                inflater.inflate(&refers_back, 100).is_err(),
                "there is nothing before it, after {cut:02x?}"
            );
            let _ = inflater.inflate(cut, 100);
            assert_eq!(inflater.inflate(&whole, 100).as_deref(), Ok(&b"Hello"[..]), "after {cut:02x?}");
        }
    }

    #[test]
    fn what_is_no_deflate_is_an_error() {
        let mut inflater = Inflater::new(Window::MAX, false);
        for bytes in [&[0xff][..], &[0x07], &[0x00, 0x01, 0x00, 0x00, 0x00], b"plain text"] {
            assert!(inflater.inflate(bytes, 100).is_err(), "{bytes:02x?}");
        }
        assert!(
            inflater.inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 100).is_ok(),
            "and the next is sound"
        );
    }
}
