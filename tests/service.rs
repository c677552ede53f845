//! wsd under a service manager: sockets that it passes, what it is told, a successor on the same socket, and a sandbox
//! that refuses private descriptor tables.

#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::program::{Program, activated, copy, listen, run, wsd};
use common::restart::{Door, restart};
use common::{Client, PATIENCE, Running, calm, request, text};
use rustix::process::Signal;
use wsd::{App, Context, Drain, Message, Server};

#[test]
fn a_passed_socket_takes_the_place_of_the_default_address() {
    let (socket, address) = listen();
    let program = Program::start(activated(copy(&socket), &["--threads", "3"]));
    assert_eq!(program.addresses(), [address]);
    // One that nobody asked for would be on port 8080.
    (0..20).for_each(|_| program.open("/echo").close());
    program.signal(Signal::INT);
    assert_eq!(program.output().status.code(), Some(0));
    // Whoever passed it has it still.
    let waiting = TcpStream::connect(address).expect("it listens");
    socket.accept().expect("nobody else took it");
    drop(waiting);

    let program = Program::start(activated(socket, &["--listen", "127.0.0.1:0"]));
    let addresses = program.addresses();
    assert!(addresses.len() == 2 && addresses.contains(&address), "{addresses:?}");
    addresses.into_iter().for_each(|address| Client::open(address, "/echo").close());
}

#[test]
fn what_is_no_listening_socket_is_one_line() {
    let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let null = std::fs::File::open("/dev/null").expect("it is there");
    for descriptor in [OwnedFd::from(unbound), one.into(), null.into()] {
        let output = run(activated(descriptor, &[]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("wsd: ") && stderr.lines().count() == 1, "{stderr}");
        assert!(stderr.contains("`web`"), "{stderr}");
    }
    // Meant for another process: nothing was passed.
    let mut command = wsd(&["--listen", "127.0.0.1:0"]);
    command.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]);
    Program::start(command).open("/echo").close();
}

/// Says on which worker it is.
struct Who;

impl App for Who {
    fn on_open(&mut self, cx: &mut Context<'_>) {
        let id = cx.id().to_string();
        cx.send(id.split('.').next().expect("the worker comes first"));
    }

    fn on_message(&mut self, cx: &mut Context<'_>, message: Message<'_>) {
        if message.as_text() == Some("stop the worker") {
            std::thread::sleep(Duration::from_secs(3600));
        }
        cx.send(message);
    }
}

/// Left to itself the kernel would wake the same worker again and again, as long as that one is not busy.
#[test]
fn workers_share_a_passed_socket_fairly() {
    let (socket, address) = listen();
    let builder = Server::builder().threads(4).limits(calm()).listener(copy(&socket)).app(|| Who);
    let server = Running::start(builder);
    let mut workers: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for _ in 0..80 {
        let mut client = Client::open(address, "/");
        *workers.entry(client.read_frame().payload).or_default() += 1;
        client.close();
    }
    assert!(workers.len() == 4 && workers.values().all(|count| *count >= 5), "{workers:?}");
    server.finish();
    // Stopped, it holds nothing back: whoever comes now is for the one who holds the socket.
    let waiting = TcpStream::connect(address).expect("it listens");
    assert_eq!(socket.accept().expect("it waits").1, waiting.local_addr().expect("connected"));
}

/// Where notifications go.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: String,
}

