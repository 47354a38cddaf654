use super::*;
use futures_util::future::{Either, join_all, select};
use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

type Result<T> = std::result::Result<T, &'static str>;

/// One value with a shiftable clock, and a count of its fetches.
struct Fixture {
    clock: Clock,
    cache: CachedValue<u32, &'static str>,
    fetches: Cell<u32>,
}

const TRANSIENT: &str = "transient";
const FINAL: &str = "final";

impl Fixture {
    fn new() -> Self {
        let policy = FailurePolicy {
            negative: Duration::from_secs(5),
            pause: Duration::from_secs(30),
            is_transient: |failure| *failure == TRANSIENT,
        };
        Self { clock: Clock::shiftable(), cache: CachedValue::new(policy), fetches: Cell::new(0) }
    }

    /// The result of a fetch: a value that is fresh for 100 s and usable for another 100 s.
    fn fetched(&self, value: u32) -> Fetched<u32> {
        let now = self.clock.now();
        let after = |seconds| now.plus(Duration::from_secs(seconds));
        Fetched { value, valid_from: now, fresh_until: after(100), usable_until: after(200) }
    }

    async fn get(&self, result: Result<u32>) -> Result<Served<u32, &'static str>> {
        let fetch = || async {
            self.fetches.set(self.fetches.get() + 1);
            sleep(Duration::from_secs(1)).await;
            result.map(|value| self.fetched(value))
        };
        self.cache.get(&self.clock, fetch).await
    }

    async fn refresh(&self, known: u32, result: Result<u32>) -> Result<Option<u32>> {
        let fetch = || async {
            self.fetches.set(self.fetches.get() + 1);
            sleep(Duration::from_secs(1)).await;
            result.map(|value| self.fetched(value))
        };
        self.cache.refresh(&self.clock, Duration::from_secs(10), |value| *value != known, fetch).await
    }
}

fn served(value: u32) -> Result<Served<u32, &'static str>> {
    Ok(Served { value, renewal_failure: None })
}

