//! The pod status contract: what home should show, and the patch that makes it so. Pure.
//!
//! Follows generateAPIPodStatus and the status manager of the kubelet (pkg/kubelet/kubelet_pods.go,
//! pkg/kubelet/status/generate.go): readiness gates are evaluated at home, foreign conditions are preserved, the start
//! time never changes, a terminal phase ends readiness.

use serde_json::{Map, Value, json};

use super::partition::{DISRUPTION, UNREACHABLE};
use super::provider::Obstacle;
use super::step::{Evidence, Phase};
use super::table::CLAIMS_AWAITED;
use super::view::{
    CONTAINER_LISTS, Container, DELEGATED, FOREIGN_FIELDS, Home, OWNED_CONDITIONS, POD_SCHEDULED, UP_TO_DATE, digest,
    items, text,
};

mod containers;

use containers::{blank, killed, sorted};

/// What a report is made from.
pub struct Facts<'a> {
    /// The proxy as home shows it.
    pub home: &'a Home,
    /// Its whole status, where it is needed ([`needs_whole_status`]); else null.
    pub home_status: &'a Value,
    /// The instance's status in home's terms; null where there is none.
    pub instance: &'a Value,
    /// What keeps the instance from running, if anything.
    pub obstacle: Option<&'a Obstacle>,
    /// What keeps the instance from following the newest spec, if anything.
    pub update: Option<&'a Obstacle>,
    /// The instance is made from the newest spec.
    pub current: bool,
    /// The address of the virtual node.
    pub node_ip: &'a str,
    /// Now, RFC 3339 in seconds.
    pub now: &'a str,
}

/// Whether rendering this needs the container statuses that home shows.
pub fn needs_whole_status(evidence: &Evidence, home: &Home, instance: &Value) -> bool {
    match evidence {
        Evidence::Ended | Evidence::Lost | Evidence::GivenUp => true,
        Evidence::Instance => {
            let mut lists = CONTAINER_LISTS.iter().zip(&home.form.containers);
            !restarts(home, instance)
                && lists.any(|((_, field), containers)| !undone(containers, instance, field).is_empty())
        }
        Evidence::Leaving | Evidence::Waiting(_) | Evidence::Rejected(_) => false,
    }
}

/// Whether the last that an instance has told is the end of all of its containers: then nobody has to be asked how far they
/// had come.
pub fn tells_its_end(home: &Home, instance: &Value) -> bool {
    let ended = |container: &Container, field: &str| {
        let status = items(instance, field).find(|status| text(status, "name") == &*container.name);
        status.is_some_and(|status| killed(status).is_some())
    };
    let mut lists = CONTAINER_LISTS.iter().zip(&home.form.containers).take(2);
    Phase::parse(text(instance, "phase")).terminal()
        && lists.all(|((_, field), containers)| containers.iter().all(|container| ended(container, field)))
}

/// Whether a new instance has taken the place of one that had started, and tells nothing of its containers yet.
fn restarts(home: &Home, instance: &Value) -> bool {
    home.started
        && !Phase::parse(text(instance, "phase")).terminal()
        && items(instance, "containerStatuses").next().is_none()
}

/// Those containers whose end home shows for good, and of which the instance's status takes it back. The API server refuses
/// that, and home should not: the init containers of a new instance run again, for the first time as far as it is concerned.
fn undone<'a>(containers: &'a [Container], instance: &Value, field: &str) -> Vec<&'a str> {
    let ended = |known: &&Container| {
        let status = items(instance, field).find(|status| text(status, "name") == &*known.name);
        status.is_some_and(|status| status.pointer("/state/terminated").is_some())
    };
    containers.iter().filter(|known| known.done && !ended(known)).map(|known| &*known.name).collect()
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
        Evidence::Rejected(why) => rejected(facts, why),
    };
    // A refusal is the answer to the newest spec.
    let generation = if facts.current || matches!(evidence, Evidence::Rejected(_)) {
        Some(facts.home.generation)
    } else {
        facts.home.observed
    };
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

