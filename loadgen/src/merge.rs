//! The logs of several generators that loaded one server at the same time, put together: histograms and counts are
//! summed, seconds too, and the worst verdict is the verdict of all.
//!
//! What cannot be known afterwards is left out: the last receiver of a message over all generators, and what a message
//! cost the server.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::compare::metric::QUANTITIES;
use crate::record::Latencies;
use crate::report::hlog::{self, Hlog};
use crate::report::{json, table};

/// Quantities that need all receivers of a message, wherever they are: no sum of generators has them.
const OF_ALL_RECEIVERS: [&str; 3] = ["fanout_first", "fanout_last", "fanout_spread"];

/// The quantities that can be summed, because each message has one time in one generator.
fn summed() -> impl Iterator<Item = (&'static str, &'static str)> {
    QUANTITIES.into_iter().filter(|(tag, _)| !OF_ALL_RECEIVERS.contains(tag))
}

/// Parts of the configuration that add up, and those that each generator has for itself.
const ADDED: [&str; 3] = ["conns", "rate", "senders"];
const OWN: [&str; 2] = ["seed", "url"];

/// Several logs together.
#[derive(Debug)]
pub struct Sum {
    result: Value,
    tags: BTreeMap<String, Latencies>,
}

/// Puts logs together.
///
/// # Errors
/// One line: they were not one load.
pub fn sum(logs: Vec<Hlog>, results: &[Value]) -> Result<Sum, String> {
    let first = results.first().ok_or("there is nothing to merge")?;
    let mut config = first["config"].clone();
    if !config.is_object() {
        return Err("the first log's result has no configuration".to_owned());
    }
    for other in &results[1..] {
        for (key, value) in other["config"].as_object().into_iter().flatten() {
            if ADDED.contains(&key.as_str()) {
                config[key] = add(&config[key], value);
            } else if !OWN.contains(&key.as_str()) && config[key] != *value {
                return Err(format!(
                    "{key} differs, {} and {value}: these generators did not run together",
                    config[key]
                ));
            }
        }
    }
    let mut tags: BTreeMap<String, Latencies> = BTreeMap::new();
    for log in logs {
        for (tag, latencies) in log.tags.into_iter().filter(|(tag, _)| summed().any(|(name, _)| name == tag))
        {
            tags.entry(tag).or_default().merge(&latencies);
        }
    }
    let worst = ["INVALID", "SUSPECT", "VALID"]
        .into_iter()
        .find(|verdict| results.iter().any(|it| it["verdict"] == *verdict));
    let reasons: Vec<&Value> =
        results.iter().flat_map(|it| it["reasons"].as_array().into_iter().flatten()).collect();
    let mut result = json!({
        "config": config,
        "verdict": worst,
        "reasons": reasons,
        "merged": results.len(),
        "connect": { "target": total(results, "/connect/target"), "ok": total(results, "/connect/ok") },
        "integrity": object_sum(results, "integrity"),
        "rate": object_sum(results, "rate"),
        "fanout": if first["fanout"].is_null() { Value::Null } else { json!({}) },
    });
    result["rate"]["seconds"] = first["rate"]["seconds"].clone();
    for (tag, path) in summed() {
        let Some(latencies) = tags.get(tag) else { continue };
        let value = json::quantiles(latencies);
        match path[1..].split_once('/') {
            Some((object, key)) => {
                if object == "fanout" {
                    result["response_us"] = value.clone();
                }
                result[object][key] = value;
            }
            None => result[&path[1..]] = value,
        }
    }
    Ok(Sum { result, tags })
}

impl Sum {
    /// As a log: one interval per quantity, because the generators' seconds did not begin together.
    ///
    /// # Errors
    /// A histogram cannot be written.
    pub fn log(&self) -> io::Result<String> {
        hlog::write_totals(&self.tags, &self.result)
    }

    /// The table for people.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub fn table(&self, out: &mut impl Write) -> io::Result<()> {
        table::heading(out)?;
        for (tag, latencies) in &self.tags {
            table::row(out, &tag.replace('_', " "), latencies)?;
        }
        let it = &self.result;
        let number =
            |path: &str| crate::report::format::count(it.pointer(path).and_then(Value::as_u64).unwrap_or(0));
        writeln!(
            out,
            "reach   lost {} dup {} reordered {} corrupt {}   of {} expected",
            number("/integrity/lost"),
            number("/integrity/duplicate"),
            number("/integrity/reordered"),
            number("/integrity/corrupt"),
            number("/integrity/expected")
        )?;
        writeln!(
            out,
            "self    {} generators together {}",
            it["merged"],
            it["verdict"].as_str().unwrap_or("-")
        )
    }
}

