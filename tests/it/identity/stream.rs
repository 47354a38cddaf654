//! The X.509 stream, and what readers see of it.
use super::{AUDIENCE, Fixture, ID, socket, until};
use idjag_proxy::dev::ca::{Flaw, SvidRequest, TrustDomain};
use idjag_proxy::dev::workload_api::Code;
use idjag_proxy::identity::MissingKind;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn socket_may_appear_late_vanish_and_return() {
    let fixture = Fixture::start();
    fixture.until_waiting_for("the socket unix://").await;
    assert_eq!(fixture.missing(), Some(MissingKind::Waiting));
    assert_eq!(fixture.metric("workload_api_connected"), 0.0);
    let spire_agent = fixture.spire_agent().await;
    spire_agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    fixture.until_in_use(&spire_agent).await;
    assert_eq!(fixture.metric("workload_api_connected"), 1.0);

    spire_agent.remove_socket().await;
    fixture.until_waiting_for("the socket unix://").await;
    assert!(fixture.identity.is_valid(), "the SVID outlives the SPIRE agent");
    assert_eq!(fixture.metric("workload_api_connected"), 0.0);
    spire_agent.resume_socket().expect("a new inode");
    spire_agent.rotate().expect("issued");
    fixture.until_in_use(&spire_agent).await;
    fixture.until(|status| status.connected && status.waiting_for.is_none()).await;
}

#[tokio::test]
async fn socket_without_a_listener_has_its_own_message() {
    let fixture = Fixture::start();
    drop(std::os::unix::net::UnixListener::bind(socket(&fixture.directory)).expect("bound"));
    fixture.until_waiting_for("nothing listens at unix://").await;
}

#[tokio::test]
async fn missing_registration_is_waited_for_with_few_log_lines() {
    let log = crate::dev::log::capture();
    let fixture = Fixture::start();
    let spire_agent = fixture.spire_agent().await;
    until(|| spire_agent.calls().x509_svid >= 20).await;
    assert_eq!(fixture.missing(), Some(MissingKind::Waiting));
    let words = fixture.identity.current().expect_err("none").to_string();
    assert!(words.contains("register an entry") && words.contains("no identity issued"), "{words}");
    let reported = |line: &str| line.contains(&spire_agent.endpoint()) && line.contains("register an entry");
    assert_eq!(log.count(reported), 3);
    spire_agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    fixture.until_in_use(&spire_agent).await;
}

#[tokio::test]
async fn rejected_call_is_reported_and_retried_later() {
    let fixture = Fixture::start();
    let spire_agent = fixture.spire_agent().await;
    spire_agent.refuse(Code::InvalidArgument);
    fixture.until_waiting_for("rejects the call itself").await;
    spire_agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    fixture.until_in_use(&spire_agent).await;
}

#[tokio::test]
async fn hanging_spire_agent_is_reported_after_the_deadline() {
    let fixture = Fixture::start();
    let spire_agent = fixture.spire_agent().await;
    spire_agent.hang();
    fixture.until_waiting_for("the SPIRE agent may hang").await;
    assert_eq!(fixture.missing(), Some(MissingKind::Waiting));
    spire_agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    fixture.until_in_use(&spire_agent).await;
}

#[tokio::test]
async fn stream_without_a_usable_svid_is_reopened() {
    let fixture = Fixture::with(None, |timing| timing.usable_svid = Duration::from_millis(100));
    let spire_agent = fixture.spire_agent().await;
    spire_agent.set_identities(&[SvidRequest::new(ID).flaw(Flaw::Expired)]).expect("issued");
    until(|| spire_agent.calls().x509_svid >= 2).await;
    assert!(fixture.identity.status().last_refused.is_some_and(|why| why.contains("expired")));
    spire_agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    fixture.until_in_use(&spire_agent).await;
}

#[tokio::test]
async fn stream_is_reopened_after_the_spire_agent_restarts() {
    let (fixture, spire_agent) = Fixture::served().await;
    for _ in 0..3 {
        let streams = spire_agent.calls().x509_svid;
        spire_agent.close_streams();
        until(|| spire_agent.calls().x509_svid > streams).await;
        spire_agent.rotate().expect("issued");
        fixture.until_in_use(&spire_agent).await;
        assert!(fixture.identity.is_valid());
    }
}

#[tokio::test]
async fn bad_update_is_refused_and_the_good_one_stays() {
    let (fixture, spire_agent) = Fixture::served().await;
    let good = fixture.identity.current().expect("held");
    let flaws = [
        (Flaw::Expired, "expired"),
        (Flaw::CaLeaf, "CA certificate"),
        (Flaw::TwoUriSans, "2 URI SANs"),
        (Flaw::NoUriSan, "no URI SAN"),
        (Flaw::KeyMismatch, "does not belong to the certificate"),
        (Flaw::OtherId("spiffe://example.org/other".to_owned()), "the message names"),
    ];
    for (flaw, words) in flaws {
        let before = fixture.refused();
        spire_agent.set_identities(&[SvidRequest::new(ID).flaw(flaw)]).expect("issued");
        until(|| fixture.refused() > before).await;
        let why = fixture.identity.status().last_refused.expect("a reason");
        assert!(why.contains(words), "{why}");
        assert!(Arc::ptr_eq(&good, &fixture.identity.current().expect("kept")), "{words}");
    }
    spire_agent.set_identities(&[SvidRequest::new(ID)]).expect("issued");
    fixture.until_in_use(&spire_agent).await;
    assert_eq!(fixture.identity.status().waiting_for, None);
}

