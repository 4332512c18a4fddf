//! The metadata of a delegate: home's labels and annotations, our own, and an owner.
//!
//! Everything else in a pod's metadata is the business of the API server that holds it. Owners and finalizers name
//! controllers of home, which would never come to release the delegate.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::report::Report;
use super::spec::Object;
use super::update::Last;
use super::{Hold, Site, fingerprint};
use crate::kubelet::document::PodDocument;
use crate::provider::names;

/// How long all annotations of an object may be together: `TotalAnnotationSizeLimitB` of apimachinery.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

const OURS: &str = "Longshore has a value of its own there";

/// The metadata of the delegate; `carried` are the annotations that its downward API refers to.
pub(super) fn build(
    proxy: &PodDocument,
    site: &Site,
    carried: BTreeMap<String, String>,
    spec: &Object,
    report: &mut Report,
) -> Result<ObjectMeta, Hold> {
    if proxy.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty()) {
        report.dropped("metadata.finalizers", "they hold the proxy at home, and nobody would release the delegate");
    }
    let mut labels = proxy.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| {
        let ours = names::owns_label(key);
        if ours {
            report.changed(format!("metadata.labels[{key}]"), OURS);
        }
        !ours
    });
    let mut annotations = proxy.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| {
        let ours = names::owns_annotation(key);
        if ours {
            report.changed(format!("metadata.annotations[{key}]"), OURS);
        } else if key == names::LAST_APPLIED {
            report.dropped(format!("metadata.annotations[{key}]"), "it is the manifest of the proxy");
        } else {
            return true;
        }
        false
    });
    annotations.extend(carried);
    let last = Last::of(&labels, &annotations, spec);

    for (key, value, what) in [
        (names::HOST, site.host_id.as_str(), "the id of the host cluster"),
        (names::NODE, &site.node_name, "the name of the virtual node"),
        (names::UID, proxy.uid(), "the UID of the pod"),
    ] {
        if !is_label_value(value) {
            let message = format!(
                "{what}, {value:?}, is no value of a label, by which the delegate is found; choose one of at most 63 \
                 letters, digits, dashes, dots and underscores"
            );
            return Err(Hold::new(format!("metadata.labels[{key}]"), message));
        }
        labels.insert(key.into(), value.into());
    }
    annotations.insert(names::ORIGIN.into(), names::origin(&site.host_id, &site.node_name, proxy.uid()));
    annotations.insert(names::NAMESPACE.into(), proxy.namespace().into());
    annotations.insert(names::NAME.into(), proxy.name().into());
    annotations.insert(names::SENT.into(), fingerprint::hex(fingerprint::fingerprint(proxy)));
    annotations.insert(names::LAST.into(), last.print());
    let total: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > ANNOTATIONS_LIMIT {
        let message = format!(
            "with those of Longshore they would be {total} bytes long, and {ANNOTATIONS_LIMIT} are allowed; shorten them, or \
             do not ask for all of them in a downwardAPI volume"
        );
        return Err(Hold::new("metadata.annotations", message));
    }

    Ok(ObjectMeta {
        name: if site.name.is_empty() { proxy.metadata.name.clone() } else { Some(site.name.clone()) },
        namespace: Some(site.namespace.clone()),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: site.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    })
}

/// Whether the API server takes a text as the value of a label.
fn is_label_value(text: &str) -> bool {
    let ends_well = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && ends_well(text.chars().next())
        && ends_well(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::translate::namespace_owner;
    use serde_json::{Value, json};

    fn site() -> Site {
        Site {
            host_id: "home-1".into(),
            node_name: "virtual".into(),
            namespace: "far".into(),
            owner: Some(namespace_owner("far", "n-1")),
            ..Site::default()
        }
    }

    fn build_from(metadata: Value, site: &Site) -> (Result<Value, Hold>, Vec<String>) {
        let proxy = PodDocument::new(serde_json::from_value(metadata).unwrap(), Value::Null, Value::Null);
        let mut report = Report::default();
        let carried = [(names::LABELS.to_owned(), "all".to_owned())].into();
        let metadata = build(&proxy, site, carried, &Object::new(), &mut report);
        let fields = report.into_changes().into_iter().map(|change| change.field).collect();
        (metadata.map(|metadata| json!(metadata)), fields)
    }

    #[test]
    fn only_what_is_the_users_is_copied() {
        let (metadata, report) = build_from(
            json!({"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "generation": 2,
                "generateName": "we", "creationTimestamp": "2026-01-01T00:00:00Z", "selfLink": "/x",
                "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3, "finalizers": ["f/f"],
                "managedFields": [{"manager": "m"}], "labels": {"app": "web", "longshore.dev/host": "fake"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r"}],
                "annotations": {"note": "n", "longshore.dev/offload": "true", "longshore.dev/sent": "fake",
                    "kubectl.kubernetes.io/last-applied-configuration": "{}"}}),
            &site(),
        );
        let mut metadata = metadata.unwrap();
        let sent = metadata["annotations"]["longshore.dev/sent"].take();
        assert_eq!(sent.as_str().unwrap().len(), 16);
        let expected = json!({"name": "web", "namespace": "far",
            "labels": {"app": "web", "longshore.dev/host": "home-1", "longshore.dev/node": "virtual",
                "longshore.dev/uid": "u-1"},
            "annotations": {"note": "n", "longshore.dev/offload": "true",
                "longshore.dev/origin": "home-1/virtual/u-1", "longshore.dev/namespace": "shop",
                "longshore.dev/name": "web", "longshore.dev/sent": null, "longshore.dev/labels": "all",
                "longshore.dev/last": "{\"labels\":[\"app\"],\
                    \"annotations\":[\"longshore.dev/labels\",\"longshore.dev/offload\",\"note\"],\"images\":{}}"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "far", "uid": "n-1",
                "controller": true, "blockOwnerDeletion": false}]});
        assert_eq!(metadata, expected);
        assert_eq!(
            report,
            [
                "metadata.finalizers",
                "metadata.labels[longshore.dev/host]",
                "metadata.annotations[kubectl.kubernetes.io/last-applied-configuration]",
                "metadata.annotations[longshore.dev/sent]"
            ]
        );
    }

    #[test]
    fn names_that_are_no_label_values_hold_the_pod() {
        for name in ["n".repeat(64), "a/b".into(), "ends-".into(), ".starts".into(), "nöde".into()] {
            let hold = build_from(json!({}), &Site { node_name: name, ..site() }).0.unwrap_err();
            assert_eq!(hold.field, "metadata.labels[longshore.dev/node]");
        }
        assert!(build_from(json!({}), &Site { node_name: "n".repeat(63), ..site() }).0.is_ok());
    }

    #[test]
    fn too_long_annotations_hold_the_pod() {
        let hold = build_from(json!({"annotations": {"note": "n".repeat(256 << 10)}}), &site()).0.unwrap_err();
        assert_eq!(hold.field, "metadata.annotations");
    }
}
