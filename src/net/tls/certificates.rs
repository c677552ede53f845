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

use crate::config::{CertificateError, CertificateFiles, Validity};

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
    /// Of those in force: their files, each once, and when they are valid.
    validities: BTreeMap<PathBuf, Validity>,
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
            validities: BTreeMap::new(),
        })
    }

    /// By file: from when on all of its certificates are valid, and when the first of them ends.
    pub(crate) fn validities(&self) -> &BTreeMap<PathBuf, Validity> {
        &self.validities
    }

    /// Reads the files, at the start and whenever they may have changed.
    pub(crate) fn load(&mut self) -> Result<ServerConfig, CertificateError> {
        let pairs: Result<Vec<_>, _> = self.files.iter().map(|files| load(files, &self.provider)).collect();
        let pairs = pairs?;
        self.note_validities(&pairs);
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

    /// Remembers when these are valid, and says so where they are not: clients refuse them, but they are all that there
    /// is.
    fn note_validities(&mut self, pairs: &[Arc<CertifiedKey>]) {
        let read_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let files = self.files.iter().map(|files| &files.certificate);
        let validities = files.zip(pairs).filter_map(|(file, pair)| {
            let each = pair.cert.iter().filter_map(|it| span(it, &self.provider));
            let (not_before, not_after) = each.reduce(|a, b| (a.0.max(b.0), a.1.min(b.1)))?;
            Some((file.clone(), Validity { not_before, not_after, read_at }))
        });
        self.validities = validities.collect();
        for (file, validity) in &self.validities {
            if validity.not_after < read_at {
                warn!(file = %file.display(), "a certificate has expired: clients will refuse it");
            } else if validity.not_before > read_at {
                warn!(file = %file.display(), "a certificate is not valid yet: clients will refuse it");
            }
        }
    }
}

/// From when to when a certificate is valid, in time since 1970. rustls shows no dates, but it names the one that a
/// certificate is past, or has yet to come to, before it looks at who signed it: at the end of time every certificate is
/// past it, and in 1970 every one has yet to come to it, but for those that are as old.
fn span(certificate: &CertificateDer<'_>, provider: &CryptoProvider) -> Option<(Duration, Duration)> {
    use rustls::CertificateError::{ExpiredContext, NotValidYetContext};
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let verdict_at = |seconds| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let algorithms = provider.signature_verification_algorithms.all;
        let roots = RootCertStore::empty();
        match verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], at, algorithms) {
            Err(rustls::Error::InvalidCertificate(error)) => Some(error),
            _ => None,
        }
    };
    let since_1970 = |time: UnixTime| Duration::from_secs(time.as_secs());
    let Some(ExpiredContext { not_after, .. }) = verdict_at(u64::MAX) else { return None };
    let not_before = match verdict_at(0) {
        Some(NotValidYetContext { not_before, .. }) => since_1970(not_before),
        _ => Duration::ZERO,
    };
    Some((not_before, since_1970(not_after)))
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
