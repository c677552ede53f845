//! What header values may look like: tokens, lists, hosts, targets, extensions. Each is one pass over its text.

/// "token = 1*tchar" (RFC 9110 section 5.6.2)
pub(super) fn is_token(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(tchar)
}

/// The elements of a comma-separated value, trimmed, empty ones left out (RFC 9110 section 5.6.1).
pub(crate) fn list_elements(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(trim).filter(|element| !element.is_empty())
}

/// A path and query with nothing in it that a client encodes: no fragment, no quotes, no angle brackets, ASCII only.
pub(super) fn is_target(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"<>".contains(&byte))
}

/// Host and port of an authority without a user; `None` where it is neither a name, an IPv4 address nor an IPv6
/// address in brackets (RFC 3986 section 3.2.2, names as the DNS has them).
pub(super) fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rfind(':') {
        // The last colon of an IPv6 address is inside its brackets.
        Some(at) if text.ends_with(':') => (&text[..at], None),
        Some(at) if !text[at..].contains(']') => (&text[..at], Some(port(&text[at + 1..])?)),
        _ => (text, None),
    };
    let sound = match host.strip_prefix('[') {
        Some(address) => {
            address.strip_suffix(']').is_some_and(|it| it.parse::<core::net::Ipv6Addr>().is_ok())
        }
        None => is_name(host),
    };
    sound.then_some((host, port))
}

/// A value of `Sec-WebSocket-Extensions`: a list of at least one `token *( ";" token [ "=" ( token | quoted ) ] )`, the
/// unquoted text a token too (RFC 6455 section 9.1).
pub(super) fn is_extension_list(value: &str) -> bool {
    let mut some = false;
    let mut rest = value;
    while !rest.is_empty() {
        // Empty elements are ignored, as in every list.
        if let Some(after) = trim(rest).strip_prefix(',') {
            rest = after;
            continue;
        }
        if trim(rest).is_empty() {
            break;
        }
        let Some(after) = extension(rest) else { return false };
        some = true;
        rest = after;
    }
    some
}

/// One extension; what follows its comma, or nothing at the end.
fn extension(text: &str) -> Option<&str> {
    let mut rest = skip_token(text)?;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        match rest.as_bytes().first() {
            None => return Some(""),
            Some(b',') => return Some(&rest[1..]),
            Some(b';') => rest = parameter(&rest[1..])?,
            Some(_) => return None,
        }
    }
}

/// One parameter; what follows it.
fn parameter(text: &str) -> Option<&str> {
    let rest = skip_token(text)?;
    let after_name = rest.trim_start_matches([' ', '\t']);
    let Some(value) = after_name.strip_prefix('=') else { return Some(rest) };
    let value = value.trim_start_matches([' ', '\t']);
    let Some(quoted) = value.strip_prefix('"') else { return skip_token(value) };
    let end = quoted.find('"')?;
    // What is quoted must be a token once a backslash before any character is taken away.
    let mut escaped = false;
    let plain: String = quoted[..end]
        .chars()
        .filter(|&letter| {
            escaped = letter == '\\' && !escaped;
            !escaped
        })
        .collect();
    is_token(&plain).then_some(&quoted[end + 1..])
}

/// What follows the token at the start, white space before it aside.
fn skip_token(text: &str) -> Option<&str> {
    let text = text.trim_start_matches([' ', '\t']);
    let end = text.bytes().position(|byte| b" \t,;=\"".contains(&byte)).unwrap_or(text.len());
    is_token(&text[..end]).then(|| &text[end..])
}

/// A name as the DNS has them, perhaps percent-encoded.
fn is_name(host: &str) -> bool {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let mut parts = host.split('%');
    let encoded = |part: &str| {
        part.split_at_checked(2)
            .is_some_and(|(hex, rest)| hex.bytes().all(|it| it.is_ascii_hexdigit()) && plain(rest))
    };
    !host.is_empty() && parts.next().is_some_and(plain) && parts.all(encoded)
}

fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(list_elements(" a,,b ,\tc").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(is_token("v1.x") && ["", "a b", "\"a\"", "a/b", "é"].into_iter().all(|text| !is_token(text)));
    }

    #[test]
    fn authorities() {
        assert_eq!(split_authority("example.com"), Some(("example.com", None)));
        assert_eq!(split_authority("example.com:80"), Some(("example.com", Some(80))));
        assert_eq!(split_authority("[::1]:8080"), Some(("[::1]", Some(8080))));
        assert_eq!(split_authority("[::1]"), Some(("[::1]", None)));
        assert_eq!(split_authority("a%2Db:"), Some(("a%2Db", None)), "a port may be empty");
        for text in
            ["", ":80", "a:x", "a:+1", "a:65536", "::1", "[::1", "[]", "[::1]x", "a@b", "a b", "a/b", "é"]
        {
            assert_eq!(split_authority(text), None, "{text}");
        }
    }

    #[test]
    fn targets() {
        assert!(is_target("/") && is_target("/a%20b?c={d}|[e]"));
        for text in ["/a#b", "/a\"b", "/<a>", "/é", "/a b"] {
            assert!(!is_target(text), "{text}");
        }
    }

    #[test]
    fn extensions() {
        for value in [
            "permessage-deflate",
            "a; b; c=1, d;e=\"f\" ,",
            "permessage-deflate; client_max_window_bits; server_max_window_bits=\"10\"",
            "a ; b = c",
            "a;b=\"\\c\"",
        ] {
            assert!(is_extension_list(value), "{value}");
        }
        for value in [
            "",
            ",",
            ";",
            "a;",
            "a;=b",
            "a;b=",
            "a;b=\"c",
            "a;b=\"c\"d",
            "a;b=\"c d\"",
            "\"a\"",
            "a b",
            "é",
            "a;b=\"\"",
        ] {
            assert!(!is_extension_list(value), "{value}");
        }
        assert!(is_extension_list(&"a;b,".repeat(100_000)), "in linear time");
    }
}
