//! From what this workload is to an access token: grants, the requests that they make at authorization servers, and what comes back.
mod client_auth;
mod context;
mod error;
mod exchanger;
mod form;
mod grant;
mod issuer;
mod metrics;
mod principal;
mod request;
mod response;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use crate::jose::TokenKind;
pub use error::ExchangeError;
pub use exchanger::{Exchanger, Minted};
pub use grant::{
    ActorToken, AssertionSettings, Flow, Grant, GrantDigest, GrantError, SelfIssuedGrant, Subject, UserTokenRule,
};
pub use issuer::{
    AssertionAudience, AuthorizationServer, ClientAuth, Deadlines, Endpoints, Fault, Parameter, PlainHttp, Quirks,
};
pub use metrics::Metrics;
