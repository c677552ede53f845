//! `loadgen doctor`: what of this machine will limit so many connections, and the remedy; said before anything is tried.

use std::io::{self, Write};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::clock::monotonic_ns;
use crate::plan::{Machine, Plan, Wish, sources};
use crate::report::format::{bytes, count, duration};
use crate::sources::SourceIps;

/// What both ends of an idle connection take from the machine: two kernel sockets with empty buffers and the state of
/// both programs. An estimate on the safe side, not a measurement: the answer says "about".
const BYTES_PER_CONN: u64 = 12 * 1024;
/// A queue of connections that is shorter can overflow while 256 handshakes are under way.
const BACKLOG_MIN: u64 = 512;
/// A timer that wakes later (p99) makes latencies of this order its own.
const WAKE_LATE_NS: u64 = 1_000_000;
/// Reading the clock should cost less: it is read twice per message.
const CLOCK_NS: u64 = 200;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No obstacle.
    Ok,
    /// It will work, but worse than it could.
    Warn,
    /// It will not work.
    Fail,
}

impl Level {
    const fn of(fail: bool, warn: bool) -> Self {
        if fail {
            Self::Fail
        } else if warn {
            Self::Warn
        } else {
            Self::Ok
        }
    }
}

/// One look at the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do, unless all is well.
    pub remedy: String,
}

impl Check {
    fn new(name: &'static str, level: Level, found: String, remedy: &str) -> Self {
        let remedy = if level == Level::Ok { String::new() } else { remedy.to_owned() };
        Self { name, level, found, remedy }
    }
}

/// What decides, as the system tells it.
#[derive(Clone, Copy, Debug)]
pub struct Findings {
    /// Limits of processes and ports.
    pub machine: Machine,
    /// net.core.somaxconn.
    pub backlog: u64,
    /// Memory that programs can still get.
    pub memory_bytes: u64,
    /// fs.file-max, less what is open.
    pub files_left: u64,
    /// net.netfilter.nf_conntrack_max, where connections are tracked.
    pub tracked_max: Option<u64>,
    /// What one look at the clock costs.
    pub clock_ns: u64,
    /// How late a timer wakes, p99.
    pub wake_late_ns: u64,
    /// Processes that want a core, over the last minute, times 100.
    pub load_percent: u64,
}

/// Judges the findings for `conns` connections from these addresses to a server on this machine.
pub fn checks(conns: u32, source_ips: SourceIps, it: &Findings) -> Vec<Check> {
    let server = match source_ips.listed().first() {
        // Towards the same kind of address.
        Some(first) if first.is_ipv6() => (std::net::Ipv6Addr::LOCALHOST, 8080).into(),
        _ => ([127, 0, 0, 1], 8080).into(),
    };
    let wish = Wish { conns, threads: None, leaving: 0, server, source_ips };
    let conns = u64::from(conns);
    let mut out =
        vec![descriptors(&wish, it), files(conns, it), ports(&wish, it), backlog(it), memory(conns, it)];
    out.extend(it.tracked_max.map(|max| conntrack(conns, max)));
    out.extend([clock(it), timers(it), cores(it)]);
    out
}

/// Whether the threads' tables hold so many descriptors, as the plan sees it.
fn descriptors(wish: &Wish, it: &Findings) -> Check {
    let (level, found) = match Plan::new(wish, &it.machine) {
        Ok(plan) => {
            let (tables, of, conns) = (plan.tables, count(plan.descriptors), count(u64::from(wish.conns)));
            (Level::Ok, format!("{tables} tables of {of} for {conns} connections"))
        }
        Err(problem) => (Level::Fail, problem),
    };
    let remedy = "raise the hard limit: ulimit -Hn, LimitNOFILE= or /etc/security/limits.conf";
    Check::new("descriptors", level, found, remedy)
}

fn files(conns: u64, it: &Findings) -> Check {
    let level = Level::of(it.files_left < 2 * conns, false);
    let found = format!("{} left in the system", count(it.files_left.min(u64::from(u32::MAX))));
    Check::new("files", level, found, "sysctl -w fs.file-max=2000000")
}

