//! What a message carries, so that latency, loss, duplicates, reordering and corruption can be read off the
//! message itself, without state shared by sender and receiver.
//!
//! | bytes | field |
//! |---|---|
//! | 3 | magic |
//! | 8 | run: one number per run, so that strangers in the same room are told apart |
//! | 4 | sender |
//! | 4 | sequence, from 0 for each sender |
//! | 8 | when the message was to be sent (CLOCK_MONOTONIC, nanoseconds) |
//! | 8 | when it was written |
//! | 4 | checksum of run, sender, sequence, both times, and of the message's length |
//!
//! All numbers are big-endian. A text message carries the same bytes as base64: 39 are a multiple of three, so
//! there is no padding and no bit without meaning. A filler brings the message to its size. It is the same in all
//! messages, so it needs no checksum: it is compared, byte by byte, which is both exact and cheaper. Binary messages
//! that are too small for this carry a [`compact`] form of it.

pub mod compact;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::sizes::Sizes;

/// The smallest binary message.
pub const BINARY_BYTES_MIN: usize = 39;
/// The smallest text message.
pub const TEXT_BYTES_MIN: usize = BINARY_BYTES_MIN / 3 * 4;

const MAGIC: [u8; 3] = *b"\x89LG";
const RUN: std::ops::Range<usize> = 3..11;
/// The characters of the text form that hold nothing but the run: bytes 3 to 10 without the last half group.
const RUN_TEXT: std::ops::Range<usize> = 4..14;
/// What differs from message to message: everything behind the run.
const FIELDS: std::ops::Range<usize> = 11..BINARY_BYTES_MIN;

/// How the payload travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Binary messages.
    Binary,
    /// Binary messages that may be too small for all of this.
    Compact,
    /// Text messages of ASCII characters.
    Text,
}

impl Format {
    /// The smallest message of this format, in bytes.
    pub const fn bytes_min(self) -> usize {
        match self {
            Self::Binary => BINARY_BYTES_MIN,
            Self::Compact => compact::BYTES_MIN,
            Self::Text => TEXT_BYTES_MIN,
        }
    }

    /// Where eight bytes of a message hold what tells it from the others of its run: sender and sequence, or nearly all
    /// of them.
    pub const fn identity_at(self) -> usize {
        match self {
            Self::Binary => 11,
            Self::Compact => 2,
            // Six bytes from the middle of byte 13 on.
            Self::Text => 18,
        }
    }
}

/// The fields of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Who sent it.
    pub sender: u32,
    /// Which of the sender's messages it is, from 0.
    pub sequence: u32,
    /// When it was to be sent, in nanoseconds.
    pub intended_ns: u64,
    /// When it was written, in nanoseconds.
    pub sent_ns: u64,
}

/// What a received message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Of this run, and intact.
    Ours(Stamp),
    /// Of this run by its magic or its run number, but damaged.
    Corrupt,
    /// Somebody else's: a greeting, chatter, another run.
    Foreign,
}

/// Writes and reads the messages of one run.
#[derive(Clone, Debug)]
pub struct Codec {
    run: [u8; 8],
    run_text: [u8; 10],
    magic_text: [u8; 4],
    format: Format,
    sizes: Sizes,
    /// When the run's first message is due, from which the compact form counts.
    epoch_ns: u64,
    /// The longest message; its header, or what differs of it, is overwritten for each one sent.
    message: Vec<u8>,
}

impl Codec {
    /// Messages of these sizes for the run `run`.
    ///
    /// # Panics
    /// Where a size is below [`Format::bytes_min`]: the command line has refused that.
    pub fn new(run: u64, format: Format, sizes: Sizes) -> Self {
        assert!(
            sizes.min as usize >= format.bytes_min() && sizes.min <= sizes.max,
            "the command line checks the size"
        );
        let run = run.to_be_bytes();
        let mut head = [0; 12];
        head[..FIELDS.start].copy_from_slice(&beginning(run));
        let mut text = [0; 16];
        STANDARD.encode_slice(head, &mut text).expect("12 bytes are 16 characters");
        let mut run_text = [0; 10];
        run_text.copy_from_slice(&text[RUN_TEXT]);
        let mut magic_text = [0; 4];
        magic_text.copy_from_slice(&text[..4]);
        let mut message: Vec<u8> = (b'a'..=b'z').cycle().take(sizes.max as usize).collect();
        if format == Format::Binary {
            message[..FIELDS.start].copy_from_slice(&head[..FIELDS.start]);
        }
        Self { run, run_text, magic_text, format, sizes, epoch_ns: 0, message }
    }

    /// The same for a run whose first message is due at `epoch_ns`, which everyone in it must be told.
    #[must_use]
    pub fn since(self, epoch_ns: u64) -> Self {
        Self { epoch_ns, ..self }
    }

