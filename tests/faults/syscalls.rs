//! System calls that fail: strace makes some of them do so while clients talk. A connection may end by it, if the error
//! is one that ends connections; then its client comes back. Whatever is said on a connection that lives is answered.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use socket2::{Domain, Socket as TcpSocket, Type};
use tungstenite::client::{ClientRequestBuilder, client};
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use crate::common::admin::Scrape;
use crate::common::program::{Program, activated};
use crate::common::tls::{Authority, client_side};
use crate::common::{Client, PATIENCE, SHUTDOWN_MAX, request, text, wait_until};
use crate::{assert_balanced, closed, load, number};

/// What is called, and how it fails. The first two of each call are the short form.
const FAULTS: &[(&str, &[&str])] = &[
    ("?epoll_wait,epoll_pwait", &["EINTR"]),
    ("accept4", &["EMFILE", "ECONNABORTED", "EINTR", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "EPROTO"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("recvfrom", &["EINTR", "ECONNRESET", "ENOBUFS", "ENOMEM", "ETIMEDOUT", "EHOSTUNREACH"]),
    ("sendto", &["EINTR", "EPIPE", "ECONNRESET", "ENOBUFS", "ENOMEM", "ETIMEDOUT"]),
    ("writev", &["EINTR", "ECONNRESET", "EPIPE", "ENOBUFS", "ENOMEM"]),
    ("write", &["EINTR"]),
    ("shutdown", &["ENOTCONN", "ENOBUFS"]),
    ("openat", &["EMFILE", "ENFILE", "EINTR", "ENOMEM"]),
    ("?poll,ppoll", &["EINTR", "ENOMEM"]),
    ("read", &["EINTR", "EIO"]),
    ("ioctl,setsockopt,getpeername", &["ENOBUFS"]),
    ("?clone,clone3", &["EAGAIN", "ENOMEM"]),
];

/// Calls that must have failed before it is enough.
const FAILURES: usize = 10;

/// A socket, with TLS or without.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

type Socket = WebSocket<Box<dyn Stream>>;

/// Where clients go.
#[derive(Clone)]
struct Target {
    plain: SocketAddr,
    secure: SocketAddr,
    config: Arc<ClientConfig>,
    admin: SocketAddr,
}

impl Target {
    /// A WebSocket, or nothing where the connection ended before it was one.
    fn open(&self, path: &str, secure: bool) -> Option<Socket> {
        self.over(TcpStream::connect(if secure { self.secure } else { self.plain }).ok()?, path, secure)
    }

    /// The same over a connection.
    fn over(&self, stream: TcpStream, path: &str, secure: bool) -> Option<Socket> {
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_nodelay(true).ok()?;
        let stream: Box<dyn Stream> =
            if secure { Box::new(client_side(stream, &self.config, "localhost")) } else { Box::new(stream) };
        let request = ClientRequestBuilder::new(format!("ws://localhost{path}").parse().expect("a URI"));
        match client(request, stream) {
            Ok((socket, _)) => Some(socket),
            Err(HandshakeError::Failure(error)) => {
                assert_has_ended(&error);
                None
            }
            Err(HandshakeError::Interrupted(_)) => panic!("no answer to a handshake"),
        }
    }
}

/// An error must be the end of the connection. No answer in time is none: then something was lost.
#[track_caller]
fn assert_has_ended(error: &Error) {
    match error {
        Error::Io(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer"),
        Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_) => {}
        Error::Http(response) => assert_eq!(response.status(), 503, "{response:?}"),
        error => panic!("{error}"),
    }
}

/// The next text; nothing where the connection has ended.
fn read(socket: &mut Socket) -> Option<String> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
            Ok(Message::Ping(_)) => {}
            Ok(Message::Close(_)) => return None,
            Ok(message) => panic!("{message:?}"),
            Err(error) => {
                assert_has_ended(&error);
                return None;
            }
        }
    }
}

/// Says something; nothing where the connection has ended.
fn say(socket: &mut Socket, text: &str) -> Option<()> {
    socket.send(Message::text(text)).inspect_err(assert_has_ended).ok()
}

/// Numbers that are said in the room.
#[derive(Default)]
struct Said {
    next: AtomicU64,
    /// Those of which the speaker does not know what became of them.
    open: Mutex<BTreeSet<u64>>,
}

