//! CONNECT (RFC 9110 §9.3.6): opaque TLS if the route says `tunnel`. Plain HTTP inside the tunnel
//! is served like any other request, because Node's fetch and WebSocket libraries tunnel even
//! `http://`.
use super::context::Context;
use super::destination::{self, Destination};
use super::switched::Switched;
use super::table::{RouteEntry, Table};
use crate::policy::{CredentialRule, Origin, Scheme};
use crate::proxy::agent_body::AgentBody;
use crate::proxy::downstream::{Arrival, Detected, Downstream, Protocol, ReceivedRequest, detect};
use crate::proxy::ended::EndedBy;
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::received_body::ReceivedBody;
use crate::proxy::relay;
use crate::proxy::session::Session;
use crate::proxy::upstream::dial;
use http::uri::Authority;
use http::{Request, Response, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How long the first byte may take. The client speaks first in a tunnel that it has opened.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
/// A fatal `access_denied` alert (RFC 8446 §6).
const ACCESS_DENIED: [u8; 7] = [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x31];

/// The context in which a CONNECT request is served.
pub(super) struct Connect<'r, H> {
    pub(super) context: &'r Rc<Context>,
    pub(super) table: &'r Table,
    pub(super) session: &'r mut Session,
    /// Answers the requests inside the tunnel.
    pub(super) handler: H,
}

impl<H, F> Connect<'_, H>
where
    H: Fn(ReceivedRequest) -> F + 'static,
    F: Future<Output = Response<AgentBody>> + 'static,
{
    /// Checks the route and connects to the upstream before it answers, then opens the tunnel.
    pub(super) async fn serve(self, request: Request<ReceivedBody>) -> Result<Switched, Refusal> {
        let Self { context, table, session, handler } = self;
        let downstream = Rc::clone(session.downstream());
        let (mut parts, _) = request.into_parts();
        let destination = destination::read_connect(&parts)?;
        session.set_destination(&destination.host, destination.path.path());
        let is_nested = downstream.arrival().tunnel.is_some();
        // Python's http.client sent HTTP/1.0 up to 3.11.
        if is_nested || parts.version > Version::HTTP_11 {
            let host = &destination.host;
            let detail = format!("CONNECT to {host} is supported over HTTP/1, and not inside another tunnel.");
            return Err(Refusal::new(Reason::MalformedRequest, detail));
        }
        let entry = find_entry(table, &destination, downstream.arrival())?;
        let mut upstream = None;
        if let Some(entry) = entry {
            session.set_route(&entry.metrics, entry.route.timeouts.idle);
            if is_opaque(entry) {
                if let Some(limiter) = &entry.limiter {
                    session.hold(limiter.admit()?);
                }
                upstream = Some(dial_upstream(context, entry, &destination).await?);
            } else if destination.scheme == Scheme::Https {
                return Err(call_as_http(entry, &destination));
            }
        }
        let authority = parts.uri.authority().cloned();
        let (Some(authority), Some(agent)) = (authority, parts.extensions.remove::<OnUpgrade>()) else {
            return Err(Refusal::new(Reason::MalformedRequest, "CONNECT names `host:port`."));
        };
        let tunnel = Tunnel {
            context: Rc::clone(context),
            outer: downstream,
            entry: entry.cloned(),
            authority,
            upstream,
            handler,
        };
        Ok(Switched::new(Response::new(AgentBody::empty()), None, async move |session: Session, _| {
            let by = match agent.await {
                Ok(agent) => tunnel.run(agent, &session).await,
                Err(error) => {
                    tracing::debug!(%error, "a tunnel did not open");
                    EndedBy::Agent
                }
            };
            session.finish(by);
        }))
    }
}

