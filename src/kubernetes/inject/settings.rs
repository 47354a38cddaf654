//! The settings of one sidecar, from its pod's annotations. All wrong annotations are reported at
//! once.
use super::resources::Resources;
use super::socket::Socket;
use crate::kubernetes::names::{ANNOTATION_STATUS, ANNOTATIONS, CONFIG, IMAGE, LABEL_INJECT, LABEL_INJECTED, PREFIX};
use crate::kubernetes::untrusted::truncate;
use crate::telemetry::Level;
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// The settings of a pod without annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The sidecar's image.
    pub image: String,
    /// When nodes pull the image; absent for Kubernetes' own default.
    pub image_pull_policy: Option<PullPolicy>,
    /// The source of the Workload API's socket.
    pub socket: Socket,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { image: IMAGE.to_owned(), image_pull_policy: None, socket: Socket::default() }
    }
}

/// When a node pulls the sidecar's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time that a container starts.
    Always,
    /// If the node does not have it.
    IfNotPresent,
    /// Never; the node must have it.
    Never,
}

impl PullPolicy {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl FromStr for PullPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let policies = [Self::Always, Self::IfNotPresent, Self::Never];
        let found = policies.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| "write Always, IfNotPresent or Never".to_owned())
    }
}

/// Environment variables that make the agent's containers use the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpProxy {
    /// Comma-separated hosts that bypass the proxy, in addition to loopback; may be empty.
    pub(super) no_proxy: String,
}

/// The settings of one pod's sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SidecarSettings {
    /// The name of the `ConfigMap` and of the `Secret`.
    pub(crate) config: String,
    pub(super) image: String,
    pub(super) image_pull_policy: Option<PullPolicy>,
    pub(super) log_level: Option<Level>,
    pub(super) resources: Resources,
    pub(crate) socket: Socket,
    pub(super) http_proxy: Option<HttpProxy>,
}

/// An annotation with a wrong name or value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnnotationError {
    name: String,
    problem: String,
}

impl fmt::Display for AnnotationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {PREFIX}{}: {}", self.name, self.problem)
    }
}

/// The longest value of one of our annotations, in bytes.
const MAX_VALUE: usize = 4096;
/// How many errors are reported. Nobody reads more.
const MAX_ERRORS: usize = 16;

impl SidecarSettings {
    /// Reads `metadata.annotations`; what they leave out comes from `defaults`.
    pub(crate) fn read(annotations: Option<&Value>, defaults: &Defaults) -> Result<Self, Vec<AnnotationError>> {
        let mut settings = Self {
            config: CONFIG.to_owned(),
            image: defaults.image.clone(),
            image_pull_policy: defaults.image_pull_policy,
            log_level: None,
            resources: Resources::default(),
            socket: defaults.socket.clone(),
            http_proxy: None,
        };
        let (mut errors, mut no_proxy) = (Vec::new(), None);
        for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            if key == ANNOTATION_STATUS {
                continue;
            }
            if errors.len() >= MAX_ERRORS {
                break;
            }
            let name = &*truncate(name);
            let read = match value.as_str() {
                Some(text) if text.len() > MAX_VALUE => Err(vec![format!("it is longer than {MAX_VALUE} bytes")]),
                Some(text) => settings.set(name, text, &mut no_proxy),
                None => Err(vec!["it is not a string: put it in quotes".to_owned()]),
            };
            let problems = read.err().into_iter().flatten().take(MAX_ERRORS);
            errors.extend(problems.map(|problem| AnnotationError { name: name.to_owned(), problem }));
        }
        match (&mut settings.http_proxy, no_proxy) {
            (Some(http_proxy), Some(hosts)) => http_proxy.no_proxy = hosts,
            (None, Some(_)) => errors.push(AnnotationError {
                name: "no-proxy".to_owned(),
                problem: format!("it has no effect without {PREFIX}http-proxy: \"true\""),
            }),
            (_, None) => {}
        }
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    fn set(&mut self, name: &str, text: &str, no_proxy: &mut Option<String>) -> Result<(), Vec<String>> {
        let one = |problem: String| vec![problem];
        match name {
            "config" if is_object_name(text) => self.config = text.to_owned(),
            "config" => {
                return Err(one(format!("`{text}` cannot be the name of a ConfigMap: use a-z, 0-9, `-` and `.`")));
            }
            "image" if is_image(text) => self.image = text.to_owned(),
            "image" => return Err(one(format!("`{text}` is not an image: write one such as {IMAGE}"))),
            "log-level" => match Level::parse(text) {
                Some(level) => self.log_level = Some(level),
                None => {
                    return Err(one(format!("`{text}` is not a log level: write error, warn, info, debug or trace")));
                }
            },
            "resources" => self.resources = Resources::parse(text)?,
            "socket" => {
                self.socket = text.parse().map_err(|error: super::socket::SocketError| one(error.to_string()))?;
            }
            "http-proxy" => match text {
                "true" => self.http_proxy = Some(HttpProxy { no_proxy: String::new() }),
                "false" => self.http_proxy = None,
                _ => return Err(one(format!("`{text}` is neither \"true\" nor \"false\""))),
            },
            "no-proxy" if is_host_list(text) => *no_proxy = Some(text.to_owned()),
            "no-proxy" => {
                return Err(one(format!("`{text}` is not a list of hosts: write one such as a.example,10.0.0.0/8")));
            }
            _ => return Err(one(unknown(name))),
        }
        Ok(())
    }
}

