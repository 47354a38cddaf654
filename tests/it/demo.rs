//! The demo, which is the first thing that most people run.
use super::agent::{self, Reply};
use super::binary::BINARY;
use super::world::within;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// The names of the stories, with the checks that must have passed in each.
const STORIES: [(&str, &[&str]); 6] = [
    (
        "The agent on its own",
        &[
            "the token names the agent itself, and nobody else",
            "the token is valid here",
            "every token came from the proxy's cache",
        ],
    ),
    (
        "Alice, through calendar-bot",
        &[
            "the token represents alice",
            "and says that calendar-bot acts for her",
            "the user's own token did not leave the proxy",
            "every token came from the proxy's cache",
        ],
    ),
    (
        "A chain: alice → orchestrator → worker",
        &["the chain so far: alice → orchestrator", "the whole chain: alice → orchestrator → worker"],
    ),
    (
        "Across two companies",
        &[
            "it is meant for the partner's server and no other",
            "the partner knows who acts for whom: alice → calendar-bot",
            "the token is valid here",
        ],
    ),
    (
        "What is refused, and why",
        &[
            "403: the delegation policy says no",
            "401: the signature does not verify",
            "403: hosts without a route are refused",
            "it was replaced: the API saw one token, the real one",
        ],
    ),
    ("The certificate is renewed", &["it is another certificate", "the access token is still valid: no new exchange"]),
];

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("demo").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The values of the fields with this name, in order.
fn fields<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let values = text.lines().filter_map(|line| line.strip_prefix("        ")?.strip_prefix(name)?.strip_prefix(' '));
    values.map(str::trim).collect()
}

#[tokio::test]
async fn demo_tells_every_story_and_shows_no_token() {
    let output = within(demo(&["--once"]).output(), "the end of the demo").await.expect("runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut stories = text.split("\n━━ ");
    let cast = stories.next().expect("the beginning");
    let stories: Vec<&str> = stories.collect();
    assert_eq!(stories.len(), STORIES.len(), "{text}");
    for (number, (story, (title, claims))) in stories.iter().zip(STORIES).enumerate() {
        assert!(story.starts_with(&format!("{} · {title}\n", number + 1)), "{title}: {story}");
        for claim in claims {
            assert!(story.contains(&format!("✓ {claim}")), "{claim}: {story}");
        }
    }
    let checks = text.matches("✓ ").count();
    let summary = format!("demo: {} stories, {checks} checks passed, 0 failed, ", STORIES.len());
    assert!(text.contains(&summary) && !text.contains('✗'), "{text}");

    // The signer of each token: the workload's assertions, the company's tokens, the partner's
    // tokens.
    let server = |name: &str| format!("{}, ES256", fields(cast, name)[0].split(' ').next().expect("a URL"));
    let (corp, partner) = (server("authorization server"), server("partner's server"));
    assert_eq!(fields(stories[0], "signed by"), [&corp]);
    assert_eq!(fields(stories[3], "signed by"), [&corp, &partner], "an ID-JAG and an access token");
    assert!(stories[0].contains("signs an ID-JAG (ES256) with the key of its X.509-SVID"), "{}", stories[0]);
    for proof in fields(stories[3], "client_assertion") {
        assert!(proof.ends_with("signed by the authority of the trust domain demo.example, ES256"), "{proof}");
    }

    let readme = include_str!("../../README.md");
    let shown = readme.split_once("-- demo\n").and_then(|(_, rest)| rest.split("```").next()).expect("a block");
    assert!(shown.lines().count() > 5, "{shown}");
    for line in shown.lines() {
        assert!(text.lines().any(|printed| printed == line), "the README shows `{line}`:\n{text}");
    }

    let token = |word: &&str| word.starts_with("eyJ") && word.matches('.').count() == 2;
    assert_eq!(text.split_whitespace().find(token), None, "a complete token was printed");
}

/// Sends the request of a line with `curl`. The shell splits the line into its arguments.
async fn curl(line: &str) -> Reply {
    let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}; grep() {{ cat; }}; {line}");
    let output = within(Command::new("sh").args(["-c", &script]).output(), line).await.expect("a shell");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (mut url, mut proxy, mut headers) = (None, None, Vec::new());
    let mut arguments = text.lines();
    while let Some(argument) = arguments.next() {
        match argument {
            "-x" => proxy = arguments.next(),
            "-H" => headers.extend(arguments.next().and_then(|field| field.split_once(": "))),
            "-s" | "-i" => {}
            _ => assert_eq!(url.replace(argument), None, "{line}"),
        }
    }
    let address = |url: &str| -> SocketAddr {
        let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("http://");
        authority.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
    };
    let url = url.expect("a URL");
    match proxy {
        Some(proxy) => agent::get(address(proxy), url, &headers).await,
        None => {
            let server = address(url).to_string();
            let path = url.split_once(&server).expect("its server").1;
            headers.push(("host", &server));
            agent::get(address(url), path, &headers).await
        }
    }
}

async fn shell(line: &str) -> String {
    let output = within(Command::new("sh").args(["-c", line]).output(), line).await.expect("a shell");
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test]
async fn suggested_commands_work_and_sigterm_stops_the_demo() {
    let mut running = demo(&[]).stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(running.stdout.take().expect("a pipe")).lines();
    let mut invited = BTreeMap::new();
    let mut is_invitation = false;
    loop {
        let line = within(lines.next_line(), "the end of the walk").await.expect("read").expect("more");
        if line.contains("Press Ctrl-C to stop") {
            break;
        }
        is_invitation |= line.contains("Everything is still running");
        if let Some((name, value)) =
            line.strip_prefix("        ").filter(|_| is_invitation).and_then(|line| line.split_at_checked(21))
        {
            invited.insert(name.trim().to_owned(), value.to_owned());
        }
    }
    let mut take = |name: &str| invited.remove(name).unwrap_or_else(|| panic!("no {name}"));
    for (name, status) in [
        ("as a proxy", 200),
        ("as a base URL", 200),
        ("for alice", 200),
        ("across companies", 200),
        ("for bob: refused", 403),
        ("no route: refused", 403),
        ("readiness", 200),
    ] {
        let reply = curl(&take(name)).await;
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
    }
    assert!(curl(&take("metrics")).await.text().contains("idjag_proxy_token_cache_total{"));
    let metadata = take("metadata");
    let issuer = metadata.split(' ').nth(1).and_then(|url| url.split_once("/.well-known")).expect("a URL").0;
    assert_eq!(curl(&metadata).await.json()["issuer"], issuer);
    assert!(shell(&take("its status")).await.contains("ready      yes\n"));
    let configuration = take("its configuration");
    assert!(shell(&configuration).await.contains("authorization_servers:"));
    assert!(invited.is_empty(), "{invited:?}");

    let directory = Path::new(configuration.strip_prefix("cat ").expect("a file")).parent().expect("a directory");
    assert!(directory.exists());
    let pid = Pid::from_raw(i32::try_from(running.id().expect("running")).expect("an id"));
    kill(pid, Signal::SIGTERM).expect("signalled");
    let status = within(running.wait(), "its end").await.expect("waited");
    assert_eq!(status.code(), Some(0));
    assert!(!directory.exists(), "tokens are left in {}", directory.display());
}

#[tokio::test]
async fn demo_that_cannot_run_fails() {
    let mut nowhere = demo(&["--once"]);
    let output = within(nowhere.env("TMPDIR", "/nowhere").output(), "its end").await.expect("runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("the demo failed: cannot create /nowhere/"),
        "{output:?}"
    );
}
