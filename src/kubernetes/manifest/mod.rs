//! Injects the sidecar into files of manifests. Everything that is not a workload stays byte by
//! byte as it was written.
mod documents;
mod error;

pub use self::error::ManifestError;

use self::documents::split;
use super::inject::{Defaults, InjectError, InjectLabel, OnExisting, inject, inject_label};
use super::names::LABEL_INJECT;
use super::untrusted::truncate;
use super::workload::WorkloadKind;
use serde_json::Value;
use std::fmt;

/// Manifests with sidecars, and a report on each object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectedManifests {
    /// The manifests, in their original order.
    pub text: String,
    /// One report per object, in order.
    pub reports: Vec<ObjectReport>,
}

impl InjectedManifests {
    /// Counts the workloads that could not be injected. The text contains them as they were.
    pub fn skipped(&self) -> usize {
        self.reports.iter().filter(|report| matches!(report.outcome, ObjectOutcome::Skipped(_))).count()
    }
}

/// What was done with one object: one line for people, and one more per warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectReport {
    object: String,
    outcome: ObjectOutcome,
    warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ObjectOutcome {
    /// The sidecar was added; it needs this `ConfigMap`.
    Injected {
        config: String,
    },
    /// The sidecar was there and has been replaced.
    Renewed,
    /// The label at this path opts out.
    OptedOut(String),
    Skipped(InjectError),
    NotAWorkload,
    /// The document cannot be read in full, but is not a workload.
    Unreadable(String),
}

impl ObjectOutcome {
    fn changes_object(&self) -> bool {
        matches!(self, Self::Injected { .. } | Self::Renewed)
    }
}

impl fmt::Display for ObjectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, outcome, warnings } = self;
        match outcome {
            ObjectOutcome::Injected { config } => write!(f, "{object}: injected, with ConfigMap {config}")?,
            ObjectOutcome::Renewed => write!(f, "{object}: sidecar renewed")?,
            ObjectOutcome::OptedOut(label) => write!(f, "{object}: opted out by {label}")?,
            ObjectOutcome::Skipped(error) => write!(f, "{object}: NOT injected: {error}")?,
            ObjectOutcome::Unreadable(problem) => {
                write!(f, "{object}: not a workload, passed through although {problem}")?;
            }
            ObjectOutcome::NotAWorkload => write!(f, "{object}: not a workload, passed through")?,
        }
        warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}"))
    }
}

/// Injects every workload of a YAML or JSON text, which may have several documents and lists of
/// objects. A document with a workload is written anew, so comments inside it are lost; comments in
/// front of it stay. Injecting the result again changes only what follows from changed annotations
/// or `defaults`.
///
/// # Errors
/// A document cannot be read and may contain a workload. A workload that cannot be injected is not
/// an error; see [`InjectedManifests::skipped`].
pub fn inject_manifests(text: &str, defaults: &Defaults) -> Result<InjectedManifests, ManifestError> {
    let (mut output, mut reports) = (String::with_capacity(text.len() + 4096), Vec::new());
    let mut was_changed = false;
    for document in split(text) {
        if was_changed && document.is_bare() {
            output.push_str("---\n");
        }
        was_changed = false;
        let mut value = match (document.parse(), document.text()) {
            (Ok(value), _) => value,
            (Err(error), text) => {
                // Only workloads matter here, and kubectl may accept what this parser does not.
                let kind = document.guess_kind().ok_or_else(|| error.clone())?;
                let object = format!("{} at line {}", truncate(&kind), document.line());
                let outcome = ObjectOutcome::Unreadable(error.problem);
                reports.push(ObjectReport { object, outcome, warnings: Vec::new() });
                output.push_str(text);
                continue;
            }
        };
        let before = reports.len();
        inject_objects(&mut value, &ItemType::default(), &mut reports, defaults);
        was_changed = reports[before..].iter().any(|report| report.outcome.changes_object());
        output.push_str(&if was_changed { document.replaced(&value)? } else { document.text().to_owned() });
    }
    Ok(InjectedManifests { text: output, reports })
}

