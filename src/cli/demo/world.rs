//! The peers of the demo and their policies, in memory and on loopback.
use super::proxy::RunningProxy;
use crate::clock::Clock;
use crate::dev::authorization_server::{
    Authentication, AuthorizationServer, Client, Delegation, IdJagAudience, KeySource, Setup, TrustedIssuer,
};
use crate::dev::ca::{SvidRequest, TrustDomain, WebCa};
use crate::dev::http::{ClientCertificates, ServerTls};
use crate::dev::resource_server::{ResourceServer, ScopeRule, TokenRule};
use crate::dev::workload_api::WorkloadApi;
use anyhow::Context;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(super) const CALENDAR: &str = "https://calendar.demo.example/";
pub(super) const WORKER_API: &str = "https://worker.demo.example/";
pub(super) const TRAVEL: &str = "https://travel.partner.example/";
const USER_TOKEN_TTL: Duration = Duration::from_secs(3600);

/// An agent with the Workload API that attests it and the proxy beside it.
pub(super) struct Agent {
    pub(super) name: &'static str,
    pub(super) id: String,
    pub(super) workload_api: Arc<WorkloadApi>,
    pub(super) proxy: RunningProxy,
}

/// Everything that runs in the demo.
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) directory: Directory,
    /// The company's authorization server, where its users log in as well.
    pub(super) corp: AuthorizationServer,
    /// Another company's authorization server.
    pub(super) partner: AuthorizationServer,
    pub(super) calendar: ResourceServer,
    pub(super) worker_api: ResourceServer,
    pub(super) travel: ResourceServer,
    pub(super) bot: Agent,
    pub(super) orchestrator: Agent,
    pub(super) worker: Agent,
}

/// The servers, before the agents are started.
struct Peers {
    clock: Clock,
    domain: TrustDomain,
    corp: AuthorizationServer,
    partner: AuthorizationServer,
    calendar: ResourceServer,
    worker_api: ResourceServer,
    travel: ResourceServer,
}

impl World {
    /// Starts the servers and the agents.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let clock = Clock::system();
        let directory = Directory::new()?;
        let peers = Peers::start(&clock, directory.path()).await?;
        peers.set_policy();
        let bot = peers.agent("calendar-bot", &peers.bot_routes(directory.path()), directory.path()).await?;
        let orchestrator = peers.agent("orchestrator", &peers.orchestrator_routes(), directory.path()).await?;
        let worker = peers.agent("worker", &peers.worker_routes(), directory.path()).await?;
        let Peers { clock, corp, partner, calendar, worker_api, travel, .. } = peers;
        let world = Self { clock, directory, corp, partner, calendar, worker_api, travel, bot, orchestrator, worker };
        world.write_user_tokens()?;
        Ok(world)
    }

    /// The ID token that `user` received on logging in at the company, issued to this agent.
    pub(super) fn id_token(&self, user: &str, agent: &Agent) -> anyhow::Result<String> {
        let claims = json!({ "iss": self.corp.issuer(), "sub": format!("user:{user}"), "aud": agent.id });
        self.corp.keys().mint("JWT", USER_TOKEN_TTL, claims)
    }

    /// Writes alice's and bob's tokens to the files that the curl lines use.
    pub(super) fn write_user_tokens(&self) -> anyhow::Result<()> {
        for user in ["alice", "bob"] {
            fs::write(self.user_token_file(user), self.id_token(user, &self.bot)?)?;
        }
        Ok(())
    }

    /// The path of the file with the token of `user`.
    pub(super) fn user_token_file(&self, user: &str) -> PathBuf {
        self.directory.path().join(format!("{user}.jwt"))
    }

    /// The current time in seconds since the epoch.
    pub(super) fn now(&self) -> u64 {
        self.clock.now().unix_seconds()
    }

    /// Drains the proxies. The peers stop when they are dropped.
    pub(super) async fn stop(self) {
        tokio::join!(self.bot.proxy.stop(), self.orchestrator.proxy.stop(), self.worker.proxy.stop());
    }
}

