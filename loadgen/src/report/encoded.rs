//! Reads histograms as the HdrHistogram family encodes them (V2, deflated or not). Anybody may have written them, on
//! any machine, and the library's reader believes a header: it allocates, on 40 bytes, for four gigabytes of counts.
//! Here counts go straight into a histogram of ours, which is as large as it is.

use std::io::Read as _;

use flate2::read::ZlibDecoder;

use crate::record::Latencies;

const PLAIN: u32 = 0x1c84_9313;
const DEFLATED: u32 = 0x1c84_9314;

/// Cookie, length of the counts, offset, digits, lowest and highest value, ratio.
const HEADER_BYTES: usize = 40;

/// The most that an encoded histogram inflates to. One of ours that has every count has a third of it.
const BYTES_MAX: u64 = 1 << 20;

/// The samples of an encoded histogram; `None` where it is damaged, or has some that ours has no place for.
pub fn read(bytes: &[u8]) -> Option<Latencies> {
    let (cookie, rest) = bytes.split_first_chunk()?;
    if u32::from_be_bytes(*cookie) != DEFLATED {
        return read_plain(bytes);
    }
    let (len, rest) = rest.split_first_chunk()?;
    let deflated = rest.get(..u32::from_be_bytes(*len) as usize)?;
    let mut plain = Vec::new();
    ZlibDecoder::new(deflated).take(BYTES_MAX).read_to_end(&mut plain).ok()?;
    read_plain(&plain)
}

fn read_plain(bytes: &[u8]) -> Option<Latencies> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (words, _) = header.as_chunks();
    let [cookie, len, offset, digits, low @ .., _, _, _, _] = words else { return None };
    let [cookie, len, offset, digits] = [cookie, len, offset, digits].map(|word| u32::from_be_bytes(*word));
    let low = u64::from_be_bytes(*low.as_flattened().first_chunk()?);
    let ratio = f64::from_be_bytes(*header.last_chunk()?);
    if cookie != PLAIN || offset != 0 || digits > 5 || ratio != 1.0 {
        return None;
    }
    let scale = Scale::new(low, digits)?;
    let mut counts = rest.get(..len as usize)?;
    let (mut latencies, mut index) = (Latencies::default(), 0u64);
    while !counts.is_empty() {
        let number = next_number(&mut counts)?;
        // So many counts of zero, or one count.
        let Ok(count) = u64::try_from(number) else {
            index = index.checked_add(number.unsigned_abs())?;
            continue;
        };
        if count > 0 {
            let (low, high) = scale.values(index)?;
            latencies.try_add(low, high, count)?;
        }
        index = index.checked_add(1)?;
    }
    Some(latencies)
}

/// A number of 1 to 9 bytes, seven bits in each but the last of nine, the lowest first; the sign is the lowest bit
/// (ZigZag LEB128-64b9B).
fn next_number(bytes: &mut &[u8]) -> Option<i64> {
    let mut number = 0;
    for at in 0..9 {
        let byte = *bytes.split_off_first()?;
        let more = at < 8 && byte & 0x80 != 0;
        number |= u64::from(if more { byte & 0x7f } else { byte }) << (7 * at);
        if !more {
            break;
        }
    }
    Some((number >> 1) as i64 ^ -((number & 1) as i64))
}

/// Which values a count is of: buckets, each twice as wide as the one before, of as many parts as make the asked number
/// of digits; each bucket but the first has only the upper half of them.
struct Scale {
    unit_bits: u32,
    half_bits: u32,
}

impl Scale {
    fn new(low: u64, digits: u32) -> Option<Self> {
        let parts = 2 * 10u32.pow(digits);
        Some(Self { unit_bits: low.checked_ilog2()?, half_bits: parts.next_power_of_two().ilog2() - 1 })
    }

