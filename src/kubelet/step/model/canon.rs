//! One form for all states that differ in nothing that anybody can tell.
//!
//! - **Versions** are only ever compared with each other, and only those of one name on one side: what counts is their order.
//!   Each is replaced by its rank among all that the state still mentions. Without that, a pod that waits long enough would
//!   make ever new states.
//! - **UIDs** of instances are only ever compared for being the same. They are counted anew as well.
//! - **What nobody will look at** before it is overwritten gets its first value.
//! - **Requests that nobody waits for** and that can do nothing any more are dropped; the others have no order.
//! - **Two processes** may be swapped.

use std::hash::{BuildHasher, BuildHasherDefault, Hash};

use super::world::{
    Entry, HOST, Id, LIVES, Notice, Process, Reply, Request, SIDES, SITE, Told, Truth, World, number, uid,
};
use crate::kubelet::step::Presence;

impl World {
    /// Brings the state into its form. `eager` says that workers are always free.
    pub(super) fn canonical(&mut self, eager: bool) {
        for process in &mut self.processes {
            let complete: [bool; SIDES] = std::array::from_fn(|side| process.watches[side].complete);
            let begun: [bool; SIDES] = std::array::from_fn(|side| process.watches[side].begun);
            for entry in &mut process.entries {
                tidy(entry, complete, begun, eager);
            }
        }
        self.drop_strays();
        for name in 0..self.names.len() {
            self.rank_versions(name);
            self.count_uids(name);
            for life in 0..self.names[name].lives {
                self.forget(Id { name: u8::try_from(name).unwrap_or_default(), life });
            }
        }
        self.swap_processes();
        self.strays.sort_by_key(print);
    }

    fn rank_versions(&mut self, name: usize) {
        for side in HOST..SIDES {
            let mut known = vec![];
            self.versions(name, side, &mut |version| known.push(*version));
            known.sort_unstable();
            known.dedup();
            self.names[name].versions[side] = known.len() as u64;
            if known.iter().copied().eq(1..=known.len() as u64) {
                continue;
            }
            self.versions(name, side, &mut |version| {
                *version = known.binary_search(version).map_or(0, |rank| rank as u64 + 1);
            });
        }
    }

    fn count_uids(&mut self, name: usize) {
        let mut known = 0u32;
        self.uids(name, &mut |uid| {
            known |= 1 << uid;
            uid
        });
        let count = u8::try_from(known.count_ones()).unwrap_or_default();
        self.names[name].instances = count;
        if known.trailing_ones() == u32::from(count) {
            return;
        }
        self.uids(name, &mut |uid| u8::try_from((known & ((1 << uid) - 1)).count_ones()).unwrap_or_default());
    }

    /// What is true of a pod, and what a process has been told of it, once nothing is left of it anywhere.
    fn forget(&mut self, id: Id) {
        let name = &self.names[usize::from(id.name)];
        let there = self.proxy(id).is_some() || name.insts.iter().flatten().any(|inst| inst.owner == id);
        let known = |process: &Process| {
            process.entries.iter().any(|entry| entry.id == id)
                || process.watches.iter().flat_map(|watch| &watch.queue).any(|notice| notice.of() == Some(id))
        };
        if there || self.processes.iter().any(known) || self.strays.iter().any(|stray| stray.id == id) {
            return;
        }
        self.name(id).truth[usize::from(id.life)] = Truth::default();
        for process in &mut self.processes {
            process.told[usize::from(id.name) * LIVES + usize::from(id.life)] = Told::default();
            let holder = &mut process.named[usize::from(id.name)];
            // Whoever is named without a record is told nothing.
            if *holder == Some(id) {
                *holder = None;
            }
        }
    }

