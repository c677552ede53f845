//! The URL to load: `ws://host[:port][/path][?query]`, or `wss://` for TLS.

use std::net::{SocketAddr, ToSocketAddrs as _};

/// Where to connect and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether to speak TLS.
    pub secure: bool,
    /// As in the `Host` header: the port is left out where it is the scheme's own.
    pub host: String,
    /// Path and query; `None` where the URL has neither.
    pub path: Option<String>,
    /// Host and port as the resolver takes them.
    authority: String,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// One line that says what is wrong and what to write instead.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (secure, rest) = match url.split_once("://") {
            Some(("ws", rest)) => (false, rest),
            Some(("wss", rest)) => (true, rest),
            Some((scheme, _)) => {
                return Err(format!("{url}: the scheme is {scheme}: give a ws:// or wss:// URL"));
            }
            None => (false, url),
        };
        let default_port = default_port(secure);
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        let path = match path {
            "" | "/" => None,
            query if query.starts_with('?') => Some(format!("/{query}")),
            path => Some(path.to_owned()),
        };
        if path.as_ref().is_some_and(|path| !path.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(format!("{url}: the path has spaces or non-ASCII characters: percent-encode them"));
        }
        let bracket = host.rfind(']').unwrap_or(0);
        let port = match host[bracket..].rsplit_once(':') {
            Some((_, port)) => port
                .parse()
                .ok()
                .filter(|port: &u16| *port > 0)
                .ok_or_else(|| format!("{url}: {port} is no port"))?,
            None => default_port,
        };
        let name = host[bracket..].rfind(':').map_or(host, |at| &host[..bracket + at]);
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:%".contains(&byte))
        {
            return Err(format!("{url}: no host name: give ws://HOST:PORT/PATH"));
        }
        let host = if port == default_port { name.to_owned() } else { format!("{name}:{port}") };
        Ok(Self { secure, host, path, authority: format!("{name}:{port}") })
    }

    /// Turns to another server with the same path.
    pub fn set_address(&mut self, address: SocketAddr) {
        self.authority = address.to_string();
        self.host = if address.port() == default_port(self.secure) {
            address.ip().to_string()
        } else {
            address.to_string()
        };
    }

    /// The host without its port: what its certificate must be for.
    pub fn name(&self) -> &str {
        self.authority.rsplit_once(':').map_or(&*self.authority, |(name, _)| name)
    }

    /// The URL's scheme.
    pub const fn scheme(&self) -> &'static str {
        if self.secure { "wss" } else { "ws" }
    }

    /// Looks the host up. An IPv4 address wins, because loopback has sixteen million source addresses in IPv4
    /// and a single one in IPv6.
    ///
    /// # Errors
    /// One line that says what could not be found.
    pub fn resolve(&self) -> Result<SocketAddr, String> {
        let found =
            self.authority.to_socket_addrs().map_err(|error| format!("{}: {error}", self.authority))?;
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        found.first().copied().ok_or_else(|| format!("{}: the name has no address", self.authority))
    }
}

const fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (String, Option<String>) {
        let target = Target::parse(url).expect(url);
        (target.host, target.path)
    }

    #[test]
    fn urls() {
        let some = |path: &str| Some(path.to_owned());
        assert_eq!(parts("ws://127.0.0.1:8080"), ("127.0.0.1:8080".into(), None));
        assert_eq!(parts("ws://127.0.0.1:8080/"), ("127.0.0.1:8080".into(), None));
        assert_eq!(parts("127.0.0.1:8080/rooms/x?y=1"), ("127.0.0.1:8080".into(), some("/rooms/x?y=1")));
        assert_eq!(parts("ws://example.org?a"), ("example.org".into(), some("/?a")));
        assert_eq!(parts("ws://[::1]:9000/echo#x"), ("[::1]:9000".into(), some("/echo")));
        assert_eq!(parts("ws://[::1]/echo"), ("[::1]".into(), some("/echo")));
        assert_eq!(parts("wss://a"), ("a".into(), None));
        assert_eq!(parts("wss://a:80/b"), ("a:80".into(), some("/b")));
        let target = Target::parse("wss://[::1]/echo").expect("sound");
        assert_eq!((target.name(), target.authority.as_str(), target.secure), ("[::1]", "[::1]:443", true));
    }

    #[test]
    fn bad_urls_name_the_remedy() {
        for (url, part) in [
            ("http://a", "ws://"),
            ("ws://", "HOST"),
            ("ws://a:0", "port"),
            ("ws://a:99999", "port"),
            ("ws://a b/", "HOST"),
            ("ws://a/ä", "percent-encode"),
        ] {
            let error = Target::parse(url).expect_err(url);
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn resolving_prefers_ipv4() {
        let resolve = |url: &str| Target::parse(url).expect(url).resolve().expect(url).to_string();
        assert_eq!(resolve("ws://127.0.0.1:8080"), "127.0.0.1:8080");
        assert_eq!(resolve("ws://[::1]:8080"), "[::1]:8080");
        assert_eq!(resolve("ws://localhost"), "127.0.0.1:80");
        let mut target = Target::parse("ws://example.org/x").expect("sound");
        target.set_address(([127, 0, 0, 2], 81).into());
        assert_eq!((&*target.host, target.path.as_deref()), ("127.0.0.2:81", Some("/x")));
        assert_eq!(target.resolve().expect("an address").to_string(), "127.0.0.2:81");
    }
}
