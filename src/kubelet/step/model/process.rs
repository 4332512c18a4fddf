//! A process: the table and the thin shell around `step`, told in the model's terms.
//!
//! It follows `table.rs`, `pods.rs` and `pods/perform.rs` line by line where an order of events depends on it. A worker
//! does everything between two requests in one go: nothing else can change its record there that could not as well have
//! done so before or after, since a record is only ever changed under its lock and each change is followed by `decide`.

use super::mutants::Mutant;
use super::world::{
    Entry, Flight, HOST, Id, Inst, Notice, Policy, Process, Proxy, Reply, Request, SITE, Shown, Status, Told, World,
    Wrong, number, uid,
};
use crate::kubelet::provider::Obstacle;
use crate::kubelet::sites::Index;
use crate::kubelet::step::{Action, Answer, Event, Evidence, InstanceView, Phase, Presence, Reach, Record};

/// Decisions without a request, after which a record goes in circles.
const PATIENCE: usize = 16;

/// One process, with what it needs to know of the configuration.
pub(super) struct Shell<'a> {
    pub(super) process: &'a mut Process,
    pub(super) policies: &'a [Policy],
    pub(super) sites: usize,
    pub(super) prompt: bool,
    pub(super) mutant: Option<Mutant>,
}

/// What became of an action.
enum Done {
    /// A request is under way.
    Sent,
    /// These follow.
    Then(Vec<Action>),
    /// The list goes on.
    Next,
}

pub(super) fn entry(process: &mut Process, id: Id) -> Option<&mut Entry> {
    process.entries.iter_mut().find(|entry| entry.id == id)
}