/// Says what to do about an annotation of an unknown name.
fn unknown(name: &str) -> String {
    let label = format!("{PREFIX}{name}");
    if label == LABEL_INJECT || label == LABEL_INJECTED {
        return "it is a label, not an annotation".to_owned();
    }
    let near = ANNOTATIONS.iter().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
    match near {
        Some((distance, known)) if distance <= 2 => {
            format!("unknown annotation; did you mean `{PREFIX}{known}`?")
        }
        _ => format!("unknown annotation; the known ones are {}", ANNOTATIONS.join(", ")),
    }
}

/// Whether `text` is a DNS subdomain (RFC 1123 §2.1), as the names of most objects are.
pub(crate) fn is_object_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether `text` may be an image reference. The kubelet checks the rest.
fn is_image(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':' | '@');
    !text.is_empty()
        && text.len() <= 1024
        && text.chars().all(allowed)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_host_list(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '/' | '*' | '[' | ']');
    text.split(',').all(|host| !host.is_empty() && host.chars().all(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(annotations: &Value) -> Result<SidecarSettings, Vec<String>> {
        SidecarSettings::read(Some(annotations), &Defaults::default())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn pod_without_annotations_gets_the_defaults() {
        let settings = SidecarSettings::read(None, &Defaults::default()).expect("good");
        assert_eq!(settings.config, "idjag-proxy");
        assert_eq!(settings.image, IMAGE);
        assert_eq!(read(&json!({"other.example/config": "Ü", "idjag-proxy.io/status": "{}"})).expect("good"), settings);
    }

    #[test]
    fn annotations_override_the_defaults() {
        let settings = read(&json!({
            "idjag-proxy.io/config": "calendar.v2",
            "idjag-proxy.io/image": "registry.example:5000/idjag-proxy@sha256:0a",
            "idjag-proxy.io/log-level": "debug",
            "idjag-proxy.io/resources": "cpu=50m",
            "idjag-proxy.io/socket": "hostPath:/run/spire/agent-sockets/api.sock",
            "idjag-proxy.io/http-proxy": "true",
            "idjag-proxy.io/no-proxy": "metadata.internal,10.0.0.0/8",
        }))
        .expect("good");
        assert_eq!(settings.config, "calendar.v2");
        assert_eq!(settings.image, "registry.example:5000/idjag-proxy@sha256:0a");
        assert_eq!(settings.resources, Resources::parse("cpu=50m").expect("good"));
        assert_eq!(settings.log_level, Some(Level::Debug));
        assert_eq!(settings.socket.file(), "api.sock");
        assert_eq!(settings.http_proxy.expect("on").no_proxy, "metadata.internal,10.0.0.0/8");
    }

    #[test]
    fn every_wrong_annotation_is_reported() {
        let errors = read(&json!({
            "idjag-proxy.io/confg": "a",
            "idjag-proxy.io/config": "A B",
            "idjag-proxy.io/http-proxy": "yes",
            "idjag-proxy.io/image": "a b",
            "idjag-proxy.io/inject": "enabled",
            "idjag-proxy.io/log-level": "loud",
            "idjag-proxy.io/no-proxy": "a b",
            "idjag-proxy.io/resources": "cpu",
            "idjag-proxy.io/socket": true,
            "idjag-proxy.io/something-else": "a",
        }))
        .expect_err("bad");
        let expected = [
            "annotation idjag-proxy.io/confg: unknown annotation; did you mean `idjag-proxy.io/config`?",
            "annotation idjag-proxy.io/config: `A B` cannot be the name of a ConfigMap: use a-z, 0-9, `-` and `.`",
            "annotation idjag-proxy.io/http-proxy: `yes` is neither \"true\" nor \"false\"",
            "annotation idjag-proxy.io/image: `a b` is not an image: write one such as idjag-proxy:0.1.0",
            "annotation idjag-proxy.io/inject: it is a label, not an annotation",
            "annotation idjag-proxy.io/log-level: `loud` is not a log level: write error, warn, info, debug or trace",
            "annotation idjag-proxy.io/no-proxy: `a b` is not a list of hosts: write one such as a.example,10.0.0.0/8",
            "annotation idjag-proxy.io/resources: `cpu` is not KEY=AMOUNT; the keys are cpu, memory, cpu-limit and memory-limit",
            "annotation idjag-proxy.io/socket: it is not a string: put it in quotes",
            "annotation idjag-proxy.io/something-else: unknown annotation; the known ones are config, image, log-level, \
             resources, socket, http-proxy, no-proxy",
        ];
        let expected: Vec<String> =
            expected.iter().map(|text| text.replace("0.1.0", env!("CARGO_PKG_VERSION"))).collect();
        let mut sorted = errors.clone();
        sorted.sort();
        let mut wanted = expected;
        wanted.sort();
        assert_eq!(sorted, wanted);
    }

    #[test]
    fn no_proxy_without_http_proxy_is_an_error() {
        let errors = read(&json!({"idjag-proxy.io/no-proxy": "a.example"})).expect_err("bad");
        assert_eq!(
            errors,
            ["annotation idjag-proxy.io/no-proxy: it has no effect without idjag-proxy.io/http-proxy: \"true\""]
        );
    }
}
