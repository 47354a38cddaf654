//! Upgrades (RFC 9110 §7.8), mostly to WebSocket: the handshake carries the credential, then bytes
//! are relayed.
use super::switched::Switched;
use crate::proxy::agent_body::AgentBody;
use crate::proxy::ended::EndedBy;
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::headers;
use crate::proxy::relay;
use crate::proxy::session::Session;
use crate::proxy::upstream::UpstreamBody;
use futures_util::TryFutureExt;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// An upgrade that the agent asks for.
pub(super) struct Upgrade {
    protocol: HeaderValue,
    agent: OnUpgrade,
}

impl Upgrade {
    /// The upgrade that a request asks for, if it is one that can be relayed.
    pub(super) fn requested(parts: &mut Parts) -> Option<Self> {
        let protocol = headers::requested_upgrade(&parts.headers).filter(|_| parts.version == Version::HTTP_11)?;
        Some(Self { protocol, agent: parts.extensions.remove::<OnUpgrade>()? })
    }

    /// Adds the fields that ask the upstream for the upgrade.
    pub(super) fn request(&self, headers: &mut HeaderMap) {
        set_upgrade(headers, self.protocol.clone());
    }

    /// Passes the upstream's 101 on, and relays until one side ends or nothing moves for `idle`. A
    /// 101 must name what it switches to, and that must have been asked for (RFC 9110 §7.8).
    pub(super) fn relay(self, mut response: Response<UpstreamBody>, idle: Duration) -> Result<Switched, Refusal> {
        let protocol = headers::accepted_upgrade(response.headers(), &self.protocol).ok_or_else(unrequested)?;
        let upstream = hyper::upgrade::on(&mut response);
        let mut answer = Response::new(AgentBody::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        headers::strip_response(response.headers_mut());
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        set_upgrade(answer.headers_mut(), protocol);
        // The lease keeps the connection's sender alive until the relay ends; the connection never
        // returns to the pool.
        let lease = response.into_body().take_lease();
        let switched = Switched::new(answer, lease, async move |session: Session, _lease| {
            let agent = self.agent.map_err(|error| (EndedBy::Agent, error));
            let upstream = upstream.map_err(|error| (EndedBy::Upstream, error));
            let by = match tokio::try_join!(agent, upstream) {
                Ok((agent, upstream)) => {
                    relay::run(TokioIo::new(agent), TokioIo::new(upstream), session.transfer(), idle).await
                }
                Err((by, error)) => {
                    tracing::debug!(%error, "an upgrade did not complete");
                    by
                }
            };
            session.finish(by);
        });
        Ok(switched)
    }
}

/// The refusal of a 101 that the agent did not ask for.
pub(super) fn unrequested() -> Refusal {
    Refusal::new(Reason::UpstreamBroken, "The upstream switched to a protocol that it was not asked for.")
}

fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}
