use super::*;
use crate::dev::authorization_server::KeySource;
use crate::dev::ca::{JwtAlgorithm, JwtAuthority};
use crate::dev::faults::{Fault, Gate};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

fn client() -> HttpClient<HttpConnector, Full<Bytes>> {
    HttpClient::builder(TokioExecutor::new()).build_http()
}

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

#[tokio::test]
async fn token_is_checked_and_never_echoed() {
    let server = ResourceServer::start(None, &Clock::system()).await.unwrap();
    let keys = JwtAuthority::new(JwtAlgorithm::Es256, &Clock::system()).unwrap();
    server.require_tokens(TokenRule {
        issuer: "https://as".into(),
        keys: KeySource::Authority(keys.clone()),
        audience: "https://api".into(),
        scopes: vec![ScopeRule { methods: vec!["POST"], path: "/".into(), scope: "write".into() }],
    });
    let url = format!("{}/v1/events?day=1", server.url());
    let minute = Duration::from_secs(60);
    let claims = |aud: &str| json!({ "iss": "https://as", "sub": "alice", "aud": aud, "scope": "read" });
    let good = keys.mint("at+jwt", minute, claims("https://api")).unwrap();
    let id_token = keys.mint("JWT", minute, claims("https://api")).unwrap();
    let elsewhere = keys.mint("at+jwt", minute, claims("https://other")).unwrap();
    assert_eq!(client().request(get(&url)).await.unwrap().status(), 401);
    for (token, method, expected) in
        [(&good, "GET", 200), (&id_token, "GET", 401), (&elsewhere, "GET", 401), (&good, "POST", 403)]
    {
        let request = Request::builder().method(method).uri(&url).header("authorization", format!("Bearer {token}"));
        let response = client().request(request.body(Full::from("hi")).unwrap()).await.unwrap();
        assert_eq!(response.status(), expected);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&body).contains(token.as_str()));
        if expected == 200 {
            let echo: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&echo["path"], &echo["claims"]["sub"]), (&json!("/v1/events?day=1"), &json!("alice")));
            assert_eq!(echo["body"]["length"], 2);
        }
    }
}

#[tokio::test]
async fn events_reach_open_streams() {
    let server = ResourceServer::start(None, &Clock::system()).await.unwrap();
    let mut response = client().request(get(&format!("{}/sse", server.url()))).await.unwrap();
    server.wait_for_listeners(1).await;
    assert_eq!(server.send_event("one"), 1);
    let frame = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame, "data: one\n\n");
    server.end_events();
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn websocket_echoes() {
    let server = ResourceServer::start(None, &Clock::system()).await.unwrap();
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let url = format!("ws://{}/ws", server.address());
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}

#[tokio::test]
async fn grpc_status_is_in_the_trailers() {
    let server = ResourceServer::start(None, &Clock::system()).await.unwrap();
    let h2 = HttpClient::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let request = Request::post(format!("{}/echo.Echo/Unary", server.url())).header("content-type", "application/grpc");
    let response = h2.request(request.body(Full::from("message")).unwrap()).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "message");
}

#[tokio::test]
async fn queued_fault_applies_once_and_streams_have_their_length() {
    let server = ResourceServer::start(None, &Clock::system()).await.unwrap();
    let client = client();
    server.faults().next(Fault::invalid_token());
    let url = format!("{}/bytes/100000", server.url());
    assert_eq!(client.request(get(&url)).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let body = client.request(get(&url)).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 100_000);
    let gate = Gate::default();
    server.faults().next(Fault::HoldBody(gate.clone()));
    let held = client.request(get(&url)).await.unwrap();
    gate.open();
    assert_eq!(held.into_body().collect().await.unwrap().to_bytes().len(), 100_000);
    let broken = client.request(get(&format!("{}/broken", server.url()))).await.unwrap();
    assert!(broken.into_body().collect().await.is_err());
    assert_eq!(server.arrivals(), 4);
}
