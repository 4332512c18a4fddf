//! The life of one pod: a pure function from what has been seen to what should be written.
//!
//! [`step`] is the only source of writes for a pod's life, on either side. It works on small hashable records, so that a
//! model checker can run the very same function against every order of crashes, late answers and lost events.
//!
//! ```text
//!   host watch ──ProxySeen/Gone──▶ ┌────────┐ ──Create/Update/Delete──▶ provider ──┐
//!   provider ─InstanceSeen/Gone──▶ │ Record │ ──Report/DeleteProxy────▶ host ──────┤
//!          ┌──────Answer─────────▶ └────────┘                                      │
//!          └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Rules that the shape of this function keeps:
//!
//! - **Absence is knowledge.** Nothing is created, deleted or declared lost on the ground of something absent before that
//!   side has been listed completely ([`Presence::Unknown`] allows no conclusion).
//! - **The UID is the identity.** A record belongs to one proxy UID; an instance is stopped by its own UID; what has gone
//!   once does not come back through a late answer ([`Memo::buried`]).
//! - **A terminal phase is a latch.** A proxy that is Succeeded or Failed gets no new instance, ever.
//! - **Silence is no knowledge.** While the provider's side does not answer ([`Reach::Silent`]) nothing is started and nothing
//!   given up, unless the user has chosen that ([`Event::GiveUp`]).
//! - **Everything is safe twice.** Actions are derived from the record anew after every answer; the memo only spares
//!   writes (and holds back repetition after a failure), and losing it in a crash costs nothing but a repeated write.

use std::sync::Arc;

use super::partition::UNREACHABLE;
use super::provider::Obstacle;
use super::sites::{CHOICE, Index, NOWHERE};

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
}

/// Folds an event into the record and says what to do now, in this order. After an answer the list is derived anew; an
/// answer of [`Answer::Unchanged`] or [`Answer::Deferred`] goes on with the rest of the list.
pub fn step(record: &mut Record, event: Event) -> Vec<Action> {
    let wait = match &event {
        Event::Answer(Answer::Refused { retry: true, .. } | Answer::StopFailed | Answer::HostFailed) => {
            Some(Wait::Write)
        }
        Event::InstanceGone(_) | Event::NoInstance => Some(Wait::Loss),
        _ => None,
    };
    fold(record, event);
    let mut actions = decide(record);
    match wait {
        Some(Wait::Write) => actions.insert(0, Action::RetryAfter(record.memo.attempts)),
        Some(Wait::Loss) if record.memo.blocked => actions.insert(0, Action::RetryAfter(record.memo.losses)),
        _ => {}
    }
    actions
}

/// After what a [`Action::RetryAfter`] is due.
enum Wait {
    /// A write did not work.
    Write,
    /// The instance vanished, and not for the first time.
    Loss,
}

/// What is known after an event; never forgets something newer for something older.
fn fold(record: &mut Record, event: Event) {
    // Whatever happens is a reason to ask again; that time passes is none.
    record.memo.status_refused &= matches!(event, Event::Look | Event::ReportDue | Event::LiftDue | Event::Retry);
    match event {
        Event::ProxySeen(proxy) => see_proxy(record, proxy),
        Event::ProxyGone => {
            record.proxy = Presence::Absent;
            record.memo.proxy_buried = true;
            record.memo.watch_behind = false;
        }
        Event::InstanceSeen(instance) => see_instance(record, instance),
        Event::InstanceGone(uid) if record.elsewhere.as_ref().is_some_and(|other| other.uid == uid) => {
            record.elsewhere = None;
            record.memo.delete_blocked = false;
        }
        Event::InstanceGone(uid) => {
            // Of an instance that was never seen nothing follows for the one that is there.
            if record.instance.there().is_none_or(|known| known.uid == uid) {
                record.instance = succeed(record);
            }
            bury(record, uid);
        }
        Event::NoInstance => {
            let next = succeed(record);
            if let Presence::There(known) = std::mem::replace(&mut record.instance, next) {
                bury(record, known.uid);
            }
        }
        Event::Look => {}
        Event::Retry => {
            record.memo.blocked = false;
            record.memo.host_blocked = false;
            record.memo.delete_blocked = false;
        }
        Event::ReportDue => record.memo.report_due = true,
        // Whoever was told of the return since does not give up.
        Event::GiveUp => record.memo.give_up = record.reach == Reach::Silent,
        // Whatever has started has its place.
        Event::Move => {
            let stuck = |instance: &InstanceView| !instance.started && instance.deleting.is_none();
            record.memo.moving = record.instance.there().is_some_and(stuck);
        }
        Event::LiftDue => record.memo.lift_due = true,
        Event::Answer(answer) => learn(record, answer),
    }
}

