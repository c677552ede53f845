//! Which metrics there are: the workers' counters, with the names and labels under which Prometheus knows them.
//!
//! `docs/metrics.md` describes each, and a test holds that it does.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::View;
use super::exposition::{Family, Labels, Samples};
use super::process;
use crate::metrics::{Counter, HistogramSum, Metrics, NO_ROUTE, RouteCounters, RouteMetrics, WorkerMetrics};
use crate::net::inspect::{Found, Inspection};
use crate::net::mailbox::Mail;
use crate::state::State;

/// How long all workers together may take to be asked about their connections. One that is stuck is left out:
/// that is when the other metrics are needed most.
const SURVEY_TIME: Duration = Duration::from_secs(2);

/// Counters that are one metric with a label: the beginning of their names, the metric, the label, the help.
const LABELLED: [(&str, &str, &str, &str); 5] = [
    ("closed_", "connections_closed", "reason", "WebSockets that ended, by reason"),
    (
        "dropped_",
        "messages_dropped",
        "reason",
        "Messages that were due and will never be delivered, by reason",
    ),
    ("handshakes_", "handshakes", "result", "Opening handshakes, by result"),
    ("pings_unanswered_", "pings_unanswered", "reason", "Pings from peers that got no answer, by reason"),
    ("refused_", "connections_refused", "reason", "TCP connections turned away, by reason"),
];

/// Counters that have another name, or are a label of another metric.
const RENAMED: [(&str, &str); 7] = [
    ("accepted", "connections_accepted"),
    ("due", "messages_due"),
    ("delivered", "messages_delivered"),
    ("bytes_in", "received_bytes"),
    ("bytes_out", "sent_bytes"),
    ("deflate_input_bytes", "deflate_input_bytes"),
    ("deflate_output_bytes", "deflate_output_bytes"),
];

/// Counters that are shown by worker or by route, or in another unit.
const ELSEWHERE: [&str; 6] = ["opened", "connections", "messages_in", "published", "turns", "deflate_nanos"];

/// Those that go up and down.
const LEVELS: [(&str, &str); 4] = [
    ("queued", "messages_queued"),
    ("queued_bytes", "queued_bytes"),
    ("queue_memory", "queue_memory_bytes"),
    ("queue_memory_unshared", "queue_memory_unshared_bytes"),
];

/// Everything, as it is now.
pub(super) fn collect(view: &View) -> Vec<Family> {
    let mut families = Vec::new();
    totals(view, &mut families);
    by_worker(view, &mut families);
    by_route(view, &mut families);
    connections(view, &mut families);
    server(view, &mut families);
    system(view, &mut families);
    families
}

fn counters(name: &str, help: &str, samples: Vec<(Labels, f64)>) -> Family {
    Family { name: format!("wsd_{name}"), help: help.to_owned(), samples: Samples::Counters(samples) }
}

fn gauges(name: &str, help: &str, samples: Vec<(Labels, f64)>) -> Family {
    Family { name: format!("wsd_{name}"), help: help.to_owned(), samples: Samples::Gauges(samples) }
}

fn histograms(name: &str, help: &str, samples: Vec<(Labels, HistogramSum)>) -> Family {
    Family { name: format!("wsd_{name}"), help: help.to_owned(), samples: Samples::Histograms(samples) }
}

