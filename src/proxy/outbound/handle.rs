//! One request, from the agent to the upstream and back: the stages in order, errors leave by `?`.
use super::connect;
use super::destination::{self, Destination};
use super::table::{Entry, Table};
use super::upgrade;
use crate::policy::{CredentialRule, Decision, TokenSource};
use crate::proxy::body::{AgentBody, Progress, RequestBody, Streamed, UploadRules};
use crate::proxy::downstream::{allow, judge_list};
use crate::proxy::error::{ALLOWED, Reason, Refusal};
use crate::proxy::headers::{self, Own};
use crate::proxy::outcome::Outcome;
use crate::proxy::traffic::InFlight;
use crate::proxy::upstream::{Call, Key, Lease, Protocol, Repeat, SendError, send};
use crate::proxy::worker::{Downstream, Worker};
use crate::token::{AccessToken, Delegated, UserToken};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Answers one request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    request: Request<Incoming>,
) -> Response<AgentBody> {
    let grpc = headers::is_grpc(request.headers());
    let shared = Arc::clone(&worker.shared);
    let mut outcome = Outcome::new(&shared.metrics, request.method(), request.headers());
    let connect = request.method() == Method::CONNECT;
    let served = match downstream.begin() {
        Some(fault) => Err(fault.into()),
        None => serve(&worker, &downstream, request, &mut outcome).await,
    };
    let mut response = match served {
        Ok(response) => {
            outcome.answered(response.status());
            response
        }
        Err(refusal) => {
            outcome.refused(&refusal);
            refusal.response(grpc)
        }
    };
    if downstream.switches() && !is_switch(&response, connect) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the connection is no longer HTTP after this answer.
fn is_switch(response: &Response<AgentBody>, connect: bool) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS || (connect && response.status().is_success())
}

async fn serve(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    request: Request<Incoming>,
    outcome: &mut Outcome<'_>,
) -> Result<Response<AgentBody>, Refusal> {
    let in_flight = worker.shared.traffic.request();
    let in_flight = in_flight.ok_or_else(|| Refusal::too_many("Too many requests are in flight."))?;
    let table = worker.shared.table();
    check(worker, &request)?;
    if request.method() == Method::CONNECT {
        // Boxed, as every rare branch below: hyper keeps this function's future in each connection and moves it for each request.
        return Box::pin(connect::serve(worker, downstream, request, (outcome, in_flight))).await;
    }
    let (mut parts, body) = request.into_parts();
    let destination = destination::read(&parts, downstream.arrival(), &table.policy)?;
    outcome.to(&destination);
    let entry = route(&table, &destination, &parts)?;
    outcome.by(&entry.route.name, &entry.metrics);
    allow(entry.route.timeouts.idle);
    if parts.method == Method::OPTIONS && !counted(&mut parts.headers)? {
        return Ok(options());
    }
    let credential = credential(worker, entry, &parts.headers).await?;
    let upgrade = upgrade::requested(&mut parts);
    let key = key(entry, &destination, upgrade.is_some(), &parts)?;
    let te = headers::accepts_trailers(&parts.headers);
    headers::strip_request(&mut parts.headers, own(entry), &entry.reserved);
    place(&mut parts, &credential, entry, (te, worker))?;
    if let Some((protocol, _)) = &upgrade {
        upgrade::ask(&mut parts.headers, protocol);
    }
    let request = Outgoing::new(parts, body, entry, &destination).await?;
    let (response, lease) = forward(worker, entry, &key, request, credential).await?;
    answer(worker, entry, response, (lease, upgrade, in_flight))
}

/// What is refused whatever the route.
fn check(worker: &Worker, request: &Request<Incoming>) -> Result<(), Refusal> {
    if request.method() == Method::TRACE || request.method().as_str() == "TRACK" {
        return Err(Refusal::new(Reason::TraceForbidden, "TRACE would echo the token."));
    }
    if request.version() == Version::HTTP_2 {
        judge_list(request, worker.shared.limits.head)?;
    }
    if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > worker.shared.limits.uri) {
        return Err(Refusal::new(Reason::UriTooLong, "The path and query are longer than the limit."));
    }
    if headers::has_passed(request.headers(), &worker.shared.pseudonym) {
        return Err(Refusal::new(Reason::Loop, "The request has passed through this proxy before."));
    }
    match request.headers().get(header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Refusal::new(Reason::Expectation, "The only expectation is 100-continue."))
        }
        _ => Ok(()),
    }
}

