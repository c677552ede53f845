//! Every number a user may turn, its default, and what it costs.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What one peer may cost. Each is a flag of the program (`--max-message` and so on).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes in one message, all fragments together; more is answered with close code 1009. An incomplete
    /// message holds at most twice what was received of it.
    pub max_message: u32,
    /// Frames in one message; more is answered with close code 1008.
    pub max_fragments: u32,
    /// From the first byte of a message to its last, however it trickles in; more is answered with close code 1008.
    pub assembly_timeout: Duration,
    /// Pings answered each second, after twice as many at once; further ones are not answered. Zero: no limit.
    pub control_rate: u32,
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
    /// Bytes that may wait for one connection. What would go over it closes the connection with 1013; into an
    /// empty queue a frame is always taken, whatever its size.
    pub queue_hard: u32,
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
            max_head: 8 * 1024,
            max_headers: 64,
            tls_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            queue_hard: 256 * 1024,
            progress_timeout: Duration::from_secs(10),
        }
    }
}

/// permessage-deflate (RFC 7692): how messages are compressed for clients that offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// On a loopback address also pages from localhost, on any port, and pages opened from a file: for development.
    #[default]
    SameHost,
    /// Also pages from these origins, such as `https://app.example.com`.
    List(Vec<String>),
    /// Any page.
    Any,
}

/// TLS 1.2 and 1.3: where, and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Addresses to listen on, as `HOST:PORT`.
    pub listen: Vec<String>,
    /// Clients that ask for a name get the first certificate for it (SNI), all others the first.
    pub certificates: Vec<CertificateFiles>,
}

/// A certificate and its key, as PEM files. They are read at the start and when the certificates are reloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// How a server is laid out.
#[derive(Clone, Debug)]
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
    /// Whether each worker has a descriptor table of its own.
    pub tables: DescriptorTables,
    /// What one peer may cost.
    pub limits: Limits,
    /// Which web pages may connect.
    pub origins: Origins,
    /// Compression; `None` declines every offer.
    pub deflate: Option<Deflate>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec!["localhost:8080".to_owned()],
            tls: None,
            threads: 0,
            backlog: 4096,
            max_conns: None,
            tables: DescriptorTables::Shared,
            limits: Limits::default(),
            origins: Origins::default(),
            deflate: None,
        }
    }
}

/// Who shares a descriptor table; see [`fdtable`](crate::net::fdtable).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
