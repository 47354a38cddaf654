//! Tests of the owner. Each test answers the requests to mint tokens itself.
use super::*;
use crate::clock::Clock;
use crate::exchange::{AssertionSettings, ExchangeError, Flow, Grant, GrantSpec, IssuedToken, Subject, UserTokenRule};
use crate::issuer::{AuthorizationServer, ClientAuth, Deadlines, Endpoints, PlainHttp, Quirks};
use crate::secret::Secret;
use crate::tasks::{Stop, Stopper};
use crate::telemetry::Registrar;
use crate::tls::ServerTrust;
use http::HeaderValue;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

type Answer = oneshot::Sender<Result<IssuedToken, ExchangeError>>;

fn bearer(token: &AccessToken) -> &HeaderValue {
    token.field_value("Bearer ").expect("a value")
}

#[derive(Clone)]
struct ScriptedMint(mpsc::UnboundedSender<(Option<String>, Answer)>);

impl Mint for ScriptedMint {
    async fn mint(&self, _: &Grant, user: Option<&Secret>) -> Result<IssuedToken, ExchangeError> {
        let (answer, answered) = oneshot::channel();
        self.0.send((user.map(|user| user.expose().to_owned()), answer)).expect("the test listens");
        answered.await.expect("the test answers")
    }
}

/// The tokens under test, with a mint whose answers the test gives.
struct Fixture {
    tokens: Tokens,
    questions: mpsc::UnboundedReceiver<(Option<String>, Answer)>,
    clock: Clock,
    _stopper: Stopper,
}

impl Fixture {
    fn new(settings: TokenSettings) -> Self {
        let (sender, questions) = mpsc::unbounded_channel();
        let clock = Clock::shiftable();
        let metrics = Metrics::new(&Registrar::default(), ["as"]).expect("metrics");
        let (tokens, owner) = Tokens::new(ScriptedMint(sender), None, clock.clone(), metrics, settings);
        let (stopper, stop) = Stop::pair();
        let _owner = tokio::task::spawn_local(owner.run(stop));
        Self { tokens, questions, clock, _stopper: stopper }
    }

    fn ask(
        &self,
        slot: &Arc<Slot>,
        user: Option<&str>,
    ) -> tokio::task::JoinHandle<Result<Arc<AccessToken>, TokenError>> {
        let (tokens, slot) = (self.tokens.clone(), Arc::clone(slot));
        let user = user.map(|user| UserToken::new(user.to_owned()));
        tokio::task::spawn_local(async move { tokens.obtain(&slot, user).await })
    }

    async fn question(&mut self) -> Answer {
        self.questions.recv().await.expect("the owner asks").1
    }

    fn token(&self, text: &str, lifetime: u64) -> Result<IssuedToken, ExchangeError> {
        let expires_at = self.clock.now().plus(Duration::from_secs(lifetime));
        Ok(IssuedToken { token: Secret::new(text.to_owned()), expires_at, scopes: Vec::new() })
    }

    /// Runs all tasks that can make progress.
    async fn settle(&self) {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
    }

    async fn obtain(&mut self, slot: &Arc<Slot>, text: &str, lifetime: u64) -> Arc<AccessToken> {
        let asked = self.ask(slot, None);
        let answer = self.question().await;
        answer.send(self.token(text, lifetime)).expect("awaited");
        asked.await.expect("task").expect("token")
    }
}

fn server() -> Arc<AuthorizationServer> {
    Arc::new(AuthorizationServer {
        name: "as".into(),
        issuer: "https://as.example".into(),
        endpoints: Endpoints::Discovered,
        client_id: Some("agent".into()),
        client_auth: ClientAuth::None,
        trust: ServerTrust::WebPki(rustls::RootCertStore::empty().into()),
        plain_http: PlainHttp::default(),
        quirks: Quirks::default(),
        deadlines: Deadlines::default(),
        egress_proxy: None,
    })
}

pub(super) fn grant(scope: &str, delegated: bool) -> Arc<Grant> {
    let rule = || UserTokenRule {
        server: server(),
        kind: crate::jose::TokenKind::AccessToken,
        audience: vec!["agent".into()],
    };
    let spec = GrantSpec {
        flow: if delegated {
            Flow::TokenExchange { server: server() }
        } else {
            Flow::ClientCredentials { server: server() }
        },
        subject: if delegated { Subject::User(rule()) } else { Subject::Own },
        actor: None,
        resources: Vec::new(),
        audiences: Vec::new(),
        scopes: vec![scope.into()],
        assertion: AssertionSettings::default(),
    };
    Arc::new(Grant::new(spec).expect("a grant"))
}

