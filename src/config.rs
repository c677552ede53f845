//! Every number a user may turn, its default, and what it costs.

mod routes;

// `core::net` has addresses; sockets are in `std::net`.
use core::net::IpAddr;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
pub use routes::{RouteLimits, RouteOptions, SlowPolicy};
use serde::Serialize;

/// What one peer may cost. Each is a flag of the program (`--max-message` and so on).
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// Bytes in one message, all fragments together; more is answered with close code 1009. An incomplete
    /// message holds at most twice what was received of it.
    pub max_message: u32,
    /// Frames in one message; more is answered with close code 1008.
    pub max_fragments: u32,
    /// From the first byte of a message to its last, however it trickles in; more is answered with close code 1008.
    /// While a connection is not read, because of what waits for it or of all that waits, the time begins anew.
    pub assembly_timeout: Duration,
    /// Pings answered each second, after twice as many at once; further ones are not answered. Zero: no limit.
    pub control_rate: u32,
    /// Messages that may come each second from one connection, and as many at once; more is answered with close
    /// code 1008. Zero: no limit.
    pub message_rate: u32,
    /// Bytes of a request head; more is answered with status 431.
    pub max_head: u32,
    /// Headers in a request, at most 128; more is answered with status 431.
    pub max_headers: u32,
    /// From accept to the end of the TLS handshake, absolute. Then the time for the request begins.
    pub tls_timeout: Duration,
    /// From accept, or the end of the TLS handshake, to the end of the request head, absolute: bytes that trickle in do
    /// not extend it.
    pub handshake_timeout: Duration,
    /// A connection that was silent for so long (plus or minus 10 %, so that connections made together are not
    /// pinged together) is sent a ping. Zero: no pings.
    pub ping_interval: Duration,
    /// A connection that stays silent for so long after a ping is gone.
    pub pong_timeout: Duration,
    /// From our Close, or the end of what we had to say, to the end of the connection.
    pub close_timeout: Duration,
    /// A connection that has been open for so long is closed with 1012, to connect again, perhaps elsewhere: at 90 to
    /// 100 % of it, so that connections made together do not come back together. Zero: never.
    pub max_age: Duration,
    /// Bytes that may wait for one connection. What would go over it closes the connection with 1013, or is dropped
    /// where its route says so ([`SlowPolicy`]); into an empty queue a frame is always taken, whatever its size.
    pub queue_hard: u32,
    /// Bytes that may wait for one connection for longer than `queue_soft_time`: of what others send to it, behind
    /// the frame that is on its way. Zero: no such limit.
    pub queue_soft: u32,
    /// A connection for which more than `queue_soft` waits for so long is closed with 1013; where its route drops
    /// instead, `queue_soft` is then its hard limit until less waits.
    pub queue_soft_time: Duration,
    /// A connection that takes nothing of what waits for it for so long is closed with 1013.
    pub progress_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 1024 * 1024,
            max_fragments: 1024,
            assembly_timeout: Duration::from_secs(30),
            control_rate: 10,
            message_rate: 0,
            max_head: 8 * 1024,
            max_headers: 64,
            tls_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            max_age: Duration::ZERO,
            queue_hard: 256 * 1024,
            queue_soft: 64 * 1024,
            queue_soft_time: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(10),
        }
    }
}

/// What all queues together may hold in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueTotal {
    /// So many hundredths of the memory that this process may use: of its control group's limit, or of the machine's.
    Percent(u8),
    /// So many bytes. Zero: no such limit.
    Bytes(u64),
}

/// permessage-deflate (RFC 7692): how messages are compressed for clients that offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Deflate {
    /// Bytes from which on a message is compressed.
    pub min_bytes: u32,
    /// 1 (fast) to 9 (small).
    pub level: u8,
    /// The largest window as its base-2 logarithm, 9 (512 bytes) to 15 (32 KiB): for what is sent, and for what is
    /// received where the client lets us choose.
    pub window_bits: u8,
    /// Keep the window from message to message. Compresses small messages better, but costs each connection up to
    /// 300 KiB, and a broadcast is compressed for each receiver instead of once.
    pub takeover: bool,
}

impl Default for Deflate {
    fn default() -> Self {
        Self { min_bytes: 1024, level: 1, window_bits: 15, takeover: false }
    }
}

/// Which web pages may connect (RFC 6455 section 10.2). Clients that are no browsers send no `Origin` and always may;
/// so may pages from the host that they connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origins {
    /// On a loopback address also pages from localhost, on any port, and pages opened from a file: for development.
    #[default]
    SameHost,
    /// Also pages from these origins, such as `https://app.example.com`.
    List(Vec<String>),
    /// Any page.
    Any,
}

/// The proxies that stand before the server, and what they are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proxies {
    /// Where they are. The client of a connection from there is the last address in `X-Forwarded-For` that is no
    /// trusted proxy's; nobody else's word is taken for it.
    pub trusted: Vec<IpNet>,
    /// Each connection from there begins with a PROXY protocol header, version 1 or 2, which names the client, or
    /// another trusted proxy: then `X-Forwarded-For` says for whom that one is.
    pub protocol: bool,
}

