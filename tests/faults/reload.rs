//! Settings and certificates that change all the time, while clients come, talk and go.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::ClientConfig;

use crate::common::admin::{Scrape, get, wait_for_workers};
use crate::common::program::{Program, wsd};
use crate::common::tls::Authority;
use crate::common::{Client, PATIENCE, wait_until};
use crate::load::Load;
use crate::{assert_balanced, closed, number};

/// What the log says about one SIGHUP, of the settings and of the certificates.
const SETTINGS: [&str; 2] = ["settings reloaded", "settings not reloaded"];
const CERTIFICATES: [&str; 2] = ["certificates reloaded", "certificates not reloaded"];

/// A file with its settings, and an authority whose certificates they name.
struct Files {
    authority: Authority,
    settings: PathBuf,
}

impl Files {
    fn new() -> Self {
        let authority = Authority::new();
        authority.issue("localhost", &["localhost"]);
        let settings = authority.write("wsd.toml", "");
        let files = Self { authority, settings };
        files.set(0);
        files
    }

    /// Sound settings of this number.
    fn set(&self, number: u64) {
        let max_message = 1024 + number;
        let directory = self.authority.directory().display();
        // Each of them differs from one time to the next, and none touches who talks as these clients do.
        let text = format!(
            "threads = 2\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nlog = \"info\"\n\
             tls-listen = [\"127.0.0.1:0\"]\n\
             tls-cert = [\"{directory}/localhost.crt\"]\ntls-key = [\"{directory}/localhost.key\"]\n\
             max-message = {max_message}\nqueue-hard = {}\nping-interval = \"{}s\"\nmax-head = {}\n",
            1 << (17 + max_message % 3),
            40 + max_message % 7,
            4096 + max_message % 11,
        );
        self.authority.write("wsd.toml", &text);
    }
}

/// TLS that never takes up a session: only a full handshake shows a certificate.
fn open_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Client {
    let mut config = ClientConfig::clone(config);
    config.resumption = rustls::client::Resumption::disabled();
    let socket = TcpStream::connect(address).expect("the server accepts");
    let mut client = Client::over_tls(socket, &Arc::new(config), "localhost");
    client.handshake("/echo");
    client
}

fn certificate(address: SocketAddr, config: &Arc<ClientConfig>) -> Vec<u8> {
    let mut client = open_tls(address, config);
    let certificate = client.tls().peer_certificates().expect("a full handshake")[0].to_vec();
    client.close();
    certificate
}

/// A setting as it is in force.
fn max_message(program: &Program) -> u64 {
    let told: serde_json::Value = serde_json::from_str(&get(program.admin(), "/config").body).expect("JSON");
    told["config"]["limits"]["max_message"].as_u64().expect("a number")
}

/// The next line of the log that begins with one of two messages, and which it was.
#[track_caller]
fn which(log: &Receiver<String>, messages: [&str; 2]) -> (usize, String) {
    loop {
        let line = log.recv_timeout(PATIENCE).expect("each SIGHUP is answered in the log");
        if let Some(which) = messages.iter().position(|message| line.contains(message)) {
            return (which, line);
        }
    }
}

#[test]
fn settings_and_certificates_that_change_all_the_time_cost_nobody_a_connection() {
    let time = Duration::from_secs(number("WSD_TEST_SECONDS", 3));
    let files = Files::new();
    let config = files.authority.client(rustls::ALL_VERSIONS);
    let mut program = Program::start(wsd(&["--config", files.settings.to_str().expect("UTF-8")]));
    let log = program.log();
    let (plain, secure) = (program.addresses()[0], program.secure_address());
    let mut load = Load::default();
    load.echo(program.open("/echo"));
    load.echo(open_tls(secure, &config));
    load.room((0..4).map(|_| program.open("/rooms/a")).collect());
    load.churn(move || Client::open(plain, "/echo"));
    let churned = Arc::clone(&config);
    load.churn(move || open_tls(secure, &churned));

    let start = Instant::now();
    let (mut rounds, mut refused) = (0, 0);
    let mut shown = certificate(secure, &config);
    while start.elapsed() < time || refused < 2 {
        rounds += 1;
        let (bad_settings, bad_certificate) = (rounds % 4 == 2, rounds % 5 == 3);
        files.set(rounds);
        if bad_settings {
            files.authority.write("wsd.toml", "max-message = \"much\"");
        }
        let (_, key) = files.authority.issue("localhost", &["localhost"]);
        if bad_certificate {
            std::fs::write(key, "no key").expect("a directory of our own");
        }
        program.signal(Signal::HUP);
        let (which_settings, line) = which(&log, SETTINGS);
        assert_eq!(which_settings, usize::from(bad_settings), "{line}");
        assert!(bad_settings || line.contains("max-message"), "{line}");
        let (which_certificates, line) = which(&log, CERTIFICATES);
        assert_eq!(which_certificates, usize::from(bad_certificate), "{line}");
        if !bad_settings {
            assert_eq!(max_message(&program), 1024 + rounds);
        }
        // Each worker hears of it by mail.
        wait_for_workers(program.admin());
        let now = certificate(secure, &config);
        assert_eq!(now == shown, bad_certificate, "new connections see the new certificate, if it is sound");
        shown = now;
        refused += u64::from(bad_settings || bad_certificate);
    }
    // Signals that nobody waits for are one or more reloads, and the last settings are in force after the last.
    files.set(1_000_000);
    (0..100).for_each(|_| program.signal(Signal::HUP));
    wait_until("the last settings are in force", || max_message(&program) == 1_001_024);
    let turns = load.finish();
    assert!(turns.iter().all(|turns| *turns > 0), "{turns:?}");
    wait_until("everybody has gone", || Scrape::of(program.admin()).sum("wsd_connections") == 0.0);
    let scrape = Scrape::of(program.admin());
    let opened = scrape.value("wsd_handshakes_total{result=\"opened\"}") as u64;
    assert_eq!(closed(&scrape, "peer"), opened, "nobody was closed by anyone else");
    assert_eq!(scrape.sum("wsd_handshakes_total") as u64, opened, "or refused");
    assert_eq!(scrape.sum("wsd_connections_refused_total"), 0.0);
    assert_eq!(scrape.value("wsd_tls_failed_total"), 0.0);
    assert_balanced(&program);
    println!(
        "{rounds} reloads, {refused} with something wrong; {opened} connections, turns of clients {turns:?}"
    );
}
