//! The open connections of a server. When there is no place left, one on which nobody asks anything
//! gives way: opening connections and sending nothing must not keep a probe out.
use super::flush_watch::FlushWatch;
use crate::sync::lock;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// How long a client that reads nothing of its response keeps its connection when there is no place
/// left.
const WRITE_TIME: Duration = Duration::from_secs(1);

/// Open connections, each served by a task. `T` says whose a connection is.
pub(crate) struct Connections<T> {
    open: Vec<Open<T>>,
    tasks: JoinSet<()>,
    /// Orders what happens on the connections.
    order: Arc<AtomicU64>,
}

struct Open<T> {
    owner: T,
    activity: Activity,
    task: AbortHandle,
}

/// What has happened on one connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Activity(Arc<ActivityState>);

struct ActivityState {
    order: Arc<AtomicU64>,
    /// The place in the order of the latest request, or of the connection's start.
    latest: AtomicU64,
    has_asked: AtomicBool,
    phase: Mutex<Phase>,
}

/// What happens with the latest request of a connection.
#[derive(Clone, Copy)]
enum Phase {
    Done,
    Answering,
    /// The response is there, and is being written since then.
    Writing(Instant),
}

/// A request whose response is being made, until this is dropped. The response is then written.
pub(crate) struct Answering(Activity);

impl<T> Default for Connections<T> {
    fn default() -> Self {
        Self { open: Vec::new(), tasks: JoinSet::new(), order: Arc::default() }
    }
}

impl<T> Connections<T> {
    /// Serves a connection in a task of its own. `serve` gets what it must record requests with.
    pub(crate) fn spawn<F>(&mut self, owner: T, serve: impl FnOnce(Activity) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.forget_ended();
        let activity = Activity::new(&self.order);
        let task = self.tasks.spawn(serve(activity.clone()));
        self.open.push(Open { owner, activity, task });
    }

    /// The number of open connections.
    #[cfg(test)]
    pub(crate) fn count(&mut self) -> usize {
        self.forget_ended();
        self.open.len()
    }

    fn forget_ended(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.task.is_finished());
    }

    /// Closes one of the connections whose owner is `among` those that have to give way, and
    /// returns its owner; `None` if requests are being answered on all of them.
    ///
    /// Half of the places are for connections that have not asked anything yet, so that a new
    /// client has time for its first request whatever the others do. The other half is for those
    /// that have asked, so that new connections alone do not close the idle ones of a client that
    /// comes back.
    pub(crate) fn give_way(&mut self, among: impl Fn(&T) -> bool) -> Option<T> {
        self.forget_ended();
        let candidates = || self.open.iter().enumerate().filter(|(_, connection)| among(&connection.owner));
        let silent = candidates().filter(|(_, connection)| !connection.activity.has_asked()).count();
        let are_too_many_silent = 2 * silent > candidates().count();
        let closed = candidates()
            .filter(|(_, connection)| !connection.activity.is_answering())
            .min_by_key(|(_, Open { activity, .. })| (activity.has_asked() == are_too_many_silent, activity.latest()));
        let (index, _) = closed?;
        let Open { owner, task, .. } = self.open.swap_remove(index);
        task.abort();
        Some(owner)
    }

    /// Waits until all connections have ended.
    #[cfg(feature = "kubernetes")]
    pub(crate) async fn all_ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Activity {
    fn new(order: &Arc<AtomicU64>) -> Self {
        Self(Arc::new(ActivityState {
            order: Arc::clone(order),
            latest: AtomicU64::new(order.fetch_add(1, Ordering::Relaxed)),
            has_asked: AtomicBool::new(false),
            phase: Mutex::new(Phase::Done),
        }))
    }

    /// Records that a request has arrived. HTTP/1.1 has one at a time.
    pub(crate) fn begin_request(&self) -> Answering {
        self.0.latest.store(self.0.order.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.0.has_asked.store(true, Ordering::Relaxed);
        *lock(&self.0.phase) = Phase::Answering;
        Answering(self.clone())
    }

    /// Watches the connection's stream, which tells when a response has been written.
    pub(crate) fn watch<S>(&self, stream: S) -> FlushWatch<S> {
        let activity = self.clone();
        FlushWatch::new(stream, Box::new(move || activity.record_flush()))
    }

    /// Records that everything has been written that there is.
    fn record_flush(&self) {
        let mut phase = lock(&self.0.phase);
        if let Phase::Writing(_) = *phase {
            *phase = Phase::Done;
        }
    }

    /// Whether a request has ever arrived.
    pub(crate) fn has_asked(&self) -> bool {
        self.0.has_asked.load(Ordering::Relaxed)
    }

    fn is_answering(&self) -> bool {
        match *lock(&self.0.phase) {
            Phase::Done => false,
            Phase::Answering => true,
            Phase::Writing(since) => since.elapsed() < WRITE_TIME,
        }
    }

    fn latest(&self) -> u64 {
        self.0.latest.load(Ordering::Relaxed)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        *lock(&self.0.0.phase) = Phase::Writing(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens connections that never end, and returns what records their requests.
    fn open(connections: &mut Connections<usize>, count: usize) -> Vec<Activity> {
        let mut activities = Vec::new();
        for owner in 0..count {
            connections.spawn(owner, |activity| {
                activities.push(activity);
                std::future::pending()
            });
        }
        activities
    }

    /// Receives a request and answers it.
    fn answer(activity: &Activity) {
        drop(activity.begin_request());
        activity.record_flush();
    }

    #[tokio::test]
    async fn connection_that_was_silent_for_longest_gives_way() {
        let mut connections = Connections::default();
        let activities = open(&mut connections, 4);
        answer(&activities[0]);
        let closed: Vec<_> = std::iter::from_fn(|| connections.give_way(|_| true)).collect();
        assert_eq!(closed, [1, 2, 0, 3], "a silent one, as long as more than half of them are silent");
        assert_eq!(connections.count(), 0);
    }

    #[tokio::test]
    async fn connections_that_have_asked_leave_half_of_the_places_to_new_ones() {
        let mut connections = Connections::default();
        let activities = open(&mut connections, 4);
        for asking in [2, 0, 1] {
            answer(&activities[asking]);
        }
        assert_eq!(connections.give_way(|_| true), Some(2), "the one that asked first, not the new one");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_whose_request_is_being_answered_stays() {
        let mut connections = Connections::default();
        let activities = open(&mut connections, 3);
        let answering = activities[1].begin_request();
        assert_eq!(connections.give_way(|owner| *owner == 1), None);
        assert_eq!(connections.give_way(|owner| *owner == 2), Some(2));
        drop(answering);
        assert_eq!(connections.give_way(|owner| *owner == 1), None, "the response is being written");
        activities[1].record_flush();
        assert_eq!(connections.give_way(|owner| *owner == 1), Some(1));
        assert_eq!(connections.count(), 1);
        drop(activities[0].begin_request());
        tokio::time::advance(WRITE_TIME).await;
        assert_eq!(connections.give_way(|_| true), Some(0), "nobody reads the response");
    }
}
