//! The translation as a whole; each step has its own tests beside it.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::provider::feedback::{Addresses, obstacle, provider_pod};
use crate::provider::names;

fn site() -> Site {
    Site {
        claims: [].into(),
        host_id: "home".into(),
        node_name: "virtual".into(),
        node_labels: [("type".to_owned(), "virtual-kubelet".to_owned())].into(),
        namespace: "far".into(),
        owner: Some(namespace_owner("far", "n-1")),
        names: Names::new("home"),
        target: "east".into(),
        ..Site::default()
    }
}

fn pod(pod: Value) -> PodDocument {
    serde_json::from_value(pod).unwrap()
}

/// A pod as an API server returns it, with all that its admission filled in.
fn proxy() -> PodDocument {
    pod(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "resourceVersion": "9",
            "generateName": "web-", "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r",
                "controller": true}]},
        "spec": {
            "containers": [{"name": "c", "image": "nginx", "env": [
                    {"name": "NS", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}}],
                "resources": {"limits": {"cpu": "1"}}, "terminationMessagePolicy": "File",
                "volumeMounts": [{"name": "kube-api-access-zq5vp", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "nodeName": "virtual",
            "nodeSelector": {"type": "virtual-kubelet"}, "preemptionPolicy": "PreemptLowerPriority", "priority": 0,
            "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {},
            "serviceAccount": "default", "serviceAccountName": "default", "terminationGracePeriodSeconds": 30,
            "tolerations": [{"key": "longshore.dev/virtual-node", "operator": "Exists"},
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "kube-api-access-zq5vp", "projected": {"sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]
        },
        "status": {"phase": "Pending"}
    }))
}

#[test]
fn an_ordinary_pod_becomes_an_ordinary_delegate() {
    let Translation { delegate, report, .. } = translate(&proxy(), &site()).unwrap();
    let expected = json!({
        "containers": [{"name": "c", "image": "nginx", "env": [{"name": "NS", "valueFrom": {"fieldRef":
                {"apiVersion": "v1", "fieldPath": "metadata.annotations['longshore.dev/namespace']"}}}],
            "envFrom": [{"configMapRef": {"name": site().names.suffixed("longshore-services")}}],
            "resources": {"limits": {"cpu": "1"}}, "terminationMessagePolicy": "File"}],
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": false, "automountServiceAccountToken": false,
        "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30
    });
    assert_eq!(delegate.spec, expected);
    assert_eq!(delegate.status, Value::Null);
    assert_eq!((delegate.namespace(), delegate.name(), delegate.uid()), ("far", "web-1", ""));
    assert_eq!(delegate.metadata.owner_references, Some(vec![namespace_owner("far", "n-1")]));
    assert_eq!(sent(&delegate), Some(fingerprint(&proxy())));
    let fields: Vec<&str> = report.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.containers[0].env[0].valueFrom.fieldRef",
            "spec.tolerations[0]",
            "spec.tolerations[1]",
            "spec.nodeSelector[type]",
            "spec.volumes[0]",
            "spec.containers[0].volumeMounts[0]",
            "spec.nodeName",
            "spec.priority",
            "spec.preemptionPolicy",
            "spec.serviceAccountName",
            "spec.serviceAccount",
            "spec.automountServiceAccountToken",
            "spec.enableServiceLinks",
            "spec.schedulerName",
            "spec.containers[0].envFrom",
        ]
    );
}

#[test]
fn a_field_nobody_knows_passes_through_at_every_depth() {
    let mut proxy = proxy();
    let novel = json!({"inventedIn2031": [1, {"deep": null}]});
    for path in ["", "/containers/0", "/containers/0/env/0", "/containers/0/resources", "/securityContext"] {
        let place = proxy.spec.pointer_mut(path).unwrap();
        place["novel"] = novel.clone();
    }
    let spec = translate(&proxy, &site()).unwrap().delegate.spec;
    for path in ["", "/containers/0", "/containers/0/env/0", "/containers/0/resources", "/securityContext"] {
        assert_eq!(spec.pointer(&format!("{path}/novel")), Some(&novel), "{path}");
    }
}

