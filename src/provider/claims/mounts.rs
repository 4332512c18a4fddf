//! Which claims a pod mounts, and how its delegate names them. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::kubelet::document::PodDocument;
use crate::provider::translate::Hold;

/// A volume of a pod that is kept by a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The field that names it, as a path: `spec.volumes[0].persistentVolumeClaim`.
    pub field: String,
    /// The name of home's claim.
    pub claim: String,
}

/// Why a pod stays at home where claims do not follow their pods; `None` for one that has none.
pub fn held_for_claims(pod: &PodDocument, node: &str) -> Option<Hold> {
    let Mount { field, claim } = claims_of(pod).pop()?;
    let message = format!(
        "claim {claim} does not follow the pod to its target; set spec.claims in the VirtualNode {node}, or let the pod run \
         at home"
    );
    Some(Hold { field, message })
}

/// The claims that a pod mounts. That of a generic ephemeral volume is made by the host, with a name that follows from the
/// pod's (k8s.io/component-helpers/storage/ephemeral).
pub fn claims_of(pod: &PodDocument) -> Vec<Mount> {
    let volumes = pod.list("volumes").iter().enumerate();
    volumes.filter_map(|(i, volume)| mount(i, volume, pod.name())).collect()
}

fn mount(index: usize, volume: &Value, pod: &str) -> Option<Mount> {
    if let Some(source) = volume.get("persistentVolumeClaim").filter(|source| !source.is_null()) {
        let claim = source.get("claimName").and_then(Value::as_str)?.to_owned();
        return Some(Mount { field: format!("spec.volumes[{index}].persistentVolumeClaim"), claim });
    }
    volume.get("ephemeral").filter(|source| !source.is_null())?;
    let claim = format!("{pod}-{}", volume.get("name").and_then(Value::as_str)?);
    Some(Mount { field: format!("spec.volumes[{index}].ephemeral"), claim })
}

/// Lets the volumes of a delegate's spec name the target's claims: `names` is from home's name to the target's. One that
/// is not in it keeps its name. Answers each changed field, with why.
pub(in crate::provider) fn rename(
    spec: &mut Map<String, Value>,
    pod: &str,
    names: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let mut changes = vec![];
    let volumes = spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten();
    for (index, volume) in volumes.enumerate() {
        let Some(Mount { field, claim }) = mount(index, volume, pod) else { continue };
        let name = names.get(&claim).unwrap_or(&claim);
        let Some(volume) = volume.as_object_mut() else { continue };
        if volume.remove("ephemeral").is_some() {
            volume.insert("persistentVolumeClaim".into(), json!({"claimName": name}));
            changes.push((field, format!("the host has made the claim {claim}, and the target keeps it as {name}")));
        } else if *name != claim {
            volume["persistentVolumeClaim"]["claimName"] = json!(name);
            changes.push((format!("{field}.claimName"), format!("the target keeps the claim {claim} as {name}")));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_as_the_target_has_them() {
        let pod: PodDocument = serde_json::from_value(json!({"metadata": {"name": "web-0"}, "spec": {"volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0", "readOnly": true}},
            {"name": "cache", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "other", "persistentVolumeClaim": {"claimName": "other"}}]}}))
        .unwrap();
        let mounts = claims_of(&pod);
        assert_eq!(
            mounts.iter().map(|one| one.claim.as_str()).collect::<Vec<_>>(),
            ["data-web-0", "web-0-cache", "other"]
        );
        assert_eq!(mounts[1].field, "spec.volumes[2].ephemeral");

        let names = [("data-web-0", "data-web-0-1f"), ("web-0-cache", "web-0-cache-2f")];
        let names = names.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        let mut spec = pod.spec.as_object().unwrap().clone();
        let changes = rename(&mut spec, "web-0", &names);
        let fields: Vec<_> = changes.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["spec.volumes[1].persistentVolumeClaim.claimName", "spec.volumes[2].ephemeral"]);
        assert_eq!(
            spec["volumes"],
            json!([{"name": "tmp", "emptyDir": {}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0-1f", "readOnly": true}},
                {"name": "cache", "persistentVolumeClaim": {"claimName": "web-0-cache-2f"}},
                {"name": "other", "persistentVolumeClaim": {"claimName": "other"}}])
        );
    }

    #[test]
    fn what_is_not_shaped_like_a_volume_is_left_alone() {
        let mut spec =
            json!({"volumes": [7, {"persistentVolumeClaim": null}, {"ephemeral": {}}]}).as_object().unwrap().clone();
        let before = spec.clone();
        assert_eq!(rename(&mut spec, "p", &BTreeMap::new()), []);
        assert_eq!(spec, before);
    }
}
