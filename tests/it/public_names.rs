//! Compares every name that others may depend on, as the running program has it, with
//! `golden/public_names.txt`. Renaming one is a decision, which this test makes visible.
use super::binary::{BINARY, Process};
use super::kubernetes::scrape_injector;
use super::world::{World, within};
use crate::layers::Crate;
use clap::Arg;
use idjag_proxy::config::{Overrides, load, schema};
use idjag_proxy::kubernetes::{
    ANNOTATION_STATUS, ANNOTATIONS, Defaults, LABEL_INJECT, LABEL_INJECTED, inject_manifests,
};
use idjag_proxy::proxy::{Dialect, Reason, Refusal};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;

/// When set, the golden file is written instead of compared.
const ACCEPT: &str = "UPDATE_GOLDEN";

/// Labels whose values are the operator's own names, numbers or versions. Every other label has a
/// closed set of values.
const OPEN_LABELS: [&str; 5] = ["route", "server", "le", "version", "features"];

#[tokio::test]
async fn public_names_are_those_of_the_golden_file() {
    let world = World::with_open_api().await;
    let mut names = BTreeSet::new();
    command_line(&mut names);
    configuration(&mut names);
    environment(&world, &mut names);
    exit_codes(&world, &mut names).await;
    log(&mut names);
    pods(&mut names);
    refusals(&mut names);
    running_proxy(&world, &mut names).await;
    metrics(&scrape_injector().await, &mut names);
    compare(&names);
}

fn compare(names: &BTreeSet<String>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/public_names.txt");
    #[expect(clippy::disallowed_methods, reason = "a switch for those who run this test")]
    if std::env::var_os(ACCEPT).is_some() {
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        std::fs::write(&file, text).expect("written");
        return;
    }
    let text = std::fs::read_to_string(&file).expect("the golden file");
    let golden: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let removed = golden.difference(names).map(|name| format!("- {name}\n"));
    let added = names.difference(&golden).map(|name| format!("+ {name}\n"));
    let changes: String = removed.chain(added).collect();
    assert!(
        changes.is_empty(),
        "public names have changed:\n{changes}\
         Dashboards, configurations, scripts and manifests outside this repository use them. If the change is meant, say so in \
         CHANGELOG.md and accept it: {ACCEPT}=1 cargo test --release --test it public_names"
    );
}

/// Commands, their flags and arguments, and the values that these may have.
fn command_line(names: &mut BTreeSet<String>) {
    fn walk(command: &clap::Command, path: &str, names: &mut BTreeSet<String>) {
        names.insert(format!("command {path}"));
        for argument in command.get_arguments() {
            let shown = spelled(argument);
            names.insert(format!("command {path} {shown}"));
            for value in argument.get_possible_values().iter().filter(|_| argument.get_action().takes_values()) {
                names.insert(format!("command {path} {shown}: {}", value.get_name()));
            }
        }
        for inner in command.get_subcommands() {
            walk(inner, &format!("{path} {}", inner.get_name()), names);
        }
    }
    let command = idjag_proxy::cli::command();
    walk(&command, command.get_name(), names);
}

fn spelled(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default().join(" ");
    let value = if argument.get_action().takes_values() { format!("<{values}>") } else { String::new() };
    let flag = argument.get_long().map_or_else(String::new, |name| format!("--{name} "));
    format!("{flag}{value}").trim_end().to_owned()
}

/// The path of each configuration key, and the name of each choice.
fn configuration(names: &mut BTreeSet<String>) {
    fn walk(root: &Value, schema: &Value, path: &str, names: &mut BTreeSet<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let definition = root.pointer(name.trim_start_matches('#')).expect("a definition");
            walk(root, definition, path, names);
        }
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            names.insert(format!("config {path}"));
            walk(root, property, &path, names);
        }
        if schema["additionalProperties"].is_object() {
            walk(root, &schema["additionalProperties"], &format!("{path}.NAME"), names);
        }
        if schema["items"].is_object() {
            walk(root, &schema["items"], &format!("{path}[]"), names);
        }
        for alternative in schema["anyOf"].as_array().into_iter().flatten() {
            walk(root, alternative, path, names);
        }
        if let Some(choice) = schema["const"].as_str() {
            names.insert(format!("config {path}: {choice}"));
        }
    }
    let schema = schema();
    walk(&schema, &schema, "", names);
}