fn route<'t>(table: &'t Table, destination: &Destination, parts: &Parts) -> Result<&'t Arc<Entry>, Refusal> {
    let path = destination.path.path();
    let entry = match table.policy.route(destination.target(), path, &parts.method, &parts.headers) {
        Decision::Route(index) => table.entry(index),
        Decision::Pass => table.pass.as_ref().ok_or_else(|| no_route(table, destination))?,
        Decision::Refuse => return Err(no_route(table, destination)),
    };
    match crate::policy::hazard(path).filter(|_| entry.route.credential.injects()) {
        Some(hazard) => {
            let detail =
                format!("The path has {}, which the upstream may read otherwise than this proxy.", hazard.describe());
            Err(Refusal::new(Reason::AmbiguousPath, detail))
        }
        None => Ok(entry),
    }
}

/// The refusal of what no route matches: the host, and the route that was probably meant.
pub(super) fn no_route(table: &Table, destination: &Destination) -> Refusal {
    let nearest = table.policy.nearest(&destination.host).map_or_else(String::new, |route| {
        let port = route.matcher.port.map_or_else(|| "its default port".to_owned(), |port| format!("port {port}"));
        let methods: Vec<&str> = route.matcher.methods.iter().map(Method::as_str).collect();
        let methods = if methods.is_empty() { "any method".to_owned() } else { methods.join(", ") };
        let (host, path) = (&route.matcher.host, &route.matcher.path);
        format!(" The nearest is `{}`: {host}, {port}, {path}, {methods}.", route.name)
    });
    Refusal::new(Reason::NoRoute, format!("No route matches {} port {}.{nearest}", destination.host, destination.port))
}

fn counted(headers: &mut HeaderMap) -> Result<bool, Refusal> {
    let malformed = || Refusal::new(Reason::MalformedRequest, "`Max-Forwards` is not one number.");
    headers::count_forward(headers).ok_or_else(malformed)
}

/// The answer to an OPTIONS that may go no further: what may be sent to this proxy (RFC 9110 §9.3.7).
fn options() -> Response<AgentBody> {
    let mut response = Response::new(AgentBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, ALLOWED);
    response
}

/// What a request is sent with.
enum Held {
    Bearer { token: Arc<AccessToken>, user: Option<UserToken> },
    Other,
}

/// The only await before sending; on a hit it is ready at once.
async fn credential(worker: &Worker, entry: &Entry, headers: &HeaderMap) -> Result<Held, Refusal> {
    if let Some(identity) = worker.shared.identity.as_ref().filter(|_| entry.needs_identity)
        && let Err(missing) = identity.current()
    {
        return Err(Refusal::new(Reason::IdentityMissing, missing.to_string()).with_retry_after(Duration::from_secs(2)));
    }
    let (Some(slot), CredentialRule::Token(rule)) = (&entry.slot, &entry.route.credential) else {
        return Ok(Held::Other);
    };
    let tokens = &worker.shared.tokens;
    let user = match &rule.source {
        TokenSource::Own => {
            let token = match tokens.ready(slot, tokens.now()) {
                Some(token) => token,
                None => Box::pin(tokens.obtain(slot, None)).await?,
            };
            return Ok(Held::Bearer { token, user: None });
        }
        TokenSource::Header(name) => users_token(headers, name)?,
        TokenSource::File(path) => {
            let missing = || format!("The file with the user's token, {}, cannot be read.", path.display());
            entry
                .user_file
                .as_ref()
                .map(|secret| secret.expose().to_owned())
                .ok_or_else(|| Refusal::new(Reason::UserToken, missing()))?
        }
    };
    let user = UserToken::new(user);
    if let Some(token) = worker.delegated.borrow_mut().ready(tokens, slot, user.hash()) {
        return Ok(Held::Bearer { token, user: Some(user) });
    }
    let fence = Delegated::fence(tokens);
    let token = Box::pin(tokens.obtain(slot, Some(user.clone()))).await?;
    worker.delegated.borrow_mut().remember(fence, slot, user.hash(), &token);
    Ok(Held::Bearer { token, user: Some(user) })
}

