//! The ledger by route. What is dropped because somebody did not keep up is entered where it is dropped; the rest when
//! the worker is done with a connection, from what its own ledger has gained meanwhile: a delivery pays nothing for it.

use super::{Counter, WorkerMetrics};

macro_rules! ledger {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The ledger of one route on one worker, in messages: each is also in the worker's own counter of that name.
        #[derive(Debug, Default)]
        pub struct RouteLedger {
            $(#[doc = concat!("As [`", stringify!($name), "`](WorkerMetrics::", stringify!($name), ").")]
              pub $name: Counter,)+
        }

        /// The ledger of one route on all workers, in messages, summed at one moment: what was due to its connections
        /// was delivered or dropped, or waits.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct RouteMetrics {
            /// The route's pattern.
            pub route: String,
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl RouteMetrics {
            /// Adds up workers.
            pub fn sum<'a>(route: String, workers: impl IntoIterator<Item = &'a RouteLedger>) -> Self {
                let mut sum = Self { route, ..Self::default() };
                for worker in workers {
                    $(sum.$name = sum.$name.wrapping_add(worker.$name.get());)+
                }
                sum
            }

            /// Every counter with its name, which is that of the same counter of the whole server.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }
        }
    };
}

ledger! {
    /// Messages due to the route's connections.
    due,
    /// Of those, messages that the kernel took whole.
    delivered,
    /// Of those, messages that wait now.
    queued,
    /// Of those, messages dropped because their receiver was too slow and was closed for it.
    dropped_slow,
    /// Of those, messages that found the queue full.
    dropped_newest,
    /// Of those, messages that made room for newer ones.
    dropped_oldest,
    /// Of those, messages that a newer one replaced.
    dropped_superseded,
    /// Of those, messages dropped because all queues together held too much.
    dropped_shed,
    /// Of those, messages dropped because their receiver's connection had ended.
    dropped_closed,
}

/// How far a worker's ledger has been entered in those of its routes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entered {
    due: u64,
    delivered: u64,
    queued: u64,
    dropped_closed: u64,
}

impl Entered {
    /// Enters what the worker's ledger has gained since the last call: all of it by the connections of one route.
    pub fn enter(&mut self, worker: &WorkerMetrics, route: &RouteLedger) {
        pass_on(&mut self.due, &worker.due, &route.due);
        pass_on(&mut self.delivered, &worker.delivered, &route.delivered);
        pass_on(&mut self.queued, &worker.queued, &route.queued);
        pass_on(&mut self.dropped_closed, &worker.dropped_closed, &route.dropped_closed);
    }
}

/// Adds what one counter has gained to another; a level may have sunk.
fn pass_on(last: &mut u64, from: &Counter, to: &Counter) {
    let now = from.get();
    if now != *last {
        to.add(now.wrapping_sub(*last));
        *last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gained_goes_to_the_route_that_gained_it_and_levels_sink() {
        let worker = WorkerMetrics::default();
        let [one, two] = [RouteLedger::default(), RouteLedger::default()];
        let mut entered = Entered::default();
        worker.due.add(5);
        worker.delivered.add(2);
        worker.queued.add(3);
        entered.enter(&worker, &one);
        entered.enter(&worker, &two);
        worker.due.add(1);
        worker.delivered.add(1);
        entered.enter(&worker, &two);
        worker.queued.sub(3);
        worker.dropped_closed.add(3);
        entered.enter(&worker, &one);
        let of = |ledger| {
            let sum = RouteMetrics::sum(String::new(), [ledger]);
            (sum.due, sum.delivered, sum.queued, sum.dropped_closed)
        };
        assert_eq!((of(&one), of(&two)), ((5, 2, 0, 3), (1, 1, 0, 0)));
    }
}
