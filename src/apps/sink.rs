//! Takes everything and answers nothing.

use crate::app::{App, Context};

/// The sink app.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    greeting: Option<String>,
}

impl Sink {
    /// A sink that greets each connection with `greeting`.
    pub fn new(greeting: Option<String>) -> Self {
        Self { greeting }
    }
}

impl App for Sink {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        if let Some(greeting) = &self.greeting {
            cx.send(greeting.as_str());
        }
    }
}
