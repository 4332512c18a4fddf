use super::*;
use crate::kubelet::document::PodDocument;

const NOW: &str = "2026-02-02T00:00:00Z";
const BEFORE: &str = "2026-01-01T00:00:00Z";

fn proxy(spec: Value, status: Value) -> PodDocument {
    let metadata = serde_json::from_value(json!({"name": "p", "generation": 3})).unwrap();
    PodDocument::new(metadata, spec, status)
}

fn one_container() -> Value {
    json!({"containers": [{"name": "c", "image": "i"}]})
}

fn running() -> Value {
    json!({"phase": "Running", "startTime": BEFORE, "qosClass": "Guaranteed", "observedGeneration": 1,
        "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}},
            {"name": "mesh", "ready": true, "state": {"running": {}}}],
        "conditions": [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "True"},
            {"type": "PodScheduled", "status": "True"}, {"type": "their/Thing", "status": "True"}]})
}

fn facts<'a>(home: &'a Home, home_status: &'a Value, instance: &'a Value) -> Facts<'a> {
    Facts { home, home_status, instance, obstacle: None, current: true, node_ip: "10.0.0.1", now: NOW }
}

fn find<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    items(status, "conditions").find(|c| text(c, "type") == kind)
}

/// What the API server would hold after the patch, in as far as the tests look at it.
fn apply(mut status: Value, patch: &Value) -> Value {
    for (field, value) in patch["status"].as_object().unwrap() {
        match field.as_str() {
            "conditions" => {
                let mut all = status["conditions"].as_array().cloned().unwrap_or_default();
                for wanted in value.as_array().unwrap() {
                    all.retain(|c| c["type"] != wanted["type"]);
                    if wanted.get("$patch").is_none() {
                        all.push(wanted.clone());
                    }
                }
                status["conditions"] = all.into();
            }
            _ if value.is_null() => {
                status.as_object_mut().unwrap().remove(field);
            }
            "podIPs" | "hostIPs" => status[field] = value.as_array().unwrap()[1..].into(),
            _ => status[field] = value.clone(),
        }
    }
    status
}

#[test]
fn an_instance_is_mirrored_without_what_is_not_its_own() {
    let home = Home::of(&proxy(one_container(), json!({"phase": "Pending", "qosClass": "BestEffort"})));
    let status = desired(&Evidence::Instance, &facts(&home, &Value::Null, &running()));
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["hostIP"], "10.0.0.1");
    assert_eq!(status["observedGeneration"], 3);
    assert!(status.get("qosClass").is_none(), "immutable at home");
    assert_eq!(status["containerStatuses"].as_array().unwrap().len(), 1, "the target's sidecar is not the user's");
    assert!(find(&status, "PodScheduled").is_none() && find(&status, "their/Thing").is_none());
    assert_eq!(find(&status, "Ready").unwrap()["status"], "True");
    assert_eq!(find(&status, DELEGATED).unwrap()["status"], "True");
}

#[test]
fn readiness_gates_are_evaluated_at_home() {
    let mut spec = one_container();
    spec["readinessGates"] = json!([{"conditionType": "lb/Ready"}]);
    let closed = Home::of(&proxy(spec.clone(), json!({})));
    let status = desired(&Evidence::Instance, &facts(&closed, &Value::Null, &running()));
    assert_eq!(find(&status, "ContainersReady").unwrap()["status"], "True");
    assert_eq!(find(&status, "Ready").unwrap()["reason"], "ReadinessGatesNotReady");
    let open = Home::of(&proxy(spec, json!({"conditions": [{"type": "lb/Ready", "status": "True"}]})));
    let status = desired(&Evidence::Instance, &facts(&open, &Value::Null, &running()));
    assert_eq!(find(&status, "Ready").unwrap()["status"], "True");
}

#[test]
fn a_transition_time_moves_only_with_the_status() {
    let home = Home::of(&proxy(
        one_container(),
        json!({"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": BEFORE},
        {"type": "ContainersReady", "status": "False", "lastTransitionTime": BEFORE}]}),
    ));
    let status = desired(&Evidence::Instance, &facts(&home, &Value::Null, &running()));
    assert_eq!(find(&status, "Ready").unwrap()["lastTransitionTime"], BEFORE);
    assert_eq!(find(&status, "ContainersReady").unwrap()["lastTransitionTime"], NOW);
}

