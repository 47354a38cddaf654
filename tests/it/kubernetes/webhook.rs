//! Tests of the webhook as the API server calls it.
use super::api_server::{ApiServer, NAMESPACE, config_map, lease, secret, webhooks};
use crate::dev::agent;
use crate::dev::world::{until, within};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use idjag_proxy::clock::Clock;
use idjag_proxy::kubernetes::Defaults;
use idjag_proxy::kubernetes::injector::{Api, Settings, bind};
use idjag_proxy::tasks::{Stop, Stopper};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(super) const NAME: &str = "idjag-proxy-injector.idjag-proxy.svc";
const DAY: i64 = 24 * 3600;

/// One replica. Dropping it ends it without a shutdown.
pub(super) struct Replica {
    pub(super) webhook: SocketAddr,
    metrics: SocketAddr,
    stopper: Stopper,
    running: JoinSet<Result<(), String>>,
}

fn settings(identity: &str) -> Settings {
    let object = || "idjag-proxy-injector".to_owned();
    let anywhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    Settings {
        defaults: Defaults::default(),
        namespace: NAMESPACE.to_owned(),
        service: object(),
        webhook_configuration: object(),
        secret: object(),
        lease: object(),
        listen: anywhere,
        metrics: anywhere,
        identity: identity.to_owned(),
        certificate_lifetime: Duration::from_secs(90 * 24 * 3600),
        settle: Duration::from_millis(300),
    }
}

impl Replica {
    fn start(api: &ApiServer, identity: &str, clock: &Clock) -> Self {
        let api = Api::at(api.url().parse().expect("a URL")).expect("a client");
        let bound = bind(settings(identity), api, clock, None).expect("bound");
        let (webhook, metrics) = (bound.webhook(), bound.metrics());
        let (stopper, stop) = Stop::pair();
        let mut running = JoinSet::new();
        running.spawn(bound.run(stop));
        Self { webhook, metrics, stopper, running }
    }

    pub(super) async fn ready(api: &ApiServer, identity: &str) -> Self {
        let replica = Self::start(api, identity, &Clock::system());
        replica.until_ready().await;
        replica
    }

    pub(super) async fn probe(&self, path: &str) -> agent::Reply {
        agent::get(self.metrics, &format!("http://{}{path}", self.metrics), &[]).await
    }

    async fn until_ready(&self) {
        until(async || self.probe("/readyz").await.status == 200, "ready").await;
    }

    pub(super) async fn metric(&self, series: &str) -> String {
        let text = self.probe("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {text}")).to_owned()
    }
}

/// Starts a replica and returns its metrics once it is ready.
pub(crate) async fn scrape() -> String {
    let api = ApiServer::start().await;
    Replica::ready(&api, "a").await.probe("/metrics").await.text()
}

/// Connects as the API server does: TLS by the bundle of the configuration, for the name of the
/// Service.
pub(super) async fn connect(roots: RootCertStore, address: SocketAddr) -> Result<TlsStream<TcpStream>, String> {
    connect_from([127, 0, 0, 1], roots, address).await
}

/// Connects from another address of this machine, as another pod would.
pub(super) async fn connect_from(
    from: [u8; 4],
    roots: RootCertStore,
    address: SocketAddr,
) -> Result<TlsStream<TcpStream>, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpSocket::new_v4().map_err(|error| error.to_string())?;
    socket.bind((from, 0).into()).map_err(|error| error.to_string())?;
    let stream = socket.connect(address).await.map_err(|error| error.to_string())?;
    // As in the API server's HTTP client; otherwise a small write waits for the ACK of the last one.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(NAME).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
}

pub(super) async fn send(
    api: &ApiServer,
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<agent::Reply, String> {
    let stream = connect(api.trusted(), address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok(agent::Reply::of(response).await)
}

pub(super) fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post("/mutate").header("host", NAME).header("content-type", "application/json");
    request.body(Full::new(body.into())).expect("a request")
}

pub(super) fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "calendar", "uid": "u1"},
        "spec": {"terminationGracePeriodSeconds": 30, "containers": [{"name": "agent", "image": "agent:1"}]},
    })
}

pub(super) fn review(namespace: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace, "operation": "CREATE", "object": object,
        },
    })
}

