//! The report for programs. Keys stay as they are; a quantile that may not be printed is null.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use super::summary::{Connecting, Generator, Integrity, Summary, Turnover};
use crate::config::{Config, Load};
use crate::connects::{ConnectPace, FailureKind, Fates};
use crate::payload::Format;
use crate::plan::Plan;
use crate::record::{Latencies, Quantile};
use crate::schedule::Arrival;
use crate::seconds::Second;
use crate::stages::StageResult;

/// Writes the report to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, summary: &Summary) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    serde_json::to_writer_pretty(&mut file, &value(summary))?;
    file.write_all(b"\n")?;
    file.flush()
}

/// The report as a JSON value.
pub fn value(it: &Summary) -> Value {
    json!({
        "config": config(&it.config),
        "host": host(&it.plan),
        "verdict": it.verdict.to_string(),
        "reasons": it.reasons,
        "connect": connect(&it.connecting),
        "response_us": quantiles(&it.response),
        "service_us": quantiles(&it.service),
        "fanout": it.fanout.as_ref().map(|fanout| json!({
            "each_us": quantiles(&it.response),
            "first_us": quantiles(&fanout.spans.first),
            "last_us": quantiles(&fanout.spans.last),
            "spread_us": quantiles(&fanout.spans.spread),
            "expected": it.integrity.expected,
            "received": it.integrity.received,
        })),
        "integrity": integrity(&it.integrity),
        "turnover": it.turnover.as_ref().map(turnover),
        "deflate": it.deflate.as_ref().map(|it| json!({
            "wire_bytes": it.wire_bytes,
            "plain_bytes": it.plain_bytes,
            "ratio": it.ratio(),
        })),
        "rate": {
            "target_per_s": it.rates.target,
            "sent_per_s": it.rates.sent,
            "received_per_s": it.rates.received,
            "seconds": it.seconds,
        },
        "closed_by_code": by_code(&it.closed),
        "slow_readers": it.lazy.as_ref().map(|lazy| json!({
            "slow": it.config.cohorts.slow,
            "never": it.config.cohorts.never,
            "received": lazy.received,
            "closed_by_code": by_code(&lazy.closed),
        })),
        "stages": it.stages.iter().map(stage).collect::<Vec<_>>(),
        "server": it.server.as_ref().map(|server| json!({
            "pid": server.pid,
            "user_s": server.user_s,
            "system_s": server.system_s,
            "cpu_s": server.cpu_s,
            "wall_s": server.wall_s,
            "cpu_us_per_message": server.cpu_us_per_message(it.rates.received),
            "rss_bytes": server.rss_bytes,
            "rss_bytes_per_conn": server.rss_bytes_per_conn,
        })),
        "generator": generator(&it.generator),
        "by_second": it.by_second.iter().map(second).collect::<Vec<_>>(),
    })
}

fn host(plan: &Plan) -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    json!({
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": kernel.map_or(Value::Null, |it| it.trim().into()),
        "descriptors": plan.descriptors,
        "descriptor_tables": plan.tables,
        "threads": plan.threads,
        "source_addresses": plan.sources.len(),
    })
}

fn connect(it: &Connecting) -> Value {
    json!({
        "target": it.target,
        "ok": it.ok(),
        "failed": it.fates.failures(),
        "failed_by_reason": it.fates.failed,
        "failed_by_kind": by_kind(&it.fates),
        "seconds": it.seconds,
        "target_per_s": it.target_per_second,
        "begun_per_s": it.begun_per_second(),
        "opened_per_s": it.opened_per_second(),
        "tcp_us": quantiles(&it.times.tcp),
        "upgrade_us": quantiles(&it.times.upgrade),
        "late_us": quantiles(&it.times.late),
        "server_cpu_us": it.cost.map(|cost| cost.cpu_us),
        "server_user_us": it.cost.and_then(|cost| cost.user_us),
    })
}

fn integrity(it: &Integrity) -> Value {
    json!({
        "expected": it.expected,
        "received": it.received,
        "lost": it.lost,
        "duplicate": it.duplicate,
        "reordered": it.reordered,
        "corrupt": it.corrupt,
        "foreign": it.foreign,
        "unsent": it.unsent,
    })
}

fn generator(it: &Generator) -> Value {
    let late = it.late.as_ref();
    json!({
        "cpu_hottest": it.cpu_hottest,
        "wait_hottest": it.wait_hottest,
        "send_late_p99_us": late.and_then(|late| late.quantile_ns(Quantile::P99)).map(us),
        "send_late_max_us": late.and_then(Latencies::max_ns).map(us),
    })
}

