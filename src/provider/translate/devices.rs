//! Devices that a pod claims by dynamic resource allocation: `spec.resourceClaims`, and `resources.claims` of its containers.
//! Pure.
//!
//! What is claimed at home is not in a target. Where the target's configuration says so ([`Claimed::Remote`]), the same names
//! mean objects of the delegate's namespace there, and the target's scheduler allocates. Home's scheduler would look for the
//! devices at home; so the webhook takes the claims off a pod that runs nowhere else ([`Devices::take`]) and writes them on
//! it, and the translation puts them back ([`Devices::restore`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::report::Report;
use super::spec::{CONTAINERS, Object, containers, entries, entries_mut, list, text};
use super::{Hold, Site};
use crate::kubelet::document::PodDocument;
use crate::provider::names;

const POD: &str = "resourceClaims";

/// Whose devices pods get that claim some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody's: such pods are held.
    #[default]
    Hold,
    /// The target's: claims and templates have the same names there.
    Remote,
}

/// The value of the annotation [`names::RESOURCE_CLAIMS`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Devices {
    /// `spec.resourceClaims`
    pod: Vec<Map<String, Value>>,
    /// `resources.claims` of containers of every kind, by their names, which are unique.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    containers: BTreeMap<String, Vec<Map<String, Value>>>,
}

/// Why an annotation gives a pod no claims; the rest of a sentence that begins with the annotation.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// It is not JSON of this shape.
    #[error("is not {{\"pod\": [the pod's list], \"containers\": {{NAME: [its claims]}}}}: {0}")]
    Read(#[source] serde_json::Error),
    /// It claims nothing.
    #[error("claims nothing: the list `pod` is empty")]
    Empty,
    /// An entry has no name.
    #[error("has an entry without a name in the list of {0}")]
    Nameless(String),
    /// A container claims what the pod does not.
    #[error("lets container {container} claim {claim}, which the list `pod` does not have")]
    Unknown {
        /// The container.
        container: String,
        /// What it claims.
        claim: String,
    },
    /// A container is not there.
    #[error("names container {0}, which the pod does not have")]
    Missing(String),
    /// The pod claims something by its spec as well.
    #[error("is there beside {0}, which says the same or something else")]
    Twice(String),
}

impl Devices {
    /// Takes the claims off a spec; nothing where there are none.
    pub fn take(spec: &mut Object) -> Option<Self> {
        // What is no object, or has no name, no API server lets through.
        let objects = |list: &[Value]| list.iter().map(|one| one.as_object().cloned()).collect::<Option<Vec<_>>>();
        let pod = objects(entries(spec, POD)).filter(|list| !list.is_empty())?;
        let mut claims = BTreeMap::new();
        for (_, container) in containers(spec) {
            let Some(resources) = container.get("resources") else { continue };
            let claimed = objects(list(resources, "claims"))?;
            if !claimed.is_empty() {
                claims.insert(text(container, "name")?.to_owned(), claimed);
            }
        }
        spec.remove(POD);
        for kind in CONTAINERS {
            for container in entries_mut(spec, kind) {
                let claiming = text(container, "name").is_some_and(|name| claims.contains_key(name));
                if claiming && let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
                    resources.remove("claims");
                }
            }
        }
        Some(Self { pod, containers: claims })
    }

    /// Reads the annotation, which users may write as well.
    ///
    /// # Errors
    /// When it is not what [`Devices::print`] could have written.
    pub fn read(text: &str) -> Result<Self, DevicesError> {
        // By way of an object: a list would be taken for one, too.
        let object = serde_json::from_str(text).map_err(DevicesError::Read)?;
        let devices: Self = serde_json::from_value(Value::Object(object)).map_err(DevicesError::Read)?;
        if devices.pod.is_empty() {
            return Err(DevicesError::Empty);
        }
        let name = |entry: &Map<String, Value>, of: &str| match entry.get("name").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => Ok(name.to_owned()),
            _ => Err(DevicesError::Nameless(of.to_owned())),
        };
        let known = devices.pod.iter().map(|entry| name(entry, "`pod`")).collect::<Result<BTreeSet<_>, _>>()?;
        for (container, claims) in &devices.containers {
            for entry in claims {
                let claim = name(entry, &format!("container {container}"))?;
                if !known.contains(&claim) {
                    return Err(DevicesError::Unknown { container: container.clone(), claim });
                }
            }
        }
        Ok(devices)
    }

    /// The value of the annotation.
    pub fn print(&self) -> String {
        // Documents that were read as JSON always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Gives a spec the claims.
    ///
    /// # Errors
    /// When it has some already, or lacks a container; it is as it was then.
    pub fn restore(&self, spec: &mut Object) -> Result<(), DevicesError> {
        if !entries(spec, POD).is_empty() {
            return Err(DevicesError::Twice(format!("spec.{POD}")));
        }
        let mut lacking: BTreeSet<&str> = self.containers.keys().map(String::as_str).collect();
        for (path, container) in containers(spec) {
            let resources = container.get("resources").unwrap_or(&Value::Null);
            if !list(resources, "claims").is_empty() {
                return Err(DevicesError::Twice(format!("{path}.resources.claims")));
            }
            lacking.remove(text(container, "name").unwrap_or_default());
        }
        if let Some(name) = lacking.first() {
            return Err(DevicesError::Missing((*name).to_owned()));
        }
        let whole = |entries: &[Map<String, Value>]| entries.iter().cloned().collect::<Value>();
        spec.insert(POD.into(), whole(&self.pod));
        for kind in CONTAINERS {
            for container in entries_mut(spec, kind) {
                let claims = text(container, "name").and_then(|name| self.containers.get(name));
                let (Some(claims), Some(container)) = (claims, container.as_object_mut()) else { continue };
                let resources = container.entry("resources").or_insert(Value::Null);
                if !resources.is_object() {
                    *resources = Value::Object(Map::new());
                }
                resources["claims"] = whole(claims);
            }
        }
        Ok(())
    }
}

