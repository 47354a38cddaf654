//! How routes divide an authority among themselves by path or method, and which ambiguous paths are
//! refused for that reason.
use super::matcher::Match;
use super::path::PathPattern;
use super::route::{AmbiguousPaths, Route, Scheme};

/// Whether the routes of an authority (a host and a port) are limited to some paths or methods, so
/// that the path or the method of a request decides between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// Whether one of them is limited to some paths.
    pub by_path: bool,
    /// Whether one of them is limited to some methods.
    pub by_method: bool,
}

/// Which ambiguous paths ([`super::PathAmbiguity`]) a route refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// All of them pass as they were sent.
    AsSent,
    /// Those to an authority that routes divide by path are refused.
    RefusedWhereDivided,
    /// All of them are refused.
    Refused,
}

impl PathRule {
    /// The rule of a route whose authorities are divided like this. If no route divides them, every
    /// path leads to the same credential, so nothing is gained by writing one in two ways.
    pub(super) fn new(route: &Route, division: Division) -> Self {
        match route.ambiguous_paths {
            Some(AmbiguousPaths::AsSent) => Self::AsSent,
            Some(AmbiguousPaths::Refuse) => Self::Refused,
            None if route.speaks_for_workload() && division.by_path => Self::RefusedWhereDivided,
            None => Self::AsSent,
        }
    }
}

/// How the authorities of each route are divided.
pub(super) fn divisions(routes: &[Route]) -> Vec<Division> {
    let dividing = |route: &&Route| divides(&route.matcher) != Division::default();
    let dividing: Vec<&Match> = routes.iter().filter(dividing).map(|route| &route.matcher).collect();
    let of_route = |route: &Route| {
        let sharing = dividing.iter().filter(|other| share_authority(&route.matcher, other));
        sharing.fold(Division::default(), |all, other| {
            let Division { by_path, by_method } = divides(other);
            Division { by_path: all.by_path || by_path, by_method: all.by_method || by_method }
        })
    };
    routes.iter().map(of_route).collect()
}

/// How one route divides its authorities.
fn divides(matcher: &Match) -> Division {
    Division { by_path: limits_paths(matcher), by_method: !matcher.methods.is_empty() }
}

/// Whether a route is limited to some paths.
pub(super) fn limits_paths(matcher: &Match) -> bool {
    matcher.path != PathPattern::any()
}

/// Whether one request can name an authority that both routes are for.
fn share_authority(one: &Match, other: &Match) -> bool {
    let by_port = match (one.port, other.port) {
        // The scheme that the agent uses decides what a route without a port is for.
        (None, Some(port)) | (Some(port), None) => {
            [Scheme::Http, Scheme::Https].iter().any(|scheme| scheme.default_port() == port)
        }
        (one, other) => one == other,
    };
    by_port && one.host.overlaps(&other.host)
}
