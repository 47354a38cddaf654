//! Redirects, limits, deadlines, TLS and retries, each with a server that provokes them.
use crate::exchange::ExchangeError;
use crate::exchange::testing::{Fixture, ScriptedServer, client_credentials, json, token};
use crate::issuer::{AuthorizationServer, Deadlines, Endpoints, Fault};
use crate::tls::ServerTrust;
use http::HeaderValue;
use http::header::{AUTHORIZATION, LOCATION};
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 44\r\nconnection: close\r\n\r\n{\"access_token\":\"t0\",\"token_type\":\"Bearer\" }";

/// Starts a server that runs `each` for every connection, with the connection's number. Returns its
/// authority and the number of connections so far.
async fn raw<F: Future<Output = ()> + Send + 'static>(
    each: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> (String, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let authority = listener.local_addr().expect("an address").to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.spawn(each(count.fetch_add(1, Ordering::Relaxed), stream));
        }
    });
    (authority, connections, tasks)
}

async fn described(url: &str) -> AuthorizationServer {
    let mut server = ScriptedServer::start(|_| token()).await.described();
    server.endpoints = Endpoints::Explicit { token: Url::parse(url).expect("a URL"), jwks: None };
    server
}

async fn ask(server: AuthorizationServer) -> Result<String, ExchangeError> {
    let minted = Fixture::new(None).mint(&client_credentials(server)).await?;
    Ok(minted.token.expose().to_owned())
}

async fn request(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    assert!(stream.read(&mut bytes).await.expect("a request") > 0);
}

