//! Handles one request, from the agent to the upstream and back, in a fixed order of stages.
use super::connect;
use super::context::{Context, Shared};
use super::credential;
use super::destination::{self, Destination};
use super::forward::{Exchange, Forwarded};
use super::switched::Switched;
use super::table::{RouteEntry, Table};
use super::upgrade::{self, Upgrade};
use super::way_back::{WayBack, restore_cookie_names};
use crate::policy::{Route, Scheme, UpstreamProtocol};
use crate::proxy::agent_body::AgentBody;
use crate::proxy::dialect::{Dialect, grpc_timeout};
use crate::proxy::downstream::{ReceivedRequest, check_list_size};
use crate::proxy::ended::EndedBy;
use crate::proxy::error::{ALLOWED, Reason, Refusal};
use crate::proxy::headers::{self, AgentCredentials, StripRules};
use crate::proxy::received_body::ReceivedBody;
use crate::proxy::request_id::RequestId;
use crate::proxy::session::{Session, SessionArrival};
use crate::proxy::transfer::{Transfer, UploadFault};
use crate::proxy::upstream::{PoolKey, Protocol, RequestBody, UploadRules};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use std::rc::Rc;
use std::sync::Arc;

/// What becomes of a request that is not refused.
enum Served {
    /// The upstream has answered; its body is streamed to the agent.
    Answered(Forwarded, Arc<RouteEntry>),
    /// The upstream, or the tunnel that the agent asked for, is connected to the agent.
    Switched(Switched),
    /// The proxy has answered in the upstream's place.
    Own(Response<AgentBody>),
}

/// Answers one request of the agent. Its session ends with the last byte of the answer.
pub(crate) async fn handle(context: Rc<Context>, received: ReceivedRequest) -> Response<AgentBody> {
    let ReceivedRequest { request, downstream, write_timeout } = received;
    let request = ReceivedBody::of(request);
    let id = RequestId::of(request.headers());
    let dialect = Dialect::of(request.headers());
    let shared = &context.shared;
    let is_connect = request.method() == Method::CONNECT;
    let is_http2 = request.version() == Version::HTTP_2;
    let arrival = SessionArrival {
        in_flight: shared.traffic.count_request(),
        downstream: Rc::clone(&downstream),
        write_timeout,
        route: shared.metrics.unrouted(),
    };
    let mut session = Session::begin(arrival, request.method(), request.headers(), &id);
    let served = match downstream.begin_request() {
        Some(violation) => Err(violation.into()),
        None => serve(&context, request, Reading { dialect, id: &id }, &mut session).await,
    };
    let mut response = match served {
        Ok(Served::Answered(Forwarded { response, unauthenticated }, entry)) => {
            session.record_answer(response.status(), response.body().lease());
            session.set_upstream_request_id(response.headers());
            let idle = entry.route.timeouts.idle;
            response.map(|body| AgentBody::streamed(body, idle, session).or_unauthenticated(unauthenticated))
        }
        Ok(Served::Switched(switched)) => switched.begin(session),
        Ok(Served::Own(response)) => {
            session.record_answer(response.status(), None);
            session.finish(EndedBy::Whole);
            response
        }
        Err(refusal) => {
            session.refuse(&refusal);
            refusal.response(dialect, id.as_str()).map(AgentBody::from)
        }
    };
    // After a switch the connection no longer carries HTTP.
    let has_switched = match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => true,
        status => is_connect && status.is_success(),
    };
    let has_to_close = downstream.may_switch() || (shared.traffic.is_draining() && !is_http2);
    if has_to_close && !has_switched {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    id.answer(response.headers_mut());
    response
}

/// What is read of a request before all else.
struct Reading<'r> {
    dialect: Dialect,
    id: &'r RequestId,
}

