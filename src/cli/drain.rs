//! The flags for letting connections go.

use std::time::Duration;

use clap::Args;
use wsd::{CloseCode, Drain};

use super::values::time_or_zero;

/// What SIGTERM does.
#[derive(Args, Debug)]
#[command(next_help_heading = "Drain (SIGTERM)")]
pub(super) struct DrainFlags {
    /// From /readyz saying 503 to the end of accepting: as long as a balancer needs to notice
    #[arg(long, value_name = "TIME", env = "WSD_DRAIN_GRACE", default_value = "5s", value_parser = time_or_zero)]
    drain_grace: Duration,

    /// Then connections are closed, evenly over this time
    #[arg(long, value_name = "TIME", env = "WSD_DRAIN_SPREAD", default_value = "60s", value_parser = time_or_zero)]
    drain_spread: Duration,

    /// From SIGTERM to the end, whoever is left
    #[arg(long, value_name = "TIME", env = "WSD_DRAIN_TIMEOUT", default_value = "120s", value_parser = time_or_zero)]
    drain_timeout: Duration,

    /// The close code
    #[arg(long, value_name = "CODE", env = "WSD_DRAIN_CODE", default_value_t = Drain::default().code,
          value_parser = code)]
    drain_code: u16,

    /// The wait that each client is asked for before it reconnects: a half of this to one and a half
    #[arg(long, value_name = "TIME", env = "WSD_DRAIN_RETRY", default_value = "4s", value_parser = time_or_zero)]
    drain_retry: Duration,
}

impl DrainFlags {
    pub(super) fn config(&self) -> Drain {
        Drain {
            grace: self.drain_grace,
            spread: self.drain_spread,
            timeout: self.drain_timeout,
            code: self.drain_code,
            retry: self.drain_retry,
        }
    }
}

fn code(text: &str) -> Result<u16, String> {
    let code = text.parse().ok().and_then(CloseCode::new);
    code.map(CloseCode::get).ok_or_else(|| "must be 1000 to 1003, 1007 to 1014, or 3000 to 4999".to_owned())
}
