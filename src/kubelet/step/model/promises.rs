//! What must hold: in every state nothing wrong has happened, and from every state a quiet world comes to rest where it
//! should.

use super::Harbour;
use super::canon::print;
use super::moves::wanted;
use super::world::{Inst, Proxy, SITES, Shown, World};
use crate::kubelet::sites::NOWHERE;
use crate::kubelet::step::Phase;

/// Moves after which a quiet world must have come to rest.
const STEPS: usize = 300;

impl Harbour {
    /// From here on no faults and no wishes: the world comes to rest, with everything as it should be.
    ///
    /// One process goes on; the others are gone, with their requests arrived or lost. Every state on the way is itself
    /// a state of a quiet world, so it is remembered that it comes to rest: that makes the check affordable everywhere.
    pub(super) fn converges(&self, w: &World) -> bool {
        if w.wrong.is_some() {
            return true;
        }
        (0..w.processes.len()).all(|survivor| {
            let mut quiet = w.clone();
            for other in 0..w.processes.len() {
                if other != survivor {
                    self.crash(&mut quiet, other);
                }
            }
            quiet.processes = vec![quiet.processes.swap_remove(survivor)];
            let mut lost = quiet.clone();
            let arrived = self.rests(quiet);
            let lost = lost.strays.is_empty() || {
                lost.strays.clear();
                self.rests(lost)
            };
            arrived && lost
        })
    }

    fn rests(&self, mut w: World) -> bool {
        Self::settle_budget(&mut w);
        let mut path = vec![];
        let mut moves = vec![];
        for _ in 0..STEPS {
            let print = print(&w);
            if self.resting.contains(&print) {
                break;
            }
            path.push(print);
            moves.clear();
            self.quiet_moves(&w, &mut moves);
            let Some(next) = moves.first() else {
                if !at_goal(&w) {
                    return false;
                }
                break;
            };
            w = self.after(&w, *next);
            if w.wrong.is_some() {
                // Found, and told, as a state of its own.
                break;
            }
            if path.len() == STEPS {
                return false;
            }
        }
        for print in path {
            self.resting.insert(print);
        }
        true
    }

    /// Tells how a quiet world with one process goes on, for whoever looks for a mistake.
    pub(super) fn trail(&self, w: &World) {
        let mut w = w.clone();
        for _ in 0..STEPS.min(40) {
            let mut moves = vec![];
            self.quiet_moves(&w, &mut moves);
            let Some(next) = moves.first() else { break };
            println!("then {next:?}");
            w = self.after(&w, *next);
        }
        println!("at last {w:?}");
    }

    /// What no longer matters in a quiet world, made the same for all.
    fn settle_budget(w: &mut World) {
        w.faults = 0;
        for name in &mut w.names {
            name.changes = 0;
            name.makers = [None; SITES];
        }
    }
}

/// Every pod that should run runs once, as it should, and home says so; nothing else is there.
pub(super) fn at_goal(w: &World) -> bool {
    w.names.iter().all(|name| {
        let there: Vec<Inst> = name.insts.into_iter().flatten().collect();
        match (&name.host, there.as_slice()) {
            (None, []) => true,
            // Of what runs at a site that is no more nobody knows anything, and it waits for ever.
            (Some(proxy), there) if proxy.choice == Some(NOWHERE) => there.is_empty(),
            (Some(proxy), [inst]) if wanted(Some(proxy)) => runs(proxy, inst),
            (Some(proxy), _) if wanted(Some(proxy)) => false,
            (Some(proxy), there) if proxy.deleting.is_none() && !proxy.status.given_up => {
                matches!(there, [] | [_]) && there.iter().all(|inst| inst.owner == proxy.id && inst.phase.terminal())
            }
            _ => false,
        }
    })
}

fn runs(proxy: &Proxy, inst: &Inst) -> bool {
    inst.owner == proxy.id
        && Some(inst.site) == proxy.choice
        && inst.deleting.is_none()
        && inst.sent == proxy.want
        && inst.phase == Phase::Running
        && proxy.status.phase == inst.phase
        && proxy.status.shown == Shown::Instance
        && proxy.status.observed == Some(proxy.want)
}
