//! A world on loopback for one test: a Workload API, an authorization server, an upstream, and the
//! real proxy in front of them.
use super::agent::{self, Http1, Reply};
use bytes::Bytes;
use http_body_util::Full;
use idjag_proxy::app::bind;
use idjag_proxy::clock::Clock;
use idjag_proxy::config::{Overrides, Source};
use idjag_proxy::dev::authorization_server::{
    Authentication, AuthorizationServer, Client, Delegation, KeySource, Setup,
};
use idjag_proxy::dev::ca::{SvidRequest, TrustDomain, WebCa};
use idjag_proxy::dev::http::ServerTls;
use idjag_proxy::dev::resource_server::{ResourceServer, TokenRule};
use idjag_proxy::dev::workload_api::WorkloadApi;
use idjag_proxy::tasks::{Ended, Stop, Stopper, Tasks};
use serde_json::{Value, json};
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The audience of the tokens that the API accepts.
pub(crate) const RESOURCE: &str = "https://api.test/";
/// The longest time that a test waits for a condition. No test asserts anything about it.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A key that must be seen by the upstream and nobody else.
pub(crate) const LEGACY_KEY: &str = "canary-legacy-key-3f1b";

/// The servers that a proxy talks to, and the directory and clock that they share with it.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) clock: Clock,
    pub(crate) domain: TrustDomain,
    pub(crate) workload_api: Arc<WorkloadApi>,
    pub(crate) corp: AuthorizationServer,
    pub(crate) api: ResourceServer,
}

impl World {
    /// Starts a world whose API requires tokens of `corp` for [`RESOURCE`]. The agent may act for
    /// alice and bob.
    pub(crate) async fn start() -> Self {
        let world = Self::with_open_api().await;
        world.api.require_tokens(world.token_rule());
        world
    }

    /// The rule that a token was issued by `corp` for [`RESOURCE`].
    fn token_rule(&self) -> TokenRule {
        TokenRule {
            issuer: self.corp.issuer().to_owned(),
            keys: KeySource::Authority(self.corp.keys().clone()),
            audience: RESOURCE.to_owned(),
            scopes: Vec::new(),
        }
    }

