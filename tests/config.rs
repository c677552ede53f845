//! The configuration file: what it says is served, what is nearer to the command line wins, what is wrong is named.

#![cfg(feature = "cli")]

mod common;

use std::path::PathBuf;
use std::process::Output;

use common::admin::get;
use common::program::{Program, activated, listen, run, wsd};
use common::{Client, request, text};
use rustix::process::Signal;
use serde_json::Value;

/// A file that is gone with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wsd-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, content).expect("a temporary file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_file_s_routes_are_served_and_no_others() {
    let file = File::new(
        "routes",
        r#"
            threads = 1
            listen = ["127.0.0.1:0"]

            [[route]]
            path = "/shout"
            app = "echo"
            reply = "{}!"
            greeting = "hi"

            [[route]]
            path = "/scores/{game}"
            app = "broadcast"
            skip-sender = true
            slow-policy = "latest"
            gap-notice = "gap"

            [[route]]
            path = "/live/*"
            app = "broadcast"
            topic = "live"
        "#,
    );
    let program = Program::start(wsd(&["--config", file.path()]));
    let mut shout = program.open("/shout");
    shout.assert_text("hi");
    shout.send(text("hello"));
    shout.assert_text("hello!");
    shout.close();

    let [mut one, mut two, other] = ["/scores/1", "/scores/1", "/scores/2"].map(|path| program.open(path));
    one.send(text("1:0"));
    two.assert_text("1:0");
    two.send(text("1:1"));
    one.assert_text("1:1");
    [one, two, other].into_iter().for_each(common::Client::close);

    let [mut here, mut there] = ["/live/a", "/live/b"].map(|path| program.open(path));
    here.send(text("everywhere"));
    here.assert_text("everywhere");
    there.assert_text("everywhere");
    [here, there].into_iter().for_each(common::Client::close);

    for path in ["/", "/echo", "/chat", "/rooms/a"] {
        let mut client = program.connect();
        client.send(request(path));
        client.assert_status(404);
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = File::new("order", "max-message = \"1KiB\"\nmax-fragments = 7\nmax-headers = 9\n");
    let mut command = wsd(&["--print-limits", "--max-message", "3KiB"]);
    command.env("WSD_CONFIG", file.path()).env("WSD_MAX_MESSAGE", "2KiB").env("WSD_MAX_FRAGMENTS", "8");
    let output = run(command);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    for (flag, value) in [("--max-message", "3KiB"), ("--max-fragments", "8"), ("--max-headers", "9")] {
        let line = printed.lines().find(|line| line.split_whitespace().next() == Some(flag)).expect(flag);
        assert_eq!(line.split_whitespace().nth(1), Some(value), "{line}");
    }
}

