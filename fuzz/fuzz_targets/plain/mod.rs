//! RFC 1951 bit by bit: slow, and easy to check against its text.

/// Where the input, or the room, came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After a final block.
    Ended,
    /// Nothing is wrong, and more could come.
    Short,
    /// There is no more room.
    Full,
    /// No DEFLATE.
    Wrong,
}

/// At most `max` bytes of what `input` stands for, and why there are no more.
pub fn inflate(input: &[u8], max: usize) -> (Vec<u8>, End) {
    let mut state = State { input, bit: 0, out: Vec::new(), max };
    let Err(end) = state.blocks() else { return (state.out, End::Ended) };
    (state.out, end)
}

struct State<'i> {
    input: &'i [u8],
    bit: usize,
    out: Vec<u8>,
    max: usize,
}

/// A canonical code: how many symbols there are of each length, and the symbols in order (section 3.2.2).
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lens: &[u8]) -> Self {
        let mut counts = [0; 16];
        let mut symbols: Vec<u16> = (0..lens.len() as u16).filter(|at| lens[usize::from(*at)] > 0).collect();
        for &symbol in &symbols {
            counts[usize::from(lens[usize::from(symbol)])] += 1;
        }
        symbols.sort_by_key(|symbol| lens[usize::from(*symbol)]);
        Self { counts, symbols }
    }

    /// Codes that are not given to any symbol, in units of the shortest; negative if there are too many symbols.
    fn left(&self) -> i32 {
        self.counts[1..]
            .iter()
            .fold(1, |left, count| if left < 0 { left } else { 2 * left - i32::from(*count) })
    }

    /// Every code is given, or there is one symbol of one bit, or none at all.
    fn is_usable(&self) -> bool {
        self.left() == 0
            || self.symbols.is_empty()
            || self.left() > 0 && self.symbols.len() == 1 && self.counts[1] == 1
    }
}

impl State<'_> {
    fn blocks(&mut self) -> Result<(), End> {
        loop {
            let last = self.bits(1)? == 1;
            match self.bits(2)? {
                0 => self.stored()?,
                1 => {
                    let mut lens = [8; 288];
                    lens[144..256].fill(9);
                    lens[256..280].fill(7);
                    self.codes(&Code::new(&lens), &Code::new(&[5; 32]))?;
                }
                2 => {
                    let (literals, distances) = self.dynamic()?;
                    self.codes(&literals, &distances)?;
                }
                _ => return Err(End::Wrong),
            }
            if last {
                return Ok(());
            }
        }
    }

    fn bits(&mut self, count: usize) -> Result<usize, End> {
        let mut value = 0;
        for at in 0..count {
            let bit = self.bit + at;
            let byte = self.input.get(bit / 8).ok_or(End::Short)?;
            value |= usize::from(byte >> (bit % 8) & 1) << at;
        }
        self.bit += count;
        Ok(value)
    }

    fn push(&mut self, byte: u8) -> Result<(), End> {
        if self.out.len() == self.max {
            return Err(End::Full);
        }
        self.out.push(byte);
        Ok(())
    }

    /// Section 3.2.4.
    fn stored(&mut self) -> Result<(), End> {
        self.bit = self.bit.next_multiple_of(8);
        let (len, check) = (self.bits(16)?, self.bits(16)?);
        if len != !check & 0xffff {
            return Err(End::Wrong);
        }
        for _ in 0..len {
            let byte = self.bits(8)? as u8;
            self.push(byte)?;
        }
        Ok(())
    }

    /// Section 3.2.7.
    fn dynamic(&mut self) -> Result<(Code, Code), End> {
        const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let (literals, distances) = (self.bits(5)? + 257, self.bits(5)? + 1);
        let lengths = self.bits(4)? + 4;
        if literals > 286 || distances > 30 {
            return Err(End::Wrong);
        }
        let mut lens = [0; 19];
        for &at in &ORDER[..lengths] {
            lens[at] = self.bits(3)? as u8;
        }
        let code = Code::new(&lens);
        if code.left() != 0 {
            return Err(End::Wrong);
        }
        let mut lens: Vec<u8> = Vec::new();
        while lens.len() < literals + distances {
            let (len, times) = match self.symbol(&code)? {
                16 => (*lens.last().ok_or(End::Wrong)?, 3 + self.bits(2)?),
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                len => (len as u8, 1),
            };
            lens.extend(std::iter::repeat_n(len, times));
        }
        // A run may not go over the end, and the end of the block must have a code.
        if lens.len() > literals + distances || lens[256] == 0 {
            return Err(End::Wrong);
        }
        let codes = (Code::new(&lens[..literals]), Code::new(&lens[literals..]));
        if codes.0.is_usable() && codes.1.is_usable() { Ok(codes) } else { Err(End::Wrong) }
    }

    fn symbol(&mut self, code: &Code) -> Result<usize, End> {
        let (mut value, mut first, mut index) = (0, 0, 0);
        let began = self.bit;
        for len in 1..16 {
            let Ok(bit) = self.bits(1) else {
                self.bit = began;
                return Err(End::Short);
            };
            value |= bit;
            let count = usize::from(code.counts[len]);
            if value < first + count {
                return Ok(usize::from(code.symbols[index + value - first]));
            }
            index += count;
            // No symbol has more bits.
            if index == code.symbols.len() {
                return Err(End::Wrong);
            }
            first = (first + count) << 1;
            value <<= 1;
        }
        Err(End::Wrong)
    }

    /// Section 3.2.5.
    fn codes(&mut self, literals: &Code, distances: &Code) -> Result<(), End> {
        loop {
            let symbol = self.symbol(literals)?;
            match symbol {
                0..=255 => self.push(symbol as u8)?,
                256 => return Ok(()),
                257..=285 => {
                    let length = match symbol {
                        285 => 258,
                        _ => self.extended(symbol - 257, 2)? + 3,
                    };
                    let distance = match self.symbol(distances)? {
                        symbol @ 0..=29 => self.extended(symbol, 1)? + 1,
                        _ => return Err(End::Wrong),
                    };
                    let from = self.out.len().checked_sub(distance).ok_or(End::Wrong)?;
                    for at in from..from + length {
                        self.push(self.out[at])?;
                    }
                }
                _ => return Err(End::Wrong),
            }
        }
    }

    /// The base and the extra bits of a length (in groups of four) or a distance (of two).
    fn extended(&mut self, symbol: usize, group_bits: usize) -> Result<usize, End> {
        let group = 1 << group_bits;
        if symbol < 2 * group {
            return Ok(symbol);
        }
        let extra = symbol / group - 1;
        Ok(((group + symbol % group) << extra) + self.bits(extra)?)
    }
}