fn users_token(headers: &HeaderMap, name: &header::HeaderName) -> Result<String, Refusal> {
    let mut values = headers.get_all(name).iter();
    let missing =
        || Refusal::new(Reason::UserToken, format!("This route acts for a user: send the user's token in `{name}`."));
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Refusal::new(Reason::MalformedRequest, format!("There are two `{name}` fields.")));
    }
    let text =
        value.to_str().map_err(|_| Refusal::new(Reason::UserToken, format!("`{name}` does not hold a token.")))?;
    let bare = text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or(text, |(_, token)| token);
    Ok(bare.trim().to_owned())
}

fn key(entry: &Entry, destination: &Destination, upgrade: bool, parts: &Parts) -> Result<Arc<Key>, Refusal> {
    let plain = entry.route.upstream.origin.as_ref().is_some_and(|origin| origin.scheme == crate::policy::Scheme::Http);
    let protocol = Protocol::of(upgrade, headers::is_grpc(&parts.headers), plain);
    let refused = || Refusal::new(Reason::MalformedRequest, "The host cannot stand in `Host`.");
    entry.peer.key(destination, protocol).ok_or_else(refused)
}

fn own(entry: &Entry) -> Own {
    match entry.route.credential {
        CredentialRule::None { keep_credentials: true } => Own::Kept,
        _ => Own::Removed,
    }
}

