//! What is known of one authorization server while it runs: its connections, its endpoints, its keys.
use super::document_cache::DocumentCache;
use super::http_client::{Answer, ServerClient};
use super::metadata::{self, Metadata};
use super::settings::{AssertionAudience, AuthorizationServer, ClientAuth, Endpoints};
use crate::clock::Clock;
use crate::exchange::error::{ExchangeError, Failure};
use crate::exchange::response;
use crate::identity::Identity;
use crate::jose::KeySet;
use crate::single_flight::{Fetched, Served};
use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long keys are used past their end while the issuer that publishes them is in trouble: one that it has withdrawn, not longer.
const STALE_KEYS: Duration = Duration::from_secs(60 * 60);
/// A key that nobody knows makes us ask for new ones at most this often (JB-5).
const KEY_REFRESH: Duration = Duration::from_secs(10);

const USER_AGENT_VALUE: HeaderValue = HeaderValue::from_static(concat!("idjag-proxy/", env!("CARGO_PKG_VERSION")));

/// One authorization server at run time.
pub(in crate::exchange) struct Peer {
    pub(in crate::exchange) server: Arc<AuthorizationServer>,
    client: ServerClient,
    metadata: DocumentCache<Arc<Metadata>>,
    keys: DocumentCache<Arc<KeySet>>,
}

/// What a peer is asked with: our identity and our clock.
#[derive(Clone, Copy)]
pub(in crate::exchange) struct Around<'a> {
    pub(in crate::exchange) identity: Option<&'a Identity>,
    pub(in crate::exchange) clock: &'a Clock,
}

impl Peer {
    pub(in crate::exchange) fn new(server: Arc<AuthorizationServer>) -> Self {
        let (metadata, keys) = (DocumentCache::new(Duration::MAX), DocumentCache::new(STALE_KEYS));
        Self { server, client: ServerClient::default(), metadata, keys }
    }

    pub(in crate::exchange) fn error(&self, failure: Failure) -> ExchangeError {
        ExchangeError::new(&self.server.name, failure)
    }

    /// Where tokens come from. A client that authenticates by TLS has to use the server's alias for such clients (RFC 8705 §5).
    pub(in crate::exchange) async fn token_endpoint(&self, around: Around<'_>) -> Result<Url, Failure> {
        let url = match &self.server.endpoints {
            Endpoints::Explicit { token, .. } => token.clone(),
            Endpoints::Discovered => {
                let metadata = self.metadata(around).await?;
                let alias = metadata
                    .mtls_token_endpoint
                    .as_ref()
                    .filter(|_| matches!(self.server.client_auth, ClientAuth::SpiffeX509));
                alias.unwrap_or(&metadata.token_endpoint).clone()
            }
        };
        self.permitted(url)
    }

    /// What an assertion for this server says in `aud` (A2).
    pub(in crate::exchange) fn audience(&self, token_endpoint: &Url) -> String {
        match &self.server.quirks.assertion_audience {
            AssertionAudience::Issuer => self.server.issuer.clone(),
            AssertionAudience::TokenEndpoint => token_endpoint.to_string(),
            AssertionAudience::Explicit(audience) => audience.clone(),
        }
    }

    /// Our id at this server: the configured one, else the SPIFFE ID.
    pub(in crate::exchange) fn client_id(&self, around: Around<'_>) -> Result<String, Failure> {
        if let Some(id) = &self.server.client_id {
            return Ok(id.clone());
        }
        spiffe_id(around)
    }

    /// The keys that this server signs with.
    pub(in crate::exchange) async fn keys(&self, around: Around<'_>) -> Result<Arc<KeySet>, Failure> {
        let fetched = self.keys.get(around.clock, self.fetch_keys(around)).await?;
        Ok(self.document(fetched, "keys"))
    }

    /// Newer keys than `seen`, if there can be any: somebody else fetched some, or the last refresh is long enough ago. Only those
    /// who ask for them wait.
    pub(in crate::exchange) async fn newer_keys(
        &self,
        seen: &Arc<KeySet>,
        around: Around<'_>,
    ) -> Result<Option<Arc<KeySet>>, Failure> {
        let is_newer = |kept: &Arc<KeySet>| !Arc::ptr_eq(kept, seen);
        self.keys.refresh(around.clock, KEY_REFRESH, is_newer, self.fetch_keys(around)).await
    }

