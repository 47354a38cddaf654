use super::*;
use crate::exchange::testing::{ScriptedServer, grant, token};
use crate::issuer::{AssertionAudience, ClientAuth, Parameter};
use crate::secret::Secret;
use crate::tls::PeerIds;
use rustls::RootCertStore;

async fn server() -> AuthorizationServer {
    ScriptedServer::start(|_| token()).await.described()
}

fn user(server: &Arc<AuthorizationServer>, kind: TokenKind, audience: &[&str]) -> Subject {
    let audience = audience.iter().map(|text| (*text).to_owned()).collect();
    Subject::User(UserTokenRule { server: Arc::clone(server), kind, audience })
}

#[tokio::test]
async fn flow_decides_which_subjects_and_actors_are_legal() {
    let server = Arc::new(server().await);
    let at = || Arc::clone(&server);
    let flows = [
        (Flow::ClientCredentials { server: at() }, false, false),
        (Flow::SelfIssued { server: at(), grant: SelfIssuedGrant::JwtBearer }, true, false),
        (Flow::IdJag { idp: at(), server: at() }, true, true),
        (Flow::TokenExchange { server: at() }, true, true),
        (Flow::JwtBearer { server: at() }, true, false),
    ];
    for (flow, takes_user, takes_actor) in flows {
        let own = grant(flow);
        let name = own.flow.facts().name;
        assert!(!Grant::new(own.clone()).expect(name).is_delegated());
        let actor = GrantSpec { actor: Some(ActorToken::JwtSvid), ..own.clone() };
        assert_eq!(Grant::new(actor).is_ok(), takes_actor, "{name}");
        let delegated = Grant::new(GrantSpec { subject: user(&server, TokenKind::IdToken, &[]), ..own });
        assert_eq!(delegated.is_ok(), takes_user, "{name}");
        assert!(delegated.is_ok_and(|grant| grant.is_delegated()) == takes_user, "{name}");
    }
}

#[tokio::test]
async fn user_token_rule_needs_an_audience_and_keys() {
    let mut described = server().await;
    let exchange = |server: AuthorizationServer, kind, audience: &[&str]| {
        let server = Arc::new(server);
        let subject = user(&server, kind, audience);
        Grant::new(GrantSpec { subject, ..grant(Flow::TokenExchange { server }) }).map(drop)
    };
    for kind in [TokenKind::AccessToken, TokenKind::Jwt] {
        assert_eq!(exchange(described.clone(), kind, &[]), Err(GrantError::NoAudience));
        assert_eq!(exchange(described.clone(), kind, &["api"]), Ok(()));
    }
    let Endpoints::Explicit { jwks, .. } = &mut described.endpoints else { panic!("explicit") };
    *jwks = None;
    assert_eq!(exchange(described, TokenKind::IdToken, &[]), Err(GrantError::NoKeys));
}

#[tokio::test]
async fn grant_needs_an_identity_if_a_part_of_it_uses_one() {
    let described = server().await;
    let needs_identity = |spec: GrantSpec| Grant::new(spec).expect("a grant").needs_identity();
    let cc = |server: AuthorizationServer| needs_identity(grant(Flow::ClientCredentials { server: Arc::new(server) }));
    assert!(!cc(described.clone()));
    assert!(cc(AuthorizationServer { client_id: None, ..described.clone() }));
    assert!(cc(AuthorizationServer { client_auth: ClientAuth::SpiffeX509, ..described.clone() }));
    let server = Arc::new(described);
    let own = grant(Flow::JwtBearer { server: Arc::clone(&server) });
    assert!(needs_identity(own.clone()), "the assertion is the JWT-SVID");
    let delegated = GrantSpec { subject: user(&server, TokenKind::IdToken, &[]), ..own };
    assert!(!needs_identity(delegated.clone()));
    let actor = GrantSpec { actor: Some(ActorToken::JwtSvid), flow: Flow::TokenExchange { server }, ..delegated };
    assert!(needs_identity(actor));
}

fn jwks(server: &mut AuthorizationServer, to: Option<&str>) {
    let Endpoints::Explicit { jwks, .. } = &mut server.endpoints else { panic!("explicit") };
    *jwks = to.map(|url| url.parse().expect("a URL"));
}

fn pinned(id: &str) -> ServerTrust {
    ServerTrust::Spiffe(Arc::new(PeerIds::new([id]).expect("an ID")))
}

