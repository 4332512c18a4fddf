//! How far a pod has come on its way, and how long each step took. Pure, and some bytes a pod.
//!
//! Only what this process has seen to happen is told: a pod that was there already when it began has no way but its end. No
//! decision depends on any of it.

use std::fmt::Debug;
use std::time::Duration;

use super::document::PodKey;
use super::sites::Index;

/// Milliseconds of the clock of a table. It wraps around after 49 days, and so do differences.
pub(super) type Tick = u32;

/// A step that a pod has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// From its binding until its instance was created.
    Create,
    /// Until the instance was ready.
    Run,
    /// Until home showed that.
    Report,
    /// From its deletion until the instance was asked to stop.
    Request,
    /// Until the instance had gone.
    Terminate,
    /// Until it had gone at home.
    Remove,
}

impl Step {
    /// Its name, for people and tools.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Run => "run",
            Self::Report => "report",
            Self::Request => "request",
            Self::Terminate => "terminate",
            Self::Remove => "remove",
        }
    }
}

/// A step, which has just ended.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'a> {
    /// Whose.
    pub key: &'a PodKey,
    /// Where its instance is, or was.
    pub site: Index,
    /// Which.
    pub step: Step,
    /// How long it took.
    pub took: Duration,
    /// How long ago the way began of which it is a step: with the binding, or with the deletion.
    pub whole: Duration,
}

/// Whoever is told of each step. It is called in the middle of work and has to be quick.
pub trait Observer: Debug + Send + Sync + 'static {
    /// A pod has taken a step.
    fn passed(&self, passed: &Passed<'_>);
}

/// Something has happened to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It was seen at home, where it has waited for so long; `None` if it has no way to come.
    Bound(Option<Duration>),
    /// Its instance was created at this site.
    Created(Index),
    /// A list has shown its instance at this site, which another process may have made.
    Found(Index),
    /// Its instance is ready.
    ReadyThere,
    /// Home shows that.
    ReadyHome,
    /// It is being deleted, and has an instance at this site.
    Leaving(Index),
    /// Its instance was asked to stop.
    Asked,
    /// Its instance has gone.
    Gone,
    /// It has gone.
    Removed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Unseen,
    Bound,
    /// Its instance is there, and nobody knows since when.
    Found,
    Created,
    Ready,
    /// It has come.
    There,
    Leaving,
    Stopping,
    Gone,
    Over,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    stage: Stage,
    site: Index,
    began: Tick,
    last: Tick,
}

impl Way {
    /// Whether the pod was not seen at home yet.
    pub(super) fn is_new(&self) -> bool {
        self.stage == Stage::Unseen
    }

    /// Whether something more is to be told of a pod that is (not) being deleted.
    pub(super) fn awaits(&self, leaving: bool) -> bool {
        self.stage < if leaving { Stage::Leaving } else { Stage::There }
    }

    /// Takes in what has happened now. Answers the step that has ended with it, if one has: where, which, how long, and how
    /// long since the beginning.
    pub(super) fn pass(&mut self, mark: Mark, now: Tick) -> Option<(Index, Step, Duration, Duration)> {
        let (stage, step) = match (self.stage, mark) {
            (Stage::Unseen, Mark::Bound(waited)) => {
                self.stage = if waited.is_some() { Stage::Bound } else { Stage::There };
                // What is beyond a turn of the clock is long enough.
                let waited = u32::try_from(waited.unwrap_or_default().as_millis()).unwrap_or(Tick::MAX / 2);
                self.begin(now.wrapping_sub(waited));
                return None;
            }
            (stage, Mark::Leaving(site)) if stage > Stage::Unseen && stage < Stage::Leaving => {
                (self.stage, self.site) = (Stage::Leaving, site);
                self.begin(now);
                return None;
            }
            (Stage::Bound, Mark::Found(site)) => {
                (self.stage, self.site) = (Stage::Found, site);
                return None;
            }
            // How long it took until then is not known, but how long all of it will have taken is.
            (Stage::Found, Mark::ReadyThere) => {
                (self.stage, self.last) = (Stage::Ready, now);
                return None;
            }
            (Stage::Bound | Stage::Found, Mark::Created(site)) => {
                self.site = site;
                (Stage::Created, Step::Create)
            }
            (Stage::Created, Mark::ReadyThere) => (Stage::Ready, Step::Run),
            (Stage::Ready, Mark::ReadyHome) => (Stage::There, Step::Report),
            (Stage::Leaving, Mark::Asked) => (Stage::Stopping, Step::Request),
            // Somebody else may have stopped it.
            (Stage::Leaving | Stage::Stopping, Mark::Gone) => (Stage::Gone, Step::Terminate),
            (Stage::Gone, Mark::Removed) => (Stage::Over, Step::Remove),
            _ => return None,
        };
        let since = |tick: Tick| Duration::from_millis(now.wrapping_sub(tick).into());
        let (took, whole) = (since(self.last), since(self.began));
        (self.stage, self.last) = (stage, now);
        Some((self.site, step, took, whole))
    }