/// The environment variables that the configuration and the command line read.
fn environment(world: &World, names: &mut BTreeSet<String>) {
    let asked = RefCell::new(BTreeSet::new());
    let file = world.write("environment.yaml", include_str!("../../config/examples/smallest.yaml"));
    let problems = load(
        &file,
        &|name| {
            asked.borrow_mut().insert(name.to_owned());
            None
        },
        &Overrides::default(),
    );
    assert!(problems.is_err(), "no socket is named");
    for (_, text) in sources() {
        let called = text.split("environment(\"").skip(1).filter_map(|rest| rest.split('"').next());
        asked.borrow_mut().extend(called.map(str::to_owned));
    }
    names.extend(asked.into_inner().into_iter().map(|name| format!("environment {name}")));
}

async fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(std::process::Stdio::null()).env_remove("SPIFFE_ENDPOINT_SOCKET");
    within(command.output(), "the end of the command").await.expect("run")
}

async fn exit_codes(world: &World, names: &mut BTreeSet<String>) {
    let path = |name: &str, text: &str| world.write(name, text).display().to_string();
    let good = path("good.yaml", "routes: [{ match: { host: a.test }, token: none }]\n");
    let bad = path("bad.yaml", "rutes: []\n");
    let nowhere = path("nowhere.yaml", "listen: { metrics: ['203.0.113.1:1'], admin: 'unix:///nowhere/admin.sock' }\n");
    let nobody = world.directory.path().join("nobody.sock").display().to_string();
    for (what, arguments) in [
        ("check, good configuration", &["check", &good][..]),
        ("check, bad configuration", &["check", &bad]),
        ("run, bad configuration", &["run", &bad]),
        ("run, no such address", &["run", &nowhere]),
        ("status, no proxy", &["status", "--admin", &nobody]),
        ("unknown flag", &["--nothing"]),
        ("inject, no manifests", &["inject"]),
        ("inject, workload that cannot be injected", &["inject", "--socket", "csi"]),
    ] {
        let code = match what {
            "inject, workload that cannot be injected" => inject_refused(arguments).await,
            _ => run(arguments).await.status.code(),
        };
        names.insert(format!("exit code {}: {what}", code.expect("it ended by itself")));
    }
}

/// Injects a pod that is refused because it shares the node's process ids, so that its agent could
/// read the sidecar's memory.
async fn inject_refused(arguments: &[&str]) -> Option<i32> {
    use tokio::io::AsyncWriteExt;
    let pod =
        "{kind: Pod, apiVersion: v1, metadata: {name: a}, spec: {hostPID: true, containers: [{name: a, image: a}]}}";
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = command.stderr(std::process::Stdio::null()).kill_on_drop(true).spawn().expect("started");
    child.stdin.take().expect("a pipe").write_all(pod.as_bytes()).await.expect("written");
    within(child.wait(), "the end of the command").await.expect("waited").code()
}

/// The fields and the targets of log lines. A target is reduced to the top-level module, because
/// files may move inside it.
fn log(names: &mut BTreeSet<String>) {
    for (file, text) in sources() {
        let module = file.components().next().expect("a folder").as_os_str().to_string_lossy().into_owned();
        let module = module.trim_end_matches(".rs");
        for level in ["error", "warn", "info", "debug", "trace"] {
            for (at, _) in text.match_indices(&format!("tracing::{level}!(")) {
                let mut target = format!("idjag_proxy::{module}");
                for argument in arguments(&text[at..]) {
                    if argument.starts_with('"') {
                        break;
                    }
                    if let Some(named) = argument.strip_prefix("target:") {
                        target = named.trim().trim_matches('"').to_owned();
                        continue;
                    }
                    let name = argument.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']);
                    names.insert(format!("log field {name}"));
                }
                names.insert(format!("log target {target}"));
            }
        }
    }
}

/// The arguments of the first macro call in `text`.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut depth, mut in_text) = (vec![String::new()], 0, false);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut letters = lines.join("\n").chars().collect::<Vec<_>>().into_iter();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if in_text => {
                letters.next();
            }
            '"' => in_text = !in_text,
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' | ']' | '}' if !in_text => depth -= 1,
            _ => {}
        }
        match (letter, depth) {
            (_, 0) if letter == ')' => break,
            ('(', 1) if found.len() == 1 && !in_text && found[0].is_empty() => {}
            (',', 1) if !in_text => found.push(String::new()),
            (_, 1..) => found.last_mut().expect("one").push(letter),
            _ => {}
        }
    }
    found.into_iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// Labels and annotations, and what the sidecar adds to a pod.
