//! The words of [`step`](super::step): what is remembered of a pod, what may happen, and what may be written.

use std::sync::Arc;

use crate::kubelet::provider::Obstacle;
use crate::kubelet::sites::{Index, NOWHERE};

/// `v1.PodPhase`; an unknown or empty phase counts as pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Accepted, not all containers started.
    #[default]
    Pending,
    /// Bound, at least one container started.
    Running,
    /// All containers ended well.
    Succeeded,
    /// At least one container ended badly, or the pod was ended from outside.
    Failed,
}

impl Phase {
    /// The phase by its name in the API.
    pub fn parse(name: &str) -> Self {
        match name {
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Pending,
        }
    }

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Succeeded or Failed: the end of a pod's life.
    pub fn terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What is known of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Presence<T> {
    /// That side has not been listed completely; it may be there.
    #[default]
    Unknown,
    /// It is not there, for certain.
    Absent,
    /// It was there when last seen.
    There(T),
}

impl<T> Presence<T> {
    /// What is there, if anything.
    pub fn there(&self) -> Option<&T> {
        match self {
            Self::There(it) => Some(it),
            Self::Unknown | Self::Absent => None,
        }
    }
}

/// The parts of a status that decide how urgent a report is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Health {
    /// The phase.
    pub phase: Phase,
    /// Condition `ContainersReady` of an instance, `Ready` of a proxy without readiness gates.
    pub ready: bool,
    /// A container waits for a reason that somebody should look at (`CrashLoopBackOff`, `ErrImagePull`, …).
    pub trouble: bool,
}

/// Whether the provider's side can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reach {
    /// It answers, or may only have missed a moment.
    #[default]
    Fine,
    /// It has not answered for as long as a short break may take.
    Silent,
    /// It answers again, and what has no owner any more is stopped over there before anything else happens.
    Returning,
}

/// The proxy pod, as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts about one pod")]
pub struct ProxyView {
    /// Its resource version.
    pub version: u64,
    /// Grace period in seconds of a proxy that is being deleted.
    pub deleting: Option<u32>,
    /// What home shows.
    pub health: Health,
    /// An instance that vanished may be replaced by a new one, by what home shows: nothing has started yet, or the
    /// restart policy would start again every container that has.
    pub replaceable: bool,
    /// The restart policy is Never: no second start, even where home does not know of the first yet.
    pub once: bool,
    /// Fingerprint of what an instance should be made of.
    pub want: u64,
    /// It was failed because its side did not answer, and is to be removed.
    pub given_up: bool,
    /// Where its instance is, if it has one; `None` where that is still to be chosen, so that it can have none.
    pub site: Option<Index>,
    /// That place was chosen and written on it, and may be written anew.
    pub chosen: bool,
    /// The host's node controller would evict it some time after this node or its side stops answering, only because
    /// nobody has said otherwise.
    pub evictable: bool,
}

/// The provider's instance, as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstanceView {
    /// Unique for ever.
    pub uid: Arc<str>,
    /// Grows with every change.
    pub version: u64,
    /// Fingerprint of what it was made from.
    pub sent: u64,
    /// Grace period in seconds of an instance that is being deleted.
    pub deleting: Option<u32>,
    /// What it reports.
    pub health: Health,
    /// A container of it has started.
    pub started: bool,
    /// Where it is.
    pub site: Index,
}

/// Everything about one proxy UID that decisions depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// The host's side.
    pub proxy: Presence<ProxyView>,
    /// The provider's side.
    pub instance: Presence<InstanceView>,
    /// A second instance, at another site than the first: the work of a request that came late. One of the two has to go.
    pub elsewhere: Option<Box<InstanceView>>,
    /// Whether the provider's side answers.
    pub reach: Reach,
    /// What spares repetition; empty after a restart.
    pub memo: Memo,
}

impl Record {
    /// The instances that are there, as far as is known, each at a site of its own.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceView> {
        self.instance.there().into_iter().chain(self.elsewhere.as_deref())
    }
}

/// Volatile memory that spares writes. Decisions without it are the same or come later, never different.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other; a state machine would multiply them"
)]
pub struct Memo {
    /// The last instance that went, so that an answer which arrives after its end does not raise it again.
    pub buried: Option<Arc<str>>,
    /// An instance has started a container, whether home knows or not.
    pub ran: bool,
    /// The last instance has ended by itself, whether home knows or not.
    pub ended: Option<Arc<str>>,
    /// The proxy went: its UID never returns.
    pub proxy_buried: bool,
    /// A create may have worked without an answer that counts: absence is no knowledge until the provider was asked.
    pub doubt: bool,
    /// An answer has told of an instance at this site, and came too late to count: it is there, or has gone since.
    pub doubtful_at: Option<Index>,
    /// The provider was asked since, and has none.
    pub sought: bool,
    /// That it went was an answer, and the watch may still tell of the time before.
    pub watch_behind: bool,
    /// Why the last create or update did not work; shown at home until it does, or is not needed any more.
    pub obstacle: Option<Obstacle>,
    /// Create and update wait for [`Event::Retry`], or for a change of [`ProxyView::want`].
    pub blocked: bool,
    /// Why the provider refuses the pod for good; home shows that it has failed, unless there is an instance after all.
    pub rejected: Option<Box<Obstacle>>,
    /// The `want` that `blocked` and `obstacle` belong to.
    pub tried: u64,
    /// Writes to the proxy wait until its version is beyond this: the last write lost against another writer.
    pub outdated: Option<u64>,
    /// Writes to the proxy wait for [`Event::Retry`].
    pub host_blocked: bool,
    /// The host has refused what it should show, and would again until something changes.
    pub status_refused: bool,
    /// Failures in a row, for the backoff.
    pub attempts: u32,
    /// Instances that vanished in a row, without one having become ready.
    pub losses: u32,
    /// A change that may wait has waited long enough.
    pub report_due: bool,
    /// Stopping the instance, or asking for it, waits for [`Event::Retry`].
    pub delete_blocked: bool,
    /// It has been silent over there for as long as the user wants to wait.
    pub give_up: bool,
    /// It is time to keep the host from evicting the proxy.
    pub lift_due: bool,
    /// The instance could not start where it is, and another site is to be chosen once it has gone.
    pub moving: bool,
    /// The proxy is as it was when it was first seen, so that the choice of another process, which may be no more, could still
    /// arrive.
    pub untouched: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The host shows the proxy.
    ProxySeen(ProxyView),
    /// The host shows that the proxy has gone.
    ProxyGone,
    /// The provider shows an instance.
    InstanceSeen(InstanceView),
    /// The provider shows that this instance has gone.
    InstanceGone(Arc<str>),
    /// The provider's list is complete and has no instance of this proxy, apart from what came after it.
    NoInstance,
    /// Nothing: look again.
    Look,
    /// The time of a backoff is over.
    Retry,
    /// The time in which a report may wait is over.
    ReportDue,
    /// The provider's side has been silent for as long as the user wants to wait.
    GiveUp,
    /// The instance has not been able to start where it is for too long, and there are other sites.
    Move,
    /// The proxy is old enough, or its side doubtful enough, to be kept from eviction.
    LiftDue,
    /// An action was carried out.
    Answer(Answer),
}