impl Said {
    fn open(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients that come back, each on its own thread.
#[derive(Default)]
struct Load {
    stops: Vec<Arc<AtomicBool>>,
    /// What each of them has heard of what it should.
    heard: Vec<(&'static str, Arc<AtomicU64>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(target: &Target) -> Self {
        let mut load = Self::default();
        for number in 0..4 {
            load.add("echo", target, move |target, heard, stop| echo(target, number == 0, heard, stop));
        }
        // Large ones go out with a queue behind them.
        load.add("flood", target, flood);
        let said = Arc::new(Said::default());
        for _ in 0..4 {
            let said = Arc::clone(&said);
            load.add("listen", target, move |target, heard, stop| listen(target, &said, heard, stop));
        }
        load.add("churn", target, |target, heard, _| churn(target, heard));
        load.add("/healthz", target, |target, heard, _| get(target.plain, "/healthz", heard));
        load.add("/metrics", target, |target, heard, _| get(target.admin, "/metrics", heard));
        load.add("/connections", target, |target, heard, _| get(target.admin, "/connections", heard));
        // Last, because it is stopped last: those who listen wait for it.
        load.add("speak", target, move |target, heard, stop| speak(target, &said, heard, stop));
        load
    }

    fn add(
        &mut self,
        name: &'static str,
        target: &Target,
        body: impl Fn(&Target, &AtomicU64, &AtomicBool) + Send + 'static,
    ) {
        let (target, heard) = (target.clone(), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        self.stops.push(Arc::clone(&stop));
        self.heard.push((name, Arc::clone(&heard)));
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                body(&target, &heard, &stop);
            }
        }));
    }

    /// Waits until each of them has heard something from now on.
    #[track_caller]
    fn wait_for_everyone(&self) {
        let heard = |(_, heard): &(_, Arc<AtomicU64>)| heard.load(Ordering::Relaxed);
        let before: Vec<u64> = self.heard.iter().map(heard).collect();
        let start = Instant::now();
        loop {
            assert!(self.threads.iter().all(|thread| !thread.is_finished()), "a client has failed");
            let waits = self.heard.iter().zip(&before).filter(|(client, before)| heard(client) == **before);
            let waits: Vec<&str> = waits.map(|((name, _), _)| *name).collect();
            if waits.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{waits:?} are not answered");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn finish(self) {
        for (stop, thread) in self.stops.iter().zip(self.threads) {
            stop.store(true, Ordering::Relaxed);
            thread.join().expect("it says why");
        }
    }
}

/// One connection, as long as it lives: each message is answered.
fn echo(target: &Target, secure: bool, heard: &AtomicU64, stop: &AtomicBool) {
    let Some(mut socket) = target.open("/echo", secure) else { return };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) || say(&mut socket, &number.to_string()).is_none() {
            return;
        }
        let Some(answer) = read(&mut socket) else { return };
        assert_eq!(answer, number.to_string());
        heard.fetch_add(1, Ordering::Relaxed);
    }
}

/// Messages larger than the kernel takes, several at once, so that answers wait in a queue.
fn flood(target: &Target, heard: &AtomicU64, stop: &AtomicBool) {
    let stream = TcpSocket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    // Before it connects: the window of a connection is scaled at its start.
    stream.set_recv_buffer_size(32 * 1024).expect("a socket option");
    let connected = stream.connect(&target.plain.into()).ok();
    let Some(mut socket) = connected.and_then(|()| target.over(stream.into(), "/echo", false)) else {
        return;
    };
    let texts = [b'a', b'b', b'c'].map(|letter| String::from_utf8(vec![letter; 1_000_000]).expect("ASCII"));
    while !stop.load(Ordering::Relaxed) {
        for text in &texts {
            if say(&mut socket, text).is_none() {
                return;
            }
        }
        for text in &texts {
            let Some(answer) = read(&mut socket) else { return };
            assert!(answer == *text, "another text");
        }
        heard.fetch_add(1, Ordering::Relaxed);
    }
}

