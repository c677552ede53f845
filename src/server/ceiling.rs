//! How many connections a server can hold, and why.

use std::fmt;
use std::fs;

use tracing::warn;

use crate::config::{Config, DESCRIPTOR_RESERVE, DescriptorTables};

/// The longest queue of connections that the system gives a listener, whatever it asks for: listen(2).
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// How many connections a server can hold, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Connections in all.
    pub connections: usize,
    /// Descriptor tables among the workers: as many as workers, or one.
    pub tables: usize,
    /// Descriptors in each table.
    pub descriptors: u64,
    /// Whether the configuration set a lower number than the descriptors would allow.
    pub configured: bool,
    /// Whether the system refused tables that were asked for.
    pub tables_refused: bool,
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up to {} connections (", Grouped(self.connections as u64))?;
        match (self.configured, self.tables) {
            (true, _) => write!(f, "as configured")?,
            (false, 1) => write!(f, "one table of {} descriptors", Grouped(self.descriptors))?,
            (false, tables) => {
                write!(f, "{tables} private tables of {} descriptors", Grouped(self.descriptors))?;
            }
        }
        if self.tables_refused {
            write!(f, "; the system refused private tables")?;
        }
        write!(f, ")")
    }
}

/// A number with a comma after every three digits.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

impl Ceiling {
    /// `private` of the workers have a table of their own, of `descriptors`.
    pub(super) fn new(config: &Config, private: usize, descriptors: u64) -> Self {
        let tables = if private == config.threads { config.threads } else { 1 };
        let possible = table_max(descriptors).saturating_mul(tables);
        let connections = config.max_conns.map_or(possible, |max| max.min(possible));
        Self {
            connections,
            tables,
            descriptors,
            configured: connections < possible,
            tables_refused: config.tables == DescriptorTables::PerWorker && private < config.threads,
        }
    }
}

/// Warns of what the system gives less of than the configuration asks for.
pub(super) fn warn_of_less(config: &Config, ceiling: &Ceiling) {
    let connections = ceiling.connections;
    if let Some(max_conns) = config.max_conns.filter(|&max| max > connections) {
        warn!(
            max_conns,
            connections, "descriptors allow fewer connections than --max-conns (ulimit -n, LimitNOFILE)"
        );
    }
    // That of a socket that was passed is not ours to ask for.
    let opens = !config.listen.is_empty() || config.tls.as_ref().is_some_and(|tls| !tls.listen.is_empty());
    // A service may not see it (`ProcSubset=pid`).
    let somaxconn = fs::read_to_string(SOMAXCONN).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let backlog = config.backlog;
    if let Some(somaxconn) = somaxconn.filter(|&most| opens && most < backlog) {
        warn!(
            backlog,
            somaxconn, "the system lets fewer connections wait than --backlog (net.core.somaxconn)"
        );
    }
}

/// Connections for which one table has room.
pub(super) fn table_max(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(DESCRIPTOR_RESERVE)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_is_explained() {
        let mut config = Config { threads: 4, tables: DescriptorTables::PerWorker, ..Config::default() };
        let say = |config: &Config, private| Ceiling::new(config, private, 20_000).to_string();
        assert_eq!(say(&config, 4), "up to 79,744 connections (4 private tables of 20,000 descriptors)");
        assert_eq!(
            say(&config, 0),
            "up to 19,936 connections (one table of 20,000 descriptors; the system refused private tables)"
        );
        config.max_conns = Some(1_000);
        assert_eq!(say(&config, 4), "up to 1,000 connections (as configured)");
    }
}
