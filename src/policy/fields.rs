//! Classifies header fields by what they mean to a proxy.
use http::HeaderName;

/// Whether a field belongs to one connection or to the message's framing, or says where a request
/// goes. Such a field can carry no credential, not even one that the configuration spells out.
pub fn is_structural(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "content-type"
            | "expect"
            | "host"
            | "keep-alive"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "via"
    )
}

/// Whether a field concerns one hop alone, whether or not `Connection` names it (RFC 9110 §7.6.1).
/// `Trailer` does not: trailers are forwarded.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    any_spelling(name.as_str(), |name| {
        matches!(
            name,
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "te"
                | "transfer-encoding"
                | "upgrade"
                | "proxy-authorization"
                | "proxy-authenticate"
                | "proxy-authentication-info"
                | "http2-settings"
        )
    })
}

/// Whether a field says who is calling. Only a proxy may write such fields, and this one writes
/// none.
pub fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str();
    // Most names are ruled out by their first letter.
    let is_suspect = matches!(name.as_bytes()[0], b'f' | b'x' | b'c' | b't');
    is_suspect
        && any_spelling(name, |name| {
            name == "forwarded"
                || name == "x-real-ip"
                || name == "client-cert"
                || name == "client-cert-chain"
                || name == "true-client-ip"
                || name.starts_with("x-forwarded-")
                || name.starts_with("x-envoy-")
        })
}

/// Whether a field carries an identity, a credential, or a proof of one.
pub fn is_credential(name: &HeaderName) -> bool {
    any_spelling(name.as_str(), |name| {
        matches!(
            name,
            "authorization"
                | "dpop"
                | "txn-token"
                | "workload-identity-token"
                | "workload-proof-token"
                | "signature"
                | "signature-input"
                | "oauth-client-attestation"
                | "oauth-client-attestation-pop"
                | "x-authorization"
        )
    })
}

/// Whether a field has a purpose of its own, for which proxies, servers or browsers read it: a
/// credential there would be lost, logged, or taken for something else.
pub fn has_other_purpose(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 14] = [
        "accept",
        "access-control-",
        "content-",
        "grpc-",
        "if-",
        "proxy-",
        "sec-",
        "x-b3-",
        "x-forwarded",
        "x-http-method",
        "x-method-override",
        "x-original-",
        "x-request-id",
        "x-rewrite-",
    ];
    any_spelling(name.as_str(), |name| {
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || matches!(
                name,
                "baggage"
                    | "cache-control"
                    | "cookie"
                    | "date"
                    | "early-data"
                    | "expect"
                    | "from"
                    | "host"
                    | "idempotency-key"
                    | "last-event-id"
                    | "max-forwards"
                    | "origin"
                    | "pragma"
                    | "prefer"
                    | "priority"
                    | "range"
                    | "referer"
                    | "set-cookie"
                    | "traceparent"
                    | "tracestate"
                    | "trailer"
                    | "user-agent"
                    | "via"
                    | "x-client-ip"
            )
    })
}

/// Applies `test` to a name with hyphens in place of underscores. An upstream that follows CGI (RFC
/// 3875 §4.1.18) does not distinguish `txn_token` from `Txn-Token`.
pub fn any_spelling(name: &str, test: impl Fn(&str) -> bool) -> bool {
    if name.contains('_') { test(&name.replace('_', "-")) } else { test(name) }
}
