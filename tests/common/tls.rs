//! Certificates that are made when they are needed, and a client's side of TLS that knows nothing of wsd's own.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use wsd::Builder;

use super::{Client, Running};

/// An authority, and the files of what it has signed; they go when it does.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("wsd-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory of our own");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("random numbers");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("sound parameters");
        Self { issuer, directory }
    }

    /// Signs a certificate for these names, and writes it and its key to files of this name.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        self.issue_until(file, names, 4096)
    }

    /// The same for one that ends with the beginning of a year.
    pub(crate) fn issue_until(&self, file: &str, names: &[&str], year: i32) -> (PathBuf, PathBuf) {
        self.issue_with(file, names, |params| params.not_after = rcgen::date_time_ymd(year, 1, 1))
    }

    /// The same for one that is valid between two moments, in time since 1970.
    pub(crate) fn issue_between(&self, file: &str, span: [Duration; 2]) -> (PathBuf, PathBuf) {
        let [from, until] = span.map(|time| rcgen::date_time_ymd(1970, 1, 1) + time);
        self.issue_with(file, &["localhost"], |params| (params.not_before, params.not_after) = (from, until))
    }

    fn issue_with(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().expect("random numbers");
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("sound parameters");
        (
            self.write(&format!("{file}.crt"), &certificate.pem()),
            self.write(&format!("{file}.key"), &key.serialize_pem()),
        )
    }

    pub(crate) fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.directory.join(file);
        std::fs::write(&path, text).expect("a directory of our own");
        path
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A client that trusts this authority alone, and speaks these versions.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::clone(self.issuer.der())).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("ring speaks both");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A server with a listener in the clear and one with TLS, on free ports of 127.0.0.1.
pub(crate) struct Secure {
    pub(crate) server: Running,
    pub(crate) authority: Authority,
    pub(crate) config: Arc<ClientConfig>,
}

impl Secure {
    pub(crate) fn start(builder: Builder) -> Self {
        let authority = Authority::new();
        let (certificate, key) = authority.issue("localhost", &["localhost"]);
        let server = Running::start(builder.tls("127.0.0.1:0", certificate, key));
        let config = authority.client(rustls::ALL_VERSIONS);
        Self { server, authority, config }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.tls_addresses()[0]
    }

    pub(crate) fn connect(&self) -> Client {
        self.connect_as(&self.config, "localhost")
    }

    pub(crate) fn connect_as(&self, config: &Arc<ClientConfig>, name: &str) -> Client {
        let socket = TcpStream::connect(self.address()).expect("the server accepts");
        Client::over_tls(socket, config, name)
    }

    pub(crate) fn open(&self, path: &str) -> Client {
        let mut client = self.connect();
        client.handshake(path);
        client
    }
}

/// The client's side of a connection.
pub(crate) fn client_side(
    socket: TcpStream,
    config: &Arc<ClientConfig>,
    name: &str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).expect("sound settings"), socket)
}
