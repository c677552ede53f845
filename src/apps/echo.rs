//! Sends every message back, as it came or put into a sentence.

use crate::app::{App, Context};
use crate::proto::Message;

/// The echo app.
#[derive(Clone, Debug, Default)]
pub struct Echo {
    greeting: Option<String>,
    reply: Template,
    scratch: String,
}

/// A reply with `{}` for the message. The default is the message alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// What stands before, between and after the places of the message; `None` for the message alone.
    parts: Option<Vec<String>>,
}

impl Echo {
    /// An echo that greets each connection with `greeting` and answers with `reply`.
    pub fn new(greeting: Option<String>, reply: Template) -> Self {
        Self { greeting, reply, scratch: String::new() }
    }
}

impl Template {
    /// Reads a template. One without `{}` is a fixed reply.
    pub fn new(text: &str) -> Self {
        let parts = (text != "{}").then(|| text.split("{}").map(str::to_owned).collect());
        Self { parts }
    }

    fn fill(parts: &[String], message: &str, out: &mut String) {
        out.clear();
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                out.push_str(message);
            }
            out.push_str(part);
        }
    }
}

impl App for Echo {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        if let Some(greeting) = &self.greeting {
            cx.send(greeting.as_str());
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        match (&self.reply.parts, message.as_text()) {
            (Some(parts), Some(text)) => {
                Template::fill(parts, text, &mut self.scratch);
                cx.send(self.scratch.as_str());
            }
            // Binary comes back as it came: it has no place in a sentence.
            _ => cx.send(message),
        }
    }
}