    /// Requests that will find nothing to change, whenever they arrive.
    fn drop_strays(&mut self) {
        let strays = std::mem::take(&mut self.strays);
        let useful = |stray: &super::world::Stray| {
            let proxy = self.proxy(stray.id);
            let there = |site: u8, instance: u8| {
                self.names[usize::from(stray.id.name)].insts[usize::from(site)].filter(|inst| inst.uid == instance)
            };
            match stray.request {
                Request::Report { version, .. } | Request::Place { version, .. } | Request::Fence { version, .. } => {
                    proxy.is_some_and(|proxy| proxy.version == version)
                }
                Request::DeleteProxy => proxy.is_some(),
                Request::Update { site, instance, .. } | Request::Delete { site, instance, .. } => {
                    there(site, instance).is_some()
                }
                Request::Create { .. } => true,
                Request::Find | Request::Seek { .. } | Request::SeekElsewhere { .. } => false,
            }
        };
        let useful: Vec<_> = strays.into_iter().filter(useful).collect();
        self.strays = useful;
    }

    /// Which of two processes is the first means nothing.
    fn swap_processes(&mut self) {
        if self.processes.len() == 2 && print(&self.processes[0]) > print(&self.processes[1]) {
            self.processes.swap(0, 1);
            self.strays.iter_mut().for_each(|stray| stray.from = 1 - stray.from);
            let makers = self.names.iter_mut().flat_map(|name| &mut name.makers);
            makers.filter_map(Option::as_mut).for_each(|maker| *maker = 1 - *maker);
        }
    }

    /// Visits every version that belongs to this name on this side.
    fn versions(&mut self, name: usize, side: usize, visit: &mut impl FnMut(&mut u64)) {
        let ours = |id: Id| usize::from(id.name) == name;
        if side == HOST {
            self.names[name].host.iter_mut().for_each(|proxy| visit(&mut proxy.version));
        } else {
            self.names[name].insts[side - SITE].iter_mut().for_each(|inst| visit(&mut inst.version));
        }
        for process in &mut self.processes {
            for notice in &mut process.watches[side].queue {
                match notice {
                    Notice::Proxy(proxy) if ours(proxy.id) => visit(&mut proxy.version),
                    Notice::Inst(inst) if ours(inst.owner) => visit(&mut inst.version),
                    _ => {}
                }
            }
            for entry in process.entries.iter_mut().filter(|entry| ours(entry.id)) {
                if side == HOST { host_versions(entry, visit) } else { site_versions(entry, side - SITE, visit) }
            }
        }
        for stray in self.strays.iter_mut().filter(|stray| ours(stray.id)) {
            if let (
                HOST,
                Request::Report { version, .. } | Request::Place { version, .. } | Request::Fence { version, .. },
            ) = (side, &mut stray.request)
            {
                visit(version);
            }
        }
    }

    /// Replaces the UID of every instance of this name.
    fn uids(&mut self, name: usize, visit: &mut impl FnMut(u8) -> u8) {
        let ours = |id: Id| usize::from(id.name) == name;
        self.names[name].insts.iter_mut().flatten().for_each(|inst| inst.uid = visit(inst.uid));
        for process in &mut self.processes {
            for notice in process.watches.iter_mut().flat_map(|watch| &mut watch.queue) {
                match notice {
                    Notice::Inst(inst) if ours(inst.owner) => inst.uid = visit(inst.uid),
                    Notice::NoInst(id, uid) if ours(*id) => *uid = visit(*uid),
                    _ => {}
                }
            }
            for told in &mut process.told[name * LIVES..(name + 1) * LIVES] {
                told.ended.iter_mut().for_each(|uid| *uid = visit(*uid));
            }
            for entry in process.entries.iter_mut().filter(|entry| ours(entry.id)) {
                let memo = &mut entry.record.memo;
                let known = match &mut entry.record.instance {
                    Presence::There(known) => Some(known),
                    Presence::Unknown | Presence::Absent => None,
                };
                let instances = known.into_iter().chain(entry.record.elsewhere.as_deref_mut());
                let uids = instances.map(|known| &mut known.uid).chain(&mut memo.buried).chain(&mut memo.ended);
                for known in uids {
                    let (was, is) = (number(known), visit(number(known)));
                    if was != is {
                        *known = uid(is);
                    }
                }
                if let Some(flight) = &mut entry.flight {
                    visit_request(&mut flight.request, visit);
                    if let Some(Reply::Made(inst)) = &mut flight.reply {
                        inst.uid = visit(inst.uid);
                    }
                }
            }
        }
        for stray in self.strays.iter_mut().filter(|stray| ours(stray.id)) {
            visit_request(&mut stray.request, visit);
        }
    }
}

