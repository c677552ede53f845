//! The flags for TLS.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use time::{OffsetDateTime, PrimitiveDateTime};
use wsd::{CertificateError, CertificateFiles, Tls, Validity};

use super::values::host_and_port;

/// Where TLS is spoken unless that is said.
const DEFAULT_LISTEN: &str = "localhost:8443";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate that ends within this time should have been renewed: as the alert has it. For one that lasts less than
/// three times as long it is a third of its own time, which is when those are renewed.
const SOON: Duration = DAY.saturating_mul(14);

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

    /// Address to listen on with TLS; may be repeated [default: localhost:8443 with --tls-cert; none
    /// without it, and where systemd passes a socket named `tls`]
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

    /// Whether --tls-listen was given, here, in the environment or in the file.
    pub(super) fn listen_given(&self) -> bool {
        !self.tls_listen.is_empty()
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

/// What somebody should know of a certificate who is about to use it.
pub(super) fn warning(validity: &Validity) -> Option<String> {
    let Validity { not_before, not_after, read_at: now } = *validity;
    let soon = SOON.min(not_after.saturating_sub(not_before) / 3);
    if not_after < now {
        Some(format!("it ended at {}: clients refuse it; renew it", date(not_after)))
    } else if not_before > now {
        Some(format!("it begins at {}: clients refuse it until then; look at the clock", date(not_before)))
    } else if not_after - now < soon {
        Some(format!("it ends at {}; renew it", date(not_after)))
    } else {
        None
    }
}

/// A time since 1970 as `2026-11-21 18:30 UTC`.
fn date(time: Duration) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    // A certificate has four digits for its year, as that type has.
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(PrimitiveDateTime::MAX.assume_utc());
    let (year, month, day) = time.to_calendar_date();
    format!("{year}-{:02}-{day:02} {:02}:{:02} UTC", u8::from(month), time.hour(), time.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59 UTC"),
        ] {
            assert_eq!(date(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn soon_is_two_weeks_or_a_third_of_a_short_life() {
        for (days, soon) in [(365, 14), (90, 14), (42, 14), (6, 2)] {
            let (second, not_before, not_after) = (Duration::from_secs(1), 100 * DAY, (100 + days) * DAY);
            let when = |read_at| warning(&Validity { not_before, not_after, read_at });
            let at = |left: Duration| when(not_after - left);
            assert_eq!(at(soon * DAY), None, "{days} days");
            assert!(at(soon * DAY - second).is_some_and(|line| line.contains("ends at")), "{days} days");
            assert!(at(Duration::ZERO).is_some_and(|line| line.contains("ends at")));
            assert!(when(not_after + second).is_some_and(|line| line.contains("ended at")));
            assert!(when(not_before - second).is_some_and(|line| line.contains("begins at")));
            assert_eq!(when(not_before), None);
        }
    }
}
