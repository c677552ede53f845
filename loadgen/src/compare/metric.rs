//! What can be compared, gated and bounded by a threshold: quantiles by name, and what a message or a connection
//! costs the server.

use std::fmt;

use serde_json::Value;

use crate::cli::Mode;
use crate::record::Quantile;
use crate::report::format::{bytes, duration};

/// The quantities with quantiles, and where a JSON result has them.
pub const QUANTITIES: [(&str, &str); 11] = [
    ("response", "/response_us"),
    ("fanout_each", "/fanout/each_us"),
    ("fanout_first", "/fanout/first_us"),
    ("fanout_last", "/fanout/last_us"),
    ("fanout_spread", "/fanout/spread_us"),
    ("service", "/service_us"),
    ("tcp", "/connect/tcp_us"),
    ("upgrade", "/connect/upgrade_us"),
    ("churn_tcp", "/turnover/tcp_us"),
    ("churn_upgrade", "/turnover/upgrade_us"),
    ("close", "/turnover/close_us"),
];

/// The quantiles that results hold, by their keys in JSON, with the largest rise that may be chance or taste.
const QUANTILES: [(&str, Quantile, f64); 5] = [
    ("p50", Quantile::P50, 0.03),
    ("p90", Quantile::P90, 0.05),
    ("p99", Quantile::P99, 0.05),
    ("p999", Quantile::P999, 0.10),
    ("p9999", Quantile::P9999, 0.10),
];

/// A figure of a run; more is worse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// A quantile: the quantity, and its place among the quantiles that results hold.
    Quantile(&'static str, usize),
    /// The longest of a quantity.
    Max(&'static str),
    /// The server's processor time per message received.
    Cpu,
    /// The server's processor time per accepted connection.
    ConnectCpu,
    /// The server's memory per connection.
    Rss,
}

impl Metric {
    /// Reads `response.p99`, `fanout_last.max`, `cpu`, `connect_cpu` or `rss`.
    ///
    /// # Errors
    /// One line that lists what there is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let known = || {
            let quantities = QUANTITIES.map(|(name, _)| name).join(" ");
            format!(
                "'{text}' is no metric: cpu, connect_cpu, rss, or p50 p90 p99 p99.9 p99.99 max of {quantities}"
            )
        };
        match text.split_once('.') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "connect_cpu" => Ok(Self::ConnectCpu),
            None if text == "rss" => Ok(Self::Rss),
            Some((quantity, quantile)) => {
                let &(quantity, _) =
                    QUANTITIES.iter().find(|(name, _)| *name == quantity).ok_or_else(known)?;
                if quantile == "max" {
                    return Ok(Self::Max(quantity));
                }
                let place = QUANTILES.iter().position(|(key, it, _)| *key == quantile || it.name == quantile);
                place.map(|place| Self::Quantile(quantity, place)).ok_or_else(known)
            }
            None => Err(known()),
        }
    }

    /// All quantiles of a quantity.
    pub fn quantiles_of(quantity: &'static str) -> impl Iterator<Item = Self> {
        (0..QUANTILES.len()).map(move |place| Self::Quantile(quantity, place))
    }

    /// Its value in a JSON result: nanoseconds or bytes. `None` where the run has too few samples for it, or none.
    pub fn of(self, result: &Value) -> Option<f64> {
        let path =
            |quantity: &str| QUANTITIES.iter().find(|(name, _)| *name == quantity).map(|(_, path)| path);
        let value = match self {
            Self::Quantile(quantity, place) => {
                result.pointer(path(quantity)?)?[QUANTILES[place].0].as_f64()? * 1e3
            }
            Self::Max(quantity) => result.pointer(path(quantity)?)?["max"].as_f64()? * 1e3,
            Self::Cpu => result["server"]["cpu_us_per_message"].as_f64()? * 1e3,
            Self::ConnectCpu => result["connect"]["server_cpu_us"].as_f64()? * 1e3,
            Self::Rss => result["server"]["rss_bytes_per_conn"].as_f64()?,
        };
        (value > 0.0).then_some(value)
    }

    /// A rise up to this is no regression, however sure it is: 0.03 is 3 %.
    pub const fn limit(self) -> f64 {
        match self {
            Self::Quantile(_, place) => QUANTILES[place].2,
            Self::Max(_) => 0.10,
            Self::Cpu | Self::ConnectCpu | Self::Rss => 0.03,
        }
    }

    /// What a value of it looks like to people.
    pub fn show(self, value: f64) -> String {
        if self == Self::Rss { bytes(value as u64) } else { duration(value.round() as u64) }
    }

    /// What decides where the user has not said: at most three, because each adds its own false alarms.
    pub fn gates(mode: Mode) -> Vec<Self> {
        match mode {
            Mode::Echo => vec![Self::Quantile("response", 0), Self::Quantile("response", 2), Self::Cpu],
            Mode::Broadcast => {
                vec![Self::Quantile("fanout_last", 0), Self::Quantile("fanout_each", 2), Self::Cpu]
            }
            Mode::Idle => vec![Self::Rss, Self::Quantile("upgrade", 0), Self::Quantile("upgrade", 2)],
            Mode::Connect => {
                vec![Self::Quantile("upgrade", 0), Self::Quantile("upgrade", 2), Self::ConnectCpu]
            }
            Mode::Churn => vec![Self::Quantile("churn_upgrade", 0), Self::Quantile("churn_upgrade", 2)],
        }
    }

    /// What is shown beside the gates.
    pub fn shown(mode: Mode) -> Vec<Self> {
        let quantiles = |quantity| Self::quantiles_of(quantity).take(4);
        let mut all: Vec<Self> = match mode {
            Mode::Echo => quantiles("response").chain([Self::Quantile("service", 0)]).collect(),
            Mode::Broadcast => quantiles("fanout_each").chain(quantiles("fanout_last").take(3)).collect(),
            Mode::Idle => quantiles("upgrade").collect(),
            Mode::Connect => {
                quantiles("upgrade").chain(quantiles("tcp").take(3)).chain([Self::ConnectCpu]).collect()
            }
            Mode::Churn => quantiles("churn_upgrade").chain(quantiles("close").take(3)).collect(),
        };
        all.extend([Self::Cpu, Self::Rss]);
        all
    }

    /// The quantity whose whole distribution is drawn.
    pub const fn main_quantity(mode: Mode) -> &'static str {
        match mode {
            Mode::Echo => "response",
            Mode::Broadcast => "fanout_each",
            Mode::Idle | Mode::Connect => "upgrade",
            Mode::Churn => "churn_upgrade",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantile(quantity, place) => f.pad(&format!("{quantity}.{}", QUANTILES[*place].1.name)),
            Self::Max(quantity) => f.pad(&format!("{quantity}.max")),
            Self::Cpu => f.pad("cpu"),
            Self::ConnectCpu => f.pad("connect_cpu"),
            Self::Rss => f.pad("rss"),
        }
    }
}

