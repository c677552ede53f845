//! How much memory this process may use: what its control groups allow, or what the machine has.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::info;

use crate::config::QueueTotal;

/// Where control groups are mounted: version 2, and version 1's for memory.
const UNIFIED: (&str, &str) = ("/sys/fs/cgroup", "memory.max");
const LEGACY: (&str, &str) = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes");

/// Bytes that all queues together may hold; 0 for no limit.
pub(super) fn queue_total(total: QueueTotal) -> u64 {
    let percent = match total {
        QueueTotal::Bytes(bytes) => return bytes,
        QueueTotal::Percent(percent) => percent,
    };
    let memory = available(|path| fs::read_to_string(path).ok(), installed());
    let bytes = memory / 100 * u64::from(percent);
    info!(memory, bytes, "what all queues together may hold");
    bytes
}

/// The least of what the machine has and what any control group above this process allows.
fn available(read: impl Fn(&Path) -> Option<String>, installed: u64) -> u64 {
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(group).flat_map(|((mount, file), group)| {
        // A container may see the path that its group has outside, which is not there: the mount itself then is
        // the group.
        let inside = Path::new(mount).join(group.trim_start_matches('/'));
        let above: Vec<PathBuf> = inside.ancestors().map(|group| group.join(file)).collect();
        above.into_iter().take_while(move |path| path.starts_with(mount))
    });
    // "max", and no file where there is no limit.
    let limits = limits.filter_map(|path| read(&path)?.trim().parse().ok());
    // A container may have a `/proc/meminfo` of its own. A service may have none (`ProcSubset=pid`).
    let shown = machine(&read(Path::new("/proc/meminfo")).unwrap_or_default());
    limits.chain(shown).fold(installed, u64::min)
}

/// A line of `/proc/self/cgroup`, such as `0::/user.slice` or `4:memory:/docker/1f`: where to look for the limit.
fn group(line: &str) -> Option<((&'static str, &'static str), &str)> {
    let mut parts = line.splitn(3, ':');
    let (hierarchy, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    match controllers {
        "" if hierarchy == "0" => Some((UNIFIED, group)),
        _ if controllers.split(',').any(|controller| controller == "memory") => Some((LEGACY, group)),
        _ => None,
    }
}

/// What the machine has, asked of the kernel itself: sysinfo(2).
fn installed() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram.saturating_mul(u64::from(system.mem_unit))
}

/// What `/proc/meminfo` says that the machine has.
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("/proc/meminfo", "MemTotal:        8000 kB\nMemFree:  5 kB\n");

    /// What sysinfo(2) says, some of which `/proc/meminfo` may hide.
    const INSTALLED: u64 = 8_300_000;

    fn found(files: &[(&str, &str)]) -> u64 {
        let text = |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path);
        available(|path| text(path).map(|(_, text)| (*text).to_owned()), INSTALLED)
    }

    #[test]
    fn the_machines_memory_where_no_group_has_a_limit() {
        assert_eq!(found(&[MEMINFO]), 8_192_000);
        let unlimited = ("/sys/fs/cgroup/a/memory.max", "max\n");
        assert_eq!(found(&[MEMINFO, ("/proc/self/cgroup", "0::/a\n"), unlimited]), 8_192_000);
        // What version 1 says for no limit.
        let legacy = ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(found(&[MEMINFO, ("/proc/self/cgroup", "4:memory:/a\n"), legacy]), 8_192_000);
        assert_eq!(found(&[("/proc/meminfo", "MemTotal: lots\n")]), INSTALLED);
    }

    /// `ProcSubset=pid`, as in the unit file, leaves what belongs to the process and nothing else.
    #[test]
    fn without_meminfo_the_kernel_itself_is_asked() {
        assert_eq!(found(&[]), INSTALLED);
        let own = ("/proc/self/cgroup", "0::/a\n");
        assert_eq!(found(&[own, ("/sys/fs/cgroup/a/memory.max", "1024000\n")]), 1_024_000);
        let shown = machine(&fs::read_to_string("/proc/meminfo").expect("tests run where procfs is"));
        assert_eq!(shown.map(|shown| shown <= installed()), Some(true), "{shown:?} {}", installed());
    }

    #[test]
    fn the_smallest_limit_of_all_groups_above_holds() {
        let own = ("/proc/self/cgroup", "0::/user.slice/wsd.service\n");
        let service = ("/sys/fs/cgroup/user.slice/wsd.service/memory.max", "4096000\n");
        let slice = ("/sys/fs/cgroup/user.slice/memory.max", "1024000\n");
        assert_eq!(found(&[MEMINFO, own, service]), 4_096_000);
        assert_eq!(found(&[MEMINFO, own, service, slice]), 1_024_000);
    }

    #[test]
    fn in_a_container_the_mount_is_the_group() {
        let outside = ("/proc/self/cgroup", "0::/system.slice/docker-1f.scope\n");
        assert_eq!(found(&[MEMINFO, outside, ("/sys/fs/cgroup/memory.max", "512000\n")]), 512_000);
        let own = ("/proc/self/cgroup", "0::/\n");
        assert_eq!(found(&[MEMINFO, own, ("/sys/fs/cgroup/memory.max", "512000\n")]), 512_000);
    }

    #[test]
    fn version_1_has_a_group_for_memory() {
        let groups = ("/proc/self/cgroup", "12:pids:/a\n4:cpu,memory:/docker/1f\n0::/a\n");
        let limit = ("/sys/fs/cgroup/memory/docker/1f/memory.limit_in_bytes", "2048000\n");
        assert_eq!(found(&[MEMINFO, groups, limit]), 2_048_000);
        let pids = ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1\n");
        assert_eq!(found(&[MEMINFO, groups, pids]), 8_192_000);
    }

    #[test]
    fn bytes_are_taken_as_they_are() {
        assert_eq!(queue_total(QueueTotal::Bytes(0)), 0);
        assert_eq!(queue_total(QueueTotal::Bytes(12_345)), 12_345);
        let (quarter, half) = (queue_total(QueueTotal::Percent(25)), queue_total(QueueTotal::Percent(50)));
        assert!(quarter > 0 && half == 2 * quarter, "{quarter} {half}");
    }
}