impl Shell<'_> {
    /// Reads the next notice of a watch.
    pub(super) fn notice(&mut self, side: usize) {
        let Some(notice) = self.process.watches[side].queue.pop_front() else { return };
        match notice {
            Notice::Listing => self.listing(side),
            Notice::Listed => self.listed(side),
            Notice::Proxy(proxy) => {
                self.proxy_seen(proxy);
                self.add(proxy.id);
            }
            Notice::NoProxy(id) => {
                self.entry(id);
                self.step(id, Event::ProxyGone);
                self.at(id, |entry| entry.body = None);
                self.add(id);
            }
            Notice::Inst(inst) => {
                self.entry(inst.owner);
                self.see_instance(inst, Event::InstanceSeen);
                self.add(inst.owner);
            }
            Notice::NoInst(id, uid) => {
                let actions = self.gone(id, uid);
                self.start_timers(id, &actions);
                self.add(id);
            }
        }
    }

    pub(super) fn listing(&mut self, side: usize) {
        self.process.watches[side].complete = false;
        for entry in &mut self.process.entries {
            entry.seen[side] = false;
            if side == HOST && entry.record.proxy == Presence::Absent && !entry.record.memo.proxy_buried {
                entry.record.proxy = Presence::Unknown;
            }
            if let Some(flight) = &mut entry.flight {
                let counts = self.mutant != Some(Mutant::TrustsOldAnswers);
                flight.host_old |= side == HOST && counts;
                flight.old |= flight.place.is_some_and(|place| SITE + usize::from(place) == side) && counts;
            }
        }
    }

    fn listed(&mut self, side: usize) {
        self.process.watches[side].complete = true;
        let ids: Vec<_> = self.process.entries.iter().map(|entry| entry.id).collect();
        for id in ids {
            let mut gone = None;
            self.at(id, |entry| {
                let Record { proxy, instance, elsewhere, memo, .. } = &entry.record;
                gone = match (instance, elsewhere) {
                    _ if entry.seen[side] => None,
                    _ if side == HOST => (proxy.there().is_some() || memo.watch_behind).then_some(Event::ProxyGone),
                    (Presence::There(first), _) if SITE + usize::from(first.site) == side => Some(Event::NoInstance),
                    (_, Some(second)) if SITE + usize::from(second.site) == side => {
                        Some(Event::InstanceGone(second.uid.clone()))
                    }
                    _ => None,
                };
            });
            if let Some(gone) = gone {
                let actions = self.raw_step(id, gone);
                self.start_timers(id, &actions);
            }
            self.add(id);
        }
    }

    /// A worker takes a key.
    pub(super) fn work(&mut self, id: Id) -> Result<(), Wrong> {
        self.at(id, |entry| entry.dirty = false);
        let actions = self.step(id, Event::Look);
        self.carry_out(id, actions)
    }

    pub(super) fn timer(&mut self, id: Id, event: Event) {
        self.at(id, |entry| match event {
            Event::Retry => entry.retry = false,
            _ => entry.due = false,
        });
        self.step(id, event);
        self.add(id);
    }

    /// The worker reads the answer to its request.
    pub(super) fn answered(&mut self, id: Id, flight: Flight) -> Result<(), Wrong> {
        self.at(id, |entry| entry.flight = None);
        self.conclude(id);
        let moved = flight.place != self.place(id);
        let actions = match (flight.request, flight.reply) {
            (_, Some(Reply::Made(_))) if flight.old || flight.place.is_none() => {
                // One site cannot be confused with another.
                let site = flight.place.filter(|_| self.sites > 1);
                self.step(id, Event::Answer(Answer::Doubtful(site)))
            }
            (Request::Find, Some(Reply::Found(Some(_)))) if flight.host_old => self.step(id, Event::Look),
            (
                Request::Create { .. } | Request::Seek { .. } | Request::SeekElsewhere { .. },
                Some(Reply::Made(inst)),
            ) => self.see_instance(inst, created),
            (Request::SeekElsewhere { site }, Some(_)) => self.step(id, Event::Answer(Answer::NotElsewhere(site))),
            (Request::Update { .. }, Some(Reply::Made(inst))) => self.see_instance(inst, updated),
            (_, Some(Reply::Namesake)) => self.refused(id, NAMESAKE),
            (_, Some(Reply::Refused)) => self.refused(id, "Refused"),
            (Request::Create { .. } | Request::Update { .. }, _) => self.refused(id, "NoAnswer"),
            (Request::Delete { instance, grace, .. }, Some(Reply::Stopping)) => {
                self.step(id, Event::Answer(Answer::Stopping(uid(instance), grace.unwrap_or(0))))
            }
            (Request::Delete { instance, .. }, Some(_)) => self.gone(id, instance),
            (Request::Seek { .. }, Some(_)) if moved => self.step(id, Event::Look),
            (Request::Seek { .. }, Some(_)) => self.step(id, Event::Answer(Answer::InstanceMissing)),
            (Request::Delete { .. } | Request::Seek { .. } | Request::SeekElsewhere { .. }, None) => {
                self.step(id, Event::Answer(Answer::StopFailed))
            }
            (request, Some(Reply::Patched(proxy))) => {
                self.tell_of_proxy(&proxy);
                let view = proxy.view(self.policy(id), self.sites);
                let placed = matches!(request, Request::Place { .. } | Request::Fence { .. });
                let answer = if placed { Answer::Placed(view) } else { Answer::Reported(view) };
                self.see_proxy(proxy, Event::Answer(answer))
            }
            (
                Request::Report { version, .. } | Request::Place { version, .. } | Request::Fence { version, .. },
                Some(_),
            ) => self.step(id, Event::Answer(Answer::Conflict(version))),
            (Request::Find, Some(Reply::Found(Some(proxy)))) => {
                self.proxy_seen(proxy);
                self.step(id, Event::Look)
            }
            (Request::Find, Some(_)) => self.step(id, Event::Answer(Answer::ProxyMissing)),
            (Request::DeleteProxy, Some(_)) => self.step(id, Event::Answer(Answer::ProxyDeleted)),
            (
                Request::Report { .. }
                | Request::Place { .. }
                | Request::Fence { .. }
                | Request::Find
                | Request::DeleteProxy,
                None,
            ) => self.step(id, Event::Answer(Answer::HostFailed)),
        };
        self.carry_out(id, actions)
    }

    fn carry_out(&mut self, id: Id, mut actions: Vec<Action>) -> Result<(), Wrong> {
        for _ in 0..PATIENCE {
            if actions.is_empty() {
                return Ok(());
            }
            match self.perform(id, actions.remove(0)) {
                Done::Sent => return Ok(()),
                Done::Then(next) => actions = next,
                Done::Next => {}
            }
        }
        Err(Wrong::Circles)
    }

    fn perform(&mut self, id: Id, action: Action) -> Done {
        match action {
            Action::Create | Action::Update => {
                let update = action == Action::Update;
                match entry(self.process, id).and_then(|entry| entry.body) {
                    Some(want) if self.send_document(id, update, want) => Done::Sent,
                    Some(_) => Done::Then(self.step(id, Event::Look)),
                    None => self.send(id, Request::Find),
                }
            }
            Action::Delete { site, .. } if usize::from(site) >= self.sites => Done::Then(vec![]),
            Action::Delete { instance, site, grace } => {
                self.send(id, Request::Delete { site, instance: number(&instance), grace })
            }
            Action::Report { evidence, urgent } => self.report(id, &evidence, urgent),
            Action::FindProxy => self.send(id, Request::Find),
            Action::FindInstance => match self.provider(id) {
                Some(site) => self.send(id, Request::Seek { site }),
                None => Done::Then(self.step(id, Event::Answer(Answer::StopFailed))),
            },
            Action::FindElsewhere(site) => {
                self.send(id, Request::SeekElsewhere { site });
                self.at(id, |entry| entry.flight.iter_mut().for_each(|flight| flight.place = Some(site)));
                Done::Sent
            }
            Action::Place => self.place_it(id),
            Action::Fence => {
                let version =
                    entry(self.process, id).and_then(|entry| entry.record.proxy.there()).map(|known| known.version);
                match (version, self.provider(id)) {
                    (Some(version), Some(site)) => self.send(id, Request::Fence { version, site }),
                    _ => Done::Then(self.step(id, Event::Look)),
                }
            }
            Action::DeleteProxy => self.send(id, Request::DeleteProxy),
            // No proxy of the model is evictable.
            Action::Lift => Done::Next,
            Action::RetryAfter(_) => {
                self.at(id, |entry| entry.retry = true);
                Done::Next
            }
            Action::Forget => {
                let over = |record: &Record| record.proxy == Presence::Absent && record.instance == Presence::Absent;
                self.process.entries.retain(|entry| entry.id != id || !over(&entry.record));
                let holder = &mut self.process.named[usize::from(id.name)];
                if *holder == Some(id) && entry(self.process, id).is_none() {
                    self.process.named[usize::from(id.name)] = None;
                }
                Done::Next
            }
        }
    }

    fn report(&mut self, id: Id, evidence: &Evidence, urgent: bool) -> Done {
        let Some(entry) = entry(self.process, id) else { return Done::Then(vec![]) };
        let (Presence::There(known), Some(home)) = (&entry.record.proxy, entry.home) else { return Done::Then(vec![]) };
        let sent = entry.record.instance.there().map(|instance| instance.sent);
        let version = known.version;
        let status = render(evidence, &home, sent, entry.last);
        if status == home.status
            || (home.deleting.is_some()
                && Status { observed: None, ..status } == Status { observed: None, ..home.status })
        {
            self.step(id, Event::Answer(Answer::Unchanged));
            Done::Next
        } else if urgent || self.prompt {
            self.send(id, Request::Report { version, status })
        } else {
            entry.due = true;
            self.step(id, Event::Answer(Answer::Deferred));
            Done::Next
        }
    }

    fn place_it(&mut self, id: Id) -> Done {
        let there = entry(self.process, id).is_some_and(|entry| entry.record.instance.there().is_some());
        let Some(entry) = entry(self.process, id) else { return Done::Then(vec![]) };
        let Presence::There(known) = &entry.record.proxy else { return Done::Then(vec![]) };
        let (version, shunned, body) = (known.version, known.site, entry.body);
        match self.place(id) {
            Some(site) if there => self.send(id, Request::Place { version, site: Some(site), shunned: None }),
            // Without the document it is read again.
            _ if body.is_none() => self.send(id, Request::Find),
            _ if self.sites == 1 => Done::Then(self.step(id, Event::Look)),
            _ => self.send(id, Request::Place { version, site: None, shunned }),
        }
    }

    fn send(&mut self, id: Id, request: Request) -> Done {
        let place = self.place(id);
        self.at(id, |entry| entry.flight = Some(Flight { request, reply: None, place, old: false, host_old: false }));
        Done::Sent
    }

    /// Sends a create or an update; not the latter where the instance has gone meanwhile, and neither where there is nobody
    /// to send it to.
    fn send_document(&mut self, id: Id, update: bool, want: u8) -> bool {
        let told = self.process.told[id.index()];
        let Some(site) = self.provider(id) else { return false };
        let request = if update {
            let Some(known) = entry(self.process, id).and_then(|entry| entry.record.instance.there()) else {
                return false;
            };
            Request::Update { site, instance: number(&known.uid), want }
        } else {
            Request::Create { site, want, told }
        };
        self.send(id, request);
        true
    }

    /// Where a pod runs, or will, if that is known.
    fn place(&mut self, id: Id) -> Option<Index> {
        place_of(&entry(self.process, id)?.record)
    }

    /// The same, if there is such a site.
    fn provider(&mut self, id: Id) -> Option<Index> {
        let sites = self.sites;
        self.place(id).filter(|site| usize::from(*site) < sites)
    }

    fn refused(&mut self, id: Id, reason: &str) -> Vec<Action> {
        let obstacle = Obstacle { reason: reason.into(), message: String::new() };
        self.step(id, Event::Answer(Answer::Refused { obstacle, retry: true }))
    }

    /// An instance is gone, by whatever way we know: a proxy of the same name need not wait any longer.
    fn gone(&mut self, id: Id, instance: u8) -> Vec<Action> {
        self.entry(id);
        let counts = self.mutant != Some(Mutant::NoTombstone);
        self.at(id, |entry| {
            if let Some(flight) = &mut entry.flight {
                flight.old |= counts;
            }
        });
        let actions = self.raw_step(id, Event::InstanceGone(uid(instance)));
        if let Some(waiting) = self.process.named[usize::from(id.name)].filter(|other| *other != id) {
            self.step(waiting, Event::Retry);
            self.add(waiting);
        }
        actions
    }

    fn proxy_seen(&mut self, proxy: Proxy) {
        self.tell_of_proxy(&proxy);
        self.process.named[usize::from(proxy.id.name)] = Some(proxy.id);
        self.entry(proxy.id);
        self.at(proxy.id, |entry| entry.seen[HOST] = true);
        let view = proxy.view(self.policy(proxy.id), self.sites);
        self.see_proxy(proxy, Event::ProxySeen(view));
    }

    fn see_proxy(&mut self, proxy: Proxy, event: Event) -> Vec<Action> {
        let actions = self.raw_step(proxy.id, event);
        self.at(proxy.id, |entry| {
            if entry.record.proxy.there().is_some_and(|known| known.version == proxy.version) {
                entry.home = Some(proxy);
                let made = entry.record.instance.there().is_some_and(|known| known.sent == u64::from(proxy.want));
                entry.body = (!made).then_some(proxy.want);
            }
        });
        actions
    }

    fn see_instance(&mut self, inst: Inst, event: fn(InstanceView) -> Event) -> Vec<Action> {
        let told = &mut self.process.told[inst.owner.index()];
        told.started |= inst.started;
        if inst.phase.terminal() && inst.deleting.is_none() {
            told.ended = Some(inst.uid);
        } else if told.ended != Some(inst.uid) {
            // A late request has started another one, and nobody can say any more that the pod has ended.
            told.ended = None;
        }
        let view = inst.view();
        let actions = self.raw_step(inst.owner, event(view.clone()));
        self.at(inst.owner, |entry| {
            entry.seen[SITE + usize::from(view.site)] = true;
            let known = entry.record.instance.there();
            if known.is_some_and(|known| known.uid == view.uid && known.version == view.version) {
                entry.last = (inst.phase, inst.started);
            }
            let elsewhere = entry.record.elsewhere.as_deref();
            if elsewhere.is_some_and(|known| known.uid == view.uid && known.version == view.version) {
                entry.other = (inst.phase, inst.started);
            }
            let known = entry.record.instance.there();
            if known.is_some_and(|known| known.uid == view.uid && known.version == view.version)
                && entry.record.proxy.there().is_some_and(|proxy| proxy.want == view.sent)
            {
                entry.body = None;
            }
        });
        actions
    }

    fn tell_of_proxy(&mut self, proxy: &Proxy) {
        let Told { started, terminal, .. } = &mut self.process.told[proxy.id.index()];
        *started |= proxy.status.started;
        *terminal |= proxy.status.phase.terminal();
    }

    fn start_timers(&mut self, id: Id, actions: &[Action]) {
        if actions.iter().any(|action| matches!(action, Action::RetryAfter(_))) {
            self.at(id, |entry| entry.retry = true);
        }
    }

    fn add(&mut self, id: Id) {
        self.at(id, |entry| entry.dirty = true);
    }

    fn policy(&self, id: Id) -> Policy {
        self.policies[usize::from(id.name)]
    }

    fn at(&mut self, id: Id, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = entry(self.process, id) {
            change(entry);
        }
    }

    /// Finds or makes a record, and concludes.
    fn entry(&mut self, id: Id) {
        if entry(self.process, id).is_none() {
            let at = self.process.entries.partition_point(|entry| entry.id.index() < id.index());
            self.process.entries.insert(at, Entry::new(id));
        }
        self.conclude(id);
    }

    /// What is unknown of a side that is listed is absent.
    fn conclude(&mut self, id: Id) {
        let host = self.process.watches[HOST].complete;
        let listed = |process: &Process, site: usize| process.watches[SITE + site].complete;
        let everywhere = (0..self.sites).all(|site| listed(self.process, site));
        let here = [0, 1].map(|site| site < self.sites && listed(self.process, site));
        let (reach, sites) = (self.process.reach, self.sites);
        self.at(id, |entry| {
            let record = &mut entry.record;
            if record.proxy == Presence::Unknown && host {
                record.proxy = Presence::Absent;
            }
            let absent = match &record.proxy {
                Presence::There(proxy) => match proxy.site {
                    Some(site) => here.get(usize::from(site)).copied().unwrap_or(false),
                    // The choice is written before anything is created.
                    None => true,
                },
                Presence::Absent | Presence::Unknown => everywhere,
            };
            if record.instance == Presence::Unknown && absent {
                record.instance = Presence::Absent;
            }
            record.reach = place_of(record).map_or(Reach::Fine, |site| {
                if usize::from(site) < sites { reach[usize::from(site)] } else { Reach::Silent }
            });
            if record.reach != Reach::Silent {
                record.memo.give_up = false;
            }
        });
    }

    /// A site is silent, or answers again, from now on.
    pub(super) fn reach(&mut self, site: usize, reach: Reach) {
        self.process.reach[site] = reach;
        let here = |entry: &&Entry| place_of(&entry.record).is_none_or(|place| usize::from(place) == site);
        let ids: Vec<_> = self.process.entries.iter().filter(here).map(|entry| entry.id).collect();
        for id in ids {
            if reach == Reach::Fine {
                self.step(id, Event::Retry);
            }
            self.add(id);
        }
    }

    /// The instance could not be scheduled for too long, and the chooser has another site.
    pub(super) fn move_on(&mut self, id: Id) {
        self.step(id, Event::Move);
        self.add(id);
    }

    /// The user has waited for long enough.
    pub(super) fn give_up(&mut self, id: Id) {
        self.step(id, Event::GiveUp);
        self.add(id);
    }

    fn step(&mut self, id: Id, event: Event) -> Vec<Action> {
        self.conclude(id);
        self.raw_step(id, event)
    }

    fn raw_step(&mut self, id: Id, event: Event) -> Vec<Action> {
        let mutant = self.mutant;
        entry(self.process, id).map_or_else(Vec::new, |entry| {
            let uids = |record: &Record| {
                let (here, there) = (record.instance.there(), record.elsewhere.as_deref());
                (here.map(|one| one.uid.clone()), there.map(|one| one.uid.clone()))
            };
            let (first, second) = uids(&entry.record);
            let actions = super::mutants::step(mutant, &mut entry.record, event);
            let (now_first, now_second) = uids(&entry.record);
            // What was second counts now, or what counted is second.
            if (second.is_some() && now_first == second) || (first.is_some() && now_second == first) {
                std::mem::swap(&mut entry.last, &mut entry.other);
            }
            actions
        })
    }
}

