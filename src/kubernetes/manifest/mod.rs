//! Files of manifests: every workload in them gets the sidecar, everything else stays byte by byte as it was written.
mod documents;

use self::documents::{Document, split};
use super::inject::{Defaults, Existing, Opt, Refusal, inject, opt};
use super::names::LABEL_INJECT;
use super::words::shortened;
use super::workload::Kind;
use serde_json::Value;
use std::fmt;

/// What came of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The manifests.
    pub text: String,
    /// One for each object, in order.
    pub notes: Vec<Note>,
}

impl Injected {
    /// How many workloads could not be injected and stand in the text as they were.
    pub fn skipped(&self) -> usize {
        self.notes.iter().filter(|note| matches!(note.outcome, Outcome::Skipped(_))).count()
    }
}

/// What was done with one object: a line for people, more where there are warnings or reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    object: String,
    outcome: Outcome,
    warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Injected {
        config: String,
    },
    Renewed,
    OptedOut(String),
    Skipped(Refusal),
    NoWorkload,
    /// It is no workload either, as far as it can be read.
    Unread(String),
}

/// A text that is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the document at line {line} is no manifest: {problem}")]
pub struct ManifestError {
    line: usize,
    problem: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, outcome, warnings } = self;
        match outcome {
            Outcome::Injected { config } => write!(f, "{object}: injected, with ConfigMap {config}")?,
            Outcome::Renewed => write!(f, "{object}: had a sidecar, made anew")?,
            Outcome::OptedOut(place) => write!(f, "{object}: left alone, as {place} says")?,
            Outcome::Skipped(refusal) => write!(f, "{object}: NOT injected: {refusal}")?,
            Outcome::Unread(problem) => write!(f, "{object}: no workload, passed through, though {problem}")?,
            Outcome::NoWorkload => write!(f, "{object}: no workload, passed through")?,
        }
        warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}"))
    }
}

/// Injects every workload of a YAML or JSON text: several documents, and lists of objects. A document with a workload is written anew, so
/// that comments inside it are lost; those in front of it stay. Doing it again changes nothing but what
/// annotations and `defaults` have come to say.
///
/// # Errors
/// A document that cannot be read and may hold a workload. Workloads that cannot be injected are no error here: see [`Injected::skipped`].
pub fn inject_manifests(text: &str, defaults: &Defaults) -> Result<Injected, ManifestError> {
    let (mut output, mut notes) = (String::with_capacity(text.len() + 4096), Vec::new());
    let mut was_changed = false;
    for document in split(text) {
        if was_changed && document.is_bare() {
            output.push_str("---\n");
        }
        was_changed = false;
        let mut value = match (document.parse(), document.text()) {
            (Ok(value), _) => value,
            (Err(error), text) => {
                // What is no workload is none of our business; kubectl may take what we cannot read.
                let kind = document.kind_at_a_glance().ok_or_else(|| error.clone())?;
                let object = format!("{} at line {}", shortened(&kind), document.line());
                notes.push(Note { object, outcome: Outcome::Unread(error.problem), warnings: Vec::new() });
                output.push_str(text);
                continue;
            }
        };
        let before = notes.len();
        walk(&mut value, "", &mut notes, defaults);
        was_changed = notes[before..].iter().any(Note::changes);
        output.push_str(&if was_changed { document.replaced(&value)? } else { document.text().to_owned() });
    }
    Ok(Injected { text: output, notes })
}

impl Note {
    fn changes(&self) -> bool {
        matches!(self.outcome, Outcome::Injected { .. } | Outcome::Renewed)
    }
}

