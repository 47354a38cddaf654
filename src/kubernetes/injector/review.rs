//! An admission review in, what to do out. Pure: any bytes are answered, and none of them is a reason to panic.
use crate::kubernetes::inject::{Defaults, Existing, Opt, inject, opt};
use crate::kubernetes::names::{CONFIG_KEY, LABEL_INJECT};
use crate::kubernetes::workload::Kind;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

const VERSION: &str = "admission.k8s.io/v1";

/// What the API server asks about one object.
#[derive(Debug)]
pub(super) struct Review {
    uid: String,
    kind: Option<Kind>,
    resource: String,
    operation: String,
    name: String,
    pub(super) namespace: String,
    object: Value,
    /// Nothing may be done besides answering.
    pub(super) dry_run: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    resource: String,
}

/// Bytes that are no review.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the body is no AdmissionReview: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("the body is no AdmissionReview of {VERSION}, but kind `{kind}` of `{version}`")]
    Other { kind: String, version: String },
    #[error("the AdmissionReview holds no request")]
    NoRequest,
    #[error("the namespace is no namespace")]
    Namespace,
}

/// Who is known, from the settings of this process.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) defaults: Defaults,
    /// The injector's own namespace, whose pods are never injected.
    pub(super) namespace: String,
}

/// What to do with the object, before anybody has looked whether its `ConfigMap` is there.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It goes in as it is.
    Unchanged { warnings: Vec<String> },
    /// A pod gets a sidecar, which needs this `ConfigMap`.
    Inject { patch: Value, config: String, warnings: Vec<String> },
    /// A pod is refused.
    Refuse { reason: String },
    /// A workload goes in, its people are warned. Its pods would need this `ConfigMap`, if they come to be.
    Warn { config: Option<String>, warnings: Vec<String> },
}

/// Whether the `ConfigMap` of a sidecar is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Found,
    Missing,
    /// It is there, without the file.
    NoFile,
    /// The API server did not say.
    Unknown(String),
}