/// Reasons for which a pod does not run yet that pass by themselves, most of the time at once.
const PATIENT: [&str; 6] = [
    "WaitingForScheduler",
    CLAIMS_AWAITED,
    "WaitingForKubelet",
    "WaitingForNamesake",
    "TargetUnreachable",
    UNREACHABLE,
];

/// Whether somebody waits for what home would show: readiness, which controllers act on, or an answer of the other side
/// that the pod's owner has to act on. All else may wait to be merged with the next change.
pub fn pressing(home: &Home, desired: &Value) -> bool {
    let wanted = |kind: &str| items(desired, "conditions").find(|c| text(c, "type") == kind);
    let shown = |kind: &str| home.condition(kind).unwrap_or_default();
    let ready = wanted("Ready").is_some_and(|c| {
        let is_true = |status: &str| status == "True";
        is_true(text(c, "status")) != is_true(shown("Ready").status)
    });
    let news = |kind: &str| {
        wanted(kind).is_some_and(|c| {
            let (status, reason) = (text(c, "status"), text(c, "reason"));
            let known = (shown(kind).status, shown(kind).reason) == (status, reason);
            status == "False" && !reason.is_empty() && !PATIENT.contains(&reason) && !known
        })
    };
    ready || news(DELEGATED) || news(UP_TO_DATE)
}

fn from_instance(facts: &Facts<'_>) -> Value {
    if restarts(facts.home, facts.instance) {
        // What the last one showed stays until there is something new to tell, as while nothing is there at all.
        return match facts.obstacle {
            Some(obstacle) => not_ready(facts, &obstacle.reason, &obstacle.message),
            None => {
                not_ready(facts, "DelegateStarting", "a new delegate is about to start in place of one that vanished")
            }
        };
    }
    let mut status = facts.instance.as_object().cloned().unwrap_or_default();
    for field in FOREIGN_FIELDS {
        status.remove(field);
    }
    status.remove("observedGeneration");
    let phase = Phase::parse(text(facts.instance, "phase"));
    status.insert("phase".into(), phase.name().into());
    if phase == facts.home.phase {
        // They belong to the phase, whoever gave them.
        for (field, known) in [("reason", &facts.home.reason), ("message", &facts.home.message)] {
            if text(facts.instance, field).is_empty() && !known.is_empty() {
                status.insert(field.into(), (**known).into());
            }
        }
    }
    containers::complete(&mut status, facts, phase);
    keep_ends(&mut status, facts);
    set_start_time(&mut status, facts);
    set_host_ip(&mut status, facts);
    one_address_per_family(&mut status);

    let theirs = |kind: &str| items(facts.instance, "conditions").find(|c| text(c, "type") == kind);
    let copy = |c: &Value| condition(facts, text(c, "type"), text(c, "status"), text(c, "reason"), text(c, "message"));
    let mut conditions = vec![condition(facts, POD_SCHEDULED, "True", "", "")];
    conditions.push(match theirs("PodReadyToStartContainers") {
        Some(c) => copy(c),
        None => condition(facts, "PodReadyToStartContainers", is(phase == Phase::Running), "", ""),
    });
    conditions.push(match theirs("Initialized") {
        Some(c) => copy(c),
        None => initialized(facts, matches!(phase, Phase::Running | Phase::Succeeded)),
    });
    conditions.extend(["PodResizePending", "PodResizeInProgress"].into_iter().filter_map(theirs).map(copy));
    conditions.extend(readiness(facts, phase, theirs("ContainersReady").or_else(|| theirs("Ready")), &status));
    // Our own word, by which a proxy is removed, is nobody else's to say.
    if phase.terminal()
        && let Some(c) = theirs(DISRUPTION).filter(|c| text(c, "reason") != UNREACHABLE)
    {
        conditions.push(copy(c));
    }
    conditions.push(match facts.obstacle {
        Some(obstacle) => condition(facts, DELEGATED, "False", &obstacle.reason, &obstacle.message),
        None => condition(facts, DELEGATED, "True", "", ""),
    });
    if let Some(obstacle) = facts.update {
        conditions.push(condition(facts, UP_TO_DATE, "False", &obstacle.reason, &obstacle.message));
    }
    status.insert("conditions".into(), Value::Array(conditions));
    Value::Object(status)
}

