//! The input: what was agreed on and a number of cuts, the cuts, then what a client sends. Whole or cut, with a
//! connection's own stream or a pool's, the outcome is the same and the limits hold.

#![no_main]

mod common;
mod cuts;

use common::run;
use libfuzzer_sys::fuzz_target;
use wsd::proto::deflate::{Agreed, Window};

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else { return };
    let (cuts, stream) = rest.split_at(usize::from(first % 8).min(rest.len()));
    let agreed = Agreed {
        send_window: Window::MAX,
        send_takeover: false,
        receive_window: if first & 0x40 == 0 { Window::MAX } else { Window::MIN },
        receive_takeover: first & 0x80 != 0,
    };
    let outcome = run(stream, cuts, Some(agreed));
    let whole = run(stream, &[], Some(agreed));
    assert_eq!(
        (&outcome.messages, outcome.closed, &outcome.out),
        (&whole.messages, whole.closed, &whole.out)
    );
    let single = run(stream, &[0], Some(agreed));
    assert_eq!((&single.messages, single.closed, &single.out), (&whole.messages, whole.closed, &whole.out));

    // Where the agreement is not made use of, nothing is different.
    let plain = run(stream, cuts, None);
    let compressed = stream.iter().any(|byte| byte & 0x40 != 0);
    if !compressed {
        assert_eq!((&plain.messages, plain.closed), (&outcome.messages, outcome.closed));
    }
    // A code of the protocol's own, or the peer's.
    let code = outcome.closed.unwrap_or(1000);
    assert!(matches!(code, 1000..=1003 | 1005 | 1007..=1014 | 3000..=4999), "{code}");
});
