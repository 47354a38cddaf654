//! Secrets never appear in the log at its most verbose level, in metrics, in the status, in errors,
//! or in what a crash leaves behind.
use super::agent::{self, Reply};
use super::binary::Process;
use super::world::{Addresses, LEGACY_KEY, World, within};
use http::StatusCode;
use idjag_proxy::dev::faults::Fault;
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

const CLIENT_SECRET: &str = "canary-client-secret-77";
/// Secrets of the agent itself.
const AGENTS_OWN: [&str; 4] = ["canary-agents-own", "canary-no-token", "canary-cookie", "canary-query"];

/// Writes a configuration with a client that has a password, used for itself and for users.
fn config(world: &World) -> PathBuf {
    let by_secret = format!(
        "  by-secret:
    issuer: \"{}\"
    client_id: by-secret
    client_auth: {{ client_secret_post: {{ secret_file: client-secret }} }}
tokens:
  by-secret: {{ flow: {{ client_credentials: {{ server: by-secret }} }}, scopes: [read] }}
  exchanged:
    flow: {{ token_exchange: {{ server: by-secret }} }}
    subject: {{ header: {{ name: x-user-token, server: corp, type: id_token }} }}
",
        world.corp.issuer()
    );
    let preamble = world.preamble().replace("tokens:\n", &by_secret);
    let route = |name: &str| {
        format!("  - {{ match: {{ host: {name}.test }}, token: {name}, upstream: {{ url: {} }} }}\n", world.api.url())
    };
    world.write("process.yaml", &format!("{preamble}{}{}{}", world.routes(), route("by-secret"), route("exchanged")))
}

