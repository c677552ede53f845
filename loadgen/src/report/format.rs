//! Numbers as people read them: thousands separators, three significant digits, the unit attached.

/// A count with thousands separators.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count for a narrow column: exact below ten million, then in millions.
pub fn short_count(value: u64) -> String {
    match value {
        0..10_000_000 => count(value),
        10_000_000..10_000_000_000 => format!("{:.1}M", value as f64 / 1e6),
        _ => format!("{:.1}G", value as f64 / 1e9),
    }
}

/// A duration in nanoseconds, as three significant digits and a unit.
pub fn duration(ns: u64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")];
    let value = ns as f64;
    // Chosen so that 999.6 us is 1.00 ms and not 1000 us.
    let &(unit, name) = UNITS.iter().find(|(unit, _)| value >= unit * 0.9995).unwrap_or(&UNITS[3]);
    let value = value / unit;
    let decimals = if unit == 1.0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}{name}")
}

/// A duration that may not be there.
pub fn duration_or_dash(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), duration)
}

/// Bytes in binary units.
pub fn bytes(value: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| value >= *unit) {
        Some(&(unit, name)) => {
            let value = value as f64 / unit as f64;
            let decimals = if value >= 100.0 { 0 } else { if value >= 10.0 { 1 } else { 2 } };
            format!("{value:.decimals$} {name}")
        }
        None => format!("{value} B"),
    }
}

/// A share as whole percents.
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// A share to four decimals, never rounded up to 100 %.
pub fn exact_percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let millionths = u128::from(part) * 1_000_000 / u128::from(whole);
    format!("{}.{:04}%", millionths / 10_000, millionths % 10_000)
}

/// A rate: whole numbers from ten on.
pub fn rate(per_second: f64) -> String {
    if per_second >= 10.0 { count(per_second.round() as u64) } else { format!("{per_second:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let all = [(0, "0"), (999, "999"), (1_000, "1,000"), (50_000, "50,000"), (9_999_999, "9,999,999")];
        for (value, text) in all {
            assert_eq!(count(value), text);
            assert_eq!(short_count(value), text);
        }
        assert_eq!(count(1_234_567_890), "1,234,567,890");
        assert_eq!((short_count(60_000_000), short_count(12_340_000_000)), ("60.0M".into(), "12.3G".into()));
    }

    #[test]
    fn durations_have_three_digits() {
        for (ns, text) in [
            (0, "0ns"),
            (850, "850ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (12_345, "12.3us"),
            (999_400, "999us"),
            (999_600, "1.00ms"),
            (9_996_000, "10.0ms"),
            (41_300_000, "41.3ms"),
            (123_456_789, "123ms"),
            (1_234_000_000, "1.23s"),
            (3_600_000_000_000, "3600s"),
        ] {
            assert_eq!(duration(ns), text, "{ns}");
        }
        assert_eq!(duration_or_dash(None), "-");
    }

    #[test]
    fn a_loss_is_never_rounded_away() {
        assert_eq!(exact_percent(50_000, 50_000), "100.0000%");
        assert_eq!(exact_percent(99_999_999, 100_000_000), "99.9999%");
        assert_eq!(exact_percent(0, 0), "-");
    }

    #[test]
    fn the_rest() {
        assert_eq!(
            (bytes(512), bytes(23_450), bytes(1_256_277_934)),
            ("512 B".into(), "22.9 KiB".into(), "1.17 GiB".into())
        );
        assert_eq!(
            (rate(10_412.3), rate(0.5), percent(0.584)),
            ("10,412".into(), "0.50".into(), "58%".into())
        );
    }
}
