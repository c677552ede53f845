//! Two stored runs side by side: what differs, not whether it means anything.

use std::io::{self, Write};
use std::path::Path;

use super::format::{duration_or_dash, short_count};
use super::hlog::Hlog;
use crate::record::{Latencies, Quantile};

const QUANTILES: [Quantile; 5] =
    [Quantile::P50, Quantile::P90, Quantile::P99, Quantile::P999, Quantile::P9999];

/// Reads two logs and writes their quantiles side by side.
///
/// # Errors
/// One line that says what is wrong with a file.
pub fn run(a: &Path, b: &Path, out: &mut impl Write) -> Result<(), String> {
    let (left, right) = (Hlog::read(a)?, Hlog::read(b)?);
    write(out, &left, &right).map_err(|error| format!("standard output: {error}"))
}

fn write(out: &mut impl Write, a: &Hlog, b: &Hlog) -> io::Result<()> {
    for (name, log) in [("A", a), ("B", b)] {
        match log.verdict.as_deref() {
            Some("VALID") => {}
            Some(verdict) => writeln!(out, "warning {name} is {verdict}")?,
            None => {
                writeln!(out, "warning {name} has no verdict: the run did not end, or another tool wrote it")?
            }
        }
    }
    writeln!(out, "{:22}{:>12}{:>12}{:>9}", "", "A", "B", "B/A")?;
    let mut tags: Vec<&String> = a.tags.keys().chain(b.tags.keys()).collect();
    tags.sort_unstable();
    tags.dedup();
    let empty = Latencies::default();
    for tag in tags {
        let (a, b) = (a.tags.get(tag).unwrap_or(&empty), b.tags.get(tag).unwrap_or(&empty));
        let (n_a, n_b) = (short_count(a.count()), short_count(b.count()));
        let name = if tag.is_empty() { "untagged" } else { tag };
        writeln!(out, "{name:14}{:8}{n_a:>12}{n_b:>12}", "n")?;
        for quantile in QUANTILES {
            row(out, quantile.name, a.quantile_ns(quantile), b.quantile_ns(quantile))?;
        }
        row(out, "max", a.max_ns(), b.max_ns())?;
    }
    Ok(())
}

fn row(out: &mut impl Write, name: &str, a: Option<u64>, b: Option<u64>) -> io::Result<()> {
    let ratio = match (a, b) {
        (Some(a), Some(b)) if a > 0 => format!("{:.3}x", b as f64 / a as f64),
        _ => "-".to_owned(),
    };
    writeln!(out, "{:14}{name:8}{:>12}{:>12}{ratio:>9}", "", duration_or_dash(a), duration_or_dash(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(tag: &str, count: u32, ns: u64) -> Hlog {
        let mut latencies = Latencies::default();
        (0..count).for_each(|_| latencies.record(ns));
        Hlog { tags: [(tag.to_owned(), latencies)].into(), verdict: Some("VALID".into()) }
    }

    fn text(a: &Hlog, b: &Hlog) -> String {
        let mut out = Vec::new();
        write(&mut out, a, b).expect("memory takes it");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn side_by_side_with_ratios() {
        let expected = "
                                 A           B      B/A
response      n                150          20
              p50           1.00ms      1.50ms   1.500x
              p90           1.00ms           -        -
              p99                -           -        -
              p99.9              -           -        -
              p99.99             -           -        -
              max           1.00ms      1.50ms   1.500x
";
        assert_eq!(text(&log("response", 150, 1_000_000), &log("response", 20, 1_500_000)), &expected[1..]);
    }

    #[test]
    fn what_only_one_side_has_and_what_is_not_valid() {
        let mut b = log("service", 20, 1_000_000);
        b.verdict = Some("INVALID".into());
        let text = text(&log("response", 20, 1_000_000), &b);
        assert!(text.starts_with("warning B is INVALID\n"), "{text}");
        assert!(text.contains("response      n                 20           0\n"), "{text}");
        assert!(text.contains("service       n                  0          20\n"), "{text}");
    }
}
