//! Accepts connections and serves them.
use super::connections::{Activity, Connections};
use super::response::FullResponse;
use crate::sync::lock;
use crate::tasks::Stop;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// The largest number of connections at one time, of all servers that share a budget. A scraper, a
/// kubelet and an operator need few, and identity and tokens need the other half of the descriptors
/// that the agent's traffic leaves.
const CONNECTIONS: usize = 32;
/// How long a new connection waits until it looks again for one that gives way.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The connections that several servers may have together. Clones share them.
#[derive(Clone)]
pub struct ConnectionBudget {
    connections: Arc<Mutex<Connections<()>>>,
    permits: Arc<Semaphore>,
}

impl Default for ConnectionBudget {
    fn default() -> Self {
        Self { connections: Arc::default(), permits: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl ConnectionBudget {
    /// Waits for a permit for one more connection. If there is none left, a connection gives way.
    async fn permit(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return permit;
            }
            // The connections that were accepted before are polled first: one whose request has
            // arrived does not count as silent.
            tokio::task::yield_now().await;
            lock(&self.connections).give_way(|()| true);
            let freed = Arc::clone(&self.permits).acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK_AGAIN, freed).await {
                return permit;
            }
        }
    }
}

/// A server, and what it needs besides its listener.
pub(crate) struct Server<H> {
    pub(crate) handler: H,
    pub(crate) budget: ConnectionBudget,
    pub(crate) stop: Stop,
}

impl<H, F> Server<H>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = FullResponse> + Send + 'static,
{
    /// Serves until `stop` fires; open connections are closed then.
    pub(crate) async fn serve<A: Accept>(self, listener: A) -> Result<(), String> {
        let Self { handler, budget, mut stop } = self;
        loop {
            let accepted = tokio::select! {
                () = stop.stopped() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let Ok(stream) = accepted else {
                // Most likely the process is out of file descriptors. Without a pause this loop
                // would spin until some are free.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let permit = tokio::select! {
                () = stop.stopped() => return Ok(()),
                permit = budget.permit() => permit,
            };
            let (handler, mut stop) = (handler.clone(), stop.clone());
            lock(&budget.connections).spawn((), |activity| async move {
                let _permit = permit;
                tokio::select! {
                    () = stop.stopped() => {}
                    () = serve_connection(stream, handler, activity) => {}
                }
            });
        }
    }
}

async fn serve_connection<S, H, F>(stream: S, handler: H, activity: Activity)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = FullResponse> + Send + 'static,
{
    let stream = activity.watch(stream);
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

#[cfg(test)]
mod tests {
    use super::super::response::text;
    use super::*;
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn connection_stays_until_its_response_has_been_written() {
        let mut connections = Connections::default();
        let (mut client, stream) = tokio::io::duplex(64);
        let handler = |_| async { text(StatusCode::OK, vec![b'x'; 4096]) };
        connections.spawn((), |activity| serve_connection(stream, handler, activity));
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("open");
        // The stream holds 64 bytes, so that the end of 4096 is not written before most are read.
        let mut start = [0; 2048];
        client.read_exact(&mut start).await.expect("open");
        assert!(connections.give_way(|()| true).is_none(), "the response is being written");
        let closed = async {
            while connections.give_way(|()| true).is_none() {
                tokio::task::yield_now().await;
            }
        };
        let rest = async { client.read_to_end(&mut Vec::new()).await };
        let (rest, ()) = tokio::join!(rest, closed);
        assert!(rest.expect("the end") > 2048, "closed early");
    }
}
