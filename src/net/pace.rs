//! How fast connections are accepted, by all workers together.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::Millis;

/// Microseconds in a second.
const SECOND: u64 = 1_000_000;

/// So many a second, and as many at once (the generic cell rate algorithm). One word for all workers, touched once for
/// each connection, and not at all without a limit.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u32,
    /// When the allowance is whole again, in microseconds of the server's time.
    paid: AtomicU64,
}

impl Pace {
    /// So many a second; 0: no limit.
    pub(crate) fn new(rate: u32) -> Self {
        Self { rate, paid: AtomicU64::new(0) }
    }

    /// Pays for one connection.
    ///
    /// # Errors
    /// The allowance is used up; there will be more at that time.
    pub(crate) fn take(&self, now: Millis) -> Result<(), Millis> {
        let Some(cost) = self.cost() else { return Ok(()) };
        let now = now.0 * 1000;
        let pay = |paid: u64| Some(paid.max(now) + cost).filter(|&paid| paid <= now + SECOND);
        match self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay) {
            Ok(_) => Ok(()),
            Err(paid) => Err(Millis((paid + cost - SECOND).div_ceil(1000))),
        }
    }

    /// Nobody was waiting: gives back what was paid.
    pub(crate) fn give_back(&self) {
        if let Some(cost) = self.cost() {
            self.paid.fetch_sub(cost, Ordering::Relaxed);
        }
    }

    fn cost(&self) -> Option<u64> {
        SECOND.checked_div(u64::from(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_at_once_and_then_the_rate() {
        for rate in [1, 5, 1_000] {
            let pace = Pace::new(rate);
            let start = Millis(5_000);
            assert!((0..rate).all(|_| pace.take(start).is_ok()), "{rate} at once");
            let next = pace.take(start).expect_err("one more has to wait");
            assert_eq!(next, Millis(5_000 + 1_000 / u64::from(rate)));
            assert!(pace.take(Millis(next.0 - 1)).is_err() && pace.take(next).is_ok());
            assert!(pace.take(next).is_err());
            pace.give_back();
            assert!(pace.take(next).is_ok());
        }
        let unlimited = Pace::new(0);
        assert!((0..10_000).all(|_| unlimited.take(Millis(0)).is_ok()));
    }
}
