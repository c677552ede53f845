//! UTF-8 across fragments and TCP segments, RFC 6455 section 8.1: fails at the first byte that no continuation
//! can repair, however the stream is cut.

/// Bytes that cannot be part of UTF-8 text, or text that ends inside a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// A streaming validator: the state is the character that the last chunk left unfinished.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Stream {
    tail: [u8; 3],
    tail_len: u8,
}

impl Utf8Stream {
    /// Takes the next bytes of the text.
    ///
    /// # Errors
    /// [`InvalidUtf8`] when what came so far is not the beginning of any valid text.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), InvalidUtf8> {
        while self.tail_len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            self.extend_tail(byte)?;
        }
        match simdutf8::compat::from_utf8(bytes) {
            Ok(_) => Ok(()),
            // `error_len` is None only where the input ends inside a character that may still become valid.
            Err(error) if error.error_len().is_none() => {
                let tail = &bytes[error.valid_up_to()..];
                self.tail[..tail.len()].copy_from_slice(tail);
                self.tail_len = tail.len() as u8;
                Ok(())
            }
            Err(_) => Err(InvalidUtf8),
        }
    }

    /// The text ends here.
    ///
    /// # Errors
    /// [`InvalidUtf8`] when it ends inside a character.
    pub fn finish(self) -> Result<(), InvalidUtf8> {
        if self.tail_len == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }

    /// Adds one byte to the unfinished character; finished or hopeless characters leave the tail.
    fn extend_tail(&mut self, byte: u8) -> Result<(), InvalidUtf8> {
        let held = self.tail_len as usize;
        let mut character = [0; 4];
        character[..held].copy_from_slice(&self.tail[..held]);
        character[held] = byte;
        match std::str::from_utf8(&character[..=held]) {
            Ok(_) => self.tail_len = 0,
            Err(error) if error.error_len().is_none() => {
                self.tail[held] = byte;
                self.tail_len += 1;
            }
            Err(_) => return Err(InvalidUtf8),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index of the byte at which a byte-by-byte feed fails.
    fn fails_at(bytes: &[u8]) -> Option<usize> {
        let mut stream = Utf8Stream::default();
        (0..bytes.len()).find(|&index| stream.feed(&bytes[index..=index]).is_err())
    }

    #[test]
    fn valid_text_passes_at_every_cut() {
        let text = "aé€😀\u{10FFFF}\u{0}κόσμε";
        let bytes = text.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut stream = Utf8Stream::default();
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    stream.feed(part).expect("valid text");
                }
                assert_eq!(stream.finish(), Ok(()));
            }
        }
    }

    #[test]
    fn impossible_bytes_fail_at_once() {
        assert_eq!(fails_at(b"ab\xff"), Some(2));
        assert_eq!(fails_at(b"\xc0\x80"), Some(0), "overlong NUL");
        assert_eq!(fails_at(b"\xe0\x80\x80"), Some(1), "overlong");
        assert_eq!(fails_at(b"\xed\xa0\x80"), Some(1), "surrogate");
        assert_eq!(fails_at(b"\xf4\x90\x80\x80"), Some(1), "beyond U+10FFFF, known at the second byte");
        assert_eq!(fails_at(b"\xf5"), Some(0));
        assert_eq!(fails_at(b"\xe2\x82a"), Some(2));
        assert_eq!(fails_at(b"\x80"), Some(0), "stray continuation");
    }

    #[test]
    fn text_may_not_end_inside_a_character() {
        for prefix in [&b"\xf0"[..], b"\xf0\x9f", b"\xf0\x9f\x98", b"ok\xe2\x82"] {
            let mut stream = Utf8Stream::default();
            assert_eq!(stream.feed(prefix), Ok(()));
            assert_eq!(stream.finish(), Err(InvalidUtf8));
        }
    }

    #[test]
    fn agrees_with_std_on_every_two_byte_string_and_cut() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let bytes = [first, second];
                let mut stream = Utf8Stream::default();
                let whole = stream.feed(&bytes[..1]).and_then(|()| stream.feed(&bytes[1..]));
                let accepted = whole.is_ok() && stream.finish().is_ok();
                assert_eq!(accepted, std::str::from_utf8(&bytes).is_ok(), "{bytes:02x?}");
            }
        }
    }
}