/// The type that a typed list, such as a `DeploymentList`, gives its items, which may leave it out.
/// Empty outside of one.
#[derive(Default)]
struct ItemType {
    api_version: String,
    kind: String,
}

/// Injects one object, or every object of a list.
fn inject_objects(object: &mut Value, default: &ItemType, reports: &mut Vec<ObjectReport>, defaults: &Defaults) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if let (Some(item_kind), Some(items)) =
        (kind.strip_suffix("List"), object.get_mut("items").and_then(Value::as_array_mut))
    {
        let item_type = match item_kind {
            "" => ItemType::default(),
            kind => ItemType { api_version, kind: kind.to_owned() },
        };
        items.iter_mut().for_each(|item| inject_objects(item, &item_type, reports, defaults));
        return;
    }
    if object.is_null() {
        return;
    }
    let or = |given: String, default: &str| if given.is_empty() { default.to_owned() } else { given };
    let (api_version, kind) = (or(api_version, &default.api_version), or(kind, &default.kind));
    let (outcome, warnings) = match WorkloadKind::of(&api_version, &kind) {
        Some(kind) => inject_workload(object, kind, defaults),
        None => (ObjectOutcome::NotAWorkload, Vec::new()),
    };
    reports.push(ObjectReport { object: describe(object, &kind), outcome, warnings });
}

fn inject_workload(object: &mut Value, kind: WorkloadKind, defaults: &Defaults) -> (ObjectOutcome, Vec<String>) {
    let skipped = |error| (ObjectOutcome::Skipped(error), Vec::new());
    let path = kind.metadata_path();
    let Some(pod) = kind.pod_mut(object) else {
        return skipped(InjectError::Shape("it has no pod template"));
    };
    if inject_label(pod) == Ok(InjectLabel::Disabled) {
        return (ObjectOutcome::OptedOut(format!("{path}.labels[{LABEL_INJECT}]")), Vec::new());
    }
    let injection = match inject(pod, defaults, OnExisting::Renew) {
        Ok(injection) => injection,
        Err(error) => return skipped(error),
    };
    if json_patch::patch(pod, &injection.patch).is_err() {
        return skipped(InjectError::Shape("the patch does not apply to it"));
    }
    let outcome = if injection.had_sidecar {
        ObjectOutcome::Renewed
    } else {
        ObjectOutcome::Injected { config: injection.config }
    };
    (outcome, injection.warnings)
}

