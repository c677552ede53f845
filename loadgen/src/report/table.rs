//! The report for people: 80 columns, keys that stay the same, no colour.

use std::io::{self, Write};

use super::connects;
use super::format::{bytes, count, duration, duration_or_dash, exact_percent, percent, rate, short_count};
use super::summary::{Connecting, Integrity, Summary};
use crate::cli::Mode;
use crate::plan::Plan;
use crate::record::{Latencies, Quantile};
use crate::stages::StageResult;

/// The columns of the table.
const QUANTILES: [Quantile; 4] = [Quantile::P50, Quantile::P90, Quantile::P99, Quantile::P999];

/// Before a socket is opened: how it will be done.
pub fn plan(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    let sources = plan.sources.len();
    let plural = if sources == 1 { "" } else { "s" };
    writeln!(
        out,
        "plan    {} conns over {sources} source IP{plural}   descriptors {} x {} ok   threads {}",
        count(u64::from(plan.conns)),
        plan.tables,
        count(plan.descriptors),
        plan.threads
    )?;
    if let Some(warning) = &plan.warning {
        writeln!(out, "warning {warning}")?;
    }
    Ok(())
}

/// When all connections are made.
pub fn connecting(out: &mut impl Write, it: &Connecting) -> io::Result<()> {
    writeln!(
        out,
        "connect {}/{} in {:.1}s   {}/s   upgrade {}",
        count(u64::from(it.ok())),
        count(u64::from(it.target)),
        it.seconds,
        rate(it.opened_per_second()),
        tail(&it.times.upgrade)
    )?;
    for (reason, number) in &it.fates.failed {
        writeln!(out, "failed  {} x {reason}", count(*number))?;
    }
    Ok(())
}

/// The result.
pub fn results(out: &mut impl Write, it: &Summary) -> io::Result<()> {
    let messages = it.rates.target.is_some() || it.integrity.expected > 0;
    if messages || it.turnover.is_some() || it.config.mode == Mode::Connect {
        heading(out)?;
    }
    if messages {
        quantiles(out, it)?;
    }
    connects::rows(out, it)?;
    if messages {
        let target = it.rates.target.map(|target| format!(" of {}/s", rate(target))).unwrap_or_default();
        let (sent, received) = (rate(it.rates.sent), rate(it.rates.received));
        writeln!(out, "rate    sent {sent}/s{target}   received {received}/s   over {:.1}s", it.seconds)?;
        integrity(out, &it.integrity)?;
    }
    connects::lines(out, it)?;
    stages(out, &it.stages)?;
    if let Some(deflate) = &it.deflate {
        let ratio = deflate.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let (wire, plain) = (bytes(deflate.wire_bytes), bytes(deflate.plain_bytes));
        writeln!(out, "deflate received {wire} for {plain}, ratio {ratio}")?;
    }
    for (code, number) in &it.closed {
        writeln!(out, "closed  {} by the server with code {code}{}", count(*number), meaning(*code))?;
    }
    if let Some(lazy) = &it.lazy {
        let cohorts = &it.config.cohorts;
        let closed: u64 = lazy.closed.values().sum();
        writeln!(
            out,
            "slow    {} read slowly, {} nothing: {} received, {} ended{}",
            count(u64::from(cohorts.slow)),
            count(u64::from(cohorts.never)),
            count(lazy.received),
            count(closed),
            lazy.closed.keys().map(|code| format!(" {code}{}", meaning(*code))).collect::<String>()
        )?;
    }
    if let Some(server) = &it.server {
        writeln!(
            out,
            "server  cpu {} (user {:.2}s system {:.2}s)  rss {}, grown by {}/conn",
            percent(server.cpu()),
            server.user_s,
            server.system_s,
            bytes(server.rss_bytes),
            bytes(server.rss_bytes_per_conn as u64)
        )?;
    }
    let late =
        it.generator.late.as_ref().map(|late| format!("send-late {}  ", tail(late))).unwrap_or_default();
    let (cpu, wait) = (percent(it.generator.cpu_hottest), percent(it.generator.wait_hottest));
    writeln!(out, "self    cpu {cpu} hottest (waiting {wait})  {late}generator {}", it.verdict)?;
    for reason in &it.reasons {
        writeln!(out, "reason  {reason}")?;
    }
    Ok(())
}

/// One row of quantiles, as in every table: name, n, quantiles, maximum.
pub fn row(out: &mut impl Write, name: &str, latencies: &Latencies) -> io::Result<()> {
    write!(out, "{name:13}{:>11}", short_count(latencies.count()))?;
    for quantile in QUANTILES {
        write!(out, "{:>9}", duration_or_dash(latencies.quantile_ns(quantile)))?;
    }
    writeln!(out, "{:>9}", duration_or_dash(latencies.max_ns()))?;
    if latencies.clamped() > 0 {
        writeln!(out, "clamped {} of them over an hour", count(latencies.clamped()))?;
    }
    Ok(())
}

