//! CONNECT (RFC 9110 §9.3.6): opaque TLS where a route says `tunnel`; plain HTTP inside the tunnel is served like any other
//! request, because Node's fetch and WebSocket libraries tunnel even `http://`.
use super::destination::{self, Destination};
use super::handle::no_route;
use super::table::{Entry, Table};
use crate::policy::{CredentialRule, Decision, Origin, Scheme};
use crate::proxy::body::AgentBody;
use crate::proxy::downstream::{Speaks, sniff};
use crate::proxy::error::{Reason, Refusal};
use crate::proxy::outcome::Outcome;
use crate::proxy::relay;
use crate::proxy::traffic::InFlight;
use crate::proxy::upstream::{Allowed, dial};
use crate::proxy::worker::{Downstream, Worker, serve_http};
use http::uri::Authority;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How long the first byte may take: a client that opened a tunnel speaks first.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// RFC 8446 §6: a fatal `access_denied`.
const ACCESS_DENIED: [u8; 7] = [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x31];

/// Decides before any 200.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    request: Request<Incoming>,
    (outcome, in_flight): (&mut Outcome<'_>, InFlight),
) -> Result<Response<AgentBody>, Refusal> {
    let nested = downstream.arrival().tunnel.is_some();
    if nested || request.version() != http::Version::HTTP_11 {
        return Err(Refusal::new(
            Reason::MalformedRequest,
            "CONNECT is taken over HTTP/1.1 and not inside another tunnel.",
        ));
    }
    let (mut parts, _) = request.into_parts();
    let table = worker.shared.table();
    let destination = destination::read_connect(&parts)?;
    outcome.to(&destination);
    let entry = route(&table, &destination)?;
    outcome.by(&entry.route.name, &entry.metrics);
    let opaque = opaque(entry);
    if !opaque && destination.scheme == Scheme::Https {
        return Err(call_as_http(entry, &destination));
    }
    let stream = match opaque {
        true => Some(reach(worker, entry, &destination).await?),
        false => None,
    };
    let authority = parts.uri.authority().cloned();
    let (Some(authority), Some(agent)) = (authority, parts.extensions.remove::<hyper::upgrade::OnUpgrade>()) else {
        return Err(Refusal::new(Reason::MalformedRequest, "CONNECT names `host:port`."));
    };
    let tunnel =
        Tunnel { worker: Rc::clone(worker), outer: Rc::clone(downstream), entry: Arc::clone(entry), authority, stream };
    // Boxed: a tunnel serves requests and a request opens tunnels, so their futures would contain each other.
    let task: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
        let _in_flight = in_flight;
        match agent.await {
            Ok(agent) => tunnel.run(agent).await,
            Err(error) => tracing::debug!(%error, "a tunnel did not open"),
        }
    });
    tokio::task::spawn_local(task);
    Ok(Response::new(AgentBody::empty()))
}

fn route<'t>(table: &'t Table, destination: &Destination) -> Result<&'t Arc<Entry>, Refusal> {
    match table.policy.connect(destination.target()) {
        Decision::Route(index) => Ok(table.entry(index)),
        Decision::Pass => table.pass.as_ref().ok_or_else(|| no_route(table, destination)),
        Decision::Refuse => Err(no_route(table, destination)),
    }
}

fn call_as_http(entry: &Entry, destination: &Destination) -> Refusal {
    // A route without a port is for the default one of the scheme that the agent uses.
    let port = entry.route.matcher.port.map_or_else(String::new, |port| format!(":{port}"));
    let credential = if entry.route.credential.injects() { " and puts the credential on" } else { "" };
    let host = &destination.host;
    Refusal::new(
        Reason::CallAsHttp,
        format!("Call it as http://{host}{port}/: this proxy speaks TLS with it{credential}."),
    )
}

/// Whether TLS may pass through unseen.
fn opaque(entry: &Entry) -> bool {
    entry.passes || matches!(entry.route.credential, CredentialRule::Tunnel)
}

async fn reach(worker: &Worker, entry: &Entry, destination: &Destination) -> Result<TcpStream, Refusal> {
    let named =
        || Origin { scheme: destination.scheme, host: destination.host.as_str().into(), port: destination.port };
    let origin = entry.route.upstream.origin.clone().unwrap_or_else(named);
    let allowed = Allowed { guard: &worker.shared.guard, named: !entry.passes };
    dial(&worker.pool, &origin, allowed, entry.route.timeouts.connect).await.map_err(|error| {
        tracing::warn!(route = %entry.route.name, upstream = %origin.authority(), %error, "a tunnel could not be opened");
        Refusal::from(error)
    })
}

struct Tunnel {
    worker: Rc<Worker>,
    outer: Rc<Downstream>,
    entry: Arc<Entry>,
    authority: Authority,
    /// Connected already where the tunnel may be opaque.
    stream: Option<TcpStream>,
}

impl Tunnel {
    async fn run(self, agent: Upgraded) {
        let sniffed = tokio::time::timeout(FIRST_BYTE, sniff(TokioIo::new(agent))).await;
        let Ok(Ok((speaks, mut agent))) = sniffed else { return };
        match (speaks, self.stream) {
            (Speaks::Tls, Some(stream)) => relay::run(agent, stream, self.entry.route.timeouts.idle).await,
            (Speaks::Tls, None) => {
                self.worker.shared.metrics.refused(Reason::CallAsHttp);
                tracing::warn!(
                    route = %self.entry.route.name, host = %self.authority,
                    "TLS was refused inside a tunnel: the proxy itself speaks TLS for this route, so call it as http://"
                );
                // The client is about to be closed on; if it does not take the alert either, nothing is lost.
                let _ = agent.write_all(&ACCESS_DENIED).await;
                let _ = agent.shutdown().await;
            }
            (Speaks::Nothing, _) => {}
            (speaks, _) => {
                let downstream = self.outer.inside(self.authority);
                serve_http(&self.worker, downstream, (speaks, agent)).await;
            }
        }
    }
}
