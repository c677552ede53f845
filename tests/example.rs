//! The example program serves two independent clients, as its documentation says.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tungstenite::Message;

/// `cargo test` builds the examples beside the tests.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a path");
    let profile = tests.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    profile.join("examples").join(name)
}

#[test]
fn relay_passes_messages_to_the_others() {
    let mut server = Command::new(example("relay"))
        .arg("127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .expect("run all of `cargo test`: it builds the examples too");
    let mut lines =
        BufReader::new(server.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
    let ready = lines.next().expect("the ready line");
    let address = ready.split(['[', ']']).nth(1).expect("the address in brackets");

    let url = format!("ws://{address}/any/path");
    let connect = || tungstenite::connect(&url).expect("a handshake").0;
    let (mut alice, mut bob) = (connect(), connect());
    // Each has its answer when the other's message is there: membership begins with the handshake.
    alice.send(Message::text("Hello, WebSocket server!")).expect("sent");
    assert_eq!(bob.read().expect("a message"), Message::text("Hello, WebSocket server!"));
    bob.send(Message::binary([1, 2, 3].to_vec())).expect("sent");
    assert_eq!(alice.read().expect("not its own"), Message::binary([1, 2, 3].to_vec()));
    assert_eq!(lines.next().as_deref(), Some("Received message: Hello, WebSocket server!"));

    alice.close(None).expect("a closing handshake");
    while alice.read().is_ok() {}
    let gone = lines.find(|line| line == "Client disconnected");
    assert!(gone.is_some());
    server.kill().expect("still running");
    server.wait().expect("ended");
}