/// Puts on what is ours, after everything spoofable is off.
fn place(parts: &mut Parts, held: &Held, entry: &Entry, (te, worker): (bool, &Worker)) -> Result<(), Refusal> {
    if parts.version >= Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    parts.headers.remove(header::EXPECT);
    match (held, &entry.route.credential) {
        (Held::Bearer { token, .. }, _) => {
            parts.headers.insert(header::AUTHORIZATION, token.authorization().clone());
            entry.metrics.bearer.inc();
        }
        (Held::Other, CredentialRule::LegacySecret { header, value }) => {
            parts.headers.insert(header.clone(), value.clone());
            entry.metrics.legacy_secret.inc();
        }
        (Held::Other, CredentialRule::Token(_)) => {
            // Cannot be: a token route holds a token or has been refused. Nothing goes out unauthenticated.
            return Err(Refusal::new(Reason::TokenUnavailable, "There is no token for this route."));
        }
        (Held::Other, _) => {}
    }
    if te {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers::append_via(&mut parts.headers, worker.shared.via(parts.version));
    Ok(())
}

/// RFC 9113 §8.2.3: crumbs of an HTTP/2 `Cookie` are one field again for everyone else.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// A request that is about to leave.
struct Outgoing {
    request: Request<RequestBody>,
    progress: Rc<Progress>,
}

impl Outgoing {
    async fn new(parts: Parts, body: Incoming, entry: &Entry, destination: &Destination) -> Result<Self, Refusal> {
        let progress = Progress::new();
        let limit = entry.route.limits.request_body;
        let known = body.size_hint().exact();
        let too_large = || Refusal::new(Reason::BodyTooLarge, "The body is larger than its route allows.");
        if limit.is_some_and(|limit| known.is_some_and(|size| size > limit)) {
            return Err(too_large());
        }
        let keep = |size: u64| entry.route.replay_max_body.is_some_and(|max| size <= max as u64);
        let body = if body.is_end_stream() {
            RequestBody::Kept(None)
        } else {
            let rules = UploadRules { limit, idle: entry.route.timeouts.idle, reserved: Arc::clone(&entry.reserved) };
            let streamed = RequestBody::streamed(body, rules, &progress);
            if known.is_some_and(keep) { streamed.keep(&progress).await? } else { streamed }
        };
        let mut request = Request::from_parts(parts, body);
        *request.uri_mut() = Uri::from(destination.path.clone());
        *request.extensions_mut() = http::Extensions::new();
        Ok(Self { request, progress })
    }
}

/// Sends it. After a 401 that refuses the token: that token dies, another one is tried once if the request can be repeated.
async fn forward(
    worker: &Rc<Worker>,
    entry: &Entry,
    key: &Arc<Key>,
    outgoing: Outgoing,
    held: Held,
) -> Result<(Response<Incoming>, Lease), Refusal> {
    let repeat = Repeat::of(&outgoing.request);
    let call = Call {
        key,
        timeouts: &entry.route.timeouts,
        guard: &worker.shared.guard,
        progress: &outgoing.progress,
        repeat: repeat.as_ref(),
    };
    let told = |error| report(entry, key, error);
    let (response, lease) = send(&worker.pool, &call, outgoing.request).await.map_err(told)?;
    let (Held::Bearer { token, user }, Some(slot)) = (held, &entry.slot) else { return Ok((response, lease)) };
    if !refuses_token(&response) {
        return Ok((response, lease));
    }
    let Some(repeat) = &repeat else {
        worker.shared.tokens.discard(slot, user, &token);
        entry.metrics.not_replayed.inc();
        return Ok((response, lease));
    };
    let other = Box::pin(worker.shared.tokens.replace(slot, user, &token)).await;
    let Some(other) = other.ok().filter(|other| !Arc::ptr_eq(other, &token)) else {
        entry.metrics.not_replayed.inc();
        return Ok((response, lease));
    };
    entry.metrics.replayed.inc();
    drop((response, lease));
    let mut request = repeat.request();
    request.headers_mut().insert(header::AUTHORIZATION, other.authorization().clone());
    Box::pin(send(&worker.pool, &Call { repeat: None, ..call }, request)).await.map_err(told)
}

/// RFC 6750 §3.1: `invalid_token`. A 401 that names no error is taken likewise, since many servers say no more.
fn refuses_token(response: &Response<Incoming>) -> bool {
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

/// The log gets the whole story, the agent what it can use.
pub(super) fn report(entry: &Entry, key: &Key, error: SendError) -> Refusal {
    let (route, upstream) = (&entry.route.name, key.authority());
    if let SendError::Upload(_) = error {
        tracing::info!(%route, %error, "a request was given up: its body did not come as it should");
    } else {
        tracing::warn!(%route, %upstream, %error, "a request did not get an answer from its upstream");
    }
    Refusal::from(error)
}

type Attached = (Lease, Option<(HeaderValue, OnUpgrade)>, InFlight);

fn answer(
    worker: &Rc<Worker>,
    entry: &Entry,
    mut response: Response<Incoming>,
    attached: Attached,
) -> Result<Response<AgentBody>, Refusal> {
    let (lease, upgrade, in_flight) = attached;
    let idle = entry.route.timeouts.idle;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return upgrade::relay(response, upgrade, (idle, in_flight, lease));
    }
    let version = response.version();
    headers::strip_response(response.headers_mut());
    headers::append_via(response.headers_mut(), worker.shared.via(version));
    Ok(response.map(|body| AgentBody::Upstream(Box::new(Streamed::new(body, idle, lease, in_flight)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_token_is_one_field() {
        let name = header::HeaderName::from_static("x-user-token");
        let mut headers = HeaderMap::new();
        assert_eq!(users_token(&headers, &name).expect_err("missing").reason, Reason::UserToken);
        headers.append(name.clone(), HeaderValue::from_static("bearer  abc "));
        assert_eq!(users_token(&headers, &name).expect("token"), "abc");
        headers.append(name.clone(), HeaderValue::from_static("def"));
        assert_eq!(users_token(&headers, &name).expect_err("two").reason, Reason::MalformedRequest);
    }

    #[test]
    fn cookies_of_http2_become_one_field() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
