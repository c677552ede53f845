//! How many threads, which source addresses, and whether this machine can do it at all: said before a socket is
//! opened.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::report::format::count;
use crate::sources::SourceIps;

/// Connections per source address and destination: after about so many the kernel has handed out every port of
/// the parity it prefers, and a `connect` costs twenty times as much.
pub const CONNS_PER_SOURCE_MAX: u32 = 14_000;

/// Source addresses to take from 127.0.0.0/8: 127.0.0.1 to 127.0.0.254.
const LOOPBACK_SOURCES_MAX: u32 = 254;

/// Descriptors of a table that are no connections: standard streams, polls, timers, outputs.
const DESCRIPTORS_RESERVED: u64 = 64;

/// What matters of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// RLIMIT_NOFILE, which counts per descriptor table.
    pub descriptors: u64,
    /// Whether each thread can have a descriptor table of its own.
    pub private_tables: bool,
    /// Cores that this process may use.
    pub cores: u32,
    /// Ports that the kernel gives to outgoing connections, per source address.
    pub ports: u32,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Connections.
    pub conns: u32,
    /// Threads, where the user has said how many.
    pub threads: Option<u32>,
    /// Further descriptors in each table, for connections that are leaving.
    pub leaving: u32,
    /// The server.
    pub server: SocketAddr,
    /// The addresses to connect from.
    pub source_ips: SourceIps,
}

/// How it will be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Connections.
    pub conns: u32,
    /// Threads, each with its own share of the connections.
    pub threads: u32,
    /// The addresses to connect from, by turns; `None` leaves the choice to the kernel.
    pub sources: Vec<Option<IpAddr>>,
    /// Descriptor tables that hold the connections.
    pub tables: u32,
    /// Descriptors that each table may hold.
    pub descriptors: u64,
    /// What will work, but not well.
    pub warning: Option<String>,
}

impl Plan {
    /// Makes a plan.
    ///
    /// # Errors
    /// One line that says which limit is in the way and what to do.
    pub fn new(wish: &Wish, machine: &Machine) -> Result<Self, String> {
        let threads = threads(wish, machine)?;
        let (sources, warning) = sources(wish, machine)?;
        let tables = if machine.private_tables { threads } else { 1 };
        Ok(Self { conns: wish.conns, threads, sources, tables, descriptors: machine.descriptors, warning })
    }

    /// How many connections thread `thread` opens: it has connection `thread`, `thread + threads`, and so on.
    pub const fn share(&self, thread: u32) -> u32 {
        (self.conns + self.threads - 1 - thread) / self.threads
    }
}

/// Connections that one table can hold when `threads` polls and timers are in it as well.
fn table_room(machine: &Machine, threads: u32, leaving: u64) -> u64 {
    machine.descriptors.saturating_sub(DESCRIPTORS_RESERVED + 4 * u64::from(threads) + leaving)
}

fn threads(wish: &Wish, machine: &Machine) -> Result<u32, String> {
    let (conns, leaving) = (u64::from(wish.conns), u64::from(wish.leaving));
    if !machine.private_tables {
        let threads = wish.threads.unwrap_or(machine.cores).clamp(1, wish.conns);
        let room = table_room(machine, threads, leaving * u64::from(threads));
        if conns > room {
            return Err(format!(
                "--conns {}: RLIMIT_NOFILE is {} and this system refuses private descriptor tables (unshare), so \
                 {} connections are the most: lower --conns, raise the limit, or allow unshare",
                count(conns),
                count(machine.descriptors),
                count(room)
            ));
        }
        return Ok(threads);
    }
    let fits =
        |threads: u32| u64::from(wish.conns.div_ceil(threads)) <= table_room(machine, threads, leaving);
    // A thread's own four descriptors make this converge in a step or two.
    let needed = (1..=wish.conns.min(1024)).find(|&threads| fits(threads)).ok_or_else(|| {
        format!(
            "--conns {}: RLIMIT_NOFILE is {}, too low for any number of threads: raise the limit",
            count(conns),
            count(machine.descriptors)
        )
    })?;
    match wish.threads {
        Some(threads) if fits(threads.min(wish.conns)) => Ok(threads.min(wish.conns)),
        Some(threads) => Err(format!(
            "--threads {threads}: {} connections on {threads} threads are more than RLIMIT_NOFILE, {}, allows in \
             each: give --threads {needed} or more, or raise the limit",
            count(conns),
            count(machine.descriptors)
        )),
        None => Ok(needed.max(machine.cores.min(wish.conns))),
    }
}

