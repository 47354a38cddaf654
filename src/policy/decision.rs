//! Decides which route a request takes, if any.
use super::division::{Division, PathRule, divisions, limits_paths};
use super::matcher::{HostPattern, Rank};
use super::path::{PathAmbiguity, ambiguity, normalized};
use super::route::{CredentialRule, Route, Scheme};
use http::{HeaderMap, Method};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// What happens to a request that matches no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// The request is refused with 403.
    Refuse,
    /// The request goes where the agent sent it, without a credential of ours.
    Pass,
}

/// The target of a request, as read from its one authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'r> {
    /// The scheme that the agent used.
    pub scheme: Scheme,
    /// The host in lower case.
    pub host: &'r str,
    /// The port, explicit or the scheme's default.
    pub port: u16,
}

/// The policy's decision about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take the route at this index of [`Policy::routes`].
    Route(usize),
    /// No route matches, and the policy lets such requests pass.
    Pass,
    /// No route matches, and the policy refuses such requests.
    Refuse,
}

/// Two routes of equal rank that could match the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The index of the first route.
    pub first: usize,
    /// The index of the second route.
    pub second: usize,
}

/// All routes, ordered by how specific they are. Clones share the routes.
#[derive(Clone)]
pub struct Policy {
    routes: Vec<Arc<Route>>,
    /// For each of `routes`, whether a route that shares one of its authorities is limited to some
    /// paths or methods.
    divisions: Vec<Division>,
    /// For each of `routes`, which ambiguous paths it refuses.
    path_rules: Vec<PathRule>,
    unmatched: Unmatched,
    /// Indices into `routes`, most specific first.
    by_host: HashMap<Box<str>, Vec<usize>>,
    by_suffix: Vec<usize>,
    aliases: HashMap<Box<str>, Box<str>>,
}

impl Policy {
    /// Orders the routes by how specific they are. The order in the file does not matter, so two
    /// routes of equal rank that could match the same request are a conflict.
    ///
    /// # Errors
    /// Returns the first conflicts, at most 100.
    pub fn new(routes: Vec<Route>, unmatched: Unmatched) -> Result<Self, Vec<Conflict>> {
        let conflicts = conflicts(&routes);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let mut order: Vec<(Reverse<Rank>, usize)> =
            routes.iter().enumerate().map(|(index, route)| (Reverse(route.matcher.rank()), index)).collect();
        order.sort_unstable();
        let mut by_host: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        let mut by_suffix = Vec::new();
        for (_, index) in order {
            match &routes[index].matcher.host {
                HostPattern::Exact(host) => by_host.entry(host.clone()).or_default().push(index),
                HostPattern::Suffix(_) => by_suffix.push(index),
            }
        }
        let aliases = routes.iter().filter_map(|route| match (&route.alias, &route.matcher.host) {
            (Some(alias), HostPattern::Exact(host)) => Some((alias.clone(), host.clone())),
            _ => None,
        });
        let aliases = aliases.collect();
        let divisions = divisions(&routes);
        let path_rules = routes.iter().zip(&divisions).map(|(route, division)| PathRule::new(route, *division));
        let path_rules = path_rules.collect();
        let routes = routes.into_iter().map(Arc::new).collect();
        Ok(Self { routes, divisions, path_rules, unmatched, by_host, by_suffix, aliases })
    }

    /// The routes, in the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// What happens to a request that matches no route.
    pub fn unmatched(&self) -> Unmatched {
        self.unmatched
    }

    /// The host that an alias stands for.
    pub fn alias(&self, name: &str) -> Option<&str> {
        self.aliases.get(name).map(|host| &**host)
    }

    /// Decides which route a request takes. Tunnel routes are not considered.
    pub fn route(&self, target: Target<'_>, path: &str, method: &Method, headers: &HeaderMap) -> Decision {
        let path = normalized(path);
        let found = self.for_host(target).find(|route| {
            let matcher = &self.routes[*route].matcher;
            !matches!(self.routes[*route].credential, CredentialRule::Tunnel)
                && matcher.path.matches(&path)
                && matcher.method_matches(method)
                && matcher.headers_match(headers)
        });
        found.map_or_else(|| self.no_route(), Decision::Route)
    }

    /// Whether some route leads to this path, with some method and header fields.
    pub fn serves(&self, target: Target<'_>, path: &str) -> bool {
        let path = normalized(path);
        self.for_host(target).any(|index| {
            let route = &self.routes[index];
            !matches!(route.credential, CredentialRule::Tunnel) && route.matcher.path.matches(&path)
        })
    }

