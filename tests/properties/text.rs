//! UTF-8 in pieces against `std::str`, whole.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{prop_assert, prop_assert_eq, proptest};
use wsd::proto::utf8::Utf8Stream;

use super::{any_cuts, any_mutations, cases, mutated, pieces};

/// Bytes at the edges of what UTF-8 allows: leads, continuations at the borders of their ranges, and what is never in it.
const EDGES: [u8; 24] = [
    0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed,
    0xee, 0xef, 0xf0, 0xf3, 0xf4, 0xf5, 0xff,
];

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let nearly_text =
        ("\\PC{0,30}", any_mutations()).prop_map(|(text, mutations)| mutated(text.into_bytes(), &mutations));
    prop_oneof![vec(select(&EDGES[..]), 0..9), nearly_text, vec(any::<u8>(), 0..9)]
}

/// Whether bytes could follow that make it text. One of these three fits into any character that can be finished.
fn can_become_text(prefix: &[u8]) -> bool {
    let mut candidates = vec![prefix.to_vec()];
    for _ in 0..4 {
        if candidates.iter().any(|candidate| std::str::from_utf8(candidate).is_ok()) {
            return true;
        }
        let longer = |bytes: &Vec<u8>| [0x80, 0x90, 0xa0].map(|next| [bytes.as_slice(), &[next]].concat());
        candidates = candidates.iter().flat_map(longer).collect();
    }
    false
}

/// The number of the piece that is refused, and whether what was not refused is whole.
fn feed(parts: &[&[u8]]) -> (Option<usize>, bool) {
    let mut stream = Utf8Stream::default();
    let refused = parts.iter().position(|part| stream.feed(part).is_err());
    (refused, refused.is_none() && stream.finish().is_ok())
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn in_pieces_it_is_what_std_says_of_the_whole(bytes in any_bytes(), cuts in any_cuts()) {
        let valid = std::str::from_utf8(&bytes).is_ok();
        prop_assert_eq!(feed(&pieces(&bytes, &cuts)).1, valid);
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            prop_assert_eq!(feed(&[first, second]).1, valid, "cut at {}", at);
        }
    }

    #[test]
    fn it_fails_with_the_byte_that_makes_it_impossible(bytes in any_bytes(), cuts in any_cuts()) {
        let impossible = (0..bytes.len()).find(|&at| !can_become_text(&bytes[..=at]));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(feed(&single).0, impossible);
        let parts = pieces(&bytes, &cuts);
        let mut end = 0;
        let in_part = parts.iter().position(|part| {
            end += part.len();
            impossible.is_some_and(|at| at < end)
        });
        prop_assert_eq!(feed(&parts).0, in_part);
    }

    #[test]
    fn text_passes_at_every_cut(text in "\\PC{0,60}") {
        let bytes = text.as_bytes();
        for at in 0..=bytes.len() {
            prop_assert!(feed(&[&bytes[..at], &bytes[at..]]).1);
        }
    }
}
