//! The endpoints of the API.
use super::{ApiState, ReceivedRequest};
use crate::dev::http::{Body, Connection, full};
use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

const CHUNK: usize = 16 * 1024;

impl ApiState {
    pub(super) async fn endpoint(
        &self,
        request: Request<Incoming>,
        connection: &Arc<Connection>,
        received: &mut ReceivedRequest,
    ) -> Response<Body> {
        if is_grpc(request.headers()) {
            return grpc(request).await;
        }
        let path = request.uri().path().to_owned();
        match path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), "")) {
            ("sse", "") => sse(self.events.subscribe()),
            ("ws", "") => websocket(request, connection),
            ("trailers", "") => with_trailer(),
            ("bytes", count) => bytes(count.parse().unwrap_or(0)),
            ("status", code) => empty(code.parse().unwrap_or(StatusCode::BAD_REQUEST)),
            ("reject", "") => empty(StatusCode::PAYLOAD_TOO_LARGE),
            ("broken", "") => broken(),
            _ => echo(request, received).await,
        }
    }
}

/// Whether the media type is `application/grpc` or has a message format, as in
/// `application/grpc+proto`. gRPC-Web is another type.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
    kind.split(|byte| matches!(byte, b'+' | b';')).next() == Some(b"application/grpc")
}

async fn echo(request: Request<Incoming>, received: &mut ReceivedRequest) -> Response<Body> {
    let mut body = request.into_body();
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        // The client disconnected, and nobody reads the answer.
        let Ok(frame) = frame else { break };
        match frame.into_data() {
            Ok(data) => {
                length += data.len() as u64;
                digest.update(&data);
            }
            Err(frame) => received.trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let digest = digest.finish();
    let hex = digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    received.body = Some((length, hex));
    let mut response = Response::new(full(format!("{:#}\n", received.to_json())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn sse(events: broadcast::Receiver<Option<String>>) -> Response<Body> {
    let frames = stream::unfold(events, |mut events| async move {
        // An error means that a slow reader has lost events, or that the server has stopped.
        let event = events.recv().await.ok().flatten()?;
        let frame = Frame::data(Bytes::from(format!("data: {event}\n\n")));
        Some((Ok::<_, Infallible>(frame), events))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// Accepts a WebSocket (RFC 6455 §4.2.2) and echoes every message.
fn websocket(mut request: Request<Incoming>, connection: &Connection) -> Response<Body> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return empty(StatusCode::UPGRADE_REQUIRED);
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    connection.spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let echoed = message.is_text() || message.is_binary();
            if echoed && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Answers like a unary gRPC method: it echoes the message, followed by the status.
async fn grpc(request: Request<Incoming>) -> Response<Body> {
    let grpc_status = HeaderName::from_static("grpc-status");
    let failure = request.headers().get("x-grpc-fail").cloned();
    let mut response = match failure {
        // A Trailers-Only response has everything in the header.
        Some(status) => {
            let mut response = empty(StatusCode::OK);
            response.headers_mut().insert(grpc_status, status);
            response
        }
        None => {
            // The client disconnected: nobody reads the answer.
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let mut trailers = HeaderMap::new();
            trailers.insert(grpc_status, HeaderValue::from_static("0"));
            Response::new(followed_by(body, trailers))
        }
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn with_trailer() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("42"));
    let mut response = Response::new(followed_by(Bytes::from_static(b"a body with a trailer\n"), trailers));
    // HTTP/1.1 only sends trailers that were announced.
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-checksum"));
    response
}

fn followed_by(body: Bytes, trailers: HeaderMap) -> Body {
    // Of unknown length: over HTTP/1.1 only a chunked body has trailers.
    let frames = [Frame::data(body), Frame::trailers(trailers)];
    StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>))).boxed_unsync()
}

fn bytes(count: u64) -> Response<Body> {
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let frames = stream::unfold(count, move |left| {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let frame = Frame::data(chunk.slice(..size));
        async move { (left > 0).then(|| (Ok::<_, Infallible>(frame), left - size as u64)) }
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn broken() -> Response<Body> {
    let frames = stream::unfold(true, |first| async move {
        if first {
            return Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"half"))), false));
        }
        // The error is delayed, so that hyper writes the header and the first half while it waits.
        tokio::task::yield_now().await;
        None
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("1000"));
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}
