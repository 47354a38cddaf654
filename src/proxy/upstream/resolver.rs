//! Names, looked up by the system's resolver, which holds a thread for as long as it likes.
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Names of one worker that are looked up at once, each in a thread. So many may hang, because the servers of their zone do not
/// answer, before others have to wait; nothing else of a worker needs such a thread.
pub(crate) const AT_ONCE: usize = 16;

type Found = Result<Vec<IpAddr>, Arc<io::Error>>;
type Resolver = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// What one worker looks up. Nothing is remembered: how long an answer holds, only the resolver knows.
pub(crate) struct Names {
    resolver: Arc<Resolver>,
    threads: Arc<Semaphore>,
    /// A name is looked up once at a time, whoever else wants it, so that one that hangs takes one thread and not all.
    under_way: RefCell<HashMap<Box<str>, watch::Receiver<Option<Found>>>>,
}

impl Names {
    /// By the system's resolver.
    pub(crate) fn system() -> Rc<Self> {
        Self::by(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    fn by(resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Rc<Self> {
        let threads = Arc::new(Semaphore::new(AT_ONCE));
        Rc::new(Self { resolver: Arc::new(resolver), threads, under_way: RefCell::default() })
    }

    /// The addresses of a name. Whoever gives up waiting leaves nothing behind but a look-up that has begun.
    pub(super) async fn look_up(self: &Rc<Self>, name: &str) -> Found {
        if let Some(answer) = self.under_way(name) {
            return told(answer).await;
        }
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(lost)?;
        // Another one may have begun it meanwhile.
        let answer = self.under_way(name).unwrap_or_else(|| self.begin(name, thread));
        told(answer).await
    }

    fn under_way(&self, name: &str) -> Option<watch::Receiver<Option<Found>>> {
        self.under_way.borrow().get(name).cloned()
    }

    fn begin(self: &Rc<Self>, name: &str, thread: OwnedSemaphorePermit) -> watch::Receiver<Option<Found>> {
        let (tell, answer) = watch::channel(None);
        self.under_way.borrow_mut().insert(name.into(), answer.clone());
        let (names, name) = (Rc::clone(self), name.to_owned());
        tokio::task::spawn_local(async move {
            let (resolver, asked) = (Arc::clone(&names.resolver), name.clone());
            let found = tokio::task::spawn_blocking(move || resolver(&asked)).await;
            drop(thread);
            names.under_way.borrow_mut().remove(name.as_str());
            tell.send_replace(Some(found.map_err(lost).and_then(|found| found.map_err(Arc::new))));
        });
        answer
    }
}

async fn told(mut answer: watch::Receiver<Option<Found>>) -> Found {
    let answer = answer.wait_for(Option::is_some).await.map_err(lost)?;
    answer.clone().unwrap_or_else(|| Ok(Vec::new()))
}

/// The worker ends.
fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Arc<io::Error> {
    Arc::new(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Origin, Scheme};
    use crate::proxy::downstream::block_on;
    use crate::proxy::metrics::Metrics;
    use crate::proxy::upstream::{Allowed, Guard, Pool, SendError, dial};
    use futures_util::future::join_all;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    const ENOUGH: Duration = Duration::from_secs(20);

    /// A resolver that does not answer for names that begin with `hangs` until it is let.
    #[derive(Default)]
    struct Hanging {
        open: Mutex<bool>,
        opened: Condvar,
        asked: AtomicUsize,
    }

    impl Hanging {
        fn names(self: &Arc<Self>) -> Rc<Names> {
            let hanging = Arc::clone(self);
            Names::by(move |name| {
                hanging.asked.fetch_add(1, Ordering::SeqCst);
                if name.starts_with("hangs") {
                    let closed = hanging.open.lock().expect("a lock");
                    drop(hanging.opened.wait_timeout_while(closed, ENOUGH, |open| !*open).expect("a lock"));
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
    fn names_that_hang_take_few_threads_and_every_deadline_holds() {
        let hanging = Arc::new(Hanging::default());
        let (metrics, guard) = (Metrics::new(&prometheus::Registry::new()).expect("metrics"), Guard::default());
        let ended = block_on(async {
            let pool = Pool::new(metrics, hanging.names());
            let allowed = Allowed { guard: &guard, named: true };
            let call = async |host: String, deadline: u64| {
                dial(&pool, &origin(&host), allowed, Duration::from_millis(deadline)).await.expect_err("no server")
            };
            // One name that many want takes one thread: others are looked up meanwhile.
            let errors = join_all((0..200).map(|_| call("hangs".to_owned(), 50))).await;
            assert!(errors.iter().all(|error| matches!(error, SendError::ConnectTimeout)), "{errors:?}");
            assert!(matches!(call("answers".to_owned(), 10_000).await, SendError::Connect(_)));
            assert_eq!(hanging.asked(), 2);
            // Many names take all threads and no more, and who waits for one waits no longer than for anything else.
            let errors = join_all((0..200).map(|n| call(format!("hangs-{n}"), 50))).await;
            assert!(errors.iter().all(|error| matches!(error, SendError::ConnectTimeout)), "{errors:?}");
            assert!(matches!(call("answers".to_owned(), 50).await, SendError::ConnectTimeout));
            // And nobody looks up what nobody waits for any more.
            hanging.open();
            assert!(matches!(call("answers".to_owned(), 10_000).await, SendError::Connect(_)));
            assert!(hanging.asked() <= 2 + AT_ONCE, "{} look-ups", hanging.asked());
        });
        ended.expect("a runtime");
    }

    #[test]
    fn whoever_wants_a_name_meanwhile_gets_the_same_answer_and_the_next_one_asks_again() {
        let hanging = Arc::new(Hanging::default());
        let ended = block_on(async {
            let names = hanging.names();
            let all = join_all((0..100).map(|_| names.look_up("hangs")));
            let (found, ()) = tokio::join!(all, async { hanging.open() });
            assert!(found.iter().all(Result::is_ok), "{found:?}");
            assert_eq!(hanging.asked(), 1);
            assert!(names.look_up("hangs").await.is_ok());
            assert_eq!(hanging.asked(), 2);
            assert!(names.under_way.borrow().is_empty());
        });
        ended.expect("a runtime");
    }
}
