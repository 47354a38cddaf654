//! Tests with the `spiffe` crate, an independent implementation, as the client.
use super::*;
use crate::dev::ca::Flaw;
use crate::dev::jwt;
use spiffe::{WorkloadApiClient, WorkloadApiError};
use tokio_stream::StreamExt;

const ID: &str = "spiffe://example.org/agent";

/// A Workload API of one trust domain on a socket of its own.
struct Fixture {
    _directory: tempfile::TempDir,
    domain: TrustDomain,
    api: Arc<WorkloadApi>,
}

impl Fixture {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("example.org", &Clock::system()).unwrap();
        let api = WorkloadApi::start(&directory.path().join("agent.sock"), &domain, &Clock::system()).await.unwrap();
        Self { _directory: directory, domain, api }
    }

    async fn client(&self) -> WorkloadApiClient {
        WorkloadApiClient::connect_to(self.api.endpoint()).await.unwrap()
    }
}

#[tokio::test]
async fn stream_receives_rotation_withdrawal_and_restoration() {
    let fixture = Fixture::start().await;
    let client = fixture.client().await;
    assert!(matches!(client.fetch_x509_context().await, Err(WorkloadApiError::NoIdentityIssued)));
    fixture.api.set_identities(&[SvidRequest::new(ID).hint("a"), SvidRequest::new("spiffe://example.org/b")]).unwrap();
    let mut stream = client.stream_x509_contexts().await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.default_svid().unwrap().spiffe_id().to_string(), ID);
    assert_eq!(first.svids().len(), 2);
    fixture.api.rotate().unwrap();
    let second = stream.next().await.unwrap().unwrap();
    assert_ne!(first.default_svid().unwrap().cert_chain(), second.default_svid().unwrap().cert_chain());
    fixture.api.withdraw();
    assert!(matches!(stream.next().await, Some(Err(WorkloadApiError::NoIdentityIssued))));
    fixture.api.restore();
    assert!(client.fetch_x509_context().await.is_ok());
}

#[tokio::test]
async fn federated_bundles_are_pushed() {
    let fixture = Fixture::start().await;
    let other = TrustDomain::new("other.example", &Clock::system()).unwrap();
    fixture.api.set_identities(&[SvidRequest::new(ID)]).unwrap();
    fixture.api.federate(&[other]);
    let context = fixture.client().await.fetch_x509_context().await.unwrap();
    assert_eq!(context.bundle_set().iter().count(), 2);
}

#[tokio::test]
async fn jwt_svids_are_issued_or_refused() {
    let fixture = Fixture::start().await;
    fixture.api.set_identities(&[SvidRequest::new(ID)]).unwrap();
    let client = fixture.client().await;
    let svid = client.fetch_jwt_svid(["https://as.example"], None).await.unwrap();
    let token = jwt::verify_with_jwks(svid.token(), &fixture.domain.jwt.bundle(), "jwt-svid").unwrap();
    assert_eq!(token.claims["sub"], ID);
    assert_eq!(jwt::audiences(&token.claims), ["https://as.example"]);
    fixture.api.refuse_jwt_svids(Some(Code::Unavailable));
    assert!(client.fetch_jwt_svid(["https://as.example"], None).await.is_err());
    assert_eq!(fixture.api.calls().jwt_svid, 2);
}

#[tokio::test]
async fn socket_can_be_removed_and_restored() {
    let fixture = Fixture::start().await;
    fixture.api.set_identities(&[SvidRequest::new(ID)]).unwrap();
    let client = fixture.client().await;
    let mut stream = client.stream_x509_contexts().await.unwrap();
    stream.next().await.unwrap().unwrap();
    fixture.api.remove_socket().await;
    assert!(!fixture.api.socket().exists());
    assert!(stream.next().await.unwrap().is_err());
    fixture.api.resume_socket().unwrap();
    assert!(fixture.client().await.fetch_x509_context().await.is_ok());
}

#[tokio::test]
async fn invalid_answer_reaches_the_client() {
    let fixture = Fixture::start().await;
    fixture.api.set_identities(&[SvidRequest::new(ID).flaw(Flaw::TwoUriSans)]).unwrap();
    assert!(fixture.client().await.fetch_x509_context().await.is_err());
    let mut answer = fixture.api.answer();
    answer.svids[0].x509_svid = b"garbage".as_slice().into();
    fixture.api.push_raw(answer);
    assert!(fixture.client().await.fetch_x509_context().await.is_err());
}