/// Sends a review and returns the `response` of the answer.
pub(super) async fn ask(api: &ApiServer, replica: &Replica, review: &Value) -> Value {
    let reply = within(send(api, replica.webhook, post(review.to_string())), "an answer").await.expect("an answer");
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/json"), "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["kind"], "AdmissionReview");
    answer["response"].clone()
}

fn patched(object: &Value, response: &Value) -> Value {
    let patch =
        STANDARD.decode(response["patch"].as_str().unwrap_or_else(|| panic!("no patch: {response}"))).expect("base64");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a patch");
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).expect("it applies");
    object
}

#[tokio::test]
async fn installed_injector_becomes_trusted_and_injects() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let response = ask(&api, &replica, &review("agents", &pod())).await;
    assert_eq!((&response["allowed"], &response["uid"]), (&json!(true), &json!("705ab4f5")));
    assert_eq!(patched(&pod(), &response)["spec"]["initContainers"][0]["name"], "idjag-proxy");
    let configuration = api.object(&webhooks());
    for entry in configuration["webhooks"].as_array().expect("entries") {
        assert_eq!(
            (&entry["futureField"], &entry["clientConfig"]["service"]["name"]),
            (&json!({"a": 1}), &json!("idjag-proxy-injector"))
        );
    }
    let kept = api.object(&secret());
    assert_eq!((&kept["metadata"]["futureField"], &kept["type"]), (&json!([1]), &json!("Opaque")), "nothing is lost");
    let data = kept["data"].as_object().expect("data");
    assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.crt", "tls.crt", "tls.key"], "the CA's key is not stored");
    assert_eq!(api.object(&lease())["spec"]["holderIdentity"], "a");
    assert_eq!(replica.probe("/livez").await.status, 200);
}

#[tokio::test]
async fn injector_makes_only_the_calls_that_its_role_allows() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    api.remove(&config_map("agents", "idjag-proxy"));
    ask(&api, &replica, &review("agents", &pod())).await;
    until(async || !api.events().is_empty(), "an event").await;
    let allowed = [
        "create events",
        "get configmaps",
        "get leases",
        "get mutatingwebhookconfigurations",
        "get secrets",
        "update leases",
        "update mutatingwebhookconfigurations",
        "update secrets",
    ];
    assert_eq!(api.verbs(), allowed);
}

#[tokio::test]
async fn pod_without_its_config_map_is_refused_with_an_event_on_its_owner() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    api.remove(&config_map("agents", "idjag-proxy"));
    let mut dry = review("agents", &pod());
    dry["request"]["dryRun"] = json!(true);
    let response = ask(&api, &replica, &dry).await;
    let message = response["status"]["message"].as_str().expect("a message");
    assert!(message.ends_with("kubectl -n agents create configmap idjag-proxy --from-file=proxy.yaml"), "{message}");
    assert_eq!(response["allowed"], false);
    let mut owned = pod();
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "calendar-7d", "uid": "u7", "controller": true}]);
    for _ in 0..3 {
        assert_eq!(ask(&api, &replica, &review("agents", &owned)).await["allowed"], false);
    }
    let refused = || {
        let events = api.events().into_iter().filter(|event| event["reason"] == "SidecarRefused");
        events.collect::<Vec<_>>()
    };
    until(async || !refused().is_empty(), "an event").await;
    let events = refused();
    assert_eq!(events.len(), 1, "none for the dry run, and no repetition: {events:?}");
    assert_eq!(
        (&events[0]["involvedObject"]["kind"], &events[0]["involvedObject"]["uid"]),
        (&json!("ReplicaSet"), &json!("u7"))
    );
    assert_eq!((&events[0]["metadata"]["namespace"], &events[0]["type"]), (&json!("agents"), &json!("Warning")));
    api.set(&config_map("agents", "idjag-proxy"), json!({"data": {"proxy.yaml": ""}}));
    assert_eq!(ask(&api, &replica, &review("agents", &owned)).await["allowed"], true);
    assert_eq!(replica.metric("idjag_proxy_injector_reviews_total{outcome=\"refused\",resource=\"pods\"}").await, "4");
    assert_eq!(replica.metric("idjag_proxy_injector_reviews_total{outcome=\"injected\",resource=\"pods\"}").await, "1");
}

