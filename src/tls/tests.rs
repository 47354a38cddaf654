//! Handshakes in memory, with expected and unexpected servers.
use super::*;
use crate::clock::Clock;
use crate::identity::testing::{Authority, IdentityFixture, Issued, LeafShape, material};
use crate::identity::{LeafProblem, crypto_provider};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const OURS: &str = "spiffe://example.org/agent";
const REPORTS: &str = "spiffe://example.org/reports";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto_provider())
}

fn roots(authority: &Authority) -> Roots {
    let mut roots = RootCertStore::empty();
    roots.add(authority.bundle().into()).expect("an authority");
    roots.into()
}

/// A server with `issued`. If `clients` is given, it asks for a client certificate that this
/// authority signed.
fn server(issued: &Issued, clients: Option<&Authority>) -> ServerConfig {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(rustls::ALL_VERSIONS).expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(roots(authority).store, provider()).build().expect("verifier"),
        ),
    };
    let key = PrivateKeyDer::Pkcs8(issued.key.to_vec().into());
    builder.with_single_cert(issued.chain.clone(), key).expect("fitting key")
}

/// The results of an exchange at both ends.
struct Seen {
    resumed: bool,
    client_chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    alpn: Option<Vec<u8>>,
}

/// Makes a whole exchange, because in TLS 1.3 a server refuses only after the client's side of the
/// handshake has succeeded.
async fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> Result<Seen, std::io::Error> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(server.clone()).accept(far).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
        Ok::<_, std::io::Error>(chain.unwrap_or_default())
    };
    let talk = async {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut stream = TlsConnector::from(client.clone()).connect(name, near).await?;
        let mut hello = Vec::new();
        stream.read_to_end(&mut hello).await?;
        assert_eq!(hello, b"hello");
        let connection = stream.get_ref().1;
        let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        Ok::<_, std::io::Error>((resumed, connection.alpn_protocol().map(<[u8]>::to_vec)))
    };
    let (accepted, talked) = tokio::join!(accept, talk);
    let (resumed, alpn) = talked?;
    Ok(Seen { resumed, client_chain: accepted?, alpn })
}

fn spiffe(ids: &[&str], client_certificate: ClientCertificate) -> ClientTls {
    let trust = ServerTrust::Spiffe(Arc::new(PeerIds::new(ids).expect("ids")));
    ClientTls { trust, client_certificate, alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()] }
}

fn config(tls: &ClientTls, fixture: &IdentityFixture) -> Arc<ClientConfig> {
    client_config(tls, Some(&fixture.identity), &fixture.clock).expect("config")
}

/// The error message if a client that expects `ids` calls a server with `issued`.
async fn refusal_text(fixture: &IdentityFixture, ids: &[&str], issued: &Issued) -> String {
    let client = config(&spiffe(ids, ClientCertificate::Svid), fixture);
    let error = connect(&client, &Arc::new(server(issued, None)), "anything.example").await.err().expect("refused");
    refusal(&error).expect("words")
}

