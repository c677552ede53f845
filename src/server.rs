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
    use crate::apps::Sink;

    #[test]
    fn settings_out_of_range_are_refused() {
        assert!(matches!(Server::builder().threads(70_000).start(), Err(StartError::Setting(_))));
        let twice = Server::builder().route("/a", Sink::default).route("/a", Sink::default);
        assert!(matches!(twice.start(), Err(StartError::Route(_))));
        let nowhere = Server::builder().listen("nonsense");
        assert!(matches!(nowhere.start(), Err(StartError::Listen(_, _))));
    }

    #[test]
    fn what_is_published_to_a_server_that_has_ended_is_not_kept() {
        let builder = Server::builder().listen("127.0.0.1:0").threads(2).app(Sink::default);
        let handle = builder.start().expect("it starts");
        let remote = handle.remote();
        handle.shutdown().expect("no worker fails");
        remote.publish("topic", "text");
        for mailbox in &remote.shared.mailboxes {
            let mut mail = Vec::new();
            mailbox.take(&mut mail);
            assert_eq!((mail.len(), mailbox.backlog()), (0, 0), "{mail:?}");
        }
    }
}