impl Review {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let Envelope { api_version, kind, request } = serde_json::from_slice(body)?;
        if (api_version.as_str(), kind.as_str()) != (VERSION, "AdmissionReview") {
            return Err(Malformed::Other { kind: shortened(&kind), version: shortened(&api_version) });
        }
        let request = request.ok_or(Malformed::NoRequest)?;
        let is_whole = request.sub_resource.is_none_or(|sub| sub.is_empty());
        let namespace = request.namespace.unwrap_or_default();
        if !namespace.is_empty() && !crate::kubernetes::inject::is_object_name(&namespace) {
            return Err(Malformed::Namespace);
        }
        let Resource { group, resource } = request.resource;
        Ok(Self {
            uid: request.uid,
            kind: Kind::of_resource(&group, &resource).filter(|_| is_whole),
            resource: shortened(&resource),
            operation: request.operation,
            name: request.name.unwrap_or_default(),
            namespace,
            object: request.object,
            dry_run: request.dry_run.unwrap_or(false),
        })
    }

    /// `pods` or `workloads`, for metrics; nothing for what is not ours.
    pub(super) fn resource(&self) -> Option<&'static str> {
        self.kind.map(|kind| if kind.is_pod() { "pods" } else { "workloads" })
    }

    /// What to do. A pod is judged once, as it is created; a workload whenever it is applied.
    pub(super) fn verdict(&self, policy: &Policy) -> Verdict {
        let as_it_is = Verdict::Unchanged { warnings: Vec::new() };
        let Some(kind) = self.kind else {
            let warning =
                format!("idjag-proxy: {} are none of its business; its webhook rules are too wide", self.resource);
            return Verdict::Unchanged { warnings: vec![warning] };
        };
        // The webhook's selectors keep these away; an injector that answers all the same must not break a cluster.
        if self.namespace == "kube-system" || self.namespace == policy.namespace {
            return as_it_is;
        }
        match self.operation.as_str() {
            "CREATE" if kind.is_pod() => self.pod(policy),
            "CREATE" | "UPDATE" if !kind.is_pod() => self.workload(kind, policy),
            _ => as_it_is,
        }
    }

    fn pod(&self, policy: &Policy) -> Verdict {
        let is_mirror = self.object.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
        if is_mirror || opt(&self.object) == Ok(Opt::Out) {
            return Verdict::Unchanged { warnings: Vec::new() };
        }
        let mut pod = self.object.clone();
        match inject(&mut pod, &policy.defaults, Existing::Keep) {
            Ok(done) => {
                let warnings = done.warnings.iter().map(|warning| format!("idjag-proxy: {warning}")).collect();
                match serde_json::to_value(json_patch::diff(&self.object, &pod)) {
                    Ok(patch) => Verdict::Inject { patch, config: done.config, warnings },
                    Err(error) => Verdict::Refuse { reason: format!("no patch can be made: {error}") },
                }
            }
            Err(refusal) => Verdict::Refuse {
                reason: format!(
                    "{} cannot have the idjag-proxy sidecar: {refusal}. To run it without one, label it {LABEL_INJECT}: disabled",
                    self.subject()
                ),
            },
        }
    }

    fn workload(&self, kind: Kind, policy: &Policy) -> Verdict {
        let Some(pod) = kind.pod(&self.object).filter(|pod| opt(pod) != Ok(Opt::Out)) else {
            return Verdict::Unchanged { warnings: Vec::new() };
        };
        match inject(&mut pod.clone(), &policy.defaults, Existing::Keep) {
            Ok(done) => {
                let warnings = done.warnings.iter().map(|warning| format!("idjag-proxy: {warning}")).collect();
                Verdict::Warn { config: Some(done.config), warnings }
            }
            Err(refusal) => {
                let problems = refusal.problems();
                let warning = |problem: &String| format!("idjag-proxy: its pods will be refused: {problem}");
                Verdict::Warn { config: None, warnings: problems.iter().map(warning).collect() }
            }
        }
    }

    /// `pod calendar-7d4f9b-…`: one that a controller makes has no name yet.
    fn subject(&self) -> String {
        let metadata = |key: &str| self.object.pointer("/metadata")?.get(key)?.as_str().filter(|text| !text.is_empty());
        match metadata("name").or_else(|| Some(self.name.as_str()).filter(|name| !name.is_empty())) {
            Some(name) => format!("pod {name}"),
            None => match metadata("generateName") {
                Some(prefix) => format!("pod {prefix}…"),
                None => "this pod".to_owned(),
            },
        }
    }

    /// The object that an event speaks of: what made the pod, else the pod; or the workload.
    pub(super) fn involved(&self) -> Option<Value> {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let metadata = self.object.get("metadata")?;
        let owners = metadata.get("ownerReferences").and_then(Value::as_array).into_iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
        let (source, api_version, kind, name) = match owner.filter(|_| self.kind.is_some_and(Kind::is_pod)) {
            Some(owner) => (owner, text(owner, "apiVersion"), text(owner, "kind"), text(owner, "name")),
            None => {
                let name = text(metadata, "name");
                (metadata, text(&self.object, "apiVersion"), text(&self.object, "kind"), name)
            }
        };
        if name.is_empty() || self.namespace.is_empty() {
            return None;
        }
        let mut involved = json!({"apiVersion": api_version, "kind": kind, "namespace": self.namespace, "name": name});
        let uid = text(source, "uid");
        if !uid.is_empty() {
            involved["uid"] = uid.into();
        }
        Some(involved)
    }
}

/// The answer's outcome, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Injected,
    Unchanged,
    Refused,
    Warned,
}

/// What the API server is told.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Value,
    pub(super) outcome: Outcome,
    /// Why a pod was refused, or of what a workload's people were warned.
    pub(super) complaints: Vec<String>,
}