#[tokio::test]
async fn mutual_tls_succeeds_by_spiffe_id_with_any_host_name() {
    let authority = Authority::new("example.org");
    let fixture = IdentityFixture::with(&authority, OURS);
    let mut far = server(&authority.issue(LeafShape::new(REPORTS)), Some(&authority));
    far.alpn_protocols = vec![b"http/1.1".to_vec()];
    let client = config(&spiffe(&[REPORTS], ClientCertificate::Svid), &fixture);
    let seen = connect(&client, &Arc::new(far), "not-its-name.example").await.expect("connected");
    assert_eq!(seen.client_chain, fixture.identity.current().expect("identity").svid.chain);
    assert_eq!(seen.alpn.as_deref(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn tls_1_2_works_and_no_certificate_is_presented_unasked() {
    let authority = Authority::new("example.org");
    let fixture = IdentityFixture::with(&authority, OURS);
    let issued = authority.issue(LeafShape::new(REPORTS));
    let far = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("version")
        .with_no_client_auth()
        .with_single_cert(issued.chain.clone(), PrivateKeyDer::Pkcs8(issued.key.to_vec().into()))
        .expect("key");
    let client = config(&spiffe(&[REPORTS], ClientCertificate::Svid), &fixture);
    assert!(connect(&client, &Arc::new(far), "x.example").await.expect("connected").client_chain.is_empty());
}

#[tokio::test]
async fn unexpected_spiffe_id_is_refused_and_both_ids_are_named() {
    let authority = Authority::new("example.org");
    let fixture = IdentityFixture::with(&authority, OURS);
    let words =
        refusal_text(&fixture, &[REPORTS], &authority.issue(LeafShape::new("spiffe://example.org/other"))).await;
    assert!(words.contains(REPORTS) && words.contains("spiffe://example.org/other"), "{words}");
}

#[tokio::test]
async fn authority_of_the_same_name_is_refused() {
    let authority = Authority::new("example.org");
    let fixture = IdentityFixture::with(&authority, OURS);
    let words = refusal_text(&fixture, &[REPORTS], &Authority::new("example.org").issue(LeafShape::new(REPORTS))).await;
    assert!(words.contains("do not vouch for it"), "{words}");
}

#[tokio::test]
async fn federated_domain_is_trusted_only_by_name_and_own_bundle() {
    let (ours, partner) = (Authority::new("example.org"), Authority::new("partner.example"));
    let mut fixture = IdentityFixture::new();
    let mut update = material(&ours, OURS);
    update.federated = vec![("spiffe://partner.example".to_owned(), partner.bundle())];
    fixture.publish(update);
    const THEIRS: &str = "spiffe://partner.example/reports";

    let genuine = Arc::new(server(&partner.issue(LeafShape::new(THEIRS)), None));
    connect(&config(&spiffe(&[THEIRS], ClientCertificate::None), &fixture), &genuine, "x.example")
        .await
        .expect("named, so trusted");
    let words = refusal_text(&fixture, &[REPORTS], &partner.issue(LeafShape::new(THEIRS))).await;
    assert!(words.contains("was expected"), "not named, so refused: {words}");
    let words = refusal_text(&fixture, &[REPORTS], &partner.issue(LeafShape::new(REPORTS))).await;
    assert!(words.contains("do not vouch"), "the partner's authority must not speak for us: {words}");
    let words = refusal_text(&fixture, &[THEIRS], &ours.issue(LeafShape::new(THEIRS))).await;
    assert!(words.contains("do not vouch"), "nor ours for the partner: {words}");

    fixture.publish(material(&ours, OURS));
    let words = refusal_text(&fixture, &[THEIRS], &partner.issue(LeafShape::new(THEIRS))).await;
    assert!(words.contains("no trust bundle for partner.example"), "federation has ended: {words}");
}

#[tokio::test]
async fn leaf_that_is_not_an_svid_is_refused() {
    let authority = Authority::new("example.org");
    let fixture = IdentityFixture::with(&authority, OURS);
    type Change = fn(&mut LeafShape);
    let changes: [(Change, &str); 4] = [
        (|shape| shape.uris.push("spiffe://example.org/b".to_owned()), "2 URI SANs"),
        (|shape| shape.uris.clear(), "no URI SAN"),
        (|shape| shape.ca = true, "CA certificate"),
        (|shape| shape.usages.clear(), "digitalSignature"),
    ];
    for (change, expected) in changes {
        let mut shape = LeafShape::new(REPORTS);
        change(&mut shape);
        let words = refusal_text(&fixture, &[REPORTS], &authority.issue(shape)).await;
        assert!(words.contains(expected), "{words}");
    }
    let mut shape = LeafShape::new(REPORTS);
    shape.not_after = fixture.clock.now().minus(Duration::from_secs(60));
    let words = refusal_text(&fixture, &[REPORTS], &authority.issue(shape)).await;
    assert!(words.contains("has expired"), "{words}");
}

#[tokio::test]
async fn connection_without_our_own_identity_fails() {
    let authority = Authority::new("example.org");
    let far = authority.issue(LeafShape::new(REPORTS));
    let mut fixture = IdentityFixture::new();
    fixture.waiting("the agent is away");
    assert!(refusal_text(&fixture, &[REPORTS], &far).await.contains("the agent is away"));
    fixture.publish(material(&authority, OURS));
    fixture.withdraw();
    assert!(refusal_text(&fixture, &[REPORTS], &far).await.contains("withdrawn"));
    fixture.publish(material(&authority, OURS));
    fixture.clock.shift(7200);
    assert!(refusal_text(&fixture, &[REPORTS], &far).await.contains("expired"));
}

#[tokio::test]
async fn web_pki_with_expired_svid_fails_with_our_own_error() {
    let (web, ours) = (Authority::new("web.example"), Authority::new("example.org"));
    let mut shape = LeafShape::new("spiffe://web.example/unimportant");
    shape.dns = vec!["api.example.com".to_owned()];
    shape.not_after = Clock::system().now().plus(Duration::from_secs(10 * 3600));
    let far = Arc::new(server(&web.issue(shape), Some(&ours)));
    let fixture = IdentityFixture::with(&ours, OURS);
    let tls = ClientTls {
        trust: ServerTrust::WebPki(roots(&web)),
        client_certificate: ClientCertificate::Svid,
        alpn: Vec::new(),
    };
    let client = config(&tls, &fixture);
    let seen = connect(&client, &far, "api.example.com").await.expect("connected");
    assert_eq!(seen.client_chain, fixture.identity.current().expect("identity").svid.chain);
    let wrong_name = connect(&client, &far, "other.example.com").await.err().expect("refused");
    assert!(refusal(&wrong_name).expect("words").contains("not for other.example.com"));
    fixture.clock.shift(7200);
    let expired = connect(&client, &far, "api.example.com").await.err().expect("refused");
    let words = refusal(&expired).expect("words");
    assert!(words.contains("our own identity is missing") && words.contains("expired"), "{words}");
}

#[tokio::test]
async fn web_pki_without_an_svid_needs_no_identity() {
    let web = Authority::new("web.example");
    let mut shape = LeafShape::new("spiffe://web.example/unimportant");
    shape.dns = vec!["api.example.com".to_owned()];
    let far = Arc::new(server(&web.issue(shape), None));
    let trust = ServerTrust::WebPki(roots(&web));
    let mut tls = ClientTls { trust, client_certificate: ClientCertificate::None, alpn: Vec::new() };
    let client = client_config(&tls, None, &Clock::system()).expect("config");
    connect(&client, &far, "api.example.com").await.expect("connected");
    assert_eq!(client_config(&tls, None, &Clock::system()).map(|_| ()), Ok(()));
    tls.client_certificate = ClientCertificate::Svid;
    assert_eq!(client_config(&tls, None, &Clock::system()).err(), Some(SetupError::NoIdentity));
    tls.trust = ServerTrust::WebPki(roots(&Authority::new("other.example")));
    tls.client_certificate = ClientCertificate::None;
    let client = client_config(&tls, None, &Clock::system()).expect("config");
    let error = connect(&client, &far, "api.example.com").await.err().expect("refused");
    assert!(refusal(&error).expect("words").contains("not signed by a trusted authority"));
    tls.trust = ServerTrust::WebPki(RootCertStore::empty().into());
    assert!(matches!(client_config(&tls, None, &Clock::system()), Err(SetupError::NoRoots(_))));
}

#[tokio::test]
async fn unusable_certificate_of_a_web_server_is_explained() {
    let web = Authority::new("web.example");
    let trust = ServerTrust::WebPki(roots(&web));
    let tls = ClientTls { trust, client_certificate: ClientCertificate::None, alpn: Vec::new() };
    let client = client_config(&tls, None, &Clock::system()).expect("config");
    type Change = fn(&mut LeafShape);
    let changes: [(Change, &str); 5] = [
        (|shape| shape.ca = true, "it is marked as an authority's (basicConstraints CA:TRUE"),
        (|shape| shape.dns = vec!["other.example".to_owned()], "other.example, not for api.example.com"),
        (|shape| shape.dns.clear(), "it is for spiffe://web.example/unimportant, not for api.example.com"),
        (
            |shape| (shape.dns, shape.uris) = (Vec::new(), Vec::new()),
            "it has no subjectAltName, and so is not for api.example.com",
        ),
        (|shape| shape.not_after = Clock::system().now().minus(Duration::from_secs(60)), "it has expired"),
    ];
    for (change, expected) in changes {
        let mut shape = LeafShape::new("spiffe://web.example/unimportant");
        shape.dns = vec!["api.example.com".to_owned()];
        change(&mut shape);
        let error = connect(&client, &Arc::new(server(&web.issue(shape), None)), "api.example.com")
            .await
            .err()
            .expect("refused");
        let words = refusal(&error).expect("words");
        assert!(words.starts_with("the server's certificate is refused: ") && words.contains(expected), "{words}");
    }
}

#[test]
fn errors_of_the_handshake_have_words() {
    use rustls::{AlertDescription, PeerIncompatible, PeerMisbehaved};
    for (error, expected) in [
        (rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13), "neither TLS 1.2 nor 1.3"),
        (rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), "no cipher suite in common"),
        (rustls::Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments), "violates the TLS protocol"),
        (rustls::Error::NoCertificatesPresented, "presented no certificate"),
        (rustls::Error::DecryptError, "cannot be decrypted"),
        (rustls::Error::AlertReceived(AlertDescription::InternalError), "its own log may say why"),
    ] {
        let words = refusal(&std::io::Error::other(error)).expect("words");
        assert!(words.contains(expected), "{words}");
    }
    assert_eq!(refusal(&std::io::Error::other(rustls::Error::General("something else".to_owned()))), None);
}

