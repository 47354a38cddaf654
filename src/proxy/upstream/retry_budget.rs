//! How many requests to an upstream may be sent again: a share of those of the last seconds, so
//! that an upstream that fails does not get a multiple of its load.
use std::cell::RefCell;
use tokio::time::Instant;

/// The window, in slots of a second.
const SLOTS: usize = 10;
/// How many requests may be sent again in a window, however few there are: three a second.
const LEAST: u64 = 3 * SLOTS as u64;

/// Counts the requests to one upstream, and those that were sent again.
pub(super) struct RetryBudget {
    since: Instant,
    slots: RefCell<[Slot; SLOTS]>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// The second that the counts belong to.
    second: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, slots: RefCell::default() }
    }

    /// Counts a request that begins.
    pub(super) fn record_request(&self, now: Instant) {
        self.update(now, |slot| slot.requests += 1);
    }

    /// Counts a request that is sent again; returns whether `percent` of the requests allow it.
    pub(super) fn withdraw(&self, percent: u32, now: Instant) -> bool {
        let second = self.second(now);
        let (requests, retries) = self
            .slots
            .borrow()
            .iter()
            .filter(|slot| slot.second + (SLOTS as u64) > second)
            .fold((0, 0), |(requests, retries), slot| (requests + slot.requests, retries + slot.retries));
        let is_allowed = retries < LEAST.max(requests * u64::from(percent) / 100);
        if is_allowed {
            self.update(now, |slot| slot.retries += 1);
        }
        is_allowed
    }

    fn update(&self, now: Instant, change: impl FnOnce(&mut Slot)) {
        let second = self.second(now);
        let slot = &mut self.slots.borrow_mut()[usize::try_from(second).unwrap_or(0) % SLOTS];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        change(slot);
    }

    fn second(&self, now: Instant) -> u64 {
        now.duration_since(self.since).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How many requests may be sent again at this time.
    fn allowed(budget: &RetryBudget, percent: u32, now: Instant) -> usize {
        (0..1000).take_while(|_| budget.withdraw(percent, now)).count()
    }

    #[test]
    fn share_of_the_requests_of_the_last_seconds_may_be_sent_again() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let budget = RetryBudget::new(start);
        assert_eq!(allowed(&budget, 20, at(0)), 30, "three a second");
        assert_eq!(allowed(&budget, 20, at(9)), 0, "the window has not passed");
        assert_eq!(allowed(&budget, 20, at(10)), 30);
        for second in 20..25 {
            (0..100).for_each(|_| budget.record_request(at(second)));
        }
        assert_eq!(allowed(&budget, 20, at(25)), 100, "20 % of 500");
        (0..100).for_each(|_| budget.record_request(at(26)));
        assert_eq!(allowed(&budget, 20, at(26)), 20);
        assert_eq!(allowed(&budget, 0, at(60)), 30);
    }
}