/// Whether the source addresses have ports enough, as the plan sees it.
fn ports(wish: &Wish, it: &Findings) -> Check {
    let per_address = count(u64::from(it.machine.ports));
    let (kind, remedy) = match wish.source_ips {
        SourceIps::Auto => ("on loopback", "sysctl -w net.ipv4.ip_local_port_range='1024 65535'"),
        SourceIps::List { .. } => ("given", "list more addresses with --source-ip"),
    };
    let addresses = |number: usize| {
        let plural = if number == 1 { "" } else { "es" };
        format!("{per_address} per address, {number} source address{plural} {kind}")
    };
    let (level, found) = match sources(wish, &it.machine) {
        Err(problem) => (Level::Fail, problem),
        Ok((_, Some(warning))) => (Level::Warn, warning),
        Ok((sources, None)) => (Level::Ok, addresses(sources.len())),
    };
    Check::new("ports", level, found, remedy)
}

fn backlog(it: &Findings) -> Check {
    let level = Level::of(false, it.backlog < BACKLOG_MIN);
    let remedy = "sysctl -w net.core.somaxconn=4096, and restart the server";
    Check::new("backlog", level, format!("somaxconn {}", count(it.backlog)), remedy)
}

fn memory(conns: u64, it: &Findings) -> Check {
    let need = conns * BYTES_PER_CONN;
    let level = Level::of(need > it.memory_bytes, need * 2 > it.memory_bytes);
    let (there, needed) = (bytes(it.memory_bytes), bytes(need));
    let found = format!("{there} to be had, about {needed} needed for both ends");
    Check::new("memory", level, found, "fewer connections, or a machine with more memory")
}

fn conntrack(conns: u64, max: u64) -> Check {
    let found = format!("the firewall tracks {} connections", count(max));
    let remedy = "sysctl -w net.netfilter.nf_conntrack_max=1000000";
    Check::new("conntrack", Level::of(max < conns, max < 2 * conns), found, remedy)
}

fn clock(it: &Findings) -> Check {
    let level = Level::of(false, it.clock_ns > CLOCK_NS);
    let remedy = "the clock source is slow: see /sys/devices/system/clocksource, tsc or kvm-clock are fast";
    Check::new("clock", level, format!("{} per look", duration(it.clock_ns)), remedy)
}

fn timers(it: &Findings) -> Check {
    let level = Level::of(false, it.wake_late_ns > WAKE_LATE_NS);
    let found = format!("wake {} late (p99)", duration(it.wake_late_ns));
    let remedy =
        "something else has the cores, or power saving is on: latencies below this are not the server's";
    Check::new("timers", level, found, remedy)
}

fn cores(it: &Findings) -> Check {
    let (cores, load) = (it.machine.cores, it.load_percent);
    let level = Level::of(false, cores < 2 || load > 50 * u64::from(cores));
    let found = format!("{cores}, load {}.{:02}", load / 100, load % 100);
    Check::new("cores", level, found, "server and generator need a core each, and nobody else should")
}

/// Looks, writes what it finds, and gives the exit code: 2 where the connections cannot be made.
///
/// # Errors
/// `out` cannot be written to.
pub fn run(conns: u32, source_ips: SourceIps, machine: Machine, out: &mut impl Write) -> io::Result<u8> {
    let checks = checks(conns, source_ips, &look(machine));
    for it in &checks {
        let level = match it.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        writeln!(out, "{:12}{level:6}{}", it.name, it.found)?;
        if !it.remedy.is_empty() {
            writeln!(out, "{:18}-> {}", "", it.remedy)?;
        }
    }
    let worst = checks.iter().map(|it| it.level).max().unwrap_or(Level::Ok);
    let conns = count(u64::from(conns));
    writeln!(
        out,
        "{}",
        match worst {
            Level::Ok => format!("{conns} connections: nothing in the way"),
            Level::Warn => format!("{conns} connections will work; read the warnings before the figures"),
            Level::Fail => format!("{conns} connections will not work here"),
        }
    )?;
    Ok(if worst == Level::Fail { 2 } else { 0 })
}

fn look(machine: Machine) -> Findings {
    let number = |path: &str, field: usize| {
        let text = std::fs::read_to_string(path).ok()?;
        text.split_whitespace().nth(field)?.parse::<u64>().ok()
    };
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 =
        available.and_then(|it| it.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX >> 10);
    let open = number("/proc/sys/fs/file-nr", 0).unwrap_or(0);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().and_then(|it| it.parse::<f64>().ok()).unwrap_or(0.0);
    Findings {
        machine,
        backlog: number("/proc/sys/net/core/somaxconn", 0).unwrap_or(u64::MAX),
        memory_bytes: kib << 10,
        files_left: number("/proc/sys/fs/file-max", 0).unwrap_or(u64::MAX).saturating_sub(open),
        tracked_max: number("/proc/sys/net/netfilter/nf_conntrack_max", 0),
        clock_ns: clock_ns(),
        wake_late_ns: wake_late_ns().unwrap_or(0),
        load_percent: (load * 100.0) as u64,
    }
}

