//! Compares what the binary holds before and after an attack: memory, connections, requests.
use super::agent::{Http1, full, request};
use super::binary::{Process, many_descriptors};
use super::world::{Addresses, World, until};
use http::Method;
use std::future::Future;

/// A ready process, and what it held when it was idle.
pub(crate) struct Watched {
    pub(crate) world: World,
    pub(crate) process: Process,
    pub(crate) proxy: Addresses,
    descriptors: f64,
    memory: u64,
}

impl Watched {
    /// Starts the process with this configuration, which contains at least [`World::routes`].
    pub(crate) async fn start(world: World, config: &str) -> Self {
        many_descriptors();
        let config = world.write("process.yaml", config);
        let process = Process::start(&world, &config, "info");
        let proxy = process.ready(&world).await;
        assert_eq!(proxy.get("http://api.test/x").await.status, 200);
        let mut watched = Self { world, process, proxy, descriptors: 0.0, memory: 0 };
        watched.assert_serves_neighbour().await;
        watched.idle().await;
        watched.descriptors = watched.proxy.descriptors().await;
        watched.memory = watched.process.memory("VmHWM");
        watched
    }

    /// Fails unless another agent is served.
    pub(crate) async fn assert_serves_neighbour(&self) {
        let mut agent = Http1::connect(self.proxy.outbound).await;
        for _ in 0..100 {
            let get = request(&Method::GET, "http://api.test/neighbour", &[]).body(full("")).expect("request");
            assert_eq!(agent.send(get).await.status, 200);
        }
    }

    /// Runs the attack for as long as the neighbour sends requests, which must be served.
    pub(crate) async fn attack_with(&self, attack: impl Future<Output = ()>) {
        let attack = async {
            attack.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.assert_serves_neighbour() => {}
            () = attack => {}
        }
    }

    /// Waits until no request is in flight and no connection is open, including those to the
    /// upstream.
    async fn idle(&self) {
        self.proxy.until_idle().await;
        self.world.api.stop().await;
        self.world.api.restart().await.expect("restarted");
        for state in ["active", "idle"] {
            self.proxy.until_metric(&format!("upstream_connections{{state=\"{state}\"}}"), |count| count == 0.0).await;
        }
    }

    /// Fails unless everything that the attack took is released, the process still serves, and its
    /// memory never grew by more than `most` KiB.
    pub(crate) async fn assert_recovered(&mut self, most: u64) {
        self.idle().await;
        until(async || self.proxy.descriptors().await <= self.descriptors, "no descriptor is left open").await;
        self.assert_serves_neighbour().await;
        assert!(self.process.child.try_wait().expect("asked").is_none(), "the process is running");
        let growth = self.process.memory("VmHWM") - self.memory;
        assert!(growth < most, "the process grew by {growth} KiB");
        assert_eq!(self.process.log().matches("panicked").count(), 0);
    }
}
