//! The `wsd` program from outside: flags, environment, exit codes, the ready line, signals, and what happens when
//! its descriptors run out.

#![cfg(feature = "cli")]

mod common;

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::program::{Program, run, wsd};
use common::{Client, FIN, PATIENCE, SHUTDOWN_MAX, TEXT, header, ping, request, text, wait_until};
use rustix::process::Signal;

/// Expects the end of a program that could not do what it was asked: the exit code, nothing on stdout, and one
/// line on stderr with all of `words` in it.
#[track_caller]
fn assert_one_line(output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(output.stdout, b"", "{stderr}");
    assert!(stderr.starts_with("wsd: ") && stderr.ends_with('\n'), "{stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for flag in ["--help", "-h"] {
        let output = run(wsd(&[flag]));
        let help = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
        for word in ["--listen", "--threads", "--app", "--max-message", "WSD_THREADS"] {
            assert!(help.contains(word), "no `{word}` in: {help}");
        }
    }
    let output = run(wsd(&["--version"]));
    assert_eq!(output.stdout, format!("wsd {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_bad_flag_is_one_line() {
    let cases: [(&[&str], &str); 31] = [
        (&["--nope"], "--nope"),
        (&["--thread", "4"], "--thread"),
        (&["4"], "4"),
        (&["--threads"], "--threads"),
        (&["--threads", "nope"], "--threads"),
        (&["--threads", "0"], "--threads"),
        (&["--threads", "-1"], "--threads"),
        (&["--threads", "--app", "echo"], "--threads"),
        (&["--threads", "99999"], "--threads"),
        (&["--threads", "1", "--threads", "2"], "--threads"),
        (&["--listen", "nonsense"], "--listen"),
        (&["--listen", ":8080"], "--listen"),
        (&["--listen", "localhost:http"], "--listen"),
        (&["--listen", "localhost:65536"], "--listen"),
        (&["--app", "poker"], "chat, broadcast, echo, sink"),
        (&["--log", "loud"], "--log"),
        (&["--max-conns", "0"], "--max-conns"),
        (&["--backlog", "0"], "--backlog"),
        (&["--max-message", "0"], "--max-message"),
        (&["--max-message", "1KB"], "--max-message"),
        (&["--max-message", "4GiB"], "--max-message"),
        (&["--max-fragments", "0"], "--max-fragments"),
        (&["--max-head", "lots"], "--max-head"),
        (&["--max-headers", "129"], "--max-headers"),
        (&["--handshake-timeout", "5"], "--handshake-timeout"),
        (&["--close-timeout", "0"], "--close-timeout"),
        (&["--ping-interval", "-5s"], "--ping-interval"),
        (&["health", "--timeout", "-5s"], "--timeout"),
        (&["--deflate", "-1"], "--deflate"),
        (&["--queue-hard", "1.5MiB"], "--queue-hard"),
        (&["--skip-sender=maybe"], "--skip-sender"),
    ];
    for (args, word) in cases {
        assert_one_line(&run(wsd(args)), 2, &[word, "see wsd --help"]);
    }
    // Not the parser's to find, but the router's.
    for path in ["nonsense", "/a?b", "/echo", ""] {
        assert_one_line(
            &run(wsd(&["--listen", "127.0.0.1:0", "--path", path])),
            2,
            &["--path", "route", "see wsd --help"],
        );
    }
}

#[test]
fn a_bad_setting_in_the_environment_is_one_line() {
    for (name, value, flag) in [
        ("WSD_THREADS", "nope", "--threads"),
        ("WSD_LISTEN", "nonsense", "--listen"),
        ("WSD_APP", "poker", "--app"),
        ("WSD_MAX_MESSAGE", "1KB", "--max-message"),
        ("WSD_PING_INTERVAL", "soon", "--ping-interval"),
        ("WSD_LOG", "loud", "--log"),
    ] {
        let mut command = wsd(&[]);
        command.env(name, value);
        assert_one_line(&run(command), 2, &[flag, value]);
    }
}

#[test]
fn settings_come_from_the_environment_and_flags_win() {
    let mut command = wsd(&["--threads", "2"]);
    command.envs([("WSD_LISTEN", "127.0.0.1:0"), ("WSD_APP", "echo"), ("WSD_THREADS", "3")]);
    command.envs([("WSD_GREETING", "hello"), ("WSD_REPLY", "<{}>"), ("WSD_MAX_CONNS", "5")]);
    let program = Program::start(command);
    assert!(program.ready.contains(", 2 threads, up to 5 connections (as configured)"), "{}", program.ready);
    let mut client = program.open("/");
    client.assert_text("hello");
    client.send(text("hi"));
    client.assert_text("<hi>");
    client.close();
}

#[test]
fn the_ready_line_says_where_and_how_many() {
    let program = Program::serve(&["--threads", "1"]);
    let address = program.addresses()[0];
    let start = format!("wsd ready on http://{address}, 1 thread, up to ");
    assert!(program.ready.starts_with(&start), "{}", program.ready);
    assert!(program.ready.ends_with(")\n"), "why so many: {}", program.ready);

    let program = Program::start(wsd(&["--listen", "localhost:0", "--threads", "2"]));
    let addresses = program.addresses();
    assert!(
        addresses.iter().all(|it| it.ip().is_loopback() && it.port() == addresses[0].port()),
        "{addresses:?}"
    );
    addresses.iter().for_each(|&address| Client::open(address, "/echo").close());
}

#[test]
fn a_port_in_use_is_one_line_that_names_it() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("bound").to_string();
    let output = run(wsd(&["--listen", &address]));
    assert_one_line(&output, 1, &[&address, "something listens there already", "--listen"]);
    // Another wsd, whose listeners share ports among themselves, is another program as well.
    let other = Program::serve(&[]);
    let address = other.addresses()[0].to_string();
    assert_one_line(&run(wsd(&["--listen", &address])), 1, &[&address]);
    let both = ["--listen", "127.0.0.1:0", "--listen", &address];
    assert_one_line(&run(wsd(&both)), 1, &[&address]);
    other.open("/echo").close();
}

/// Listeners of one program share their ports, so the system would give each a part of the other's connections.
#[test]
fn an_address_is_for_one_purpose() {
    // Nobody else's: below the ports that the system chooses, on an address from which no connection comes.
    let port = 10_000 + std::process::id() % 20_000;
    let listen = format!("127.43.21.10:{port}");
    for admin in [&listen, &format!("0.0.0.0:{port}")] {
        let output = run(wsd(&["--listen", &listen, "--admin", admin]));
        assert_one_line(&output, 1, &[admin, "something listens there already", "--admin"]);
    }
}

#[test]
fn an_address_of_somebody_else_is_one_line_that_names_it() {
    // TEST-NET-1 (RFC 5737) is nobody's.
    assert_one_line(&run(wsd(&["--listen", "192.0.2.1:8080"])), 1, &["192.0.2.1:8080"]);
}

#[test]
fn signals_end_it_in_good_order() {
    for signal in [Signal::INT, Signal::QUIT] {
        let program = Program::serve(&["--threads", "2"]);
        let mut clients: Vec<Client> = (0..10).map(|_| program.open("/sink")).collect();
        let start = Instant::now();
        program.signal(signal);
        clients.iter_mut().for_each(|client| {
            client.assert_closes_with(1001);
        });
        let output = program.output();
        assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]), "{signal:?}");
        assert!(start.elapsed() < SHUTDOWN_MAX, "{:?}", start.elapsed());
    }
}

