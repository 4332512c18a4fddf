//! The node contract: labels, addresses, resources, conditions. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Taint};
use serde_json::{Map, Value, json};

use super::NodeIdentity;
use crate::kubelet::contact::Contact;
use crate::kubelet::partition::UNREACHABLE;
use crate::kubelet::provider::{NodeReport, Obstacle};
use crate::kubelet::stuck;

/// Condition of the Node: whether its other side answers now. `Ready` says so only when that has lasted.
pub const REACHABLE: &str = "longshore.dev/Reachable";

/// Annotation of the Node: what its pods have to choose is written on each of them, so that one without it runs nowhere.
pub const CHOICE: &str = "longshore.dev/choice";

/// Annotation of the Node: which of its labels and taints the provider gave it, as JSON, so that they go when the provider
/// takes them back.
pub const GIVEN: &str = "longshore.dev/given";

/// The zone and region of a virtual node whose operator names none, and whose other side has none in common. A Ready node
/// without a zone would switch off
/// topology hints for the whole cluster (endpointslice/topologycache).
const NOWHERE: &str = "virtual";

/// The labels that every virtual node has unless somebody says otherwise. Whoever selects by them selects virtual nodes.
pub const DEFAULT_LABELS: [(&str, &str); 4] = [
    ("type", "virtual-kubelet"),
    ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
    ("topology.kubernetes.io/zone", NOWHERE),
    ("topology.kubernetes.io/region", NOWHERE),
];

/// Labels that depend on what the other side is.
const GUESSED: [&str; 4] =
    ["topology.kubernetes.io/zone", "topology.kubernetes.io/region", "kubernetes.io/os", "kubernetes.io/arch"];

/// `metadata` of the Node: its name and all labels, those of the identity winning over the provider's.
pub fn metadata(identity: &NodeIdentity, report: &NodeReport) -> Value {
    let mut labels = Map::new();
    let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.into());
    for (key, value) in DEFAULT_LABELS {
        set(key, value);
    }
    for (key, value) in report.labels.iter().chain(&identity.labels) {
        set(key, value);
    }
    set("kubernetes.io/hostname", &identity.name);
    set("kubernetes.io/os", or(&report.operating_system, "linux"));
    set("kubernetes.io/arch", or(&report.architecture, "amd64"));
    let choice = identity.choice.then_some("written");
    let mut annotations = json!({CHOICE: choice, GIVEN: given(report)});
    for (key, value) in &identity.annotations {
        annotations[key] = value.as_str().into();
    }
    json!({"name": identity.name, "labels": labels, "annotations": annotations})
}

/// What the provider gives the Node; nothing where that is so.
fn given(report: &NodeReport) -> Option<String> {
    let labels: Vec<_> = report.labels.keys().collect();
    let taints: Vec<_> = report.taints.iter().map(|taint| [&taint.key, &taint.effect]).collect();
    (!labels.is_empty() || !taints.is_empty()).then(|| json!({"labels": labels, "taints": taints}).to_string())
}

/// What was given to a Node before, by its annotations.
fn was_given(annotations: Option<&BTreeMap<String, String>>) -> Value {
    annotations.and_then(|all| serde_json::from_str(all.get(GIVEN)?).ok()).unwrap_or_default()
}

/// The patch (merge) that gives a Node these labels, annotations and taints, and takes away what was given to it before.
/// Everything else stays.
pub fn dress(live: &Node, wanted: &Value, report: &NodeReport) -> Value {
    let annotations = live.metadata.annotations.as_ref();
    let mut wanted = wanted.clone();
    // While nothing is known, what a process before this one gave stays.
    if report.capacity.is_empty()
        && let Some(annotations) = wanted["annotations"].as_object_mut()
    {
        annotations.remove(GIVEN);
    }
    let annotations = annotations.filter(|_| !report.capacity.is_empty());
    let before = was_given(annotations);
    let mut labels = wanted["labels"].clone();
    if let Some(labels) = labels.as_object_mut() {
        for key in before["labels"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            labels.entry(key).or_insert(Value::Null);
        }
    }
    let mut metadata = json!({"labels": labels, "annotations": wanted["annotations"]});
    let given = before["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let had = live.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let ours = |taint: &Taint| {
        given.iter().any(|one| *one == json!([taint.key, taint.effect]))
            || report.taints.iter().any(|one| one.key == taint.key && one.effect == taint.effect)
    };
    let kept: Vec<_> = had.iter().filter(|taint| !ours(taint)).map(|taint| json!(taint)).collect();
    let added = report.taints.iter().map(|taint| {
        let value = (!taint.value.is_empty()).then(|| taint.value.clone());
        let known = had.iter().find(|one| one.key == taint.key && one.effect == taint.effect && one.value == value);
        known.map_or_else(|| json!({"key": taint.key, "value": taint.value, "effect": taint.effect}), |one| json!(one))
    });
    let taints: Vec<_> = kept.into_iter().chain(added).collect();
    if given.is_empty() && report.taints.is_empty() {
        return json!({"metadata": metadata});
    }
    // The list is written as a whole, and others write it, too.
    metadata["resourceVersion"] = json!(live.metadata.resource_version);
    json!({"metadata": metadata, "spec": {"taints": taints}})
}