fn add(a: &Value, b: &Value) -> Value {
    match (a.as_u64(), b.as_u64(), a.as_f64(), b.as_f64()) {
        (Some(a), Some(b), ..) => a.saturating_add(b).into(),
        (_, _, Some(a), Some(b)) => (a + b).into(),
        _ => a.clone(),
    }
}

fn total(results: &[Value], path: &str) -> Value {
    let values = results.iter().filter_map(|it| it.pointer(path));
    values.fold(Value::from(0), |sum, value| add(&sum, value))
}

fn object_sum(results: &[Value], key: &str) -> Value {
    let mut sum = Map::new();
    for (name, value) in results.iter().filter_map(|it| it[key].as_object()).flatten() {
        let entry = sum.entry(name).or_insert(Value::from(0));
        *entry = add(entry, value);
    }
    sum.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(conns: u64, verdict: &str, ns: u64) -> (Hlog, Value) {
        let mut latencies = Latencies::default();
        (0..20).for_each(|_| latencies.record(ns));
        let result = json!({
            "config": { "mode": "echo", "conns": conns, "rate": 500.0, "seed": conns },
            "verdict": verdict, "reasons": [verdict], "fanout": null,
            "integrity": { "lost": conns, "expected": 20 }, "rate": { "sent_per_s": 20.5, "seconds": 1.0 },
            "connect": { "target": conns, "ok": conns },
        });
        (Hlog { tags: [("response".to_owned(), latencies)].into(), ..Hlog::default() }, result)
    }

    #[test]
    fn two_generators() {
        let (logs, results): (Vec<_>, Vec<_>) =
            [one(10, "VALID", 1_000), one(20, "SUSPECT", 9_000)].into_iter().unzip();
        let sum = sum(logs, &results).expect("one load");
        let it = &sum.result;
        assert_eq!((&it["config"]["conns"], &it["config"]["rate"]), (&json!(30), &json!(1000.0)));
        assert_eq!((&it["verdict"], &it["integrity"]["lost"]), (&json!("SUSPECT"), &json!(30)));
        assert_eq!((&it["rate"]["sent_per_s"], &it["rate"]["seconds"]), (&json!(41.0), &json!(1.0)));
        assert_eq!(it["response_us"]["n"], 40);
        let read = Hlog::parse(sum.log().expect("memory takes it").as_bytes()).expect("sound");
        assert_eq!((read.tags["response"].count(), &read.result.expect("one")["merged"]), (40, &json!(2)));
        let mut out = Vec::new();
        sum.table(&mut out).expect("memory takes it");
        assert!(String::from_utf8(out).expect("text").contains("lost 30 "));
    }

    #[test]
    fn connections_add_up_too() {
        let with = |tag: &str| {
            let (mut log, result) = one(10, "VALID", 1_000);
            log.tags = [(tag.to_owned(), log.tags["response"].clone())].into();
            (log, result)
        };
        for (tag, path) in [("upgrade", "/connect/upgrade_us/n"), ("close", "/turnover/close_us/n")] {
            let (logs, results): (Vec<_>, Vec<_>) = [with(tag), with(tag)].into_iter().unzip();
            let sum = sum(logs, &results).expect("one load");
            assert_eq!(sum.result.pointer(path), Some(&json!(40)), "{tag}");
            assert_eq!(sum.result["connect"]["target"], 20);
        }
    }

    #[test]
    fn unlike_loads_are_refused() {
        let (logs, mut results): (Vec<_>, Vec<_>) =
            [one(1, "VALID", 1), one(1, "VALID", 1)].into_iter().unzip();
        results[1]["config"]["mode"] = "broadcast".into();
        assert!(sum(logs, &results).expect_err("unlike").starts_with("mode differs"));
    }

    /// As somebody may have written it, or something may have damaged it.
    #[test]
    fn results_that_are_none() {
        let (log, mut result) = one(1, "VALID", 1);
        let other = result.clone();
        result["config"] = json!("echo");
        let error = sum(vec![log], &[result, other]).expect_err("no object");
        assert!(error.contains("no configuration"), "{error}");
        assert_eq!(add(&json!(u64::MAX), &json!(1)), json!(u64::MAX));
        assert_eq!(add(&json!(1), &json!("one")), json!(1));
    }
}
