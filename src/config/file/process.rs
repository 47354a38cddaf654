//! The process: where it listens, what it logs, how it ends.
use crate::config::decode::{Decode, Decoder, Definitions, OneOrMore};
use crate::config::describe::{choice, record};
use crate::config::leaf::{AdminSocket, Count, Size};
use crate::config::tree::Node;
use crate::policy::HostPattern;
use std::net::SocketAddr;
use std::time::Duration;

record! {
    /// Where the proxy listens.
    ListenFile {
        /// For the agent. Loopback only, unless something else keeps strangers out. Absent: 127.0.0.1:17080 and [::1]:17080, of which the machine may lack one.
        outbound: Option<Vec<SocketAddr>>,
        /// For `/metrics`, `/livez`, `/readyz` and `/startupz`. Absent: [::]:17090.
        metrics: Option<Vec<SocketAddr>>,
        /// For `idjag-proxy status`: a Unix socket that only its owner may open. Absent: none.
        admin: Option<AdminSocket>,
        /// For the JWK set of the assertions that this workload signs. Absent: none.
        jwks: Vec<SocketAddr> = "[]",
    }
}

/// The hosts, besides loopback, that may be spoken to over plain HTTP.
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
    /// How the process ends.
    DrainFile {
        /// How long the agent must have held no connection.
        idle: Duration = "1s",
        /// When the process ends at the latest; below the pod's grace period.
        deadline: Duration = "25s",
    }
}

record! {
    /// What is logged.
    LogFile {
        /// The least important line that is written.
        level: LogLevelFile = "info",
        /// How a line looks.
        format: LogFormatFile = "json",
    }
}

choice! {
    /// How important a line is.
    LogLevelFile {
        /// What needs a person.
        "error" => Error,
        /// What may come to need one.
        "warn" => Warn,
        /// One line per request, and changes of state.
        "info" => Info,
        /// What led to a decision.
        "debug" => Debug,
        /// Everything but secrets.
        "trace" => Trace,
    }
}

choice! {
    /// How a line looks.
    LogFormatFile {
        /// One JSON object per line.
        "json" => Json,
        /// For a terminal.
        "pretty" => Pretty,
    }
}

record! {
    /// Limits of the whole process.
    LimitsFile {
        /// Connections of the agent at one time.
        connections: Count = "10000",
        /// Requests in flight at one time.
        requests: Count = "10000",
        /// All header fields of a request together.
        request_headers: Size = "64KiB",
        /// Tokens of users that are kept at one time.
        delegated_tokens: Count = "10000",
    }
}