/// The server issues session tickets, and the client loses its authorization between two
/// connections (as in spire#6715 and envoy#42668).
#[tokio::test]
async fn resumption_does_not_skip_authorization() {
    let (first, second) = (Authority::new("example.org"), Authority::new("example.org"));
    let mut fixture = IdentityFixture::with(&first, OURS);
    let far = Arc::new(server(&first.issue(LeafShape::new(REPORTS)), None));
    let client = config(&spiffe(&[REPORTS], ClientCertificate::None), &fixture);
    for _ in 0..2 {
        assert!(!connect(&client, &far, "x.example").await.expect("connected").resumed);
    }
    fixture.publish(material(&second, OURS));
    let error = connect(&client, &far, "x.example").await.err().expect("its authority is gone");
    assert!(refusal(&error).expect("words").contains("do not vouch"));
}

#[tokio::test]
async fn handshakes_succeed_while_old_and_new_authorities_overlap() {
    let (old, new) = (Authority::new("example.org"), Authority::new("example.org"));
    let both = |leaf_of: &Authority| {
        let mut update = material(leaf_of, OURS);
        update.bundle = [old.bundle(), new.bundle()].concat();
        update
    };
    let mut fixture = IdentityFixture::with(&old, OURS);
    let client = config(&spiffe(&[REPORTS], ClientCertificate::Svid), &fixture);
    let far_old = Arc::new(server(&old.issue(LeafShape::new(REPORTS)), None));
    let far_new = Arc::new(server(&new.issue(LeafShape::new(REPORTS)), None));
    connect(&client, &far_old, "x.example").await.expect("old");
    fixture.publish(both(&old));
    connect(&client, &far_old, "x.example").await.expect("old, prepared");
    fixture.publish(both(&new));
    connect(&client, &far_old, "x.example").await.expect("old, overlapping");
    connect(&client, &far_new, "x.example").await.expect("new, overlapping");
    fixture.publish(material(&new, OURS));
    connect(&client, &far_new, "x.example").await.expect("new");
    assert!(connect(&client, &far_old, "x.example").await.is_err(), "the old authority is gone");
}

