//! Masking, RFC 6455 section 5.3: the payload XORed with a repeated 4-byte key.

/// XORs `payload` with `key` in place, and returns the key turned so that the next bytes of the same payload
/// go on where these ended. Masking twice with the same key gives the original.
///
/// One pass in blocks of 32 bytes that the compiler turns into vector instructions; the rest byte by byte, so
/// a short message pays for no set-up.
pub fn apply(key: [u8; 4], payload: &mut [u8]) -> [u8; 4] {
    // In registers: put together and turned as arrays, the key would cost more than masking a short message.
    let key_word = u32::from_le_bytes(key);
    let word = (u64::from(key_word) << 32 | u64::from(key_word)).to_le();
    let turned = payload.len() as u32 % 4;
    let (blocks, rest) = payload.as_chunks_mut::<32>();
    for block in blocks {
        for lane in block.as_chunks_mut::<8>().0 {
            *lane = (u64::from_ne_bytes(*lane) ^ word).to_ne_bytes();
        }
    }
    let (words, tail) = rest.as_chunks_mut::<8>();
    for lane in words {
        *lane = (u64::from_ne_bytes(*lane) ^ word).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    key_word.rotate_right(8 * turned).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_of_section_5_7() {
        let mut bytes = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let next = apply([0x37, 0xfa, 0x21, 0x3d], &mut bytes);
        assert_eq!(&bytes, b"Hello");
        assert_eq!(next, [0xfa, 0x21, 0x3d, 0x37], "5 bytes turn the key by one");
    }

    #[test]
    fn equals_the_definition_at_every_length_offset_and_cut() {
        let key = [0xA5, 0x01, 0xFF, 0x3C];
        let plain: Vec<u8> = (0..200u8).collect();
        for start in 0..33 {
            for end in start..plain.len() {
                let mut masked = plain.clone();
                let part = &mut masked[start..end];
                let cut = part.len() / 3;
                let next = apply(key, &mut part[..cut]);
                apply(next, &mut part[cut..]);
                for (index, byte) in masked.iter().enumerate() {
                    let inside = (start..end).contains(&index);
                    let want = if inside { plain[index] ^ key[(index - start) % 4] } else { plain[index] };
                    assert_eq!(*byte, want, "{start}..{end} at {index}");
                }
            }
        }
    }
}
