//! What goes wrong and when: a pure function of the seed, so that a storm can be repeated.

use std::time::Duration;

use crate::dice::Dice;
use crate::judge::Side;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A replica ends as in a power cut, and starts again later.
    Kill,
    /// Both do.
    KillBoth,
    /// A replica ends in order, and starts again later.
    Stop,
    /// A replica is held still for a while.
    Freeze,
    /// The link between Longshore and a cluster drops packets.
    Cut(Side, Direction),
    /// An API server is down for a while: its watches close, and what it remembered of the past is gone.
    ApiServer(Side),
    /// Somebody in the target deletes a delegate, in order or by force.
    DeleteDelegate {
        /// Without a grace period.
        force: bool,
    },
    /// Somebody in the target evicts a delegate, as a drain of its node does.
    EvictDelegate,
    /// Somebody in the target takes our labels off a delegate, and deletes it when it is in the way.
    StripDelegate,
    /// Somebody in the target changes a delegate.
    EditDelegate,
    /// Somebody deletes a namespace of the target.
    RazeNamespace,
    /// Somebody in the target edits or deletes a copy of a ConfigMap or a Secret.
    SpoilCopy,
    /// An API server refuses requests.
    Refuse(Side, Refusal),
    /// An API server closes its watches in good order.
    CloseWatches(Side),
    /// What watches would continue from is gone.
    ExpireWatches(Side),
    /// An API server takes its time. What was asked for is done then, whether or not who asked is still there.
    Slow(Side),
    /// An API server does what it is asked, and its answers break off.
    LoseAnswers(Side),
}

/// How an API server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 429, with a time to wait.
    Overloaded,
    /// 500
    Broken,
    /// 503
    Unavailable,
}

/// Which packets are dropped, seen from Longshore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Both,
    Outward,
    Inward,
}

/// A fault of a plan. Whom it hits among the pods is a number, since nobody knows which pods there will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    /// Since the beginning.
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
    /// How long it lasts, if it lasts.
    pub(crate) lasts: Duration,
    pub(crate) replica: usize,
    /// Of pods, as many as this says.
    pub(crate) victims: usize,
    pub(crate) pick: u64,
}

/// How long the world is left alone at first, so that there is something to break.
const QUIET: Duration = Duration::from_secs(4);

/// All faults of a storm.
pub(crate) fn plan(seed: u64, duration: Duration, targets: usize) -> Vec<Strike> {
    let mut dice = Dice::new(seed ^ 0x5701_2357);
    let (mut strikes, mut at) = (vec![], QUIET);
    while at < duration {
        // The same number of throws for each, so that a new kind of fault changes as little as possible.
        let (kind, target, direction) = (dice.below(38), dice.below(2), dice.below(4));
        let (home, refusal) = (dice.below(5) < 2, dice.below(3));
        let (short, long) = (dice.pause(200, 4000), dice.pause(1000, 25_000));
        let (replica, victims, pick) = (dice.below(2), 1 + dice.below(4), dice.below(u64::MAX));
        let target = Side::Target(usize::try_from(target).unwrap_or(0) % targets);
        let side = if home { Side::Host } else { target };
        let refusal = match refusal {
            0 => Refusal::Overloaded,
            1 => Refusal::Broken,
            _ => Refusal::Unavailable,
        };
        let direction = match direction {
            0 => Direction::Outward,
            1 => Direction::Inward,
            _ => Direction::Both,
        };
        let (fault, lasts) = match kind {
            0..=3 => (Fault::Kill, short),
            4 => (Fault::KillBoth, short),
            5 => (Fault::Stop, short),
            6 | 7 => (Fault::Freeze, long),
            8..=10 => (Fault::Cut(target, direction), long),
            11 => (Fault::Cut(Side::Host, direction), long),
            12 => (Fault::ApiServer(target), short),
            13 => (Fault::ApiServer(Side::Host), short),
            14..=16 => (Fault::DeleteDelegate { force: false }, short),
            17..=19 => (Fault::DeleteDelegate { force: true }, short),
            20 => (Fault::EvictDelegate, short),
            21 => (Fault::StripDelegate, short),
            22 => (Fault::EditDelegate, short),
            23 => (Fault::RazeNamespace, short),
            24 | 25 => (Fault::SpoilCopy, short),
            26..=28 => (Fault::Refuse(side, refusal), long),
            29 | 30 => (Fault::CloseWatches(side), short),
            31 | 32 => (Fault::ExpireWatches(side), short),
            33 | 34 => (Fault::Slow(side), long),
            _ => (Fault::LoseAnswers(side), short),
        };
        let (replica, victims) = (usize::try_from(replica).unwrap_or(0), usize::try_from(victims).unwrap_or(1));
        strikes.push(Strike { at, fault, lasts, replica, victims, pick });
        at += dice.pause(300, 5000);
    }
    strikes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LONG: Duration = Duration::from_secs(2400);

    #[test]
    fn the_same_seed_makes_the_same_storm_and_a_longer_one_begins_like_a_shorter_one() {
        let (long, short) = (plan(7, LONG, 2), plan(7, Duration::from_secs(60), 2));
        assert_eq!(plan(7, LONG, 2), long);
        assert_eq!(long[..short.len()], short[..]);
        assert_ne!(plan(8, LONG, 2), long);
    }

    #[test]
    fn everything_happens_sooner_or_later_and_nothing_after_the_end() {
        let strikes = plan(1, LONG, 2);
        let kinds: BTreeSet<String> = strikes.iter().map(|strike| format!("{:?}", strike.fault)).collect();
        assert_eq!(kinds.len(), 4 + 9 + 3 + 7 + 7 * 3, "{kinds:?}");
        assert!(strikes.iter().all(|strike| strike.at < LONG && (1..=4).contains(&strike.victims)));
        assert!(plan(1, LONG, 1).iter().all(|strike| !format!("{:?}", strike.fault).contains("Target(1)")));
    }
}
