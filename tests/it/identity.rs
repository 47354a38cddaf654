//! The identity source against a Workload API that comes late, lies, hangs, goes and returns.
use idjag_proxy::clock::Clock;
use idjag_proxy::dev::ca::{Flaw, SvidRequest, TrustDomain};
use idjag_proxy::dev::workload_api::{Code, WorkloadApi as Agent};
use idjag_proxy::identity::{
    Identity, JwtSvidError, Metrics, MissingKind, Patience, Status, WorkloadApi, WorkloadApiSettings, parse_endpoint,
};
use idjag_proxy::tasks::{Stop, Stopper, Tasks};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const ID: &str = "spiffe://example.org/agent";
const AUDIENCE: &str = "https://as.example";

/// A source at work; its agent may come later.
struct Rig {
    directory: tempfile::TempDir,
    domain: TrustDomain,
    clock: Clock,
    registry: prometheus::Registry,
    identity: Identity,
    _tasks: Tasks,
    _stopper: Stopper,
}

impl Rig {
    fn start() -> Self {
        Self::with_hint(None)
    }

    fn with_hint(hint: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let clock = Clock::shiftable();
        let registry = prometheus::Registry::new();
        let settings = WorkloadApiSettings {
            socket: parse_endpoint(&format!("unix://{}", socket(&directory).display())).expect("endpoint"),
            hint: hint.map(str::to_owned),
            patience: Patience {
                connect: Duration::from_secs(5),
                first_message: Duration::from_millis(300),
                jwt_svid: Duration::from_millis(300),
                fruitless: Duration::from_secs(5),
                backoff: (Duration::from_millis(10), Duration::from_millis(50)),
                hopeless: Duration::from_millis(300),
            },
        };
        let metrics = Metrics::new(&registry).expect("fresh registry");
        let (source, identity) = WorkloadApi::new(settings, clock.clone(), metrics);
        let (stopper, stop) = Stop::pair();
        let mut tasks = Tasks::default();
        tasks.spawn("workload api client", source.run(stop));
        let domain = TrustDomain::new("example.org", &clock).expect("authorities");
        Self { directory, domain, clock, registry, identity, _tasks: tasks, _stopper: stopper }
    }

    async fn agent(&self) -> Arc<Agent> {
        Agent::start(&socket(&self.directory), &self.domain, &self.clock).await.expect("agent")
    }

    /// A source that holds an SVID.
    async fn served() -> (Self, Arc<Agent>) {
        let rig = Self::start();
        let agent = rig.agent().await;
        agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
        rig.until_in_use(&agent).await;
        (rig, agent)
    }

    async fn until(&self, wanted: impl Fn(&Status) -> bool) {
        until(|| wanted(&self.identity.status())).await;
    }

    async fn until_waiting_for(&self, words: &str) {
        self.until(|status| status.waiting_for.as_ref().is_some_and(|why| why.contains(words))).await;
    }

    /// Until what the agent issued last is what readers get.
    async fn until_in_use(&self, agent: &Agent) {
        let chain = agent.svids()[0].chain.clone();
        until(|| self.identity.current().is_ok_and(|snapshot| snapshot.svid.chain == chain)).await;
    }

    fn missing(&self) -> Option<MissingKind> {
        self.identity.current().err().map(|missing| missing.kind)
    }

    fn metric(&self, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("idjag_proxy_{series} ")));
        line.expect("a series").parse().expect("a number")
    }

    fn refused(&self) -> f64 {
        self.metric("svid_updates_total{result=\"refused\"}")
    }
}

fn socket(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("agent.sock")
}

async fn until(wanted: impl Fn() -> bool) {
    let waiting = async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("the condition came about");
}

#[tokio::test]
async fn the_socket_may_come_late_and_go_and_come_again() {
    let rig = Rig::start();
    rig.until_waiting_for("there is no socket at unix://").await;
    assert_eq!(rig.missing(), Some(MissingKind::Waiting));
    assert_eq!(rig.metric("workload_api_connected"), 0.0);
    let agent = rig.agent().await;
    agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    rig.until_in_use(&agent).await;
    assert_eq!(rig.metric("workload_api_connected"), 1.0);

    agent.remove_socket().await;
    rig.until_waiting_for("there is no socket at unix://").await;
    assert!(rig.identity.is_valid(), "the SVID outlives its agent");
    assert_eq!(rig.metric("workload_api_connected"), 0.0);
    agent.resume_socket().expect("a new inode");
    agent.rotate().expect("issued");
    rig.until_in_use(&agent).await;
    rig.until(|status| status.connected && status.waiting_for.is_none()).await;
}