/// The names over the columns of [`row`].
pub fn heading(out: &mut impl Write) -> io::Result<()> {
    write!(out, "{:13}{:>11}", "", "n")?;
    for quantile in QUANTILES {
        write!(out, "{:>9}", quantile.name)?;
    }
    writeln!(out, "{:>9}", "max")
}

fn quantiles(out: &mut impl Write, it: &Summary) -> io::Result<()> {
    match &it.fanout {
        Some(fanout) => {
            row(out, "fanout each", &it.response)?;
            row(out, "fanout first", &fanout.spans.first)?;
            row(out, "fanout last", &fanout.spans.last)?;
            row(out, "fanout spread", &fanout.spans.spread)?;
        }
        None => row(out, "response", &it.response)?,
    }
    row(out, "service", &it.service)
}

/// One row per stage of the load, with the rate that it came to.
fn stages(out: &mut impl Write, all: &[StageResult]) -> io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    write!(out, "{:13}{:>11}", "stage", "n")?;
    for name in ["p50", "p90", "p99", "max"] {
        write!(out, "{name:>9}")?;
    }
    writeln!(out, "{:>10}", "sent/s")?;
    for it in all {
        let response = &it.staged.response;
        write!(out, "{:13}{:>11}", it.stage, short_count(response.count()))?;
        for quantile in [Quantile::P50, Quantile::P90, Quantile::P99] {
            write!(out, "{:>9}", duration_or_dash(response.quantile_ns(quantile)))?;
        }
        let sent = it.sent_per_second().map_or_else(|| "-".to_owned(), rate);
        writeln!(out, "{:>9}{sent:>10}", duration_or_dash(response.max_ns()))?;
    }
    Ok(())
}

fn integrity(out: &mut impl Write, it: &Integrity) -> io::Result<()> {
    write!(
        out,
        "reach   {}  lost {} dup {} reordered {} corrupt {}",
        exact_percent(it.received, it.expected),
        count(it.lost),
        count(it.duplicate),
        count(it.reordered),
        count(it.corrupt)
    )?;
    for (name, number) in [("foreign", it.foreign), ("unsent", it.unsent)] {
        if number > 0 {
            write!(out, " {name} {}", count(number))?;
        }
    }
    writeln!(out)
}

/// The highest quantile up to the 99th that there are enough samples for.
fn tail(latencies: &Latencies) -> String {
    latencies.tail().map_or_else(|| "-".to_owned(), |(name, ns)| format!("{name} {}", duration(ns)))
}

const fn meaning(code: u16) -> &'static str {
    match code {
        1000 => " (normal)",
        1001 => " (going away)",
        1002 => " (protocol error)",
        1005 => " (no code)",
        1006 => " (no Close)",
        1008 => " (policy)",
        1009 => " (too big)",
        1011 => " (internal error)",
        1012 => " (restart)",
        1013 => " (try again later)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::text;

    #[test]
    fn the_plan_in_a_line() {
        let sources = vec![Some(std::net::IpAddr::from([127, 0, 0, 1])); 4];
        let mut it =
            Plan { conns: 50_000, threads: 3, sources, tables: 3, descriptors: 20_000, warning: None };
        let line = "plan    50,000 conns over 4 source IPs   descriptors 3 x 20,000 ok   threads 3\n";
        assert_eq!(text(|out| plan(out, &it)), line);
        it.warning = Some("slow".into());
        assert!(text(|out| plan(out, &it)).ends_with("\nwarning slow\n"));
    }

    #[test]
    fn rows_are_80_columns_at_most_and_honest() {
        let mut latencies = Latencies::default();
        assert_eq!(
            text(|out| row(out, "fanout last", &latencies)),
            "fanout last            0        -        -        -        -        -\n"
        );
        for _ in 0..1_200 {
            latencies.record(23_400_000);
        }
        latencies.record(58_800_000);
        let line = text(|out| row(out, "fanout spread", &latencies));
        assert_eq!(line, "fanout spread      1,201   23.4ms   23.4ms   23.4ms        -   58.8ms\n");
        assert!(line.len() <= 80);
    }

    #[test]
    fn connecting_tells_failures_by_reason() {
        let mut it = Connecting { target: 10, open: vec![4, 4], seconds: 2.0, ..Connecting::default() };
        it.fates.failed.insert("connection refused".into(), 2);
        it.times.upgrade.record(6_100_000);
        let expected = "connect 8/10 in 2.0s   4.00/s   upgrade max 6.10ms\nfailed  2 x connection refused\n";
        assert_eq!(text(|out| connecting(out, &it)), expected);
    }

    #[test]
    fn a_single_loss_in_a_hundred_million_shows() {
        let it = Integrity {
            expected: 100_000_000,
            received: 99_999_999,
            lost: 1,
            foreign: 3,
            ..Integrity::default()
        };
        let line = "reach   99.9999%  lost 1 dup 0 reordered 0 corrupt 0 foreign 3\n";
        assert_eq!(text(|out| integrity(out, &it)), line);
    }
}
