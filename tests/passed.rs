//! Sockets that are passed for TLS: which ones speak it, beside which others, with which certificates, and a successor
//! on the same ones.

#![cfg(all(feature = "cli", feature = "tls"))]

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::admin::wait_for_workers;
use common::program::{Program, activated_as, copy, listen, run};
use common::restart::{Door, restart};
use common::tls::Authority;
use common::{Client, PATIENCE, Running, calm, request, text};
use rustix::process::Signal;
use rustls::ClientConfig;
use wsd::apps::Echo;
use wsd::{Builder, CertificateFiles, Server, StartError, Tls};

/// An authority, and a certificate of its with its key.
struct Issued {
    authority: Authority,
    certificate: PathBuf,
    key: PathBuf,
}

impl Issued {
    fn new() -> Self {
        let authority = Authority::new();
        let (certificate, key) = authority.issue("localhost", &["localhost"]);
        Self { authority, certificate, key }
    }

    /// Flags with the certificate, and others.
    fn flags<'a>(&'a self, others: &[&'a str]) -> Vec<&'a str> {
        let own = ["--threads", "2", "--tls-cert", path(&self.certificate), "--tls-key", path(&self.key)];
        [&own[..], others].concat()
    }

    fn client(&self) -> Arc<ClientConfig> {
        self.authority.client(rustls::ALL_VERSIONS)
    }

    /// Somebody who comes with TLS is served.
    #[track_caller]
    fn assert_secure(&self, address: SocketAddr) {
        let mut client = Door::secure(address, self.client()).open("/echo");
        client.send(text("hello"));
        client.assert_text("hello");
        client.close();
        // And who comes without it is told so.
        let mut plain = Client::connect(address);
        plain.send(request("/echo"));
        plain.assert_status(400);
    }
}

fn path(file: &Path) -> &str {
    file.to_str().expect("UTF-8")
}

#[track_caller]
fn assert_plain(address: SocketAddr) {
    let mut client = Client::open(address, "/echo");
    client.send(text("hello"));
    client.assert_text("hello");
    client.close();
}

#[test]
fn a_socket_speaks_tls_where_its_name_is_tls() {
    let issued = Issued::new();
    for (names, secure) in [
        ("web:tls", [false, true]),
        ("tls:web", [true, false]),
        ("tls:tls", [true, true]),
        ("TLS:tls", [false, true]),
        (":tls", [false, true]),
        ("tls", [true, false]),
        ("wsd-tls.socket:web", [false, false]),
    ] {
        let (sockets, addresses): (Vec<_>, Vec<_>) = [listen(), listen()].into_iter().unzip();
        let sockets: [TcpListener; 2] = sockets.try_into().expect("two");
        // Without one for TLS its default address would be there.
        let own = if secure.contains(&true) { &[][..] } else { &["--tls-listen", "127.0.0.1:0"] };
        let mut program = Program::activated(names, sockets.each_ref().map(copy), &issued.flags(own));
        let with = |tls| addresses.iter().zip(secure).filter(move |it| it.1 == tls).map(|it| *it.0);
        assert_eq!(program.addresses(), with(false).collect::<Vec<_>>(), "{names}");
        if own.is_empty() {
            assert_eq!(program.secure_addresses(), with(true).collect::<Vec<_>>(), "{names}");
        }
        with(false).for_each(assert_plain);
        with(true).for_each(|address| issued.assert_secure(address));
        program.signal(Signal::INT);
        assert_eq!(program.wait().code(), Some(0));
        // Whoever passed them has them still.
        for (socket, address) in sockets.iter().zip(&addresses) {
            let waiting = TcpStream::connect(address).expect("it listens");
            assert_eq!(socket.accept().expect("it waits").1, waiting.local_addr().expect("connected"));
        }
    }
}

#[test]
fn addresses_that_are_asked_for_are_there_beside_it() {
    let issued = Issued::new();
    for (own, plain, secure) in [
        (&["--listen", "127.0.0.1:0"][..], 1, 1),
        (&["--tls-listen", "127.0.0.1:0"], 0, 2),
        (&["--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"], 1, 2),
    ] {
        let (socket, address) = listen();
        let program = Program::start(activated_as("tls", socket, &issued.flags(own)));
        let (clear, encrypted) = (program.addresses(), program.secure_addresses());
        assert_eq!((clear.len(), encrypted.len()), (plain, secure), "{}", program.ready);
        assert_eq!(encrypted.last(), Some(&address), "{}", program.ready);
        clear.into_iter().for_each(assert_plain);
        encrypted.into_iter().for_each(|address| issued.assert_secure(address));
    }
}

#[test]
fn without_a_certificate_it_is_one_line() {
    for own in [&[][..], &["--listen", "127.0.0.1:0"]] {
        let output = run(activated_as("tls", listen().0, own));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with("wsd: ") && stderr.lines().count() == 1, "{stderr}");
        assert!(stderr.contains("FileDescriptorName=tls") && stderr.contains("--tls-cert"), "{stderr}");
    }
}

