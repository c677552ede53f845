//! A WebSocket server for connection scale: one epoll loop per core, frames that are encoded once and shared by
//! all who receive them, no async runtime.
//!
//! ```
//! use wsd::{App, Context, Message, Server};
//!
//! /// A chat: everything goes to everyone.
//! struct Chat;
//!
//! impl App for Chat {
//!     fn on_open(&mut self, cx: &mut Context<'_>) {
//!         cx.subscribe("chat");
//!         cx.send("Welcome!");
//!     }
//!
//!     fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
//!         cx.publish("chat", message);
//!     }
//! }
//!
//! // One worker for each core. `run` in place of `start` serves until Ctrl-C.
//! let server = Server::builder().listen("localhost:0").app(|| Chat).start()?;
//! println!("listening on {:?}", server.addresses());
//! server.remote().publish("chat", "to everyone, from any thread");
//! server.shutdown()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads
//!
//! ```text
//!                     main thread: signals, start and stop
//!                        │ mail              │ mail
//!      ┌─────────────────▼──────┐   ┌────────▼───────────────┐
//!      │ worker 0               │   │ worker 1               │   ... one per core
//!      │ listener (REUSEPORT)   │   │ listener (REUSEPORT)   │
//!      │ epoll, read buffer     │   │ epoll, read buffer     │
//!      │ connections  ◀─ hub    │   │ connections  ◀─ hub    │
//!      │ one value of each app  │   │ one value of each app  │
//!      └───────────────┬────────┘   └────────▲───────────────┘
//!                      └── (topic, Arc frames)┘
//!                          mailbox + eventfd
//! ```
//!
//! A connection stays on the worker that accepted it. Nothing is shared between workers but encoded frames: what
//! is published on one goes to the mailboxes of the others, and each hands it to its own members.
//!
//! # Layers
//!
//! A module imports only what stands below it; `tests/layering.rs` holds that.
//!
//! ```text
//! server           threads, signals, start and stop
//! admin            what can be seen of a running server: metrics, health, connections
//! apps             echo, broadcast, sink: products and examples at once
//! net              the I/O shell: the only place with sockets, polls and the clock
//! http             what a plain GET gets
//! route            which app a path belongs to
//! app              the App trait and its orders, which are data
//! conn             one connection as a state machine without I/O
//! hub              topics, members, fan-out: pure data
//! proto            RFC 6455 as bytes and rules
//! id config metrics state sync
//! ```

mod admin;
mod app;
pub mod apps;
pub mod config;
pub mod conn;
mod guard;
pub mod http;
pub mod hub;
pub mod id;
pub mod metrics;
pub mod net;
pub mod proto;
mod rate;
mod route;
mod server;
mod state;
mod sync;

#[cfg(all(test, loom))]
mod models;

pub use app::{Admission, App, Context};
pub use config::{AdminAddress, Config, Deflate, DescriptorTables, Drain, Limits, Origins, Proxies};
pub use config::{CertificateError, CertificateFiles, Tls, Validity};
pub use config::{QueueTotal, RouteLimits, RouteOptions, SlowPolicy};
pub use http::Page;
pub use id::ConnId;
pub use metrics::{Metrics, RouteMetrics};
pub use proto::handshake::Request;
pub use proto::{Close, CloseCode, Message};
pub use route::InvalidRoute;
pub use server::{Builder, Ceiling, Handle, Reloaded, Remote, RunError, Server, StartError};
// What the networks of trusted proxies are written in.
pub use ipnet::IpNet;
pub use state::State;