async fn serve(
    context: &Rc<Context>,
    request: Request<ReceivedBody>,
    reading: Reading<'_>,
    session: &mut Session,
) -> Result<Served, Refusal> {
    let (shared, Reading { dialect, id }) = (&context.shared, reading);
    if !session.is_within_limit() {
        return Err(Refusal::too_many("Too many requests are in flight."));
    }
    let table = shared.table();
    check(shared, &request)?;
    if request.method() == Method::CONNECT {
        let handler = {
            let context = Rc::clone(context);
            move |request| handle(Rc::clone(&context), request)
        };
        let connect = connect::Connect { context, table: &table, session, handler };
        // Boxed, as are all rare branches below: hyper keeps this function's future in each
        // connection and moves it for each request.
        return Box::pin(connect.serve(request)).await.map(Served::Switched);
    }
    let (mut parts, body) = request.into_parts();
    let mut destination = destination::read(&parts, session.downstream().arrival(), &table.policy)?;
    if parts.method == Method::OPTIONS && session.downstream().is_server_wide() {
        destination.path = PathAndQuery::from_static("*");
    }
    session.set_destination(&destination.host, destination.path.path());
    let entry = find_route(&table, &destination, &parts)?;
    let timeouts = &entry.route.timeouts;
    session.set_route(&entry.metrics, timeouts.idle);
    if let Some(limiter) = &entry.limiter {
        session.hold(limiter.admit()?);
    }
    session.set_total(match dialect {
        Dialect::Plain => timeouts.total,
        Dialect::Grpc | Dialect::GrpcWeb => timeouts.total.into_iter().chain(grpc_timeout(&parts.headers)).min(),
    });
    if parts.method == Method::OPTIONS && !may_forward(&mut parts.headers)? {
        return Ok(Served::Own(answer_options()));
    }
    let obtaining = credential::obtain(context, entry, &parts.headers);
    let token = session.transfer().before_end(obtaining).await.ok_or_else(Refusal::total_timeout)??;
    let configured = entry.route.upstream.protocol;
    // There are no upgrades over HTTP/2 (RFC 9113 §8.6); a server may ignore the wish for one.
    let upgrade = Upgrade::requested(&mut parts).filter(|_| configured != Some(UpstreamProtocol::Http2));
    let protocol = match configured {
        Some(_) => Protocol::of(configured),
        None => protocol(upstream_scheme(entry, &destination), upgrade.as_ref(), dialect),
    };
    let key = pool_key(entry, &destination, protocol)?;
    let via = shared.via(parts.version);
    rewrite(&mut parts, entry, via);
    id.forward(&mut parts.headers);
    if destination.base.is_some() {
        restore_cookie_names(&mut parts.headers);
    }
    if let Some(upgrade) = &upgrade {
        upgrade.request(&mut parts.headers);
    }
    let transfer = session.transfer();
    let outgoing = outgoing(parts, body, entry, &destination, transfer).await?;
    let exchange = Exchange { context, entry, key, transfer, dialect };
    let mut forwarded = exchange.forward(outgoing, token).await?;
    let upstream = exchange.key.origin();
    let dropped_cookies = &entry.metrics.dropped_cookies;
    let way_back = WayBack { policy: &table.policy, destination: &destination, upstream, dropped_cookies };
    way_back.rewrite(forwarded.response.status(), forwarded.response.headers_mut());
    answer(forwarded, entry, upgrade, shared)
}

/// Refuses requests that no route accepts.
fn check(shared: &Shared, request: &Request<ReceivedBody>) -> Result<(), Refusal> {
    if request.method() == Method::TRACE || request.method().as_str() == "TRACK" {
        return Err(Refusal::new(Reason::TraceForbidden, "TRACE would echo the token."));
    }
    if request.version() == Version::HTTP_2 {
        check_list_size(request, shared.limits.head)?;
    }
    if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > shared.limits.uri) {
        return Err(Refusal::new(Reason::UriTooLong, "The path and query are longer than the limit."));
    }
    if headers::has_passed(request.headers(), &shared.pseudonym) {
        return Err(Refusal::new(Reason::Loop, "The request has passed through this proxy before."));
    }
    // A 1.0 client cannot expect anything (RFC 9110 §10.1.1).
    match request.headers().get(header::EXPECT).filter(|_| request.version() > Version::HTTP_10) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Refusal::new(Reason::Expectation, "Only `Expect: 100-continue` is supported."))
        }
        _ => Ok(()),
    }
}

/// Finds the route of a request. The route may refuse a path that the upstream may interpret
/// differently.
fn find_route<'t>(table: &'t Table, destination: &Destination, parts: &Parts) -> Result<&'t Arc<RouteEntry>, Refusal> {
    let path = destination.path.path();
    let decision = table.policy.route(destination.target(), path, &parts.method, &parts.headers);
    let entry = table.entry(&decision).ok_or_else(|| table.no_route(destination))?;
    match table.policy.refused_path(&decision, destination.target(), path) {
        Some(ambiguity) => {
            let (ambiguity, route) = (ambiguity.describe(), &entry.route.name);
            let detail = format!(
                "The path has {ambiguity}, which the upstream may interpret differently from this proxy. The route \
                 `{route}` forwards such a path only with `ambiguous_paths: as_sent`."
            );
            Err(Refusal::new(Reason::AmbiguousPath, detail))
        }
        None => Ok(entry),
    }
}

fn may_forward(headers: &mut HeaderMap) -> Result<bool, Refusal> {
    let malformed = || Refusal::new(Reason::MalformedRequest, "`Max-Forwards` is not a single number.");
    headers::decrement_max_forwards(headers).ok_or_else(malformed)
}

