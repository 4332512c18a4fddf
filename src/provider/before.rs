//! What home shows of the delegates that a delegate replaces: pure.
//!
//! A delegate that takes the place of one that has vanished counts its restarts from zero and knows of no earlier end. At
//! home it is the same pod, whose counts never go back. So what home showed is written on the new delegate when it is
//! created ([`names::BEFORE`]), and added to whatever it says: no process has to remember it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::names;
use crate::kubelet::document::PodDocument;

/// A longer message of a container's end is not carried along.
const MESSAGE_BYTES: usize = 1024;

/// What home showed.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Before {
    /// Regular and init containers that have begun, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    containers: BTreeMap<String, Earlier>,
    /// Ephemeral containers that have begun, which never begin again, by name: their last statuses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) ephemeral: BTreeMap<String, Value>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Earlier {
    /// What is added to the count of restarts.
    restarts: i64,
    /// `lastState.terminated`, until there is a newer one.
    #[serde(default)]
    last: Value,
    /// The list of statuses that it is in.
    list: String,
    /// The image that it had.
    image: Value,
}

impl Before {
    /// What a proxy shows; `None` where nothing has begun.
    pub(super) fn of(proxy: &PodDocument) -> Option<Self> {
        let mut before = Self::default();
        for list in ["containerStatuses", "initContainerStatuses"] {
            for (name, status) in named(&proxy.status, list) {
                if let Some(last) = end(status) {
                    let restarts = status.get("restartCount").and_then(Value::as_i64).unwrap_or_default() + 1;
                    let image = status.get("image").cloned().unwrap_or_else(|| "".into());
                    before.containers.insert(name, Earlier { restarts, last, list: list.into(), image });
                }
            }
        }
        for (name, status) in named(&proxy.status, "ephemeralContainerStatuses") {
            if let Some(end) = end(status) {
                let mut status = status.clone();
                status["state"] = json!({"terminated": end});
                status["ready"] = false.into();
                before.ephemeral.insert(name, status);
            }
        }
        (before != Self::default()).then_some(before)
    }

    /// As a delegate carries it.
    pub(super) fn print(&self) -> String {
        // Maps of texts and JSON always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a delegate carries.
    pub(super) fn read(delegate: &PodDocument) -> Option<Self> {
        serde_json::from_str(delegate.annotation(names::BEFORE)?).ok()
    }

    /// Adds it to the delegate's own status.
    pub(super) fn add(&self, status: &mut Map<String, Value>) {
        // Before its kubelet has taken the delegate up, it says nothing of its containers.
        for (name, earlier) in &self.containers {
            let list = status.entry(earlier.list.as_str()).or_insert_with(|| json!([]));
            let is_known = |own: &Value| own.get("name").and_then(Value::as_str) == Some(name);
            if let Some(list) = list.as_array_mut().filter(|list| !list.iter().any(is_known)) {
                list.push(
                    json!({"name": name, "image": earlier.image, "imageID": "", "ready": false, "started": false,
                    "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}),
                );
            }
        }
        for list in ["containerStatuses", "initContainerStatuses"] {
            for own in status.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let name = own.get("name").and_then(Value::as_str).unwrap_or_default();
                let Some(earlier) = self.containers.get(name) else { continue };
                let restarts = own.get("restartCount").and_then(Value::as_i64).unwrap_or_default();
                own["restartCount"] = restarts.saturating_add(earlier.restarts).into();
                if own.pointer("/lastState/terminated").is_none_or(Value::is_null) && !earlier.last.is_null() {
                    own["lastState"] = json!({"terminated": earlier.last});
                }
            }
        }
        if self.ephemeral.is_empty() {
            return;
        }
        let list = status.entry("ephemeralContainerStatuses").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.retain(|own| own.get("name").and_then(Value::as_str).is_none_or(|n| !self.ephemeral.contains_key(n)));
            list.extend(self.ephemeral.values().cloned());
        }
    }
}

fn named<'a>(status: &'a Value, list: &str) -> impl Iterator<Item = (String, &'a Value)> {
    let all = status.get(list).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|status| Some((status.get("name")?.as_str()?.to_owned(), status)))
}

