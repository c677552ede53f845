//! A run that is over: as it was measured just now, or read back from its files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::cli::Mode;
use crate::record::Latencies;
use crate::report::hlog::Hlog;
use crate::report::json;
use crate::report::summary::Summary;

/// Parts of the configuration that may differ between runs that are compared: where the server is, and the seed.
const MAY_DIFFER: [&str; 2] = ["url", "seed"];
/// Achieved rates that differ by more are not the same load.
const RATE_TOLERANCE: f64 = 0.02;

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Stored {
    /// For messages: the file, or the place in a series.
    pub name: String,
    /// The JSON result.
    pub result: Value,
    /// The whole distributions, where they are known.
    pub curves: BTreeMap<String, Latencies>,
}

impl Stored {
    /// A run that has just ended.
    pub fn of(name: String, it: &Summary) -> Self {
        let mut curves = BTreeMap::new();
        if let Some(fanout) = &it.fanout {
            curves.insert("fanout_each".to_owned(), it.response.clone());
            curves.insert("fanout_first".to_owned(), fanout.spans.first.clone());
            curves.insert("fanout_last".to_owned(), fanout.spans.last.clone());
        } else {
            curves.insert("response".to_owned(), it.response.clone());
        }
        curves.insert("service".to_owned(), it.service.clone());
        curves.insert("tcp".to_owned(), it.connecting.times.tcp.clone());
        curves.insert("upgrade".to_owned(), it.connecting.times.upgrade.clone());
        if let Some(turnover) = &it.turnover {
            curves.insert("churn_upgrade".to_owned(), turnover.times.upgrade.clone());
        }
        Self { name, result: json::value(it), curves }
    }

    /// Reads a `.hlog` or a `.json` that a run has left.
    ///
    /// # Errors
    /// One line that says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| format!("{name}: {error}"))?;
        if bytes.first() == Some(&b'{') {
            let result: Value = serde_json::from_slice(&bytes).map_err(|error| format!("{name}: {error}"))?;
            if result["config"]["mode"].is_null() || result["verdict"].is_null() {
                return Err(format!("{name}: not the result of a run: give a file that --json wrote"));
            }
            return Ok(Self { name, result, curves: BTreeMap::new() });
        }
        let log = Hlog::parse(&bytes)
            .map_err(|problem| format!("{name}: {problem}: give a .hlog that --hlog wrote"))?;
        let result = log.result.ok_or_else(|| {
            format!("{name}: it has no verdict: the run did not end, or another tool wrote the log")
        })?;
        Ok(Self { name, result, curves: log.tags })
    }

    /// What the connections did.
    ///
    /// # Errors
    /// The result is from another version.
    pub fn mode(&self) -> Result<Mode, String> {
        let mode = self.result["config"]["mode"].as_str().unwrap_or_default();
        Mode::ALL
            .into_iter()
            .find(|it| it.name() == mode)
            .ok_or_else(|| format!("{}: this version knows no mode '{mode}'", self.name))
    }

    /// VALID, SUSPECT or INVALID.
    pub fn verdict(&self) -> &str {
        self.result["verdict"].as_str().unwrap_or_default()
    }

    /// Why these two must not be compared, if so: the load differs, or one is no measurement.
    ///
    /// # Errors
    /// One line that names the difference.
    pub fn check_against(&self, other: &Self) -> Result<(), String> {
        for it in [self, other] {
            if it.verdict() == "INVALID" {
                let reasons: Vec<&str> =
                    it.result["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                return Err(format!(
                    "{} is INVALID and measures nothing ({}): repeat that run",
                    it.name,
                    reasons.join("; ")
                ));
            }
        }
        let (mine, theirs) = (&self.result["config"], &other.result["config"]);
        let keys = mine.as_object().into_iter().chain(theirs.as_object()).flat_map(|it| it.keys());
        for key in keys.filter(|key| !MAY_DIFFER.contains(&key.as_str())) {
            if mine[key] != theirs[key] {
                return Err(format!(
                    "{key} differs, {} in {} and {} in {}: compare runs of the same load",
                    mine[key], self.name, theirs[key], other.name
                ));
            }
        }
        let rate = |it: &Self| it.result["rate"]["sent_per_s"].as_f64().unwrap_or(0.0);
        let (a, b) = (rate(self), rate(other));
        // In a closed loop the rate is the outcome.
        if mine["closed_loop"].is_null() && (a - b).abs() > RATE_TOLERANCE * a.max(b) {
            return Err(format!(
                "{} sent {a:.0} and {} {b:.0} messages per second: compare runs of the same load",
                self.name, other.name
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored(name: &str, change: impl Fn(&mut Value)) -> Stored {
        let mut result = json!({
            "config": { "mode": "echo", "conns": 10, "url": "ws://x", "seed": 1, "closed_loop": null },
            "verdict": "VALID", "reasons": [], "rate": { "sent_per_s": 1000.0 },
        });
        change(&mut result);
        Stored { name: name.into(), result, curves: BTreeMap::new() }
    }

    #[test]
    fn the_same_load_on_another_server() {
        let a = stored("a", |_| {});
        let b = stored("b", |it| {
            it["config"]["url"] = "ws://y".into();
            it["config"]["seed"] = 2.into();
            it["verdict"] = "SUSPECT".into();
            it["rate"]["sent_per_s"] = 990.0.into();
        });
        assert_eq!(a.check_against(&b), Ok(()));
        assert_eq!(a.mode(), Ok(Mode::Echo));
    }

    #[test]
    fn what_must_not_be_compared() {
        let a = stored("a", |_| {});
        let conns = stored("b", |it| it["config"]["conns"] = 20.into());
        assert_eq!(
            a.check_against(&conns),
            Err("conns differs, 10 in a and 20 in b: compare runs of the same load".into())
        );
        let more = stored("b", |it| it["config"]["deflate"] = true.into());
        assert!(a.check_against(&more).expect_err("one has it").starts_with("deflate differs"));
        let rate = stored("b", |it| it["rate"]["sent_per_s"] = 950.0.into());
        assert!(a.check_against(&rate).expect_err("5 %").contains("950 messages per second"));
        let invalid = stored("b", |it| {
            it["verdict"] = "INVALID".into();
            it["reasons"] = json!(["too late"]);
        });
        let expected = "b is INVALID and measures nothing (too late): repeat that run";
        assert_eq!(a.check_against(&invalid), Err(expected.into()));
        assert_eq!(invalid.check_against(&a), Err(expected.into()));
    }
}
