//! Explores every interleaving of replicas that all believe they lead, with crashes, certificates
//! that come due for renewal, and an operator who empties the Secret.
use super::*;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

const TICK: Duration = Duration::from_secs(1);
const DELAYS: Delays = Delays { settle: Duration::from_secs(2), retire: Duration::from_secs(4) };
/// How many ticks a replica stays ready without observing the cluster.
const STALE: u32 = 2;
/// How many ticks an API server may use a bundle after it was replaced.
const LAG: u32 = 1;
const REPLICAS: usize = 2;

/// The webhook configuration, with a version that every write increments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Configuration {
    version: u32,
    bundles: Vec<Vec<Ca>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Secret {
    version: u32,
    current: Option<Ca>,
    next: Option<Ca>,
}

/// The position of a replica in its loop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    ReadConfiguration(Configuration),
    Write(Step, u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Replica {
    phase: Phase,
    serving: Option<Ca>,
    history: History,
    ready: bool,
    /// The ticks since its last observation.
    unseen: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: Duration,
    configuration: Configuration,
    /// Replaced bundles that API servers may still use, each with its age in ticks.
    former: Vec<(Vec<Vec<Ca>>, u32)>,
    secret: Secret,
    replicas: Vec<Replica>,
    made: u8,
    due: Vec<Ca>,
    unfit: Vec<Ca>,
    /// How often the environment may still interfere.
    left: Left,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Left {
    ages: u8,
    crashes: u8,
    wipes: u8,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Advance(usize),
    Crash(usize),
    Tick,
    Age,
    Wipe,
}

fn ca(number: u8) -> Ca {
    Ca::from(vec![number])
}

fn fresh() -> Replica {
    Replica { phase: Phase::Idle, serving: None, history: History::default(), ready: false, unseen: 0 }
}

impl World {
    /// The state after the chart is installed.
    fn installed(left: Left) -> Self {
        Self {
            now: Duration::ZERO,
            configuration: Configuration { version: 0, bundles: vec![vec![], vec![]] },
            former: vec![],
            secret: Secret::default(),
            replicas: vec![fresh(); REPLICAS],
            made: 0,
            due: vec![],
            unfit: vec![],
            left,
        }
    }

    fn validity(&self, ca: &Ca) -> Validity {
        match (self.unfit.contains(ca), self.due.contains(ca)) {
            (true, _) => Validity::Invalid,
            (false, true) => Validity::RenewalDue,
            (false, false) => Validity::Valid,
        }
    }

    fn observed(&self, configuration: &Configuration) -> ClusterState {
        let state = |ca: &Ca| GenerationState { ca: ca.clone(), validity: self.validity(ca) };
        ClusterState {
            bundles: configuration.bundles.clone(),
            current: self.secret.current.as_ref().map(state),
            next: self.secret.next.as_ref().map(state),
        }
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions: Vec<Action> = (0..REPLICAS).map(Action::Advance).collect();
        // A replica cannot stay between two calls forever: each call has a deadline.
        if self.replicas.iter().all(|replica| replica.phase == Phase::Idle || replica.unseen < 1) {
            actions.push(Action::Tick);
        }
        if self.left.crashes > 0 {
            actions.extend((0..REPLICAS).map(Action::Crash));
        }
        if self.left.ages > 0 && self.secret.current.as_ref().is_some_and(|current| !self.due.contains(current)) {
            actions.push(Action::Age);
        }
        if self.left.wipes > 0 && self.secret.current.is_some() {
            actions.push(Action::Wipe);
        }
        actions
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Advance(index) => self.advance(index),
            Action::Crash(index) => {
                self.left.crashes -= 1;
                self.replicas[index] = fresh();
            }
            Action::Tick => {
                self.now += TICK;
                self.former.iter_mut().for_each(|(_, age)| *age += 1);
                self.former.retain(|(_, age)| *age < LAG);
                for replica in &mut self.replicas {
                    replica.unseen = (replica.unseen + 1).min(STALE + 1);
                }
            }
            Action::Age => {
                self.left.ages -= 1;
                self.due.extend(self.secret.current.clone());
            }
            Action::Wipe => {
                self.left.wipes -= 1;
                self.secret = Secret { version: self.secret.version + 1, current: None, next: None };
            }
        }
    }

    /// Makes one call of one replica.
    fn advance(&mut self, index: usize) {
        let mut replica = self.replicas[index].clone();
        replica.phase = match replica.phase {
            Phase::Idle => Phase::ReadConfiguration(self.configuration.clone()),
            Phase::ReadConfiguration(configuration) => {
                let observed = self.observed(&configuration);
                replica.history.observe(&observed, self.now);
                if should_serve_current(replica.serving.as_ref(), &observed) {
                    replica.serving = self.secret.current.clone();
                }
                replica.unseen = 0;
                let was = replica.ready;
                replica.ready = replica.serving.as_ref().is_some_and(|serving| observed.trusts(serving));
                assert!(replica.ready || !was, "a replica became unready: {self:#?}");
                match next_step(&observed, &replica.history, self.now, DELAYS) {
                    Step::Wait => Phase::Idle,
                    step => Phase::Write(step, configuration.version, self.secret.version),
                }
            }
            Phase::Write(step, configuration, secret) => {
                self.write(step, configuration, secret);
                Phase::Idle
            }
        };
        self.replicas[index] = replica;
    }

    fn write(&mut self, step: Step, configuration: u32, secret: u32) {
        match step {
            Step::Make if secret == self.secret.version => {
                self.made += 1;
                self.secret.next = Some(ca(self.made));
                self.secret.version += 1;
            }
            Step::Publish(cas) if configuration == self.configuration.version => {
                let entries = self.configuration.bundles.len();
                let former = std::mem::replace(&mut self.configuration.bundles, vec![cas; entries]);
                self.former.push((former, 0));
                self.configuration.version += 1;
            }
            Step::Promote if secret == self.secret.version => {
                self.secret.current = self.secret.next.take();
                self.secret.version += 1;
            }
            _ => {}
        }
    }

    /// Asserts that every API server trusts each replica that it may call.
    fn check(&self) {
        let called = self.replicas.iter().filter(|replica| replica.ready && replica.unseen <= STALE);
        for replica in called {
            let serving = replica.serving.as_ref().expect("a ready replica serves");
            let former = self.former.iter().map(|(bundles, _)| bundles);
            for bundles in former.chain([&self.configuration.bundles]) {
                // Before the first certificate no replica was called.
                let is_first = bundles.iter().all(Vec::is_empty);
                let trusts = bundles.iter().all(|bundle| bundle.contains(serving));
                assert!(is_first || trusts, "{serving:?} is not trusted: {self:#?}");
            }
        }
    }

    /// Returns the same value for states that differ only in when they occur.
    fn canonical(&self) -> Self {
        let mut canonical = self.clone();
        let age = |since: &mut Duration| *since = (self.now - *since).min(DELAYS.retire);
        canonical.now = Duration::ZERO;
        for replica in &mut canonical.replicas {
            replica.history.trusted.iter_mut().for_each(|trusted| age(&mut trusted.since));
            replica.history.unused.iter_mut().for_each(|unused| age(&mut unused.since));
        }
        // A version matters only if a replica has read an older one.
        let (configuration, secret) = (self.configuration.version, self.secret.version);
        (canonical.configuration.version, canonical.secret.version) = (0, 0);
        for replica in &mut canonical.replicas {
            match &mut replica.phase {
                Phase::ReadConfiguration(held) => held.version = u32::from(held.version != configuration),
                Phase::Write(_, held_configuration, held_secret) => {
                    *held_configuration = u32::from(*held_configuration != configuration);
                    *held_secret = u32::from(*held_secret != secret);
                }
                Phase::Idle => {}
            }
        }
        canonical.replicas.sort_by_key(|replica| format!("{replica:?}"));
        canonical
    }

    /// Asserts that one replica alone reaches a state at rest from this one.
    fn comes_to_rest(&self) {
        let mut world = self.clone();
        for _ in 0..30 {
            for _ in 0..3 {
                world.advance(0);
            }
            if world.replicas[0].phase != Phase::Idle {
                world.advance(0);
            }
            world.act(Action::Tick);
        }
        let current = world.secret.current.clone().expect("a certificate");
        assert_eq!(world.validity(&current), Validity::Valid, "from {self:#?}");
        assert_eq!(world.secret.next, None, "from {self:#?}");
        assert_eq!(world.configuration.bundles, vec![vec![current.clone()]; 2], "from {self:#?}");
        assert!(world.replicas[0].ready && world.replicas[0].serving == Some(current), "from {self:#?}");
    }
}

/// Checks every state that is reachable from `world` and returns how many there are.
fn explore(world: World) -> usize {
    let hasher = RandomState::new();
    let (mut seen, mut open) = (HashSet::new(), vec![world]);
    while let Some(world) = open.pop() {
        world.check();
        for action in world.actions() {
            let mut next = world.clone();
            next.act(action);
            if seen.insert(hasher.hash_one(next.canonical())) {
                if next.replicas.iter().all(|replica| replica.phase == Phase::Idle) {
                    next.comes_to_rest();
                }
                open.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn certificate_stays_trusted_through_a_rotation_with_a_crash_at_any_step() {
    let states = explore(World::installed(Left { ages: 1, crashes: 1, wipes: 0 }));
    println!("{states} states");
    assert!(states > 10_000, "{states} states are too few to mean anything");
}

#[test]
fn certificate_stays_trusted_after_the_secret_is_emptied() {
    let states = explore(World::installed(Left { ages: 0, crashes: 0, wipes: 1 }));
    assert!(states > 1_000, "{states} states are too few to mean anything");
}

#[test]
fn removed_bundle_is_restored() {
    let current = Some(GenerationState { ca: ca(1), validity: Validity::Valid });
    let observed = ClusterState { bundles: vec![vec![], vec![ca(1)]], current, next: None };
    let mut history = History::default();
    history.observe(&observed, TICK);
    assert_eq!(next_step(&observed, &history, TICK, DELAYS), Step::Publish(vec![ca(1)]));
}

#[test]
fn expired_certificate_is_replaced_at_once() {
    let unfit = Some(GenerationState { ca: ca(1), validity: Validity::Invalid });
    let mut observed = ClusterState { bundles: vec![vec![ca(1)]], current: unfit, next: None };
    let mut history = History::default();
    let mut next = |observed: &ClusterState| {
        history.observe(observed, TICK);
        next_step(observed, &history, TICK, DELAYS)
    };
    assert_eq!(next(&observed), Step::Make);
    observed.next = Some(GenerationState { ca: ca(2), validity: Validity::Valid });
    assert_eq!(next(&observed), Step::Publish(vec![ca(1), ca(2)]));
    observed.bundles = vec![vec![ca(1), ca(2)]];
    assert_eq!(next(&observed), Step::Promote);
}

#[test]
fn unknown_ca_is_removed_only_after_a_delay() {
    let current = Some(GenerationState { ca: ca(1), validity: Validity::Valid });
    let observed = ClusterState { bundles: vec![vec![ca(1), ca(9)]], current, next: None };
    let mut history = History::default();
    history.observe(&observed, TICK);
    assert_eq!(next_step(&observed, &history, 2 * TICK, DELAYS), Step::Wait);
    history.observe(&observed, 6 * TICK);
    assert_eq!(next_step(&observed, &history, 6 * TICK, DELAYS), Step::Publish(vec![ca(1)]));
}

#[test]
fn configuration_without_entries_is_not_changed() {
    assert_eq!(next_step(&ClusterState::default(), &History::default(), TICK, DELAYS), Step::Wait);
}

#[test]
fn trusted_certificate_is_not_replaced_by_an_untrusted_one() {
    let seen = |number| Some(GenerationState { ca: ca(number), validity: Validity::Valid });
    let replaced_by_hand = ClusterState { bundles: vec![vec![ca(1)]], current: seen(2), next: None };
    assert!(!should_serve_current(Some(&ca(1)), &replaced_by_hand));
    assert!(should_serve_current(None, &replaced_by_hand), "nothing is served yet");
    assert!(should_serve_current(Some(&ca(3)), &replaced_by_hand), "the served one is not trusted either");
    assert!(should_serve_current(
        Some(&ca(1)),
        &ClusterState { bundles: vec![vec![ca(1), ca(2)]], ..replaced_by_hand.clone() }
    ));
    assert!(!should_serve_current(Some(&ca(2)), &replaced_by_hand), "it is served already");
    assert!(!should_serve_current(Some(&ca(1)), &ClusterState { current: None, ..replaced_by_hand }));
}
