//! Checks of the routes as a whole: their names, their aliases, and what they remove from requests.
use super::Builder;
use crate::config::problem::KeyPath;
use crate::policy::{
    AgentCredentials, AmbiguousPaths, CredentialRule, Division, HostPattern, Policy, ReservedHeaders, Route,
    StripRules, TokenSource,
};
use http::header::{AUTHORIZATION, TE, UPGRADE};
use http::{HeaderName, HeaderValue};
use std::collections::{HashMap, HashSet};

impl Builder<'_> {
    pub(super) fn warn_of_removed_headers(&mut self, paths: &[KeyPath], policy: &Policy) {
        let reserved = ReservedHeaders::new(policy.routes().iter().map(|route| &**route));
        for (index, route) in policy.routes().iter().enumerate() {
            let reserved = reserved.of(&route.credential);
            let rules = StripRules {
                agent_credentials: AgentCredentials::of(&route.credential),
                strips_overrides: policy.division(index) != Division::default(),
                reserved: &reserved,
            };
            let is_removed = |(name, value): &&(HeaderName, HeaderValue)| {
                // These two are negotiated anew with the upstream.
                let is_negotiated = *name == UPGRADE || (*name == TE && value == "trailers");
                rules.removes(name) && !is_negotiated
            };
            for (name, _) in route.matcher.headers.iter().filter(is_removed) {
                self.warn(
                    &paths[index].key("match").key("headers"),
                    format!("`{name}` only selects the route; it is removed from the request that leaves"),
                );
            }
        }
    }

    pub(super) fn warn_of_ambiguous_paths(&mut self, paths: &[KeyPath], policy: &Policy) {
        let as_sent = |route: &Route| route.ambiguous_paths == Some(AmbiguousPaths::AsSent);
        for (index, route) in policy.routes().iter().enumerate().filter(|(_, route)| as_sent(route)) {
            let path = paths[index].key("ambiguous_paths");
            if route.speaks_for_workload() && policy.division(index).by_path {
                self.warn(&path, "the upstream may take a path such as `/a/..%2Fb` for a path of another route");
            } else {
                self.warn(&path, "this changes nothing: without it, such paths are forwarded here all the same")
                    .help("remove this key");
            }
        }
    }

    pub(super) fn check_names(&mut self, paths: &[KeyPath], routes: &[Route]) {
        let mut seen: HashMap<&str, &KeyPath> = HashMap::new();
        for (path, route) in paths.iter().zip(routes) {
            if &*route.name == "none" {
                self.error(&path.key("name"), "`none` is the name for requests that match no route")
                    .help("choose another name");
            }
            let Some(first) = seen.insert(&route.name, path) else { continue };
            let (line, is_named) = (self.line(first), self.is_written(&path.key("name")));
            let problem =
                self.error(&path.key("name"), format!("the route on line {line} is also called `{}`", route.name));
            problem.help(if is_named {
                "names must be unique, because they are labels in metrics"
            } else {
                "a route without `name` is named after its host: give one of them a `name`"
            });
        }
    }

    /// Checks that an alias stands for one host; all routes of that host share it.
    pub(super) fn check_aliases(&mut self, paths: &[KeyPath], routes: &[Route]) {
        let mut hosts: HashMap<&str, (&HostPattern, usize)> = HashMap::new();
        let exact = routes.iter().filter_map(|route| match &route.matcher.host {
            HostPattern::Exact(host) => Some(&**host),
            HostPattern::Suffix(_) => None,
        });
        let exact: HashSet<&str> = exact.collect();
        for (path, route) in paths.iter().zip(routes) {
            let Some(alias) = &route.alias else { continue };
            let (host, path) = (&route.matcher.host, path.key("alias"));
            if matches!(host, HostPattern::Suffix(_)) {
                self.error(&path, "an alias stands for one host, and this route matches many");
            }
            if alias.contains('.') || exact.contains(&**alias) {
                self.error(&path, "an alias must not look like a host: both appear in the same place of a base URL")
                    .help("write one word without dots");
            }
            match hosts.get(&**alias) {
                Some((other, line)) if *other != host => {
                    self.error(&path, format!("line {line} uses this alias for {other}"))
                        .help("an alias stands for one host");
                }
                Some(_) => {}
                None => {
                    hosts.insert(alias, (host, self.line(&path)));
                }
            }
        }
    }

    /// Refuses to keep the agent's credentials where that would forward a user's token. The header
    /// of users' tokens is removed on every route, so that none reaches an upstream.
    pub(super) fn check_kept_credentials(&mut self, paths: &[KeyPath], routes: &[Route]) {
        let users = |route: &&Route| matches!(&route.credential, CredentialRule::Token(rule) if matches!(&rule.source, TokenSource::Header(name) if name == AUTHORIZATION));
        let Some(users) = routes.iter().find(users) else { return };
        for (path, route) in paths.iter().zip(routes) {
            if matches!(route.credential, CredentialRule::None { keep_credentials: true }) {
                let message = format!(
                    "`authorization` is not forwarded here: on route `{}` it carries a user's token, which must not reach an upstream",
                    users.name
                );
                self.error(&path.key("keep_credentials"), message)
                    .help("use a separate header for users' tokens: subject: { header: { name: x-user-token, … } }");
            }
        }
    }
}
