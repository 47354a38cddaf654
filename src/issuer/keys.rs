//! Fetches the keys that an issuer signs with.
use super::error::IssuerError;
use super::http_client::{Answer, HttpClient};
use crate::jose::KeySet;
use http::StatusCode;
use url::Url;

/// Fetches and reads the key set at `url`.
pub(super) async fn fetch(http: &HttpClient, url: &Url) -> Result<(KeySet, Answer), IssuerError> {
    let answer = http.get(url).await?;
    if let Some(failure) = answer.busy(http.workload().now()) {
        return Err(failure);
    }
    if answer.status != StatusCode::OK {
        return Err(IssuerError::Keys(format!("{url} answered {}", answer.status.as_u16())));
    }
    let keys = KeySet::parse(&answer.body).map_err(|error| IssuerError::Keys(format!("{url}: {error}")))?;
    Ok((keys, answer))
}
