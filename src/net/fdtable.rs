//! Descriptor tables: how many descriptors one thread may hold, and a table of its own for a thread.
//!
//! Linux counts `RLIMIT_NOFILE` against the descriptor *table*, which threads share unless told otherwise. A
//! thread that unshares its table has the whole limit to itself, takes no lock that another thread holds when
//! it accepts, and never waits for a resize of the shared table: with the usual hard limit of 20,000, four
//! workers hold close to 80,000 connections in one process.
//!
//! This is the only module with `unsafe` code.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::UnshareFlags;

/// Raises the soft limit on descriptors to the hard limit and returns it.
///
/// # Errors
/// The system refused, which it has no reason to.
pub fn raise_nofile() -> io::Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current.unwrap_or(u64::MAX))
}

/// Gives the calling thread a descriptor table of its own: a copy of the present one, from now on apart.
///
/// A descriptor opened in one table does not exist in another: its number may be free there, or be somebody
/// else's. So the caller must see to it that
/// - whatever this thread shares with others (event descriptors, logs) was opened **before** the call, and is
///   closed by nobody while it is in use;
/// - whatever this thread opens **after** the call is used and dropped by this thread alone (wsd's connection
///   types are `!Send` for this reason);
/// - what others had open before the call stays open, in this thread's copy, until the thread ends.
///
/// # Errors
/// The system refused: the default seccomp profile of Docker forbids `unshare`. The thread then goes on with
/// the shared table.
#[expect(unsafe_code, reason = "no safe wrapper exists: the rules above cannot be said in types")]
pub fn unshare() -> io::Result<()> {
    // SAFETY: with `FILES` alone nothing but the descriptor table changes. The danger is a descriptor used across
    // tables; the callers keep to the three rules above: event descriptors are opened by the thread that starts
    // the others, before they start, and everything else lives and dies in its own thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_the_hard_limit() {
        let raised = raise_nofile().expect("raising up to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX), raised);
    }

    #[test]
    fn what_a_thread_opens_afterwards_is_not_in_the_other_table() {
        use std::os::fd::AsRawFd;
        let number = std::thread::spawn(|| {
            if unshare().is_err() {
                return None;
            }
            // High enough to be nobody's in the table of the test runner.
            let opened: Vec<_> =
                (0..200).map(|_| std::fs::File::open("/dev/null").expect("it exists")).collect();
            let last = opened.last()?.as_raw_fd();
            assert!(std::fs::read_link(format!("/proc/thread-self/fd/{last}")).is_ok());
            Some((last, std::fs::read_link(format!("/proc/self/fd/{last}")).is_ok()))
        });
        if let Some((_, in_main_table)) = number.join().expect("the thread ends well") {
            assert!(!in_main_table, "/proc/self is the main thread's table");
        }
    }
}
