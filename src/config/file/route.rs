//! Routes: which request gets which token with which scopes, and where it goes.
use super::process::EgressProxyRuleFile;
use super::server::TrustFile;
use super::token::TokenFile;
use crate::config::decode::{Decode, Decoder, Definitions, Leaf, Mapping};
use crate::config::describe::{choice, record};
use crate::config::leaf::{
    Count, Name, OriginUrl, Percent, Port, Prefix, RetryAttempts, Scope, SecretPath, ServerName, Size,
};
use crate::config::tree::{Node, Value};
use crate::policy::{HostPattern, PathPattern, Rate, Retries};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;
use std::time::Duration;

record! {
    /// One route. Exactly one of `token`, `legacy_secret` and `tunnel` determines which credential
    /// its requests carry.
    RouteFile {
        /// The name in metrics and logs. Absent: the host.
        name: Option<Name>,
        /// Which requests take this route.
        r#match: MatchFile,
        /// The token that the requests carry: a name from `tokens`, a token described in place, or
        /// `none`.
        token: Option<TokenOfRoute>,
        /// The scopes to request, out of the token's scopes. Absent: all of them.
        scopes: Option<Vec<Scope>>,
        /// A static key for a service that accepts nothing better. An anti-pattern, and reported as
        /// one.
        legacy_secret: Option<LegacySecretFile>,
        /// Whether this is opaque TLS through CONNECT, without a credential.
        tunnel: bool = "false",
        /// Whether the agent's own credentials are forwarded. Only with `token: none`.
        keep_credentials: bool = "false",
        /// What happens to a path that can be read in two ways, such as `/a%2Fb`, `/a/../b` or
        /// `/a//b`. Absent: it is refused if the requests speak for the workload and routes divide
        /// the host by path, and otherwise forwarded as it was sent.
        ambiguous_paths: Option<AmbiguousPathsFile>,
        /// The server that the requests go to. Absent: the request's own host, over `https`.
        upstream: UpstreamFile = "{}",
        /// Whether connections go through the egress proxy, if there is one. Absent: they do.
        egress_proxy: Option<EgressProxyRuleFile>,
        /// A name for the host in base URLs: `http://127.0.0.1:17080/ALIAS/…`.
        alias: Option<Name>,
        /// How long the parts of a request may take.
        timeouts: TimeoutsFile = "{}",
        /// How large a request may be, and how many there may be.
        limits: RouteLimitsFile = "{}",
        /// Whether a request with a body is sent again after the upstream has rejected the token,
        /// and as `retries` say. Absent: only a request without a body is.
        replay: Option<ReplayFile>,
        /// When a request is sent again after a failure.
        retries: Option<RetriesFile>,
    }
}

record! {
    /// Which requests take a route; all conditions must be met.
    MatchFile {
        /// The host: an exact name, or every host below a name (`*.example.com`).
        host: HostPattern,
        /// The port. Absent: the default port of the scheme that the agent uses.
        port: Option<Port>,
        /// The path: exact, with `*` for one segment, or everything below a path (`/v1/**`).
        path: PathPattern = "/**",
        /// The methods. Empty: any method.
        methods: Vec<Method> = "[]",
        /// Headers that must be present with exactly these values.
        headers: Mapping<HeaderName, HeaderValue> = "{}",
    }
}

/// A route's token: a name, a mapping, or `none`.
#[derive(Clone, Debug)]
pub(crate) enum TokenOfRoute {
    /// Requests carry no credential.
    None,
    /// Requests carry one of `tokens`.
    Named(Name),
    /// Requests carry a token that is described in place.
    Own(Box<TokenFile>),
}

impl Decode for TokenOfRoute {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(_) => TokenFile::decode(node, decoder).map(|token| Self::Own(Box::new(token))),
            Value::Scalar { text, .. } if text == "none" => Some(Self::None),
            _ => Name::decode(node, decoder).map(Self::Named),
        }
    }

    fn expected() -> String {
        "the name of a token, a mapping that describes one, or `none`".to_owned()
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        json!({ "anyOf": [{ "const": "none" }, Name::describe(definitions), TokenFile::describe(definitions)] })
    }
}

record! {
    /// A static key that the requests of a route carry.
    LegacySecretFile {
        /// The file that holds the key, relative to the configuration file.
        file: SecretPath,
        /// The header that carries the key.
        header: HeaderName,
        /// Text in front of the key in the header, such as `"Bearer "`.
        prefix: Option<Prefix>,
    }
}

choice! {
    /// What happens to a path that the upstream may interpret differently from this proxy.
    AmbiguousPathsFile {
        /// The path is refused, also where no route divides the host by path.
        "refuse" => Refuse,
        /// The path is forwarded as it was sent. The upstream may take it for a path of another
        /// route.
        "as_sent" => AsSent,
    }
}

