//! The server of the well-known tutorial in 20 lines: what one client sends, all others get.
//!
//! `cargo run --example relay -- localhost:8080`

#![expect(clippy::print_stdout, reason = "a program that shows what it does")]

use wsd::{App, Close, Context, Message, RunError, Server};

struct Relay;

impl App for Relay {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe("everyone");
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        println!("Received message: {}", String::from_utf8_lossy(message.as_bytes()));
        cx.publish_to_others("everyone", message);
    }

    fn on_close(&mut self, _: &mut Context<'_>, _: &Close) {
        println!("Client disconnected");
    }
}

fn main() -> Result<(), RunError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "localhost:8080".to_owned());
    Server::builder()
        .listen(address)
        .app(|| Relay)
        .run_with(|server| println!("WebSocket server is listening on {:?}", server.addresses()))
}
