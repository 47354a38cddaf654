//! From what this workload is to an access token: grants, the requests that they make at authorization servers, and what comes back.
mod client;
mod client_auth;
mod connector;
mod document_cache;
mod error;
mod exchanger;
mod form;
mod freshness;
mod grant;
mod metadata;
mod metrics;
mod peer;
mod request;
mod response;
mod server;
#[cfg(test)]
mod testing;
mod user;

pub use crate::jose::UserTokenKind;
pub use error::{ExchangeError, Fault};
pub use exchanger::{Exchanger, Minted};
pub use grant::{
    ActorToken, AssertionSettings, Flow, Grant, GrantDigest, GrantError, SelfIssuedGrant, Subject, UserTokenRule,
};
pub use metrics::Metrics;
pub use server::{
    AssertionAudience, AuthorizationServer, ClientAuth, Deadlines, Endpoints, Parameter, PlainHttp, Quirks,
};