/// Where a pod's instance is, or will be.
pub(super) fn place_of(record: &Record) -> Option<Index> {
    let chosen = record.proxy.there().and_then(|proxy| proxy.site);
    record.instance.there().map(|instance| instance.site).or(chosen)
}

/// The obstacle of a pod whose name is taken.
pub(super) const NAMESAKE: &str = "WaitingForNamesake";

fn created(view: InstanceView) -> Event {
    Event::Answer(Answer::Created(view))
}

fn updated(view: InstanceView) -> Event {
    Event::Answer(Answer::Updated(view))
}

/// What `status.rs` would render, in the model's terms.
fn render(evidence: &Evidence, home: &Proxy, sent: Option<u64>, last: (Phase, bool)) -> Status {
    let current = sent.is_none_or(|sent| sent == u64::from(home.want));
    let observed = if current { Some(home.want) } else { home.status.observed };
    let was = home.status;
    match evidence {
        Evidence::Instance => {
            Status { phase: last.0, started: last.1, shown: Shown::Instance, observed, given_up: was.given_up }
        }
        Evidence::Leaving => Status { shown: Shown::Leaving, observed, ..was },
        Evidence::Waiting(_) if was.started => Status { shown: Shown::Waiting, observed, ..was },
        Evidence::Waiting(_) => {
            Status { phase: Phase::Pending, started: false, shown: Shown::Waiting, observed, given_up: was.given_up }
        }
        Evidence::Ended | Evidence::Lost | Evidence::GivenUp | Evidence::Rejected(_) => Status {
            phase: Phase::Failed,
            started: true,
            shown: Shown::Over,
            observed,
            given_up: was.given_up || *evidence == Evidence::GivenUp,
        },
    }
}

/// Whether a process waits because of a namesake.
pub(super) fn waits_for_namesake(w: &World) -> bool {
    let mut entries = w.processes.iter().flat_map(|process| &process.entries);
    entries.any(|entry| entry.record.memo.obstacle.as_ref().is_some_and(|obstacle| obstacle.reason == NAMESAKE))
}
