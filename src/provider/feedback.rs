//! From a live delegate to what home may know of it: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::before::Before;
use super::translate::{self, devices, update::Last};
use super::{bounds, names};
use crate::kubelet::document::{PodDocument, PodKey};
use crate::kubelet::provider::{Instance, Obstacle, ProviderPod};
use crate::kubelet::table::CLAIMS_AWAITED;

/// What home is told of the delegates' addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// Nothing: the networks may overlap, and a Service at home would send its traffic to a stranger.
    #[default]
    Withhold,
    /// The pod's addresses, which home can reach.
    Publish,
}

/// Why a pod of the target is nobody's delegate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pod {namespace}/{name} is no delegate: it has no {missing}")]
pub struct NotADelegate {
    /// The pod's namespace in the target.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The label, annotation or field that it lacks.
    pub missing: &'static str,
}

/// Fields of a status that speak of the target's objects and machines, or that are computed from home's spec.
const NOT_HOMES: [&str; 7] = [
    "hostIP",
    "hostIPs",
    "qosClass",
    "nominatedNodeName",
    "observedGeneration",
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
];

/// The statuses of the containers with which a delegate was created.
const CONTAINERS: [&str; 2] = ["containerStatuses", "initContainerStatuses"];

/// Annotations of a delegate that never reach home, beside those of Longshore, those that came from there, and those of
/// Kubernetes itself, by which home's controllers decide which pods to delete or to evict: the manifest of somebody in the
/// target, and those that the API server does not let anybody change on a pod (ValidatePodSpecificAnnotationUpdates in
/// pkg/apis/core/validation). One that ends in `/` or `.` is a prefix.
pub const NOT_RETURNED: [&str; 5] = [
    names::LAST_APPLIED,
    "kubernetes.io/config.",
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
];

/// At most so many annotations reach home, none longer than this with its key, in order of their keys.
const RETURNED_COUNT: usize = 32;
const RETURNED_BYTES: usize = 4 << 10;

/// The delegate's status in home's terms; null while it has none.
///
/// It lacks the statuses of containers that the target has added, the generations in its conditions, which count the
/// delegate's changes rather than the proxy's, and the target's word that it is not scheduled: at home it is, and the
/// [`obstacle`] says the rest.
fn home_status(status: Value, delegate: &PodDocument, last: Option<&Last>, addresses: Addresses) -> Value {
    let before = Before::read(delegate);
    let mut status = match status {
        Value::Object(status) => status,
        _ if before.is_some() => Map::new(),
        _ => return Value::Null,
    };
    status.retain(|field, _| !NOT_HOMES.contains(&field.as_str()));
    if addresses == Addresses::Withhold {
        status.remove("podIP");
        status.remove("podIPs");
    }
    if let Some(conditions) = list_mut(&mut status, "conditions") {
        conditions.retain(|condition| !is_condition(condition, "PodScheduled", "False"));
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            condition.remove("observedGeneration");
        }
    }
    if let Some(last) = last.filter(|last| !last.images.is_empty()) {
        for kind in CONTAINERS {
            if let Some(statuses) = list_mut(&mut status, kind) {
                statuses.retain(|s| s.get("name").and_then(Value::as_str).is_none_or(|n| last.images.contains_key(n)));
            }
        }
    }
    for kind in CONTAINERS {
        for status in list_mut(&mut status, kind).into_iter().flatten().filter_map(Value::as_object_mut) {
            without_devices(status);
        }
    }
    // A delegate is created without them: what did not come from home is somebody's in the target.
    if let Some(statuses) = list_mut(&mut status, "ephemeralContainerStatuses") {
        let ours = |name: &str| last.is_some_and(|last| last.images.contains_key(name));
        statuses.retain(|s| s.get("name").and_then(Value::as_str).is_some_and(ours));
        if statuses.is_empty() {
            status.remove("ephemeralContainerStatuses");
        }
    }
    if let Some(before) = before {
        before.add(&mut status);
    }
    Value::Object(status)
}

