//! What the tests share: a small server with faults on demand, and the program itself.

// Each test file is a crate of its own, and uses its own part of this.
#![allow(dead_code, unreachable_pub, clippy::print_stdout)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use wsd::proto::handshake::{Request, encode_accept};
use wsd::proto::{Close, CloseCode, Decoder, Event, MessageLimits, OpCode, Role, frame};

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: an echo.
    None,
    /// Each connection's message of this number is not answered.
    Drop(u32),
    /// It is answered twice.
    Double(u32),
    /// It is answered after the next one.
    Swap(u32),
    /// Its last byte is damaged.
    Flip(u32),
    /// Before answering it, the connection sleeps.
    Freeze(u32, Duration),
    /// In its place comes a Close with this code.
    Close(u32, u16),
    /// Each answer takes so long.
    Delay(Duration),
    /// Each connection's answers take so many milliseconds, in turn.
    Delays(&'static [u64]),
    /// Nothing is echoed before a ping has been answered rightly; and it greets.
    Ping,
    /// The handshake is answered with this status.
    Status(u16),
    /// The handshake's accept key is another's.
    WrongAccept,
    /// Of five connections one is served, one gets status 503, one another's accept key, one is hung up on, and one
    /// hears nothing.
    Mixed,
    /// So many handshakes are answered with status 503 before any is taken.
    RefuseFirst(usize),
    /// Before the connection of this number, and all behind it, the server sleeps.
    FreezeAccept(usize, Duration),
    /// A Close is not answered.
    MuteClose,
    /// The first connection's message of this number is answered with a Close that asks to be spared for so many
    /// milliseconds.
    Retry(u32, u32),
    /// Everything goes to everyone, except that the first connection misses each sender's message of this number.
    BroadcastDrop(u32),
}

/// A server with a fault, for as long as the test runs.
pub struct FaultyServer {
    pub url: String,
    /// One value for each message that the server gets.
    pub messages: Receiver<()>,
    /// When each connection was accepted.
    pub accepted: Receiver<Instant>,
}

impl Fault {
    /// What is wrong with the connection of this number.
    const fn of(self, number: usize) -> Self {
        match (self, number % 5) {
            (Self::Mixed, 0) => Self::None,
            (Self::Mixed, 1) => Self::Status(503),
            (Self::Mixed, 2) => Self::WrongAccept,
            (Self::RefuseFirst(refused), _) if number < refused => Self::Status(503),
            (Self::RefuseFirst(_) | Self::FreezeAccept(..), _) => Self::None,
            (Self::Retry(..), _) if number > 0 => Self::None,
            (fault, _) => fault,
        }
    }
}

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 1 << 24, fragments_max: 1 << 10 };

type Members = Arc<Mutex<Vec<TcpStream>>>;

/// Starts a server on a free port.
pub fn serve(fault: Fault) -> FaultyServer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let (sender, messages) = channel();
    let (arrivals, accepted) = channel();
    let members = Members::default();
    std::thread::spawn(move || {
        // Those that hear nothing are kept, or they would be hung up on.
        let mut ignored = Vec::new();
        for (number, stream) in listener.incoming().enumerate() {
            let (sender, members) = (sender.clone(), Arc::clone(&members));
            let stream = stream.expect("accepted");
            let _ = arrivals.send(Instant::now());
            match (fault, number % 5) {
                (Fault::FreezeAccept(nth, time), _) if nth == number => std::thread::sleep(time),
                (Fault::Mixed, 3) => continue,
                (Fault::Mixed, 4) => {
                    ignored.push(stream);
                    continue;
                }
                _ => {}
            }
            let fault = fault.of(number);
            // A connection that ends early is the client's business, and the test's.
            std::thread::spawn(move || connection(stream, fault, &sender, &members));
        }
    });
    FaultyServer { url: format!("ws://{address}"), messages, accepted }
}

/// The command of a server process with a fault: this very test program, which must have the [`server_process`]
/// below among its tests.
pub fn command(fault: &str) -> String {
    let program = std::env::current_exe().expect("a test program");
    format!("env {FAULT}={fault} {} --exact server_process --ignored --nocapture", program.display())
}

/// In which variable a server process finds its fault: `none`, or `delay-US` for a delay in microseconds.
const FAULT: &str = "LOADGEN_TEST_FAULT";

/// What the ignored test named `server_process` does: serves until it is stopped.
pub fn server_process() {
    let Ok(fault) = std::env::var(FAULT) else { return };
    let fault = match fault.split_once('-') {
        Some(("delay", us)) => Fault::Delay(Duration::from_micros(us.parse().expect("microseconds"))),
        _ => Fault::None,
    };
    let server = serve(fault);
    println!("listens on {}", server.url);
    while server.messages.recv().is_ok() {}
}

