//! Connections on which no request arrives: all of them are closed in time, and they do not keep
//! others from being served. The time is not configurable, so these tests run a worker of their own
//! with a shorter one.
use super::agent::{self, Raw};
use super::frames::PREFACE;
use super::world::{World, until, within};
use futures_util::future::join_all;
use idjag_proxy::config::{Overrides, Source};
use idjag_proxy::exchange::{self, Exchanger};
use idjag_proxy::issuer::{Issuers, Workload};
use idjag_proxy::proxy::{
    self, AgentListener, Guard, Limits, Pulse, Shared, SharedParts, Table, TableParts, Traffic, run_worker,
};
use idjag_proxy::tasks::{Stop, Stopper};
use idjag_proxy::telemetry::Registrar;
use idjag_proxy::tls::{ClientCertificate, ClientTls, ServerTrust, web_roots};
use idjag_proxy::token::{self, TokenSettings, Tokens};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Long enough for a request on a busy machine, and short enough for a test to wait for.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// A single worker without the rest of the proxy. It is stopped when it is dropped.
struct Worker {
    outbound: SocketAddr,
    traffic: Traffic,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Worker {
    /// Starts a worker with one route that needs no token.
    fn start(world: &World, limits: Limits) -> Self {
        let routes = format!(
            "routes: [{{ match: {{ host: open.test }}, token: none, upstream: {{ url: {} }} }}]",
            world.api.url()
        );
        let path = world.write("worker.yaml", &routes);
        let source = Source { path, environment: Arc::new(|_: &str| None), overrides: Overrides::default() };
        let config = source.load().unwrap_or_else(|problems| panic!("{problems}")).config;
        let (registrar, clock) = (Registrar::default(), &world.clock);
        let metrics = proxy::Metrics::new(&registrar).expect("registered");
        let exchanges = exchange::Metrics::new(&registrar, std::iter::empty()).expect("registered");
        let exchanger = Exchanger::new(Issuers::new(Workload::new(None, clock.clone())), exchanges);
        let counts = token::Metrics::new(&registrar, std::iter::empty()).expect("registered");
        let (tokens, _) = Tokens::new(exchanger, None, clock.clone(), counts, TokenSettings::default());
        let web = ServerTrust::WebPki(web_roots().into());
        let pass_tls = ClientTls { trust: web, client_certificate: ClientCertificate::None, alpn: Vec::new() };
        let parts = TableParts {
            tokens: &tokens,
            identity: None,
            clock,
            metrics: &metrics,
            pass_tls: &pass_tls,
            egress: &config.egress,
            egress_proxy: None,
            previous: None,
        };
        let table = Table::new(config.policy, &parts).expect("a table");
        let traffic = Traffic::new(100);
        let shared = Arc::new(Shared::new(SharedParts {
            table,
            tokens,
            identity: None,
            metrics,
            traffic: traffic.clone(),
            guard: Guard::default(),
            limits,
            pulse: Pulse::new(1),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("set");
        let outbound = listener.local_addr().expect("an address");
        let (stopper, stop) = Stop::pair();
        let run = move || run_worker(shared, vec![AgentListener::Tcp(listener)], 0, stop);
        Self { outbound, traffic, stopper, thread: Some(std::thread::spawn(run)) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends an ordinary request, which must be served.
async fn get_once(worker: &Worker) {
    assert_eq!(agent::get(worker.outbound, "http://open.test/x", &[]).await.status, 200);
}

/// What the tests send before they fall silent.
fn beginnings() -> Vec<Vec<u8>> {
    let garbage = |seed: u8| (0..500u16).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) | 0x80).collect();
    let mut all: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"G".to_vec(),
        b"GET /x HTT".to_vec(),
        b"GET /x HTTP/1.1\r\nhost: open.test\r\n".to_vec(),
        b"GET http://open.test/x HTTP/1.1\r\nhost: open.test\r\n\r\n".to_vec(),
        b"P".to_vec(),
        PREFACE[..4].to_vec(),
        PREFACE[..20].to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
        b"\r\n\r\n".to_vec(),
    ];
    all.extend((0..5).map(garbage));
    all
}

#[tokio::test]
async fn connection_without_a_request_is_closed_after_the_head_timeout() {
    let world = World::with_open_api().await;
    let worker = Worker::start(&world, Limits { head_timeout: HEAD_TIMEOUT, ..Limits::default() });
    let mut idlers = Vec::new();
    for _ in 0..4 {
        for beginning in beginnings() {
            let mut idler = Raw::connect(worker.outbound).await;
            idler.write(&beginning).await;
            idlers.push(async move { (idler.rest().await, beginning) });
        }
    }
    let served = async {
        for _ in 0..100 {
            get_once(&worker).await;
        }
    };
    let closed = async {
        for (answer, beginning) in join_all(idlers).await {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let whole = beginning.ends_with(b"open.test\r\n\r\n");
            assert_eq!(answer.starts_with("HTTP/1.1 200 "), whole, "{beginning:?}: {answer}");
        }
    };
    tokio::join!(served, within(closed, "the end of every connection"));
    until(async || worker.traffic.connections() == 0, "no connection is left").await;
}

#[tokio::test]
async fn trickling_head_has_the_same_timeout_as_a_missing_one() {
    let world = World::with_open_api().await;
    let worker = Worker::start(&world, Limits { head_timeout: HEAD_TIMEOUT, ..Limits::default() });
    let trickle = async |beginning: &[u8], byte: &[u8]| {
        let mut agent = Raw::connect(worker.outbound).await;
        agent.write(beginning).await;
        // Sends one byte for each request of another agent, until the proxy responds or closes.
        while agent.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            get_once(&worker).await;
            let _ = agent.stream.try_write(byte);
        }
    };
    let all =
        async { tokio::join!(trickle(b"", b"G"), trickle(b"GET /x HTTP/1.1\r\nx: ", b"y"), trickle(b"GET /", b"z")) };
    within(all, "the end of every connection").await;
    until(async || worker.traffic.connections() == 0, "no connection is left").await;
}

#[tokio::test]
async fn waiting_connections_are_served_after_silent_ones_are_closed() {
    let world = World::with_open_api().await;
    let limits = Limits { head_timeout: HEAD_TIMEOUT, connections: 20, ..Limits::default() };
    let worker = Worker::start(&world, limits);
    let beginnings = beginnings();
    let mut idlers = Vec::new();
    for n in 0..40 {
        let mut idler = Raw::connect(worker.outbound).await;
        idler.write(&beginnings[n % 4]).await;
        idlers.push(idler);
    }
    for _ in 0..5 {
        get_once(&worker).await;
    }
    until(async || worker.traffic.connections() == 0, "no connection is left").await;
    drop(idlers);
}
