//! The run second by second for spreadsheets: comma-separated, with a header line; microseconds.

use std::io::{self, Write};
use std::path::Path;

use crate::seconds::Second;

/// Writes the table to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, seconds: &[Second]) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    rows(&mut file, seconds)?;
    file.flush()
}

const COLUMNS: &str = "second,warmup,sent,received,p50_us,p99_us,max_us,\
                       opened,upgrade_p50_us,upgrade_p99_us,upgrade_max_us";

fn rows(out: &mut impl Write, seconds: &[Second]) -> io::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    let us = |ns: Option<u64>| ns.map_or_else(String::new, |ns| format!("{:.3}", ns as f64 / 1e3));
    for it in seconds {
        let (p50, p99, max) = (us(it.p50_ns), us(it.p99_ns), us(it.max_ns));
        write!(out, "{},{},{},{},{p50},{p99},{max}", it.number, it.warmup, it.sent, it.received)?;
        let (p50, p99, max) = (us(it.upgrade_p50_ns), us(it.upgrade_p99_ns), us(it.upgrade_max_ns));
        writeln!(out, ",{},{p50},{p99},{max}", it.opened)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_quantile_is_an_empty_field() {
        let second = Second {
            number: 2,
            sent: 30,
            received: 29,
            max_ns: Some(1_500),
            opened: 7,
            upgrade_max_ns: Some(2_500),
            ..Second::default()
        };
        let mut out = Vec::new();
        rows(&mut out, &[second]).expect("memory takes it");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, format!("{COLUMNS}\n2,false,30,29,,,1.500,7,,,2.500\n"));
    }
}
