//! The moments of a run at which a thread has something to do, and what it had used by then.

use crate::clock::{monotonic_ns, thread_cpu_ns, thread_wait_ns};
use crate::net::control::ThreadLoad;

/// Moments of a run at which this thread has something to do.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) seconds: u32,
    pub(super) next_second_ns: u64,
    /// When measuring began and ended.
    pub(super) begin: Option<Usage>,
    pub(super) end: Option<Usage>,
    /// When the thread's processor time was last read, and what it was.
    pub(super) last: (u64, u64),
}

/// What a thread has used so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    now_ns: u64,
    cpu_ns: u64,
    wait_ns: u64,
}

impl Usage {
    pub(super) fn now() -> Self {
        Self { now_ns: monotonic_ns(), cpu_ns: thread_cpu_ns(), wait_ns: thread_wait_ns() }
    }
}

impl Marks {
    /// The thread's share of a core since the last call, in thousandths; 0 at first.
    pub(super) fn busy_permille(&mut self, now_ns: u64) -> u64 {
        let cpu_ns = thread_cpu_ns();
        let (last_ns, last_cpu_ns) = std::mem::replace(&mut self.last, (now_ns, cpu_ns));
        if last_ns == 0 || now_ns == last_ns {
            return 0;
        }
        (cpu_ns - last_cpu_ns) * 1_000 / (now_ns - last_ns)
    }

    /// What the thread used between the marks, or up to now.
    pub(super) fn load(&self) -> ThreadLoad {
        let Some(begin) = self.begin else { return ThreadLoad::default() };
        let end = self.end.unwrap_or_else(Usage::now);
        let share = |from: u64, to: u64| (to - from) as f64 / (end.now_ns - begin.now_ns).max(1) as f64;
        ThreadLoad { cpu: share(begin.cpu_ns, end.cpu_ns), wait: share(begin.wait_ns, end.wait_ns) }
    }
}