/// The addresses to connect from, `None` for the kernel's choice; and what will work, but not well.
///
/// # Errors
/// One line: there are not enough ports, or the addresses do not fit.
pub fn sources(wish: &Wish, machine: &Machine) -> Result<(Vec<Option<IpAddr>>, Option<String>), String> {
    let per_source = CONNS_PER_SOURCE_MAX.min(machine.ports / 2).max(1);
    let needed = wish.conns.div_ceil(per_source);
    if let SourceIps::List { addresses, .. } = &wish.source_ips {
        return listed(wish, machine, addresses, needed).map(|warning| {
            (addresses.iter().copied().map(Some).take(wish.conns as usize).collect(), warning)
        });
    }
    if wish.server.ip().is_loopback() && wish.server.is_ipv4() {
        if needed > LOOPBACK_SOURCES_MAX {
            return Err(format!(
                "--conns {}: {LOOPBACK_SOURCES_MAX} source addresses of {} ports each are the most: lower --conns \
                 or widen net.ipv4.ip_local_port_range",
                count(u64::from(wish.conns)),
                count(u64::from(per_source))
            ));
        }
        let source = |number: u32| Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, number as u8)));
        return Ok(((1..=needed).map(source).collect(), None));
    }
    if wish.conns > machine.ports {
        return Err(format!(
            "--conns {}: there is one source address towards {} and it has {} ports: lower --conns, widen \
             net.ipv4.ip_local_port_range, or use a server on 127.0.0.1",
            count(u64::from(wish.conns)),
            wish.server.ip(),
            count(u64::from(machine.ports))
        ));
    }
    let warning = (needed > 1).then(|| {
        format!(
            "one source address towards {}: connecting slows down after {} connections",
            wish.server.ip(),
            count(u64::from(per_source))
        )
    });
    Ok((vec![None], warning))
}

/// Whether the addresses that the user has listed will do; gives a warning where it will not go well.
fn listed(
    wish: &Wish,
    machine: &Machine,
    addresses: &[IpAddr],
    needed: u32,
) -> Result<Option<String>, String> {
    let count = |number: u32| count(u64::from(number));
    if let Some(address) = addresses.iter().find(|it| it.is_ipv4() != wish.server.is_ipv4()) {
        let server = wish.server.ip();
        return Err(format!("--source-ip {address}: cannot reach {server}: give addresses of its kind"));
    }
    let have = addresses.len() as u32;
    let most = have.saturating_mul(machine.ports);
    if wish.conns > most {
        return Err(format!(
            "--source-ip {}: {have} x {} ports are fewer than {} connections: give {} addresses, or widen \
             net.ipv4.ip_local_port_range",
            wish.source_ips,
            count(machine.ports),
            count(wish.conns),
            count(needed)
        ));
    }
    Ok((needed > have)
        .then(|| format!("{have} source addresses: connecting slows down; {} would do", count(needed))))
}

