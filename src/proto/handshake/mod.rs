//! The opening handshake, RFC 6455 section 4, for both ends.
//!
//! | file | what |
//! |---|---|
//! | `head.rs` | where a request head ends, found once over, however it is cut |
//! | `request.rs` | the server reads a request and decides whether it is a handshake |
//! | `response.rs` | the server answers |
//! | `grammar.rs` | what header values may look like |
//! | `origin.rs` | which web pages may connect |
//! | `client.rs` | the client asks, and checks the answer |

pub mod client;
mod grammar;
pub mod head;
pub mod origin;
pub mod request;
pub mod response;

pub use client::{ClientRequest, Upgraded, parse_response};
pub use head::HeadScanner;
pub use request::{Request, RequestError};
pub use response::{Response, encode_accept};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use sha1::{Digest as _, Sha1};

/// The value that proves a server understood the handshake (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The length of every `Sec-WebSocket-Accept`: base64 of 20 bytes.
pub const ACCEPT_KEY_LEN: usize = 28;

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (section 4.2.2, step 5.4), in ASCII.
pub fn accept_key(key: &[u8]) -> [u8; ACCEPT_KEY_LEN] {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID.as_bytes());
    let mut out = [0; ACCEPT_KEY_LEN];
    let written = STANDARD.encode_slice(hash.finalize(), &mut out).expect("base64 of 20 bytes is 28 bytes");
    debug_assert_eq!(written, ACCEPT_KEY_LEN);
    out
}

/// "a nonce consisting of a randomly selected 16-byte value that has been base64-encoded" (section 4.1).
pub(crate) fn is_valid_key(key: &[u8]) -> bool {
    // The last character of 16 bytes carries four bits that mean nothing; some clients set them.
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    let mut nonce = [0; 18];
    key.len() == 24 && matches!(LENIENT.decode_slice(key, &mut nonce), Ok(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_of_section_1_3() {
        assert_eq!(&accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_are_sixteen_bytes() {
        assert!(is_valid_key(b"dGhlIHNhbXBsZSBub25jZQ==") && is_valid_key(b"dGhlIHNhbXBsZSBub25jZR=="));
        for key in [&b""[..], b"dGhlIHNhbXBsZSBub25j", b"dGhlIHNhbXBsZSBub25jZQ", b"!GhlIHNhbXBsZSBub25jZQ=="]
        {
            assert!(!is_valid_key(key));
        }
    }
}
