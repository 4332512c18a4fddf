//! The API servers and the kubelets of the sites: what a write does, and whether it should have been made.

use super::world::{
    HOST, Id, Inst, Name, Notice, Policy, Proxy, Reply, Request, SITE, SITES, Status, Truth, World, Wrong,
};
use crate::kubelet::sites::Index;
use crate::kubelet::step::Phase;

/// The grace period of a pod that asks for none, and of a user's deletion. Only that it is more than one second matters.
pub(super) const GRACE: u32 = 2;

/// Who sent a request: a process that still waits for the answer, or one that does not.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub(super) process: usize,
    pub(super) stray: bool,
}

/// A server carries out a request. The chooser, whose choice nobody could have foreseen, has found `pick`.
pub(super) fn serve(w: &mut World, policy: Policy, sender: Sender, id: Id, request: Request, pick: Index) -> Reply {
    match request {
        Request::Create { site, want, told } => {
            let at = usize::from(site);
            match w.name(id).insts[at] {
                Some(there) if there.owner == id => return Reply::Made(there),
                Some(_) => return Reply::Namesake,
                None => {}
            }
            // Whoever was given up, or went, could not know what has happened since, and nobody was told what it has made.
            let name = w.name(id);
            let second =
                |other: usize| name.insts[other].is_some_and(|inst| inst.owner == id) && name.makers[other].is_some();
            if !sender.stray && (0..SITES).any(|other| other != at && second(other)) {
                w.blame(Wrong::Doubled);
            }
            if told.terminal {
                w.blame(Wrong::StartedAfterEnd);
            }
            if told.ended.is_some() {
                w.blame(Wrong::RestartedCompleted);
            }
            if told.started && policy == Policy::Never {
                w.blame(Wrong::StartedTwice);
            }
            let name = w.name(id);
            let uid = name.instances;
            name.instances += 1;
            name.makers[at] = (!sender.stray).then_some(sender.process);
            let version = next(name, SITE + at);
            let (sent, phase) = (want, Phase::Pending);
            let made = Inst { uid, owner: id, version, sent, deleting: None, phase, started: false, site };
            name.insts[at] = Some(made);
            w.tell(SITE + at, Notice::Inst(made));
            Reply::Made(made)
        }
        Request::Update { site, instance, want } => match w.name(id).insts[usize::from(site)] {
            Some(there) if there.uid == instance => {
                if there.sent != want {
                    change_inst(w, id, site, |inst| inst.sent = want);
                }
                w.name(id).insts[usize::from(site)].map_or(Reply::Refused, Reply::Made)
            }
            _ => Reply::Refused,
        },
        Request::Delete { site, instance, grace } => delete_instance(w, id, site, instance, grace),
        Request::Report { version, status } => report(w, policy, id, version, status),
        Request::Fence { version, site } => fence(w, id, version, site),
        Request::Place { version, site, .. } => place(w, id, version, site.unwrap_or(pick)),
        Request::Seek { site } | Request::SeekElsewhere { site } => {
            let there = w.name(id).insts[usize::from(site)].filter(|there| there.owner == id);
            there.map_or(Reply::Gone, Reply::Made)
        }
        Request::Find => Reply::Found(w.proxy(id).copied()),
        Request::DeleteProxy => {
            delete_proxy(w, sender, id);
            Reply::Deleted
        }
    }
}

/// Longshore stops an instance, by its UID.
fn delete_instance(w: &mut World, id: Id, site: Index, instance: u8, grace: Option<u32>) -> Reply {
    let at = usize::from(site);
    let Some(there) = w.name(id).insts[at].filter(|there| there.uid == instance) else { return Reply::Gone };
    let moved = truth(w.name(id), there.owner).moved;
    let alive = there.deleting.is_none() && !there.phase.terminal();
    if alive && !moved && w.proxy(there.owner).is_some_and(|proxy| proxy.wants(at)) {
        w.blame(Wrong::Reaped);
    }
    let grace = grace.unwrap_or(GRACE);
    if there.phase.terminal() {
        remove_inst(w, id, site);
    } else if grace == 0 {
        w.blame(Wrong::RemovedAlive);
    } else if there.deleting.is_none_or(|now| grace < now) {
        change_inst(w, id, site, |inst| inst.deleting = Some(grace));
    }
    Reply::Stopping
}