/// Ports that the kernel gives to outgoing connections.
pub fn local_ports() -> u32 {
    /// The kernel's default, for where it does not say.
    const DEFAULT: u32 = 28_232;
    let Ok(text) = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") else { return DEFAULT };
    let mut bounds = text.split_whitespace().map(str::parse::<u32>);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => high - low + 1,
        _ => DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { descriptors: 20_000, private_tables: true, cores: 2, ports: 28_232 };

    fn wish(conns: u32, server: &str) -> Wish {
        let server = server.parse().expect("an address");
        Wish { conns, threads: None, leaving: 0, server, source_ips: SourceIps::Auto }
    }

    fn loopback(conns: u32) -> Wish {
        wish(conns, "127.0.0.1:8080")
    }

    #[test]
    fn fifty_thousand_on_a_small_machine() {
        let plan = Plan::new(&loopback(50_000), &MACHINE).expect("works");
        assert_eq!((plan.threads, plan.tables, plan.sources.len(), plan.warning.is_none()), (3, 3, 4, true));
        assert_eq!((0..3).map(|thread| plan.share(thread)).collect::<Vec<_>>(), [16_667, 16_667, 16_666]);
        assert_eq!(plan.sources[3], Some("127.0.0.4".parse().expect("an address")));
    }

    #[test]
    fn a_further_source_at_the_limit_and_one_more() {
        let sources = |conns| Plan::new(&loopback(conns), &MACHINE).expect("works").sources.len();
        assert_eq!((sources(1), sources(14_000), sources(14_001)), (1, 1, 2));
        let narrow = Machine { ports: 2_000, ..MACHINE };
        assert_eq!(Plan::new(&loopback(1_001), &narrow).expect("works").sources.len(), 2);
    }

    #[test]
    fn threads_follow_from_descriptors_and_cores() {
        let threads = |conns, machine: &Machine| Plan::new(&loopback(conns), machine).expect("works").threads;
        let one_core = Machine { cores: 1, ..MACHINE };
        // 20,000 less 64 and 4 for the thread.
        assert_eq!((threads(19_932, &one_core), threads(19_933, &one_core)), (1, 2));
        assert_eq!((threads(1, &MACHINE), threads(10, &MACHINE)), (1, 2));
    }

    #[test]
    fn those_who_leave_need_descriptors_as_well() {
        let one_core = Machine { cores: 1, ..MACHINE };
        let threads =
            |conns| Plan::new(&Wish { leaving: 1_024, ..loopback(conns) }, &one_core).expect("works").threads;
        assert_eq!((threads(18_908), threads(18_909)), (1, 2));
        let shared = Machine { private_tables: false, ..MACHINE };
        let plan = |conns| Plan::new(&Wish { leaving: 1_024, ..loopback(conns) }, &shared);
        assert!(plan(17_880).is_ok() && plan(17_881).expect_err("one too many").contains("17,880"));
    }

    #[test]
    fn a_plan_that_cannot_work_names_limit_and_remedy() {
        let shared = Machine { private_tables: false, ..MACHINE };
        assert!(Plan::new(&loopback(19_928), &shared).is_ok_and(|plan| plan.tables == 1));
        let error = Plan::new(&loopback(19_929), &shared).expect_err("one too many");
        assert!(error.contains("RLIMIT_NOFILE") && error.contains("19,928"), "{error}");

        let few = Wish { threads: Some(2), ..loopback(50_000) };
        let error = Plan::new(&few, &MACHINE).expect_err("two tables are too few");
        assert!(error.contains("--threads 3"), "{error}");
        assert!(
            Plan::new(&Wish { threads: Some(8), ..few.clone() }, &MACHINE)
                .is_ok_and(|plan| plan.threads == 8)
        );

        let starved = Machine { descriptors: 60, ..MACHINE };
        assert!(Plan::new(&loopback(1), &starved).expect_err("no room").contains("raise the limit"));
    }

    #[test]
    fn a_single_source_address_has_an_end() {
        let plan = |conns| Plan::new(&wish(conns, "[::1]:8080"), &MACHINE);
        assert_eq!(plan(14_000).expect("works").warning, None);
        let slow = plan(14_001).expect("works");
        assert_eq!(slow.sources, [None]);
        assert!(slow.warning.is_some_and(|warning| warning.contains("14,000")));
        assert!(plan(28_232).is_ok());
        assert!(plan(28_233).expect_err("too many").contains("28,232 ports"));
    }

    #[test]
    fn listed_sources_at_their_limits() {
        let plan = |conns, list: &str| {
            let source_ips = SourceIps::parse(list).expect(list);
            Plan::new(&Wish { source_ips, ..loopback(conns) }, &MACHINE)
        };
        let two = plan(28_000, "127.0.0.9,127.1.0.1").expect("works");
        let addresses = ["127.0.0.9", "127.1.0.1"].map(|it| Some(it.parse().expect("an address")));
        assert_eq!((two.sources.as_slice(), two.warning), (&addresses[..], None));
        let slow = plan(28_001, "127.0.0.9,127.1.0.1").expect("works");
        assert!(slow.warning.is_some_and(|warning| warning.contains("3 would do")));
        assert!(plan(56_464, "127.0.0.9,127.1.0.1").is_ok());
        let error = plan(56_465, "127.0.0.9,127.1.0.1").expect_err("no port left");
        assert!(
            error.starts_with("--source-ip 127.0.0.9,127.1.0.1: ") && error.contains("give 5 addresses"),
            "{error}"
        );
        assert!(plan(1, "::1").expect_err("the other kind").contains("--source-ip ::1"));
        assert_eq!(plan(1, "127.1.0.0/24").expect("works").sources.len(), 1, "no more than connections");
    }
}