#[tokio::test]
async fn a_socket_that_nobody_listens_at_is_told_apart() {
    let rig = Rig::start();
    drop(std::os::unix::net::UnixListener::bind(socket(&rig.directory)).expect("bound"));
    rig.until_waiting_for("nobody listens at unix://").await;
}

#[tokio::test]
async fn no_registration_is_waited_for_quietly() {
    let log = crate::log::capture();
    let rig = Rig::start();
    let agent = rig.agent().await;
    until(|| agent.calls().x509_svid >= 20).await;
    assert_eq!(rig.missing(), Some(MissingKind::Waiting));
    let words = rig.identity.current().expect_err("none").to_string();
    assert!(words.contains("register an entry") && words.contains("no identity issued"), "{words}");
    let told = |line: &str| line.contains(&agent.endpoint()) && line.contains("register an entry");
    assert_eq!(log.count(told), 3);
    agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    rig.until_in_use(&agent).await;
}

#[tokio::test]
async fn a_question_that_is_refused_is_reported_and_asked_again_only_later() {
    let rig = Rig::start();
    let agent = rig.agent().await;
    agent.refuse(Code::InvalidArgument);
    rig.until_waiting_for("refuses the question itself").await;
    agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    rig.until_in_use(&agent).await;
}

#[tokio::test]
async fn an_agent_that_hangs_meets_our_deadline() {
    let rig = Rig::start();
    let agent = rig.agent().await;
    agent.hang();
    rig.until_waiting_for("its agent hangs").await;
    assert_eq!(rig.missing(), Some(MissingKind::Waiting));
    agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    rig.until_in_use(&agent).await;
}

#[tokio::test]
async fn an_agent_that_restarts_is_found_again() {
    let (rig, agent) = Rig::served().await;
    for _ in 0..3 {
        let streams = agent.calls().x509_svid;
        agent.close_streams();
        until(|| agent.calls().x509_svid > streams).await;
        agent.rotate().expect("issued");
        rig.until_in_use(&agent).await;
        assert!(rig.identity.is_valid());
    }
}

#[tokio::test]
async fn every_bad_update_is_refused_and_the_good_one_stays() {
    let (rig, agent) = Rig::served().await;
    let good = rig.identity.current().expect("held");
    let flaws = [
        (Flaw::Expired, "expired"),
        (Flaw::CaLeaf, "CA certificate"),
        (Flaw::TwoUriSans, "2 URI SANs"),
        (Flaw::NoUriSan, "no URI SAN"),
        (Flaw::KeyMismatch, "does not belong to the certificate"),
        (Flaw::OtherId("spiffe://example.org/other".to_owned()), "the message names"),
    ];
    for (flaw, words) in flaws {
        let before = rig.refused();
        agent.set_identities(&[SvidRequest::new(ID).flaw(flaw)]).expect("issued");
        until(|| rig.refused() > before).await;
        let why = rig.identity.status().last_refused.expect("a reason");
        assert!(why.contains(words), "{why}");
        assert!(Arc::ptr_eq(&good, &rig.identity.current().expect("kept")), "{words}");
    }
    agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    rig.until_in_use(&agent).await;
    assert_eq!(rig.identity.status().waiting_for, None);
}

#[tokio::test]
async fn rubbish_is_refused_and_the_good_one_stays() {
    let (rig, agent) = Rig::served().await;
    let good = rig.identity.current().expect("held");
    let answer = agent.answer();
    let broken = |change: &dyn Fn(&mut idjag_proxy::dev::workload_api::proto::X509svidResponse)| {
        let mut answer = answer.clone();
        change(&mut answer);
        answer
    };
    let answers = [
        broken(&|answer| answer.svids.clear()),
        broken(&|answer| answer.svids[0].x509_svid = b"rubbish".to_vec().into()),
        broken(&|answer| answer.svids[0].x509_svid = Vec::new().into()),
        broken(&|answer| answer.svids[0].x509_svid_key = b"rubbish".to_vec().into()),
        broken(&|answer| answer.svids[0].bundle = b"rubbish".to_vec().into()),
        broken(&|answer| answer.svids[0].spiffe_id.clear()),
        broken(&|answer| {
            answer.federated_bundles.insert("spiffe://b.example".into(), b"rubbish".to_vec().into());
        }),
        // More than is read: the stream breaks and is opened again, and brings the same again.
        broken(&|answer| answer.svids[0].bundle = vec![0; 5 * 1024 * 1024].into()),
    ];
    for answer in answers {
        let before = rig.refused();
        agent.push_raw(answer);
        until(|| rig.refused() > before).await;
        assert!(Arc::ptr_eq(&good, &rig.identity.current().expect("kept")));
    }
    agent.rotate().expect("issued");
    rig.until_in_use(&agent).await;
}