/// A metric that decides, and its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// What is looked at.
    pub metric: Metric,
    /// The largest rise that is let pass: 0.03 is 3 %.
    pub limit: f64,
}

impl Gate {
    /// Reads `response.p99` or `response.p99=10%`.
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (metric, limit) =
            text.split_once('=').map_or((text, None), |(metric, limit)| (metric, Some(limit)));
        let metric = Metric::parse(metric)?;
        let limit = match limit {
            None => metric.limit(),
            Some(text) => {
                let percent = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
                let percent = percent.filter(|percent| (0.0..1000.0).contains(percent));
                percent.ok_or_else(|| format!("'{text}' is no limit: give one such as 5%"))? / 100.0
            }
        };
        Ok(Self { metric, limit })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in
            ["response.p50", "fanout_last.p99.9", "upgrade.max", "churn_tcp.p90", "cpu", "connect_cpu", "rss"]
        {
            assert_eq!(Metric::parse(name).expect(name).to_string(), name);
        }
        assert_eq!(Metric::parse("service.p999"), Metric::parse("service.p99.9"));
        for bad in ["p50", "response", "response.p42", "speed.p50", ""] {
            let error = Metric::parse(bad).expect_err(bad);
            assert!(error.contains("fanout_last") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn values_come_from_the_result() {
        let result = json!({
            "response_us": { "p50": 12.5, "p99": null, "max": 80.0 },
            "fanout": null,
            "server": { "cpu_us_per_message": 3.25, "rss_bytes_per_conn": 2048.0 },
        });
        let value = |name: &str| {
            let metric = Metric::parse(name).expect(name);
            metric.of(&result).map(|value| metric.show(value))
        };
        assert_eq!(value("response.p50").as_deref(), Some("12.5us"));
        assert_eq!((value("response.p99"), value("fanout_last.p50")), (None, None));
        assert_eq!((value("cpu").as_deref(), value("rss").as_deref()), (Some("3.25us"), Some("2.00 KiB")));
        assert_eq!(value("response.max").as_deref(), Some("80.0us"));
        assert_eq!(Metric::Cpu.of(&json!({ "server": null })), None);
    }

    #[test]
    fn gates_with_and_without_a_limit() {
        let gate = |text: &str| Gate::parse(text).map(|gate| (gate.metric.to_string(), gate.limit));
        assert_eq!(gate("response.p50"), Ok(("response.p50".into(), 0.03)));
        assert_eq!(gate("fanout_last.p99=7.5%"), Ok(("fanout_last.p99".into(), 0.075)));
        assert_eq!(gate("cpu=5"), Ok(("cpu".into(), 0.05)));
        assert!(gate("cpu=x").is_err() && gate("cpu=-1%").is_err() && gate("x").is_err());
        assert!(Mode::ALL.iter().all(|mode| Metric::gates(*mode).len() <= 3));
    }
}
