//! Routes: their credentials, and whether two of them could match the same request.
use super::Builder;
use super::identity::needs_identity;
use super::process::bytes;
use super::tokens::Tokens;
use crate::config::file::{
    AmbiguousPathsFile, File, LegacySecretFile, RetriesFile, RetryConditionFile, RouteFile, TimeoutsFile, TokenOfRoute,
    UnmatchedFile,
};
use crate::config::problem::KeyPath;
use crate::host::without_brackets;
use crate::policy::{
    AmbiguousPaths, CredentialRule, HostPattern, Match, Placement, Policy, Retries, RetryConditions, Route,
    RouteLimits, Timeouts, Unmatched, Upstream,
};

/// The largest body that is kept for a replay: 1 MiB, because every request in flight may have its
/// body kept.
const MAX_REPLAY: u64 = 1 << 20;

/// The result of building the routes.
pub(super) struct Routes {
    /// Absent if the policy could not be built; the reason is in the report.
    pub(super) policy: Option<Policy>,
    /// The name of the first route that needs the workload's identity.
    pub(super) needing_identity: Option<String>,
}

impl Builder<'_> {
    pub(super) fn routes(&mut self, file: &File, tokens: &mut Tokens<'_>) -> Routes {
        tokens.build_named(file, self);
        let root = KeyPath::default().key("routes");
        let mut routes = Vec::with_capacity(file.routes.len());
        let mut complete = true;
        for route in &file.routes {
            let path = root.index(route.index);
            let credential = self.credential(&path, &route.item, tokens);
            let assumed = credential.clone().unwrap_or(CredentialRule::None { keep_credentials: false });
            let upstream = self.upstream(&path, &route.item, &assumed);
            self.check_route(&path, &route.item);
            self.check_timeouts(&path.key("timeouts"), &route.item.timeouts);
            complete &= credential.is_some() && upstream.is_some();
            // A route that could not be built still takes part in the search for conflicts.
            let upstream = upstream.unwrap_or_default();
            routes.push(runtime_route(&route.item, assumed, upstream));
        }
        let paths: Vec<KeyPath> = file.routes.iter().map(|route| root.index(route.index)).collect();
        self.check_names(&paths, &routes);
        self.check_aliases(&paths, &routes);
        self.check_kept_credentials(&paths, &routes);
        self.warn_of_unmatched(file);
        let unmatched = match file.unmatched {
            UnmatchedFile::Refuse => Unmatched::Refuse,
            UnmatchedFile::Pass => Unmatched::Pass,
        };
        let needing_identity = routes.iter().find(|route| needs_identity(route)).map(|route| route.name.to_string());
        let policy = match Policy::new(routes, unmatched) {
            Ok(policy) => {
                self.warn_of_ambiguous_paths(&paths, &policy);
                self.warn_of_removed_headers(&paths, &policy);
                complete.then_some(policy)
            }
            Err(conflicts) => {
                for conflict in conflicts {
                    let line = self.line(&paths[conflict.first].key("match"));
                    let message = format!(
                        "a request could match both this route and the one on line {line}, and neither is more specific"
                    );
                    self.error(&paths[conflict.second].key("match"), message).help(
                        "make them differ in path, methods, port or headers; their order in the file does not matter",
                    );
                }
                None
            }
        };
        Routes { policy, needing_identity }
    }

    /// Builds the credential from exactly one of `token`, `legacy_secret` and `tunnel`. Returns
    /// `None` after it has reported what is wrong.
    fn credential(&mut self, path: &KeyPath, route: &RouteFile, tokens: &mut Tokens<'_>) -> Option<CredentialRule> {
        let given = [
            ("token", route.token.is_some()),
            ("legacy_secret", route.legacy_secret.is_some()),
            ("tunnel", route.tunnel),
        ];
        let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
        match given.as_slice() {
            [_] => {}
            [] => {
                self.error(path, "this route does not say which credential its requests carry")
                    .help("write `token:` with a name, a mapping or `none`, or `legacy_secret:`, or `tunnel: true`");
                return None;
            }
            [first, second, ..] => {
                self.error(
                    &path.key(second),
                    format!("a route has one credential, and this one already has `{first}`"),
                );
                return None;
            }
        }
        self.check_credential_keys(path, route);
        match (&route.token, &route.legacy_secret) {
            (Some(TokenOfRoute::None), _) => {
                if route.keep_credentials {
                    self.warn(&path.key("keep_credentials"), "any credential that the agent sends goes to this host");
                }
                Some(CredentialRule::None { keep_credentials: route.keep_credentials })
            }
            (Some(token), _) => tokens.of_route(path, token, route.scopes.as_deref(), self).map(CredentialRule::Token),
            (None, Some(secret)) => self.legacy_secret(&path.key("legacy_secret"), secret),
            (None, None) => Some(CredentialRule::Tunnel),
        }
    }

    /// Checks the keys that are only valid with one kind of credential.
    fn check_credential_keys(&mut self, path: &KeyPath, route: &RouteFile) {
        let without_token = matches!(route.token, None | Some(TokenOfRoute::None));
        if route.keep_credentials && !matches!(route.token, Some(TokenOfRoute::None)) {
            self.error(
                &path.key("keep_credentials"),
                "only a route with `token: none` may forward the agent's own credentials",
            );
        }
        if route.scopes.is_some() && without_token {
            self.error(&path.key("scopes"), "scopes belong to a token, and this route has none");
        }
        if route.replay.is_some() && without_token && route.retries.is_none() {
            self.error(
                &path.key("replay"),
                "a replay sends the request with a new token, and this route has none; nor has it `retries`",
            );
        }
        if !route.tunnel {
            return;
        }
        let conditions = ["path", "methods", "headers"].map(|key| path.key("match").key(key));
        let others = ["ambiguous_paths", "upstream", "alias", "retries"].map(|key| path.key(key));
        let body = path.key("limits").key("request_body");
        for path in conditions
            .into_iter()
            .chain(others)
            .chain([body])
            .filter(|path| self.tree.find(path).is_some())
            .collect::<Vec<_>>()
        {
            self.error(&path, "a tunnel is opaque: only the host and port of its CONNECT are visible")
                .help("remove this key");
        }
    }

    fn legacy_secret(&mut self, path: &KeyPath, file: &LegacySecretFile) -> Option<CredentialRule> {
        self.warn(
            path,
            "a static key is an anti-pattern: it is never renewed, and anyone who reads it can use it from anywhere",
        )
        .help("use a token as soon as the service accepts one");
        let prefix = file.prefix.as_ref().map_or("", |prefix| &prefix.0);
        let placement = match Placement::of_static_key(file.header.clone(), prefix) {
            Ok(placement) => Some(placement),
            Err(error) => {
                self.error(&path.key("header"), error.to_string());
                None
            }
        };
        let secret = self.secret(&path.key("file"), &file.file)?;
        let placement = placement?;
        let Some(value) = placement.value(secret.expose()) else {
            self.error(
                &path.key("file"),
                "its content cannot be sent in a header: it contains a line break or another control character",
            );
            return None;
        };
        Some(CredentialRule::LegacySecret { placement, value })
    }

    fn check_route(&mut self, path: &KeyPath, route: &RouteFile) {
        if route.replay.as_ref().is_some_and(|replay| replay.max_body.0 > MAX_REPLAY) {
            self.error(&path.key("replay").key("max_body"), "a body that is kept for a replay may have at most 1MiB")
                .help("bodies are kept in memory, one for each of up to `limits.requests` requests");
        }
        let port = route.r#match.port.map(|port| port.0);
        let is_own_host = matches!(&route.r#match.host, HostPattern::Exact(host) if is_loopback(host));
        if is_own_host && port.is_some_and(|port| self.outbound_ports.contains(&port)) {
            self.warn(
                &path.key("match"),
                "no request can reach this route: at this address the first path segment names the host",
            );
        }
    }

    /// Compares the timeouts that contain each other. A default is not compared: it simply never
    /// elapses where a shorter time is written.
    fn check_timeouts(&mut self, path: &KeyPath, timeouts: &TimeoutsFile) {
        let (connect, response) = (Some(timeouts.connect), Some(timeouts.response));
        let nested = [
            (("connect", connect), ("attempt", timeouts.attempt)),
            (("connect", connect), ("total", timeouts.total)),
            (("attempt", timeouts.attempt), ("total", timeouts.total)),
        ];
        for ((inner, shorter), (outer, longer)) in nested {
            if self.is_written(&path.key(inner)) && longer.is_some_and(|longer| shorter > Some(longer)) {
                self.error(&path.key(outer), format!("it is shorter than `{inner}`, which is a part of it"));
            }
        }
        for (outer, longer) in [("attempt", timeouts.attempt), ("total", timeouts.total)] {
            if self.is_written(&path.key("response")) && longer.is_some_and(|longer| response > Some(longer)) {
                self.warn(&path.key(outer), "it is shorter than `response`, which therefore never elapses");
            }
        }
    }

    fn warn_of_unmatched(&mut self, file: &File) {
        let root = KeyPath::default();
        if matches!(file.unmatched, UnmatchedFile::Pass) {
            self.warn(&root.key("unmatched"), "requests that match no route may go to any host that the agent chooses")
                .help("list the hosts as routes with `token: none`");
        } else if file.routes.is_empty() && self.report.was_decoded(&root.key("routes")) {
            self.warn(&root.key("routes"), "there are no routes: every request is refused");
        }
    }
}