#[tokio::test]
async fn workload_with_a_violation_is_admitted_with_a_warning() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let mut template = pod();
    template["spec"]["hostNetwork"] = json!(true);
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "calendar"}, "spec": {"template": template}});
    let mut review = review("agents", &deployment);
    review["request"]["resource"] = json!({"group": "apps", "version": "v1", "resource": "deployments"});
    review["request"]["operation"] = json!("UPDATE");
    let response = ask(&api, &replica, &review).await;
    let expected = json!({
        "uid": "705ab4f5", "allowed": true,
        "warnings": ["idjag-proxy: its pods will be refused: hostNetwork is true"],
    });
    assert_eq!(response, expected);
    until(async || api.events().iter().any(|event| event["reason"] == "SidecarWarning"), "an event").await;
}

#[tokio::test]
async fn second_replica_takes_the_lease_over_when_the_first_stops() {
    let api = ApiServer::start().await;
    let first = Replica::ready(&api, "a").await;
    let second = Replica::ready(&api, "b").await;
    let leads = async |replica: &Replica| replica.metric("idjag_proxy_injector_leader").await == "1";
    assert!(leads(&first).await && !leads(&second).await);
    assert_eq!(ask(&api, &second, &review("agents", &pod())).await["allowed"], true);
    first.stopper.stop();
    until(async || leads(&second).await, "the second leads").await;
    assert_eq!(api.object(&lease())["spec"]["holderIdentity"], "b");
    assert_eq!(api.object(&lease())["spec"]["leaseTransitions"], 2);
    // The replica that stops answers for a while longer and then ends cleanly.
    assert_eq!(first.probe("/readyz").await.text(), "waiting for the shutdown to finish\n");
    assert_eq!(ask(&api, &first, &review("agents", &pod())).await["allowed"], true);
    let closes = async |replica: &Replica| {
        let reply = send(&api, replica.webhook, post(review("agents", &pod()).to_string())).await.expect("an answer");
        reply.header("connection") == "close"
    };
    assert!(closes(&first).await && !closes(&second).await, "the next review goes to the other replica");
    let mut first = first;
    let ended = within(first.running.join_next(), "its end").await.expect("a task").expect("no panic");
    assert_eq!(ended, Ok(()));
    // Another server may have its port by now.
    assert!(send(&api, first.webhook, post(review("agents", &pod()).to_string())).await.is_err());
}

/// Calls the replicas continuously, as the API server would, and trusts what the configuration has
/// at each call.
struct Caller {
    calls: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    calling: JoinSet<Vec<String>>,
}

