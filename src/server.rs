//! Threads, signals, start and stop. Knows no app.

mod builder;
mod ceiling;
mod error;
mod handle;
mod memory;
mod reload;
mod service;
mod signals;
mod start;
mod watch;

pub use builder::Builder;
pub use ceiling::Ceiling;
pub use error::{RunError, StartError};
pub use handle::{Handle, Remote};
pub use reload::Reloaded;

use crate::config::Config;

/// The way to a server: [`Server::builder`].
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server with the defaults of [`Config`], and no routes.
    pub fn builder() -> Builder {
        Builder::new(Config::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused() {
        assert!(matches!(Server::builder().threads(70_000).start(), Err(StartError::Setting(_))));
        let twice =
            Server::builder().route("/a", crate::apps::Sink::default).route("/a", crate::apps::Sink::default);
        assert!(matches!(twice.start(), Err(StartError::Route(_))));
        let nowhere = Server::builder().listen("nonsense");
        assert!(matches!(nowhere.start(), Err(StartError::Listen(_, _))));
    }
}
