//! The webhook under hostile callers: no review exhausts the memory, and no caller keeps the API
//! server out.
use super::api_server::{ApiServer, config_map};
use super::webhook::{Replica, ask, connect, connect_from, kubeconfig, pod, post, process, review, send};
use crate::dev::world::{until, within};
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// The address of a caller that is not the API server.
const STRANGER: [u8; 4] = [127, 0, 0, 2];
/// The length of the largest body that the server reads.
const LARGEST_BODY: usize = 3 * 1024 * 1024;

/// Makes a review of a pod whose spec has an unknown field with this JSON.
fn review_with_field(json: &str) -> String {
    let mut object = pod();
    object["spec"]["unknown"] = json!("PLACEHOLDER");
    review("agents", &object).to_string().replace("\"PLACEHOLDER\"", json)
}

/// Makes a JSON array of about `bytes` bytes by repeating an item.
fn array(item: &str, bytes: usize) -> String {
    format!("[{}]", vec![item; bytes / (item.len() + 1)].join(","))
}

/// Returns the most memory that the process has held, in MiB.
fn high_water(id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number") / 1024
}

async fn address_in(log: &std::path::Path) -> SocketAddr {
    let log_text = || std::fs::read_to_string(log).expect("a log");
    until(async || log_text().contains("ready: the API server trusts"), "ready").await;
    let lines = log_text();
    let listening = lines.lines().find(|line| line.contains("\"webhook\":")).expect("a line").to_owned();
    let line: Value = serde_json::from_str(&listening).expect("JSON");
    let address = line.get("webhook").or_else(|| line.pointer("/fields/webhook")).expect("an address");
    address.as_str().expect("text").parse().expect("an address")
}