impl Proxies {
    /// Whether a connection from this address comes from a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// How a server lets its connections go when another takes over: [`Handle::drain`](crate::Handle::drain), and SIGTERM
/// in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// From the moment `/readyz` says no to the end of accepting: a balancer needs as long to notice.
    pub grace: Duration,
    /// Then connections are closed, evenly over this time: their clients come back no faster.
    pub spread: Duration,
    /// From the beginning to the end, whoever is left. At least grace and spread together.
    pub timeout: Duration,
    /// The close code, of those that a server may send.
    pub code: u16,
    /// The wait before reconnecting that the reason asks for, as `retry=` and milliseconds: for each client another
    /// one, between a half of this and one and a half. At most [`Drain::RETRY_MAX`].
    pub retry: Duration,
}

impl Drain {
    /// One and a half of it are still milliseconds of six digits, which is what clients take for a hint.
    pub const RETRY_MAX: Duration = Duration::from_secs(600);
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            spread: Duration::from_secs(60),
            timeout: Duration::from_secs(120),
            code: 1012,
            retry: Duration::from_secs(4),
        }
    }
}

/// TLS 1.2 and 1.3: where, and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Addresses to listen on, as `HOST:PORT`.
    pub listen: Vec<String>,
    /// Clients that ask for a name get the first certificate for it (SNI), all others the first.
    pub certificates: Vec<CertificateFiles>,
}

/// A certificate and its key, as PEM files. They are read at the start and when the certificates are reloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateFiles {
    /// The certificate, and behind it those of the authorities between it and a root.
    pub certificate: PathBuf,
    /// The private key (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateError {
    /// The file of a certificate.
    Certificate {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file of a key.
    Key {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate { file, problem } => write!(f, "certificate {}: {problem}", file.display()),
            Self::Key { file, problem } => write!(f, "key {}: {problem}", file.display()),
        }
    }
}

impl std::error::Error for CertificateError {}

/// When all certificates of a file are valid, in time since 1970 (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub not_before: Duration,
    /// Until then.
    pub not_after: Duration,
    /// The file was read then.
    pub read_at: Duration,
}

/// How a server is laid out.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// Addresses to listen on, as `HOST:PORT`; a host name stands for all its addresses.
    pub listen: Vec<String>,
    /// TLS, on addresses of its own; `None` for no TLS.
    pub tls: Option<Tls>,
    /// Worker threads; each has its own loop, listener and connections. 0: one for each core.
    pub threads: usize,
    /// Connections that wait to be accepted, per listener and thread.
    pub backlog: u32,
    /// Connections in all; `None` for what the descriptors allow.
    pub max_conns: Option<usize>,
    /// Connections from one IPv4 address, or one IPv6 network of 64 bits; more are answered with status 429.
    /// Zero: no limit.
    pub max_conns_per_ip: u32,
    /// Connections accepted each second by all workers together, and as many at once; more wait in the backlog.
    /// Zero: no limit.
    pub accept_rate: u32,
    /// The proxies that stand before the server.
    pub proxies: Proxies,
    /// What all queues together may hold in memory: at 80 % of it the slowest connections are shed, at 95 % no more
    /// are taken.
    pub queue_total: QueueTotal,
    /// Whether each worker has a descriptor table of its own.
    pub tables: DescriptorTables,
    /// What one peer may cost.
    pub limits: Limits,
    /// Limits that are different on a route, by its pattern as it was added.
    pub route_limits: BTreeMap<String, RouteLimits>,
    /// Which web pages may connect.
    pub origins: Origins,
    /// Compression; `None` declines every offer.
    pub deflate: Option<Deflate>,
    /// Where metrics, health and connections can be looked at; `None` for nowhere.
    pub admin: Option<AdminAddress>,
    /// How connections are let go for a successor.
    pub drain: Drain,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec!["localhost:8080".to_owned()],
            tls: None,
            threads: 0,
            backlog: 4096,
            max_conns: None,
            max_conns_per_ip: 0,
            accept_rate: 0,
            proxies: Proxies::default(),
            queue_total: QueueTotal::Percent(25),
            tables: DescriptorTables::Shared,
            limits: Limits::default(),
            route_limits: BTreeMap::new(),
            origins: Origins::default(),
            deflate: None,
            admin: None,
            drain: Drain::default(),
        }
    }
}

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAddress {
    /// `HOST:PORT`. Who reaches it may read everything there: keep it on a loopback address, or behind a firewall.
    Tcp(String),
    /// The path of a unix socket, which its owner and group may use.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who shares a descriptor table; see [`fdtable`](crate::net::fdtable).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DescriptorTables {
    /// The whole process has one, and with it one limit. The default of the crate, because it is always right.
    Shared,
    /// Each worker has its own, and the limit to itself. The program runs so. In an application of your own,
    /// keep to one rule: files and sockets that an [`App`](crate::App) uses are opened *by* that app (in its
    /// constructor or its callbacks), because a descriptor from another thread is not there, or is another
    /// file's.
    PerWorker,
}

/// Descriptors of each table that are not for connections: standard streams, polls, wakers, listeners, and
/// whatever an application has open.
pub const DESCRIPTOR_RESERVE: u64 = 64;