/// Polls `future` until it waits, and no further.
async fn begin<F: Future>(future: Pin<&mut F>) {
    match select(future, pin!(std::future::ready(()))).await {
        Either::Left(_) => panic!("the fetch ended"),
        Either::Right(_) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn cold_value_is_fetched_once_for_all_callers() {
    let fixture = Fixture::new();
    let all = join_all((0..50).map(|n| fixture.get(Ok(n)))).await;
    assert!(all.iter().all(|one| *one == served(0)), "{all:?}");
    assert_eq!(fixture.get(Ok(7)).await, served(0), "it is fresh");
    assert_eq!(fixture.fetches.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn failure_is_shared_and_remembered_briefly() {
    for failure in [TRANSIENT, FINAL] {
        let fixture = Fixture::new();
        let all = join_all((0..50).map(|_| fixture.get(Err(failure)))).await;
        assert!(all.iter().all(|one| *one == Err(failure)), "{all:?}");
        fixture.clock.shift(4);
        assert_eq!(fixture.get(Ok(1)).await, Err(failure));
        assert_eq!(fixture.fetches.get(), 1);
        fixture.clock.shift(2);
        assert_eq!(fixture.get(Ok(1)).await, served(1));
    }
}

#[tokio::test(start_paused = true)]
async fn failure_is_shared_only_with_waiting_callers_if_negative_ttl_is_zero() {
    let mut fixture = Fixture::new();
    fixture.cache.policy.negative = Duration::ZERO;
    let all = join_all((0..50).map(|_| fixture.get(Err(FINAL)))).await;
    assert!(all.iter().all(|one| *one == Err(FINAL)), "{all:?}");
    assert_eq!(fixture.fetches.get(), 1);
    assert_eq!(fixture.get(Ok(1)).await, served(1));
}

#[tokio::test(start_paused = true)]
async fn stale_value_is_served_without_waiting_while_it_is_renewed() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.expect("a value");
    fixture.clock.shift(150);
    let mut renewal = pin!(fixture.get(Ok(2)));
    begin(renewal.as_mut()).await;
    let before = Instant::now();
    assert_eq!(fixture.get(Err(FINAL)).await, served(1));
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(renewal.await, served(2));
    assert_eq!(fixture.fetches.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn stale_value_is_served_after_a_transient_failure_and_the_retry_is_delayed() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.expect("a value");
    fixture.clock.shift(150);
    assert_eq!(fixture.get(Err(TRANSIENT)).await, Ok(Served { value: 1, renewal_failure: Some(TRANSIENT) }));
    fixture.clock.shift(28);
    assert_eq!(fixture.get(Ok(2)).await, served(1), "only the caller whose fetch failed gets the failure");
    assert_eq!(fixture.fetches.get(), 2);
    fixture.clock.shift(5);
    assert_eq!(fixture.get(Ok(2)).await, served(2));
}

#[tokio::test(start_paused = true)]
async fn stale_value_is_not_served_past_its_end_or_after_a_final_failure() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.expect("a value");
    fixture.clock.shift(150);
    assert_eq!(fixture.get(Err(FINAL)).await, Err(FINAL));
    assert_eq!(fixture.get(Ok(2)).await, Err(FINAL), "remembered");
    fixture.clock.shift(6);
    assert!(fixture.get(Err(TRANSIENT)).await.is_ok());
    fixture.clock.shift(44);
    assert_eq!(fixture.get(Err(TRANSIENT)).await, Err(TRANSIENT), "the pause does not outlast the value");
}

#[tokio::test(start_paused = true)]
async fn clock_set_back_ends_a_value_and_a_remembered_failure() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.expect("a value");
    fixture.clock.shift(-10);
    assert_eq!(fixture.get(Err(FINAL)).await, Err(FINAL));
    fixture.clock.shift(-10);
    assert_eq!(fixture.get(Ok(2)).await, served(2));
}

#[tokio::test(start_paused = true)]
async fn leader_that_leaves_is_replaced_by_a_caller_that_waits() {
    let fixture = Fixture::new();
    let leaving = timeout(Duration::from_millis(100), fixture.get(Err(FINAL)));
    let staying = join_all((1..20).map(|n| fixture.get(Ok(n))));
    let (left, stayed) = tokio::join!(leaving, staying);
    assert!(left.is_err());
    let value = stayed[0].as_ref().expect("a value").value;
    assert!(stayed.iter().all(|one| *one == served(value)), "{stayed:?}");
    assert_eq!(fixture.fetches.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn follower_that_leaves_does_not_cancel_the_fetch() {
    let fixture = Fixture::new();
    let staying = fixture.get(Ok(1));
    let leaving = timeout(Duration::from_millis(100), fixture.get(Ok(2)));
    let (stayed, left) = tokio::join!(staying, leaving);
    assert_eq!((stayed, left.is_err()), (served(1), true));
    assert_eq!(fixture.fetches.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn refresh_fetches_at_most_once_per_interval() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.expect("a value");
    let all = join_all((0..20).map(|_| fixture.refresh(1, Ok(2)))).await;
    assert!(all.iter().all(|one| *one == Ok(Some(2))), "{all:?}");
    assert_eq!(fixture.fetches.get(), 2);
    assert_eq!(fixture.refresh(2, Ok(3)).await, Ok(None));
    fixture.clock.shift(11);
    assert_eq!(fixture.refresh(2, Ok(3)).await, Ok(Some(3)));
    assert_eq!(fixture.get(Err(FINAL)).await, served(3));
}

#[tokio::test(start_paused = true)]
async fn refresh_that_fails_leaves_the_value_in_use() {
    let fixture = Fixture::new();
    fixture.get(Ok(1)).await.expect("a value");
    let all = join_all((0..3).map(|_| fixture.refresh(1, Err(FINAL)))).await;
    assert_eq!(all, [Err(FINAL), Ok(None), Ok(None)]);
    assert_eq!(fixture.get(Err(FINAL)).await, served(1));
    assert_eq!(fixture.fetches.get(), 2);
}

/// The resolver of a worker thread fetches like this: in a task of its own that is not `Send` and
/// outlives the callers.
#[tokio::test(start_paused = true)]
async fn fetch_in_a_local_task_outlives_the_callers_that_wait_for_it() {
    let tasks = tokio::task::LocalSet::new();
    let flight = Rc::new(SingleFlight::<u32>::default());
    let (answer, answered) = oneshot::channel::<u32>();
    tasks
        .run_until(async {
            let Role::Leader(leader) = flight.join() else { panic!("nobody else is here") };
            let first = leader.follower();
            let local = Rc::new(1);
            tokio::task::spawn_local(async move {
                let value = answered.await.expect("an answer") + *local;
                leader.finish(value);
            });
            assert!(timeout(Duration::from_secs(1), first.result()).await.is_err(), "the first caller leaves");
            assert!(matches!(flight.join(), Role::Follower(_)));
            let others = (0..10).map(|_| flight.follow().expect("in flight").result());
            let others = join_all(others.collect::<Vec<_>>());
            let (found, ()) = tokio::join!(others, async { answer.send(6).expect("awaited") });
            assert_eq!(found, [Some(7); 10]);
            assert!(flight.follow().is_none() && matches!(flight.join(), Role::Leader(_)), "nothing is remembered");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn follower_learns_that_its_leader_left() {
    let flight = SingleFlight::<u32>::default();
    let role = flight.join();
    let follower = flight.follow().expect("in flight");
    let leave = async {
        sleep(Duration::from_secs(1)).await;
        drop(role);
    };
    let (result, ()) = tokio::join!(follower.result(), leave);
    assert_eq!(result, None);
}
