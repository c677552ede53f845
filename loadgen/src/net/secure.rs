//! TLS for connections to `wss://`: whom to trust, and whether sessions are taken up again.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use wsd::net::tls::{Client, Scratch, Tls};

/// Sessions that are kept to be taken up again; a server may give several to each connection.
const SESSIONS: usize = 4096;

/// Makes the TLS of connections. Cheap to clone; all threads share the sessions.
#[derive(Clone, Debug)]
pub struct Secure {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Secure {
    /// For a server called `host`, whose certificate one of those in `authorities` must have signed; without any,
    /// every certificate will do. `resume`: connections take up the sessions of earlier ones.
    ///
    /// # Errors
    /// One line that names the flag and what to do.
    pub fn new(host: &str, authorities: Option<&Path>, resume: bool) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier = match authorities {
            Some(file) => trusting(file, &provider).map_err(|problem| {
                format!("--cacert {}: {problem}: give a PEM file with certificates", file.display())
            })?,
            None => Arc::new(Anyone(Arc::clone(&provider))),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = if resume {
            Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)))
        } else {
            Resumption::disabled()
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| format!("{host}: no name that a certificate can have"))?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// The TLS of a new connection.
    ///
    /// # Errors
    /// rustls cannot begin.
    pub fn connect(&self, scratch: &Rc<RefCell<Scratch>>) -> io::Result<Box<Tls<Client>>> {
        let session = Client::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)?;
        Ok(Box::new(Tls::new(session, Rc::clone(scratch))))
    }
}

fn trusting(file: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    Ok(verifier.map_err(|error| error.to_string())?)
}

/// Takes every certificate, but not a broken handshake.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
