//! What is remembered of a look at what home shows of an instance, so that nobody looks twice at the same.
//!
//! After each write a pod is looked at again, and once more when the watch tells of that write: half of all looks are at what has
//! been looked at before, and each takes a status out of its compressed text to make another of it.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Entry, Table, Uid};
use crate::kubelet::step::Answer;

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// Home shows all that the instance says.
    Shown,
    /// There is something new, which may wait until its time has come.
    MayWait,
}

/// All that a look depends on, as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Weighed(u64);

impl Weighed {
    /// Of an entry now; `None` where the versions of both sides do not say which proxy and which instance it is.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let (proxy, instance) = (entry.record.proxy.there()?, entry.record.instance.there()?);
        if proxy.version == 0 || instance.version == 0 || !entry.words.count(&entry.record) {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (proxy.version, proxy.want, entry.accepted, &entry.record.memo.obstacle).hash(&mut hasher);
        (&instance.uid, instance.version, instance.sent).hash(&mut hasher);
        Some(Self(hasher.finish()))
    }

    fn with(self, found: Found) -> Self {
        let mut hasher = DefaultHasher::new();
        (self, found).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Table {
    /// What follows for a report of the instance's own status, if nothing has changed since somebody looked.
    pub fn known_report(&self, uid: &Uid, urgent: bool) -> Option<Answer> {
        let entry = self.entries.get(uid)?;
        let (last, now) = (entry.looked?, Weighed::of(&entry)?);
        if last == now.with(Found::Shown) {
            return Some(Answer::Unchanged);
        }
        // Whoever has looked has started the timer.
        (last == now.with(Found::MayWait) && !urgent && entry.deferred).then_some(Answer::Deferred)
    }

    /// Somebody has looked, and has found this.
    pub fn looked(&self, uid: &Uid, at: Option<Weighed>, found: Found) {
        if let Some(mut entry) = self.entries.get_mut(uid) {
            entry.looked = at.map(|at| at.with(found));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubelet::document::PodDocument;
    use crate::kubelet::provider::{Instance, Obstacle, ProviderPod};
    use crate::kubelet::step::Event;

    fn proxy(version: u64) -> PodDocument {
        let metadata = json!({"namespace": "ns", "name": "a", "uid": "a", "resourceVersion": version.to_string()});
        PodDocument::new(serde_json::from_value(metadata).unwrap(), json!({}), json!({}))
    }

    fn instance(version: u64) -> ProviderPod {
        ProviderPod {
            remarks: vec![],
            key: proxy(1).key(),
            instance: Instance { uid: "i".into(), version, sent: 0, deleting: None, obstacle: None },
            status: json!({"phase": "Running"}),
            annotations: std::collections::BTreeMap::new(),
        }
    }

    /// A pod with an instance of which somebody has found this.
    fn looked(found: Found) -> (Table, Uid) {
        let table = Table::default();
        let uid = table.proxy_seen(&proxy(1), 0, Some(0));
        table.instance_seen(0, instance(1));
        table.looked(&uid, table.snapshot(&uid).unwrap().weighed, found);
        (table, uid)
    }

    #[test]
    fn nobody_looks_twice_at_the_same() {
        let (table, uid) = looked(Found::Shown);
        table.proxy_seen(&proxy(1), 0, Some(0));
        table.instance_seen(0, instance(1));
        assert_eq!(table.known_report(&uid, true), Some(Answer::Unchanged));
    }

    #[test]
    fn whatever_has_changed_is_looked_at() {
        for change in 0..5 {
            let (table, uid) = looked(Found::Shown);
            match change {
                0 => _ = table.proxy_seen(&proxy(2), 0, Some(0)),
                1 => _ = table.proxy_seen(&proxy(2), 7, Some(0)),
                2 => _ = table.instance_seen(0, instance(2)),
                3 => _ = table.reported_known(&uid, 1, (3, None)),
                _ => {
                    let obstacle = Obstacle { reason: "r".into(), message: "m".into() };
                    table.step(&uid, Event::Answer(Answer::Refused { obstacle, retry: false }));
                }
            }
            assert_eq!(table.known_report(&uid, false), None, "{change}");
        }
    }

    #[test]
    fn what_may_wait_does_so_while_a_timer_runs() {
        let (table, uid) = looked(Found::MayWait);
        assert_eq!(table.known_report(&uid, false), None, "nobody would come back");
        assert!(table.defer(&uid));
        assert_eq!(table.known_report(&uid, false), Some(Answer::Deferred));
        assert_eq!(table.known_report(&uid, true), None, "its time has come");
        table.step(&uid, Event::ReportDue);
        assert_eq!(table.known_report(&uid, false), None);
    }

    #[test]
    fn without_versions_everything_is_looked_at() {
        let table = Table::default();
        let uid = table.proxy_seen(&proxy(1), 0, Some(0));
        assert!(table.snapshot(&uid).unwrap().weighed.is_none(), "there is no instance");
        table.instance_seen(0, instance(0));
        assert!(table.snapshot(&uid).unwrap().weighed.is_none());
        table.looked(&uid, None, Found::Shown);
        assert_eq!(table.known_report(&uid, true), None);
    }
}
