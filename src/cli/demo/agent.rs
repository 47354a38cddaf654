//! The agent: a client that knows its proxy, but nothing about tokens.
use anyhow::Context;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The answer that the agent received.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: String,
    pub(super) took: Duration,
}

impl Reply {
    /// The duration as in `12.3 ms`.
    pub(super) fn time(&self) -> String {
        format!("{:.1} ms", self.took.as_secs_f64() * 1000.0)
    }

    /// A member of the problem document (RFC 9457) in a refusal.
    pub(super) fn problem(&self, member: &str) -> String {
        let document: Value = serde_json::from_str(&self.body).unwrap_or_default();
        document[member].as_str().unwrap_or("").to_owned()
    }
}

/// Sends a `GET` for an absolute `http://` URL through the proxy, with these header fields and no
/// others.
pub(super) async fn get(proxy: SocketAddr, url: &str, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
    let start = Instant::now();
    let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).context("an http:// URL")?;
    let mut request = Request::get(url).header("host", host);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let stream = TcpStream::connect(proxy).await.with_context(|| format!("no proxy at {proxy}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = request.body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    let (head, body) = tokio::select! {
        reply = &mut exchange => reply?,
        // The connection may end with the last byte of the answer, which has then already arrived.
        ended = &mut connection => {
            ended?;
            exchange.await?
        }
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Reply { status: head.status, body, took: start.elapsed() })
}
