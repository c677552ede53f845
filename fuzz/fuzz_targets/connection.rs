//! The input: a number of cuts, the cuts, then what a client sends after its handshake. Compared with a plain reader of
//! RFC 6455.

#![no_main]

mod common;
mod cuts;
mod frames;

use common::{FRAGMENTS_MAX, MESSAGE_BYTES_MAX, run};
use frames::{End, Rules};
use libfuzzer_sys::fuzz_target;

const RULES: Rules = Rules { masked: true, bytes_max: MESSAGE_BYTES_MAX, fragments_max: FRAGMENTS_MAX };

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (cuts, stream) = rest.split_at(usize::from(count % 8).min(rest.len()));
    let outcome = run(stream, cuts, None);
    let whole = run(stream, &[], None);
    assert_eq!(
        (&outcome.messages, outcome.closed, &outcome.out),
        (&whole.messages, whole.closed, &whole.out)
    );

    let (messages, end) = frames::read(stream, RULES);
    assert_eq!(outcome.messages, messages);
    match end {
        End::Code(code) => assert_eq!(outcome.closed, Some(code)),
        End::Whole => assert_eq!(outcome.closed, None),
        // The frame at the end is cut: it may be known to be wrong already.
        End::Cut => {}
    }
});
