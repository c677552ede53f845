//! What a room full of members that do not read costs the program in memory.

#![cfg(feature = "cli")]

mod common;

use common::program::Program;
use common::{Client, FIN, TEXT, frame};

const STALLED: usize = 1_000;
const MESSAGES: usize = 256;
const MESSAGE_BYTES: usize = 16 * 1024;

/// What the messages are in memory when they are there once.
const BACKLOG_BYTES: u64 = (MESSAGES * MESSAGE_BYTES) as u64;

#[test]
fn a_thousand_stalled_members_hold_one_backlog_and_not_a_thousand() {
    wsd::net::fdtable::raise_nofile().expect("up to the hard limit it is allowed");
    // Nobody is given up while this lasts.
    let limits = ["--queue-hard", "64MiB", "--progress-timeout", "1h", "--ping-interval", "0"];
    let program = Program::serve(&[&["--threads", "1"], &limits[..]].concat());
    let address = program.addresses()[0];
    let stalled: Vec<Client> = (0..STALLED).map(|_| Client::open_small(address, "/rooms/a")).collect();
    // The last member: what it has got, all others were given before.
    let mut reader = program.open("/rooms/a");
    let before = program.resident_bytes();
    let payload = vec![b'x'; MESSAGE_BYTES];
    for _ in 0..MESSAGES {
        reader.send(frame(FIN | TEXT, &payload));
        assert_eq!(reader.read_frame().payload.len(), MESSAGE_BYTES, "who reads gets everything");
    }
    let grown = program.resident_bytes().saturating_sub(before);
    // The backlog once; and for each member and message a reference of 32 bytes, in lists that may be half empty.
    let references = (STALLED * MESSAGES * 32 * 2) as u64;
    let bound = 2 * BACKLOG_BYTES + references;
    assert!(grown >= BACKLOG_BYTES / 2, "the members have taken it all: {grown} bytes");
    assert!(grown <= bound, "{grown} bytes for a backlog of {BACKLOG_BYTES}, at most {bound} expected");
    drop(stalled);
}
