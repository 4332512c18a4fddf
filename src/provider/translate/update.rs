//! How a live delegate follows a changed proxy.
//!
//! The API server lets little of a pod change: labels, annotations, images, the deadline, more tolerations. A patch of them
//! is a three-way merge, as `kubectl apply` makes one: what was sent last (`Last`, in an annotation of the delegate), what
//! is to be sent now, and what is there. Without the first, a label that vanished at home would stay for ever, and
//! an image that the target's webhook has pointed to a mirror would be taken for a change and restart its container.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::spec::{CONTAINERS, Object, containers, text};
use crate::kubelet::document::PodDocument;
use crate::provider::names;

/// What the next update has to know of the last one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::provider) struct Last {
    /// The keys of the labels that came from home.
    #[serde(default)]
    labels: BTreeSet<String>,
    /// The keys of the annotations that came from home, or were needed for its downward API.
    #[serde(default)]
    annotations: BTreeSet<String>,
    /// The image of each container, by its name, which is unique among containers of all kinds.
    #[serde(default)]
    pub(in crate::provider) images: BTreeMap<String, String>,
}

impl Last {
    pub(super) fn of(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>, spec: &Object) -> Self {
        let images = containers(spec).filter_map(|(_, container)| {
            let image = text(container, "image").unwrap_or_default();
            Some((text(container, "name")?.to_owned(), image.to_owned()))
        });
        Self {
            labels: labels.keys().cloned().collect(),
            annotations: annotations.keys().cloned().collect(),
            images: images.collect(),
        }
    }

