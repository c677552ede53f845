//! How many bytes messages have: one size, a range, weighted sizes, or a log-normal distribution.

use std::f64::consts::TAU;
use std::fmt;
use std::sync::Arc;

/// The smallest message of a log-normal distribution: room for what either format carries.
const LOG_NORMAL_BYTES_MIN: u32 = 64;
/// A log-normal distribution ends so many spreads above its median: three draws in 100,000 would be larger.
const SPREADS_MAX: i32 = 4;
/// How far percentages may miss 100 in all, for those who write 33.3% three times.
const PERCENT_SLACK: f64 = 0.5;

/// How many bytes messages have.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// The smallest.
    pub min: u32,
    /// The largest.
    pub max: u32,
    shape: Shape,
}

/// How likely each size is.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// Every size between the smallest and the largest alike.
    Even,
    /// These sizes and no others.
    Weighted {
        /// As typed.
        text: Arc<str>,
        /// Each size with the sum of the weights up to it, ascending.
        sums: Arc<[(f64, u32)]>,
    },
    /// The logarithm is normally distributed: many small ones, a few very large ones.
    LogNormal {
        median: f64,
        /// The factor that two thirds of the sizes lie within, above and below the median.
        spread: f64,
    },
}

impl Sizes {
    /// Every message has this size.
    pub const fn fixed(bytes: u32) -> Self {
        Self::range(bytes, bytes)
    }

    /// Every size between the two is equally likely.
    pub const fn range(min: u32, max: u32) -> Self {
        Self { min, max, shape: Shape::Even }
    }

    /// Reads `128`, `64..4096`, `64:70%,1KiB:25%,64KiB:5%` or `lognormal:512:2`.
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("lognormal:") {
            return log_normal(rest);
        }
        if text.contains(':') {
            return weighted(text);
        }
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        match (bytes(min)?, bytes(max)?) {
            (min, max) if min <= max => Ok(Self::range(min, max)),
            (min, max) => Err(format!("{min} is more than {max}: give the smaller one first")),
        }
    }

    /// The size of the next message.
    pub fn next(&self, rng: &mut fastrand::Rng) -> usize {
        // Most often there is nothing to choose.
        let size = if self.min == self.max { self.max } else { self.draw(rng) };
        size as usize
    }

    #[inline(never)]
    fn draw(&self, rng: &mut fastrand::Rng) -> u32 {
        match &self.shape {
            Shape::Even => rng.u32(self.min..=self.max),
            Shape::Weighted { sums, .. } => {
                let at = rng.f64() * sums.last().map_or(0.0, |(sum, _)| *sum);
                // A weight's share of the line is half-open; rounding may put the draw on its very end.
                let place = sums.partition_point(|(sum, _)| *sum <= at).min(sums.len() - 1);
                sums[place].1
            }
            Shape::LogNormal { median, spread } => {
                // Box and Muller; `1 - f64()` is never 0.
                let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
                let normal = radius * (TAU * rng.f64()).cos();
                ((median * spread.powf(normal)).round() as u32).clamp(self.min, self.max)
            }
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            Shape::Even if self.min == self.max => write!(f, "{}", self.max),
            Shape::Even => write!(f, "{}..{}", self.min, self.max),
            Shape::Weighted { text, .. } => f.write_str(text),
            Shape::LogNormal { median, spread } => write!(f, "lognormal:{median}:{spread}"),
        }
    }
}

fn weighted(text: &str) -> Result<Sizes, String> {
    let wrong = || "give sizes with their shares, such as 64:70%,1KiB:25%,64KiB:5%".to_owned();
    let mut sums: Vec<(f64, u32)> = Vec::new();
    let (mut sum, mut percents) = (0.0, 0);
    for part in text.split(',') {
        let (size, weight) = part.split_once(':').ok_or_else(wrong)?;
        percents += usize::from(weight.ends_with('%'));
        let weight = weight.strip_suffix('%').unwrap_or(weight).parse::<f64>().map_err(|_| wrong())?;
        if !(weight > 0.0 && weight <= 1e9) {
            return Err(wrong());
        }
        sum += weight;
        sums.push((sum, bytes(size)?));
    }
    if percents > 0 && (percents < sums.len() || (sum - 100.0).abs() > PERCENT_SLACK) {
        return Err(format!("the shares come to {sum}, not to 100%: {}", wrong()));
    }
    let sizes = || sums.iter().map(|(_, size)| *size);
    let (min, max) = (sizes().min().ok_or_else(wrong)?, sizes().max().ok_or_else(wrong)?);
    Ok(Sizes { min, max, shape: Shape::Weighted { text: text.into(), sums: sums.into() } })
}

fn log_normal(text: &str) -> Result<Sizes, String> {
    let wrong = || "give median and spread, such as lognormal:512:2 (two thirds are 256 to 1024)".to_owned();
    let (median, spread) = text.split_once(':').ok_or_else(wrong)?;
    let (median, spread) = (bytes(median)?, spread.parse::<f64>().map_err(|_| wrong())?);
    if !(spread > 1.0 && spread <= 16.0) || median < LOG_NORMAL_BYTES_MIN {
        return Err(format!("{} and a spread above 1, at most 16: {}", LOG_NORMAL_BYTES_MIN, wrong()));
    }
    // Beyond 4 GiB the cast ends; the configuration refuses far less.
    let max = (f64::from(median) * spread.powi(SPREADS_MAX)) as u32;
    let shape = Shape::LogNormal { median: f64::from(median), spread };
    Ok(Sizes { min: LOG_NORMAL_BYTES_MIN, max, shape })
}

