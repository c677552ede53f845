//! The first two bytes of the input are the limit, the rest is a compressed message. A plain inflater, written from
//! RFC 1951, must make the same of it, and no more than the limit may come out.

#![no_main]

mod plain;

use libfuzzer_sys::fuzz_target;
use plain::{End, inflate};
use wsd::proto::ProtocolError;
use wsd::proto::deflate::{Inflater, Window};

const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

fuzz_target!(|input: &[u8]| {
    let Some((max, payload)) = input.split_first_chunk::<2>() else { return };
    let max = usize::from(u16::from_be_bytes(*max));
    let mut inflater = Inflater::new(Window::MAX, false);
    let got = inflater.inflate(payload, max as u32);
    assert_eq!(inflater.inflate(payload, max as u32), got, "nothing is left of the message before");
    if let Ok(out) = &got {
        assert!(out.len() <= max);
        assert!(out.capacity() <= 4 * (max + 64 * 1024), "{} bytes held for {}", out.capacity(), out.len());
    }
    let (out, end) = inflate(&[payload, &TAIL].concat(), max + 1);
    // Over the limit, whatever comes then.
    let end = if out.len() > max { End::Full } else { end };
    match (end, got) {
        (End::Ended | End::Short, Ok(got)) => assert_eq!(got, out),
        (End::Full, Err(ProtocolError::MessageTooBig)) => {}
        // Wrong behind the limit: who looks ahead knows.
        (End::Full, Err(ProtocolError::InvalidDeflate)) => {}
        (End::Wrong, Err(ProtocolError::InvalidDeflate)) => {}
        // zlib looks at the header of a block when all of it is there: with more input it must see it too.
        (End::Wrong, Ok(_)) => {
            let longer = [payload, &TAIL, &[0; 512]].concat();
            assert!(inflater.inflate(&longer, max as u32).is_err(), "{payload:02x?} is no DEFLATE");
        }
        (end, got) => {
            panic!("{payload:02x?} of at most {max}: {end:?} after {} bytes, but {got:?}", out.len())
        }
    }
});