#[tokio::test]
async fn rotation_brings_svid_and_bundles_together() {
    let (rig, agent) = Rig::served().await;
    let mut changes = rig.identity.changes();
    let first = rig.identity.current().expect("held");
    let own = first.trust_domain().clone();
    rig.domain.x509.prepare().expect("authority");
    agent.push_bundles();
    until(|| {
        rig.identity.current().is_ok_and(|now| now.authorities(&own).is_some_and(|all| all.certificates.len() == 2))
    })
    .await;
    rig.domain.x509.activate();
    agent.rotate().expect("issued");
    rig.until_in_use(&agent).await;
    rig.domain.x509.revoke();
    agent.push_bundles();
    until(|| {
        rig.identity.current().is_ok_and(|now| now.authorities(&own).is_some_and(|all| all.certificates.len() == 1))
    })
    .await;
    let last = rig.identity.current().expect("held");
    assert!(last.revision > first.revision && *changes.borrow_and_update() == last.revision);
    assert_ne!(last.svid.key_pkcs8(), first.svid.key_pkcs8());
}

#[tokio::test]
async fn federated_bundles_come_and_go_whole() {
    let (rig, agent) = Rig::served().await;
    let partner = TrustDomain::new("partner.example", &rig.clock).expect("authorities");
    agent.federate(&[partner]);
    rig.until(|status| status.federated_trust_domains == ["partner.example"]).await;
    agent.federate(&[]);
    rig.until(|status| status.federated_trust_domains.is_empty()).await;
}

#[tokio::test]
async fn what_is_withdrawn_is_not_used() {
    let (rig, agent) = Rig::served().await;
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    agent.withdraw();
    until(|| !rig.identity.is_valid()).await;
    assert_eq!(rig.missing(), Some(MissingKind::Withdrawn));
    assert_eq!(rig.metric("svid_expiry_timestamp_seconds"), 0.0);
    let error = rig.identity.jwt_svid(AUDIENCE).await.expect_err("no identity");
    assert_eq!(error.kind(), "missing");
    agent.restore();
    until(|| rig.identity.is_valid()).await;
    let calls = agent.calls().jwt_svid;
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(agent.calls().jwt_svid, calls + 1, "the withdrawn one's token was dropped");
}

#[tokio::test]
async fn the_hint_chooses_and_a_missing_one_fails_closed() {
    let rig = Rig::with_hint(Some("agent"));
    let agent = rig.agent().await;
    let other = SvidRequest::new("spiffe://example.org/other").hint("other");
    agent.set_identities(std::slice::from_ref(&other)).expect("issued");
    rig.until_waiting_for("has the hint \"agent\"").await;
    assert_eq!(rig.missing(), Some(MissingKind::Waiting));
    agent.set_identities(&[other.clone(), SvidRequest::new(ID).hint("agent")]).expect("issued");
    until(|| rig.identity.current().is_ok_and(|snapshot| snapshot.svid.id.to_string() == ID)).await;
    let token = rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(token.id.to_string(), ID, "of the same SPIFFE ID");
    agent.set_identities(&[other]).expect("issued");
    until(|| rig.missing() == Some(MissingKind::Withdrawn)).await;
}

#[tokio::test]
async fn a_clock_that_jumps_forward_ends_the_svid_and_asks_at_once() {
    let (rig, agent) = Rig::served().await;
    let streams = agent.calls().x509_svid;
    rig.clock.shift(7200);
    assert_eq!(rig.missing(), Some(MissingKind::Expired), "judged by the clock at once");
    until(|| agent.calls().x509_svid > streams).await;
    agent.rotate().expect("issued");
    rig.until_in_use(&agent).await;
    rig.clock.shift(-300);
    assert!(rig.identity.is_valid(), "a step back harms nothing");
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
}

#[tokio::test]
async fn near_its_end_an_svid_is_asked_for_once_more() {
    let (rig, agent) = Rig::served().await;
    let streams = agent.calls().x509_svid;
    rig.clock.shift(3600 - 60);
    until(|| agent.calls().x509_svid > streams).await;
    rig.until(|status| status.connected && status.valid).await;
    assert_eq!(rig.identity.status().revision, 1, "the agent had nothing new");
}