fn user_rule(grant: &mut GrantSpec) -> &mut UserTokenRule {
    let Subject::User(rule) = &mut grant.subject else { panic!("a user") };
    rule
}

/// Everything that a server can distinguish changes the digest. Keys and secrets, which rotate, do
/// not.
#[tokio::test]
async fn digest_covers_what_the_server_decides_on() {
    let described = server().await;
    let with = |change: &dyn Fn(&mut GrantSpec), server_change: &dyn Fn(&mut AuthorizationServer)| {
        let mut server = described.clone();
        server_change(&mut server);
        let server = Arc::new(server);
        let mut changed = grant(Flow::TokenExchange { server: Arc::clone(&server) });
        changed.subject = user(&server, TokenKind::AccessToken, &["api"]);
        change(&mut changed);
        Grant::new(changed).expect("a grant").digest()
    };
    let same = with(&|_| {}, &|_| {});
    assert_eq!(
        same,
        with(&|_| {}, &|server| server.client_auth = ClientAuth::ClientSecretPost(Secret::new("rotated".into())))
    );
    assert_eq!(same, with(&|_| {}, &|server| server.deadlines.total *= 2));
    let self_issued = |kind: SelfIssuedGrant| {
        let flow = |grant: &GrantSpec| Flow::SelfIssued { server: Arc::clone(grant.flow.facts().server), grant: kind };
        with(&|grant| grant.flow = flow(grant), &|_| {})
    };
    let mut digests = vec![
        same,
        with(&|grant| grant.scopes = vec!["a".into()], &|_| {}),
        with(&|grant| grant.scopes = vec!["a b".into()], &|_| {}),
        with(&|grant| grant.scopes.clear(), &|_| {}),
        with(&|grant| grant.resources = vec!["a".into(), "b".into()], &|_| {}),
        with(&|grant| grant.audiences = vec!["a".into(), "b".into()], &|_| {}),
        with(&|grant| grant.actor = Some(ActorToken::JwtSvid), &|_| {}),
        with(&|grant| grant.subject = Subject::Own, &|_| {}),
        with(&|grant| grant.flow = Flow::JwtBearer { server: Arc::clone(grant.flow.facts().server) }, &|_| {}),
        with(
            &|grant| {
                grant.flow = Flow::IdJag {
                    idp: Arc::clone(grant.flow.facts().server),
                    server: Arc::clone(grant.flow.facts().server),
                }
            },
            &|_| {},
        ),
        self_issued(SelfIssuedGrant::TokenExchange),
        self_issued(SelfIssuedGrant::JwtBearer),
        with(&|grant| user_rule(grant).kind = TokenKind::Jwt, &|_| {}),
        with(&|grant| user_rule(grant).audience.push("other".into()), &|_| {}),
        with(&|grant| grant.assertion.issuer = Some(String::new()), &|_| {}),
        with(&|grant| grant.assertion.lifetime *= 2, &|_| {}),
        with(&|grant| grant.assertion.max_depth = 9, &|_| {}),
        // The server's name in the metrics, the source of its keys, and how it is verified.
        with(&|_| {}, &|server| server.name = "twin".into()),
        with(&|_| {}, &|server| jwks(server, Some("https://other.example/jwks"))),
        with(&|grant| grant.subject = Subject::Own, &|server| jwks(server, None)),
        with(&|_| {}, &|server| server.trust = ServerTrust::WebPki(RootCertStore::empty().into())),
        with(&|_| {}, &|server| server.trust = pinned("spiffe://example.org/as")),
        with(&|_| {}, &|server| server.trust = pinned("spiffe://example.org/other")),
        with(&|_| {}, &|server| server.issuer.push('/')),
        with(&|_| {}, &|server| server.client_id = None),
        with(&|_| {}, &|server| server.client_id = Some(String::new())),
        with(&|_| {}, &|server| server.client_auth = ClientAuth::SpiffeJwt),
        with(&|_| {}, &|server| server.endpoints = Endpoints::Discovered),
        with(&|_| {}, &|server| server.quirks.assertion_audience = AssertionAudience::TokenEndpoint),
        with(&|_| {}, &|server| server.quirks.omit = [Parameter::Scope].into()),
        with(&|_| {}, &|server| server.quirks.extra_parameters = [("a".to_owned(), "b".to_owned())].into()),
        with(&|_| {}, &|server| server.quirks.extra_parameters = [("ab".to_owned(), String::new())].into()),
    ];
    let all = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), all);
}
