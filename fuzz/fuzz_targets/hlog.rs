//! The input: a byte of choices, then a file that a run has left, as `loadgen compare`, `merge` and `report` read it
//! from other machines. Either the file as it is, or what the target makes one of: a length, an encoded histogram of
//! it, and the result as JSON, since checksums and base64 would keep mutations out.
//!
//! What is wrong is said in a line. What is taken is what the library reads; written again it reads the same; merged
//! with itself it is twice as much, and compared with itself no different. No text of it becomes markup of a page.

#![no_main]

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use libfuzzer_sys::fuzz_target;
use loadgen::compare::Comparison;
use loadgen::compare::stored::Stored;
use loadgen::merge;
use loadgen::record::Latencies;
use loadgen::report::hlog::{Hlog, write_totals};
use loadgen::report::{comparison, encoded, html};
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Some((&choices, rest)) = input.split_first() else { return };
    let use_of_it = if choices & 16 == 0 { check_compared } else { check_merged };
    if choices & 1 != 0 {
        return check(rest, use_of_it);
    }
    let Some((&len, rest)) = rest.split_first() else { return };
    let (histogram, result) = rest.split_at(usize::from(len).min(rest.len()));
    check_histogram(histogram);
    let tag = ["response", "fanout_each", "warmup_response", "upgrade"][usize::from(choices >> 1 & 3)];
    let encoded = STANDARD.encode(if choices & 8 == 0 { deflated(histogram) } else { histogram.to_vec() });
    let line = format!("#[StartTime: 1.0 (seconds since epoch)]\nTag={tag},0.000,1.000,5.000,{encoded}\n");
    check(&[line.as_bytes(), b"#loadgen result: ", result, b"\n"].concat(), use_of_it);
});

fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).expect("memory takes it");
    let bytes = encoder.finish().expect("memory takes it");
    [&0x1c84_9314_u32.to_be_bytes()[..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat()
}

/// Against the library's reader, where it can be asked: it allocates on a header's word, negates what has no negative,
/// and counts on values that can be doubled.
fn check_histogram(bytes: &[u8]) {
    let ours = encoded::read(bytes);
    let Some(header) = bytes.first_chunk::<40>() else { return assert!(ours.is_none()) };
    let len = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if len > bytes.len() - 40 {
        return assert!(ours.is_none(), "there is less than it says");
    }
    let is_moderate = header[15] <= 3 && header[16..18] == [0; 2] && header[24..26] == [0; 2];
    if !is_moderate || bytes.windows(9).any(|it| *it == [0xff; 9]) {
        return;
    }
    let theirs: Option<Histogram<u64>> = Deserializer::new().deserialize(&mut &*bytes).ok();
    let Some(theirs) = theirs else { return };
    let mut sum = Latencies::default().histogram().clone();
    match (sum.add(&theirs), ours) {
        (Ok(()), Some(ours)) => assert!(*ours.histogram() == sum, "another sum"),
        (Err(_), None) => {}
        (sum, ours) => panic!("{sum:?}, but {:?} samples", ours.map(|it| it.count())),
    }
}

fn check(file: &[u8], use_of_it: fn(&[u8], Value, Hlog)) {
    let mut log = match Hlog::parse(file) {
        Ok(log) => log,
        Err(line) => return assert!(!line.is_empty() && !line.contains('\n'), "{line:?}"),
    };
    let Some(result) = log.result.take() else { return };
    let page = html::run(&result, &log.tags, &log.by_second);
    let without = html::run(&without_markup(&result), &log.tags, &log.by_second);
    assert_eq!(page.matches('<').count(), without.matches('<').count(), "{result}");
    use_of_it(file, result, log);
}

/// Two logs that are the same.
fn check_merged(file: &[u8], result: Value, log: Hlog) {
    let again = Hlog::parse(file).expect("it was sound");
    let one: Vec<_> = log.tags.iter().map(|(tag, it)| (tag.clone(), it.count(), it.max_ns())).collect();
    let Ok(sum) = merge::sum(vec![log, again], &[result.clone(), result]) else { return };
    sum.table(&mut Vec::new()).expect("memory takes it");
    // More than 2^63 of a value cannot be written.
    let Ok(merged) = sum.log() else { return };
    let Ok(merged) = Hlog::parse(merged.as_bytes()) else { return };
    for (tag, latencies) in &merged.tags {
        let (_, count, max_ns) = one.iter().find(|(name, ..)| name == tag).expect("of one of them");
        assert_eq!(latencies.count(), count.saturating_mul(2), "{tag}");
        // Of a coarser histogram than ours only the lower end of each count is kept.
        assert!(latencies.max_ns() <= *max_ns, "{tag}");
    }
    let totals = write_totals(&merged.tags, &Value::Null).expect("memory takes it");
    let read = Hlog::parse(totals.as_bytes()).expect("it was sound");
    assert!(read.tags.keys().eq(merged.tags.keys()));
    for (one, other) in read.tags.values().zip(merged.tags.values()) {
        assert!(one.histogram() == other.histogram(), "other counts");
        assert_eq!(one.max_ns(), other.max_ns());
    }
}

/// A run against itself, twice.
fn check_compared(_: &[u8], result: Value, log: Hlog) {
    let run = Stored { name: "a".into(), result, curves: log.tags };
    let side = [run.clone(), run];
    let it = match Comparison::new(&side, &side, &[]) {
        Ok(it) => it,
        Err(line) => return assert!(!line.is_empty(), "it says why"),
    };
    for row in it.rows.iter().chain(&it.quantiles) {
        assert!(row.pairs.iter().all(|ratio| *ratio == 1.0 || ratio.is_nan()), "{row:?}");
    }
    comparison::write(&mut Vec::new(), &it).expect("memory takes it");
    comparison::value(&it);
    html::comparison(&it, &side, &side, ["a", "b"]);
}

/// The same with letters that mean nothing to a page.
fn without_markup(value: &Value) -> Value {
    let text = |text: &str| text.replace('<', "\u{10ffff}");
    match value {
        Value::String(it) => Value::String(text(it)),
        Value::Array(all) => all.iter().map(without_markup).collect(),
        Value::Object(all) => all.iter().map(|(key, value)| (text(key), without_markup(value))).collect(),
        other => other.clone(),
    }
}