#[test]
fn new_certificates_reach_it() {
    let issued = Issued::new();
    let (certificate, key) = (&issued.certificate, &issued.key);
    let write = |more: &str| {
        let text = format!("tls-cert = [{certificate:?}]\ntls-key = [{key:?}]\nthreads = 2\n{more}\n");
        issued.authority.write("wsd.toml", &text)
    };
    let file = write("");
    let (socket, address) = listen();
    let flags = ["--config", path(&file), "--log", "info", "--admin", "127.0.0.1:0"];
    let mut program = Program::start(activated_as("tls", socket, &flags));
    let log = program.log();
    let reload = || {
        program.signal(Signal::HUP);
        let mut said = String::new();
        while !said.contains("certificates reloaded") {
            said.push_str(&log.recv_timeout(PATIENCE).expect("each SIGHUP is answered in the log"));
        }
        wait_for_workers(program.admin());
        said
    };
    let open = || {
        // Who takes up a session is not shown a certificate.
        let mut client = Door::secure(address, issued.client()).open("/echo");
        let certificate = client.tls().peer_certificates().expect("a certificate")[0].to_vec();
        (client, certificate)
    };
    let (mut loyal, first) = open();
    issued.authority.issue("localhost", &["localhost"]);
    write("max-message = 7");
    let said = reload();
    assert!(said.contains("max-message") && !said.contains("need a restart"), "{said}");
    assert_ne!(open().1, first);
    loyal.send(text("hello"));
    loyal.assert_text("hello");
    // An address of its own would be there beside the socket, whose address is not ours to change.
    write("tls-listen = [\"127.0.0.1:0\"]");
    let said = reload();
    let expected = "settings=\"tls-listen (a passed socket's address is changed in its .socket unit)\"";
    assert!(said.contains(expected), "{said}");
    // It cannot do without.
    issued.authority.write("wsd.toml", "threads = 2\n");
    let said = reload();
    assert!(said.contains("settings not reloaded") && said.contains("--tls-cert"), "{said}");
    loyal.close();
}

#[test]
fn a_restart_under_load_refuses_nobody_with_tls_or_without() {
    let issued = Issued::new();
    let (plain, address) = listen();
    let (secure, secure_address) = listen();
    let doors = [Door::plain(address), Door::secure(secure_address, issued.client())];
    restart(&doors, |flags| {
        Program::activated("web:tls", [copy(&plain), copy(&secure)], &issued.flags(&flags[2..]))
    });
}

#[test]
fn who_comes_with_tls_between_two_servers_waits_for_the_second() {
    let issued = Issued::new();
    let (socket, address) = listen();
    let flags = issued.flags(&["--drain-grace", "0", "--drain-spread", "0"]);
    let mut first = Program::start(activated_as("tls", copy(&socket), &flags));
    issued.assert_secure(address);
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code(), Some(0));
    let waiting: Vec<_> = (0..20).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    let _second = Program::start(activated_as("tls", socket, &flags));
    for socket in waiting {
        let mut client = Client::over_tls(socket, &issued.client(), "localhost");
        client.handshake("/echo");
        client.close();
    }
}

fn server() -> Builder {
    Server::builder().threads(2).limits(calm()).app(Echo::default)
}

#[test]
fn a_builder_takes_sockets_of_both_kinds_beside_addresses_of_its_own() {
    let issued = Issued::new();
    let (plain, address) = listen();
    let (secure, secure_address) = listen();
    let builder = server().listen("127.0.0.1:0").tls("127.0.0.1:0", &issued.certificate, &issued.key);
    let server = Running::start(builder.tls_listener(secure).listener(plain));
    let (clear, encrypted) = (server.handle().addresses().to_vec(), server.tls_addresses().to_vec());
    assert_eq!((clear.len(), clear.last()), (2, Some(&address)));
    assert_eq!((encrypted.len(), encrypted.last()), (2, Some(&secure_address)));
    clear.into_iter().for_each(assert_plain);
    encrypted.into_iter().for_each(|address| issued.assert_secure(address));
    server.finish();
}

#[test]
fn a_builder_needs_no_address_for_a_certificate_and_a_certificate_for_a_socket() {
    let issued = Issued::new();
    let with = |certificates| {
        let builder = server().configure(|config| {
            config.listen.clear();
            config.tls = Some(Tls { listen: Vec::new(), certificates });
        });
        builder.tls_listener(listen().0)
    };
    let files = CertificateFiles { certificate: issued.certificate.clone(), key: issued.key.clone() };
    let handle = with(vec![files.clone()]).start().expect("it is all there");
    assert!(handle.addresses().is_empty());
    issued.assert_secure(handle.tls_addresses()[0]);
    handle.shutdown().expect("nothing fails");
    for builder in [with(Vec::new()), with(Vec::new()).configure(|config| config.tls = None)] {
        assert!(matches!(builder.check(), Err(StartError::Setting(what)) if what.contains("--tls-cert")));
    }
    let wrong = CertificateFiles { certificate: issued.key.clone(), ..files };
    assert!(matches!(with(vec![wrong]).check(), Err(StartError::Certificate(_))));
}