fn turnover(it: &Turnover) -> Value {
    json!({
        "begun": it.fates.begun,
        "opened": it.fates.opened,
        "failed": it.fates.failures(),
        "failed_by_reason": it.fates.failed,
        "failed_by_kind": by_kind(&it.fates),
        "ended": it.fates.left,
        "closed_clean": it.fates.clean,
        "closed_unclean": it.fates.unclean,
        "missed": it.fates.missed,
        "hinted": it.fates.hinted,
        "target_per_s": it.target_per_second,
        "begun_per_s": it.begun_per_second,
        "opened_per_s": it.opened_per_second,
        "tcp_us": quantiles(&it.times.tcp),
        "upgrade_us": quantiles(&it.times.upgrade),
        "close_us": quantiles(&it.times.close),
        "late_us": quantiles(&it.times.late),
    })
}

fn by_code(closed: &BTreeMap<u16, u64>) -> Value {
    let codes = closed.iter().map(|(code, number)| (code.to_string(), Value::from(*number)));
    codes.collect::<serde_json::Map<_, _>>().into()
}

fn by_kind(fates: &Fates) -> Value {
    let kinds =
        FailureKind::ALL.iter().map(|(kind, name)| ((*name).to_owned(), fates.failures_by(*kind).into()));
    kinds.collect::<serde_json::Map<_, _>>().into()
}

fn stage(it: &StageResult) -> Value {
    json!({
        "stage": it.stage.to_string(),
        "seconds": it.seconds,
        "target_per_s": it.stage.rate,
        "sent": it.staged.sent,
        "sent_per_s": it.sent_per_second(),
        "response_us": quantiles(&it.staged.response),
    })
}

fn second(it: &Second) -> Value {
    json!({
        "second": it.number,
        "warmup": it.warmup,
        "sent": it.sent,
        "received": it.received,
        "p50_us": it.p50_ns.map(us),
        "p99_us": it.p99_ns.map(us),
        "max_us": it.max_ns.map(us),
        "opened": it.opened,
        "upgrade_p50_us": it.upgrade_p50_ns.map(us),
        "upgrade_p99_us": it.upgrade_p99_ns.map(us),
        "upgrade_max_us": it.upgrade_max_ns.map(us),
    })
}

/// What decides whether two runs can be compared.
pub fn config(it: &Config) -> Value {
    let (rate, in_flight) = match it.load {
        Load::None => (None, None),
        Load::Open { rate } => (Some(rate), None),
        Load::Closed { in_flight } => (None, Some(in_flight)),
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "url": it.url(),
        "mode": it.mode.name(),
        "conns": it.conns,
        "rate": rate,
        "closed_loop": in_flight,
        "stages": it.stages.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "senders": it.senders,
        "skip_sender": it.skip_sender,
        "size": if it.sizes.min == it.sizes.max { it.sizes.max.into() } else { Value::from(it.sizes.to_string()) },
        "source_ip": it.source_ips.to_string(),
        "arrival": match it.arrival { Arrival::Constant => "constant", Arrival::Poisson => "poisson" },
        "format": match it.format { Format::Binary => "binary", Format::Compact => "compact", Format::Text => "text" },
        "slow_readers": it.cohorts.slow,
        "slow_bytes_per_s": it.cohorts.slow_bytes_per_second,
        "never_read": it.cohorts.never,
        "headers": it.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>(),
        "origin": it.origin,
        "deflate": it.deflate,
        "raw": it.raw,
        "subprotocols": it.subprotocols,
        "connect_rate": it.connect_pace.rate(),
        "storm": it.connect_pace == ConnectPace::Storm,
        "connect_timeout_s": it.connect_timeout.as_secs_f64(),
        "lifetime": it.lifetime.as_ref().map(ToString::to_string),
        "reconnect": it.reconnect.to_string(),
        "duration_s": it.duration.as_secs_f64(),
        "warmup_s": it.warmup.as_secs_f64(),
        "settle_s": it.settle.as_secs_f64(),
        "drain_s": it.drain.as_secs_f64(),
        "seed": it.seed,
    })
}

/// The quantiles of one quantity, in microseconds.
pub fn quantiles(it: &Latencies) -> Value {
    let quantile = |quantile| it.quantile_ns(quantile).map(us);
    json!({
        "n": it.count(),
        "p50": quantile(Quantile::P50),
        "p90": quantile(Quantile::P90),
        "p99": quantile(Quantile::P99),
        "p999": quantile(Quantile::P999),
        "p9999": quantile(Quantile::P9999),
        "max": it.max_ns().map(us),
        "clamped": it.clamped(),
    })
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_that_may_not_be_printed_are_null() {
        let mut latencies = Latencies::default();
        assert_eq!(quantiles(&latencies)["max"], Value::Null);
        for _ in 0..150 {
            latencies.record(1_500);
        }
        let value = quantiles(&latencies);
        assert_eq!((&value["n"], &value["p90"], &value["p99"]), (&json!(150), &json!(1.5), &Value::Null));
        assert_eq!(value["max"], json!(1.5));
    }
}
