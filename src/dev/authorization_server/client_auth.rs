//! Client authentication (RFC 6749 §2.3, RFC 7521 §4.2, RFC 7523 §3, SPIFFE client authentication).
use super::IssuerState;
use super::refusal::{Outcome, Refusal};
use super::registry::{Authentication, Client, KeySource, Registry};
use super::request::TokenRequest;
use crate::clock::Timestamp;
use crate::dev::jwt;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::time::Duration;

const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The longest lifetime of a client assertion, which is meant for a single request (RFC 7523 §3).
const MAX_LIFETIME: Duration = Duration::from_secs(600);

/// Authenticates the client. Returns `None` if the request does not try to authenticate.
pub(super) async fn authenticate(
    server: &IssuerState,
    registry: &Registry,
    request: &TokenRequest,
) -> Outcome<Option<Client>> {
    let form = &request.form;
    let methods = [request.authorization.as_deref(), form.value("client_secret"), form.value("client_assertion")];
    if methods.iter().flatten().count() > 1 {
        return Err(Refusal::invalid_request("more than one client authentication (RFC 6749 §2.3)"));
    }
    let client = match methods {
        [Some(field), _, _] => authenticate_by_basic(registry, field)?,
        [_, Some(secret), _] => {
            let client = find_client(registry, form.value("client_id"))?;
            let Authentication::SecretPost(expected) = &client.authentication else {
                return Err(wrong_method(&client));
            };
            check_secret(expected, secret)?;
            client
        }
        [_, _, Some(assertion)] => authenticate_by_assertion(server, registry, request, assertion).await?,
        _ => match form.value("client_id") {
            None => return Ok(None),
            Some(id) => authenticate_by_id(server, registry, request, id)?,
        },
    };
    // A `client_id` must name the authenticated client (RFC 7521 §4.2).
    match form.value("client_id") {
        Some(id) if id != client.id => {
            let reason = format!("client_id {id} is not the authenticated client {}", client.id);
            Err(Refusal::invalid_client(reason))
        }
        _ => Ok(Some(client)),
    }
}

fn authenticate_by_basic(registry: &Registry, field: &str) -> Outcome<Client> {
    let malformed = || Refusal::invalid_client("malformed Basic credentials");
    let (scheme, credentials) = field.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Refusal::invalid_client(format!(
            "client authentication with the scheme {scheme} is not supported"
        )));
    }
    let text = STANDARD.decode(credentials.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(malformed)?;
    let (id, secret) = text.split_once(':').ok_or_else(malformed)?;
    // RFC 6749 §2.3.1: both are form-encoded first, so that a ':' in the id is not taken for the
    // separator.
    let client = find_client(registry, Some(&form_decoded(id)))?;
    let Authentication::SecretBasic(expected) = &client.authentication else { return Err(wrong_method(&client)) };
    check_secret(expected, &form_decoded(secret))?;
    Ok(client)
}