    /// Sends a request to this server.
    pub(in crate::exchange) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        around: Around<'_>,
    ) -> Result<Answer, Failure> {
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(USER_AGENT, USER_AGENT_VALUE);
        // The request and its answer live on the heap: few of them, and the futures around them stay small.
        Box::pin(self.client.send(&self.server, (around.identity, around.clock), request)).await
    }

    async fn metadata(&self, around: Around<'_>) -> Result<Arc<Metadata>, Failure> {
        let discover = async {
            let (metadata, answer) = self.discover(around).await?;
            Ok(self.metadata.fetched(Arc::new(metadata), &answer.headers, around.clock.now()))
        };
        let fetched = self.metadata.get(around.clock, discover).await?;
        Ok(self.document(fetched, "metadata"))
    }

    /// The document. The log says if it is a stale one that could not be renewed.
    fn document<T>(&self, served: Served<T, Failure>, what: &str) -> T {
        if let Some(failure) = served.renewal_failure {
            tracing::warn!(error = %self.error(failure), "{what} cannot be renewed: the last are used on");
        }
        served.value
    }

    /// Tries the well-known places in order; the first document that is the issuer's wins (AM-2, AM-3). Some gateways answer 5xx for
    /// what they do not know, so that one such answer is no word about the other places. To be asked to come back later is one, and
    /// no answer at all is the matter of the host that they all are on.
    async fn discover(&self, around: Around<'_>) -> Result<(Metadata, Answer), Failure> {
        let issuer = metadata::issuer_url(&self.server.issuer)?;
        let (mut tried, mut troubled) = (Vec::new(), false);
        for url in metadata::locations(&self.permitted(issuer)?) {
            let answer = self.get(&url, around).await?;
            match response::busy(&answer, around.clock.now()) {
                Some(Failure::Busy { retry_after: None, .. }) if answer.status.is_server_error() => troubled = true,
                Some(failure) => return Err(failure),
                None => {}
            }
            match metadata::read(&answer, &self.server) {
                Ok(metadata) => return Ok((metadata, answer)),
                Err(why) => tried.push(format!("{url}: {why}")),
            }
        }
        let tried = tried.join(", ");
        Err(if troubled { Failure::Undiscovered(tried) } else { Failure::Metadata(tried) })
    }

    async fn fetch_keys(&self, around: Around<'_>) -> Result<Fetched<Arc<KeySet>>, Failure> {
        let url = match &self.server.endpoints {
            Endpoints::Explicit { jwks, .. } => jwks.clone(),
            Endpoints::Discovered => self.metadata(around).await?.jwks_uri.clone(),
        };
        let url = self.permitted(url.ok_or_else(|| Failure::Keys("the server names no `jwks_uri`".to_owned()))?)?;
        let answer = self.get(&url, around).await?;
        let now = around.clock.now();
        if let Some(failure) = response::busy(&answer, now) {
            return Err(failure);
        }
        if answer.status != http::StatusCode::OK {
            return Err(Failure::Keys(format!("{url} answered {}", answer.status.as_u16())));
        }
        let keys = KeySet::parse(&answer.body).map_err(|error| Failure::Keys(format!("{url}: {error}")))?;
        Ok(self.keys.fetched(Arc::new(keys), &answer.headers, now))
    }

    async fn get(&self, url: &Url, around: Around<'_>) -> Result<Answer, Failure> {
        let request = Request::builder().method(Method::GET).uri(url.as_str()).body(Full::default());
        self.send(request.map_err(|_| Failure::Configuration(format!("{url} is no URL of HTTP")))?, around).await
    }

    /// AM-4: https, or a host to which plain http is allowed.
    fn permitted(&self, url: Url) -> Result<Url, Failure> {
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.server.plain_http.allows(&url) => Ok(url),
            _ => Err(Failure::PlainHttp(url.to_string())),
        }
    }
}

/// Who this workload is now.
pub(in crate::exchange) fn spiffe_id(around: Around<'_>) -> Result<String, Failure> {
    let identity = around.identity.ok_or_else(|| Failure::Identity("no source of one is configured".to_owned()))?;
    let snapshot = identity.current().map_err(|missing| Failure::Identity(missing.to_string()))?;
    Ok(snapshot.svid.id.to_string())
}
