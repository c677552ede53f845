//! The percentile distribution (`.hgrm`) that the usual HdrHistogram plotters read. Milliseconds.

use std::io::{self, Write};
use std::path::Path;

use crate::record::Latencies;

/// Steps per halving of the distance to 100 %, as in the Java tools.
const TICKS_PER_HALF: u32 = 5;

/// Writes the distribution to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, latencies: &Latencies) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    distribution(&mut file, latencies)?;
    file.flush()
}

fn distribution(out: &mut impl Write, latencies: &Latencies) -> io::Result<()> {
    let ms = |ns: f64| ns / 1e6;
    let histogram = latencies.histogram();
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut seen = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        seen += step.count_since_last_iteration();
        let (value, quantile) = (ms(step.value_iterated_to() as f64), step.quantile_iterated_to());
        write!(out, "{value:12.3} {quantile:14.12} {seen:10}")?;
        if quantile < 1.0 { writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))? } else { writeln!(out)? }
    }
    let max = ms(latencies.max_ns().unwrap_or(0) as f64);
    let (mean, deviation) =
        if latencies.count() > 0 { (histogram.mean(), histogram.stdev()) } else { (0.0, 0.0) };
    writeln!(out, "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]", ms(mean), ms(deviation))?;
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {:12}]", latencies.count())?;
    let buckets = histogram.distinct_values();
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {:12}]", 2048)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution() {
        let mut latencies = Latencies::default();
        for value in 1..=100 {
            latencies.record(value * 1_000_000);
        }
        let mut out = Vec::new();
        distribution(&mut out, &latencies).expect("memory takes it");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].trim_start().starts_with("Value"));
        assert!(
            lines.iter().any(|line| line.contains(" 0.500000000000         50           2.00")),
            "{text}"
        );
        assert!(text.contains("#[Max     =      100.000, Total count    =          100]"), "{text}");
    }
}
