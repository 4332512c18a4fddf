//! What holds for every pod that an API server would let through, with all that it may contain.

use proptest::prelude::*;
use proptest::sample::subsequence;
use serde_json::{Map, Value, json};

use super::*;

/// A site that allows everything.
fn open_site() -> Site {
    let guardrails = Guardrails {
        privileged: true,
        host_path: vec!["/".into()],
        host_network: true,
        host_pid: true,
        host_ipc: true,
        added_capabilities: vec!["ALL".into()],
        node_name: true,
        ..Guardrails::default()
    };
    let map = |home: &str, target: &str| [(home.to_owned(), target.to_owned())].into();
    let rules = Rules {
        guardrails,
        priority_classes: map("mapped", "urgent"),
        runtime_classes: map("mapped", "runsc"),
        schedulers: map("mapped", "volcano"),
        claimed: Claimed::Remote,
    };
    Site {
        host_id: "home".into(),
        node_name: "virtual".into(),
        node_labels: map("type", "virtual-kubelet"),
        target: "east".into(),
        rules: rules.into(),
        absent_priority_classes: ["absent".to_owned()].into(),
        namespace: "far".into(),
        ..Site::default()
    }
}

/// Some of these, in their order.
fn some(all: Value) -> impl Strategy<Value = Value> {
    let Value::Array(all) = all else { unreachable!("a list is given") };
    let most = all.len();
    subsequence(all, 0..=most).prop_map(Value::Array)
}

fn one_of(all: Value) -> impl Strategy<Value = Value> {
    let Value::Array(all) = all else { unreachable!("a list is given") };
    proptest::sample::select(all)
}

/// References of the downward API.
fn references() -> Value {
    let paths = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "metadata.labels['app']",
        "metadata.annotations['longshore.dev/sent']",
        "status.podIP",
    ];
    paths.map(|path| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}})).to_vec().into()
}

prop_compose! {
    fn container()(
        env in some(references()),
        mounts in some(json!([{"name": "kube-api-access-abcde", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
            {"name": "data", "mountPath": "/data", "subPathExpr": "$(A0)", "recursiveReadOnly": "IfPossible"}])),
        rest in some(json!([["securityContext", {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}],
            ["livenessProbe", {"grpc": {"port": 1}}], ["lifecycle", {"preStop": {"sleep": {"seconds": 1}}, "stopSignal": "SIGINT"}],
            ["restartPolicyRules", [{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]],
            ["resizePolicy", [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]],
            ["resources", {"limits": {"cpu": "1"}, "claims": [{"name": "gpu", "request": "r"}]}], ["volumeDevices", []], ["stdinOnce", true]])),
    ) -> Value {
        let env: Vec<Value> = env.as_array().into_iter().flatten().enumerate()
            .map(|(i, from)| json!({"name": format!("A{i}"), "valueFrom": from})).collect();
        with(json!({"name": "c", "image": "i", "env": env, "volumeMounts": mounts}), &rest)
    }
}

/// An object with more fields, as a list of pairs.
fn with(mut object: Value, pairs: &Value) -> Value {
    for pair in pairs.as_array().into_iter().flatten() {
        object[pair[0].as_str().unwrap_or_default()] = pair[1].clone();
    }
    object
}

fn requirements() -> Value {
    json!([{"key": "type", "operator": "In", "values": ["virtual-kubelet"]},
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["virtual"]},
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["other"]},
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
        {"key": "disk", "operator": "Exists"}])
}

prop_compose! {
    fn node_term()(expressions in some(requirements()), by_name in any::<bool>()) -> Value {
        let mut term = json!({"matchExpressions": expressions});
        if by_name {
            term["matchFields"] = json!([{"key": "metadata.name", "operator": "In", "values": ["virtual"]}]);
        }
        term
    }
}

