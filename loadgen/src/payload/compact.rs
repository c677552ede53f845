//! The compact form of what a message carries, for messages too small for the full one.
//!
//! | bytes | field |
//! |---|---|
//! | 2 | magic |
//! | 2 | run, its last two bytes |
//! | 2 | sender |
//! | 4 | sequence |
//! | 6 | when the message was to be sent, in nanoseconds since the run's first message |
//! | 2 | how long after that it was written: microseconds, 65,535 for all that is longer |
//! | 2 | checksum of all other bytes and of the message's length |

use super::{Parsed, Stamp, checksum};

/// The smallest compact message.
pub const BYTES_MIN: usize = 20;
/// Senders that can be told apart.
pub const SENDERS_MAX: u32 = 1 << 16;

const MAGIC: [u8; 2] = *b"\x89l";
/// Everything of the header but its checksum.
const CHECKED_BYTES: usize = BYTES_MIN - 2;
/// In two bytes, which stand at the end of eight.
const LATE_US_MAX: u64 = u16::MAX as u64;

/// The header for `stamp`; `epoch_ns` is when the run's first message is due.
///
/// Not inlined: the compiler would make its numbers before it knows which form a message has.
#[inline(never)]
pub(super) fn encode(run: [u8; 8], epoch_ns: u64, stamp: &Stamp, filler: &[u8]) -> [u8; BYTES_MIN] {
    let mut head = [0; BYTES_MIN];
    let due = stamp.intended_ns.saturating_sub(epoch_ns).to_be_bytes();
    let late_us = (stamp.sent_ns.saturating_sub(stamp.intended_ns) / 1_000).min(LATE_US_MAX).to_be_bytes();
    head[..2].copy_from_slice(&MAGIC);
    head[2..4].copy_from_slice(&run[6..]);
    head[4..6].copy_from_slice(&stamp.sender.to_be_bytes()[2..]);
    head[6..10].copy_from_slice(&stamp.sequence.to_be_bytes());
    head[10..16].copy_from_slice(&due[2..]);
    head[16..18].copy_from_slice(&late_us[6..]);
    let sum = short_checksum(&head[..CHECKED_BYTES], filler);
    head[CHECKED_BYTES..].copy_from_slice(&sum.to_be_bytes());
    head
}

/// Reads a message. As with the full form, one damaged byte cannot hit both the magic and the run.
pub(super) fn parse(run: [u8; 8], epoch_ns: u64, bytes: &[u8]) -> Parsed {
    let (magic, its_run) = (bytes.get(..2) == Some(&MAGIC), bytes.get(2..4) == Some(&run[6..]));
    if !magic && !its_run {
        return Parsed::Foreign;
    }
    let Some((head, filler)) = bytes.split_first_chunk::<BYTES_MIN>() else { return Parsed::Corrupt };
    let number = |range: std::ops::Range<usize>| {
        head[range].iter().fold(0, |number: u64, &byte| number << 8 | u64::from(byte))
    };
    if number(CHECKED_BYTES..BYTES_MIN) != u64::from(short_checksum(&head[..CHECKED_BYTES], filler)) {
        return Parsed::Corrupt;
    }
    if !its_run {
        return Parsed::Foreign;
    }
    let intended_ns = epoch_ns + number(10..16);
    Parsed::Ours(Stamp {
        sender: number(4..6) as u32,
        sequence: number(6..10) as u32,
        intended_ns,
        sent_ns: intended_ns + number(16..18) * 1_000,
    })
}

fn short_checksum(head: &[u8], filler: &[u8]) -> u16 {
    let sum = checksum(words(head), BYTES_MIN + filler.len()) ^ checksum(words(filler), 0);
    (sum >> 16) as u16 ^ sum as u16
}

/// Bytes as numbers: eight in each, and in the last one those that are left.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (words, rest) = bytes.as_chunks();
    let rest = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    words.iter().map(|word| u64::from_le_bytes(*word)).chain([rest])
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
    const EPOCH_NS: u64 = 1 << 50;
    const STAMP: Stamp =
        Stamp { sender: 65_535, sequence: 300, intended_ns: EPOCH_NS + 7, sent_ns: EPOCH_NS + 42_007 };

    fn message(stamp: &Stamp, size: usize) -> Vec<u8> {
        let filler = vec![b'x'; size - BYTES_MIN];
        [&encode(RUN, EPOCH_NS, stamp, &filler)[..], &filler].concat()
    }

    #[test]
    fn the_layout_in_literal_bytes() {
        let message = message(&STAMP, 20);
        assert_eq!(message[..18], *b"\x89l\x07\x08\xff\xff\0\0\x01\x2c\0\0\0\0\0\x07\0\x2a");
        assert_eq!(parse(RUN, EPOCH_NS, &message), Parsed::Ours(STAMP));
    }

    #[test]
    fn a_late_message_is_as_late_as_can_be_said() {
        for (late_us, said_us) in [(0, 0), (65_535, 65_535), (65_536, 65_535), (10_000_000, 65_535)] {
            let stamp = Stamp { sent_ns: STAMP.intended_ns + late_us * 1_000, ..STAMP };
            let said = Stamp { sent_ns: STAMP.intended_ns + said_us * 1_000, ..STAMP };
            assert_eq!(parse(RUN, EPOCH_NS, &message(&stamp, 30)), Parsed::Ours(said));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_corruption() {
        for size in [20, 21, 38] {
            let message = message(&STAMP, size);
            for bit in 0..size * 8 {
                let mut damaged = message.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(parse(RUN, EPOCH_NS, &damaged), Parsed::Corrupt, "size {size}, bit {bit}");
            }
            for len in 4..size {
                assert_eq!(parse(RUN, EPOCH_NS, &message[..len]), Parsed::Corrupt, "{len} of {size} bytes");
            }
        }
    }

    #[test]
    fn strangers_are_foreign() {
        for message in [&b""[..], b"hi", br#"{"type":"welcome","clients":3}"#, &[b'x'; 20]] {
            assert_eq!(parse(RUN, EPOCH_NS, message), Parsed::Foreign);
        }
        let other = encode([9; 8], EPOCH_NS, &STAMP, b"");
        assert_eq!(parse(RUN, EPOCH_NS, &other), Parsed::Foreign, "an intact message of another run");
    }
}
