//! `VirtualNode`: a node of the host that stands for a target.

use std::collections::{BTreeMap, BTreeSet};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{FieldPath, Finding};
use super::names;
use super::status::VirtualNodeStatus;
use super::target::{CapacitySource, Mapping, TargetSpec};

/// The key of the taint that keeps pods off which did not ask.
pub const TAINT_KEY: &str = "longshore.dev/virtual-node";

/// A node with more would be hard to keep in mind.
const MAX_TARGETS: usize = 64;

/// What the user wants of one virtual node; its name is the node's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "longshore.dev",
    version = "v1alpha1",
    kind = "VirtualNode",
    plural = "virtualnodes",
    shortname = "vnode",
    status = "VirtualNodeStatus",
    doc = "A node of this cluster that stands for one or more targets.",
    category = "longshore"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualNodeSpec {
    /// The targets that it stands for, at least one, each once. Their order counts for the strategy `Ordered`.
    pub targets: Vec<TargetReference>,
    /// What the scheduler sees of the target. It cannot be changed.
    #[serde(default)]
    pub shape: Shape,
    /// With the shape `Pool`, the label by which nodes of the target are told apart; if not given, the first that they have of
    /// those by which clouds and autoscalers name their pools, or else their instance type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_label: Option<String>,
    /// Which of several targets gets a pod, and what becomes of those that find no room.
    #[serde(default)]
    pub placement: Placement,
    /// Labels for the node, beside those that every node has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints of the node. None given means one of its own, `longshore.dev/virtual-node=NAME:NoSchedule`; an empty list means
    /// no taint: pods then go there without asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
    /// The port of its kubelet API; a free one is chosen if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether the claims of its pods are kept in its targets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub claims: bool,
    /// Whether Services and Ingresses that say so follow its pods.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub services: bool,
}

/// What the host's scheduler sees of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Shape {
    /// One node that offers what all nodes of its targets offer together.
    #[default]
    Cluster,
    /// A node for each pool of nodes of its only target, called by the names of the VirtualNode and of the pool.
    Pool,
    /// A node for each node of its only target, called by the names of both.
    Node,
}

/// A target, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetReference {
    /// The name of a `Target`.
    pub name: String,
    /// With the strategy `Spread`, how many pods it gets in proportion to the others; with 0 only those that fit nowhere
    /// else.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// Which of several targets gets a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Placement {
    /// What is preferred among those in which it fits.
    pub strategy: Strategy,
    /// A pod that the target could not schedule for so many seconds moves to another one in which it fits. 0 means never: the
    /// target's autoscaler has all the time that it takes.
    pub move_after_seconds: u32,
    /// A pod that some controller made, and that the target could not schedule for so many seconds, is evicted if no other
    /// target takes it, so that its replacement may go elsewhere; each time later for the same controller. 0 means never.
    pub evict_after_seconds: u32,
}

impl Default for Placement {
    /// Longer than most cluster autoscalers take for a node.
    fn default() -> Self {
        Self { strategy: Strategy::default(), move_after_seconds: 180, evict_after_seconds: 600 }
    }
}

/// What is preferred among targets in which a pod fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// The one with the fewest pods for its weight.
    #[default]
    Spread,
    /// The fullest one.
    Pack,
    /// The first one in the list.
    Ordered,
}

/// A taint of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// Its key, as of a label.
    pub key: String,
    /// Its value; may be empty.
    #[serde(default)]
    pub value: String,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// None is scheduled here.
    NoSchedule,
    /// None is scheduled here if there is another place.
    PreferNoSchedule,
    /// None is scheduled here, and those that run are evicted.
    NoExecute,
}

impl VirtualNodeSpec {
    /// What is wrong with it together with one of its targets.
    pub fn clash(&self, name: &str, target: &TargetSpec) -> Option<Finding> {
        if self.shape != Shape::Cluster && target.capacity.source_in(target.scope) != CapacitySource::Nodes {
            let message = format!("{:?} cannot be had with Target `{name}`, whose nodes are not read", self.shape);
            let remedy = "use the shape Cluster, or the Target's spec.capacity.source Nodes";
            return Some(Finding::new(FieldPath::of("spec.shape"), message, remedy));
        }
        (self.services && target.namespaces.mapping == Mapping::Single).then(|| {
            let message = format!(
                "cannot be had with Target `{name}`, whose namespaces.mapping is Single: Services of several namespaces would \
                 meet there, and select each other's pods"
            );
            Finding::new(FieldPath::of("spec.services"), message, "remove it, or let the Target map namespaces otherwise")
        })
    }

    /// The node that a target gets which no virtual node names.
    pub fn for_target(target: &str) -> Self {
        Self {
            targets: vec![TargetReference { name: target.to_owned(), weight: 1 }],
            shape: Shape::default(),
            pool_label: None,
            placement: Placement::default(),
            labels: BTreeMap::new(),
            taints: None,
            port: None,
            claims: false,
            services: false,
        }
    }