prop_compose! {
    fn affinity()(
        required in proptest::collection::vec(node_term(), 0..3),
        preferred in proptest::collection::vec(node_term(), 0..3),
        made in some(json!([{"key": "app", "operator": "In", "values": ["web"]}, {"key": "x", "operator": "Exists"}])),
    ) -> Value {
        let term = json!({"topologyKey": "zone", "matchLabelKeys": ["app"], "labelSelector": {"matchExpressions": made}});
        let preferred: Vec<_> = preferred.into_iter().map(|term| json!({"weight": 1, "preference": term})).collect();
        let mut nodes = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
        if !required.is_empty() {
            nodes["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": required});
        }
        json!({"nodeAffinity": nodes, "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 2, "podAffinityTerm": term}]}})
    }
}

fn volumes() -> impl Strategy<Value = Value> {
    let item = |path: &str| json!({"path": "p", "fieldRef": {"fieldPath": path}});
    some(json!([
        {"name": "kube-api-access-abcde", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt"}}, {"downwardAPI": {"items": [item("metadata.namespace")]}}]}},
        {"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "down", "downwardAPI": {"items": [item("metadata.labels"), {"path": "l", "resourceFieldRef": {"resource": "r"}}]}},
        {"name": "both", "projected": {"sources": [{"downwardAPI": {"items": [item("metadata.uid")]}}, {"invented": {}}]}},
        {"name": "host", "hostPath": {"path": "/var/log"}}, {"name": "nfs", "nfs": {"server": "s", "path": "/"}},
        {"name": "image", "image": {"reference": "r"}}, {"name": "csi", "csi": {"driver": "d"}},
        {"name": "new", "inventedIn2031": {"a": [{}]}}
    ]))
}

fn scalars() -> impl Strategy<Value = Value> {
    some(json!([["nodeName", "virtual"], ["priority", 0], ["preemptionPolicy", "Never"], ["overhead", {"cpu": "1"}],
        ["serviceAccountName", "s"], ["serviceAccount", "s"], ["readinessGates", [{"conditionType": "g"}]],
        ["ephemeralContainers", [{"name": "e"}]], ["hostNetwork", true], ["hostPID", true], ["hostAliases", [{"ip": "::1"}]],
        ["dnsConfig", {"options": [{"name": "ndots"}]}], ["os", {"name": "linux"}], ["hostUsers", false], ["hostnameOverride", "h"],
        ["resources", {"limits": {"cpu": "2"}}], ["resourceClaims", [{"name": "gpu", "resourceClaimTemplateName": "t"}]], ["workloadRef", {"name": "w"}], ["enableServiceLinks", true],
        ["automountServiceAccountToken", false], ["activeDeadlineSeconds", 9], ["shareProcessNamespace", true],
        ["securityContext", {"supplementalGroupsPolicy": "Strict", "seLinuxChangePolicy": "MountOption"}],
        ["inventedIn2031", {"deep": [{"deeper": null}]}],
        ["topologySpreadConstraints", [{"maxSkew": 1, "matchLabelKeys": ["app"],
            "labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}}]]]))
}

prop_compose! {
    fn any_pod()(
        containers in proptest::collection::vec(container(), 1..3),
        inits in proptest::collection::vec(container(), 0..3),
        volumes in volumes(),
        affinity in affinity(),
        selector in some(json!([["type", "virtual-kubelet"], ["kubernetes.io/hostname", "virtual"], ["disk", "ssd"]])),
        tolerations in some(json!([{"key": "longshore.dev/virtual-node", "operator": "Exists"}, {"key": "gpu"}, {"key": "gpu2"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}])),
        class in one_of(json!([null, "plain", "mapped", "absent"])),
        scheduler in one_of(json!([null, "default-scheduler", "mapped", "other"])),
        scalars in scalars(),
        pinned in any::<bool>(),
    ) -> PodDocument {
        let mut spec = json!({"containers": containers, "initContainers": inits, "volumes": volumes, "affinity": affinity,
            "nodeSelector": with(json!({}), &selector), "tolerations": tolerations});
        for (field, value) in [("priorityClassName", &class), ("runtimeClassName", &class), ("schedulerName", &scheduler)] {
            if !value.is_null() {
                spec[field] = value.clone();
            }
        }
        let mut annotations = json!({"note": "n"});
        if pinned {
            annotations[names::PIN] = "metal-1".into();
        }
        let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "web"}, "annotations": annotations});
        let mut spec = with(spec, &scalars);
        novelties(&mut spec);
        PodDocument::new(serde_json::from_value(metadata).unwrap(), spec, Value::Null)
    }
}

/// Puts a field that nobody knows into every object, but for those that are compared as a whole.
fn novelties(value: &mut Value) {
    match value {
        Value::Array(entries) => entries.iter_mut().for_each(novelties),
        Value::Object(fields) => {
            fields.values_mut().for_each(novelties);
            let compared = ["key", "tolerationSeconds", "matchExpressions", "operator"];
            if !compared.iter().any(|field| fields.contains_key(*field)) && !fields.is_empty() {
                fields.insert("novel".into(), json!("n"));
            }
        }
        _ => {}
    }
}

const GONE: &str = "\0gone";
const CHANGED: &str = "\0changed";

/// `spec.a[0].b[key]` taken apart.
fn steps(path: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut within = false;
    for c in path.chars() {
        match c {
            '[' if !within => {
                within = true;
                steps.push(String::new());
            }
            ']' if within => within = false,
            '.' if !within => steps.push(String::new()),
            _ => steps.last_mut().unwrap().push(c),
        }
    }
    steps
}

/// Writes at a path, making objects on the way only if `make` says so.
fn put(mut place: &mut Value, path: &[String], value: &str, make: bool) {
    let Some((last, way)) = path.split_last() else { return };
    for step in way {
        if place.is_null() && make {
            *place = json!({});
        }
        let next = match place {
            Value::Array(entries) => step.parse().ok().and_then(|i: usize| entries.get_mut(i)),
            Value::Object(fields) => {
                if make {
                    fields.entry(step).or_insert(Value::Null);
                }
                fields.get_mut(step)
            }
            _ => None,
        };
        let Some(next) = next else { return };
        place = next;
    }
    if place.is_null() && make {
        *place = json!({});
    }
    match place {
        Value::Array(entries) => {
            if let Some(entry) = last.parse().ok().and_then(|i: usize| entries.get_mut(i)) {
                *entry = value.into();
            }
        }
        Value::Object(fields) => drop(fields.insert(last.clone(), value.into())),
        _ => {}
    }
}

/// Without what has gone, and without what that has left empty.
fn swept(value: Value) -> Value {
    match value {
        Value::Array(entries) => entries.into_iter().filter(|entry| entry != GONE).map(swept).collect(),
        Value::Object(fields) => {
            let fields =
                fields.into_iter().filter(|(_, value)| value != GONE).map(|(name, value)| (name, swept(value)));
            let empty = |value: &Value| *value == json!([]) || *value == json!({});
            Value::Object(fields.filter(|(_, value)| !empty(value)).collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// Whether a delegate is what the report leads to expect.
fn fits(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::Array(expected), Value::Array(actual)) => {
            expected.len() == actual.len() && expected.iter().zip(actual).all(|(e, a)| fits(e, a))
        }
        (Value::Object(expected), Value::Object(actual)) => {
            actual.keys().all(|name| expected.contains_key(name))
                && expected
                    .iter()
                    .all(|(name, value)| value == CHANGED || actual.get(name).is_some_and(|a| fits(value, a)))
        }
        (expected, actual) => expected == CHANGED || expected == actual,
    }
}

/// The proxy's spec with the report carried out.
fn carried_out(proxy: &PodDocument, report: &[Change]) -> Value {
    let mut whole = json!({"spec": proxy.spec});
    for change in report {
        match change.what {
            What::Changed => put(&mut whole, &steps(&change.field), CHANGED, true),
            What::Dropped => put(&mut whole, &steps(&change.field), GONE, false),
            What::Kept => {}
        }
    }
    swept(whole["spec"].take())
}

proptest! {
    #[test]
    fn what_the_report_does_not_name_is_as_it_was(proxy in any_pod()) {
        let Translation { delegate, report, .. } = translate(&proxy, &open_site()).unwrap();
        let (expected, actual) = (carried_out(&proxy, &report), swept(delegate.spec.clone().into_value()));
        prop_assert!(fits(&expected, &actual), "expected {expected:#}\nfound {actual:#}\nreport {report:#?}");
        prop_assert!(actual["novel"] == "n" && actual["containers"][0]["novel"] == "n");
    }

    #[test]
    fn translating_twice_or_after_the_wire_gives_the_same(proxy in any_pod()) {
        let once = translate(&proxy, &open_site()).unwrap();
        prop_assert_eq!(&once, &translate(&proxy, &open_site()).unwrap());
        let wire: PodDocument = serde_json::from_str(&serde_json::to_string(&proxy).unwrap()).unwrap();
        prop_assert_eq!(&once, &translate(&wire, &open_site()).unwrap());
        prop_assert_eq!(fingerprint(&proxy), fingerprint(&wire));
    }

    #[test]
    fn a_delegate_is_translated_to_itself(mut proxy in any_pod()) {
        proxy.metadata.annotations = None;
        let mut site = open_site();
        // What is mapped is mapped once.
        site.rules = Rules { guardrails: site.rules.guardrails.clone(), claimed: Claimed::Remote, ..Rules::default() }.into();
        let delegate = translate(&proxy, &site).unwrap().delegate;
        let again = translate(&delegate, &site).unwrap();
        let other: Vec<_> = again.report.iter().filter(|change| {
            change.what != What::Kept && change.field.starts_with("spec") && !change.field.ends_with("fieldRef")
        }).collect();
        prop_assert!(other.is_empty(), "{other:#?}");
    }

    #[test]
    fn a_closed_target_gets_nothing_that_reaches_beyond_the_pod(proxy in any_pod()) {
        let rules = Rules { claimed: Claimed::Remote, ..Rules::default() }.into();
        let site = Site { rules, ..open_site() };
        if let Ok(Translation { delegate, .. }) = translate(&proxy, &site) {
            let text = delegate.spec.to_string();
            for field in ["hostNetwork", "hostPID", "hostPath", "privileged", "NET_ADMIN", "metal-1"] {
                prop_assert!(!text.contains(&format!("\"{field}\"")), "{field} in {text}");
            }
        }
    }
}

#[test]
fn a_report_that_forgets_something_is_noticed() {
    let proxy: PodDocument = serde_json::from_value(json!({"metadata": {"namespace": "n"},
        "spec": {"nodeName": "v", "tolerations": [{"key": "longshore.dev/virtual-node"}, {"key": "gpu"}]}}))
    .unwrap();
    let Translation { delegate, mut report, .. } = translate(&proxy, &open_site()).unwrap();
    assert!(fits(&carried_out(&proxy, &report), &swept(delegate.spec.clone().into_value())));
    for forgotten in 0..report.len() {
        let change = report.remove(forgotten);
        assert!(!fits(&carried_out(&proxy, &report), &swept(delegate.spec.clone().into_value())), "{change}");
        report.insert(forgotten, change);
    }
}
