//! Access control by client certificate and access token (RFC 6750, RFC 9068).
use super::{ApiState, ReceivedRequest};
use crate::dev::authorization_server::KeySource;
use crate::dev::http::{Body, full};
use crate::dev::jwt;
use crate::sync::lock;
use anyhow::{Context, ensure};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;

/// Which access tokens are accepted.
#[derive(Clone, Debug)]
pub struct TokenRule {
    /// The authorization server's issuer identifier.
    pub issuer: String,
    /// The keys of the authorization server.
    pub keys: KeySource,
    /// The value that `aud` must contain.
    pub audience: String,
    /// The scopes that paths require. The first rule that matches applies, and a path without a
    /// rule requires none.
    pub scopes: Vec<ScopeRule>,
}

/// The scope that a part of the API requires.
#[derive(Clone, Debug)]
pub struct ScopeRule {
    /// The methods; empty for any.
    pub methods: Vec<&'static str>,
    /// The prefix of the paths.
    pub path: String,
    /// The required scope.
    pub scope: String,
}

impl ApiState {
    /// Admits the request, or returns a refusal.
    pub(super) async fn admit(&self, received: &mut ReceivedRequest) -> Result<(), Response<Body>> {
        let clients = lock(&self.clients).clone();
        if let Some(clients) = clients
            && !received.client.as_ref().is_some_and(|id| clients.contains(id))
        {
            return Err(answer(
                StatusCode::FORBIDDEN,
                None,
                "a client certificate with an accepted SPIFFE ID is required",
            ));
        }
        let rule = lock(&self.tokens).clone();
        let Some(rule) = rule else { return Ok(()) };
        let Some(token) = bearer(received) else {
            return Err(answer(StatusCode::UNAUTHORIZED, Some("Bearer realm=\"dev\""), "an access token is required"));
        };
        let claims = self.verify(&rule, &token).await.map_err(|error| {
            let challenge = "Bearer realm=\"dev\", error=\"invalid_token\"";
            answer(StatusCode::UNAUTHORIZED, Some(challenge), &format!("{error:#}"))
        })?;
        received.claims = Some(claims.clone());
        let needed = rule.scopes.iter().find(|rule| rule.matches(received)).map(|rule| rule.scope.as_str());
        let granted = claims["scope"].as_str().unwrap_or("");
        match needed {
            Some(scope) if !granted.split(' ').any(|word| word == scope) => {
                let challenge = format!("Bearer realm=\"dev\", error=\"insufficient_scope\", scope=\"{scope}\"");
                Err(answer(StatusCode::FORBIDDEN, Some(&challenge), &format!("the token lacks the scope {scope}")))
            }
            _ => Ok(()),
        }
    }

    async fn verify(&self, rule: &TokenRule, token: &str) -> anyhow::Result<Value> {
        let token = jwt::verify_with_jwks(token, &rule.keys.jwks().await?, "sig")?;
        ensure!(jwt::has_typ(&token, "at+jwt"), "typ is {}, not at+jwt", token.header["typ"]);
        let claims = token.claims;
        ensure!(claims["iss"] == rule.issuer.as_str(), "iss is {}, not {}", claims["iss"], rule.issuer);
        jwt::check_times(&claims, self.clock.now())?;
        let is_addressed_to_us = jwt::audiences(&claims).contains(&rule.audience.as_str());
        ensure!(is_addressed_to_us, "aud is {}, not {}", claims["aud"], rule.audience);
        claims["sub"].as_str().context("sub is missing")?;
        Ok(claims)
    }
}

impl ScopeRule {
    fn matches(&self, received: &ReceivedRequest) -> bool {
        let method = self.methods.is_empty() || self.methods.contains(&received.method.as_str());
        method && received.target.path().starts_with(&self.path)
    }
}

/// The token, if there is exactly one `Authorization` field and its scheme is Bearer.
fn bearer(received: &ReceivedRequest) -> Option<String> {
    let mut fields = received.headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next()?.to_str().ok()?;
    if fields.next().is_some() {
        return None;
    }
    let (scheme, token) = field.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.to_owned())
}

fn answer(status: StatusCode, challenge: Option<&str>, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    if let Some(value) = challenge.and_then(|challenge| HeaderValue::from_str(challenge).ok()) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}