/// A regression test: the resolver of a library refused up to a third of the handshakes during a
/// rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_succeed_while_the_svid_is_rotated() {
    let authority = Authority::new("example.org");
    let mut fixture = IdentityFixture::with(&authority, OURS);
    let client = config(&spiffe(&[REPORTS], ClientCertificate::Svid), &fixture);
    let far = Arc::new(server(&authority.issue(LeafShape::new(REPORTS)), Some(&authority)));
    let mut connectors = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, far) = (client.clone(), far.clone());
        connectors.spawn(async move {
            for _ in 0..25 {
                connect(&client, &far, "x.example").await.expect("a rotation must not be seen");
            }
        });
    }
    let mut rotations = 0;
    loop {
        tokio::select! {
            done = connectors.join_next() => match done {
                Some(result) => result.expect("no handshake failed"),
                None => break,
            },
            () = tokio::task::yield_now() => {
                fixture.publish(material(&authority, OURS));
                rotations += 1;
            }
        }
    }
    assert!(rotations > 10, "only {rotations} rotations");
}

#[test]
fn open_connection_is_rechecked() {
    let (old, new) = (Authority::new("example.org"), Authority::new("example.org"));
    let mut fixture = IdentityFixture::with(&old, OURS);
    let chain = old.issue(LeafShape::new(REPORTS)).chain;
    let trust = spiffe(&[REPORTS], ClientCertificate::None).trust;
    let judge = |fixture: &IdentityFixture, trust: &ServerTrust, chain: &[_]| {
        let snapshot = fixture.identity.current().expect("identity");
        recheck(trust, chain, &snapshot, fixture.clock.now()).map_err(|refused| refused.kind())
    };
    assert_eq!(judge(&fixture, &trust, &chain), Ok(()));
    assert_eq!(judge(&fixture, &trust, &[]), Err(LeafProblem::NotDer.kind()));
    let other = spiffe(&["spiffe://example.org/other"], ClientCertificate::None).trust;
    assert_eq!(judge(&fixture, &other, &chain), Err("not_pinned"));
    fixture.publish(material(&new, OURS));
    assert_eq!(judge(&fixture, &trust, &chain), Err("untrusted"));
    assert_eq!(judge(&fixture, &ServerTrust::WebPki(roots(&old)), &chain), Ok(()));
}

#[tokio::test]
async fn refusal_by_the_server_is_explained() {
    let (ours, theirs) = (Authority::new("example.org"), Authority::new("partner.example"));
    let fixture = IdentityFixture::with(&ours, OURS);
    let far = Arc::new(server(&ours.issue(LeafShape::new(REPORTS)), Some(&theirs)));
    let client = config(&spiffe(&[REPORTS], ClientCertificate::None), &fixture);
    let error = connect(&client, &far, "x.example").await.err().expect("refused");
    assert!(refusal(&error).expect("words").contains("client_certificate: svid"), "{error}");
    let client = config(&spiffe(&[REPORTS], ClientCertificate::Svid), &fixture);
    let error = connect(&client, &far, "x.example").await.err().expect("refused");
    assert!(refusal(&error).expect("words").contains("does not trust our client certificate"), "{error}");
    assert_eq!(refusal(&std::io::Error::other("something else")), None);
}
