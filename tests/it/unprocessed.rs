//! HTTP/2 upstreams that accept no more streams, or report that they did not process a request:
//! which requests are sent again on another connection, and which must not be.
use super::agent::{Http2, Reply, full};
use super::frames::{self, Frames, HEADERS, REFUSED_STREAM, SETTINGS, WINDOW_UPDATE, frame};
use super::world::{Proxy, World, route, until, within};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The proxy uses HTTP/2 with a plain upstream for gRPC calls only (RFC 9113 §3.3).
fn call(method: &Method, host: &str, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(format!("http://{host}.test/x"));
    request.header("content-type", "application/grpc").body(full(body)).expect("request")
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, url)
}

async fn proxy(world: &World, url: &str) -> Proxy {
    let once = route("once", "token: itself", url);
    let kept = route("kept", "token: itself, replay: { max_body: 1KiB }", url);
    world.proxy_with(&format!("routes:\n{once}{kept}")).await
}

/// Fails if the proxy refused the request, which it reports with a gRPC code.
fn assert_answered(reply: &Reply) {
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, ""), "{reply:?}");
}

/// An upstream that allows a limited number of streams on a connection, and answers once the test
/// lets it.
struct Limited {
    /// The connection of each request, in the order of arrival.
    requests: watch::Receiver<Vec<usize>>,
    answers: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Limited {
    fn start(listener: TcpListener, streams: u32) -> Self {
        let (seen, requests) = watch::channel(Vec::new());
        let (answers, released) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            let seen = Arc::new(seen);
            for number in 0.. {
                let (stream, _) = listener.accept().await.expect("accepted");
                let connection =
                    LimitedConnection { number, streams, seen: Arc::clone(&seen), released: released.clone() };
                connections.spawn(connection.serve(stream));
            }
        });
        Self { requests, answers, _task: task }
    }

    /// The connections that requests arrived on, once there are `count` of them.
    async fn wait_for_arrivals(&mut self, count: usize) -> Vec<usize> {
        let reached = self.requests.wait_for(|seen| seen.len() >= count);
        within(reached, "a request at the upstream").await.expect("a running upstream").clone()
    }
}

/// One connection of a [`Limited`] upstream.
struct LimitedConnection {
    number: usize,
    streams: u32,
    seen: Arc<watch::Sender<Vec<usize>>>,
    released: watch::Receiver<bool>,
}

impl LimitedConnection {
    async fn serve(self, stream: TcpStream) {
        let mut builder = h2::server::Builder::new();
        let mut connection =
            builder.max_concurrent_streams(self.streams).handshake::<_, Bytes>(stream).await.expect("handshake");
        let mut answers = JoinSet::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            self.seen.send_modify(|seen| seen.push(self.number));
            let mut released = self.released.clone();
            answers.spawn(async move {
                released.wait_for(|released| *released).await.expect("a running test");
                respond.send_response(Response::new(()), true).expect("sent");
            });
        }
    }
}

#[tokio::test]
async fn requests_spread_over_http2_connections_up_to_a_limit() {
    for (streams, calls, expected) in [(2, 5, vec![0, 0, 1, 1, 2]), (1, 32, (0..32).collect())] {
        let world = World::with_open_api().await;
        let (listener, url) = listen().await;
        let mut upstream = Limited::start(listener, streams);
        let proxy = proxy(&world, &url).await;
        let agent = Http2::connect(proxy.outbound).await;
        let mut replies = JoinSet::new();
        let mut start = || {
            let mut sender = agent.sender.clone();
            replies.spawn(async move { sender.send_request(call(&Method::POST, "once", "")).await });
        };
        for n in 1..=calls {
            start();
            upstream.wait_for_arrivals(n).await;
        }
        assert_eq!(upstream.wait_for_arrivals(calls).await, expected);
        if calls == 32 {
            // The limit of connections is reached, so these wait for a stream on one of them.
            (0..3).for_each(|_| start());
            until(async || proxy.status().await["requests"] == 35, "the last requests are at the proxy").await;
        }
        upstream.answers.send_replace(true);
        while let Some(reply) = within(replies.join_next(), "the answers").await {
            assert_answered(&Reply::of(reply.expect("no panic").expect("an answer")).await);
        }
        let connections = *expected.last().expect("some") + 1;
        assert_eq!(proxy.metric("upstream_connections{state=\"idle\"}").await, connections as f64);
        assert!(upstream.requests.borrow().iter().all(|number| *number < connections));
    }
}

