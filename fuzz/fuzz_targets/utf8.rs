//! The first byte of the input says where the text is cut: the same verdict as std, at the first byte that makes it
//! impossible.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wsd::proto::utf8::Utf8Stream;

fuzz_target!(|input: &[u8]| {
    let Some((&step, text)) = input.split_first() else { return };
    let step = usize::from(step) + 1;
    let mut stream = Utf8Stream::default();
    let refused = text.chunks(step).position(|part| stream.feed(part).is_err());
    let (valid, impossible_at) = match std::str::from_utf8(text) {
        Ok(_) => (true, None),
        Err(error) => (false, error.error_len().map(|len| error.valid_up_to() + len)),
    };
    // `valid_up_to + error_len` is the byte that cannot stand there, or the one before it where that one alone is whole.
    let impossible_at = impossible_at.map(|end| first_impossible(text, end));
    assert_eq!(refused, impossible_at.map(|at| at / step));
    assert_eq!(refused.is_none() && stream.finish().is_ok(), valid);
});

/// The first byte after which std sees no way on, looked for near `end`.
fn first_impossible(text: &[u8], end: usize) -> usize {
    (end.saturating_sub(4)..text.len())
        .find(|&at| std::str::from_utf8(&text[..=at]).is_err_and(|error| error.error_len().is_some()))
        .expect("the whole is impossible")
}
