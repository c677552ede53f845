//! A timerfd for absolute deadlines: epoll's own timeouts are whole milliseconds, and 5,000 messages per second
//! are due every 200 microseconds.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::clock::SECOND_NS;

/// One timer on CLOCK_MONOTONIC.
#[derive(Debug)]
pub struct Timer {
    timer: TimerFd,
    armed_ns: Option<u64>,
}

impl Timer {
    /// A timer that wakes `registry`'s poll with `token`.
    ///
    /// # Errors
    /// The system gives no descriptor.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_fd().as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, armed_ns: None })
    }

    /// Wakes the poll at `deadline_ns`, at once where that is past; never for `None`. Setting a timer also clears
    /// its last expiry, so it need not be read.
    ///
    /// # Errors
    /// The system refuses, which it has no reason to.
    pub fn arm(&mut self, deadline_ns: Option<u64>) -> io::Result<()> {
        if self.armed_ns == deadline_ns {
            return Ok(());
        }
        match deadline_ns {
            None => self.timer.unset()?,
            Some(ns) => {
                // Zero would disarm it.
                let ns = ns.max(1);
                let time = TimeSpec::new((ns / SECOND_NS) as i64, (ns % SECOND_NS) as i64);
                self.timer.set(Expiration::OneShot(time), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
        }
        self.armed_ns = deadline_ns;
        Ok(())
    }

    /// The timer has gone off: the next [`arm`](Self::arm) must set it again.
    pub fn fired(&mut self) {
        self.armed_ns = None;
    }
}