#[tokio::test]
async fn a_jwt_svid_is_fetched_once_for_all_who_ask_and_kept() {
    let (rig, agent) = Rig::served().await;
    let all = futures(50, || rig.identity.jwt_svid(AUDIENCE)).await;
    let first = all[0].as_ref().expect("a token");
    assert!(all.iter().all(|one| one.as_ref().is_ok_and(|one| one.token.expose() == first.token.expose())));
    assert_eq!(agent.calls().jwt_svid, 1);
    rig.identity.jwt_svid("https://other.example").await.expect("a token");
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(agent.calls().jwt_svid, 2, "one for each audience");
    agent.rotate().expect("issued");
    rig.until_in_use(&agent).await;
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(agent.calls().jwt_svid, 2, "rotation of the X.509-SVID does not touch it");
}

#[tokio::test]
async fn a_jwt_svid_is_renewed_after_half_its_life_and_used_to_its_end() {
    let (rig, agent) = Rig::served().await;
    let first = rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    rig.clock.shift(140);
    assert_eq!(rig.identity.jwt_svid(AUDIENCE).await.expect("kept").token.expose(), first.token.expose());
    rig.clock.shift(20);
    let second = rig.identity.jwt_svid(AUDIENCE).await.expect("renewed");
    assert!(second.expires_at > first.expires_at);
    assert_eq!(agent.calls().jwt_svid, 2);

    agent.refuse_jwt_svids(Some(Code::Unavailable));
    rig.clock.shift(160);
    for _ in 0..3 {
        let kept = rig.identity.jwt_svid(AUDIENCE).await.expect("the old one is good");
        assert_eq!(kept.token.expose(), second.token.expose());
    }
    assert_eq!(agent.calls().jwt_svid, 3, "a failed renewal is left alone for a while");
    rig.clock.shift(140);
    assert_eq!(rig.identity.jwt_svid(AUDIENCE).await.expect_err("over").kind(), "unavailable");
    agent.refuse_jwt_svids(None);
    rig.identity.jwt_svid(AUDIENCE).await.expect("a new one");
}

#[tokio::test]
async fn a_silent_agent_costs_a_caller_no_more_than_the_deadline() {
    let (rig, agent) = Rig::served().await;
    let first = rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    agent.hang();
    let calls = agent.calls().jwt_svid;
    let all = futures(20, || rig.identity.jwt_svid("https://cold.example")).await;
    assert!(all.iter().all(|one| matches!(one, Err(JwtSvidError::TimedOut(_)))), "{all:?}");
    assert_eq!(agent.calls().jwt_svid, calls + 1, "every waiter shared the one failure");
    rig.clock.shift(160);
    let kept = rig.identity.jwt_svid(AUDIENCE).await.expect("the cached one is good");
    assert_eq!(kept.token.expose(), first.token.expose());
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_take_the_others_token_along() {
    let (rig, agent) = Rig::served().await;
    agent.hang();
    let leaving = tokio::time::timeout(Duration::from_millis(20), rig.identity.jwt_svid(AUDIENCE)).await;
    assert!(leaving.is_err());
    agent.restore();
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
}

#[tokio::test]
async fn a_jwt_svid_of_another_identity_is_never_used() {
    let (rig, agent) = Rig::served().await;
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    agent.set_identities(&[SvidRequest::new("spiffe://example.org/other")]).expect("issued");
    rig.until_in_use(&agent).await;
    let token = rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(token.id.to_string(), "spiffe://example.org/other");
    assert_eq!(agent.calls().jwt_svid, 2);
}

#[tokio::test]
async fn a_jwt_svid_denied_or_expired_is_refused_with_a_reason() {
    let (rig, agent) = Rig::served().await;
    agent.refuse_jwt_svids(Some(Code::PermissionDenied));
    assert_eq!(rig.identity.jwt_svid(AUDIENCE).await.expect_err("denied").kind(), "denied");
    assert!(rig.identity.is_valid(), "that call is not the stream");
    agent.refuse_jwt_svids(None);
    agent.set_jwt_svid_ttl(Duration::ZERO);
    let error = rig.identity.jwt_svid(AUDIENCE).await.expect_err("expired");
    assert!(error.to_string().contains("expired"), "{error}");
    agent.remove_socket().await;
    rig.until(|status| !status.connected).await;
    let error = rig.identity.jwt_svid(AUDIENCE).await.expect_err("away");
    assert_eq!(error.kind(), "unavailable");
}

/// The results of `count` calls made at the same moment.
async fn futures<F: Future>(count: usize, call: impl Fn() -> F) -> Vec<F::Output> {
    futures_util::future::join_all((0..count).map(|_| call())).await
}