/// Names an object as `Deployment agents/calendar`.
fn describe(object: &Value, kind: &str) -> String {
    let metadata = |key: &str| object.pointer("/metadata")?.get(key)?.as_str();
    let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or("(without a name)");
    let kind = if kind.is_empty() { "an object" } else { kind };
    match metadata("namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPLOYMENT: &str = "# Source: calendar.yaml
apiVersion: apps/v1
kind: Deployment
metadata: {name: calendar, namespace: agents}
spec:
  template:
    spec:
      containers:
      - {name: agent, image: 'agent:1', env: [{name: COUNTRY, value: \"no\"}, {name: PORT, value: '0644'}]}
      volumes:
      - {name: data, configMap: {name: data, defaultMode: 0644}}
";

    fn injected(text: &str) -> InjectedManifests {
        inject_manifests(text, &Defaults::default()).expect("manifests")
    }

    fn reports(injected: &InjectedManifests) -> Vec<String> {
        injected.reports.iter().map(ToString::to_string).collect()
    }

    fn objects(text: &str) -> Vec<Value> {
        split(text).iter().map(|document| document.parse().expect("YAML")).collect()
    }

    #[test]
    fn every_workload_kind_is_injected() {
        for (api_version, kind) in [
            ("v1", "Pod"),
            ("apps/v1", "Deployment"),
            ("apps/v1", "ReplicaSet"),
            ("v1", "ReplicationController"),
            ("apps/v1", "StatefulSet"),
            ("apps/v1", "DaemonSet"),
            ("batch/v1", "Job"),
            ("batch/v1", "CronJob"),
        ] {
            let pod = "spec: {containers: [{name: agent, image: a}]}";
            let spec = match kind {
                "Pod" => pod.to_owned(),
                "CronJob" => format!("spec: {{jobTemplate: {{spec: {{template: {{{pod}}}}}}}}}"),
                _ => format!("spec: {{template: {{{pod}}}}}"),
            };
            let done = injected(&format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\n{spec}\n"));
            assert_eq!(reports(&done), [format!("{kind} x: injected, with ConfigMap idjag-proxy")]);
            let kind = WorkloadKind::of(api_version, kind).expect("known");
            let object = &objects(&done.text)[0];
            assert_eq!(kind.pod(object).expect("a pod")["spec"]["initContainers"][0]["name"], "idjag-proxy");
        }
    }

    #[test]
    fn other_objects_stay_byte_by_byte() {
        let service = "---  # a service\napiVersion: v1\nkind: Service   # with a comment\nmetadata: {name:   s}\n";
        let rest = "---\n# nothing\n---\nkind: Rollout\napiVersion: argoproj.io/v1\nspec: {a: 1.10, b: 0644, c: yes}\n";
        let done = injected(&format!("{DEPLOYMENT}{service}{rest}"));
        assert!(done.text.ends_with(&format!("{service}{rest}")), "{}", done.text);
        let expected = [
            "Deployment agents/calendar: injected, with ConfigMap idjag-proxy",
            "Service s: not a workload, passed through",
            "Rollout (without a name): not a workload, passed through",
        ];
        assert_eq!(reports(&done), expected);
        let untouched = format!("{service}{rest}");
        assert_eq!(injected(&untouched).text, untouched);
    }

    #[test]
    fn values_keep_the_types_that_kubectl_reads() {
        let done = injected(DEPLOYMENT);
        assert!(done.text.starts_with("# Source: calendar.yaml\napiVersion: apps/v1\n"), "{}", done.text);
        let object = &objects(&done.text)[0];
        let agent = object.pointer("/spec/template/spec/containers/0/env").expect("variables");
        assert_eq!((&agent[0]["value"], &agent[1]["value"]), (&Value::from("no"), &Value::from("0644")));
        assert!(done.text.contains("value: \"no\"") || done.text.contains("value: 'no'"), "{}", done.text);
        assert_eq!(object.pointer("/spec/template/spec/volumes/0/configMap/defaultMode"), Some(&Value::from(0o644)));
    }

    #[test]
    fn injecting_twice_changes_nothing() {
        let once = injected(&format!("{DEPLOYMENT}---\napiVersion: v1\nkind: Service\n"));
        let twice = injected(&once.text);
        assert_eq!(twice.text, once.text);
        assert_eq!(reports(&twice)[0], "Deployment agents/calendar: sidecar renewed");
    }

    #[test]
    fn items_of_plain_and_typed_lists_are_injected() {
        let item = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}";
        let list = format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n- {{kind: Secret, metadata: {{name: s}}}}\n");
        let done = injected(&list);
        assert_eq!(
            reports(&done),
            ["Pod a: injected, with ConfigMap idjag-proxy", "Secret s: not a workload, passed through"]
        );
        assert_eq!(objects(&done.text)[0]["items"][0]["spec"]["initContainers"][0]["name"], "idjag-proxy");
        let typed = "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: a}, spec: {containers: [{name: c}]}}]\n";
        assert_eq!(reports(&injected(typed)), ["Pod a: injected, with ConfigMap idjag-proxy"]);
    }

    #[test]
    fn json_document_stays_json() {
        let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}}"#;
        let done = injected(pod);
        let value: Value = serde_json::from_str(&done.text).expect("JSON");
        assert_eq!(value["spec"]["initContainers"][0]["name"], "idjag-proxy");
    }

    #[test]
    fn workload_that_cannot_be_injected_stays_as_it_was() {
        let bad = DEPLOYMENT.replace("      containers:", "      hostNetwork: true\n      containers:");
        let done = injected(&bad);
        assert_eq!((done.skipped(), &done.text), (1, &bad));
        let expected = "Deployment agents/calendar: NOT injected: hostNetwork is true: \
            every process of the node could use this agent's identity; remove it";
        assert_eq!(reports(&done), [expected]);
    }

    #[test]
    fn workload_that_opts_out_stays_as_it_was() {
        let out = DEPLOYMENT.replace(
            "    spec:\n      containers:",
            "    metadata: {labels: {idjag-proxy.io/inject: disabled}}\n    spec:\n      containers:",
        );
        let done = injected(&out);
        assert_eq!((done.skipped(), &done.text), (0, &out));
        let expected = "Deployment agents/calendar: opted out by spec.template.metadata.labels[idjag-proxy.io/inject]";
        assert_eq!(reports(&done), [expected]);
    }

    #[test]
    fn every_separator_of_kubectl_is_accepted() {
        let pod = |name: &str| {
            format!(
                r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"containers": [{{"name": "c"}}]}}}}"#
            )
        };
        let done = injected(&format!("{}\n{}{{\"kind\": \"Service\"}}\n", pod("a"), pod("b")));
        let values: Vec<Value> = serde_json::Deserializer::from_str(&done.text)
            .into_iter()
            .collect::<Result<_, _>>()
            .expect("JSON in a row");
        assert_eq!(values.len(), 3);
        for value in &values[..2] {
            assert_eq!(value["spec"]["initContainers"][0]["name"], "idjag-proxy");
        }
        let done = injected(&format!("%YAML 1.1\n---\n{DEPLOYMENT}...\n{DEPLOYMENT}---\n\u{feff}{DEPLOYMENT}"));
        assert_eq!(done.reports.len(), 3);
        assert!(done.text.starts_with("%YAML 1.1\n---\n# Source"), "{}", done.text);
        assert!(
            injected(&done.text).reports.iter().all(|report| report.outcome == ObjectOutcome::Renewed),
            "{}",
            done.text
        );
    }

    #[test]
    fn unreadable_document_stays_unless_it_may_be_a_workload() {
        for other in [
            "apiVersion: v1\nkind: ConfigMap\ndata: {a: 1, a: 2}\n",
            "kind: ConfigMap\nmetadata: {name: x\n",
            "kind: Template\nspec: {{ .Values.kind }}\n",
        ] {
            let done = injected(&format!("{other}---\n{DEPLOYMENT}"));
            assert!(done.text.starts_with(other), "{}", done.text);
            assert_eq!(done.skipped(), 0);
            assert!(
                reports(&done)[0].contains("at line 1: not a workload, passed through although "),
                "{:?}",
                reports(&done)
            );
        }
        assert_eq!(
            reports(&injected("kind: ConfigMap\na: 1\na: 2\n")),
            [
                "ConfigMap at line 1: not a workload, passed through although the key `a` appears twice, at line 3, column 1"
            ]
        );
        for workload in [
            "apiVersion: v1\nkind: Pod\nkind: Pod\n",
            "kind: List\nkind: List\nitems: [{kind: Job}]\n",
            "kind: ConfigMap\na: [\n---\nkind: 'Deployment'\na: [\n",
            "kind: DeploymentList\na: [\n",
            "kind: &x Pod\na: [\n",
            "a: 1\na: 2\n",
        ] {
            let error = inject_manifests(workload, &Defaults::default()).expect_err(workload);
            assert!(error.to_string().contains(" is not a manifest: "), "{error}");
        }
    }

    #[test]
    fn unreadable_document_is_named_by_its_line() {
        let error =
            inject_manifests(&format!("{DEPLOYMENT}---\na: [1\nb: 2\n"), &Defaults::default()).expect_err("bad");
        let shown = error.to_string();
        assert!(shown.starts_with("the document at line 12 is not a manifest: "), "{shown}");
        assert!(shown.contains("line 14") || shown.contains("line 13"), "{shown}");
    }
}
