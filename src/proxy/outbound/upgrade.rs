//! Upgrades (RFC 9110 §7.8), WebSocket above all: the credential goes onto the handshake, then bytes are relayed.
use crate::proxy::body::AgentBody;
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::headers;
use crate::proxy::relay;
use crate::proxy::traffic::InFlight;
use crate::proxy::upstream::Lease;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// The upgrade that a request asks for, if it is one that can be relayed. `h2c` never is: it would smuggle requests past us.
pub(super) fn requested(parts: &mut Parts) -> Option<(HeaderValue, OnUpgrade)> {
    let protocol = headers::upgrade(&parts.headers).filter(|_| parts.version == Version::HTTP_11)?;
    if protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2c") {
        return None;
    }
    Some((protocol, parts.extensions.remove::<OnUpgrade>()?))
}

/// Asks the upstream for it.
pub(super) fn ask(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
}

/// Passes the upstream's 101 on and relays, until one side ends or nothing moves.
pub(super) fn relay(
    mut response: Response<Incoming>,
    asked: Option<(HeaderValue, OnUpgrade)>,
    (idle, in_flight, lease): (Duration, InFlight, Lease),
) -> Result<Response<AgentBody>, Refusal> {
    let unasked = || Refusal::new(Reason::UpstreamBroken, "The upstream switched protocols unasked.");
    let (_, agent) = asked.ok_or_else(unasked)?;
    let upstream = hyper::upgrade::on(&mut response);
    let mut answer = Response::new(AgentBody::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(header::UPGRADE).cloned();
    headers::strip_response(response.headers_mut());
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    ask(answer.headers_mut(), &protocol.unwrap_or_else(|| HeaderValue::from_static("websocket")));
    tokio::task::spawn_local(async move {
        // The lease keeps the connection's sender alive until the relay ends; it never returns to the pool.
        let _held = (in_flight, lease);
        match tokio::try_join!(agent, upstream) {
            Ok((agent, upstream)) => relay::run(TokioIo::new(agent), TokioIo::new(upstream), idle).await,
            Err(error) => tracing::debug!(%error, "an upgrade did not complete"),
        }
    });
    Ok(answer)
}
