//! The types of the configuration file. Editors show the `///` texts.
mod process;
mod route;
mod server;
mod token;
mod workload;

pub(crate) use process::{
    EgressFile, EgressProxyFile, EgressProxyRuleFile, LimitsFile, ListenFile, LogFile, LogFormatFile, LogLevelFile,
    OutboundFile, OutboundSocketFile, PlainHttpFile,
};
pub(crate) use route::{
    AmbiguousPathsFile, ClientCertificateFile, HostRuleFile, LegacySecretFile, ProtocolFile, RetriesFile,
    RetryConditionFile, RouteFile, TimeoutsFile, TokenOfRoute, UnmatchedFile,
};
pub(crate) use server::{AssertionAudienceFile, ClientAuthFile, ParameterFile, QuirksFile, ServerFile, TrustFile};
pub(crate) use token::{
    ActorFile, FlowFile, PlacementFile, SelfIssuedGrantFile, SubjectFile, SubjectTypeFile, TokenFile,
};
pub(crate) use workload::{AssertionFile, FilesFile, IdentityFile};

use super::decode::{Mapping, Numbered};
use super::describe::record;
use super::leaf::{Count, Name, Version};
use process::DrainFile;
use std::time::Duration;

record! {
    /// Which requests may leave, where they go, and with whose authority.
    File {
        /// The version of the file format.
        version: Version = "1",
        /// The source of the workload's identity. Absent: the Workload API at
        /// `SPIFFE_ENDPOINT_SOCKET`, if anything needs an identity.
        identity: Option<IdentityFile>,
        /// The addresses that the proxy listens on.
        listen: ListenFile = "{}",
        /// The authorization servers by name: those that issue access tokens, and those that issue
        /// the users' tokens.
        authorization_servers: Mapping<Name, ServerFile> = "{}",
        /// Tokens that routes can share, by name: what to request, and in whose name.
        tokens: Mapping<Name, TokenFile> = "{}",
        /// Which request gets which token. The most specific route wins, whatever the order.
        routes: Vec<Numbered<RouteFile>> = "[]",
        /// What happens to a request that matches no route.
        unmatched: UnmatchedFile = "refuse",
        /// Which IP addresses the host names of upstreams may resolve to.
        egress: EgressFile = "{}",
        /// The HTTP proxy through which connections to upstreams and authorization servers leave.
        /// Absent: connections are direct, whatever `HTTPS_PROXY` says.
        egress_proxy: Option<EgressProxyFile>,
        /// Hosts that may be contacted over plain HTTP even though a credential is sent or a key is
        /// fetched: upstreams that get a credential, authorization servers, JWKS, metadata. Loopback
        /// is always allowed, whether or not it is listed.
        allow_plain_http: PlainHttpFile = "loopback",
        /// The longest time that a request waits for a token.
        token_timeout: Duration = "10s",
        /// How the process shuts down.
        drain: DrainFile = "{}",
        /// The number of worker threads. Absent: the CPU quota rounded up, or at most 2 without a
        /// quota.
        workers: Option<Count>,
        /// Which log lines are written, and in which format.
        log: LogFile = "{}",
        /// Limits of the whole process.
        limits: LimitsFile = "{}",
    }
}
