//! Every flow with every client authentication, at an authorization server that shares no code with
//! the client, over TLS.
mod flows;
mod trouble;

use idjag_proxy::clock::Clock;
use idjag_proxy::dev::authorization_server::{
    Authentication, AuthorizationServer as Server, Client, Delegation, IdJagAudience, KeySource, Leg, Setup,
    TrustedIssuer,
};
use idjag_proxy::dev::ca::{JwtAlgorithm, KeyType, SvidRequest, TrustDomain, WebCa};
use idjag_proxy::dev::http::{ClientCertificates, ServerTls};
use idjag_proxy::dev::workload_api::WorkloadApi as SpireAgent;
use idjag_proxy::exchange::{
    ActorToken, AssertionSettings, ExchangeError, Exchanger, Flow, Grant, GrantSpec, IssuedToken, Metrics,
    SelfIssuedGrant, Subject, UserTokenRule,
};
use idjag_proxy::identity::{self, Identity, WorkloadApi, WorkloadApiSettings, WorkloadApiTiming, parse_endpoint};
use idjag_proxy::issuer::{
    AuthorizationServer, ClientAuth, Deadlines, Endpoints, Issuers, PlainHttp, Quirks, Workload,
};
use idjag_proxy::jose::SigningKey;
use idjag_proxy::jose::TokenKind;
use idjag_proxy::secret::Secret;
use idjag_proxy::tasks::{Stop, Stopper, Tasks};
use idjag_proxy::telemetry::Registrar;
use idjag_proxy::tls::{ServerTrust, roots_from_pem};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const BOT: &str = "spiffe://example.org/calendar-bot";
const ORCHESTRATOR: &str = "spiffe://example.org/orchestrator";
const API: &str = "https://api.calendar.example/";

/// A workload with a real identity source, an identity provider and the authorization server of a
/// resource.
struct Fixture {
    clock: Clock,
    domain: TrustDomain,
    ca: WebCa,
    spire_agent: Arc<SpireAgent>,
    identity: Identity,
    exchanger: Exchanger,
    registrar: Registrar,
    idp: Server,
    ras: Server,
    _directory: tempfile::TempDir,
    _tasks: Tasks,
    _stopper: Stopper,
}

impl Fixture {
    async fn start() -> Self {
        Self::with_key(KeyType::P256).await
    }

    async fn with_key(key_type: KeyType) -> Self {
        let (clock, registrar) = (Clock::shiftable(), Registrar::default());
        let domain = TrustDomain::new("example.org", &clock).expect("authorities");
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("agent.sock");
        let spire_agent = SpireAgent::start(&socket, &domain, &clock).await.expect("agent");
        spire_agent.set_identities(&[SvidRequest::new(BOT).key_type(key_type)]).expect("an SVID");
        let settings = WorkloadApiSettings {
            socket: parse_endpoint(&format!("unix://{}", socket.display())).expect("endpoint"),
            hint: None,
            timing: WorkloadApiTiming::default(),
        };
        let metrics = identity::Metrics::new(&registrar).expect("metrics");
        let (source, identity) = WorkloadApi::new(settings, clock.clone(), metrics);
        let (stopper, stop) = Stop::pair();
        let mut tasks = Tasks::default();
        tasks.spawn("workload api client", source.run(stop));
        let _ = identity.changes().wait_for(|_| identity.is_valid()).await;

        let ca = WebCa::new(&clock).expect("an authority");
        let (idp, ras) = (server(&ca, &domain, &clock).await, server(&ca, &domain, &clock).await);
        trust(&idp, &ras);
        let metrics = Metrics::new(&registrar, ["idp", "ras"]).expect("metrics");
        let issuers = Issuers::new(Workload::new(Some(identity.clone()), clock.clone()));
        let exchanger = Exchanger::new(issuers, metrics);
        let (_directory, _tasks, _stopper) = (directory, tasks, stopper);
        Self { clock, domain, ca, spire_agent, identity, exchanger, registrar, idp, ras, _directory, _tasks, _stopper }
    }

    fn described(&self, name: &str, server: &Server, client_auth: ClientAuth) -> AuthorizationServer {
        AuthorizationServer {
            name: name.to_owned(),
            issuer: server.issuer().to_owned(),
            endpoints: Endpoints::Discovered,
            client_id: None,
            client_auth,
            trust: ServerTrust::WebPki(roots_from_pem(self.ca.certificate_pem().as_bytes()).expect("roots").into()),
            plain_http: PlainHttp::default(),
            quirks: Quirks::default(),
            deadlines: Deadlines::default(),
            egress_proxy: None,
        }
    }

