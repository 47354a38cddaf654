//! Brings a new certificate into use without a gap. This module is pure: it takes the observed
//! cluster and returns the next step.
//!
//! The Secret contains the generation that every replica serves (`current`) and, during a rollout,
//! the one that follows (`next`). Each entry of the webhook configuration contains a bundle of the
//! CAs that the API server trusts. The steps, each a write of one object:
//!
//! 1. Make: `next` is written into the Secret. No replica serves it yet.
//! 2. Publish: the CA of `next` is added to every bundle.
//! 3. Promote, once that CA has been in the bundles for [`Delays::settle`], so that every API
//!    server has seen it: `next` becomes `current`, and each replica serves it as soon as it sees
//!    it.
//! 4. Publish without a CA that has belonged to neither generation for [`Delays::retire`], which is
//!    longer than a replica stays ready without seeing the Secret.
//!
//! After a crash between two steps any replica continues from the state that is left. Two leaders
//! at once do no harm: a write fails if its object has changed since it was read, and bundles are
//! read before the Secret, so a CA in a bundle that the Secret does not contain is always an old
//! one and never a new one.
use super::certificate::{Ca, Validity};
use std::time::Duration;

/// What the steps need to know of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GenerationState {
    pub(super) ca: Ca,
    pub(super) validity: Validity,
}

/// The observed cluster. The bundles were read before the Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ClusterState {
    /// The CAs that each entry of the webhook configuration trusts.
    pub(super) bundles: Vec<Vec<Ca>>,
    pub(super) current: Option<GenerationState>,
    pub(super) next: Option<GenerationState>,
}

/// How long a rollout waits for API servers and replicas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delays {
    /// How long a CA is in every bundle before its certificate is served.
    pub(super) settle: Duration,
    /// How long an unused CA stays in the bundles.
    pub(super) retire: Duration,
}

/// What a replica remembers of its observations, in its own monotonic time. Every replica keeps it,
/// so that a new leader does not start its waits anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct History {
    /// The CA of `next`, and since when every bundle contains it.
    trusted: Option<CaSince>,
    /// The CA of `current`.
    current: Option<Ca>,
    /// The CAs in bundles that belong to neither generation, and since when.
    unused: Vec<CaSince>,
}

/// A CA, and the time since which something holds for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CaSince {
    ca: Ca,
    since: Duration,
}

/// The next write of the leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Make a generation and write it as `next`.
    Make,
    /// Write these CAs into every bundle.
    Publish(Vec<Ca>),
    /// Write `next` as `current`.
    Promote,
    /// Write nothing until something changes.
    Wait,
}

impl ClusterState {
    /// Whether every entry trusts this CA. Without an entry the API server calls nobody and trusts
    /// nobody.
    pub(super) fn trusts(&self, ca: &Ca) -> bool {
        !self.bundles.is_empty() && self.bundles.iter().all(|bundle| bundle.contains(ca))
    }

    /// Returns the CAs of both generations, without a `next` that is invalid.
    fn needed(&self) -> Vec<Ca> {
        let next = self.next.iter().filter(|next| next.validity != Validity::Invalid);
        let mut needed: Vec<Ca> = self.current.iter().chain(next).map(|generation| generation.ca.clone()).collect();
        needed.dedup();
        needed
    }

    /// Returns the CAs in bundles that are not `needed`, sorted.
    fn others(&self, needed: &[Ca]) -> Vec<Ca> {
        let mut others: Vec<Ca> = self.bundles.iter().flatten().filter(|ca| !needed.contains(ca)).cloned().collect();
        others.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        others.dedup();
        others
    }
}

impl History {
    /// Records what was observed at `now`.
    pub(super) fn observe(&mut self, observed: &ClusterState, now: Duration) {
        let trusted = observed.next.as_ref().filter(|next| observed.trusts(&next.ca));
        self.trusted = trusted.map(|next| match self.trusted.take() {
            Some(trusted) if trusted.ca == next.ca => trusted,
            _ => CaSince { ca: next.ca.clone(), since: now },
        });
        let others = observed.others(&observed.needed());
        // A replica serves its certificate until it sees the one that replaces it, so the time that
        // a CA is unused starts anew whenever `current` changes. It does not pass while the Secret
        // has no `current`, as after an operator has emptied it: nothing replaces the old
        // certificate then.
        let current = observed.current.as_ref().map(|current| current.ca.clone());
        let is_unchanged = current.is_some() && current == self.current;
        self.current = current;
        let recorded = |ca: &Ca| self.unused.iter().find(|unused| is_unchanged && unused.ca == *ca);
        let since = |ca: &Ca| recorded(ca).map_or(now, |unused| unused.since);
        self.unused = others.into_iter().map(|ca| CaSince { since: since(&ca), ca }).collect();
    }
}

/// Returns the leader's next step. `history` has recorded `observed`.
pub(super) fn next_step(observed: &ClusterState, history: &History, now: Duration, delays: Delays) -> Step {
    if observed.bundles.is_empty() {
        return Step::Wait;
    }
    let next = observed.next.as_ref().filter(|next| next.validity != Validity::Invalid);
    let is_needed = observed.current.as_ref().is_none_or(|current| current.validity != Validity::Valid);
    if is_needed && next.is_none() {
        return Step::Make;
    }
    let mut wanted = observed.needed();
    let others = observed.others(&wanted);
    let is_old = |ca: &Ca| {
        let mut unused = history.unused.iter();
        unused.any(|unused| unused.ca == *ca && now.saturating_sub(unused.since) >= delays.retire)
    };
    wanted.extend(others.iter().filter(|ca| !is_old(ca)).cloned());
    if observed.bundles.iter().any(|bundle| !same(bundle, &wanted)) {
        return Step::Publish(wanted);
    }
    let Some(next) = next else { return Step::Wait };
    let trusted = history.trusted.as_ref().filter(|trusted| trusted.ca == next.ca);
    // If no trusted certificate is usable, there is an outage to end rather than one to avoid.
    let is_down =
        others.is_empty() && observed.current.as_ref().is_none_or(|current| current.validity == Validity::Invalid);
    match trusted {
        Some(trusted) if is_down || now.saturating_sub(trusted.since) >= delays.settle => Step::Promote,
        _ => Step::Wait,
    }
}

fn same(one: &[Ca], other: &[Ca]) -> bool {
    one.len() == other.len() && other.iter().all(|ca| one.contains(ca))
}

/// Whether a replica should serve `current` instead of `serving`: not if it would go from a trusted
/// certificate to an untrusted one.
pub(super) fn should_serve_current(serving: Option<&Ca>, observed: &ClusterState) -> bool {
    let Some(current) = &observed.current else { return false };
    serving != Some(&current.ca)
        && (observed.trusts(&current.ca) || !serving.is_some_and(|serving| observed.trusts(serving)))
}

#[cfg(test)]
mod tests;