/// A member of the room: no number is missing that the speaker knows of, from the first one on.
fn listen(target: &Target, said: &Said, heard: &AtomicU64, stop: &AtomicBool) {
    let Some(mut socket) = target.open("/rooms/a", false) else { return };
    let mut next = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(text) = read(&mut socket) else { return };
        let number: u64 = text.parse().expect("a number");
        let expected = next.unwrap_or(number);
        assert!(number >= expected, "{number} where {expected} is next");
        let open = said.open();
        (expected..number).for_each(|missing| assert!(open.contains(&missing), "{missing} was never heard"));
        next = Some(number + 1);
        heard.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says one number after the other in the room, each when the one before was heard.
fn speak(target: &Target, said: &Said, heard: &AtomicU64, stop: &AtomicBool) {
    let Some(mut socket) = target.open("/rooms/a", false) else { return };
    while !stop.load(Ordering::Relaxed) {
        let number = said.next.fetch_add(1, Ordering::Relaxed);
        said.open().insert(number);
        if say(&mut socket, &number.to_string()).is_none() {
            return;
        }
        let Some(answer) = read(&mut socket) else { return };
        assert_eq!(answer, number.to_string());
        said.open().remove(&number);
        heard.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, and its end.
fn churn(target: &Target, heard: &AtomicU64) {
    let Some(mut socket) = target.open("/echo", false) else { return };
    let end = socket.close(None).err().unwrap_or_else(|| {
        loop {
            if let Err(end) = socket.read() {
                break end;
            }
        }
    });
    assert_has_ended(&end);
    heard.fetch_add(1, Ordering::Relaxed);
}

/// A page.
fn get(address: SocketAddr, path: &str, heard: &AtomicU64) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) if answer.starts_with(b"HTTP/1.1 200 ") => drop(heard.fetch_add(1, Ordering::Relaxed)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            panic!("no answer to {path}")
        }
        _ => {}
    }
}

/// Makes calls of a program fail, from its start to its end.
struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// `when`: which calls of each thread, as strace(1) has it.
    #[track_caller]
    fn attach(program: &Program, call: &str, errno: &str, when: &str) -> Self {
        Self::inject(program, call, &format!("error={errno}:when={when}"))
    }

    /// Any fault, as strace(1) has it.
    #[track_caller]
    fn inject(program: &Program, call: &str, fault: &str) -> Self {
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("inject-{}", program.pid()));
        std::fs::write(&log, "").expect("a directory of our own");
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-p", &program.pid().to_string(), "-o"]).arg(&log);
        command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{fault}")]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("strace(1)");
        let mut strace = Self { child, log };
        wait_until("it is traced", || {
            if strace.child.try_wait().expect("ours").is_some() {
                let mut said = String::new();
                let _ = strace.child.stderr.take().expect("piped").read_to_string(&mut said);
                panic!("strace has ended: {said}");
            }
            !any_thread(program, "\nTracerPid:\t0\n")
        });
        strace
    }

    /// Calls so far, those that were interrupted counted once.
    fn calls(&self) -> usize {
        std::fs::read_to_string(&self.log).expect("it is there").matches(" = ").count()
    }

    /// Calls that have failed so far.
    fn failures(&self) -> usize {
        std::fs::read_to_string(&self.log).expect("it is there").matches("(INJECTED)").count()
    }

    /// Ends it. The program is stopped for that: a call that strace has turned into none, and leaves before it has said
    /// what comes of it, would be one that the system does not know.
    #[track_caller]
    fn detach(mut self, program: &Program) {
        program.signal(Signal::STOP);
        let mut looks = 0;
        wait_until("all of its threads stand still", || {
            let moves =
                ["\nState:\tR", "\nState:\tS", "\nState:\tD"].iter().any(|state| any_thread(program, state));
            looks = if moves { 0 } else { looks + 1 };
            // Between two steps of the tracer a thread stands still too, but not for so long.
            looks > 5
        });
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it is ours");
        self.child.wait().expect("it is ours");
        let _ = std::fs::remove_file(&self.log);
        program.signal(Signal::CONT);
    }
}

/// Whether any of its threads has this in its status, as proc(5) has it.
fn any_thread(program: &Program, status: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", program.pid())).expect("it runs");
    let said =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
    tasks.flatten().any(|task| said(task).contains(status))
}

