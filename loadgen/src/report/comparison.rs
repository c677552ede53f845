//! Two versions for people: a table of metrics, and the ratio by quantile as a picture of plain characters.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::compare::stats::{Outcome, Ratio};
use crate::compare::{Comparison, Row};

/// The columns of the picture, between its margins.
const COLUMNS: usize = 61;
/// The picture shows at least so much to both sides of 1: a quiet machine must not look noisy.
const RANGE_MIN: f64 = 0.05;

/// Writes the table and the picture.
///
/// # Errors
/// `out` cannot be written to.
pub fn write(out: &mut impl Write, it: &Comparison) -> io::Result<()> {
    writeln!(out, "{:17}{:>9}{:>9}{:>8}{:>17}{:>6}", "", "A", "B", "B/A", "95 % interval", "limit")?;
    for row in &it.rows {
        write_row(out, row)?;
    }
    picture(out, it)?;
    if it.suspect > 0 {
        writeln!(out, "warning {} of {} runs are SUSPECT", it.suspect, 2 * it.pairs)?;
    }
    if it.pairs < 2 {
        writeln!(out, "note    one pair of runs cannot show how much runs differ by themselves")?;
    }
    for row in it.rows.iter().filter(|row| row.limit.is_some() && row.pairs.len() < it.pairs) {
        writeln!(
            out,
            "note    {}: {} of {} pairs have enough samples",
            row.metric,
            row.pairs.len(),
            it.pairs
        )?;
    }
    let gates = it.rows.iter().filter(|row| row.outcome() == Some(it.outcome()));
    let names: Vec<String> = gates.map(|row| row.metric.to_string()).collect();
    writeln!(out, "verdict {} ({})", it.outcome(), names.join(", "))
}

/// What an A/A comparison shows: how much two runs of the same differ, and what would be found.
///
/// # Errors
/// `out` cannot be written to.
pub fn noise(out: &mut impl Write, it: &Comparison) -> io::Result<()> {
    for row in &it.rows {
        let (Some(ratio), Some(limit)) = (&row.ratio, row.limit) else { continue };
        writeln!(
            out,
            "noise   {:17}{:5.1}% between pairs; {} pairs find +{:.1}% nine times in ten",
            row.metric.to_string(),
            ratio.noise * 100.0,
            ratio.pairs,
            ratio.detectable(limit) * 100.0
        )?;
    }
    Ok(())
}

fn write_row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| row.metric.show(value));
    write!(out, "{:17}{:>9}{:>9}", row.metric, show(row.a), show(row.b))?;
    let (ratio, interval) = match (&row.ratio, &row.pairs[..]) {
        (Some(it), _) => (factor(it.mean), format!("{} .. {}", factor(it.low), factor(it.high))),
        (None, [only]) => (factor(*only), "-".to_owned()),
        _ => ("-".to_owned(), "-".to_owned()),
    };
    write!(out, "{ratio:>8}{interval:>17}")?;
    match (row.limit, row.outcome()) {
        (Some(limit), Some(outcome)) => writeln!(out, "{:>6}  {outcome}", percent(limit)),
        _ => writeln!(out),
    }
}

/// A ratio in five characters: an interval of few pairs that differ much may have any number of digits.
pub fn factor(ratio: f64) -> String {
    if ratio >= 9_999.5 {
        return format!("{ratio:.0e}");
    }
    let decimals = [10.0, 100.0, 1000.0].iter().filter(|bound| ratio >= **bound).count();
    format!("{ratio:.0$}", 3 - decimals)
}

/// +5% or +7.5%.
fn percent(limit: f64) -> String {
    let percent = (limit * 1e4).round() / 100.0;
    format!("+{percent}%")
}

