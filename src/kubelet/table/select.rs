//! Which records somebody is to look at; nothing here changes any.

use std::time::Duration;

use super::{Entry, Index, InstanceView, PodKey, ProxyView, Record, Table, Uid, place_of};
use crate::kubelet::server::{Found, PodDirectory, Running};

impl Table {
    /// The records of instances at a site that run although their proxy has gone, or has ended.
    pub fn stale(&self, site: Index) -> Vec<Uid> {
        let stale = |record: &Record| {
            record.instance.there().is_some_and(|instance| instance.deleting.is_none() && instance.site == site)
                && record.proxy.there().is_none_or(|proxy| proxy.health.phase.terminal() || proxy.deleting.is_some())
        };
        self.entries.iter().filter(|entry| stale(&entry.record)).map(|entry| entry.key().clone()).collect()
    }

    /// The records of instances at a site that could not be scheduled for so long, each with how long.
    pub fn stuck(&self, site: Index, time: Duration) -> Vec<(Uid, Duration)> {
        let here = |entry: &Entry| entry.record.instance.there().is_some_and(|instance| instance.site == site);
        let alive = |entry: &Entry| entry.record.proxy.there().is_some_and(|proxy| proxy.deleting.is_none());
        let stuck = self.entries.iter().filter_map(|entry| {
            let waited = entry.word().unschedulable?.elapsed();
            let stuck = waited >= time && here(&entry) && alive(&entry) && !entry.record.memo.moving;
            stuck.then(|| (entry.key().clone(), waited))
        });
        stuck.collect()
    }

    /// Whether one of these has not been tried to stop yet.
    pub fn unswept(&self, stale: &[Uid]) -> bool {
        let waits = |entry: &Entry| {
            let untried = |instance: &InstanceView| instance.deleting.is_none();
            entry.record.instance.there().is_some_and(untried) && !entry.record.memo.delete_blocked
        };
        stale.iter().any(|uid| self.entries.get(uid).is_some_and(|entry| waits(&entry)))
    }

    /// Proxies of a site that the host would evict, of at least this age as far as this process knows.
    pub fn evictable(&self, site: Index, age: Duration) -> Vec<Uid> {
        let evictable = |entry: &Entry| {
            let due = |proxy: &ProxyView| proxy.evictable && proxy.deleting.is_none() && !proxy.health.phase.terminal();
            let here = place_of(&entry.record) == Some(site);
            here && entry.record.proxy.there().is_some_and(due)
                && !entry.record.memo.lift_due
                && entry.since.elapsed() >= age
        };
        self.entries.iter().filter(|entry| evictable(entry)).map(|entry| entry.key().clone()).collect()
    }

    /// Proxies of a site that have not ended and are not given up, each with the value of its own annotation on what to do in a
    /// silence.
    pub fn partitioned(&self, site: Index) -> Vec<(Uid, PodKey, Option<Box<str>>)> {
        let alive = |entry: &Entry| {
            let alive = |proxy: &ProxyView| !proxy.health.phase.terminal();
            let here = place_of(&entry.record) == Some(site);
            here && entry.record.proxy.there().is_some_and(alive) && !entry.record.memo.give_up
        };
        let alive = self.entries.iter().filter(|entry| alive(entry));
        alive.map(|entry| (entry.key().clone(), entry.key.clone(), entry.home.partition.clone())).collect()
    }
}

impl PodDirectory for Table {
    fn find(&self, namespace: &str, name: &str) -> Option<Found> {
        let uid = self.named(namespace, name)?;
        let entry = self.entries.get(&uid)?;
        entry.record.proxy.there()?;
        Some(Found { key: entry.key.clone(), running: entry.record.instance.there().is_some() })
    }

    fn running(&self) -> Vec<Running> {
        let there = self.entries.iter().filter(|entry| entry.record.proxy.there().is_some());
        let running = there.filter(|entry| entry.record.instance.there().is_some());
        let read = |entry: dashmap::mapref::multiple::RefMulti<'_, Uid, Box<Entry>>| Running {
            key: entry.key.clone(),
            status: entry.word().status(),
        };
        running.map(read).collect()
    }
}