    /// Starts a world whose API accepts requests without a token.
    pub(crate) async fn with_open_api() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let clock = Clock::shiftable();
        let domain = TrustDomain::new("example.org", &clock).expect("authorities");
        let socket = directory.path().join("agent.sock");
        let workload_api = WorkloadApi::start(&socket, &domain, &clock).await.expect("workload api");
        let corp = AuthorizationServer::start(&Setup::default(), &clock).await.expect("authorization server");
        let api = ResourceServer::start(None, &clock).await.expect("resource server");
        let world = Self { directory, clock, domain, workload_api, corp, api };
        world.workload_api.set_identities(&[SvidRequest::new(&world.agent_id())]).expect("issued");
        world.corp.trust_domain(&world.domain);
        let client = Client::agent(&world.agent_id(), Authentication::SpiffeJwt);
        world.corp.register(client.scopes(&["read", "write"]));
        let secret = Client::new("by-secret", Authentication::SecretPost("canary-client-secret-77".to_owned()));
        world.corp.register(secret.scopes(&["read", "write"]));
        world.corp.policy(|policy| {
            for user in ["alice", "bob"] {
                let subject = format!("user:{user}");
                policy.delegations.push(Delegation { actor: world.agent_id(), subject });
            }
            policy.default_audience = RESOURCE.to_owned();
        });
        world.write("legacy-key", LEGACY_KEY);
        world.write("client-secret", "canary-client-secret-77");
        world
    }

    /// Starts an API over HTTP/2 and TLS that requires the same tokens, and returns it with routes to it:
    /// `api.test`, `user.test` and `open.test`. Each worker has one connection to it for each
    /// route.
    pub(crate) async fn http2_api(&self) -> (ResourceServer, String) {
        let ca = WebCa::new(&self.clock).expect("authority");
        self.write("ca.pem", &ca.certificate_pem());
        let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("certificate"));
        let api = ResourceServer::start(Some(&tls), &self.clock).await.expect("server");
        api.require_tokens(self.token_rule());
        let url = api.url();
        let routes = [
            tls_route("api", "token: itself", &url),
            tls_route("user", "token: for-user", &url),
            tls_route("open", "token: none", &url),
        ];
        (api, format!("routes:\n{}", routes.concat()))
    }

    pub(crate) fn agent_id(&self) -> String {
        self.domain.workload("agent")
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    /// The ID token that `user` received at login, issued to this agent.
    pub(crate) fn id_token(&self, user: &str) -> String {
        self.user_token(&json!({ "sub": format!("user:{user}") }), Duration::from_secs(3600))
    }

    /// An ID token with these claims, which override the usual ones.
    pub(crate) fn user_token(&self, claims: &Value, ttl: Duration) -> String {
        let mut all = json!({ "iss": self.corp.issuer(), "aud": self.agent_id() });
        for (name, value) in claims.as_object().expect("claims") {
            all[name] = value.clone();
        }
        self.corp.keys().mint("JWT", ttl, all).expect("minted")
    }

    /// The start of every configuration; the routes are appended to it.
    pub(crate) fn preamble(&self) -> String {
        let issuer = self.corp.issuer();
        format!(
            "identity: {{ workload_api: {{ socket: \"{}\" }} }}
listen: {{ outbound: [\"127.0.0.1:0\"], metrics: [\"127.0.0.1:0\"], admin: \"unix://{}\" }}
authorization_servers:
  corp: {{ issuer: \"{issuer}\", client_auth: spiffe_jwt }}
tokens:
  itself: {{ flow: {{ client_credentials: {{ server: corp }} }}, scopes: [read] }}
  for-user:
    flow: {{ self_issued: {{ server: corp, grant: token_exchange }} }}
    subject: {{ header: {{ name: x-user-token, server: corp, type: id_token }} }}
    resource: {RESOURCE}
    scopes: [read]
workers: 2
",
            self.workload_api.endpoint(),
            self.directory.path().join("admin.sock").display(),
        )
    }

    /// One route of each kind, all of them to the API.
    pub(crate) fn routes(&self) -> String {
        let api = self.api.url();
        format!(
            "drain: {{ idle: 20ms, deadline: 20s }}
routes:
  - {{ name: api, match: {{ host: api.test }}, alias: short, token: itself, upstream: {{ url: {api} }} }}
  - {{ name: user, match: {{ host: user.test }}, token: for-user, upstream: {{ url: {api} }} }}
  - {{ name: open, match: {{ host: open.test }}, token: none, upstream: {{ url: {api} }} }}
  - name: legacy
    match: {{ host: legacy.test }}
    legacy_secret: {{ file: legacy-key, header: x-api-key }}
    upstream: {{ url: {api} }}
"
        )
    }

    /// Starts a proxy with [`Self::routes`] and waits until it is ready.
    pub(crate) async fn proxy(&self) -> Proxy {
        let routes = self.routes();
        self.proxy_with(&routes).await
    }

    /// Starts a proxy with these routes, or other top-level keys, and waits until it is ready.
    pub(crate) async fn proxy_with(&self, routes: &str) -> Proxy {
        let proxy = self.start_proxy(routes).await;
        proxy.until_ready().await;
        proxy
    }

    /// Starts a proxy with these routes, without waiting until it is ready.
    pub(crate) async fn start_proxy(&self, routes: &str) -> Proxy {
        // An earlier proxy that was dropped ends only when the runtime gets to its tasks. Until then
        // it holds the socket.
        let admin = self.directory.path().join("admin.sock");
        until(async || tokio::net::UnixStream::connect(&admin).await.is_err(), "the earlier proxy's end").await;
        let path = self.write("proxy.yaml", &format!("{}{routes}", self.preamble()));
        Proxy::start(&path, &self.clock)
    }
}

/// A route for the host `NAME.test` with these other keys, to an upstream without TLS.
pub(crate) fn route(name: &str, keys: &str, url: &str) -> String {
    format!("  - {{ name: {name}, match: {{ host: {name}.test }}, {keys}, upstream: {{ url: \"{url}\" }} }}\n")
}

/// A route like those of [`route`], to an upstream with a certificate of the authority in `ca.pem`.
pub(crate) fn tls_route(name: &str, keys: &str, url: &str) -> String {
    let upstream = format!("url: \"{url}\", tls: {{ server: {{ ca_file: ca.pem }} }}");
    format!("  - {{ name: {name}, match: {{ host: {name}.test }}, {keys}, upstream: {{ {upstream} }} }}\n")
}

/// A running proxy, which stops when it is dropped.
pub(crate) struct Proxy {
    addresses: Addresses,
    stopper: Stopper,
    tasks: Tasks,
}

/// The addresses of a proxy, in this process or another.
pub(crate) struct Addresses {
    pub(crate) outbound: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) admin: Option<PathBuf>,
    /// The listener that publishes keys; only known for a proxy in this process.
    pub(crate) jwks: Option<SocketAddr>,
}

impl Deref for Proxy {
    type Target = Addresses;

    fn deref(&self) -> &Addresses {
        &self.addresses
    }
}

impl Proxy {
    pub(crate) fn start(path: &Path, clock: &Clock) -> Self {
        super::log::capture();
        let source =
            Source { path: path.to_owned(), environment: Arc::new(|_: &str| None), overrides: Overrides::default() };
        let loaded = source.load().unwrap_or_else(|problems| panic!("{problems}"));
        let bound = bind(loaded, source, clock, None).expect("bound");
        let bound_to = bound.addresses().clone();
        let (stopper, stop) = Stop::pair();
        let mut tasks = Tasks::default();
        tasks.spawn("proxy", bound.run(stop));
        let addresses = Addresses {
            outbound: bound_to.outbound[0],
            metrics: bound_to.metrics[0],
            admin: bound_to.admin,
            jwks: bound_to.jwks.first().copied(),
        };
        Self { addresses, stopper, tasks }
    }

    /// Starts the drain.
    pub(crate) fn drain(&self) {
        self.stopper.stop();
    }

    /// Waits until the proxy has ended.
    pub(crate) async fn ended(&mut self) -> Ended {
        within(self.tasks.next_end(), "the proxy's end").await
    }
}

impl Addresses {
    /// Sends a `GET` in absolute form.
    pub(crate) async fn get(&self, url: &str) -> Reply {
        agent::get(self.outbound, url, &[]).await
    }

    /// Sends a `GET` on behalf of the user that this token names.
    pub(crate) async fn get_for(&self, token: &str, url: &str) -> Reply {
        agent::get(self.outbound, url, &[("x-user-token", token)]).await
    }

    /// Fetches a probe or `/metrics`.
    pub(crate) async fn probe(&self, path: &str) -> Reply {
        agent::get(self.metrics, &format!("http://{}{path}", self.metrics), &[]).await
    }

    /// Opens a connection to each of the two workers, which are told apart by their own connections
    /// to the [`World::http2_api`].
    pub(crate) async fn each_worker(&self, api: &ResourceServer) -> [Http1<Full<Bytes>>; 2] {
        let mut found = Vec::new();
        let looking = async {
            while found.len() < 2 {
                let mut agent = Http1::connect(self.outbound).await;
                // The API refuses it for want of a token, but records it.
                agent.get("http://open.test/x", &[]).await;
                let connection = api.last_request().expect("seen").connection;
                if found.iter().all(|(known, _)| *known != connection) {
                    found.push((connection, agent));
                }
            }
        };
        within(looking, "a connection to each worker").await;
        let mut agents = found.into_iter().map(|(_, agent)| agent);
        std::array::from_fn(|_| agents.next().expect("two"))
    }

    pub(crate) async fn scrape(&self) -> String {
        self.probe("/metrics").await.text()
    }

    /// The sum of the series with this name, without the prefix `idjag_proxy_`, and these labels.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        value(&self.scrape().await, &format!("idjag_proxy_{series}"))
    }

    /// The number of file descriptors that the proxy's process has open.
    pub(crate) async fn descriptors(&self) -> f64 {
        value(&self.scrape().await, "process_open_fds")
    }

    pub(crate) async fn until_metric(&self, series: &str, wanted: impl Fn(f64) -> bool) {
        until(async || wanted(self.metric(series).await), series).await;
    }

    /// Waits until no request is in flight and the agent holds no connection.
    pub(crate) async fn until_idle(&self) {
        let idle = async || {
            let status = self.status().await;
            status["requests"] == 0 && status["connections"] == 0
        };
        until(idle, "nothing is in flight and no connection is held").await;
    }

    pub(crate) async fn until_ready(&self) {
        until(async || self.probe("/readyz").await.status == 200, "ready").await;
    }

    /// Reads `/status` from the admin socket.
    pub(crate) async fn status(&self) -> Value {
        let path = self.admin.as_ref().expect("an admin socket");
        let mut stream = tokio::net::UnixStream::connect(path).await.expect("connected");
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await.expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("read");
        let body = &text[text.find('{').unwrap_or(text.len())..];
        serde_json::from_str(&body[..=body.rfind('}').unwrap_or(0)]).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// The sum of the series that have the name and all labels of `wanted`.
fn value(text: &str, wanted: &str) -> f64 {
    let parts = |series: &str| -> (String, Vec<String>) {
        let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
        (name.to_owned(), labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect())
    };
    let (name, labels) = parts(wanted);
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (its_name, its_labels) = parts(series);
        let has_all = its_name == name && labels.iter().all(|label| its_labels.contains(label));
        has_all.then(|| value.parse::<f64>().expect("a number"))
    });
    let values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "no series {wanted} in\n{text}");
    values.iter().sum()
}

/// Waits until `wanted` holds.
pub(crate) async fn until(wanted: impl AsyncFn() -> bool, what: &str) {
    let waiting = async {
        while !wanted().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(waiting, what).await;
}

/// Waits for `future`, and fails the test instead of letting it hang.
pub(crate) async fn within<F: Future>(future: F, what: &str) -> F::Output {
    tokio::time::timeout(TEST_TIMEOUT, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}
