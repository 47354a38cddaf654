//! Runs `idjag-proxy inject` as a process in a pipe.
use serde_json::Value;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn inject(arguments: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_idjag-proxy"))
        .arg("inject")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    // A process that rejects its flags ends before it reads its input.
    let written = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let is_broken = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
    assert!(written.is_ok() || is_broken, "{written:?}");
    let output = child.wait_with_output().expect("ended");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

const GOOD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: calendar}\nspec: {containers: [{name: agent, image: a}]}\n";
const BAD: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: spy}\nspec: {hostPID: true, containers: [{name: agent, image: a}]}\n";

#[test]
fn manifests_are_written_with_the_sidecar() {
    let flags = [
        "--image=mirror.example/idjag-proxy:2",
        "--image-pull-policy=Never",
        "--socket=hostPath:/run/spire/agent-sockets/api.sock",
    ];
    let ran = inject(&flags, GOOD);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), "Pod calendar: injected, with ConfigMap idjag-proxy\n"));
    let pod: Value = serde_yaml::from_str(&ran.out).expect("YAML");
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!(
        (&sidecar["image"], &sidecar["imagePullPolicy"]),
        (&Value::from("mirror.example/idjag-proxy:2"), &Value::from("Never"))
    );
    assert_eq!(pod["spec"]["volumes"][3]["hostPath"]["path"], "/run/spire/agent-sockets");
    assert!(sidecar["args"].to_string().contains("unix:///spiffe-workload-api/api.sock"), "{sidecar}");
}

#[test]
fn workload_that_cannot_be_injected_is_an_error_and_nothing_is_written() {
    let input = format!("{GOOD}{BAD}");
    let ran = inject(&[], &input);
    assert_eq!((ran.code, ran.out.as_str()), (Some(65), ""));
    assert!(ran.err.contains("Pod spy: NOT injected: hostPID is true: the agent could read"), "{}", ran.err);
    let ran = inject(&["--allow-skipped"], &input);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("idjag-proxy-config") && ran.out.ends_with(BAD), "{}", ran.out);
}

#[test]
fn unreadable_manifest_is_an_error() {
    let ran = inject(&[], "a: [1\n");
    assert_eq!((ran.code, ran.out.as_str()), (Some(65), ""));
    assert!(ran.err.starts_with("the document at line 1 is not a manifest: "), "{}", ran.err);
    assert_eq!(inject(&["--socket=somewhere"], GOOD).code, Some(2));
    assert_eq!(inject(&[], "").code, Some(0));
}