/// How a container has ended, as far as anybody knows; `None` if it has not begun.
fn end(status: &Value) -> Option<Value> {
    let at = |path: &str| status.pointer(path).filter(|value| !value.is_null());
    let mut end = match (at("/state/terminated"), at("/state/running")) {
        (Some(end), _) => end.clone(),
        (None, Some(running)) => {
            let mut end = json!({"exitCode": 137, "reason": "ContainerStatusUnknown",
                "message": "The container could not be located when the pod was deleted.  The container used to be Running"});
            for (field, value) in [("startedAt", running.get("startedAt")), ("containerID", at("/containerID"))] {
                if let Some(value) = value {
                    end[field] = value.clone();
                }
            }
            end
        }
        (None, None) => at("/lastState/terminated")?.clone(),
    };
    if end.get("message").and_then(Value::as_str).is_some_and(|message| message.len() > MESSAGE_BYTES) {
        end.as_object_mut()?.remove("message");
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(status: &Value) -> PodDocument {
        serde_json::from_value(json!({"status": status})).unwrap()
    }

    fn shown(before: &Before, status: Value) -> Value {
        let mut delegate = PodDocument::default();
        delegate.metadata.annotations = Some([(names::BEFORE.to_owned(), before.print())].into());
        let Value::Object(mut status) = status else { unreachable!() };
        Before::read(&delegate).unwrap().add(&mut status);
        Value::Object(status)
    }

    #[test]
    fn nothing_is_carried_for_a_pod_that_never_began() {
        let waiting = json!({"containerStatuses": [{"name": "c", "restartCount": 0, "state": {"waiting": {}}}]});
        assert_eq!(Before::of(&proxy(&waiting)), None);
        assert_eq!(Before::of(&PodDocument::default()), None);
    }

    #[test]
    fn restarts_go_on_from_where_home_was() {
        let before = Before::of(&proxy(&json!({"containerStatuses": [
            {"name": "runs", "restartCount": 3, "containerID": "old", "state": {"running": {"startedAt": "t"}}},
            {"name": "crashed", "restartCount": 1, "state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 7}}},
            {"name": "waits", "restartCount": 0, "state": {"waiting": {}}}]})))
        .unwrap();
        let status = shown(
            &before,
            json!({"containerStatuses": [{"name": "runs", "restartCount": 0, "lastState": {}},
                {"name": "crashed", "restartCount": 2, "lastState": {"terminated": {"exitCode": 9}}},
                {"name": "waits", "restartCount": 0}]}),
        );
        let all = &status["containerStatuses"];
        assert_eq!(all[0]["restartCount"], 4);
        let last = &all[0]["lastState"]["terminated"];
        assert_eq!((&last["exitCode"], &last["containerID"]), (&json!(137), &json!("old")));
        assert_eq!((&all[1]["restartCount"], &all[1]["lastState"]["terminated"]["exitCode"]), (&json!(4), &json!(9)));
        assert_eq!(all[2], json!({"name": "waits", "restartCount": 0}));
    }

    #[test]
    fn a_delegate_that_says_nothing_yet_shows_what_was() {
        let shown_before = json!({"containerStatuses": [{"name": "c", "image": "i", "restartCount": 1,
            "state": {"running": {}}}]});
        let status = shown(&Before::of(&proxy(&shown_before)).unwrap(), json!({}));
        let c = &status["containerStatuses"][0];
        assert_eq!((&c["restartCount"], &c["image"]), (&json!(2), &json!("i")));
        assert_eq!(c["lastState"]["terminated"]["exitCode"], 137);
        assert!(c["state"]["waiting"].is_object());
    }

    #[test]
    fn an_ephemeral_container_ends_with_its_delegate() {
        let debugger = json!({"name": "e", "image": "i", "state": {"running": {}}});
        let before = Before::of(&proxy(&json!({"ephemeralContainerStatuses": [debugger]}))).unwrap();
        let status = shown(&before, json!({}));
        let end = &status["ephemeralContainerStatuses"][0];
        assert_eq!((&end["name"], &end["state"]["terminated"]["exitCode"]), (&json!("e"), &json!(137)));
    }
}
