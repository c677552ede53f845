//! `/connections`: who is connected, a page at a time.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::View;
use crate::id::ConnId;
use crate::net::inspect::{Inspection, Row};
use crate::net::mailbox::Mail;

/// How long all workers together may take to answer; a turn of its loop is all that each needs.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is left to each, when others have used it up.
const PATIENCE_MIN: Duration = Duration::from_millis(50);

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// Which part of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    limit: usize,
    /// Only those for which at least so many bytes wait.
    queued: u64,
    worker: usize,
    slot: u32,
}

impl Page {
    /// From `limit=N&queued=BYTES&after=ID`, all of them optional.
    pub(super) fn from_query(query: &str) -> Result<Self, String> {
        let mut page = Self { limit: LIMIT_DEFAULT, queued: 0, worker: 0, slot: 0 };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("limit", number)) => match number.parse() {
                    Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => page.limit = limit,
                    _ => return Err(format!("limit must be 1 to {LIMIT_MAX}")),
                },
                Some(("queued", bytes)) => {
                    page.queued = bytes.parse().map_err(|_| "queued must be a number of bytes".to_owned())?;
                }
                Some(("after", id)) => {
                    (page.worker, page.slot) = after(id).ok_or("after must be an id from a page before")?;
                }
                _ => return Err(format!("there are limit, queued and after, but no `{pair}`")),
            }
        }
        Ok(page)
    }
}

/// The worker and the slot behind a connection.
fn after(id: &str) -> Option<(usize, u32)> {
    let mut numbers = id.split('.');
    let (worker, slot) = (numbers.next()?.parse::<u16>().ok()?, numbers.next()?.parse::<u32>().ok()?);
    numbers.next()?.parse::<u32>().ok()?;
    numbers.next().is_none().then(|| (usize::from(worker), slot.saturating_add(1)))
}

/// The connections of a page, in the order of worker and slot, and the id to go on from.
pub(super) fn list(page: &Page, view: &View) -> Value {
    let mut rows = Vec::new();
    let mut silent = Vec::new();
    let mut last = None;
    let mut from = page.slot;
    let until = Instant::now() + PATIENCE;
    for worker in page.worker..view.shared.mailboxes.len() {
        let (answer, answers) = mpsc::sync_channel(1);
        let inspection = Inspection::list(from, page.limit - rows.len(), page.queued, answer);
        view.shared.mailboxes[worker].post(Mail::Inspect(inspection));
        match answers.recv_timeout(until.saturating_duration_since(Instant::now()).max(PATIENCE_MIN)) {
            Ok(found) => {
                for row in found.rows {
                    let id = id(worker, &row);
                    rows.push(describe(id, &row, view));
                    last = Some(id);
                }
            }
            Err(_) => silent.push(worker),
        }
        if rows.len() >= page.limit {
            break;
        }
        from = 0;
    }
    let next = if rows.len() >= page.limit { last.map(|id| id.to_string()) } else { None };
    json!({ "connections": rows, "next": next, "workers_without_answer": silent })
}

fn id(worker: usize, row: &Row) -> ConnId {
    ConnId { worker: worker as u16, slot: row.slot, generation: row.generation }
}

fn describe(id: ConnId, row: &Row, view: &View) -> Value {
    let route = row.route.and_then(|route| view.shared.router.names().get(usize::from(route)));
    json!({
        "id": id.to_string(),
        "address": row.peer.map(|peer| peer.to_string()),
        "client": row.client.map(|client| client.to_string()),
        "route": route,
        "path": row.path,
        "subprotocol": row.subprotocol,
        "phase": row.phase,
        "age_seconds": row.age.as_secs(),
        "idle_seconds": seconds(row.idle),
        "queued_bytes": row.queued_bytes,
        "waiting_seconds": row.waits.map(seconds),
    })
}

/// With the three places that there are: a fraction that is added to whole seconds would have more.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_no_more() {
        for millis in 0..100_000 {
            let said = seconds(Duration::from_millis(millis)).to_string();
            let places = said.split_once('.').map_or(0, |(_, places)| places.len());
            assert!(places <= 3, "{said}");
        }
    }

    #[test]
    fn pages() {
        let page = |limit, worker, slot| Ok(Page { limit, queued: 0, worker, slot });
        assert_eq!(Page::from_query(""), page(100, 0, 0));
        assert_eq!(Page::from_query("limit=1"), page(1, 0, 0));
        assert_eq!(Page::from_query("limit=1000&after=2.17.5"), page(1000, 2, 18));
        assert_eq!(Page::from_query("after=0.4294967295.1"), page(100, 0, u32::MAX));
        assert_eq!(
            Page::from_query("queued=1&limit=5"),
            Ok(Page { limit: 5, queued: 1, worker: 0, slot: 0 })
        );
        for query in [
            "queued=",
            "queued=1KiB",
            "limit=0",
            "limit=1001",
            "limit=",
            "limit",
            "after=1",
            "after=1.2",
            "after=1.2.3.4",
            "after=99999.1.1",
            "after=-1.0.0",
            "page=2",
        ] {
            assert!(Page::from_query(query).is_err(), "{query}");
        }
    }
}
