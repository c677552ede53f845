//! The flags for limits and compression, and `--print-limits`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::builder::{OsStr, PossibleValuesParser, Resettable, TypedValueParser as _};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use wsd::{Config, Deflate, Limits, QueueTotal, RouteLimits};

use super::values::{share, size, size_or_zero, time, time_or_zero};

const LIMITS: &str = "Limits";
const COMPRESSION: &str = "Compression";

/// Sizes are bytes or KiB, MiB, GiB; times are ms, s, m, h.
#[derive(Args, Debug)]
#[command(next_help_heading = LIMITS)]
pub(super) struct LimitFlags {
    /// Connections in all [default: what the descriptor limit allows]
    #[arg(long, value_name = "N", env = "WSD_MAX_CONNS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_conns: Option<u32>,

    /// Connections from one IPv4 address or one IPv6 /64; more are answered with 429; 0 for no limit
    #[arg(long, value_name = "N", env = "WSD_MAX_CONNS_PER_IP", default_value_t = Config::default().max_conns_per_ip)]
    pub(super) max_conns_per_ip: u32,

    /// Connections accepted each second, and as many at once; more wait in the backlog; 0 for no limit
    #[arg(long, value_name = "N", env = "WSD_ACCEPT_RATE", default_value_t = Config::default().accept_rate,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(super) accept_rate: u32,

    /// Connections that wait to be accepted, per listener
    #[arg(long, value_name = "N", env = "WSD_BACKLOG", default_value_t = Config::default().backlog,
          value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(super) backlog: u32,

    /// Bytes in one message; more is closed with 1009
    #[arg(long, value_name = "SIZE", env = "WSD_MAX_MESSAGE", default_value = "1MiB", value_parser = size)]
    max_message: u32,

    /// Fragments of one message; more is closed with 1008
    #[arg(long, value_name = "N", env = "WSD_MAX_FRAGMENTS", default_value_t = Limits::default().max_fragments,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_fragments: u32,

    /// From the first byte of a message to its last; more is closed with 1008
    #[arg(long, value_name = "TIME", env = "WSD_ASSEMBLY_TIMEOUT", default_value = "30s", value_parser = time)]
    assembly_timeout: Duration,

    /// Pings answered each second for one connection, after twice as many at once; 0 for no limit
    #[arg(long, value_name = "N", env = "WSD_CONTROL_RATE", default_value_t = Limits::default().control_rate,
          value_parser = clap::value_parser!(u32).range(0..=1_000))]
    control_rate: u32,

    /// Messages each second from one connection, and as many at once; more is closed with 1008; 0 for no limit
    #[arg(long, value_name = "N", env = "WSD_MESSAGE_RATE", default_value_t = Limits::default().message_rate,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    message_rate: u32,

    /// Bytes of a request head; more is answered with 431
    #[arg(long, value_name = "SIZE", env = "WSD_MAX_HEAD", default_value = "8KiB", value_parser = size)]
    max_head: u32,

    /// Headers of a request; more is answered with 431
    #[arg(long, value_name = "N", env = "WSD_MAX_HEADERS", default_value_t = Limits::default().max_headers,
          value_parser = clap::value_parser!(u32).range(1..=128))]
    max_headers: u32,

    /// From accept to the end of the TLS handshake, however it trickles in
    #[arg(long, value_name = "TIME", env = "WSD_TLS_TIMEOUT", default_value = "5s", value_parser = time)]
    tls_timeout: Duration,

    /// From accept, or the end of the TLS handshake, to the end of the request, however it trickles in
    #[arg(long, value_name = "TIME", env = "WSD_HANDSHAKE_TIMEOUT", default_value = "5s", value_parser = time)]
    handshake_timeout: Duration,

    /// Silence after which a connection is pinged, plus or minus 10 %; 0 for never
    #[arg(long, value_name = "TIME", env = "WSD_PING_INTERVAL", default_value = "25s", value_parser = time_or_zero)]
    ping_interval: Duration,

    /// Silence after a ping that ends a connection
    #[arg(long, value_name = "TIME", env = "WSD_PONG_TIMEOUT", default_value = "10s", value_parser = time)]
    pong_timeout: Duration,

    /// How long a peer may take for its part of the closing
    #[arg(long, value_name = "TIME", env = "WSD_CLOSE_TIMEOUT", default_value = "5s", value_parser = time)]
    close_timeout: Duration,

    /// Age at which a connection is closed with 1012, less up to 10 %; 0 for never
    #[arg(long, value_name = "TIME", env = "WSD_MAX_AGE", default_value = "0", value_parser = time_or_zero)]
    max_age: Duration,

    /// Bytes that may wait for one connection; more closes it with 1013, or is dropped (--slow-policy)
    #[arg(long, value_name = "SIZE", env = "WSD_QUEUE_HARD", default_value = "256KiB", value_parser = size)]
    queue_hard: u32,

    /// Bytes that may wait for one connection for longer than --queue-soft-time; 0 for no such limit
    #[arg(long, value_name = "SIZE", env = "WSD_QUEUE_SOFT", default_value = "64KiB", value_parser = size_or_zero)]
    queue_soft: u32,

    /// A connection over --queue-soft for so long is closed with 1013, or more is dropped (--slow-policy)
    #[arg(long, value_name = "TIME", env = "WSD_QUEUE_SOFT_TIME", default_value = "10s", value_parser = time)]
    queue_soft_time: Duration,

    /// Memory that all queues may hold, as SIZE or N% of what there is: at 80 % of it the slowest are shed, at 95 % no
    /// connections are taken; 0 for no limit
    #[arg(long, value_name = "SIZE|N%", env = "WSD_QUEUE_TOTAL", default_value = "25%", value_parser = share)]
    pub(super) queue_total: QueueTotal,

    /// A connection that takes nothing of what waits for it for so long is closed with 1013
    #[arg(long, value_name = "TIME", env = "WSD_PROGRESS_TIMEOUT", default_value = "10s", value_parser = time)]
    progress_timeout: Duration,
}

