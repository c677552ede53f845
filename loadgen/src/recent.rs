//! The messages of a broadcast that this thread's connections are receiving just now: what was read off a message for
//! its first receiver is not read again for the others, as long as the bytes are the same.
//!
//! Each message has one place, by its sender and sequence. One that needs the place of another takes it; the deliveries
//! of that one then go on to the [table](crate::fanout::Table) of messages under way, where they all end up once a
//! second.

use crate::fanout::{Part, Table};
use crate::payload::Stamp;

/// Messages that are known at a time, at most: many more than are under way, because two may want the same place.
const PLACES_LOG2: u32 = 9;
/// Longer messages are read again for each receiver: what that costs is little beside the bytes themselves.
const BYTES_MAX: usize = 256;
/// A multiplier of SplitMix64. It spreads senders and sequences over the high bits, as numbers and as base64.
const SPREAD: u64 = 0xbf58_476d_1ce4_e5b9;

/// A message, and who of this thread's connections has it.
#[derive(Clone, Debug)]
struct Known {
    part: Part,
    sent_ns: u64,
    measured: bool,
    /// How many of the bytes are the message; none where it was too long to keep.
    len: usize,
    bytes: [u8; BYTES_MAX],
}

/// A message that is known: good until the next one is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(usize);

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it carries.
    pub stamp: Stamp,
    /// Whether it was due while measuring.
    pub measured: bool,
}

/// The messages that one thread's connections are receiving.
#[derive(Debug)]
pub struct Recent {
    known: Box<[Known; 1 << PLACES_LOG2]>,
    /// Where eight bytes of a message tell it from others.
    identity_at: usize,
    table: Table,
}

impl Recent {
    /// In front of an empty table. The eight bytes at `identity_at` differ in messages of the same run; that they do
    /// makes this fast, and is not needed for it to be right.
    pub fn new(table: Table, identity_at: usize) -> Self {
        let part = Part { sender: 0, sequence: 0, intended_ns: 0, first_ns: 0, last_ns: 0, count: 0 };
        let known = Known { part, sent_ns: 0, measured: false, len: 0, bytes: [0; BYTES_MAX] };
        let known = vec![known; 1 << PLACES_LOG2].into_boxed_slice();
        Self { known: known.try_into().expect("as many as there are"), identity_at, table }
    }

    /// Senders in the whole run.
    pub const fn senders(&self) -> u32 {
        self.table.senders()
    }

    /// The message with these bytes, if it is known.
    pub fn find(&self, bytes: &[u8]) -> Option<(Place, Seen)> {
        let place = self.place(bytes)?;
        let it = &self.known[place.0];
        let Part { sender, sequence, intended_ns, .. } = it.part;
        let stamp = Stamp { sender, sequence, intended_ns, sent_ns: it.sent_ns };
        (it.bytes.get(..it.len) == Some(bytes)).then_some((place, Seen { stamp, measured: it.measured }))
    }

    /// Keeps what has been read off a message.
    ///
    /// # Panics
    /// Where there is no such sender.
    pub fn keep(&mut self, bytes: &[u8], seen: &Seen) -> Place {
        let place = self.place(bytes).unwrap_or(Place(0));
        self.pass_on(place.0);
        let Stamp { sender, sequence, intended_ns, sent_ns } = seen.stamp;
        assert!(sender < self.senders(), "the caller checks the sender");
        let it = &mut self.known[place.0];
        it.part = Part { sender, sequence, intended_ns, first_ns: 0, last_ns: 0, count: 0 };
        (it.sent_ns, it.measured) = (sent_ns, seen.measured);
        it.len = if bytes.len() <= BYTES_MAX { bytes.len() } else { 0 };
        it.bytes[..it.len].copy_from_slice(&bytes[..it.len]);
        place
    }

    /// Notes a delivery, the first of this message to its receiver. The time never goes back.
    pub fn note(&mut self, place: Place, now_ns: u64) {
        let part = &mut self.known[place.0].part;
        if part.count == 0 {
            part.first_ns = now_ns;
        }
        part.last_ns = now_ns;
        part.count += 1;
    }

    /// The messages that all receivers of this thread have, and those older than `before_ns` that some lack.
    pub fn take(&mut self, before_ns: u64) -> Vec<Part> {
        (0..self.known.len()).for_each(|place| self.pass_on(place));
        self.table.take(before_ns)
    }

    fn pass_on(&mut self, place: usize) {
        let part = &mut self.known[place].part;
        if part.count > 0 {
            self.table.add(*part);
            part.count = 0;
        }
    }

