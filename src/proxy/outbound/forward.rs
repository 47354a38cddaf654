//! Sends a request with its credential, and tries another token if the upstream refuses the first.
use super::context::Context;
use super::credential::{self, Obtained};
use super::table::RouteEntry;
use crate::proxy::agent_body::Unauthenticated;
use crate::proxy::dialect::{Dialect, is_unauthenticated};
use crate::proxy::error::Refusal;
use crate::proxy::transfer::Transfer;
use crate::proxy::upstream::{
    Call, Credential, PoolKey, RequestBody, RequestCopy, Retrying, SendError, UpstreamBody, send,
};
use http::{Request, Response, StatusCode, header};
use std::rc::Rc;
use std::sync::Arc;

/// A request whose route is known, while it is sent.
pub(super) struct Exchange<'r> {
    pub(super) context: &'r Rc<Context>,
    pub(super) entry: &'r RouteEntry,
    pub(super) key: Arc<PoolKey>,
    pub(super) transfer: &'r Transfer,
    pub(super) dialect: Dialect,
}

/// The upstream's answer.
pub(super) struct Forwarded {
    pub(super) response: Response<UpstreamBody>,
    /// Discards the token of a gRPC call, whose status may follow in the trailers.
    pub(super) unauthenticated: Option<Unauthenticated>,
}

impl Exchange<'_> {
    /// Sends the request. After a 401 that refuses the token, the token is discarded, and another
    /// one is tried once if there is a copy of the request. A gRPC call is not repeated, because
    /// its status commonly comes after the answer has begun: its token is discarded.
    pub(super) async fn forward(
        &self,
        request: Request<RequestBody>,
        obtained: Option<Obtained>,
    ) -> Result<Forwarded, Refusal> {
        let Self { context, entry, transfer, .. } = self;
        let credential = credential::of_route(entry, obtained.as_ref())?;
        let copy = RequestCopy::of(&request);
        let call = Call {
            key: &self.key,
            credential,
            timeouts: &entry.route.timeouts,
            guard: &context.shared.guard,
            transfer,
            copy: copy.as_ref(),
            retrying: Retrying { policy: &entry.route.retries, metrics: &entry.metrics },
        };
        let injected = Injected { entry, credential, transfer };
        let sent = send(&context.pool, &call, request).await;
        drop(injected);
        let response = sent.map_err(|error| self.report(error))?;
        let (Some(used), Some(slot)) = (&obtained, &entry.slot) else { return Ok(response.into()) };
        if self.dialect != Dialect::Plain && response.status().is_success() {
            return Ok(self.watch(response, used));
        }
        if !refuses_token(&response) {
            return Ok(response.into());
        }
        let (token, user) = (&used.token, used.user.clone());
        let Some(copy) = &copy else {
            context.shared.tokens.discard(slot, user, token);
            entry.metrics.not_replayed.inc();
            return Ok(response.into());
        };
        let replacement = Box::pin(context.shared.tokens.replace(slot, user, token)).await;
        let Some(replacement) = replacement.ok().filter(|replacement| !Arc::ptr_eq(replacement, token)) else {
            entry.metrics.not_replayed.inc();
            return Ok(response.into());
        };
        entry.metrics.replayed.inc();
        drop(response);
        let replacement = Obtained { token: replacement, user: None };
        let call = Call { credential: credential::of_route(entry, Some(&replacement))?, ..call };
        let sent = Box::pin(send(&context.pool, &call, copy.request())).await;
        sent.map(Forwarded::from).map_err(|error| self.report(error))
    }

    /// Discards the token of a gRPC call that the upstream has refused for it, or may yet refuse.
    fn watch(&self, response: Response<UpstreamBody>, used: &Obtained) -> Forwarded {
        let Some(slot) = self.entry.slot.clone() else { return response.into() };
        let (tokens, metrics) = (self.context.shared.tokens.clone(), Arc::clone(&self.entry.metrics));
        let (token, user) = (Arc::clone(&used.token), used.user.clone());
        let unauthenticated = move || {
            tokens.discard(&slot, user, &token);
            metrics.not_replayed.inc();
        };
        if is_unauthenticated(response.headers()) {
            unauthenticated();
            return response.into();
        }
        Forwarded { response, unauthenticated: Some(Box::new(unauthenticated)) }
    }

    /// Logs the whole error, and makes the refusal, which holds only what the agent can use.
    fn report(&self, error: SendError) -> Refusal {
        let (route, upstream) = (&self.entry.route.name, self.key.authority());
        if let SendError::Upload(_) = error {
            tracing::info!(%route, %error, "a request was abandoned: its body did not arrive as it should");
        } else {
            tracing::warn!(%route, %upstream, %error, "a request did not get an answer from its upstream");
        }
        Refusal::from(error)
    }
}

/// Counts a request that has left with a credential, also if the agent leaves before the answer.
struct Injected<'r> {
    entry: &'r RouteEntry,
    credential: Credential<'r>,
    transfer: &'r Transfer,
}

impl Drop for Injected<'_> {
    fn drop(&mut self) {
        if self.transfer.has_left() {
            credential::count(self.entry, self.credential);
        }
    }
}

impl From<Response<UpstreamBody>> for Forwarded {
    fn from(response: Response<UpstreamBody>) -> Self {
        Self { response, unauthenticated: None }
    }
}

/// Whether a response refuses the token: a 401 with `invalid_token` (RFC 6750 §3.1), or without an
/// error code, which many servers do not send.
fn refuses_token(response: &Response<UpstreamBody>) -> bool {
    if response.status() != StatusCode::UNAUTHORIZED {
        return false;
    }
    let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
    let mut errors = challenges
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter_map(|text| text.split_once("error="))
        .peekable();
    errors.peek().is_none() || errors.any(|(_, error)| error.trim_start_matches('"').starts_with("invalid_token"))
}
