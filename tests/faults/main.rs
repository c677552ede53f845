//! Faults of what is around a server: peers that vanish, clocks that jump, apps that panic, settings that change all
//! the time, system calls that fail.
//!
//! These are short forms. `scripts/chaos` runs the same tests for longer, by the variables `WSD_TEST_*`. Those that are
//! ignored need a machine that lets them do what they do: `scripts/test faults` looks, and runs them.

#![cfg(all(feature = "cli", feature = "tls"))]
#![expect(clippy::print_stdout, reason = "what was done is what one wants to see")]

mod clock;
#[path = "../common/mod.rs"]
mod common;
mod half_open;
mod load;
mod log;
mod panics;
mod reload;
mod syscalls;

use common::admin::Scrape;
use common::program::Program;
use common::wait_until;

/// The environment's number, or the usual one.
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .map_or(usual, |it| it.parse().unwrap_or_else(|_| panic!("{name} is a number, not {it:?}")))
}

/// How many WebSockets ended, for this reason.
fn closed(scrape: &Scrape, reason: &str) -> u64 {
    scrape.value(&format!("wsd_connections_closed_total{{reason=\"{reason}\"}}")) as u64
}

/// Nobody is sent anything: every message that was due came to one end. It counts as delivered right after it is.
#[track_caller]
fn assert_balanced(program: &Program) {
    wait_until("every message came to an end, and none is missing or too many", || {
        let scrape = Scrape::of(program.admin());
        let ends = scrape.value("wsd_messages_delivered_total") + scrape.sum("wsd_messages_dropped_total");
        scrape.value("wsd_messages_queued") == 0.0 && scrape.value("wsd_messages_due_total") == ends
    });
}