#[test]
fn the_owner_and_the_target_do_not_change_the_fingerprint() {
    let elsewhere = Site { namespace: "other".into(), owner: None, node_labels: BTreeMap::new(), ..site() };
    let (here, there) = (translate(&proxy(), &site()).unwrap(), translate(&proxy(), &elsewhere).unwrap());
    assert_eq!(sent(&here.delegate), sent(&there.delegate));
    assert_eq!(there.delegate.metadata.owner_references, None);
}

#[test]
fn a_delegate_can_be_a_proxy_again() {
    let near = translate(&proxy(), &site()).unwrap().delegate;
    let mut bound = near.clone();
    bound.metadata.uid = Some("u-2".into());
    let far = translate(&bound, &Site { host_id: "middle".into(), ..site() }).unwrap().delegate;
    assert_eq!((far.label(names::HOST), far.label(names::UID)), (Some("middle"), Some("u-2")));
    assert_eq!(far.annotation(names::NAMESPACE), Some("far"), "where its own proxy is");
    let path = far.spec.pointer("/containers/0/env/0/valueFrom/fieldRef/fieldPath").and_then(Value::as_str).unwrap();
    let key = path.strip_prefix("metadata.annotations['").and_then(|p| p.strip_suffix("']")).unwrap();
    assert_eq!(far.annotation(key), Some("shop"), "what the container has been told all along");
}

#[test]
fn a_delegate_of_another_name_tells_its_containers_that_of_the_pod() {
    let name = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    let proxy = pod(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
        "spec": {"containers": [{"name": "main", "env": [{"name": "NAME", "valueFrom": name}]}]}}));
    let path = |delegate: &PodDocument| {
        delegate.spec["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"].as_str().map(str::to_owned)
    };
    let renamed = translate(&proxy, &Site { name: "web-12ab".into(), ..site() }).unwrap().delegate;
    assert_eq!((renamed.name(), &renamed.spec["hostname"]), ("web-12ab", &json!("web")));
    assert_eq!(path(&renamed).unwrap(), format!("metadata.annotations['{}']", names::NAME));
    let same = translate(&proxy, &site()).unwrap().delegate;
    assert_eq!((same.name(), same.spec.get("hostname")), ("web", None));
    assert_eq!(path(&same).unwrap(), "metadata.name");
}

#[test]
fn a_pod_without_spec_is_held() {
    for spec in [Value::Null, json!([]), json!("x")] {
        let hold = translate(&PodDocument::new(proxy().metadata, spec, Value::Null), &site()).unwrap_err();
        assert_eq!(hold.field, "spec");
    }
}

#[test]
fn lists_that_are_none_pass_through() {
    let spec = json!({"containers": {"a": 1}, "volumes": "none", "tolerations": 7, "affinity": [], "nodeSelector": true,
        "initContainers": [null, 3, {"env": {}, "volumeMounts": 1, "securityContext": "s"}],
        "enableServiceLinks": false});
    let Value::Object(mut expected) = spec.clone() else { unreachable!() };
    expected.insert("automountServiceAccountToken".into(), json!(false));
    let delegate = translate(&PodDocument::new(proxy().metadata, spec, Value::Null), &site()).unwrap().delegate;
    assert_eq!(delegate.spec, Value::Object(expected));
}

/// Names that the translation looks for, so that odd values land in their places.
const FIELDS: &[&str] = &[
    "containers",
    "initContainers",
    "ephemeralContainers",
    "volumes",
    "projected",
    "sources",
    "downwardAPI",
    "items",
    "env",
    "valueFrom",
    "fieldRef",
    "fieldPath",
    "volumeMounts",
    "name",
    "mountPath",
    "serviceAccountToken",
    "tolerations",
    "key",
    "operator",
    "values",
    "nodeSelector",
    "affinity",
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
    "preference",
    "matchExpressions",
    "matchFields",
    "securityContext",
    "image",
    "secret",
    "hostNetwork",
    "schedulerName",
];

