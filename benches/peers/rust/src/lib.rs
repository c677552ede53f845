//! What the servers in Rust have in common: the command line, one thread, and a listener.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What happens to a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It goes back.
    Echo,
    /// It goes to everyone.
    Broadcast,
}

/// Serves `NAME echo|broadcast PORT` on one thread: each connection is handed to a task of its own.
pub fn serve<F, T>(connection: F) -> Result<(), Box<dyn std::error::Error>>
where
    F: Fn(Mode, TcpStream) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mode, port) = match &arguments[..] {
        [mode, port] if mode == "echo" => (Mode::Echo, port),
        [mode, port] if mode == "broadcast" => (Mode::Broadcast, port),
        _ => return Err("give a mode, echo or broadcast, and a port".into()),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?));
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = listen(address)?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(mode, stream));
        }
    })
}

/// With room for a storm of connections: tokio's own `bind` listens with 1,024.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}
