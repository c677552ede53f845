//! What may be different on a route: what happens to those who do not keep up, and limits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::Limits;

/// What happens when others send more to a connection than it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
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
///
/// ```
/// use std::collections::BTreeMap;
/// use wsd::{RouteOptions, SlowPolicy};
///
/// let about = BTreeMap::from([("app", "tetris".into()), ("players", 2.into())]);
/// let tetris = RouteOptions { about, slow_policy: SlowPolicy::Latest, ..RouteOptions::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteOptions {
    /// What `/config` says of the app, beside the rest, and nothing else reads: its name as `app`, its settings. Empty
    /// where nobody says it: an app has no name that a server could know.
    #[serde(flatten)]
    pub about: BTreeMap<&'static str, Value>,
    /// What happens to those who do not keep up.
    pub slow_policy: SlowPolicy,
    /// A text that is sent once where messages were dropped, before the next one.
    pub gap_notice: Option<String>,
}

/// The limits that hold from the moment at which a connection's route is known. A new field of [`Limits`] is for the
/// whole server unless it stands here.
macro_rules! route_limits {
    ($($name:ident: $kind:ty,)+) => {
        /// Limits that a route has of its own; where it has none, those of the server hold.
        ///
        /// They hold from the opening of a WebSocket on. What a peer may cost before it has said for which route it has
        /// come is the same for all.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct RouteLimits {
            $(
                #[doc = concat!("As [`Limits::", stringify!($name), "`].")]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$kind>,
            )+
        }

        impl RouteLimits {
            /// Which limits a route may have of its own.
            pub const NAMES: &[&str] = &[$(stringify!($name)),+];

            /// All limits of a route, on a server that has these.
            pub fn over(&self, server: &Limits) -> Limits {
                Limits { $($name: self.$name.unwrap_or(server.$name),)+ ..server.clone() }
            }
        }
    };
}

route_limits! {
    max_message: u32,
    max_fragments: u32,
    assembly_timeout: Duration,
    control_rate: u32,
    message_rate: u32,
    ping_interval: Duration,
    pong_timeout: Duration,
    close_timeout: Duration,
    max_age: Duration,
    queue_hard: u32,
    queue_soft: u32,
    queue_soft_time: Duration,
    progress_timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_route_does_not_say_is_the_server_s() {
        let server =
            Limits { max_head: 1, max_message: 2, max_age: Duration::from_secs(3), ..Limits::default() };
        let own = RouteLimits { max_message: Some(4), queue_soft: Some(0), ..RouteLimits::default() };
        let expected = Limits { max_message: 4, queue_soft: 0, ..server.clone() };
        assert_eq!(format!("{:?}", own.over(&server)), format!("{expected:?}"));
        assert_eq!(format!("{:?}", RouteLimits::default().over(&server)), format!("{server:?}"));
    }
}
