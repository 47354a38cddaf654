//! One real proxy, started as `idjag-proxy run` would start it.
use crate::app::{Addresses, bind};
use crate::clock::Clock;
use crate::config::{Overrides, Source};
use crate::tasks::{Stop, Stopper, Tasks};
use anyhow::{Context, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest time that a proxy may take to get its identity and become ready.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A running proxy. Dropping it stops it.
pub(super) struct RunningProxy {
    addresses: Addresses,
    config: PathBuf,
    stopper: Stopper,
    tasks: Tasks,
}

impl RunningProxy {
    /// Writes the configuration to `directory` and runs a proxy with it. Returns once the proxy is
    /// ready.
    pub(super) async fn start(name: &str, yaml: &str, directory: &Path) -> anyhow::Result<Self> {
        let config = directory.join(format!("{name}.yaml"));
        std::fs::write(&config, yaml).with_context(|| format!("cannot write {}", config.display()))?;
        let environment = Arc::new(|_: &str| None);
        let source = Source { path: config.clone(), environment, overrides: Overrides::default() };
        let loaded = source.load().map_err(|problems| anyhow::anyhow!("{problems}"))?;
        let bound = bind(loaded, source, &Clock::system(), None)?;
        let addresses = bound.addresses().clone();
        let (stopper, stop) = Stop::pair();
        let mut tasks = Tasks::default();
        tasks.spawn("proxy", bound.run(stop));
        let mut proxy = Self { addresses, config, stopper, tasks };
        proxy.wait_until_ready().await?;
        Ok(proxy)
    }

    /// The address that the agent connects to.
    pub(super) fn outbound(&self) -> anyhow::Result<SocketAddr> {
        self.addresses.outbound.first().copied().context("the proxy has no outbound listener")
    }

    /// The address that serves metrics and probes.
    pub(super) fn metrics(&self) -> anyhow::Result<SocketAddr> {
        self.addresses.metrics.first().copied().context("the proxy has no metrics listener")
    }

    /// The path of its configuration.
    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// Drains and stops the proxy.
    pub(super) async fn stop(mut self) {
        self.stopper.stop();
        self.tasks.next_end().await;
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let address = self.metrics()?;
        let url = format!("http://{address}/readyz");
        let start = Instant::now();
        let mut answer = String::new();
        while start.elapsed() < READY_WITHIN {
            match super::agent::get(address, &url, &[]).await {
                Ok(reply) if reply.status.is_success() => return Ok(()),
                Ok(reply) => answer = reply.body,
                Err(error) => answer = format!("{error:#}"),
            }
            tokio::select! {
                ended = self.tasks.next_end() => bail!("the proxy ended: {:?}", ended.result),
                // Readiness is polled over HTTP, as a kubelet does, because no event announces it.
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
        bail!("the proxy did not become ready: {answer}")
    }
}
