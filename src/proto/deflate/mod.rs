//! permessage-deflate, RFC 7692: negotiation for both roles, and the streams.
//!
//! | file | what |
//! |---|---|
//! | `negotiate.rs` | offers, answers, and what was agreed, section 7.1 |
//! | `stream.rs` | one message in, one message out, section 7.2 |
//!
//! A server that does not use context takeover for what it sends makes the same compressed bytes for every
//! receiver with the same window, so a broadcast is compressed once; and it needs a stream only while it
//! compresses a message, so an idle connection owns none.

mod negotiate;
mod stream;

pub use negotiate::{Agreed, OfferError, Window, negotiate, offer, parse_agreement};
pub use stream::{Clock, Deflater, Inflater, Pool, Streams, Work};

/// The name of the extension.
pub const EXTENSION: &str = "permessage-deflate";