record! {
    /// The server that the requests of a route go to.
    UpstreamFile {
        /// The scheme, host and port. Absent: `https` to the request's own host.
        url: Option<OriginUrl>,
        /// The version of HTTP that connections speak. Absent: negotiated, HTTP/1.1 over plain HTTP.
        protocol: Option<ProtocolFile>,
        /// The host that requests name in `Host` or `:authority`. Absent: that of `url`.
        host: Option<HostRuleFile>,
        /// Settings of TLS to the upstream.
        tls: UpstreamTlsFile = "{}",
    }
}

choice! {
    /// The version of HTTP that connections to an upstream speak.
    ProtocolFile {
        /// HTTP/1.1.
        "http1" => Http1,
        /// HTTP/2, over plain HTTP with prior knowledge. Upgrades such as WebSocket are not possible.
        "http2" => Http2,
    }
}

choice! {
    /// The host that requests name.
    HostRuleFile {
        /// The host that the agent named.
        "preserve" => Preserve,
    }
}

record! {
    /// TLS to an upstream.
    UpstreamTlsFile {
        /// Which certificate the upstream must present.
        server: TrustFile = "web_pki",
        /// The name that is asked for (SNI) and that the certificate must be for. Absent: the host of
        /// `url`.
        server_name: Option<ServerName>,
        /// Which certificate the proxy presents. Absent: none.
        client_certificate: Option<ClientCertificateFile>,
    }
}

choice! {
    /// Which certificate the proxy presents.
    ClientCertificateFile {
        /// The proxy presents the X.509-SVID.
        "svid" => Svid,
    }
}

record! {
    /// How long the parts of a request may take.
    TimeoutsFile {
        /// The longest time to connect to the upstream, including TLS.
        connect: Duration = "5s",
        /// The longest time of one attempt, from connecting to the head of the response; then the
        /// request is sent again where that is safe. Absent: only the other timeouts apply.
        attempt: Option<Duration>,
        /// The longest time from the last byte of the request to the head of the response.
        response: Duration = "5m",
        /// The longest time from the head of the request to the last byte of the answer. Absent: no
        /// limit, because answers are streamed.
        total: Option<Duration>,
        /// The longest time without a byte in either direction of a body, a WebSocket or a tunnel.
        idle: Duration = "15m",
    }
}

record! {
    /// How large a request may be, and how many there may be. What is beyond is refused.
    RouteLimitsFile {
        /// The largest body. Absent: any size, because bodies are streamed.
        request_body: Option<Size>,
        /// How many requests may be in flight at one time. Absent: the limit of the process alone.
        requests: Option<Count>,
        /// How many requests may arrive per second, minute or hour; as many may arrive at once.
        /// Absent: any number.
        rate: Option<Rate>,
    }
}

record! {
    /// Bodies that are kept so that a request can be sent once more.
    ReplayFile {
        /// The largest body that is kept in memory, at most 1MiB. All kept bodies together take up
        /// to this size times `limits.requests`.
        max_body: Size = "64KiB",
    }
}

record! {
    /// When a request is sent again after a failure. One that nothing of was sent is always sent
    /// again, and so is an idempotent one without a body, if a reused connection had ended.
    RetriesFile {
        /// How often a request is sent again at most.
        attempts: RetryAttempts = "2",
        /// After what it is sent again. Only requests of idempotent methods are after `reset` and
        /// statuses, and ones with a body only if `replay.max_body` keeps it.
        on: Vec<RetryConditionFile> = "[connect, unprocessed]",
        /// How many of the requests of the last 10 seconds may be sent again; 3 a second always may.
        budget: Percent = "20%",
    }
}

/// After what a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryConditionFile {
    /// No connection could be made. It is tried four more times within `timeouts.connect`.
    Connect,
    /// The upstream says that it did not process the request.
    Unprocessed,
    /// The connection or stream ended before an answer, or the attempt took too long.
    Reset,
    /// The answer has this status.
    Status(StatusCode),
}

impl Leaf for RetryConditionFile {
    const EXPECTED: &'static str = "`connect`, `unprocessed`, `reset`, or one of the statuses 429, 502, 503 and 504";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "connect" => Ok(Self::Connect),
            "unprocessed" => Ok(Self::Unprocessed),
            "reset" => Ok(Self::Reset),
            _ => match text.parse().ok().filter(|status| Retries::STATUSES.contains(status)) {
                Some(status) => StatusCode::from_u16(status).map(Self::Status).map_err(|error| error.to_string()),
                None => Err("another answer would be the same, or nothing is known by this name".into()),
            },
        }
    }

    fn schema() -> serde_json::Value {
        let words = ["connect", "unprocessed", "reset"].map(|word| json!({ "const": word }));
        let statuses = Retries::STATUSES.map(|status| json!({ "const": status }));
        let alternatives = [words.as_slice(), &statuses].concat();
        json!({ "anyOf": alternatives })
    }
}

choice! {
    /// What happens to a request that matches no route.
    UnmatchedFile {
        /// The request is refused with 403.
        "refuse" => Refuse,
        /// The request goes where the agent sent it, without a credential of ours.
        "pass" => Pass,
    }
}
