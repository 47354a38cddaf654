//! Decides which requests may go where, and with whose authority. It is pure: a decision is a
//! function of the routes and the head of the request.
mod decision;
mod error;
mod matcher;
mod path;
mod route;

pub use decision::{Conflict, Decision, Policy, Target, Unmatched};
pub use error::PatternError;
pub use matcher::{HostPattern, Match};
pub use path::{PathAmbiguity, PathPattern, ambiguity, normalized};
pub use route::{CredentialRule, Limits, Origin, Route, Scheme, Timeouts, TokenRule, TokenSource, Upstream};
