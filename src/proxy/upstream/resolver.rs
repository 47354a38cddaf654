//! Resolves names with the system resolver, which blocks a thread for an unbounded time.
use super::addresses::AddressOrder;
use crate::single_flight::{Leader, Role, SingleFlight};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lookups that one worker runs at once, each on a blocking thread. If this many hang, later ones
/// wait; nothing else in a worker uses blocking threads.
pub(crate) const MAX_LOOKUPS: usize = 16;

type Addresses = Result<Vec<IpAddr>, Arc<io::Error>>;
type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The resolver of one worker. It caches nothing, because only the system resolver knows how long
/// an answer is valid.
pub(crate) struct Resolver {
    lookup: Arc<Lookup>,
    threads: Arc<Semaphore>,
    /// Callers that want the same name share one lookup, so that a name that hangs takes only one
    /// thread.
    in_flight: RefCell<HashMap<Box<str>, SingleFlight<Addresses>>>,
    /// Which of a name's addresses is tried first.
    pub(super) order: RefCell<AddressOrder>,
}

impl Resolver {
    /// Uses the system resolver.
    pub(crate) fn system() -> Rc<Self> {
        Self::new(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    pub(super) fn new(lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Rc<Self> {
        let threads = Arc::new(Semaphore::new(MAX_LOOKUPS));
        Rc::new(Self { lookup: Arc::new(lookup), threads, in_flight: RefCell::default(), order: RefCell::default() })
    }

    /// Looks up the addresses of a name. If the caller gives up, a lookup that has begun still
    /// ends.
    pub(super) async fn look_up(self: &Rc<Self>, name: &str) -> Addresses {
        loop {
            let follower = self.in_flight.borrow().get(name).and_then(SingleFlight::follow);
            let follower = match follower {
                Some(follower) => follower,
                None => {
                    let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(stopped)?;
                    // Another caller may have begun the lookup in the meantime.
                    let role = self.in_flight.borrow_mut().entry(name.into()).or_default().join();
                    match role {
                        Role::Follower(follower) => follower,
                        Role::Leader(leader) => {
                            let follower = leader.follower();
                            self.begin(name, leader, thread);
                            follower
                        }
                    }
                }
            };
            if let Some(addresses) = follower.result().await {
                return addresses;
            }
        }
    }

    fn begin(self: &Rc<Self>, name: &str, leader: Leader<Addresses>, thread: OwnedSemaphorePermit) {
        let (resolver, name) = (Rc::clone(self), name.to_owned());
        tokio::task::spawn_local(async move {
            let (lookup, requested) = (Arc::clone(&resolver.lookup), name.clone());
            let addresses = tokio::task::spawn_blocking(move || lookup(&requested)).await;
            drop(thread);
            resolver.in_flight.borrow_mut().remove(name.as_str());
            leader.finish(addresses.map_err(stopped).and_then(|found| found.map_err(Arc::new)));
        });
    }
}

/// The error of a lookup that panicked or was cut off by shutdown.
fn stopped(error: impl std::error::Error + Send + Sync + 'static) -> Arc<io::Error> {
    Arc::new(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Origin, Scheme};
    use crate::proxy::guard::{AddressRules, Guard, NamedBy};
    use crate::proxy::metrics::UpstreamGauges;
    use crate::proxy::runtime::block_on;
    use crate::proxy::upstream::config::DialTarget;
    use crate::proxy::upstream::{Pool, SendError, dial};
    use futures_util::future::join_all;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    const TEST_TIMEOUT: Duration = Duration::from_secs(20);

    /// A resolver that does not answer for names that begin with `hangs` until it is opened.
    #[derive(Default)]
    struct Hanging {
        open: Mutex<bool>,
        opened: Condvar,
        asked: AtomicUsize,
    }

    impl Hanging {
        fn resolver(self: &Arc<Self>) -> Rc<Resolver> {
            let hanging = Arc::clone(self);
            Resolver::new(move |name| {
                hanging.asked.fetch_add(1, Ordering::SeqCst);
                if name.starts_with("hangs") {
                    let closed = hanging.open.lock().expect("a lock");
                    drop(hanging.opened.wait_timeout_while(closed, TEST_TIMEOUT, |open| !*open).expect("a lock"));
                }
                Ok(vec![Ipv4Addr::LOCALHOST.into()])
            })
        }

        fn open(&self) {
            *self.open.lock().expect("a lock") = true;
            self.opened.notify_all();
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    fn origin(host: &str) -> Origin {
        Origin { scheme: Scheme::Http, host: host.into(), port: 1 }
    }

    #[test]
    fn hanging_lookups_take_few_threads_and_every_deadline_holds() {
        let hanging = Arc::new(Hanging::default());
        let (gauges, guard) = (UpstreamGauges::unregistered().expect("gauges"), Guard::default());
        let rules = AddressRules { named_by: NamedBy::Configuration, egress: Arc::default() };
        let ended = block_on(async {
            let pool = Pool::new(gauges, hanging.resolver());
            let call = async |host: String, deadline: u64| {
                let origin = origin(&host);
                let to = DialTarget { origin: &origin, rules: &rules, guard: &guard, egress_proxy: None };
                dial(&pool, to, Duration::from_millis(deadline)).await.expect_err("no server")
            };
            // Many callers that want one name share a thread: other names are looked up in the
            // meantime.
            let errors = join_all((0..200).map(|_| call("hangs".to_owned(), 50))).await;
            assert!(errors.iter().all(|error| matches!(error, SendError::ConnectTimeout)), "{errors:?}");
            assert!(matches!(call("answers".to_owned(), 10_000).await, SendError::Connect(_)));
            assert_eq!(hanging.asked(), 2);
            // Many names take all threads and no more, and a caller that waits for one waits no
            // longer than its deadline.
            let errors = join_all((0..200).map(|n| call(format!("hangs-{n}"), 50))).await;
            assert!(errors.iter().all(|error| matches!(error, SendError::ConnectTimeout)), "{errors:?}");
            assert!(matches!(call("answers".to_owned(), 50).await, SendError::ConnectTimeout));
            // Names that nobody waits for any more are not looked up.
            hanging.open();
            assert!(matches!(call("answers".to_owned(), 10_000).await, SendError::Connect(_)));
            assert!(hanging.asked() <= 2 + MAX_LOOKUPS, "{} lookups", hanging.asked());
        });
        ended.expect("a runtime");
    }

    #[test]
    fn concurrent_lookups_of_a_name_share_one_answer_and_a_later_one_asks_again() {
        let hanging = Arc::new(Hanging::default());
        let ended = block_on(async {
            let resolver = hanging.resolver();
            let all = join_all((0..100).map(|_| resolver.look_up("hangs")));
            let (found, ()) = tokio::join!(all, async { hanging.open() });
            assert!(found.iter().all(Result::is_ok), "{found:?}");
            assert_eq!(hanging.asked(), 1);
            assert!(resolver.look_up("hangs").await.is_ok());
            assert_eq!(hanging.asked(), 2);
            assert!(resolver.in_flight.borrow().is_empty());
        });
        ended.expect("a runtime");
    }
}
