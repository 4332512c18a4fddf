//! How much memory a pod takes for as long as it lives: the record of the core, and what the provider keeps beside it.
//!
//! Measured as the system sees it, in a process of its own, with documents as an API server sends them: what is made in
//! between, and given back, counts where it leaves holes.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;

use longshore::kubelet::document::PodDocument;
use longshore::kubelet::table::{Side, Table};
use longshore::provider::feedback::{Addresses, provider_pod};
use serde_json::{Value, json};

/// What a pod may take, in bytes, and what one that waits for its delegate, of which the whole document is kept.
const BUDGET: usize = 2000;
const WAITING: usize = 2500;

/// Before these the process knows no kind of work yet, and has no buffers for it.
const BEFORE: usize = 1_000;
const PODS: usize = 4_000;

/// Memory that is in use, in bytes.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": "2026-01-01T10:00:00Z",
        "observedGeneration": 1})
}

fn manager(name: &str) -> Value {
    let field = |name: &str| (format!("f:{name}"), json!({".": {}, "f:value": {}}));
    let fields: serde_json::Map<_, _> = ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().map(field).collect();
    json!({"manager": name, "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T10:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": fields.clone(), "f:spec": fields}})
}

/// A pod as it is read; `version` makes it another state of the same pod.
fn pod(index: usize, version: usize, ready: bool, theirs: bool) -> PodDocument {
    let name = format!("web-7c9d8b6f5d-{index:05}");
    let uid = |side: u32| format!("{side:08x}-7a1f-4b53-9f6e-{index:012x}");
    let mut metadata = json!({"name": name, "generateName": "web-7c9d8b6f5d-", "namespace": "shop", "generation": 1,
        "uid": uid(1), "resourceVersion": version.to_string(), "creationTimestamp": "2026-01-01T10:00:00Z",
        "labels": {"app": "web", "pod-template-hash": "7c9d8b6f5d"}, "managedFields": [manager("one"), manager("two")]});
    if theirs {
        metadata["uid"] = uid(2).into();
        metadata["labels"]["longshore.dev/host"] = uid(3).into();
        metadata["labels"]["longshore.dev/uid"] = uid(1).into();
        metadata["annotations"] = json!({"longshore.dev/namespace": "shop", "longshore.dev/name": name,
            "longshore.dev/sent": "00000000000000ff", "longshore.dev/last": "{\"images\":{\"app\":\"registry.example/app:1.0\"}}"});
    }
    let tolerations = ["not-ready", "unreachable"].map(|taint| {
        json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    });
    let spec = json!({"nodeName": "east", "restartPolicy": "Always", "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "tolerations": tolerations,
        "containers": [{"name": "app", "image": "registry.example/app:1.0", "resources": {"requests": {"cpu": "10m"}},
            "env": [{"name": "COLOUR", "value": "blue"}], "terminationMessagePath": "/dev/termination-log",
            "volumeMounts": [{"name": "kube-api-access-abcde", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
        "volumes": [{"name": "kube-api-access-abcde", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]});
    let is = if ready { "True" } else { "False" };
    let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "longshore.dev/Delegated"];
    let mut conditions = kinds.map(|kind| condition(kind, is)).to_vec();
    conditions.push(condition("PodScheduled", "True"));
    let state = if ready {
        json!({"running": {"startedAt": "2026-01-01T10:00:01Z"}})
    } else {
        json!({"waiting": {"reason": "ContainerCreating"}})
    };
    let status = json!({"phase": if ready { "Running" } else { "Pending" }, "qosClass": "Burstable", "hostIP": "10.0.0.1",
        "hostIPs": [{"ip": "10.0.0.1"}], "startTime": "2026-01-01T10:00:00Z", "conditions": conditions,
        "containerStatuses": [{"name": "app", "image": "registry.example/app:1.0", "imageID": "registry.example/app@sha256:0123456789abcdef",
            "containerID": format!("containerd://{index:064x}"), "ready": ready, "started": ready, "restartCount": 0, "state": state}]});
    let text =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}).to_string();
    serde_json::from_str(&text).unwrap()
}

/// A pod from its creation until both sides show that it is ready.
fn live(table: &Table, index: usize) {
    let see = |version, ready| table.proxy_seen(&pod(index, version, ready, false), 0xff, Some(0));
    let seen = |version, ready| {
        table.instance_seen(0, provider_pod(&mut pod(index, version, ready, true), Addresses::Withhold).unwrap());
    };
    see(1, false);
    seen(1, false);
    seen(2, true);
    see(2, true);
}

/// A table whose sides are listed.
fn table() -> Table {
    let table = Table::new(1, false);
    for side in [Side::Host, Side::Site(0)] {
        table.listing(side);
        table.listed(side);
    }
    table
}

/// What each of many pods takes after some have been there, in bytes.
fn each(mut add: impl FnMut(usize)) -> usize {
    (0..BEFORE).for_each(&mut add);
    let before = resident();
    (BEFORE..BEFORE + PODS).for_each(&mut add);
    (resident() - before) / PODS
}

/// One test, since it is about the whole process.
#[test]
fn a_pod_takes_no_more_than_its_budget() {
    let (waiting, living) = (table(), table());
    let waits = each(|index| drop(waiting.proxy_seen(&pod(index, 1, false, false), 0xff, Some(0))));
    let lives = each(|index| live(&living, index));
    println!("{lives} bytes a pod, {waits} while it waits for its delegate");
    assert_eq!((waiting.len(), living.len()), (BEFORE + PODS, BEFORE + PODS));
    assert!(lives <= BUDGET, "a pod takes {lives} bytes");
    assert!(waits <= WAITING, "a pod takes {waits} bytes while it waits");
}
