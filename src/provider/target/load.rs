//! What the delegates of one virtual node ask of their target, kept up from the watch that there is anyway.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kubelet::provider::PodDocument;
use crate::provider::names;
use crate::provider::requests::{self, Requests};

/// The requests of all delegates, summed up.
#[derive(Debug)]
pub(super) struct Load {
    inner: Option<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the UID of the proxy.
    pods: HashMap<Box<str>, Requests>,
    total: Requests,
    /// Seen since a list began, while it is not complete.
    listed: Option<Vec<Box<str>>>,
}

impl Load {
    /// Keeps the sum only where somebody wants it: it costs some memory for each pod.
    pub(super) fn new(wanted: bool) -> Self {
        Self { inner: wanted.then(Mutex::default) }
    }

    /// Whether a delegate of this proxy counts.
    pub(super) fn has(&self, proxy_uid: &str) -> bool {
        self.lock().is_some_and(|inner| inner.pods.contains_key(proxy_uid))
    }

    /// A list begins.
    pub(super) fn listing(&self) {
        if let Some(mut inner) = self.lock() {
            inner.listed = Some(vec![]);
        }
    }

    /// A delegate is there, or has changed. One that has ended asks for nothing any more.
    pub(super) fn seen(&self, delegate: &PodDocument) {
        let (Some(mut inner), Some(uid)) = (self.lock(), delegate.label(names::UID)) else { return };
        if let Some(listed) = &mut inner.listed {
            listed.push(uid.into());
        }
        let phase = delegate.status.get("phase").and_then(serde_json::Value::as_str);
        if matches!(phase, Some("Succeeded" | "Failed")) {
            inner.remove(uid);
        } else if !inner.pods.contains_key(uid) {
            let requests = requests::of(&delegate.spec);
            requests::add(&mut inner.total, &requests);
            inner.pods.insert(uid.into(), requests);
        }
    }

    /// The delegate of this proxy has gone.
    pub(super) fn gone(&self, proxy_uid: &str) {
        if let Some(mut inner) = self.lock() {
            inner.remove(proxy_uid);
        }
    }

    /// The list is complete: what it did not show is not there.
    pub(super) fn listed(&self) {
        let Some(mut inner) = self.lock() else { return };
        let Some(listed) = inner.listed.take() else { return };
        let listed: std::collections::HashSet<_> = listed.into_iter().collect();
        let gone: Vec<_> = inner.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            inner.remove(&uid);
        }
    }

    /// The sum.
    pub(super) fn total(&self) -> Requests {
        self.lock().map(|inner| inner.total.clone()).unwrap_or_default()
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> Option<MutexGuard<'_, Inner>> {
        Some(self.inner.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn remove(&mut self, uid: &str) {
        if let Some(requests) = self.pods.remove(uid) {
            requests::subtract(&mut self.total, &requests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::quantity::Quantity;
    use serde_json::json;

    fn delegate(uid: &str, phase: &str) -> PodDocument {
        serde_json::from_value(json!({"metadata": {"labels": {names::UID: uid}}, "status": {"phase": phase},
            "spec": {"containers": [{"resources": {"requests": {"cpu": "2"}}}]}}))
        .unwrap()
    }

    #[test]
    fn the_sum_follows_the_watch() {
        let load = Load::new(true);
        load.seen(&delegate("a", "Pending"));
        load.seen(&delegate("a", "Running"));
        load.seen(&delegate("b", "Running"));
        assert_eq!(load.total()["cpu"], Quantity::whole(4));
        load.seen(&delegate("b", "Succeeded"));
        assert_eq!(load.total()["pods"], Quantity::whole(1));
        load.gone("a");
        assert_eq!(load.total()["cpu"], Quantity::ZERO);
    }

    #[test]
    fn a_list_takes_away_what_it_does_not_show() {
        let load = Load::new(true);
        load.seen(&delegate("a", "Running"));
        load.listing();
        load.seen(&delegate("b", "Running"));
        assert_eq!(load.total()["cpu"], Quantity::whole(4), "not before it is complete");
        load.listed();
        assert_eq!(load.total()["cpu"], Quantity::whole(2));
    }
}
