//! How much of something there may be in a second.

use crate::id::Millis;

/// Microseconds in a second: allowances are counted in them, because a millisecond is too long for one of a thousand.
const SECOND: u64 = 1_000_000;

/// So many a second, and some seconds' worth at once (the generic cell rate algorithm); 0: no limit. What is kept of
/// whoever is held to it is when its allowance is whole again, in microseconds of the server's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    each_second: u32,
    seconds_at_once: u32,
}

impl Rate {
    pub(crate) const fn new(each_second: u32, seconds_at_once: u32) -> Self {
        Self { each_second, seconds_at_once }
    }

    pub(crate) fn is_limited(self) -> bool {
        self.each_second > 0
    }

    /// Pays for one; gives when the allowance is whole again then.
    ///
    /// # Errors
    /// The allowance is used up; there will be more at that time.
    pub(crate) fn pay(self, paid: u64, now: Millis) -> Result<u64, Millis> {
        let now = now.0 * 1000;
        let at_once = u64::from(self.seconds_at_once) * SECOND;
        let paid = paid.max(now) + self.cost();
        if paid <= now + at_once { Ok(paid) } else { Err(Millis((paid - at_once).div_ceil(1000))) }
    }

    pub(crate) fn cost(self) -> u64 {
        SECOND.checked_div(u64::from(self.each_second)).unwrap_or(0)
    }
}
