//! Who a connection from a trusted proxy is for: the PROXY header before the request, or a header in it.

use std::io::{self, Read as _};
use std::net::IpAddr;

use tracing::debug;

use super::entry::{After, Entry};
use super::quotas::Client;
use super::slots::Key;
use super::socket::Core;
use crate::proto::Status;
use crate::proto::handshake::{Request, Response};
use crate::proto::proxied::{PROXY_HEADER_MAX, forwarded_for, proxy_header};

impl Core {
    /// Takes the PROXY header off the beginning of a connection. `Ready` where it was there, and the rest is input as
    /// from anybody.
    ///
    /// It is looked at in the socket until it is whole, so that nothing has to be kept of it; the time for the
    /// handshake is its time too.
    pub(super) fn read_proxy_header(&mut self, key: Key, entry: &mut Entry) -> After {
        let seen = match entry.stream.socket().peek(&mut self.buffer[..PROXY_HEADER_MAX]) {
            Ok(0) => return self.broken(key, entry),
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return After::Wait,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return After::Wait,
            Err(_) => return self.broken(key, entry),
        };
        match proxy_header(&self.buffer[..seen]) {
            Ok(Status::Partial) if entry.eof_ahead => self.broken(key, entry),
            Ok(Status::Partial) => After::Wait,
            Ok(Status::Complete((len, client))) => {
                // It is all there: it was just seen.
                if entry.stream.socket().read_exact(&mut self.buffer[..len]).is_err() {
                    return self.broken(key, entry);
                }
                entry.proxied = false;
                self.quotas.introduce(key.slot, client);
                After::Ready
            }
            Err(_) => {
                self.metrics.proxy_headers_invalid.add(1);
                debug!(id = %self.id(key), peer = entry.peer(), "no PROXY header from a trusted proxy");
                After::Drop
            }
        }
    }

    /// Who sent a request, where a setting asks for it; what to answer where that is one connection too many.
    pub(super) fn identify(&mut self, key: Key, request: &Request<'_>) -> Result<Option<IpAddr>, Response> {
        if let Client::Awaited(proxy) = self.quotas.client(key.slot) {
            let headers = request.headers("x-forwarded-for");
            let client = forwarded_for(headers, |address| self.quotas.proxies().trusts(address));
            self.quotas.identify(key.slot, Some(client.unwrap_or(proxy)));
        }
        match self.quotas.client(key.slot) {
            Client::Known(client) => Ok(Some(client)),
            Client::OneTooMany => {
                self.metrics.refused_address.add(1);
                debug!(id = %self.id(key), "too many connections from the address that the proxy named");
                Err(too_many())
            }
            Client::Unasked | Client::Awaited(_) => Ok(None),
        }
    }
}

pub(super) fn too_many() -> Response {
    Response::text(429, "too many connections from your address\n")
}
