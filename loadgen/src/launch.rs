//! Servers that loadgen starts itself: a fresh process for each run, waited for until it accepts connections, and
//! stopped with everything it has started.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What stands for the port in a command.
pub const PORT: &str = "{port}";
/// How long a server may take until it accepts connections.
const READY_MAX: Duration = Duration::from_secs(20);
/// How long it may take to end after it was told to.
const STOP_MAX: Duration = Duration::from_secs(5);
/// How long its last words may be under way, where it has ended and its output has not.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
/// How often to look.
const TICK: Duration = Duration::from_millis(10);
/// Lines kept of what it says, to be shown when it fails.
const LINES_KEPT: usize = 3;

/// A server process; it is stopped when this goes away.
#[derive(Debug)]
pub struct Launched {
    child: Child,
    address: SocketAddr,
    stopped: bool,
}

/// What the server has said so far.
#[derive(Debug, Default)]
struct Said {
    port: Option<u16>,
    last: VecDeque<String>,
}

impl Launched {
    /// Starts `command` by way of the shell and waits until it accepts connections on `ip`: on the port that stands
    /// for `{port}`, or on the first one that it prints.
    ///
    /// # Errors
    /// One line: it does not start, ends at once, or does not listen.
    pub fn start(command: &str, ip: IpAddr) -> Result<Self, String> {
        let given = if command.contains(PORT) { Some(free_port(ip)?) } else { None };
        let line = given.map_or_else(|| command.to_owned(), |port| command.replace(PORT, &port.to_string()));
        let mut child = Command::new("/bin/sh")
            // With `exec` the process is the server, not a shell around it.
            .args(["-c", &format!("exec {line}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C is for us, and what it starts is stopped with it.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start '{line}': {error}"))?;
        let said = Arc::new(Mutex::new(Said::default()));
        if let Some(stdout) = child.stdout.take() {
            listen(stdout, &said);
        }
        if let Some(stderr) = child.stderr.take() {
            listen(stderr, &said);
        }
        let mut it = Self { child, address: SocketAddr::new(ip, 0), stopped: false };
        it.wait_until_ready(given, &said).map_err(|problem| {
            let last = said.lock().map(|said| Vec::from(said.last.clone()).join("; ")).unwrap_or_default();
            let said = if last.is_empty() { String::new() } else { format!(": {last}") };
            format!("'{line}' {problem}{said}")
        })?;
        Ok(it)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it: SIGINT and SIGTERM, and SIGKILL where that does not help.
    pub fn stop(mut self) {
        self.end();
    }

    fn wait_until_ready(&mut self, given: Option<u16>, said: &Arc<Mutex<Said>>) -> Result<(), String> {
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline {
            let port = given.or_else(|| said.lock().ok().and_then(|said| said.port));
            if let Some(port) = port {
                self.address.set_port(port);
                if TcpStream::connect_timeout(&self.address, TICK * 10).is_ok() {
                    return Ok(());
                }
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                hear_out(said);
                self.stopped = true;
                return Err(match (status.code(), status.signal()) {
                    (Some(code), _) => format!("ended with exit code {code}"),
                    (_, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
                });
            }
            std::thread::sleep(TICK);
        }
        Err(if given.is_some() {
            format!("does not accept connections on {} after {}s", self.address, READY_MAX.as_secs())
        } else {
            format!("has printed no address in {}s: write {PORT} where its port belongs", READY_MAX.as_secs())
        })
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let group = Pid::from_raw(self.child.id() as i32);
        // SIGTERM alone makes servers that are made for deploys let their clients go slowly; SIGINT alone is ignored
        // by what a script has started in the background.
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let _ = killpg(group, signal);
        }
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(TICK);
        }
        // Its children, and itself where it did not listen.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until all that a server which has ended said is known: whoever reads it shares it until the end of the pipe,
/// which something that the server has started may hold open.
fn hear_out(said: &Arc<Mutex<Said>>) {
    let deadline = Instant::now() + LAST_WORDS_MAX;
    while Arc::strong_count(said) > 1 && Instant::now() < deadline {
        std::thread::sleep(TICK);
    }
}

/// Reads what the server prints, to its end: a full pipe would stop it.
fn listen(pipe: impl Read + Send + 'static, said: &Arc<Mutex<Said>>) {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if let Ok(mut said) = said.lock() {
                said.port = said.port.or_else(|| printed_port(&text));
                said.last.push_back(text);
                if said.last.len() > LINES_KEPT {
                    said.last.pop_front();
                }
            }
            line.clear();
        }
    });
}

/// The port of the first address in a line: after a host of the kind that servers print.
fn printed_port(line: &str) -> Option<u16> {
    ["localhost:", "127.0.0.1:", "0.0.0.0:", "[::1]:", "[::]:", "*:"].iter().find_map(|host| {
        let (_, rest) = line.split_once(host)?;
        let end = rest.find(|it: char| !it.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok().filter(|port| *port > 0)
    })
}

fn free_port(ip: IpAddr) -> Result<u16, String> {
    let listener = TcpListener::bind((ip, 0)).and_then(|it| it.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no free port on {ip}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn ports_as_servers_print_them() {
        for (line, port) in [
            ("wsd ready on http://127.0.0.1:39001, 4 threads", Some(39_001)),
            ("Listening on ws://localhost:8080/", Some(8_080)),
            ("12:30:01 INFO up at 0.0.0.0:9000", Some(9_000)),
            ("[::]:81", Some(81)),
            ("listening on port 9000", None),
            ("127.0.0.1:0", None),
            ("127.0.0.1:", None),
        ] {
            assert_eq!(printed_port(line), port, "{line}");
        }
    }

    #[test]
    fn what_does_not_start_says_why() {
        let error = Launched::start("/nowhere/server {port}", LOCAL).expect_err("there is none");
        assert!(error.contains("exit code 127") && error.contains("/nowhere/server"), "{error}");
        let error = Launched::start("sh -c 'echo no licence; exit 3'", LOCAL).expect_err("it ends");
        assert!(error.ends_with("ended with exit code 3: no licence"), "{error}");
    }
}