#[tokio::test]
async fn redirect_is_an_error_and_is_not_followed() {
    let elsewhere = ScriptedServer::start(|_| token()).await;
    let target = HeaderValue::try_from(format!("{}/token", elsewhere.origin)).expect("a value");
    for status in [301, 302, 303, 307, 308] {
        let target = target.clone();
        let server = ScriptedServer::start(move |_| {
            let mut reply = json(status, "");
            reply.headers_mut().insert(LOCATION, target.clone());
            reply
        })
        .await;
        assert_eq!(ask(server.described()).await.expect_err("no token").kind(), "response", "{status}");
    }
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn endless_answer_is_cut_at_its_limit() {
    let (stopped, mut server_stopped) = tokio::sync::mpsc::unbounded_channel();
    let (authority, _, _tasks) = raw(move |_, mut stream| {
        let stopped = stopped.clone();
        async move {
            request(&mut stream).await;
            let mut sent = 0;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while stream.write_all(&[b"1000\r\n".as_slice(), &[b' '; 4096], b"\r\n"].concat()).await.is_ok() {
                sent += 4096;
            }
            let _ = stopped.send(sent);
        }
    })
    .await;
    let error = ask(described(&format!("http://{authority}/token")).await).await.expect_err("no token");
    assert!(error.to_string().contains("longer than 256 KiB"), "{error}");
    // The server's writes fail because the client has closed; what it wrote before is in buffers.
    assert!(server_stopped.recv().await.expect("the server's end") > 0);

    let server = ScriptedServer::start(|_| json(200, vec![b' '; 256 * 1024 + 1])).await;
    assert_eq!(ask(server.described()).await.expect_err("no token").kind(), "response");
}

#[tokio::test]
async fn silent_or_slow_server_runs_into_the_deadline() {
    for dribbles in [false, true] {
        let (authority, connections, _tasks) = raw(move |_, mut stream| async move {
            request(&mut stream).await;
            if dribbles {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{").await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let mut server = described(&format!("http://{authority}/token")).await;
        server.deadlines = Deadlines { connect: Duration::from_secs(3), total: Duration::from_millis(50) };
        let error = ask(server).await.expect_err("no token");
        assert_eq!((error.kind(), error.fault()), ("timeout", Fault::Unavailable), "{error}");
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn hanging_handshake_runs_into_the_connect_deadline() {
    let (authority, connections, _tasks) = raw(|_, stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut server = described(&format!("https://{authority}/token")).await;
    server.deadlines = Deadlines { connect: Duration::from_millis(50), total: Duration::from_secs(10) };
    let error = ask(server).await.expect_err("no token");
    assert_eq!(error.to_string(), "authorization server `as`: connecting took too long");
    assert_eq!(connections.load(Ordering::Relaxed), 1, "a timeout is not retried");
}

#[tokio::test]
async fn closed_port_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let authority = listener.local_addr().expect("an address");
    drop(listener);
    let error = ask(described(&format!("http://{authority}/token")).await).await.expect_err("no token");
    assert_eq!((error.kind(), error.fault()), ("unreachable", Fault::Unavailable), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn request_that_was_sent_is_not_repeated() {
    let (authority, connections, _tasks) = raw(|_, mut stream| async move { request(&mut stream).await }).await;
    let error = ask(described(&format!("http://{authority}/token")).await).await.expect_err("no token");
    assert_eq!(error.kind(), "unreachable", "{error}");
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

struct Tls {
    acceptor: tokio_rustls::TlsAcceptor,
    trust: ServerTrust,
}

fn tls(name: &str) -> Tls {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    Tls { acceptor: Arc::new(config).into(), trust: ServerTrust::WebPki(roots.into()) }
}

async fn serve_tls(acceptor: tokio_rustls::TlsAcceptor, stream: TcpStream) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut bytes = [0; 4096];
    let _ = stream.read(&mut bytes).await;
    let _ = stream.write_all(GOOD).await;
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn connection_that_failed_is_tried_once_more() {
    for (failures, works) in [(1, true), (2, false)] {
        let Tls { acceptor, trust } = tls("127.0.0.1");
        let (authority, connections, _tasks) = raw(move |number, stream| {
            let acceptor = acceptor.clone();
            async move {
                if number >= failures {
                    serve_tls(acceptor, stream).await;
                }
            }
        })
        .await;
        let mut server = described(&format!("https://{authority}/token")).await;
        server.trust = trust;
        assert_eq!(ask(server).await.is_ok(), works);
        assert_eq!(connections.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test]
async fn certificate_of_another_host_is_refused_at_once() {
    let Tls { acceptor, trust } = tls("other.example");
    let (authority, connections, _tasks) = raw(move |_, stream| serve_tls(acceptor.clone(), stream)).await;
    let mut server = described(&format!("https://{authority}/token")).await;
    server.trust = trust;
    let error = ask(server).await.expect_err("no token");
    assert_eq!((error.kind(), error.fault()), ("tls", Fault::Unavailable), "{error}");
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn plain_http_is_refused_except_on_loopback() {
    // TEST-NET-1 (RFC 5737) has no hosts, so without the refusal this would time out.
    let mut server = described("http://192.0.2.1/token").await;
    let error = ask(server.clone()).await.expect_err("no token");
    assert_eq!((error.kind(), error.fault()), ("plain_http", Fault::Operator), "{error}");
    assert!(error.to_string().contains("allow_plain_http"));

    let listed = ScriptedServer::start(|_| token()).await;
    let port = Url::parse(&listed.origin).expect("a URL").port().expect("a port");
    server.endpoints =
        Endpoints::Explicit { token: Url::parse(&format!("http://localhost:{port}/t")).expect("a URL"), jwks: None };
    assert_eq!(ask(server).await.expect("loopback by name"), "t0ken");
}

#[tokio::test]
async fn token_request_is_a_form() {
    let server = ScriptedServer::start(|_| token()).await;
    ask(server.described()).await.expect("a token");
    let seen = &server.received()[0];
    assert_eq!((seen.head.method.as_str(), seen.head.uri.path()), ("POST", "/token"));
    assert_eq!(seen.head.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(seen.head.headers["accept"], "application/json");
    assert!(!seen.head.headers.contains_key(AUTHORIZATION));
    assert_eq!(seen.body, "grant_type=client_credentials&scope=a+b&client_secret=hunter2-canary&client_id=agent");
}

#[tokio::test]
async fn exchanges_are_counted_and_timed() {
    let server = ScriptedServer::start(|_| token()).await;
    let fixture = Fixture::new(None);
    let grant = client_credentials(server.described());
    for _ in 0..3 {
        fixture.mint(&grant).await.expect("a token");
    }
    let text = fixture.registrar.encode().expect("text");
    assert!(text.contains(r#"idjag_proxy_exchanges_total{leg="access",outcome="success",server="as"} 3"#), "{text}");
    assert!(text.contains(r#"idjag_proxy_exchanges_total{leg="id_jag",outcome="timeout",server="as"} 0"#), "{text}");
    assert!(text.contains(r#"idjag_proxy_exchange_duration_seconds_count{leg="access",server="as"} 3"#), "{text}");
}
