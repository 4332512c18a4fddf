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
    Facts { home, home_status, instance, obstacle: None, update: None, current: true, node_ip: "10.0.0.1", now: NOW }
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
    assert!(find(&status, "their/Thing").is_none());
    assert_eq!(find(&status, "PodScheduled").unwrap()["status"], "True", "at home it is");
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
fn a_pod_that_was_refused_has_failed_and_shows_no_containers() {
    let why = Obstacle { reason: "OutOfcpu".into(), message: "too large".into() };
    let mut pod = proxy(one_container(), json!({"phase": "Pending"}));
    pod.metadata.generation = Some(1);
    let home = Home::of(&pod);
    let status =
        desired(&Evidence::Rejected(why), &Facts { current: false, ..facts(&home, &Value::Null, &Value::Null) });
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("OutOfcpu")));
    assert_eq!((&status["message"], &status["observedGeneration"]), (&json!("Pod was rejected: too large"), &json!(1)));
    assert!(status.get("containerStatuses").is_none() && find(&status, "Ready").unwrap()["reason"] == "PodFailed");
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

#[test]
fn addresses_are_one_of_each_family() {
    let home = Home::of(&proxy(one_container(), json!({})));
    let mut instance = running();
    instance["podIP"] = json!("10.1.0.9");
    instance["podIPs"] = json!([{"ip": "10.1.0.1"}, {"ip": "fd00::1"}, {"ip": "10.1.0.2"}, {"ip": "fd00::2"}]);
    let status = desired(&Evidence::Instance, &facts(&home, &Value::Null, &instance));
    assert_eq!(status["podIPs"], json!([{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]));
    assert_eq!(status["podIP"], "10.1.0.1", "the first of them");
    assert_eq!(status["hostIPs"], json!([{"ip": status["hostIP"]}]));
}

#[test]
fn a_reason_lasts_as_long_as_its_phase() {
    let home = Home::of(&proxy(one_container(), json!({"phase": "Running", "reason": "NodeLost", "message": "m"})));
    let status = desired(&Evidence::Instance, &facts(&home, &Value::Null, &running()));
    assert_eq!((&status["reason"], &status["message"]), (&json!("NodeLost"), &json!("m")));
    let mut ended = running();
    ended["phase"] = json!("Failed");
    assert!(desired(&Evidence::Instance, &facts(&home, &Value::Null, &ended)).get("reason").is_none());
}

#[test]
fn statuses_are_complete_and_in_the_order_of_a_kubelet() {
    let spec = json!({"containers": [{"name": "b", "image": "i"}, {"name": "a", "image": "i"}],
        "initContainers": [{"name": "z", "image": "i"}, {"name": "y", "image": "i"}]});
    let home = Home::of(&proxy(spec, json!({})));
    let names = |status: &Value, list: &str| -> Vec<String> {
        items(status, list).map(|c| text(c, "name").to_owned()).collect()
    };
    let instance = json!({"phase": "Pending", "containerStatuses": [{"name": "b"}],
        "initContainerStatuses": [{"name": "y"}, {"name": "z"}]});
    let obstacle = Obstacle { reason: "Held".into(), message: "m".into() };
    let nothing = json!({});
    for evidence in [Evidence::Instance, Evidence::Waiting(obstacle), Evidence::Ended] {
        let status = desired(&evidence, &facts(&home, &nothing, &instance));
        assert_eq!(names(&status, "containerStatuses"), ["a", "b"], "{evidence:?}: by name");
        assert_eq!(names(&status, "initContainerStatuses"), ["z", "y"], "{evidence:?}: as in the spec");
    }
    let status = desired(&Evidence::Instance, &facts(&home, &nothing, &instance));
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(find(&status, "Initialized").unwrap()["reason"], "ContainersNotInitialized");
}

#[test]
fn the_end_ends_readiness_whatever_is_said() {
    let home = Home::of(&proxy(one_container(), json!({})));
    for (phase, reason) in [("Succeeded", "PodCompleted"), ("Failed", "PodFailed")] {
        let mut instance = running();
        instance["phase"] = json!(phase);
        let status = desired(&Evidence::Instance, &facts(&home, &Value::Null, &instance));
        for kind in ["Ready", "ContainersReady"] {
            let condition = find(&status, kind).unwrap();
            assert_eq!((text(condition, "status"), text(condition, "reason")), ("False", reason));
        }
    }
}

#[test]
fn readiness_follows_from_containers_where_nobody_says() {
    let home = Home::of(&proxy(one_container(), json!({})));
    let instance = |ready: bool| json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": ready}]});
    let ready = |instance: &Value| {
        let status = desired(&Evidence::Instance, &facts(&home, &Value::Null, instance));
        text(find(&status, "Ready").unwrap(), "status").to_owned()
    };
    assert_eq!((ready(&instance(true)), ready(&instance(false))), ("True".into(), "False".into()));
}

#[test]
fn what_somebody_waits_for_is_written_at_once() {
    let home = Home::of(&proxy(one_container(), json!({"phase": "Pending"})));
    let pressing = |evidence: &Evidence, facts: &Facts<'_>| super::pressing(facts.home, &desired(evidence, facts));
    let waiting = |reason: &str| Evidence::Waiting(Obstacle { reason: reason.into(), message: "m".into() });
    let nothing = facts(&home, &Value::Null, &Value::Null);
    assert!(pressing(&waiting("TargetRefused"), &nothing));
    assert!(!pressing(&waiting("WaitingForNamesake"), &nothing), "it passes by itself");
    assert!(!pressing(&waiting("TargetUnreachable"), &nothing));
    assert!(!pressing(&waiting(CLAIMS_AWAITED), &nothing), "claims are made within a moment");
    let shown = desired(&waiting("TargetRefused"), &nothing);
    let told = Home::of(&proxy(one_container(), shown));
    assert!(!pressing(&waiting("TargetRefused"), &facts(&told, &Value::Null, &Value::Null)), "told already");
    let running = running();
    assert!(pressing(&Evidence::Instance, &facts(&home, &Value::Null, &running)), "it is ready");
    let pending = json!({"phase": "Pending"});
    assert!(!pressing(&Evidence::Instance, &facts(&home, &Value::Null, &pending)), "an honest start");
}

#[test]
fn a_refused_update_has_a_condition_until_it_is_solved() {
    let home = Home::of(&proxy(one_container(), running()));
    let obstacle = Obstacle { reason: "TargetRefused".into(), message: "m".into() };
    let running = running();
    let behind = Facts { update: Some(&obstacle), ..facts(&home, &Value::Null, &running) };
    let status = desired(&Evidence::Instance, &behind);
    assert_eq!(find(&status, UP_TO_DATE).unwrap()["status"], "False");
    assert_eq!(find(&status, DELEGATED).unwrap()["status"], "True", "it runs all the same");
    let home = Home::of(&proxy(one_container(), status.clone()));
    let solved = desired(&Evidence::Instance, &facts(&home, &Value::Null, &running));
    let after = apply(status, &patch("u", 7, &home, &solved));
    assert!(find(&after, UP_TO_DATE).is_none());
}

#[test]
fn containers_whose_turn_never_came_are_not_killed() {
    let spec = json!({"containers": [{"name": "c", "image": "i"}],
        "initContainers": [{"name": "first", "image": "i"}, {"name": "second", "image": "i"}]});
    let shown = json!({"phase": "Pending", "initContainerStatuses": [{"name": "first", "state": {"running": {}}}]});
    let home = Home::of(&proxy(spec, shown.clone()));
    let status = desired(&Evidence::Ended, &facts(&home, &shown, &Value::Null));
    let init = &status["initContainerStatuses"];
    assert_eq!(init[0]["state"]["terminated"]["exitCode"], 137);
    assert!(init[1]["state"]["waiting"].is_object() && status["containerStatuses"][0]["state"]["waiting"].is_object());
    assert_eq!(status["phase"], "Failed");
}

#[test]
fn an_end_that_home_shows_for_good_is_not_taken_back() {
    let spec = json!({"restartPolicy": "OnFailure", "initContainers": [{"name": "i", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}]});
    let shown = json!({"phase": "Running",
        "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0, "finishedAt": BEFORE}}}],
        "containerStatuses": [{"name": "c", "state": {"running": {}}}]});
    let home = Home::of(&proxy(spec, shown.clone()));
    let again = json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}],
        "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "PodInitializing"}}}]});
    assert!(needs_whole_status(&Evidence::Instance, &home, &again));
    let status = desired(&Evidence::Instance, &facts(&home, &shown, &again));
    assert_eq!(status["initContainerStatuses"], shown["initContainerStatuses"]);
    assert_eq!(status["containerStatuses"], again["containerStatuses"]);
    let ended = json!({"initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}],
        "containerStatuses": [{"name": "c", "state": {"waiting": {}}}]});
    assert!(!needs_whole_status(&Evidence::Instance, &home, &ended), "it has ended again");
}

