//! Routes: which request gets which token, with how much of it, and where it goes.
use super::server::TrustFile;
use super::token::TokenFile;
use crate::config::decode::{Decode, Decoder, Definitions, Mapping};
use crate::config::describe::{choice, record};
use crate::config::leaf::{Name, OriginUrl, Port, Scope, SecretPath, Size};
use crate::config::tree::{Node, Value};
use crate::policy::{HostPattern, PathPattern};
use http::{HeaderName, HeaderValue, Method};
use serde_json::json;
use std::time::Duration;

record! {
    /// One route. Exactly one of `token`, `legacy_secret` and `tunnel` says which credential its requests carry.
    RouteFile {
        /// Its name in metrics and logs. Absent: its host.
        name: Option<Name>,
        /// Which requests take it.
        r#match: MatchFile,
        /// The token that its requests carry: a name from `tokens`, a token of its own, or `none`.
        token: Option<TokenOfRoute>,
        /// The scopes that it asks for, out of the token's. Absent: all of them.
        scopes: Option<Vec<Scope>>,
        /// A static key for a service that takes nothing better. An anti-pattern, and shown as one.
        legacy_secret: Option<LegacySecretFile>,
        /// Opaque TLS by CONNECT, without a credential.
        tunnel: bool = "false",
        /// Whether the agent's own credentials pass. Only with `token: none`.
        keep_credentials: bool = "false",
        /// Where its requests go. Absent: to the request's own host over `https`.
        upstream: UpstreamFile = "{}",
        /// A name for its host in base URLs: `http://127.0.0.1:17080/ALIAS/…`.
        alias: Option<Name>,
        /// How long the parts of a request may take.
        timeouts: TimeoutsFile = "{}",
        /// How large a request may be.
        limits: RouteLimitsFile = "{}",
        /// Whether a request with a body is sent again after the upstream has refused the token. Absent: only one without a body.
        replay: Option<ReplayFile>,
    }
}

record! {
    /// Which requests take a route; all conditions must hold.
    MatchFile {
        /// The host: exact, or every host below one (`*.example.com`).
        host: HostPattern,
        /// The port. Absent: the default port of the scheme that the agent used.
        port: Option<Port>,
        /// The path: exact, with a one-segment `*`, or everything below one (`/v1/**`).
        path: PathPattern = "/**",
        /// The methods. Empty: any.
        methods: Vec<Method> = "[]",
        /// Headers that must be present with these values.
        headers: Mapping<HeaderName, HeaderValue> = "{}",
    }
}

/// A route's token: its name, a mapping, or `none`.
#[derive(Clone, Debug)]
pub(crate) enum TokenOfRoute {
    /// No credential at all.
    None,
    /// One of `tokens`.
    Named(Name),
    /// One of its own.
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
    /// A static key.
    LegacySecretFile {
        /// The file that holds it; relative to this file.
        file: SecretPath,
        /// The header that carries it.
        header: HeaderName,
        /// What stands in front of it in the header, such as `"Bearer "`.
        prefix: Option<HeaderValue>,
    }
}

record! {
    /// Where a route's requests go.
    UpstreamFile {
        /// Scheme, host and port. Absent: `https` to the request's own host.
        url: Option<OriginUrl>,
        /// How it is spoken to over TLS.
        tls: UpstreamTlsFile = "{}",
    }
}

record! {
    /// TLS to an upstream.
    UpstreamTlsFile {
        /// Which certificate it must show.
        server: TrustFile = "web_pki",
        /// Which certificate we show. Absent: none.
        client_certificate: Option<ClientCertificateFile>,
    }
}

choice! {
    /// Which certificate we show.
    ClientCertificateFile {
        /// The X.509-SVID.
        "svid" => Svid,
    }
}

record! {
    /// How long the parts of a request may take.
    TimeoutsFile {
        /// To reach the upstream, TLS included.
        connect: Duration = "5s",
        /// From the request's last byte to the response's head.
        response: Duration = "60s",
        /// Without a byte in either direction of a body, a WebSocket or a tunnel.
        idle: Duration = "15m",
    }
}

record! {
    /// How large a request may be.
    RouteLimitsFile {
        /// The body. Absent: any size, because bodies are streamed.
        request_body: Option<Size>,
    }
}

record! {
    /// Requests that are kept for one replay.
    ReplayFile {
        /// The largest body that is kept in memory: at most 1MiB. Times `limits.requests`, it is the most that all of them take.
        max_body: Size = "64KiB",
    }
}

choice! {
    /// What happens to a request that no route matches.
    UnmatchedFile {
        /// It is refused with 403.
        "refuse" => Refuse,
        /// It goes where the agent sent it, without a credential of ours.
        "pass" => Pass,
    }
}
