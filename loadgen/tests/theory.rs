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
    // Not at the edge of a second, which a thread sees a little late.
    let server = serve(Fault::Freeze(3_400, Duration::from_secs(1)));
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
    let late = measure_until_quick(&server.url, "--conns 40 --rate 500 --duration 4s", |out, value| {
        [("p50", 2.0), ("p90", 10.0), ("p99", 40.0)].into_iter().all(|(quantile, theory)| {
            let ms = service_ms(value, quantile);
            assert!(ms >= theory, "a sleep is never shorter, {quantile}: {ms} ms for {theory} ms\n{out}");
            ms < theory * 1.05 + 1.5
        })
    });
    assert!(late.is_none(), "longer than the answers take, each time\n{late:?}");
}

fn a_closed_loop_keeps_k_messages_in_flight() {
    let server = serve(Fault::Delay(Duration::from_millis(10)));
    let late =
        measure_until_quick(&server.url, "--conns 2 --closed-loop 3 --duration 500ms", |out, value| {
            assert_eq!(
                (&value["integrity"]["lost"], &value["integrity"]["duplicate"]),
                (&json!(0), &json!(0)),
                "{out}"
            );
            assert_eq!(value["generator"]["send_late_p99_us"], Value::Null);
            // One answer per 10 ms and connection, however many wait.
            let sent = value["integrity"]["expected"].as_u64().expect("a count");
            assert!(sent <= 106, "{out}");
            let p50 = service_ms(value, "p50");
            assert!(p50 >= 29.0, "three deep in the queue: {p50} ms\n{out}");
            sent >= 50 && p50 < 40.0
        });
    assert!(late.is_none(), "longer than the answers take, each time\n{late:?}");
}

/// Measures until a run is as quick as it should be. The servers are threads of this program, and where other programs
/// have the cores they answer late, which no generator can tell from a slow server. Gives the last run if none was.
fn measure_until_quick(url: &str, line: &str, is_quick: impl Fn(&str, &Value) -> bool) -> Option<String> {
    let mut last = None;
    for _ in 0..6 {
        let (out, value) = measure_in_peace(url, line);
        if is_quick(&out, &value) {
            return None;
        }
        last = Some(out);
    }
    last
}

fn service_ms(value: &Value, quantile: &str) -> f64 {
    value["service_us"][quantile].as_f64().expect("enough samples") / 1e3
}

fn an_impossible_rate_is_invalid() {
    let server = serve(Fault::None);
    let (out, value) = measure(&server.url, "--conns 2 --rate 50M --duration 200ms --drain 200ms");
    assert!(has_reason(&value, "of the intended messages"), "{out}");
    assert_eq!(value["verdict"], "INVALID", "{out}");
}
