//! Histogram logs (`.hlog`): one line per second and quantity, for the readers of the HdrHistogram family.
//!
//! All of them take the V2 encoding deflated; some reject it plain. Values are nanoseconds, the column with the
//! interval's maximum is in milliseconds, as Java's writer does it. What was due in the warm-up has tags of its
//! own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use serde_json::Value;

use super::encoded;
use super::json;
use super::summary::Summary;
use crate::cli::Mode;
use crate::collect::{Interval, Spans};
use crate::config::Config;
use crate::connects::ConnectTimes;
use crate::record::{Latencies, Samples};
use crate::seconds::Second;

/// The first line, without which Java's reader takes the file for an older version.
const VERSION: &str = "#[Histogram log format version 1.3]";
/// The tags of response times.
const RESPONSES: [&str; 2] = ["response", "fanout_each"];
/// The tags of what was due in the warm-up.
const WARMUP: &str = "warmup_";
/// Before the verdict, in a comment at the end.
const VERDICT: &str = "#loadgen verdict: ";
/// Before the whole result as JSON, in a comment at the end.
const RESULT: &str = "#loadgen result: ";
/// Before the configuration, in a comment at the beginning.
const CONFIG: &str = "#loadgen config: ";

/// Writes a log while the run goes on.
pub struct HlogWriter<W: Write = BufWriter<File>> {
    out: W,
    serializer: V2DeflateSerializer,
    /// The tag of response times: in a broadcast, of each delivery.
    response: &'static str,
    /// Connections come and go, instead of coming once.
    churn: bool,
}

impl HlogWriter {
    /// Makes the file and writes its header.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, config: &Config) -> io::Result<Self> {
        Self::new(BufWriter::new(File::create(path)?), config, SystemTime::now())
    }
}

impl<W: Write> HlogWriter<W> {
    /// Writes the header. Intervals count from `start`.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub fn new(mut out: W, config: &Config, start: SystemTime) -> io::Result<Self> {
        let start = start.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        writeln!(out, "{VERSION}")?;
        writeln!(out, "{CONFIG}{}", json::config(config))?;
        writeln!(out, "#[StartTime: {start:.3} (seconds since epoch)]")?;
        writeln!(out, "#[BaseTime: {start:.3} (seconds since epoch)]")?;
        let response = if config.mode == Mode::Broadcast { "fanout_each" } else { "response" };
        let churn = config.mode != Mode::Connect;
        Ok(Self { out, serializer: V2DeflateSerializer::new(), response, churn })
    }

    /// Writes one second.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub fn interval(&mut self, interval: &Interval) -> io::Result<()> {
        let Interval { number, slice, warmup_spans, measured_spans } = interval;
        let parts = [(WARMUP, &slice.warmup, warmup_spans), ("", &slice.measured, measured_spans)];
        let second = (f64::from(*number), 1.0);
        for (prefix, samples, spans) in parts {
            if let Some(samples) = samples {
                let Samples { response, service, .. } = &**samples;
                self.histogram(second, prefix, self.response, response)?;
                self.histogram(second, prefix, "service", service)?;
            }
            let times = if prefix.is_empty() { &slice.connects.measured } else { &slice.connects.warmup };
            if let Some(times) = times {
                for (tag, latencies) in connect_tags(self.churn, times) {
                    self.histogram(second, prefix, tag, latencies)?;
                }
            }
            if let Some(spans) = spans {
                let Spans { first, last, spread } = &**spans;
                self.histogram(second, prefix, "fanout_first", first)?;
                self.histogram(second, prefix, "fanout_last", last)?;
                self.histogram(second, prefix, "fanout_spread", spread)?;
            }
        }
        Ok(())
    }

    /// Writes the verdict, so that nobody takes an invalid run for a baseline, and the result.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub fn finish(mut self, summary: &Summary) -> io::Result<()> {
        for (number, it) in summary.stages.iter().enumerate() {
            let tag = format!("stage_{}_{}", number + 1, self.response);
            self.histogram((it.begin.as_secs_f64(), it.seconds), "", &tag, &it.staged.response)?;
        }
        writeln!(self.out, "{VERDICT}{}", summary.verdict)?;
        writeln!(self.out, "{RESULT}{}", json::value(summary))?;
        self.out.flush()
    }

    /// The interval is (begin, length) in seconds.
    fn histogram(
        &mut self,
        interval: (f64, f64),
        prefix: &str,
        tag: &str,
        latencies: &Latencies,
    ) -> io::Result<()> {
        let Some(max_ns) = latencies.max_ns() else { return Ok(()) };
        let mut bytes = Vec::new();
        let serialized = self.serializer.serialize(latencies.histogram(), &mut bytes);
        serialized.map_err(|error| io::Error::other(error.to_string()))?;
        let max_ms = max_ns as f64 / 1e6;
        let ((begin, length), encoded) = (interval, STANDARD.encode(&bytes));
        writeln!(self.out, "Tag={prefix}{tag},{begin:.3},{length:.3},{max_ms:.3},{encoded}")
    }
}

