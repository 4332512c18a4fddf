//! A model checker around [`step`](super::step): the production function, against every order of crashes, late answers
//! and lost events within some bounds. See `docs/model.md`.

use dashmap::DashSet;
use stateright::{Model, Property};

mod alone;
mod canon;
mod explore;
mod moves;
mod mutants;
mod process;
mod promises;
mod servers;
mod world;

use self::alone::Worlds;
use self::moves::Move;
use self::mutants::Mutant;
use self::world::{HOST, Name, Policy, SITE, Status, World, Wrong};
use super::{Phase, Reach};

/// A kind of move that a configuration may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Force,
    End,
    Vanish,
    Evict,
    Crash,
    Break,
    TimeOut,
    /// A site does not answer for as long as a short break may take.
    Silence,
    /// The user does not wait for a silent site.
    Replace,
    /// Instances may be unschedulable where they are.
    Move,
    /// Proxies are created with the choice of a site that is no more.
    Stale,
    /// Restricts: the user does no more with the second name than to create a pod.
    Bystander,
}

/// A configuration: who is there, and how much may happen.
struct Harbour {
    /// One per pod name.
    policies: Vec<Policy>,
    processes: usize,
    sites: usize,
    faults: u8,
    /// Pods in a row with one name.
    lives: u8,
    /// Changes of the spec, per name.
    changes: u8,
    kinds: Vec<Kind>,
    /// No server writes while a watch of it is more than this many events behind.
    lag: u8,
    mutant: Option<Mutant>,
    /// Workers are free whenever there is work; otherwise a key may wait while more events are read.
    eager: bool,
    /// A report never waits to be merged with the next.
    prompt: bool,
    /// Fingerprints of states that come to rest.
    resting: DashSet<u64>,
    /// What each pod can be in alone, where that is to be compared.
    alone: Vec<Worlds>,
}

impl Harbour {
    fn allows(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

impl Model for Harbour {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let name = Name { changes: self.changes, ..Name::default() };
        vec![World {
            names: vec![name; self.policies.len()],
            // A start beside pods that exist is what follows a crash.
            processes: vec![self.ready(); self.processes],
            strays: vec![],
            faults: self.faults,
            chosen: false,
            wrong: None,
        }]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Move>) {
        if state.wrong.is_none() {
            self.moves(state, actions);
        }
    }

    fn next_state(&self, last: &World, action: Move) -> Option<World> {
        Some(self.after(last, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an instance ends before it is removed", |_, w: &World| {
                w.wrong != Some(Wrong::RemovedAlive)
            }),
            Property::always("a terminal phase never changes", |_, w: &World| w.wrong != Some(Wrong::Undead)),
            Property::always("nothing that should run is stopped", |_, w: &World| w.wrong != Some(Wrong::Reaped)),
            Property::always("no pod fails without a cause", |_, w: &World| w.wrong != Some(Wrong::FailedWithoutCause)),
            Property::always("no pod is removed without a cause", |_, w: &World| {
                w.wrong != Some(Wrong::DeletedWithoutCause)
            }),
            Property::always("a proxy goes last", |_, w: &World| w.wrong != Some(Wrong::DeletedTooEarly)),
            Property::always("a pod that may start once starts once", |_, w: &World| {
                w.wrong != Some(Wrong::StartedTwice)
            }),
            Property::always("what has ended at home is not started", |_, w: &World| {
                w.wrong != Some(Wrong::StartedAfterEnd)
            }),
            Property::always("what has completed is not started", |_, w: &World| {
                w.wrong != Some(Wrong::RestartedCompleted)
            }),
            Property::always("no pod has two instances", |_, w: &World| w.wrong != Some(Wrong::Doubled)),
            Property::always("decisions end", |_, w: &World| w.wrong != Some(Wrong::Circles)),
            Property::always("a quiet world comes to rest", |harbour: &Harbour, w: &World| harbour.converges(w)),
            Property::always("each pod lives as if it were alone", |harbour: &Harbour, w: &World| {
                w.is_each_alone(&harbour.alone, harbour.eager)
            }),
            Property::sometimes("a pod completes its life", |_, w: &World| w.names.iter().any(completed)),
            Property::sometimes("a process forgets what a server has done for it", |_, w: &World| {
                // The answer was not read: home has never been told of what is there.
                let untold =
                    |name: &Name| name.runs() && name.host.is_some_and(|proxy| proxy.status == Status::default());
                w.processes.iter().any(|process| !process.watches[SITE].begun) && w.names.iter().any(untold)
            }),
            Property::sometimes("a namesake waits", |_, w: &World| process::waits_for_namesake(w)),
            Property::sometimes("a lost instance is replaced", |_, w: &World| {
                let lost = |name: &Name| name.lives == 1 && name.truth[0].lost;
                w.names.iter().any(|name| lost(name) && name.insts.iter().flatten().any(|inst| inst.started))
            }),
            Property::sometimes("a pod is given up while it runs", |_, w: &World| {
                let given_up = |name: &Name| name.host.is_some_and(|proxy| proxy.status.given_up) && name.runs();
                w.names.iter().any(given_up)
            }),
            Property::sometimes("a target is silent while its pod runs", |_, w: &World| {
                let silent = w.processes.iter().any(|process| process.reach.contains(&Reach::Silent));
                let running = |name: &Name| name.insts.iter().flatten().any(|inst| inst.phase == Phase::Running);
                silent && w.names.iter().any(running)
            }),
            Property::sometimes("a site is chosen before a crash and nothing made there", |_, w: &World| {
                let chosen = |name: &Name| !name.runs() && name.host.is_some_and(|proxy| proxy.choice.is_some());
                w.processes.iter().any(|process| !process.watches[HOST].begun) && w.names.iter().any(chosen)
            }),
            Property::sometimes("a pod runs where it was not first", |_, w: &World| {
                let moved = |name: &Name| {
                    let there = name.insts[1].is_some_and(|inst| inst.phase == Phase::Running);
                    name.lives == 1 && name.truth[0].moved && there
                };
                w.names.iter().any(moved)
            }),
            Property::sometimes("a late request makes a second instance", |_, w: &World| {
                w.names.iter().any(|name| name.insts.iter().flatten().count() == 2)
            }),
            Property::sometimes("a pod is decided while a site is not listed", |_, w: &World| {
                let apart =
                    |process: &world::Process| process.watches[HOST].complete && !process.watches[SITE + 1].begun;
                let begun = |name: &Name| name.insts[0].is_some();
                w.processes.iter().any(apart) && w.names.iter().any(begun)
            }),
            Property::sometimes("a request may arrive after its process", |_, w: &World| {
                let fresh = w.processes.iter().any(|process| !process.watches[HOST].begun);
                fresh && !w.strays.is_empty()
            }),
        ]
    }
}

/// Home and target agree that the pod has succeeded.
fn completed(name: &Name) -> bool {
    let phase = name.host.map(|proxy| proxy.status.phase);
    phase == Some(Phase::Succeeded) && name.insts.iter().flatten().any(|inst| inst.phase == Phase::Succeeded)
}
