//! Two pods of different names are two times one.
//!
//! What there is of one pod in a world with two is compared with all worlds that the pod can be in alone. If it is always
//! among them, nothing that one pod does or suffers can happen to it only because of the other; and since every property is
//! about one pod, two pods need no exploration of their own.

use std::collections::{HashMap, VecDeque};

use stateright::Model;

use super::Harbour;
use super::canon::print;
use super::world::{Id, LIVES, Notice, World};

/// All worlds that a pod can be in: what tells them apart beside the faults that are left, and how many these are at most.
pub(super) type Worlds = HashMap<u64, u8>;

impl Harbour {
    /// All of them.
    pub(super) fn worlds(&self) -> Worlds {
        let mut worlds = Worlds::new();
        let mut waiting: VecDeque<World> = self.init_states().into();
        let mut moves = vec![];
        while let Some(world) = waiting.pop_front() {
            let known = worlds.get(&faultless(&world)).copied();
            if known.is_some_and(|faults| faults >= world.faults) {
                continue;
            }
            worlds.insert(faultless(&world), world.faults);
            moves.clear();
            self.actions(&world, &mut moves);
            waiting.extend(moves.drain(..).map(|chosen| self.after(&world, chosen)));
        }
        worlds
    }
}

fn faultless(world: &World) -> u64 {
    print(&World { faults: 0, ..world.clone() })
}

impl World {
    /// Whether each pod is as it could be alone, with at least as many faults left.
    pub(super) fn is_each_alone(&self, worlds: &[Worlds], eager: bool) -> bool {
        (0..).zip(worlds).all(|(name, worlds)| {
            let alone = self.alone(name, eager);
            worlds.get(&faultless(&alone)).is_some_and(|faults| *faults >= self.faults)
        })
    }

    /// What there is of one name, which becomes the first.
    fn alone(&self, name: u8, eager: bool) -> World {
        let at = usize::from(name);
        let ours = |id: Id| id.name == name;
        let first = |id: &mut Id| id.name = 0;
        let mut world = self.clone();
        world.names = vec![world.names.swap_remove(at)];
        for slot in &mut world.names {
            slot.host.iter_mut().for_each(|proxy| first(&mut proxy.id));
            slot.insts.iter_mut().flatten().for_each(|inst| first(&mut inst.owner));
        }
        for process in &mut world.processes {
            for watch in &mut process.watches {
                watch.queue.retain(|notice| notice.of().is_none_or(ours));
                for notice in &mut watch.queue {
                    match notice {
                        Notice::Proxy(proxy) => first(&mut proxy.id),
                        Notice::Inst(inst) => first(&mut inst.owner),
                        Notice::NoProxy(id) | Notice::NoInst(id, _) => first(id),
                        Notice::Listing | Notice::Listed => {}
                    }
                }
            }
            process.entries.retain(|entry| ours(entry.id));
            for entry in &mut process.entries {
                first(&mut entry.id);
                entry.home.iter_mut().for_each(|proxy| first(&mut proxy.id));
                if let Some(reply) = entry.flight.as_mut().and_then(|flight| flight.reply.as_mut()) {
                    reply.rename(first);
                }
            }
            process.named = vec![process.named[at]];
            process.named.iter_mut().flatten().for_each(first);
            process.told = process.told[at * LIVES..(at + 1) * LIVES].to_vec();
        }
        world.strays.retain(|stray| ours(stray.id));
        world.strays.iter_mut().for_each(|stray| first(&mut stray.id));
        world.canonical(eager);
        world
    }
}
