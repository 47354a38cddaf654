//! An API server of the few paths that the injector calls. Objects have a `resourceVersion`, and a
//! write over a newer version is a conflict.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use idjag_proxy::clock::Clock;
use idjag_proxy::dev::http::{Body, Connection, HangUp, Respond, Server, collect, full};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) const NAMESPACE: &str = "idjag-proxy";
const NAME: &str = "idjag-proxy-injector";

pub(crate) struct ApiServer {
    server: Server,
    store: Arc<Store>,
}

#[derive(Default)]
struct Store(Mutex<Objects>);

#[derive(Default)]
struct Objects {
    /// The objects by their paths.
    objects: BTreeMap<String, Value>,
    version: u64,
    events: Vec<Value>,
    /// The calls so far, such as `get configmaps`.
    verbs: BTreeSet<String>,
}

pub(crate) fn secret() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}")
}

pub(crate) fn lease() -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{NAME}")
}

pub(crate) fn webhooks() -> String {
    format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}")
}

pub(crate) fn config_map(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/{name}")
}

impl ApiServer {
    /// Starts with the objects that the chart renders, and the `ConfigMap` of the namespace
    /// `agents`.
    pub(crate) async fn start() -> Self {
        let (server, listener) = Server::bind(None, &Clock::system()).await.expect("bound");
        let store = Arc::new(Store::default());
        server.serve(listener, Arc::<Store>::clone(&store));
        let api = Self { server, store };
        let metadata = |name: &str| json!({"name": name, "labels": {"app": "injector"}, "futureField": [1]});
        api.set(&secret(), json!({"kind": "Secret", "type": "Opaque", "metadata": metadata(NAME)}));
        api.set(&lease(), json!({"kind": "Lease", "metadata": metadata(NAME)}));
        let entry =
            |name: &str| json!({"name": name, "clientConfig": {"service": {"name": NAME}}, "futureField": {"a": 1}});
        let entries = ["namespace", "pod", "workloads"].map(|name| entry(&format!("{name}.idjag-proxy.io")));
        api.set(&webhooks(), json!({"metadata": metadata(NAME), "webhooks": entries}));
        api.set(&config_map("agents", "idjag-proxy"), json!({"data": {"proxy.yaml": "routes: []"}}));
        api
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Breaks all connections and refuses new ones.
    pub(crate) async fn stop(&self) {
        self.server.stop().await;
    }

    pub(crate) async fn restart(&self) {
        self.server.restart().await.expect("bound again");
    }

    /// Writes an object as another client would.
    pub(crate) fn set(&self, path: &str, object: Value) {
        self.store.lock().write(path, object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.store.lock().objects.remove(path);
    }

    pub(crate) fn object(&self, path: &str) -> Value {
        self.store.lock().objects.get(path).cloned().unwrap_or_default()
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.store.lock().events.clone()
    }

    pub(crate) fn verbs(&self) -> Vec<String> {
        self.store.lock().verbs.iter().cloned().collect()
    }

    /// Returns what a real API server would trust when it calls the webhook: the bundle of every
    /// entry, which must be the same.
    pub(crate) fn trusted(&self) -> RootCertStore {
        let configuration = self.object(&webhooks());
        let bundles: BTreeSet<&str> = (configuration["webhooks"].as_array().expect("entries").iter())
            .map(|entry| entry["clientConfig"]["caBundle"].as_str().unwrap_or_default())
            .collect();
        assert_eq!(bundles.len(), 1, "every entry has the same bundle");
        let pem = STANDARD.decode(bundles.first().expect("one")).expect("base64");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.expect("PEM")).expect("a CA");
        }
        roots
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().expect("a lock")
    }

    fn reply(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let mut objects = self.lock();
        let verb = match *method {
            Method::GET => "get",
            Method::PUT => "update",
            Method::POST => "create",
            _ => "?",
        };
        let mut parts = path
            .trim_start_matches('/')
            .split('/')
            .skip_while(|part| part.starts_with("api") || part.contains('.') || *part == "v1");
        let resource = match parts.next() {
            Some("namespaces") => parts.nth(1).unwrap_or_default(),
            other => other.unwrap_or_default(),
        };
        objects.verbs.insert(format!("{verb} {resource}"));
        let failure = |code: StatusCode, reason: &str| {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason}),
            )
        };
        let Some(known) = objects.objects.get(path).cloned() else {
            if *method == Method::POST && resource == "events" {
                let event: Value = serde_json::from_slice(body).expect("JSON");
                objects.events.push(event.clone());
                return (StatusCode::CREATED, event);
            }
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        match *method {
            Method::GET => (StatusCode::OK, known),
            Method::PUT => {
                let new: Value = serde_json::from_slice(body).expect("JSON");
                if new["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                objects.write(path, new);
                (StatusCode::OK, objects.objects[path].clone())
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }
}

impl Objects {
    fn write(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object);
    }
}

impl Respond for Store {
    fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        _: Arc<Connection>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, HangUp>> + Send>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let (body, _) = collect(body).await.map_err(|_| HangUp)?;
            let (status, object) = self.reply(&parts.method, parts.uri.path(), &body);
            let response = Response::builder().status(status).header("content-type", "application/json");
            Ok(response.body(full(object.to_string())).expect("a response"))
        })
    }
}