/// An instance is gone. The first loss of a pod that should run is made good at once, further ones with backoff: something
/// over there may be deleting whatever we create.
fn bury(record: &mut Record, uid: Arc<str>) {
    record.memo.buried = Some(uid);
    record.memo.delete_blocked = false;
    if let Presence::There(proxy) = &record.proxy
        && proxy.deleting.is_none()
        && !proxy.health.phase.terminal()
        && !record.memo.moving
    {
        record.memo.losses = record.memo.losses.saturating_add(1);
        record.memo.blocked = record.memo.losses > 1;
        record.memo.tried = proxy.want;
    }
}

fn learn(record: &mut Record, answer: Answer) {
    match answer {
        Answer::Created(instance) | Answer::Updated(instance) => {
            record.memo.blocked = false;
            record.memo.attempts = 0;
            see_instance(record, instance);
        }
        Answer::Refused { obstacle, retry } => {
            if let Presence::There(proxy) = &record.proxy {
                record.memo.tried = proxy.want;
            }
            record.memo.obstacle = Some(obstacle);
            record.memo.blocked = true;
            if retry {
                record.memo.attempts = record.memo.attempts.saturating_add(1);
                record.memo.doubt = true;
                record.memo.sought = false;
            }
        }
        Answer::Doubtful(site) => {
            record.memo.doubt = true;
            record.memo.doubtful_at = site;
            record.memo.sought = false;
        }
        Answer::InstanceMissing => {
            record.memo.doubt = false;
            record.memo.sought = true;
            if record.proxy.there().is_none_or(|proxy| proxy.site == record.memo.doubtful_at) {
                record.memo.doubtful_at = None;
            }
        }
        Answer::NotElsewhere(site) => {
            if record.memo.doubtful_at == Some(site) {
                record.memo.doubtful_at = None;
            }
        }
        Answer::Stopping(uid, grace) => {
            record.memo.attempts = 0;
            let known = match &mut record.instance {
                Presence::There(instance) => Some(instance),
                Presence::Unknown | Presence::Absent => None,
            };
            for instance in known.into_iter().chain(record.elsewhere.as_deref_mut()).filter(|known| known.uid == uid) {
                instance.deleting = Some(instance.deleting.map_or(grace, |now| now.min(grace)));
            }
        }
        Answer::StopFailed => {
            record.memo.delete_blocked = true;
            record.memo.attempts = record.memo.attempts.saturating_add(1);
        }
        Answer::Reported(proxy) => {
            record.memo.report_due = false;
            record.memo.outdated = None;
            if record.memo.obstacle.is_none() {
                record.memo.attempts = 0;
            }
            see_proxy(record, proxy);
        }
        Answer::Placed(proxy) => {
            record.memo.outdated = None;
            record.memo.moving = false;
            record.memo.blocked = false;
            record.memo.attempts = 0;
            see_proxy(record, proxy);
        }
        Answer::Lifted(proxy) => {
            record.memo.outdated = None;
            record.memo.lift_due = false;
            see_proxy(record, proxy);
        }
        Answer::Unchanged => record.memo.report_due = false,
        Answer::Deferred => {}
        Answer::Conflict(version) => record.memo.outdated = Some(version),
        Answer::StatusRefused => record.memo.status_refused = true,
        Answer::HostFailed => {
            record.memo.host_blocked = true;
            record.memo.attempts = record.memo.attempts.saturating_add(1);
        }
        Answer::ProxyMissing => {
            record.proxy = Presence::Absent;
            record.memo.watch_behind = !record.memo.proxy_buried || record.memo.watch_behind;
            record.memo.proxy_buried = true;
        }
        Answer::ProxyDeleted => {
            // Finalizers may still hold it. Nothing of ours is left to do, and its DELETED event ends the record.
            if let Presence::There(proxy) = &mut record.proxy {
                proxy.deleting = Some(0);
            }
        }
    }
}