/// The chart allows 128 MiB, of which 16 MiB are left as a margin.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_that_grow_when_parsed_do_not_exhaust_memory() {
    let api = ApiServer::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let child = process(&kubeconfig(&api, directory.path()), &log, "info");
    let address = address_in(&log).await;
    let id = child.id().expect("running");
    let at_rest = high_water(id);
    let mut tiny = pod();
    tiny["spec"]["containers"] = json!("CONTAINERS");
    let containers = array(r#"{"name":"a","image":"b"}"#, 1_600_000);
    let bodies = [
        review("agents", &tiny).to_string().replace("\"CONTAINERS\"", &containers),
        review_with_field(&array("0", 2_900_000)),
        review_with_field(&array(r#"{"a":0}"#, 110_000)),
        review_with_field(&array("[0]", 100_000)),
        review_with_field(&format!("\"{}\"", "x".repeat(2_900_000))),
        review_with_field(&"[".repeat(2_900_000)),
    ];
    for _ in 0..2 {
        for body in &bodies {
            let mut sending = JoinSet::new();
            for _ in 0..8 {
                let (roots, body) = (api.trusted(), body.clone());
                sending.spawn(async move {
                    let mut stream = connect(roots, address).await.expect("TLS");
                    let head = format!("POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
                    let (mut reading, mut writing) = tokio::io::split(&mut stream);
                    let write = async {
                        // A rejected body is not read to its end.
                        let _ = writing.write_all(head.as_bytes()).await;
                        let _ = writing.write_all(body.as_bytes()).await;
                    };
                    let mut status = [0; 12];
                    let (_, read) = tokio::join!(write, reading.read_exact(&mut status));
                    read.map(|_| String::from_utf8_lossy(&status).into_owned())
                });
            }
            while let Some(sent) = within(sending.join_next(), "an answer").await {
                let status = sent.expect("no panic");
                assert!(status.as_ref().is_ok_and(|status| status.starts_with("HTTP/1.1 ")), "{status:?}");
            }
        }
    }
    let loaded = high_water(id);
    // As many connections as one address may have, each with an unfinished head.
    let mut held = Vec::new();
    for _ in 0..250 {
        let mut stream = connect_from(STRANGER, api.trusted(), address).await.expect("TLS");
        let head = format!("POST /mutate HTTP/1.1\r\nx: {}", "x".repeat(15_000));
        stream.write_all(head.as_bytes()).await.expect("written");
        held.push(stream);
    }
    let crowded = high_water(id);
    println!("MiB at rest {at_rest}, under reviews {loaded}, with 250 connections {crowded}");
    let reply = within(send(&api, address, post(review("agents", &pod()).to_string())), "an answer").await;
    assert_eq!(reply.expect("an answer").status, 200, "the process still answers");
    assert!(crowded < 112, "MiB at rest {at_rest}, under reviews {loaded}, with 250 connections {crowded}");
}

/// JSON writes each U+0001 as six bytes (`\u0001`), so a `ConfigMap` of 1 MB is an answer of 6 MB.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_config_maps_of_many_pods_do_not_exhaust_memory() {
    let api = ApiServer::start().await;
    let filling = "\u{1}".repeat(1_000_000);
    api.set(&config_map("agents", "whole"), json!({"data": {"a": filling, "proxy.yaml": "routes: []"}}));
    api.set(&config_map("agents", "other"), json!({"data": {"a": filling, "proxy.yml": "routes: []"}}));
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let child = process(&kubeconfig(&api, directory.path()), &log, "info");
    let address = address_in(&log).await;
    let id = child.id().expect("running");
    let naming = |config: &str| {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"idjag-proxy.io/config": config});
        let mut review = review("agents", &pod);
        review["request"]["dryRun"] = json!(true);
        review.to_string()
    };
    let response = async |config: &str| {
        let reply = within(send(&api, address, post(naming(config))), "an answer").await.expect("an answer");
        reply.json()["response"].clone()
    };
    // First make sure that the two objects are read at all.
    let found = response("whole").await;
    assert_eq!((&found["allowed"], found.get("warnings")), (&json!(true), None), "the whole object is read");
    let message = response("other").await["status"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("ConfigMap agents/other has no key proxy.yaml"), "{message}");
    let looked_up = high_water(id);
    let mut streams = Vec::new();
    for _ in 0..200 {
        streams.push(connect(api.trusted(), address).await.expect("TLS"));
    }
    let connected = high_water(id);
    let mut sending = JoinSet::new();
    for mut stream in streams {
        let body = naming("whole");
        sending.spawn(async move {
            let head = format!("POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.expect("written");
            let mut status = [0; 12];
            stream.read_exact(&mut status).await.map(|_| String::from_utf8_lossy(&status).into_owned())
        });
    }
    while let Some(sent) = within(sending.join_next(), "an answer").await {
        assert_eq!(sent.expect("no panic").expect("an answer"), "HTTP/1.1 200");
    }
    let loaded = high_water(id);
    println!("MiB after two lookups {looked_up}, with 200 connections {connected}, after 200 lookups {loaded}");
    assert!(loaded < connected + 16, "MiB with 200 connections {connected}, after 200 lookups {loaded}");
}

/// Waits until the server has closed the connection.
async fn ended(stream: &mut TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    // A connection may also end by a reset.
    let _ = within(stream.read_to_end(&mut rest), "the end of a connection").await;
}

/// Fails unless the API server gets its answer while `held`, a connection of a stranger, is open.
async fn assert_answered_while_open(api: &ApiServer, replica: &Replica, held: &mut TlsStream<TcpStream>) {
    let review = review("agents", &pod());
    tokio::select! {
        response = ask(api, replica, &review) => assert_eq!(response["allowed"], true),
        () = ended(held) => panic!("the API server had to wait until a stranger's connection timed out"),
    }
}

/// Sends all but the last byte of the largest body, and returns the status of the answer, or `None`
/// if the server closed the connection before it had read what was sent.
async fn unfinished_body(mut stream: TlsStream<TcpStream>) -> Option<String> {
    let head = format!("POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGEST_BODY}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&vec![b' '; LARGEST_BODY - 1]).await.ok()?;
    stream.flush().await.ok()?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.ok()?;
    Some(String::from_utf8_lossy(&status).into_owned())
}

#[tokio::test]
async fn stranger_with_many_connections_and_bodies_does_not_delay_the_api_server() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let stranger = async || connect_from(STRANGER, api.trusted(), replica.webhook).await;
    let mut held = Vec::new();
    // Bodies of which only the first byte is sent.
    for _ in 0..40 {
        let mut stream = stranger().await.expect("TLS");
        let head = format!("POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGEST_BODY}\r\n\r\n{{");
        stream.write_all(head.as_bytes()).await.expect("written");
        held.push(stream);
    }
    assert_answered_while_open(&api, &replica, held.last_mut().expect("a connection")).await;
    // Ten bodies of almost 3 MiB are more than all callers together may hold. One address may hold
    // 8 MiB, so two of them.
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(stranger().await.expect("TLS"));
    }
    let mut bodies: JoinSet<_> = streams.into_iter().map(unfinished_body).collect();
    for _ in 0..8 {
        let status = within(bodies.join_next(), "a refused body").await.expect("a body").expect("no panic");
        assert!(status.is_none_or(|status| status == "HTTP/1.1 503"), "an address may hold more than two bodies");
    }
    let review = review("agents", &pod());
    tokio::select! {
        response = ask(&api, &replica, &review) => assert_eq!(response["allowed"], true),
        body = bodies.join_next() => panic!("the API server had to wait until a body timed out: {body:?}"),
    }
    // Connections that send nothing.
    for _ in 0..400 {
        held.extend(stranger().await);
    }
    let open = async || held.iter().filter(|stream| stream.get_ref().0.readable().now_or_never().is_none()).count();
    until(async || open().await <= 256, "an address has a limit of its own").await;
    assert_answered_while_open(&api, &replica, held.last_mut().expect("a connection")).await;
}

