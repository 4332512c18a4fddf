//! Which targets want a Service or an Ingress, and what it looks like there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::FOLLOW;
use crate::provider::names;

/// What follows pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    Ingress,
}

impl Kind {
    pub(super) fn resource(self) -> ApiResource {
        let (group, kind, plural) = match self {
            Self::Service => ("", "Service", "services"),
            Self::Ingress => ("networking.k8s.io", "Ingress", "ingresses"),
        };
        let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        ApiResource { group: group.into(), version: "v1".into(), api_version, kind: kind.into(), plural: plural.into() }
    }
}

/// Whether an object asks to follow its pods to this target.
pub(super) fn follows(object: &DynamicObject, target: &str) -> bool {
    let Some(wish) = object.annotations().get(FOLLOW) else { return false };
    object.metadata.deletion_timestamp.is_none()
        && (wish.trim() == "true" || wish.split(',').any(|name| name.trim() == target))
}

/// The labels by which a Service selects pods; nothing where it does not.
pub(super) fn selector(service: &DynamicObject) -> BTreeMap<String, String> {
    let spec = &service.data["spec"];
    if spec["type"] == "ExternalName" {
        return BTreeMap::new();
    }
    let selector = spec["selector"].as_object().into_iter().flatten();
    selector.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// The Services that an Ingress points to.
pub(super) fn backends(ingress: &DynamicObject) -> BTreeSet<String> {
    let spec = &ingress.data["spec"];
    let paths = spec["rules"].as_array().into_iter().flatten().filter_map(|rule| rule["http"]["paths"].as_array());
    let backends = paths.flatten().map(|path| &path["backend"]).chain([&spec["defaultBackend"]]);
    backends.filter_map(|backend| Some(backend["service"]["name"].as_str()?.to_owned())).collect()
}

/// Fields of a Service that are the cluster's own: addresses and ports that it has given out, and controllers that it has.
const CLUSTERS_OWN: [&str; 8] = [
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ipFamilyPolicy",
    "externalIPs",
    "healthCheckNodePort",
    "loadBalancerClass",
    "loadBalancerIP",
];

/// What a later update has to know of this one.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Last {
    #[serde(default)]
    labels: BTreeSet<String>,
    #[serde(default)]
    annotations: BTreeSet<String>,
}

