//! The pictures of the pages: quantile curves, the run over time, a heat map, and the ratio of two versions.

use std::fmt::Write as _;

use serde_json::Value;

use super::plot::{Plot, Scale, bounds};
use crate::compare::Comparison;
use crate::record::Latencies;
use crate::report::format::{duration, rate};
use crate::seconds::{Second, cell_begin_ns};

/// The sizes that each picture is drawn in: class, width, height, ticks along the time axis.
const SIZES: [(&str, f64, f64, usize); 2] = [("wide", 960.0, 320.0, 10), ("narrow", 360.0, 270.0, 4)];
/// The most columns of a heat map; longer runs put seconds together.
const COLUMNS_MAX: usize = 120;
/// Shades of a heat map.
const SHADES: u32 = 8;

/// One curve: its name and the samples.
pub type Curve<'a> = (String, &'a Latencies);

/// Latency by quantile, the tail stretched: each decade of rarity has the same width.
pub fn quantiles(curves: &[Curve<'_>]) -> String {
    let points: Vec<Vec<(f64, f64)>> = curves.iter().map(|(_, it)| curve_points(it)).collect();
    if points.iter().all(Vec::is_empty) {
        return String::new();
    }
    let rarest = points.iter().flatten().map(|(rarity, _)| *rarity).fold(10.0, f64::max);
    let x = Scale { from: 1.0, to: rarest, log: true };
    let y = Scale::log_around(points.iter().flatten().map(|(_, ns)| *ns));
    sizes(|(class, width, height, _)| {
        let mut plot = Plot::new(width, height, x, y, true);
        plot.y_axis(&duration_ticks(&y));
        plot.x_axis(&rarity_ticks(rarest), "");
        let mut names = Vec::new();
        for (at, ((name, _), points)) in curves.iter().zip(&points).enumerate() {
            let series = SERIES[at % SERIES.len()];
            plot.line(series, points.iter().map(|(x, y)| (*x, Some(*y))));
            names.extend(points.last().map(|(x, y)| (*x, *y, series, name.clone())));
        }
        plot.names(names);
        plot.finish(class, "Latency by quantile")
    })
}

const SERIES: [&str; 3] = ["s1", "s2", "s3"];

/// (1 / share beyond, nanoseconds) as far as the samples reach.
fn curve_points(latencies: &Latencies) -> Vec<(f64, f64)> {
    let shares = (1..120).map(|step| 10f64.powf(-f64::from(step) / 24.0));
    let point = |share| latencies.beyond_ns(share).map(|ns| (1.0 / share, ns.max(1) as f64));
    shares.map_while(point).collect()
}

fn rarity_ticks(rarest: f64) -> Vec<(f64, String)> {
    let all =
        [(2.0, "50%"), (10.0, "90%"), (100.0, "99%"), (1e3, "99.9%"), (1e4, "99.99%"), (1e5, "99.999%")];
    all.iter().filter(|(at, _)| *at <= rarest * 1.001).map(|(at, name)| (*at, (*name).to_owned())).collect()
}

fn number(second: &Value) -> f64 {
    second["second"].as_f64().unwrap_or(0.0)
}

/// p50, p99 and maximum second by second, the warm-up shaded.
pub fn latency_over_time(seconds: &[Value]) -> String {
    let keys = [("p50_us", "p50", "s1"), ("p99_us", "p99", "s2"), ("max_us", "max", "s3")];
    let value = |second: &Value, key: &str| second[key].as_f64().map(|us| us * 1e3);
    let y =
        Scale::log_around(keys.iter().flat_map(|(key, ..)| seconds.iter().filter_map(|it| value(it, key))));
    over_time(
        seconds,
        y,
        &duration_ticks(&y),
        "Latency second by second",
        |key, second| value(second, key),
        &keys,
    )
}

/// Messages per second, written and received.
pub fn rates_over_time(seconds: &[Value]) -> String {
    // Nothing is sent after the end, and then only the rest of a second is received.
    let end = seconds.iter().rposition(|second| second["sent"].as_u64() > Some(0)).map_or(0, |at| at + 1);
    let seconds = &seconds[..end];
    let keys = [("sent", "sent", "s1"), ("received", "received", "s2")];
    let value = |key: &str, second: &Value| second[key].as_f64();
    // What is sent to many is received far more often: then only what is received is drawn.
    let (_, sent) = bounds(seconds.iter().filter_map(|it| value("sent", it))).unwrap_or_default();
    let (_, received) = bounds(seconds.iter().filter_map(|it| value("received", it))).unwrap_or_default();
    let keys = if received > 3.0 * sent { &keys[1..] } else { &keys[..] };
    let y = Scale::linear_to(sent.max(received));
    let ticks: Vec<(f64, String)> = y.ticks(4).into_iter().map(|it| (it, rate_label(it))).collect();
    over_time(seconds, y, &ticks, "Messages per second", value, keys)
}

fn over_time(
    seconds: &[Value],
    y: Scale,
    y_ticks: &[(f64, String)],
    label: &str,
    value: impl Fn(&str, &Value) -> Option<f64>,
    keys: &[(&str, &str, &'static str)],
) -> String {
    let end = seconds.last().map_or(1.0, number) + 1.0;
    let warmup = seconds.iter().filter(|it| it["warmup"] == true).map(number).fold(-1.0, f64::max) + 1.0;
    let x = Scale { from: 0.0, to: end, log: false };
    sizes(|(class, width, height, ticks)| {
        let mut plot = Plot::new(width, height * 0.8, x, y, true);
        if warmup > 0.0 && warmup < end {
            plot.shade((0.0, warmup));
        }
        plot.y_axis(y_ticks);
        plot.x_axis(&time_ticks(&x, ticks), "");
        let mut names = Vec::new();
        for (key, name, class) in keys {
            let points: Vec<(f64, Option<f64>)> =
                seconds.iter().map(|it| (number(it) + 0.5, value(key, it))).collect();
            let last = points.iter().rev().find_map(|(x, y)| Some((*x, (*y)?)));
            names.extend(last.map(|(_, y)| (end, y, *class, (*name).to_owned())));
            plot.line(class, points);
        }
        plot.names(names);
        plot.finish(class, label)
    })
}

/// How many messages took how long, second by second: the darker, the more, on a logarithmic scale.
pub fn heat(seconds: &[Second]) -> String {
    let all = || seconds.iter().flat_map(|second| second.cells.iter());
    let (Some(low), Some(high)) = (all().map(|it| it.0).min(), all().map(|it| it.0).max()) else {
        return String::new();
    };
    let merge = seconds.len().div_ceil(COLUMNS_MAX).max(1) as u32;
    let mut columns = std::collections::BTreeMap::<(u32, u8), u64>::new();
    for second in seconds {
        for (cell, count) in &second.cells {
            *columns.entry((second.number / merge, *cell)).or_default() += count;
        }
    }
    let most = columns.values().max().copied().unwrap_or(1);
    let end = seconds.iter().map(|it| it.number).max().unwrap_or(0) + 1;
    let x = Scale { from: 0.0, to: f64::from(end), log: false };
    let y = Scale { from: cell_begin_ns(low), to: cell_begin_ns(high + 1), log: true };
    let mut shades = vec![Vec::new(); SHADES as usize];
    for ((column, cell), count) in columns {
        let share = ((count + 1) as f64).ln() / ((most + 1) as f64).ln();
        let shade = ((share * f64::from(SHADES)).ceil() as usize).clamp(1, SHADES as usize) - 1;
        let (left, right) = (f64::from(column * merge), f64::from((column + 1) * merge).min(x.to));
        shades[shade].push((left, right, cell_begin_ns(cell), cell_begin_ns(cell + 1)));
    }
    sizes(|(class, width, height, ticks)| {
        let mut plot = Plot::new(width, height, x, y, false);
        plot.y_axis(&duration_ticks(&y));
        plot.x_axis(&time_ticks(&x, ticks), "");
        for (shade, cells) in shades.iter().enumerate() {
            plot.cells((shade + 1) as f64 / f64::from(SHADES), cells);
        }
        plot.finish(class, "Messages by latency, second by second")
    })
}

/// B/A over the whole distribution, with its interval.
pub fn ratio(it: &Comparison) -> String {
    if it.curve.is_empty() {
        return String::new();
    }
    let rarest = it.curve.iter().map(|(beyond, _)| 1.0 / beyond).fold(10.0, f64::max);
    let x = Scale { from: 1.0, to: rarest, log: true };
    let y = symmetric(it.curve.iter().flat_map(|(_, ratio)| [ratio.low, ratio.high]));
    sizes(|(class, width, height, _)| {
        let mut plot = Plot::new(width, height, x, y, false);
        plot.y_axis(&factor_ticks(&y));
        plot.x_axis(&rarity_ticks(rarest), "");
        let band: Vec<_> =
            it.curve.iter().map(|(beyond, ratio)| (1.0 / beyond, ratio.low, ratio.high)).collect();
        plot.band(&band);
        plot.mark(1.0);
        plot.line("s1", it.curve.iter().map(|(beyond, ratio)| (1.0 / beyond, Some(ratio.mean))));
        plot.finish(class, "Ratio of B to A by quantile, with its 95 % interval")
    })
}

/// A ratio scale with as much room above 1 as below.
fn symmetric(ratios: impl Iterator<Item = f64>) -> Scale {
    let widest = ratios.map(|ratio| ratio.ln().abs()).fold(1.05_f64.ln(), f64::max) * 1.05;
    Scale { from: (-widest).exp(), to: widest.exp(), log: true }
}

fn factor_ticks(y: &Scale) -> Vec<(f64, String)> {
    let steps: &[f64] = match y.to {
        ..1.12 => &[0.90, 0.95, 1.0, 1.05, 1.10],
        ..1.35 => &[0.75, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3],
        ..2.2 => &[0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0],
        ..12.0 => &[0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0],
        _ => &[1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4],
    };
    let within = steps.iter().filter(|step| **step >= y.from && **step <= y.to);
    within.map(|step| (*step, format!("{step}×"))).collect()
}

fn duration_ticks(y: &Scale) -> Vec<(f64, String)> {
    y.ticks(7).into_iter().map(|ns| (ns, duration_label(ns))).collect()
}

/// A round duration without needless digits: 500 µs.
pub fn duration_label(ns: f64) -> String {
    let text = duration(ns.round() as u64);
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = text[digits.len()..].replace("us", "µs");
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    format!("{digits} {unit}")
}

fn rate_label(per_second: f64) -> String {
    match per_second {
        1e6.. => format!("{}M", per_second / 1e6),
        1e4.. => format!("{}k", per_second / 1e3),
        _ if per_second == 0.0 => "0".to_owned(),
        _ => rate(per_second),
    }
}

fn time_ticks(x: &Scale, count: usize) -> Vec<(f64, String)> {
    x.ticks(count).into_iter().filter(|it| it.fract() == 0.0).map(|it| (it, format!("{it} s"))).collect()
}

fn sizes(draw: impl Fn((&'static str, f64, f64, usize)) -> String) -> String {
    SIZES.into_iter().fold(String::new(), |mut out, size| {
        let _ = write!(out, "{}", draw(size));
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_no_needless_digits() {
        let labels = [500.0, 1e3, 2e4, 5e5, 1e6, 1.5e9].map(duration_label);
        assert_eq!(labels, ["500 ns", "1 µs", "20 µs", "500 µs", "1 ms", "1.5 s"]);
        assert_eq!([0.0, 500.0, 2.5e4, 2e6].map(rate_label), ["0", "500", "25k", "2M"]);
    }

    #[test]
    fn curves_end_where_samples_do_and_may_be_empty() {
        let mut latencies = Latencies::default();
        assert_eq!(quantiles(&[("x".into(), &latencies)]), "");
        (0..1_000).for_each(|_| latencies.record(1_000));
        let (rarity, _) = *curve_points(&latencies).last().expect("some");
        assert!((99.9..100.1).contains(&rarity), "{rarity}");
        assert_eq!(heat(&[]), "");
        assert!(latency_over_time(&[]).contains("<svg"));
    }
}