    /// The lowest and the highest value of a count; `None` where they have no place in a number.
    fn values(&self, index: u64) -> Option<(u64, u64)> {
        let half = 1 << self.half_bits;
        let bucket = (index >> self.half_bits).saturating_sub(1);
        let part = if index < half { index } else { index % half + half };
        let bits = u32::try_from(bucket).ok()?.checked_add(self.unit_bits)?;
        let low = part.checked_mul(1u64.checked_shl(bits)?)?;
        Some((low, low.checked_add((1 << bits) - 1)?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer, V2Serializer};

    use super::*;

    fn encoded(histogram: &Histogram<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        V2Serializer::new().serialize(histogram, &mut out).expect("memory takes it");
        out
    }

    /// The library's own sum of such a histogram with an empty one of ours.
    #[test]
    fn as_the_library_reads_them() {
        let mut rng = fastrand::Rng::with_seed(7);
        for (low, high, digits) in
            [(1, 3_600_000_000_000, 3), (1, 2, 0), (1000, 3_600_000_000_000, 2), (1, 1 << 40, 5), (7, 14, 1)]
        {
            let mut histogram = Histogram::new_with_bounds(low, high, digits).expect("sound bounds");
            for _ in 0..500 {
                let shift = rng.u8(..30);
                histogram.saturating_record_n(rng.u64(..=high >> shift), rng.u64(1..1_000_000));
            }
            let mut expected = Latencies::default().histogram().clone();
            expected.add(&histogram).expect("it fits");
            let mut deflated = Vec::new();
            V2DeflateSerializer::new().serialize(&histogram, &mut deflated).expect("memory takes it");
            for bytes in [encoded(&histogram), deflated] {
                let read = read(&bytes).expect("sound");
                assert_eq!(read.histogram(), &expected, "{low} to {high} with {digits} digits");
                assert_eq!(read.max_ns(), Some(histogram.max()));
            }
        }
    }

    /// A header that announces `counts`, and those.
    fn with_counts(counts: &[u8]) -> Vec<u8> {
        let mut bytes = encoded(&Histogram::new_with_bounds(1, 1000, 3).expect("sound bounds"));
        bytes.truncate(HEADER_BYTES);
        bytes[7] = counts.len() as u8;
        bytes.extend(counts);
        bytes
    }

    #[test]
    fn a_header_is_not_believed() {
        let sound = with_counts(&[0x09, 0x02]);
        let latencies = read(&sound).expect("five counts of zero, and one");
        assert_eq!((latencies.count(), latencies.max_ns()), (1, Some(5)));
        for (at, byte) in [
            // Another cookie, two gigabytes of counts, an offset, six digits, nothing as the lowest value, a ratio.
            (0, 0x1d),
            (4, 0x80),
            (11, 1),
            (15, 6),
            (23, 0),
            (32, 0),
        ] {
            let mut damaged = sound.clone();
            damaged[at] = byte;
            assert!(read(&damaged).is_none(), "byte {at}");
        }
        for len in 0..sound.len() {
            assert!(read(&sound[..len]).is_none(), "{len} bytes");
        }
    }

    #[test]
    fn counts_that_have_no_place() {
        // -2^63 is as many zeros, and nothing is behind them.
        assert_eq!(read(&with_counts(&[0xff; 9])).map(|it| it.count()), Some(0));
        let far = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(read(&with_counts(&far)).is_none());
        assert!(read(&with_counts(&[&far[..9], &far].concat())).is_none(), "more zeros than can be counted");
        // In an encoding without digits the 42nd count is the last that begins and ends where ours does.
        let coarse = |zeros: u8| {
            let mut bytes = with_counts(&[2 * zeros - 1, 0x02]);
            bytes[15] = 0;
            read(&bytes).and_then(|it| it.max_ns())
        };
        assert_eq!((coarse(42), coarse(43)), (Some((1 << 42) - 1), None));
        // One that begins at zero, and is wider than ours.
        let wide = |low: u64| {
            let mut bytes = with_counts(&[0x02]);
            bytes[16..24].copy_from_slice(&low.to_be_bytes());
            read(&bytes).and_then(|it| it.max_ns())
        };
        assert_eq!((wide(1 << 42), wide(1 << 43)), (Some((1 << 42) - 1), None));
        // 2^20 zeros: about 2^1000 nanoseconds.
        assert!(read(&with_counts(&[0xff, 0xff, 0x7f, 0x02])).is_none());
        assert!(read(&with_counts(&[0x80])).is_none(), "a number that is cut");
    }

    #[test]
    fn what_inflates_without_end_is_given_up() {
        let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut header = with_counts(&[]);
        header[4..8].copy_from_slice(&(2 * BYTES_MAX as u32).to_be_bytes());
        deflated.write_all(&header).expect("memory takes it");
        deflated.write_all(&vec![0; 2 * BYTES_MAX as usize]).expect("memory takes it");
        let bytes = deflated.finish().expect("memory takes it");
        let bytes = [&DEFLATED.to_be_bytes()[..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat();
        assert!(read(&bytes).is_none());
    }
}
