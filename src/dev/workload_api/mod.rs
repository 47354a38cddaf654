//! A SPIFFE Workload API on a Unix socket, like that of a SPIRE agent, with a handle to make it
//! misbehave.
#[expect(missing_docs, reason = "generated code")]
pub mod proto;
mod published;
mod service;

pub use published::Calls;

use crate::clock::{Clock, Timestamp};
use crate::dev::ca::{Svid, SvidRequest, TrustDomain};
use crate::sync::lock;
use crate::tasks::{Stop, Stopper, Tasks};
use anyhow::Context;
use proto::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use proto::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};
use published::{Issued, Mode, Published};
use service::Service;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
pub use tonic::Code;
use tonic::transport::Server;

/// The Workload API of one trust domain for one workload. Every change is pushed to the open
/// streams as a complete state.
pub struct WorkloadApi {
    socket: PathBuf,
    domain: TrustDomain,
    clock: Clock,
    scenario: Mutex<Scenario>,
    published: watch::Sender<Arc<Published>>,
    calls: Arc<Mutex<Calls>>,
    server: Mutex<Option<Running>>,
    renewal: Mutex<Tasks>,
}

/// What the test or the demo wants to be served.
struct Scenario {
    identities: Vec<SvidRequest>,
    svids: Vec<Svid>,
    federated: Vec<TrustDomain>,
    jwt_svid_ttl: Duration,
    jwt_refusal: Option<Code>,
    mode: Mode,
    epoch: u64,
}

struct Running {
    stopper: Stopper,
    tasks: Tasks,
}

impl fmt::Debug for WorkloadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadApi").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl WorkloadApi {
    /// Binds `socket`, replacing a stale file, and serves. Until [`Self::set_identities`] it
    /// answers `PermissionDenied`.
    pub async fn start(socket: &Path, domain: &TrustDomain, clock: &Clock) -> anyhow::Result<Arc<Self>> {
        let scenario = Scenario {
            identities: Vec::new(),
            svids: Vec::new(),
            federated: Vec::new(),
            jwt_svid_ttl: Duration::from_secs(300),
            jwt_refusal: None,
            mode: Mode::Serve,
            epoch: 0,
        };
        let (published, _) = watch::channel(Arc::new(scenario.publish(domain)));
        let api = Arc::new(Self {
            socket: socket.to_owned(),
            domain: domain.clone(),
            clock: clock.clone(),
            scenario: Mutex::new(scenario),
            published,
            calls: Arc::default(),
            server: Mutex::default(),
            renewal: Mutex::default(),
        });
        api.resume_socket()?;
        Ok(api)
    }

    /// The address in the form of `SPIFFE_ENDPOINT_SOCKET`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How many calls there have been.
    pub fn calls(&self) -> Calls {
        *lock(&self.calls)
    }

    /// Issues these SVIDs with the signing authority and pushes them; the first one is the default
    /// identity (SPIFFE Workload API, "Default Identity"). Ends [`Self::withdraw`] and
    /// [`Self::hang`]. An empty list is answered with `PermissionDenied`.
    pub fn set_identities(&self, identities: &[SvidRequest]) -> anyhow::Result<()> {
        let svids = identities.iter().map(|request| self.domain.x509.issue(request)).collect::<Result<_, _>>()?;
        self.change(|scenario| {
            scenario.identities = identities.to_vec();
            scenario.svids = svids;
            scenario.mode = Mode::Serve;
        });
        Ok(())
    }

    /// Issues the same identities again, with the authority that signs now, and pushes them.
    pub fn rotate(&self) -> anyhow::Result<()> {
        let identities = lock(&self.scenario).identities.clone();
        self.set_identities(&identities)
    }

    /// Pushes the current SVIDs with the trust domain's current bundles, for example after a
    /// `prepare` or a `revoke`.
    pub fn push_bundles(&self) {
        self.change(|_| {});
    }

    /// The SVIDs that were issued last.
    pub fn svids(&self) -> Vec<Svid> {
        lock(&self.scenario).svids.clone()
    }

    /// Pushes exactly this answer, even if it is invalid, to X.509-SVID streams. The next change
    /// replaces it.
    pub fn push_raw(&self, answer: X509svidResponse) {
        let scenario = lock(&self.scenario);
        let mut published = scenario.publish(&self.domain);
        published.x509_svids = answer;
        self.published.send_replace(Arc::new(published));
    }

    /// The answer that is currently pushed, to be modified and given to [`Self::push_raw`].
    pub fn answer(&self) -> X509svidResponse {
        self.published.borrow().x509_svids.clone()
    }

    /// Ends every stream with `PermissionDenied`, which withdraws the identities, and refuses new
    /// streams with it until [`Self::restore`].
    pub fn withdraw(&self) {
        self.refuse(Code::PermissionDenied);
    }

    /// Does the same as [`Self::withdraw`] with another code.
    pub fn refuse(&self, code: Code) {
        self.change(|scenario| scenario.mode = Mode::Refuse(code));
    }

    /// Accepts calls without answering until [`Self::restore`]. Open streams stay silent.
    pub fn hang(&self) {
        self.change(|scenario| scenario.mode = Mode::Hang);
    }

    /// Serves normally again.
    pub fn restore(&self) {
        self.change(|scenario| scenario.mode = Mode::Serve);
    }

    /// Ends every stream with `Unavailable`. New streams are served.
    pub fn close_streams(&self) {
        self.change(|scenario| scenario.epoch += 1);
    }

    /// Pushes the bundles of these foreign trust domains in addition to the trust domain's own
    /// bundle.
    pub fn federate(&self, domains: &[TrustDomain]) {
        self.change(|scenario| scenario.federated = domains.to_vec());
    }

    /// Sets the lifetime of JWT-SVIDs that are issued from now on. The default is five minutes, as
    /// in SPIRE.
    pub fn set_jwt_svid_ttl(&self, ttl: Duration) {
        self.change(|scenario| scenario.jwt_svid_ttl = ttl);
    }

    /// Answers only `FetchJWTSVID` with this error, until it is set to `None`.
    pub fn refuse_jwt_svids(&self, code: Option<Code>) {
        self.change(|scenario| scenario.jwt_refusal = code);
    }

    /// Renews the SVIDs at half of their lifetime from now on, as a SPIRE agent does, for a process
    /// that keeps running.
    pub fn renew_automatically(self: &Arc<Self>) {
        let api = Arc::downgrade(self);
        let mut changes = self.published.subscribe();
        lock(&self.renewal).spawn("svid renewal", async move {
            while let Some(wait) = api.upgrade().map(|api| api.until_renewal()) {
                tokio::select! {
                    changed = changes.changed() => changed.map_err(|error| error.to_string())?,
                    () = tokio::time::sleep(wait) => match api.upgrade() {
                        Some(api) => api.rotate().map_err(|error| error.to_string())?,
                        None => break,
                    },
                }
            }
            Ok(())
        });
    }

    /// Closes every connection and removes the socket, as a SPIRE agent does when it stops.
    pub async fn remove_socket(&self) {
        let Some(mut running) = lock(&self.server).take() else { return };
        self.close_streams();
        running.stopper.stop();
        running.tasks.next_end().await;
        // It does not matter if the file is already gone.
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Creates the socket, with a new inode, and serves on it.
    pub fn resume_socket(&self) -> anyhow::Result<()> {
        // A stale file of an earlier process would make the bind fail. Normally there is none.
        let _ = std::fs::remove_file(&self.socket);
        let listener =
            UnixListener::bind(&self.socket).with_context(|| format!("cannot listen on {}", self.socket.display()))?;
        let service = Service { published: self.published.subscribe(), calls: Arc::clone(&self.calls) };
        let (stopper, stop) = Stop::pair();
        let mut tasks = Tasks::default();
        tasks.spawn("workload api", serve(listener, service, stop));
        *lock(&self.server) = Some(Running { stopper, tasks });
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Scenario)) {
        let mut scenario = lock(&self.scenario);
        change(&mut scenario);
        self.published.send_replace(Arc::new(scenario.publish(&self.domain)));
    }

    /// The time until half of the shortest remaining lifetime has passed; a long time if there is
    /// no SVID.
    fn until_renewal(&self) -> Duration {
        let first: Option<Timestamp> = lock(&self.scenario).svids.iter().map(|svid| svid.not_after).min();
        let day = Duration::from_secs(24 * 3600);
        first.map_or(day, |expiry| (expiry.since(self.clock.now()) / 2).max(Duration::from_secs(1)))
    }
}

