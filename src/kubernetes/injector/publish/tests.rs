//! Every interleaving of replicas, all of which believe that they lead, with crashes, ages and an operator who empties the Secret.
use super::*;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

const TICK: Duration = Duration::from_secs(1);
const TIMING: Timing = Timing { settle: Duration::from_secs(2), retire: Duration::from_secs(4) };
/// A replica stays ready for so long without seeing the cluster.
const STALE: u32 = 2;
/// An API server may go on with a bundle for so long after it was replaced.
const LAG: u32 = 1;
const REPLICAS: usize = 2;

/// One write, and whether it was made on what is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Hook {
    version: u32,
    bundles: Vec<Vec<Ca>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Secret {
    version: u32,
    current: Option<Ca>,
    next: Option<Ca>,
}

/// Between two writes of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    ReadHook(Hook),
    Write(Step, u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Replica {
    phase: Phase,
    serving: Option<Ca>,
    memory: Memory,
    ready: bool,
    /// Since its last look.
    unseen: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: Duration,
    hook: Hook,
    /// What API servers may still go by, with its age.
    former: Vec<(Vec<Vec<Ca>>, u32)>,
    secret: Secret,
    replicas: Vec<Replica>,
    made: u8,
    due: Vec<Ca>,
    unfit: Vec<Ca>,
    /// What the environment may still do.
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
    Replica { phase: Phase::Idle, serving: None, memory: Memory::default(), ready: false, unseen: 0 }
}

impl World {
    /// As the chart makes it.
    fn installed(left: Left) -> Self {
        Self {
            now: Duration::ZERO,
            hook: Hook { version: 0, bundles: vec![vec![], vec![]] },
            former: vec![],
            secret: Secret::default(),
            replicas: vec![fresh(); REPLICAS],
            made: 0,
            due: vec![],
            unfit: vec![],
            left,
        }
    }

    fn fitness(&self, ca: &Ca) -> Fitness {
        match (self.unfit.contains(ca), self.due.contains(ca)) {
            (true, _) => Fitness::Unfit,
            (false, true) => Fitness::Due,
            (false, false) => Fitness::Fit,
        }
    }

    fn observed(&self, hook: &Hook) -> Observed {
        let seen = |ca: &Ca| Seen { ca: ca.clone(), fitness: self.fitness(ca) };
        Observed {
            bundles: hook.bundles.clone(),
            current: self.secret.current.as_ref().map(seen),
            next: self.secret.next.as_ref().map(seen),
        }
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions: Vec<Action> = (0..REPLICAS).map(Action::Advance).collect();
        // Time may not pass a replica that is between two calls for ever: each has a deadline.
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

    /// One call of one replica.
    fn advance(&mut self, index: usize) {
        let mut replica = self.replicas[index].clone();
        replica.phase = match replica.phase {
            Phase::Idle => Phase::ReadHook(self.hook.clone()),
            Phase::ReadHook(hook) => {
                let observed = self.observed(&hook);
                replica.memory.observe(&observed, self.now);
                if takes_up(replica.serving.as_ref(), &observed) {
                    replica.serving = self.secret.current.clone();
                }
                replica.unseen = 0;
                let was = replica.ready;
                replica.ready = replica.serving.as_ref().is_some_and(|serving| observed.trusts(serving));
                assert!(replica.ready || !was, "a replica became unready: {self:#?}");
                match step(&observed, &replica.memory, self.now, TIMING) {
                    Step::Rest => Phase::Idle,
                    step => Phase::Write(step, hook.version, self.secret.version),
                }
            }
            Phase::Write(step, hook, secret) => {
                self.write(step, hook, secret);
                Phase::Idle
            }
        };
        self.replicas[index] = replica;
    }

    fn write(&mut self, step: Step, hook: u32, secret: u32) {
        match step {
            Step::Make if secret == self.secret.version => {
                self.made += 1;
                self.secret.next = Some(ca(self.made));
                self.secret.version += 1;
            }
            Step::Publish(cas) if hook == self.hook.version => {
                let entries = self.hook.bundles.len();
                let former = std::mem::replace(&mut self.hook.bundles, vec![cas; entries]);
                self.former.push((former, 0));
                self.hook.version += 1;
            }
            Step::Promote if secret == self.secret.version => {
                self.secret.current = self.secret.next.take();
                self.secret.version += 1;
            }
            _ => {}
        }
    }

    /// Whoever the API server may call, it trusts.
    fn check(&self) {
        let called = self.replicas.iter().filter(|replica| replica.ready && replica.unseen <= STALE);
        for replica in called {
            let serving = replica.serving.as_ref().expect("a ready replica serves");
            let former = self.former.iter().map(|(bundles, _)| bundles);
            for bundles in former.chain([&self.hook.bundles]) {
                // Before the first certificate there was nothing to be called.
                let is_first = bundles.iter().all(Vec::is_empty);
                let trusts = bundles.iter().all(|bundle| bundle.contains(serving));
                assert!(is_first || trusts, "{serving:?} is not trusted: {self:#?}");
            }
        }
    }

    /// The same state at another time is the same.
    fn canonical(&self) -> Self {
        let mut canonical = self.clone();
        let age = |since: &mut Duration| *since = (self.now - *since).min(TIMING.retire);
        canonical.now = Duration::ZERO;
        for replica in &mut canonical.replicas {
            replica.memory.trusted.iter_mut().for_each(|(_, since)| age(since));
            replica.memory.unneeded.iter_mut().for_each(|(_, since)| age(since));
        }
        // Versions matter only where somebody holds an older one.
        let (hook, secret) = (self.hook.version, self.secret.version);
        (canonical.hook.version, canonical.secret.version) = (0, 0);
        for replica in &mut canonical.replicas {
            match &mut replica.phase {
                Phase::ReadHook(held) => held.version = u32::from(held.version != hook),
                Phase::Write(_, held_hook, held_secret) => {
                    *held_hook = u32::from(*held_hook != hook);
                    *held_secret = u32::from(*held_secret != secret);
                }
                Phase::Idle => {}
            }
        }
        canonical.replicas.sort_by_key(|replica| format!("{replica:?}"));
        canonical
    }

    /// One replica alone brings it to rest, whatever state the others left.
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
        assert_eq!(world.fitness(&current), Fitness::Fit, "from {self:#?}");
        assert_eq!(world.secret.next, None, "from {self:#?}");
        assert_eq!(world.hook.bundles, vec![vec![current.clone()]; 2], "from {self:#?}");
        assert!(world.replicas[0].ready && world.replicas[0].serving == Some(current), "from {self:#?}");
    }
}

/// Every state that can be reached from `world`, each looked at once.
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
fn from_installed_through_a_rotation_with_a_crash_anywhere() {
    let states = explore(World::installed(Left { ages: 1, crashes: 1, wipes: 0 }));
    println!("{states} states");
    assert!(states > 10_000, "{states} states are too few to mean anything");
}

#[test]
fn an_operator_who_empties_the_secret_makes_no_gap() {
    let states = explore(World::installed(Left { ages: 0, crashes: 0, wipes: 1 }));
    assert!(states > 1_000, "{states} states are too few to mean anything");
}

#[test]
fn a_configuration_that_lost_its_bundles_gets_them_back() {
    let current = Some(Seen { ca: ca(1), fitness: Fitness::Fit });
    let observed = Observed { bundles: vec![vec![], vec![ca(1)]], current, next: None };
    let mut memory = Memory::default();
    memory.observe(&observed, TICK);
    assert_eq!(step(&observed, &memory, TICK, TIMING), Step::Publish(vec![ca(1)]));
}

#[test]
fn an_expired_certificate_is_followed_at_once() {
    let unfit = Some(Seen { ca: ca(1), fitness: Fitness::Unfit });
    let mut observed = Observed { bundles: vec![vec![ca(1)]], current: unfit, next: None };
    let mut memory = Memory::default();
    let mut next = |observed: &Observed| {
        memory.observe(observed, TICK);
        step(observed, &memory, TICK, TIMING)
    };
    assert_eq!(next(&observed), Step::Make);
    observed.next = Some(Seen { ca: ca(2), fitness: Fitness::Fit });
    assert_eq!(next(&observed), Step::Publish(vec![ca(1), ca(2)]));
    observed.bundles = vec![vec![ca(1), ca(2)]];
    assert_eq!(next(&observed), Step::Promote);
}

#[test]
fn a_foreign_ca_leaves_once_it_is_old() {
    let current = Some(Seen { ca: ca(1), fitness: Fitness::Fit });
    let observed = Observed { bundles: vec![vec![ca(1), ca(9)]], current, next: None };
    let mut memory = Memory::default();
    memory.observe(&observed, TICK);
    assert_eq!(step(&observed, &memory, 2 * TICK, TIMING), Step::Rest);
    memory.observe(&observed, 6 * TICK);
    assert_eq!(step(&observed, &memory, 6 * TICK, TIMING), Step::Publish(vec![ca(1)]));
}

#[test]
fn a_configuration_without_entries_is_left_alone() {
    assert_eq!(step(&Observed::default(), &Memory::default(), TICK, TIMING), Step::Rest);
}

#[test]
fn what_is_trusted_is_not_left_for_what_is_not() {
    let seen = |number| Some(Seen { ca: ca(number), fitness: Fitness::Fit });
    let replaced_by_hand = Observed { bundles: vec![vec![ca(1)]], current: seen(2), next: None };
    assert!(!takes_up(Some(&ca(1)), &replaced_by_hand));
    assert!(takes_up(None, &replaced_by_hand), "there is nothing to lose");
    assert!(takes_up(Some(&ca(3)), &replaced_by_hand), "nor here");
    assert!(takes_up(Some(&ca(1)), &Observed { bundles: vec![vec![ca(1), ca(2)]], ..replaced_by_hand.clone() }));
    assert!(!takes_up(Some(&ca(2)), &replaced_by_hand), "it is served already");
    assert!(!takes_up(Some(&ca(1)), &Observed { current: None, ..replaced_by_hand }));
}
