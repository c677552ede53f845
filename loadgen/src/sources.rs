//! The addresses that connections come from: as typed, and as planned.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that a list may come to: more than any machine has use for, and a `/8` is a slip.
const ADDRESSES_MAX: usize = 65_536;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceIps {
    /// As many loopback addresses as it takes; towards other machines the kernel's choice.
    #[default]
    Auto,
    /// These, by turns.
    List {
        /// As typed.
        text: String,
        /// Without repetitions, in the order typed.
        addresses: Vec<IpAddr>,
    },
}

impl SourceIps {
    /// Reads `auto`, `10.0.0.5,10.0.0.6` or `127.1.0.0/28`; a list may hold networks as well.
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (mut addresses, mut known) = (Vec::new(), HashSet::new());
        for part in text.split(',').map(str::trim) {
            let found = match part.split_once('/') {
                None => vec![part.parse().map_err(|_| wrong(part))?],
                Some((base, bits)) => network(base, bits).ok_or_else(|| wrong(part))?,
            };
            for address in found {
                if !usable(address) {
                    return Err(format!("{address} is no address to connect from"));
                }
                if known.insert(address) {
                    addresses.push(address);
                }
            }
            if addresses.len() > ADDRESSES_MAX {
                return Err(format!("{part} makes more than {ADDRESSES_MAX} addresses"));
            }
        }
        if addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6) {
            return Err("IPv4 and IPv6 cannot both reach one server: give one kind".to_owned());
        }
        Ok(Self::List { text: text.to_owned(), addresses })
    }

    /// The listed addresses; none where the choice is not the user's.
    pub fn listed(&self) -> &[IpAddr] {
        match self {
            Self::Auto => &[],
            Self::List { addresses, .. } => addresses,
        }
    }
}

impl fmt::Display for SourceIps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::List { text, .. } => f.write_str(text),
        }
    }
}

fn wrong(part: &str) -> String {
    format!(
        "'{part}' is no address: give auto, addresses such as 10.0.0.5,10.0.0.6, or a network such as 127.1.0.0/28"
    )
}

fn usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The hosts of a network: without the first and the last address where IPv4 keeps them for itself.
fn network(base: &str, bits: &str) -> Option<Vec<IpAddr>> {
    let (base, bits): (IpAddr, u32) = (base.parse().ok()?, bits.parse().ok()?);
    let (width, number) = match base {
        IpAddr::V4(it) => (32, u128::from(it.to_bits())),
        IpAddr::V6(it) => (128, it.to_bits()),
    };
    let host_bits = u32::checked_sub(width, bits)?;
    if host_bits > ADDRESSES_MAX.ilog2() {
        return None;
    }
    let size = 1u128 << host_bits;
    let first = number & !(size - 1);
    let kept = if base.is_ipv4() && host_bits >= 2 { 1 } else { 0 };
    Some(
        (first + kept..first + size - kept)
            .map(|it| match base {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(it as u32)),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(it)),
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> Vec<String> {
        SourceIps::parse(text).expect(text).listed().iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn lists_and_networks() {
        assert_eq!(SourceIps::parse("auto"), Ok(SourceIps::Auto));
        assert_eq!(listed("10.0.0.5, 10.0.0.6,10.0.0.5"), ["10.0.0.5", "10.0.0.6"]);
        assert_eq!(listed("127.1.0.0/30"), ["127.1.0.1", "127.1.0.2"]);
        assert_eq!(listed("127.1.0.7/31"), ["127.1.0.6", "127.1.0.7"]);
        assert_eq!(listed("127.1.0.7/32,127.2.0.0/29").len(), 7);
        assert_eq!(listed("fd00::/126"), ["fd00::", "fd00::1", "fd00::2", "fd00::3"]);
        assert_eq!(listed("10.0.0.0/16").len(), 65_534);
        assert_eq!(SourceIps::parse("127.1.0.0/30").expect("sound").to_string(), "127.1.0.0/30");
    }

    #[test]
    fn bad_lists_are_one_line() {
        for bad in [
            "",
            "x",
            "10.0.0.1,",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/15",
            "10.0.0.0/x",
            "0.0.0.0",
            "224.0.0.1",
            "10.0.0.1,::1",
            "fd00::/64",
            "255.255.255.255",
        ] {
            let error = SourceIps::parse(bad).expect_err(bad);
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