/// The tags of what connecting took: as metrics are named.
fn connect_tags(churn: bool, times: &ConnectTimes) -> Vec<(&'static str, &Latencies)> {
    if churn {
        vec![("churn_tcp", &times.tcp), ("churn_upgrade", &times.upgrade), ("close", &times.close)]
    } else {
        vec![("tcp", &times.tcp), ("upgrade", &times.upgrade)]
    }
}

/// A log of totals: each quantity is one interval of a second.
///
/// # Errors
/// A histogram cannot be written.
pub fn write_totals(tags: &BTreeMap<String, Latencies>, result: &Value) -> io::Result<String> {
    let mut out = Vec::new();
    writeln!(out, "{VERSION}")?;
    writeln!(out, "{CONFIG}{}", result["config"])?;
    let mut writer =
        HlogWriter { out: &mut out, serializer: V2DeflateSerializer::new(), response: "", churn: false };
    for (tag, latencies) in tags {
        writer.histogram((0.0, 1.0), "", tag, latencies)?;
    }
    writeln!(out, "{VERDICT}{}", result["verdict"].as_str().unwrap_or_default())?;
    writeln!(out, "{RESULT}{result}")?;
    String::from_utf8(out).map_err(io::Error::other)
}

/// A log that was read back: its tags with the sums of their intervals, without the warm-up.
#[derive(Debug, Default)]
pub struct Hlog {
    /// By tag; a histogram without a tag has an empty one.
    pub tags: BTreeMap<String, Latencies>,
    /// The whole result, where loadgen wrote the log and the run came to its end.
    pub result: Option<Value>,
    /// The run second by second, warm-up included.
    pub by_second: Vec<Second>,
}