fn runtime_route(file: &RouteFile, credential: CredentialRule, upstream: Upstream) -> Route {
    let host = &file.r#match.host;
    let headers = file.r#match.headers.0.iter().map(|(name, value)| (name.clone(), value.clone()));
    Route {
        name: file.name.as_ref().map_or_else(|| host.to_string(), |name| name.0.clone()).into(),
        matcher: Match {
            host: host.clone(),
            port: file.r#match.port.map(|port| port.0),
            path: file.r#match.path.clone(),
            methods: file.r#match.methods.clone(),
            headers: headers.collect(),
        },
        alias: file.alias.as_ref().map(|alias| alias.0.as_str().into()),
        credential,
        ambiguous_paths: file.ambiguous_paths.as_ref().map(|paths| match paths {
            AmbiguousPathsFile::Refuse => AmbiguousPaths::Refuse,
            AmbiguousPathsFile::AsSent => AmbiguousPaths::AsSent,
        }),
        upstream,
        timeouts: Timeouts {
            connect: file.timeouts.connect,
            attempt: file.timeouts.attempt,
            response: file.timeouts.response,
            total: file.timeouts.total,
            idle: file.timeouts.idle,
        },
        limits: RouteLimits {
            request_body: file.limits.request_body.map(|size| size.0),
            requests: file.limits.requests.map(|count| count.0),
            rate: file.limits.rate,
        },
        replay_max_body: file.replay.as_ref().map(|replay| bytes(replay.max_body)),
        retries: file.retries.as_ref().map(runtime_retries).unwrap_or_default(),
    }
}

fn runtime_retries(file: &RetriesFile) -> Retries {
    let RetriesFile { attempts, on, budget } = file;
    let has = |condition| on.contains(&condition);
    let status = |condition: &RetryConditionFile| match condition {
        RetryConditionFile::Status(status) => Some(*status),
        _ => None,
    };
    let on = RetryConditions {
        connect: has(RetryConditionFile::Connect) && attempts.0 > 0,
        unprocessed: has(RetryConditionFile::Unprocessed),
        reset: has(RetryConditionFile::Reset),
        statuses: on.iter().filter_map(status).collect(),
    };
    Retries { attempts: attempts.0, on, budget: budget.0 }
}

fn is_loopback(host: &str) -> bool {
    let address = without_brackets(host).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
