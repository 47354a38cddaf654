//! JWT-SVIDs: how often they are fetched, how long they are used, and the errors when there is
//! none.
use super::{AUDIENCE, Fixture};
use idjag_proxy::dev::ca::SvidRequest;
use idjag_proxy::dev::workload_api::Code;
use idjag_proxy::identity::JwtSvidError;
use std::future::Future;
use std::time::Duration;

#[tokio::test]
async fn jwt_svid_is_fetched_once_for_all_callers_and_cached() {
    let (fixture, spire_agent) = Fixture::served().await;
    let all = futures(50, || fixture.identity.jwt_svid(AUDIENCE)).await;
    let first = all[0].as_ref().expect("a token");
    assert!(all.iter().all(|one| one.as_ref().is_ok_and(|one| one.token.expose() == first.token.expose())));
    assert_eq!(spire_agent.calls().jwt_svid, 1);
    fixture.identity.jwt_svid("https://other.example").await.expect("a token");
    fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(spire_agent.calls().jwt_svid, 2, "one JWT-SVID for each audience");
    spire_agent.rotate().expect("issued");
    fixture.until_in_use(&spire_agent).await;
    fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(spire_agent.calls().jwt_svid, 2, "rotating the X.509-SVID does not affect the JWT-SVID");
}

#[tokio::test]
async fn jwt_svid_is_renewed_at_half_life_and_used_until_expiry() {
    let (fixture, spire_agent) = Fixture::served().await;
    let first = fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    // A JWT-SVID is valid for 300 s, so it is renewed after 150 s.
    fixture.clock.shift(140);
    assert_eq!(fixture.identity.jwt_svid(AUDIENCE).await.expect("kept").token.expose(), first.token.expose());
    fixture.clock.shift(20);
    let second = fixture.identity.jwt_svid(AUDIENCE).await.expect("renewed");
    assert!(second.expires_at > first.expires_at);
    assert_eq!(spire_agent.calls().jwt_svid, 2);

    spire_agent.refuse_jwt_svids(Some(Code::Unavailable));
    fixture.clock.shift(160);
    for _ in 0..3 {
        let kept = fixture.identity.jwt_svid(AUDIENCE).await.expect("the old one is usable");
        assert_eq!(kept.token.expose(), second.token.expose());
    }
    assert_eq!(spire_agent.calls().jwt_svid, 3, "a failed renewal is not repeated for a while");
    fixture.clock.shift(140);
    assert_eq!(fixture.identity.jwt_svid(AUDIENCE).await.expect_err("expired").kind(), "unavailable");
    spire_agent.refuse_jwt_svids(None);
    fixture.identity.jwt_svid(AUDIENCE).await.expect("a new one");
}

#[tokio::test]
async fn silent_spire_agent_delays_callers_only_until_the_deadline() {
    let (fixture, spire_agent) = Fixture::served().await;
    let first = fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    spire_agent.hang();
    let calls = spire_agent.calls().jwt_svid;
    let asking = futures(20, || fixture.identity.jwt_svid("https://cold.example"));
    let all = tokio::time::timeout(Duration::from_secs(30), asking).await.expect("our own deadline, once for all");
    assert!(all.iter().all(|one| matches!(one, Err(JwtSvidError::TimedOut(_)))), "{all:?}");
    assert_eq!(spire_agent.calls().jwt_svid, calls + 1, "every waiter shared the one failure");
    // The first token is past the half of its 300 s.
    fixture.clock.shift(160);
    let kept = fixture.identity.jwt_svid(AUDIENCE).await.expect("the cached one is usable");
    assert_eq!(kept.token.expose(), first.token.expose());
}

#[tokio::test]
async fn cancelled_caller_does_not_cancel_the_fetch_of_others() {
    let (fixture, spire_agent) = Fixture::served().await;
    spire_agent.hang();
    let leaving = tokio::time::timeout(Duration::from_millis(20), fixture.identity.jwt_svid(AUDIENCE)).await;
    assert!(leaving.is_err());
    spire_agent.restore();
    fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
}

#[tokio::test]
async fn jwt_svid_of_another_identity_is_not_used() {
    let (fixture, spire_agent) = Fixture::served().await;
    fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    spire_agent.set_identities(&[SvidRequest::new("spiffe://example.org/other")]).expect("issued");
    fixture.until_in_use(&spire_agent).await;
    let token = fixture.identity.jwt_svid(AUDIENCE).await.expect("a token");
    assert_eq!(token.id.to_string(), "spiffe://example.org/other");
    assert_eq!(spire_agent.calls().jwt_svid, 2);
}

#[tokio::test]
async fn denied_or_expired_jwt_svid_is_refused_with_a_reason() {
    let (fixture, spire_agent) = Fixture::served().await;
    spire_agent.refuse_jwt_svids(Some(Code::PermissionDenied));
    assert_eq!(fixture.identity.jwt_svid(AUDIENCE).await.expect_err("denied").kind(), "denied");
    assert!(fixture.identity.is_valid(), "a JWT-SVID call does not affect the stream");
    spire_agent.refuse_jwt_svids(None);
    spire_agent.set_jwt_svid_ttl(Duration::ZERO);
    let error = fixture.identity.jwt_svid(AUDIENCE).await.expect_err("expired");
    assert!(error.to_string().contains("expired"), "{error}");
    spire_agent.remove_socket().await;
    fixture.until(|status| !status.connected).await;
    let error = fixture.identity.jwt_svid(AUDIENCE).await.expect_err("away");
    assert_eq!(error.kind(), "unavailable");
}

/// Makes `count` calls at the same moment and returns their results.
async fn futures<F: Future>(count: usize, call: impl Fn() -> F) -> Vec<F::Output> {
    futures_util::future::join_all((0..count).map(|_| call())).await
}
