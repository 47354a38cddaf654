//! Describes routes in words. A new property of a route is described here, and nowhere else.
use super::decision::Policy;
use super::division::PathRule;
use super::matcher::HostPattern;
use super::placement::Placement;
use super::retries::{Retries, RetryConditions};
use super::route::{
    AmbiguousPaths, CredentialRule, HostRule, Origin, Route, RouteLimits, Scheme, TokenRule, TokenSource,
    UpstreamProtocol,
};
use crate::exchange::{Grant, Subject};
use crate::issuer::AuthorizationServer;
use crate::jose::TokenKind;
use crate::tls::{ClientCertificate, ServerTrust};

/// A route in words, for every command that shows it.
pub struct RouteDescription {
    /// Which requests go where, with whose authority: one sentence or a few, which begin new lines
    /// with an indentation of two spaces.
    pub sentences: String,
    /// The credential in a few words, such as "token of `corp` for the agent itself".
    pub credential: String,
    /// Options that are dangerous.
    pub warnings: Vec<String>,
}

impl Route {
    /// Describes the route. The description contains no secret.
    pub fn description(&self) -> RouteDescription {
        let requests = || format!("Requests that match `{}` go {}", self.matcher, destination(self));
        let (sentences, credential, warning) = match &self.credential {
            CredentialRule::Token(rule) => (format!("{}, {}", requests(), authority(rule)), token(rule), None),
            CredentialRule::LegacySecret { placement, .. } => {
                let key = format!("static key in `{}`", placement.header());
                let sentence = format!("{}, with a {key}: an anti-pattern.", requests());
                (sentence, key, Some("a static key is an anti-pattern"))
            }
            CredentialRule::Tunnel => {
                let port = self.matcher.port.map(|port| format!(":{port}")).unwrap_or_default();
                let host = &self.matcher.host;
                let how = "opaque TLS through CONNECT, without a credential";
                (format!("Connections to {host}{port} pass unchanged: {how}."), "opaque TLS".to_owned(), None)
            }
            CredentialRule::None { keep_credentials: true } => {
                let sentence = format!("{}, with the agent's own credentials.", requests());
                (sentence, "none".to_owned(), Some("the agent's own credentials pass"))
            }
            CredentialRule::None { keep_credentials: false } => {
                (format!("{}, without a credential.", requests()), "none".to_owned(), None)
            }
        };
        let sentences = format!("{sentences}{}", limits(&self.limits));
        let ambiguous = (self.ambiguous_paths == Some(AmbiguousPaths::AsSent))
            .then_some("paths that can be read in two ways pass as they are sent");
        let warnings = warning.into_iter().chain(ambiguous).map(str::to_owned).collect();
        let sentences = match describe_retries(&self.retries) {
            Some(retries) => format!("{sentences}\n  {retries}"),
            None => sentences,
        };
        RouteDescription { sentences, credential, warnings }
    }
}

/// Describes how many requests a route allows, in a sentence of its own.
fn limits(limits: &RouteLimits) -> String {
    let at_once = limits.requests.map(|requests| format!("{requests} at one time"));
    let rate = limits.rate.map(|rate| rate.to_string());
    let limits: Vec<String> = at_once.into_iter().chain(rate).collect();
    if limits.is_empty() { String::new() } else { format!(" At most {} are allowed.", enumeration(&limits)) }
}

impl Policy {
    /// Says what the route at this index does with paths that can be read in two ways; `None` if
    /// its requests do not speak for the workload, and the route has no rule of its own.
    pub fn describe_paths(&self, index: usize) -> Option<String> {
        let route = &self.routes()[index];
        if !route.speaks_for_workload() && route.ambiguous_paths.is_none() {
            return None;
        }
        let has_one_host = matches!(route.matcher.host, HostPattern::Exact(_));
        let treatment = match self.path_rule(index) {
            PathRule::Refused => "is refused",
            PathRule::RefusedWhereDivided if has_one_host => "is refused: routes divide the host by path",
            PathRule::RefusedWhereDivided => "is refused for the hosts that routes divide by path",
            PathRule::AsSent if self.division(index).by_path && has_one_host => {
                "passes as it is sent, although routes divide the host by path"
            }
            PathRule::AsSent if self.division(index).by_path => {
                "passes as it is sent, also for the hosts that routes divide by path"
            }
            PathRule::AsSent if has_one_host => "passes as it is sent: no route divides the host by path",
            PathRule::AsSent => "passes as it is sent: no route divides any of the hosts by path",
        };
        Some(format!("A path that can be read in two ways, such as `/a%2Fb`, {treatment}."))
    }
}

