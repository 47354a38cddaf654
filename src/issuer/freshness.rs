//! How long a document stays fresh (RFC 9111 §4.2), within bounds.
use crate::clock::Timestamp;
use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL, DATE, EXPIRES};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MIN_LIFETIME: Duration = Duration::from_secs(5 * 60);
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The freshness lifetime: `max-age` minus `Age`, or else `Expires` minus `Date`; at least five
/// minutes and at most a day.
pub(super) fn lifetime(headers: &HeaderMap) -> Duration {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let max_age_of = |directive: &str| {
        let (name, seconds) = directive.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| seconds.trim_matches('"').parse().ok())?
    };
    let max_age = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(max_age_of);
    let age = text(AGE).and_then(|age| age.trim().parse().ok()).unwrap_or(0);
    let lifetime = match max_age {
        Some(seconds) => Duration::from_secs(u64::saturating_sub(seconds, age)),
        None => {
            let date = |name| text(name).and_then(http_date);
            date(EXPIRES).zip(date(DATE)).map_or(MIN_LIFETIME, |(expires, date)| expires.since(date))
        }
    };
    lifetime.clamp(MIN_LIFETIME, MAX_LIFETIME)
}

/// Reads an HTTP date (RFC 9110 §5.6.7). Dates before the epoch are refused.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    let at: SystemTime = httpdate::parse_http_date(text.trim()).ok()?;
    Some(Timestamp::from_unix_seconds(at.duration_since(UNIX_EPOCH).ok()?.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_follows_http_within_bounds() {
        for (fields, seconds) in [
            (&[][..], 300),
            (&[("cache-control", "max-age=3600")], 3600),
            (&[("cache-control", "public, Max-Age=\"3600\""), ("age", "600")], 3000),
            (&[("cache-control", "no-store")], 300),
            (&[("cache-control", "max-age=99999999999")], 86_400),
            (&[("cache-control", "max-age=-1")], 300),
            (&[("cache-control", "max-age=10"), ("age", "99")], 300),
            (&[("expires", "Fri, 02 Jan 2026 02:00:00 GMT"), ("date", "Fri, 02 Jan 2026 00:00:00 GMT")], 7200),
            (&[("expires", "0"), ("date", "Fri, 02 Jan 2026 00:00:00 GMT")], 300),
        ] {
            let headers = fields
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
                .collect();
            assert_eq!(lifetime(&headers), Duration::from_secs(seconds), "{fields:?}");
        }
    }
}
