//! Which labels the delegates in a target have, by namespace: what Services there would select.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::kubelet::provider::PodDocument;
use crate::provider::names;

type Labels = BTreeMap<String, String>;

/// The delegates of one virtual node in one target, as far as selectors go. Pods of one ReplicaSet share their labels, so
/// that a pod costs little more than its UID.
#[derive(Default)]
pub struct Tracker {
    inner: Mutex<Inner>,
    news: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    /// By the UID of the delegate.
    pods: HashMap<Box<str>, (Arc<str>, u64)>,
    /// By home's namespace and a digest of the labels: how many have these.
    labels: HashMap<Arc<str>, HashMap<u64, (Labels, usize)>>,
    /// Seen since a list began, while it is not complete.
    listed: Option<HashSet<Box<str>>>,
    /// Namespaces in which something has changed since somebody asked.
    changed: HashSet<Arc<str>>,
}

impl Tracker {
    /// A tracker that tells of changes by this.
    pub fn new(news: Arc<Notify>) -> Self {
        Self { inner: Mutex::default(), news }
    }

    /// A list begins.
    pub fn listing(&self) {
        self.lock().listed = Some(HashSet::new());
    }

    /// A delegate is there, or has changed.
    pub fn seen(&self, delegate: &PodDocument) {
        let uid: Box<str> = delegate.uid().into();
        let mut labels = delegate.metadata.labels.clone().unwrap_or_default();
        labels.retain(|key, _| !names::owns_label(key));
        let mut hasher = DefaultHasher::new();
        labels.hash(&mut hasher);
        let digest = hasher.finish();
        let namespace = delegate.annotation(names::NAMESPACE).unwrap_or_default();
        let mut inner = self.lock();
        if let Some(listed) = &mut inner.listed {
            listed.insert(uid.clone());
        }
        if inner.pods.get(&uid).is_some_and(|(_, known)| *known == digest) {
            return;
        }
        inner.remove(&uid);
        let namespace: Arc<str> = namespace.into();
        let sets = inner.labels.entry(namespace.clone()).or_default();
        let new = sets.get_mut(&digest).is_none_or(|(_, count)| {
            *count += 1;
            false
        });
        if new {
            sets.insert(digest, (labels, 1));
            inner.changed.insert(namespace.clone());
        }
        inner.pods.insert(uid, (namespace, digest));
        let tell = !inner.changed.is_empty();
        drop(inner);
        if tell {
            self.news.notify_one();
        }
    }

    /// A delegate has gone.
    pub fn gone(&self, uid: &str) {
        self.lock().remove(uid);
        self.news.notify_one();
    }

    /// The list is complete: what it did not show is not there.
    pub fn listed(&self) {
        let mut inner = self.lock();
        let Some(listed) = inner.listed.take() else { return };
        let gone: Vec<_> = inner.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            inner.remove(&uid);
        }
        drop(inner);
        self.news.notify_one();
    }

    /// The namespaces of home that have delegates here.
    pub fn namespaces(&self) -> Vec<Arc<str>> {
        self.lock().labels.keys().cloned().collect()
    }

    /// Whether one of them in this namespace of home has all these labels. A selector of nothing selects nothing.
    pub fn selects(&self, namespace: &str, selector: &Labels) -> bool {
        if selector.is_empty() {
            return false;
        }
        let inner = self.lock();
        let Some(sets) = inner.labels.get(namespace) else { return false };
        sets.values().any(|(labels, _)| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }

    /// The namespaces in which labels have come or gone since this was asked last.
    pub fn changed(&self) -> HashSet<Arc<str>> {
        std::mem::take(&mut self.lock().changed)
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, uid: &str) {
        let Some((namespace, digest)) = self.pods.remove(uid) else { return };
        let Some(sets) = self.labels.get_mut(&namespace) else { return };
        let Some((_, count)) = sets.get_mut(&digest) else { return };
        *count -= 1;
        if *count == 0 {
            sets.remove(&digest);
            if sets.is_empty() {
                self.labels.remove(&namespace);
            }
            self.changed.insert(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn delegate(uid: &str, app: &str) -> PodDocument {
        serde_json::from_value(json!({"metadata": {"uid": uid, "annotations": {names::NAMESPACE: "shop"},
            "labels": {"app": app, names::UID: uid}}}))
        .unwrap()
    }

    fn app(value: &str) -> Labels {
        [("app".to_owned(), value.to_owned())].into()
    }

    #[test]
    fn only_what_changes_a_selection_is_news() {
        let tracker = Tracker::default();
        tracker.seen(&delegate("a", "web"));
        assert_eq!(tracker.changed().len(), 1);
        tracker.seen(&delegate("b", "web"));
        tracker.gone("a");
        assert_eq!(tracker.changed().len(), 0, "another one has the same labels");
        assert!(tracker.selects("shop", &app("web")) && !tracker.selects("shop", &app("db")));
        assert!(!tracker.selects("other", &app("web")) && !tracker.selects("shop", &Labels::new()));
        tracker.seen(&delegate("b", "db"));
        assert!(tracker.selects("shop", &app("db")) && !tracker.selects("shop", &app("web")));
        tracker.gone("b");
        assert_eq!((tracker.changed().len(), tracker.namespaces().len()), (1, 0));
    }

    #[test]
    fn a_list_takes_away_what_it_does_not_show() {
        let tracker = Tracker::default();
        tracker.seen(&delegate("a", "web"));
        tracker.listing();
        tracker.seen(&delegate("b", "db"));
        assert!(tracker.selects("shop", &app("web")), "not before it is complete");
        tracker.listed();
        assert!(!tracker.selects("shop", &app("web")) && tracker.selects("shop", &app("db")));
    }
}
