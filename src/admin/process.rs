//! What the system knows about this process.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Processor time, memory and start of the whole process.
#[derive(Debug, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    /// Since the epoch.
    pub(super) start_seconds: f64,
    pub(super) threads: u64,
}

/// `None` where there is no procfs.
pub(super) fn process() -> Option<Process> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    Some(Process {
        cpu_seconds: cpu_seconds(&stat)?,
        resident_bytes: field(&stat, 24)? * page_size() as u64,
        virtual_bytes: field(&stat, 23)?,
        start_seconds: start_seconds(&stat)?,
        threads: field(&stat, 20)?,
    })
}

/// When the process started. From clocks, because `/proc/stat` may be hidden (`ProcSubset=pid`), and once, so that a
/// wall clock that is set does not look like a restart.
fn start_seconds(stat: &str) -> Option<f64> {
    static START: OnceLock<f64> = OnceLock::new();
    let seconds = |time: Timespec| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    let started = field(stat, 22)? as f64 / clock_ticks_per_second() as f64;
    Some(*START.get_or_init(|| {
        let booted = seconds(clock_gettime(ClockId::Realtime)) - seconds(clock_gettime(ClockId::Boottime));
        booted + started
    }))
}

/// Processor time of one thread, in seconds.
pub(super) fn thread_cpu_seconds(thread_id: u32) -> Option<f64> {
    cpu_seconds(&fs::read_to_string(format!("/proc/self/task/{thread_id}/stat")).ok()?)
}

/// Descriptors in this process's own table.
pub(super) fn descriptors() -> Option<u64> {
    count_descriptors("/proc/self/fd".into())
}

/// Descriptors in a thread's table.
pub(super) fn thread_descriptors(thread_id: u32) -> Option<u64> {
    count_descriptors(format!("/proc/self/task/{thread_id}/fd").into())
}

fn count_descriptors(directory: PathBuf) -> Option<u64> {
    // Since Linux 6.2 the size of the directory is the number; before that it is 0, and they have to be counted.
    match fs::metadata(&directory).ok()?.len() {
        0 => Some(fs::read_dir(directory).ok()?.count() as u64),
        count => Some(count),
    }
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) as f64 / clock_ticks_per_second() as f64)
}

/// A field of `/proc/PID/stat` by its number in proc(5), from 3 on. The second one is a name, which may have
/// spaces and parentheses in it.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 1000 4096 12 18446744073709551615";
        assert_eq!(cpu_seconds(stat), Some(200.0 / clock_ticks_per_second() as f64));
        assert_eq!((field(stat, 20), field(stat, 22), field(stat, 24)), (Some(3), Some(1000), Some(12)));
        assert_eq!(field("", 14), None);
    }

    #[test]
    fn this_process_is_there() {
        let process = process().expect("tests run where procfs is");
        assert!(process.resident_bytes > 0 && process.threads > 0);
        assert!(descriptors().is_some_and(|count| count > 0));
    }

    #[test]
    fn the_start_is_where_the_systems_own_records_have_it() {
        let system = fs::read_to_string("/proc/stat").expect("tests run where procfs is");
        let booted = system.lines().find_map(|line| line.strip_prefix("btime ")).expect("a line");
        let booted: f64 = booted.trim().parse().expect("seconds");
        let stat = fs::read_to_string("/proc/self/stat").expect("it is there");
        let started = booted + field(&stat, 22).expect("ticks") as f64 / clock_ticks_per_second() as f64;
        // That has whole seconds.
        let found = start_seconds(&stat).expect("it has a field for it");
        assert!((found - started).abs() < 2.0, "{found} {started}");
        assert_eq!(process().map(|process| process.start_seconds), Some(found), "it never moves");
    }
}
