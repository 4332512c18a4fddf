//! All that there is: the host's API server and those of the sites, the pods on them, the processes, and what is under way
//! between them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::kubelet::sites::{Index, NOWHERE};
use crate::kubelet::step::{Health, InstanceView, Phase, ProxyView, Reach, Record};

/// How many pods in a row may have one name.
pub(super) const LIVES: usize = 2;

/// How many sites there may be.
pub(super) const SITES: usize = 2;

/// The UID of a proxy: which name, and its how manieth holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id {
    pub(super) name: u8,
    pub(super) life: u8,
}

impl Id {
    pub(super) fn index(self) -> usize {
        usize::from(self.name) * LIVES + usize::from(self.life)
    }
}

/// What somebody decided about containers that end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Policy {
    Never,
    OnFailure,
    Always,
}

/// What home shows, in as far as Longshore writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Status {
    pub(super) phase: Phase,
    /// A container has started once.
    pub(super) started: bool,
    pub(super) shown: Shown,
    /// It has failed because the target did not answer.
    pub(super) given_up: bool,
    /// The generation that the status belongs to; a generation is a `want` here.
    pub(super) observed: Option<u8>,
}

/// The rest of a status, by what it was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Shown {
    #[default]
    Nothing,
    Waiting,
    Leaving,
    Instance,
    Over,
}

/// A proxy on the host's API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Proxy {
    pub(super) id: Id,
    pub(super) version: u64,
    pub(super) deleting: Option<u32>,
    pub(super) status: Status,
    pub(super) want: u8,
    /// Where it runs; always there if there is one site only.
    pub(super) choice: Option<Index>,
}

impl Proxy {
    pub(super) fn live(&self) -> bool {
        self.deleting.is_none() && !self.status.phase.terminal()
    }

    /// Whether something of it may run at this site.
    pub(super) fn wants(&self, site: usize) -> bool {
        self.live() && self.choice.is_none_or(|choice| choice == NOWHERE || usize::from(choice) == site)
    }

    pub(super) fn view(&self, policy: Policy, sites: usize) -> ProxyView {
        let Status { phase, started, shown, .. } = self.status;
        ProxyView {
            version: self.version,
            deleting: self.deleting,
            health: Health { phase, ready: phase == Phase::Running && shown == Shown::Instance, trouble: false },
            replaceable: !started
                || match policy {
                    Policy::Never => false,
                    Policy::OnFailure => phase != Phase::Succeeded,
                    Policy::Always => true,
                },
            once: policy == Policy::Never,
            want: self.want.into(),
            site: self.choice,
            chosen: sites > 1 && self.choice.is_some(),
            given_up: self.status.given_up,
            evictable: false,
        }
    }
}

/// A delegate on the API server of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Inst {
    /// Which of its name.
    pub(super) uid: u8,
    /// The label with the proxy's UID.
    pub(super) owner: Id,
    pub(super) version: u64,
    pub(super) sent: u8,
    pub(super) deleting: Option<u32>,
    pub(super) phase: Phase,
    pub(super) started: bool,
    pub(super) site: Index,
}

impl Inst {
    pub(super) fn view(&self) -> InstanceView {
        InstanceView {
            uid: uid(self.uid),
            version: self.version,
            sent: self.sent.into(),
            deleting: self.deleting,
            health: Health { phase: self.phase, ready: self.phase == Phase::Running, trouble: false },
            started: self.started,
            site: self.site,
        }
    }
}

/// Names for instances; more than the faults of any configuration can make.
const UIDS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The UID of an instance.
pub(super) fn uid(number: u8) -> Arc<str> {
    // Millions of states mention the same few.
    thread_local!(static SHARED: [Arc<str>; UIDS.len()] = UIDS.map(Into::into));
    SHARED.with(|shared| shared[usize::from(number)].clone())
}

/// What an instance is called among those of its name.
pub(super) fn number(uid: &str) -> u8 {
    uid.bytes().next().map_or(0, |digit| digit - b'0')
}