impl Hlog {
    /// Reads a log.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not a text file".to_owned())?;
        let result = text.lines().find_map(|line| line.strip_prefix(RESULT));
        let result = match result.map(serde_json::from_str) {
            Some(Err(error)) => return Err(format!("its result is damaged ({error})")),
            result => result.and_then(Result::ok),
        };
        let mut tags: BTreeMap<String, Latencies> = BTreeMap::new();
        let mut seconds: BTreeMap<u32, (bool, Latencies)> = BTreeMap::new();
        for (number, entry) in IntervalLogIterator::new(bytes).enumerate() {
            let entry = entry.map_err(|_| format!("entry {} is no interval histogram", number + 1))?;
            let LogEntry::Interval(interval) = entry else { continue };
            let broken = || format!("entry {}: the histogram is damaged", number + 1);
            let bytes = STANDARD.decode(interval.encoded_histogram()).map_err(|_| broken())?;
            let latencies = encoded::read(&bytes).ok_or_else(broken)?;
            let tag = interval.tag().map(|tag| tag.as_str().to_owned()).unwrap_or_default();
            let (warmup, tag) = tag.strip_prefix(WARMUP).map_or((false, &*tag), |tag| (true, tag));
            if RESPONSES.contains(&tag) {
                let second = interval.start_timestamp().as_secs() as u32;
                let (only_warmup, sum) =
                    seconds.entry(second).or_insert_with(|| (true, Latencies::default()));
                *only_warmup &= warmup;
                sum.merge(&latencies);
            }
            if !warmup {
                tags.entry(tag.to_owned()).or_default().merge(&latencies);
            }
        }
        if tags.is_empty() {
            return Err("it holds no measured histogram".to_owned());
        }
        let second = |(number, (warmup, it))| Second::from_latencies(number, warmup, &it);
        Ok(Self { tags, result, by_second: seconds.into_iter().map(second).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::payload::Stamp;
    use crate::recorder::Recording;
    use crate::schedule::Timeline;

    fn config(line: &str) -> Config {
        let args = crate::cli::parse(line.split_whitespace().map(Into::into)).expect("sound").run;
        Config::new(args, 1).expect("sound")
    }

    fn log() -> String {
        let timeline = Timeline { start_ns: 0, measure_ns: 100, end_ns: 10_000, drain_ns: 20_000 };
        let mut out = Vec::new();
        let start = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let mut writer = HlogWriter::new(&mut out, &config("loadgen"), start).expect("memory takes it");
        for number in 0..2 {
            let mut recording = Recording::default();
            for intended_ns in [0, 100, 200] {
                let stamp = Stamp { sender: 0, sequence: 0, intended_ns, sent_ns: intended_ns + 1_000 };
                recording.received(timeline.is_measured(intended_ns), &stamp, intended_ns + 5_000_000);
            }
            let interval = Interval { number, slice: recording.take(), ..Interval::default() };
            writer.interval(&interval).expect("memory takes it");
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_layout_that_other_readers_want() {
        let log = log();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[0], "#[Histogram log format version 1.3]");
        assert!(lines[1].starts_with("#loadgen config: {"));
        assert_eq!(lines[2], "#[StartTime: 1700000000.250 (seconds since epoch)]");
        assert!(lines[4].starts_with("Tag=warmup_response,0.000,1.000,5.000,HIST"), "{}", lines[4]);
        assert!(lines[6].starts_with("Tag=response,0.000,1.000,5.000,HIST"));
        assert!(lines[9].starts_with("Tag=warmup_service,1.000,1.000,4.999,HIST"), "{}", lines[9]);
        assert_eq!(lines.len(), 12);
    }

    #[test]
    fn read_back_without_the_warm_up() {
        let log = log() + "#loadgen verdict: VALID\n#loadgen result: {\"verdict\":\"VALID\"}\n";
        let read = Hlog::parse(log.as_bytes()).expect("sound");
        let counts: Vec<_> = read.tags.iter().map(|(tag, it)| (tag.as_str(), it.count())).collect();
        assert_eq!(counts, [("response", 4), ("service", 4)]);
        let max = read.tags["response"].max_ns().expect("four");
        assert!(max.abs_diff(5_000_000) < 5_000, "{max}");
        assert_eq!(read.result.expect("there is one")["verdict"], "VALID");
        let seconds: Vec<_> = read.by_second.iter().map(|it| (it.number, it.warmup, it.received)).collect();
        assert_eq!(seconds, [(0, false, 3), (1, false, 3)], "warm-up and measurement");
    }

    #[test]
    fn what_is_no_log_is_said_in_a_line() {
        for (text, part) in [
            ("", "no measured histogram"),
            ("#[Histogram log format version 1.3]\n", "no measured histogram"),
            ("hello\nworld\n", "entry 1"),
            ("Tag=a,0.0,1.0,1.0,AAAA\n", "damaged"),
            ("#loadgen result: {\n", "result is damaged"),
        ] {
            let error = Hlog::parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
        assert!(Hlog::parse(b"\xff\xfe").expect_err("not text").contains("text file"));
    }
}