    /// The place of a message: the same one for the same bytes. `None` where it is too short to be one.
    fn place(&self, bytes: &[u8]) -> Option<Place> {
        let identity = bytes.get(self.identity_at..)?.first_chunk()?;
        Some(Place(
            (u64::from_be_bytes(*identity).wrapping_mul(SPREAD) >> (u64::BITS - PLACES_LOG2)) as usize,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Codec, Format};
    use crate::sizes::Sizes;

    /// A message whose first eight bytes are sender and sequence.
    fn message(sender: u32, sequence: u32, len: usize) -> Vec<u8> {
        let mut bytes = [sender.to_be_bytes(), sequence.to_be_bytes()].concat();
        bytes.resize(len, 7);
        bytes
    }

    fn seen(sender: u32, sequence: u32) -> Seen {
        let stamp = Stamp { sender, sequence, intended_ns: u64::from(sequence), sent_ns: 9 };
        Seen { stamp, measured: sequence % 2 == 1 }
    }

    #[test]
    fn a_message_is_known_by_all_of_its_bytes() {
        for len in [8, 100, BYTES_MAX] {
            let mut recent = Recent::new(Table::new(3, 2), 0);
            let bytes = message(1, 5, len);
            assert_eq!(recent.find(&bytes), None);
            let place = recent.keep(&bytes, &seen(1, 5));
            assert_eq!(recent.find(&bytes), Some((place, seen(1, 5))));
            for at in 0..len {
                let mut other = bytes.clone();
                other[at] ^= 1;
                assert_eq!(recent.find(&other), None, "byte {at} of {len}");
            }
            assert_eq!(recent.find(&bytes[..len - 1]), None);
            assert_eq!(recent.find(&[&bytes[..], &[7]].concat()), None);
        }
        let long = message(1, 5, BYTES_MAX + 1);
        let mut recent = Recent::new(Table::new(3, 2), 0);
        recent.keep(&long, &seen(1, 5));
        assert_eq!((recent.find(&long), recent.find(b"")), (None, None));
    }

    /// More messages than places, of all lengths, each to three receivers in its own order.
    #[test]
    fn no_delivery_is_lost_on_the_way_to_the_table() {
        let mut rng = fastrand::Rng::with_seed(1);
        for len in [8, 200, 300] {
            let mut recent = Recent::new(Table::new(3, 4), 0);
            let mut deliveries: Vec<(u32, u32)> =
                (0..3).flat_map(|_| (0..800).map(|at| (at % 4, at / 4))).collect();
            rng.shuffle(&mut deliveries);
            let mut expected = std::collections::BTreeMap::new();
            let mut parts = Vec::new();
            for (now_ns, (sender, sequence)) in (1u64..).zip(deliveries) {
                let bytes = message(sender, sequence, len);
                let known = recent.find(&bytes).map(|(place, it)| {
                    assert_eq!(it, seen(sender, sequence));
                    place
                });
                let place = known.unwrap_or_else(|| recent.keep(&bytes, &seen(sender, sequence)));
                recent.note(place, now_ns);
                let (first_ns, last_ns) = expected.entry((sender, sequence)).or_insert((now_ns, now_ns));
                (*first_ns, *last_ns) = ((*first_ns).min(now_ns), now_ns);
                if now_ns % 500 == 0 {
                    parts.extend(recent.take(0));
                }
            }
            parts.extend(recent.take(0));
            assert_eq!(parts.len(), expected.len());
            for part in parts {
                let (first_ns, last_ns) = expected[&(part.sender, part.sequence)];
                assert_eq!((part.first_ns, part.last_ns, part.count), (first_ns, last_ns, 3), "{part:?}");
                assert_eq!(part.intended_ns, u64::from(part.sequence));
            }
        }
    }

    /// What comes in one burst to each receiver must not push itself out.
    #[test]
    fn messages_that_are_under_way_have_places_of_their_own() {
        for format in [Format::Binary, Format::Compact, Format::Text] {
            let mut codec = Codec::new(0x0123_4567_89ab_cdef, format, Sizes::fixed(60));
            let recent = Recent::new(Table::new(1, 64), format.identity_at());
            for senders in [1, 2, 4, 16, 64] {
                let places = (0..64).map(|at| {
                    let (sender, sequence) = (at % senders, 1_000 + at / senders);
                    let stamp = Stamp { sender, sequence, intended_ns: u64::from(at), sent_ns: 0 };
                    recent.place(codec.encode(&stamp, 60)).expect("long enough").0
                });
                let different = places.collect::<std::collections::BTreeSet<_>>().len();
                assert!(different >= 60, "{different} of 64 places, {senders} senders, {format:?}");
            }
        }
    }

    #[test]
    fn what_some_lack_is_given_up_by_age() {
        let mut recent = Recent::new(Table::new(2, 1), 0);
        for sequence in [3, 4] {
            let place = recent.keep(&message(0, sequence, 20), &seen(0, sequence));
            recent.note(place, 10);
        }
        let given_up: Vec<_> = recent.take(4).iter().map(|it| (it.sequence, it.count)).collect();
        assert_eq!(given_up, [(3, 1)]);
        // The other one is still known, and its second delivery joins the first.
        let (place, _) = recent.find(&message(0, 4, 20)).expect("known");
        recent.note(place, 11);
        let [part] = recent.take(0)[..] else { panic!("one message") };
        assert_eq!((part.first_ns, part.last_ns, part.count), (10, 11, 2));
    }
}