impl Verdict {
    /// The `ConfigMap` to look for.
    pub(super) fn config(&self) -> Option<&str> {
        match self {
            Self::Inject { config, .. } | Self::Warn { config: Some(config), .. } => Some(config),
            _ => None,
        }
    }

    /// The answer. `lookup` is what [`Self::config`] came to; a `ConfigMap` that could not be looked for is no reason to refuse,
    /// because the kubelet waits for it too.
    pub(super) fn answer(self, review: &Review, lookup: &Lookup) -> Answer {
        let namespace = &review.namespace;
        match self {
            Self::Unchanged { warnings } => review.allow(Outcome::Unchanged, None, warnings),
            Self::Refuse { reason } => review.refuse(reason),
            Self::Inject { patch, config, mut warnings } => {
                match lookup {
                    Lookup::Missing | Lookup::NoFile => {
                        let reason = format!("{}: {}", review.subject(), advice(lookup, namespace, &config));
                        return review.refuse(reason);
                    }
                    Lookup::Unknown(error) => {
                        tracing::warn!(%namespace, %config, %error, "whether a ConfigMap is there could not be asked");
                        warnings.push(format!(
                            "idjag-proxy: nobody could ask whether ConfigMap {namespace}/{config} is there"
                        ));
                    }
                    Lookup::Found => {}
                }
                let is_empty = patch.as_array().is_some_and(Vec::is_empty);
                let outcome = if is_empty { Outcome::Unchanged } else { Outcome::Injected };
                review.allow(outcome, Some(&patch).filter(|_| !is_empty), warnings)
            }
            Self::Warn { config, mut warnings } => {
                if let (Some(config), Lookup::Missing | Lookup::NoFile) = (&config, lookup) {
                    let problem = if *lookup == Lookup::Missing { "is missing" } else { "has no proxy.yaml" };
                    warnings.push(format!(
                        "idjag-proxy: its pods will be refused: ConfigMap {namespace}/{config} {problem}"
                    ));
                }
                let outcome = if warnings.is_empty() { Outcome::Unchanged } else { Outcome::Warned };
                review.allow(outcome, None, warnings)
            }
        }
    }
}

/// What is wrong with the `ConfigMap`, and the command that mends it.
fn advice(lookup: &Lookup, namespace: &str, config: &str) -> String {
    let make = format!("kubectl -n {namespace} create configmap {config} --from-file={CONFIG_KEY}");
    if *lookup == Lookup::NoFile {
        format!(
            "ConfigMap {namespace}/{config} has no key {CONFIG_KEY}. Give it one: {make} --dry-run=client -o yaml | kubectl apply -f -"
        )
    } else {
        format!("ConfigMap {namespace}/{config} is missing, which configures the idjag-proxy sidecar. Make it: {make}")
    }
}

impl Review {
    fn allow(&self, outcome: Outcome, patch: Option<&Value>, warnings: Vec<String>) -> Answer {
        let mut response = json!({"uid": self.uid, "allowed": true});
        if let Some(patch) = patch {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch.to_string()).into();
        }
        if !warnings.is_empty() {
            response["warnings"] = warnings.clone().into();
        }
        Answer {
            body: wrap(response),
            outcome,
            complaints: if outcome == Outcome::Warned { warnings } else { Vec::new() },
        }
    }

    fn refuse(&self, reason: String) -> Answer {
        let status = json!({"status": "Failure", "code": 403, "reason": "Forbidden", "message": reason});
        let response = json!({"uid": self.uid, "allowed": false, "status": status});
        Answer { body: wrap(response), outcome: Outcome::Refused, complaints: vec![reason] }
    }
}

fn wrap(response: Value) -> Value {
    let mut review = json!({"apiVersion": VERSION, "kind": "AdmissionReview"});
    review["response"] = response;
    review
}

/// What a stranger sent, as far as it goes into our own words.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests;