fn see_proxy(record: &mut Record, proxy: ProxyView) {
    if record.memo.proxy_buried {
        return;
    }
    if let Presence::There(known) = &record.proxy
        && proxy.version < known.version
    {
        return;
    }
    if proxy.want != record.memo.tried {
        record.memo.blocked = false;
    }
    if record.instance.there().is_some_and(|instance| instance.sent == proxy.want) {
        record.memo.obstacle = None;
    }
    // A report about the next instance may take this away from home again. (Of a pod that may start once, exactly what has
    // started cannot be replaced.)
    record.memo.ran |= proxy.once && !proxy.replaceable;
    record.memo.untouched =
        record.proxy.there().is_none_or(|known| record.memo.untouched && known.version == proxy.version);
    record.proxy = Presence::There(proxy);
    sort_out(record);
}

/// What is there once the instance has gone: the second one, if there is one.
fn succeed(record: &mut Record) -> Presence<InstanceView> {
    record.elsewhere.take().map_or(Presence::Absent, |other| Presence::There(*other))
}

/// Of two instances, the one where the proxy says counts.
fn sort_out(record: &mut Record) {
    if let (Presence::There(proxy), Presence::There(first), Some(second)) =
        (&record.proxy, &mut record.instance, &mut record.elsewhere)
        && proxy.site == Some(second.site)
    {
        std::mem::swap(first, second);
    }
}

fn see_instance(record: &mut Record, instance: InstanceView) {
    if record.memo.buried.as_ref() == Some(&instance.uid) {
        return;
    }
    if record.memo.doubtful_at == Some(instance.site) {
        record.memo.doubtful_at = None;
    }
    if let Presence::There(known) = &record.instance {
        // Versions of two servers say nothing of each other.
        let other = if known.site == instance.site { Some(known) } else { record.elsewhere.as_deref() };
        if other.is_some_and(|known| known.site == instance.site && instance.version < known.version) {
            return;
        }
        if known.site != instance.site {
            record.memo.ran |= instance.started;
            record.elsewhere = Some(Box::new(instance));
            sort_out(record);
            return;
        }
    }
    // What an update has met stays until the instance follows.
    let follows = record.proxy.there().is_none_or(|proxy| proxy.want == instance.sent);
    if follows || record.instance.there().is_none_or(|known| known.uid != instance.uid) {
        record.memo.obstacle = None;
    }
    // Where the proxy does not say, it is not what the doubt is about.
    record.memo.doubt &= record.proxy.there().is_some_and(|proxy| misplaced(proxy, &instance));
    record.memo.sought = false;
    record.memo.ran |= instance.started;
    record.memo.moving &= !instance.started;
    if instance.health.phase.terminal() && instance.deleting.is_none() {
        record.memo.ended = Some(instance.uid.clone());
    } else if record.memo.ended.as_ref() != Some(&instance.uid) {
        record.memo.ended = None;
    }
    if instance.health.ready {
        record.memo.losses = 0;
    }
    record.instance = Presence::There(instance);
}

