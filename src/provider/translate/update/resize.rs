//! The resources of containers, which may change while they run (KEP-1287).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::kubelet::document::PodDocument;
use crate::provider::translate::spec::{CONTAINERS, Object, containers, text};

/// What may change; the API server refuses everything else.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// The resources of each container that asks for some.
pub(super) fn of(spec: &Object) -> BTreeMap<String, Value> {
    let all = containers(spec).filter_map(|(_, container)| {
        let resources = resizable(container.get("resources")?);
        (!resources.is_empty()).then(|| Some((text(container, "name")?.to_owned(), Value::Object(resources))))?
    });
    all.collect()
}

/// The patch of the subresource `resize` for those whose resources have changed at home since they were sent. What the
/// target's defaults have added stays.
pub(super) fn patch(fresh: &PodDocument, live: &PodDocument, last: &BTreeMap<String, Value>) -> Option<Value> {
    let mut spec = Object::new();
    for kind in CONTAINERS {
        let changed: Vec<_> =
            fresh.list(kind).iter().filter_map(|container| changed(container, live.list(kind), last)).collect();
        if !changed.is_empty() {
            spec.insert(kind.into(), changed.into());
        }
    }
    (!spec.is_empty()).then(|| json!({"metadata": {"uid": live.uid()}, "spec": spec}))
}

fn changed(container: &Value, live: &[Value], last: &BTreeMap<String, Value>) -> Option<Value> {
    let name = text(container, "name")?;
    let there = live.iter().find(|other| text(other, "name") == Some(name))?;
    let now = resizable(container.get("resources")?);
    let there = there.get("resources").map(resizable).unwrap_or_default();
    let sent = last.get(name).and_then(Value::as_object).unwrap_or(&there);
    // Taking away is not allowed, so that what is there and not in `now` is none of home's.
    (!now.is_empty() && *sent != now && there != now).then(|| json!({"name": name, "resources": now}))
}

/// The part of `resources` that may change.
fn resizable(resources: &Value) -> Map<String, Value> {
    let part = |field: &str| {
        let all = resources.get(field)?.as_object()?;
        let some: Map<_, _> =
            RESIZABLE.iter().filter_map(|name| Some(((*name).to_owned(), all.get(*name)?.clone()))).collect();
        (!some.is_empty()).then_some((field.to_owned(), Value::Object(some)))
    };
    ["requests", "limits"].into_iter().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &Value) -> PodDocument {
        serde_json::from_value(json!({"metadata": {"uid": "d"},
            "spec": {"containers": [{"name": "c", "resources": resources}, {"name": "other"}]}}))
        .unwrap()
    }

    fn sent(pod: &PodDocument) -> BTreeMap<String, Value> {
        of(pod.spec.as_object().unwrap())
    }

    #[test]
    fn only_a_change_of_homes_is_sent() {
        let was = pod(&json!({"requests": {"cpu": "1", "nvidia.com/gpu": "1"}}));
        let now = pod(&json!({"requests": {"cpu": "2", "nvidia.com/gpu": "1"}}));
        let expected = json!({"metadata": {"uid": "d"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}});
        assert_eq!(patch(&now, &was, &sent(&was)), Some(expected));
        assert_eq!(patch(&was, &was, &sent(&was)), None);
        assert_eq!(patch(&now, &now, &sent(&was)), None, "it is so already");
    }

    #[test]
    fn what_the_target_has_made_of_them_is_no_change() {
        let was = pod(&json!({"requests": {"cpu": "1"}}));
        let live = pod(&json!({"requests": {"cpu": "1500m", "memory": "1Gi"}, "limits": {"cpu": "2"}}));
        assert_eq!(patch(&was, &live, &sent(&was)), None);
        let bare = pod(&json!({}));
        assert_eq!(patch(&bare, &live, &BTreeMap::new()), None, "nothing is taken away");
    }

    #[test]
    fn without_a_memory_they_are_compared() {
        let (was, now) = (pod(&json!({"limits": {"memory": "1Gi"}})), pod(&json!({"limits": {"memory": "2Gi"}})));
        assert!(patch(&now, &was, &BTreeMap::new()).is_some());
        assert_eq!(patch(&was, &was, &BTreeMap::new()), None);
    }
}
