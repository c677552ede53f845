//! Metric families as text, in the two formats that Prometheus and its kin read.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::metrics::{BOUNDS, HistogramSum};
use crate::proto::handshake::Response;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric with all its label values.
#[derive(Debug)]
pub(super) struct Family {
    /// A counter's without the `_total` at its end, which belongs to the format.
    pub(super) name: String,
    pub(super) help: String,
    pub(super) samples: Samples,
}

/// What was measured, by labels.
#[derive(Debug)]
pub(super) enum Samples {
    /// Sums, which only grow.
    Counters(Vec<(Labels, f64)>),
    /// Levels.
    Gauges(Vec<(Labels, f64)>),
    /// How long things took.
    Histograms(Vec<(Labels, HistogramSum)>),
}

/// Names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// The families in the format that is asked for: OpenMetrics where `accept` names it, else the older text format,
/// which everything reads.
pub(super) fn respond(families: Vec<Family>, accept: Option<&str>) -> Response {
    let open_metrics = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return Response::text(500, "the metrics cannot be written\n");
    }
    let (content_type, text) = if open_metrics { (OPEN_METRICS, text) } else { (CLASSIC, classic(&text)) };
    let mut response = Response::text(200, text);
    response.content_type = content_type.into();
    response
}

/// OpenMetrics in the older format: there a counter is called with its `_total` everywhere, and there is no end mark.
fn classic(open_metrics: &str) -> String {
    let is_counter = |name: &str| {
        let line = format!("# TYPE {name} counter\n");
        open_metrics.contains(&line)
    };
    let mut out = String::with_capacity(open_metrics.len() + 1024);
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if is_counter(name) => {
                out.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A family without samples would be a heading without a text.
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let kind = family.samples.kind();
            let mut metric = encoder.encode_descriptor(&family.name, &family.help, None, kind)?;
            family.samples.encode(&mut metric)?;
        }
        Ok(())
    }
}

impl Samples {
    fn is_empty(&self) -> bool {
        match self {
            Self::Counters(list) | Self::Gauges(list) => list.is_empty(),
            Self::Histograms(list) => list.is_empty(),
        }
    }

    fn kind(&self) -> MetricType {
        match self {
            Self::Counters(_) => MetricType::Counter,
            Self::Gauges(_) => MetricType::Gauge,
            Self::Histograms(_) => MetricType::Histogram,
        }
    }

    fn encode(&self, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counters(list) => {
                each(metric, list, |one, value| one.encode_counter::<NoLabelSet, f64, f64>(value, None))
            }
            Self::Gauges(list) => each(metric, list, |one, value| one.encode_gauge(value)),
            Self::Histograms(list) => each(metric, list, |one, sum| {
                let bounds = BOUNDS.iter().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(sum.buckets).collect();
                one.encode_histogram::<NoLabelSet>(sum.nanos as f64 / 1e9, sum.count(), &buckets, None)
            }),
        }
    }
}

fn each<T>(
    metric: &mut MetricEncoder<'_>,
    list: &[(Labels, T)],
    encode: impl Fn(&mut MetricEncoder<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in list {
        if labels.is_empty() {
            encode(metric, value)?;
        } else {
            encode(&mut metric.encode_family(labels)?, value)?;
        }
    }
    Ok(())
}