/// The counters of all workers together. One that has no rule here is shown under its own name.
fn totals(view: &View, families: &mut Vec<Family>) {
    let metrics = Metrics::sum(view.shared.metrics.iter().map(AsRef::as_ref));
    let mut labelled: BTreeMap<&str, Vec<(Labels, f64)>> = BTreeMap::new();
    labelled
        .entry("handshakes")
        .or_default()
        .push((vec![("result", "opened".to_owned())], metrics.opened as f64));
    for ((name, value), (_, help)) in metrics.iter().zip(Metrics::HELP) {
        let (value, help) = (value as f64, help.trim());
        if let Some((prefix, family, label, _)) =
            LABELLED.iter().find(|(prefix, ..)| name.starts_with(prefix))
        {
            let value_of_label = name[prefix.len()..].trim_start_matches("by_");
            let labels = vec![(*label, value_of_label.to_owned())];
            labelled.entry(family).or_default().push((labels, value));
        } else if let Some((_, level)) = LEVELS.iter().find(|(level, _)| *level == name) {
            families.push(gauges(level, help, vec![(vec![], value)]));
        } else if !ELSEWHERE.contains(&name) {
            let renamed = RENAMED.iter().find(|(own, _)| *own == name).map_or(name, |(_, other)| *other);
            families.push(counters(renamed, help, vec![(vec![], value)]));
        }
    }
    for (_, family, _, help) in LABELLED {
        families.push(counters(family, help, labelled.remove(family).unwrap_or_default()));
    }
    families.push(counters(
        "deflate_seconds",
        "Time spent on compressing",
        vec![(vec![], metrics.deflate_nanos as f64 / 1e9)],
    ));
}

/// What tells workers apart: a skew shows here.
fn by_worker(view: &View, families: &mut Vec<Family>) {
    let shared = &view.shared;
    let each = |value: &dyn Fn(usize, &WorkerMetrics) -> Option<f64>| -> Vec<(Labels, f64)> {
        let workers = shared.metrics.iter().enumerate();
        workers.filter_map(|(index, metrics)| Some((worker(index), value(index, metrics)?))).collect()
    };
    families.push(gauges(
        "connections",
        "TCP connections held now, whatever their phase, by worker",
        each(&|_, metrics| Some(metrics.connections.get() as f64)),
    ));
    families.push(gauges(
        "fan_out_backlog_bytes",
        "What a worker has yet to hand to the members of topics: bytes, and 256 for each batch",
        each(&|index, _| Some(shared.mailboxes[index].backlog() as f64)),
    ));
    let thread_id = |index: usize| match shared.thread_ids[index].load(Ordering::Relaxed) {
        0 => None,
        thread_id => Some(thread_id),
    };
    families.push(counters(
        "worker_cpu_seconds",
        "Processor time of a worker's thread, user and system",
        each(&|index, _| process::thread_cpu_seconds(thread_id(index)?)),
    ));
    let mut tables = vec![(vec![("table", "main".to_owned())], process::descriptors())];
    if view.private_tables {
        let count = |index| process::thread_descriptors(thread_id(index)?);
        tables.extend(
            (0..shared.metrics.len()).map(|index| (vec![("table", index.to_string())], count(index))),
        );
    }
    let tables: Vec<(Labels, f64)> =
        tables.into_iter().filter_map(|(labels, count)| Some((labels, count? as f64))).collect();
    let fullest = tables.iter().map(|(_, count)| *count).fold(0.0, f64::max);
    families.push(gauges(
        "descriptors",
        "Descriptors in use, by table: the main thread's, or a worker's own",
        tables,
    ));
    families.push(plain_gauge(
        "process_open_fds",
        "Descriptors in use in the table where there are most",
        fullest,
    ));
    families.push(plain_gauge(
        "process_max_fds",
        "Descriptors that each table may hold",
        view.descriptors as f64,
    ));
    let turns = shared.metrics.iter().enumerate();
    families.push(histograms(
        "turn_seconds",
        "How long the turns of a worker's loop took, the waiting for events left out",
        turns.map(|(index, metrics)| (worker(index), HistogramSum::of([&metrics.turn_time]))).collect(),
    ));
}

fn worker(index: usize) -> Labels {
    vec![("worker", index.to_string())]
}

