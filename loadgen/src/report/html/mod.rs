//! Reports as pages: one file each, without scripts, fonts or anything else from elsewhere, for a screen, a phone
//! and paper, light and dark.

pub mod charts;
pub mod plot;
mod stages;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use self::charts::Curve;
use self::plot::escape;
use super::comparison::factor;
use super::format::{bytes, count, duration, percent, rate};
use crate::compare::Comparison;
use crate::compare::stats::Outcome;
use crate::compare::stored::Stored;
use crate::record::Latencies;
use crate::seconds::Second;

/// Curves of what connecting took.
const CONNECTING: [&str; 3] = ["churn_upgrade", "upgrade", "tcp"];

const STYLE: &str = include_str!("style.css");

/// The page of one run: its JSON result, whole distributions, and seconds.
pub fn run(result: &Value, curves: &BTreeMap<String, Latencies>, seconds: &[Second]) -> String {
    let verdict = result["verdict"].as_str().unwrap_or("no verdict");
    let class = match verdict {
        "VALID" => "good",
        "SUSPECT" => "warn",
        _ => "bad",
    };
    let mut page = String::new();
    header(&mut page, &run_title(&result["config"]), text(&result["config"]["url"]), (verdict, class));
    let reasons: Vec<&str> =
        result["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !reasons.is_empty() {
        page.push_str(r#"<ul class="reasons">"#);
        for reason in reasons {
            let _ = write!(page, "<li>{}</li>", escape(reason));
        }
        page.push_str("</ul>");
    }
    tiles(&mut page, result);
    // What connecting took is drawn where no message was.
    let silent = result["integrity"]["expected"] == 0;
    let shown: Vec<Curve<'_>> = [
        ("response", "response"),
        ("fanout_first", "first"),
        ("fanout_each", "each"),
        ("fanout_last", "last"),
        ("service", "service"),
        ("churn_upgrade", "churn upgrade"),
        ("upgrade", "upgrade"),
        ("tcp", "tcp"),
    ]
    .into_iter()
    .filter_map(|(key, name)| {
        Some((name.to_owned(), curves.get(key).filter(|_| silent == CONNECTING.contains(&key))?))
    })
    .take(3)
    .collect();
    figure(
        &mut page,
        "Latency by quantile",
        "Counted from when each message was due to be sent. Each step to the right is ten times rarer; curves end where fewer than ten samples lie beyond.",
        &charts::quantiles(&shown),
    );
    quantile_table(&mut page, result);
    stages::table(&mut page, result);
    let by_second = result["by_second"].as_array().map_or(&[][..], Vec::as_slice);
    // Not the wait for stragglers in which none came.
    let end = by_second.iter().rposition(|it| it["received"] != 0 || it["sent"] != 0).map_or(0, |at| at + 1);
    let (by_second, seconds) = (&by_second[..end], &seconds[..end.min(seconds.len())]);
    if by_second.len() > 1 {
        figure(
            &mut page,
            "Latency over time",
            "Second by second; the shaded warm-up is not measured.",
            &charts::latency_over_time(by_second),
        );
        figure(&mut page, "Messages per second", "", &charts::rates_over_time(by_second));
        figure(
            &mut page,
            "Where the messages were",
            "Each cell is a second and a range of latencies; the stronger the colour, the more messages, on a logarithmic scale.",
            &charts::heat(seconds),
        );
    }
    facts(&mut page, result);
    document(&run_title(&result["config"]), &page)
}

/// The page of a comparison.
pub fn comparison(it: &Comparison, a: &[Stored], b: &[Stored], labels: [&str; 2]) -> String {
    let class = match it.outcome() {
        Outcome::Ok => "good",
        Outcome::Inconclusive => "warn",
        Outcome::Regression => "bad",
    };
    let (Some(first), title) = (a.first(), "A against B") else { return document("no runs", "") };
    let mut page = String::new();
    let subtitle = format!("{} · {} pairs of runs", run_title(&first.result["config"]), it.pairs);
    header(&mut page, title, &subtitle, (&it.outcome().to_string(), class));
    let _ = write!(
        page,
        r#"<ul class="reasons"><li><b>A</b> {}</li><li><b>B</b> {}</li></ul>"#,
        escape(labels[0]),
        escape(labels[1])
    );
    metric_table(&mut page, it);
    figure(
        &mut page,
        "B/A by quantile",
        &format!(
            "The mean ratio over the pairs of {} and its 95 % interval; below 1, B is faster.",
            it.quantity
        ),
        &charts::ratio(it),
    );
    let sum = |side: &[Stored]| -> Option<Latencies> {
        let mut sum = Latencies::default();
        for run in side {
            sum.merge(run.curves.get(it.quantity)?);
        }
        Some(sum)
    };
    if let (Some(left), Some(right)) = (sum(a), sum(b)) {
        figure(
            &mut page,
            "Latency by quantile",
            "All runs of each side together: for a look, not for a verdict.",
            &charts::quantiles(&[("A".to_owned(), &left), ("B".to_owned(), &right)]),
        );
    }
    let without_seconds = |run: &Stored| {
        let mut result = run.result.clone();
        result["server"] = Value::Null;
        result
    };
    facts(&mut page, &without_seconds(first));
    document(title, &page)
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{} - loadgen</title>\n<style>\n{STYLE}</style></head>\n<body>{body}</body></html>\n",
        escape(title)
    )
}

