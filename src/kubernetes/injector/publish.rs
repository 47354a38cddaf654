//! How a new certificate comes into use without a gap. Pure: what is seen in, the one next step out.
//!
//! The Secret holds the generation that every replica serves (`current`), and for a while the one that follows (`next`). The
//! webhook configuration holds, in each entry, the CAs that the API server trusts. In this order, each step a write of one object:
//!
//! 1. make: `next` is written into the Secret; nobody serves it;
//! 2. publish: its CA comes into every bundle;
//! 3. once it has been there for [`Timing::settle`], so that every API server has seen it: promote: `next` becomes `current`, and
//!    replicas serve it as soon as they see it;
//! 4. once a CA has been neither's for [`Timing::retire`], which is longer than a replica stays ready without seeing the Secret:
//!    publish without it.
//!
//! A crash between two steps leaves a state from which the same function goes on, in whichever replica. Two leaders at once do no
//! harm either: every write is refused if its object has changed since it was read, and bundles are read before the Secret, so that a
//! CA in them that the Secret does not name is an old one, and never one that is only coming.
use super::certificate::{Ca, Fitness};
use std::time::Duration;

/// A generation, as far as the steps need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) ca: Ca,
    pub(super) fitness: Fitness,
}

/// The cluster, read bundles first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Observed {
    /// What each entry of the webhook configuration trusts.
    pub(super) bundles: Vec<Vec<Ca>>,
    pub(super) current: Option<Seen>,
    pub(super) next: Option<Seen>,
}

/// How long to wait for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// From a CA's being in every bundle to its being served.
    pub(super) settle: Duration,
    /// From a CA's being of no use to its leaving the bundles.
    pub(super) retire: Duration,
}

/// What a replica remembers of what it saw, in its own monotonic time. It is kept by every replica, so that a new leader need not
/// begin to wait anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Memory {
    /// Since when every bundle has the CA of `next`.
    trusted: Option<(Ca, Duration)>,
    /// What is to be served.
    current: Option<Ca>,
    /// Since when a CA is in a bundle and neither's.
    unneeded: Vec<(Ca, Duration)>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Make a generation and write it as `next`.
    Make,
    /// Put these into every bundle.
    Publish(Vec<Ca>),
    /// Write `next` as `current`.
    Promote,
    /// Nothing, now.
    Rest,
}

impl Observed {
    /// Whether every entry trusts this CA. Without an entry nobody calls, and nobody trusts.
    pub(super) fn trusts(&self, ca: &Ca) -> bool {
        !self.bundles.is_empty() && self.bundles.iter().all(|bundle| bundle.contains(ca))
    }

    /// The CAs that are served or will be.
    fn needed(&self) -> Vec<Ca> {
        let coming = self.next.iter().filter(|next| next.fitness != Fitness::Unfit);
        let mut needed: Vec<Ca> = self.current.iter().chain(coming).map(|seen| seen.ca.clone()).collect();
        needed.dedup();
        needed
    }

    fn others(&self, needed: &[Ca]) -> Vec<Ca> {
        let mut others: Vec<Ca> = self.bundles.iter().flatten().filter(|ca| !needed.contains(ca)).cloned().collect();
        others.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        others.dedup();
        others
    }
}

impl Memory {
    /// Takes in what is seen at `now`.
    pub(super) fn observe(&mut self, observed: &Observed, now: Duration) {
        let trusted = observed.next.as_ref().filter(|next| observed.trusts(&next.ca));
        self.trusted = trusted.map(|next| match self.trusted.take() {
            Some((ca, since)) if ca == next.ca => (ca, since),
            _ => (next.ca.clone(), now),
        });
        let others = observed.others(&observed.needed());
        // Replicas go on with what they hold until they see what follows it: no age counts from before they can have seen it. While
        // the Secret names none, as after an operator has emptied it, nothing follows yet.
        let current = observed.current.as_ref().map(|current| current.ca.clone());
        let counts = current.is_some() && current == self.current;
        self.current = current;
        let known = |ca: &Ca| self.unneeded.iter().find(|(known, _)| counts && known == ca);
        let since = |ca: &Ca| known(ca).map_or(now, |(_, since)| *since);
        self.unneeded = others.into_iter().map(|ca| (ca.clone(), since(&ca))).collect();
    }
}

/// The next step, for the leader. `memory` has taken in `observed`.
pub(super) fn step(observed: &Observed, memory: &Memory, now: Duration, timing: Timing) -> Step {
    if observed.bundles.is_empty() {
        return Step::Rest;
    }
    let coming = observed.next.as_ref().filter(|next| next.fitness != Fitness::Unfit);
    let is_needed = observed.current.as_ref().is_none_or(|current| current.fitness != Fitness::Fit);
    if is_needed && coming.is_none() {
        return Step::Make;
    }
    let mut wanted = observed.needed();
    let others = observed.others(&wanted);
    let is_old = |ca: &Ca| {
        let mut known = memory.unneeded.iter();
        known.any(|(known, since)| known == ca && now.saturating_sub(*since) >= timing.retire)
    };
    wanted.extend(others.iter().filter(|ca| !is_old(ca)).cloned());
    if observed.bundles.iter().any(|bundle| !same(bundle, &wanted)) {
        return Step::Publish(wanted);
    }
    let Some(next) = coming else { return Step::Rest };
    let since = memory.trusted.as_ref().filter(|(ca, _)| *ca == next.ca).map(|(_, since)| *since);
    // Where nothing that is trusted can be used, there is no gap to avoid, and one to end.
    let is_down = others.is_empty() && observed.current.as_ref().is_none_or(|seen| seen.fitness == Fitness::Unfit);
    match since {
        Some(since) if is_down || now.saturating_sub(since) >= timing.settle => Step::Promote,
        _ => Step::Rest,
    }
}

fn same(one: &[Ca], other: &[Ca]) -> bool {
    one.len() == other.len() && other.iter().all(|ca| one.contains(ca))
}

/// Whether a replica takes up `current`: not if that would take it from a certificate that is trusted to one that is not.
pub(super) fn takes_up(serving: Option<&Ca>, observed: &Observed) -> bool {
    let Some(current) = &observed.current else { return false };
    serving != Some(&current.ca)
        && (observed.trusts(&current.ca) || !serving.is_some_and(|serving| observed.trusts(serving)))
}

#[cfg(test)]
mod tests;