    /// Whether a route that shares an authority with the route at this index is limited to some
    /// paths or methods.
    pub fn division(&self, index: usize) -> Division {
        self.divisions[index]
    }

    /// Which ambiguous paths ([`PathAmbiguity`]) the route at this index refuses.
    pub fn path_rule(&self, index: usize) -> PathRule {
        self.path_rules[index]
    }

    /// Returns the ambiguity for which the decision's route refuses this path, if it does. The
    /// upstream might read the path as one that belongs to another route.
    pub fn refused_path(&self, decision: &Decision, target: Target<'_>, path: &str) -> Option<PathAmbiguity> {
        let Decision::Route(index) = decision else { return None };
        let rule = self.path_rules[*index];
        if rule == PathRule::AsSent {
            return None;
        }
        let found = ambiguity(path)?;
        // Routes may divide only some of a wildcard's hosts, so look at the host of this request.
        let is_divided = || self.for_host(target).any(|index| limits_paths(&self.routes[index].matcher));
        (rule == PathRule::Refused || is_divided()).then_some(found)
    }

    /// Decides which route a CONNECT takes. Only routes for this port are considered, and of these
    /// only the routes of the most specific host pattern that matches; among them, a tunnel route
    /// comes first. A tunnel to all hosts of a domain therefore does not bypass the routes of one
    /// of these hosts.
    pub fn connect(&self, target: Target<'_>) -> Decision {
        let host = |index: usize| &self.routes[index].matcher.host;
        let Some(first) = self.for_host(target).next() else { return self.no_route() };
        let tunnels = |index: &usize| matches!(self.routes[*index].credential, CredentialRule::Tunnel);
        let found = self.for_host(target).take_while(|index| host(*index) == host(first)).find(tunnels);
        Decision::Route(found.unwrap_or(first))
    }

    /// The route that a refused request probably meant, for the error message: a route for its
    /// host, or else for the most similar host.
    pub fn nearest(&self, host: &str) -> Option<&Route> {
        let for_host = self.routes.iter().find(|route| route.matcher.host.matches(host));
        let nearest = || {
            let scored =
                self.routes.iter().map(|route| (strsim::jaro_winkler(&route.matcher.host.to_string(), host), route));
            let best = scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
            best.map(|(_, route)| route)
        };
        for_host.or_else(nearest).map(|route| &**route)
    }

    fn no_route(&self) -> Decision {
        match self.unmatched {
            Unmatched::Refuse => Decision::Refuse,
            Unmatched::Pass => Decision::Pass,
        }
    }

    fn for_host<'p>(&'p self, target: Target<'p>) -> impl Iterator<Item = usize> + 'p {
        let exact = self.by_host.get(target.host).map_or(&[][..], Vec::as_slice).iter();
        let suffix = self.by_suffix.iter().filter(move |index| self.routes[**index].matcher.host.matches(target.host));
        let ports =
            move |index: &usize| self.routes[*index].matcher.port_matches(target.port, target.scheme.default_port());
        exact.chain(suffix).copied().filter(ports)
    }
}