impl Scenario {
    fn publish(&self, domain: &TrustDomain) -> Published {
        let own = domain.x509.bundle_der();
        let svid = |svid: &Svid| X509svid {
            spiffe_id: svid.id.clone(),
            x509_svid: svid.chain_der().into(),
            x509_svid_key: svid.key.clone().into(),
            bundle: own.clone().into(),
            hint: svid.hint.clone(),
        };
        let x509 = |domain: &TrustDomain| (domain.spiffe_id(), domain.x509.bundle_der().into());
        let jwt = |domain: &TrustDomain| (domain.spiffe_id(), domain.jwt.bundle().to_string().into());
        let everyone = || self.federated.iter().chain([domain]);
        Published {
            mode: if self.svids.is_empty() && self.mode == Mode::Serve {
                Mode::Refuse(Code::PermissionDenied)
            } else {
                self.mode
            },
            epoch: self.epoch,
            x509_svids: X509svidResponse {
                svids: self.svids.iter().map(svid).collect(),
                crl: Vec::new(),
                federated_bundles: self.federated.iter().map(x509).collect::<HashMap<_, _>>(),
            },
            x509_bundles: X509BundlesResponse { crl: Vec::new(), bundles: everyone().map(x509).collect() },
            jwt_bundles: JwtBundlesResponse { bundles: everyone().map(jwt).collect() },
            identities: self
                .svids
                .iter()
                .map(|svid| Issued { spiffe_id: svid.id.clone(), hint: svid.hint.clone() })
                .collect(),
            jwt: domain.jwt.clone(),
            jwt_svid_ttl: self.jwt_svid_ttl,
            jwt_refusal: self.jwt_refusal,
        }
    }
}

async fn serve(listener: UnixListener, service: Service, mut stop: Stop) -> Result<(), String> {
    Server::builder()
        .add_service(SpiffeWorkloadApiServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move { stop.stopped().await })
        .await
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
