//! Client streams: sound sequences of frames, then something wrong with most of them.

/// What a client sends, and how it arrives.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    /// The lengths of the pieces, over and over.
    pub(crate) cuts: Vec<usize>,
    /// The limit of both ends.
    pub(crate) message_bytes_max: u32,
}

/// Most messages are far shorter than this, some at its edge.
const MESSAGE_BYTES_MAX: u32 = 300;

/// For the few streams with lengths of 64 bits.
const LARGE_MESSAGE_BYTES_MAX: u32 = 70_000;

const TEXTS: [&str; 6] =
    ["", "hello", "häé€😀", "\u{10FFFF}\u{0}", "κόσμε", "a longer text, so that it is cut somewhere"];

/// Closes of every kind: allowed, not allowed, of one byte, with a reason that is no text.
const CLOSES: [&[u8]; 14] = [
    b"",
    b"\x03\xe8",
    b"\x03\xe8bye",
    b"\x03\xe9\xe2\x82\xac",
    b"\x0f\xa0app",
    b"\x0b\xb8",
    b"\x03\xf6",
    b"\x03",
    b"\x03\xec",
    b"\x03\xed",
    b"\x13\x88",
    b"\x03\xf7",
    b"\x03\xe8\xff",
    b"\x00\x00\xc3\x28",
];

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True once in `count` times.
    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// A frame that may break any rule.
#[derive(Clone, Debug)]
struct Raw {
    first: u8,
    mask: Option<[u8; 4]>,
    payload: Vec<u8>,
    /// Bytes of extended length: 0, 2 or 8; `None` for as few as it takes.
    form: Option<usize>,
    /// A length that is not the payload's.
    announced: Option<u64>,
}

impl Raw {
    fn encode(&self, out: &mut Vec<u8>) {
        let len = self.announced.unwrap_or(self.payload.len() as u64);
        let fewest = match len {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        let form = self.form.unwrap_or(fewest).max(fewest);
        out.push(self.first);
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        out.push(masked | [len as u8, 126, 127][form.div_ceil(4)]);
        out.extend_from_slice(&len.to_be_bytes()[8 - form..]);
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |mask| mask.as_slice()));
        let key = self.mask.unwrap_or_default();
        out.extend(self.payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
    }
}

/// The stream of a seed.
pub(crate) fn stream(seed: u64) -> Stream {
    let mut random = Random(seed);
    let large = random.one_in(200);
    let message_bytes_max = if large { LARGE_MESSAGE_BYTES_MAX } else { MESSAGE_BYTES_MAX };
    let mut frames = Vec::new();
    for _ in 0..random.below(6) {
        item(&mut random, message_bytes_max, &mut frames);
    }
    for _ in 0..[0, 1, 1, 2][random.below(4)] {
        spoil_frames(&mut random, &mut frames);
    }
    let mut bytes = Vec::new();
    for frame in &frames {
        frame.encode(&mut bytes);
    }
    for _ in 0..[0, 0, 0, 1, 2][random.below(5)] {
        spoil_bytes(&mut random, &mut bytes);
    }
    let cuts = (0..1 + random.below(4)).map(|_| 1 + random.below(60)).collect();
    Stream { bytes, cuts, message_bytes_max }
}

/// A message in one or more frames with controls between them, a control by itself, or a Close.
fn item(random: &mut Random, message_bytes_max: u32, out: &mut Vec<Raw>) {
    if random.one_in(4) {
        return control(random, out);
    }
    if random.one_in(8) {
        let payload = CLOSES[random.below(CLOSES.len())].to_vec();
        return frame(random, 0x88, payload, out);
    }
    let text = random.one_in(2);
    let mut payload = Vec::new();
    if text {
        for _ in 0..random.below(4) {
            payload.extend_from_slice(TEXTS[random.below(TEXTS.len())].as_bytes());
        }
    } else {
        let len = random.below(140);
        payload = random.bytes(len);
    }
    if random.one_in(10) {
        let edge = message_bytes_max as usize - 2 + random.below(5);
        payload.resize(edge, b'x');
    }
    let first = if text { 0x1 } else { 0x2 };
    if random.one_in(2) {
        return frame(random, 0x80 | first, payload, out);
    }
    let mut opcode = first;
    loop {
        let rest = payload.split_off(random.below(payload.len() + 1));
        let last = rest.is_empty() || random.one_in(3);
        if last {
            payload.extend_from_slice(&rest);
        }
        frame(random, opcode | if last { 0x80 } else { 0 }, payload, out);
        if last {
            return;
        }
        if random.one_in(3) {
            control(random, out);
        }
        payload = rest;
        opcode = 0;
    }
}

fn control(random: &mut Random, out: &mut Vec<Raw>) {
    let first = if random.one_in(2) { 0x89 } else { 0x8a };
    let len = [0, 4, 125][random.below(3)];
    let payload = random.bytes(len);
    frame(random, first, payload, out);
}

fn frame(random: &mut Random, first: u8, payload: Vec<u8>, out: &mut Vec<Raw>) {
    let mask = Some((random.next() as u32).to_be_bytes());
    out.push(Raw { first, mask, payload, form: None, announced: None });
}

/// Breaks a rule of one frame, or of the sequence.
fn spoil_frames(random: &mut Random, frames: &mut Vec<Raw>) {
    if frames.is_empty() {
        return;
    }
    let at = random.below(frames.len());
    let frame = &mut frames[at];
    match random.below(12) {
        0 => frame.first ^= 0x80,
        1 => frame.first ^= 0x10 << random.below(3),
        2 => frame.first = frame.first & 0xf0 | random.below(16) as u8,
        3 => frame.mask = None,
        4 => frame.form = Some([2, 8][random.below(2)]),
        5 => frame.announced = Some(random.next() >> random.below(64)),
        6 => frame.announced = Some((frame.payload.len() + random.below(5)).saturating_sub(2) as u64),
        7 => drop(frames.remove(at)),
        8 => {
            let again = frame.clone();
            let to = random.below(frames.len() + 1);
            frames.insert(to, again);
        }
        9 => frame.payload.resize(random.below(400), b'y'),
        // What is no text, most of all.
        _ => {
            let place = random.below(frame.payload.len());
            if let Some(byte) = frame.payload.get_mut(place) {
                *byte = [0x80, 0xc0, 0xe2, 0xed, 0xf4, 0xff][random.below(6)];
            }
        }
    }
}

/// Changes bytes, whatever they are.
fn spoil_bytes(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len());
    match random.below(5) {
        0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        2 => bytes.truncate(at),
        3 if !bytes.is_empty() => drop(bytes.remove(at)),
        _ => {
            let count = 1 + random.below(4);
            let noise = random.bytes(count);
            bytes.splice(at..at, noise);
        }
    }
}
