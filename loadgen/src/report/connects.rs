//! Connecting, and coming and going, in the report for people.

use std::io::{self, Write};

use super::format::{count, duration, rate};
use super::summary::{Connecting, Summary, Turnover};
use super::table::row;
use crate::cli::Mode;
use crate::connects::{FailureKind, Fates};

/// The rows of the table; nothing where connecting was only the way to the load.
pub fn rows(out: &mut impl Write, it: &Summary) -> io::Result<()> {
    if it.config.mode == Mode::Connect {
        row(out, "tcp", &it.connecting.times.tcp)?;
        return row(out, "upgrade", &it.connecting.times.upgrade);
    }
    let Some(turnover) = &it.turnover else { return Ok(()) };
    row(out, "churn tcp", &turnover.times.tcp)?;
    row(out, "churn upgrade", &turnover.times.upgrade)?;
    if it.config.lifetime.is_some() { row(out, "close", &turnover.times.close) } else { Ok(()) }
}

/// Rates and fates, below the table.
pub fn lines(out: &mut impl Write, it: &Summary) -> io::Result<()> {
    if it.config.mode == Mode::Connect {
        pace(out, "begun", it.connecting.begun_per_second(), it.connecting.target_per_second)?;
        writeln!(out, "   opened {}/s", rate(it.connecting.opened_per_second()))?;
        kinds(out, &it.connecting.fates)?;
        return cost(out, &it.connecting);
    }
    let Some(turnover) = &it.turnover else { return Ok(()) };
    let Turnover { fates, begun_per_second, opened_per_second, target_per_second, .. } = turnover;
    pace(out, "churn", *begun_per_second, *target_per_second)?;
    writeln!(out, "   opened {}/s", rate(*opened_per_second))?;
    if it.config.lifetime.is_some() {
        let [clean, unclean, missed] = [fates.clean, fates.unclean, fates.missed].map(count);
        writeln!(out, "ended   clean {clean} unclean {unclean} missed {missed}")?;
    }
    if fates.hinted > 0 {
        writeln!(out, "hinted  {} came back when the server had asked for", count(fates.hinted))?;
    }
    kinds(out, fates)
}

/// What a connection cost the server to accept.
fn cost(out: &mut impl Write, it: &Connecting) -> io::Result<()> {
    let Some(cost) = it.cost else { return Ok(()) };
    let ns = |us: f64| duration((us * 1e3).round() as u64);
    let user = cost.user_us.map_or_else(|| "-".to_owned(), ns);
    writeln!(out, "accept  server cpu {} (user {user}) per connection", ns(cost.cpu_us))
}

fn pace(out: &mut impl Write, name: &str, begun: f64, target: Option<f64>) -> io::Result<()> {
    let target = target.map(|target| format!(" of {}/s", rate(target))).unwrap_or_default();
    write!(out, "{name:8}{}/s{target}", rate(begun))
}

fn kinds(out: &mut impl Write, fates: &Fates) -> io::Result<()> {
    write!(out, "failed ")?;
    for (kind, name) in FailureKind::ALL {
        write!(out, " {} {}", name.replace('_', " "), count(fates.failures_by(kind)))?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connects::ConnectCost;
    use crate::report::text;

    #[test]
    fn lines_as_they_read() {
        let mut fates = Fates::default();
        fates.failed.insert("timed out".into(), 1_200);
        let line = "failed  refused 0 reset 0 timed out 1,200 handshake 0 local 0\n";
        assert_eq!(text(|out| kinds(out, &fates)), line);
        assert_eq!(text(|out| pace(out, "begun", 4_998.2, Some(5e3))), "begun   4,998/s of 5,000/s");
        let cost_of = ConnectCost { cpu_us: 31.25, user_us: Some(4.0) };
        let it = Connecting { cost: Some(cost_of), ..Connecting::default() };
        let line = "accept  server cpu 31.2us (user 4.00us) per connection\n";
        assert_eq!(text(|out| cost(out, &it)), line);
        let few = ConnectCost { cpu_us: 31.25, user_us: None };
        let it = Connecting { cost: Some(few), ..Connecting::default() };
        assert!(text(|out| cost(out, &it)).contains("(user -)"));
    }
}