fn connection(
    mut stream: TcpStream,
    fault: Fault,
    messages: &Sender<()>,
    members: &Members,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if !handshake(&mut stream, fault)? {
        return Ok(());
    }
    members.lock().expect("sound").push(stream.try_clone()?);
    let mut pinged = fault != Fault::Ping;
    if !pinged {
        let mut out = Vec::new();
        frame::encode(&mut out, OpCode::Text, br#"{"type":"welcome"}"#, None);
        frame::encode(&mut out, OpCode::Ping, b"are you there?", None);
        stream.write_all(&out)?;
    }
    let mut decoder = Decoder::new(Role::Server);
    let (mut buffer, mut number, mut held) = ([0; 65_536], 0, None);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < read {
            let (used, event) = decoder.decode(&mut buffer[at..read], &LIMITS).expect("a sound client");
            at += used;
            match event {
                Some(Event::Message(message)) if pinged => {
                    let _ = messages.send(());
                    let (opcode, bytes) = (message.opcode(), message.as_bytes().to_vec());
                    answer(&mut stream, fault, number, opcode, bytes, &mut held, members)?;
                    number += 1;
                }
                Some(Event::Pong(payload)) => pinged |= *payload == b"are you there?"[..],
                Some(Event::Close(_)) if fault == Fault::MuteClose => {}
                Some(Event::Close(_)) => {
                    let mut out = Vec::new();
                    frame::encode_close(&mut out, &Close::from(CloseCode::NORMAL));
                    stream.write_all(&out)?;
                    return stream.shutdown(Shutdown::Both);
                }
                _ => {}
            }
        }
    }
}

/// Answers the opening request; true where messages follow.
fn handshake(stream: &mut TcpStream, fault: Fault) -> std::io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let request = Request::parse(&head, 64).expect("a sound request");
    let key = request.header("sec-websocket-key").expect("a key");
    let mut out = Vec::new();
    match fault {
        Fault::Status(status) => {
            out = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }
        Fault::WrongAccept => encode_accept(&mut out, "dGhlIHNhbXBsZSBub25jZQ==", None, None),
        _ => encode_accept(&mut out, key, None, None),
    }
    stream.write_all(&out)?;
    Ok(!matches!(fault, Fault::Status(_) | Fault::WrongAccept))
}

fn answer(
    stream: &mut TcpStream,
    fault: Fault,
    number: u32,
    opcode: OpCode,
    mut bytes: Vec<u8>,
    held: &mut Option<Vec<u8>>,
    members: &Members,
) -> std::io::Result<()> {
    let mut out = Vec::new();
    let mut copies = 1;
    match fault {
        Fault::Drop(nth) if nth == number => copies = 0,
        Fault::Double(nth) if nth == number => copies = 2,
        Fault::Flip(nth) if nth == number => *bytes.last_mut().expect("not empty") ^= 1,
        Fault::Freeze(nth, time) if nth == number => std::thread::sleep(time),
        Fault::Delay(time) => std::thread::sleep(time),
        Fault::Delays(ms) => std::thread::sleep(Duration::from_millis(ms[number as usize % ms.len()])),
        Fault::Swap(nth) if nth == number => {
            frame::encode(&mut out, opcode, &bytes, None);
            *held = Some(out);
            return Ok(());
        }
        Fault::Close(nth, code) if nth == number => {
            let code = CloseCode::new(code).expect("a code for the wire");
            frame::encode_close(&mut out, &Close::from(code));
            return stream.write_all(&out);
        }
        Fault::Retry(nth, ms) if nth == number => {
            let close = Close { code: CloseCode::RESTART, reason: format!("retry={ms}").into() };
            frame::encode_close(&mut out, &close);
            return stream.write_all(&out);
        }
        Fault::BroadcastDrop(nth) => {
            frame::encode(&mut out, opcode, &bytes, None);
            let skip = usize::from(nth == number);
            return members
                .lock()
                .expect("sound")
                .iter_mut()
                .skip(skip)
                .try_for_each(|it| it.write_all(&out));
        }
        _ => {}
    }
    for _ in 0..copies {
        frame::encode(&mut out, opcode, &bytes, None);
    }
    out.extend(held.take().unwrap_or_default());
    stream.write_all(&out)
}

/// The program with arguments, not yet started.
pub fn loadgen(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(line.split_whitespace());
    command
}

/// Runs the program to its end.
pub fn run(line: &str) -> (i32, String, String) {
    texts(&loadgen(line).output().expect("started"))
}

/// Exit code, standard output and standard error.
pub fn texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().expect("not killed"), text(&output.stdout), text(&output.stderr))
}

/// Runs the program against `url` without warm-up, and gives table and JSON.
pub fn measure(url: &str, line: &str) -> (String, Value) {
    let json = tempfile::NamedTempFile::new().expect("a file");
    let line = format!("{url} --warmup 0s --settle 0s -q --json {} {line}", json.path().display());
    let (code, out, err) = run(&line);
    assert_eq!(err, "", "nothing but mistakes goes to stderr");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let value: Value = serde_json::from_slice(&std::fs::read(json.path()).expect("written")).expect("JSON");
    assert_eq!(code, if value["verdict"] == "INVALID" { 97 } else { 0 }, "{out}");
    (out, value)
}

/// As [`measure`], and again where the generator says that it could not keep up: other programs may have the cores.
pub fn measure_in_peace(url: &str, line: &str) -> (String, Value) {
    let tries = (0..8).map(|_| measure(url, line));
    let mut unsound = Vec::new();
    for (out, value) in tries {
        if value["verdict"] == "VALID" {
            return (out, value);
        }
        unsound.push(out);
    }
    panic!("the machine is too busy for a sound run:\n{}", unsound.join("\n"));
}

/// Whether one of the reasons for the verdict has this text.
pub fn has_reason(value: &Value, text: &str) -> bool {
    let reasons = value["reasons"].as_array().expect("a list");
    reasons.iter().any(|reason| reason.as_str().is_some_and(|reason| reason.contains(text)))
}