/// The annotations that somebody in the target has given the delegate, as far as home may know of them. None where nobody
/// can tell them from those of home.
fn returned(delegate: &PodDocument, last: Option<&Last>) -> BTreeMap<String, String> {
    let (Some(last), Some(all)) = (last, &delegate.metadata.annotations) else {
        return BTreeMap::new();
    };
    let denied = |key: &str| {
        let matches = |rule: &str| if rule.ends_with(['/', '.']) { key.starts_with(rule) } else { key == rule };
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let ours = format!("{domain}/").ends_with(names::PREFIX);
        let theirs = ["kubernetes.io", "k8s.io"]
            .iter()
            .any(|family| domain.strip_suffix(family).is_some_and(|before| before.is_empty() || before.ends_with('.')));
        ours || theirs || last.annotations.contains(key) || NOT_RETURNED.iter().any(|rule| matches(rule))
    };
    let short = |key: &str, value: &str| key.len() + value.len() <= RETURNED_BYTES;
    all.iter()
        .filter(|(key, value)| !denied(key) && short(key, value))
        .take(RETURNED_COUNT)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Takes off how claimed devices are. They are the target's, and home's API server refuses those that a container at home does
/// not claim (validateContainerStatusAllocatedResourcesStatus in pkg/apis/core/validation).
fn without_devices(status: &mut Map<String, Value>) {
    const FIELD: &str = "allocatedResourcesStatus";
    let Some(all) = list_mut(status, FIELD) else { return };
    let of_claim = |one: &Value| one.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with("claim:"));
    let before = all.len();
    all.retain(|one| !of_claim(one));
    if all.is_empty() && before > 0 {
        status.remove(FIELD);
    }
}

fn list_mut<'a>(status: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Vec<Value>> {
    status.get_mut(field)?.as_array_mut()
}

fn is_condition(condition: &Value, kind: &str, status: &str) -> bool {
    condition.get("type").and_then(Value::as_str) == Some(kind)
        && condition.get("status").and_then(Value::as_str) == Some(status)
}

/// What keeps a delegate from starting, as far as the target says; `None` once its kubelet has taken it up, which from then
/// on speaks for itself in the status.
pub fn obstacle(delegate: &PodDocument) -> Option<Obstacle> {
    let status = |field: &str| delegate.status.get(field).filter(|value| !value.is_null());
    let phase = status("phase").and_then(Value::as_str).unwrap_or("Pending");
    let taken_up = ["startTime", "containerStatuses", "initContainerStatuses"].into_iter().any(|f| status(f).is_some());
    if phase != "Pending" || taken_up || delegate.deleting().is_some() {
        return None;
    }
    let conditions = || status("conditions").and_then(Value::as_array).into_iter().flatten();
    if let Some(condition) = conditions().find(|c| is_condition(c, "PodScheduled", "False")) {
        let word = |field: &str| condition.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        return Some(Obstacle {
            reason: word("reason").unwrap_or("Unschedulable").into(),
            message: word("message").unwrap_or("the target's scheduler gives no reason").into(),
        });
    }
    let spec = |field: &str| delegate.spec.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    if spec("nodeName").is_some() || conditions().any(|c| is_condition(c, "PodScheduled", "True")) {
        let message = "it has a node in the target, whose kubelet has not taken it up yet";
        return Some(Obstacle { reason: "WaitingForKubelet".into(), message: message.into() });
    }
    if let Some(message) = devices::awaited(delegate) {
        return Some(Obstacle { reason: CLAIMS_AWAITED.into(), message });
    }
    let scheduler = spec("schedulerName").unwrap_or("default-scheduler");
    let message = format!("the target's scheduler {scheduler} has not looked at it yet");
    Some(Obstacle { reason: "WaitingForScheduler".into(), message })
}

/// Whose a delegate is, and its own UID.
pub fn identity(delegate: &PodDocument) -> Result<(PodKey, Arc<str>), NotADelegate> {
    let has = |value: Option<&str>, missing: &'static str| match value {
        Some(value) if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(NotADelegate { namespace: delegate.namespace().into(), name: delegate.name().into(), missing }),
    };
    let key = PodKey {
        namespace: has(delegate.annotation(names::NAMESPACE), names::NAMESPACE)?,
        name: has(delegate.annotation(names::NAME), names::NAME)?,
        uid: has(delegate.label(names::UID), names::UID)?,
    };
    Ok((key, has(Some(delegate.uid()), "UID")?.into()))
}

/// A delegate as the core sees it. Its status is taken out of it.
pub fn provider_pod(delegate: &mut PodDocument, addresses: Addresses) -> Result<ProviderPod, NotADelegate> {
    let identity = identity(delegate)?;
    Ok(identified(delegate, identity, addresses))
}

