//! The owner with an authorization server that the test plays: every mint is a question that the test answers.
use super::*;
use crate::clock::Clock;
use crate::exchange::{AssertionSettings, ExchangeError, Flow, Grant, GrantSpec, Minted, Subject, UserTokenRule};
use crate::issuer::{AuthorizationServer, ClientAuth, Deadlines, Endpoints, PlainHttp, Quirks};
use crate::secret::Secret;
use crate::tasks::{Stop, Stopper};
use crate::telemetry::Registrar;
use crate::tls::ServerTrust;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

type Answer = oneshot::Sender<Result<Minted, ExchangeError>>;

#[derive(Clone)]
struct Played(mpsc::UnboundedSender<(Option<String>, Answer)>);

impl Mint for Played {
    async fn mint(&self, _: &Grant, user: Option<&Secret>) -> Result<Minted, ExchangeError> {
        let (answer, answered) = oneshot::channel();
        self.0.send((user.map(|user| user.expose().to_owned()), answer)).expect("the test listens");
        answered.await.expect("the test answers")
    }
}

struct Bench {
    tokens: Tokens,
    questions: mpsc::UnboundedReceiver<(Option<String>, Answer)>,
    clock: Clock,
    _stopper: Stopper,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let (sender, questions) = mpsc::unbounded_channel();
        let clock = Clock::shiftable();
        let metrics = Metrics::new(&Registrar::default(), ["as"]).expect("metrics");
        let (tokens, owner) = Tokens::new(Played(sender), None, clock.clone(), metrics, settings);
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

    fn token(&self, text: &str, lifetime: u64) -> Result<Minted, ExchangeError> {
        let expires_at = self.clock.now().plus(Duration::from_secs(lifetime));
        Ok(Minted { token: Secret::new(text.to_owned()), expires_at, scopes: Vec::new() })
    }