#[test]
fn a_signal_ends_it_in_time_even_if_peers_never_answer() {
    let patient = ["--close-timeout", "1h", "--handshake-timeout", "1h", "--ping-interval", "0"];
    let mut program = Program::serve(&[&["--threads", "2"], &patient[..]].concat());
    let _mute = program.open("/sink");
    let _half_open = program.connect();
    let start = Instant::now();
    program.signal(Signal::INT);
    assert_eq!(program.wait().code(), Some(0));
    assert!(start.elapsed() < SHUTDOWN_MAX, "{:?}", start.elapsed());
}

#[test]
fn sigterm_lets_clients_go_and_a_second_one_does_not_wait() {
    let flags = ["--threads", "2", "--drain-grace", "0", "--drain-spread", "200ms", "--drain-timeout", "60s"];
    let program = Program::serve(&[&flags[..], &["--drain-retry", "10s"]].concat());
    let mut clients: Vec<Client> = (0..10).map(|_| program.open("/sink")).collect();
    program.signal(Signal::TERM);
    for client in &mut clients {
        let reason = client.assert_lets_go_with(1012);
        let hint = reason.strip_prefix("server is restarting, retry=").expect("a hint");
        assert!((5_000..=15_000).contains(&hint.parse::<u64>().expect("milliseconds")), "{hint}");
    }
    let output = program.output();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));

    for second in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let patient = ["--threads", "2", "--drain-grace", "1h", "--drain-timeout", "2h"];
        let program = Program::serve(&patient);
        let mut client = program.open("/sink");
        program.signal(Signal::TERM);
        let start = Instant::now();
        let readyz = || {
            let mut balancer = program.connect();
            balancer.send("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n");
            balancer.read_head().starts_with("HTTP/1.1 503 ")
        };
        while !readyz() {
            assert!(start.elapsed() < PATIENCE, "it does not drain");
        }
        let start = Instant::now();
        program.signal(second);
        client.assert_closes_with(1001);
        assert_eq!(program.output().status.code(), Some(0), "{second:?}");
        assert!(start.elapsed() < SHUTDOWN_MAX, "{:?}", start.elapsed());
    }
    let refused = run(wsd(&["--drain-grace", "30s", "--drain-spread", "60s", "--drain-timeout", "89s"]));
    assert_one_line(&refused, 2, &["--drain-timeout", "--drain-grace", "--drain-spread", "see wsd --help"]);
}

