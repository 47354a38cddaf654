//! From what this workload is to an access token: grants, the requests that they make at authorization servers, and what comes back.
mod client_auth;
mod context;
mod error;
mod exchanger;
mod form;
mod grant;
mod metrics;
mod principal;
mod request;
mod response;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::ExchangeError;
pub use exchanger::{Exchanger, Minted};
pub use grant::{
    ActorToken, AssertionSettings, Flow, FlowFacts, Grant, GrantDigest, GrantError, GrantSpec, IdentityUse,
    SelfIssuedGrant, Subject, TokenResponse, UserTokenRule,
};
pub use metrics::Metrics;
