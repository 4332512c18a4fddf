//! The pod status contract: what home should show, and the patch that makes it so. Pure.
//!
//! Follows generateAPIPodStatus and the status manager of the kubelet (pkg/kubelet/kubelet_pods.go,
//! pkg/kubelet/status/generate.go): readiness gates are evaluated at home, foreign conditions are preserved, the start
//! time never changes, a terminal phase ends readiness.

use serde_json::{Map, Value, json};

use super::partition::{DISRUPTION, UNREACHABLE};
use super::provider::Obstacle;
use super::step::{Evidence, Phase};
use super::view::{CONTAINER_LISTS, Container, DELEGATED, FOREIGN_FIELDS, Home, OWNED_CONDITIONS, digest, items, text};

/// What a report is made from.
pub struct Facts<'a> {
    /// The proxy as home shows it.
    pub home: &'a Home,
    /// Its whole status, where the evidence asks for it ([`needs_whole_status`]); else null.
    pub home_status: &'a Value,
    /// The instance's status in home's terms; null where there is none.
    pub instance: &'a Value,
    /// What keeps the instance from running, if anything.
    pub obstacle: Option<&'a Obstacle>,
    /// The instance is made from the newest spec.
    pub current: bool,
    /// The address of the virtual node.
    pub node_ip: &'a str,
    /// Now, RFC 3339 in seconds.
    pub now: &'a str,
}

/// Whether rendering this needs the container statuses that home shows.
pub fn needs_whole_status(evidence: &Evidence) -> bool {
    matches!(evidence, Evidence::Ended | Evidence::Lost | Evidence::GivenUp)
}

/// The status that home should show, in as far as it is ours. Conditions carry their transition times.
pub fn desired(evidence: &Evidence, facts: &Facts<'_>) -> Value {
    let mut status = match evidence {
        Evidence::Instance => from_instance(facts),
        Evidence::Leaving => not_ready(facts, "DelegateTerminating", "the delegate is being deleted in the target"),
        Evidence::Waiting(obstacle) => waiting(facts, obstacle),
        Evidence::Ended => ended(facts, None),
        Evidence::Lost => ended(
            facts,
            Some((
                "DelegateLost",
                "the delegate vanished from the target, and the restart policy allows no second start",
            )),
        ),
        Evidence::GivenUp => given_up(facts),
    };
    let generation = if facts.current { Some(facts.home.generation) } else { facts.home.observed };
    if let Some(generation) = generation.filter(|generation| *generation > 0) {
        status["observedGeneration"] = json!(generation);
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            for condition in conditions {
                condition["observedGeneration"] = json!(generation);
            }
        }
    }
    status
}

/// Whether home shows that already. A deletion raises the generation by one; that alone is worth no write.
pub fn shows(home: &Home, desired: &Value) -> bool {
    let generation = desired.get("observedGeneration").and_then(Value::as_i64);
    let fresh = home.deleting || generation.is_none() || generation == home.observed;
    fresh && partial_digest(home, desired) == home.digest
}

/// A status that says nothing of containers leaves them as home has them, so it cannot be compared as a whole.
fn partial_digest(home: &Home, desired: &Value) -> u64 {
    if desired.get("phase").is_some() {
        return digest(desired);
    }
    let same = items(desired, "conditions")
        .all(|wanted| home.condition(text(wanted, "type")).is_some_and(|is| is.status == text(wanted, "status")));
    if same { home.digest } else { !home.digest }
}