/// The outcome of an action.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Created, or found to be there already.
    Created(InstanceView),
    /// Updated.
    Updated(InstanceView),
    /// An answer came from this site, if it was one, but that was listed meanwhile, and nobody can tell which of the two is
    /// older.
    Doubtful(Option<Index>),
    /// The provider was asked for the instance and has none.
    InstanceMissing,
    /// This site, where the instance should not be, was asked for it and has none.
    NotElsewhere(Index),
    /// Create or update did not work.
    Refused {
        /// Why, for people.
        obstacle: Obstacle,
        /// Whether time alone may cure it; otherwise only a change of the pod does.
        retry: bool,
    },
    /// The provider refuses the pod for good, and has created nothing for it this time.
    Rejected(Obstacle),
    /// The instance is stopping with this grace period.
    Stopping(Arc<str>, u32),
    /// Stopping did not work, or nobody answered.
    StopFailed,
    /// The report was written and this is the proxy now.
    Reported(ProxyView),
    /// The site was chosen and written, and this is the proxy now.
    Placed(ProxyView),
    /// The proxy is kept from eviction, and this is it now.
    Lifted(ProxyView),
    /// Home shows it already.
    Unchanged,
    /// A report that may wait is waiting.
    Deferred,
    /// The host has refused a write because the proxy has changed since it was seen in this version.
    Conflict(u64),
    /// The host refuses to show this, however often it is asked.
    StatusRefused,
    /// The host has refused a write, or did not answer.
    HostFailed,
    /// The proxy is gone, or going.
    ProxyDeleted,
    /// The host was asked for the proxy and does not have it (any more).
    ProxyMissing,
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Choose a site and write it on the proxy: [`Answer::Placed`].
    Place,
    /// Write the choice on the proxy once more, so that none arrives that was made before: [`Answer::Placed`].
    Fence,
    /// Start an instance.
    Create,
    /// Make the instance follow the proxy.
    Update,
    /// Stop this instance; `None` leaves the grace period to the instance's own spec.
    Delete {
        /// Which.
        instance: Arc<str>,
        /// Where it is.
        site: Index,
        /// Seconds.
        grace: Option<u32>,
    },
    /// Make home show this, unless it does already.
    Report {
        /// What.
        evidence: Evidence,
        /// At once; otherwise it may wait for up to a second, to be merged with what comes next.
        urgent: bool,
    },
    /// Keep the host from evicting the proxy: [`Answer::Lifted`].
    Lift,
    /// Ask the host for the proxy, which no list or watch has shown: [`Event::ProxySeen`] or [`Answer::ProxyMissing`].
    FindProxy,
    /// Ask the provider for an instance that a lost request may have made: [`Answer::Created`] if there is one, else
    /// [`Answer::InstanceMissing`]; without an answer [`Answer::StopFailed`].
    FindInstance,
    /// Ask a site where it should not be for an instance of which an answer has told: [`Answer::Created`] if it is there, else
    /// [`Answer::NotElsewhere`]; without an answer [`Answer::StopFailed`].
    FindElsewhere(Index),
    /// Remove the proxy from the host for good.
    DeleteProxy,
    /// Come back with [`Event::Retry`] after a backoff for this many failures in a row.
    RetryAfter(u32),
    /// Everything is over: the record can be dropped.
    Forget,
}

/// What home should show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The instance's own status; its last one, if it has gone.
    Instance,
    /// Somebody stops the instance over there. Not ready, but no more than that: it has not ended yet, or it will be
    /// replaced.
    Leaving,
    /// There is no instance yet, because of this.
    Waiting(Obstacle),
    /// The proxy was deleted and nothing runs (any more): its containers ended, as far as anyone knows.
    Ended,
    /// The instance vanished and cannot be replaced: the pod has failed.
    Lost,
    /// The provider's side is silent for longer than the user wants to wait: the pod has failed.
    GivenUp,
    /// The provider refuses the pod because of this, and nothing was ever started: the pod has failed.
    Rejected(Obstacle),
}

/// Whether an instance is where its proxy does not say.
pub(super) fn misplaced(proxy: &ProxyView, instance: &InstanceView) -> bool {
    // One whose choice names no site of this node has to be where it is.
    proxy.site.is_some_and(|site| site != instance.site && site != NOWHERE)
}
