//! Streams that arrive in pieces.

use std::iter;

/// The stream in pieces whose lengths are those of `cuts`, over and over; whole where there are none.
pub fn pieces(mut rest: &[u8], cuts: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut lens = cuts.iter().map(|cut| usize::from(*cut) + 1).cycle();
    iter::from_fn(move || {
        let (piece, after) = rest.split_at(lens.next().unwrap_or(rest.len()).min(rest.len()));
        rest = after;
        (!piece.is_empty()).then(|| piece.to_vec())
    })
}