fn from_instance(facts: &Facts<'_>) -> Value {
    let mut status = facts.instance.as_object().cloned().unwrap_or_default();
    for field in FOREIGN_FIELDS {
        status.remove(field);
    }
    status.remove("observedGeneration");
    let phase = Phase::parse(text(facts.instance, "phase"));
    status.insert("phase".into(), phase.name().into());
    for ((_, field), containers) in CONTAINER_LISTS.iter().zip(&facts.home.containers) {
        if let Some(list) = status.get_mut(*field).and_then(Value::as_array_mut) {
            // What the target added (sidecars of a mesh) is not the user's.
            list.retain(|c| containers.iter().any(|known| known.name == text(c, "name")));
            if list.is_empty() {
                status.remove(*field);
            }
        }
    }
    set_start_time(&mut status, facts);
    set_host_ip(&mut status, facts);

    let theirs = |kind: &str| items(facts.instance, "conditions").find(|c| text(c, "type") == kind);
    let mut conditions: Vec<Value> = vec![];
    for kind in ["PodReadyToStartContainers", "Initialized", "PodResizePending", "PodResizeInProgress"] {
        if let Some(c) = theirs(kind) {
            conditions.push(condition(facts, kind, text(c, "status"), text(c, "reason"), text(c, "message")));
        }
    }
    if let Some(c) = theirs("ContainersReady").or_else(|| theirs("Ready")) {
        let (is, reason, message) = (text(c, "status"), text(c, "reason"), text(c, "message"));
        conditions.push(condition(facts, "ContainersReady", is, reason, message));
        let open = open_gates(facts.home);
        conditions.push(if is == "True" && !open.is_empty() {
            let message = format!("corresponding condition is not True for readiness gates: {}", open.join(", "));
            condition(facts, "Ready", "False", "ReadinessGatesNotReady", &message)
        } else {
            condition(facts, "Ready", is, reason, message)
        });
    }
    // Our own word, by which a proxy is removed, is nobody else's to say.
    if phase.terminal()
        && let Some(c) = theirs(DISRUPTION).filter(|c| text(c, "reason") != UNREACHABLE)
    {
        let (reason, message) = (text(c, "reason"), text(c, "message"));
        conditions.push(condition(facts, DISRUPTION, text(c, "status"), reason, message));
    }
    conditions.push(match facts.obstacle {
        Some(obstacle) => condition(facts, DELEGATED, "False", &obstacle.reason, &obstacle.message),
        None => condition(facts, DELEGATED, "True", "", ""),
    });
    status.insert("conditions".into(), Value::Array(conditions));
    Value::Object(status)
}

/// Readiness gates whose condition is not True at home.
fn open_gates(home: &Home) -> Vec<&str> {
    let open = |gate: &&String| home.condition(gate).is_none_or(|c| c.status != "True");
    home.gates.iter().filter(open).map(String::as_str).collect()
}

/// Conditions alone: containers and phase stay as home shows them.
fn not_ready(facts: &Facts<'_>, reason: &str, message: &str) -> Value {
    json!({"conditions": [
        condition(facts, "ContainersReady", "False", reason, message),
        condition(facts, "Ready", "False", reason, message),
        condition(facts, DELEGATED, "False", reason, message),
    ]})
}

fn waiting(facts: &Facts<'_>, obstacle: &Obstacle) -> Value {
    if facts.home.started {
        return not_ready(facts, &obstacle.reason, &obstacle.message);
    }
    let mut status = Map::new();
    status.insert("phase".into(), Phase::Pending.name().into());
    set_start_time(&mut status, facts);
    set_host_ip(&mut status, facts);
    for ((_, field), containers) in CONTAINER_LISTS.iter().zip(&facts.home.containers).take(2) {
        if !containers.is_empty() {
            let state = json!({"waiting": {"reason": obstacle.reason, "message": obstacle.message}});
            let all = sorted(containers).map(|c| blank(c, &state)).collect();
            status.insert((*field).into(), Value::Array(all));
        }
    }
    if let Value::Object(conditions) = not_ready(facts, &obstacle.reason, &obstacle.message) {
        status.extend(conditions);
    }
    Value::Object(status)
}

/// The end of a pod of which nothing runs any more: what had ended keeps its end, all else counts as killed.
/// (Deleted pods: Succeeded if all containers ended with 0, else Failed, whatever the restart policy.)
fn ended(facts: &Facts<'_>, failure: Option<(&str, &str)>) -> Value {
    let killed = json!({"terminated": {
        "exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": facts.now,
        "message": "The container could not be located when the pod was terminated"}});
    let mut status = Map::new();
    let mut well = true;
    for ((_, field), containers) in CONTAINER_LISTS.iter().zip(&facts.home.containers) {
        let mut list = vec![];
        for container in sorted(containers) {
            let known = items(facts.home_status, field).find(|c| text(c, "name") == container.name);
            let mut c = known.cloned().unwrap_or_else(|| blank(container, &Value::Null));
            if c.pointer("/state/terminated").is_none() {
                c["state"] = killed.clone();
            }
            c["ready"] = json!(false);
            if c.get("started").is_some() {
                c["started"] = json!(false);
            }
            well &= *field != "containerStatuses"
                || c.pointer("/state/terminated/exitCode").and_then(Value::as_i64) == Some(0);
            list.push(c);
        }
        if !list.is_empty() {
            status.insert((*field).into(), Value::Array(list));
        }
    }
    let phase = if failure.is_none() && well { Phase::Succeeded } else { Phase::Failed };
    status.insert("phase".into(), phase.name().into());
    let why = if phase == Phase::Succeeded { "PodCompleted" } else { "PodFailed" };
    set_start_time(&mut status, facts);
    set_host_ip(&mut status, facts);
    for field in ["podIP", "podIPs"] {
        if let Some(address) = facts.home_status.get(field) {
            status.insert(field.into(), address.clone());
        }
    }
    let (mut conditions, mut delegated) =
        (vec![condition(facts, "ContainersReady", "False", why, ""), condition(facts, "Ready", "False", why, "")], why);
    for kind in ["PodReadyToStartContainers", "Initialized"] {
        if let Some(c) = items(facts.home_status, "conditions").find(|c| text(c, "type") == kind) {
            let is = if kind == "Initialized" { text(c, "status") } else { "False" };
            conditions.push(condition(facts, kind, is, text(c, "reason"), text(c, "message")));
        }
    }
    if let Some((reason, message)) = failure {
        status.insert("reason".into(), reason.into());
        status.insert("message".into(), message.into());
        delegated = reason;
    }
    conditions.push(condition(facts, DELEGATED, "False", delegated, ""));
    status.insert("conditions".into(), Value::Array(conditions));
    Value::Object(status)
}

