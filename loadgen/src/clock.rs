//! The clocks: CLOCK_MONOTONIC in nanoseconds, and what the calling thread got of a processor.
//!
//! Only the shells ask the time; everything else takes it as an argument. `std::time::Instant` is the same clock
//! but hides its number, which the payload carries and the timers are set to.

use nix::time::{ClockId, clock_gettime};

/// A second in nanoseconds.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds that the calling thread has spent on a processor.
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Nanoseconds that the calling thread was ready to run and waited for a processor; 0 where the kernel does not
/// say.
pub fn thread_wait_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|wait| wait.parse().ok()).unwrap_or(0)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux has this clock");
    time.tv_sec() as u64 * SECOND_NS + time.tv_nsec() as u64
}
