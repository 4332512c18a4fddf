//! From a proxy pod to its delegate: pure, and the whole of it.
//!
//! A delegate is the proxy, less what belongs to home alone, and every difference is in a report for people. A field that
//! this build has never heard of passes through. What cannot be carried over faithfully *holds* the pod ([`Hold`]) rather
//! than let a container start in a world that lacks something. The steps:
//!
//! 1. [`constraints`], [`devices`]: what the webhook took off the pod is back;
//! 2. `hold`: what stops here, and `guardrails`: what the target does not allow;
//! 3. `downward`: the downward API goes on telling what it tells at home;
//! 4. `scheduling`: what chose the virtual node would choose no node of the target;
//! 5. `label_keys`, `residue`: what the host's API server and admission filled in, the target's fill in again;
//! 6. `classes`, [`claims`](super::claims): names of classes, schedulers and claims, as the target has them;
//! 7. references to ConfigMaps and Secrets get the names that their copies have, and tokens their place ([`follow`]);
//! 8. `metadata`: labels, annotations and the owner.
//!
//! [`follow`]: super::follow
//!
//! [`mod@update`] makes the patches with which a live delegate follows its proxy, and [`mod@fingerprint`] says when it has to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::follow::accounts::{self, Accounts, Tokens};
use super::follow::names::Names;
use super::follow::references::{self, Reference};
use super::follow::variables;
use crate::kubelet::annotations::without_returned;
use crate::kubelet::document::PodDocument;
use crate::provider::names;
use crate::provider::part::Part;

use constraints::Constraints;
use devices::Claimed;

pub mod classes;
pub mod constraints;
pub mod devices;
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
pub use update::{Refreshed, Update, created, refresh};

/// Where a delegate goes, and where it comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    /// The id of the host cluster.
    pub host_id: String,
    /// The part of the target that the virtual node stands for.
    pub part: Part,
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
    /// From home's names of the pod's claims to those in the target.
    pub claims: BTreeMap<String, String>,
    /// The owner of the delegate ([`namespace_owner`]); `None` for a preview, never for a delegate that is created, since
    /// a ReplicaSet of the target with the same selector would adopt it.
    pub owner: Option<OwnerReference>,
    /// What the copies of ConfigMaps and Secrets are called.
    pub names: Names,
    /// Whose tokens the delegate has.
    pub accounts: Accounts,
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
    /// Whose devices pods get that claim some.
    pub claimed: Claimed,
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
    /// The ConfigMaps and Secrets that it refers to, by their names at home.
    pub references: Vec<Reference>,
    /// The tokens of home's service account that it has to be given.
    pub tokens: Option<Tokens>,
}

/// Translates a proxy pod.
pub fn translate(proxy: &PodDocument, site: &Site) -> Result<Translation, Hold> {
    let proxy = &*without_returned(proxy);
    hold::check_metadata(proxy)?;
    let Value::Object(proxy_spec) = &*proxy.spec else {
        return Err(Hold::new("spec", "the pod has no spec, so that there is nothing to run"));
    };
    let mut report = report::Report::default();
    let mut restored = restored(proxy, proxy_spec, &mut report)?;
    let annotated = devices::restore(proxy, &mut restored, &mut report)?;
    let proxy_spec = &*restored;
    devices::check(proxy_spec, annotated, site, &mut report)?;
    hold::check(proxy_spec, &site.accounts)?;
    guardrails::check(proxy, proxy_spec, site)?;

    let mut spec = proxy_spec.clone();
    let tokens = match &site.accounts {
        Accounts::Host(_) => accounts::provide(&mut spec, proxy, |path| {
            report.changed(path, "the token comes from home, by a Secret that is renewed");
        }),
        Accounts::None | Accounts::Remote(_) => None,
    };
    let renamed = !site.name.is_empty() && site.name != proxy.name();
    let carried = downward::redirect(&mut spec, proxy, &site.node_name, renamed, &mut report);
    if renamed && let Some(name) = spec::hostname(&spec, proxy.name()) {
        spec.insert("hostname".into(), name.into());
        report.changed("spec.hostname", "it is the pod's name, as at home, which the delegate does not have");
    }
    scheduling::detach(&mut spec, site, &mut report);
    if let Some(node) = proxy.annotation(names::PIN) {
        let why = format!("the annotation {} ties the pod to node {node} of the target", names::PIN);
        scheduling::pin(&mut spec, &Part::Node(node.into()), why, &mut report);
    }
    let why = format!("the virtual node stands for {} of the target", site.part);
    scheduling::pin(&mut spec, &site.part, why, &mut report);
    label_keys::strip(&mut spec, &mut report);
    residue::strip(&mut spec, &site.accounts, &mut report);
    classes::map(&mut spec, site, &mut report);
    for (field, why) in super::claims::rename(&mut spec, proxy.name(), &site.claims) {
        report.changed(field, why);
    }
    let token_secret = accounts::secret_name(proxy.uid());
    let mut references = references::redirect(
        &mut spec,
        &site.names,
        |name| name == token_secret,
        |path, name| {
            report.changed(path, format!("its copy in the target is called {name}"));
        },
    );
    if variables::wanted(proxy_spec) {
        references.push(variables::refer(&mut spec, &site.names, |path| {
            report
                .changed(path, "variables of home's Services come first, and give way to all that the pod says itself");
        }));
    }
    if let Accounts::Host(server) = &site.accounts {
        accounts::introduce(&mut spec, server);
        report.changed("spec.containers", "variables of the environment name home's API server");
    }
    let metadata = metadata::build(proxy, site, carried, &spec, &mut report)?;

    let delegate = PodDocument::new(metadata, Value::Object(spec), Value::Null);
    Ok(Translation { delegate, report: report.into_changes(), references, tokens })
}

/// The spec with the constraints that the webhook took off it.
fn restored<'a>(
    proxy: &PodDocument,
    spec: &'a spec::Object,
    report: &mut report::Report,
) -> Result<Cow<'a, spec::Object>, Hold> {
    let Some(text) = proxy.annotation(names::CONSTRAINTS) else { return Ok(Cow::Borrowed(spec)) };
    let constraints = Constraints::read(text).map_err(|error| {
        let message = format!(
            "{error}: it is not what Longshore has written, so that what the pod asks of its node is not known; delete the pod \
             and let it be made anew"
        );
        Hold::new(format!("metadata.annotations[{}]", names::CONSTRAINTS), message)
    })?;
    let mut spec = spec.clone();
    for field in constraints.restore(&mut spec) {
        report.changed(
            format!("spec.{field}"),
            "it is the pod's own again, which gave way to the virtual node's at home",
        );
    }
    Ok(Cow::Owned(spec))
}