/// What to do about a record. Depends on nothing else.
fn decide(record: &Record) -> Vec<Action> {
    let mut actions = decide_first(record);
    // Last, since its site may be out of reach.
    if let Some(second) = record.elsewhere.as_deref().filter(|second| second.deleting.is_none())
        && (record.proxy.there().is_some() || record.memo.proxy_buried)
    {
        actions.extend(stop(record, second, None));
    }
    actions
}

fn decide_first(record: &Record) -> Vec<Action> {
    match &record.proxy {
        Presence::Unknown => vec![],
        Presence::Absent => orphan(record),
        Presence::There(proxy) if given_up(record, proxy) => give_up(record, proxy),
        Presence::There(proxy) if proxy.deleting.is_some() => leave(record, proxy),
        Presence::There(proxy) if proxy.health.phase.terminal() => rest(record, proxy),
        Presence::There(proxy) => live(record, proxy),
    }
}

/// No proxy: what runs for it must end, with the grace period that it has by itself, as a kubelet does with a pod whose
/// object was removed by force. A proxy that was never seen is asked for first: its instance may be the work of another
/// process, of which the target's watch told sooner than the host's tells of the proxy.
fn orphan(record: &Record) -> Vec<Action> {
    match &record.instance {
        Presence::There(_) if !record.memo.proxy_buried => {
            if record.memo.host_blocked {
                vec![]
            } else {
                vec![Action::FindProxy]
            }
        }
        Presence::There(instance) if instance.deleting.is_none() => stop(record, instance, None),
        // A forgotten record is no tombstone: an older event would raise the proxy, and start it again.
        Presence::Absent if !record.memo.watch_behind => vec![Action::Forget],
        Presence::There(_) | Presence::Absent | Presence::Unknown => vec![],
    }
}

/// Whether the proxy ends because its side is silent, or has ended so.
fn given_up(record: &Record, proxy: &ProxyView) -> bool {
    proxy.given_up || (record.reach == Reach::Silent && record.memo.give_up && !proxy.health.phase.terminal())
}

/// The user has chosen not to wait for a silent side: the pod fails, and goes, so that its controller starts another one.
/// What may still run over there is stopped as soon as it can be reached.
fn give_up(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    let mut actions = match &record.instance {
        Presence::There(instance) if instance.deleting.is_none() => stop(record, instance, None),
        _ => vec![],
    };
    if !proxy.health.phase.terminal() {
        actions = report(record, proxy, Evidence::GivenUp, true);
    }
    let shown = proxy.health.phase.terminal() || record.memo.status_refused;
    if shown && proxy.deleting != Some(0) && !record.memo.host_blocked {
        actions.insert(0, Action::DeleteProxy);
    }
    actions
}

/// The proxy is being deleted: stop the instance, show how it ends, and go last.
fn leave(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    // A grace period of zero on a live instance would let a namesake start before its containers have stopped.
    let grace = proxy.deleting.map(|seconds| seconds.max(1));
    match &record.instance {
        Presence::Unknown => vec![],
        Presence::There(instance) => {
            let asked = instance.deleting.is_some_and(|now| grace.is_some_and(|grace| now <= grace));
            let mut actions = if asked { vec![] } else { stop(record, instance, grace) };
            // What a late request has started after the end is stopped, but no news: a terminal phase never changes.
            if !proxy.health.phase.terminal() || instance.health.phase == proxy.health.phase {
                actions.extend(mirror(record, proxy, instance, Evidence::Instance));
            }
            actions
        }
        Presence::Absent if doubtful_elsewhere(record, proxy).is_some() => seek_elsewhere(record, proxy),
        // Whoever has seen the instance go need not ask; the provider's watch may be behind the host's.
        Presence::Absent if !sought(record, proxy) && (record.memo.doubt || record.memo.buried.is_none()) => {
            seek(record, proxy)
        }
        Presence::Absent if !proxy.health.phase.terminal() && !record.memo.status_refused => {
            let evidence = if record.memo.ended.is_some() { Evidence::Instance } else { Evidence::Ended };
            report(record, proxy, evidence, true)
        }
        // With a grace of zero the host itself removes it, as soon as its finalizers allow.
        Presence::Absent if proxy.deleting == Some(0) || record.memo.host_blocked => vec![],
        Presence::Absent => vec![Action::DeleteProxy],
    }
}