#[tokio::test]
async fn garbage_is_refused_and_the_good_one_stays() {
    let (fixture, spire_agent) = Fixture::served().await;
    let good = fixture.identity.current().expect("held");
    let answer = spire_agent.answer();
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
        // A message over the size limit breaks the stream, which is reopened and delivers the same
        // message again.
        broken(&|answer| answer.svids[0].bundle = vec![0; 5 * 1024 * 1024].into()),
    ];
    for answer in answers {
        let before = fixture.refused();
        spire_agent.push_raw(answer);
        until(|| fixture.refused() > before).await;
        assert!(Arc::ptr_eq(&good, &fixture.identity.current().expect("kept")));
    }
    spire_agent.rotate().expect("issued");
    fixture.until_in_use(&spire_agent).await;
}

#[tokio::test]
async fn rotation_replaces_svid_and_bundles_together() {
    let (fixture, spire_agent) = Fixture::served().await;
    let mut changes = fixture.identity.changes();
    let first = fixture.identity.current().expect("held");
    let own = first.trust_domain().clone();
    fixture.domain.x509.prepare().expect("authority");
    spire_agent.push_bundles();
    until(|| {
        fixture.identity.current().is_ok_and(|now| now.authorities(&own).is_some_and(|all| all.certificates.len() == 2))
    })
    .await;
    fixture.domain.x509.activate();
    spire_agent.rotate().expect("issued");
    fixture.until_in_use(&spire_agent).await;
    fixture.domain.x509.revoke();
    spire_agent.push_bundles();
    until(|| {
        fixture.identity.current().is_ok_and(|now| now.authorities(&own).is_some_and(|all| all.certificates.len() == 1))
    })
    .await;
    let last = fixture.identity.current().expect("held");
    assert!(last.revision > first.revision && *changes.borrow_and_update() == last.revision);
    assert_ne!(last.svid.key_pkcs8(), first.svid.key_pkcs8());
}

#[tokio::test]
async fn federated_bundles_are_added_and_removed_whole() {
    let (fixture, spire_agent) = Fixture::served().await;
    let partner = TrustDomain::new("partner.example", &fixture.clock).expect("authorities");
    spire_agent.federate(&[partner]);
    fixture.until(|status| status.federated_trust_domains == ["partner.example"]).await;
    spire_agent.federate(&[]);
    fixture.until(|status| status.federated_trust_domains.is_empty()).await;
}

#[tokio::test]
async fn withdrawn_svid_is_not_used() {
    let (fixture, spire_agent) = Fixture::served().await;
    fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    spire_agent.withdraw();
    until(|| !fixture.identity.is_valid()).await;
    assert_eq!(fixture.missing(), Some(MissingKind::Withdrawn));
    assert_eq!(fixture.metric("svid_expiry_timestamp_seconds"), 0.0);
    let error = fixture.identity.jwt_svid(AUDIENCE).await.expect_err("no identity");
    assert_eq!(error.kind(), "missing");
    spire_agent.restore();
    until(|| fixture.identity.is_valid()).await;
    let calls = spire_agent.calls().jwt_svid;
    fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(spire_agent.calls().jwt_svid, calls + 1, "the token of the withdrawn identity was dropped");
}

#[tokio::test]
async fn hint_selects_the_svid_and_unknown_hint_is_refused() {
    let fixture = Fixture::with(Some("agent"), |_| {});
    let spire_agent = fixture.spire_agent().await;
    let other = SvidRequest::new("spiffe://example.org/other").hint("other");
    spire_agent.set_identities(std::slice::from_ref(&other)).expect("issued");
    fixture.until_waiting_for("has the hint \"agent\"").await;
    assert_eq!(fixture.missing(), Some(MissingKind::Waiting));
    spire_agent.set_identities(&[other.clone(), SvidRequest::new(ID).hint("agent")]).expect("issued");
    until(|| fixture.identity.current().is_ok_and(|snapshot| snapshot.svid.id.to_string() == ID)).await;
    let token = fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(token.id.to_string(), ID, "the new SVID has the same SPIFFE ID");
    spire_agent.set_identities(&[other]).expect("issued");
    until(|| fixture.missing() == Some(MissingKind::Withdrawn)).await;
}

#[tokio::test]
async fn clock_jump_expires_the_svid_and_reopens_the_stream() {
    let (fixture, spire_agent) = Fixture::served().await;
    let streams = spire_agent.calls().x509_svid;
    // The SVID is valid for an hour.
    fixture.clock.shift(7200);
    assert_eq!(fixture.missing(), Some(MissingKind::Expired), "the SVID expires by the clock at once");
    until(|| spire_agent.calls().x509_svid > streams).await;
    spire_agent.rotate().expect("issued");
    fixture.until_in_use(&spire_agent).await;
    fixture.clock.shift(-300);
    assert!(fixture.identity.is_valid(), "a clock set back expires nothing");
    fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
}

#[tokio::test]
async fn stream_is_reopened_once_near_the_svids_expiry() {
    let (fixture, spire_agent) = Fixture::served().await;
    let streams = spire_agent.calls().x509_svid;
    // One minute of the SVID's hour is left.
    fixture.clock.shift(3540);
    until(|| spire_agent.calls().x509_svid > streams).await;
    fixture.until(|status| status.connected && status.valid).await;
    assert_eq!(fixture.identity.status().revision, 1, "the SPIRE agent had nothing new");
}
