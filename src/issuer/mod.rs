//! Issuers of tokens: their settings, the requests to them, and their state while the proxy runs.
//! `exchange` asks them for tokens; [`TokenVerifier`] verifies the tokens that they have signed.
mod connector;
mod document_cache;
mod error;
mod freshness;
mod http_client;
mod issuers;
mod keys;
mod metadata;
mod runtime;
mod settings;
mod verify;
mod workload;

pub use error::{Fault, IssuerError, VerifyError};
pub(crate) use error::{ask_operator, failures, try_later};
pub(crate) use http_client::Answer;
pub use issuers::Issuers;
pub use runtime::Issuer;
pub use settings::{
    AssertionAudience, AuthorizationServer, ClientAuth, Deadlines, Endpoints, Parameter, PlainHttp, Quirks,
};
pub use verify::{Audience, TokenRules, TokenVerifier};
pub use workload::Workload;
