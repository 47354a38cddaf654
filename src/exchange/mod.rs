//! Obtains access tokens: grants, the requests to authorization servers that they need, and the
//! responses.
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
pub use exchanger::Exchanger;
pub use grant::{
    ActorToken, AssertionSettings, Flow, FlowFacts, Grant, GrantDigest, GrantError, GrantSpec, IdentityUse,
    SelfIssuedGrant, Subject, TokenResponse, UserTokenRule,
};
pub use metrics::Metrics;
pub use response::IssuedToken;