#[test]
fn health_asks_a_server() {
    let program = Program::serve(&["--threads", "1"]);
    let address = program.addresses()[0].to_string();
    let ask = |arguments: &[&str]| run(wsd(&[&["health"], arguments].concat()));
    for url in [format!("http://{address}"), format!("http://{address}/readyz")] {
        let output = ask(&[&url]);
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), vec![], vec![]), "{url}");
    }
    // As the server itself is told where to listen; flags and settings for a server do not matter to it.
    let mut command = wsd(&["health"]);
    command.env("WSD_LISTEN", address.replace("127.0.0.1", "0.0.0.0")).env("WSD_THREADS", "4");
    assert_eq!(run(command).status.code(), Some(0));

    let url = format!("http://{address}/nowhere");
    assert_one_line(&ask(&[&url]), 1, &[&url, "404"]);
    assert_one_line(&ask(&["https://localhost"]), 1, &["http://"]);
    assert_one_line(&ask(&[&url, "--timeout", "soon"]), 2, &["--timeout"]);
    program.signal(Signal::STOP);
    wait_until("every thread is stopped", || program.is_stopped());
    let start = Instant::now();
    assert_one_line(&ask(&[&url, "--timeout", "300ms"]), 1, &[&url, "timed out"]);
    assert!(start.elapsed() < PATIENCE);
    drop(program);
    assert_one_line(&ask(&[&url]), 1, &[&url, "refused"]);
}

/// Gives `input` to a program, if the machine has it; what it wrote to stderr.
fn pipe(program: &str, arguments: &[&str], input: &[u8]) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take().expect("piped").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn completions_and_the_manual_page_know_every_flag() {
    let help = String::from_utf8(run(wsd(&["--help"])).stdout).expect("UTF-8");
    let flags: Vec<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("      --").or_else(|| line.strip_prefix("  -t, --")))
        .filter_map(|rest| rest.split([' ', '<']).next())
        .collect();
    assert!(flags.len() > 50, "{flags:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(wsd(&["completions", shell]));
        let script = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
        for word in flags.iter().chain(&["health", "check-config"]) {
            assert!(script.contains(word), "no `{word}` for {shell}");
        }
        if let Some((sound, errors)) = pipe(shell, &["-n"], &output.stdout) {
            assert!(sound && errors.is_empty(), "{shell}: {errors}");
        }
    }
    let output = run(wsd(&["man"]));
    let page = String::from_utf8_lossy(&output.stdout).replace("\\-", "-");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    for word in [".TH wsd 1", "WSD_THREADS", "SIGTERM", "SIGHUP", "wsd health", "wsd check-config"] {
        assert!(page.contains(word), "no `{word}` in the page");
    }
    for flag in flags {
        assert!(page.contains(&format!("--{flag}")), "no `--{flag}` in the page");
    }
    assert!(!page.contains("(1)"), "there are no other pages: {page}");
    if let Some((sound, errors)) = pipe("groff", &["-man", "-ww", "-Tutf8"], &output.stdout) {
        assert!(sound && errors.is_empty(), "{errors}");
    }
}