    pub(super) fn print(&self) -> String {
        // Sets and maps of texts always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a delegate says about itself; `None` where someone took the annotation away.
    pub(in crate::provider) fn read(delegate: &PodDocument) -> Option<Self> {
        serde_json::from_str(delegate.annotation(names::LAST)?).ok()
    }
}

/// The strategic-merge patch with which `live` becomes what `fresh`, the translation of the changed proxy, is now.
///
/// It names the UID of `live` as a precondition, so that it never hits a namesake, and no resource version: it only touches
/// what is ours. Late or twice, it does the same.
pub fn update_patch(fresh: &PodDocument, live: &PodDocument) -> Value {
    let last = Last::read(live).unwrap_or_default();
    let mut spec = Object::new();
    for kind in CONTAINERS {
        let images = images(kind, fresh, live, &last);
        if !images.is_empty() {
            spec.insert(kind.into(), images.into());
        }
    }
    if let Some(deadline) = fresh.spec.get("activeDeadlineSeconds").filter(|d| !d.is_null())
        && live.spec.get("activeDeadlineSeconds") != Some(deadline)
    {
        spec.insert("activeDeadlineSeconds".into(), deadline.clone());
    }
    if let Some(tolerations) = tolerations(fresh, live) {
        spec.insert("tolerations".into(), tolerations.into());
    }
    let mut patch = json!({"metadata": {
        "uid": live.uid(),
        "labels": map(fresh.metadata.labels.as_ref(), &last.labels),
        "annotations": map(fresh.metadata.annotations.as_ref(), &last.annotations),
    }});
    if !spec.is_empty() {
        patch["spec"] = Value::Object(spec);
    }
    patch
}

/// All that there is now, and null for what was there last time.
fn map(now: Option<&BTreeMap<String, String>>, last: &BTreeSet<String>) -> Object {
    let gone = last.iter().map(|key| (key.clone(), Value::Null));
    let now = now.into_iter().flatten().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    gone.chain(now).collect()
}

/// The containers whose image has changed at home; the API server merges them by name.
fn images(kind: &str, fresh: &PodDocument, live: &PodDocument, last: &Last) -> Vec<Value> {
    let changed = fresh.list(kind).iter().filter_map(|container| {
        let (name, image) = (text(container, "name")?, text(container, "image")?);
        // A container that is not there would be added, which is not allowed and would fail the whole patch.
        let there = live.list(kind).iter().find(|other| text(other, "name") == Some(name))?;
        let before = last.images.get(name).map(String::as_str).or_else(|| text(there, "image"));
        (before != Some(image) && text(there, "image") != Some(image)).then(|| json!({"name": name, "image": image}))
    });
    changed.collect()
}

/// The tolerations of `live` with those of `fresh`; `None` where nothing is to be added.
///
/// The list is replaced as a whole and may only grow, and the target's admission has added some of its own.
fn tolerations(fresh: &PodDocument, live: &PodDocument) -> Option<Vec<Value>> {
    let same = |a: &Value, b: &Value| {
        let bare = |toleration: &Value| {
            let mut toleration = toleration.clone();
            toleration.as_object_mut().map(|fields| fields.remove("tolerationSeconds"));
            toleration
        };
        bare(a) == bare(b)
    };
    let mut all = live.list("tolerations").to_vec();
    for toleration in fresh.list("tolerations") {
        if all.contains(toleration) {
            continue;
        }
        // How long one is tolerated may change.
        match all.iter_mut().find(|other| same(other, toleration)) {
            Some(other) => *other = toleration.clone(),
            None => all.push(toleration.clone()),
        }
    }
    (all != live.list("tolerations")).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::translate::{Site, translate};

    fn delegate(labels: &Value, annotations: &Value, spec: &Value) -> PodDocument {
        let proxy = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u",
            "labels": labels, "annotations": annotations}, "spec": spec}))
        .unwrap();
        translate(&proxy, &Site::default()).unwrap().delegate
    }

    fn live(mut delegate: PodDocument) -> PodDocument {
        delegate.metadata.uid = Some("d-1".into());
        delegate
    }

    #[test]
    fn labels_and_annotations_come_and_go() {
        let before = live(delegate(&json!({"a": "1", "b": "1"}), &json!({"x": "1"}), &json!({})));
        let fresh = delegate(&json!({"b": "2", "c": "1"}), &json!({}), &json!({}));
        let patch = update_patch(&fresh, &before);
        assert_eq!(patch["metadata"]["uid"], "d-1");
        let labels = &patch["metadata"]["labels"];
        assert_eq!((&labels["a"], &labels["b"], &labels["c"]), (&Value::Null, &json!("2"), &json!("1")));
        assert!(labels.as_object().unwrap().contains_key("a"), "null removes, absence does not");
        let annotations = patch["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(annotations["x"], Value::Null);
        assert_eq!(annotations[names::SENT], json!(fresh.annotation(names::SENT)));
        assert_eq!(annotations[names::LAST], json!(fresh.annotation(names::LAST)));
        assert_eq!(patch.get("spec"), None);
    }

    #[test]
    fn what_the_target_added_stays() {
        let mut before = live(delegate(&json!({}), &json!({}), &json!({})));
        before.metadata.labels.as_mut().unwrap().insert("injected".into(), "yes".into());
        let patch = update_patch(&delegate(&json!({}), &json!({}), &json!({})), &before);
        assert_eq!(patch["metadata"]["labels"].get("injected"), None);
    }

    #[test]
    fn only_an_image_that_home_changed_is_sent() {
        let spec = |a: &str, b: &str| json!({"containers": [{"name": "a", "image": a}, {"name": "b", "image": b}]});
        let mut before = live(delegate(&json!({}), &json!({}), &spec("a:1", "b:1")));
        before.spec["containers"][0]["image"] = json!("mirror/a:1");
        before.spec["containers"].as_array_mut().unwrap().insert(0, json!({"name": "sidecar", "image": "s"}));
        let patch = update_patch(&delegate(&json!({}), &json!({}), &spec("a:1", "b:2")), &before);
        assert_eq!(patch["spec"], json!({"containers": [{"name": "b", "image": "b:2"}]}));
        let patch = update_patch(&delegate(&json!({}), &json!({}), &spec("a:1", "b:1")), &before);
        assert_eq!(patch.get("spec"), None);
    }

    #[test]
    fn without_a_memory_nothing_is_removed_and_images_are_compared() {
        let spec = |image: &str| json!({"initContainers": [{"name": "i", "image": image}]});
        let mut before = live(delegate(&json!({"a": "1"}), &json!({}), &spec("i:1")));
        before.metadata.annotations = None;
        let patch = update_patch(&delegate(&json!({}), &json!({}), &spec("i:2")), &before);
        assert_eq!(patch["metadata"]["labels"].get("a"), None);
        assert_eq!(patch["spec"]["initContainers"], json!([{"name": "i", "image": "i:2"}]));
    }

    #[test]
    fn tolerations_only_grow() {
        let spec = |tolerations: &Value| json!({"tolerations": tolerations});
        let (gpu, new) = (json!({"key": "gpu"}), json!({"key": "new"}));
        let added = json!({"key": "node.kubernetes.io/not-ready", "tolerationSeconds": 300});
        let mut before = live(delegate(&json!({}), &json!({}), &spec(&json!([gpu]))));
        before.spec["tolerations"] = json!([gpu, added]);
        let patch = |t: Value| update_patch(&delegate(&json!({}), &json!({}), &spec(&t)), &before);
        assert_eq!(patch(json!([gpu])).get("spec"), None);
        assert_eq!(patch(json!([])).get("spec"), None);
        assert_eq!(patch(json!([gpu, new]))["spec"]["tolerations"], json!([gpu, added, new]));
        let longer = json!({"key": "gpu", "tolerationSeconds": 7});
        assert_eq!(patch(json!([longer]))["spec"]["tolerations"], json!([longer, added]));
    }

    #[test]
    fn a_deadline_is_sent_when_it_differs() {
        let before = live(delegate(&json!({}), &json!({}), &json!({"activeDeadlineSeconds": 9})));
        let patch = |spec: Value| update_patch(&delegate(&json!({}), &json!({}), &spec), &before);
        assert_eq!(patch(json!({"activeDeadlineSeconds": 9})).get("spec"), None);
        assert_eq!(patch(json!({"activeDeadlineSeconds": 5}))["spec"], json!({"activeDeadlineSeconds": 5}));
        assert_eq!(patch(json!({})).get("spec"), None);
    }
}
