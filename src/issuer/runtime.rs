//! The run-time state of one authorization server: its connections, its metadata and its keys.
use super::document_cache::DocumentCache;
use super::error::IssuerError;
use super::http_client::{Answer, HttpClient};
use super::keys;
use super::metadata::{self, Metadata};
use super::settings::{AssertionAudience, AuthorizationServer, Endpoints};
use super::workload::Workload;
use crate::jose::KeySet;
use crate::single_flight::{Fetched, Served};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long stale keys are used while their issuer fails. A key that the issuer has withdrawn may
/// still be accepted for this long.
const STALE_KEYS: Duration = Duration::from_secs(60 * 60);
/// A token with an unknown key makes us fetch the key set again, but at most once in this time.
const KEY_REFRESH: Duration = Duration::from_secs(10);

/// One authorization server at run time.
pub struct Issuer {
    http: HttpClient,
    metadata: DocumentCache<Arc<Metadata>>,
    keys: DocumentCache<Arc<KeySet>>,
}

impl Issuer {
    /// Creates an issuer; its documents are fetched when they are first needed.
    pub fn new(server: Arc<AuthorizationServer>, workload: Workload) -> Self {
        let (metadata, keys) = (DocumentCache::new(Duration::MAX), DocumentCache::new(STALE_KEYS));
        Self { http: HttpClient::new(server, workload), metadata, keys }
    }

    /// The settings of the server.
    pub fn server(&self) -> &AuthorizationServer {
        self.http.server()
    }

    /// Whether anything but this value refers to the server's settings.
    pub(super) fn is_configured(&self) -> bool {
        Arc::strong_count(self.http.server()) > 1
    }

    /// The workload on whose behalf the server is asked.
    pub(crate) fn workload(&self) -> &Workload {
        self.http.workload()
    }

    /// The token endpoint. A client that authenticates by TLS has to use the server's alias for
    /// such clients (RFC 8705 §5).
    pub(crate) async fn token_endpoint(&self) -> Result<Url, IssuerError> {
        let url = match &self.server().endpoints {
            Endpoints::Explicit { token, .. } => token.clone(),
            Endpoints::Discovered => {
                let metadata = self.metadata().await?;
                let alias =
                    metadata.mtls_token_endpoint.as_ref().filter(|_| self.server().client_auth.is_certificate());
                alias.unwrap_or(&metadata.token_endpoint).clone()
            }
        };
        self.http.permitted(url)
    }

    /// The `aud` of assertions for this server. Drafts and servers disagree about it, so it is a
    /// setting.
    pub(crate) fn assertion_audience(&self, token_endpoint: &Url) -> String {
        match &self.server().quirks.assertion_audience {
            AssertionAudience::Issuer => self.server().issuer.clone(),
            AssertionAudience::TokenEndpoint => token_endpoint.to_string(),
            AssertionAudience::Explicit(audience) => audience.clone(),
        }
    }

    /// Our client ID at this server: the configured one, otherwise the SPIFFE ID.
    pub(crate) fn client_id(&self) -> Result<String, IssuerError> {
        match &self.server().client_id {
            Some(id) => Ok(id.clone()),
            None => self.workload().spiffe_id(),
        }
    }

    /// Sends a request to this server.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, IssuerError> {
        self.http.send(request).await
    }

    /// The keys that this server signs with.
    pub(super) async fn keys(&self) -> Result<Arc<KeySet>, IssuerError> {
        let served = self.keys.get(self.workload().clock(), || self.fetch_keys()).await?;
        Ok(self.unwrap_served(served, "keys"))
    }

    /// Keys that are newer than `known`, if there can be any: another caller has fetched some, or
    /// the last refresh was long enough ago. Callers of [`Self::keys`] do not wait for it.
    pub(super) async fn newer_keys(&self, known: &Arc<KeySet>) -> Result<Option<Arc<KeySet>>, IssuerError> {
        let is_newer = |cached: &Arc<KeySet>| !Arc::ptr_eq(cached, known);
        self.keys.refresh(self.workload().clock(), KEY_REFRESH, is_newer, || self.fetch_keys()).await
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, IssuerError> {
        let discover = || async {
            let (metadata, answer) = metadata::discover(&self.http).await?;
            Ok(self.metadata.fetched(Arc::new(metadata), &answer.headers, self.workload().now()))
        };
        let served = self.metadata.get(self.workload().clock(), discover).await?;
        Ok(self.unwrap_served(served, "metadata"))
    }

    async fn fetch_keys(&self) -> Result<Fetched<Arc<KeySet>>, IssuerError> {
        let url = match &self.server().endpoints {
            Endpoints::Explicit { jwks, .. } => jwks.clone(),
            Endpoints::Discovered => self.metadata().await?.jwks_uri.clone(),
        };
        let url = url.ok_or_else(|| IssuerError::Keys("the server names no `jwks_uri`".to_owned()))?;
        let (keys, answer) = keys::fetch(&self.http, &self.http.permitted(url)?).await?;
        Ok(self.keys.fetched(Arc::new(keys), &answer.headers, self.workload().now()))
    }

    /// Returns the document, and logs it if a stale one could not be renewed.
    fn unwrap_served<T>(&self, served: Served<T, IssuerError>, what: &str) -> T {
        if let Some(failure) = served.renewal_failure {
            let error = format_args!("authorization server `{}`: {failure}", self.server().name);
            tracing::warn!(%error, "{what} cannot be renewed, the last are used");
        }
        served.value
    }
}
