//! The same mutated client streams into a connection of wsd's and into tungstenite: both must see the same messages,
//! answer the same pings, and accept or fail the connection with the same close code. Where they may differ is written
//! down one by one in `explained.rs`.
//!
//! ```text
//! WSD_DIFF_STREAMS=1000000 cargo test --release --test differential -- --nocapture      a minute or two
//! WSD_DIFF_SEED=7 ...                                                                   other streams
//! ```
//!
//! A failure prints the seed of its stream, which alone makes it again.

#![expect(clippy::print_stdout, reason = "the seed and the tally are for whoever runs it")]

mod ends;
mod explained;
mod generator;

use std::collections::BTreeMap;

use ends::{run_tungstenite, run_wsd};
use explained::explain;
use generator::{Stream, stream};

/// The environment's number, or the usual one.
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn wsd_and_tungstenite_agree() {
    let seed = number("WSD_DIFF_SEED", 1);
    let streams = number("WSD_DIFF_STREAMS", 20_000);
    println!("{streams} streams, WSD_DIFF_SEED={seed}");
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..streams {
        // Each stream has a seed of its own, so that one of them is a run of one stream.
        let seed = seed.wrapping_add(number);
        let verdict = compare(&stream(seed)).unwrap_or_else(|what| {
            panic!("again with WSD_DIFF_SEED={seed} WSD_DIFF_STREAMS=1\n{what}");
        });
        *tally.entry(verdict).or_default() += 1;
    }
    for (verdict, count) in &tally {
        println!("{count:9}  {verdict}");
    }
    if streams >= 20_000 {
        for verdict in [
            "agree: open",
            "agree: Closed(1000)",
            "agree: Failed(1002)",
            "agree: Failed(1007)",
            "agree: Failed(1009)",
        ] {
            assert!(tally.contains_key(verdict), "no stream with the outcome {verdict:?}: {tally:?}");
        }
    }
}

/// What both made of a stream, or how they differ beyond what is explained.
fn compare(stream: &Stream) -> Result<String, String> {
    let (ours, theirs) = (run_wsd(stream), run_tungstenite(stream));
    if ours == theirs {
        return Ok(format!("agree: {}", ours.end));
    }
    match explain(stream, &ours, &theirs) {
        Some(reason) => Ok(format!("differ: {reason:?}")),
        None => Err(format!(
            "limit {}, cuts {:?}, stream {:02x?}\nwsd:         {ours:?}\ntungstenite: {theirs:?}",
            stream.message_bytes_max, stream.cuts, stream.bytes
        )),
    }
}
