//! Gets a connection for a request: from the pool, or a new one, which a task of its own makes.
use super::config::PoolKey;
use super::connect::{NewConnection, connect};
use super::error::SendError;
use super::origin::{Connection, OriginPool, Reuse};
use super::pool::Pool;
use super::queue::{Caller, Connecting, OVERDUE};
use super::retry::pauses;
use crate::proxy::guard::Guard;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What a new connection needs.
#[derive(Clone, Copy)]
pub(super) struct Dialing<'c> {
    pub(super) pool: &'c Rc<Pool>,
    pub(super) key: &'c Arc<PoolKey>,
    pub(super) guard: &'c Guard,
    pub(super) timeout: Duration,
    /// Whether another connection is tried if one cannot be made.
    pub(super) is_retried: bool,
}

impl Dialing<'_> {
    /// A connection of the pool that can take a request now. It waits one turn of the runtime for a
    /// connection that is about to become ready.
    pub(super) async fn pooled(&self, origin: &Rc<OriginPool>) -> Option<Connection> {
        origin.budget().record_request(Instant::now());
        if let Some(connection) = self.take(origin, Reuse::Any) {
            return Some(connection);
        }
        if origin.has_pending() {
            tokio::task::yield_now().await;
            return self.take(origin, Reuse::Any);
        }
        None
    }

    /// A connection that was not idle, and a new one if need be. Retries up to four times, within
    /// the connect timeout, if connecting or the HTTP handshake fails or no descriptor is left:
    /// nothing was sent, and the upstream may be restarting.
    pub(super) async fn fresh(&self, origin: &Rc<OriginPool>) -> Result<Connection, SendError> {
        let deadline = Instant::now() + self.timeout;
        let mut pauses = pauses().filter(|_| self.is_retried);
        loop {
            let error = match self.wait(origin, deadline).await {
                Ok(connection) => return Ok(connection),
                Err(error) if error.is_worth_another_connection() => error,
                Err(error) => return Err(error),
            };
            if matches!(error, SendError::NoDescriptor) {
                self.pool.evict_idle();
            }
            // Nothing notifies us when an upstream that is restarting listens again.
            match pauses.next().filter(|pause| Instant::now() + *pause < deadline) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn wait(&self, origin: &Rc<OriginPool>, deadline: Instant) -> Result<Connection, SendError> {
        let (mut caller, mut reuse, mut place) = (Caller::New, Reuse::NoIdle, None);
        loop {
            if let Some(connection) = self.take(origin, reuse) {
                return Ok(connection);
            }
            // The place in the queue is kept while the caller looks again.
            let waiting = place.get_or_insert_with(|| origin.wait());
            if let Some(connecting) = origin.begin_connecting(caller) {
                self.make(origin, connecting);
            }
            (caller, reuse) = (Caller::Waiting, Reuse::Any);
            let now = Instant::now();
            match timeout_at(deadline.min(now + OVERDUE), waiting.result()).await {
                Ok(Some(result)) => return result,
                Ok(None) => place = None,
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return Err(SendError::ConnectTimeout),
            }
        }
    }

    fn take(&self, origin: &Rc<OriginPool>, reuse: Reuse) -> Option<Connection> {
        origin.take(reuse, self.key.revision(), Instant::now())
    }

    /// Makes a connection in a task, whether or not the caller stays.
    fn make(&self, origin: &Rc<OriginPool>, connecting: Connecting<Connection>) {
        let attempt = Attempt {
            pool: Rc::clone(self.pool),
            origin: Rc::clone(origin),
            key: Arc::clone(self.key),
            guard: self.guard.clone(),
            deadline: Instant::now() + self.timeout,
        };
        tokio::task::spawn_local(attempt.run(connecting));
    }
}

/// A connection that is being made.
struct Attempt {
    pool: Rc<Pool>,
    origin: Rc<OriginPool>,
    key: Arc<PoolKey>,
    guard: Guard,
    deadline: Instant,
}

impl Attempt {
    async fn run(self, connecting: Connecting<Connection>) {
        let made = timeout_at(self.deadline, connect(&self.pool, &self.key, &self.guard)).await;
        let connection = match made.unwrap_or(Err(SendError::ConnectTimeout)) {
            Ok(connection) => connection,
            Err(error) => return connecting.fail(&error),
        };
        if connection.established().revision != self.key.revision() {
            // The identity has changed in the meantime, so those who wait look again.
            return;
        }
        match connection {
            NewConnection::Http1(connection) => self.origin.add_http1(connection),
            NewConnection::Http2 { connection, received } => {
                // One request is sent at once. The others wait until the peer has said how many
                // streams it allows: its settings are the first frame (RFC 9113 §3.4).
                if !self.origin.add_http2(&connection) {
                    return;
                }
                if timeout_at(self.deadline, received.first()).await.is_ok() && !connection.sender.is_closed() {
                    self.origin.learn(connection.streams.max());
                    self.origin.serve(&connection);
                }
            }
        }
    }
}
