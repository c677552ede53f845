//! Which web pages may connect, RFC 6455 section 10.2: a browser lets any page open a WebSocket to any host, with the
//! user's cookies, and leaves it to the server to look at `Origin`.

use core::net::IpAddr;

use super::grammar::split_authority;
use crate::config::Origins;

/// Whether a page from `origin` may connect to `host` (the `Host` header). `loopback` is whether the connection came
/// in on a loopback address.
///
/// Origins are compared as wholes, scheme, host and port: a test for a prefix or suffix would let
/// `https://example.com.evil.net` or `https://evilexample.com` in.
pub fn is_allowed(origins: &Origins, origin: &str, host: &str, loopback: bool) -> bool {
    if *origins == Origins::Any {
        return true;
    }
    let Some(page) = Origin::parse(origin) else {
        // A page opened from a file, or in a sandboxed frame.
        return origin == "null" && (*origins == Origins::SameHost && loopback || is_listed(origins, origin));
    };
    page.is_host(host)
        || is_listed(origins, origin)
        || (*origins == Origins::SameHost && loopback && page.is_local())
}

fn is_listed(origins: &Origins, origin: &str) -> bool {
    let Origins::List(list) = origins else { return false };
    list.iter().any(|allowed| match (Origin::parse(allowed), Origin::parse(origin)) {
        (Some(allowed), Some(origin)) => allowed == origin,
        _ => allowed == origin,
    })
}

/// Whether `text` can stand in a list: `null`, or scheme, host and perhaps port.
pub fn is_valid(text: &str) -> bool {
    text == "null" || Origin::parse(text).is_some()
}

/// An origin (RFC 6454 section 7): no path, no user, no query. Hosts are the same in any case.
#[derive(Debug)]
struct Origin<'a> {
    secure: bool,
    host: &'a str,
    port: u16,
}

impl PartialEq for Origin<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.secure == other.secure && self.port == other.port && self.host.eq_ignore_ascii_case(other.host)
    }
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let secure = scheme.eq_ignore_ascii_case("https");
        if !secure && !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        // A serialised origin has no empty port.
        let (host, port) = split_authority(authority).filter(|_| !authority.ends_with(':'))?;
        Some(Self { secure, host, port: port.unwrap_or(if secure { 443 } else { 80 }) })
    }

    /// The same host and port as a `Host` header, in which the default port of the page's scheme may be left out.
    fn is_host(&self, host: &str) -> bool {
        split_authority(host).is_some_and(|(name, port)| {
            let default = if self.secure { 443 } else { 80 };
            self.host.eq_ignore_ascii_case(name) && self.port == port.unwrap_or(default)
        })
    }

    fn is_local(&self) -> bool {
        let name = self.host.trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default(origin: &str, host: &str, loopback: bool) -> bool {
        is_allowed(&Origins::SameHost, origin, host, loopback)
    }

    #[test]
    fn the_same_host_may() {
        for (origin, host) in [
            ("http://example.com", "example.com"),
            ("http://example.com", "example.com:80"),
            ("https://example.com", "example.com"),
            ("https://example.com", "example.com:443"),
            ("HTTPS://Example.COM", "example.com"),
            ("http://example.com:8080", "example.com:8080"),
            ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080"),
        ] {
            assert!(default(origin, host, false), "{origin} to {host}");
        }
    }

    #[test]
    fn tricks_with_suffix_port_scheme_and_user_do_not() {
        for origin in [
            "http://example.com.evil.net",
            "http://evilexample.com",
            "http://example.com:81",
            "http://example.com:080x",
            "http://example.com:",
            "http://example.com@evil.net",
            "http://evil.net/example.com",
            "http://evil.net#example.com",
            "ftp://example.com",
            "example.com",
            "http://",
            "null",
            "",
            "http://localhost",
            "http://example.com, http://evil.net",
        ] {
            assert!(!default(origin, "example.com", false), "{origin}");
        }
    }

    #[test]
    fn on_loopback_local_pages_and_files_may() {
        for origin in
            ["http://localhost:5500", "http://127.0.0.1:3000", "http://[::1]:1", "https://LOCALHOST", "null"]
        {
            assert!(default(origin, "localhost:8080", true), "{origin}");
            assert!(!default(origin, "192.0.2.1:8080", false), "{origin}");
        }
        for origin in
            ["http://localhost.evil.net", "http://evil.net", "http://127.0.0.1.evil.net", "http://[::1].evil"]
        {
            assert!(!default(origin, "localhost:8080", true), "{origin}");
        }
    }

    #[test]
    fn a_list_adds_its_own_and_takes_away_what_is_for_development() {
        let list = Origins::List(vec!["https://app.example.com".into(), "http://a.test:8000".into()]);
        let check = |origin| is_allowed(&list, origin, "ws.example.com", true);
        assert!(
            check("https://app.example.com")
                && check("https://APP.example.com:443")
                && check("http://a.test:8000")
        );
        assert!(check("https://ws.example.com"), "the same host");
        for origin in
            ["http://app.example.com", "https://example.com", "http://a.test", "http://localhost", "null"]
        {
            assert!(!check(origin), "{origin}");
        }
        assert!(is_allowed(&Origins::List(vec!["null".into()]), "null", "h", false));
        assert!(is_allowed(&Origins::Any, "anything", "h", false));
    }
}