/// The proxy is Succeeded or Failed: nothing starts any more, and what still runs is a stale copy. What has ended as well
/// stays, for its logs, until the proxy goes.
fn rest(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    match &record.instance {
        Presence::There(instance) if !instance.health.phase.terminal() && instance.deleting.is_none() => {
            stop(record, instance, None)
        }
        Presence::There(instance) if instance.health.phase == proxy.health.phase => {
            mirror(record, proxy, instance, Evidence::Instance)
        }
        _ => vec![],
    }
}

/// The proxy should run.
fn live(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    let outdated = outdated(record, proxy);
    let mut actions = if record.memo.lift_due && proxy.evictable && !outdated && !record.memo.host_blocked {
        vec![Action::Lift]
    } else {
        vec![]
    };
    actions.extend(match record.reach {
        Reach::Fine => keep(record, proxy),
        Reach::Silent if proxy.site == Some(NOWHERE) => report(record, proxy, Evidence::Waiting(astray()), true),
        Reach::Silent => report(record, proxy, Evidence::Waiting(silent()), true),
        Reach::Returning => vec![],
    });
    actions
}

/// The proxy should run, and its side answers.
fn keep(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    match &record.instance {
        // What runs is not called unready for that: the list may come in a moment.
        Presence::Unknown if proxy.health.phase == Phase::Pending => {
            report(record, proxy, Evidence::Waiting(unlisted()), false)
        }
        Presence::Unknown => vec![],
        // A choice was changed although something runs elsewhere: never two at once.
        Presence::There(instance) if misplaced(proxy, instance) => {
            let mut actions = if instance.deleting.is_none() { stop(record, instance, None) } else { vec![] };
            actions.extend(report(record, proxy, Evidence::Leaving, true));
            actions
        }
        Presence::There(instance) if record.memo.moving && !instance.started => {
            if instance.deleting.is_none() {
                stop(record, instance, None)
            } else {
                vec![]
            }
        }
        Presence::There(instance) if instance.deleting.is_some() => {
            if replaceable(record, proxy) || !instance.health.phase.terminal() {
                report(record, proxy, Evidence::Leaving, true)
            } else {
                mirror(record, proxy, instance, Evidence::Instance)
            }
        }
        Presence::There(instance) => {
            let mut actions = vec![];
            // It was started when there was nothing to choose.
            if proxy.site.is_none() && !outdated(record, proxy) && !record.memo.host_blocked {
                actions.push(Action::Place);
            }
            if instance.sent != proxy.want && !instance.health.phase.terminal() && !record.memo.blocked {
                actions.push(Action::Update);
            }
            actions.extend(mirror(record, proxy, instance, Evidence::Instance));
            actions
        }
        Presence::Absent if doubtful_elsewhere(record, proxy).is_some() => seek_elsewhere(record, proxy),
        // It was removed over there before home was told of its end: that end counts.
        Presence::Absent if record.memo.ended.is_some() => report(record, proxy, Evidence::Instance, true),
        // Nothing is given up for lost on the ground of a watch that may be behind what another process has done.
        Presence::Absent if !replaceable(record, proxy) && !sought(record, proxy) => seek(record, proxy),
        Presence::Absent if !replaceable(record, proxy) => report(record, proxy, Evidence::Lost, true),
        Presence::Absent => {
            let mut actions = vec![];
            if !record.memo.blocked {
                let placed = proxy.site.is_some() && !record.memo.moving;
                if placed && !(proxy.chosen && record.memo.untouched) {
                    actions.push(Action::Create);
                } else if !outdated(record, proxy) && !record.memo.host_blocked {
                    actions.push(if placed { Action::Fence } else { Action::Place });
                }
            }
            if let Some(obstacle) = &record.memo.obstacle {
                actions.extend(report(record, proxy, Evidence::Waiting(obstacle.clone()), false));
            }
            actions
        }
    }
}