/// Puts back what a proxy's annotation says; whether there was one.
pub(super) fn restore(proxy: &PodDocument, spec: &mut Cow<'_, Object>, report: &mut Report) -> Result<bool, Hold> {
    let Some(said) = proxy.annotation(names::RESOURCE_CLAIMS) else { return Ok(false) };
    let spec = spec.to_mut();
    let devices = Devices::read(said).and_then(|devices| devices.restore(spec).map(|()| devices)).map_err(|error| {
        let why = "so that the devices that the pod needs are not known; correct the annotation, or make the pod anew";
        Hold::new(field(), format!("it {error}, {why}"))
    })?;
    let why = "it is the pod's own again, which home's scheduler was not asked for";
    report.changed(format!("spec.{POD}"), why);
    for (path, container) in containers(spec) {
        if text(container, "name").is_some_and(|name| devices.containers.contains_key(name)) {
            report.changed(format!("{path}.resources.claims"), why);
        }
    }
    Ok(true)
}

fn field() -> String {
    format!("metadata.annotations[{}]", names::RESOURCE_CLAIMS)
}

/// Holds a pod that claims devices which its target does not give; otherwise says which objects of the target are meant.
pub(super) fn check(spec: &Object, annotated: bool, site: &Site, report: &mut Report) -> Result<(), Hold> {
    let claims = entries(spec, POD);
    if claims.is_empty() {
        return Ok(());
    }
    let (target, namespace) = (&site.target, &site.namespace);
    if site.rules.claimed == Claimed::Hold {
        let field = if annotated { field() } else { format!("spec.{POD}") };
        let message = format!(
            "devices that are claimed at home are not in target {target}; set spec.{POD} of the Target {target} to Remote if \
             it has the ResourceClaims and ResourceClaimTemplates that the pod names, request an extended resource, or let the \
             pod run at home"
        );
        return Err(Hold::new(field, message));
    }
    for (i, claim) in claims.iter().enumerate() {
        if let Some((kind, name)) = object(claim) {
            let why = format!("it means the {kind} {name} of namespace {namespace} in target {target}");
            report.kept(format!("spec.{POD}[{i}]"), why);
        }
    }
    Ok(())
}

/// The kind and name of the object that an entry of a pod's list refers to.
fn object(claim: &Value) -> Option<(&'static str, &str)> {
    let named = |field| text(claim, field).filter(|name| !name.is_empty());
    let template = named("resourceClaimTemplateName").map(|name| ("ResourceClaimTemplate", name));
    template.or_else(|| named("resourceClaimName").map(|name| ("ResourceClaim", name)))
}

/// Whether a pod claims devices by its spec.
pub fn claims(spec: &Value) -> bool {
    !list(spec, POD).is_empty()
}

/// The claims of a pod that an API server has left out of its answer, as the path of the first one. One that is older, or has
/// not the feature, does not refuse what it does not know: the pod would start without its devices.
pub(in crate::provider) fn left_out(sent: &PodDocument, answer: &PodDocument) -> Option<String> {
    let lacks = |sent: &[Value], kept: &[Value]| {
        sent.iter().position(|one| !kept.iter().any(|other| text(other, "name") == text(one, "name")))
    };
    if let Some(i) = lacks(sent.list(POD), answer.list(POD)) {
        return Some(format!("spec.{POD}[{i}]"));
    }
    CONTAINERS.into_iter().find_map(|kind| {
        sent.list(kind).iter().enumerate().find_map(|(i, container)| {
            let same = |other: &&Value| text(other, "name") == text(container, "name");
            let kept = answer.list(kind).iter().find(same).map(claimed).unwrap_or_default();
            lacks(claimed(container), kept).map(|j| format!("spec.{kind}[{i}].resources.claims[{j}]"))
        })
    })
}

/// The claims of a container.
fn claimed(container: &Value) -> &[Value] {
    container.get("resources").map(|resources| list(resources, "claims")).unwrap_or_default()
}

/// What may be missing that the claims of a delegate need, while no scheduler has looked at it. A scheduler does not begin with a
/// pod before its claims are there, and says so nowhere.
pub(in crate::provider) fn awaited(delegate: &PodDocument) -> Option<String> {
    let statuses = delegate.status.get("resourceClaimStatuses").and_then(Value::as_array);
    let made = |name: Option<&str>| statuses.into_iter().flatten().any(|status| text(status, "name") == name);
    let needs = delegate.list(POD).iter().filter_map(|claim| {
        let (kind, name) = object(claim)?;
        match kind {
            "ResourceClaim" => Some(format!("the ResourceClaim {name}")),
            _ => (!made(text(claim, "name"))).then(|| format!("a claim made of the ResourceClaimTemplate {name}")),
        }
    });
    let needs: Vec<_> = needs.collect();
    (!needs.is_empty()).then(|| {
        format!(
            "the target's scheduler does not begin before namespace {} there has {}; create what is missing",
            delegate.namespace(),
            needs.join(" and "),
        )
    })
}

#[cfg(test)]
mod tests;