    /// Lets everything that can run do so.
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
async fn a_thousand_callers_share_one_exchange_and_its_failure() {
    on_one_thread(async {
        let mut bench = Bench::new(Settings::default());
        let slot = bench.tokens.slot(&grant("a", false));
        let asked: Vec<_> = (0..1000).map(|_| bench.ask(&slot, None)).collect();
        let answer = bench.question().await;
        bench.settle().await;
        // The one who asked first hangs up; the exchange goes on for the others.
        asked[0].abort();
        answer.send(Err(ExchangeError::unusable_token())).expect("awaited");
        for asked in asked.into_iter().skip(1) {
            assert!(matches!(asked.await.expect("task"), Err(TokenError::Exchange(_))));
        }
        // The failure stands for a while: who comes next gets it without an exchange.
        assert!(bench.ask(&slot, None).await.expect("task").is_err());
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(bench.questions.try_recv().is_err(), "nothing is held, so there is nothing to renew");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_as_large_as_the_limit_is_shared_and_not_refused() {
    on_one_thread(async {
        let burst = NonZeroUsize::new(5000).expect("not zero");
        let mut bench = Bench::new(Settings { waiting: burst, ..Settings::default() });
        let slot = bench.tokens.slot(&grant("a", false));
        // All of them ask before the owner gets to run.
        let asked: Vec<_> = (0..burst.get()).map(|_| bench.ask(&slot, None)).collect();
        bench.question().await.send(bench.token("one", 1000)).expect("awaited");
        for asked in asked {
            asked.await.expect("task").expect("a token");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn equal_grants_share_a_slot_and_others_do_not() {
    on_one_thread(async {
        let bench = Bench::new(Settings::default());
        let one = bench.tokens.slot(&grant("a", false));
        assert!(Arc::ptr_eq(&one, &bench.tokens.slot(&grant("a", false))));
        assert!(!Arc::ptr_eq(&one, &bench.tokens.slot(&grant("b", false))));
        // A reload may have brought another secret: the slot stays, and asks with the new one from now on.
        let renewed = grant("a", false);
        bench.tokens.slot(&renewed);
        assert!(Arc::ptr_eq(&one.grant(), &renewed));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn users_never_share_a_token() {
    on_one_thread(async {
        let mut bench = Bench::new(Settings::default());
        let slot = bench.tokens.slot(&grant("a", true));
        let (alice, bob) = (bench.ask(&slot, Some("alice")), bench.ask(&slot, Some("bob")));
        for _ in 0..2 {
            let (user, answer) = bench.questions.recv().await.expect("question");
            let minted = bench.token(&format!("for-{}", user.expect("delegated")), 3600);
            answer.send(minted).expect("awaited");
        }
        assert_eq!(alice.await.expect("task").expect("token").authorization(), "Bearer for-alice");
        assert_eq!(bob.await.expect("task").expect("token").authorization(), "Bearer for-bob");
        assert!(slot.held().is_none(), "a delegated token never lies in the slot that all requests read");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_keeps_the_token_to_its_end_and_not_longer() {
    on_one_thread(async {
        let mut bench = Bench::new(Settings::default());
        let slot = bench.tokens.slot(&grant("a", false));
        let token = bench.obtain(&slot, "one", 1000).await;
        assert!(bench.tokens.ready(&slot, bench.tokens.now()).is_some());
        bench.clock.shift(850);
        bench.question().await.send(Err(ExchangeError::unusable_token())).expect("awaited");
        bench.settle().await;
        let ready = bench.tokens.ready(&slot, bench.tokens.now()).expect("kept");
        assert!(Arc::ptr_eq(&ready, &token));
        bench.clock.shift(149);
        assert!(bench.tokens.ready(&slot, bench.tokens.now()).is_none(), "an expired token is never sent");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_is_let_go_and_its_grant_renewed_all_the_same() {
    on_one_thread(async {
        let mut bench = Bench::new(Settings::default());
        let slot = bench.tokens.slot(&grant("a", false));
        let token = bench.obtain(&slot, "one", 1000).await;
        bench.clock.shift(850);
        bench.question().await.send(Err(ExchangeError::unusable_token())).expect("awaited");
        bench.settle().await;
        assert!(bench.tokens.ready(&slot, bench.tokens.now()).is_some());
        bench.clock.shift(200);
        let answer = bench.question().await;
        assert!(slot.held().is_none());
        assert_eq!(slot.ends(), token.expires_at().unix_seconds());
        answer.send(bench.token("two", 1000)).expect("awaited");
        bench.settle().await;
        let next = bench.tokens.ready(&slot, bench.tokens.now()).expect("renewed");
        assert_eq!(next.authorization(), "Bearer two");
        assert_eq!(slot.ends(), next.expires_at().unix_seconds());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_used_is_not_renewed() {
    on_one_thread(async {
        let mut bench = Bench::new(Settings::default());
        let slot = bench.tokens.slot(&grant("a", false));
        bench.obtain(&slot, "one", 1000).await;
        bench.clock.shift(850);
        bench.question().await.send(bench.token("two", 1000)).expect("awaited");
        bench.settle().await;
        bench.clock.shift(850);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(bench.questions.try_recv().is_err(), "it was not used since the last renewal");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once_per_interval() {
    on_one_thread(async {
        let mut bench = Bench::new(Settings::default());
        let slot = bench.tokens.slot(&grant("a", false));
        let first = bench.obtain(&slot, "one", 1000).await;
        let replaced = {
            let (tokens, slot, first) = (bench.tokens.clone(), Arc::clone(&slot), Arc::clone(&first));
            tokio::task::spawn_local(async move { tokens.replace(&slot, None, &first).await })
        };
        bench.question().await.send(bench.token("two", 1000)).expect("awaited");
        let second = replaced.await.expect("task").expect("token");
        assert_eq!(second.authorization(), "Bearer two");
        // Whoever still holds the first gets the second, without an exchange.
        let again = bench.tokens.replace(&slot, None, &first).await.expect("token");
        assert!(Arc::ptr_eq(&again, &second));
        // The second is refused too: it stays, because a third would be refused as well.
        let kept = bench.tokens.replace(&slot, None, &second).await.expect("token");
        assert!(Arc::ptr_eq(&kept, &second));
        assert!(bench.questions.try_recv().is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_began_before_the_refusal_does_not_bring_the_token_back() {
    on_one_thread(async {
        let mut bench = Bench::new(Settings::default());
        let slot = bench.tokens.slot(&grant("a", false));
        let first = bench.obtain(&slot, "one", 1000).await;
        bench.clock.shift(850);
        let refresh = bench.question().await;
        let replaced = {
            let (tokens, slot, first) = (bench.tokens.clone(), Arc::clone(&slot), Arc::clone(&first));
            tokio::task::spawn_local(async move { tokens.replace(&slot, None, &first).await })
        };
        bench.settle().await;
        refresh.send(bench.token("stale", 1000)).expect("awaited");
        bench.question().await.send(bench.token("fresh", 1000)).expect("awaited");
        assert_eq!(replaced.await.expect("task").expect("token").authorization(), "Bearer fresh");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_costs_a_bounded_wait() {
    on_one_thread(async {
        let settings = Settings { token_timeout: Duration::from_secs(3), ..Settings::default() };
        let mut bench = Bench::new(settings);
        let slot = bench.tokens.slot(&grant("a", false));
        let asked = bench.ask(&slot, None);
        let answer = bench.question().await;
        assert!(matches!(asked.await.expect("task"), Err(TokenError::Timeout)));
        // What comes late still serves those who come later.
        answer.send(bench.token("late", 1000)).expect("awaited");
        bench.settle().await;
        assert!(bench.tokens.ready(&slot, bench.tokens.now()).is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn delegated_tokens_are_bounded() {
    on_one_thread(async {
        let settings = Settings { delegated: NonZeroUsize::new(2).expect("not zero"), ..Settings::default() };
        let mut bench = Bench::new(settings);
        let slot = bench.tokens.slot(&grant("a", true));
        for user in ["a", "b", "c"] {
            let asked = bench.ask(&slot, Some(user));
            bench.question().await.send(bench.token(user, 1000)).expect("awaited");
            asked.await.expect("task").expect("token");
        }
        // The least recently used is gone, the others are held.
        assert!(bench.ask(&slot, Some("c")).await.expect("task").is_ok());
        let asked = bench.ask(&slot, Some("a"));
        bench.question().await.send(bench.token("a", 1000)).expect("awaited");
        assert!(asked.await.expect("task").is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_eager_grant_is_obtained_unasked_and_retried() {
    on_one_thread(async {
        let mut bench = Bench::new(Settings::default());
        let slot = bench.tokens.slot(&grant("a", false));
        bench.tokens.make_eager(&slot, true).await;
        bench.question().await.send(Err(ExchangeError::unusable_token())).expect("awaited");
        bench.settle().await;
        assert!(!slot.was_obtained());
        bench.clock.shift(60);
        bench.question().await.send(bench.token("one", 1000)).expect("awaited");
        bench.settle().await;
        assert!(slot.was_obtained());
    })
    .await;
}
