//! How a live delegate follows a changed proxy.
//!
//! The API server lets little of a pod change: labels, annotations, images, the deadline, more tolerations; through
//! subresources of their own, ephemeral containers and the resources of containers. The patches are a three-way merge, as
//! `kubectl apply` makes one: what was sent last (`Last`, in an annotation of the delegate), what
//! is to be sent now, and what is there. Without the first, a label that vanished at home would stay for ever, and
//! an image that the target's webhook has pointed to a mirror would be taken for a change and restart its container.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fingerprint;
use super::spec::{CONTAINERS, Object, containers, text};
use crate::kubelet::document::PodDocument;
use crate::provider::before::Before;
use crate::provider::follow::names::{self as follow, Need};
use crate::provider::names;

mod ephemeral;
mod resize;

pub use ephemeral::{Refreshed, created, refresh};

/// What the next update has to know of the last one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::provider) struct Last {
    /// The keys of the labels that came from home.
    #[serde(default)]
    labels: BTreeSet<String>,
    /// The keys of the annotations that came from home, or were needed for its downward API.
    #[serde(default)]
    pub(in crate::provider) annotations: BTreeSet<String>,
    /// The image of each container, by its name, which is unique among containers of all kinds.
    #[serde(default)]
    pub(in crate::provider) images: BTreeMap<String, String>,
    /// The resources of each container that asks for some, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    resources: BTreeMap<String, Value>,
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
            resources: resize::of(spec),
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

/// The strategic-merge patches with which a live delegate becomes what the changed proxy asks for, in the order in which
/// they are sent.
///
/// Each names the UID of the delegate as a precondition, so that it never hits a namesake. Whoever sends it adds the version
/// that it was made for: a merge is right for what was read, and not for what another update has made of it since.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// For the subresource `ephemeralcontainers`.
    pub ephemeral: Option<Value>,
    /// For the subresource `resize`.
    pub resize: Option<Value>,
    /// For the pod itself, when all before it has worked: it says that the delegate follows.
    pub whole: Value,
    /// For the pod itself, when something has not: the next attempt begins anew with the rest.
    pub part: Value,
}

impl Update {
    fn new(fresh: &PodDocument, live: &PodDocument) -> Self {
        let last = Last::read(live).unwrap_or_default();
        let before = Before::read(live).unwrap_or_default();
        let whole = patch(fresh, live, &last);
        let mut part = whole.clone();
        if let Some(annotations) = part["metadata"]["annotations"].as_object_mut() {
            annotations.remove(names::SENT);
            if let Some(next) = Last::read(fresh) {
                annotations
                    .insert(names::LAST.into(), Last { resources: last.resources.clone(), ..next }.print().into());
            }
        }
        Self {
            ephemeral: ephemeral::patch(fresh, live, &before),
            resize: resize::patch(fresh, live, &last.resources),
            whole,
            part,
        }
    }
}

impl Update {
    /// The delegate also says that it needs these.
    pub fn follow(&mut self, live: &PodDocument, needs: &[Need]) {
        let mut all = follow::parse(live.annotation(names::FOLLOWS).unwrap_or_default());
        let before = all.len();
        for need in needs {
            if !all.contains(need) {
                all.push(need.clone());
            }
        }
        if all.len() > before {
            for patch in [&mut self.whole, &mut self.part] {
                patch["metadata"]["annotations"][names::FOLLOWS] = follow::print(&all).into();
            }
        }
    }
}

fn patch(fresh: &PodDocument, live: &PodDocument, last: &Last) -> Value {
    let mut spec = Object::new();
    for kind in CONTAINERS {
        let images = images(kind, fresh, live, last);
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

    fn update_patch(fresh: &PodDocument, live: &PodDocument) -> Value {
        Update::new(fresh, live).whole
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
    fn what_does_not_work_is_not_said_to_be_done() {
        let spec = |cpu: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]});
        let before = live(delegate(&json!({"a": "1"}), &json!({}), &spec("1")));
        let fresh = delegate(&json!({"a": "2"}), &json!({}), &spec("2"));
        let update = Update::new(&fresh, &before);
        assert_eq!(update.part["metadata"]["labels"], update.whole["metadata"]["labels"], "the rest is sent");
        assert_eq!(update.part["metadata"]["annotations"].get(names::SENT), None);
        let mut halfway = before.clone();
        let last = update.part["metadata"]["annotations"][names::LAST].as_str().unwrap().to_owned();
        halfway.metadata.annotations.as_mut().unwrap().insert(names::LAST.into(), last);
        assert_eq!(Update::new(&fresh, &halfway).resize, update.resize, "it is tried again");
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
