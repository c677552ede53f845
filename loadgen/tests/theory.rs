//! Servers whose latencies are known beforehand. One after the other, because they are about time.

mod common;

use std::time::Duration;

use common::{Fault, has_reason, measure, measure_in_peace, serve};
use serde_json::{Value, json};

#[test]
fn what_is_measured_is_what_was_made() {
    a_freeze_gives_the_latencies_of_theory();
    a_known_delay_is_measured();
    a_closed_loop_keeps_k_messages_in_flight();
    an_impossible_rate_is_invalid();
}

/// An open loop does not stop asking while the server sleeps: of 2,000 messages, the 500 that were due in a freeze of
/// half a second waited between 0 and 500 ms, evenly.
fn a_freeze_gives_the_latencies_of_theory() {
    let server = serve(Fault::Freeze(700, Duration::from_millis(500)));
    let (out, value) = measure_in_peace(&server.url, "--conns 1 --rate 1000 --duration 2s");
    let ms = |quantile: &str| value["response_us"][quantile].as_f64().expect("enough samples") / 1e3;
    assert_eq!(value["response_us"]["n"], 2_000);
    let near = |quantile: &str, theory: f64| {
        let measured = ms(quantile);
        assert!(
            (measured - theory).abs() < theory * 0.05,
            "{quantile}: {measured} ms for {theory} ms\n{out}"
        );
    };
    assert!(ms("p50") < 50.0, "three quarters of the messages saw nothing\n{out}");
    near("p90", 300.0);
    near("p99", 480.0);
}

fn a_known_delay_is_measured() {
    let server = serve(Fault::Delay(Duration::from_millis(20)));
    let (out, value) = measure_in_peace(&server.url, "--conns 40 --rate 400 --duration 1s");
    let p50 = value["service_us"]["p50"].as_f64().expect("enough samples") / 1e3;
    assert!((20.0..24.0).contains(&p50), "{p50} ms\n{out}");
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
