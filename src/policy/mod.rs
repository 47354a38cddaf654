//! Which request may go where, with whose authority. Pure: a decision is a function of the routes and the request's head.
mod decision;
mod error;
mod matcher;
mod path;
mod route;

pub use decision::{Conflict, Decision, Policy, Target, Unmatched};
pub use error::PatternError;
pub use matcher::{HostPattern, Match};
pub use path::{PathHazard, PathPattern, hazard, normalized};
pub use route::{CredentialRule, Limits, Origin, Route, Scheme, Timeouts, TokenRule, TokenSource, Upstream};
