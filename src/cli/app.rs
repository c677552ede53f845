//! What runs on a path, from the command line or from a route of the configuration file.

use std::collections::BTreeMap;
use std::fmt;

use clap::{Args, ValueEnum};
use serde_json::Value;
use wsd::apps::{Broadcast, CHAT_GREETING, Echo, Sink, Template};
use wsd::{Builder, RouteOptions, SlowPolicy};

/// Each text comes back as it is.
const REPLY: &str = "{}";

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
    #[arg(long, value_name = "TEMPLATE", env = "WSD_REPLY", default_value = REPLY)]
    reply: String,

    /// `--app broadcast` and `chat` send to all but the sender
    #[arg(long, env = "WSD_SKIP_SENDER")]
    skip_sender: bool,

    /// What happens on the paths of --app when others send more to a connection than it takes
    #[arg(long, value_name = "POLICY", env = "WSD_SLOW_POLICY", default_value = "close")]
    slow_policy: PolicyName,

    /// Text that a connection is sent once where messages to it were dropped, before the next one
    #[arg(long, value_name = "TEXT", env = "WSD_GAP_NOTICE")]
    gap_notice: Option<String>,
}

/// The policies for those who do not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    /// The connection is closed with 1013
    Close,
    /// What does not fit into its queue is dropped
    DropNewest,
    /// The oldest messages in its queue make room
    DropOldest,
    /// Each message replaces those that wait: tickers
    Latest,
}

impl From<PolicyName> for SlowPolicy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Close => Self::Close,
            PolicyName::DropNewest => Self::DropNewest,
            PolicyName::DropOldest => Self::DropOldest,
            PolicyName::Latest => Self::Latest,
        }
    }
}

/// The apps of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AppName {
    /// Everything to everyone, with a JSON greeting
    Chat,
    /// Everything to everyone
    Broadcast,
    /// Everything back to its sender
    Echo,
    /// Takes everything, answers nothing
    Sink,
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

impl AppFlags {
    /// What no single flag can know to be wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.gap_notice.is_some() && self.slow_policy == PolicyName::Close {
            let why =
                "nothing is dropped with --slow-policy close; choose drop-newest, drop-oldest or latest";
            return Err(format!("--gap-notice is of no use: {why}"));
        }
        Ok(())
    }

    /// An app with the default settings.
    pub(super) fn plain(app: AppName) -> Self {
        let (slow_policy, gap_notice) = (PolicyName::Close, None);
        Self { app, greeting: None, reply: REPLY.to_owned(), skip_sender: false, slow_policy, gap_notice }
    }

    pub(super) fn name(&self) -> AppName {
        self.app
    }

    /// The settings that are not as they are by default, the topic of its route included, and whether it uses them.
    pub(super) fn given(&self, topic: Option<&str>) -> impl Iterator<Item = (&'static str, bool)> + use<> {
        let answers = self.app == AppName::Echo;
        // To a connection of the others nobody else sends, so no policy is for it.
        let broadcasts = matches!(self.app, AppName::Broadcast | AppName::Chat);
        let all = [
            ("app", self.app != AppName::Chat, true),
            ("greeting", self.greeting.is_some(), true),
            ("reply", self.reply != REPLY, answers),
            ("skip-sender", self.skip_sender, broadcasts),
            ("slow-policy", self.slow_policy != PolicyName::Close, broadcasts),
            ("gap-notice", self.gap_notice.is_some(), broadcasts),
            ("topic", topic.is_some(), broadcasts),
        ];
        all.into_iter().filter(|(_, is_given, _)| *is_given).map(|(key, _, is_used)| (key, is_used))
    }

    /// Runs it on `path`. Broadcasts go to one audience for all paths of a topic; without one, each path has its own.
    pub(super) fn add(&self, builder: Builder, path: &str, topic: Option<&str>) -> Builder {
        let greeting = self.greeting();
        let options = RouteOptions {
            about: self.about(topic),
            slow_policy: self.slow_policy.into(),
            gap_notice: self.gap_notice.clone(),
        };
        match self.app {
            AppName::Echo => {
                let reply = Template::new(&self.reply);
                builder.route_with(path, options, move || Echo::new(greeting.clone(), reply.clone()))
            }
            AppName::Sink => builder.route_with(path, options, move || Sink::new(greeting.clone())),
            AppName::Broadcast | AppName::Chat => {
                let audience = topic.map_or_else(Broadcast::by_path, Broadcast::to_topic);
                let app = audience.greeting(greeting).skip_sender(self.skip_sender);
                builder.route_with(path, options, move || app.clone())
            }
        }
    }

    fn greeting(&self) -> Option<String> {
        let chat = || (self.app == AppName::Chat).then(|| CHAT_GREETING.to_owned());
        self.greeting.clone().or_else(chat)
    }

    /// The app with the settings that it uses, in the words of the flags.
    fn about(&self, topic: Option<&str>) -> BTreeMap<&'static str, Value> {
        let mut about =
            BTreeMap::from([("app", self.app.to_string().into()), ("greeting", self.greeting().into())]);
        match self.app {
            AppName::Echo => about.extend([("reply", self.reply.clone().into())]),
            AppName::Sink => {}
            AppName::Broadcast | AppName::Chat => {
                about.extend([("skip_sender", self.skip_sender.into()), ("topic", topic.into())]);
            }
        }
        about
    }

    /// The audience that all paths of the command line share.
    pub(super) fn common_topic(&self) -> &'static str {
        // /chat is the same room as / where that is a chat.
        if self.app == AppName::Chat { "chat" } else { "broadcast" }
    }
}
