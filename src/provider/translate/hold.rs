//! What keeps a pod at home: everything that its delegate could not have, so that its containers would start in a world
//! that lacks something.

use serde_json::Value;

use super::super::follow::accounts::Accounts;
use super::residue;
use super::spec::{Object, entries, list, text};
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

const TOKEN: &str = "no tokens of service accounts are mounted in this target; set spec.serviceAccounts of the Target to Host \
     or Remote, remove the source if the pod does without, or let the pod run at home";
const CERTIFICATE: &str = "certificates that home issues do not follow a pod to its target; remove the source if the pod \
     does without, or let the pod run at home";

/// Sources of projected volumes of these kinds hold their pod.
const SOURCES: [(&str, &str); 2] = [("clusterTrustBundle", CERTIFICATE), ("podCertificate", CERTIFICATE)];

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
pub(super) fn check(spec: &Object, accounts: &Accounts) -> Result<(), Hold> {
    let token = residue::token_volume(spec);
    for (i, volume) in entries(spec, "volumes").iter().enumerate() {
        if token.is_none() || text(volume, "name") != token {
            check_volume(&format!("spec.volumes[{i}]"), volume, accounts)?;
        }
    }
    Ok(())
}

fn check_volume(path: &str, volume: &Value, accounts: &Accounts) -> Result<(), Hold> {
    let Some(volume) = volume.as_object() else { return Ok(()) };
    let Some(projected) = volume.get("projected") else { return Ok(()) };
    for (i, source) in list(projected, "sources").iter().enumerate() {
        let tokens = (*accounts == Accounts::None).then_some(("serviceAccountToken", TOKEN));
        for (kind, message) in SOURCES.into_iter().chain(tokens) {
            if source.get(kind).is_some_and(|source| !source.is_null()) {
                return Err(Hold::new(format!("{path}.projected.sources[{i}].{kind}"), message));
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
        check(spec.as_object().unwrap(), &Accounts::None).err().map(|hold| hold.field)
    }

    #[test]
    fn volumes_that_need_home_hold_the_pod() {
        for (volume, field) in [
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
            {"persistentVolumeClaim": {"claimName": "p"}}, {"ephemeral": {}},
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
