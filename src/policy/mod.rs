//! Decides which requests may go where, and with whose authority. It is pure: a decision is a
//! function of the routes and the head of the request.
mod decision;
mod description;
mod division;
mod egress;
mod error;
mod fields;
mod matcher;
mod path;
mod placement;
mod reserved;
mod retries;
mod route;

pub use decision::{Conflict, Decision, Policy, Target, Unmatched};
pub use description::{RouteDescription, enumeration};
pub use division::{Division, PathRule};
pub use egress::{EgressRules, reached_addresses};
pub use error::PatternError;
pub use fields::{FieldMeaning, is_same_field, nominated};
pub use matcher::{HostPattern, Match};
pub use path::{PathAmbiguity, PathPattern};
pub use placement::{Placement, PlacementError};
pub use reserved::{AgentCredentials, ReservedHeaders, StripRules};
pub use retries::{Retries, RetryConditions};
pub use route::{
    AmbiguousPaths, CredentialRule, HostRule, Origin, Rate, Route, RouteLimits, Scheme, Timeouts, TokenRule,
    TokenSource, Upstream, UpstreamProtocol,
};