#[test]
fn a_new_instance_that_tells_nothing_yet_takes_nothing_back() {
    let home = Home::of(&proxy(one_container(), running()));
    for fresh in [Value::Null, json!({"phase": "Pending", "qosClass": "BestEffort"})] {
        assert!(!needs_whole_status(&Evidence::Instance, &home, &fresh));
        let status = desired(&Evidence::Instance, &facts(&home, &Value::Null, &fresh));
        assert!(status.get("phase").is_none() && status.get("containerStatuses").is_none(), "{status}");
        assert_eq!(find(&status, "Ready").unwrap()["reason"], "DelegateStarting");
    }
    let unstarted = Home::of(&proxy(one_container(), json!({"phase": "Pending"})));
    let status = desired(&Evidence::Instance, &facts(&unstarted, &Value::Null, &json!({"phase": "Pending"})));
    assert_eq!(status["phase"], "Pending");
}

#[test]
fn an_instance_tells_its_end_when_all_of_it_has_ended() {
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "i", "image": "i"}]});
    let home = Home::of(&proxy(spec, json!({"phase": "Running"})));
    let ended = json!({"terminated": {"exitCode": 0}});
    let told = |phase: &str, init: &Value, main: &Value| {
        let status = json!({"phase": phase, "initContainerStatuses": [{"name": "i", "state": init}],
            "containerStatuses": [{"name": "c", "state": main}, {"name": "mesh", "state": {"running": {}}}]});
        tells_its_end(&home, &status)
    };
    assert!(told("Succeeded", &ended, &ended) && told("Failed", &ended, &ended));
    assert!(!told("Running", &ended, &ended), "it may start again");
    assert!(!told("Failed", &ended, &json!({"running": {}})), "nobody knows how it ended");
    assert!(!told("Failed", &json!({"waiting": {}}), &ended));
    assert!(!tells_its_end(&home, &Value::Null) && !tells_its_end(&home, &json!({"phase": "Failed"})));
}