#[test]
fn what_was_written_counts_as_shown() {
    let before = json!({"phase": "Pending", "qosClass": "Burstable", "reason": "Old", "podIP": "1.2.3.4",
        "podIPs": [{"ip": "1.2.3.4"}],
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "PodResizePending", "status": "True"}]});
    let home = Home::of(&proxy(one_container(), before.clone()));
    let wanted = desired(&Evidence::Instance, &facts(&home, &Value::Null, &running()));
    assert!(!shows(&home, &wanted));
    let after = apply(before, &patch("u", 7, &home, &wanted));
    assert!(after.get("reason").is_none() && after["podIPs"] == json!([]) && after.get("podIP").is_none());
    assert!(find(&after, "PodResizePending").is_none() && find(&after, "PodScheduled").is_some());
    assert_eq!(after["qosClass"], "Burstable");
    let home = Home::of(&proxy(one_container(), after));
    assert!(shows(&home, &desired(&Evidence::Instance, &facts(&home, &Value::Null, &running()))));
}

#[test]
fn a_patch_is_fenced() {
    let home = Home::default();
    let patch = patch("u", 7, &home, &json!({"phase": "Failed"}));
    assert_eq!(patch["metadata"], json!({"uid": "u", "resourceVersion": "7"}));
}

#[test]
fn a_deletion_alone_is_no_reason_to_write() {
    let shown =
        desired(&Evidence::Instance, &facts(&Home::of(&proxy(one_container(), json!({}))), &Value::Null, &running()));
    let mut pod = proxy(one_container(), shown);
    pod.metadata.generation = Some(4);
    let wanted = |home: &Home| desired(&Evidence::Instance, &facts(home, &Value::Null, &running()));
    let home = Home::of(&pod);
    assert!(!shows(&home, &wanted(&home)), "a new generation is observed");
    let home = Home { deleting: true, ..home };
    assert!(shows(&home, &wanted(&home)));
}

#[test]
fn a_deleted_pod_that_never_started_has_failed() {
    let home = Home::of(&proxy(one_container(), json!({"phase": "Pending"})));
    let status = desired(&Evidence::Ended, &facts(&home, &json!({}), &Value::Null));
    assert_eq!(status["phase"], "Failed");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
}

#[test]
fn what_had_ended_well_stays_so() {
    let shown = json!({"containerStatuses": [{"name": "c", "ready": false, "state": {"terminated": {"exitCode": 0}}}]});
    let home = Home::of(&proxy(one_container(), shown.clone()));
    assert_eq!(desired(&Evidence::Ended, &facts(&home, &shown, &Value::Null))["phase"], "Succeeded");
    let lost = desired(&Evidence::Lost, &facts(&home, &shown, &Value::Null));
    assert_eq!((&lost["phase"], &lost["reason"]), (&json!("Failed"), &json!("DelegateLost")));
}

#[test]
fn waiting_names_its_reason_where_kubectl_shows_it() {
    let obstacle = Obstacle { reason: "Held".into(), message: "spec.volumes[0]: no".into() };
    let home = Home::of(&proxy(one_container(), json!({"phase": "Pending"})));
    let status = desired(&Evidence::Waiting(obstacle.clone()), &facts(&home, &Value::Null, &Value::Null));
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "Held");
    assert_eq!(find(&status, DELEGATED).unwrap()["message"], "spec.volumes[0]: no");
    let started = Home { started: true, ..home };
    let status = desired(&Evidence::Waiting(obstacle), &facts(&started, &Value::Null, &Value::Null));
    assert!(status.get("containerStatuses").is_none(), "what ran keeps its state");
}

#[test]
fn a_leaving_instance_is_not_ready_but_not_over() {
    let home = Home::of(&proxy(one_container(), running()));
    let status = desired(&Evidence::Leaving, &facts(&home, &Value::Null, &Value::Null));
    assert!(status.get("phase").is_none());
    assert_eq!(find(&status, "Ready").unwrap()["status"], "False");
    assert!(!shows(&home, &status));
}

#[test]
fn nobody_else_says_that_a_pod_was_given_up() {
    let home = Home::of(&proxy(one_container(), json!({"phase": "Running"})));
    let said = |reason: &str| {
        let instance = json!({"phase": "Failed", "reason": reason, "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": reason}]});
        desired(&Evidence::Instance, &facts(&home, &Value::Null, &instance))
    };
    assert!(find(&said("PreemptionByScheduler"), "DisruptionTarget").is_some(), "a disruption is told");
    let forged = said("TargetUnreachable");
    assert_eq!(find(&forged, "DisruptionTarget"), None);
    let shown = PodDocument::new(proxy(one_container(), Value::Null).metadata, one_container(), forged);
    assert!(!crate::kubelet::view::proxy_view(&shown, 0, None).given_up, "so that no proxy is removed for it");
}
