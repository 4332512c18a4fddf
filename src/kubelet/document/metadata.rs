//! Metadata as far as they can be read.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::Json;

/// All but `managedFields`, often half of a pod's bytes, which nothing here reads: they are passed over before anything is made
/// of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sound {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    self_link: Option<String>,
    uid: Option<String>,
}

impl From<Sound> for ObjectMeta {
    fn from(sound: Sound) -> Self {
        Self {
            annotations: sound.annotations,
            creation_timestamp: sound.creation_timestamp,
            deletion_grace_period_seconds: sound.deletion_grace_period_seconds,
            deletion_timestamp: sound.deletion_timestamp,
            finalizers: sound.finalizers,
            generate_name: sound.generate_name,
            generation: sound.generation,
            labels: sound.labels,
            managed_fields: None,
            name: sound.name,
            namespace: sound.namespace,
            owner_references: sound.owner_references,
            resource_version: sound.resource_version,
            self_link: sound.self_link,
            uid: sound.uid,
        }
    }
}

/// As much of the metadata as can be read, and what is wrong with the rest.
pub(super) fn read(metadata: Json) -> (ObjectMeta, Option<Box<str>>) {
    let object = metadata.text().filter(|text| text.starts_with('{'));
    if let Some(sound) = object.and_then(|text| serde_json::from_str::<Sound>(text).ok()) {
        return (sound.into(), None);
    }
    match metadata.into_value() {
        Value::Null => (ObjectMeta::default(), None),
        Value::Object(mut fields) => {
            fields.remove("managedFields");
            piecemeal(fields)
        }
        _ => (ObjectMeta::default(), Some("metadata: not an object".into())),
    }
}

fn piecemeal(fields: Map<String, Value>) -> (ObjectMeta, Option<Box<str>>) {
    let whole = Value::Object(fields);
    if let Ok(read) = ObjectMeta::deserialize(&whole) {
        return (read, None);
    }
    let (mut sound, mut unsound) = (Map::new(), vec![]);
    for (name, field) in whole.as_object().into_iter().flatten() {
        let alone = Value::Object([(name.clone(), field.clone())].into_iter().collect());
        match ObjectMeta::deserialize(&alone) {
            Ok(_) => _ = sound.insert(name.clone(), field.clone()),
            Err(error) => unsound.push(format!("metadata.{name}: {error}")),
        }
    }
    let read = ObjectMeta::deserialize(&Value::Object(sound)).unwrap_or_default();
    (read, Some(unsound.join("; ").into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_and_value_read_the_same() {
        let all = json!({"annotations": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 3, "deletionTimestamp": "2026-01-01T00:00:01Z", "finalizers": ["f"],
            "generateName": "g-", "generation": 2, "labels": {"l": "m"}, "name": "n", "namespace": "ns",
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "p", "controller": true}],
            "resourceVersion": "7", "selfLink": "s", "uid": "u", "novel": [1]});
        let from_value = read(Json::from(all.clone()));
        assert_eq!(read(serde_json::from_str(&all.to_string()).unwrap()), from_value);
        let mut known = all;
        known.as_object_mut().unwrap().remove("novel");
        assert_eq!(serde_json::to_value(&from_value.0).unwrap(), known);
    }
}
