//! A user's token: nothing of it is used before its issuer's key says that it is true.
use super::runtime::{Around, Peer};
use crate::exchange::error::Failure;
use crate::exchange::grant::UserTokenRule;
use crate::jose::{Refused, Rules, Unverified, Verified, verify};
use std::time::Duration;

/// How far an issuer's clock may be from ours.
const LEEWAY: Duration = Duration::from_secs(30);

/// Verifies `token` by the rule and by the keys of its issuer, `peer`.
pub(in crate::exchange) async fn believe(
    token: &str,
    rule: &UserTokenRule,
    peer: &Peer,
    around: Around<'_>,
) -> Result<Verified, Failure> {
    // What is no JWT at all costs no request to anybody.
    Unverified::parse(token).map_err(Failure::UserToken)?;
    let own_id;
    let audiences = if rule.audience.is_empty() {
        own_id = [peer.client_id(around)?];
        &own_id[..]
    } else {
        &rule.audience
    };
    let rules = Rules { kind: rule.kind, issuer: &peer.server.issuer, audiences, leeway: LEEWAY };
    let keys = peer.keys(around).await?;
    let first = verify(token, &keys, &rules, around.clock.now());
    let result = match first {
        // The issuer may have rotated its keys since (JB-5).
        Err(Refused::UnknownKey) => match peer.newer_keys(&keys, around).await? {
            Some(newer) => verify(token, &newer, &rules, around.clock.now()),
            None => first,
        },
        _ => first,
    };
    let verified = result.map_err(Failure::UserToken)?;
    // Leeway is for reading an issuer's clock. What we get for a token must not outlive it, so one that is over by ours gets nothing.
    if verified.expires_at <= around.clock.now() {
        return Err(Failure::UserToken(Refused::Expired));
    }
    Ok(verified)
}