const TEXTS: &[&str] = &[
    "kube-api-access-x",
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "metadata.namespace",
    "metadata.labels",
    "metadata.annotations['longshore.dev/sent']",
    "spec.nodeName",
    "longshore.dev/virtual-node",
    "kubernetes.io/hostname",
    "metadata.name",
    "In",
    "NotIn",
    "Exists",
    "virtual",
    "type",
    "virtual-kubelet",
    "default-scheduler",
    "['",
    "",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(9, 120, 6, |inner| {
        let name = prop_oneof![9 => prop::sample::select(FIELDS).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..7).prop_map(|f| Value::Object(f.into_iter().collect())),
        ]
    })
}

/// Mostly an object, whose fields the translation knows.
fn any_spec() -> impl Strategy<Value = Value> {
    let object = prop::collection::vec((prop::sample::select(FIELDS), any_json()), 1..8)
        .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    prop_oneof![1 => any_json(), 9 => object.prop_map(Value::Object)]
}

fn any_map() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop_oneof![Just("longshore.dev/sent".to_owned()), Just("longshore.dev/host".to_owned()), "[a-z]{1,3}"];
    prop::collection::btree_map(key, any::<String>(), 0..4)
}

prop_compose! {
    fn any_pod()(spec in any_spec(), status in any_json(), labels in any_map(), annotations in any_map()) -> PodDocument {
        let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "labels": labels, "annotations": annotations});
        PodDocument::new(serde_json::from_value(metadata).unwrap(), spec, status)
    }
}

/// Puts a field that nobody knows into every object of a pod's spec that is a container or above one.
fn mark(spec: &mut Map<String, Value>) {
    spec.insert("novel".into(), json!({"x": [1]}));
    for kind in ["containers", "initContainers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(container) = container {
                container.insert("novel".into(), json!("y"));
            }
        }
    }
}

fn marked(spec: &Value) -> bool {
    let containers = ["containers", "initContainers"].map(|kind| spec.get(kind).and_then(Value::as_array));
    spec["novel"] == json!({"x": [1]})
        && containers.into_iter().flatten().flatten().filter(|c| c.is_object()).all(|c| c["novel"] == "y")
}

proptest! {
    #[test]
    fn any_pod_is_translated_or_held_and_always_the_same(proxy in any_pod()) {
        let once = translate(&proxy, &site());
        prop_assert_eq!(&once, &translate(&proxy.clone(), &site()));
        prop_assert_eq!(fingerprint(&proxy), fingerprint(&proxy.clone()));
        if let Ok(Translation { delegate, .. }) = once {
            prop_assert_eq!(sent(&delegate), Some(fingerprint(&proxy)));
            let _ = Refreshed { delegate: delegate.clone(), held: None, references: vec![] }.update(&proxy);
            let _ = Refreshed { delegate: proxy.clone(), held: None, references: vec![] }.update(&delegate);
            prop_assert!(translate(&delegate, &site()).is_ok(), "a delegate holds nothing that would be held");
        }
        for addresses in [Addresses::Publish, Addresses::Withhold] {
            let _ = provider_pod(&mut proxy.clone(), addresses);
        }
        let _ = obstacle(&proxy);
    }

    #[test]
    fn unknown_fields_of_any_pod_survive(mut proxy in any_pod()) {
        if let Value::Object(spec) = &mut *proxy.spec {
            mark(spec);
        }
        if let Ok(translation) = translate(&proxy, &site()) {
            prop_assert!(marked(&translation.delegate.spec));
        }
    }

    #[test]
    fn a_document_survives_the_wire(proxy in any_pod()) {
        if let Ok(Translation { delegate, .. }) = translate(&proxy, &site()) {
            let text = serde_json::to_string(&delegate).unwrap();
            let read: PodDocument = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read.metadata, delegate.metadata);
        }
    }
}
