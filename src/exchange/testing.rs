//! A scripted server on loopback, and fixtures that the tests share.
use super::{ExchangeError, Exchanger, Flow, Grant, GrantSpec, IssuedToken, Metrics, Subject};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::issuer::{AuthorizationServer, ClientAuth, Deadlines, Endpoints, Issuers, PlainHttp, Quirks, Workload};
use crate::secret::Secret;
use crate::telemetry::Registrar;
use crate::tls::{Roots, ServerTrust};
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::RootCertStore;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

pub(super) type Reply = Response<Full<Bytes>>;

/// One request that the server received.
#[derive(Clone)]
pub(super) struct ReceivedRequest {
    pub(super) head: Parts,
    pub(super) body: String,
}

impl ReceivedRequest {
    /// The form. The values of a parameter that occurs several times are joined by commas.
    pub(super) fn form(&self) -> BTreeMap<String, String> {
        let mut form = BTreeMap::<String, String>::new();
        for (name, value) in form_urlencoded::parse(self.body.as_bytes()) {
            form.entry(name.into_owned())
                .and_modify(|all| *all = format!("{all},{value}"))
                .or_insert(value.into_owned());
        }
        form
    }
}

/// A running server. Dropping this value ends it.
pub(super) struct ScriptedServer {
    pub(super) origin: String,
    seen: Arc<Mutex<Vec<ReceivedRequest>>>,
    _connections: JoinSet<()>,
}

impl ScriptedServer {
    pub(super) async fn start(answer: impl Fn(&ReceivedRequest) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        let (seen, answer) = (Arc::<Mutex<Vec<ReceivedRequest>>>::default(), Arc::new(answer));
        let mut connections = JoinSet::new();
        let all = Arc::clone(&seen);
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.expect("a body").to_bytes();
                        let seen = ReceivedRequest { head, body: String::from_utf8(body.to_vec()).expect("text") };
                        all.lock().expect("the list").push(seen.clone());
                        Ok::<_, Infallible>(answer(&seen))
                    }
                });
                open.spawn(async move {
                    let mut connection = hyper::server::conn::http1::Builder::new();
                    connection.timer(TokioTimer::new());
                    // An error means that the client hung up.
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { origin, seen, _connections: connections }
    }

    pub(super) fn received(&self) -> Vec<ReceivedRequest> {
        self.seen.lock().expect("the list").clone()
    }

    pub(super) fn last_form(&self) -> BTreeMap<String, String> {
        self.received().last().expect("a request").form()
    }

    pub(super) fn url(&self, path: &str) -> Url {
        Url::parse(&format!("{}{path}", self.origin)).expect("a URL")
    }

    /// The settings of this server, with its endpoints, for a client that has a secret.
    pub(super) fn described(&self) -> AuthorizationServer {
        AuthorizationServer {
            name: "as".into(),
            issuer: self.origin.clone(),
            endpoints: Endpoints::Explicit { token: self.url("/token"), jwks: Some(self.url("/jwks")) },
            client_id: Some("agent".into()),
            client_auth: ClientAuth::ClientSecretPost(Secret::new("hunter2-canary".into())),
            trust: ServerTrust::WebPki(some_root()),
            plain_http: PlainHttp::default(),
            quirks: Quirks::default(),
            deadlines: Deadlines::default(),
            egress_proxy: None,
        }
    }
}

/// A root that signs nothing. TLS needs one even where no certificate will be checked.
fn some_root() -> Roots {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    roots.into()
}

pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = StatusCode::from_u16(status).expect("a status");
    reply
}

pub(super) fn token() -> Reply {
    json(
        200,
        r#"{"access_token":"t0ken","token_type":"Bearer","expires_in":60,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#,
    )
}

pub(super) fn grant(flow: Flow) -> GrantSpec {
    GrantSpec {
        flow,
        subject: Subject::Own,
        actor: None,
        resources: Vec::new(),
        audiences: Vec::new(),
        scopes: vec!["a".into(), "b".into()],
        assertion: Default::default(),
    }
}

/// A grant of the client itself at this server.
pub(super) fn client_credentials(server: AuthorizationServer) -> GrantSpec {
    grant(Flow::ClientCredentials { server: Arc::new(server) })
}

/// An exchanger with a clock that tests shift and metrics that they read.
pub(super) struct Fixture {
    pub(super) exchanger: Exchanger,
    pub(super) clock: Clock,
    pub(super) registrar: Registrar,
}

impl Fixture {
    pub(super) fn new(identity: Option<Identity>) -> Self {
        Self::at(identity, Clock::shiftable())
    }

    pub(super) fn at(identity: Option<Identity>, clock: Clock) -> Self {
        let registrar = Registrar::default();
        let metrics = Metrics::new(&registrar, ["as"]).expect("metrics");
        let issuers = Issuers::new(Workload::new(identity, clock.clone()));
        Self { exchanger: Exchanger::new(issuers, metrics), clock, registrar }
    }

    pub(super) async fn mint(&self, spec: &GrantSpec) -> Result<IssuedToken, ExchangeError> {
        let grant = Grant::new(spec.clone()).expect("a grant");
        self.exchanger.mint(&grant, None).await
    }

    pub(super) async fn mint_for(&self, spec: &GrantSpec, user: &str) -> Result<IssuedToken, ExchangeError> {
        let grant = Grant::new(spec.clone()).expect("a grant");
        self.exchanger.mint(&grant, Some(&Secret::new(user.to_owned()))).await
    }
}