    /// The taints of the node `node`.
    ///
    /// By default it has one of its own name: a pod reaches a remote cluster only when it asks to.
    pub fn taints_of(&self, node: &str) -> Vec<Taint> {
        self.taints.clone().unwrap_or_else(|| {
            vec![Taint { key: TAINT_KEY.to_owned(), value: node.to_owned(), effect: TaintEffect::NoSchedule }]
        })
    }

    /// What is wrong with it, beyond its shape.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.targets.is_empty() || self.targets.len() > MAX_TARGETS {
            findings.push(Finding::new(
                FieldPath::of("spec.targets"),
                format!("has {} targets", self.targets.len()),
                format!("name from 1 to {MAX_TARGETS}"),
            ));
        }
        findings.extend(self.check_shape());
        let mut named = BTreeSet::new();
        for (index, target) in self.targets.iter().enumerate() {
            if !named.insert(&target.name) {
                findings.push(Finding::new(
                    FieldPath::of("spec.targets").index(index).key("name"),
                    format!("`{}` is in the list already", target.name),
                    "name each target once; its weight says how many pods it gets",
                ));
            }
        }
        for (key, value) in &self.labels {
            findings.extend(check_label(&FieldPath::of("spec.labels").key(key), key, value));
        }
        findings.extend(self.check_taints());
        if self.port == Some(0) {
            let remedy = "give a port from 1 to 65535, or remove the field to have one chosen";
            findings.push(Finding::new(FieldPath::of("spec.port"), "0 is not a port", remedy));
        }
        findings
    }

    fn check_shape(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let path = FieldPath::of("spec.shape");
        let shape = self.shape;
        if shape != Shape::Cluster && self.targets.len() > 1 {
            let message = format!("{shape:?} is of one target, and there are {}", self.targets.len());
            findings.push(Finding::new(path.clone(), message, "make a VirtualNode for each target"));
        }
        if shape != Shape::Cluster && (self.claims || self.services) {
            let message = format!("{shape:?} cannot be had with claims or services yet");
            findings.push(Finding::new(path, message, "remove them, or use the shape Cluster"));
        }
        if let Some(key) = &self.pool_label {
            let path = FieldPath::of("spec.poolLabel");
            if shape != Shape::Pool {
                let remedy = "remove it, or set spec.shape to Pool";
                findings.push(Finding::new(path, "is only for the shape Pool", remedy));
            } else if let Err(why) = names::check_key(key) {
                findings.push(Finding::new(
                    path,
                    format!("`{key}` {why}"),
                    "name the key of a label of the target's nodes",
                ));
            }
        }
        findings
    }

    fn check_taints(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, taint) in self.taints.iter().flatten().enumerate() {
            let path = FieldPath::of("spec.taints").index(index);
            if let Err(why) = names::check_key(&taint.key) {
                let message = format!("`{}` {why}", taint.key);
                findings.push(Finding::new(
                    path.key("key"),
                    message,
                    "write it like a label's key: `example.com/name`",
                ));
            }
            if let Err(why) = names::check_value(&taint.value) {
                let remedy = "use at most 63 letters, digits, `-`, `_` and `.`";
                findings.push(Finding::new(path.key("value"), format!("`{}` {why}", taint.value), remedy));
            }
            if !seen.insert((&taint.key, taint.effect)) {
                let message = format!("repeats the taint `{}` with the effect {:?}", taint.key, taint.effect);
                findings.push(Finding::new(path, message, "keep one of them: key and effect identify a taint"));
            }
        }
        findings
    }
}

fn check_label(path: &FieldPath, key: &str, value: &str) -> Option<Finding> {
    if let Err(why) = names::check_key(key) {
        let remedy = "use `name` or `example.com/name`";
        return Some(Finding::new(path.clone(), format!("the label's key {why}"), remedy));
    }
    if let Err(why) = names::check_unreserved(key) {
        return Some(Finding::new(path.clone(), why, "use a key with a prefix of your own, or remove it"));
    }
    let why = names::check_value(value).err()?;
    let remedy = "use at most 63 letters, digits, `-`, `_` and `.`";
    Some(Finding::new(path.clone(), format!("the value `{value}` {why}"), remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_of_one_target() {
        let mut spec = VirtualNodeSpec { shape: Shape::Node, ..VirtualNodeSpec::for_target("east") };
        assert_eq!(spec.findings(), []);
        spec.pool_label = Some("pool".into());
        assert!(format!("{:?}", spec.findings()).contains("only for the shape Pool"));
        spec.shape = Shape::Pool;
        assert_eq!(spec.findings(), []);
        spec.targets.push(TargetReference { name: "west".into(), weight: 1 });
        assert!(format!("{:?}", spec.findings()).contains("of one target"));
    }

    #[test]
    fn a_node_is_tainted_unless_the_user_says_otherwise() {
        let mut spec = VirtualNodeSpec::for_target("east");
        let effect = TaintEffect::NoSchedule;
        assert_eq!(spec.taints_of("n"), [Taint { key: TAINT_KEY.to_owned(), value: "n".to_owned(), effect }]);
        spec.taints = Some(Vec::new());
        assert_eq!(spec.taints_of("n"), []);
        assert_eq!(spec.findings(), []);
    }
}