/// Ends that home shows for good stay as they are, whatever a new instance says of those containers ([`undone`]).
fn keep_ends(status: &mut Map<String, Value>, facts: &Facts<'_>) {
    for ((_, field), containers) in CONTAINER_LISTS.iter().zip(&facts.home.form.containers) {
        let undone = undone(containers, facts.instance, field);
        for kept in items(facts.home_status, field).filter(|c| undone.contains(&text(c, "name"))) {
            let list = status.entry(*field).or_insert_with(|| json!([]));
            let Some(list) = list.as_array_mut() else { continue };
            match list.iter_mut().find(|c| text(c, "name") == text(kept, "name")) {
                Some(one) => *one = kept.clone(),
                None => list.push(kept.clone()),
            }
        }
    }
}

fn is(truth: bool) -> &'static str {
    if truth { "True" } else { "False" }
}

/// The condition Initialized where the instance has none.
fn initialized(facts: &Facts<'_>, done: bool) -> Value {
    let [_, init, _] = &facts.home.form.containers;
    if done || init.is_empty() {
        return condition(facts, "Initialized", "True", "", "");
    }
    let names: Vec<_> = init.iter().map(|c| &*c.name).collect();
    let message = format!("containers with incomplete status: [{}]", names.join(" "));
    condition(facts, "Initialized", "False", "ContainersNotInitialized", &message)
}

/// ContainersReady as the instance says, or as its containers do, and Ready, for which home's gates have to be open too.
fn readiness(facts: &Facts<'_>, phase: Phase, theirs: Option<&Value>, status: &Map<String, Value>) -> [Value; 2] {
    let both = |is: &str, reason: &str, message: &str| {
        ["ContainersReady", "Ready"].map(|kind| condition(facts, kind, is, reason, message))
    };
    match phase {
        Phase::Succeeded => return both("False", "PodCompleted", ""),
        Phase::Failed => return both("False", "PodFailed", ""),
        Phase::Pending | Phase::Running => {}
    }
    if let Some(c) = theirs
        && text(c, "status") != "True"
    {
        return both(text(c, "status"), text(c, "reason"), text(c, "message"));
    }
    if theirs.is_none() {
        let list = status.get("containerStatuses").and_then(Value::as_array);
        let is_ready = |name: &str| {
            list.into_iter().flatten().any(|c| text(c, "name") == name && c.get("ready") == Some(&Value::Bool(true)))
        };
        let unready: Vec<_> =
            facts.home.form.containers[0].iter().map(|c| &*c.name).filter(|name| !is_ready(name)).collect();
        if !unready.is_empty() {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            return both("False", "ContainersNotReady", &message);
        }
    }
    let [containers, ready] = both("True", "", "");
    let open = open_gates(facts.home);
    if open.is_empty() {
        return [containers, ready];
    }
    [containers, condition(facts, "Ready", "False", "ReadinessGatesNotReady", &open.join(", "))]
}

/// What is said of readiness gates whose condition is not True at home (GeneratePodReadyCondition in
/// pkg/kubelet/status).
fn open_gates(home: &Home) -> Vec<String> {
    let open = |gate: &str| match home.condition(gate) {
        None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
        Some(c) if c.status != "True" => {
            Some(format!("the status of pod readiness gate {gate:?} is not \"True\", but {}", c.status))
        }
        Some(_) => None,
    };
    home.form.gates.iter().filter_map(open).collect()
}