/// The obstacle of a pod for which nothing can be decided yet. It is shown only if it lasts for as long as a report may wait.
fn unlisted() -> Obstacle {
    Obstacle {
        reason: UNREACHABLE.into(),
        message:
            "what runs in the target is not known yet: it has not been listed completely; the conditions of the node \
                  tell if anything is wrong"
                .into(),
    }
}

/// Whether an instance is where its proxy does not say.
fn misplaced(proxy: &ProxyView, instance: &InstanceView) -> bool {
    // One whose choice names no site of this node has to be where it is.
    proxy.site.is_some_and(|site| site != instance.site && site != NOWHERE)
}

/// The obstacle of a pod whose side does not answer. It says always the same, or each attempt would be a write.
fn silent() -> Obstacle {
    Obstacle {
        reason: UNREACHABLE.into(),
        message: "the target does not answer; what runs there may go on, but nothing is known of it".into(),
    }
}

/// The obstacle of a pod whose choice names none of the node's sites: it may run there, so that it is started nowhere else.
fn astray() -> Obstacle {
    Obstacle {
        reason: "TargetUnknown".into(),
        message: format!(
            "its annotation {CHOICE} names a target that this node does not have (any more), where it may run; give the node that \
             target, or delete the pod by force"
        ),
    }
}

/// Whether a new instance may take the place of one that vanished.
fn replaceable(record: &Record, proxy: &ProxyView) -> bool {
    proxy.replaceable && record.memo.ended.is_none() && !(proxy.once && record.memo.ran)
}

/// Whether an absence needs no further question: the provider was asked, or there is no site that could be asked, since the
/// choice is written before anything is created.
fn sought(record: &Record, proxy: &ProxyView) -> bool {
    record.memo.sought || proxy.site.is_none()
}

fn seek(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    // At a site that is no more there is nobody to ask.
    if record.memo.delete_blocked || proxy.site == Some(NOWHERE) { vec![] } else { vec![Action::FindInstance] }
}

/// Where something may be that was made before another site was chosen. Nothing is made at the other, nor is it said that all
/// is over, before that is known.
fn doubtful_elsewhere(record: &Record, proxy: &ProxyView) -> Option<Index> {
    record.memo.doubtful_at.filter(|site| proxy.site != Some(*site))
}

fn seek_elsewhere(record: &Record, proxy: &ProxyView) -> Vec<Action> {
    let site = doubtful_elsewhere(record, proxy).filter(|_| !record.memo.delete_blocked);
    site.map(Action::FindElsewhere).into_iter().collect()
}

fn stop(record: &Record, instance: &InstanceView, grace: Option<u32>) -> Vec<Action> {
    if record.memo.delete_blocked {
        return vec![];
    }
    vec![Action::Delete { instance: instance.uid.clone(), site: instance.site, grace }]
}

/// A report of the instance's status: at once when it changes what controllers act on, else within a second.
fn mirror(record: &Record, proxy: &ProxyView, instance: &InstanceView, evidence: Evidence) -> Vec<Action> {
    let urgent = instance.health != proxy.health;
    report(record, proxy, evidence, urgent)
}

/// The proxy has changed since it was last read.
fn outdated(record: &Record, proxy: &ProxyView) -> bool {
    record.memo.outdated.is_some_and(|version| proxy.version <= version)
}

fn report(record: &Record, proxy: &ProxyView, evidence: Evidence, urgent: bool) -> Vec<Action> {
    if outdated(record, proxy) || record.memo.host_blocked || record.memo.status_refused {
        return vec![];
    }
    vec![Action::Report { evidence, urgent: urgent || record.memo.report_due }]
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
