//! Delegates that have lost their labels while nobody looked.
//!
//! A delegate whose proxy is there is looked for by its name when no list shows it. One whose proxy has gone as well, while no
//! process kept the node, would be found by nobody, and run for ever.

use std::sync::Arc;

use kube::api::{ListParams, ObjectMeta};

use super::{Delegates, LONGEST_LOOK, LOOK};
use crate::errors::chain;
use crate::kubelet::document::{PodDocument, PodKey};
use crate::kubelet::provider::PodNotice;
use crate::paging::{PAGE, next};
use crate::provider::names;

impl Delegates {
    /// Puts the labels back on every delegate that lacks some, so that the watch shows it. Tries until all pods have been
    /// looked at.
    pub(super) async fn recover(&self) {
        let mut pause = LOOK;
        while let Err(error) = self.recover_once().await {
            tracing::warn!(
                node = self.node,
                error = chain(&error),
                "failed to look for delegates that have lost their labels; trying again"
            );
            tokio::time::sleep(pause).await;
            pause = LONGEST_LOOK.min(pause * 2);
        }
    }

    async fn recover_once(&self) -> kube::Result<()> {
        let mut failed = None;
        for selector in unselected(&self.host_id, &self.node) {
            for api in self.reach.apis::<PodDocument>(&self.client) {
                let mut params = Some(ListParams::default().labels(&selector).limit(PAGE));
                while let Some(asked) = params {
                    let page = api.list_metadata(&asked).await?;
                    for pod in &page.items {
                        // One whose labels are refused keeps nobody else without.
                        failed = self.recover_one(&pod.metadata).await.err().or(failed);
                    }
                    params = next(asked, &page.metadata);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Whether this is a delegate that lacks a label.
    pub(super) fn is_stray(&self, pod: &ObjectMeta) -> bool {
        self.proxy_of(pod).is_some()
    }

    /// Puts the labels back on one that the watch still shows; the watch tells of it then.
    pub(super) async fn put_right(&self, pod: ObjectMeta) -> (Arc<str>, Option<PodNotice>) {
        if let Err(error) = self.recover_one(&pod).await {
            tracing::warn!(node = self.node, error = chain(&error), "failed to put the labels of a delegate back");
        }
        (pod.uid.unwrap_or_default().into(), None)
    }

    /// The proxy of a delegate that lacks a label. Annotations are written easily: whoever may do so in one namespace must
    /// not speak for pods of another.
    fn proxy_of(&self, pod: &ObjectMeta) -> Option<PodKey> {
        let proxy = stray(pod, &self.host_id, &self.node)?;
        let (namespace, name) =
            (self.places.namespace(&proxy.namespace), self.places.name(&proxy.namespace, &proxy.name));
        ((Some(&*namespace), Some(&*name)) == (pod.namespace.as_deref(), pod.name.as_deref())).then_some(proxy)
    }

    async fn recover_one(&self, pod: &ObjectMeta) -> kube::Result<()> {
        let Some(proxy) = self.proxy_of(pod) else { return Ok(()) };
        match self.relabel(pod, &proxy.uid).await {
            // It has gone since, or another one has its name.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            result => result.map(drop),
        }
    }
}

/// Together with the selector of a node's delegates, these select every pod, and each pod once; those that lack only the UID
/// are selected with the delegates.
fn unselected(host_id: &str, node: &str) -> [String; 2] {
    let (host, node_label) = (names::HOST, names::NODE);
    [format!("{host}!={host_id}"), format!("{host}={host_id},{node_label}!={node}")]
}

/// The proxy of a delegate that says by its annotations that it is one of this node's, while its labels do not.
fn stray(pod: &ObjectMeta, host_id: &str, node: &str) -> Option<PodKey> {
    let annotation = |key: &str| pod.annotations.as_ref()?.get(key);
    let (of, uid) = names::read_origin(annotation(names::ORIGIN)?, host_id)?;
    let label = |key: &str| pod.labels.as_ref()?.get(key).map(String::as_str);
    let labelled = (label(names::HOST), label(names::NODE), label(names::UID));
    if of != node || labelled == (Some(host_id), Some(node), Some(uid)) {
        return None;
    }
    let (namespace, name) = (annotation(names::NAMESPACE)?.clone(), annotation(names::NAME)?.clone());
    Some(PodKey { namespace, name, uid: uid.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn asked(labels: &Value, origin: &str) -> Option<String> {
        let annotations =
            json!({"longshore.dev/origin": origin, "longshore.dev/namespace": "shop", "longshore.dev/name": "web"});
        let metadata = serde_json::from_value(json!({"labels": labels, "annotations": annotations})).unwrap();
        stray(&metadata, "home-1", "virtual").map(|key| key.uid)
    }

    #[test]
    fn a_delegate_that_lacks_a_label_is_a_stray() {
        let whole =
            json!({"longshore.dev/host": "home-1", "longshore.dev/node": "virtual", "longshore.dev/uid": "u-1"});
        assert_eq!(asked(&whole, "home-1/virtual/u-1"), None);
        for lost in ["longshore.dev/host", "longshore.dev/node", "longshore.dev/uid"] {
            let mut labels = whole.clone();
            labels.as_object_mut().unwrap().remove(lost);
            assert_eq!(asked(&labels, "home-1/virtual/u-1").as_deref(), Some("u-1"), "without {lost}");
        }
        assert_eq!(asked(&Value::Null, "home-1/virtual/u-1").as_deref(), Some("u-1"));
    }

    #[test]
    fn what_is_another_ones_is_no_stray_of_ours() {
        for origin in ["home-2/virtual/u-1", "home-1/other/u-1", "home-1/virtual/", "home-1/virtual", "home-1//u-1", ""]
        {
            assert_eq!(asked(&Value::Null, origin), None, "{origin:?}");
        }
    }
}
