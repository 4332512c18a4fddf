//! Deliberate mistakes around the production function, to show that the model would notice them.

use crate::kubelet::step::{self, Action, Event, Phase, Presence, Record};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mutant {
    /// The end of any instance is taken for the end of the known one.
    AnyUid,
    /// What has gone may be raised by a late answer: it has no tombstone, and ends are not counted.
    NoTombstone,
    /// What has not been listed counts as absent, and nobody asks.
    UnknownIsAbsent,
    /// What was never seen at home counts as deleted there.
    UnseenIsGone,
    /// A late report overwrites whatever home shows meanwhile. (The server takes it for a patch without a version.)
    BlindPatch,
    /// A choice overwrites that of another process.
    BlindChoice,
    /// The place is chosen, and nobody waits for the instance at the old one to go.
    HastyMove,
    /// A terminal phase at home is overlooked.
    NoLatch,
    /// The proxy is removed while its instance stops.
    ProxyFirst,
    /// Instances are removed without waiting for their containers.
    NoGrace,
    /// That an instance has started is forgotten.
    ForgetsStart,
    /// Nobody starts the timer after a failure.
    NoRetry,
    /// Answers count that are older than a list.
    TrustsOldAnswers,
    /// A silent target's pods are given up, although nobody has said so.
    NoPatience,
    /// The news that a list of the target begins waits in a queue while the list is made.
    LateListing,
}

/// The production function, with a mistake.
pub(super) fn step(mutant: Option<Mutant>, record: &mut Record, mut event: Event) -> Vec<Action> {
    let Some(mutant) = mutant else { return step::step(record, event) };
    match (mutant, &mut event) {
        (Mutant::AnyUid, Event::InstanceGone(uid)) => {
            if let Presence::There(known) = &record.instance {
                *uid = known.uid.clone();
            }
        }
        (Mutant::UnknownIsAbsent, _) if record.instance == Presence::Unknown => {
            record.instance = Presence::Absent;
            record.memo.sought = true;
        }
        (Mutant::NoPatience, _) if record.reach == step::Reach::Silent => record.memo.give_up = true,
        (Mutant::UnseenIsGone, Event::InstanceSeen(_)) if record.proxy == Presence::Absent => {
            record.memo.proxy_buried = true;
        }
        (Mutant::NoLatch, Event::ProxySeen(proxy)) if proxy.deleting.is_none() && proxy.health.phase.terminal() => {
            proxy.health.phase = Phase::Running;
            proxy.replaceable = true;
        }
        _ => {}
    }
    let mut actions = step::step(record, event);
    match mutant {
        Mutant::NoTombstone => record.memo.buried = None,
        Mutant::HastyMove
            if record.memo.moving && record.instance.there().is_some_and(|known| known.deleting.is_some()) =>
        {
            record.memo.buried = record.instance.there().map(|known| known.uid.clone());
            record.instance = Presence::Absent;
            actions = vec![Action::Place];
        }
        Mutant::ForgetsStart => record.memo.ran = false,
        Mutant::NoRetry => actions.retain(|action| !matches!(action, Action::RetryAfter(_))),
        Mutant::NoGrace => {
            for action in &mut actions {
                if let Action::Delete { grace, .. } = action {
                    *grace = Some(0);
                }
            }
        }
        Mutant::ProxyFirst => {
            let leaving = record.proxy.there().is_some_and(|proxy| proxy.deleting.is_some_and(|grace| grace > 0));
            let stopping = record.instance.there().is_some_and(|known| known.deleting.is_some());
            if leaving && stopping {
                actions = vec![Action::DeleteProxy];
            }
        }
        _ => {}
    }
    actions
}