fn header(page: &mut String, title: &str, subtitle: &str, (verdict, class): (&str, &str)) {
    let _ = write!(
        page,
        r#"<header><div><h1>{}</h1><p class="soft">{}</p></div><div class="verdict {class}">{}</div></header>"#,
        escape(title),
        escape(subtitle),
        escape(verdict)
    );
}

fn figure(page: &mut String, title: &str, caption: &str, svg: &str) {
    if svg.is_empty() {
        return;
    }
    let _ = write!(page, "<h2>{title}</h2><figure>");
    if !caption.is_empty() {
        let _ = write!(page, "<figcaption>{caption}</figcaption>");
    }
    let _ = write!(page, "{svg}</figure>");
}

/// What was asked for, in a line.
fn run_title(config: &Value) -> String {
    let number = |key: &str| config[key].as_f64();
    let mut parts = vec![text(&config["mode"]).to_owned()];
    parts.extend(number("conns").map(|it| format!("{} connections", count(it as u64))));
    parts.extend(number("rate").map(|it| format!("{}/s", rate(it))));
    parts.extend(number("closed_loop").map(|it| format!("{it} in flight")));
    parts.extend(number("duration_s").map(|it| format!("{it} s")));
    parts.join(" · ")
}

fn tiles(page: &mut String, result: &Value) {
    let us = |value: &Value| value.as_f64().map(pretty);
    let whole = |value: &Value| value.as_u64().map(count);
    let main = if result["fanout"].is_null() { &result["response_us"] } else { &result["fanout"]["last_us"] };
    let name = if result["fanout"].is_null() { "" } else { "last receiver " };
    let server = &result["server"];
    let cpu = server["cpu_s"].as_f64().zip(server["wall_s"].as_f64()).map(|(cpu, wall)| percent(cpu / wall));
    let all = [
        (format!("{name}p50"), us(&main["p50"])),
        (format!("{name}p99"), us(&main["p99"])),
        (format!("{name}max"), us(&main["max"])),
        ("received/s".to_owned(), result["rate"]["received_per_s"].as_f64().map(rate)),
        ("lost".to_owned(), whole(&result["integrity"]["lost"])),
        ("connections".to_owned(), whole(&result["connect"]["ok"])),
        ("server CPU".to_owned(), cpu),
        ("server memory".to_owned(), server["rss_bytes"].as_u64().map(bytes)),
    ];
    page.push_str(r#"<dl class="tiles">"#);
    for (name, value) in all {
        if let Some(value) = value {
            let _ = write!(page, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
    }
    page.push_str("</dl>");
}

fn quantile_table(page: &mut String, result: &Value) {
    let keys = ["p50", "p90", "p99", "p999", "p9999", "max"];
    page.push_str(r#"<div class="scroll"><table><thead><tr><th></th><th>n</th>"#);
    for name in ["p50", "p90", "p99", "p99.9", "p99.99", "max"] {
        let _ = write!(page, "<th>{name}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for (name, path) in crate::compare::metric::QUANTITIES {
        let Some(it) = result.pointer(path).filter(|it| it["n"].as_u64().is_some_and(|n| n > 0)) else {
            continue;
        };
        // In a broadcast the responses are the single deliveries.
        if name == "response" && !result["fanout"].is_null() {
            continue;
        }
        let _ = write!(page, "<tr><td>{name}</td><td>{}</td>", count(it["n"].as_u64().unwrap_or(0)));
        for key in keys {
            let value = it[key].as_f64().map_or_else(|| "-".to_owned(), pretty);
            let _ = write!(page, "<td>{value}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
}

fn metric_table(page: &mut String, it: &Comparison) {
    page.push_str(
        r#"<h2>Metrics</h2><div class="scroll"><table class="metrics"><thead><tr><th></th><th>A</th><th>B</th><th>B/A</th><th>95 % interval</th><th>limit</th><th></th></tr></thead><tbody>"#,
    );
    for row in &it.rows {
        let show = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| spaced(&row.metric.show(value)))
        };
        let dash = || "-".to_owned();
        let mean = row.ratio.map_or_else(dash, |it| factor(it.mean));
        let interval = row.ratio.map_or_else(dash, |it| format!("{} .. {}", factor(it.low), factor(it.high)));
        let limit =
            row.limit.map_or_else(String::new, |limit| format!("+{}%", (limit * 1e4).round() / 100.0));
        let outcome = row.outcome().map_or_else(String::new, |outcome| {
            let class = match outcome {
                Outcome::Ok => "good",
                Outcome::Inconclusive => "warn",
                Outcome::Regression => "bad",
            };
            format!(r#"<b class="{class}">{outcome}</b>"#)
        });
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{mean}</td><td>{interval}</td><td>{limit}</td><td>{outcome}</td></tr>",
            row.metric,
            show(row.a),
            show(row.b)
        );
    }
    page.push_str("</tbody></table></div>");
}

fn facts(page: &mut String, result: &Value) {
    page.push_str(r#"<div class="facts">"#);
    for (title, key) in [
        ("Configuration", "config"),
        ("Host", "host"),
        ("Messages", "integrity"),
        ("Server", "server"),
        ("Generator", "generator"),
    ] {
        let Some(fields) = result[key].as_object() else { continue };
        let _ = write!(page, "<section><h2>{title}</h2><dl>");
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let value = match value {
                Value::String(text) => escape(text),
                Value::Number(number) if number.is_f64() => {
                    let value = number.as_f64().unwrap_or(0.0);
                    format!("{}", (value * 1e4).round() / 1e4)
                }
                Value::Number(number) if name != "seed" && name != "pid" => {
                    number.as_u64().map_or_else(|| number.to_string(), count)
                }
                other => escape(&other.to_string()),
            };
            let _ = write!(page, "<dt>{}</dt><dd>{value}</dd>", escape(&name.replace('_', " ")));
        }
        page.push_str("</dl></section>");
    }
    page.push_str("</div>");
}

/// Microseconds with a space before the unit.
fn pretty(us: f64) -> String {
    spaced(&duration((us * 1e3).round() as u64))
}

/// 1.5ms as 1.5 ms, 20us as 20 µs.
fn spaced(text: &str) -> String {
    let digits = text.trim_end_matches(char::is_alphabetic);
    match &text[digits.len()..] {
        unit @ ("ns" | "us" | "ms" | "s") if !digits.ends_with(' ') => {
            format!("{digits} {}", unit.replace('u', "µ"))
        }
        _ => text.to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn latencies() -> Latencies {
        let mut it = Latencies::default();
        (1..=2_000u64).for_each(|ns| it.record(ns * 1_000));
        it
    }

    /// Balanced tags, nothing from elsewhere, no script.
    fn check(page: &str) {
        for tag in ["svg", "div", "table", "section", "dl", "figure", "ul", "header"] {
            let (opened, closed) =
                (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
            assert_eq!(opened, closed, "{tag}");
        }
        for part in ["<script", "http://", "https://", "@import", "url(", "NaN", "inf"] {
            assert!(!page.contains(part), "{part}");
        }
    }

    #[test]
    fn a_run_is_a_page_of_its_own() {
        let second = |number: u32| {
            json!({ "second": number, "warmup": number == 0, "sent": 1000, "received": 1000,
                    "p50_us": 10.0, "p99_us": null, "max_us": 55.5 })
        };
        let result = json!({
            "verdict": "SUSPECT", "reasons": ["4 messages <lost>"],
            "config": { "mode": "echo", "conns": 50_000, "rate": 5000.0, "duration_s": 10.0, "url": "ws-url", "seed": 7 },
            "response_us": { "n": 2000, "p50": 1000.0, "p90": 1800.0, "p99": 1980.0, "max": 2000.0 },
            "integrity": { "lost": 4 }, "fanout": null, "by_second": [second(0), second(1), second(2)],
        });
        let seconds: Vec<Second> =
            (0..3).map(|it| Second::from_latencies(it, it == 0, &latencies())).collect();
        let page = run(&result, &[("response".to_owned(), latencies())].into(), &seconds);
        check(&page);
        assert!(page.contains("echo · 50,000 connections · 5,000/s · 10 s"));
        assert!(page.contains("4 messages &lt;lost&gt;") && page.contains(r#"class="verdict warn">SUSPECT"#));
        assert_eq!(page.matches("<svg").count(), 8, "four pictures in two sizes");
        assert!(page.len() < 200_000, "{}", page.len());
    }

    #[test]
    fn a_comparison_is_one_too() {
        let stored = |factor: f64| {
            let result = json!({
                "config": { "mode": "echo" }, "verdict": "VALID", "reasons": [], "rate": { "sent_per_s": 1.0 },
                "response_us": { "p50": 10.0 * factor, "p99": null },
            });
            Stored { name: "x".into(), result, curves: [("response".to_owned(), latencies())].into() }
        };
        let (a, b) = (vec![stored(1.0), stored(1.1)], vec![stored(1.2), stored(1.3)]);
        let it = Comparison::new(&a, &b, &[]).expect("comparable");
        let page = comparison(&it, &a, &b, ["wsd --a", "wsd <b>"]);
        check(&page);
        assert!(page.contains("wsd &lt;b&gt;") && page.contains("response.p50"));
        assert_eq!(page.matches("<svg").count(), 4);
    }
}