#[tokio::test]
async fn upstream_gets_one_stream_until_it_states_its_limit() {
    let world = World::with_open_api().await;
    let (listener, url) = listen().await;
    let proxy = proxy(&world, &url).await;
    let agent = Http2::connect(proxy.outbound).await;
    let mut replies = JoinSet::new();
    let mut start = || {
        let mut sender = agent.sender.clone();
        replies.spawn(async move { sender.send_request(call(&Method::POST, "once", "")).await });
    };
    start();
    let (stream, _) = within(listener.accept(), "a connection").await.expect("accepted");
    let mut connection = Frames::greeted(stream).await.expect("a preface");
    connection.until(HEADERS, 1).await;
    start();
    until(async || proxy.status().await["requests"] == 2, "both requests are at the proxy").await;
    // The second request waits for the settings, and then shares the connection.
    connection.write(frames::settings(&[])).await;
    let mut order = Vec::new();
    while order.last() != Some(&HEADERS) {
        order.push(within(connection.next(), "a frame").await.expect("an open connection").kind);
    }
    assert!(order.contains(&SETTINGS), "a stream before the settings were read: {order:?}");
    connection.write([frames::ok(1), frames::ok(3)].concat()).await;
    while let Some(reply) = within(replies.join_next(), "the answers").await {
        assert_answered(&Reply::of(reply.expect("no panic").expect("an answer")).await);
    }
}

/// What an upstream does with the second request of a case. It answers all others.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// It refuses the stream, so it did not process it (RFC 9113 §8.7).
    RefusesStream,
    /// It sends a GOAWAY whose last stream is an earlier one, so it did not process it (RFC 9113
    /// §6.8).
    ExcludesStream,
    /// It sends a GOAWAY that includes the stream, so it may have processed it.
    IncludesStream,
    /// It resets the stream with an error that says nothing about processing.
    CancelsStream,
    /// It closes the connection.
    ClosesConnection,
    /// It violates the protocol, so the proxy ends the connection with a GOAWAY of its own.
    ViolatesProtocol,
}

impl Failure {
    fn frames(self, stream: u32) -> Option<Vec<u8>> {
        match self {
            Self::RefusesStream => Some(frames::reset_with(REFUSED_STREAM, stream)),
            Self::ExcludesStream => Some(frames::goaway(stream - 2)),
            Self::IncludesStream => Some(frames::goaway(stream)),
            Self::CancelsStream => Some(frames::reset(stream)),
            Self::ClosesConnection => None,
            // An increment of 0 is an error (RFC 9113 §6.9).
            Self::ViolatesProtocol => Some(frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        }
    }

    fn ends_the_connection(self) -> bool {
        !matches!(self, Self::RefusesStream | Self::CancelsStream)
    }
}

/// What the upstream does next, and the number of requests of this case that it has received.
type Plan = Arc<Mutex<(Failure, usize)>>;

async fn serve_failing(listener: TcpListener, plan: Plan) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let plan = Arc::clone(&plan);
        connections.spawn(async move {
            let mut connection = Frames::accept(stream).await?;
            loop {
                let frame = connection.next().await?;
                if frame.kind != HEADERS {
                    continue;
                }
                let (failure, count) = {
                    let mut plan = plan.lock().expect("no panic");
                    plan.1 += 1;
                    *plan
                };
                if count != 2 {
                    connection.write(frames::ok(frame.stream)).await;
                    continue;
                }
                connection.write(failure.frames(frame.stream)?).await;
                if failure.ends_the_connection() {
                    return Some(());
                }
            }
        });
    }
}

#[tokio::test]
async fn only_unprocessed_requests_are_sent_again() {
    use Failure::{CancelsStream, ClosesConnection, ExcludesStream, IncludesStream, RefusesStream, ViolatesProtocol};
    let world = World::with_open_api().await;
    let (listener, url) = listen().await;
    let plan = Plan::new(Mutex::new((RefusesStream, 0)));
    let mut task = JoinSet::new();
    task.spawn(serve_failing(listener, Arc::clone(&plan)));
    let proxy = proxy(&world, &url).await;
    let mut agent = Http2::connect(proxy.outbound).await;
    let requests = [
        (Method::GET, "once", ""),
        (Method::POST, "once", ""),
        (Method::POST, "kept", "a body that is kept"),
        (Method::POST, "once", "a body that is not"),
    ];
    for (failure, repeated) in [
        (RefusesStream, [true, true, true, false]),
        (ExcludesStream, [true, true, true, false]),
        // An idempotent request may be sent again when a connection ends (RFC 9110 §9.2.2).
        (IncludesStream, [true, false, false, false]),
        (ClosesConnection, [true, false, false, false]),
        (CancelsStream, [false; 4]),
        (ViolatesProtocol, [false; 4]),
    ] {
        for ((method, host, body), repeated) in requests.iter().zip(repeated) {
            *plan.lock().expect("no panic") = (failure, 0);
            assert_answered(&agent.send(call(&Method::GET, host, "")).await);
            let reply = agent.send(call(method, host, body)).await;
            let seen = plan.lock().expect("no panic").1;
            let expected = if repeated { ("", 3) } else { ("14", 2) };
            assert_eq!((reply.header("grpc-status"), seen), expected, "{failure:?} {method} {body:?}: {reply:?}");
        }
    }
}
