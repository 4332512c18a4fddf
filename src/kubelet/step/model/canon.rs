//! One form for all states that differ in nothing that anybody can tell.
//!
//! Versions are only ever compared with each other, and only those of one name on one side: what counts is their order.
//! So each is replaced by its rank among all that the state still mentions. Without that, a pod that waits long enough
//! would make ever new states.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::world::{Entry, HOST, Id, Notice, Reply, Request, TARGET, World};
use crate::kubelet::step::Presence;

impl World {
    /// Brings the state into its form.
    pub(super) fn canonical(&mut self) {
        for name in 0..self.names.len() {
            for side in [HOST, TARGET] {
                let mut known = vec![];
                self.versions(name, side, &mut |version| known.push(*version));
                known.sort_unstable();
                known.dedup();
                self.versions(name, side, &mut |version| {
                    *version = known.binary_search(version).map_or(0, |rank| rank as u64 + 1);
                });
                self.names[name].versions[side] = known.len() as u64;
            }
        }
        for entry in self.processes.iter_mut().flat_map(|process| &mut process.entries) {
            // Only how long a backoff lasts depends on the first, and all that `decide` asks of the second is whether
            // it is the first; the model's backoffs last as long as they like.
            entry.record.memo.attempts = 0;
            entry.record.memo.losses = entry.record.memo.losses.min(2);
        }
        self.swap_processes();
    }

    /// Which of two processes is the first means nothing.
    fn swap_processes(&mut self) {
        if self.processes.len() == 2 && print(&self.processes[0]) > print(&self.processes[1]) {
            self.processes.swap(0, 1);
            self.strays.iter_mut().for_each(|stray| stray.from = 1 - stray.from);
            self.names.iter_mut().filter_map(|name| name.maker.as_mut()).for_each(|maker| *maker = 1 - *maker);
        }
    }

    /// Visits every version that belongs to this name on this side.
    fn versions(&mut self, name: usize, side: usize, visit: &mut impl FnMut(&mut u64)) {
        let ours = |id: Id| usize::from(id.name) == name;
        if side == HOST {
            self.names[name].host.iter_mut().for_each(|proxy| visit(&mut proxy.version));
        } else {
            self.names[name].target.iter_mut().for_each(|inst| visit(&mut inst.version));
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
                if side == HOST { host_versions(entry, visit) } else { target_versions(entry, visit) }
            }
        }
        for stray in self.strays.iter_mut().filter(|stray| ours(stray.id)) {
            if let (HOST, Request::Report { version, .. }) = (side, &mut stray.request) {
                visit(version);
            }
        }
    }
}

/// A fingerprint.
pub(super) fn print(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn host_versions(entry: &mut Entry, visit: &mut impl FnMut(&mut u64)) {
    if let Presence::There(proxy) = &mut entry.record.proxy {
        visit(&mut proxy.version);
    }
    entry.record.memo.outdated.iter_mut().for_each(&mut *visit);
    entry.home.iter_mut().for_each(|home| visit(&mut home.version));
    if let Some(flight) = &mut entry.flight {
        if let Request::Report { version, .. } = &mut flight.request {
            visit(version);
        }
        if let Some(Reply::Patched(proxy) | Reply::Found(Some(proxy))) = &mut flight.reply {
            visit(&mut proxy.version);
        }
    }
}

fn target_versions(entry: &mut Entry, visit: &mut impl FnMut(&mut u64)) {
    if let Presence::There(instance) = &mut entry.record.instance {
        visit(&mut instance.version);
    }
    if let Some(Reply::Made(inst)) = entry.flight.as_mut().and_then(|flight| flight.reply.as_mut()) {
        visit(&mut inst.version);
    }
}