/// A server with TLS and without, and its certificates.
fn serve() -> (Program, Target, Authority) {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost", &["localhost"]);
    let (certificate, key) = (certificate.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"));
    let tls = ["--tls-listen", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key];
    let args = ["--threads", "2", "--admin", "127.0.0.1:0", "--log", "debug"];
    let mut program = Program::serve(&[&args[..], &tls].concat());
    drop(program.log());
    let target = Target {
        plain: program.addresses()[0],
        secure: program.secure_address(),
        config: authority.client(rustls::ALL_VERSIONS),
        admin: program.admin(),
    };
    (program, target, authority)
}

/// Nobody is there: it holds nothing, owes nothing, and does nothing.
#[track_caller]
fn assert_at_rest(program: &Program, descriptors: usize) {
    wait_until("everybody has gone", || Scrape::of(program.admin()).sum("wsd_connections") == 0.0);
    assert_balanced(program);
    // A reserve that could not be taken back is one less.
    wait_until("its descriptors are back", || program.descriptors() <= descriptors);
    assert_rests(program);
}

/// There is nothing to do, and it does nothing.
#[track_caller]
fn assert_rests(program: &Program) {
    let before = program.processor_ticks();
    std::thread::sleep(Duration::from_millis(300));
    let ticks = program.processor_ticks() - before;
    assert!(ticks <= 4, "{ticks} ticks of 10 ms in 300 ms in which there was nothing to do");
}

#[test]
#[ignore = "needs strace, and leave to trace: scripts/test faults"]
fn system_calls_that_fail_end_no_more_than_their_connection() {
    let rounds = number("WSD_TEST_ROUNDS", 0);
    let (program, target, _authority) = serve();
    wait_until("its threads have started", || {
        Scrape::of(program.admin()).value("wsd_connections_limit") > 0.0
    });
    let descriptors = program.descriptors();
    for _ in 0..rounds.max(1) {
        for (call, errnos) in FAULTS {
            let errnos = if rounds == 0 { &errnos[..errnos.len().min(2)] } else { errnos };
            for errno in errnos {
                let load = Load::start(&target);
                load.wait_for_everyone();
                let lost = || closed(&Scrape::of(program.admin()), "lost");
                let before = lost();
                let strace = Strace::attach(&program, call, errno, "2+3");
                wait_until(&format!("{call} fails with {errno}"), || strace.failures() >= FAILURES);
                let failures = strace.failures();
                strace.detach(&program);
                load.wait_for_everyone();
                assert!(*errno != "EINTR" || lost() == before, "a call that is interrupted is made again");
                load.finish();
                assert_at_rest(&program, descriptors);
                println!(
                    "{call:28} {errno:12} {failures:4} times: those who are there are answered, nothing is left behind"
                );
            }
        }
    }
}

/// Accepting is forbidden for a while, each time in the same words.
#[test]
#[ignore = "needs strace, and leave to trace: scripts/test faults"]
fn a_listener_that_only_fails_is_asked_now_and_then() {
    for errno in ["EMFILE", "ENOMEM", "EPERM", "ECONNABORTED"] {
        let program = Program::serve(&["--threads", "1"]);
        let mut there = program.open("/echo");
        let strace = Strace::attach(&program, "accept4", errno, "1+");
        let mut late = program.connect();
        late.send(request("/echo"));
        wait_until("it has tried", || strace.failures() > 0);
        // By then it waits for a second from one time to the next, and one time is 256 calls at most.
        std::thread::sleep(Duration::from_millis(2_000));
        let (before, start) = (strace.failures(), Instant::now());
        std::thread::sleep(Duration::from_millis(500));
        let failures = strace.failures() - before;
        // A machine that is busy may let more time pass.
        let most = 600 + 256 * start.elapsed().as_secs() as usize;
        assert!(failures <= most, "{errno}: {failures} calls in {:?}", start.elapsed());
        there.send(text("still here"));
        there.assert_text("still here");
        strace.detach(&program);
        late.assert_upgraded();
    }
}

/// Two listeners failed, and what the rate allows is used up by the first of them that does not any more.
#[test]
#[ignore = "needs strace, and leave to trace: scripts/test faults"]
fn a_listener_that_failed_waits_for_the_rate_like_any_other() {
    let second = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let elsewhere = second.local_addr().expect("bound");
    let first = ["--listen", "127.0.0.1:0"];
    let program =
        Program::start(activated(second, &[&first, &["--threads", "1", "--accept-rate", "1"][..]].concat()));
    let here = program.addresses().into_iter().find(|address| *address != elsewhere).expect("two");
    let strace = Strace::attach(&program, "accept4", "EMFILE", "1..8");
    let mut clients: Vec<_> = [here, elsewhere, here, elsewhere].map(Client::connect).into();
    wait_until("both have failed, more than once", || strace.failures() == 8);
    strace.detach(&program);
    assert_rests(&program);
    clients.iter_mut().for_each(|client| client.handshake("/echo"));
}

/// Clients come faster than they can be accepted, and do not stop.
#[test]
#[ignore = "needs strace, and leave to trace: scripts/test faults"]
fn a_shutdown_does_not_wait_for_those_who_keep_coming() {
    let mut program = Program::serve(&["--threads", "1", "--backlog", "64", "--max-conns", "100"]);
    let server = program.addresses()[0];
    let strace = Strace::inject(&program, "accept4", "delay_exit=4000");
    let stop = Arc::new(AtomicBool::new(false));
    let crowd = [(); 4].map(|()| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let socket = TcpSocket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
                socket.set_nonblocking(true).expect("a socket option");
                let _ = socket.connect(&server.into());
                // Long enough to be in the queue.
                std::thread::sleep(Duration::from_micros(200));
            }
        })
    });
    wait_until("there are as many as may be", || strace.calls() > 100);
    let start = Instant::now();
    program.signal(Signal::INT);
    program.wait();
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    crowd.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert!(took < SHUTDOWN_MAX, "the shutdown took {took:?}");
}

