//! How fast connections are accepted, by all workers together.

use std::sync::atomic::Ordering;

use crate::id::Millis;
use crate::rate::Rate;
use crate::sync::AtomicU64;

/// The rate of all workers: one word, touched once for each connection, and not at all without a limit.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Rate,
    paid: AtomicU64,
}

impl Pace {
    /// So many a second; 0: no limit.
    pub(crate) fn new(rate: u32) -> Self {
        Self { rate: Rate::new(rate, 1), paid: AtomicU64::new(0) }
    }

    /// Pays for one connection.
    ///
    /// # Errors
    /// As [`Rate::pay`].
    pub(crate) fn take(&self, now: Millis) -> Result<(), Millis> {
        if !self.rate.is_limited() {
            return Ok(());
        }
        let pay = |paid| self.rate.pay(paid, now).ok();
        match self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay) {
            Ok(_) => Ok(()),
            Err(paid) => self.rate.pay(paid, now).map(drop),
        }
    }

    /// Nobody was waiting: gives back what was paid.
    pub(crate) fn give_back(&self) {
        if self.rate.is_limited() {
            self.paid.fetch_sub(self.rate.cost(), Ordering::Relaxed);
        }
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
