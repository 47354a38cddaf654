//! The requests that wait for a connection to one origin, and the connections that are being made
//! for them. A connection is made for all who wait and not for one of them: a caller that leaves
//! cancels nothing, and callers that one connection can serve do not each make their own.
use super::error::SendError;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How many requests a new connection is expected to serve at once, until a connection to the
/// origin has shown it. It is the least that RFC 9113 §6.5.2 recommends.
const ASSUMED_CAPACITY: usize = 100;
/// After this time nobody relies on a connection that is being made: a single address that does not
/// answer must not hold up everybody.
pub(super) const OVERDUE: Duration = Duration::from_secs(1);

/// The queue of one origin. `T` is a connection, or the part of one that serves a request.
pub(super) struct Queue<T: Returnable> {
    state: RefCell<State<T>>,
}

/// What callers wait for.
pub(super) trait Returnable {
    /// Puts it where later callers find it, because nobody waits for it.
    fn return_unclaimed(self);
}

struct State<T> {
    waiting: VecDeque<oneshot::Sender<Result<T, SendError>>>,
    connecting: Vec<Begun>,
    next_id: u64,
    /// How many requests the last connection could serve at once.
    capacity: Option<usize>,
}

struct Begun {
    id: u64,
    at: Instant,
}

/// Whether a caller has just come, or looks again for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    New,
    Waiting,
}

/// A caller that waits for a connection. Dropping it leaves the queue.
pub(super) struct Waiting<T: Returnable> {
    queue: Rc<Queue<T>>,
    receiver: oneshot::Receiver<Result<T, SendError>>,
}

/// A connection that is being made, until it is dropped. Callers that no other connection will
/// serve look again then.
pub(super) struct Connecting<T: Returnable> {
    queue: Rc<Queue<T>>,
    id: u64,
}

impl<T: Returnable> Queue<T> {
    /// `capacity` is how many requests a connection can serve at once, if that is known.
    pub(super) fn new(capacity: Option<usize>) -> Rc<Self> {
        let state = State { waiting: VecDeque::new(), connecting: Vec::new(), next_id: 0, capacity };
        Rc::new(Self { state: RefCell::new(state) })
    }

    /// Remembers how many requests a new connection can serve at once.
    pub(super) fn learn(&self, capacity: usize) {
        self.state.borrow_mut().capacity = Some(capacity.max(1));
    }

    /// Waits for the next connection.
    pub(super) fn join(self: &Rc<Self>) -> Waiting<T> {
        let (sender, receiver) = oneshot::channel();
        self.state.borrow_mut().waiting.push_back(sender);
        Waiting { queue: Rc::clone(self), receiver }
    }

    /// Registers another connection, which the caller then makes; `None` if those that are being
    /// made are enough, or there are `limit` of them that each serve many requests. A caller that
    /// only looks again never makes there be more of them than waiting requests.
    pub(super) fn begin(self: &Rc<Self>, caller: Caller, limit: usize, now: Instant) -> Option<Connecting<T>> {
        let mut state = self.state.borrow_mut();
        let (waiting, connecting) = (state.waiting.len(), state.connecting.len());
        let serves_many = state.expected() > 1;
        if state.covered(now) >= waiting
            || (caller == Caller::Waiting && connecting >= waiting)
            || (serves_many && connecting >= limit)
        {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        state.connecting.push(Begun { id, at: now });
        Some(Connecting { queue: Rc::clone(self), id })
    }

    /// Hands a connection to the caller that has waited longest, or returns it to the pool if
    /// nobody waits.
    pub(super) fn hand_over(&self, mut connection: T) {
        loop {
            let Some(caller) = self.state.borrow_mut().waiting.pop_front() else { break };
            match caller.send(Ok(connection)) {
                // The caller has left.
                Err(Ok(returned)) => connection = returned,
                Ok(()) | Err(Err(_)) => return,
            }
        }
        connection.return_unclaimed();
    }

    /// Whether somebody waits.
    pub(super) fn has_waiting(&self) -> bool {
        !self.state.borrow().waiting.is_empty()
    }
}

impl<T> State<T> {
    fn expected(&self) -> usize {
        self.capacity.unwrap_or(ASSUMED_CAPACITY)
    }

    /// How many callers the connections will serve that are being made and are not overdue.
    fn covered(&self, now: Instant) -> usize {
        let in_time = self.connecting.iter().filter(|begun| now.duration_since(begun.at) < OVERDUE).count();
        in_time.saturating_mul(self.expected())
    }

