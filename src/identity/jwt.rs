//! JWT-SVIDs: one for each audience, fetched once for all callers and renewed after half of its
//! lifetime.
use super::SpiffeId;
use super::state::{Missing, SharedState};
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::single_flight::{CachedValue, FailurePolicy, Fetched};
use crate::sync::lock;
use arc_swap::ArcSwapOption;
use lru::LruCache;
use spiffe::{WorkloadApiClient, WorkloadApiError};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// A JWT-SVID for one audience, with the same SPIFFE ID as the X.509-SVID.
#[derive(Clone, Debug)]
pub struct JwtSvid {
    /// The SVID as a compact JWS.
    pub token: Secret,
    /// The value of `exp`.
    pub expires_at: Timestamp,
    /// The value of `sub`.
    pub id: SpiffeId,
}

/// Why a JWT-SVID could not be obtained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtSvidError {
    /// The workload has no identity.
    #[error("no JWT-SVID: {0}")]
    Missing(#[from] Missing),
    /// The identity comes from PEM files, which hold no JWT-SVIDs.
    #[error(
        "no JWT-SVID: the identity comes from PEM files, which hold no JWT-SVIDs; use identity.workload_api, \
         or a flow and client_auth that need none"
    )]
    NoSource,
    /// The Workload API refuses to issue one.
    #[error("the Workload API refuses a JWT-SVID for {id}: {message}")]
    Denied {
        /// The SPIFFE ID that was asked for.
        id: String,
        /// The message of the Workload API.
        message: String,
    },
    /// The SVID that arrived is not the one that was asked for.
    #[error("the JWT-SVID that the Workload API sent is refused: {0}")]
    Refused(String),
    /// The Workload API is not connected, or the call broke off.
    #[error("no JWT-SVID: the Workload API is not available: {0}")]
    Unavailable(String),
    /// The Workload API did not answer in time.
    #[error("no JWT-SVID: the Workload API did not answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

impl JwtSvidError {
    /// A stable name for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::NoSource => "no_source",
            Self::Denied { .. } => "denied",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
            Self::TimedOut(_) => "timed_out",
        }
    }
}

/// An SVID that expires sooner than this is not used, because it must still be valid when it
/// arrives.
const SKEW: Duration = Duration::from_secs(5);
/// How long to wait after a failed renewal, while the current SVID is usable.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);
/// The most SVIDs that are cached. Audiences are configured authorization servers, so this only
/// bounds what reloads leave behind.
const AUDIENCES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// The longest SVID in bytes, far above any real one. It becomes a form field or a header.
const MAX_TOKEN: usize = 16 * 1024;

/// The source of JWT-SVIDs.
pub(super) enum JwtIssuer {
    /// PEM files, which hold none.
    None,
    /// The Workload API, while it is connected.
    Api(JwtCache),
}

pub(super) struct JwtCache {
    deadline: Duration,
    client: ArcSwapOption<WorkloadApiClient>,
    svids: Mutex<LruCache<CacheKey, Arc<CachedSvid>>>,
}

/// The SPIFFE ID is part of the key, so that a fetch for an earlier identity is neither joined nor
/// used.
#[derive(PartialEq, Eq, Hash)]
struct CacheKey {
    id: SpiffeId,
    audience: String,
}

type CachedSvid = CachedValue<JwtSvid, JwtSvidError>;

impl JwtIssuer {
    pub(super) fn api(deadline: Duration) -> Self {
        let svids = Mutex::new(LruCache::new(AUDIENCES));
        Self::Api(JwtCache { deadline, client: ArcSwapOption::empty(), svids })
    }

    /// Drops every SVID, because the SPIFFE ID changed or was withdrawn.
    pub(super) fn clear_cache(&self) {
        if let Self::Api(cache) = self {
            lock(&cache.svids).clear();
        }
    }

    pub(super) fn set_client(&self, client: Option<WorkloadApiClient>) {
        if let Self::Api(cache) = self {
            cache.client.store(client.map(Arc::new));
        }
    }

    pub(super) async fn svid(&self, identity: &SharedState, audience: &str) -> Result<JwtSvid, JwtSvidError> {
        let Self::Api(cache) = self else { return Err(JwtSvidError::NoSource) };
        let id = identity.current()?.svid.id.clone();
        let cached = cache.cached(&id, audience);
        let served = cached.get(&identity.clock, || cache.fetch_usable(identity, &id, audience)).await;
        // The identity may have changed while this caller waited.
        identity.check_current(&id)?;
        let served = served?;
        if let Some(error) = served.renewal_failure {
            tracing::warn!(audience, "identity: the JWT-SVID could not be renewed, the last one is used: {error}");
        }
        Ok(served.value)
    }
}