impl Peers {
    async fn start(clock: &Clock, directory: &Path) -> anyhow::Result<Self> {
        let domain = TrustDomain::new("demo.example", clock)?;
        let corp = AuthorizationServer::start(&Setup::default(), clock).await?;
        let partner = AuthorizationServer::start(&Setup::default(), clock).await?;
        let svid_tls = |path: &str| -> anyhow::Result<ServerTls> {
            let lifetime = Duration::from_secs(30 * 24 * 3600);
            let svid = domain.x509.issue(&SvidRequest::new(&domain.workload(path)).ttl(lifetime))?;
            let clients = ClientCertificates::Required(domain.x509.bundle());
            Ok(ServerTls::new(svid.certified_key()?).clients(clients))
        };
        let calendar = ResourceServer::start(Some(&svid_tls("calendar-api")?), clock).await?;
        let worker_api = ResourceServer::start(Some(&svid_tls("worker")?), clock).await?;
        let web = WebCa::new(clock)?;
        fs::write(directory.join("partner-ca.pem"), web.certificate_pem())?;
        let tls = ServerTls::new(web.server_certificate(&["127.0.0.1", "travel.partner.example"])?);
        let travel = ResourceServer::start(Some(&tls), clock).await?;
        Ok(Self { clock: clock.clone(), domain, corp, partner, calendar, worker_api, travel })
    }

    /// Sets up what administrators would: registrations, scopes, who may act for whom, and what
    /// each API requires.
    fn set_policy(&self) {
        let id = |path: &str| self.domain.workload(path);
        for server in [&self.corp, &self.partner] {
            server.trust_domain(&self.domain);
        }
        let agents: [(&str, &[&str]); 3] = [
            ("calendar-bot", &["rooms:read", "calendar:read", "trips:read"]),
            ("orchestrator", &["tasks:run"]),
            ("worker", &["calendar:read"]),
        ];
        for (name, scopes) in agents {
            self.corp.register(Client::agent(&id(name), Authentication::SpiffeJwt).scopes(scopes));
            let delegation = Delegation { actor: id(name), subject: "user:alice".to_owned() };
            self.corp.policy(|policy| policy.delegations.push(delegation));
        }
        let audience = IdJagAudience { issuer: self.partner.issuer().to_owned(), client_ids: Vec::new() };
        self.corp.policy(|policy| policy.id_jag_audiences.push(audience));
        let bot = Client::agent(&id("calendar-bot"), Authentication::SpiffeJwt);
        self.partner.register(bot.scopes(&["trips:read"]));
        self.partner.trust_issuer(TrustedIssuer {
            issuer: self.corp.issuer().to_owned(),
            keys: KeySource::Url(self.corp.jwks_uri()),
            id_jags: true,
            user_tokens: false,
        });
        self.calendar.require_tokens(token_rule(
            &self.corp,
            CALENDAR,
            &[("/v1/rooms", "rooms:read"), ("/", "calendar:read")],
        ));
        self.worker_api.require_tokens(token_rule(&self.corp, WORKER_API, &[("/", "tasks:run")]));
        self.travel.require_tokens(token_rule(&self.partner, TRAVEL, &[("/", "trips:read")]));
    }

    /// Attests an agent and starts the proxy beside it.
    async fn agent(&self, name: &'static str, routes: &str, directory: &Path) -> anyhow::Result<Agent> {
        let id = self.domain.workload(name);
        let socket = directory.join(format!("{name}.sock"));
        let workload_api = WorkloadApi::start(&socket, &self.domain, &self.clock).await?;
        workload_api.set_identities(&[SvidRequest::new(&id)])?;
        workload_api.renew_automatically();
        let yaml = format!(
            "identity: {{ workload_api: {{ socket: \"{}\" }} }}\n\
             listen: {{ outbound: [\"127.0.0.1:0\"], metrics: [\"127.0.0.1:0\"], admin: \"unix://{}\" }}\n\
             authorization_servers:\n\
             \x20 corp: {{ issuer: \"{}\", client_auth: spiffe_jwt }}\n\
             \x20 partner: {{ issuer: \"{}\", client_auth: spiffe_jwt }}\n\
             allow_plain_http: loopback\n\
             workers: 1\n\
             drain: {{ idle: 50ms, deadline: 2s }}\n\
             {routes}",
            workload_api.endpoint(),
            directory.join(format!("{name}.admin")).display(),
            self.corp.issuer(),
            self.partner.issuer(),
        );
        let proxy =
            RunningProxy::start(name, &yaml, directory).await.with_context(|| format!("the proxy of {name}"))?;
        Ok(Agent { name, id, workload_api, proxy })
    }

