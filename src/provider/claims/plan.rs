//! What is to be done about a claim, and what it looks like in a target and as a volume at home. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::core::{ApiResource, ObjectMeta};
use serde_json::{Value, json};

use super::{DRIVER, FINALIZER, PROVISIONER};
use crate::provider::names;
use crate::provider::quantity::Quantity;

/// Annotation of a claim: the node that the scheduler has chosen for its first pod.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotations of a claim: who is to make its volume. The second is what older controllers write.
const STORAGE_PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Annotation of a volume: who has made it, and so who has to deal with it in the end.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Parameter of a StorageClass: the storage class in the targets. With `/` and a target's name after it, in that target.
const CLASS_PARAMETER: &str = "storageClassName";

/// Label of a volume at home: what it is, so that a watch need not see the others.
pub(super) const NODE_LABEL: &str = names::NODE;

/// PersistentVolumeClaims as documents, so that a field which is not known here reaches the target.
pub(super) fn resource() -> ApiResource {
    ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: "PersistentVolumeClaim".into(),
        plural: "persistentvolumeclaims".into(),
    }
}

/// Whether it is for this virtual node to make the volume of a claim, by the claim's metadata.
pub(super) fn is_ours(claim: &ObjectMeta, node: &str) -> bool {
    is_for_us(claim) && annotation(claim, SELECTED_NODE) == Some(node)
}

/// Whether it is for us to make the volume of a claim, and no node was chosen for it: where its class binds at once, none
/// ever will.
pub(super) fn is_unchosen(claim: &ObjectMeta) -> bool {
    is_for_us(claim) && annotation(claim, SELECTED_NODE).is_none()
}

fn is_for_us(claim: &ObjectMeta) -> bool {
    STORAGE_PROVISIONER.iter().any(|key| annotation(claim, key) == Some(PROVISIONER))
}

fn annotation<'a>(claim: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    claim.annotations.as_ref()?.get(key).map(String::as_str)
}

/// What is to be done about a claim of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Nothing,
    /// It waits for a node, perhaps in vain.
    Unchosen,
    /// It gets a volume.
    Provision,
    /// It has this volume, whose size may differ.
    Compare(String),
    /// It will never get one, for this reason.
    Refuse(String),
}

/// What is to be done about a claim.
pub(super) fn next(claim: &DynamicObject, node: &str) -> Next {
    let spec = |field: &str| claim.data.pointer(&format!("/spec/{field}")).filter(|value| !value.is_null());
    if claim.metadata.deletion_timestamp.is_some() {
        return Next::Nothing;
    }
    if is_unchosen(&claim.metadata) && spec("volumeName").is_none() {
        return Next::Unchosen;
    }
    if !is_ours(&claim.metadata, node) {
        return Next::Nothing;
    }
    if let Some(volume) = spec("volumeName").and_then(Value::as_str).filter(|name| !name.is_empty()) {
        return Next::Compare(volume.to_owned());
    }
    for (field, why) in [
        ("selector", "it selects volumes of home, and this one is made in a target; remove the selector"),
        ("dataSource", "its source is at home and cannot be copied to a target; fill the volume from within a pod"),
        ("dataSourceRef", "its source is at home and cannot be copied to a target; fill the volume from within a pod"),
        ("volumeAttributesClassName", "that class is one of home; choose the target's by the StorageClass"),
    ] {
        if spec(field).is_some() {
            return Next::Refuse(format!("spec.{field}: {why}"));
        }
    }
    Next::Provision
}

/// The target that a claim was given.
pub(super) fn choice(claim: &ObjectMeta) -> Option<&str> {
    annotation(claim, names::CHOICE)
}

/// The name that home's claim has in its target: never that of a claim of the same name which was there before it, or was
/// kept when it went.
pub(super) fn remote_name(name: &str, uid: &str) -> String {
    // A name has at most 253 characters, a UID 36.
    let longest = 253 - 1 - uid.len();
    let name = name.get(..longest).unwrap_or(name).trim_end_matches(['-', '.']);
    format!("{name}-{uid}")
}

