//! Accepts connections and serves them.
use super::connections::{Activity, Connections};
use super::response::FullResponse;
use crate::tasks::Stop;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A TCP or Unix listener.
pub(crate) trait Accept: Send {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

impl Accept for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> std::io::Result<Self::Stream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Accept for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> std::io::Result<Self::Stream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// The largest number of connections at one time. A scraper, a kubelet and an operator need few, and
/// identity and tokens need the other half of the descriptors that the agent's traffic leaves.
const CONNECTIONS: usize = 32;

/// Serves until `stop` fires; open connections are closed then.
pub(crate) async fn serve<A, H, F>(listener: A, handler: H, mut stop: Stop) -> Result<(), String>
where
    A: Accept,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = FullResponse> + Send + 'static,
{
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            () = stop.stopped() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let Ok(stream) = accepted else {
            // Most likely the process is out of file descriptors. Without a pause this loop would
            // spin until some are free.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if connections.count() >= CONNECTIONS {
            if connections.give_way(|()| true).is_none() {
                tokio::select! {
                    () = stop.stopped() => return Ok(()),
                    () = connections.one_ended() => {}
                }
            }
            // The connections that were accepted before are polled first: one whose request has
            // arrived does not count as silent.
            tokio::task::yield_now().await;
        }
        connections.spawn((), |activity| serve_connection(stream, handler.clone(), activity));
    }
}

async fn serve_connection<S, H, F>(stream: S, handler: H, activity: Activity)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = FullResponse> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answering = activity.begin_request();
        let response = handler(request);
        async move {
            let _answering = answering;
            Ok::<_, Infallible>(response.await)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30)).max_buf_size(16 * 1024);
    // A broken connection affects its own client only.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