/// Makes calls that succeed and calls that fail. Returns the answers that the proxy itself made.
async fn calls(world: &World, proxy: &Addresses) -> String {
    let token =
        || world.user_token(&json!({ "sub": "user:alice", "nonce": fastrand::u64(..) }), Duration::from_secs(600));
    let call = async |host: &str, token: &str| {
        let bearer = format!("Bearer {}", AGENTS_OWN[0]);
        let fields = [("x-user-token", token), ("authorization", bearer.as_str()), ("cookie", "id=canary-cookie")];
        agent::get(proxy.outbound, &format!("http://{host}/x?key=canary-query"), &fields).await
    };
    let mut shown = String::new();
    // This upstream echoes what it received, so only answers of the proxy are collected.
    let mut note =
        |reply: &Reply| shown.push_str(&if reply.status.is_success() { String::new() } else { format!("{reply:?}") });
    for host in
        ["api.test", "by-secret.test", "user.test", "exchanged.test", "legacy.test", "nowhere.test", "api.test:81"]
    {
        note(&call(host, &token()).await);
    }
    note(&call("user.test", AGENTS_OWN[1]).await);
    // Authorization servers that quote what they were sent, or issue tokens that cannot be used.
    let quote = |words: &str| {
        let description = format!("{words} is not good");
        Fault::json(StatusCode::BAD_REQUEST, &json!({ "error": "invalid_grant", "error_description": description }))
    };
    let odd = json!({ "access_token": "canary-odd-token", "token_type": "canary-odd-type", "expires_in": 60 });
    let broken = |body: &'static str| Fault::Answer { status: StatusCode::OK, headers: Vec::new(), body: body.into() };
    for (host, of_client) in [("user.test", ""), ("exchanged.test", CLIENT_SECRET)] {
        let quoted = token();
        world.corp.faults().token.next(quote(&format!("{of_client} for {quoted}")));
        note(&call(host, &quoted).await);
        for fault in [
            Fault::json(StatusCode::OK, &odd),
            broken(r#"{"access_token": "canary-broken-token"#),
            broken(r#"{"access_token": "canary broken token", "token_type": "Bearer"}"#),
            Fault::status(StatusCode::INTERNAL_SERVER_ERROR),
        ] {
            world.corp.faults().token.next(fault);
            note(&call(host, &token()).await);
            world.corp.faults().token.clear();
        }
    }
    for fault in [Fault::invalid_token(), Fault::HangUp, Fault::status(StatusCode::BAD_GATEWAY)] {
        world.api.faults().next(fault);
        note(&call("user.test", &token()).await);
        world.api.faults().clear();
    }
    shown
}

/// All secrets that were sent over a connection.
fn secrets(world: &World) -> BTreeSet<String> {
    let seen = world.api.requests();
    let issued =
        seen.iter().filter_map(|seen| seen.headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer "));
    let forms = world.corp.requests().into_iter().flat_map(|recorded| recorded.form.0);
    let named = ["client_assertion", "subject_token", "actor_token", "client_secret"];
    let sent = forms.filter(|(name, _)| named.contains(&name.as_str())).map(|(_, value)| value);
    let odd = ["canary-odd-token", "canary-broken-token", "canary broken token"];
    let fixed = AGENTS_OWN.iter().chain(&odd).chain([&LEGACY_KEY]).map(|text| (*text).to_owned());
    issued.map(str::to_owned).chain(sent).chain(fixed).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_metrics_status_and_errors_contain_no_secret() {
    let world = World::start().await;
    let mut process = Process::start(&world, &config(&world), "trace");
    let proxy = process.ready(&world).await;
    let mut shown = calls(&world, &proxy).await;
    let admin = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_idjag-proxy"));
        // Spelled as in the file here. A path works as well.
        let socket = format!("unix://{}", world.directory.path().join("admin.sock").display());
        command.args(arguments).args(["--admin", &socket]).output()
    };
    // More verbose than the level `trace`, which leaves out the libraries.
    within(admin(&["log-level", "trace,h2=trace,hyper=trace,rustls=trace,tonic=trace"]), "the level")
        .await
        .expect("run");
    shown.push_str(&calls(&world, &proxy).await);
    let misspelt = within(admin(&["log-level", "degub"]), "a refusal").await.expect("run");
    assert!(String::from_utf8_lossy(&misspelt.stderr).contains("`degub` is not a log level"), "{misspelt:?}");
    let secrets = secrets(&world);
    assert!(secrets.contains(CLIENT_SECRET) && secrets.len() > 30, "the search has something to look for");
    shown.push_str(&proxy.scrape().await);
    shown.push_str(&proxy.probe("/readyz").await.text());
    for arguments in [&["status"][..], &["status", "--json"]] {
        let status = within(admin(arguments), "the status").await.expect("run");
        shown.push_str(&String::from_utf8_lossy(&status.stdout));
    }
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(0));
    let log = process.log();
    assert!(log.contains("nowhere.test") && log.contains("h2::"), "the log is at its most verbose");
    shown.push_str(&log);
    for secret in secrets {
        // The signature alone would identify a token.
        let tail = secret.rsplit('.').next().expect("a part");
        let place = shown
            .find(tail)
            .map(|at| String::from_utf8_lossy(&shown.as_bytes()[at.saturating_sub(300)..at]).into_owned());
        assert_eq!(place, None, "{secret:.24} is shown");
    }
}

#[tokio::test]
async fn crash_leaves_no_core_dump() {
    let world = World::with_open_api().await;
    let mut process = Process::start_with_core_dumps(&world, &config(&world));
    let proxy = process.ready(&world).await;
    assert_eq!(proxy.get("http://legacy.test/x").await.status, 200);
    let of_process = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", process.pid())).expect("read");
    let limits = of_process("limits");
    let limit = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the line");
    let words: Vec<&str> = limit.split_whitespace().collect();
    // A limit of 1 also keeps the kernel from piping a dump; a limit of 0 only keeps it from
    // writing one.
    assert!(words[4..6] == ["1", "1"] || words[4..6] == ["0", "0"], "{limit}");
    assert_eq!(u32::from_str_radix(of_process("coredump_filter").trim(), 16), Ok(0), "no memory is dumped");
    process.signal(Signal::SIGABRT);
    let status = within(process.child.wait(), "the end of the process").await.expect("waited");
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert!(!status.core_dumped());
}
