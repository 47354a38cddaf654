//! Accepts the agent's connections.
use super::detect::{Protocol, detect};
use super::serve::{Downstream, Place, ReceivedRequest, Server};
use crate::proxy::agent_listener::{AgentStream, Listen};
use crate::proxy::guard::Guard;
use crate::proxy::traffic::Traffic;
use bytes::Bytes;
use http::Response;
use http_body::Body;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Accepts connections for one worker.
pub(crate) struct Acceptor<H> {
    pub(crate) server: Server,
    pub(crate) traffic: Traffic,
    pub(crate) guard: Guard,
    /// One permit for each connection of the agent, on all workers together.
    pub(crate) permits: Arc<Semaphore>,
    /// Releases file descriptors that are not in use.
    pub(crate) evict_idle: Box<dyn Fn()>,
    /// Answers the requests.
    pub(crate) handler: H,
}

impl<H, F, B> Acceptor<H>
where
    H: Fn(ReceivedRequest) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Accepts and serves connections until the runtime ends.
    pub(crate) async fn run<L: Listen>(self: Rc<Self>, listener: L) {
        let mut shortage = Shortage::default();
        loop {
            let mut stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    // Most likely no file descriptor is left.
                    shortage.wait(&error).await;
                    continue;
                }
            };
            let stream = loop {
                stream = match self.guard.admit(stream) {
                    Ok(stream) => break stream,
                    Err(stream) => stream,
                };
                (self.evict_idle)();
                shortage.wait(&"the last file descriptors are reserved for probes, the identity and tokens").await;
            };
            shortage.failures = 0;
            // Taken only now: a listener without connections must not hold a permit that another
            // one could use.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
            let acceptor = Rc::clone(&self);
            let place = Place::Own { _permit: permit, _connected: self.traffic.count_connection() };
            tokio::task::spawn_local(async move { acceptor.serve(stream, place).await });
        }
    }

    async fn serve<S: AgentStream>(&self, stream: S, place: Place) {
        let Ok(local) = stream.local() else { return };
        if let Err(error) = stream.configure() {
            tracing::debug!(%error, "a socket option was refused");
        }
        let detected = tokio::time::timeout(self.server.head_timeout(), detect(stream)).await;
        let Ok(Ok(stream)) = detected else { return };
        let downstream = Downstream::new(local, place);
        match stream.protocol {
            Protocol::Nothing => {}
            Protocol::Tls => {
                tracing::warn!("a client spoke TLS to the outbound port; it takes plain HTTP: http://{local}");
            }
            Protocol::Http1 | Protocol::Http2 => self.server.serve(downstream, stream, &self.handler).await,
        }
    }
}

/// A shortage of file descriptors, in which no connection can be accepted. It is logged at most
/// once a minute.
#[derive(Default)]
struct Shortage {
    failures: u32,
    logged: Option<Instant>,
}

impl Shortage {
    async fn wait(&mut self, why: &(dyn std::fmt::Display + Sync)) {
        self.failures += 1;
        if self.logged.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
            self.logged = Some(Instant::now());
            tracing::error!(error = %why, "a connection could not be accepted");
        }
        // Nothing notifies us when a descriptor becomes free: we try again after growing pauses, at
        // least twice a second.
        tokio::time::sleep(Duration::from_millis(10) * self.failures.min(50)).await;
    }
}
