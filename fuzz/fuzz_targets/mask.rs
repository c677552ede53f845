//! The input: a key, an offset, a cut, and the payload. Against the definition in RFC 6455 section 5.3.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wsd::proto::mask;

fuzz_target!(|input: &[u8]| {
    let Some((&[k0, k1, k2, k3, offset, cut], payload)) = input.split_first_chunk::<6>() else { return };
    let key = [k0, k1, k2, k3];
    let offset = usize::from(offset).min(payload.len());
    let cut = offset + usize::from(cut).min(payload.len() - offset);
    let mut masked = payload.to_vec();
    let turned = mask::apply(key, &mut masked[offset..cut]);
    let last = mask::apply(turned, &mut masked[cut..]);
    for (at, byte) in masked.iter().enumerate() {
        let key = if at < offset { 0 } else { key[(at - offset) % 4] };
        assert_eq!(*byte, payload[at] ^ key, "byte {at}");
    }
    let len = payload.len() - offset;
    assert_eq!(last, [0, 1, 2, 3].map(|at| key[(len + at) % 4]));
    mask::apply(key, &mut masked[offset..]);
    assert_eq!(masked, payload);
});
