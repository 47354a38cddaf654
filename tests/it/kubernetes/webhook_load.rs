//! The webhook under hostile callers: no review exhausts the memory, and no caller keeps the API
//! server out.
use super::api_server::{ApiServer, config_map};
use super::webhook::{Replica, ask, connect, connect_from, kubeconfig, pod, post, process, review, send};
use crate::dev::world::{until, within};
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// The address of a caller that is not the API server.
const STRANGER: [u8; 4] = [127, 0, 0, 2];
/// An answer within this time did not wait for the timeouts of other callers.
const SOON: Duration = Duration::from_secs(2);

/// Makes a review of a pod that has `parts` somewhere in its spec.
fn of_parts(parts: &str) -> String {
    let mut object = pod();
    object["spec"]["parts"] = json!("PARTS");
    review("agents", &object).to_string().replace("\"PARTS\"", parts)
}

fn many(part: &str, bytes: usize) -> String {
    format!("[{}]", vec![part; bytes / (part.len() + 1)].join(","))
}

/// Returns the most memory that the process has held, in MiB.
fn high_water(id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number") / 1024
}

async fn address_in(log: &std::path::Path) -> SocketAddr {
    let said = || std::fs::read_to_string(log).expect("a log");
    until(async || said().contains("ready: the API server trusts"), "ready").await;
    let lines = said();
    let listening = lines.lines().find(|line| line.contains("\"webhook\":")).expect("a line").to_owned();
    let line: Value = serde_json::from_str(&listening).expect("JSON");
    let address = line.get("webhook").or_else(|| line.pointer("/fields/webhook")).expect("an address");
    address.as_str().expect("text").parse().expect("an address")
}

/// The chart allows 128 MiB.
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
    let containers = many(r#"{"name":"a","image":"b"}"#, 1_600_000);
    let bodies = [
        review("agents", &tiny).to_string().replace("\"CONTAINERS\"", &containers),
        of_parts(&many("0", 2_900_000)),
        of_parts(&many(r#"{"a":0}"#, 110_000)),
        of_parts(&many("[0]", 100_000)),
        of_parts(&format!("\"{}\"", "x".repeat(2_900_000))),
        of_parts(&"[".repeat(2_900_000)),
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

/// JSON takes six bytes for each of the file's characters.
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
    let found = response("whole").await;
    assert_eq!((&found["allowed"], found.get("warnings")), (&json!(true), None), "the whole object is read");
    let message = response("other").await["status"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("ConfigMap agents/other has no key proxy.yaml"), "{message}");
    let at_rest = high_water(id);
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
    println!("MiB at rest {at_rest}, with 200 connections {connected}, with 200 look-ups {loaded}");
    assert!(loaded < connected + 16, "MiB at rest {at_rest}, with 200 connections {connected}, then {loaded}");
}

async fn ends(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(9), stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn stranger_with_many_connections_and_bodies_delays_nobody() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let mut held = Vec::new();
    // Bodies that are announced and never sent.
    for _ in 0..40 {
        let mut stream = connect_from(STRANGER, api.trusted(), replica.webhook).await.expect("TLS");
        let head = format!("POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{{", 3 * 1024 * 1024);
        stream.write_all(head.as_bytes()).await.expect("written");
        held.push(stream);
    }
    let started = Instant::now();
    assert_eq!(ask(&api, &replica, &review("agents", &pod())).await["allowed"], true);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    // Bodies without their last byte, as many as one address may have and more.
    let most = vec![b' '; 3 * 1024 * 1024 - 1];
    let mut turned_away = 0;
    for stream in &mut held[..5] {
        if stream.write_all(&most).await.is_err() || stream.flush().await.is_err() {
            turned_away += 1;
        }
    }
    let started = Instant::now();
    assert_eq!(ask(&api, &replica, &review("agents", &pod())).await["allowed"], true);
    assert!(started.elapsed() < SOON, "{:?} ({turned_away})", started.elapsed());
    // Connections that send nothing.
    for _ in 0..400 {
        held.extend(connect_from(STRANGER, api.trusted(), replica.webhook).await);
    }
    let open = async || held.iter().filter(|stream| stream.get_ref().0.readable().now_or_never().is_none()).count();
    until(async || open().await <= 256, "an address has a limit of its own").await;
    let started = Instant::now();
    assert_eq!(ask(&api, &replica, &review("agents", &pod())).await["allowed"], true);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

/// Where addresses are translated, strangers may share the address of the API server.
#[tokio::test]
async fn silent_connections_from_the_same_address_keep_nobody_out() {
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
    let (mut silent, mut slow, mut lost) =
        (open("").await, open("POST /mu").await, open("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await);
    let mut kept = open(&good).await;
    let (silent, slow, lost) = tokio::join!(ends(&mut silent), ends(&mut slow), ends(&mut lost));
    assert!(silent && slow && lost, "silent {silent}, slow {slow}, lost {lost}");
    // By now more time has passed than a first head may take.
    let mut answers = vec![0; 64 * 1024];
    let first = within(kept.read(&mut answers), "an answer").await.expect("an answer");
    assert!(answers[..first].starts_with(b"HTTP/1.1 200"));
    kept.write_all(good.as_bytes()).await.expect("it is open");
    let second = within(kept.read(&mut answers), "an answer").await.expect("an answer");
    assert!(answers[..second].starts_with(b"HTTP/1.1 200"), "{second}");
}

#[tokio::test]
async fn large_review_does_not_delay_probes() {
    let api = ApiServer::start().await;
    let replica = Replica::ready(&api, "a").await;
    let mut large = pod();
    let named = |index: usize| json!({"name": format!("v{index}")});
    large["spec"]["volumes"] = (0..5000).map(named).collect();
    large["spec"]["containers"][0]["volumeMounts"] = (0..5000).rev().map(named).collect();
    let response = ask(&api, &replica, &review("agents", &large)).await;
    let message = response["status"]["message"].as_str().expect("a message");
    assert!(message.contains("it has more than 1024 volumes"), "{message}");
    assert_eq!(replica.probe("/livez").await.status, 200);
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
    let of =
        |namespace: &str| api.events().iter().filter(|event| event["involvedObject"]["namespace"] == namespace).count();
    until(async || of("others") == 1, "its event").await;
    // On a slow machine there may be one more for each 30 seconds.
    assert!((10..13).contains(&of("agents")), "{}", of("agents"));
}