/// What one look at the clock costs.
fn clock_ns() -> u64 {
    const LOOKS: u64 = 10_000;
    let begin_ns = monotonic_ns();
    (0..LOOKS).for_each(|_| {
        std::hint::black_box(monotonic_ns());
    });
    (monotonic_ns() - begin_ns) / LOOKS
}

/// How late a timer wakes, at the 99th percentile of two hundred.
fn wake_late_ns() -> Option<u64> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC).ok()?;
    let mut late: Vec<u64> = (0..200)
        .filter_map(|_| {
            let due_ns = monotonic_ns() + 1_000_000;
            let time = TimeSpec::from(Duration::from_nanos(due_ns));
            timer.set(Expiration::OneShot(time), TimerSetTimeFlags::TFD_TIMER_ABSTIME).ok()?;
            timer.wait().ok()?;
            Some(monotonic_ns().saturating_sub(due_ns))
        })
        .collect();
    late.sort_unstable();
    late.get(197).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Findings = Findings {
        machine: Machine { descriptors: 20_000, private_tables: true, cores: 4, ports: 28_232 },
        backlog: 4_096,
        memory_bytes: 8 << 30,
        files_left: 1_000_000,
        tracked_max: None,
        clock_ns: 25,
        wake_late_ns: 60_000,
        load_percent: 10,
    };

    fn level(conns: u32, findings: &Findings, name: &str) -> Level {
        checks(conns, SourceIps::Auto, findings)
            .iter()
            .find(|it| it.name == name)
            .expect("it is looked at")
            .level
    }

    #[test]
    fn a_good_machine_has_no_remedies() {
        let all = checks(50_000, SourceIps::Auto, &GOOD);
        assert!(all.iter().all(|it| it.level == Level::Ok && it.remedy.is_empty()), "{all:#?}");
    }

    #[test]
    fn each_limit_at_its_bound() {
        let few = Machine { private_tables: false, ..GOOD.machine };
        assert_eq!(level(50_000, &Findings { machine: few, ..GOOD }, "descriptors"), Level::Fail);
        assert_eq!(level(5_000_000, &Findings { files_left: u64::MAX, ..GOOD }, "ports"), Level::Fail);
        assert_eq!(level(500_001, &GOOD, "files"), Level::Fail);
        assert_eq!(level(10, &Findings { backlog: 128, ..GOOD }, "backlog"), Level::Warn);
        assert_eq!(level(50_000, &Findings { memory_bytes: 1 << 30, ..GOOD }, "memory"), Level::Warn);
        assert_eq!(level(50_000, &Findings { memory_bytes: 1 << 29, ..GOOD }, "memory"), Level::Fail);
        let tracked = |max| Findings { tracked_max: Some(max), ..GOOD };
        assert_eq!(level(1_000, &tracked(999), "conntrack"), Level::Fail);
        assert_eq!(level(1_000, &tracked(1_999), "conntrack"), Level::Warn);
        assert_eq!(level(1_000, &tracked(2_000), "conntrack"), Level::Ok);
        assert_eq!(level(10, &Findings { clock_ns: 900, ..GOOD }, "clock"), Level::Warn);
        assert_eq!(level(10, &Findings { wake_late_ns: 2_000_000, ..GOOD }, "timers"), Level::Warn);
        assert_eq!(level(10, &Findings { load_percent: 250, ..GOOD }, "cores"), Level::Warn);
    }

    #[test]
    fn listed_sources_are_judged_as_the_plan_does() {
        let level = |conns, list: &str| {
            let checks = checks(conns, SourceIps::parse(list).expect(list), &GOOD);
            let it = checks.into_iter().find(|it| it.name == "ports").expect("it is looked at");
            (it.level, it.found)
        };
        let found = "28,232 per address, 2 source addresses given".to_owned();
        assert_eq!(level(28_000, "127.0.0.8,127.0.0.9"), (Level::Ok, found));
        assert_eq!(level(28_001, "127.0.0.8,127.0.0.9").0, Level::Warn);
        assert_eq!(level(56_465, "127.0.0.8,127.0.0.9").0, Level::Fail);
        assert_eq!(level(10, "::1"), (Level::Ok, "28,232 per address, 1 source address given".to_owned()));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let it = look(GOOD.machine);
        assert!(it.memory_bytes > 0 && it.clock_ns > 0);
    }
}
