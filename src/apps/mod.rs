//! The apps of the `wsd` program, which are examples of the [`App`](crate::App) trait at the same time.

mod broadcast;
mod echo;
mod sink;

pub use broadcast::Broadcast;
pub use echo::{Echo, Template};
pub use sink::Sink;

/// What the chat of the well-known tutorial greets with.
pub const CHAT_GREETING: &str = r#"{"type":"welcome","message":"Welcome to the chat!"}"#;

#[cfg(test)]
mod tests;