/// A number of bytes: 128, 1KiB, 2MiB, or 4k for 4,000.
fn bytes(text: &str) -> Result<u32, String> {
    const UNITS: [(&str, f64); 6] =
        [("KiB", 1024.0), ("MiB", 1_048_576.0), ("B", 1.0), ("k", 1e3), ("K", 1e3), ("M", 1e6)];
    let found = UNITS.iter().find_map(|&(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = found.unwrap_or((text, 1.0));
    let plain: String = digits.chars().filter(|it| *it != '_').collect();
    match plain.parse::<f64>().map(|value| value * factor) {
        Ok(value) if value >= 1.0 && value.fract() == 0.0 && value <= f64::from(u32::MAX) => Ok(value as u32),
        _ => Err(format!("'{text}' is no size: give whole bytes, such as 128, 4k or 1KiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 100_000;

    fn draw(text: &str, seed: u64) -> Vec<usize> {
        let (sizes, mut rng) = (Sizes::parse(text).expect(text), fastrand::Rng::with_seed(seed));
        (0..DRAWS).map(|_| sizes.next(&mut rng)).collect()
    }

    fn share(draws: &[usize], wanted: impl Fn(usize) -> bool) -> f64 {
        draws.iter().filter(|size| wanted(**size)).count() as f64 / draws.len() as f64
    }

    #[test]
    fn as_typed_and_shown() {
        for (text, min, max) in [
            ("128", 128, 128),
            ("64..4096", 64, 4_096),
            ("4k", 4_000, 4_000),
            ("1KiB..2MiB", 1_024, 2 << 20),
            ("64:70%,1KiB:25%,64KiB:5%", 64, 65_536),
            ("100:1,50:3", 50, 100),
            ("lognormal:512:2", 64, 8_192),
        ] {
            let sizes = Sizes::parse(text).expect(text);
            assert_eq!((sizes.min, sizes.max), (min, max), "{text}");
        }
        for text in ["128", "64..4096", "64:70%,1KiB:25%,64KiB:5%", "lognormal:512:2"] {
            assert_eq!(Sizes::parse(text).expect(text).to_string(), text);
        }
        for bad in [
            "",
            "0",
            "x",
            "1.5",
            "90..80",
            "64:",
            "64:0%",
            "64:x",
            "64:70%",
            "64:50%,65:50",
            "64:50%,65",
            "5GiB",
            "64:-1,65:2",
            "lognormal:512",
            "lognormal:512:1",
            "lognormal:63:2",
            "lognormal:512:17",
            "64:inf",
            "lognormal:512:NaN",
        ] {
            let error = Sizes::parse(bad).expect_err(bad);
            assert!(!error.contains('\n'), "{error}");
        }
    }

    /// A share p of n draws has a deviation of sqrt(p (1 - p) / n), at most 0.0016 here: five of them are allowed.
    #[test]
    fn weights_are_frequencies() {
        let draws = draw("64:70%,1KiB:25%,64KiB:5%", 1);
        for (size, expected) in [(64, 0.70), (1_024, 0.25), (65_536, 0.05)] {
            let p = share(&draws, |it| it == size);
            assert!((p - expected).abs() < 0.008, "{size}: {p}");
        }
        assert_eq!(share(&draws, |it| matches!(it, 64 | 1_024 | 65_536)), 1.0);
        let p = share(&draw("100:1,50:3", 2), |it| it == 50);
        assert!((p - 0.75).abs() < 0.008, "{p}");
    }

    #[test]
    fn a_range_is_even() {
        let draws = draw("10..19", 3);
        for size in 10..20 {
            let p = share(&draws, |it| it == size);
            assert!((p - 0.1).abs() < 0.005, "{size}: {p}");
        }
    }

    /// Within one, two and three spreads of the median lie 68.27 %, 95.45 % and 99.73 % of a normal distribution.
    #[test]
    fn a_log_normal_distribution_is_one() {
        let draws = draw("lognormal:1000:2", 4);
        for (low, high, expected) in [(500, 2_000, 0.6827), (250, 4_000, 0.9545), (125, 8_000, 0.9973)] {
            let p = share(&draws, |it| low <= it && it < high);
            assert!((p - expected).abs() < 0.008, "{low}..{high}: {p}");
        }
        let below = share(&draws, |it| it < 1_000);
        assert!((below - 0.5).abs() < 0.008, "{below}");
        assert!(draws.iter().all(|it| (64..=16_000).contains(it)));
    }

    #[test]
    fn the_seed_decides() {
        for text in ["64..4096", "64:1,65:1", "lognormal:512:2"] {
            assert_eq!(draw(text, 7)[..100], draw(text, 7)[..100], "{text}");
            assert_ne!(draw(text, 7)[..100], draw(text, 8)[..100], "{text}");
        }
    }
}