/// Finds the route of a tunnel. A tunnel without one opens if it can only carry plain HTTP, for two
/// kinds of clients that tunnel `http://`, too: those that have `HTTP_PROXY` set and call a base
/// URL, and those that show the answer to a request but not that to a CONNECT, as Node does. The
/// requests inside are refused then, if no route matches them.
fn find_entry<'t>(
    table: &'t Table,
    destination: &Destination,
    arrival: Arrival<'_>,
) -> Result<Option<&'t Arc<RouteEntry>>, Refusal> {
    if destination.is_listener(arrival) {
        return Ok(None);
    }
    match table.entry(&table.policy.connect(destination.target())) {
        Some(entry) => Ok(Some(entry)),
        None if destination.port == Scheme::Http.default_port() => Ok(None),
        None => Err(table.no_route(destination)),
    }
}

fn call_as_http(entry: &RouteEntry, destination: &Destination) -> Refusal {
    // A route without a port is for the default port of the scheme that the agent uses.
    let port = entry.route.matcher.port.map_or_else(String::new, |port| format!(":{port}"));
    let credential = if entry.route.credential.injects() { " and adds the credential" } else { "" };
    let host = &destination.host;
    Refusal::new(
        Reason::CallAsHttp,
        format!("Call it as http://{host}{port}/: this proxy speaks TLS with it{credential}."),
    )
}

/// Whether the tunnel may carry TLS between the agent and the upstream.
fn is_opaque(entry: &RouteEntry) -> bool {
    entry.passes || matches!(entry.route.credential, CredentialRule::Tunnel)
}

/// Connects to the upstream of an opaque tunnel.
async fn dial_upstream(context: &Context, entry: &RouteEntry, destination: &Destination) -> Result<TcpStream, Refusal> {
    let requested = || destination.origin(destination.scheme);
    let origin: Origin = entry.route.upstream.origin.clone().unwrap_or_else(requested);
    let to = entry.upstream.target(&origin, &context.shared.guard);
    dial(&context.pool, to, entry.route.timeouts.connect).await.map_err(|error| {
        let upstream = origin.authority();
        tracing::warn!(route = %entry.route.name, %upstream, %error, "a tunnel could not be opened");
        Refusal::from(error)
    })
}

struct Tunnel<H> {
    context: Rc<Context>,
    outer: Rc<Downstream>,
    /// The route, if there is one.
    entry: Option<Arc<RouteEntry>>,
    authority: Authority,
    /// The connection to the upstream, if the tunnel may be opaque.
    upstream: Option<TcpStream>,
    handler: H,
}

impl<H, F> Tunnel<H>
where
    H: Fn(ReceivedRequest) -> F,
    F: Future<Output = Response<AgentBody>> + 'static,
{
    /// Returns who ended the tunnel.
    async fn run(self, agent: Upgraded, session: &Session) -> EndedBy {
        let detected = match tokio::time::timeout(FIRST_BYTE_TIMEOUT, detect(TokioIo::new(agent))).await {
            Ok(Ok(detected)) => detected,
            Ok(Err(_)) => return EndedBy::Agent,
            Err(_) => return EndedBy::Timeout,
        };
        let Detected { protocol, io } = detected;
        match (protocol, self.entry.zip(self.upstream)) {
            (Protocol::Tls, Some((entry, upstream))) => {
                relay::run(io, upstream, session.transfer(), entry.route.timeouts.idle).await
            }
            (Protocol::Tls, None) => {
                session.count_reason(Reason::CallAsHttp);
                tracing::warn!(
                    route = session.route(), host = %self.authority,
                    "TLS was refused inside a tunnel: the proxy itself speaks TLS for its routes, so call it as http://"
                );
                let mut agent = io;
                // The connection is closed next, whether or not the client can read the alert.
                let _ = agent.write_all(&ACCESS_DENIED).await;
                let _ = agent.shutdown().await;
                EndedBy::Whole
            }
            (Protocol::Nothing, _) => EndedBy::Agent,
            (Protocol::Http1 | Protocol::Http2, _) => {
                let inside = self.outer.inside(self.authority);
                self.context.server.serve(inside, Detected { protocol, io }, self.handler).await;
                EndedBy::Whole
            }
        }
    }
}