impl Caller {
    fn start(api: &Arc<ApiServer>, addresses: Vec<SocketAddr>) -> Self {
        let (calls, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (api, counted, stopped) = (Arc::clone(api), Arc::clone(&calls), Arc::clone(&stop));
        let mut calling = JoinSet::new();
        calling.spawn(async move {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for address in &addresses {
                    let reply = send(&api, *address, post(review("agents", &pod()).to_string())).await;
                    match reply {
                        Ok(reply) if reply.status == StatusCode::OK => {}
                        other if failures.len() < 3 => failures.push(format!("{other:?}")),
                        _ => {}
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
            failures
        });
        Self { calls, stop, calling }
    }

    async fn more(&self) {
        let before = self.calls.load(Ordering::Relaxed);
        until(async || self.calls.load(Ordering::Relaxed) > before + 20, "more calls").await;
    }

    async fn failures(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        within(self.calling.join_next(), "the end of the calls").await.expect("a task").expect("no panic")
    }
}

fn served(api: &ApiServer) -> Value {
    api.object(&secret())["data"]["tls.crt"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_succeed_during_a_rotation() {
    let (api, clock) = (Arc::new(ApiServer::start().await), Clock::shiftable());
    // Two months ago. The caller uses the machine's clock.
    clock.shift(-61 * DAY);
    let first = Replica::start(&api, "a", &clock);
    first.until_ready().await;
    let second = Replica::start(&api, "b", &clock);
    second.until_ready().await;
    let caller = Caller::start(&api, vec![first.webhook, second.webhook]);
    caller.more().await;
    let before = served(&api);
    let expiry = first.metric("idjag_proxy_injector_certificate_expiry_timestamp_seconds").await;
    clock.shift(61 * DAY);
    until(async || served(&api) != before, "another certificate").await;
    for replica in [&first, &second] {
        let series = "idjag_proxy_injector_certificate_expiry_timestamp_seconds";
        until(async || replica.metric(series).await != expiry, "both serve it").await;
        assert_eq!(replica.probe("/readyz").await.status, 200);
    }
    caller.more().await;
    assert_eq!(caller.failures().await, Vec::<String>::new());
    assert_eq!(api.trusted().len(), 2, "the old CA stays for a while");
    let rotations = [&first, &second]
        .map(|replica| replica.metric("idjag_proxy_injector_certificate_rotations_total{outcome=\"rotated\"}"));
    let [one, other] = rotations;
    assert_eq!((one.await.as_str(), other.await.as_str()), ("2", "0"), "the leader made both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_succeed_after_the_secret_is_emptied() {
    let api = Arc::new(ApiServer::start().await);
    let replica = Replica::ready(&api, "a").await;
    let caller = Caller::start(&api, vec![replica.webhook]);
    caller.more().await;
    let before = served(&api);
    let mut emptied = api.object(&secret());
    emptied["data"] = Value::Null;
    api.set(&secret(), emptied);
    until(async || !served(&api).is_null() && served(&api) != before, "another certificate").await;
    caller.more().await;
    assert_eq!(caller.failures().await, Vec::<String>::new());
}

#[tokio::test]
async fn removed_bundles_are_restored() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let mut wiped = api.object(&webhooks());
    for entry in wiped["webhooks"].as_array_mut().expect("entries") {
        entry["clientConfig"].as_object_mut().expect("a client").remove("caBundle");
    }
    api.set(&webhooks(), wiped);
    until(async || !api.trusted().is_empty(), "a bundle").await;
    assert_eq!(ask(&api, &replica, &review("agents", &pod())).await["allowed"], true);
}

#[tokio::test]
async fn missing_objects_are_named_by_readyz() {
    let api = ApiServer::start().await;
    let (configuration, kept) = (api.object(&webhooks()), api.object(&secret()));
    api.remove(&webhooks());
    api.remove(&secret());
    let replica = Replica::start(&api, "a", &Clock::system());
    let says = async |what: &str| {
        until(async || replica.probe("/readyz").await.text().contains(what), what).await;
    };
    says("waiting for MutatingWebhookConfiguration idjag-proxy-injector: it does not exist").await;
    api.set(&webhooks(), configuration);
    says("waiting for Secret idjag-proxy-injector: it does not exist").await;
    api.set(&secret(), kept);
    replica.until_ready().await;
}

#[tokio::test]
async fn pod_is_admitted_while_the_api_server_restarts() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    api.stop().await;
    let response = ask(&api, &replica, &review("agents", &pod())).await;
    assert_eq!(response["allowed"], true);
    assert_eq!(response["warnings"][0], "idjag-proxy: could not check whether ConfigMap agents/idjag-proxy exists");
    assert_eq!(replica.probe("/readyz").await.status, 200);
    api.restart().await;
    let asked = async || ask(&api, &replica, &review("agents", &pod())).await.get("warnings").is_none();
    until(asked, "an answer without a warning").await;
}

#[tokio::test]
async fn malformed_requests_are_answered() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let bare = |method: Method, path: &str| {
        Request::builder().method(method).uri(path).header("host", NAME).body(Full::default()).expect("a request")
    };
    let huge = vec![b'['; 9 * 1024 * 1024];
    for (request, status) in [
        (bare(Method::GET, "/mutate"), 405),
        (bare(Method::POST, "/"), 404),
        (bare(Method::POST, "/mutate"), 400),
        (post("{\"kind\": \"AdmissionReview\"}"), 400),
        (post(vec![0xff; 100]), 400),
        (post(vec![b'['; 1024 * 1024]), 400),
        (post(huge), 413),
    ] {
        let reply = within(send(&api, replica.webhook, request), "an answer").await;
        // A server that rejects a huge body need not read it to its end.
        let is_cut = status == 413 && reply.is_err();
        assert!(is_cut || reply.as_ref().is_ok_and(|reply| reply.status.as_u16() == status), "{status}: {reply:?}");
    }
    let mut service = review("agents", &json!({"kind": "Service"}));
    service["request"]["resource"]["resource"] = json!("services");
    assert_eq!(ask(&api, &replica, &service).await["allowed"], true);
    // Not TLS, half a handshake, half a head, half a body: none of them delays the answers of
    // others.
    let mut held = Vec::new();
    for bytes in [&b"POST /mutate HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01", b""] {
        let mut stream = TcpStream::connect(replica.webhook).await.expect("connected");
        stream.write_all(bytes).await.expect("written");
        held.push(stream);
    }
    let mut streams = Vec::new();
    for bytes in [&b"POST /mu"[..], b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"] {
        let mut stream = connect(api.trusted(), replica.webhook).await.expect("TLS");
        stream.write_all(bytes).await.expect("written");
        streams.push(stream);
    }
    assert_eq!(ask(&api, &replica, &review("agents", &pod())).await["allowed"], true);
    let malformed =
        replica.metric("idjag_proxy_injector_reviews_total{outcome=\"malformed\",resource=\"unknown\"}").await;
    assert!(malformed.parse::<u32>().expect("a number") >= 5, "{malformed}");
}

#[tokio::test]
async fn every_series_exists_from_the_start() {
    let api = ApiServer::start().await;
    let replica = Replica::start(&api, "a", &Clock::system());
    let text = replica.probe("/metrics").await.text();
    for series in [
        "idjag_proxy_injector_reviews_total{outcome=\"injected\",resource=\"pods\"} 0",
        "idjag_proxy_injector_reviews_total{outcome=\"unchanged\",resource=\"pods\"} 0",
        "idjag_proxy_injector_reviews_total{outcome=\"refused\",resource=\"pods\"} 0",
        "idjag_proxy_injector_reviews_total{outcome=\"unchanged\",resource=\"workloads\"} 0",
        "idjag_proxy_injector_reviews_total{outcome=\"warned\",resource=\"workloads\"} 0",
        "idjag_proxy_injector_reviews_total{outcome=\"malformed\",resource=\"unknown\"} 0",
        "idjag_proxy_injector_review_duration_seconds_count 0",
        "idjag_proxy_injector_certificate_rotations_total{outcome=\"failed\"} 0",
        "idjag_proxy_build_info{features=\"dev,kubernetes\"",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(series), "no {series} in {text}");
    }
}

#[tokio::test]
async fn process_runs_by_a_kubeconfig_and_ends_cleanly() {
    let api = ApiServer::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let kubeconfig = kubeconfig(&api, directory.path());
    let log = directory.path().join("log");
    let mut child = process(&kubeconfig, &log, "trace");
    let has_leader =
        async || api.object(&lease())["spec"]["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty());
    until(has_leader, "the lease").await;
    let log_text = || std::fs::read_to_string(&log).expect("a log");
    until(async || log_text().contains("ready: the API server trusts"), "ready").await;
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id().expect("running")).expect("an id"));
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).expect("signalled");
    let code = within(child.wait(), "its end").await.expect("waited").code();
    assert_eq!(code, Some(0), "{}", log_text());
    assert_eq!(api.object(&lease())["spec"]["holderIdentity"], "", "the lease is released");
    let key = api.object(&secret())["data"]["tls.key"].as_str().expect("a key").to_owned();
    let pem = String::from_utf8(STANDARD.decode(&key).expect("base64")).expect("PEM");
    let secret_line = pem.lines().nth(1).expect("a line");
    assert!(!log_text().contains(secret_line) && !log_text().contains(&key[40..80]), "the key is in the log");
}

/// Writes the kubeconfig of this API server.
pub(super) fn kubeconfig(api: &ApiServer, directory: &Path) -> PathBuf {
    let path = directory.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": api.url()}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
    });
    std::fs::write(&path, text.to_string()).expect("written");
    path
}

pub(super) fn process(kubeconfig: &Path, log: &Path, level: &str) -> tokio::process::Child {
    let file = std::fs::File::create(log).expect("created");
    tokio::process::Command::new(env!("CARGO_BIN_EXE_idjag-proxy"))
        .args(["injector", "--listen=127.0.0.1:0", "--metrics=127.0.0.1:0", &format!("--log-level={level}")])
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a second handle"))
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .expect("started")
}