/// Whoever waits for the admin listener is answered when it can accept again, and until then the log says so once.
#[test]
#[ignore = "needs strace, and leave to trace: scripts/test faults"]
fn an_admin_listener_that_only_fails_says_so_once() {
    let mut program = Program::serve(&["--threads", "1", "--admin", "127.0.0.1:0"]);
    let log = program.log();
    let strace = Strace::attach(&program, "accept4", "EMFILE", "1+");
    let mut late = Client::connect(program.admin());
    late.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_until("it has tried again and again", || strace.failures() >= 10);
    strace.detach(&program);
    late.assert_status(200);
    let said = log.try_iter().filter(|line| line.contains("the admin listener cannot accept")).count();
    assert_eq!(said, 1);
}

/// An error where nobody is waiting, and then nobody is: there is nothing left to be done.
#[test]
#[ignore = "needs strace, and leave to trace: scripts/test faults"]
fn a_listener_that_failed_once_is_left_alone_after_that() {
    let program = Program::serve(&["--threads", "1"]);
    // One for the connection; the next would find that there is no other.
    let strace = Strace::attach(&program, "accept4", "EMFILE", "2");
    let _there = program.open("/echo");
    wait_until("it has tried again", || strace.calls() >= 4);
    strace.detach(&program);
    assert_rests(&program);
}

/// A socket that is shared is asked for events anew after each connection. Where the system has no memory for that just
/// then, no event tells of the next one.
#[test]
#[ignore = "needs strace, and leave to trace: scripts/test faults"]
fn a_passed_socket_of_which_no_event_tells_is_asked_by_the_clock() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let program = Program::start(activated(socket, &["--threads", "1"]));
    // For the connection; to be told no more; to be told again.
    let strace = Strace::attach(&program, "epoll_ctl", "ENOMEM", "3");
    program.open("/echo").close();
    wait_until("the third call has failed", || strace.failures() == 1);
    (0..3).for_each(|_| program.open("/echo").close());
    strace.detach(&program);
    assert_rests(&program);
}

#[test]
#[ignore = "needs strace, and leave to trace: scripts/test faults"]
fn a_wake_up_that_a_signal_cuts_short_is_made_up_for() {
    let program = Program::serve(&["--threads", "2"]);
    // So many that both workers have some.
    let mut members: Vec<Client> = (0..24).map(|_| program.open("/rooms/a")).collect();
    let strace = Strace::attach(&program, "write", "EINTR", "1+2");
    // Nothing else wakes a worker.
    (0..6).for_each(|number| load::say(&mut members, &number.to_string()));
    assert!(strace.failures() > 0, "nobody was woken");
    strace.detach(&program);
}
