//! Admission reviews and their answers. This module is pure. Any bytes get an answer, and none
//! cause a panic.
use super::memory_bound::memory_bound;
use crate::kubernetes::inject::{Defaults, InjectLabel, OnExisting, inject, inject_label, is_object_name};
use crate::kubernetes::names::{CONFIG_KEY, LABEL_INJECT};
use crate::kubernetes::untrusted::truncate;
use crate::kubernetes::workload::WorkloadKind;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

const VERSION: &str = "admission.k8s.io/v1";

/// A question of the API server about one object.
#[derive(Debug)]
pub(super) struct Review {
    uid: String,
    kind: Option<WorkloadKind>,
    /// The resource as RBAC rules name it, such as `pods` or `pods/ephemeralcontainers`.
    resource: String,
    operation: String,
    /// The pod as messages name it, such as `pod calendar-7d4f9b-…`.
    subject: String,
    /// The object that an event is about.
    pub(super) involved: Option<Value>,
    pub(super) namespace: String,
    object: Value,
    /// The answer must have no side effects.
    pub(super) dry_run: bool,
}

/// The fields of an `AdmissionReview` that are read. The others, such as the old object, the
/// options and the user, are skipped.
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
    /// Parsed only once a bound on its memory is known.
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

/// A body that is not a valid review.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the body is not an AdmissionReview: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("the body is not an AdmissionReview of {VERSION}, but kind `{kind}` of `{version}`")]
    Other { kind: String, version: String },
    #[error("the AdmissionReview has no request")]
    NoRequest,
    #[error("the namespace is not a valid name")]
    Namespace,
    #[error("the object has more parts than Kubernetes would store")]
    TooLarge,
}

/// The largest memory bound of an object that is parsed, in bytes. It is 3 MiB for a pod of 1,000
/// environment variables with its managed fields.
const MAX_PARSED: usize = 16 * 1024 * 1024;
/// The longest `uid`, in characters. It is repeated in the answer; the API server's has 36.
const MAX_UID: usize = 256;
/// The largest number of warnings in an answer. The API server passes on 4 KiB in total.
const MAX_WARNINGS: usize = 16;

/// The settings that reviews are judged by.
#[derive(Clone, Debug)]
pub(super) struct ReviewPolicy {
    pub(super) defaults: Defaults,
    /// The injector's own namespace, whose pods are never injected.
    pub(super) namespace: String,
}

/// What to do with the object if its `ConfigMap` exists.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Admit it unchanged.
    Unchanged { warnings: Vec<String> },
    /// Admit a pod with the sidecar, which needs the `ConfigMap` `config`. The patch is in base64,
    /// as in the answer, and absent if the pod has the sidecar already.
    Inject { patch: Option<String>, config: String, warnings: Vec<String> },
    /// Refuse a pod.
    Refuse { reason: String },
    /// Admit a workload with warnings. Its pods would need the `ConfigMap` `config`, unless they
    /// would be refused.
    Warn { config: Option<String>, warnings: Vec<String> },
}

/// The result of looking for a sidecar's `ConfigMap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Found,
    Missing,
    /// It exists without the configuration file.
    NoFile,
    /// The API server did not answer the question.
    Unknown(String),
}