    fn bot_routes(&self, directory: &Path) -> String {
        let calendar = self.pinned(&self.calendar, "calendar-api");
        let ca = directory.join("partner-ca.pem");
        format!(
            "tokens:
  itself:
    flow: {{ self_issued: {{ server: corp, grant: token_exchange }} }}
    resource: {CALENDAR}
    scopes: [rooms:read]
  for-user:
    flow: {{ self_issued: {{ server: corp, grant: token_exchange }} }}
    subject: {{ header: {{ name: x-user-token, server: corp, type: id_token }} }}
    resource: {CALENDAR}
    scopes: [calendar:read]
  across:
    flow: {{ id_jag: {{ idp: corp, server: partner }} }}
    subject: {{ header: {{ name: x-user-token, server: corp, type: id_token }} }}
    actor: jwt_svid
    resource: {TRAVEL}
    scopes: [trips:read]
routes:
  - name: rooms
    match: {{ host: calendar.demo.example, path: /v1/rooms }}
    alias: calendar
    token: itself
    upstream: {calendar}
  - name: events
    match: {{ host: calendar.demo.example, path: /v1/events }}
    alias: calendar
    token: for-user
    upstream: {calendar}
  - name: trips
    match: {{ host: travel.partner.example }}
    alias: travel
    token: across
    upstream: {{ url: {}, tls: {{ server: {{ ca_file: {} }} }} }}
",
            self.travel.url(),
            ca.display(),
        )
    }

    fn orchestrator_routes(&self) -> String {
        let worker = self.pinned(&self.worker_api, "worker");
        format!(
            "routes:
  - name: worker
    match: {{ host: worker.demo.example }}
    token:
      flow: {{ self_issued: {{ server: corp, grant: token_exchange }} }}
      subject: {{ header: {{ name: x-user-token, server: corp, type: id_token }} }}
      resource: {WORKER_API}
      scopes: [tasks:run]
    upstream: {worker}
"
        )
    }

    fn worker_routes(&self) -> String {
        let calendar = self.pinned(&self.calendar, "calendar-api");
        format!(
            "routes:
  - name: events
    match: {{ host: calendar.demo.example, path: /v1/events }}
    token:
      flow: {{ self_issued: {{ server: corp, grant: token_exchange }} }}
      subject: {{ header: {{ name: x-user-token, server: corp, type: access_token, audience: [\"{WORKER_API}\"] }} }}
      resource: {CALENDAR}
      scopes: [calendar:read]
    upstream: {calendar}
"
        )
    }

    /// An upstream over mutual TLS where only this SPIFFE ID is accepted.
    fn pinned(&self, server: &ResourceServer, path: &str) -> String {
        let id = self.domain.workload(path);
        let url = server.url();
        format!("{{ url: {url}, tls: {{ server: {{ spiffe_ids: [\"{id}\"] }}, client_certificate: svid }} }}")
    }
}

fn token_rule(server: &AuthorizationServer, audience: &str, scopes: &[(&str, &str)]) -> TokenRule {
    let scope = |(path, scope): &(&str, &str)| ScopeRule {
        methods: Vec::new(),
        path: (*path).to_owned(),
        scope: (*scope).to_owned(),
    };
    TokenRule {
        issuer: server.issuer().to_owned(),
        // The API gets the keys directly, so that the timings shown do not include a JWKS fetch.
        keys: KeySource::Authority(server.keys().clone()),
        audience: audience.to_owned(),
        scopes: scopes.iter().map(scope).collect(),
    }
}

/// A directory for sockets and files that is removed with the demo. Only its owner can enter it.
pub(super) struct Directory(PathBuf);

impl Directory {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("idjag-proxy-demo-{:08x}", fastrand::u32(..)));
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // If removing it fails, what is left is harmless: sockets, configurations, a CA
        // certificate, and tokens that expire within an hour.
        let _ = fs::remove_dir_all(&self.0);
    }
}
