//! What keeps a pod at home: everything that its delegate could not have, so that its containers would start in a world
//! that lacks something.

use serde_json::Value;

use super::residue;
use super::spec::{Object, containers, entries, get, list, text};
use crate::kubelet::document::PodDocument;
use crate::kubelet::provider::PodError;

/// Why a pod cannot be translated faithfully. Nothing is created until the pod, or what runs it, has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Hold {
    /// The field of the proxy, as a path: `spec.volumes[0].persistentVolumeClaim`.
    pub field: String,
    /// What the matter is and what to do, in a sentence.
    pub message: String,
}

impl Hold {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl From<Hold> for PodError {
    fn from(hold: Hold) -> Self {
        Self::Held { field: hold.field, message: hold.message }
    }
}

const CONFIG_MAP: &str = "ConfigMaps do not follow a pod to its target; write the values into the pod's own environment or \
     annotations, or let the pod run at home";
const SECRET: &str = "Secrets do not follow a pod to its target; let the pod run at home, or have it fetch what is secret \
     from where the target can reach it";
const TOKEN: &str = "tokens of service accounts do not follow a pod to its target; remove the source if the pod does \
     without, or let the pod run at home";
const CLAIM: &str = "storage that is claimed at home cannot be mounted in a target; use an emptyDir or a network volume \
     that both sides reach, or let the pod run at home";
const CERTIFICATE: &str = "certificates that home issues do not follow a pod to its target; remove the source if the pod \
     does without, or let the pod run at home";

/// Volumes of these kinds hold their pod.
const VOLUMES: [(&str, &str); 4] =
    [("configMap", CONFIG_MAP), ("secret", SECRET), ("persistentVolumeClaim", CLAIM), ("ephemeral", CLAIM)];

/// Sources of projected volumes of these kinds hold their pod.
const SOURCES: [(&str, &str); 5] = [
    ("configMap", CONFIG_MAP),
    ("secret", SECRET),
    ("serviceAccountToken", TOKEN),
    ("clusterTrustBundle", CERTIFICATE),
    ("podCertificate", CERTIFICATE),
];

/// Where volumes that have been in Kubernetes for long, and those of CSI drivers, name a Secret.
const SECRET_FIELDS: [&str; 3] = ["secretRef", "nodePublishSecretRef", "secretName"];

/// Holds pods whose nature binds them to their node.
pub(super) fn check_metadata(proxy: &PodDocument) -> Result<(), Hold> {
    if proxy.annotation("kubernetes.io/config.mirror").is_some() {
        return Err(Hold::new(
            "metadata.annotations[kubernetes.io/config.mirror]",
            "this is the mirror of a static pod, which only the kubelet that reads its manifest can run; delete it",
        ));
    }
    for (i, owner) in proxy.metadata.owner_references.iter().flatten().enumerate() {
        if owner.kind == "DaemonSet" && owner.controller == Some(true) {
            return Err(Hold::new(
                format!("metadata.ownerReferences[{i}]"),
                format!(
                    "DaemonSet {} wants a pod on each machine, and a virtual node is none; exclude virtual nodes by its \
                     node affinity (type NotIn virtual-kubelet)",
                    owner.name
                ),
            ));
        }
    }
    Ok(())
}

/// Holds pods whose spec needs what the target does not have.
pub(super) fn check(spec: &Object) -> Result<(), Hold> {
    if !entries(spec, "imagePullSecrets").is_empty() {
        let message = "pull secrets do not follow a pod to its target; remove the field if the image is public or the \
             target's nodes may pull it anyway";
        return Err(Hold::new("spec.imagePullSecrets", message));
    }
    if !entries(spec, "resourceClaims").is_empty() {
        let message = "devices that are claimed at home are not in a target; request them as an extended resource, or let \
             the pod run at home";
        return Err(Hold::new("spec.resourceClaims", message));
    }
    let token = residue::token_volume(spec);
    for (i, volume) in entries(spec, "volumes").iter().enumerate() {
        if token.is_none() || text(volume, "name") != token {
            check_volume(&format!("spec.volumes[{i}]"), volume)?;
        }
    }
    containers(spec).try_for_each(|(path, container)| check_container(&path, container))
}

fn check_volume(path: &str, volume: &Value) -> Result<(), Hold> {
    let Some(volume) = volume.as_object() else { return Ok(()) };
    for (kind, message) in VOLUMES {
        if get(volume, kind).is_some() {
            return Err(Hold::new(format!("{path}.{kind}"), message));
        }
    }
    for (kind, source) in volume {
        let secret = |field: &&str| source.get(field).is_some_and(|reference| !reference.is_null());
        if let Some(field) = SECRET_FIELDS.iter().find(|field| secret(field)) {
            return Err(Hold::new(format!("{path}.{kind}.{field}"), SECRET));
        }
    }
    let Some(projected) = volume.get("projected") else { return Ok(()) };
    for (i, source) in list(projected, "sources").iter().enumerate() {
        for (kind, message) in SOURCES {
            if source.get(kind).is_some_and(|source| !source.is_null()) {
                return Err(Hold::new(format!("{path}.projected.sources[{i}].{kind}"), message));
            }
        }
    }
    Ok(())
}

fn check_container(path: &str, container: &Value) -> Result<(), Hold> {
    let refers = |object: &Value, field: &str| object.get(field).is_some_and(|reference| !reference.is_null());
    for (i, variable) in list(container, "env").iter().enumerate() {
        let Some(from) = variable.get("valueFrom") else { continue };
        for (kind, message) in [("configMapKeyRef", CONFIG_MAP), ("secretKeyRef", SECRET)] {
            if refers(from, kind) {
                return Err(Hold::new(format!("{path}.env[{i}].valueFrom.{kind}"), message));
            }
        }
    }
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        for (kind, message) in [("configMapRef", CONFIG_MAP), ("secretRef", SECRET)] {
            if refers(source, kind) {
                return Err(Hold::new(format!("{path}.envFrom[{i}].{kind}"), message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn held(spec: &Value) -> Option<String> {
        check(spec.as_object().unwrap()).err().map(|hold| hold.field)
    }

    #[test]
    fn volumes_that_need_home_hold_the_pod() {
        for (volume, field) in [
            (json!({"configMap": {"name": "c", "optional": true}}), "configMap"),
            (json!({"secret": {"secretName": "s"}}), "secret"),
            (json!({"persistentVolumeClaim": {"claimName": "p"}}), "persistentVolumeClaim"),
            (json!({"ephemeral": {}}), "ephemeral"),
            (json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}), "csi.nodePublishSecretRef"),
            (json!({"rbd": {"secretRef": {"name": "s"}}}), "rbd.secretRef"),
            (json!({"azureFile": {"secretName": "s"}}), "azureFile.secretName"),
            (
                json!({"projected": {"sources": [{"downwardAPI": {}}, {"configMap": {}}]}}),
                "projected.sources[1].configMap",
            ),
            (json!({"projected": {"sources": [{"secret": {}}]}}), "projected.sources[0].secret"),
            (
                json!({"projected": {"sources": [{"clusterTrustBundle": {}}]}}),
                "projected.sources[0].clusterTrustBundle",
            ),
            (json!({"projected": {"sources": [{"podCertificate": {}}]}}), "projected.sources[0].podCertificate"),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"audience": "vault", "path": "t"}}]}}),
                "projected.sources[0].serviceAccountToken",
            ),
        ] {
            let spec = json!({"volumes": [{"name": "ok", "emptyDir": {}}, volume]});
            assert_eq!(held(&spec), Some(format!("spec.volumes[1].{field}")), "{spec}");
        }
    }

    #[test]
    fn volumes_of_other_kinds_pass() {
        let spec = json!({"volumes": [{"emptyDir": {}}, {"nfs": {"server": "s"}}, {"csi": {"driver": "d"}},
            {"inventedIn2031": {"x": 1}}, {"configMap": null}, {"image": {"reference": "r"}}, 7,
            {"projected": {"sources": [{"downwardAPI": {"items": []}}, {"novel": {}}]}}]});
        assert_eq!(held(&spec), None);
    }

    #[test]
    fn the_volume_that_admission_adds_holds_nobody() {
        let spec = json!({"volumes": [{"name": "kube-api-access-x2v4z", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt"}}, {"downwardAPI": {}}]}}]});
        assert_eq!(held(&spec), None);
    }

    #[test]
    fn containers_that_need_home_hold_the_pod() {
        for (container, field) in [
            (json!({"env": [{}, {"valueFrom": {"configMapKeyRef": {}}}]}), "env[1].valueFrom.configMapKeyRef"),
            (json!({"env": [{"valueFrom": {"secretKeyRef": {}}}]}), "env[0].valueFrom.secretKeyRef"),
            (json!({"envFrom": [{"configMapRef": {}}]}), "envFrom[0].configMapRef"),
            (json!({"envFrom": [{"secretRef": {}}]}), "envFrom[0].secretRef"),
        ] {
            for kind in ["containers", "initContainers"] {
                assert_eq!(held(&json!({kind: [{}, container]})), Some(format!("spec.{kind}[1].{field}")));
            }
            assert_eq!(held(&json!({"ephemeralContainers": [container]})), None, "they are not created");
        }
        let harmless =
            json!({"containers": [{"env": [{"valueFrom": {"fieldRef": {}}}], "envFrom": [{"novelRef": {}}]}]});
        assert_eq!(held(&harmless), None);
    }

    #[test]
    fn what_names_objects_of_home_holds_the_pod() {
        for spec in [json!({"imagePullSecrets": [{"name": "s"}]}), json!({"resourceClaims": [{"name": "gpu"}]})] {
            let field = spec.as_object().and_then(|s| s.keys().next()).unwrap();
            assert_eq!(held(&spec), Some(format!("spec.{field}")));
        }
        assert_eq!(held(&json!({"imagePullSecrets": [], "resourceClaims": null})), None);
    }

    #[test]
    fn mirrors_and_daemons_are_held_by_their_metadata() {
        let field = |metadata: Value| {
            let metadata = serde_json::from_value(metadata).unwrap();
            check_metadata(&PodDocument::new(metadata, Value::Null, Value::Null)).err().map(|hold| hold.field)
        };
        let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
        assert_eq!(field(mirror), Some("metadata.annotations[kubernetes.io/config.mirror]".into()));
        let owner = |kind: &str, controller| {
            json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "n", "uid": "u",
                "controller": controller}]})
        };
        assert_eq!(field(owner("DaemonSet", true)), Some("metadata.ownerReferences[0]".into()));
        assert_eq!(field(owner("DaemonSet", false)), None);
        assert_eq!(field(owner("ReplicaSet", true)), None);
    }

    #[test]
    fn a_hold_is_an_error_of_the_provider() {
        let error = PodError::from(Hold::new("spec.x", "do that"));
        assert_eq!(error.to_string(), "spec.x: do that");
    }
}