    fn begin(&mut self, at: Tick) {
        (self.began, self.last) = (at, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn each_step_is_told_once_with_its_time() {
        let mut way = Way::default();
        assert!(way.is_new());
        assert_eq!(way.pass(Mark::Bound(NOW), 100), None);
        assert_eq!(way.pass(Mark::Created(3), 150), Some((3, Step::Create, ms(50), ms(50))));
        assert_eq!(way.pass(Mark::Created(3), 160), None, "found once more");
        assert_eq!(way.pass(Mark::ReadyHome, 170), None, "nothing is ready");
        assert_eq!(way.pass(Mark::ReadyThere, 250), Some((3, Step::Run, ms(100), ms(150))));
        assert_eq!(way.pass(Mark::ReadyHome, 260), Some((3, Step::Report, ms(10), ms(160))));
        assert_eq!(way.pass(Mark::ReadyThere, 900), None, "it has become ready again");
        assert_eq!(way.pass(Mark::Leaving(3), 1000), None);
        assert_eq!(way.pass(Mark::Asked, 1010), Some((3, Step::Request, ms(10), ms(10))));
        assert_eq!(way.pass(Mark::Asked, 1020), None);
        assert_eq!(way.pass(Mark::Gone, 1100), Some((3, Step::Terminate, ms(90), ms(100))));
        assert_eq!(way.pass(Mark::Removed, 1105), Some((3, Step::Remove, ms(5), ms(105))));
        assert_eq!(way.pass(Mark::Removed, 1200), None);
    }

    #[test]
    fn what_was_there_before_has_an_end_alone() {
        let mut way = Way::default();
        way.pass(Mark::Bound(None), 0);
        assert_eq!((way.pass(Mark::Created(0), 1), way.pass(Mark::ReadyThere, 2)), (None, None));
        way.pass(Mark::Leaving(0), 3);
        assert_eq!(way.pass(Mark::Gone, 7), Some((0, Step::Terminate, ms(4), ms(4))), "whoever has stopped it");
        let mut seen_leaving = Way::default();
        assert_eq!(seen_leaving.pass(Mark::Leaving(0), 1), None);
        assert!(seen_leaving.is_new(), "nobody knows since when");
    }

    #[test]
    fn a_pod_that_was_taken_over_has_its_last_step_and_the_whole() {
        let mut way = Way::default();
        way.pass(Mark::Bound(Some(ms(900))), 1000);
        assert_eq!(way.pass(Mark::Found(1), 1010), None);
        assert_eq!(way.pass(Mark::ReadyThere, 1200), None);
        assert_eq!(way.pass(Mark::ReadyHome, 1205), Some((1, Step::Report, ms(5), ms(1105))));
        let mut ours = Way::default();
        ours.pass(Mark::Bound(NOW), 0);
        ours.pass(Mark::Found(1), 10);
        assert_eq!(ours.pass(Mark::Created(1), 12), Some((1, Step::Create, ms(12), ms(12))), "a list was faster");
    }

    #[test]
    fn time_in_which_nobody_looked_counts_and_the_clock_may_wrap_around() {
        let mut way = Way::default();
        way.pass(Mark::Bound(Some(ms(30_000))), 10);
        assert_eq!(way.pass(Mark::Created(0), 20), Some((0, Step::Create, ms(30_010), ms(30_010))));
        let mut way = Way::default();
        way.pass(Mark::Bound(NOW), u32::MAX);
        assert_eq!(way.pass(Mark::Created(0), 4), Some((0, Step::Create, ms(5), ms(5))));
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Way>() <= 12);
    }
}