/// One pod name everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) host: Option<Proxy>,
    pub(super) insts: [Option<Inst>; SITES],
    /// The process whose request, not given up, made what is in `insts`.
    pub(super) makers: [Option<usize>; SITES],
    /// The last version on each side.
    pub(super) versions: [u64; SIDES],
    /// How many proxies and instances there have been.
    pub(super) lives: u8,
    pub(super) instances: u8,
    /// How many changes of the spec the user still has in mind.
    pub(super) changes: u8,
    /// What is true of each life, whoever knows it.
    pub(super) truth: [Truth; LIVES],
}

impl Name {
    /// Whether something is there at any site.
    pub(super) fn runs(&self) -> bool {
        self.insts.iter().any(Option::is_some)
    }
}

/// Facts about a proxy UID that outlast both of its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub(super) struct Truth {
    /// An instance of it that had started went without having ended.
    pub(super) lost: bool,
    /// An instance of it ended like this.
    pub(super) succeeded: bool,
    pub(super) failed: bool,
    /// The user did not want to wait for its target any longer.
    pub(super) given_up: bool,
    /// A process has found that it could not start where it was.
    pub(super) moved: bool,
}

/// What a process has been told of a proxy UID, by any event or answer that it has read. Production has no such memory;
/// it is the yardstick for what the process could know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Told {
    /// A container has started.
    pub(super) started: bool,
    /// Home shows the end of the pod.
    pub(super) terminal: bool,
    /// Its last instance ended by itself; which that was.
    pub(super) ended: Option<u8>,
}

/// What comes down a watch, the lists included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Notice {
    Listing,
    Proxy(Proxy),
    NoProxy(Id),
    Inst(Inst),
    NoInst(Id, u8),
    Listed,
}

impl Notice {
    /// Whose news it is.
    pub(super) fn of(&self) -> Option<Id> {
        match self {
            Self::Proxy(proxy) => Some(proxy.id),
            Self::Inst(inst) => Some(inst.owner),
            Self::NoProxy(id) | Self::NoInst(id, _) => Some(*id),
            Self::Listing | Self::Listed => None,
        }
    }
}

/// The sides: the host's, and from here on one for each site.
pub(super) const HOST: usize = 0;
pub(super) const SITE: usize = 1;
pub(super) const SIDES: usize = SITE + SITES;

/// A watch of one side by one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Watch {
    /// It has begun with a list.
    pub(super) begun: bool,
    pub(super) complete: bool,
    pub(super) queue: VecDeque<Notice>,
}

impl Watch {
    /// How many events wait; a list does not count, which may be read as late as it likes.
    pub(super) fn behind(&self) -> usize {
        let list = self.queue.iter().rposition(|notice| *notice == Notice::Listed);
        self.queue.len() - list.map_or(0, |last| last + 1)
    }
}

/// A Longshore process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) watches: [Watch; SIDES],
    /// In the order of their ids.
    pub(super) entries: Vec<Entry>,
    /// The proxy that was last seen under each name.
    pub(super) named: Vec<Option<Id>>,
    pub(super) told: Vec<Told>,
    /// What it thinks of each site.
    pub(super) reach: [Reach; SITES],
}

/// What the table keeps of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) id: Id,
    pub(super) record: Record,
    pub(super) home: Option<Proxy>,
    /// The spec that is kept until an instance is made of it.
    pub(super) body: Option<u8>,
    /// The phase that the last status of an instance shows, and whether a container has started.
    pub(super) last: (Phase, bool),
    /// The same of the instance elsewhere.
    pub(super) other: (Phase, bool),
    /// Seen since the last list of each side began.
    pub(super) seen: [bool; SIDES],
    /// Timers that run.
    pub(super) due: bool,
    pub(super) retry: bool,
    /// Waits for a worker.
    pub(super) dirty: bool,
    /// What the worker waits for.
    pub(super) flight: Option<Flight>,
}

