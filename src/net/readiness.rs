//! Whether a load balancer should send clients here.

use std::sync::atomic::{AtomicU8, Ordering};

/// Where a server is in its life, for whoever decides whether to send clients to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not all workers listen yet.
    Starting,
    /// All workers listen.
    Ready,
    /// Connections are still served, but no new ones should come: the server is about to stop.
    Draining,
}

impl Readiness {
    /// In lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The present one. Only goes forward: a server that drains is not ready again.
#[derive(Debug, Default)]
pub(crate) struct ReadinessCell(AtomicU8);

impl ReadinessCell {
    pub(crate) fn get(&self) -> Readiness {
        match self.0.load(Ordering::Acquire) {
            0 => Readiness::Starting,
            1 => Readiness::Ready,
            _ => Readiness::Draining,
        }
    }

    pub(crate) fn advance(&self, to: Readiness) {
        self.0.fetch_max(to as u8, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_only() {
        let cell = ReadinessCell::default();
        assert_eq!(cell.get(), Readiness::Starting);
        for (to, then) in [
            (Readiness::Ready, Readiness::Ready),
            (Readiness::Draining, Readiness::Draining),
            (Readiness::Ready, Readiness::Draining),
        ] {
            cell.advance(to);
            assert_eq!(cell.get(), then);
        }
    }
}
