//! JWT-SVIDs: how often they are fetched, how long they are used, and the errors when there is
//! none.
use super::{AUDIENCE, Rig};
use idjag_proxy::dev::ca::SvidRequest;
use idjag_proxy::dev::workload_api::Code;
use idjag_proxy::identity::JwtSvidError;
use std::future::Future;
use std::time::Duration;

#[tokio::test]
async fn jwt_svid_is_fetched_once_for_all_callers_and_cached() {
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
async fn jwt_svid_is_renewed_at_half_life_and_used_until_expiry() {
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
        let kept = rig.identity.jwt_svid(AUDIENCE).await.expect("the old one is usable");
        assert_eq!(kept.token.expose(), second.token.expose());
    }
    assert_eq!(agent.calls().jwt_svid, 3, "a failed renewal is not repeated for a while");
    rig.clock.shift(140);
    assert_eq!(rig.identity.jwt_svid(AUDIENCE).await.expect_err("expired").kind(), "unavailable");
    agent.refuse_jwt_svids(None);
    rig.identity.jwt_svid(AUDIENCE).await.expect("a new one");
}

#[tokio::test]
async fn silent_agent_delays_a_caller_until_the_deadline() {
    let (rig, agent) = Rig::served().await;
    let first = rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    agent.hang();
    let calls = agent.calls().jwt_svid;
    let asking = futures(20, || rig.identity.jwt_svid("https://cold.example"));
    let all = tokio::time::timeout(Duration::from_secs(30), asking).await.expect("our own deadline, once for all");
    assert!(all.iter().all(|one| matches!(one, Err(JwtSvidError::TimedOut(_)))), "{all:?}");
    assert_eq!(agent.calls().jwt_svid, calls + 1, "every waiter shared the one failure");
    rig.clock.shift(160);
    let kept = rig.identity.jwt_svid(AUDIENCE).await.expect("the cached one is usable");
    assert_eq!(kept.token.expose(), first.token.expose());
}

#[tokio::test]
async fn cancelled_caller_does_not_cancel_the_fetch_of_others() {
    let (rig, agent) = Rig::served().await;
    agent.hang();
    let leaving = tokio::time::timeout(Duration::from_millis(20), rig.identity.jwt_svid(AUDIENCE)).await;
    assert!(leaving.is_err());
    agent.restore();
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
}

#[tokio::test]
async fn jwt_svid_of_another_identity_is_not_used() {
    let (rig, agent) = Rig::served().await;
    rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    agent.set_identities(&[SvidRequest::new("spiffe://example.org/other")]).expect("issued");
    rig.until_in_use(&agent).await;
    let token = rig.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(token.id.to_string(), "spiffe://example.org/other");
    assert_eq!(agent.calls().jwt_svid, 2);
}

#[tokio::test]
async fn denied_or_expired_jwt_svid_is_refused_with_a_reason() {
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

/// Makes `count` calls at the same moment and returns their results.
async fn futures<F: Future>(count: usize, call: impl Fn() -> F) -> Vec<F::Output> {
    futures_util::future::join_all((0..count).map(|_| call())).await
}