fn picture(out: &mut impl Write, it: &Comparison) -> io::Result<()> {
    let rows: Vec<(&Row, Ratio)> = it.quantiles.iter().filter_map(|row| Some((row, row.ratio?))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let widest = rows.iter().flat_map(|(_, it)| [it.low.ln().abs(), it.high.ln().abs()]);
    let range = widest.fold(RANGE_MIN.ln_1p(), f64::max);
    let place = |ratio: f64| {
        let share = (ratio.ln() / range).clamp(-1.0, 1.0);
        ((share + 1.0) / 2.0 * (COLUMNS - 1) as f64).round() as usize
    };
    writeln!(out)?;
    writeln!(out, "{} B/A by quantile: o mean, --- 95 % interval over {} pairs", it.quantity, it.pairs)?;
    let (left, right) = (format!("{:.2}x", (-range).exp()), format!("{:.2}x", range.exp()));
    writeln!(out, "{:10}{left:half$}1{right:>half$}", "", half = COLUMNS / 2)?;
    for (row, ratio) in rows {
        let mut line = vec![b' '; COLUMNS];
        line[place(1.0)] = b'|';
        let (low, high) = (place(ratio.low), place(ratio.high));
        for (at, cell) in line.iter_mut().enumerate().take(high + 1).skip(low) {
            *cell = if at == place(1.0) { b'+' } else { b'-' };
        }
        line[place(ratio.mean)] = b'o';
        let name = row.metric.to_string();
        let quantile = name.split_once('.').map_or(&*name, |(_, quantile)| quantile);
        let line = String::from_utf8_lossy(&line);
        writeln!(out, "{quantile:>8}  {}", line.trim_end())?;
    }
    writeln!(out)
}

/// The comparison for programs.
pub fn value(it: &Comparison) -> Value {
    let ratio = |ratio: &Ratio| json!({ "mean": ratio.mean, "low": ratio.low, "high": ratio.high, "noise": ratio.noise });
    let row = |row: &Row| {
        json!({
            "metric": row.metric.to_string(),
            "a": row.a,
            "b": row.b,
            "pairs": row.pairs,
            "ratio": row.ratio.as_ref().map(ratio),
            "limit": row.limit,
            "outcome": row.outcome().map(|it| it.to_string()),
        })
    };
    json!({
        "verdict": it.outcome().to_string(),
        "pairs": it.pairs,
        "suspect_runs": it.suspect,
        "metrics": it.rows.iter().map(row).collect::<Vec<_>>(),
        "quantiles": it.quantiles.iter().map(row).collect::<Vec<_>>(),
    })
}

/// The program's exit code: 98 on a regression, 96 where nothing is certain and the user wants that to count.
pub const fn exit_code(outcome: Outcome, strict: bool) -> u8 {
    match outcome {
        Outcome::Ok => 0,
        Outcome::Inconclusive if strict => 96,
        Outcome::Inconclusive => 0,
        Outcome::Regression => 98,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::metric::Metric;

    fn row(name: &str, limit: Option<f64>, pairs: &[f64]) -> Row {
        let metric = Metric::parse(name).expect(name);
        Row { metric, limit, a: Some(1e5), b: Some(1.1e5), pairs: pairs.to_vec(), ratio: Ratio::of(pairs) }
    }

    fn text(it: &Comparison) -> String {
        let mut out = Vec::new();
        write(&mut out, it).expect("memory takes it");
        String::from_utf8(out).expect("text")
    }

    fn comparison(rows: Vec<Row>, quantiles: Vec<Row>) -> Comparison {
        Comparison { rows, quantiles, quantity: "response", curve: Vec::new(), pairs: 3, suspect: 1 }
    }

    #[test]
    fn the_table_and_the_picture() {
        let slow = [1.10, 1.11, 1.09];
        let it = comparison(
            vec![
                row("response.p50", Some(0.03), &slow),
                row("cpu", Some(0.075), &[1.0, 1.01]),
                row("rss", None, &[]),
            ],
            vec![row("response.p50", None, &slow), row("response.p90", None, &[0.98, 1.0, 1.02])],
        );
        let expected = "
                         A        B     B/A    95 % interval limit
response.p50         100us    110us   1.100   1.075 .. 1.125   +3%  REGRESSION
cpu                  100us    110us   1.005   0.943 .. 1.071 +7.5%  OK
rss               97.7 KiB  107 KiB       -                -

response B/A by quantile: o mean, --- 95 % interval over 3 pairs
          0.89x                         1                         1.13x
     p50                                |                  -----o------
     p90                   -------------o-------------

warning 1 of 6 runs are SUSPECT
note    cpu: 2 of 3 pairs have enough samples
verdict REGRESSION (response.p50)
";
        assert_eq!(text(&it), &expected[1..]);
        assert!(text(&it).lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn factors_keep_their_width() {
        let all = [0.987, 1.0, 67.02, 105.78, 4321.0].map(factor);
        assert_eq!(all, ["0.987", "1.000", "67.02", "105.8", "4321"]);
        let long = [9_999.4, 9_999.5, 1_478_512.0, 1.6e30, f64::MAX, f64::INFINITY].map(factor);
        assert_eq!(long, ["9999", "1e4", "1e6", "2e30", "2e308", "inf"]);
    }

    #[test]
    fn exit_codes() {
        let codes = [Outcome::Ok, Outcome::Inconclusive, Outcome::Regression]
            .map(|outcome| (exit_code(outcome, false), exit_code(outcome, true)));
        assert_eq!(codes, [(0, 0), (0, 96), (98, 98)]);
    }
}
