//! From a proxy pod to its delegate: pure, and the whole of it.
//!
//! A delegate is the proxy, less what belongs to home alone, and every difference is in a report for people. A field that
//! this build has never heard of passes through. What cannot be carried over faithfully *holds* the pod ([`Hold`]) rather
//! than let a container start in a world that lacks something. The steps:
//!
//! 1. `hold`: what stops here, and `guardrails`: what the target does not allow;
//! 2. `downward`: the downward API goes on telling what it tells at home;
//! 3. `scheduling`: what chose the virtual node would choose no node of the target;
//! 4. `label_keys`, `residue`: what the host's API server and admission filled in, the target's fill in again;
//! 5. `classes`: names of classes and schedulers, as the target has them;
//! 6. `metadata`: labels, annotations and the owner.
//!
//! [`update`] makes the patch with which a live delegate follows its proxy, and [`mod@fingerprint`] says when it has to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::kubelet::document::PodDocument;
use crate::provider::names;

pub mod classes;
pub mod fingerprint;
pub mod guardrails;
pub mod update;

#[cfg(test)]
mod documented;
mod downward;
mod hold;
mod label_keys;
mod metadata;
#[cfg(test)]
mod properties;
mod quote;
mod report;
mod residue;
mod scheduling;
mod spec;
#[cfg(test)]
mod tests;

pub use fingerprint::{fingerprint, sent};
pub use guardrails::Guardrails;
pub use hold::Hold;
pub use report::{Change, What};
pub use update::update_patch;

/// Where a delegate goes, and where it comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    /// The id of the host cluster.
    pub host_id: String,
    /// The virtual node that the proxy is bound to.
    pub node_name: String,
    /// The labels of that virtual node, by which pods select it.
    pub node_labels: BTreeMap<String, String>,
    /// The target's name, for people.
    pub target: String,
    /// What the target's configuration says of pods.
    pub rules: Arc<Rules>,
    /// Priority classes of home that the target is known to lack.
    pub absent_priority_classes: BTreeSet<String>,
    /// The namespace of the delegate in the target.
    pub namespace: String,
    /// The name of the delegate there; empty for that of the proxy.
    pub name: String,
    /// The owner of the delegate ([`namespace_owner`]); `None` for a preview, never for a delegate that is created, since
    /// a ReplicaSet of the target with the same selector would adopt it.
    pub owner: Option<OwnerReference>,
}

/// What the configuration of a target says of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What pods may do.
    pub guardrails: Guardrails,
    /// Names of PriorityClasses at home to those in the target; an empty one means none.
    pub priority_classes: BTreeMap<String, String>,
    /// The same for RuntimeClasses.
    pub runtime_classes: BTreeMap<String, String>,
    /// The same for schedulers.
    pub schedulers: BTreeMap<String, String>,
}

/// The reference that makes a namespace of the target the controller of the delegates in it.
///
/// A cluster-scoped owner of a namespaced object is allowed, and the garbage collector is satisfied as long as the
/// namespace is there. It blocks nothing: deleting the namespace deletes its pods anyway.
pub fn namespace_owner(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Namespace".into(),
        name: name.into(),
        uid: uid.into(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    }
}

/// The reference that makes a marker of ours the controller of the delegates beside it, where namespaces cannot be read.
pub fn marker_owner(name: &str, uid: &str) -> OwnerReference {
    OwnerReference { kind: "ConfigMap".into(), ..namespace_owner(name, uid) }
}

/// A delegate and how it differs from its proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    /// The pod to create in the target.
    pub delegate: PodDocument,
    /// Every difference of its content, in the order of the steps. Empty for no pod: the target's identity is not home's.
    pub report: Vec<Change>,
}

/// Translates a proxy pod.
pub fn translate(proxy: &PodDocument, site: &Site) -> Result<Translation, Hold> {
    hold::check_metadata(proxy)?;
    let Value::Object(spec) = &proxy.spec else {
        return Err(Hold::new("spec", "the pod has no spec, so that there is nothing to run"));
    };
    hold::check(spec)?;
    guardrails::check(proxy, spec, site)?;

    let mut report = report::Report::default();
    let mut spec = spec.clone();
    let carried = downward::redirect(&mut spec, proxy, &site.node_name, &mut report);
    scheduling::detach(&mut spec, site, &mut report);
    scheduling::pin(&mut spec, proxy.annotation(names::PIN), &mut report);
    label_keys::strip(&mut spec, &mut report);
    residue::strip(&mut spec, &mut report);
    classes::map(&mut spec, site, &mut report);
    let metadata = metadata::build(proxy, site, carried, &spec, &mut report)?;

    let delegate = PodDocument::new(metadata, Value::Object(spec), Value::Null);
    Ok(Translation { delegate, report: report.into_changes() })
}
