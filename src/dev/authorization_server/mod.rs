//! An OAuth authorization server, and an identity provider that issues ID-JAGs: metadata, JWKS and
//! a token endpoint with RFC 8693, RFC 7523 and `client_credentials`. It is as strict as the drafts
//! are. In this module, "ID-JAG §…" refers to draft-ietf-oauth-identity-assertion-authz-grant-04,
//! and "SPIFFE client authentication" to draft-ietf-oauth-spiffe-client-auth-02.
mod bearer;
mod client_auth;
mod exchange;
mod issue;
mod metadata;
mod presented;
mod record;
mod refusal;
mod registry;
mod request;
mod state;
#[cfg(test)]
mod tests;
mod token;

pub use record::{Form, Leg, Recorded};
pub use registry::{Authentication, Client, Delegation, IdJagAudience, KeySource, Policy, TrustedIssuer};
pub use state::Endpoints;

use super::ca::{JwtAlgorithm, JwtAuthority, TrustDomain};
use super::http::{Body, Connection, HangUp, Respond, Server, ServerTls, full};
use super::request_log::RequestLog;
use crate::clock::Clock;
use crate::sync::lock;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use refusal::json_response;
use serde_json::Value;
use state::IssuerState;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The path of the issuer: empty, or a path such as `/realms/agents`.
    pub path: String,
    /// The host in the issuer and in every URL: `127.0.0.1`, or a name that resolves to it.
    pub host: String,
    /// TLS settings for HTTPS, with client certificates for `spiffe_x509`; absent for plain HTTP.
    pub tls: Option<ServerTls>,
    /// The signing algorithm.
    pub algorithm: JwtAlgorithm,
}

impl Default for Setup {
    fn default() -> Self {
        Self { path: String::new(), host: "127.0.0.1".to_owned(), tls: None, algorithm: JwtAlgorithm::Es256 }
    }
}

/// A running authorization server on a port of 127.0.0.1. Dropping it stops it.
#[derive(Debug)]
pub struct AuthorizationServer {
    server: Server,
    state: Arc<IssuerState>,
}

impl AuthorizationServer {
    /// Binds a port and starts serving.
    pub async fn start(setup: &Setup, clock: &Clock) -> anyhow::Result<Self> {
        let (server, listener) = Server::bind(setup.tls.as_ref(), clock).await?;
        let issuer = format!("{}://{}:{}{}", server.scheme(), setup.host, server.address().port(), setup.path);
        let state = Arc::new(IssuerState {
            issuer,
            path: setup.path.clone(),
            clock: clock.clone(),
            keys: JwtAuthority::new(setup.algorithm, clock)?,
            registry: Mutex::default(),
            metadata_patch: Mutex::new(Value::Object(serde_json::Map::default())),
            used_assertions: Mutex::default(),
            log: RequestLog::default(),
            faults: Endpoints::default(),
        });
        server.serve(listener, Arc::clone(&state) as Arc<dyn Respond>);
        Ok(Self { server, state })
    }

    /// The issuer identifier, without a final slash.
    pub fn issuer(&self) -> &str {
        &self.state.issuer
    }

    /// The URL of the token endpoint.
    pub fn token_endpoint(&self) -> String {
        format!("{}/token", self.issuer())
    }

    /// The URL of the JWK set.
    pub fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.issuer())
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The signing keys, to rotate them or to mint users' tokens as this issuer.
    pub fn keys(&self) -> &JwtAuthority {
        &self.state.keys
    }

    /// Registers a client, replacing one with the same id.
    pub fn register(&self, client: Client) {
        let mut registry = lock(&self.state.registry);
        registry.clients.retain(|known| known.id != client.id);
        registry.clients.push(client);
    }

    /// Removes a client.
    pub fn unregister(&self, id: &str) {
        lock(&self.state.registry).clients.retain(|client| client.id != id);
    }

    /// Trusts the SVIDs of a trust domain, verified with the bundle that it has at the time (SPIFFE
    /// client authentication).
    pub fn trust_domain(&self, domain: &TrustDomain) {
        lock(&self.state.registry).domains.push(domain.clone());
    }

    /// Trusts another issuer, replacing one with the same identifier.
    pub fn trust_issuer(&self, issuer: TrustedIssuer) {
        let mut registry = lock(&self.state.registry);
        registry.issuers.retain(|known| known.issuer != issuer.issuer);
        registry.issuers.push(issuer);
    }

    /// Changes the policy.
    pub fn policy(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut lock(&self.state.registry).policy);
    }

    /// Replaces these members of the metadata document; `null` removes a member.
    pub fn patch_metadata(&self, patch: Value) {
        *lock(&self.state.metadata_patch) = patch;
    }

    /// The faults to inject.
    pub fn faults(&self) -> &Endpoints {
        &self.state.faults
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }

    /// The last few thousand token requests that have been answered, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.log.requests()
    }

    /// The last token request that was answered.
    pub fn last_request(&self) -> Option<Recorded> {
        self.state.log.last()
    }

    /// How many requests of this leg have been answered, including refusals.
    pub fn count(&self, leg: Leg) -> usize {
        self.requests().iter().filter(|recorded| recorded.leg == leg).count()
    }

    /// How many token requests have arrived, answered or not.
    pub fn arrivals(&self) -> u64 {
        self.state.log.arrivals()
    }

    /// Waits until `count` token requests have arrived.
    pub async fn wait_for_arrivals(&self, count: u64) {
        self.state.log.wait_for_arrivals(count).await;
    }

    /// Uses these TLS settings for new handshakes. The scheme of the issuer does not change.
    pub fn set_tls(&self, tls: &ServerTls) -> anyhow::Result<()> {
        self.server.set_tls(tls)
    }

    /// Closes every connection and refuses new ones.
    pub async fn stop(&self) {
        self.server.stop().await;
    }

    /// Listens on the same port again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.server.restart().await
    }
}

impl Respond for IssuerState {
    fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, HangUp>> + Send>> {
        Box::pin(async move { self.route(request, &connection).await })
    }
}

impl IssuerState {
    async fn route(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Result<Response<Body>, HangUp> {
        let reused = connection.requests() > 1;
        let path = request.uri().path().to_owned();
        let own = path.strip_prefix(self.path.as_str());
        match own {
            Some("/token") if request.method() == Method::POST => self.token_request(request, connection).await,
            Some("/jwks") => {
                let jwks = async { json_response(StatusCode::OK, &self.keys.jwks()) };
                self.faults.jwks.apply(reused, jwks).await
            }
            _ if metadata::is_path(&path, &self.path) => {
                let document = async { json_response(StatusCode::OK, &self.metadata()) };
                self.faults.metadata.apply(reused, document).await
            }
            Some("/token") => Ok(status(StatusCode::METHOD_NOT_ALLOWED)),
            _ => Ok(status(StatusCode::NOT_FOUND)),
        }
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}
