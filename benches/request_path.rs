//! Benchmarks of the steps that a request goes through: `cargo bench`.
use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use idjag_proxy::assertion::IdJag;
use idjag_proxy::clock::{Clock, Timestamp};
use idjag_proxy::exchange::{AssertionSettings, ExchangeError, Flow, Grant, GrantSpec, IssuedToken, Subject};
use idjag_proxy::issuer::{AuthorizationServer, ClientAuth, Deadlines, Endpoints, PlainHttp, Quirks};
use idjag_proxy::jose::SigningKey;
use idjag_proxy::policy::{CredentialRule, HostPattern, Match, PathPattern, Policy, Route, Scheme, Target, Unmatched};
use idjag_proxy::proxy::{AgentCredentials, StripRules, strip_request};
use idjag_proxy::secret::Secret;
use idjag_proxy::tasks::Stop;
use idjag_proxy::telemetry::Registrar;
use idjag_proxy::tls::ServerTrust;
use idjag_proxy::token::{Metrics, Mint, TokenSettings, Tokens};
use std::sync::Arc;
use std::time::Duration;

fn main() {
    divan::main();
}

/// Signs an ID-JAG with ES256, as every exchange of `self_issued` does.
#[divan::bench]
fn assertion_signing(bencher: Bencher<'_, '_>) {
    let pair = rcgen::KeyPair::generate().expect("a P-256 key");
    let key = SigningKey::from_pkcs8_der(&pair.serialize_der(), Some("k1".into()), None).expect("a signing key");
    let claims = IdJag {
        iss: "https://agents.example.com".into(),
        sub: "spiffe://example.org/agent".into(),
        aud: "https://as.example.com".into(),
        client_id: Some("spiffe://example.org/agent".into()),
        jti: "c2f1a0d5b7e84c93".into(),
        iat: Timestamp::from_unix_seconds(1_767_225_600),
        exp: Timestamp::from_unix_seconds(1_767_225_900),
        scope: Some("calendar:read".into()),
        resource: Vec::new(),
        act: None,
    };
    bencher.bench_local(|| key.sign("oauth-id-jag+jwt", black_box(&claims)).expect("a signature"));
}

#[derive(Clone)]
struct InstantMint(Clock);

impl Mint for InstantMint {
    async fn mint(&self, _: &Grant, _: Option<&Secret>) -> Result<IssuedToken, ExchangeError> {
        let expires_at = self.0.now().plus(Duration::from_secs(3600));
        Ok(IssuedToken { token: Secret::new("x".repeat(900)), expires_at, scopes: Vec::new() })
    }
}

/// Takes a cached token, checks its expiry, and puts it into `Authorization`.
#[divan::bench]
fn cache_hit(bencher: Bencher<'_, '_>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let clock = Clock::system();
    let metrics = Metrics::new(&Registrar::default(), ["as"]).expect("metrics");
    let (tokens, owner) = Tokens::new(InstantMint(clock.clone()), None, clock, metrics, TokenSettings::default());
    let (_stopper, stop) = Stop::pair();
    let mut running = tokio::task::JoinSet::new();
    running.spawn_on(owner.run(stop), runtime.handle());
    let slot = tokens.slot(&grant());
    runtime.block_on(tokens.obtain(&slot, None)).expect("a token");
    let mut headers = HeaderMap::new();
    bencher.bench_local(|| {
        let token = tokens.ready(black_box(&slot), tokens.now()).expect("held");
        headers.insert(http::header::AUTHORIZATION, token.field_value("Bearer ").expect("a value").clone());
    });
}

/// Finds the route of a request among a hundred routes on twenty hosts.
#[divan::bench]
fn route_match(bencher: Bencher<'_, '_>) {
    let routes =
        (0..100).map(|number| route(&format!("api{}.example.com", number % 20), &format!("/v{}/**", number / 20)));
    let policy = Policy::new(routes.collect(), Unmatched::Refuse).map_err(|_| ()).expect("no conflict");
    let headers = HeaderMap::new();
    let target = Target { scheme: Scheme::Http, host: "api7.example.com", port: 80 };
    bencher.bench_local(|| {
        policy.route(black_box(target), black_box("/v3/calendars/primary/events"), &Method::GET, &headers)
    });
}

/// Removes the header fields that must not be forwarded from a typical request.
#[divan::bench]
fn header_rewrite(bencher: Bencher<'_, '_>) {
    let mut sent = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "python-requests/2.32"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("connection", "keep-alive"),
        ("authorization", "Bearer of-the-agent"),
        ("content-type", "application/json"),
        ("x-request-id", "8f1b2c"),
    ] {
        sent.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    bencher.with_inputs(|| sent.clone()).bench_local_values(|mut headers| {
        let rules = StripRules { agent_credentials: AgentCredentials::Strip, strips_overrides: false, reserved: &[] };
        strip_request(&mut headers, rules);
        headers
    });
}

fn route(host: &str, path: &str) -> Route {
    let matcher = Match {
        path: PathPattern::parse(path).expect("a path"),
        ..Match::host(HostPattern::parse(host).expect("a host"))
    };
    Route::new(&format!("{host}{path}"), matcher, CredentialRule::None { keep_credentials: false }, None)
}

fn grant() -> Arc<Grant> {
    let server = Arc::new(AuthorizationServer {
        name: "as".into(),
        issuer: "https://as.example.com".into(),
        endpoints: Endpoints::Discovered,
        client_id: Some("agent".into()),
        client_auth: ClientAuth::None,
        trust: ServerTrust::WebPki(rustls::RootCertStore::empty().into()),
        plain_http: PlainHttp::default(),
        quirks: Quirks::default(),
        deadlines: Deadlines::default(),
        egress_proxy: None,
    });
    let spec = GrantSpec {
        flow: Flow::ClientCredentials { server },
        subject: Subject::Own,
        actor: None,
        resources: Vec::new(),
        audiences: Vec::new(),
        scopes: vec!["calendar:read".into()],
        assertion: AssertionSettings::default(),
    };
    Arc::new(Grant::new(spec).expect("a grant"))
}