fn visit_request(request: &mut Request, visit: &mut impl FnMut(u8) -> u8) {
    match request {
        Request::Update { instance, .. } | Request::Delete { instance, .. } => *instance = visit(*instance),
        Request::Create { told, .. } => told.ended.iter_mut().for_each(|uid| *uid = visit(*uid)),
        _ => {}
    }
}

/// What nobody will look at gets its first value.
fn tidy(entry: &mut Entry, complete: [bool; SIDES], begun: [bool; SIDES], eager: bool) {
    for side in HOST..SIDES {
        // A list that begins starts from nothing, and one that has ended has shown what there is.
        if complete[side] || !begun[side] {
            entry.seen[side] = complete[side];
        }
    }
    let Entry { record, flight, .. } = entry;
    let memo = &mut record.memo;
    // Only how long a backoff lasts depends on the first, and all that `decide` asks of the second is whether it is the
    // first; the model's backoffs last as long as they like.
    memo.attempts = 0;
    memo.losses = memo.losses.min(2);
    // What nobody has chosen is not confirmed.
    memo.untouched &= record.proxy.there().is_some_and(|proxy| proxy.chosen);
    if !memo.blocked {
        memo.tried = 0;
    }
    // A timer that will find nothing to do might as well not run: whatever it could do later starts one of its own.
    entry.retry &= memo.blocked || memo.host_blocked || memo.delete_blocked;
    if let (Some(version), Presence::There(proxy)) = (memo.outdated, &record.proxy)
        && proxy.version > version
    {
        memo.outdated = None;
    }
    // The last status is that of an instance that is there, or has ended by itself.
    if record.instance.there().is_none() && memo.ended.is_none() {
        entry.last = <_>::default();
    }
    if record.elsewhere.is_none() {
        entry.other = <_>::default();
    }
    if let Some(flight) = flight {
        // Whatever an answer leads to is decided as if the worker looked again.
        entry.dirty &= !eager;
        flight.host_old &= matches!(flight.request, Request::Find);
        if !matches!(
            flight.request,
            Request::Create { .. } | Request::Update { .. } | Request::Seek { .. } | Request::SeekElsewhere { .. }
        ) {
            flight.old = false;
            flight.place = None;
        }
    }
}

/// A fingerprint.
pub(super) fn print(what: &impl Hash) -> u64 {
    BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(what)
}

fn host_versions(entry: &mut Entry, visit: &mut impl FnMut(&mut u64)) {
    if let Presence::There(proxy) = &mut entry.record.proxy {
        visit(&mut proxy.version);
    }
    entry.record.memo.outdated.iter_mut().for_each(&mut *visit);
    entry.home.iter_mut().for_each(|home| visit(&mut home.version));
    if let Some(flight) = &mut entry.flight {
        if let Request::Report { version, .. } | Request::Place { version, .. } | Request::Fence { version, .. } =
            &mut flight.request
        {
            visit(version);
        }
        if let Some(Reply::Patched(proxy) | Reply::Found(Some(proxy))) = &mut flight.reply {
            visit(&mut proxy.version);
        }
    }
}

fn site_versions(entry: &mut Entry, site: usize, visit: &mut impl FnMut(&mut u64)) {
    let first = match &mut entry.record.instance {
        Presence::There(instance) => Some(instance),
        Presence::Unknown | Presence::Absent => None,
    };
    let instances = first.into_iter().chain(entry.record.elsewhere.as_deref_mut());
    instances.filter(|known| usize::from(known.site) == site).for_each(|known| visit(&mut known.version));
    if let Some(Reply::Made(inst)) = entry.flight.as_mut().and_then(|flight| flight.reply.as_mut())
        && usize::from(inst.site) == site
    {
        visit(&mut inst.version);
    }
}