/// The end of a pod whose side does not answer, for good as far as the user is concerned. Controllers see a disruption in
/// it rather than a failure of the pod's own (KEP-3329).
fn given_up(facts: &Facts<'_>) -> Value {
    let message = "the target has not answered for longer than the policy Replace allows";
    let mut status = ended(facts, Some((UNREACHABLE, message)));
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.push(condition(facts, DISRUPTION, "True", UNREACHABLE, message));
    }
    status
}

/// Container statuses are sorted by name, as the kubelet writes them.
fn sorted(containers: &[Container]) -> impl Iterator<Item = &Container> {
    let mut all: Vec<_> = containers.iter().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.into_iter()
}

fn blank(container: &Container, state: &Value) -> Value {
    json!({"name": container.name, "image": container.image, "imageID": "", "ready": false, "restartCount": 0,
        "started": false, "state": state})
}

fn set_start_time(status: &mut Map<String, Value>, facts: &Facts<'_>) {
    if let Some(start) = &facts.home.start_time {
        status.insert("startTime".into(), start.as_str().into());
    }
}

fn set_host_ip(status: &mut Map<String, Value>, facts: &Facts<'_>) {
    status.insert("hostIP".into(), facts.node_ip.into());
    status.insert("hostIPs".into(), json!([{"ip": facts.node_ip}]));
}

/// A condition of ours. The transition time is home's own where the status is as home has it, else now by our clock: the
/// target's may differ, and controllers at home compare it with theirs.
fn condition(facts: &Facts<'_>, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let since = facts
        .home
        .condition(kind)
        .filter(|known| known.status == status)
        .and_then(|known| known.since.as_deref())
        .unwrap_or(facts.now);
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": since, "lastProbeTime": null});
    if !reason.is_empty() {
        condition["reason"] = reason.into();
    }
    if !message.is_empty() {
        condition["message"] = message.into();
    }
    condition
}

/// The strategic-merge patch of the status subresource that makes home show `desired`.
///
/// It names UID **and** resource version: the API server does not validate phases, so a writer that was paused must lose
/// against whoever wrote since. Lists that merge by `ip` are replaced; what home has and should not have is nulled.
pub fn patch(uid: &str, version: u64, home: &Home, desired: &Value) -> Value {
    let mut status = desired.as_object().cloned().unwrap_or_default();
    for list in ["podIPs", "hostIPs"] {
        if let Some(addresses) = status.get_mut(list).and_then(Value::as_array_mut) {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
    }
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        for condition in conditions.iter_mut() {
            for field in ["reason", "message"] {
                if condition.get(field).is_none() {
                    condition[field] = Value::Null;
                }
            }
        }
        if status_is_whole(desired) {
            let gone = |kind: &str| {
                home.condition(kind).is_some() && !items(desired, "conditions").any(|c| text(c, "type") == kind)
            };
            let gone = OWNED_CONDITIONS.iter().filter(|kind| gone(kind));
            conditions.extend(gone.map(|kind| json!({"$patch": "delete", "type": kind})));
        }
    }
    if status_is_whole(desired) {
        for field in &home.fields {
            let ours =
                !FOREIGN_FIELDS.contains(&field.as_str()) && field != "conditions" && field != "observedGeneration";
            if ours && !status.contains_key(field) {
                let replaced = matches!(field.as_str(), "podIPs" | "hostIPs");
                status.insert(field.clone(), if replaced { json!([{"$patch": "replace"}]) } else { Value::Null });
            }
        }
    }
    json!({"metadata": {"uid": uid, "resourceVersion": version.to_string()}, "status": status})
}

/// Whether a desired status describes everything, rather than conditions alone.
fn status_is_whole(desired: &Value) -> bool {
    desired.get("phase").is_some()
}

#[cfg(test)]
mod tests;
