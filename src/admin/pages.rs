//! Which path gets what.

use super::{View, connections, exposition, families, settings};
use crate::http;
use crate::proto::handshake::{Request, Response};

const INDEX: &str = "wsd\n\n\
    /metrics      for Prometheus\n\
    /healthz      200 while the process runs\n\
    /readyz       200 while clients should be sent here, 503 while not\n\
    /connections  JSON; ?limit=100&queued=BYTES&after=ID\n\
    /config       JSON, as it is in force\n";

/// What a path on the admin listener is answered.
pub(super) fn respond(request: &Request<'_>, view: &View) -> Response {
    match request.path() {
        "/" => Response::text(200, INDEX),
        "/metrics" => exposition::respond(families::collect(view), request.header("accept")),
        "/healthz" => Response::text(200, "ok\n"),
        "/readyz" => http::readiness(view.shared.state.get()),
        "/connections" => match connections::Page::from_query(request.query().unwrap_or_default()) {
            Ok(page) => json(&connections::list(&page, view)),
            Err(why) => Response::text(400, format!("{why}\n")),
        },
        "/config" => json(&settings::show(view)),
        _ => Response::text(404, "not found\n"),
    }
}

fn json(value: &serde_json::Value) -> Response {
    let mut response = Response::text(200, format!("{value:#}\n"));
    response.content_type = "application/json".into();
    response
}