fn by_route(view: &View, families: &mut Vec<Family>) {
    let shared = &view.shared;
    let names = shared.router.names().iter().map(String::as_str).enumerate();
    let routes: Vec<(u16, &str)> =
        names.map(|(index, name)| (index as u16, name)).chain([(NO_ROUTE, "outside")]).collect();
    let sum = |route: u16, counter: &dyn Fn(&RouteCounters) -> &Counter| -> u64 {
        shared.metrics.iter().map(|metrics| counter(metrics.route(route)).get()).fold(0, u64::wrapping_add)
    };
    let inside = || routes.iter().filter(|(number, _)| *number != NO_ROUTE);
    let each = |counter: &dyn Fn(&RouteCounters) -> &Counter| -> Vec<(Labels, f64)> {
        inside().map(|(number, name)| (route(name), sum(*number, counter) as f64)).collect()
    };
    families.push(gauges(
        "route_connections",
        "WebSockets held now, by route",
        each(&|route| &route.connections),
    ));
    families.push(counters(
        "messages_received",
        "Messages received, by route",
        each(&|route| &route.messages_in),
    ));
    let mut published = each(&|route| &route.published);
    published.push((route("outside"), shared.published_outside.load(Ordering::Relaxed) as f64));
    families.push(counters(
        "messages_published",
        "Messages published to topics, by the publisher's route; `outside` is the process itself",
        published,
    ));
    ledger(view, families);
    let times =
        |number: u16| HistogramSum::of(shared.metrics.iter().map(|it| &it.route(number).fan_out_time));
    families.push(histograms(
        "fan_out_seconds",
        "From the turn in which a batch was published until a worker had handed it to its last member, by the \
         publisher's route",
        routes.iter().map(|(number, name)| (route(name), times(*number))).collect(),
    ));
}

/// The ledger by the receivers' routes.
fn ledger(view: &View, families: &mut Vec<Family>) {
    let routes = view.shared.route_metrics();
    let each = |value: &dyn Fn(&RouteMetrics) -> u64| -> Vec<(Labels, f64)> {
        routes.iter().map(|it| (route(&it.route), value(it) as f64)).collect()
    };
    families.push(counters(
        "route_messages_due",
        "Messages due to connections, by the receiver's route",
        each(&|it| it.due),
    ));
    families.push(counters(
        "route_messages_delivered",
        "Messages that the kernel took whole, by the receiver's route",
        each(&|it| it.delivered),
    ));
    families.push(gauges(
        "route_messages_queued",
        "Messages that wait in a queue now, by the receiver's route",
        each(&|it| it.queued),
    ));
    let dropped = routes.iter().flat_map(|it| {
        it.iter().filter_map(|(counter, value)| {
            let reason = counter.strip_prefix("dropped_")?.to_owned();
            Some((vec![("route", it.route.clone()), ("reason", reason)], value as f64))
        })
    });
    families.push(counters(
        "route_messages_dropped",
        "Messages that were due and will never be delivered, by the receiver's route and by reason",
        dropped.collect(),
    ));
}

fn route(name: &str) -> Labels {
    vec![("route", name.to_owned())]
}

/// What only the workers themselves can tell.
fn connections(view: &View, families: &mut Vec<Family>) {
    let answers: Vec<(usize, Found)> =
        survey(view).into_iter().enumerate().filter_map(|(index, found)| Some((index, found?))).collect();
    let each = |value: fn(&Found) -> f64| -> Vec<(Labels, f64)> {
        answers.iter().map(|(index, found)| (worker(*index), value(found))).collect()
    };
    families.push(gauges(
        "queued_connections",
        "Connections for which bytes wait, by worker",
        each(|found| found.waiting as f64),
    ));
    families.push(gauges(
        "queued_oldest_seconds",
        "For how long bytes have waited for one connection without a break, where it is longest, by worker",
        each(|found| found.longest.as_secs_f64()),
    ));
    let slots = answers.iter().flat_map(|(index, Found { tables, .. })| {
        let state = |state: &str| vec![("worker", index.to_string()), ("state", state.to_owned())];
        let free = tables.slots - tables.slots_used;
        [(state("used"), tables.slots_used as f64), (state("free"), free as f64)]
    });
    families.push(gauges(
        "slots",
        "Places for connections that memory is kept for, by worker: those with a connection, and free ones",
        slots.collect(),
    ));
    families.push(gauges(
        "timers",
        "Entries in the timer wheel of a worker, those of connections that have gone meanwhile included",
        each(|found| found.tables.timers as f64),
    ));
    families.push(gauges("topics", "Topics on a worker", each(|found| found.tables.topics as f64)));
    families.push(gauges(
        "topic_members",
        "Memberships in the topics of a worker",
        each(|found| found.tables.members as f64),
    ));
}

