//! Describes a configuration in sentences: which requests go where, and with whose authority.
use super::runtime::Config;
use crate::exchange::{Flow, Grant, SelfIssuedGrant, Subject};
use crate::identity::IdentitySource;
use crate::issuer::AuthorizationServer;
use crate::jose::TokenKind;
use crate::policy::{
    CredentialRule, HostPattern, Origin, Placement, Route, Scheme, TokenRule, TokenSource, Unmatched, Upstream,
};
use crate::tls::{Present, ServerTrust};

/// Returns one paragraph about the process, one about each route, and one about everything else.
pub fn summary(config: &Config) -> String {
    let mut text = format!("The agent connects to {}.", addresses(config));
    text.push_str(&match config.identity.as_ref().filter(|_| config.needs_identity) {
        Some(IdentitySource::WorkloadApi(settings)) => {
            format!(" Its identity comes from the Workload API at {}.\n", settings.socket)
        }
        Some(IdentitySource::Files(settings)) => {
            format!(" Its identity comes from {}.\n", settings.certificate.display())
        }
        None => " No identity is needed.\n".to_owned(),
    });
    for route in config.policy.routes() {
        text.push_str(&format!("\n{}\n  {}\n", route.name, sentence(route)));
    }
    text.push_str(match config.policy.unmatched() {
        Unmatched::Refuse => "\nEverything else is refused.\n",
        Unmatched::Pass => "\nEverything else passes, without a credential from the proxy.\n",
    });
    text
}

fn addresses(config: &Config) -> String {
    let addresses: Vec<String> = config.listen.outbound.iter().map(|listen| listen.address.to_string()).collect();
    join(&addresses)
}

fn sentence(route: &Route) -> String {
    if matches!(route.credential, CredentialRule::Tunnel) {
        let port = route.matcher.port.map(|port| format!(":{port}")).unwrap_or_default();
        return format!(
            "Connections to {}{port} pass unchanged: opaque TLS through CONNECT, without a credential.",
            route.matcher.host
        );
    }
    let what = format!("Requests that match `{}` go", route.matcher);
    let place = place(&route.upstream, route);
    match &route.credential {
        CredentialRule::Token(rule) => format!("{what} {place}, {}", authority(rule)),
        CredentialRule::LegacySecret { placement, .. } => {
            format!("{what} {place}, with a static key in `{}`: an anti-pattern.", placement.header())
        }
        CredentialRule::Tunnel | CredentialRule::None { keep_credentials: false } => {
            format!("{what} {place}, without a credential.")
        }
        CredentialRule::None { keep_credentials: true } => format!("{what} {place}, with the agent's own credentials."),
    }
}

/// Describes the destination, such as `to https://reports.svc:8443 over mutual TLS (it must be
/// spiffe://example.org/reports)`.
fn place(upstream: &Upstream, route: &Route) -> String {
    let to = match &upstream.origin {
        Some(origin) => format!("to {}", url(origin)),
        None => match &route.matcher.host {
            HostPattern::Exact(_) => "there over https".to_owned(),
            HostPattern::Suffix(_) => "to the requested host over https".to_owned(),
        },
    };
    let Some(tls) = &upstream.tls else { return to };
    match (&tls.trust, tls.present) {
        (ServerTrust::Spiffe(peers), Present::Svid) => format!("{to} over mutual TLS (it must be {peers})"),
        (ServerTrust::Spiffe(peers), Present::Nothing) => format!("{to} (it must be {peers})"),
        (ServerTrust::WebPki(_), Present::Svid) => format!("{to} over mutual TLS"),
        (ServerTrust::WebPki(_), Present::Nothing) => to,
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
        several => format!("with the scopes {}", join(several)),
    }
}

fn obtained(grant: &Grant) -> String {
    let asked = |server: &AuthorizationServer| {
        format!("`{}` ({}, {})", server.name, server.issuer, server.client_auth.method())
    };
    match &grant.flow {
        Flow::ClientCredentials { server } => {
            format!("The token comes from {}, on the agent's own authority as a client.", asked(server))
        }
        Flow::SelfIssued { server, grant } => {
            let how = match grant {
                SelfIssuedGrant::TokenExchange => "in exchange for an assertion that the proxy signs",
                SelfIssuedGrant::JwtBearer => "for an assertion that the proxy signs as the grant",
            };
            format!("The token comes from {}, {how}.", asked(server))
        }
        Flow::IdJag { idp, server } => {
            format!("The token comes from {}, in return for an ID-JAG that {} issues.", asked(server), asked(idp))
        }
        Flow::TokenExchange { server } => {
            format!("The token comes from {}, by token exchange (RFC 8693).", asked(server))
        }
        Flow::JwtBearer { server } => format!(
            "The token comes from {}, with {} as the grant (RFC 7523).",
            asked(server),
            if grant.is_delegated() { "the user's token" } else { "the JWT-SVID" }
        ),
    }
}

/// Joins words as in "a, b and c".
fn join(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::ConfigDirectory;

    #[test]
    fn summary_describes_each_route_in_a_sentence() {
        let directory = ConfigDirectory::new();
        let loaded = directory.loaded(include_str!("../../config/examples/id-jag-user.yaml"));
        let expected = "The agent connects to 127.0.0.1:17080 and [::1]:17080. Its identity comes from the Workload API at unix:///run/spire/agent.sock.

calendar-read
  Requests that match `GET,HEAD api.calendar.example/v1/**` go there over https, in the name of the user whose ID token of `corp` is in the header `x-user-token`, with the agent as the actor, with the scope `calendar:read`.
  The token comes from `calendar` (https://as.calendar.example, private_key_jwt), in return for an ID-JAG that `corp` (https://idp.corp.example, spiffe_jwt) issues.

calendar-write
  Requests that match `POST,PUT,DELETE api.calendar.example/v1/**` go there over https, in the name of the user whose ID token of `corp` is in the header `x-user-token`, with the agent as the actor, with the scopes `calendar:read` and `calendar:write`.
  The token comes from `calendar` (https://as.calendar.example, private_key_jwt), in return for an ID-JAG that `corp` (https://idp.corp.example, spiffe_jwt) issues.

Everything else is refused.
";
        assert_eq!(super::summary(&loaded.config), expected);
    }

    #[test]
    fn summary_names_dangers_and_contains_no_secret() {
        let directory = ConfigDirectory::new();
        let summary = |example: &str| super::summary(&directory.loaded(example).config);
        let secret = summary(include_str!("../../config/examples/legacy-secret.yaml"));
        assert!(
            secret.contains("with a static key in `x-api-key`: an anti-pattern") && !secret.contains("canary"),
            "{secret}"
        );
        assert!(secret.contains("No identity is needed"));
        assert!(
            summary(include_str!("../../config/examples/no-credential.yaml"))
                .contains("with the agent's own credentials")
        );
        assert!(
            summary(include_str!("../../config/examples/spiffe-mtls.yaml"))
                .contains("to https://reports.svc:8443 over mutual TLS (it must be spiffe://example.org/reports)")
        );
        assert!(summary("unmatched: pass").contains("Everything else passes"));
    }
}