/// One object, or those of a list. `of` is the kind that a typed list gives its items, which need not say it.
fn walk(object: &mut Value, of: &str, notes: &mut Vec<Note>, defaults: &Defaults) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if let (Some(item_kind), Some(items)) =
        (kind.strip_suffix("List"), object.get_mut("items").and_then(Value::as_array_mut))
    {
        let of = if item_kind.is_empty() { String::new() } else { format!("{api_version} {item_kind}") };
        items.iter_mut().for_each(|item| walk(item, &of, notes, defaults));
        return;
    }
    if object.is_null() {
        return;
    }
    let (default_version, default_kind) = of.split_once(' ').unwrap_or_default();
    let or = |said: String, default: &str| if said.is_empty() { default.to_owned() } else { said };
    let (api_version, kind) = (or(api_version, default_version), or(kind, default_kind));
    let (outcome, warnings) = match Kind::of(&api_version, &kind) {
        Some(kind) => workload(object, kind, defaults),
        None => (Outcome::NoWorkload, Vec::new()),
    };
    notes.push(Note { object: describe(object, &kind), outcome, warnings });
}

fn workload(object: &mut Value, kind: Kind, defaults: &Defaults) -> (Outcome, Vec<String>) {
    let path = kind.metadata_path();
    let Some(pod) = kind.pod_mut(object) else {
        return (Outcome::Skipped(Refusal::Shape("it has no pod template")), Vec::new());
    };
    if opt(pod) == Ok(Opt::Out) {
        return (Outcome::OptedOut(format!("{path}.labels[{LABEL_INJECT}]")), Vec::new());
    }
    let done = match inject(pod, defaults, Existing::Renew) {
        Ok(done) => done,
        Err(refusal) => return (Outcome::Skipped(refusal), Vec::new()),
    };
    if json_patch::patch(pod, &done.patch).is_err() {
        return (Outcome::Skipped(Refusal::Shape("the patch does not fit it")), Vec::new());
    }
    let outcome = if done.existed { Outcome::Renewed } else { Outcome::Injected { config: done.config } };
    (outcome, done.warnings)
}

