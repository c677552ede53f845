//! Values as they are typed: numbers, sizes, times, headers.

use std::time::Duration;

use crate::stages::Stage;

/// A number with an optional suffix: 5k, 1.5M, 50_000, 50,000.
pub(super) fn number(text: &str) -> Result<f64, String> {
    let plain: String = text.chars().filter(|it| !matches!(it, ',' | '_')).collect();
    let (digits, factor) = match plain.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&plain[..at], 1e3),
        Some((at, 'm' | 'M')) => (&plain[..at], 1e6),
        _ => (&plain[..], 1.0),
    };
    match digits.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 && value * factor <= 1e9 => Ok(value * factor),
        _ => Err("give a number above 0, such as 500, 0.5 or 5k".to_owned()),
    }
}

/// A whole number with an optional suffix.
pub(super) fn whole(text: &str) -> Result<u32, String> {
    match number(text) {
        Ok(value) if value.fract() == 0.0 && value <= f64::from(u32::MAX) => Ok(value as u32),
        _ => Err("give a whole number from 1 on, such as 500 or 50k".to_owned()),
    }
}

/// A step of the load: 30s:10k; a rate of 0 is a pause.
pub(super) fn stage(text: &str) -> Result<Stage, String> {
    let (time, rate) = text.split_once(':').ok_or("give TIME:RATE, such as 30s:10k")?;
    let rate_per_second = if rate == "0" { 0.0 } else { number(rate)? };
    Ok(Stage::new(text.to_owned(), duration(time)?, rate_per_second))
}

/// A header: its name and value, sound as RFC 9110 has it (section 5).
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("give 'Name: value'")?;
    let is_token = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("'{name}' is no header name"));
    }
    if value.bytes().any(|it| it.is_ascii_control() && it != b'\t') {
        return Err("a header's value is one line".to_owned());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// A duration with its unit: 10s, 1.5s, 500ms, 2m, 1h; seconds without one.
///
/// # Errors
/// One line that says what to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];
    let (digits, unit) = UNITS
        .iter()
        .find_map(|&(name, unit)| text.strip_suffix(name).map(|digits| (digits, unit)))
        .unwrap_or((text, 1.0));
    match digits.parse::<f64>() {
        Ok(value) if value >= 0.0 && value * unit <= 86_400.0 => Ok(Duration::from_secs_f64(value * unit)),
        _ => Err("give a time up to 24h, such as 10s, 500ms or 2m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations() {
        assert_eq!(
            (number("5k"), number("1.5M"), number("50,000"), number("0.5")),
            (Ok(5e3), Ok(1.5e6), Ok(5e4), Ok(0.5))
        );
        assert_eq!((whole("50k"), whole("1.5k"), whole("7")), (Ok(50_000), Ok(1_500), Ok(7)));
        for bad in ["0", "-1", "x", "", "k", "inf", "NaN", "2G"] {
            assert!(number(bad).is_err(), "{bad}");
        }
        assert!(whole("1.5").is_err());
        let typed = |text| stage(text).map(|it| (it.time.as_millis(), it.rate, it.to_string()));
        assert_eq!(typed("1.5s:10k"), Ok((1_500, 1e4, "1.5s:10k".to_owned())));
        assert_eq!(typed("2m:0"), Ok((120_000, 0.0, "2m:0".to_owned())));
        for bad in ["30s", "30s:", ":5", "30s:-1", "x:5", "30s:5:6"] {
            assert!(typed(bad).is_err(), "{bad}");
        }
        let ms = |text| duration(text).map(|it| it.as_millis());
        assert_eq!(
            (ms("10s"), ms("500ms"), ms("2m"), ms("1.5"), ms("0s")),
            (Ok(10_000), Ok(500), Ok(120_000), Ok(1_500), Ok(0))
        );
        assert!(duration("-1s").is_err() && duration("25h").is_err() && duration("s").is_err());
    }
}