#[test]
fn check_config_says_what_is_wrong_on_one_line() {
    let sound = File::new("sound", "threads = 2\n[[route]]\npath = \"/\"\n");
    let output = run(wsd(&["check-config", sound.path()]));
    assert_eq!((said(&output).0, output.stdout.ends_with(b": ok\n")), (Some(0), true), "{output:?}");

    for (number, (content, wrong)) in [
        ("max-mesage = 1", "did you mean `max-message`?"),
        ("\n\nthreads = 0", ":3: "),
        ("[[route]]\npath = \"/a\"\n[[route]]\npath = \"/a\"", "stands twice"),
        ("[[route]]\npath = \"a\"", "does not start with /"),
        ("[[route]]\napp = \"echo\"", "needs a `path`"),
        ("[[route]]\npath = \"/\"\ngap-notice = \"x\"", "--slow-policy"),
        ("[[route]]\npath = \"/\"\nmax-mesage = 1", "did you mean `max-message`?"),
        (
            "[[route]]\npath = \"/\"\n\nqueue-soft-time = \"0\"",
            ":4: invalid value '0' for '--queue-soft-time",
        ),
        ("[[route]]\npath = \"/\"\nmax-head = \"1KiB\"", ":3: `max-head` is a setting of the whole server"),
        ("proxy-protocol = true", "--trusted-proxy"),
        ("drain-timeout = \"1s\"", "--drain-timeout"),
        ("tls-cert = [\"/nowhere/cert.pem\"]", "--tls-key"),
        ("tls-cert = [\"/nowhere/cert.pem\"]\ntls-key = [\"/nowhere/key.pem\"]", "/nowhere/cert.pem"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = File::new(&format!("wrong-{number}"), content);
        for command in [wsd(&["check-config", file.path()]), wsd(&["--config", file.path()])] {
            let (code, line) = said(&run(command));
            assert_eq!((code, line.lines().count()), (Some(2), 1), "{content}: {line}");
            assert!(line.contains(wrong), "{content}: {line}");
        }
    }
    let (code, line) = said(&run(wsd(&["--config", "/nowhere/wsd.toml"])));
    assert!(code == Some(2) && line.contains("--config /nowhere/wsd.toml"), "{line}");
}

#[test]
fn the_example_can_be_checked() {
    let output = run(wsd(&["example-config"]));
    let file = File::new("example", &String::from_utf8(output.stdout).expect("UTF-8"));
    assert_eq!(said(&run(wsd(&["check-config", "--strict", file.path()]))), (Some(0), String::new()));
}

/// A file with a sink, and more above it and in it.
fn route(above: &str, own: &str) -> String {
    format!("listen = [\"127.0.0.1:0\"]\n{above}\n[[route]]\npath = \"/a\"\napp = \"sink\"\n{own}\n")
}

#[test]
fn a_setting_that_nothing_uses_is_a_warning() {
    let of_app = "route /a: its app sink does not use reply, topic";
    let of_none = "greeting: not used, for the file has routes, and they have their own";
    let unused = "reply = \"!\"\ntopic = \"t\"";
    for (number, (content, warnings)) in [
        (route("", "greeting = \"hi\""), &[][..]),
        (route("", unused), &[of_app]),
        (route("greeting = \"hi\"", unused), &[of_none, of_app]),
        (
            "app = \"echo\"\nskip-sender = true".to_owned(),
            &["route /: its app echo does not use skip-sender"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let file = File::new(&format!("unused-{number}"), &content);
        let line = |warning: &&str| format!("wsd: warning: {}: {warning}\n", file.path());
        let expected: String = warnings.iter().map(line).collect();
        for (strict, failed) in [(&[][..], 0), (&["--strict"], 1)] {
            let output = run(wsd(&[&["check-config", file.path()], strict].concat()));
            let code = if warnings.is_empty() { 0 } else { failed };
            assert_eq!(said(&output), (Some(code), expected.clone()), "{content}");
            assert_eq!(output.stdout.ends_with(b": ok\n"), code == 0, "{content}");
        }
    }
}

/// Who begins with the example gets what who begins without a file gets: the default address gives way to a socket.
#[test]
fn the_example_takes_no_address() {
    let output = run(wsd(&["example-config"]));
    let file = File::new("begun", &String::from_utf8(output.stdout).expect("UTF-8"));
    let (socket, address) = listen();
    let program = Program::start(activated(socket, &["--config", file.path()]));
    assert_eq!(program.addresses(), [address], "{}", program.ready);
}

#[test]
fn a_setting_that_nothing_uses_is_said_at_the_start_and_at_each_reload() {
    let of_app = |settings: &str| {
        format!("settings that the app does not use settings=\"{settings}\" route=\"/a\" app=sink")
    };
    let of_none =
        "settings that are not used: the file has routes, and they have their own settings=\"greeting\"";
    let file = File::new("said", &route("", "skip-sender = true"));
    let mut program = Program::start(wsd(&["--config", file.path()]));
    let log = program.log();
    let said = |expected: &str| {
        let line = log.recv_timeout(common::PATIENCE).expect("a line");
        assert!(line.contains(" WARN ") && line.contains(expected), "no `{expected}` in: {line}");
    };
    said(&of_app("skip-sender"));
    for above in ["", "greeting = \"hi\""] {
        std::fs::write(file.path(), route(above, "reply = \"!\"")).expect("writable");
        program.signal(Signal::HUP);
        if !above.is_empty() {
            said(of_none);
        }
        said(&of_app("reply"));
        said("settings that need a restart");
    }
    // A file that is wrong is not taken up, and nobody cares what else is in it.
    std::fs::write(file.path(), route("threads = 0", "reply = \"!\"")).expect("writable");
    program.signal(Signal::HUP);
    let line = log.recv_timeout(common::PATIENCE).expect("a line");
    assert!(line.contains("settings not reloaded"), "{line}");
    program.signal(Signal::INT);
    assert!(program.wait().success());
    assert_eq!(log.iter().next(), None);
}

#[test]
fn a_flag_that_its_app_does_not_use_is_said_too() {
    let program = Program::serve(&["--app", "sink", "--path", "/more", "--reply", "!"]);
    program.signal(Signal::INT);
    let log = said(&program.output()).1;
    let expected = "settings that the app does not use settings=\"reply\" route=\"/\" app=sink\n";
    assert!(log.lines().count() == 1 && log.ends_with(expected), "{log}");
}

/// A certificate in the file has the same effect on the other addresses as one on the command line.
#[cfg(feature = "tls")]
#[test]
fn with_a_certificate_in_the_file_there_is_no_plain_address_unless_it_is_named() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = File::new("cert", &made.cert.pem());
    let key = File::new("key", &made.signing_key.serialize_pem());
    let tls = format!(
        "tls-cert = [{:?}]\ntls-key = [{:?}]\ntls-listen = [\"127.0.0.1:0\"]\n",
        certificate.path(),
        key.path()
    );
    let file = File::new("tls", &tls);
    let child = Program::start(wsd(&["--config", file.path()]));
    assert!(
        child.ready.contains("https://127.0.0.1:") && !child.ready.contains("http://"),
        "{}",
        child.ready
    );
    let file = File::new("both", &format!("{tls}listen = [\"127.0.0.1:0\"]\n"));
    let child = Program::start(wsd(&["--config", file.path()]));
    assert!(child.ready.contains("https://127.0.0.1:") && child.ready.contains("http://"), "{}", child.ready);
}

#[test]
fn sighup_takes_up_what_it_can_and_names_what_it_cannot() {
    let content = |rest: &str| {
        format!("listen = [\"127.0.0.1:0\"]\nthreads = 1\n{rest}\n[[route]]\npath = \"/\"\napp = \"echo\"\n")
    };
    let file = File::new("reload", &content("max-message = 100"));
    let program = Program::start(wsd(&["--config", file.path(), "--log", "info"]));
    let long = "x".repeat(101);
    let mut client = program.open("/");
    client.send(text(&long));
    client.assert_fails_with(1009);

    // Connections that there are keep to the new limits too.
    let mut there = program.open("/");
    std::fs::write(file.path(), content("max-message = 200\nbacklog = 77")).expect("writable");
    program.signal(Signal::HUP);
    common::wait_until("the new limit is in force", || {
        let mut client = program.open("/");
        client.send_to_whom_it_may_concern(&text(&long));
        let frame = client.read_frame();
        frame.payload == long.as_bytes()
    });
    there.send(text(&long));
    there.assert_text(&long);

    program.signal(Signal::INT);
    let log = String::from_utf8(program.output().stderr).expect("UTF-8");
    for part in ["max-message", "settings that need a restart", "backlog"] {
        assert!(log.contains(part), "no `{part}` in: {log}");
    }
}

/// What `/config` says of limits.
fn limits_in_force(program: &Program) -> (Value, Value) {
    let mut answer: Value = serde_json::from_str(&get(program.admin(), "/config").body).expect("JSON");
    let config = &mut answer["config"];
    (config["limits"]["max_message"].take(), config["route_limits"].take())
}

#[test]
fn sighup_takes_up_limits_of_routes_over_those_of_the_server() {
    let base = "listen = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nthreads = 1\n";
    let route = |path: &str, rest: &str| format!("[[route]]\npath = \"{path}\"\napp = \"echo\"\n{rest}\n");
    let content = |server: u32, small: &str| {
        let slow = route("/slow", "ping-interval = \"1m\"\nqueue-hard = \"1MiB\"");
        format!("{base}max-message = {server}\n{}{slow}{}", route("/small", small), route("/plain", ""))
    };
    let restart = "settings that need a restart";
    let file = File::new("route-limits", &content(100, "max-message = 10"));
    let program = Program::start(wsd(&["--config", file.path(), "--log", "info"]));
    let slow = serde_json::json!({ "ping_interval": "60s", "queue_hard": 1024 * 1024 });
    let small = |bytes: u32| serde_json::json!({ "/slow": slow, "/small": { "max_message": bytes } });
    assert_eq!(limits_in_force(&program), (100.into(), small(10)));
    let mut clients = ["/small", "/plain"].map(|path| program.open(path));
    let mut take = |small: usize, plain: usize| {
        for (path, client, most) in [("/small", 0, small), ("/plain", 1, plain)] {
            clients[client].send(text("x".repeat(most)));
            clients[client].assert_text(&"x".repeat(most));
            let mut over = program.open(path);
            over.send(text("x".repeat(most + 1)));
            over.assert_fails_with(1009);
        }
    };
    take(10, 100);
    let reload = |content: String, expected: (Value, Value)| {
        std::fs::write(file.path(), content).expect("writable");
        program.signal(Signal::HUP);
        common::wait_until("it is in force", || limits_in_force(&program) == expected);
        // The answer of a worker, which has read its mail.
        assert_eq!(get(program.admin(), "/connections").status, 200);
    };
    reload(content(200, "max-message = 10"), (200.into(), small(10)));
    take(10, 200);
    reload(content(200, "max-message = 300"), (200.into(), small(300)));
    take(300, 200);
    reload(content(200, ""), (200.into(), serde_json::json!({ "/slow": slow })));
    take(200, 200);
    reload(content(150, "max-message = 20"), (150.into(), small(20)));
    take(20, 150);
    // Routes that go, and those that come, wait for a restart.
    let other = format!("{base}max-message = 160\n{}", route("/more", "max-message = 7"));
    reload(other, (160.into(), small(20)));
    take(20, 160);

    program.signal(Signal::INT);
    let log = String::from_utf8(program.output().stderr).expect("UTF-8");
    for part in ["max-message of /small", "settings=\"max-message of /more, routes\""] {
        assert!(log.contains(part), "no `{part}` in: {log}");
    }
    assert_eq!(log.matches(restart).count(), 1, "{log}");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_other_routes_need_a_restart() {
    for (now, said) in [("max-fragments = 0", "max-fragments"), ("[[route]]\npath = \"/more\"", "routes")] {
        let file = File::new("unchanged", "listen = [\"127.0.0.1:0\"]\n");
        let program = Program::start(wsd(&["--config", file.path()]));
        let mut client = program.open("/echo");
        std::fs::write(file.path(), format!("listen = [\"127.0.0.1:0\"]\n{now}\n")).expect("writable");
        program.signal(Signal::HUP);
        client.send(text("still here"));
        client.assert_text("still here");
        // Of two signals that wait, the hangup is taken first.
        program.signal(Signal::INT);
        let output = program.output();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && log.contains(said), "no `{said}` in: {log}");
    }
}

/// Writes these settings, has them taken up, and waits until they are: `max` tells them from those before.
#[track_caller]
fn reload(program: &Program, file: &File, settings: &str, max: usize) {
    std::fs::write(file.path(), format!("listen = [\"127.0.0.1:0\"]\nmax-message = {max}\n{settings}\n"))
        .expect("writable");
    program.signal(Signal::HUP);
    let long = "x".repeat(max);
    common::wait_until("the new limit is in force", || {
        let mut client = program.open("/echo");
        client.send_to_whom_it_may_concern(&text(&long));
        client.read_frame().payload == long.as_bytes()
    });
}

#[test]
fn sighup_changes_the_level_and_the_format_of_the_log() {
    let file = File::new("log", "listen = [\"127.0.0.1:0\"]\nmax-message = 100\n");
    let program = Program::start(wsd(&["--config", file.path()]));
    reload(&program, &file, "log = \"warn\"", 200);
    reload(&program, &file, "log = \"info\"\nlog-format = \"json\"", 300);
    reload(&program, &file, "log = \"off\"\nbacklog = 77", 400);
    program.signal(Signal::INT);
    let log = String::from_utf8(program.output().stderr).expect("UTF-8");
    // One line, because nothing is said at `warn` and `off`.
    let line: serde_json::Value = serde_json::from_str(&log).unwrap_or_else(|error| panic!("{error}: {log}"));
    assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"settings reloaded".into()), "{log}");
    assert_eq!(line["changed"], "max-message, log, log-format", "{log}");
}

#[test]
fn refusals_are_said_by_a_log_that_was_off_when_the_server_started() {
    let file = File::new("quiet", "listen = [\"127.0.0.1:0\"]\nlog = \"off\"\nmax-message = 100\n");
    let program = Program::start(wsd(&["--config", file.path()]));
    reload(&program, &file, "log = \"info\"", 200);
    let mut scanner = Client::connect(program.addresses()[0]);
    scanner.send("nonsense\r\n\r\n");
    scanner.assert_status(400);
    program.signal(Signal::INT);
    let log = String::from_utf8(program.output().stderr).expect("UTF-8");
    assert!(log.contains("handshakes refused (malformed)"), "{log}");
}