async fn on_one_thread(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_one_exchange_and_its_failure() {
    on_one_thread(async {
        let mut fixture = Fixture::new(TokenSettings::default());
        let slot = fixture.tokens.slot(&grant("a", false));
        let asked: Vec<_> = (0..1000).map(|_| fixture.ask(&slot, None)).collect();
        let answer = fixture.question().await;
        fixture.settle().await;
        // The first caller hangs up; the exchange continues for the others.
        asked[0].abort();
        answer.send(Err(ExchangeError::unusable_token())).expect("awaited");
        for asked in asked.into_iter().skip(1) {
            assert!(matches!(asked.await.expect("task"), Err(TokenError::Exchange(_))));
        }
        // The failure is remembered for a while: the next caller gets it without an exchange.
        assert!(fixture.ask(&slot, None).await.expect("task").is_err());
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(fixture.questions.try_recv().is_err(), "nothing is held, so there is nothing to renew");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn callers_up_to_the_limit_of_waiting_share_one_token() {
    on_one_thread(async {
        let burst = NonZeroUsize::new(5000).expect("not zero");
        let mut fixture = Fixture::new(TokenSettings { waiting: burst, ..TokenSettings::default() });
        let slot = fixture.tokens.slot(&grant("a", false));
        // All of them ask before the owner runs.
        let asked: Vec<_> = (0..burst.get()).map(|_| fixture.ask(&slot, None)).collect();
        fixture.question().await.send(fixture.token("one", 1000)).expect("awaited");
        for asked in asked {
            asked.await.expect("task").expect("a token");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn equal_grants_share_a_slot() {
    on_one_thread(async {
        let fixture = Fixture::new(TokenSettings::default());
        let one = fixture.tokens.slot(&grant("a", false));
        assert!(Arc::ptr_eq(&one, &fixture.tokens.slot(&grant("a", false))));
        assert!(!Arc::ptr_eq(&one, &fixture.tokens.slot(&grant("b", false))));
        // A reload may have changed a secret: the slot stays, and uses the new secret from now on.
        let renewed = grant("a", false);
        fixture.tokens.slot(&renewed);
        assert!(Arc::ptr_eq(&one.grant(), &renewed));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn users_never_share_a_token() {
    on_one_thread(async {
        let mut fixture = Fixture::new(TokenSettings::default());
        let slot = fixture.tokens.slot(&grant("a", true));
        let (alice, bob) = (fixture.ask(&slot, Some("alice")), fixture.ask(&slot, Some("bob")));
        for _ in 0..2 {
            let (user, answer) = fixture.questions.recv().await.expect("question");
            let minted = fixture.token(&format!("for-{}", user.expect("delegated")), 3600);
            answer.send(minted).expect("awaited");
        }
        assert_eq!(bearer(&alice.await.expect("task").expect("token")), "Bearer for-alice");
        assert_eq!(bearer(&bob.await.expect("task").expect("token")), "Bearer for-bob");
        assert!(slot.held().is_none(), "a delegated token is never in the slot that all requests read");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failed_refresh_keeps_the_token_until_it_expires() {
    on_one_thread(async {
        let mut fixture = Fixture::new(TokenSettings::default());
        let slot = fixture.tokens.slot(&grant("a", false));
        let token = fixture.obtain(&slot, "one", 1000).await;
        assert!(fixture.tokens.ready(&slot, fixture.tokens.now()).is_some());
        fixture.clock.shift(850);
        fixture.question().await.send(Err(ExchangeError::unusable_token())).expect("awaited");
        fixture.settle().await;
        let ready = fixture.tokens.ready(&slot, fixture.tokens.now()).expect("kept");
        assert!(Arc::ptr_eq(&ready, &token));
        fixture.clock.shift(149);
        assert!(fixture.tokens.ready(&slot, fixture.tokens.now()).is_none(), "an expired token is never sent");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn expired_token_is_dropped_and_still_renewed() {
    on_one_thread(async {
        let mut fixture = Fixture::new(TokenSettings::default());
        let slot = fixture.tokens.slot(&grant("a", false));
        let token = fixture.obtain(&slot, "one", 1000).await;
        fixture.clock.shift(850);
        fixture.question().await.send(Err(ExchangeError::unusable_token())).expect("awaited");
        fixture.settle().await;
        assert!(fixture.tokens.ready(&slot, fixture.tokens.now()).is_some());
        fixture.clock.shift(200);
        let answer = fixture.question().await;
        assert!(slot.held().is_none());
        assert_eq!(slot.expires_at(), token.expires_at().unix_seconds());
        answer.send(fixture.token("two", 1000)).expect("awaited");
        fixture.settle().await;
        let next = fixture.tokens.ready(&slot, fixture.tokens.now()).expect("renewed");
        assert_eq!(bearer(&next), "Bearer two");
        assert_eq!(slot.expires_at(), next.expires_at().unix_seconds());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unused_token_is_not_renewed() {
    on_one_thread(async {
        let mut fixture = Fixture::new(TokenSettings::default());
        let slot = fixture.tokens.slot(&grant("a", false));
        fixture.obtain(&slot, "one", 1000).await;
        fixture.clock.shift(850);
        fixture.question().await.send(fixture.token("two", 1000)).expect("awaited");
        fixture.settle().await;
        fixture.clock.shift(850);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(fixture.questions.try_recv().is_err(), "it was not used since the last renewal");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refused_token_is_replaced_once_per_interval() {
    on_one_thread(async {
        let mut fixture = Fixture::new(TokenSettings::default());
        let slot = fixture.tokens.slot(&grant("a", false));
        let first = fixture.obtain(&slot, "one", 1000).await;
        let replaced = {
            let (tokens, slot, first) = (fixture.tokens.clone(), Arc::clone(&slot), Arc::clone(&first));
            tokio::task::spawn_local(async move { tokens.replace(&slot, None, &first).await })
        };
        fixture.question().await.send(fixture.token("two", 1000)).expect("awaited");
        let second = replaced.await.expect("task").expect("token");
        assert_eq!(bearer(&second), "Bearer two");
        // A caller that still holds the first token gets the second one without an exchange.
        let replacement = fixture.tokens.replace(&slot, None, &first).await.expect("token");
        assert!(Arc::ptr_eq(&replacement, &second));
        // The second is refused too: it stays, because a third would be refused as well.
        let kept = fixture.tokens.replace(&slot, None, &second).await.expect("token");
        assert!(Arc::ptr_eq(&kept, &second));
        assert!(fixture.questions.try_recv().is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn token_requested_before_a_refusal_is_not_used_after_it() {
    on_one_thread(async {
        let mut fixture = Fixture::new(TokenSettings::default());
        let slot = fixture.tokens.slot(&grant("a", false));
        let first = fixture.obtain(&slot, "one", 1000).await;
        fixture.clock.shift(850);
        let refresh = fixture.question().await;
        let replaced = {
            let (tokens, slot, first) = (fixture.tokens.clone(), Arc::clone(&slot), Arc::clone(&first));
            tokio::task::spawn_local(async move { tokens.replace(&slot, None, &first).await })
        };
        fixture.settle().await;
        refresh.send(fixture.token("stale", 1000)).expect("awaited");
        fixture.question().await.send(fixture.token("fresh", 1000)).expect("awaited");
        assert_eq!(bearer(&replaced.await.expect("task").expect("token")), "Bearer fresh");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn slow_server_causes_a_bounded_wait() {
    on_one_thread(async {
        let settings = TokenSettings { token_timeout: Duration::from_secs(3), ..TokenSettings::default() };
        let mut fixture = Fixture::new(settings);
        let slot = fixture.tokens.slot(&grant("a", false));
        let asked = fixture.ask(&slot, None);
        let answer = fixture.question().await;
        assert!(matches!(asked.await.expect("task"), Err(TokenError::Timeout)));
        // A token that arrives late still serves later callers.
        answer.send(fixture.token("late", 1000)).expect("awaited");
        fixture.settle().await;
        assert!(fixture.tokens.ready(&slot, fixture.tokens.now()).is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn least_recently_used_delegated_token_is_dropped_at_the_limit() {
    on_one_thread(async {
        let settings = TokenSettings { delegated: NonZeroUsize::new(2).expect("not zero"), ..TokenSettings::default() };
        let mut fixture = Fixture::new(settings);
        let slot = fixture.tokens.slot(&grant("a", true));
        for user in ["a", "b", "c"] {
            let asked = fixture.ask(&slot, Some(user));
            fixture.question().await.send(fixture.token(user, 1000)).expect("awaited");
            asked.await.expect("task").expect("token");
        }
        // The least recently used is gone, the others are held.
        assert!(fixture.ask(&slot, Some("c")).await.expect("task").is_ok());
        let asked = fixture.ask(&slot, Some("a"));
        fixture.question().await.send(fixture.token("a", 1000)).expect("awaited");
        assert!(asked.await.expect("task").is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn eager_token_is_requested_without_a_caller_and_retried() {
    on_one_thread(async {
        let mut fixture = Fixture::new(TokenSettings::default());
        let slot = fixture.tokens.slot(&grant("a", false));
        fixture.tokens.set_eager(&slot, true).await;
        fixture.question().await.send(Err(ExchangeError::unusable_token())).expect("awaited");
        fixture.settle().await;
        assert!(!slot.was_obtained());
        fixture.clock.shift(60);
        fixture.question().await.send(fixture.token("one", 1000)).expect("awaited");
        fixture.settle().await;
        assert!(slot.was_obtained());
    })
    .await;
}