/// Asks all workers at once, and waits for all of them together.
fn survey(view: &View) -> Vec<Option<Found>> {
    let until = Instant::now() + SURVEY_TIME;
    let ask = |mailbox: &crate::net::mailbox::Mailbox| {
        let (answer, answers) = mpsc::sync_channel(1);
        mailbox.post(Mail::Inspect(Inspection::survey(answer)));
        answers
    };
    let asked: Vec<_> = view.shared.mailboxes.iter().map(ask).collect();
    let wait = |answers: mpsc::Receiver<Found>| {
        answers.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    };
    asked.into_iter().map(wait).collect()
}

fn server(view: &View, families: &mut Vec<Family>) {
    let shared = &view.shared;
    let ready = shared.state.get() == State::Ready;
    families.push(gauges(
        "ready",
        "1 while clients should be sent here, 0 while not",
        vec![(vec![], ready.into())],
    ));
    families.push(gauges(
        "connections_limit",
        "Connections that all workers together may hold",
        vec![(vec![], shared.seats.max() as f64)],
    ));
    families.push(gauges(
        "queue_memory_limit_bytes",
        "Memory that all queues together may hold; 0 for no limit",
        vec![(vec![], shared.queue_total as f64)],
    ));
    let certificates =
        shared.certificates.as_ref().map(|it| it.lock().unwrap_or_else(PoisonError::into_inner));
    let validities = certificates.iter().flat_map(|certificates| certificates.validities());
    let ends = validities.map(|(file, validity)| {
        (vec![("file", file.display().to_string())], validity.not_after.as_secs() as f64)
    });
    families.push(gauges(
        "tls_certificate_expiry_timestamp_seconds",
        "When the first of the certificates in a file ends, since the epoch",
        ends.collect(),
    ));
    families.push(counters(
        "admin_refused",
        "Connections to the admin listener turned away because it had as many as it takes",
        vec![(vec![], view.turned_away.load(Ordering::Relaxed) as f64)],
    ));
    families.push(gauges(
        "build_info",
        "Always 1; what runs is in the labels",
        vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
    ));
}

/// What every process should tell, under the names that every dashboard knows.
fn system(view: &View, families: &mut Vec<Family>) {
    let Some(process) = process::process() else { return };
    families.push(Family {
        name: "process_cpu_seconds".to_owned(),
        help: "Processor time, user and system".to_owned(),
        samples: Samples::Counters(vec![(vec![], process.cpu_seconds)]),
    });
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory", process.resident_bytes as f64),
        ("process_virtual_memory_bytes", "Virtual memory", process.virtual_bytes as f64),
        ("process_start_time_seconds", "When the process started, since the epoch", process.start_seconds),
        ("process_threads", "Threads", process.threads as f64),
    ] {
        families.push(plain_gauge(name, help, value));
    }
    let up = view.shared.started.elapsed().as_secs_f64();
    families.push(gauges("uptime_seconds", "Since the server started", vec![(vec![], up)]));
}

fn plain_gauge(name: &str, help: &str, value: f64) -> Family {
    Family { name: name.to_owned(), help: help.to_owned(), samples: Samples::Gauges(vec![(vec![], value)]) }
}