/// Where addresses are translated, strangers may share the address of the API server.
#[tokio::test]
async fn silent_connections_from_the_api_servers_address_do_not_keep_it_out() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let body = review("agents", &pod()).to_string();
    let good = format!("POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut idle = connect(api.trusted(), replica.webhook).await.expect("TLS");
    let mut answers = vec![0; 64 * 1024];
    let mut silent = Vec::new();
    for _ in 0..3 {
        idle.write_all(good.as_bytes()).await.expect("it is open");
        let read = within(idle.read(&mut answers), "an answer").await.expect("an answer");
        assert!(answers[..read].starts_with(b"HTTP/1.1 200"), "a connection that has asked before is still served");
        for _ in 0..300 {
            silent.push(TcpStream::connect(replica.webhook).await.expect("connected"));
        }
        assert_eq!(ask(&api, &replica, &review("agents", &pod())).await["allowed"], true);
    }
}

#[tokio::test]
async fn body_without_a_length_is_rejected() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let mut stream = connect(api.trusted(), replica.webhook).await.expect("TLS");
    let request = "POST /mutate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut status = [0; 12];
    within(stream.read_exact(&mut status), "an answer").await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 411");
}

#[tokio::test]
async fn only_callers_that_send_reviews_keep_a_connection() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let body = review("agents", &pod()).to_string();
    let good = format!("POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let open = async |bytes: &str| {
        let mut stream = connect(api.trusted(), replica.webhook).await.expect("TLS");
        stream.write_all(bytes.as_bytes()).await.expect("written");
        stream
    };
    let (mut silent, mut slow) = (open("").await, open("POST /mu").await);
    let mut not_a_review = open("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut kept = open(&good).await;
    tokio::join!(ended(&mut silent), ended(&mut slow), ended(&mut not_a_review));
    // By now more time has passed than a first head may take.
    let mut answers = vec![0; 64 * 1024];
    let first = within(kept.read(&mut answers), "an answer").await.expect("an answer");
    assert!(answers[..first].starts_with(b"HTTP/1.1 200"));
    kept.write_all(good.as_bytes()).await.expect("it is open");
    let second = within(kept.read(&mut answers), "an answer").await.expect("an answer");
    assert!(answers[..second].starts_with(b"HTTP/1.1 200"), "{second}");
}

/// The test and the server share one thread, so a review that is judged on it is always answered
/// before a probe that arrives at the same time.
#[tokio::test]
async fn large_review_does_not_delay_probes() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    // Almost as many values as are parsed, in a pod that is refused without another lookup.
    let large = review_with_field(&array(&json!("x".repeat(30)).to_string(), 2_100_000));
    let large = large.replacen("\"spec\":{", "\"spec\":{\"hostNetwork\":true,", 1);
    let head = format!("POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", large.len());
    let (most, last) = large.split_at(large.len() - 1);
    let mut probes_first = 0;
    for _ in 0..10 {
        let mut stream = connect(api.trusted(), replica.webhook).await.expect("TLS");
        stream.write_all(format!("{head}{most}").as_bytes()).await.expect("written");
        // Meanwhile the server reads what has been sent.
        for _ in 0..20 {
            assert_eq!(replica.probe("/livez").await.status, 200);
        }
        stream.write_all(last.as_bytes()).await.expect("written");
        let answer = async {
            let mut status = [0; 12];
            within(stream.read_exact(&mut status), "an answer").await.expect("an answer");
            assert_eq!(&status, b"HTTP/1.1 200");
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            () = &mut answer => {}
            probe = replica.probe("/livez") => {
                assert_eq!(probe.status, 200);
                probes_first += 1;
                answer.await;
            }
        }
    }
    assert!(probes_first > 0, "every probe waited for the review");
}

#[tokio::test]
async fn events_of_refused_pods_are_limited_per_namespace() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let mut bad = pod();
    bad["spec"]["hostNetwork"] = json!(true);
    let before = api.events().len();
    for index in 0..30 {
        bad["metadata"]["name"] = json!(format!("pod-{index}"));
        assert_eq!(ask(&api, &replica, &review("agents", &bad)).await["allowed"], false);
    }
    until(async || api.events().len() >= before + 10, "the first events").await;
    // The event of another namespace comes after all those of the first.
    bad["metadata"]["name"] = json!("last");
    ask(&api, &replica, &review("others", &bad)).await;
    let event_count =
        |namespace: &str| api.events().iter().filter(|event| event["involvedObject"]["namespace"] == namespace).count();
    until(async || event_count("others") == 1, "its event").await;
    // On a slow machine there may be one more for each 30 seconds.
    assert!((10..13).contains(&event_count("agents")), "{}", event_count("agents"));
}
