//! Authorization server metadata: RFC 8414 and OpenID Connect Discovery 1.0.
use super::error::IssuerError;
use super::http_client::{Answer, HttpClient};
use super::settings::AuthorizationServer;
use crate::jose::object;
use http::StatusCode;
use serde_json::{Map, Value};
use url::Url;

/// The members of the metadata that the proxy uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) token_endpoint: Url,
    pub(super) mtls_token_endpoint: Option<Url>,
    pub(super) jwks_uri: Option<Url>,
}

/// Tries the well-known locations in order and takes the first document that is the issuer's own.
///
/// Some gateways return 5xx for paths that they do not serve, so one 5xx says nothing about the
/// remaining locations. A `Retry-After` does, and so does a missing response: all locations share
/// one host.
pub(super) async fn discover(http: &HttpClient) -> Result<(Metadata, Answer), IssuerError> {
    let issuer = issuer_url(&http.server().issuer)?;
    let (mut tried, mut any_busy) = (Vec::new(), false);
    for url in locations(&http.permitted(issuer)?) {
        let answer = http.get(&url).await?;
        match answer.busy(http.workload().now()) {
            Some(IssuerError::Busy { retry_after: None, .. }) if answer.status.is_server_error() => any_busy = true,
            Some(failure) => return Err(failure),
            None => {}
        }
        match read(&answer, http.server()) {
            Ok(metadata) => return Ok((metadata, answer)),
            Err(why) => tried.push(format!("{url}: {why}")),
        }
    }
    let tried = tried.join(", ");
    Err(if any_busy { IssuerError::Undiscovered(tried) } else { IssuerError::Metadata(tried) })
}

/// The issuer as a URL: with a host, without query and fragment (RFC 8414 §2), and without
/// credentials.
fn issuer_url(issuer: &str) -> Result<Url, IssuerError> {
    let url = Url::parse(issuer).ok().filter(|url| {
        url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    });
    url.ok_or_else(|| {
        IssuerError::Configuration(format!("the issuer {issuer:?} is not a URL from which metadata can be asked"))
    })
}

/// The locations of the metadata, in the order in which they are tried: RFC 8414 §3.1, then OpenID
/// Connect's document at RFC 8414's location (§5), then at its own.
fn locations(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    let mut found = vec![
        at(format!("/.well-known/oauth-authorization-server{path}")),
        at(format!("/.well-known/openid-configuration{path}")),
    ];
    if !path.is_empty() {
        found.push(at(format!("{path}/.well-known/openid-configuration")));
    }
    found
}

/// The document, if it is this issuer's own; otherwise a phrase that says why not.
fn read(answer: &Answer, server: &AuthorizationServer) -> Result<Metadata, String> {
    if answer.status != StatusCode::OK {
        return Err(format!("answered {}", answer.status.as_u16()));
    }
    let document = object(&answer.body).map_err(|error| format!("the document {error}"))?;
    // Compared as strings (RFC 8414 §3.3). The document of another issuer would direct our
    // credentials to it.
    match document.get("issuer").and_then(Value::as_str) {
        Some(issuer) if issuer == server.issuer => {}
        Some(issuer) => return Err(format!("the document is of the issuer {issuer:?} and not of {:?}", server.issuer)),
        None => return Err("the document names no issuer".to_owned()),
    }
    let read = |members: &Map<String, Value>, name| endpoint(members, name, server);
    let aliases = document.get("mtls_endpoint_aliases").and_then(Value::as_object);
    Ok(Metadata {
        token_endpoint: read(&document, "token_endpoint")?.ok_or("the document names no `token_endpoint`")?,
        mtls_token_endpoint: aliases.map(|aliases| read(aliases, "token_endpoint")).transpose()?.flatten(),
        jwks_uri: read(&document, "jwks_uri")?,
    })
}

/// An endpoint, over https; over plain http only on a listed host, or on loopback if the issuer is
/// plain http itself.
fn endpoint(members: &Map<String, Value>, name: &str, server: &AuthorizationServer) -> Result<Option<Url>, String> {
    let text = match members.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err(format!("`{name}` is not a string")),
    };
    let url = Url::parse(text).map_err(|_| format!("`{name}` is not a URL"))?;
    if !url.has_host() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("`{name}` is not the URL of an endpoint"));
    }
    let plain = &server.plain_http;
    let allowed = match url.scheme() {
        "https" => true,
        "http" => plain.lists(&url) || (plain.allows(&url) && server.issuer.starts_with("http://")),
        _ => false,
    };
    if allowed { Ok(Some(url)) } else { Err(format!("`{name}` is not https: {url}")) }
}