impl Manager {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wsd-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a path of our own");
        Self { socket, path, heard: String::new() }
    }

    /// Waits for a line; gives all that came up to then.
    #[track_caller]
    fn hears(&mut self, line: &str) -> String {
        let start = Instant::now();
        while !self.heard.lines().any(|heard| heard == line) {
            assert!(start.elapsed() < PATIENCE, "never: {line}; {}", self.heard);
            self.listen_for(Duration::from_millis(100));
        }
        std::mem::take(&mut self.heard)
    }

    fn listen_for(&mut self, pause: Duration) {
        let mut buffer = [0; 4096];
        self.socket.set_read_timeout(Some(pause)).expect("not zero");
        if let Ok(len) = self.socket.recv(&mut buffer) {
            self.heard.push_str(&String::from_utf8_lossy(&buffer[..len]));
            self.heard.push('\n');
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn the_service_manager_hears_of_readiness_the_end_and_signs_of_life() {
    let mut manager = Manager::new("notify");
    let mut command = wsd(&["--listen", "127.0.0.1:0", "--threads", "2", "--drain-grace", "0"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    let mut program = Program::start(command);
    let said = manager.hears("READY=1");
    assert!(said.contains("STATUS=serving, up to ") && !said.contains("STOPPING"), "{said}");
    // Nobody is connected, nothing happens: it turns all the same.
    (0..3).for_each(|_| drop(manager.hears("WATCHDOG=1")));
    let client = program.open("/sink");
    program.signal(Signal::TERM);
    manager.hears("STATUS=draining");
    manager.hears("WATCHDOG=1");
    drop(client);
    assert_eq!(program.wait().code(), Some(0));
    // A watchdog that is another's, and none at all.
    let mut command = wsd(&["--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000").env("WATCHDOG_PID", "1");
    let _program = Program::start(command);
    manager.hears("READY=1");
    manager.listen_for(Duration::from_millis(300));
    assert!(!manager.heard.contains("WATCHDOG"), "{}", manager.heard);
}

/// The time that a `MONOTONIC_USEC=` has, which must be in the same message as `RELOADING=1`.
#[track_caller]
fn reloading_since(said: &str) -> u64 {
    let (_, rest) = said.split_once("RELOADING=1\n").unwrap_or_else(|| panic!("no RELOADING=1 in {said}"));
    let (rest, _) = rest.split_once("READY=1").expect("it ends");
    let time = rest.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("a time");
    time.parse().expect("microseconds")
}

#[test]
fn the_service_manager_hears_when_a_reload_begins_and_ends() {
    let mut manager = Manager::new("reload");
    let file = std::env::temp_dir().join(format!("wsd-{}-reload.toml", std::process::id()));
    let write = |text: &str| std::fs::write(&file, text).expect("a path of our own");
    write("listen = [\"127.0.0.1:0\"]\ndrain-grace = \"0\"\ndrain-timeout = \"2h\"\n");
    let mut command = wsd(&["--config", file.to_str().expect("UTF-8"), "--log", "off"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    let mut program = Program::start(command);
    manager.hears("READY=1");
    let mut before = 0;
    for (settings, status) in [("max-message = 7", None), ("nonsense", Some("failed")), ("", None)] {
        write(&format!(
            "listen = [\"127.0.0.1:0\"]\ndrain-grace = \"0\"\ndrain-timeout = \"2h\"\n{settings}\n"
        ));
        program.signal(Signal::HUP);
        let said = manager.hears("READY=1");
        let since = reloading_since(&said);
        assert!(since > before, "{since} after {before}");
        before = since;
        let (_, last) = said.rsplit_once("STATUS=").expect("a status");
        assert!(last.starts_with("serving, up to "), "{said}");
        assert_eq!(last.contains("the last reload failed"), status.is_some(), "{said}");
    }
    // A drain may take longer than the unit says, and 32 bits hold: two hours, and the end. Whoever hears of an end is
    // told of nothing else.
    let client = program.open("/sink");
    program.signal(Signal::TERM);
    let said = manager.hears("STATUS=draining");
    assert!(said.contains("STOPPING=1\n") && said.contains("EXTEND_TIMEOUT_USEC=7205000000\n"), "{said}");
    program.signal(Signal::HUP);
    drop(client);
    assert_eq!(program.wait().code(), Some(0));
    manager.listen_for(Duration::from_millis(100));
    assert!(!manager.heard.contains("RELOADING"), "{}", manager.heard);
    let _ = std::fs::remove_file(&file);
}

/// The default address gives way to a passed socket at each reload, as at the start. One of the file is there beside it,
/// so that a restart is what it takes; the passed socket keeps its own whatever is restarted.
#[test]
fn addresses_beside_a_passed_socket_need_a_restart_and_its_own_the_unit() {
    let path = std::env::temp_dir().join(format!("wsd-{}-addresses.toml", std::process::id()));
    let write = |listen: &str| std::fs::write(&path, listen).expect("a path of our own");
    let expected = "settings=\"listen (a passed socket's address is changed in its .socket unit)\"";
    let own = "listen = [\"127.0.0.1:0\"]";
    let default = "listen = [\"localhost:8080\"]";
    for (first, same, others) in [("", "threads = 2", [own, default]), (own, own, ["", default])] {
        write(first);
        let flags = ["--config", path.to_str().expect("UTF-8"), "--threads", "2", "--log", "info"];
        let mut program = Program::start(activated(listen().0, &flags));
        let log = program.log();
        // One line says that the settings were read, the next one names what needs a restart, if anything does.
        let heard = |what: &str| {
            let mut lines = std::iter::repeat_with(|| log.recv_timeout(PATIENCE).expect("a line"));
            let line = lines.find(|line| line.contains("settings")).expect("without end");
            assert!(line.contains(what), "{first} and then no `{what}` in: {line}");
        };
        for (now, is_new) in [(same, false), (others[0], true), (others[1], true), (same, false)] {
            write(now);
            program.signal(Signal::HUP);
            heard("settings reloaded");
            if is_new {
                heard(expected);
            }
        }
        program.signal(Signal::INT);
        assert_eq!(program.wait().code(), Some(0));
        assert!(!log.iter().any(|line| line.contains("settings")));
    }
    let _ = std::fs::remove_file(&path);
}

/// `systemctl reload` of a server that has nothing to read must not end it, as a SIGHUP elsewhere does.
#[test]
fn a_reload_of_nothing_is_survived_under_a_service_manager() {
    let mut manager = Manager::new("nothing");
    let mut command = wsd(&["--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    let program = Program::start(command);
    manager.hears("READY=1");
    program.signal(Signal::HUP);
    reloading_since(&manager.hears("READY=1"));
    program.open("/echo").close();
    program.signal(Signal::INT);
    assert!(!manager.hears("STATUS=stopping").contains("EXTEND"));
}

/// Not a test, but the server of the next one: only a process of its own can have an environment of its own.
#[test]
fn a_server_that_can_be_stuck() {
    if std::env::var_os("WSD_TEST_SERVER").is_none() {
        return;
    }
    let builder = Server::builder().threads(2).listen("127.0.0.1:0").app(|| Who);
    let builder = builder.service_manager().expect("nothing is passed");
    let ready = |server: &wsd::Handle| {
        let _ = writeln!(std::io::stdout(), "\nwsd ready on http://{}", server.addresses()[0]);
    };
    builder.run_with(ready).expect("it runs");
}

#[test]
fn a_worker_that_is_stuck_gives_no_sign_of_life() {
    let mut manager = Manager::new("stuck");
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(["--exact", "a_server_that_can_be_stuck", "--nocapture"]).env("WSD_TEST_SERVER", "1");
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "400000").stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it can be started");
    let mut said = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    let mut buffer = [0; 1024];
    let address: SocketAddr = loop {
        if let Some((_, rest)) = said.split_once("http://")
            && let Some((address, _)) = rest.split_once('\n')
        {
            break address.parse().expect("an address");
        }
        let len = stdout.read(&mut buffer).expect("readable");
        assert!(len > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..len]));
    };
    manager.hears("WATCHDOG=1");
    let mut client = Client::open(address, "/");
    client.send(text("stop the worker"));
    // What was due is soon over; then there is silence, although the other worker turns.
    let start = Instant::now();
    let mut quiet = 0;
    while quiet < 10 {
        assert!(start.elapsed() < PATIENCE, "it goes on giving signs of life: {}", manager.heard);
        manager.heard.clear();
        manager.listen_for(Duration::from_millis(200));
        quiet = if manager.heard.is_empty() { quiet + 1 } else { 0 };
    }
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}

/// What Docker's default profile does to unshare(2): EPERM, for want of CAP_SYS_ADMIN. Unlike Docker this refuses
/// root too.
#[test]
fn where_private_tables_are_refused_it_says_so_and_serves() {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
    #[cfg(target_arch = "x86_64")]
    let (unshare, architecture) = (272, TargetArch::x86_64);
    #[cfg(target_arch = "aarch64")]
    let (unshare, architecture) = (97, TargetArch::aarch64);
    let eperm = rustix::io::Errno::PERM.raw_os_error() as u32;
    let rules = BTreeMap::from([(unshare, vec![])]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(eperm), architecture);
    let program: seccompiler::BpfProgram = filter.expect("sound").try_into().expect("small");
    let start = move |threads: &'static str| {
        let program = program.clone();
        // A filter is for a thread and what it starts, and for good.
        let confined = std::thread::spawn(move || {
            seccompiler::apply_filter(&program).expect("anyone may confine itself");
            Program::serve(&["--threads", threads])
        });
        confined.join().expect("it starts")
    };
    for threads in ["1", "4"] {
        let program = start(threads);
        assert!(program.ready.contains("one table of "), "{}", program.ready);
        assert!(program.ready.ends_with("; the system refused private tables)\n"), "{}", program.ready);
        let mut clients: Vec<Client> = (0..50).map(|_| program.open("/echo")).collect();
        for client in &mut clients {
            client.send(text("hello"));
            client.assert_text("hello");
        }
        clients.into_iter().for_each(Client::close);
        program.signal(Signal::INT);
        assert_eq!(program.output().status.code(), Some(0));
    }
    // The same without a filter, unless these tests are in such a place themselves.
    let private = std::thread::spawn(|| wsd::net::fdtable::unshare().is_ok()).join().expect("no panic");
    let free = Program::serve(&["--threads", "4"]);
    assert_eq!(free.ready.contains("4 private tables of "), private, "{}", free.ready);
}

#[test]
fn a_restart_under_load_refuses_no_connection() {
    let (socket, address) = listen();
    restart(&[Door::plain(address)], |flags| Program::start(activated(copy(&socket), flags)));
}

/// Those that nobody has accepted yet are the successor's, even if it comes only when the predecessor has gone.
#[test]
fn who_comes_between_two_servers_waits_for_the_second() {
    let (socket, address) = listen();
    let flags = ["--threads", "2", "--drain-grace", "0", "--drain-spread", "0"];
    let mut first = Program::start(activated(copy(&socket), &flags));
    first.open("/echo").close();
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code(), Some(0));
    let mut waiting: Vec<Client> = (0..50).map(|_| Client::connect(address)).collect();
    waiting.iter_mut().for_each(|client| client.send(request("/echo")));
    let _second = Program::start(activated(socket, &flags));
    for mut client in waiting {
        client.assert_upgraded();
        client.close();
    }
}

/// What the Dockerfile sets is taken, and done before `docker stop` loses its patience after 10 seconds.
#[test]
fn the_settings_of_the_image_are_sound() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
    let file = std::fs::read_to_string(path).expect("it is there");
    let words = file.split_whitespace().filter_map(|word| word.split_once('='));
    let settings: Vec<_> = words.filter(|(name, _)| name.starts_with("WSD_")).collect();
    assert!(settings.len() >= 4, "{settings:?}");
    let mut command = wsd(&["--print-limits"]);
    command.envs(settings.iter().copied());
    let output = run(command);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = printed.lines().find(|line| line.starts_with("--drain-timeout")).expect("its line");
    let value = line.split_whitespace().nth(1).expect("a value");
    let seconds: u64 = value.strip_suffix('s').and_then(|value| value.parse().ok()).expect("seconds");
    assert!(seconds < 10, "{value}");
    // The same for a server with these settings and the check that the image makes, on a port of this machine.
    assert!(file.contains(r#"CMD ["/wsd", "health"]"#));
    let mut command = wsd(&[]);
    command.envs(settings.iter().copied()).env("WSD_LISTEN", "0.0.0.0:0");
    let mut program = Program::start(command);
    let mut check = wsd(&["health"]);
    check.envs(settings).env("WSD_LISTEN", program.addresses()[0].to_string());
    assert_eq!(run(check).status.code(), Some(0));
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn the_unit_files_are_sound() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("it is there");
    let (service, socket, secure) = (read("wsd.service"), read("wsd.socket"), read("wsd-tls.socket"));
    for line in [
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "RuntimeDirectory=wsd",
        "Requires=wsd.socket",
        // With a limit the socket would fail with the service, and refuse everybody.
        "StartLimitIntervalSec=0",
        "RuntimeDirectory=wsd",
    ] {
        assert!(service.lines().any(|it| it == line), "no {line}");
    }
    for line in ["Service=wsd.service", "FileDescriptorName=tls", "Backlog=4096", "NoDelay=yes"] {
        assert!(secure.lines().any(|it| it == line), "no {line}");
    }
    assert!(!socket.lines().any(|it| it == "FileDescriptorName=tls"), "it has no certificate");
    // systemd waits for longer than a drain takes at most.
    let value = |name: &str| service.lines().find_map(|line| line.strip_prefix(name)).expect("it is set");
    let stop: u64 = value("TimeoutStopSec=").parse().expect("seconds");
    assert!(stop > Drain::default().timeout.as_secs(), "{stop}");
    // Its descriptor limit is what makes room for connections.
    assert!(value("LimitNOFILE=").parse::<u64>().expect("a number") >= 20_000);

    // Where systemd is installed it reads them itself, with this program for the one in /usr.
    let temporary = std::env::temp_dir().join(format!("wsd-units-{}", std::process::id()));
    std::fs::create_dir_all(&temporary).expect("a directory of our own");
    let program = value("ExecStart=").split(' ').next().expect("a program");
    let service = service.replace(program, env!("CARGO_BIN_EXE_wsd"));
    std::fs::write(temporary.join("wsd.service"), service).expect("written");
    std::fs::write(temporary.join("wsd.socket"), socket).expect("written");
    std::fs::write(temporary.join("wsd-tls.socket"), secure).expect("written");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    command.args(["wsd.service", "wsd.socket", "wsd-tls.socket"].map(|name| temporary.join(name)));
    let verified = command.stdin(Stdio::null()).output();
    std::fs::remove_dir_all(&temporary).expect("it is ours");
    match verified {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{said}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
    }
}
