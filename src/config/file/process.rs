//! Settings of the process: where it listens, what it logs, how it shuts down.
use crate::config::decode::{Decode, Decoder, Definitions, OneOrMore};
use crate::config::describe::{choice, record};
use crate::config::leaf::{
    AbsolutePath, AdminSocket, Count, EgressException, Network, OriginUrl, SecretPath, Size, Uid, UnixUrl,
};
use crate::config::tree::{Node, Value};
use crate::policy::HostPattern;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

record! {
    /// The addresses that the proxy listens on.
    ListenFile {
        /// Addresses that the agent connects to: loopback only, unless something else keeps
        /// strangers out. A Unix socket admits only processes of the users that it lists. Absent:
        /// `127.0.0.1:17080` and `[::1]:17080`; one of them is skipped if the
        /// machine does not have its address family.
        outbound: Option<Vec<OutboundFile>>,
        /// Addresses that serve `/metrics`, `/livez`, `/readyz` and `/startupz`. Absent:
        /// `[::]:17090`.
        metrics: Option<Vec<SocketAddr>>,
        /// The Unix socket that `idjag-proxy status` connects to; only its owner may open it.
        /// Absent: none.
        admin: Option<AdminSocket>,
        /// Addresses that serve the JWK set of the assertions that this workload signs. Absent:
        /// none.
        jwks: Vec<SocketAddr> = "[]",
    }
}

/// Where the agent connects.
#[derive(Clone, Debug)]
pub(crate) enum OutboundFile {
    /// A TCP port.
    Address(SocketAddr),
    /// A Unix socket.
    Socket(OutboundSocketFile),
}

record! {
    /// A Unix socket that the agent connects to.
    OutboundSocketFile {
        /// The path of the socket.
        unix: AbsolutePath,
        /// The users whose processes may connect, by number. Absent: only the user that the proxy
        /// runs as.
        uids: Option<Vec<Uid>>,
    }
}

impl Decode for OutboundFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(_) => OutboundSocketFile::decode(node, decoder).map(Self::Socket),
            Value::Scalar { text, .. } if text.starts_with("unix:") => {
                let UnixUrl(path) = UnixUrl::decode(node, decoder)?;
                Some(Self::Socket(OutboundSocketFile { unix: AbsolutePath(path), uids: None }))
            }
            _ => SocketAddr::decode(node, decoder).map(Self::Address),
        }
    }

    fn expected() -> String {
        "an address such as `127.0.0.1:17080`, or a Unix socket such as `unix:///run/idjag-proxy/outbound.sock`"
            .to_owned()
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        json!({ "anyOf": [
            SocketAddr::describe(definitions),
            UnixUrl::describe(definitions),
            OutboundSocketFile::describe(definitions),
        ] })
    }
}

/// The hosts that may be contacted over plain HTTP, in addition to loopback.
#[derive(Clone, Debug)]
pub(crate) struct PlainHttpFile(pub(crate) Vec<HostPattern>);

impl Decode for PlainHttpFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        OneOrMore::<HostPattern>::decode(node, decoder).map(|hosts| Self(hosts.0))
    }

    fn expected() -> String {
        "`loopback`, or a list of hosts with or without `loopback`".to_owned()
    }

    fn describe(definitions: &mut Definitions) -> serde_json::Value {
        OneOrMore::<HostPattern>::describe(definitions)
    }
}

record! {
    /// Which IP addresses the host names of upstreams may resolve to. Link-local and metadata
    /// addresses and the proxy's own ports are always refused. An address that a route spells out is
    /// not checked against these ranges.
    EgressFile {
        /// Address ranges that are refused.
        refuse: Vec<Network> = "[]",
        /// Exceptions: of the ranges that contain an address, the narrowest decides.
        allow: Vec<Network> = "[]",
    }
}

record! {
    /// An HTTP proxy that opens tunnels (CONNECT). It resolves the names of upstreams, so that their
    /// addresses cannot be checked; hosts that are spelled as addresses are.
    EgressProxyFile {
        /// Its URL, such as `http://proxy.corp.example:3128`.
        url: OriginUrl,
        /// Hosts that are reached directly, in addition to this machine: names, every host below a
        /// name, and hosts that are spelled as an address in a range.
        except: Vec<EgressException> = "[]",
        /// The file with `user:password` for the proxy, relative to the configuration file. Absent:
        /// none are sent.
        credentials_file: Option<SecretPath>,
    }
}

choice! {
    /// Whether connections go through the egress proxy.
    EgressProxyRuleFile {
        /// Connections are direct.
        "none" => None,
    }
}

record! {
    /// How the process shuts down.
    DrainFile {
        /// How long the agent must have held no connection before the process ends.
        idle: Duration = "1s",
        /// The longest time that shutting down may take. Keep it below the pod's grace period.
        deadline: Duration = "25s",
    }
}

record! {
    /// Which log lines are written, and in which format.
    LogFile {
        /// The log level: less important lines are not written.
        level: LogLevelFile = "info",
        /// The format of log lines.
        format: LogFormatFile = "json",
    }
}

choice! {
    /// The importance of a log line.
    LogLevelFile {
        /// Something failed and needs attention.
        "error" => Error,
        /// Something may soon need attention.
        "warn" => Warn,
        /// One line per request, and changes of state.
        "info" => Info,
        /// The steps that led to a decision.
        "debug" => Debug,
        /// Everything that is not secret.
        "trace" => Trace,
    }
}

choice! {
    /// The format of log lines.
    LogFormatFile {
        /// One JSON object per line.
        "json" => Json,
        /// Text for people at a terminal.
        "pretty" => Pretty,
    }
}

record! {
    /// Limits of the whole process.
    LimitsFile {
        /// How many connections the agent may have open at once.
        connections: Count = "10000",
        /// How many requests may be in flight at once.
        requests: Count = "10000",
        /// The largest total size of the header fields of one request.
        request_headers: Size = "64KiB",
        /// How many delegated access tokens are cached at once.
        delegated_tokens: Count = "10000",
    }
}
