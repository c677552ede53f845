//! A log that nobody can write to.

use std::fs::File;
use std::process::Stdio;

use crate::common::program::{Program, wsd};
use crate::common::text;

/// A disk that is full, or a reader of the log that is gone, is no reason to stop serving.
#[test]
fn a_log_that_cannot_be_written_costs_nobody_a_connection() {
    let full = File::options().write(true).open("/dev/full").expect("full(4)");
    let (reader, broken) = std::io::pipe().expect("descriptors");
    drop(reader);
    for log in [Stdio::from(full), Stdio::from(broken)] {
        let program = Program::start_with_log(
            wsd(&["--listen", "127.0.0.1:0", "--threads", "1", "--log", "debug"]),
            log,
        );
        // Each connection, message and close is a line, by a worker.
        let mut there = program.open("/echo");
        for _ in 0..3 {
            let mut client = program.open("/echo");
            client.send(text("one line more"));
            client.assert_text("one line more");
            client.close();
        }
        there.send(text("still here"));
        there.assert_text("still here");
    }
}
