//! What a target has, node by node, and what others take of it. Pure, and kept up by small changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{NodeShare, Offer};
use crate::provider::quantity::Quantity;
use crate::provider::requests::{self, Requests};

/// The watches that tell of strangers: pods of nobody's or another host's, and those of this host's other virtual nodes.
pub const WATCHES: usize = 2;

/// The nodes of a target, and the pods there that are not of this virtual node.
#[derive(Debug, Default)]
pub struct Stock {
    /// By name.
    nodes: BTreeMap<Arc<str>, NodeShare>,
    strangers: Strangers,
}

impl Stock {
    /// All nodes there are.
    pub fn list(&mut self, nodes: BTreeMap<Arc<str>, NodeShare>) {
        self.nodes = nodes;
    }

    /// A node is there, or has changed.
    pub fn node(&mut self, name: &str, share: NodeShare) {
        self.nodes.insert(name.into(), share);
    }

    /// A node has gone.
    pub fn no_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// The pods of others.
    pub fn strangers(&mut self) -> &mut Strangers {
        &mut self.strangers
    }

    /// What the pods of others ask for that take from a quota.
    pub fn under_quota(&self) -> &Requests {
        &self.strangers.under_quota
    }

    /// Each node with what is taken of it.
    pub fn offers(&self) -> impl Iterator<Item = Offer<'_>> {
        self.nodes.iter().map(|(name, share)| Offer {
            name,
            share,
            taken: self.strangers.taken.get(name).map(|(taken, _)| taken),
        })
    }
}

/// Pods that are not ours, as little of each as their sums need.
#[derive(Debug, Default)]
pub struct Strangers {
    /// By UID.
    pods: HashMap<Box<str>, Stranger>,
    /// By node, with the number of pods; those that have none are under the empty name.
    taken: HashMap<Arc<str>, (Requests, usize)>,
    /// The sum of those that take from a quota.
    under_quota: Requests,
    /// Names that many pods share.
    names: HashSet<Arc<str>>,
    listed: [Option<HashSet<Box<str>>>; WATCHES],
    known: [bool; WATCHES],
}

#[derive(Debug)]
struct Stranger {
    watch: usize,
    node: Arc<str>,
    under_quota: bool,
    amounts: Box<[(Arc<str>, Quantity)]>,
}

impl Strangers {
    /// Every watch has been listed once.
    pub fn known(&self) -> bool {
        self.known.iter().all(|known| *known)
    }

    /// A list begins.
    pub fn listing(&mut self, watch: usize) {
        self.listed[watch] = Some(HashSet::new());
    }

    /// A list is complete: what it did not show is not there.
    pub fn listed(&mut self, watch: usize) {
        self.known[watch] = true;
        let Some(listed) = self.listed[watch].take() else { return };
        let gone = self.pods.iter().filter(|(uid, pod)| pod.watch == watch && !listed.contains(*uid));
        for uid in gone.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.remove(&uid);
        }
    }

    /// A pod is there, or has changed; answers whether that makes a difference.
    pub fn seen(&mut self, watch: usize, uid: &str, node: &str, under_quota: bool, asks: &Requests) -> bool {
        if let Some(listed) = &mut self.listed[watch] {
            listed.insert(uid.into());
        }
        let same = |known: &Stranger| {
            let amounts = known.amounts.iter().map(|(name, amount)| (&**name, amount));
            &*known.node == node && amounts.eq(asks.iter().map(|(name, amount)| (name.as_str(), amount)))
        };
        if let Some(known) = self.pods.get_mut(uid)
            && same(known)
        {
            known.watch = watch;
            return false;
        }
        self.remove(uid);
        let node = self.name(node);
        let amounts = asks.iter().map(|(name, amount)| (self.name(name), *amount)).collect();
        let (taken, pods) = self.taken.entry(node.clone()).or_default();
        requests::add(taken, asks);
        *pods += 1;
        if under_quota {
            requests::add(&mut self.under_quota, asks);
        }
        self.pods.insert(uid.into(), Stranger { watch, node, under_quota, amounts });
        true
    }

    /// A pod has gone, or does not concern this watch any more.
    pub fn gone(&mut self, watch: usize, uid: &str) {
        if self.pods.get(uid).is_some_and(|known| known.watch == watch) {
            self.remove(uid);
        }
    }

    fn remove(&mut self, uid: &str) {
        let Some(Stranger { node, amounts, under_quota, .. }) = self.pods.remove(uid) else { return };
        let Some((taken, pods)) = self.taken.get_mut(&node) else { return };
        let sums = std::iter::once(taken).chain(under_quota.then_some(&mut self.under_quota));
        for sum in sums {
            for (name, amount) in &amounts {
                if let Some(entry) = sum.get_mut(&**name) {
                    *entry = entry.minus(*amount);
                }
            }
        }
        *pods -= 1;
        if *pods == 0 {
            self.taken.remove(&node);
            // Nodes come and go for ever.
            drop((amounts, node));
            self.names.retain(|name| Arc::strong_count(name) > 1);
        }
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(cpu: i64) -> Requests {
        [("cpu".to_owned(), Quantity::whole(cpu)), ("pods".to_owned(), Quantity::whole(1))].into()
    }

    fn taken(strangers: &Strangers, node: &str) -> Option<Quantity> {
        Some(strangers.taken.get(node)?.0["cpu"])
    }

    #[test]
    fn sums_follow_the_pods() {
        let mut all = Strangers::default();
        assert!(all.seen(0, "a", "n1", false, &asks(2)));
        assert!(!all.seen(0, "a", "n1", false, &asks(2)), "a new status changes nothing");
        all.seen(1, "b", "n1", false, &asks(3));
        all.seen(0, "c", "", false, &asks(1));
        assert_eq!(taken(&all, "n1"), Some(Quantity::whole(5)));
        assert!(all.seen(0, "a", "n1", false, &asks(1)), "resized in place");
        assert!(all.seen(0, "c", "n2", false, &asks(1)), "bound");
        assert_eq!((taken(&all, "n1"), taken(&all, "n2")), (Some(Quantity::whole(4)), Some(Quantity::whole(1))));
        assert_eq!(taken(&all, ""), None);
        all.seen(0, "d", "n3", true, &asks(6));
        assert_eq!(all.under_quota["cpu"], Quantity::whole(6));
        all.gone(0, "d");
        assert_eq!(all.under_quota["cpu"], Quantity::ZERO);
        all.gone(0, "b");
        assert_eq!(taken(&all, "n1"), Some(Quantity::whole(4)), "another watch shows it");
        all.gone(1, "b");
        all.gone(0, "a");
        assert_eq!((taken(&all, "n1"), all.names.iter().any(|name| &**name == "n1")), (None, false));
    }

    #[test]
    fn a_list_takes_away_what_it_does_not_show_of_its_own_watch() {
        let mut all = Strangers::default();
        all.seen(0, "a", "n", false, &asks(1));
        all.seen(1, "b", "n", false, &asks(2));
        all.listing(0);
        all.seen(0, "c", "n", false, &asks(4));
        assert_eq!(taken(&all, "n"), Some(Quantity::whole(7)), "not before it is complete");
        all.listed(0);
        assert_eq!((taken(&all, "n"), all.known()), (Some(Quantity::whole(6)), false));
        all.listing(1);
        all.listed(1);
        assert_eq!((taken(&all, "n"), all.known()), (Some(Quantity::whole(4)), true));
    }
}