impl Review {
    /// Parses the body of a request.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let Envelope { api_version, kind, request } = serde_json::from_slice(body)?;
        if (api_version.as_str(), kind.as_str()) != (VERSION, "AdmissionReview") {
            return Err(Malformed::Other { kind: truncate(&kind), version: truncate(&api_version) });
        }
        let request = request.ok_or(Malformed::NoRequest)?;
        let subresource = request.sub_resource.filter(|name| !name.is_empty());
        let namespace = request.namespace.unwrap_or_default();
        if !namespace.is_empty() && !is_object_name(&namespace) {
            return Err(Malformed::Namespace);
        }
        let Resource { group, resource } = request.resource;
        let kind = WorkloadKind::of_resource(&group, &resource).filter(|_| subresource.is_none());
        let object = match request.object {
            Some(raw) if kind.is_some() && memory_bound(raw.get().as_bytes()) > MAX_PARSED => {
                return Err(Malformed::TooLarge);
            }
            Some(raw) if kind.is_some() => serde_json::from_str(raw.get())?,
            _ => Value::Null,
        };
        let name = request.name.unwrap_or_default();
        Ok(Self {
            uid: request.uid.chars().take(MAX_UID).collect(),
            kind,
            resource: match subresource {
                Some(subresource) => truncate(&format!("{resource}/{subresource}")),
                None => truncate(&resource),
            },
            operation: truncate(&request.operation),
            subject: subject(&object, &name),
            involved: kind.and_then(|kind| involved(&object, kind, &namespace)),
            namespace,
            object,
            dry_run: request.dry_run.unwrap_or(false),
        })
    }

    /// Releases the object, which takes most of the memory, once there is a verdict.
    pub(super) fn without_object(self) -> Self {
        Self { object: Value::Null, ..self }
    }

    /// Returns `pods` or `workloads`, as metrics name them, and nothing for other resources.
    pub(super) fn resource(&self) -> Option<&'static str> {
        self.kind.map(|kind| if kind.is_pod() { "pods" } else { "workloads" })
    }

    /// Decides what to do. A pod is judged once, when it is created, and a workload whenever it is
    /// applied.
    pub(super) fn verdict(&self, policy: &ReviewPolicy) -> Verdict {
        let unchanged = Verdict::Unchanged { warnings: Vec::new() };
        let Some(kind) = self.kind else {
            let warning =
                format!("idjag-proxy: {} are not handled; the rules of its webhook are too broad", self.resource);
            return Verdict::Unchanged { warnings: vec![warning] };
        };
        // The webhook's selectors exclude these namespaces. If they fail to, the injector must not
        // break the cluster.
        if self.namespace == "kube-system" || self.namespace == policy.namespace {
            return unchanged;
        }
        match self.operation.as_str() {
            "CREATE" if kind.is_pod() => self.pod(policy),
            "CREATE" | "UPDATE" if !kind.is_pod() => self.workload(kind, policy),
            _ => unchanged,
        }
    }

    fn pod(&self, policy: &ReviewPolicy) -> Verdict {
        let is_mirror = self.object.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
        if is_mirror || inject_label(&self.object) == Ok(InjectLabel::Disabled) {
            return Verdict::Unchanged { warnings: Vec::new() };
        }
        match inject(&self.object, &policy.defaults, OnExisting::Keep) {
            Ok(injection) => {
                let patch = (!injection.patch.is_empty()).then(|| STANDARD.encode(injection.patch.to_string()));
                Verdict::Inject { patch, config: injection.config, warnings: warnings(&injection.warnings) }
            }
            Err(error) => Verdict::Refuse {
                reason: format!(
                    "{} cannot have the idjag-proxy sidecar: {error}. To run the pod without the sidecar, label it {LABEL_INJECT}: disabled",
                    self.subject
                ),
            },
        }
    }

    fn workload(&self, kind: WorkloadKind, policy: &ReviewPolicy) -> Verdict {
        let Some(pod) = kind.pod(&self.object).filter(|pod| inject_label(pod) != Ok(InjectLabel::Disabled)) else {
            return Verdict::Unchanged { warnings: Vec::new() };
        };
        match inject(pod, &policy.defaults, OnExisting::Keep) {
            Ok(injection) => Verdict::Warn { config: Some(injection.config), warnings: warnings(&injection.warnings) },
            Err(error) => {
                let problems = error.problems();
                let warning = |problem: &String| format!("idjag-proxy: its pods will be refused: {problem}");
                Verdict::Warn { config: None, warnings: problems.iter().map(warning).collect() }
            }
        }
    }
}

fn warnings(of: &[String]) -> Vec<String> {
    let mut warnings: Vec<String> =
        of.iter().take(MAX_WARNINGS).map(|warning| format!("idjag-proxy: {warning}")).collect();
    if of.len() > MAX_WARNINGS {
        warnings.push(format!("idjag-proxy: and {} more", of.len() - MAX_WARNINGS));
    }
    warnings
}

/// Names the pod in messages. A pod that a controller creates has no name yet.
fn subject(object: &Value, name: &str) -> String {
    let metadata = |key: &str| object.pointer("/metadata")?.get(key)?.as_str().filter(|text| !text.is_empty());
    match metadata("name").or_else(|| Some(name).filter(|name| !name.is_empty())) {
        Some(name) => format!("pod {}", truncate(name)),
        None => match metadata("generateName") {
            Some(prefix) => format!("pod {}…", truncate(prefix)),
            None => "this pod".to_owned(),
        },
    }
}

/// Returns the object that an event is about: the pod's controller, or the pod itself if it has
/// none, or the workload. It is of a known kind and in the review's namespace, whatever the object
/// claims.
fn involved(object: &Value, kind: WorkloadKind, namespace: &str) -> Option<Value> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let metadata = object.get("metadata")?;
    let owners = metadata.get("ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let mut owners = owners.filter(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    let (source, kind) = match owners.next().filter(|_| kind.is_pod()) {
        Some(owner) => (owner, WorkloadKind::of(&text(owner, "apiVersion"), &text(owner, "kind"))?),
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

/// The outcome of a review, as metrics count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReviewOutcome {
    Injected,
    Unchanged,
    Refused,
    Warned,
}

