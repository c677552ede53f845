//! Sends every message on to all members of its topic: chat rooms, tickers, live scores.

use crate::app::{App, Context};
use crate::proto::Message;

/// The broadcast app. Text stays text and binary stays binary.
#[derive(Clone, Debug, Default)]
pub struct Broadcast {
    greeting: Option<String>,
    topic: Option<String>,
    skip_sender: bool,
}

impl Broadcast {
    /// To all connections on the same path, the sender included.
    pub fn by_path() -> Self {
        Self::default()
    }

    /// To all connections of this topic, whatever their path, the sender included.
    pub fn to_topic(topic: impl Into<String>) -> Self {
        Self { topic: Some(topic.into()), ..Self::default() }
    }

    /// With a greeting for each connection.
    #[must_use]
    pub fn greeting(mut self, greeting: Option<String>) -> Self {
        self.greeting = greeting;
        self
    }

    /// With or without the sender itself among the receivers.
    #[must_use]
    pub fn skip_sender(mut self, skip: bool) -> Self {
        self.skip_sender = skip;
        self
    }
}

impl App for Broadcast {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        if let Some(greeting) = &self.greeting {
            cx.send(greeting.as_str());
        }
        cx.subscribe(self.topic.as_deref().unwrap_or(cx.path()));
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        let topic = self.topic.as_deref().unwrap_or(cx.path());
        if self.skip_sender {
            cx.publish_to_others(topic, message);
        } else {
            cx.publish(topic, message);
        }
    }
}
