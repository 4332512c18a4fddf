//! What must hold: in every state nothing wrong has happened, and from every state a quiet world comes to rest where it
//! should.

use super::Harbour;
use super::canon::print;
use super::moves::wanted;
use super::world::{Shown, World};
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
            Self::quiet_moves(&w, &mut moves);
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

    /// What no longer matters in a quiet world, made the same for all.
    fn settle_budget(w: &mut World) {
        w.faults = 0;
        for name in &mut w.names {
            name.changes = 0;
            name.maker = None;
        }
    }
}

/// Every pod that should run runs once, as it should, and home says so; nothing else is there.
pub(super) fn at_goal(w: &World) -> bool {
    w.names.iter().all(|name| match (&name.host, &name.target) {
        (None, None) => true,
        (Some(proxy), target) if wanted(Some(proxy)) => target.is_some_and(|inst| {
            inst.owner == proxy.id
                && inst.deleting.is_none()
                && inst.sent == proxy.want
                && inst.phase == Phase::Running
                && proxy.status.phase == inst.phase
                && proxy.status.shown == Shown::Instance
                && proxy.status.observed == Some(proxy.want)
        }),
        (Some(proxy), target) if proxy.deleting.is_none() && !proxy.status.given_up => {
            target.is_none_or(|inst| inst.owner == proxy.id && inst.phase.terminal())
        }
        _ => false,
    })
}
