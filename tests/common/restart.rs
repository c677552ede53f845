//! Restarts while clients come: who is refused, cut, or kept waiting is an error.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client::Wire;
use super::program::Program;
use super::{Client, PATIENCE, request, text, wait_until};

/// How clients come in.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    #[cfg(feature = "tls")]
    pub(crate) secure: Option<Arc<rustls::ClientConfig>>,
}

impl Door {
    /// In the clear.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            #[cfg(feature = "tls")]
            secure: None,
        }
    }

    /// With TLS; the server is `localhost`.
    #[cfg(feature = "tls")]
    pub(crate) fn secure(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Self {
        Self { address, secure: Some(config) }
    }

    fn connect(&self) -> io::Result<Wire> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        #[cfg(feature = "tls")]
        if let Some(config) = &self.secure {
            return Ok(Wire::Tls(Box::new(super::tls::client_side(socket, config, "localhost"))));
        }
        Ok(Wire::Plain(socket))
    }

    #[track_caller]
    pub(crate) fn open(&self, path: &str) -> Client {
        #[cfg(feature = "tls")]
        if let Some(config) = &self.secure {
            let socket = TcpStream::connect(self.address).expect("the server accepts");
            let mut client = Client::over_tls(socket, config, "localhost");
            client.handshake(path);
            return client;
        }
        Client::open(self.address, path)
    }
}

/// What clients met in a run of [`restart`].
#[derive(Default)]
struct Met {
    echoed: AtomicU64,
    let_go: AtomicU64,
}

/// What a client sees next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Echo,
    LetGo,
    Nothing,
}

impl Met {
    fn count(&self) -> u64 {
        self.echoed.load(Ordering::Relaxed) + self.let_go.load(Ordering::Relaxed)
    }

    /// One client: it connects, says something, and hears it, or is told to come back; if it `stays`, perhaps later.
    fn client(&self, door: &Door, stays: bool) -> Result<(), String> {
        let mut stream = door.connect().map_err(|error| format!("connect: {error}"))?;
        let mut bytes = request("/echo").into_bytes();
        bytes.extend(text("hello"));
        stream.write_all(&bytes).map_err(|error| format!("write: {error}"))?;
        let mut heard = Vec::new();
        let mut next = next(&mut stream, &mut heard, PATIENCE)?;
        if next == Next::Echo {
            self.echoed.fetch_add(1, Ordering::Relaxed);
            if !stays {
                return Ok(());
            }
            let end = heard.len();
            next = self::next(&mut stream, &mut heard, Duration::from_millis(150))?;
            assert!(next != Next::Echo, "twice: {:?}", &heard[end..]);
        }
        if next == Next::LetGo {
            self.let_go.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Reads up to the next frame, which is taken off `heard`. A reset, or an end without a Close, is an error; nothing in
/// time is one before the first frame.
fn next(stream: &mut Wire, heard: &mut Vec<u8>, patience: Duration) -> Result<Next, String> {
    let first = heard.is_empty();
    let mut buffer = [0; 1024];
    stream.set_read_timeout(Some(patience)).map_err(|error| error.to_string())?;
    loop {
        let head = heard.windows(4).position(|window| window == b"\r\n\r\n");
        if head.is_some() && !heard.starts_with(b"HTTP/1.1 101 ") {
            return Err(format!("refused: {}", String::from_utf8_lossy(heard)));
        }
        match head.map(|end| &heard[end + 4..]) {
            Some([0x81, 5, b'h', b'e', b'l', b'l', b'o', ..]) => {
                let end = head.map_or(0, |end| end + 4);
                heard.drain(end..end + 7);
                return Ok(Next::Echo);
            }
            // 1012, and room for the reason.
            Some([0x88, _, 0x03, 0xF4, ..]) => return Ok(Next::LetGo),
            _ => {}
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("ended after {heard:?}")),
            Ok(len) => heard.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && !first => return Ok(Next::Nothing),
            Err(error) => return Err(format!("read after {} bytes: {error}", heard.len())),
        }
    }
}

/// Has `start` start one server after the other with these flags, each on the same sockets as the one before, which is
/// then told to go, while clients come by all of the `doors`: 3 times at 100 a second; `scripts/chaos restart`
/// asks for 20 at 500.
pub(crate) fn restart(doors: &[Door], start: impl Fn(&[&str]) -> Program) {
    let number = |name| std::env::var(name).ok().and_then(|it| it.parse().ok());
    let (times, rate) = (number("WSD_TEST_RESTARTS").unwrap_or(3), number("WSD_TEST_RATE").unwrap_or(100));
    let flags = ["--threads", "2", "--drain-grace", "50ms", "--drain-spread", "100ms"];
    let met = restart_times(times, rate, doors, || start(&flags));
    let (echoed, let_go) = (met.echoed.load(Ordering::Relaxed), met.let_go.load(Ordering::Relaxed));
    assert!(echoed + let_go >= u64::from(times * (rate / 5)), "{echoed} served, {let_go} let go");
    let _ = writeln!(io::stdout(), "{times} restarts: {echoed} clients served, {let_go} let go, 0 refused");
}

fn restart_times(times: u32, rate: u32, doors: &[Door], start: impl Fn() -> Program) -> Arc<Met> {
    const CROWD: u32 = 16;
    let mut present = start();
    let (met, over) = (Arc::new(Met::default()), Arc::new(AtomicBool::new(false)));
    let crowd: Vec<_> = (0..CROWD)
        .map(|number| {
            let (met, over) = (Arc::clone(&met), Arc::clone(&over));
            let door = doors[number as usize % doors.len()].clone();
            std::thread::spawn(move || {
                let begin = Instant::now();
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    // On a schedule: who is held up does not come less often.
                    let due = Duration::from_secs(1) * (count * CROWD + number) / rate;
                    std::thread::sleep(due.saturating_sub(begin.elapsed()));
                    // Not all of them at once: between two restarts there would be none.
                    let outcome = met.client(&door, (count + number / 2).is_multiple_of(8));
                    outcome.unwrap_or_else(|problem| panic!("client {count}: {problem}"));
                    count += 1;
                }
            })
        })
        .collect();
    for _ in 0..times {
        // A fifth of a second's load for each of them, however long that takes.
        let before = met.count();
        wait_until("clients come", || {
            met.count() >= before + u64::from(rate / 5) || crowd.iter().any(|thread| thread.is_finished())
        });
        // Nobody else accepts yet.
        let mut loyal: Vec<Client> = doors.iter().cycle().take(6).map(|door| door.open("/echo")).collect();
        let successor = start();
        present.signal(Signal::TERM);
        loyal.iter_mut().for_each(|client| drop(client.assert_lets_go_with(1012)));
        assert_eq!(present.output().status.code(), Some(0));
        present = successor;
    }
    over.store(true, Ordering::Relaxed);
    crowd.into_iter().for_each(|thread| thread.join().expect("nobody was refused"));
    met
}
