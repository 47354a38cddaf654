//! The identity source against a Workload API that starts late, sends wrong updates, hangs, stops
//! and returns.
mod jwt_svid;
mod stream;

use idjag_proxy::clock::Clock;
use idjag_proxy::dev::ca::{SvidRequest, TrustDomain};
use idjag_proxy::dev::workload_api::WorkloadApi as SpireAgent;
use idjag_proxy::identity::{
    BackoffRange, Identity, Metrics, MissingKind, SourceStatus, WorkloadApi, WorkloadApiSettings, WorkloadApiTiming,
    parse_endpoint,
};
use idjag_proxy::tasks::{Stop, Stopper, Tasks};
use idjag_proxy::telemetry::Registrar;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const ID: &str = "spiffe://example.org/agent";
const AUDIENCE: &str = "https://as.example";

/// A running identity source, whose SPIRE agent may start later.
struct Fixture {
    directory: tempfile::TempDir,
    domain: TrustDomain,
    clock: Clock,
    registrar: Registrar,
    identity: Identity,
    _tasks: Tasks,
    _stopper: Stopper,
}

impl Fixture {
    fn start() -> Self {
        Self::with(None, |_| {})
    }

    fn with(hint: Option<&str>, change: impl FnOnce(&mut WorkloadApiTiming)) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let clock = Clock::shiftable();
        let registrar = Registrar::default();
        let mut timing = WorkloadApiTiming {
            connect: Duration::from_secs(5),
            first_message: Duration::from_millis(300),
            jwt_svid: Duration::from_millis(300),
            usable_svid: Duration::from_secs(3600),
            backoff: BackoffRange { first: Duration::from_millis(10), longest: Duration::from_millis(50) },
            rejected_backoff: Duration::from_millis(300),
        };
        change(&mut timing);
        let settings = WorkloadApiSettings {
            socket: parse_endpoint(&format!("unix://{}", socket(&directory).display())).expect("endpoint"),
            hint: hint.map(str::to_owned),
            timing,
        };
        let metrics = Metrics::new(&registrar).expect("metrics");
        let (source, identity) = WorkloadApi::new(settings, clock.clone(), metrics);
        let (stopper, stop) = Stop::pair();
        let mut tasks = Tasks::default();
        tasks.spawn("workload api client", source.run(stop));
        let domain = TrustDomain::new("example.org", &clock).expect("authorities");
        Self { directory, domain, clock, registrar, identity, _tasks: tasks, _stopper: stopper }
    }

    async fn spire_agent(&self) -> Arc<SpireAgent> {
        SpireAgent::start(&socket(&self.directory), &self.domain, &self.clock).await.expect("agent")
    }

    /// Starts a source and its SPIRE agent, and waits for the SVID.
    async fn served() -> (Self, Arc<SpireAgent>) {
        let fixture = Self::start();
        let spire_agent = fixture.spire_agent().await;
        spire_agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
        fixture.until_in_use(&spire_agent).await;
        (fixture, spire_agent)
    }

    async fn until(&self, wanted: impl Fn(&SourceStatus) -> bool) {
        until(|| wanted(&self.identity.status())).await;
    }

    async fn until_waiting_for(&self, words: &str) {
        self.until(|status| status.waiting_for.as_ref().is_some_and(|why| why.contains(words))).await;
    }

    /// Waits until readers get the SVID that the SPIRE agent issued last.
    async fn until_in_use(&self, spire_agent: &SpireAgent) {
        let chain = spire_agent.svids()[0].chain.clone();
        until(|| self.identity.current().is_ok_and(|snapshot| snapshot.svid.chain == chain)).await;
    }

    fn missing(&self) -> Option<MissingKind> {
        self.identity.current().err().map(|missing| missing.kind)
    }

    fn metric(&self, series: &str) -> f64 {
        let text = self.registrar.encode().expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("idjag_proxy_{series} ")));
        line.expect("a series").parse().expect("a number")
    }

    fn refused(&self) -> f64 {
        self.metric("svid_updates_total{result=\"refused\"}")
    }
}

fn socket(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("agent.sock")
}

async fn until(wanted: impl Fn() -> bool) {
    let waiting = async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("the condition holds before the deadline");
}
