//! The file as it is written. Every type here is described once; `///` is what an editor shows.
mod process;
mod route;
mod server;
mod token;
mod workload;

pub(crate) use process::{LimitsFile, ListenFile, LogFile, LogFormatFile, LogLevelFile, PlainHttpFile};
pub(crate) use route::{ClientCertificateFile, LegacySecretFile, RouteFile, TokenOfRoute, UnmatchedFile};
pub(crate) use server::{AssertionAudienceFile, ClientAuthFile, ParameterFile, QuirksFile, ServerFile, TrustFile};
pub(crate) use token::{ActorFile, FlowFile, SelfIssuedGrantFile, SubjectFile, SubjectTypeFile, TokenFile};
pub(crate) use workload::{AssertionFile, FilesFile, IdentityFile};

use super::decode::{Mapping, Numbered};
use super::describe::record;
use super::leaf::{Count, Name, Version};
use process::DrainFile;
use std::time::Duration;

record! {
    /// Who may call what, with whose authority.
    File {
        /// The version of this format.
        version: Version = "1",
        /// Where the workload's identity comes from. Absent: the Workload API at `SPIFFE_ENDPOINT_SOCKET`, if anything needs an identity.
        identity: Option<IdentityFile>,
        /// Where the proxy listens.
        listen: ListenFile = "{}",
        /// The authorization servers, by name: those that issue tokens, and those whose users' tokens are accepted.
        authorization_servers: Mapping<Name, ServerFile> = "{}",
        /// Tokens that several routes share, by name: what to ask for, and in whose name.
        tokens: Mapping<Name, TokenFile> = "{}",
        /// Which request gets which token. The order never matters: the most specific route wins.
        routes: Vec<Numbered<RouteFile>> = "[]",
        /// What happens to a request that no route matches.
        unmatched: UnmatchedFile = "refuse",
        /// Hosts, besides loopback, that may be spoken to over plain HTTP where a credential is sent or a key is fetched: upstreams that get a credential, authorization servers, JWKS, metadata.
        allow_plain_http: PlainHttpFile = "loopback",
        /// The longest that a request waits for a token.
        token_timeout: Duration = "10s",
        /// How the process ends.
        drain: DrainFile = "{}",
        /// Threads that carry requests. Absent: the CPU quota rounded up, without a quota at most 2.
        workers: Option<Count>,
        /// What is logged.
        log: LogFile = "{}",
        /// Limits of the whole process.
        limits: LimitsFile = "{}",
    }
}
