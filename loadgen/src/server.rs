//! What the server costs, read from `/proc`: it must run on this machine.

use std::fs;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// A look at the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Processor time in user code since the process began, in seconds.
    pub user_s: f64,
    /// Processor time in the kernel since the process began, in seconds.
    pub system_s: f64,
    /// Both together, to the nanosecond: the two above come in hundredths of a second.
    pub cpu_s: f64,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
}

/// Looks at process `pid`; `None` where it is gone.
pub fn probe(pid: u32) -> Option<Probe> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let mut probe = parse(&stat, &status, ticks as f64)?;
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).ok()?)).and_then(clock_gettime);
    if let Ok(time) = clock {
        probe.cpu_s = Duration::from(time).as_secs_f64();
    }
    Some(probe)
}

fn parse(stat: &str, status: &str, ticks_per_second: f64) -> Option<Probe> {
    // The name in parentheses may hold anything, spaces and parentheses too: fields count from the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / ticks_per_second);
    let (user_s, system_s) = (seconds()?, seconds()?);
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = rss.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Probe { user_s, system_s, cpu_s: user_s + system_s, rss_bytes: kib * 1024 })
}

/// What the run cost the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The process.
    pub pid: u32,
    /// Processor time in user code while measuring, in seconds.
    pub user_s: f64,
    /// Processor time in the kernel while measuring, in seconds.
    pub system_s: f64,
    /// Both together, more exactly.
    pub cpu_s: f64,
    /// How long was measured, in seconds.
    pub wall_s: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// The growth of resident memory since before the first connection, divided by the connections.
    pub rss_bytes_per_conn: f64,
}

impl Cost {
    /// Puts three looks together: before connecting, and at both ends of the measurement.
    pub fn new(pid: u32, before: &Probe, start: &Probe, end: &Probe, wall_s: f64, conns: u64) -> Self {
        Self {
            pid,
            user_s: end.user_s - start.user_s,
            system_s: end.system_s - start.system_s,
            cpu_s: end.cpu_s - start.cpu_s,
            wall_s,
            rss_bytes: end.rss_bytes,
            rss_bytes_per_conn: end.rss_bytes.saturating_sub(before.rss_bytes) as f64 / conns.max(1) as f64,
        }
    }

    /// The share of one core: 2 is two cores.
    pub fn cpu(&self) -> f64 {
        self.cpu_s / self.wall_s.max(1e-9)
    }

    /// Processor time per message at this rate (per second), in microseconds; `None` where there were none.
    pub fn cpu_us_per_message(&self, rate: f64) -> Option<f64> {
        (rate > 0.0).then(|| self.cpu() * 1e6 / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1000 0 0 0 250 125 0 0 20 0 9 0 100 1 2 3";
    const STATUS: &str = "Name:\tx\nVmHWM:\t  9000 kB\nVmRSS:\t    2048 kB\nThreads:\t1\n";

    #[test]
    fn a_process_with_an_odd_name() {
        let probe = parse(STAT, STATUS, 100.0).expect("sound");
        assert_eq!(probe, Probe { user_s: 2.5, system_s: 1.25, cpu_s: 3.75, rss_bytes: 2 << 20 });
        assert_eq!(parse(STAT, "", 100.0), None, "a zombie has no memory");
    }

    #[test]
    fn this_very_process_can_be_probed() {
        assert!(probe(std::process::id()).is_some_and(|probe| probe.rss_bytes > 0));
        assert_eq!(probe(0), None);
    }

    #[test]
    fn costs_are_differences() {
        let at = |user_s, rss_bytes| Probe { user_s, system_s: 1.0, cpu_s: user_s + 1.0, rss_bytes };
        let cost = Cost::new(7, &at(0.0, 1_000), &at(1.0, 9_000), &at(3.0, 5_000), 4.0, 10);
        assert_eq!((cost.user_s, cost.system_s, cost.cpu()), (2.0, 0.0, 0.5));
        assert_eq!((cost.rss_bytes, cost.rss_bytes_per_conn), (5_000, 400.0));
        assert_eq!((cost.cpu_us_per_message(1_000.0), cost.cpu_us_per_message(0.0)), (Some(500.0), None));
    }
}