fn form_decoded(text: &str) -> String {
    let pair = format!("v={text}");
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn check_secret(expected: &str, presented: &str) -> Outcome<()> {
    if expected == presented { Ok(()) } else { Err(Refusal::invalid_client("wrong client secret")) }
}

/// Authenticates a client that sends only its `client_id` in the form: one with `spiffe_x509`, or a
/// public client.
fn authenticate_by_id(server: &IssuerState, registry: &Registry, request: &TokenRequest, id: &str) -> Outcome<Client> {
    let client = find_client(registry, Some(id))?;
    match client.authentication {
        Authentication::None => Ok(client),
        Authentication::SpiffeX509 => {
            let spiffe_id = certificate(server, registry, request)
                .map_err(|error| Refusal::invalid_client(format!("client certificate: {error:#}")))?;
            check_spiffe_id(client, &spiffe_id)
        }
        _ => Err(wrong_method(&client)),
    }
}

fn certificate(server: &IssuerState, registry: &Registry, request: &TokenRequest) -> anyhow::Result<String> {
    let leaf = request.certificates.first().ok_or_else(|| anyhow::anyhow!("none was presented"))?;
    let domain = registry.domain_of(&jwt::spiffe_id(leaf)?)?;
    jwt::verify_chain(&request.certificates, &domain.x509.bundle(), server.clock.now())
}

async fn authenticate_by_assertion(
    server: &IssuerState,
    registry: &Registry,
    request: &TokenRequest,
    assertion: &str,
) -> Outcome<Client> {
    let refuse = |error: anyhow::Error| Refusal::invalid_client(format!("client assertion: {error:#}"));
    let token = jwt::decode(assertion).map_err(refuse)?;
    let subject = token.claims["sub"].as_str().unwrap_or("");
    let id = request.form.value("client_id").unwrap_or(subject);
    let client = find_client(registry, Some(id))?;
    match (request.form.value("client_assertion_type"), &client.authentication) {
        (Some(JWT_SPIFFE), Authentication::SpiffeJwt) | (Some(JWT_BEARER), Authentication::JwtSvidBearer) => {
            server.verify_jwt_svid(registry, assertion).map_err(refuse)?;
            check_audience(server, registry, &token.claims)?;
            check_spiffe_id(client, subject)
        }
        (Some(JWT_BEARER), Authentication::PrivateKeyJwt(keys)) => {
            private_key_jwt(server, assertion, keys).await.map_err(refuse)?;
            let is_client = |name: &str| token.claims[name] == client.id.as_str();
            if !is_client("iss") || !is_client("sub") {
                return Err(Refusal::invalid_client("iss and sub must both be the client_id (RFC 7523 §3)"));
            }
            check_audience(server, registry, &token.claims)?;
            Ok(client)
        }
        (Some(JWT_SPIFFE | JWT_BEARER), _) => Err(wrong_method(&client)),
        (kind, _) => Err(Refusal::invalid_client(format!("unsupported client_assertion_type {kind:?}"))),
    }
}

async fn private_key_jwt(server: &IssuerState, assertion: &str, keys: &KeySource) -> anyhow::Result<()> {
    let token = jwt::verify_with_jwks(assertion, &keys.jwks().await?, "sig")?;
    let now = server.clock.now();
    jwt::check_times(&token.claims, now)?;
    let typ = token.header["typ"].as_str().unwrap_or("JWT");
    let is_client_assertion = jwt::has_typ(&token, "client-authentication+jwt") || typ.eq_ignore_ascii_case("jwt");
    anyhow::ensure!(is_client_assertion, "typ {typ} is not that of a client assertion");
    let exp = Timestamp::from_unix_seconds(token.claims["exp"].as_u64().unwrap_or(0));
    anyhow::ensure!(exp <= now.plus(MAX_LIFETIME), "exp is too far in the future");
    let jti = token.claims["jti"].as_str().ok_or_else(|| anyhow::anyhow!("jti is missing"))?;
    let first = server.first_use(&format!("client {} {jti}", token.claims["iss"]), exp);
    anyhow::ensure!(first, "jti {jti} was used before");
    Ok(())
}

/// Checks that the issuer identifier is the only audience (draft-ietf-oauth-rfc7523bis, SPIFFE
/// client authentication).
fn check_audience(server: &IssuerState, registry: &Registry, claims: &Value) -> Outcome<()> {
    let endpoint = server.token_endpoint();
    let expected = if registry.policy.client_assertion_for_endpoint { endpoint.as_str() } else { &server.issuer };
    match jwt::audiences(claims)[..] {
        [only] if only == expected => Ok(()),
        ref other => Err(Refusal::invalid_client(format!("aud is {other:?}, not {expected:?} alone"))),
    }
}

fn check_spiffe_id(client: Client, spiffe_id: &str) -> Outcome<Client> {
    if client.is_agent(spiffe_id) {
        return Ok(client);
    }
    Err(Refusal::invalid_client(format!("{spiffe_id} is not registered for the client {}", client.id)))
}

fn find_client(registry: &Registry, id: Option<&str>) -> Outcome<Client> {
    let id = id.ok_or_else(|| Refusal::invalid_client("client_id is missing"))?;
    registry.client(id).cloned().ok_or_else(|| Refusal::invalid_client(format!("the client {id} is not registered")))
}

fn wrong_method(client: &Client) -> Refusal {
    Refusal::invalid_client(format!("the client {} is registered for another method", client.id))
}
