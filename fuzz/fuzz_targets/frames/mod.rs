//! A plain reader of RFC 6455 that sees the whole stream at once and works frame by frame.

/// What a stream must keep to.
#[derive(Clone, Copy)]
pub struct Rules {
    /// As what a client sends is, and what a server sends is not.
    pub masked: bool,
    /// Bytes of one message.
    pub bytes_max: u32,
    /// Frames of one message.
    pub fragments_max: u32,
}

/// How a stream ends.
pub enum End {
    /// Every frame is whole, and nothing is wrong.
    Whole,
    /// Nothing is wrong up to the last frame, which is cut.
    Cut,
    /// The close code that ends the connection.
    Code(u16),
}

/// The messages, each with whether it is text, and how it ends.
pub fn read(mut stream: &[u8], rules: Rules) -> (Vec<(bool, Vec<u8>)>, End) {
    let mut messages = Vec::new();
    let mut assembly: Option<(bool, Vec<u8>, u32)> = None;
    loop {
        if stream.is_empty() {
            return (messages, End::Whole);
        }
        let Some((first, length, len, head)) = header(stream, rules) else { return (messages, End::Cut) };
        let (opcode, fin) = (first & 0x0f, first & 0x80 != 0);
        let Some((mask, payload_len)) = length.filter(|_| is_sound(first, len)) else {
            return (messages, End::Code(1002));
        };
        let held = match (&assembly, opcode) {
            (None, 0) | (Some(_), 1 | 2) => return (messages, End::Code(1002)),
            (Some((_, _, count)), 0) if *count >= rules.fragments_max => return (messages, End::Code(1008)),
            (Some((_, bytes, _)), 0) => bytes.len() as u64,
            _ => 0,
        };
        if opcode < 8 && held.saturating_add(payload_len) > u64::from(rules.bytes_max) {
            return (messages, End::Code(1009));
        }
        let end = head + payload_len as usize;
        let Some(masked) = stream.get(head..end) else { return (messages, End::Cut) };
        let payload: Vec<u8> = masked.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        stream = &stream[end..];
        match opcode {
            8 => return (messages, End::Code(close_code(&payload))),
            9 | 10 => continue,
            _ => {}
        }
        let (text, bytes, fragments) = assembly.get_or_insert_with(|| (opcode == 1, Vec::new(), 0));
        bytes.extend(payload);
        *fragments += 1;
        if *text && std::str::from_utf8(bytes).is_err_and(|error| fin || error.error_len().is_some()) {
            return (messages, End::Code(1007));
        }
        if fin && let Some((text, bytes, _)) = assembly.take() {
            messages.push((text, bytes));
        }
    }
}

/// The first byte; the mask and length if they are sound; the 7-bit length; the header's own length. `None` if cut.
#[expect(clippy::type_complexity, reason = "one use")]
fn header(stream: &[u8], rules: Rules) -> Option<(u8, Option<([u8; 4], u64)>, u8, usize)> {
    let (first, second) = (*stream.first()?, *stream.get(1)?);
    let bytes = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let extended = stream.get(2..2 + bytes)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let masked = second & 0x80 != 0;
    let mask = if masked { *stream.get(2 + bytes..)?.first_chunk::<4>()? } else { [0; 4] };
    let (len, minimal) = match bytes {
        0 => (u64::from(second & 0x7f), true),
        2 => (extended, extended > 125),
        _ => (extended, extended > 0xffff && extended >> 63 == 0),
    };
    let length = (minimal && masked == rules.masked).then_some((mask, len));
    Some((first, length, second & 0x7f, 2 + bytes + if masked { 4 } else { 0 }))
}

fn is_sound(first: u8, len: u8) -> bool {
    let opcode = first & 0x0f;
    first & 0x70 == 0 && matches!(opcode, 0..=2 | 8..=10) && (opcode < 8 || first & 0x80 != 0 && len <= 125)
}

fn close_code(payload: &[u8]) -> u16 {
    match payload {
        [] => 1005,
        [_] => 1002,
        [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => {
                if std::str::from_utf8(reason).is_ok() {
                    code
                } else {
                    1007
                }
            }
            _ => 1002,
        },
    }
}
