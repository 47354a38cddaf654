//! The log line of each request, and its fields, by which operators search and count.
use super::agent::{self, Http1, Http2, Raw, full, request};
use super::binary::Process;
use super::world::{Addresses, World, until, within};
use http::Method;
use idjag_proxy::dev::faults::{Fault, Gate};
use nix::sys::signal::Signal;
use serde_json::Value;

const FIELDS: [&str; 21] = [
    "timestamp",
    "level",
    "target",
    "message",
    "method",
    "host",
    "path",
    "route",
    "status",
    "refused",
    "detail",
    "ended",
    "request_bytes",
    "response_bytes",
    "upstream",
    "protocol",
    "request_id",
    "upstream_request_id",
    "traceparent",
    "first_byte_ms",
    "duration_ms",
];
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn start(world: &World, log: &str) -> (Process, Addresses) {
    let config = world.write("process.yaml", &format!("{}{log}{}", world.preamble(), world.routes()));
    let process = Process::start(world, &config, "info");
    let addresses = process.ready(world).await;
    (process, addresses)
}

/// Returns the log lines of requests so far.
fn lines(process: &Process) -> Vec<Value> {
    let log = process.log();
    let complete = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    complete.filter(|line| line["target"] == "idjag_proxy::request").collect()
}

/// Summarises a line: message, method, host, path, route, status and refusal.
fn summary(line: &Value) -> String {
    let names = ["message", "method", "host", "path", "route", "status", "refused"];
    names.map(|name| line[name].as_str().map_or_else(|| line[name].to_string(), str::to_owned)).join(" ")
}

/// Sends one request after the other, each of another kind.
async fn calls(world: &World, proxy: &Addresses) {
    let outbound = proxy.outbound;
    let traced = [("traceparent", TRACEPARENT)];
    assert_eq!(agent::get(outbound, "http://api.test/traced?key=canary-query", &traced).await.status, 200);
    assert_eq!(agent::post(outbound, "http://legacy.test/key", &[], b"body").await.status, 200);
    proxy.get("http://nowhere.test/x").await.assert_refusal(403, "no_route");
    proxy.get("http://user.test/x").await.assert_refusal(401, "user_token");
    let grpc = [("content-type", "application/grpc")];
    assert_eq!(agent::post(outbound, "http://nowhere.test/grpc", &grpc, b"").await.status, 200);
    assert_eq!(proxy.get("http://api.test/status/404").await.status, 404);
    assert!(agent::raw(outbound, "GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    // The agent sends it once, and the proxy sends it twice.
    world.api.faults().next(Fault::invalid_token());
    assert_eq!(proxy.get("http://api.test/replayed").await.status, 200);
    let mut http2 = Http2::connect(outbound).await;
    let get = request(&Method::GET, "http://open.test/http2", &[]).body(full("")).expect("request");
    assert_eq!(http2.send(get).await.status, 200);
    // A tunnel, and a request inside it.
    let mut raw = Raw::connect(outbound).await;
    raw.write("CONNECT open.test:80 HTTP/1.1\r\nhost: open.test:80\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(Http1::over(raw.stream).await.get("/inside", &[("host", "open.test")]).await.status, 200);
}

const SUMMARIES: [&str; 12] = [
    "request GET api.test /traced api 200 ",
    "request POST legacy.test /key legacy 200 ",
    "request GET nowhere.test /x none 403 no_route",
    "request GET user.test /x user 401 user_token",
    "request POST nowhere.test /grpc none 403 no_route",
    "request GET api.test /status/404 api 404 ",
    "request GET   none 400 malformed_request",
    "request GET api.test /replayed api 200 ",
    "request GET open.test /http2 open 200 ",
    "request GET open.test /inside open 200 ",
    "request CONNECT open.test / open 200 ",
    "request GET api.test /left api 0 ",
];

#[tokio::test]
async fn each_request_is_logged_as_one_line_and_nothing_else_is() {
    let world = World::with_open_api().await;
    let (mut process, proxy) = start(&world, "").await;
    calls(&world, &proxy).await;
    until(async || lines(&process).iter().any(|line| line["method"] == "CONNECT"), "the tunnel's line").await;
    // An agent that leaves before the response.
    let gate = Gate::default();
    world.api.faults().next(Fault::Hold(gate.clone()));
    let mut leaving = Raw::connect(proxy.outbound).await;
    leaving.write("GET http://api.test/left HTTP/1.1\r\nhost: api.test\r\n\r\n").await;
    within(gate.wait_for_arrivals(1), "the request at the upstream").await;
    drop(leaving);
    until(async || lines(&process).iter().any(|line| line["path"] == "/left"), "its line").await;
    gate.open();
    // Probes, scrapes and requests to the admin socket are not logged.
    assert_eq!(proxy.probe("/readyz").await.status, 200);
    proxy.scrape().await;
    proxy.status().await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(0));

    let lines = lines(&process);
    assert_eq!(lines.iter().map(summary).collect::<Vec<_>>(), SUMMARIES);
    for line in &lines {
        let members = line.as_object().expect("an object");
        let unknown: Vec<_> = members.keys().filter(|name| !FIELDS.contains(&name.as_str())).collect();
        let missing: Vec<_> = FIELDS.iter().filter(|name| !members.contains_key(**name)).collect();
        assert!(unknown.is_empty() && missing.is_empty(), "{line}: {unknown:?} {missing:?}");
        assert_eq!(line["level"], "INFO");
        assert!(line["duration_ms"].is_u64() && line["first_byte_ms"].is_u64(), "{line}");
        let expected = match line["path"].as_str() {
            Some("/left") => ("agent", 0, false),
            Some("/key") => ("whole", 4, true),
            _ => ("whole", 0, line["refused"] == "" && line["method"] == "GET"),
        };
        let (ended, request_bytes, has_upstream) = expected;
        assert_eq!((&line["ended"], &line["request_bytes"]), (&ended.into(), &request_bytes.into()), "{line}");
        assert_eq!(line["upstream"].as_str().is_some_and(|upstream| upstream.starts_with("127.0.0.1:")), has_upstream);
        assert_eq!(line["protocol"], if has_upstream { "http/1.1" } else { "" }, "{line}");
        let has_body = has_upstream && line["status"] == 200;
        assert_eq!(line["response_bytes"].as_u64().is_some_and(|bytes| bytes > 0), has_body, "{line}");
        assert_eq!(line["detail"] == "", line["refused"] == "", "{line}");
        let traced = line["path"] == "/traced";
        assert_eq!(line["traceparent"], if traced { TRACEPARENT } else { "" });
    }
    assert!(!process.log().contains("canary-query"), "agents put secrets into queries");
}

#[tokio::test]
async fn pretty_format_logs_the_same_lines_as_text() {
    let world = World::with_open_api().await;
    let (mut process, proxy) = start(&world, "log: { format: pretty }\n").await;
    calls(&world, &proxy).await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.code().await, Some(0));
    let log = process.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("idjag_proxy::request")).collect();
    assert_eq!(lines.len(), SUMMARIES.len() - 1, "{log}");
    assert!(!log.lines().any(|line| line.starts_with('{')), "{log}");
    let (first, refused) = (lines[0], lines[2]);
    for part in [" INFO ", "request", "method=GET", "host=api.test", "path=/traced", "route=\"api\"", "status=200"] {
        assert!(first.contains(part), "{part} in {first}");
    }
    assert!(first.contains(&format!("traceparent=\"{TRACEPARENT}\"")), "{first}");
    assert!(refused.contains("refused=\"no_route\"") && refused.contains("status=403"), "{refused}");
    assert!(!log.contains("canary-query"), "{log}");
}