/// A choice, fenced by UID and version.
fn place(w: &mut World, id: Id, version: u64, site: Index) -> Reply {
    let Some(proxy) = w.proxy(id).copied().filter(|proxy| proxy.version == version) else { return Reply::Conflict };
    w.chosen = true;
    if proxy.choice == Some(site) {
        return Reply::Patched(proxy);
    }
    let placed = change_host(w, id, |proxy| proxy.choice = Some(site));
    placed.map_or(Reply::Conflict, Reply::Patched)
}

/// A choice, written once more with the version that it was made for, so that there is always a new one.
fn fence(w: &mut World, id: Id, version: u64, site: Index) -> Reply {
    if w.proxy(id).is_none_or(|proxy| proxy.version != version) {
        return Reply::Conflict;
    }
    let placed = change_host(w, id, |proxy| proxy.choice = Some(site));
    placed.map_or(Reply::Conflict, Reply::Patched)
}

/// A status patch that carries UID and version.
fn report(w: &mut World, policy: Policy, id: Id, version: u64, status: Status) -> Reply {
    let Some(proxy) = w.proxy(id).copied().filter(|proxy| proxy.version == version) else { return Reply::Conflict };
    if proxy.status == status {
        // The API server makes no new version of what is the same.
        return Reply::Patched(proxy);
    }
    let truth = w.name(id).truth[usize::from(id.life)];
    let phase = status.phase;
    if proxy.status.phase.terminal() && proxy.status.phase != phase {
        w.blame(Wrong::Undead);
    }
    let lost = truth.lost && policy == Policy::Never;
    let given_up = status.given_up && truth.given_up;
    let caused = match phase {
        Phase::Failed => proxy.deleting.is_some() || proxy.status.phase == phase || truth.failed || lost || given_up,
        Phase::Succeeded => truth.succeeded,
        Phase::Pending | Phase::Running => true,
    };
    if !caused {
        w.blame(Wrong::FailedWithoutCause);
    }
    let shown = change_host(w, id, |proxy| proxy.status = status);
    shown.map_or(Reply::Conflict, Reply::Patched)
}

/// Longshore removes a proxy, by its UID.
fn delete_proxy(w: &mut World, sender: Sender, id: Id) {
    let Some(proxy) = w.proxy(id).copied() else { return };
    let given_up = proxy.status.given_up;
    if proxy.deleting.is_none() && !given_up {
        w.blame(Wrong::DeletedWithoutCause);
    }
    let name = w.name(id);
    let runs =
        |at: usize| name.insts[at].is_some_and(|inst| inst.owner == id) && name.makers[at] == Some(sender.process);
    if (0..SITES).any(runs) && !given_up {
        w.blame(Wrong::DeletedTooEarly);
    }
    remove_host(w, id);
}

/// The user creates the next pod of a name, for which a site may have been chosen already.
pub(super) fn create_proxy(w: &mut World, name: u8, choice: Option<Index>) {
    let slot = &mut w.names[usize::from(name)];
    let id = Id { name, life: slot.lives };
    slot.lives += 1;
    let version = next(slot, HOST);
    let proxy = Proxy { id, version, deleting: None, status: Status::default(), want: 0, choice };
    slot.host = Some(proxy);
    w.tell(HOST, Notice::Proxy(proxy));
}

/// The user deletes a pod. One that has ended needs no grace.
pub(super) fn user_deletes(w: &mut World, id: Id, force: bool) {
    if force || w.proxy(id).is_some_and(|proxy| proxy.status.phase.terminal()) {
        remove_host(w, id);
    } else {
        change_host(w, id, |proxy| proxy.deleting = Some(GRACE));
    }
}

