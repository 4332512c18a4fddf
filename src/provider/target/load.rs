//! What the delegates of one virtual node ask of their target, kept up from the watch that there is anyway.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kubelet::provider::PodDocument;
use crate::provider::names;
use crate::provider::quantity::Quantity;
use crate::provider::requests::{self, Requests};
use crate::shared::Shared;

/// The requests of all delegates, summed up.
#[derive(Debug, Default)]
pub(super) struct Load {
    inner: Mutex<Inner>,
}

/// What a delegate asks for, and on which node it is.
#[derive(Debug)]
struct Delegate {
    requests: Arc<Requests>,
    node: Option<Arc<str>>,
    /// A digest of its own UID.
    uid: u64,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the UID of the proxy.
    pods: HashMap<Box<str>, Delegate>,
    /// Requests that pods have: most ask for the same, and a map for each of them takes half a kilobyte.
    kinds: Shared<Requests>,
    total: Requests,
    /// The sums by node.
    by_node: BTreeMap<Arc<str>, Requests>,
    /// Seen since a list began, while it is not complete.
    listed: Option<Vec<Box<str>>>,
}

impl Load {
    /// Whether a delegate of this proxy counts.
    pub(super) fn has(&self, proxy_uid: &str) -> bool {
        self.lock().pods.contains_key(proxy_uid)
    }

    /// A list begins.
    pub(super) fn listing(&self) {
        self.lock().listed = Some(vec![]);
    }

    /// Whether nothing of the delegate's spec has to be read: it has its node for good, and what it asks for with it. (That may be
    /// resized, which counts when it has another node.)
    pub(super) fn is_settled(&self, delegate: &PodDocument, over: bool) -> bool {
        over || delegate.label(names::UID).is_some_and(|proxy| self.lock().has_its_node(proxy, delegate))
    }

    /// A delegate is there, or has changed. One that is over asks for nothing any more.
    pub(super) fn seen(&self, delegate: &PodDocument, over: bool) {
        let Some(uid) = delegate.label(names::UID) else { return };
        let mut inner = self.lock();
        if let Some(listed) = &mut inner.listed {
            listed.push(uid.into());
        }
        if over {
            inner.remove(uid);
            return;
        }
        if inner.has_its_node(uid, delegate) {
            return;
        }
        let node = delegate.spec.get("nodeName").and_then(serde_json::Value::as_str).filter(|name| !name.is_empty());
        if inner.pods.get(uid).is_none_or(|known| known.node.as_deref() != node || known.uid != digest(delegate)) {
            inner.remove(uid);
            let requests = inner.kinds.one(Arc::new(requests::of(&delegate.spec)));
            requests::add(&mut inner.total, &requests);
            let node =
                node.map(|name| inner.by_node.get_key_value(name).map_or_else(|| name.into(), |it| it.0.clone()));
            if let Some(node) = &node {
                requests::add(inner.by_node.entry(node.clone()).or_default(), &requests);
            }
            inner.pods.insert(uid.into(), Delegate { requests, node, uid: digest(delegate) });
        }
    }

    /// What something makes of the sums by node.
    pub(super) fn on_nodes<T>(&self, make: impl FnOnce(&BTreeMap<Arc<str>, Requests>) -> T) -> T {
        make(&self.lock().by_node)
    }

    /// The delegate of this proxy has gone.
    pub(super) fn gone(&self, proxy_uid: &str) {
        self.lock().remove(proxy_uid);
    }

    /// The list is complete: what it did not show is not there.
    pub(super) fn listed(&self) {
        let mut inner = self.lock();
        let Some(listed) = inner.listed.take() else { return };
        let listed: HashSet<_> = listed.into_iter().collect();
        let gone: Vec<_> = inner.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            inner.remove(&uid);
        }
    }

    /// The sum.
    pub(super) fn total(&self) -> Requests {
        self.lock().total.clone()
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the UID of a delegate, in this process.
fn digest(delegate: &PodDocument) -> u64 {
    let mut hasher = DefaultHasher::new();
    delegate.uid().hash(&mut hasher);
    hasher.finish()
}

impl Inner {
    /// Whether this very delegate of a proxy is known to have a node, which never changes.
    fn has_its_node(&self, proxy: &str, delegate: &PodDocument) -> bool {
        self.pods.get(proxy).is_some_and(|known| known.node.is_some() && known.uid == digest(delegate))
    }

    fn remove(&mut self, uid: &str) {
        let Some(Delegate { requests, node, .. }) = self.pods.remove(uid) else { return };
        requests::subtract(&mut self.total, &requests);
        let Some(node) = node else { return };
        if let Some(sum) = self.by_node.get_mut(&node) {
            requests::subtract(sum, &requests);
            if sum.get("pods").is_none_or(|pods| *pods == Quantity::ZERO) {
                self.by_node.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn delegate(uid: &str) -> PodDocument {
        serde_json::from_value(json!({"metadata": {"labels": {names::UID: uid}},
            "spec": {"containers": [{"resources": {"requests": {"cpu": "2"}}}]}}))
        .unwrap()
    }

    #[test]
    fn the_sum_follows_the_watch() {
        let load = Load::default();
        load.seen(&delegate("a"), false);
        load.seen(&delegate("a"), false);
        load.seen(&delegate("b"), false);
        assert_eq!(load.total()["cpu"], Quantity::whole(4));
        let alike = |inner: &Inner| Arc::ptr_eq(&inner.pods["a"].requests, &inner.pods["b"].requests);
        assert!(alike(&load.lock()), "they ask for the same");
        load.seen(&delegate("b"), true);
        assert_eq!(load.total()["pods"], Quantity::whole(1));
        load.gone("a");
        assert_eq!(load.total()["cpu"], Quantity::ZERO);
    }

    #[test]
    fn what_is_on_each_node_is_known() {
        let load = Load::default();
        let on = |uid: &str, node: &str| {
            let mut pod = delegate(uid);
            pod.spec["nodeName"] = node.into();
            pod
        };
        load.seen(&delegate("a"), false);
        assert!(load.on_nodes(BTreeMap::is_empty));
        load.seen(&on("a", "n"), false);
        load.seen(&on("b", "n"), false);
        assert_eq!(
            (load.on_nodes(|all| all["n"]["cpu"]), load.total()["cpu"]),
            (Quantity::whole(4), Quantity::whole(4))
        );
        load.gone("a");
        load.gone("b");
        assert!(load.on_nodes(BTreeMap::is_empty));
    }

    #[test]
    fn a_list_takes_away_what_it_does_not_show() {
        let load = Load::default();
        load.seen(&delegate("a"), false);
        load.listing();
        load.seen(&delegate("b"), false);
        assert_eq!(load.total()["cpu"], Quantity::whole(4), "not before it is complete");
        load.listed();
        assert_eq!(load.total()["cpu"], Quantity::whole(2));
    }

    #[test]
    fn nothing_more_is_read_of_one_that_has_its_node() {
        let load = Load::default();
        let mut pod = delegate("a");
        pod.metadata.uid = Some("first".into());
        load.seen(&pod, false);
        assert!(!load.is_settled(&pod, false), "its node is not known");
        pod.spec["nodeName"] = "n".into();
        load.seen(&pod, false);
        assert!(load.is_settled(&pod, false) && load.is_settled(&delegate("b"), true));
        let mut second = delegate("a");
        second.metadata.uid = Some("second".into());
        assert!(!load.is_settled(&second, false), "another one has taken its place");
        load.seen(&second, false);
        assert!(load.on_nodes(BTreeMap::is_empty) && !load.is_settled(&second, false));
    }
}
