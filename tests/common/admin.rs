//! The admin listener from outside: one request, one answer, and what the metrics say.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{PATIENCE, wait_until};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks for a path, as a scraper on this machine does.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

/// Sends these bytes and reads the answer.
#[track_caller]
pub(crate) fn ask(address: SocketAddr, request: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("the admin listener accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    exchange(stream, request)
}

/// Has every worker answer a question, so that it has read all the mail that it had before.
#[track_caller]
pub(crate) fn wait_for_workers(address: SocketAddr) {
    wait_until("every worker answers", || {
        get(address, "/connections?limit=1000").body.contains(r#""workers_without_answer": []"#)
    });
}

/// The same over any stream.
#[track_caller]
pub(crate) fn exchange(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer, and the end of the stream");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status line");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
    assert_eq!(length.parse(), Ok(body.len()), "{head}");
    Answer { status: status.parse().expect("a number"), head: head.to_owned(), body: body.to_owned() }
}

/// The samples of one scrape, by name and labels as they stand in the text.
#[derive(Debug)]
pub(crate) struct Scrape {
    samples: BTreeMap<String, f64>,
    /// Names of the families, as in their `# TYPE` lines.
    pub(crate) families: Vec<String>,
}

impl Scrape {
    #[track_caller]
    pub(crate) fn of(address: SocketAddr) -> Self {
        let answer = get(address, "/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.head.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{}", answer.head);
        let (comments, samples): (Vec<&str>, Vec<&str>) =
            answer.body.lines().partition(|line| line.starts_with('#'));
        let types = comments.iter().filter_map(|line| line.strip_prefix("# TYPE "));
        let families = types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        let sample = |line: &&str| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        };
        Self { samples: samples.iter().map(sample).collect(), families }
    }

    /// One sample, such as `wsd_messages_dropped_total{reason="slow"}`.
    #[track_caller]
    pub(crate) fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in {:#?}", self.samples.keys()))
    }

    /// All samples of a metric, whatever their labels, added up.
    pub(crate) fn sum(&self, metric: &str) -> f64 {
        self.all(metric).sum()
    }

    /// The ledger: every message that was due has come to one end, or waits. Holds when nothing moves.
    #[track_caller]
    pub(crate) fn assert_balanced(&self) {
        let (delivered, queued) =
            (self.value("wsd_messages_delivered_total"), self.value("wsd_messages_queued"));
        let ends = delivered + self.sum("wsd_messages_dropped_total") + queued;
        assert_eq!(self.value("wsd_messages_due_total"), ends, "{:#?}", self.samples);
    }

    /// How many samples a metric has.
    pub(crate) fn samples_of(&self, metric: &str) -> usize {
        self.all(metric).count()
    }

    fn all(&self, metric: &str) -> impl Iterator<Item = f64> {
        let is_of = move |name: &str| name.split('{').next() == Some(metric);
        self.samples.iter().filter(move |(name, _)| is_of(name)).map(|(_, value)| *value)
    }

    /// Every value of a label.
    pub(crate) fn label_values(&self, label: &str) -> Vec<&str> {
        let start = format!("{label}=\"");
        let value = |name: &'_ String| -> Option<(usize, usize)> {
            let from = name.find(&start)? + start.len();
            Some((from, from + name[from..].find('"')?))
        };
        let mut values: Vec<&str> =
            self.samples.keys().filter_map(|name| value(name).map(|(from, to)| &name[from..to])).collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}