    /// How the messages travel.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The sizes of the messages.
    pub const fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// The message of `size` bytes for `stamp`, valid until the next call.
    ///
    /// # Panics
    /// Where the size is none of [`sizes`](Self::sizes).
    pub fn encode(&mut self, stamp: &Stamp, size: usize) -> &[u8] {
        match self.format {
            Format::Compact => {
                let filler = &self.message[compact::BYTES_MIN..size];
                let head = compact::encode(self.run, self.epoch_ns, stamp, filler);
                self.message[..compact::BYTES_MIN].copy_from_slice(&head);
            }
            // What stands before the fields is there since the codec was made.
            Format::Binary => self.message[FIELDS].copy_from_slice(&fields(self.run, stamp, size)),
            Format::Text => {
                let mut head = [0; BINARY_BYTES_MIN];
                head[..FIELDS.start].copy_from_slice(&beginning(self.run));
                head[FIELDS].copy_from_slice(&fields(self.run, stamp, size));
                let out = &mut self.message[..TEXT_BYTES_MIN];
                STANDARD.encode_slice(head, out).expect("39 bytes are 52 characters");
            }
        }
        &self.message[..size]
    }

    /// Reads a message, whichever opcode it came with: many servers send text back as binary.
    ///
    /// One damaged byte cannot hit both the magic and the run, so a message with one is never taken for a
    /// stranger's. Damage to the filler is always seen, damage to the header but for one time in 2^32.
    pub fn parse(&self, bytes: &[u8]) -> Parsed {
        if self.format == Format::Compact {
            return compact::parse(self.run, self.epoch_ns, bytes);
        }
        let part = |range: std::ops::Range<usize>| bytes.get(range).unwrap_or_default();
        let (magic, run) = (part(0..3) == MAGIC, part(RUN) == self.run);
        if magic || run {
            let Some((head, filler)) = bytes.split_first_chunk() else { return Parsed::Corrupt };
            return self.parse_parts(head, filler, bytes.len());
        }
        let (magic, run) = (part(0..4) == self.magic_text, part(RUN_TEXT) == self.run_text);
        if magic || run {
            let Some((text, filler)) = bytes.split_at_checked(TEXT_BYTES_MIN) else { return Parsed::Corrupt };
            let mut head = [0; BINARY_BYTES_MIN];
            return match STANDARD.decode_slice(text, &mut head) {
                Ok(BINARY_BYTES_MIN) => self.parse_parts(&head, filler, bytes.len()),
                _ => Parsed::Corrupt,
            };
        }
        Parsed::Foreign
    }

    fn parse_parts(&self, head: &[u8; BINARY_BYTES_MIN], filler: &[u8], size: usize) -> Parsed {
        let u64_at = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let (run, who, intended_ns, sent_ns) = (u64_at(RUN.start), u64_at(11), u64_at(19), u64_at(27));
        let intact = head[35..] == checksum([run, who, intended_ns, sent_ns], size).to_be_bytes();
        if !intact || head[..RUN.start] != MAGIC {
            return Parsed::Corrupt;
        }
        if run.to_be_bytes() != self.run {
            return Parsed::Foreign;
        }
        if self.message.get(size - filler.len()..size) != Some(filler) {
            return Parsed::Corrupt;
        }
        Parsed::Ours(Stamp { sender: (who >> 32) as u32, sequence: who as u32, intended_ns, sent_ns })
    }
}

/// Magic and run: the same in all messages of a run.
fn beginning(run: [u8; 8]) -> [u8; FIELDS.start] {
    let mut out = [0; FIELDS.start];
    out[..RUN.start].copy_from_slice(&MAGIC);
    out[RUN].copy_from_slice(&run);
    out
}

/// The rest of the header.
fn fields(run: [u8; 8], stamp: &Stamp, size: usize) -> [u8; FIELDS.end - FIELDS.start] {
    let who = u64::from(stamp.sender) << 32 | u64::from(stamp.sequence);
    let words = [who, stamp.intended_ns, stamp.sent_ns];
    let mut out = [0; FIELDS.end - FIELDS.start];
    for (to, word) in out.as_chunks_mut().0.iter_mut().zip(words) {
        *to = word.to_be_bytes();
    }
    let sum = checksum([u64::from_be_bytes(run), who, stamp.intended_ns, stamp.sent_ns], size);
    out[24..].copy_from_slice(&sum.to_be_bytes());
    out
}