/// `Deployment agents/calendar`
fn describe(object: &Value, kind: &str) -> String {
    let metadata = |key: &str| object.pointer("/metadata")?.get(key)?.as_str();
    let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or("(without a name)");
    let kind = if kind.is_empty() { "an object" } else { kind };
    match metadata("namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

impl Document<'_> {
    fn error(&self, problem: impl fmt::Display) -> ManifestError {
        ManifestError { line: self.line(), problem: problem.to_string() }
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

    fn injected(text: &str) -> Injected {
        inject_manifests(text, &Defaults::default()).expect("manifests")
    }

    fn notes(injected: &Injected) -> Vec<String> {
        injected.notes.iter().map(ToString::to_string).collect()
    }

    fn objects(text: &str) -> Vec<Value> {
        split(text).iter().map(|document| document.parse().expect("YAML")).collect()
    }

    #[test]
    fn every_kind_of_workload() {
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
            assert_eq!(notes(&done), [format!("{kind} x: injected, with ConfigMap idjag-proxy")]);
            let kind = Kind::of(api_version, kind).expect("known");
            let object = &objects(&done.text)[0];
            assert_eq!(kind.pod(object).expect("a pod")["spec"]["initContainers"][0]["name"], "idjag-proxy");
        }
    }

    #[test]
    fn what_is_no_workload_stays_byte_by_byte() {
        let service = "---  # a service\napiVersion: v1\nkind: Service   # with a comment\nmetadata: {name:   s}\n";
        let rest = "---\n# nothing\n---\nkind: Rollout\napiVersion: argoproj.io/v1\nspec: {a: 1.10, b: 0644, c: yes}\n";
        let done = injected(&format!("{DEPLOYMENT}{service}{rest}"));
        assert!(done.text.ends_with(&format!("{service}{rest}")), "{}", done.text);
        let expected = [
            "Deployment agents/calendar: injected, with ConfigMap idjag-proxy",
            "Service s: no workload, passed through",
            "Rollout (without a name): no workload, passed through",
        ];
        assert_eq!(notes(&done), expected);
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
    fn a_second_time_changes_nothing() {
        let once = injected(&format!("{DEPLOYMENT}---\napiVersion: v1\nkind: Service\n"));
        let twice = injected(&once.text);
        assert_eq!(twice.text, once.text);
        assert_eq!(notes(&twice)[0], "Deployment agents/calendar: had a sidecar, made anew");
    }

    #[test]
    fn lists_of_both_sorts() {
        let item = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}";
        let list = format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n- {{kind: Secret, metadata: {{name: s}}}}\n");
        let done = injected(&list);
        assert_eq!(
            notes(&done),
            ["Pod a: injected, with ConfigMap idjag-proxy", "Secret s: no workload, passed through"]
        );
        assert_eq!(objects(&done.text)[0]["items"][0]["spec"]["initContainers"][0]["name"], "idjag-proxy");
        let typed = "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: a}, spec: {containers: [{name: c}]}}]\n";
        assert_eq!(notes(&injected(typed)), ["Pod a: injected, with ConfigMap idjag-proxy"]);
    }

    #[test]
    fn json_stays_json() {
        let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}}"#;
        let done = injected(pod);
        let value: Value = serde_json::from_str(&done.text).expect("JSON");
        assert_eq!(value["spec"]["initContainers"][0]["name"], "idjag-proxy");
    }

    #[test]
    fn what_cannot_be_injected_stands_as_it_was() {
        let bad = DEPLOYMENT.replace("      containers:", "      hostNetwork: true\n      containers:");
        let done = injected(&bad);
        assert_eq!((done.skipped(), &done.text), (1, &bad));
        let expected = "Deployment agents/calendar: NOT injected: hostNetwork is true: \
            every process of the node could use this agent's identity; remove it";
        assert_eq!(notes(&done), [expected]);
    }

    #[test]
    fn a_workload_that_says_no_is_left_alone() {
        let out = DEPLOYMENT.replace(
            "    spec:\n      containers:",
            "    metadata: {labels: {idjag-proxy.io/inject: disabled}}\n    spec:\n      containers:",
        );
        let done = injected(&out);
        assert_eq!((done.skipped(), &done.text), (0, &out));
        let expected =
            "Deployment agents/calendar: left alone, as spec.template.metadata.labels[idjag-proxy.io/inject] says";
        assert_eq!(notes(&done), [expected]);
    }

    #[test]
    fn what_kubectl_takes_is_taken() {
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
        assert_eq!(done.notes.len(), 3);
        assert!(done.text.starts_with("%YAML 1.1\n---\n# Source"), "{}", done.text);
        assert!(injected(&done.text).notes.iter().all(|note| note.outcome == Outcome::Renewed), "{}", done.text);
    }

    #[test]
    fn what_cannot_be_read_and_is_no_workload_stays() {
        for other in [
            "apiVersion: v1\nkind: ConfigMap\ndata: {a: 1, a: 2}\n",
            "kind: ConfigMap\nmetadata: {name: x\n",
            "kind: Template\nspec: {{ .Values.kind }}\n",
        ] {
            let done = injected(&format!("{other}---\n{DEPLOYMENT}"));
            assert!(done.text.starts_with(other), "{}", done.text);
            assert_eq!(done.skipped(), 0);
            assert!(notes(&done)[0].contains("at line 1: no workload, passed through, though "), "{:?}", notes(&done));
        }
        assert_eq!(
            notes(&injected("kind: ConfigMap\na: 1\na: 2\n")),
            [
                "ConfigMap at line 1: no workload, passed through, though the key `a` is there twice, at line 3, column 1"
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
            assert!(error.to_string().contains(" is no manifest: "), "{error}");
        }
    }

    #[test]
    fn a_document_that_cannot_be_read_is_named_by_its_line() {
        let error =
            inject_manifests(&format!("{DEPLOYMENT}---\na: [1\nb: 2\n"), &Defaults::default()).expect_err("bad");
        let shown = error.to_string();
        assert!(shown.starts_with("the document at line 12 is no manifest: "), "{shown}");
        assert!(shown.contains("line 14") || shown.contains("line 13"), "{shown}");
    }
}
