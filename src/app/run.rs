//! Runs a bound proxy: names every task, and stops them in order.
use super::bind::Bound;
use super::components::Components;
use super::drain::{Drained, drain};
use super::listeners::Addresses;
use crate::admin::{AdminSocket, ReloadStatus, RouteStatus, Status, serve_jwks};
use crate::http_server::ConnectionBudget;
use crate::proxy::{AgentListener, Shared, Traffic, run_worker};
use crate::tasks::{Ended, Stop, Tasks};
use crate::telemetry::Logs;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long background work has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(2);

/// The threads of the data plane.
struct Workers {
    threads: Vec<JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<String>,
}

impl Bound {
    /// Runs until `stop` fires and the drain has ended, or until a task fails.
    ///
    /// # Errors
    /// The task that failed, and why.
    pub async fn run(self, mut stop: Stop) -> Result<(), String> {
        let (data_stopper, data_stop) = Stop::pair();
        let (control_stopper, control_stop) = Stop::pair();
        // The listeners stay here until the end: dropping them removes the files of the sockets,
        // also when this future is dropped because of a second signal.
        let Bound { workers, addresses, mut listeners, components, owners, watch, reload, logs } = self;
        let config = &reload.current.config;
        let process = config.process.clone();
        announce(&addresses, config.policy.routes().len());
        let by_worker = listeners.by_worker(workers).map_err(|error| format!("the listeners failed: {error}"))?;
        let mut workers = Workers::start(&components.shared, by_worker, &data_stop)?;
        let mut tasks = Tasks::default();
        if let Some(task) = owners.identity {
            tasks.spawn("identity", task.run(components.identity_needed.subscribe(), control_stop.clone()));
        }
        tasks.spawn("tokens", owners.tokens.run(control_stop.clone()));
        let budget = ConnectionBudget::default();
        for listener in std::mem::take(&mut listeners.metrics) {
            let endpoint = components.endpoint.clone();
            tasks.spawn("metrics", endpoint.serve(listener.socket, budget.clone(), control_stop.clone()));
        }
        for listener in std::mem::take(&mut listeners.jwks) {
            let keys = Arc::clone(&components.published);
            tasks.spawn("jwks", serve_jwks(listener.socket, keys, budget.clone(), control_stop.clone()));
        }
        if let Some(socket) = &listeners.admin {
            let listener = socket.listener().map_err(|error| format!("the admin listener failed: {error}"))?;
            let status = Arc::new(status(&components, &reload.status, logs.clone()));
            tasks.spawn("admin", AdminSocket { listener, status, logs, budget }.run(control_stop.clone()));
        }
        tasks.spawn("config-watch", watch.run(control_stop.clone()));
        components.obtain_eager_grants().await;
        tasks.spawn("config-reload", reload.run(control_stop.clone()));
        let ended = tokio::select! {
            () = stop.stopped() => Ok(()),
            ended = tasks.next_end() => Err(unexpected_end(&ended)),
            Some(ended) = workers.ended.recv() => Err(ended),
        };
        if ended.is_ok() {
            components.health.drain();
            let traffic = components.shared.traffic();
            traffic.drain();
            log_drain(drain(traffic, process.drain_idle, process.drain_deadline).await, traffic);
            traffic.cut_off();
        }
        data_stopper.stop();
        control_stopper.stop();
        tokio::join!(tasks.shutdown(GRACE), workers.join(GRACE));
        ended
    }
}

impl Workers {
    fn start(shared: &Arc<Shared>, by_worker: Vec<Vec<AgentListener>>, stop: &Stop) -> Result<Self, String> {
        let (sender, ended) = mpsc::unbounded_channel();
        let mut threads = Vec::with_capacity(by_worker.len());
        for (index, listeners) in by_worker.into_iter().enumerate() {
            let (shared, stop, sender) = (Arc::clone(shared), stop.clone(), sender.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let run = || run_worker(shared, listeners, index, stop.clone());
                let ended = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                    Ok(Ok(())) if stop.is_stopped() => return,
                    Ok(Ok(())) => "it ended".to_owned(),
                    Ok(Err(error)) => error,
                    Err(_) => "it panicked".to_owned(),
                };
                // An error means that the process is already stopping.
                let _ = sender.send(format!("worker {index} stopped unexpectedly: {ended}"));
            });
            threads.push(thread.map_err(|error| format!("worker {index} could not start: {error}"))?);
        }
        Ok(Self { threads, ended })
    }

    /// Waits for workers that were asked to stop, at most for `grace`, because a thread cannot be
    /// ended from outside.
    async fn join(self, grace: Duration) {
        let joined =
            tokio::task::spawn_blocking(|| self.threads.into_iter().map(JoinHandle::join).all(|joined| joined.is_ok()));
        if !matches!(tokio::time::timeout(grace, joined).await, Ok(Ok(true))) {
            tracing::warn!("a worker did not end in time");
        }
    }
}

fn unexpected_end(ended: &Ended) -> String {
    let why = ended.result.as_ref().err().map_or("it ended", String::as_str);
    format!("the task `{}` stopped unexpectedly: {why}", ended.name)
}

fn announce(addresses: &Addresses, routes: usize) {
    tracing::info!(
        outbound = ?addresses.outbound,
        outbound_sockets = ?addresses.outbound_sockets,
        metrics = ?addresses.metrics,
        admin = addresses.admin.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string()),
        routes,
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
}

fn log_drain(drained: Drained, traffic: &Traffic) {
    match drained {
        Drained::Idle => tracing::info!("drained: the agent is idle"),
        Drained::Deadline => tracing::warn!(
            requests = traffic.requests(),
            connections = traffic.connections(),
            "the drain deadline has passed; the remaining connections are closed"
        ),
    }
}

fn status(
    components: &Components,
    reloaded: &Arc<ArcSwap<ReloadStatus>>,
    logs: Option<Logs>,
) -> impl Fn() -> Status + Send + Sync + use<> {
    let (components, reloaded) = (components.clone(), Arc::clone(reloaded));
    move || {
        let ready = components.health.readiness();
        let table = components.shared.table();
        let identity = components.identity.as_ref().filter(|_| table.needs_identity());
        let now = components.clock.now();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: ready.is_ok(),
            waiting_for: ready.waiting_for,
            log_level: logs.as_ref().map(Logs::level).unwrap_or_default(),
            config: (**reloaded.load()).clone(),
            identity: identity.map(|identity| identity.status().into()),
            routes: table.routes().map(|(route, slot)| RouteStatus::new(route, slot, now)).collect(),
            requests: components.shared.traffic().requests(),
            connections: components.shared.traffic().connections(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hanging_worker_does_not_delay_the_end() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || assert!(held.recv().is_err()));
        let (_sender, ended) = mpsc::unbounded_channel();
        let joining = Workers { threads: vec![thread], ended }.join(Duration::from_millis(10));
        tokio::time::timeout(Duration::from_secs(60), joining).await.expect("ended without it");
        drop(release);
    }
}