/// The class in a target that a StorageClass of home stands for; the target's default if it does not say.
pub(super) fn remote_class<'a>(class: &'a StorageClass, target: &str) -> Option<&'a str> {
    let parameters = class.parameters.as_ref()?;
    let own = parameters.get(&format!("{CLASS_PARAMETER}/{target}"));
    own.or_else(|| parameters.get(CLASS_PARAMETER)).map(String::as_str)
}

/// Whose claims these are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity<'a> {
    pub host_id: &'a str,
    pub node: &'a str,
}

/// The claim to make in a target for a claim of home.
pub(super) fn remote(claim: &DynamicObject, of: Identity<'_>, namespace: &str, class: Option<&str>) -> DynamicObject {
    let (uid, name) = (claim.uid().unwrap_or_default(), claim.name_any());
    let mut made = DynamicObject::new(&remote_name(&name, &uid), &resource()).within(namespace);
    let mut labels: BTreeMap<String, String> = claim.labels().clone();
    labels.extend([
        (names::HOST.to_owned(), of.host_id.to_owned()),
        (names::NODE.to_owned(), of.node.to_owned()),
        (names::UID.to_owned(), uid),
    ]);
    made.metadata.labels = Some(labels);
    let whence = [(names::NAMESPACE.to_owned(), claim.namespace().unwrap_or_default()), (names::NAME.to_owned(), name)];
    made.metadata.annotations = Some(whence.into());
    let mut spec = claim.data.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    spec.remove("volumeName");
    spec.remove("storageClassName");
    if let Some(class) = class {
        spec.insert("storageClassName".into(), class.into());
    }
    made.data = json!({"spec": spec});
    made
}

/// A claim in a target, as a volume at home names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remote {
    pub target: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The name of the volume of a claim, as all provisioners form it.
pub(super) fn volume_name(claim_uid: &str) -> String {
    format!("pvc-{claim_uid}")
}

/// The volume at home for a claim and the one that was made for it in a target.
pub(super) fn volume(claim: &DynamicObject, class: &StorageClass, of: Identity<'_>, remote: &Remote) -> Value {
    let uid = claim.uid().unwrap_or_default();
    let spec = |field: &str| claim.data.pointer(&format!("/spec/{field}")).cloned().unwrap_or_default();
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(&uid),
            "labels": {names::NODE: of.node},
            "annotations": {PROVISIONED_BY: PROVISIONER, names::CHOICE: remote.target},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": {"storage": spec("resources/requests/storage")},
            "accessModes": spec("accessModes"),
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": spec("storageClassName"),
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "uid": uid,
                "namespace": claim.namespace(), "name": claim.name_any()},
            "csi": {"driver": DRIVER,
                "volumeHandle": format!("{}/{}/{}/{}", of.host_id, remote.target, remote.namespace, remote.name),
                "volumeAttributes": {"target": remote.target, "namespace": remote.namespace, "claim": remote.name,
                    "uid": remote.uid}},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [of.node]}]}]}},
        },
    });
    if !spec("volumeMode").is_null() {
        volume["spec"]["volumeMode"] = spec("volumeMode");
    }
    volume
}

/// A volume of ours, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Volume {
    pub name: String,
    pub uid: String,
    /// The virtual node that it belongs to.
    pub node: String,
    /// Namespace, name and UID of home's claim.
    pub claim: (String, String, String),
    pub remote: Remote,
    pub phase: String,
    /// The target's claim is kept when home's goes.
    pub retain: bool,
    pub deleting: bool,
    pub capacity: Option<Quantity>,
}

