//! Certificates and keys from PEM files, and which of them a client gets.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache,
    StoresServerSessions,
};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, version};
use tracing::warn;

use crate::config::{CertificateError, CertificateFiles};

/// What is spoken inside (RFC 7301). A WebSocket begins as HTTP/1.1.
const ALPN: &[u8] = b"http/1.1";

/// Sessions that are kept for clients of TLS 1.2 that take no tickets. All others keep theirs themselves.
const SESSIONS: usize = 4096;

/// A client opens one WebSocket at a time, and each takes up one ticket and gets a new one.
const TICKETS_PER_CONNECTION: usize = 1;

/// What connections are accepted with.
#[derive(Clone, Debug)]
pub(crate) struct ServerConfig(pub(super) Arc<rustls::ServerConfig>);

/// The files that certificates come from, and what outlives them: the keys to sessions that clients may take up again.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Vec<CertificateFiles>,
    provider: Arc<CryptoProvider>,
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
    /// Of those in force: their files, each once, and when they end.
    expiries: BTreeMap<PathBuf, Duration>,
}

impl Certificates {
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new(files: &[CertificateFiles]) -> io::Result<Self> {
        Ok(Self {
            files: files.to_vec(),
            provider: Arc::new(ring::default_provider()),
            ticketer: ring::Ticketer::new().map_err(io::Error::other)?,
            sessions: ServerSessionMemoryCache::new(SESSIONS),
            expiries: BTreeMap::new(),
        })
    }

    /// By file: when the first of its certificates ends, since 1970.
    pub(crate) fn expiries(&self) -> &BTreeMap<PathBuf, Duration> {
        &self.expiries
    }

    /// Reads the files, at the start and whenever they may have changed.
    pub(crate) fn load(&mut self) -> Result<ServerConfig, CertificateError> {
        let pairs: Result<Vec<_>, _> = self.files.iter().map(|files| load(files, &self.provider)).collect();
        let pairs = pairs?;
        self.note_expiries(&pairs);
        let resolver = Arc::new(Resolver { pairs });
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("ring speaks both")
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ticketer = Arc::clone(&self.ticketer);
        config.session_storage = Arc::clone(&self.sessions);
        config.send_tls13_tickets = TICKETS_PER_CONNECTION;
        Ok(ServerConfig(Arc::new(config)))
    }

    /// Remembers when these end, and says so where they have: clients refuse them, but they are all that there is.
    fn note_expiries(&mut self, pairs: &[Arc<CertifiedKey>]) {
        let files = self.files.iter().map(|files| &files.certificate);
        let ends = files.zip(pairs).filter_map(|(file, pair)| {
            let first = pair.cert.iter().filter_map(|it| not_after(it, &self.provider)).min()?;
            Some((file.clone(), first))
        });
        let expiries: BTreeMap<_, _> = ends.collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for (file, _) in expiries.iter().filter(|(_, end)| **end < now) {
            warn!(file = %file.display(), "a certificate has expired: clients will refuse it");
        }
        self.expiries = expiries;
    }
}

/// When a certificate ends. rustls shows no dates, but it names the one that a certificate is past, before it looks at
/// who signed it; and at the end of time every certificate is.
fn not_after(certificate: &CertificateDer<'_>, provider: &CryptoProvider) -> Option<Duration> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let algorithms = provider.signature_verification_algorithms.all;
    let verdict = verify_server_cert_signed_by_trust_anchor(
        &certificate,
        &RootCertStore::empty(),
        &[],
        end_of_time,
        algorithms,
    );
    match verdict {
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ExpiredContext {
            not_after,
            ..
        })) => Some(Duration::from_secs(not_after.as_secs())),
        _ => None,
    }
}

fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, CertificateError> {
    let of_chain = |problem| CertificateError::Certificate { file: files.certificate.clone(), problem };
    let of_key = |problem| CertificateError::Key { file: files.key.clone(), problem };
    let chain = read_chain(&files.certificate).map_err(of_chain)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| {
        of_key(match error {
            PemError::NoItemsFound => {
                "there is no PRIVATE KEY in it; an encrypted one has to be decrypted".to_owned()
            }
            error => describe(error),
        })
    })?;
    ParsedCertificate::try_from(&chain[0]).map_err(|error| of_chain(error.to_string()))?;
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(pair) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(of_key(format!("it is not the key of {}", files.certificate.display())))
        }
        Err(error) => Err(of_key(error.to_string())),
    }
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).and_then(|certificates| certificates.collect());
    match chain {
        Ok(chain) if chain.is_empty() => Err("there is no CERTIFICATE in it; PEM is needed".to_owned()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(describe(error)),
    }
}

fn describe(error: PemError) -> String {
    match error {
        PemError::Io(error) => error.to_string(),
        error => format!("it is no PEM file: {error}"),
    }
}

/// Chooses by the name that the client asks for (SNI, RFC 6066 section 3).
#[derive(Debug)]
struct Resolver {
    pairs: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Resolver {
    /// The first certificate for the name that the client can verify; for other names, or none, the first at all.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.filter(|_| self.pairs.len() > 1).and_then(|name| {
            self.pairs.iter().filter(usable).find(|pair| is_for(pair, &name)).map(Arc::clone)
        });
        named.or_else(|| self.pairs.iter().find(usable).map(Arc::clone))
    }
}

fn is_for(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = pair.end_entity_cert().and_then(ParsedCertificate::try_from);
    certificate.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}
