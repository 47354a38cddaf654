//! An admission review in, what to do out. Pure: any bytes are answered, and none of them is a reason to panic.
use super::weight::weight;
use crate::kubernetes::inject::{Defaults, Existing, Opt, inject, is_object_name, opt};
use crate::kubernetes::names::{CONFIG_KEY, LABEL_INJECT};
use crate::kubernetes::words::shortened;
use crate::kubernetes::workload::Kind;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

const VERSION: &str = "admission.k8s.io/v1";

/// What the API server asks about one object.
#[derive(Debug)]
pub(super) struct Review {
    uid: String,
    kind: Option<Kind>,
    resource: String,
    operation: String,
    /// `pod calendar-7d4f9b-…`
    subject: String,
    /// The object that an event speaks of.
    pub(super) involved: Option<Value>,
    pub(super) namespace: String,
    object: Value,
    /// Nothing may be done besides answering.
    pub(super) dry_run: bool,
}

/// Everything else is skipped while it is read: the object as it was, the options, who asks.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'b> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(borrow)]
    request: Option<Request<'b>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'b> {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    operation: String,
    /// Not parsed before its weight is known.
    #[serde(borrow, default)]
    object: Option<&'b RawValue>,
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
    #[error("the object has more parts than any that Kubernetes would keep")]
    TooHeavy,
}

/// Of one object when it is parsed, in bytes. A pod of 1,000 environment variables with its managed fields comes to 3 MiB.
const HEAVIEST: usize = 16 * 1024 * 1024;
/// Of a `uid`, which is in the answer; the API server's has 36 bytes.
const LONGEST_UID: usize = 256;
/// The API server passes on 4 KiB of them all together.
const MOST_WARNINGS: usize = 16;

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
    /// A pod gets a sidecar, which needs this `ConfigMap`. The patch is as the answer has it, in base64; none for a pod that has it.
    Inject { patch: Option<String>, config: String, warnings: Vec<String> },
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
        if !namespace.is_empty() && !is_object_name(&namespace) {
            return Err(Malformed::Namespace);
        }
        let Resource { group, resource } = request.resource;
        let kind = Kind::of_resource(&group, &resource).filter(|_| is_whole);
        let object = match request.object {
            Some(raw) if kind.is_some() && weight(raw.get().as_bytes()) > HEAVIEST => return Err(Malformed::TooHeavy),
            Some(raw) if kind.is_some() => serde_json::from_str(raw.get())?,
            _ => Value::Null,
        };
        let name = request.name.unwrap_or_default();
        Ok(Self {
            uid: request.uid.chars().take(LONGEST_UID).collect(),
            kind,
            resource: shortened(&resource),
            operation: shortened(&request.operation),
            subject: subject(&object, &name),
            involved: kind.and_then(|kind| involved(&object, kind, &namespace)),
            namespace,
            object,
            dry_run: request.dry_run.unwrap_or(false),
        })
    }

    /// Lets the object go, which is the most of it, once there is a verdict.
    pub(super) fn without_object(self) -> Self {
        Self { object: Value::Null, ..self }
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
        match inject(&self.object, &policy.defaults, Existing::Keep) {
            Ok(done) => {
                let patch = (!done.patch.is_empty()).then(|| STANDARD.encode(done.patch.to_string()));
                Verdict::Inject { patch, config: done.config, warnings: warnings(&done.warnings) }
            }
            Err(refusal) => Verdict::Refuse {
                reason: format!(
                    "{} cannot have the idjag-proxy sidecar: {refusal}. To run it without one, label it {LABEL_INJECT}: disabled",
                    self.subject
                ),
            },
        }
    }

    fn workload(&self, kind: Kind, policy: &Policy) -> Verdict {
        let Some(pod) = kind.pod(&self.object).filter(|pod| opt(pod) != Ok(Opt::Out)) else {
            return Verdict::Unchanged { warnings: Vec::new() };
        };
        match inject(pod, &policy.defaults, Existing::Keep) {
            Ok(done) => Verdict::Warn { config: Some(done.config), warnings: warnings(&done.warnings) },
            Err(refusal) => {
                let problems = refusal.problems();
                let warning = |problem: &String| format!("idjag-proxy: its pods will be refused: {problem}");
                Verdict::Warn { config: None, warnings: problems.iter().map(warning).collect() }
            }
        }
    }
}

fn warnings(of: &[String]) -> Vec<String> {
    let mut warnings: Vec<String> =
        of.iter().take(MOST_WARNINGS).map(|warning| format!("idjag-proxy: {warning}")).collect();
    if of.len() > MOST_WARNINGS {
        warnings.push(format!("idjag-proxy: and {} more", of.len() - MOST_WARNINGS));
    }
    warnings
}

/// One that a controller makes has no name yet.
fn subject(object: &Value, name: &str) -> String {
    let metadata = |key: &str| object.pointer("/metadata")?.get(key)?.as_str().filter(|text| !text.is_empty());
    match metadata("name").or_else(|| Some(name).filter(|name| !name.is_empty())) {
        Some(name) => format!("pod {}", shortened(name)),
        None => match metadata("generateName") {
            Some(prefix) => format!("pod {}…", shortened(prefix)),
            None => "this pod".to_owned(),
        },
    }
}

/// The object that an event speaks of: what made the pod, else the pod; or the workload. It is of a kind that we know and in the review's
/// namespace, whatever the object says of itself.
fn involved(object: &Value, kind: Kind, namespace: &str) -> Option<Value> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let metadata = object.get("metadata")?;
    let owners = metadata.get("ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let mut owners = owners.filter(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    let (source, kind) = match owners.next().filter(|_| kind.is_pod()) {
        Some(owner) => (owner, Kind::of(&text(owner, "apiVersion"), &text(owner, "kind"))?),
        None => (metadata, kind),
    };
    let (name, uid) = (text(source, "name"), text(source, "uid"));
    if !is_object_name(&name) || namespace.is_empty() {
        return None;
    }
    let api_version = kind.api_version();
    let mut involved = json!({"apiVersion": api_version, "kind": kind.name, "namespace": namespace, "name": name});
    if !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        involved["uid"] = uid.into();
    }
    Some(involved)
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
    /// Of what is held until the answer is out, in bytes.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Inject { patch: Some(patch), .. } => patch.len(),
            _ => 0,
        }
    }

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
                        let reason = format!("{}: {}", review.subject, advice(lookup, namespace, &config));
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
                let outcome = if patch.is_some() { Outcome::Injected } else { Outcome::Unchanged };
                review.allow(outcome, patch, warnings)
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
    fn allow(&self, outcome: Outcome, patch: Option<String>, warnings: Vec<String>) -> Answer {
        let mut response = json!({"uid": self.uid, "allowed": true});
        if let Some(patch) = patch {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = patch.into();
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

#[cfg(test)]
mod tests;