/// The same of one whose [`identity`] is known.
pub fn identified(delegate: &mut PodDocument, (key, uid): (PodKey, Arc<str>), addresses: Addresses) -> ProviderPod {
    let instance = Instance {
        uid,
        version: delegate.version(),
        // Without the annotation, whatever is sent differs, and is sent again.
        sent: translate::sent(delegate).unwrap_or_default(),
        deleting: delegate.deleting(),
        obstacle: obstacle(delegate).map(|mut obstacle| {
            bounds::text(&mut obstacle.message);
            obstacle
        }),
    };
    let last = Last::read(delegate);
    // What earlier delegates have told is added to it.
    let alone = delegate.annotation(names::BEFORE).is_none();
    let length = delegate.status.text().filter(|_| alone).map(str::len);
    let mut status = home_status(delegate.status.take(), delegate, last.as_ref(), addresses);
    bounds::bound(&mut status, length);
    ProviderPod { remarks: vec![], key, instance, status, annotations: returned(delegate, last.as_ref()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(pod: Value) -> PodDocument {
        serde_json::from_value(pod).unwrap()
    }

    fn at_home(delegate: &PodDocument, addresses: Addresses) -> Value {
        home_status(delegate.status.clone().into_value(), delegate, Last::read(delegate).as_ref(), addresses)
    }

    fn back(delegate: &PodDocument) -> BTreeMap<String, String> {
        returned(delegate, Last::read(delegate).as_ref())
    }

    #[test]
    fn what_is_the_targets_is_withheld() {
        let delegate =
            pod(json!({"status": {"phase": "Running", "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}],
            "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}], "qosClass": "Burstable", "nominatedNodeName": "n",
            "observedGeneration": 3, "resourceClaimStatuses": [], "extendedResourceClaimStatus": {}, "novel": {"x": 1},
            "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 3}, {"type": "theirs/own"}],
            "containerStatuses": [{"name": "c"}], "ephemeralContainerStatuses": [{"name": "theirs"}]}}));
        let mut expected = json!({"phase": "Running", "novel": {"x": 1}, "containerStatuses": [{"name": "c"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "theirs/own"}]});
        assert_eq!(at_home(&delegate, Addresses::Withhold), expected);
        expected["podIP"] = json!("10.1.0.1");
        expected["podIPs"] = json!([{"ip": "10.1.0.1"}]);
        assert_eq!(at_home(&delegate, Addresses::Publish), expected);
    }

    #[test]
    fn how_claimed_devices_are_stays_in_the_target() {
        let resources = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let delegate = pod(json!({"status": {"containerStatuses": [
            {"name": "a", "allocatedResourcesStatus": resources(&["claim:gpu/r", "example.com/gpu"])},
            {"name": "b", "allocatedResourcesStatus": resources(&["claim:gpu"])}]}}));
        let expected = json!({"containerStatuses": [
            {"name": "a", "allocatedResourcesStatus": resources(&["example.com/gpu"])}, {"name": "b"}]});
        assert_eq!(at_home(&delegate, Addresses::Withhold), expected);
    }

    #[test]
    fn containers_that_the_target_added_are_not_homes() {
        let delegate = pod(json!({"metadata": {"annotations": {"longshore.dev/last": "{\"images\": {\"c\": \"i\"}}"}},
            "status": {"containerStatuses": [{"name": "c"}, {"name": "proxy"}, {}],
                "initContainerStatuses": [{"name": "setup"}]}}));
        let expected = json!({"containerStatuses": [{"name": "c"}, {}], "initContainerStatuses": []});
        assert_eq!(at_home(&delegate, Addresses::Withhold), expected);
    }

    #[test]
    fn an_ephemeral_container_that_came_from_home_is_shown_there() {
        let last = "{\"images\": {\"c\": \"i\", \"ours\": \"debug\"}}";
        let delegate = pod(json!({"metadata": {"annotations": {"longshore.dev/last": last}},
            "status": {"ephemeralContainerStatuses": [{"name": "ours"}, {"name": "theirs"}]}}));
        let expected = json!({"ephemeralContainerStatuses": [{"name": "ours"}]});
        assert_eq!(at_home(&delegate, Addresses::Withhold), expected);
    }

    #[test]
    fn annotations_return_but_for_those_that_must_not() {
        let mut annotations = json!({"longshore.dev/last": "{\"annotations\": [\"mine\"]}", "mine": "changed there",
            "cni.projectcalico.org/podIP": "10.1.0.1",
            "controller.kubernetes.io/pod-deletion-cost": "-9", "cluster-autoscaler.kubernetes.io/safe-to-evict": "true", "x.longshore.dev/own": "1", "long": "v".repeat(5 << 10),
            "kubectl.kubernetes.io/last-applied-configuration": "{}", "kubernetes.io/config.mirror": "1",
            "container.apparmor.security.beta.kubernetes.io/c": "unconfined"});
        let there = |annotations: &Value| pod(json!({"metadata": {"annotations": annotations}}));
        let expected: BTreeMap<_, _> = [("cni.projectcalico.org/podIP".to_owned(), "10.1.0.1".to_owned())].into();
        assert_eq!(back(&there(&annotations)), expected);
        for i in 0..100 {
            annotations[format!("a{i}")] = json!("1");
        }
        assert_eq!(back(&there(&annotations)).len(), RETURNED_COUNT);
        annotations.as_object_mut().unwrap().remove("longshore.dev/last");
        assert!(back(&there(&annotations)).is_empty());
    }

    #[test]
    fn a_delegate_without_status_has_none() {
        assert_eq!(at_home(&PodDocument::default(), Addresses::Publish), Value::Null);
    }

    #[test]
    fn obstacles_are_what_precedes_the_start() {
        let reason = |status: Value, spec: Value| {
            obstacle(&pod(json!({"status": status, "spec": spec}))).map(|obstacle| (obstacle.reason, obstacle.message))
        };
        let scheduled = |status: &str, reason: &str, message: &str| {
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": status, "reason": reason,
                "message": message}]})
        };
        let none = json!({});
        let no_nodes = "0/3 nodes are available";
        assert_eq!(
            reason(scheduled("False", "Unschedulable", no_nodes), none.clone()),
            Some(("Unschedulable".into(), no_nodes.into()))
        );
        let gated = reason(scheduled("False", "SchedulingGated", ""), none.clone());
        assert_eq!(gated.unwrap().0, "SchedulingGated");
        let mut waiting = scheduled("True", "", "");
        assert_eq!(reason(waiting.clone(), none.clone()).unwrap().0, "WaitingForKubelet");
        assert_eq!(reason(Value::Null, json!({"nodeName": "n"})).unwrap().0, "WaitingForKubelet");
        let (word, message) = reason(json!({}), json!({"schedulerName": "mine"})).unwrap();
        assert_eq!(word, "WaitingForScheduler");
        assert!(message.contains("mine"));
        let claims = json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "big"}]});
        let (word, message) = reason(json!({}), claims.clone()).unwrap();
        assert_eq!(word, CLAIMS_AWAITED);
        assert!(message.contains("ResourceClaimTemplate big"), "{message}");
        let made = json!({"resourceClaimStatuses": [{"name": "gpu"}]});
        assert_eq!(reason(made, claims.clone()).unwrap().0, "WaitingForScheduler");
        let told = reason(scheduled("False", "Unschedulable", no_nodes), claims).unwrap();
        assert_eq!(told, ("Unschedulable".into(), no_nodes.into()), "the scheduler's own word counts");
        waiting["startTime"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(reason(waiting, none.clone()), None);
        assert_eq!(reason(json!({"phase": "Running"}), none.clone()), None);
        assert_eq!(reason(json!({"phase": "Failed"}), none), None);
        let unscheduled = pod(json!({"status": scheduled("False", "Unschedulable", "")}));
        assert_eq!(at_home(&unscheduled, Addresses::Withhold)["conditions"], json!([]));
    }

    fn delegate() -> Value {
        json!({"metadata": {"namespace": "far", "name": "web", "uid": "d-1", "resourceVersion": "41",
            "labels": {"longshore.dev/uid": "u-1"}, "deletionTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 30, "annotations": {"longshore.dev/namespace": "shop",
                "longshore.dev/name": "web", "longshore.dev/sent": "00000000000000ff"}}})
    }

    #[test]
    fn a_delegate_is_known_by_our_labels() {
        let seen = provider_pod(&mut pod(delegate()), Addresses::Withhold).unwrap();
        assert_eq!(seen.key, PodKey { namespace: "shop".into(), name: "web".into(), uid: "u-1".into() });
        let instance = Instance { uid: "d-1".into(), version: 41, sent: 0xff, deleting: Some(30), obstacle: None };
        assert_eq!(seen.instance, instance);
        assert_eq!(seen.status, Value::Null);
    }

    #[test]
    fn a_pod_without_them_is_nobodys() {
        for (part, key) in [("labels", names::UID), ("annotations", names::NAMESPACE), ("annotations", names::NAME)] {
            let mut stranger = delegate();
            stranger["metadata"][part].as_object_mut().unwrap().remove(key);
            let error = provider_pod(&mut pod(stranger), Addresses::Withhold).unwrap_err();
            assert_eq!(error.to_string(), format!("pod far/web is no delegate: it has no {key}"));
        }
        let mut tampered = delegate();
        tampered["metadata"]["annotations"]["longshore.dev/sent"] = json!("?");
        assert_eq!(provider_pod(&mut pod(tampered), Addresses::Withhold).unwrap().instance.sent, 0);
    }
}
