//! Which requests are sent again after a failure, and how many of them.
use super::agent::{Http1, Http2, Reply, full, request};
use super::world::{Proxy, World, route, within};
use futures_util::future::join_all;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use idjag_proxy::dev::faults::Fault;

const EVERYTHING: &str = "token: none, replay: { max_body: 1KiB }, \
                          retries: { attempts: 2, on: [connect, unprocessed, reset, 503] }";

/// Starts a proxy with one route to the API, which has these keys.
async fn proxy(world: &World, keys: &str) -> Proxy {
    world.proxy_with(&format!("routes:\n{}", route("api", keys, &world.api.url()))).await
}

/// Sends a request to an API that always fails like this, and returns the reply with the number of
/// requests that the API got.
async fn requests_after(keys: &str, fault: Fault, method: &Method, body: Vec<u8>) -> (Reply, usize) {
    let world = World::with_open_api().await;
    let proxy = proxy(&world, keys).await;
    world.api.faults().always(fault);
    let call = request(method, "http://api.test/x", &[]).body(full(body)).expect("request");
    let reply = Http1::connect(proxy.outbound).await.send(call).await;
    let requests = world.api.requests().len();
    let retried = proxy.metric("retries_total{outcome=\"retried\",route=\"api\"}").await;
    assert_eq!(requests as f64, retried + 1.0);
    (reply, requests)
}

#[tokio::test]
async fn requests_are_sent_again_as_their_route_says() {
    let status = |status: StatusCode| Fault::status(status);
    let unavailable = || status(StatusCode::SERVICE_UNAVAILABLE);
    let wait = |seconds| unavailable().header(RETRY_AFTER, HeaderValue::from_static(seconds));
    let reset_only = "token: none, retries: { attempts: 1, on: [reset] }";
    for (keys, method, body, fault, expected) in [
        (EVERYTHING, Method::GET, 0, unavailable(), 3),
        (EVERYTHING, Method::DELETE, 0, Fault::HangUp, 3),
        (EVERYTHING, Method::GET, 0, wait("0"), 3),
        // It asks for more time than the agent should wait.
        (EVERYTHING, Method::GET, 0, wait("60"), 1),
        (EVERYTHING, Method::GET, 0, wait("Wed, 21 Oct 2099 07:28:00 GMT"), 1),
        (EVERYTHING, Method::GET, 0, status(StatusCode::BAD_GATEWAY), 1),
        (EVERYTHING, Method::GET, 0, status(StatusCode::INTERNAL_SERVER_ERROR), 1),
        (EVERYTHING, Method::PUT, 100, unavailable(), 3),
        (EVERYTHING, Method::PUT, 100, Fault::HangUp, 3),
        // Its body is not kept.
        (EVERYTHING, Method::PUT, 2000, unavailable(), 1),
        // These may do something twice.
        (EVERYTHING, Method::POST, 0, unavailable(), 1),
        (EVERYTHING, Method::POST, 100, Fault::HangUp, 1),
        (EVERYTHING, Method::PATCH, 100, unavailable(), 1),
        (reset_only, Method::GET, 0, Fault::HangUp, 2),
        (reset_only, Method::GET, 0, unavailable(), 1),
        ("token: none", Method::GET, 0, unavailable(), 1),
        ("token: none", Method::GET, 0, Fault::HangUp, 1),
        ("token: none, retries: { attempts: 0, on: [503] }", Method::GET, 0, unavailable(), 1),
    ] {
        let case = format!("{keys}: {method} {body} {fault:?}");
        let (reply, requests) = requests_after(keys, fault, &method, vec![b'x'; body]).await;
        assert_eq!(requests, expected, "{case}: {reply:?}");
        assert!(reply.status.is_server_error(), "{case}: {reply:?}");
    }
}

#[tokio::test]
async fn request_that_is_sent_again_succeeds_with_its_body_and_credential() {
    let world = World::start().await;
    let keys = EVERYTHING.replace("token: none", "token: itself");
    let proxy = proxy(&world, &keys).await;
    world.api.faults().next(Fault::status(StatusCode::SERVICE_UNAVAILABLE));
    world.api.faults().next(Fault::HangUp);
    let put = request(&Method::PUT, "http://api.test/x", &[]).body(full("a body")).expect("request");
    let reply = Http1::connect(proxy.outbound).await.send(put).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["body"]["length"], 6);
    let seen = world.api.requests();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.headers.contains_key("authorization")));
}

#[tokio::test]
async fn attempt_that_takes_too_long_is_replaced() {
    let world = World::with_open_api().await;
    let gate = idjag_proxy::dev::faults::Gate::default();
    let keys = "token: none, timeouts: { attempt: 300ms }, retries: { on: [reset] }";
    let proxy = proxy(&world, keys).await;
    world.api.faults().next(Fault::Hold(gate.clone()));
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    assert_eq!(world.api.arrivals(), 2);
    gate.open();
}

#[tokio::test]
async fn budget_bounds_the_requests_that_are_sent_again() {
    let world = World::with_open_api().await;
    let proxy = proxy(&world, "token: none, retries: { attempts: 1, on: [503], budget: 10% }").await;
    world.api.faults().always(Fault::status(StatusCode::SERVICE_UNAVAILABLE));
    // One connection of the agent is served by one worker.
    let agent = Http2::connect(proxy.outbound).await;
    let calls = (0..100).map(|_| {
        let mut sender = agent.sender.clone();
        let call = request(&Method::GET, "http://api.test/x", &[]).body(full("")).expect("request");
        async move { within(sender.send_request(call), "an answer").await.expect("an answer").status() }
    });
    let statuses = join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
    let outcome =
        async |outcome: &str| proxy.metric(&format!("retries_total{{outcome=\"{outcome}\",route=\"api\"}}")).await;
    let (retried, over_budget) = (outcome("retried").await, outcome("over_budget").await);
    assert_eq!((retried, over_budget), (30.0, 70.0));
    assert_eq!(world.api.requests().len(), 130);
}
