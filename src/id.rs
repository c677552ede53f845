//! Names of things: which connection, which moment.

use std::fmt;

/// One connection, for as long as the process runs: a slot that is used again gets another generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(crate) worker: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.worker, self.slot, self.generation)
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnId({self})")
    }
}

/// A moment, in milliseconds since the server started, on the monotonic clock. Everything below the I/O shell
/// gets it as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// Later than anything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `duration` later, to the millisecond.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment `duration`, taken so many times, later. Whoever sets a limit to [`Duration::MAX`] means never.
    ///
    /// [`Duration::MAX`]: std::time::Duration::MAX
    #[must_use]
    pub fn after_times(self, times: f64, duration: std::time::Duration) -> Self {
        // What is out of range becomes the greatest there is.
        Self(self.0.saturating_add((duration.as_millis() as f64 * times) as u64))
    }
}

/// A moment, in microseconds since the server started: for what is measured, not for what is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// From `earlier` to this moment; nothing where that was later.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl From<Micros> for Millis {
    fn from(moment: Micros) -> Self {
        Self(moment.0 / 1000)
    }
}
