//! The flags for TLS.

use std::path::PathBuf;

use clap::Args;
use wsd::{CertificateError, CertificateFiles, Tls};

use super::values::host_and_port;

/// Where TLS is spoken unless that is said.
const DEFAULT_LISTEN: &str = "localhost:8443";

/// Certificates are read again on SIGHUP.
#[derive(Args, Debug)]
pub(super) struct TlsFlags {
    /// Certificate to speak TLS with, and those above it, as PEM; may be repeated, each with its key, and clients get
    /// the one for the name they ask for
    #[arg(long, value_name = "FILE", env = "WSD_TLS_CERT", value_delimiter = ',')]
    tls_cert: Vec<PathBuf>,

    /// The certificate's private key, as PEM
    #[arg(long, value_name = "FILE", env = "WSD_TLS_KEY", value_delimiter = ',')]
    tls_key: Vec<PathBuf>,

    /// Address to listen on with TLS; may be repeated [default: localhost:8443 with --tls-cert, or none]
    #[arg(long, value_name = "HOST:PORT", env = "WSD_TLS_LISTEN", value_delimiter = ',', value_parser = host_and_port)]
    tls_listen: Vec<String>,
}

impl TlsFlags {
    /// What is missing is told as one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let (certificates, keys) = (self.tls_cert.len(), self.tls_key.len());
        let wrong = if certificates > 0 && !cfg!(feature = "tls") {
            "--tls-cert needs a wsd that was built with the feature `tls`"
        } else if keys < certificates {
            "--tls-cert needs the --tls-key that belongs to it, for each certificate"
        } else if certificates < keys {
            "--tls-key needs the --tls-cert that it belongs to, for each key"
        } else if certificates == 0 && !self.tls_listen.is_empty() {
            "--tls-listen needs a --tls-cert and its --tls-key"
        } else {
            return Ok(());
        };
        Err(format!("wsd: {wrong}; see wsd --help"))
    }

    /// Whether TLS is spoken at all.
    pub(super) fn is_on(&self) -> bool {
        !self.tls_cert.is_empty()
    }

    pub(super) fn config(&self) -> Option<Tls> {
        let pairs = self.tls_cert.iter().zip(&self.tls_key);
        let certificates: Vec<_> = pairs
            .map(|(certificate, key)| CertificateFiles { certificate: certificate.clone(), key: key.clone() })
            .collect();
        let default = || vec![DEFAULT_LISTEN.to_owned()];
        let listen = if self.tls_listen.is_empty() { default() } else { self.tls_listen.clone() };
        self.is_on().then_some(Tls { listen, certificates })
    }
}

/// What is wrong with a file, with its flag and the remedy.
pub(crate) fn certificate_line(error: &CertificateError) -> String {
    let (flag, file, problem, remedy) = match error {
        CertificateError::Certificate { file, problem } => {
            ("--tls-cert", file, problem, "name a PEM file with the certificate first")
        }
        CertificateError::Key { file, problem } => {
            ("--tls-key", file, problem, "name the PEM file of the certificate's own key")
        }
        error => return format!("wsd: --tls-cert: {error}; see wsd --help"),
    };
    format!("wsd: {flag} {}: {problem}; {remedy}", file.display())
}
