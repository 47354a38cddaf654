//! Hosts in URLs and authorities.

/// Returns `host` without the brackets of an IPv6 literal (RFC 3986 §3.2.2), as address parsers and
/// certificates have it.
pub fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bracketed_host_is_changed() {
        assert_eq!(without_brackets("[::1]"), "::1");
        for host in ["api.example.com", "127.0.0.1", "[::1", "::1]", ""] {
            assert_eq!(without_brackets(host), host);
        }
    }
}
