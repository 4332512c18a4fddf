//! The container statuses of a pod, in the order and with the completeness in which a kubelet writes them
//! (convertToAPIContainerStatuses in pkg/kubelet/kubelet_pods.go, TerminatePod in pkg/kubelet/status).

use serde_json::{Map, Value, json};

use super::Facts;
use crate::kubelet::step::Phase;
use crate::kubelet::view::{CONTAINER_LISTS, Container, Home, items, text};

/// The place of init containers among [`CONTAINER_LISTS`].
const INIT: usize = 1;

/// The containers of a list in the order of their statuses: init containers as in the spec, all others by name.
pub(super) fn sorted(home: &Home, kind: usize) -> Vec<&Container> {
    let mut all: Vec<_> = home.form.containers[kind].iter().collect();
    if kind != INIT {
        all.sort_by(|a, b| a.name.cmp(&b.name));
    }
    all
}

/// The status of a container that has never started.
pub(super) fn blank(container: &Container, state: &Value) -> Value {
    json!({"name": container.name, "image": container.image, "imageID": "", "ready": false, "restartCount": 0,
        "started": false, "state": state})
}

/// The code that a container has ended with.
pub(super) fn killed(status: &Value) -> Option<i64> {
    status.pointer("/state/terminated/exitCode").and_then(Value::as_i64)
}

/// Takes out what is not the user's (sidecars of a mesh), adds what the instance does not know yet, and sorts.
pub(super) fn complete(status: &mut Map<String, Value>, facts: &Facts<'_>, phase: Phase) {
    let waiting = match facts.obstacle {
        Some(obstacle) => json!({"reason": obstacle.reason, "message": obstacle.message}),
        None if facts.home.form.containers[INIT].is_empty() => json!({"reason": "ContainerCreating"}),
        None => json!({"reason": "PodInitializing"}),
    };
    let waiting = json!({"waiting": waiting});
    for (kind, (_, field)) in CONTAINER_LISTS.iter().enumerate() {
        let list = status.remove(*field);
        let theirs = list.as_ref().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let all = sorted(facts.home, kind).into_iter().filter_map(|container| {
            let known = theirs.iter().find(|c| text(c, "name") == &*container.name).cloned();
            // What never started in a pod that has ended is told as the instance tells it, as is what is added later.
            let complete = kind <= INIT && !phase.terminal();
            known.or_else(|| complete.then(|| blank(container, &waiting)))
        });
        let all: Vec<_> = all.collect();
        if !all.is_empty() {
            status.insert((*field).into(), Value::Array(all));
        }
    }
}

/// The statuses of a list in a pod of which nothing runs any more. Containers of which nobody knows an end count as
/// killed, apart from those whose turn never came.
pub(super) fn ended(facts: &Facts<'_>, kind: usize) -> Vec<Value> {
    let home = facts.home_status;
    let killed = json!({"terminated": {
        "exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": facts.now,
        "message": "The container could not be located when the pod was terminated"}});
    let known: Vec<Value> = sorted(facts.home, kind)
        .into_iter()
        .map(|container| {
            let known = items(home, CONTAINER_LISTS[kind].1).find(|c| text(c, "name") == &*container.name);
            known.cloned().unwrap_or_else(|| blank(container, &json!({"waiting": {"reason": "PodInitializing"}})))
        })
        .collect();
    // Init containers run one after the other.
    let begun = match kind {
        INIT => known.iter().rposition(has_begun).map_or(0, |last| last + 1),
        0 if !initialized(facts) => 0,
        _ => known.len(),
    };
    let mut ended = known;
    for (place, status) in ended.iter_mut().enumerate() {
        if place < begun && status.pointer("/state/terminated").is_none() {
            status["state"] = killed.clone();
        }
        // An init container that has ended well stays ready.
        let ready = kind == INIT && super::killed(status) == Some(0);
        status["ready"] = json!(ready);
        if status.get("started").is_some() {
            status["started"] = json!(false);
        }
    }
    ended
}

fn has_begun(status: &Value) -> bool {
    let has = |path: &str| status.pointer(path).is_some_and(|value| !value.is_null());
    has("/state/running") || has("/state/terminated") || has("/lastState/terminated")
}

/// Whether home shows that the turn of the regular containers had come (hasPodInitialized in pkg/kubelet/status).
fn initialized(facts: &Facts<'_>) -> bool {
    let [_, init, _] = &facts.home.form.containers;
    let Some(last) = init.last() else { return true };
    let is_done = |c: &Value| {
        text(c, "name") == &*last.name && (super::killed(c) == Some(0) || c.get("started") == Some(&Value::Bool(true)))
    };
    items(facts.home_status, "containerStatuses").any(has_begun)
        || items(facts.home_status, "initContainerStatuses").any(is_done)
}