/// The labels that somebody has given to a Node, beside those of ours in `metadata`, those that say for whom it has no room, and
/// those of the host's node controller.
pub fn by_hand(node: &Node, metadata: &Value) -> BTreeMap<String, String> {
    let given = was_given(node.metadata.annotations.as_ref());
    let given: Vec<_> = given["labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let ours = |key: &str| metadata["labels"].get(key).is_some() || given.contains(&key);
    let labels = node.metadata.labels.iter().flatten();
    let others = |key: &str| key.starts_with("beta.kubernetes.io/") || stuck::is_label(key);
    let by_hand = labels.filter(|(key, _)| !ours(key) && !others(key));
    by_hand.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The labels of `metadata`, to be written on a Node that is there, without those that are guessed as long as nothing is known
/// of the other side: what an earlier process has found out stays.
pub fn settled_labels(metadata: &Value, identity: &NodeIdentity, report: &NodeReport) -> Value {
    let mut labels = metadata["labels"].clone();
    if report.capacity.is_empty()
        && let Some(labels) = labels.as_object_mut()
    {
        labels.retain(|key, _| !GUESSED.contains(&&**key) || identity.labels.contains_key(key));
    }
    labels
}

/// `status` of the Node, without the times of its conditions.
pub fn status(identity: &NodeIdentity, report: &NodeReport, trouble: Option<&Obstacle>, contact: &Contact) -> Value {
    let ready = match trouble {
        None => json!({"type": "Ready", "status": "True", "reason": "TargetReady", "message": "the target answers"}),
        Some(it) => json!({"type": "Ready", "status": "False", "reason": it.reason, "message": it.message}),
    };
    let reachable = match contact {
        Contact::Answers => json!({"type": REACHABLE, "status": "True", "reason": "Answers", "message": ""}),
        Contact::Unheard => json!({"type": REACHABLE, "status": "Unknown", "reason": "NotAskedYet", "message": ""}),
        Contact::Doubtful(message) | Contact::Silent { message, .. } => {
            json!({"type": REACHABLE, "status": "False", "reason": UNREACHABLE, "message": message})
        }
    };
    let pressure = |kind: &str| {
        let (status, reason, message) = match contact {
            Contact::Silent { message, .. } => ("Unknown", UNREACHABLE.to_owned(), message.as_str()),
            _ if report.pressures.contains(kind) => {
                ("True", format!("All{kind}"), "every ready node on the other side is under this pressure")
            }
            _ => ("False", format!("No{kind}"), "there is a node on the other side that is not under this pressure"),
        };
        json!({"type": kind, "status": status, "reason": reason, "message": message})
    };
    let mut status = json!({
        "addresses": [{"type": "InternalIP", "address": identity.ip}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": identity.port}},
        "nodeInfo": {
            "operatingSystem": or(&report.operating_system, "linux"),
            "architecture": or(&report.architecture, "amd64"),
            "kubeletVersion": or(&report.kubelet_version, "v0.0.0"),
            "kubeProxyVersion": "",
            "containerRuntimeVersion": concat!("longshore://", env!("CARGO_PKG_VERSION")),
            "osImage": "Longshore virtual node",
            "kernelVersion": "", "bootID": "", "machineID": "", "systemUUID": "",
        },
        "conditions": [
            ready,
            reachable,
            pressure("MemoryPressure"),
            pressure("DiskPressure"),
            pressure("PIDPressure"),
        ],
    });
    // As long as nothing is known, what an earlier process has written stays.
    if !report.capacity.is_empty() {
        status["capacity"] = json!(report.capacity);
        status["allocatable"] = json!(report.allocatable);
    }
    status
}

/// Whether the Node counts as ready.
pub fn is_ready(live: &NodeStatus) -> bool {
    live.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Whether the Node still shows what was written: the host's node controller changes conditions if no lease was renewed for
/// a while, and another replica that slept through the end of its leadership may have named its own address.
pub fn shows(live: &NodeStatus, written: &Value) -> bool {
    let endpoint = |address: &Value| {
        live.addresses
            .iter()
            .flatten()
            .any(|known| address["type"] == *known.type_ && address["address"] == *known.address)
    };
    let port = live.daemon_endpoints.as_ref().and_then(|all| all.kubelet_endpoint.as_ref()).map(|it| it.port);
    let condition = |wanted: &Value| {
        let same = |known: &NodeCondition| wanted["type"] == *known.type_ && wanted["status"] == *known.status;
        live.conditions.iter().flatten().any(same)
    };
    let all = |field: &str| written[field].as_array().into_iter().flatten();
    all("conditions").all(condition)
        && all("addresses").all(endpoint)
        && written["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_i64() == port.map(i64::from)
}

/// The patch that makes the node's status this: heartbeat times of now, transition times that move only with the status,
/// and a null for each resource that has vanished over there.
pub fn patch(status: &Value, before: &NodeStatus, now: &str) -> Value {
    let mut status = status.clone();
    for (field, known) in [("capacity", &before.capacity), ("allocatable", &before.allocatable)] {
        if let Some(resources) = status.get_mut(field).and_then(Value::as_object_mut) {
            for name in known.iter().flatten().map(|(name, _)| name) {
                resources.entry(name.as_str()).or_insert(Value::Null);
            }
        }
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let since = before
            .conditions
            .iter()
            .flatten()
            .find(|known| condition["type"] == known.type_.as_str() && condition["status"] == known.status.as_str())
            .and_then(|known| serde_json::to_value(known.last_transition_time.as_ref()?).ok());
        condition["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
        condition["lastHeartbeatTime"] = now.into();
    }
    json!({"status": status})
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_by_hand_are_nobody_elses() {
        let node = serde_json::from_value(json!({"metadata": {"annotations": {GIVEN: "{\"labels\": [\"disk\"]}"},
            "labels": {"type": "virtual-kubelet", "disk": "ssd", "beta.kubernetes.io/os": "linux", "rack": "7",
                "no-room.longshore.dev/1": ""}}}));
        let ours = json!({"labels": {"type": "virtual-kubelet"}});
        assert_eq!(by_hand(&node.unwrap(), &ours), BTreeMap::from([("rack".into(), "7".into())]));
    }
    use crate::kubelet::provider::NodeTaint;
    use std::collections::BTreeMap;

    fn identity() -> NodeIdentity {
        NodeIdentity {
            name: "east".into(),
            ip: "10.0.0.1".into(),
            port: 10250,
            labels: BTreeMap::from([("topology.kubernetes.io/zone".into(), "z1".into())]),
            taints: vec![],
            choice: false,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn what_was_given_is_taken_back_and_nothing_else() {
        let report = NodeReport {
            labels: BTreeMap::from([("disk".into(), "ssd".into())]),
            taints: vec![NodeTaint::no_schedule("gpu")],
            ..NodeReport::of([("cpu", "1")])
        };
        let own = json!({"key": "own", "effect": "NoSchedule"});
        let bare: Node =
            serde_json::from_value(json!({"metadata": {"resourceVersion": "1"}, "spec": {"taints": [own]}})).unwrap();
        let dressed = dress(&bare, &metadata(&identity(), &report), &report);
        assert_eq!(dressed["metadata"]["labels"]["disk"], "ssd");
        assert_eq!(dressed["spec"]["taints"], json!([own, {"key": "gpu", "value": "", "effect": "NoSchedule"}]));
        let mut worn = json!({"metadata": dressed["metadata"], "spec": dressed["spec"]});
        // As a merge patch does.
        worn["metadata"]["annotations"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let worn: Node = serde_json::from_value(worn).unwrap();
        let unknown = NodeReport::default();
        let patch = dress(&worn, &metadata(&identity(), &unknown), &unknown);
        assert_eq!(patch["spec"], Value::Null, "nothing is known yet");
        assert!(patch["metadata"]["labels"].get("disk").is_none());
        assert!(patch["metadata"]["annotations"].get(GIVEN).is_none());
        let naked = NodeReport::of([("cpu", "1")]);
        let patch = dress(&worn, &metadata(&identity(), &naked), &naked);
        assert_eq!((&patch["metadata"]["labels"]["disk"], &patch["spec"]["taints"]), (&Value::Null, &json!([own])));
        assert_eq!(patch["metadata"]["annotations"][GIVEN], Value::Null);
        let plain: Node = serde_json::from_value(json!({"metadata": {}, "spec": {"taints": [own]}})).unwrap();
        assert_eq!(
            dress(&plain, &metadata(&identity(), &naked), &naked)["spec"],
            Value::Null,
            "taints are not touched"
        );
    }

    #[test]
    fn a_node_has_a_zone_whatever_happens() {
        let labels = &metadata(&identity(), &NodeReport::default())["labels"];
        assert_eq!(labels["topology.kubernetes.io/zone"], "z1", "the operator's choice");
        assert_eq!(labels["topology.kubernetes.io/region"], "virtual");
        assert_eq!(labels["kubernetes.io/hostname"], "east");
    }

    #[test]
    fn nobody_can_rename_the_host_by_a_label() {
        let mut identity = identity();
        identity.labels.insert("kubernetes.io/hostname".into(), "other".into());
        assert_eq!(metadata(&identity, &NodeReport::default())["labels"]["kubernetes.io/hostname"], "east");
    }

    #[test]
    fn trouble_makes_the_node_not_ready_and_says_why() {
        let trouble = Obstacle { reason: "TargetUnreachable".into(), message: "connection refused".into() };
        let ready = &status(&identity(), &NodeReport::default(), Some(&trouble), &Contact::Answers)["conditions"][0];
        assert_eq!((&ready["status"], &ready["message"]), (&json!("False"), &json!("connection refused")));
    }

    #[test]
    fn what_is_guessed_is_not_written_over_what_was_found_out() {
        let labels = |report: &NodeReport| settled_labels(&metadata(&identity(), report), &identity(), report);
        let nothing = labels(&NodeReport::default());
        assert_eq!(nothing["topology.kubernetes.io/zone"], "z1", "the operator's choice is no guess");
        assert!(nothing.get("topology.kubernetes.io/region").is_none() && nothing.get("kubernetes.io/arch").is_none());
        let labels = labels(&NodeReport::of([("cpu", "1")]));
        assert_eq!(
            (&labels["topology.kubernetes.io/region"], &labels["kubernetes.io/os"]),
            (&json!(NOWHERE), &json!("linux"))
        );
    }

    #[test]
    fn pressures_follow_the_other_side() {
        let report = NodeReport { pressures: ["DiskPressure".into()].into(), ..NodeReport::of([("cpu", "1")]) };
        let all = |contact: &Contact| {
            let status = status(&identity(), &report, None, contact);
            let of = |kind: &str| {
                let all = status["conditions"].as_array().unwrap();
                all.iter().find(|one| one["type"] == kind).unwrap()["status"].as_str().unwrap().to_owned()
            };
            ["MemoryPressure", "DiskPressure", "PIDPressure"].map(of)
        };
        assert_eq!(all(&Contact::Answers), ["False", "True", "False"]);
        let silent = Contact::Silent { message: "no route".into(), since: tokio::time::Instant::now() };
        assert_eq!(all(&silent), ["Unknown"; 3], "nobody knows");
    }

    #[test]
    fn a_node_that_was_marked_unknown_is_written_again() {
        let written = status(&identity(), &NodeReport::default(), None, &Contact::Answers);
        let live = |ready: &str| {
            let conditions =
                ["MemoryPressure", "DiskPressure", "PIDPressure"].map(|kind| json!({"type": kind, "status": "False"}));
            let reachable = json!({"type": REACHABLE, "status": "True"});
            let all: Vec<Value> =
                conditions.into_iter().chain([reachable, json!({"type": "Ready", "status": ready})]).collect();
            serde_json::from_value::<NodeStatus>(json!({"conditions": all, "addresses": written["addresses"],
                "daemonEndpoints": written["daemonEndpoints"]}))
            .unwrap()
        };
        assert!(shows(&live("True"), &written));
        assert!(!shows(&live("Unknown"), &written));
        let mut moved = live("True");
        moved.addresses = serde_json::from_value(json!([{"type": "InternalIP", "address": "10.0.0.9"}])).unwrap();
        assert!(!shows(&moved, &written), "somebody else has named another address");
    }

    #[test]
    fn a_resource_that_vanished_over_there_vanishes_here() {
        let had = json!({"capacity": {"cpu": "4", "nvidia.com/gpu": "8"}});
        let report = NodeReport { capacity: BTreeMap::from([("cpu".into(), "2".into())]), ..NodeReport::default() };
        let wanted = status(&identity(), &report, None, &Contact::Answers);
        let patch = patch(&wanted, &serde_json::from_value(had).unwrap(), "2026-02-02T00:00:00Z");
        assert_eq!(patch["status"]["capacity"], json!({"cpu": "2", "nvidia.com/gpu": null}));
    }

    #[test]
    fn a_transition_time_moves_with_the_status_only() {
        let now = "2026-02-02T00:00:00Z";
        let known = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "DiskPressure", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let before = NodeStatus { conditions: serde_json::from_value(known).unwrap(), ..NodeStatus::default() };
        let after = patch(&status(&identity(), &NodeReport::default(), None, &Contact::Answers), &before, now);
        let since = |kind: &str| {
            let all = after["status"]["conditions"].as_array().unwrap();
            all.iter().find(|c| c["type"] == kind).unwrap()["lastTransitionTime"].clone()
        };
        assert_eq!((since("Ready"), since("DiskPressure")), (json!("2026-01-01T00:00:00Z"), json!(now)));
    }
}