#[test]
fn every_path_has_its_app() {
    let program = Program::serve(&["--app", "broadcast", "--skip-sender", "--path", "/more/{any}"]);
    let welcome = r#"{"type":"welcome","message":"Welcome to the chat!"}"#;
    let mut echo = program.open("/echo");
    echo.send(text("x"));
    echo.assert_text("x");
    let mut chat = program.open("/chat");
    chat.assert_text(welcome);
    chat.send(text("x"));
    chat.assert_text("x");
    let mut one = program.open("/");
    let mut two = program.open("/more/paths");
    one.send(text("from one"));
    two.assert_text("from one");
    let mut room = program.open("/rooms/a");
    room.send(text("x"));
    room.assert_text("x");
    let mut sink = program.open("/sink");
    sink.send(text("x"));
    [echo, chat, one, two, room, sink].into_iter().for_each(Client::close);

    for (path, status) in [
        ("/", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/nowhere", 404),
        ("/rooms/", 404),
        ("/echo/", 404),
    ] {
        let mut client = program.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.assert_status(status);
    }
    let mut nowhere = program.connect();
    nowhere.send(request("/nowhere"));
    nowhere.assert_status(404);
}

#[test]
fn limits_are_what_the_flags_say() {
    let program = Program::serve(&["--max-message", "1KiB", "--max-headers", "6", "--max-conns", "1"]);
    let mut client = program.open("/echo");
    client.send(text("x".repeat(1024)));
    client.assert_text(&"x".repeat(1024));
    program.connect().assert_status(503);
    client.send(header(FIN | TEXT, 1025));
    client.assert_fails_with(1009);
    // Room again as soon as that one is gone.
    let start = Instant::now();
    let mut client = loop {
        let mut client = program.connect();
        client.send_to_whom_it_may_concern(
            request("/echo").replacen("Host", "A: a\r\nB: b\r\nHost", 1).as_bytes(),
        );
        let head = client.read_head();
        if !head.contains(" 503 ") {
            assert!(head.contains(" 431 "), "seven headers: {head}");
            break client;
        }
        assert!(start.elapsed() < PATIENCE, "{head}");
    };
    client.read_to_end();
}

#[test]
fn the_log_is_quiet_unless_asked_for() {
    for (level, told) in [("warn", false), ("debug", true)] {
        let program = Program::serve(&["--threads", "1", "--log", level]);
        program.open("/echo").close();
        let mut refused = program.connect();
        refused.send("nonsense");
        refused.assert_status(400);
        program.signal(Signal::INT);
        let stderr = String::from_utf8(program.output().stderr).expect("UTF-8");
        for word in ["open", "closed", "refused"] {
            assert_eq!(stderr.contains(word), told, "{word}: {stderr}");
        }
    }
}

/// Whoever comes from a server that took every path finds out from the log as it is by default.
#[test]
fn a_path_that_nothing_serves_is_said() {
    let program = Program::serve(&["--threads", "1"]);
    for _ in 0..3 {
        let mut client = program.connect();
        client.send(request("/socket"));
        client.assert_status(404);
    }
    program.signal(Signal::INT);
    let stderr = String::from_utf8(program.output().stderr).expect("UTF-8");
    assert!(stderr.contains("WARN handshakes refused (no route for their path; see --path)"), "{stderr}");
    let counts = stderr.lines().filter_map(|line| line.split_once("count=")).map(|(_, rest)| {
        rest.split(' ').next().and_then(|count| count.parse::<u32>().ok()).expect("a number")
    });
    assert_eq!(counts.sum::<u32>(), 3, "{stderr}");
}

/// systemd says by device and inode which stream is its journal's (systemd.exec(5)).
#[test]
fn lines_for_the_journal_have_their_priority_and_leave_the_time_to_it() {
    let path = std::env::temp_dir().join(format!("wsd-{}-journal", std::process::id()));
    let logged = |format: &str, of_another: u64| {
        let file = std::fs::File::create(&path).expect("a path of our own");
        let about = file.metadata().expect("it is open");
        // On every address the admin listener is a warning.
        let mut command = wsd(&["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0", "--log", "info"]);
        command.args(["--threads", "1", "--log-format", format]);
        command.env("JOURNAL_STREAM", format!("{}:{}", about.dev(), about.ino() + of_another));
        let program = Program::start_with_log(command, file.into());
        program.signal(Signal::INT);
        assert_eq!(program.output().status.code(), Some(0));
        std::fs::read_to_string(&path).expect("UTF-8")
    };
    let text = logged("text", 0);
    assert!(text.lines().any(|line| line.starts_with("<4> WARN ")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("<6> INFO stopping ")), "{text}");
    let json = logged("json", 0);
    assert!(json.lines().any(|line| line.starts_with("<4>{\"timestamp\":")), "{json}");
    // Another's stream: this one is a file, or what a container has for a log.
    let text = logged("text", 1);
    assert!(text.contains("Z  WARN ") && !text.contains('<'), "{text}");
    let _ = std::fs::remove_file(&path);
}

/// More clients than descriptors. The limit on descriptors is on their numbers: those that the program inherits
/// leave it fewer than it counts on, so that accept itself fails.
#[test]
fn running_out_of_descriptors_is_survived() {
    // Opened by the shell, from number 10 on: those of this process may have any number, also one that is too large.
    let script = r#"ulimit -n 80; for _ in {1..58}; do exec {any}</dev/null; done; exec "$0" "$@""#;
    let mut command = Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_wsd")]);
    command.args(["--listen", "127.0.0.1:0", "--threads", "1", "--log", "off"]).stdin(Stdio::null());
    let program = Program::start(command);
    assert!(program.ready.contains("up to 16 connections"), "{}", program.ready);

    // Whoever finds no room is told so: nobody is left in a queue without an answer.
    let mut admitted = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut client = program.connect();
        client.send_to_whom_it_may_concern(request("/echo").as_bytes());
        let head = client.read_head();
        if head.starts_with("HTTP/1.1 101 ") {
            admitted.push(client);
        } else {
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            refused += 1;
        }
    }
    assert!((1..16).contains(&admitted.len()), "{} admitted, {refused} refused", admitted.len());

    // It rests while there is nothing it could do, and serves those that it has.
    let before = program.processor_ticks();
    assert!(admitted[0].is_silent_for(Duration::from_millis(600)));
    let used = program.processor_ticks() - before;
    assert!(used < 12, "{used}0 ms of processor time in 600 ms");
    for client in &mut admitted {
        client.send(text("hello"));
        client.assert_text("hello");
    }

    // There is room as soon as some leave.
    admitted.drain(..admitted.len() / 2 + 1).for_each(Client::close);
    let start = Instant::now();
    loop {
        let mut client = program.connect();
        client.send_to_whom_it_may_concern(request("/echo").as_bytes());
        if client.read_head().starts_with("HTTP/1.1 101 ") {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no room although some have left");
    }
}

#[test]
fn policies_that_are_none_and_notices_of_nothing_are_one_line() {
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--slow-policy", "wait"], &["--slow-policy", "drop-oldest"]),
        (&["--gap-notice", "gap"], &["--gap-notice", "--slow-policy"]),
        (&["--gap-notice", "gap", "--slow-policy", "close"], &["--gap-notice", "--slow-policy"]),
        (&["--queue-total", "half"], &["--queue-total"]),
        (&["--queue-total", "101%"], &["--queue-total", "100%"]),
    ];
    for (args, words) in cases {
        assert_one_line(&run(wsd(args)), 2, words);
    }
}

#[test]
fn a_policy_is_for_the_paths_of_the_app() {
    const SENT: usize = 4096;
    let args = [
        "--app",
        "broadcast",
        "--skip-sender",
        "--path",
        "/live",
        "--slow-policy",
        "latest",
        "--gap-notice",
        "gap",
    ];
    // The one that does not read is not cut for it, however long the other takes.
    let program = Program::serve(&[&["--threads", "1", "--progress-timeout", "1h"], &args[..]].concat());
    for path in ["/", "/live"] {
        let mut slow = Client::open_small(program.addresses()[0], path);
        let mut sender = program.open("/");
        for number in 0..SENT {
            sender.send(text(format!("{number:01024}")));
        }
        // All of it has been read, and its turn is over when the next one has an answer.
        for payload in [b"1", b"2"] {
            sender.send(ping(payload));
            sender.assert_pong(payload);
        }
        slow.widen();
        let mut notices = 0;
        loop {
            let got = String::from_utf8(slow.read_frame().payload).expect("text");
            match got.as_str() {
                "gap" => notices += 1,
                number if number.parse() == Ok(SENT - 1) => break,
                _ => {}
            }
        }
        assert!(notices > 0, "{SENT} KiB fit nowhere");
        slow.close();
        sender.close();
    }
}