/// The answer to an OPTIONS that must not be forwarded: the methods that this proxy supports (RFC
/// 9110 §9.3.7).
fn answer_options() -> Response<AgentBody> {
    let mut response = Response::new(AgentBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, ALLOWED);
    response
}

/// The protocol that the request's connection must speak: HTTP/1.1 for an upgrade, HTTP/2 for gRPC
/// in cleartext, and otherwise the one that ALPN negotiates.
fn protocol(scheme: Scheme, upgrade: Option<&Upgrade>, dialect: Dialect) -> Protocol {
    match (upgrade, scheme, dialect) {
        (Some(_), _, _) => Protocol::Http1,
        (None, Scheme::Http, Dialect::Grpc) => Protocol::Http2,
        (None, _, _) => Protocol::Negotiated,
    }
}

/// The scheme of the origin that a request leaves for.
fn upstream_scheme(entry: &RouteEntry, destination: &Destination) -> Scheme {
    match &entry.route.upstream.origin {
        Some(origin) => origin.scheme,
        None if entry.passes => destination.scheme,
        None => Scheme::Https,
    }
}

fn pool_key(entry: &RouteEntry, destination: &Destination, protocol: Protocol) -> Result<Arc<PoolKey>, Refusal> {
    let requested = || destination.origin(upstream_scheme(entry, destination));
    let refused = || Refusal::new(Reason::MalformedRequest, "The host is not a valid value of `Host`.");
    entry.upstream.key(protocol, requested).ok_or_else(refused)
}

/// Removes what must not be forwarded, and adds the fields of a proxy.
fn rewrite(parts: &mut Parts, entry: &RouteEntry, via: &HeaderValue) {
    let accepts_trailers = headers::accepts_trailers(&parts.headers);
    let rules = StripRules {
        agent_credentials: AgentCredentials::of(&entry.route.credential),
        strips_overrides: entry.strips_overrides,
        reserved: &entry.reserved,
    };
    headers::strip_request(&mut parts.headers, rules);
    if parts.version >= Version::HTTP_2 {
        join_cookies(&mut parts.headers);
        headers::join_lengths(&mut parts.headers);
    }
    if accepts_trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers::append_via(&mut parts.headers, via);
}

/// Joins the `Cookie` fields of HTTP/2 into one, as every other protocol expects (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// The request that is sent: with the origin form, the body and nothing else of the agent's.
async fn outgoing(
    mut parts: Parts,
    body: ReceivedBody,
    entry: &RouteEntry,
    destination: &Destination,
    transfer: &Rc<Transfer>,
) -> Result<Request<RequestBody>, Refusal> {
    // Sent on by the connection that can be asked.
    let expected = parts.headers.remove(header::EXPECT);
    let Route { limits, replay_max_body, timeouts, .. } = &*entry.route;
    let size = body.size_hint().exact();
    if limits.request_body.is_some_and(|limit| size.is_some_and(|size| size > limit)) {
        return Err(UploadFault::TooLarge.into());
    }
    let may_replay = |size: u64| replay_max_body.is_some_and(|max| size <= max as u64);
    let body = if body.is_end_stream() {
        RequestBody::Buffered(None)
    } else {
        let rules = UploadRules {
            limit: limits.request_body,
            reserved: Arc::clone(&entry.reserved),
            expects_continue: parts.version == Version::HTTP_11 && expected.is_some(),
        };
        let streamed = RequestBody::streamed(body, rules, transfer);
        if size.is_some_and(may_replay) { Box::pin(streamed.buffer(transfer, timeouts.idle)).await? } else { streamed }
    };
    let mut request = Request::from_parts(parts, body);
    *request.uri_mut() = Uri::from(destination.path.clone());
    *request.extensions_mut() = http::Extensions::new();
    Ok(request)
}

/// Turns the upstream's response into the answer to the agent.
fn answer(
    Forwarded { mut response, unauthenticated }: Forwarded,
    entry: &Arc<RouteEntry>,
    upgrade: Option<Upgrade>,
    shared: &Shared,
) -> Result<Served, Refusal> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = upgrade.ok_or_else(upgrade::unrequested)?;
        return upgrade.relay(response, entry.route.timeouts.idle).map(Served::Switched);
    }
    let unknown =
        |_| Refusal::new(Reason::UpstreamBroken, "The upstream's answer has a transfer coding other than `chunked`.");
    headers::clean_framing(response.headers_mut()).map_err(unknown)?;
    let version = response.version();
    headers::strip_response(response.headers_mut());
    headers::append_via(response.headers_mut(), shared.via(version));
    Ok(Served::Answered(Forwarded { response, unauthenticated }, Arc::clone(entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_fields_of_http2_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
