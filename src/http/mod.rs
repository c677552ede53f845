//! What a plain GET gets on the port of the WebSockets: static pages and the health check. One answer, and the
//! connection is closed; anything more is the work of a web server in front.

use std::borrow::Cow;

use crate::proto::handshake::Response;
use crate::state::State;

/// The chat page of the `wsd` program: one file, no external resources.
pub const CHAT_PAGE: &str = include_str!("chat.html");

/// What a page from here may do: nothing but what stands in it, and WebSockets.
const PAGE_HEADERS: &str = "Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src 'self' blob: data:; connect-src 'self' ws: wss:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n";

/// A static page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The exact path.
    pub path: String,
    /// `Content-Type`.
    pub content_type: Cow<'static, str>,
    /// The body.
    pub body: Cow<'static, [u8]>,
}

impl Page {
    /// An HTML page.
    pub fn html(path: impl Into<String>, body: impl Into<Cow<'static, str>>) -> Self {
        let body = match body.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Self { path: path.into(), content_type: "text/html; charset=utf-8".into(), body }
    }
}

/// The answer to a plain GET of `path`: a page, `ok` for `/healthz`, the state for `/readyz`, or 404.
pub fn respond(pages: &[Page], path: &str, state: State) -> Response {
    if let Some(page) = pages.iter().find(|page| page.path == path) {
        let mut response = Response::text(200, "");
        response.content_type = page.content_type.clone();
        response.body = page.body.clone();
        response.headers = PAGE_HEADERS.into();
        return response;
    }
    match path {
        "/healthz" => Response::text(200, "ok"),
        "/readyz" => readiness(state),
        _ => Response::text(404, "not found\n"),
    }
}

/// Whether to send clients here: 200, or 503 as long as there is a reason not to.
pub fn readiness(state: State) -> Response {
    match state {
        State::Starting => Response::text(503, "starting"),
        State::Ready => Response::text(200, "ready"),
        State::Draining => Response::text(503, "draining"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_health_and_nothing() {
        let pages = [Page::html("/", "<p>hi")];
        let page = respond(&pages, "/", State::Ready);
        assert_eq!((page.status, &*page.body), (200, &b"<p>hi"[..]));
        assert!(page.content_type.starts_with("text/html"));
        assert_eq!(&*respond(&pages, "/healthz", State::Draining).body, b"ok");
        assert_eq!(respond(&pages, "/healthz/", State::Ready).status, 404);
        assert_eq!(respond(&[], "/", State::Ready).status, 404);
        for (state, status) in [(State::Starting, 503), (State::Ready, 200), (State::Draining, 503)] {
            assert_eq!(respond(&pages, "/readyz", state).status, status);
        }
    }
}