/// Finds the first conflicts, at most 100. Routes of equal rank that could match the same request
/// have the same host, so only those are compared.
fn conflicts(routes: &[Route]) -> Vec<Conflict> {
    const MAX_CONFLICTS: usize = 100;
    let mut groups: HashMap<(bool, Rank, &HostPattern), Vec<usize>> = HashMap::new();
    let mut found = Vec::new();
    for (second, route) in routes.iter().enumerate() {
        let tunnels = matches!(route.credential, CredentialRule::Tunnel);
        let group = groups.entry((tunnels, route.matcher.rank(), &route.matcher.host)).or_default();
        let overlapping = group.iter().filter(|first| routes[**first].matcher.overlaps(&route.matcher));
        found.extend(overlapping.take(MAX_CONFLICTS - found.len()).map(|first| Conflict { first: *first, second }));
        group.push(second);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{Match, PathPattern};
    use super::*;

    fn route(name: &str, host: &str, path: &str, methods: &[Method]) -> Route {
        let matcher = Match {
            path: PathPattern::parse(path).expect("path"),
            methods: methods.to_vec(),
            ..Match::host(HostPattern::parse(host).expect("host"))
        };
        Route::new(name, matcher, CredentialRule::None { keep_credentials: false }, None)
    }

    fn at<'r>(host: &'r str, port: u16) -> Target<'r> {
        Target { scheme: Scheme::Http, host, port }
    }

    fn decide(policy: &Policy, host: &str, path: &str, method: &Method) -> Option<String> {
        match policy.route(at(host, 80), path, method, &HeaderMap::new()) {
            Decision::Route(index) => Some(policy.routes()[index].name.to_string()),
            _ => None,
        }
    }

    #[test]
    fn most_specific_route_wins_in_any_order() {
        let mut routes = vec![
            route("suffix", "*.example.com", "/**", &[]),
            route("all", "api.example.com", "/**", &[]),
            route("v1", "api.example.com", "/v1/**", &[]),
            route("v1-post", "api.example.com", "/v1/**", &[Method::POST]),
            route("exact", "api.example.com", "/v1", &[]),
        ];
        for _ in 0..routes.len() {
            routes.rotate_left(1);
            let policy = Policy::new(routes.clone(), Unmatched::Refuse).map_err(|_| ()).expect("no conflict");
            for (host, path, method, name) in [
                ("api.example.com", "/x", Method::GET, "all"),
                ("api.example.com", "/v1/x", Method::GET, "v1"),
                ("api.example.com", "/v1/x", Method::POST, "v1-post"),
                ("api.example.com", "/%76%31/x", Method::GET, "v1"),
                ("api.example.com", "/v1", Method::GET, "exact"),
                ("b.example.com", "/v1", Method::GET, "suffix"),
            ] {
                assert_eq!(decide(&policy, host, path, &method).as_deref(), Some(name));
            }
            assert_eq!(decide(&policy, "example.com", "/", &Method::GET), None);
        }
    }

    #[test]
    fn tunnel_to_a_domain_does_not_bypass_the_route_of_a_host() {
        let tunnel = |name, host| Route { credential: CredentialRule::Tunnel, ..route(name, host, "/**", &[]) };
        let connect = |routes: &[Route], host| {
            let policy = Policy::new(routes.to_vec(), Unmatched::Refuse).map_err(|_| ()).expect("no conflict");
            match policy.connect(Target { scheme: Scheme::Https, host, port: 443 }) {
                Decision::Route(index) => Some(policy.routes()[index].name.to_string()),
                _ => None,
            }
        };
        let mut routes = vec![
            tunnel("domain", "*.example.com"),
            tunnel("eu", "*.eu.example.com"),
            route("eu-api", "*.api.eu.example.com", "/v1/**", &[]),
            route("api", "api.example.com", "/v1/**", &[Method::GET]),
            route("both-by-name", "both.example.com", "/**", &[]),
            tunnel("both", "both.example.com"),
        ];
        for _ in 0..routes.len() {
            routes.rotate_left(1);
            for (host, name) in [
                ("api.example.com", Some("api")),
                ("other.example.com", Some("domain")),
                ("x.eu.example.com", Some("eu")),
                ("x.api.eu.example.com", Some("eu-api")),
                ("both.example.com", Some("both")),
                ("example.org", None),
            ] {
                assert_eq!(connect(&routes, host).as_deref(), name, "{host}");
            }
        }
    }

    #[test]
    fn port_that_no_route_names_is_refused() {
        let mut with_port = route("admin", "api.example.com", "/**", &[]);
        with_port.matcher.port = Some(8443);
        let policy = Policy::new(vec![route("api", "api.example.com", "/**", &[]), with_port], Unmatched::Refuse);
        let policy = policy.map_err(|_| ()).expect("no conflict");
        let decide = |port| policy.route(at("api.example.com", port), "/", &Method::GET, &HeaderMap::new());
        assert_eq!(decide(80), Decision::Route(0));
        assert_eq!(decide(8443), Decision::Route(1));
        assert_eq!(decide(443), Decision::Refuse);
    }

    #[test]
    fn overlapping_routes_of_equal_rank_conflict() {
        let conflict = |a: Route, b: Route| Policy::new(vec![a, b], Unmatched::Refuse).err();
        let one = route("one", "a.example", "/x/*/y", &[]);
        assert_eq!(
            conflict(one.clone(), route("two", "a.example", "/x/**", &[])),
            Some(vec![Conflict { first: 0, second: 1 }])
        );
        assert_eq!(conflict(one.clone(), route("two", "a.example", "/x/*/z", &[])), None);
        let many = Policy::new(vec![one.clone(); 2000], Unmatched::Refuse).err().expect("conflicts");
        assert_eq!(many.len(), 100);
        assert_eq!(conflict(one, route("two", "b.example", "/x/**", &[])), None);
        let get = route("get", "a.example", "/x/**", &[Method::GET]);
        assert_eq!(conflict(get, route("post", "a.example", "/x/**", &[Method::POST])), None);
    }
}
