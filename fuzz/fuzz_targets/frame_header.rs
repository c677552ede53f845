//! The first byte of the input is the role and the extension, the rest a frame header: against a plain reading of
//! RFC 6455 section 5.2, and back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wsd::proto::header::HEADER_BYTES_MAX;
use wsd::proto::{Header, Role, Status};

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else { return };
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let deflate = first & 2 != 0;
    let decoded = Header::decode(bytes, role, deflate);
    if let Ok(Status::Complete((header, used))) = decoded {
        let mut out = [0; HEADER_BYTES_MAX];
        let len = header.encode(&mut out);
        assert_eq!(&out[..len], &bytes[..used], "there is one encoding of each header");
        for cut in 0..used {
            assert_eq!(Header::decode(&bytes[..cut], role, deflate), Ok(Status::Partial));
        }
    }
    match (plain(bytes, role, deflate), decoded) {
        (Reading::Sound { payload_len, len }, Ok(Status::Complete((header, used)))) => {
            assert_eq!((payload_len, len), (header.payload_len, used));
            assert_eq!(header.opcode as u8, bytes[0] & 0x0f);
            assert_eq!(header.fin, bytes[0] & 0x80 != 0);
        }
        (Reading::Short, Ok(Status::Partial)) => {}
        // Known to be wrong before all of it is there, or when it is.
        (Reading::Short | Reading::Wrong, Err(_)) => {}
        (plain, decoded) => panic!("{bytes:02x?}: {plain:?}, but {decoded:?}"),
    }
    // An error stays one, whatever follows.
    if decoded.is_err() {
        let longer = [bytes, &[0xff; 16]].concat();
        assert_eq!(Header::decode(&longer, role, deflate), decoded);
    }
});

#[derive(Debug)]
enum Reading {
    Sound { payload_len: u64, len: usize },
    Short,
    Wrong,
}

/// Judges a header only when all of it is there.
fn plain(bytes: &[u8], role: Role, deflate: bool) -> Reading {
    let [first, second, rest @ ..] = bytes else { return Reading::Short };
    let (length_bytes, mask_bytes) = (
        match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        },
        if second & 0x80 != 0 { 4 } else { 0 },
    );
    if rest.len() < length_bytes + mask_bytes {
        return Reading::Short;
    }
    let extended = rest[..length_bytes].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let payload_len = if length_bytes == 0 { u64::from(second & 0x7f) } else { extended };
    let opcode = first & 0x0f;
    let sound = matches!(opcode, 0..=2 | 8..=10)
        && (first & 0x70 == 0 || deflate && first & 0x70 == 0x40 && matches!(opcode, 1 | 2))
        && (opcode < 8 || first & 0x80 != 0 && payload_len <= 125)
        && (mask_bytes == 4) == (role == Role::Server)
        && match length_bytes {
            2 => payload_len >= 126,
            8 => payload_len > 0xffff && payload_len >> 63 == 0,
            _ => true,
        };
    if sound { Reading::Sound { payload_len, len: 2 + length_bytes + mask_bytes } } else { Reading::Wrong }
}
