//! CONNECT (RFC 9110 §9.3.6): opaque TLS if the route says `tunnel`. Plain HTTP inside the tunnel
//! is served like any other request, because Node's fetch and WebSocket libraries tunnel even
//! `http://`.
use super::context::Context;
use super::destination::{self, Destination};
use super::table::{RouteEntry, Table};
use crate::policy::{CredentialRule, Origin, Scheme};
use crate::proxy::agent_body::AgentBody;
use crate::proxy::downstream::{Detected, Downstream, Protocol, ReceivedRequest, detect};
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::guard::NamedBy;
use crate::proxy::outcome::Outcome;
use crate::proxy::relay;
use crate::proxy::traffic::InFlight;
use crate::proxy::upstream::{DialTarget, dial};
use http::Response;
use http::uri::Authority;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
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
pub(super) struct Connect<'r, 'm, H> {
    pub(super) context: &'r Rc<Context>,
    pub(super) table: &'r Table,
    pub(super) outcome: &'r mut Outcome<'m>,
    pub(super) in_flight: InFlight,
    /// Answers the requests inside the tunnel.
    pub(super) handler: H,
}

impl<H, F> Connect<'_, '_, H>
where
    H: Fn(ReceivedRequest) -> F + 'static,
    F: Future<Output = Response<AgentBody>> + 'static,
{
    /// Checks the route and connects to the upstream before it answers, then opens the tunnel.
    pub(super) async fn serve(self, received: ReceivedRequest) -> Result<Response<AgentBody>, Refusal> {
        let Self { context, table, outcome, in_flight, handler } = self;
        let ReceivedRequest { request, downstream, .. } = received;
        let is_nested = downstream.arrival().tunnel.is_some();
        if is_nested || request.version() != http::Version::HTTP_11 {
            let detail = "CONNECT is supported over HTTP/1.1, and not inside another tunnel.";
            return Err(Refusal::new(Reason::MalformedRequest, detail));
        }
        let (mut parts, _) = request.into_parts();
        let destination = destination::read_connect(&parts)?;
        outcome.set_destination(&destination.host, destination.path.path());
        let entry = table.entry(&table.policy.connect(destination.target()));
        let entry = entry.ok_or_else(|| table.no_route(&destination))?;
        outcome.set_route(&entry.route.name, &entry.metrics);
        let is_opaque = is_opaque(entry);
        if !is_opaque && destination.scheme == Scheme::Https {
            return Err(call_as_http(entry, &destination));
        }
        let upstream = match is_opaque {
            true => Some(dial_upstream(context, entry, &destination).await?),
            false => None,
        };
        let authority = parts.uri.authority().cloned();
        let (Some(authority), Some(agent)) = (authority, parts.extensions.remove::<OnUpgrade>()) else {
            return Err(Refusal::new(Reason::MalformedRequest, "CONNECT names `host:port`."));
        };
        let tunnel = Tunnel {
            context: Rc::clone(context),
            outer: downstream,
            entry: Arc::clone(entry),
            authority,
            upstream,
            handler,
        };
        // Its type is erased: a tunnel serves requests and a request opens tunnels, so their
        // futures would contain each other.
        let task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            let _in_flight = in_flight;
            match agent.await {
                Ok(agent) => tunnel.run(agent).await,
                Err(error) => tracing::debug!(%error, "a tunnel did not open"),
            }
        });
        tokio::task::spawn_local(task);
        Ok(Response::new(AgentBody::empty()))
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
    let named_by = if entry.passes { NamedBy::Agent } else { NamedBy::Configuration };
    let to = DialTarget { origin: &origin, named_by, guard: &context.shared.guard };
    dial(&context.pool, to, entry.route.timeouts.connect).await.map_err(|error| {
        let upstream = origin.authority();
        tracing::warn!(route = %entry.route.name, %upstream, %error, "a tunnel could not be opened");
        Refusal::from(error)
    })
}

struct Tunnel<H> {
    context: Rc<Context>,
    outer: Rc<Downstream>,
    entry: Arc<RouteEntry>,
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
    async fn run(self, agent: Upgraded) {
        let detected = tokio::time::timeout(FIRST_BYTE_TIMEOUT, detect(TokioIo::new(agent))).await;
        let Ok(Ok(Detected { protocol, io })) = detected else { return };
        match (protocol, self.upstream) {
            (Protocol::Tls, Some(upstream)) => relay::run(io, upstream, self.entry.route.timeouts.idle).await,
            (Protocol::Tls, None) => {
                self.context.shared.metrics.count_refusal(Reason::CallAsHttp);
                tracing::warn!(
                    route = %self.entry.route.name, host = %self.authority,
                    "TLS was refused inside a tunnel: the proxy itself speaks TLS for this route, so call it as http://"
                );
                let mut agent = io;
                // The connection is closed next, whether or not the client can read the alert.
                let _ = agent.write_all(&ACCESS_DENIED).await;
                let _ = agent.shutdown().await;
            }
            (Protocol::Nothing, _) => {}
            (Protocol::Http1 | Protocol::Http2, _) => {
                let inside = self.outer.inside(self.authority);
                self.context.server.serve(inside, Detected { protocol, io }, self.handler).await;
            }
        }
    }
}
