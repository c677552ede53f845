//! Load for WebSocket servers, and what their users would feel: some 50,000 connections from one process, the true
//! latency of every fan-out delivery, and a verdict on itself.
//!
//! ```text
//!  main thread                        worker threads, each with its own
//!                                     descriptor table, poll and timer
//!  run         plan, run, report
//!  coordinate  phases          ------>  net/worker   one turn: events, connects, sends
//!  collect     seconds, totals <------  net/traffic  sends what is due
//!  outcome     sums, verdict            instrument   latency, integrity, fan-out
//!  find_max    the highest rate that holds
//!  ab, compare two versions, in pairs of runs
//! ```
//!
//! Threads share nothing while messages flow: each hands its histograms over once a second, and the payload itself
//! carries what is needed to time and to account for it. Only `net`, `crew`, `coordinate`, `run`, `ab`, `launch`,
//! `doctor` and `server` ask the clock or the system; the rest are values in, values out.

pub mod ab;
pub mod backoff;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cohort;
pub mod collect;
pub mod compare;
pub mod config;
pub mod connects;
pub mod coordinate;
pub mod crew;
pub mod doctor;
pub mod fanout;
pub mod files;
pub mod find_max;
pub mod instrument;
pub mod launch;
pub mod ledger;
pub mod live;
pub mod lives;
pub mod merge;
pub mod net;
pub mod outcome;
pub mod payload;
pub mod plan;
pub mod progress;
pub mod reasons;
pub mod recent;
pub mod record;
pub mod recorder;
pub mod report;
pub mod run;
pub mod schedule;
pub mod seconds;
pub mod server;
pub mod sizes;
pub mod sources;
pub mod stages;
pub mod target;
pub mod threshold;
pub mod verdict;
