//! What runs on a path, from the command line or from a route of the configuration file.

use clap::{Args, ValueEnum};
use wsd::Builder;
use wsd::apps::{Broadcast, CHAT_GREETING, Echo, Sink, Template};

/// An app with its settings.
#[derive(Args, Clone, Debug)]
pub(super) struct AppFlags {
    /// What runs on `/`
    #[arg(long, env = "WSD_APP", default_value = "chat")]
    app: AppName,

    /// Text that --app sends to each new connection [default: none; a JSON greeting for chat]
    #[arg(long, value_name = "TEXT", env = "WSD_GREETING")]
    greeting: Option<String>,

    /// What `--app echo` answers to a text, with {} for the text
    #[arg(long, value_name = "TEMPLATE", env = "WSD_REPLY", default_value = "{}")]
    reply: String,

    /// `--app broadcast` and `chat` send to all but the sender
    #[arg(long, env = "WSD_SKIP_SENDER")]
    skip_sender: bool,
}

/// The apps of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AppName {
    /// Everything to everyone, with a JSON greeting
    Chat,
    /// Everything to everyone
    Broadcast,
    /// Everything back to its sender
    Echo,
    /// Takes everything, answers nothing
    Sink,
}

impl AppFlags {
    /// Runs it on `path`. Broadcasts go to one audience for all paths of a topic; without one, each path has its own.
    pub(super) fn add(&self, builder: Builder, path: &str, topic: Option<&str>) -> Builder {
        let greeting = self.greeting.clone();
        match self.app {
            AppName::Echo => {
                let reply = Template::new(&self.reply);
                builder.route(path, move || Echo::new(greeting.clone(), reply.clone()))
            }
            AppName::Sink => builder.route(path, move || Sink::new(greeting.clone())),
            AppName::Broadcast | AppName::Chat => {
                let audience = topic.map_or_else(Broadcast::by_path, Broadcast::to_topic);
                let chat = (self.app == AppName::Chat).then(|| CHAT_GREETING.to_owned());
                let app = audience.greeting(greeting.or(chat)).skip_sender(self.skip_sender);
                builder.route(path, move || app.clone())
            }
        }
    }

    /// The audience that all paths of the command line share.
    pub(super) fn common_topic(&self) -> &'static str {
        // /chat is the same room as / where that is a chat.
        if self.app == AppName::Chat { "chat" } else { "broadcast" }
    }
}