    /// The settings of both servers, for a client that authenticates in this way.
    fn servers(&self, method: &Method) -> (Arc<AuthorizationServer>, Arc<AuthorizationServer>) {
        for server in [&self.idp, &self.ras] {
            server.register(Client::agent(BOT, method.theirs.clone()).scopes(&["calendar:*"]));
        }
        let described = |name, server| Arc::new(self.described(name, server, method.ours.clone()));
        (described("idp", &self.idp), described("ras", &self.ras))
    }

    async fn mint(&self, spec: &GrantSpec) -> Result<IssuedToken, ExchangeError> {
        let grant = Grant::new(spec.clone()).expect("a grant");
        self.exchanger.mint(&grant, None).await
    }

    async fn mint_for(&self, spec: &GrantSpec, user: String) -> Result<IssuedToken, ExchangeError> {
        let grant = Grant::new(spec.clone()).expect("a grant");
        self.exchanger.mint(&grant, Some(&Secret::new(user))).await
    }

    /// Alice's ID token from the identity provider, issued to this agent.
    fn alice(&self, changes: &Value) -> String {
        let mut claims = json!({"iss": self.idp.issuer(), "sub": "user:alice", "aud": BOT});
        claims.as_object_mut().expect("claims").extend(changes.as_object().expect("claims").clone());
        self.idp.keys().mint("JWT", Duration::from_secs(120), claims).expect("a token")
    }

    fn may_act(&self, actor: &str) {
        for server in [&self.idp, &self.ras] {
            let delegation = Delegation { actor: actor.to_owned(), subject: "user:alice".to_owned() };
            server.policy(|policy| policy.delegations.push(delegation));
        }
    }
}

async fn server(ca: &WebCa, domain: &TrustDomain, clock: &Clock) -> Server {
    let tls = ServerTls::new(ca.server_certificate(&["127.0.0.1"]).expect("a certificate"))
        .clients(ClientCertificates::Optional(domain.x509.bundle()));
    let server = Server::start(&Setup { tls: Some(tls), ..Setup::default() }, clock).await.expect("a server");
    server.trust_domain(domain);
    server
}

/// Makes the resource's server accept the identity provider's ID-JAGs and its users' tokens.
fn trust(idp: &Server, ras: &Server) {
    ras.trust_issuer(TrustedIssuer {
        issuer: idp.issuer().to_owned(),
        keys: KeySource::Authority(idp.keys().clone()),
        id_jags: true,
        user_tokens: true,
    });
    let audience = IdJagAudience { issuer: ras.issuer().to_owned(), client_ids: Vec::new() };
    idp.policy(|policy| policy.id_jag_audiences.push(audience));
}

/// One client authentication, as each side is configured for it.
struct Method {
    ours: ClientAuth,
    theirs: Authentication,
}

fn method(ours: ClientAuth, theirs: Authentication) -> Method {
    Method { ours, theirs }
}

fn spiffe_jwt() -> Method {
    method(ClientAuth::SpiffeJwt, Authentication::SpiffeJwt)
}

fn methods() -> Vec<Method> {
    let secret = || Secret::new("p:a+s s/%".into());
    let pair = rcgen::KeyPair::generate().expect("a key");
    let key = SigningKey::from_pkcs8_der(pair.serialized_der(), None, None).expect("a key");
    let published = KeySource::Jwks(idjag_proxy::jose::jwks([&key]));
    vec![
        spiffe_jwt(),
        method(ClientAuth::SpiffeX509, Authentication::SpiffeX509),
        method(ClientAuth::PrivateKeyJwt(key), Authentication::PrivateKeyJwt(published)),
        method(ClientAuth::ClientSecretBasic(secret()), Authentication::SecretBasic("p:a+s s/%".into())),
        method(ClientAuth::ClientSecretPost(secret()), Authentication::SecretPost("p:a+s s/%".into())),
        method(ClientAuth::JwtSvidBearer, Authentication::JwtSvidBearer),
        method(ClientAuth::None, Authentication::None),
    ]
}

fn grant(flow: Flow) -> GrantSpec {
    GrantSpec {
        flow,
        subject: Subject::Own,
        actor: None,
        resources: vec![API.to_owned()],
        audiences: Vec::new(),
        scopes: vec!["calendar:read".to_owned()],
        assertion: AssertionSettings::default(),
    }
}

fn for_a_user(flow: Flow, issuer: &Arc<AuthorizationServer>) -> GrantSpec {
    let rule = UserTokenRule { server: Arc::clone(issuer), kind: TokenKind::IdToken, audience: Vec::new() };
    GrantSpec { subject: Subject::User(rule), ..grant(flow) }
}

/// The claims of the access token.
fn claims(minted: &IssuedToken) -> Value {
    idjag_proxy::dev::jwt::decode(minted.token.expose()).expect("a JWT").claims
}

fn why(server: &Server) -> String {
    server.last_request().and_then(|request| request.refusal).map(|(_, reason)| reason).unwrap_or_default()
}