fn pods(names: &mut BTreeSet<String>) {
    names.extend(ANNOTATIONS.map(|name| format!("annotation idjag-proxy.io/{name}")));
    names.insert(format!("annotation {ANNOTATION_STATUS}"));
    names.extend([LABEL_INJECT, LABEL_INJECTED].map(|name| format!("label {name}")));
    let pod = "{kind: Pod, apiVersion: v1, metadata: {name: a, annotations: {idjag-proxy.io/http-proxy: 'true'}}, \
               spec: {containers: [{name: agent, image: a}]}}";
    let injected = inject_manifests(pod, &Defaults::default()).expect("a manifest");
    let pod: Value = serde_yaml::from_str(&injected.text).expect("YAML");
    let mut add = |what: &str, list: &Value| {
        assert!(list.as_array().is_some_and(|list| !list.is_empty()), "{what}: {list}");
        names.extend(list.as_array().into_iter().flatten().filter_map(|one| {
            let port = one["containerPort"].as_u64().map_or_else(String::new, |port| format!(" {port}"));
            Some(format!("pod {what} {}{port}", one["name"].as_str()?))
        }));
    };
    add("container", &pod["spec"]["initContainers"]);
    add("volume", &pod["spec"]["volumes"]);
    add("port", &pod["spec"]["initContainers"][0]["ports"]);
    add("variable", &pod["spec"]["containers"][0]["env"]);
    let labels = pod["metadata"]["labels"].as_object().expect("labels");
    assert!(labels.contains_key(LABEL_INJECTED), "{labels:?}");
}

/// The `type` and the codes of each refusal.
fn refusals(names: &mut BTreeSet<String>) {
    for &reason in Reason::ALL {
        let refusal = Refusal::new(reason, "why");
        let (plain, grpc) = (refusal.response(Dialect::Plain, "1"), refusal.response(Dialect::Grpc, "1"));
        let header = |name: &str| {
            let headers = if name.starts_with("grpc") { grpc.headers() } else { plain.headers() };
            headers[name].to_str().expect("text").to_owned()
        };
        let codes =
            format!("{}, grpc-status {}, {}", plain.status().as_u16(), header("grpc-status"), header("proxy-status"));
        let problem: Value = serde_json::from_slice(plain.body()).expect("JSON");
        names.insert(format!("problem {}: {codes}", problem["type"].as_str().expect("a type")));
        names.extend(problem.as_object().expect("a problem").keys().map(|member| format!("problem member {member}")));
    }
}

/// The metrics, the status and the request log line of a proxy that has exchanged a token.
async fn running_proxy(world: &World, names: &mut BTreeSet<String>) {
    let config = world.write("public.yaml", &format!("{}{}", world.preamble(), world.routes()));
    let process = Process::start(world, &config, "info");
    let proxy = process.ready(world).await;
    assert_eq!(proxy.get("http://api.test/x").await.status, 200);
    metrics(&proxy.scrape().await, names);
    let admin = proxy.admin.as_ref().expect("an admin socket").display().to_string();
    let status = run(&["status", "--json", "--admin", &admin]).await;
    members(&serde_json::from_slice(&status.stdout).expect("JSON"), "status", names);
    let line = process.log().lines().find(|line| line.contains("\"request\"")).map(str::to_owned);
    members(
        &serde_json::from_str(&line.expect("a line of the request")).expect("JSON"),
        "log line of a request",
        names,
    );
}

fn members(value: &Value, path: &str, names: &mut BTreeSet<String>) {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let separator = if path.contains('.') || path.contains(' ') { "." } else { " " };
        let path = format!("{path}{separator}{key}");
        names.insert(path.clone());
        members(inner, &path, names);
    }
    for inner in value.as_array().into_iter().flatten() {
        members(inner, &format!("{path}[]"), names);
    }
}

/// Metric families with their types and labels, and the values of labels that are not open.
fn metrics(text: &str, names: &mut BTreeSet<String>) {
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            names.insert(format!("metric {family}"));
        }
        let Some((family, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) else { continue };
        for label in labels.split('}').next().unwrap_or_default().split("\",") {
            let (name, value) = label.split_once("=\"").expect("a label");
            names.insert(match OPEN_LABELS.contains(&name) {
                true => format!("metric {family}{{{name}}}"),
                false => format!("metric {family}{{{name}}}: {}", value.trim_end_matches('"')),
            });
        }
    }
}

/// The source files without their tests, by their paths below `src`.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = Crate::read().modules.into_values().map(|module| {
        let text = std::fs::read_to_string(root.join(&module.file)).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
        (module.file, code)
    });
    read.collect()
}
