//! A worker: one thread with its own runtime, listeners and connections, so that a request stays on
//! one core.
use super::agent_listener::{AgentListener, CheckedUnixListener};
use super::downstream::{Acceptor, Server};
use super::outbound::{Context, Shared, handle};
use super::runtime::block_on;
use super::upstream::{Pool, Resolver};
use crate::tasks::Stop;
use crate::token::Delegated;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Runs the worker with the number `index` on the calling thread until `stop` fires.
///
/// # Errors
/// The runtime or a listener cannot start.
pub fn run_worker(
    shared: Arc<Shared>,
    listeners: Vec<AgentListener>,
    index: usize,
    mut stop: Stop,
) -> Result<(), String> {
    let ended = block_on(async move {
        let context = Rc::new(Context {
            pool: Pool::new(shared.metrics.upstream.clone(), Resolver::system()),
            delegated: RefCell::new(Delegated::new(shared.limits.delegated)),
            server: Server::new(&shared.limits, shared.metrics.unread.clone(), shared.traffic.clone()),
            shared,
        });
        accept(&context, listeners)?;
        tokio::task::spawn_local(tick(context, index));
        stop.stopped().await;
        Ok(())
    });
    ended.map_err(|error| format!("a worker's runtime could not start: {error}"))?
}

/// Accepts the agent's connections.
fn accept(context: &Rc<Context>, listeners: Vec<AgentListener>) -> Result<(), String> {
    let (shared, pool) = (&context.shared, Rc::clone(&context.pool));
    let handler = {
        let context = Rc::clone(context);
        move |request| handle(Rc::clone(&context), request)
    };
    let acceptor = Rc::new(Acceptor {
        server: context.server.clone(),
        traffic: shared.traffic.clone(),
        guard: shared.guard.clone(),
        permits: Arc::clone(&shared.connection_permits),
        evict_idle: Box::new(move || pool.evict_idle()),
        handler,
    });
    for listener in listeners {
        let failed = |error| format!("a listener failed: {error}");
        let acceptor = Rc::clone(&acceptor);
        match listener {
            AgentListener::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
                tokio::task::spawn_local(acceptor.run(listener));
            }
            AgentListener::Unix { listener, uids } => {
                let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
                let listener = CheckedUnixListener::new(listener, uids, shared.metrics.refused_peers.clone());
                tokio::task::spawn_local(acceptor.run(listener));
            }
        }
    }
    Ok(())
}

/// Sweeps the pool twice a second. The timer also keeps the runtime's next wake-up near: otherwise
/// every request's head timer would have to wake the driver for an earlier one.
async fn tick(context: Rc<Context>, index: usize) {
    let mut interval = tokio::time::interval(Duration::from_millis(500));
    loop {
        interval.tick().await;
        context.shared.pulse.beat(index);
        context.pool.sweep();
    }
}