/// The user changes what a pod is made of.
pub(super) fn user_changes(w: &mut World, id: Id) {
    w.name(id).changes -= 1;
    change_host(w, id, |proxy| proxy.want += 1);
}

/// A site's kubelet starts an instance.
pub(super) fn start(w: &mut World, id: Id, site: Index) {
    change_inst(w, id, site, |inst| {
        inst.phase = Phase::Running;
        inst.started = true;
    });
}

/// An instance comes to its end without anybody's help: a job completes, a server is evicted.
pub(super) fn end(w: &mut World, policy: Policy, id: Id, site: Index) {
    let phase = if policy == Policy::Always { Phase::Failed } else { Phase::Succeeded };
    finish_with(w, id, site, phase);
}

/// A site's kubelet ends a terminating instance: first its status says so, then it goes.
pub(super) fn finish(w: &mut World, id: Id, site: Index) {
    if w.name(id).insts[usize::from(site)].is_some_and(|inst| inst.phase.terminal()) {
        remove_inst(w, id, site);
    } else {
        finish_with(w, id, site, Phase::Failed);
    }
}

fn finish_with(w: &mut World, id: Id, site: Index, phase: Phase) {
    let owner = change_inst(w, id, site, |inst| inst.phase = phase).map_or(id, |inst| inst.owner);
    let truth = truth(w.name(id), owner);
    truth.succeeded |= phase == Phase::Succeeded;
    truth.failed |= phase == Phase::Failed;
}

/// Somebody at the site deletes an instance, or its node vanishes with it.
pub(super) fn interfere(w: &mut World, id: Id, site: Index, vanish: bool) {
    if vanish || w.name(id).insts[usize::from(site)].is_some_and(|inst| inst.phase.terminal()) {
        remove_inst(w, id, site);
    } else {
        change_inst(w, id, site, |inst| inst.deleting = Some(GRACE));
    }
}

/// What a list of one side shows now.
pub(super) fn list(w: &World, side: usize) -> Vec<Notice> {
    let objects = w.names.iter().filter_map(|name| match side {
        HOST => name.host.map(Notice::Proxy),
        _ => name.insts[side - SITE].map(Notice::Inst),
    });
    objects.collect()
}

fn next(name: &mut Name, side: usize) -> u64 {
    name.versions[side] += 1;
    name.versions[side]
}

fn truth(name: &mut Name, owner: Id) -> &mut Truth {
    &mut name.truth[usize::from(owner.life)]
}

fn change_host(w: &mut World, id: Id, change: impl FnOnce(&mut Proxy)) -> Option<Proxy> {
    let name = w.name(id);
    let version = next(name, HOST);
    let proxy = name.host.as_mut()?;
    change(proxy);
    proxy.version = version;
    let proxy = *proxy;
    w.tell(HOST, Notice::Proxy(proxy));
    Some(proxy)
}

fn remove_host(w: &mut World, id: Id) {
    w.name(id).host = None;
    w.tell(HOST, Notice::NoProxy(id));
}

fn change_inst(w: &mut World, id: Id, site: Index, change: impl FnOnce(&mut Inst)) -> Option<Inst> {
    let at = usize::from(site);
    let name = w.name(id);
    let version = next(name, SITE + at);
    let inst = name.insts[at].as_mut()?;
    change(inst);
    inst.version = version;
    let inst = *inst;
    w.tell(SITE + at, Notice::Inst(inst));
    Some(inst)
}

fn remove_inst(w: &mut World, id: Id, site: Index) {
    let at = usize::from(site);
    let name = w.name(id);
    name.makers[at] = None;
    let Some(inst) = name.insts[at].take() else { return };
    truth(name, inst.owner).lost |= inst.started;
    w.tell(SITE + at, Notice::NoInst(inst.owner, inst.uid));
}