/// Limits of one route: those of [`LimitFlags`] that it may have, read in the same way, without their defaults.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteLimitFlags(pub(super) RouteLimits);

impl Args for RouteLimitFlags {
    fn augment_args(command: Command) -> Command {
        let all = LimitFlags::augment_args(Command::new(LIMITS));
        let own = all.get_arguments().filter(|flag| RouteLimits::NAMES.contains(&flag.get_id().as_str()));
        let without_default = |flag: &Arg| flag.clone().default_value(Resettable::<OsStr>::Reset);
        command.args(own.map(without_default))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RouteLimitFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let number = |name: &str| matches.get_one::<u32>(name).copied();
        let time = |name: &str| matches.get_one::<Duration>(name).copied();
        Ok(Self(RouteLimits {
            max_message: number("max_message"),
            max_fragments: number("max_fragments"),
            assembly_timeout: time("assembly_timeout"),
            control_rate: number("control_rate"),
            message_rate: number("message_rate"),
            ping_interval: time("ping_interval"),
            pong_timeout: time("pong_timeout"),
            close_timeout: time("close_timeout"),
            max_age: time("max_age"),
            queue_hard: number("queue_hard"),
            queue_soft: number("queue_soft"),
            queue_soft_time: time("queue_soft_time"),
            progress_timeout: time("progress_timeout"),
        }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// permessage-deflate, RFC 7692.
#[derive(Args, Debug)]
#[command(next_help_heading = COMPRESSION)]
pub(super) struct DeflateFlags {
    /// Compress messages for clients that offer permessage-deflate
    #[arg(long, env = "WSD_DEFLATE")]
    deflate: bool,

    /// Bytes from which on a message is compressed
    #[arg(long, value_name = "SIZE", env = "WSD_DEFLATE_MIN", default_value = "1KiB", value_parser = size)]
    deflate_min: u32,

    /// 1 is fast, 9 is small
    #[arg(long, value_name = "N", env = "WSD_DEFLATE_LEVEL", default_value_t = Deflate::default().level,
          value_parser = clap::value_parser!(u8).range(1..=9))]
    deflate_level: u8,

    /// The largest window: 9 is 512 bytes, 15 is 32 KiB
    #[arg(long, value_name = "BITS", env = "WSD_DEFLATE_WINDOW", default_value_t = Deflate::default().window_bits,
          value_parser = clap::value_parser!(u8).range(9..=15))]
    deflate_window: u8,

    /// `on` keeps the window between messages: smaller, but up to 300 KiB for each connection, and broadcasts are
    /// compressed for each receiver instead of once
    #[arg(long, value_name = "on|off", env = "WSD_DEFLATE_TAKEOVER", default_value = "off", action = ArgAction::Set,
          value_parser = PossibleValuesParser::new(["on", "off"]).map(|value| value == "on"))]
    deflate_takeover: bool,
}

impl LimitFlags {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_message: self.max_message,
            max_fragments: self.max_fragments,
            assembly_timeout: self.assembly_timeout,
            control_rate: self.control_rate,
            message_rate: self.message_rate,
            max_head: self.max_head,
            max_headers: self.max_headers,
            tls_timeout: self.tls_timeout,
            handshake_timeout: self.handshake_timeout,
            ping_interval: self.ping_interval,
            pong_timeout: self.pong_timeout,
            close_timeout: self.close_timeout,
            max_age: self.max_age,
            queue_hard: self.queue_hard,
            queue_soft: self.queue_soft,
            queue_soft_time: self.queue_soft_time,
            progress_timeout: self.progress_timeout,
        }
    }
}

impl DeflateFlags {
    pub(super) fn config(&self) -> Option<Deflate> {
        self.deflate.then_some(Deflate {
            min_bytes: self.deflate_min,
            level: self.deflate_level,
            window_bits: self.deflate_window,
            takeover: self.deflate_takeover,
        })
    }
}

/// Every limit with the value in force, a line each: flag, value, what it limits.
pub(super) fn table(command: &Command, matches: &ArgMatches) -> String {
    let mut out = String::new();
    for argument in command.get_arguments().filter(|argument| argument.get_help_heading().is_some()) {
        let Some(flag) = argument.get_long() else { continue };
        let typed = matches.get_raw(argument.get_id().as_str()).and_then(|mut values| values.next());
        let value = match typed.map(|value| value.to_string_lossy().into_owned()) {
            Some(value) if argument.get_action().takes_values() => value,
            Some(value) if value == "true" => "on".to_owned(),
            Some(_) => "off".to_owned(),
            None => "descriptors".to_owned(),
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "{:<22}{value:<13}{help}", format!("--{flag}"));
    }
    out
}