impl JwtCache {
    fn cached(&self, id: &SpiffeId, audience: &str) -> Arc<CachedSvid> {
        let key = CacheKey { id: id.clone(), audience: audience.to_owned() };
        let policy =
            FailurePolicy { negative: Duration::ZERO, pause: RENEWAL_PAUSE, is_transient: |_: &JwtSvidError| true };
        Arc::clone(lock(&self.svids).get_or_insert(key, || Arc::new(CachedValue::new(policy))))
    }

    /// Fetches an SVID that is fresh for half of its lifetime, and usable until shortly before it
    /// expires.
    async fn fetch_usable(
        &self,
        identity: &SharedState,
        id: &SpiffeId,
        audience: &str,
    ) -> Result<Fetched<JwtSvid>, JwtSvidError> {
        let result = self.fetch(identity, id, audience).await;
        // If the identity was withdrawn in the meantime, nothing is cached.
        identity.check_current(id)?;
        let (svid, now) = (result?, identity.now());
        Ok(Fetched {
            // Only `exp` bounds the use of the SVID, even if the clock was set back.
            valid_from: Timestamp::EPOCH,
            fresh_until: now.plus(svid.expires_at.since(now) / 2),
            usable_until: svid.expires_at.minus(SKEW),
            value: svid,
        })
    }

    async fn fetch(&self, identity: &SharedState, id: &SpiffeId, audience: &str) -> Result<JwtSvid, JwtSvidError> {
        let Some(client) = self.client.load_full() else {
            let waiting = identity.load().waiting_for.clone();
            return Err(JwtSvidError::Unavailable(waiting.unwrap_or_else(|| "it is not connected".to_owned())));
        };
        match timeout(self.deadline, client.fetch_jwt_svid([audience], Some(id))).await {
            Err(_) => Err(JwtSvidError::TimedOut(self.deadline)),
            Ok(Err(error)) => Err(failure(id, &error)),
            Ok(Ok(svid)) => accept(&svid, id, audience, identity.now()).map_err(JwtSvidError::Refused),
        }
    }
}

fn failure(id: &SpiffeId, error: &WorkloadApiError) -> JwtSvidError {
    match error {
        WorkloadApiError::NoIdentityIssued => {
            JwtSvidError::Denied { id: id.to_string(), message: "no identity issued".to_owned() }
        }
        WorkloadApiError::PermissionDenied(message) => {
            JwtSvidError::Denied { id: id.to_string(), message: message.clone() }
        }
        WorkloadApiError::Transport(error) => JwtSvidError::Unavailable(error.to_string()),
        other => JwtSvidError::Refused(other.to_string()),
    }
}

/// Checks that the SVID is the one that was asked for. The SPIRE agent is trusted for the
/// signature.
fn accept(svid: &spiffe::JwtSvid, id: &SpiffeId, audience: &str, now: Timestamp) -> Result<JwtSvid, String> {
    if svid.spiffe_id() != id {
        return Err(format!("its sub is {} instead of {id}", svid.spiffe_id()));
    }
    if svid.audience() != [audience] {
        return Err(format!("its aud is {:?} instead of exactly {audience:?}", svid.audience()));
    }
    let expires_at = Timestamp::from_unix_seconds(u64::try_from(svid.claims().exp()).unwrap_or(0));
    if now >= expires_at {
        return Err(format!("it expired at {expires_at}"));
    }
    if svid.token().len() > MAX_TOKEN {
        return Err(format!("it has {} bytes, more than {MAX_TOKEN}", svid.token().len()));
    }
    Ok(JwtSvid { token: Secret::new(svid.token().to_owned()), expires_at, id: id.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    fn token(sub: &str, aud: &serde_json::Value, exp: u64) -> spiffe::JwtSvid {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(serde_json::json!({"alg": "ES256", "kid": "k", "typ": "JWT"}));
        let claims = part(serde_json::json!({"sub": sub, "aud": aud, "exp": exp}));
        spiffe::JwtSvid::parse_insecure(&format!("{header}.{claims}.c2ln")).expect("well formed")
    }

    #[test]
    fn svid_with_another_subject_audience_or_time_is_refused() {
        let id = SpiffeId::new("spiffe://example.org/agent").expect("id");
        let now = Timestamp::from_unix_seconds(1_000);
        let accepted = |sub: &str, aud: serde_json::Value, exp: u64| {
            accept(&token(sub, &aud, exp), &id, "https://as.example", now).map(|svid| svid.expires_at)
        };
        let aud = || serde_json::json!("https://as.example");
        assert_eq!(accepted("spiffe://example.org/agent", aud(), 1_060), Ok(Timestamp::from_unix_seconds(1_060)));
        assert!(accepted("spiffe://example.org/other", aud(), 1_060).is_err_and(|why| why.contains("its sub is")));
        assert!(accepted("spiffe://example.org/agent", aud(), 1_000).is_err_and(|why| why.contains("expired")));
        for other in [serde_json::json!("https://evil.example"), serde_json::json!(["https://as.example", "x"])] {
            assert!(accepted("spiffe://example.org/agent", other, 1_060).is_err_and(|why| why.contains("its aud is")));
        }
    }
}