/// The object in a target for one of home.
pub(super) fn copy(kind: Kind, home: &DynamicObject, host_id: &str, namespace: &str) -> DynamicObject {
    let mut spec = home.data.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    if kind == Kind::Service {
        let headless = spec.get("clusterIP").is_some_and(|ip| ip == "None");
        spec.retain(|field, _| !CLUSTERS_OWN.contains(&field.as_str()));
        if headless {
            spec.insert("clusterIP".into(), "None".into());
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
    let mut labels = home.labels().clone();
    let mut annotations = home.annotations().clone();
    annotations.retain(|key, _| key != FOLLOW && key != names::LAST_APPLIED && !names::owns_annotation(key));
    labels.retain(|key, _| !names::owns_label(key));
    let last = Last { labels: labels.keys().cloned().collect(), annotations: annotations.keys().cloned().collect() };
    labels.insert(names::HOST.into(), host_id.into());
    labels.insert(names::UID.into(), home.uid().unwrap_or_default());
    annotations.insert(names::NAMESPACE.into(), home.namespace().unwrap_or_default());
    annotations.insert(names::NAME.into(), home.name_any());
    annotations.insert(names::LAST.into(), json!(last).to_string());
    let sent = digest(&json!([spec, labels, annotations]));
    annotations.insert(names::SENT.into(), sent);
    let mut made = DynamicObject::new(&home.name_any(), &kind.resource()).within(namespace);
    made.metadata.labels = Some(labels);
    made.metadata.annotations = Some(annotations);
    made.data = json!({"spec": spec});
    made
}

fn digest(value: &Value) -> String {
    let mut hex = String::new();
    for byte in &Sha256::digest(value.to_string())[..8] {
        _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// What it says of the object that it was made from.
pub(super) fn sent(object: &kube::core::ObjectMeta) -> Option<&str> {
    object.annotations.as_ref()?.get(names::SENT).map(String::as_str)
}

/// Whether an object of a target was made here from this very object of home.
pub(super) fn is_ours(live: &kube::core::ObjectMeta, host_id: &str) -> bool {
    live.labels.as_ref().and_then(|labels| labels.get(names::HOST)).is_some_and(|host| host == host_id)
}

/// What to write over a live object so that it becomes like `wanted`; `None` where it cannot, and has to be made anew. What
/// the target has added stays: addresses, finalizers, labels and annotations of its own.
pub(super) fn merged(wanted: &DynamicObject, live: &DynamicObject) -> Option<DynamicObject> {
    let mut next = live.clone();
    next.metadata.managed_fields = None;
    let last = live.annotations().get(names::LAST).and_then(|text| serde_json::from_str::<Last>(text).ok());
    let last = last.unwrap_or_default();
    let labels = next.metadata.labels.get_or_insert_default();
    labels.retain(|key, _| !last.labels.contains(key));
    labels.extend(wanted.labels().clone());
    let annotations = next.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| !last.annotations.contains(key));
    annotations.extend(wanted.annotations().clone());
    let (mut spec, old) = (wanted.data["spec"].clone(), &live.data["spec"]);
    let outward = |spec: &Value| spec["type"] == "ExternalName";
    let headless = |spec: &Value| spec["clusterIP"] == "None";
    if wanted.types.as_ref().is_some_and(|types| types.kind == "Service") && !outward(&spec) && !outward(old) {
        // The address of a Service never changes.
        if headless(&spec) != headless(old) {
            return None;
        }
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec[field].is_null() && !old[field].is_null() {
                spec[field] = old[field].clone();
            }
        }
    }
    next.data["spec"] = spec;
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web",
            "namespace": "shop", "uid": "s-1", "labels": {"app": "web"}, "resourceVersion": "5",
            "annotations": {FOLLOW: "true", "note": "n", names::LAST_APPLIED: "{}"}}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}))
        .unwrap()
    }

    #[test]
    fn the_annotation_names_targets() {
        let mut one = service(&json!({}));
        assert!(follows(&one, "east"));
        one.annotations_mut().insert(FOLLOW.into(), "west, north".into());
        assert!(follows(&one, "north") && !follows(&one, "east"));
        one.annotations_mut().insert(FOLLOW.into(), "false".into());
        assert!(!follows(&one, "east"));
        one.annotations_mut().remove(FOLLOW);
        assert!(!follows(&one, "east"));
    }

    #[test]
    fn what_is_the_clusters_own_stays_at_home() {
        let home = service(&json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "healthCheckNodePort": 30001, "selector": {"app": "web"},
            "externalTrafficPolicy": "Local", "loadBalancerIP": "1.2.3.4", "externalIPs": ["5.6.7.8"],
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30000}], "novel": true}));
        let made = copy(Kind::Service, &home, "home-1", "far");
        assert_eq!(
            made.data["spec"],
            json!({"type": "LoadBalancer", "selector": {"app": "web"}, "externalTrafficPolicy": "Local",
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}], "novel": true})
        );
        assert_eq!(made.data.get("status"), None);
        let keys: Vec<_> = made.annotations().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["longshore.dev/last", "longshore.dev/name", "longshore.dev/namespace", "longshore.dev/sent", "note"]
        );
        assert!(is_ours(&made.metadata, "home-1") && !is_ours(&made.metadata, "home-2"));
        let headless = copy(Kind::Service, &service(&json!({"clusterIP": "None", "clusterIPs": ["None"]})), "h", "far");
        assert_eq!(headless.data["spec"], json!({"clusterIP": "None"}));
        assert_ne!(sent(&headless.metadata), sent(&made.metadata));
    }

    #[test]
    fn an_update_keeps_what_the_target_has_added() {
        let mut live = copy(Kind::Service, &service(&json!({"ports": [{"port": 80}]})), "h", "far");
        live.labels_mut().insert("theirs".into(), "1".into());
        live.metadata.finalizers = Some(vec!["cloud/lb".into()]);
        live.data["spec"]["clusterIP"] = json!("10.1.0.1");
        let mut home = service(&json!({"ports": [{"port": 81}]}));
        home.labels_mut().remove("app");
        home.annotations_mut().remove("note");
        let next = merged(&copy(Kind::Service, &home, "h", "far"), &live).unwrap();
        assert_eq!(next.data["spec"], json!({"ports": [{"port": 81}], "clusterIP": "10.1.0.1"}));
        let labels: Vec<_> = next.labels().keys().map(String::as_str).collect();
        assert_eq!(labels, ["longshore.dev/host", "longshore.dev/uid", "theirs"]);
        assert!(!next.annotations().contains_key("note"));
        assert_eq!(next.finalizers(), ["cloud/lb"]);
        let headless = copy(Kind::Service, &service(&json!({"clusterIP": "None"})), "h", "far");
        assert_eq!(merged(&headless, &live), None, "its address cannot be taken away");
    }

    #[test]
    fn an_ingress_points_to_services() {
        let ingress: DynamicObject = serde_json::from_value(json!({"metadata": {}, "spec": {
            "defaultBackend": {"service": {"name": "a"}},
            "rules": [{"http": {"paths": [{"backend": {"service": {"name": "b"}}}, {"backend": {"resource": {}}}]}}, {}]}}))
        .unwrap();
        assert_eq!(backends(&ingress), ["a".to_owned(), "b".to_owned()].into());
        assert!(selector(&service(&json!({"type": "ExternalName", "selector": {"a": "b"}}))).is_empty());
    }
}