/// The API server takes one address of each family, and the first has to be `podIP`.
fn one_address_per_family(status: &mut Map<String, Value>) {
    let Some(all) = status.get_mut("podIPs").and_then(Value::as_array_mut) else { return };
    let mut seen = [false; 2];
    all.retain(|one| {
        let family = usize::from(text(one, "ip").contains(':'));
        !std::mem::replace(&mut seen[family], true)
    });
    match all.first().map(|first| text(first, "ip").to_owned()) {
        Some(first) => status.insert("podIP".into(), first.into()),
        None => status.remove("podIPs"),
    };
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
    let state = json!({"waiting": {"reason": obstacle.reason, "message": obstacle.message}});
    for (kind, (_, field)) in CONTAINER_LISTS.iter().enumerate().take(2) {
        let all: Vec<_> = sorted(facts.home, kind).into_iter().map(|c| blank(c, &state)).collect();
        if !all.is_empty() {
            status.insert((*field).into(), Value::Array(all));
        }
    }
    let before = [
        condition(facts, POD_SCHEDULED, "True", "", ""),
        condition(facts, "PodReadyToStartContainers", "False", "", ""),
    ];
    let mut conditions = Vec::from(before);
    conditions.push(initialized(facts, false));
    if let Some(Value::Array(rest)) = not_ready(facts, &obstacle.reason, &obstacle.message).get_mut("conditions") {
        conditions.append(rest);
    }
    status.insert("conditions".into(), Value::Array(conditions));
    Value::Object(status)
}

/// The end of a pod of which nothing runs any more: what had ended keeps its end, all else counts as killed.
/// (Deleted pods: Succeeded if all containers ended with 0, else Failed, whatever the restart policy.)
fn ended(facts: &Facts<'_>, failure: Option<(&str, &str)>) -> Value {
    let mut status = Map::new();
    for (kind, (_, field)) in CONTAINER_LISTS.iter().enumerate() {
        let list = containers::ended(facts, kind);
        if !list.is_empty() {
            status.insert((*field).into(), Value::Array(list));
        }
    }
    let regular = status.get("containerStatuses").and_then(Value::as_array);
    let well = regular.into_iter().flatten().all(|c| killed(c) == Some(0));
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
    let mut conditions = vec![
        condition(facts, POD_SCHEDULED, "True", "", ""),
        condition(facts, "ContainersReady", "False", why, ""),
        condition(facts, "Ready", "False", why, ""),
        condition(facts, "PodReadyToStartContainers", "False", "", ""),
    ];
    let known = items(facts.home_status, "conditions").find(|c| text(c, "type") == "Initialized");
    conditions.push(match known {
        _ if phase == Phase::Succeeded => condition(facts, "Initialized", "True", "PodCompleted", ""),
        Some(c) => condition(facts, "Initialized", text(c, "status"), text(c, "reason"), text(c, "message")),
        None => initialized(facts, false),
    });
    let mut delegated = why;
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

/// A pod that its node has refused (rejectPod in pkg/kubelet/kubelet.go): it has failed, and nothing is said of its containers,
/// none of which ever was.
fn rejected(facts: &Facts<'_>, why: &Obstacle) -> Value {
    let mut status = Map::new();
    status.insert("phase".into(), Phase::Failed.name().into());
    status.insert("reason".into(), why.reason.as_str().into());
    status.insert("message".into(), format!("Pod was rejected: {}", why.message).into());
    set_start_time(&mut status, facts);
    set_host_ip(&mut status, facts);
    let conditions = [
        condition(facts, POD_SCHEDULED, "True", "", ""),
        condition(facts, "PodReadyToStartContainers", "False", "", ""),
        initialized(facts, false),
        condition(facts, "ContainersReady", "False", "PodFailed", ""),
        condition(facts, "Ready", "False", "PodFailed", ""),
        condition(facts, DELEGATED, "False", &why.reason, &why.message),
    ];
    status.insert("conditions".into(), Value::from(conditions.to_vec()));
    Value::Object(status)
}

fn set_start_time(status: &mut Map<String, Value>, facts: &Facts<'_>) {
    if let Some(start) = facts.home.start_time.as_deref() {
        status.insert("startTime".into(), start.into());
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
        .and_then(|known| known.since)
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
        for field in home.form.fields.iter() {
            let ours = !FOREIGN_FIELDS.contains(&field) && field != "conditions" && field != "observedGeneration";
            if ours && !status.contains_key(field) {
                let replaced = matches!(field, "podIPs" | "hostIPs");
                status.insert(field.into(), if replaced { json!([{"$patch": "replace"}]) } else { Value::Null });
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