    fn end(&mut self, id: u64) {
        self.connecting.retain(|begun| begun.id != id);
    }
}

impl<T: Returnable> Connecting<T> {
    /// Fails those callers that no other connection will serve.
    pub(super) fn fail(self, error: &SendError) {
        let mut state = self.queue.state.borrow_mut();
        state.end(self.id);
        let covered = state.connecting.len().saturating_mul(state.expected());
        let failed = state.waiting.len().saturating_sub(covered);
        for caller in state.waiting.drain(..failed) {
            // A caller that has left needs no error.
            let _ = caller.send(Err(error.clone()));
        }
    }
}

impl<T: Returnable> Drop for Connecting<T> {
    fn drop(&mut self) {
        let mut state = self.queue.state.borrow_mut();
        state.end(self.id);
        let covered = state.covered(Instant::now());
        state.waiting.truncate(covered);
    }
}

impl<T: Returnable> Waiting<T> {
    /// A connection, or why there is none; `None` if the caller should look again.
    pub(super) async fn result(&mut self) -> Option<Result<T, SendError>> {
        (&mut self.receiver).await.ok()
    }
}

impl<T: Returnable> Drop for Waiting<T> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Ok(connection)) = self.receiver.try_recv() {
            self.queue.hand_over(connection);
        }
        self.queue.state.borrow_mut().waiting.retain(|caller| !caller.is_closed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Caller::{New, Waiting as Again};

    const LIMIT: usize = 32;

    /// A connection, and where it is put if nobody claims it.
    #[derive(Debug)]
    struct Numbered {
        number: u32,
        unclaimed: Rc<RefCell<Vec<u32>>>,
    }

    impl Returnable for Numbered {
        fn return_unclaimed(self) {
            self.unclaimed.borrow_mut().push(self.number);
        }
    }

    /// Joins `count` callers, and returns them with the connections that they begin to make.
    fn join(queue: &Rc<Queue<Numbered>>, count: usize) -> (Vec<Waiting<Numbered>>, Vec<Connecting<Numbered>>) {
        let begin = |_| (queue.join(), queue.begin(New, LIMIT, Instant::now()));
        let (waiting, connecting): (_, Vec<_>) = (0..count).map(begin).unzip();
        (waiting, connecting.into_iter().flatten().collect())
    }

    /// What a caller has got so far.
    fn got(caller: &mut Waiting<Numbered>) -> Option<Result<u32, SendError>> {
        caller.receiver.try_recv().ok().map(|result| result.map(|connection| connection.number))
    }

    /// Hands over a connection with this number, and returns those that nobody has claimed.
    fn hand_over(queue: &Queue<Numbered>, number: u32) -> Rc<RefCell<Vec<u32>>> {
        let unclaimed = Rc::default();
        queue.hand_over(Numbered { number, unclaimed: Rc::clone(&unclaimed) });
        unclaimed
    }

    fn looks_again(caller: &mut Waiting<Numbered>) -> bool {
        matches!(caller.receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_what_a_connection_is_expected_to_serve() {
        for (capacity, callers, expected) in [(None, 250, 3), (Some(1), 5, 5), (Some(10), 25, 3), (Some(1000), 250, 1)]
        {
            let (_waiting, connecting) = join(&Queue::new(capacity), callers);
            assert_eq!(connecting.len(), expected, "{capacity:?} {callers}");
        }
        // No more than the limit, unless each connection serves one request.
        assert_eq!(join(&Queue::new(Some(2)), 100).1.len(), LIMIT);
        assert_eq!(join(&Queue::new(Some(1)), 100).1.len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_goes_to_the_caller_that_has_waited_longest_and_is_still_there() {
        let queue = Queue::new(Some(1));
        let (mut waiting, _connecting) = join(&queue, 3);
        drop(waiting.remove(0));
        hand_over(&queue, 1);
        assert!(matches!(got(&mut waiting[0]), Some(Ok(1))));
        // The caller leaves without having seen that it got one.
        let unclaimed = hand_over(&queue, 2);
        assert!(unclaimed.borrow().is_empty());
        drop(waiting.pop());
        assert_eq!(*unclaimed.borrow(), [2]);
        assert_eq!(*hand_over(&queue, 3).borrow(), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn unclaimed_connection_goes_to_the_next_caller() {
        let queue = Queue::new(Some(1));
        let (mut waiting, _connecting) = join(&queue, 2);
        let unclaimed = hand_over(&queue, 1);
        drop(waiting.remove(0));
        assert!(unclaimed.borrow().is_empty());
        assert!(matches!(got(&mut waiting[0]), Some(Ok(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn error_reaches_those_whom_no_other_connection_will_serve() {
        for (capacity, callers, failed) in [(Some(1), 3, 1), (Some(100), 50, 50), (Some(100), 150, 50)] {
            let (mut waiting, mut connecting) = join(&Queue::new(capacity), callers);
            connecting.remove(0).fail(&SendError::NoDescriptor);
            let failed_callers = waiting.iter_mut().filter_map(got).filter(Result::is_err).count();
            assert_eq!(failed_callers, failed, "{capacity:?} {callers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_look_again_once_a_connection_turns_out_to_serve_fewer() {
        let queue = Queue::new(None);
        let (mut waiting, mut connecting) = join(&queue, 5);
        assert_eq!(connecting.len(), 1);
        queue.learn(1);
        hand_over(&queue, 1);
        connecting.clear();
        assert!(matches!(got(&mut waiting[0]), Some(Ok(1))));
        assert!(waiting[1..].iter_mut().all(looks_again));
        drop(waiting);
        assert_eq!(join(&queue, 4).1.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_relies_on_an_overdue_connection() {
        let queue = Queue::new(None);
        let (waiting, first) = join(&queue, 5);
        assert_eq!(first.len(), 1);
        tokio::time::advance(OVERDUE).await;
        let second = queue.begin(Again, LIMIT, Instant::now());
        assert!(second.is_some() && queue.begin(Again, LIMIT, Instant::now()).is_none());
        // One waiting request never has more than one connection made for it, unless it is new.
        drop(waiting);
        tokio::time::advance(OVERDUE).await;
        let _alone = queue.join();
        assert!(queue.begin(Again, LIMIT, Instant::now()).is_none());
        assert!(queue.begin(New, LIMIT, Instant::now()).is_some());
    }
}