/// Says when requests are sent again; `None` for the defaults.
fn describe_retries(retries: &Retries) -> Option<String> {
    if *retries == Retries::default() {
        return None;
    }
    let Retries { attempts, on, budget } = retries;
    let RetryConditions { connect, unprocessed, reset, statuses } = on;
    let statuses = statuses.iter().map(|status| status.as_str());
    let named = [("connect", *connect), ("unprocessed", *unprocessed), ("reset", *reset)];
    let named = named.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name);
    let conditions: Vec<_> = named.chain(statuses).collect();
    Some(match (attempts, conditions.as_slice()) {
        (0, _) | (_, []) => "Requests are not sent again after a failure.".to_owned(),
        (1, _) => format!("Requests are sent again once after {}, up to {budget} % of them.", conditions.join(", ")),
        _ => format!(
            "Requests are sent again up to {attempts} times after {}, up to {budget} % of them.",
            conditions.join(", ")
        ),
    })
}

/// Describes a token in a few words.
fn token(rule: &TokenRule) -> String {
    let subject = match &rule.source {
        TokenSource::Own => "the agent itself".to_owned(),
        TokenSource::Header(name) => format!("the user in `{name}`"),
        TokenSource::File(path) => format!("the user in {}", path.display()),
    };
    let server = &rule.grant.server().name;
    let placed =
        if rule.placement == Placement::default() { String::new() } else { format!(", sent as `{}`", rule.placement) };
    format!("token of `{server}` for {subject}{placed}")
}

/// Describes the destination, such as `to https://reports.svc:8443 over mutual TLS (it must be
/// spiffe://example.org/reports)`.
fn destination(route: &Route) -> String {
    let upstream = &route.upstream;
    let to = match &upstream.origin {
        Some(origin) => format!("to {}", url(origin)),
        None => match &route.matcher.host {
            HostPattern::Exact(_) => "there over https".to_owned(),
            HostPattern::Suffix(_) => "to the requested host over https".to_owned(),
        },
    };
    let to = match upstream.protocol {
        Some(UpstreamProtocol::Http1) => format!("{to} with HTTP/1.1"),
        Some(UpstreamProtocol::Http2) => format!("{to} with HTTP/2"),
        None => to,
    };
    let to = match upstream.host {
        HostRule::Preserve => format!("{to} under the host that the agent named"),
        HostRule::Upstream => to,
    };
    let to = upstream.server_name.iter().fold(to, |to, name| format!("{to}, verified as {name}"));
    let Some(tls) = &upstream.tls else { return to };
    match (&tls.trust, tls.client_certificate) {
        (ServerTrust::Spiffe(peers), ClientCertificate::Svid) => format!("{to} over mutual TLS (it must be {peers})"),
        (ServerTrust::Spiffe(peers), ClientCertificate::None) => format!("{to} (it must be {peers})"),
        (ServerTrust::WebPki(_), ClientCertificate::Svid) => format!("{to} over mutual TLS"),
        (ServerTrust::WebPki(_), ClientCertificate::None) => to,
    }
}

fn url(origin: &Origin) -> String {
    let scheme = if origin.scheme == Scheme::Http { "http" } else { "https" };
    format!("{scheme}://{}", origin.authority())
}

/// Describes the authority, such as "in the name of the user whose ID token of `corp` is in the
/// header `x-user-token`, with the scope `calendar:read`. …".
fn authority(rule: &TokenRule) -> String {
    let grant = &rule.grant;
    let name = match (&grant.subject, &rule.source) {
        (Subject::Own, _) => "in the agent's own name".to_owned(),
        (Subject::User(user), source) => {
            let kind = match user.kind {
                TokenKind::IdToken => "ID token",
                TokenKind::AccessToken => "access token",
                TokenKind::Jwt => "JWT",
            };
            let place = match source {
                TokenSource::Header(header) => format!("the header `{header}`"),
                TokenSource::File(file) => file.display().to_string(),
                TokenSource::Own => "nowhere".to_owned(),
            };
            let actor = if grant.actor.is_some() { ", with the agent as the actor" } else { "" };
            format!("in the name of the user whose {kind} of `{}` is in {place}{actor}", user.server.name)
        }
    };
    let eager = if rule.eager { " Readiness waits for it." } else { "" };
    let placed = if rule.placement == Placement::default() {
        String::new()
    } else {
        format!(" Requests carry it as `{}`.", rule.placement)
    };
    format!("{name}, {}.\n  {}{placed}{eager}", scopes(grant), obtained(grant))
}

fn scopes(grant: &Grant) -> String {
    let scopes: Vec<String> = grant.scopes.iter().map(|scope| format!("`{scope}`")).collect();
    match scopes.as_slice() {
        [] => "with the scopes that the server grants by default".to_owned(),
        [only] => format!("with the scope {only}"),
        several => format!("with the scopes {}", enumeration(several)),
    }
}

fn obtained(grant: &Grant) -> String {
    let asked = |server: &AuthorizationServer| {
        format!("`{}` ({}, {})", server.name, server.issuer, server.client_auth.method())
    };
    let facts = grant.flow.facts();
    let idp = facts.idp.map(|idp| format!(" that {} issues", asked(idp))).unwrap_or_default();
    format!("The token comes from {}, {}{idp}.", asked(facts.server), grant.how())
}

/// Joins words as in "a, b and c".
pub fn enumeration(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