/// Of numbers, and the size of the message. Each step can be undone, so two headers that differ in one number end in
/// different states, of which 32 bits are kept.
fn checksum(words: impl IntoIterator<Item = u64>, size: usize) -> u32 {
    // The odd number nearest to 2^64 over the golden ratio.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |state: u64, word: u64| {
        let product = (state ^ word).wrapping_mul(ODD);
        product ^ (product >> 32)
    };
    step(words.into_iter().fold(size as u64, step), 0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN_ID: u64 = 0x0123_4567_89ab_cdef;
    fn fixed(size: usize) -> Sizes {
        Sizes::fixed(size as u32)
    }

    const STAMP: Stamp =
        Stamp { sender: 7, sequence: 300, intended_ns: 1_000_000_007, sent_ns: 1_000_000_042 };

    #[test]
    fn the_layout_in_literal_bytes() {
        let mut codec = Codec::new(RUN_ID, Format::Binary, fixed(41));
        let message = codec.encode(&STAMP, 41);
        let mut expected = b"\x89LG\x01\x23\x45\x67\x89\xab\xcd\xef".to_vec();
        expected.extend(b"\0\0\0\x07\0\0\x01\x2c\0\0\0\0\x3b\x9a\xca\x07\0\0\0\0\x3b\x9a\xca\x2a");
        assert_eq!(message[..35], expected);
        assert_eq!(message[39..], *b"no", "the filler goes on where the header ends");
        let words = [RUN_ID, 7 << 32 | 300, STAMP.intended_ns, STAMP.sent_ns];
        assert_eq!(message[35..39], checksum(words, 41).to_be_bytes());
    }

    #[test]
    fn both_formats_come_back_at_every_size() {
        for format in [Format::Binary, Format::Compact, Format::Text] {
            for size in [format.bytes_min(), format.bytes_min() + 1, 128, 70_000] {
                let mut codec = Codec::new(RUN_ID, format, fixed(size)).since(1_000_000_000);
                let message = codec.encode(&STAMP, size).to_vec();
                assert_eq!(message.len(), size);
                assert_eq!(format == Format::Text, message.is_ascii());
                // Less than a microsecond late, which the compact form leaves out.
                let sent_ns = if format == Format::Compact { STAMP.intended_ns } else { STAMP.sent_ns };
                assert_eq!(codec.parse(&message), Parsed::Ours(Stamp { sent_ns, ..STAMP }));
            }
        }
    }

    #[test]
    fn eight_bytes_tell_a_message_from_others() {
        for format in [Format::Binary, Format::Compact, Format::Text] {
            let mut codec = Codec::new(RUN_ID, format, fixed(60));
            let mut identity = |sender, sequence| -> [u8; 8] {
                let message = codec.encode(&Stamp { sender, sequence, ..STAMP }, 60);
                *message[format.identity_at()..].first_chunk().expect("eight bytes")
            };
            // Of the sender of a text message they have twelve bits.
            let stamps = (0..12).flat_map(|bit| [(0, 1 << bit), (1 << bit, 0), (1 << bit, 1 << bit)]);
            let all: Vec<_> = stamps.collect();
            let different: std::collections::BTreeSet<_> = all.iter().map(|&(a, b)| identity(a, b)).collect();
            assert_eq!(different.len(), all.len(), "{format:?}");
            assert_eq!(identity(3, 4), identity(3, 4));
        }
    }

    #[test]
    fn one_codec_has_many_sizes() {
        let sizes = Sizes::range(60, 70);
        let (mut codec, mut rng) =
            (Codec::new(RUN_ID, Format::Text, sizes.clone()), fastrand::Rng::with_seed(1));
        let drawn: std::collections::BTreeSet<usize> = (0..500).map(|_| sizes.next(&mut rng)).collect();
        assert!(drawn.iter().copied().eq(60..=70));
        for size in drawn {
            let message = codec.encode(&STAMP, size).to_vec();
            assert_eq!((message.len(), codec.parse(&message)), (size, Parsed::Ours(STAMP)));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_corruption() {
        for format in [Format::Binary, Format::Text] {
            let mut codec = Codec::new(RUN_ID, format, fixed(60));
            let message = codec.encode(&STAMP, 60).to_vec();
            for bit in 0..60 * 8 {
                let mut damaged = message.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(codec.parse(&damaged), Parsed::Corrupt, "{format:?}, bit {bit}");
            }
            for len in 4..60 {
                assert_eq!(codec.parse(&message[..len]), Parsed::Corrupt, "{format:?}, {len} bytes");
            }
        }
    }

    #[test]
    fn strangers_are_foreign() {
        let codec = Codec::new(RUN_ID, Format::Binary, fixed(128));
        for message in [&b""[..], b"hi", br#"{"type":"welcome","clients":3}"#, &[b'x'; 128]] {
            assert_eq!(codec.parse(message), Parsed::Foreign);
        }
        let mut other = Codec::new(RUN_ID + 1, Format::Text, fixed(128));
        assert_eq!(
            codec.parse(other.encode(&STAMP, 128)),
            Parsed::Foreign,
            "an intact message of another run"
        );
    }
}