impl Volume {
    /// Reads a volume; `None` if it is not ours.
    pub(super) fn read(volume: &PersistentVolume) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let csi = spec.csi.as_ref().filter(|csi| csi.driver == DRIVER)?;
        let claim = spec.claim_ref.clone()?;
        let attribute = |key: &str| csi.volume_attributes.as_ref()?.get(key).cloned();
        let capacity = spec.capacity.as_ref().and_then(|all| all.get("storage"));
        Some(Self {
            name: volume.name_any(),
            uid: volume.uid()?,
            node: volume.labels().get(NODE_LABEL).cloned().unwrap_or_default(),
            claim: (claim.namespace?, claim.name?, claim.uid?),
            remote: Remote {
                target: attribute("target")?,
                namespace: attribute("namespace")?,
                name: attribute("claim")?,
                uid: attribute("uid")?,
            },
            phase: volume.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default(),
            retain: spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete"),
            deleting: volume.metadata.deletion_timestamp.is_some(),
            capacity: capacity.and_then(|capacity| capacity.0.parse().ok()),
        })
    }

    /// What becomes of it.
    pub(super) fn fate(&self) -> Fate {
        let released = match self.phase.as_str() {
            "Released" | "Failed" => true,
            // Somebody deletes it before it was ever bound.
            "Available" | "Pending" | "" => self.deleting,
            _ => false,
        };
        match (released, self.retain) {
            (true, false) => Fate::Remove,
            (true, true) if self.deleting => Fate::LetGo,
            _ => Fate::Stay,
        }
    }
}

/// What becomes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Stay,
    /// The target's claim is deleted, then the volume.
    Remove,
    /// Somebody deletes the volume and has said that its data stay: the target's claim is nobody's from now on.
    LetGo,
}

/// Why a pod cannot mount home's claim in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It may, later; with a reason and a message.
    NotYet(&'static str, String),
    /// It never will.
    Never(String),
}

/// What is wrong with a claim that no volume of ours on this node is bound to; `volume` is the one that it is bound to.
pub(super) fn unfit(name: &str, claim: Option<&DynamicObject>, volume: Option<&Volume>, node: &str) -> Unfit {
    let Some(claim) = claim else {
        return Unfit::NotYet("ClaimNotFound", format!("there is no claim {name}; create it"));
    };
    let bound = claim.data.pointer("/spec/volumeName").and_then(Value::as_str).filter(|name| !name.is_empty());
    match (bound, volume) {
        (Some(_), Some(volume)) if volume.node == node => {
            Unfit::NotYet("ClaimPending", format!("claim {name} is about to be bound"))
        }
        (Some(_), Some(volume)) => {
            Unfit::Never(format!("claim {name} is kept by virtual node {}; let the pod run there", volume.node))
        }
        (Some(bound), None) => Unfit::Never(format!(
            "claim {name} is bound to volume {bound}, which is storage of home; let the pod run at home, or use a claim \
             whose StorageClass has the provisioner {PROVISIONER}"
        )),
        (None, _) => Unfit::NotYet("ClaimPending", format!("claim {name} is not bound to a volume yet")),
    }
}

/// What sizes are to be written, where home's claim, its volume and the target's claim differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// What the target's claim should ask for.
    pub ask: Option<String>,
    /// What the volume should have.
    pub volume: Option<String>,
    /// What the status of home's claim should show.
    pub claim: Option<String>,
}

/// Compares sizes. They only grow.
pub(super) fn sizes(claim: &DynamicObject, volume: &Volume, remote: &DynamicObject) -> Sizes {
    let text =
        |object: &DynamicObject, pointer: &str| object.data.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let more = |text: Option<String>, than: Option<Quantity>| {
        let text = text?;
        (text.parse::<Quantity>().ok()? > than.unwrap_or_default()).then_some(text)
    };
    let amount = |text: Option<String>| text.and_then(|text| text.parse().ok());
    let (requested, capacity) = ("/spec/resources/requests/storage", "/status/capacity/storage");
    let bound = text(claim, "/status/phase").as_deref() == Some("Bound");
    Sizes {
        ask: more(text(claim, requested), amount(text(remote, requested))),
        volume: more(text(remote, capacity), volume.capacity),
        claim: more(text(remote, capacity), amount(text(claim, capacity))).filter(|_| bound),
    }
}

#[cfg(test)]
mod tests;
