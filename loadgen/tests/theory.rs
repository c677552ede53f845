//! Servers whose latencies are known beforehand. One after the other, because they are about time.

mod common;

use std::time::Duration;

use common::{Fault, has_reason, measure, measure_in_peace, serve};
use serde_json::{Value, json};

#[test]
fn what_is_measured_is_what_was_made() {
    a_freeze_gives_the_latencies_of_theory();
    a_known_distribution_is_reproduced();
    a_closed_loop_keeps_k_messages_in_flight();
    an_impossible_rate_is_invalid();
}

/// An open loop does not stop asking while the server sleeps: of 10,000 messages in 10 s, the 1,000 that were due in a
/// freeze of one second waited between 0 and 1,000 ms, evenly. So one in a hundred waited 900 ms or more, and one in a
/// thousand 990 ms; nine of ten saw nothing.
fn a_freeze_gives_the_latencies_of_theory() {
    let server = serve(Fault::Freeze(3_000, Duration::from_secs(1)));
    let (out, value) = measure_in_peace(&server.url, "--conns 1 --rate 1000 --duration 10s");
    let ms = |name: &str, quantile: &str| value[name][quantile].as_f64().expect("enough samples") / 1e3;
    assert_eq!(value["response_us"]["n"], 10_000);
    for (quantile, theory) in [("p99", 900.0), ("p999", 990.0), ("max", 1_000.0)] {
        let measured = ms("response_us", quantile);
        assert!(
            (measured - theory).abs() < theory * 0.02,
            "{quantile}: {measured} ms for {theory} ms\n{out}"
        );
    }
    assert!(ms("response_us", "p50") < 20.0, "nine tenths of the messages saw nothing\n{out}");
    // The seconds of the freeze show it too: nothing was received in most of one.
    let seconds = value["by_second"].as_array().expect("a list");
    let received: Vec<u64> = seconds.iter().filter_map(|it| it["received"].as_u64()).collect();
    assert_eq!(received.iter().sum::<u64>(), 10_000, "{received:?}");
    assert!(received.iter().any(|it| *it > 1_400), "what had waited came at once: {received:?}");
}

/// Of twenty answers, twelve take 2 ms, seven 10 ms and one 40 ms: p50, p90 and p99 lie well inside the three.
fn a_known_distribution_is_reproduced() {
    const MS: [u64; 20] = [2, 10, 2, 2, 10, 2, 2, 10, 2, 40, 2, 10, 2, 2, 10, 2, 10, 2, 10, 2];
    let server = serve(Fault::Delays(&MS));
    let (out, value) = measure_in_peace(&server.url, "--conns 40 --rate 500 --duration 4s");
    for (quantile, theory) in [("p50", 2.0), ("p90", 10.0), ("p99", 40.0)] {
        let ms = value["service_us"][quantile].as_f64().expect("enough samples") / 1e3;
        // A sleep is never shorter, and a busy machine makes it a little longer.
        assert!((theory..theory * 1.05 + 1.5).contains(&ms), "{quantile}: {ms} ms for {theory} ms\n{out}");
    }
}

fn a_closed_loop_keeps_k_messages_in_flight() {
    let server = serve(Fault::Delay(Duration::from_millis(10)));
    let (out, value) = measure_in_peace(&server.url, "--conns 2 --closed-loop 3 --duration 500ms");
    assert_eq!(
        (&value["integrity"]["lost"], &value["integrity"]["duplicate"]),
        (&json!(0), &json!(0)),
        "{out}"
    );
    // One answer per 10 ms and connection, however many wait.
    let sent = value["integrity"]["expected"].as_u64().expect("a count");
    assert!((50..=106).contains(&sent), "{out}");
    let p50 = value["service_us"]["p50"].as_f64().expect("enough samples") / 1e3;
    assert!((29.0..40.0).contains(&p50), "three deep in the queue: {p50} ms\n{out}");
    assert_eq!(value["generator"]["send_late_p99_us"], Value::Null);
}

fn an_impossible_rate_is_invalid() {
    let server = serve(Fault::None);
    let (out, value) = measure(&server.url, "--conns 2 --rate 50M --duration 200ms --drain 200ms");
    assert!(has_reason(&value, "of the intended messages"), "{out}");
    assert_eq!(value["verdict"], "INVALID", "{out}");
}
