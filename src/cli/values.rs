//! Values as people type them: addresses, origins, sizes, times.

use core::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use wsd::{AdminAddress, IpNet, QueueTotal};

/// Where the admin listener is; nowhere where the text is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admin(pub(super) Option<AdminAddress>);

pub(super) fn admin_address(text: &str) -> Result<Admin, String> {
    Ok(Admin(match text.strip_prefix("unix:") {
        _ if text.is_empty() => None,
        Some("") => return Err("the path is missing, such as unix:/run/wsd/admin.sock".to_owned()),
        Some(path) => Some(AdminAddress::Unix(PathBuf::from(path))),
        None => match host_and_port(text) {
            Ok(address) => Some(AdminAddress::Tcp(address)),
            Err(why) => return Err(format!("{why}, or unix:PATH")),
        },
    }))
}

pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("HOST:PORT is needed, such as localhost:8080")?;
    if host.is_empty() {
        return Err("the host is missing; 0.0.0.0 is every IPv4 address, [::] every IPv6 address".to_owned());
    }
    port.parse::<u16>().map_err(|_| format!("`{port}` is not a port (0 to 65535)"))?;
    Ok(text.to_owned())
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "a network is needed, such as 10.0.0.0/8, or an address".to_owned())
}

pub(super) fn origin(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    if text != "*" && !wsd::proto::handshake::origin::is_valid(text) {
        return Err("an origin is scheme, host and perhaps port, such as https://app.example.com".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn size(text: &str) -> Result<u32, String> {
    match bytes(text)?.and_then(|bytes| u32::try_from(bytes).ok()) {
        Some(bytes) if (1..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("must be 1 byte to 1GiB".to_owned()),
    }
}

pub(super) fn size_or_zero(text: &str) -> Result<u32, String> {
    if text == "0" { Ok(0) } else { size(text) }
}

/// A share of the memory, or a size; 0 for no limit.
pub(super) fn share(text: &str) -> Result<QueueTotal, String> {
    if let Some(percent) = text.strip_suffix('%') {
        return match percent.parse() {
            Ok(percent @ 1..=100) => Ok(QueueTotal::Percent(percent)),
            _ => Err("must be 1% to 100%, or a size, or 0".to_owned()),
        };
    }
    bytes(text)?.map(QueueTotal::Bytes).ok_or_else(|| "is more than any memory".to_owned())
}

/// `None` where no 64 bits hold it.
fn bytes(text: &str) -> Result<Option<u64>, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit: u64 = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        other => return Err(format!("`{other}` is no unit of size (KiB, MiB, GiB)")),
    };
    let number: u64 = digits.parse().map_err(|_| "a number of bytes is needed, such as 64KiB".to_owned())?;
    Ok(number.checked_mul(unit))
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    match time_or_zero(text)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        time => Ok(time),
    }
}

pub(super) fn time_or_zero(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| "a time is needed, such as 500ms or 10s".to_owned())?;
    let millis: u64 = match text[digits.len()..].trim() {
        "" if number == 0 => 0,
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a unit is needed: ms, s, m or h".to_owned()),
    };
    match number.checked_mul(millis) {
        Some(millis) if millis <= 7 * 24 * 3_600_000 => Ok(Duration::from_millis(millis)),
        _ => Err("must be at most a week".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.0/8").map(|it| it.to_string()), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(network("::1").map(|it| it.to_string()), Ok("::1/128".to_owned()));
        assert!(network("10.0.0.0/33").is_err() && network("localhost").is_err() && network("").is_err());
    }

    #[test]
    fn admin_addresses() {
        let tcp = |text: &str| Ok(Admin(Some(AdminAddress::Tcp(text.to_owned()))));
        assert_eq!(admin_address(""), Ok(Admin(None)));
        assert_eq!(admin_address("127.0.0.1:9090"), tcp("127.0.0.1:9090"));
        assert_eq!(admin_address("[::1]:0"), tcp("[::1]:0"));
        let unix = AdminAddress::Unix(PathBuf::from("/run/wsd.sock"));
        assert_eq!(admin_address("unix:/run/wsd.sock"), Ok(Admin(Some(unix))));
        for text in ["9090", ":9090", "unix:", "localhost:metrics", "/run/wsd.sock"] {
            assert!(admin_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!((size("17"), size("8KiB"), size("1GiB")), (Ok(17), Ok(8192), Ok(1 << 30)));
        for text in ["", "0", "KiB", "1.5MiB", "2GiB", "9999999999GiB", "1KB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!((size_or_zero("0"), size_or_zero("64KiB")), (Ok(0), Ok(65_536)));
        assert_eq!((share("1%"), share("100%")), (Ok(QueueTotal::Percent(1)), Ok(QueueTotal::Percent(100))));
        assert_eq!((share("0"), share("8GiB")), (Ok(QueueTotal::Bytes(0)), Ok(QueueTotal::Bytes(8 << 30))));
        for text in ["", "0%", "101%", "%", "-1", "1.5%", "25 percent", "99999999999GiB"] {
            assert!(share(text).is_err(), "{text}");
        }
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!((time("2h"), time_or_zero("0")), (Ok(Duration::from_secs(7200)), Ok(Duration::ZERO)));
        for text in ["", "5", "0s", "s", "-1s", "1y", "99999h"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
