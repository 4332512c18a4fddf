//! The tolerations by which the host would evict a pod some minutes after its node stops answering.
//!
//! The admission plugin DefaultTolerationSeconds gives every pod 300 s of them. For a virtual node that is wrong: a lost
//! link says nothing about the pods behind it. So the limit is lifted from proxies where nobody asked for it (a user who
//! writes another number keeps it), in a patch that fails if the pod has changed, and marked by an annotation, so that
//! everything else goes on as if it were still there: the delegate does not change because of it.

use serde_json::{Value, json};

use super::document::PodDocument;

/// Annotation of a proxy: the short names of the tolerations whose limit was lifted.
pub const LIFTED: &str = "longshore.dev/eviction-lifted";

/// What the admission plugin grants, in seconds.
const DEFAULT: i64 = 300;

/// The taints of a node that does not answer, and how [`LIFTED`] calls them.
const TAINTS: [(&str, &str); 2] =
    [("node.kubernetes.io/not-ready", "not-ready"), ("node.kubernetes.io/unreachable", "unreachable")];

/// Where the default tolerations are in a pod's list, in the order of `TAINTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    places: [Option<u8>; 2],
    annotated: bool,
}

impl Defaults {
    /// Those of a proxy that are still limited.
    pub fn of(pod: &PodDocument) -> Self {
        let lifted = pod.annotation(LIFTED);
        let place = |(key, short): (&str, &str)| {
            let is_lifted = lifted.is_some_and(|list| list.split(',').any(|one| one == short));
            let place = pod.list("tolerations").iter().position(|one| is(one, key, Some(DEFAULT)))?;
            if is_lifted { None } else { u8::try_from(place).ok() }
        };
        Self {
            places: TAINTS.map(place),
            annotated: pod.metadata.annotations.as_ref().is_some_and(|all| !all.is_empty()),
        }
    }

    /// Whether the host would evict the pod.
    pub fn any(&self) -> bool {
        self.places.iter().any(Option::is_some)
    }

    /// The JSON patch (RFC 6902) that lifts them from the pod of this UID, and fails if they are not where they were.
    pub fn patch(&self, uid: &str) -> Value {
        let mut steps = vec![json!({"op": "test", "path": "/metadata/uid", "value": uid})];
        let mut lifted = vec![];
        for (place, (key, short)) in self.places.iter().zip(TAINTS) {
            let Some(place) = place else { continue };
            let path = format!("/spec/tolerations/{place}");
            steps.push(json!({"op": "test", "path": format!("{path}/key"), "value": key}));
            steps.push(json!({"op": "test", "path": format!("{path}/tolerationSeconds"), "value": DEFAULT}));
            steps.push(json!({"op": "remove", "path": format!("{path}/tolerationSeconds")}));
            lifted.push(short);
        }
        if !self.annotated {
            steps.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        }
        let path = format!("/metadata/annotations/{}", LIFTED.replace('/', "~1"));
        steps.push(json!({"op": "add", "path": path, "value": lifted.join(",")}));
        Value::Array(steps)
    }
}

/// The proxy as it was before its limits were lifted, but for the annotation that says so.
pub fn restored(mut pod: PodDocument) -> PodDocument {
    let Some(lifted) = pod.annotation(LIFTED) else { return pod };
    let lifted: Vec<&str> =
        TAINTS.iter().filter(|(_, short)| lifted.split(',').any(|one| one == *short)).map(|(key, _)| *key).collect();
    let tolerations = pod.spec.get_mut("tolerations").and_then(Value::as_array_mut);
    for toleration in tolerations.into_iter().flatten() {
        if lifted.iter().any(|key| is(toleration, key, None)) {
            toleration["tolerationSeconds"] = DEFAULT.into();
        }
    }
    pod
}

/// Whether this is the toleration of the admission plugin, with this limit.
fn is(toleration: &Value, key: &str, seconds: Option<i64>) -> bool {
    let Some(fields) = toleration.as_object() else { return false };
    let text = |field| fields.get(field).and_then(Value::as_str);
    text("key") == Some(key)
        && text("operator") == Some("Exists")
        && text("effect") == Some("NoExecute")
        && fields.get("tolerationSeconds").and_then(Value::as_i64) == seconds
        && fields.len() == 3 + usize::from(seconds.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, seconds: Option<i64>) -> Value {
        let mut toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute"});
        if let Some(seconds) = seconds {
            toleration["tolerationSeconds"] = seconds.into();
        }
        toleration
    }

    fn pod(annotations: &Value, tolerations: &[Value]) -> PodDocument {
        let metadata = json!({"name": "a", "uid": "u", "annotations": annotations});
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"tolerations": tolerations}}))
        .unwrap()
    }

    const NOT_READY: &str = TAINTS[0].0;
    const UNREACHABLE: &str = TAINTS[1].0;

    #[test]
    fn the_defaults_are_lifted_where_they_are() {
        let defaults = [json!({"key": "x"}), toleration(UNREACHABLE, Some(300)), toleration(NOT_READY, Some(300))];
        let patch = Defaults::of(&pod(&Value::Null, &defaults)).patch("u");
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        let removed: Vec<_> = patch.as_array().unwrap().iter().filter(|step| step["op"] == "remove").collect();
        assert_eq!(removed[0]["path"], "/spec/tolerations/2/tolerationSeconds");
        assert_eq!(removed[1]["path"], "/spec/tolerations/1/tolerationSeconds");
        let last = patch.as_array().unwrap().last().unwrap();
        assert_eq!(
            (&last["path"], &last["value"]),
            (&json!("/metadata/annotations/longshore.dev~1eviction-lifted"), &json!("not-ready,unreachable"))
        );
    }

    #[test]
    fn annotations_that_are_there_stay() {
        let patch = Defaults::of(&pod(&json!({"a": "b"}), &[toleration(NOT_READY, Some(300))])).patch("u");
        let wipes = |step: &Value| step["path"] == "/metadata/annotations";
        assert!(!patch.as_array().unwrap().iter().any(wipes));
    }

    #[test]
    fn a_limit_that_the_user_has_chosen_stays() {
        for tolerations in
            [[toleration(NOT_READY, Some(30))], [toleration(NOT_READY, None)], [json!({"operator": "Exists"})]]
        {
            assert!(!Defaults::of(&pod(&Value::Null, &tolerations)).any(), "{tolerations:?}");
        }
        assert!(Defaults::of(&pod(&Value::Null, &[toleration(NOT_READY, Some(300))])).any());
    }

    #[test]
    fn a_lifted_pod_is_restored_as_it_was_and_lifted_once() {
        let before = [toleration(NOT_READY, Some(300)), toleration(UNREACHABLE, None)];
        let lifted = pod(&json!({LIFTED: "not-ready"}), &[toleration(NOT_READY, None), toleration(UNREACHABLE, None)]);
        let restored = restored(lifted);
        assert_eq!(restored.list("tolerations"), before, "the second is the user's own");
        assert!(!Defaults::of(&restored).any());
    }
}