impl Entry {
    pub(super) fn new(id: Id) -> Self {
        Self {
            id,
            record: Record::default(),
            home: None,
            body: None,
            last: <_>::default(),
            other: <_>::default(),
            seen: [false; SIDES],
            due: false,
            retry: false,
            dirty: false,
            flight: None,
        }
    }
}

/// A request, and its answer once the server has acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flight {
    pub(super) request: Request,
    pub(super) reply: Option<Reply>,
    /// Where the pod was when it was sent.
    pub(super) place: Option<Index>,
    /// A list of that site has begun since, or an instance has gone.
    pub(super) old: bool,
    /// A list of the host has begun since.
    pub(super) host_old: bool,
}

/// A request with all that the server is told. `told` is what the sender had been told; the server does not look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    Create {
        site: Index,
        want: u8,
        told: Told,
    },
    Update {
        site: Index,
        instance: u8,
        want: u8,
    },
    Delete {
        site: Index,
        instance: u8,
        grace: Option<u32>,
    },
    Report {
        version: u64,
        status: Status,
    },
    /// Writes a choice: this site, or one that the chooser finds.
    Place {
        version: u64,
        site: Option<Index>,
        shunned: Option<Index>,
    },
    /// Writes a choice once more.
    Fence {
        version: u64,
        site: Index,
    },
    Find,
    /// Asks a site for the instance.
    Seek {
        site: Index,
    },
    /// The same, where it should not be.
    SeekElsewhere {
        site: Index,
    },
    DeleteProxy,
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Made(Inst),
    Namesake,
    Refused,
    Stopping,
    Gone,
    Patched(Proxy),
    Conflict,
    Found(Option<Proxy>),
    Deleted,
}

impl Reply {
    /// Changes whose it is.
    pub(super) fn rename(&mut self, change: impl Fn(&mut Id)) {
        match self {
            Self::Made(inst) => change(&mut inst.owner),
            Self::Patched(proxy) | Self::Found(Some(proxy)) => change(&mut proxy.id),
            _ => {}
        }
    }
}

/// A request whose sender waits no longer, and which may still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stray {
    pub(super) from: usize,
    pub(super) id: Id,
    pub(super) request: Request,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wrong {
    /// A delegate was removed while its containers ran, so that a namesake might start beside them.
    RemovedAlive,
    /// The terminal phase of a proxy changed.
    Undead,
    /// Longshore stopped an instance that should run.
    Reaped,
    /// Home was told of an end that has no cause.
    FailedWithoutCause,
    /// Longshore removed a proxy that nobody had deleted.
    DeletedWithoutCause,
    /// Longshore removed a proxy of which it ran an instance.
    DeletedTooEarly,
    /// A pod that may start once was started again by somebody who could know.
    StartedTwice,
    /// A pod that home shows as ended was started again by somebody who could know.
    StartedAfterEnd,
    /// A pod whose instance had ended by itself was started again by somebody who could know.
    RestartedCompleted,
    /// A pod has two instances, and whoever made the second could know.
    Doubled,
    /// One record makes decisions without end and without any event.
    Circles,
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) names: Vec<Name>,
    pub(super) processes: Vec<Process>,
    pub(super) strays: Vec<Stray>,
    /// How many faults may still happen.
    pub(super) faults: u8,
    /// A site was chosen once. Until then all sites are alike, and the first choice can be the first site.
    pub(super) chosen: bool,
    pub(super) wrong: Option<Wrong>,
}

impl World {
    pub(super) fn proxy(&self, id: Id) -> Option<&Proxy> {
        self.names[usize::from(id.name)].host.as_ref().filter(|proxy| proxy.id == id)
    }

    pub(super) fn name(&mut self, id: Id) -> &mut Name {
        &mut self.names[usize::from(id.name)]
    }

    /// Everything that a server writes is told to every watch that has begun.
    pub(super) fn tell(&mut self, side: usize, notice: Notice) {
        for process in &mut self.processes {
            if process.watches[side].begun {
                process.watches[side].queue.push_back(notice);
            }
        }
    }

    pub(super) fn blame(&mut self, wrong: Wrong) {
        self.wrong.get_or_insert(wrong);
    }
}