impl ReviewOutcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Warned => "warned",
        }
    }
}

/// The answer to a review.
#[derive(Debug)]
pub(super) struct ReviewAnswer {
    pub(super) body: Value,
    pub(super) outcome: ReviewOutcome,
    /// Why a pod was refused, or the warnings about a workload.
    pub(super) problems: Vec<String>,
}

impl Verdict {
    /// Returns the size, in bytes, of what is kept until the answer is sent.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Inject { patch: Some(patch), .. } => patch.len(),
            _ => 0,
        }
    }

    /// Returns the name of the `ConfigMap` to look for.
    pub(super) fn config(&self) -> Option<&str> {
        match self {
            Self::Inject { config, .. } | Self::Warn { config: Some(config), .. } => Some(config),
            _ => None,
        }
    }

    /// Makes the answer. `lookup` is the result for [`Self::config`]. A pod is not refused if the
    /// lookup failed, because the kubelet waits for the `ConfigMap`, too.
    pub(super) fn answer(self, review: &Review, lookup: &Lookup) -> ReviewAnswer {
        let namespace = &review.namespace;
        match self {
            Self::Unchanged { warnings } => review.allow(ReviewOutcome::Unchanged, None, warnings),
            Self::Refuse { reason } => review.refuse(reason),
            Self::Inject { patch, config, mut warnings } => {
                match lookup {
                    Lookup::Missing | Lookup::NoFile => {
                        let reason = format!("{}: {}", review.subject, advice(lookup, namespace, &config));
                        return review.refuse(reason);
                    }
                    Lookup::Unknown(error) => {
                        tracing::warn!(%namespace, %config, %error, "could not check whether a ConfigMap exists");
                        warnings.push(format!(
                            "idjag-proxy: could not check whether ConfigMap {namespace}/{config} exists"
                        ));
                    }
                    Lookup::Found => {}
                }
                let outcome = if patch.is_some() { ReviewOutcome::Injected } else { ReviewOutcome::Unchanged };
                review.allow(outcome, patch, warnings)
            }
            Self::Warn { config, mut warnings } => {
                if let (Some(config), Lookup::Missing | Lookup::NoFile) = (&config, lookup) {
                    let problem = if *lookup == Lookup::Missing { "is missing" } else { "has no proxy.yaml" };
                    warnings.push(format!(
                        "idjag-proxy: its pods will be refused: ConfigMap {namespace}/{config} {problem}"
                    ));
                }
                let outcome = if warnings.is_empty() { ReviewOutcome::Unchanged } else { ReviewOutcome::Warned };
                review.allow(outcome, None, warnings)
            }
        }
    }
}

/// Says what is wrong with the `ConfigMap`, and the command that fixes it.
fn advice(lookup: &Lookup, namespace: &str, config: &str) -> String {
    let create = format!("kubectl -n {namespace} create configmap {config} --from-file={CONFIG_KEY}");
    if *lookup == Lookup::NoFile {
        format!(
            "ConfigMap {namespace}/{config} has no key {CONFIG_KEY}. Add it: {create} --dry-run=client -o yaml | kubectl apply -f -"
        )
    } else {
        format!("ConfigMap {namespace}/{config} is missing; it configures the idjag-proxy sidecar. Create it: {create}")
    }
}

impl Review {
    fn allow(&self, outcome: ReviewOutcome, patch: Option<String>, warnings: Vec<String>) -> ReviewAnswer {
        let mut response = json!({"uid": self.uid, "allowed": true});
        if let Some(patch) = patch {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = patch.into();
        }
        if !warnings.is_empty() {
            response["warnings"] = warnings.clone().into();
        }
        ReviewAnswer {
            body: wrap(response),
            outcome,
            problems: if outcome == ReviewOutcome::Warned { warnings } else { Vec::new() },
        }
    }

    fn refuse(&self, reason: String) -> ReviewAnswer {
        let status = json!({"status": "Failure", "code": 403, "reason": "Forbidden", "message": reason});
        let response = json!({"uid": self.uid, "allowed": false, "status": status});
        ReviewAnswer { body: wrap(response), outcome: ReviewOutcome::Refused, problems: vec![reason] }
    }
}

fn wrap(response: Value) -> Value {
    let mut review = json!({"apiVersion": VERSION, "kind": "AdmissionReview"});
    review["response"] = response;
    review
}

#[cfg(test)]
mod tests;
