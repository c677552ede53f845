//! Every number a user may turn, its default, and what it costs.

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
    /// From accept to the end of the request head, absolute: bytes that trickle in do not extend it.
    pub handshake_timeout: Duration,
    /// A connection that was silent for so long (plus or minus 10 %, so that connections made together are not
    /// pinged together) is sent a ping. Zero: no pings.
    pub ping_interval: Duration,
    /// A connection that stays silent for so long after a ping is gone.
    pub pong_timeout: Duration,
    /// From our Close, or the end of what we had to say, to the end of the connection.
    pub close_timeout: Duration,
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
            max_head: 8 * 1024,
            max_headers: 64,
            handshake_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            queue_hard: 256 * 1024,
            queue_soft: 64 * 1024,
            queue_soft_time: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(10),
        }
    }
}

/// What happens when others send more to a connection than it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SlowPolicy {
    /// The connection is closed with 1013: whoever reads, reads everything.
    #[default]
    Close,
    /// What does not fit into the queue is dropped: the oldest messages are the ones that matter.
    DropNewest,
    /// The oldest messages in the queue make room: the newest ones matter.
    DropOldest,
    /// Only the newest message waits, whatever the limits: each one replaces those before it, as on a ticker.
    Latest,
}

/// What is special about a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// What happens to those who do not keep up.
    pub slow_policy: SlowPolicy,
    /// A text that is sent once where messages were dropped, before the next one.
    pub gap_notice: Option<String>,
}

/// What all queues together may hold in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueTotal {
    /// So many hundredths of the memory that this process may use: of its control group's limit, or of the machine's.
    Percent(u8),
    /// So many bytes. Zero: no such limit.
    Bytes(u64),
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

/// How a server is laid out.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on, as `HOST:PORT`; a host name stands for all its addresses.
    pub listen: Vec<String>,
    /// Worker threads; each has its own loop, listener and connections. 0: one for each core.
    pub threads: usize,
    /// Connections that wait to be accepted, per listener and thread.
    pub backlog: u32,
    /// Connections in all; `None` for what the descriptors allow.
    pub max_conns: Option<usize>,
    /// What all queues together may hold in memory: at 80 % of it the slowest connections are shed, at 95 % no more
    /// are taken.
    pub queue_total: QueueTotal,
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
            threads: 0,
            backlog: 4096,
            max_conns: None,
            queue_total: QueueTotal::Percent(25),
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
