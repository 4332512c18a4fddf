//! Which part of a target a virtual node stands for: all of it, a pool of its nodes, or one node. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The labels by which clouds and autoscalers name the pool of a node, the more specific first.
pub const POOL_LABELS: [&str; 8] = [
    "karpenter.sh/nodepool",
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
    "doks.digitalocean.com/node-pool",
    "k8s.scaleway.com/pool-name",
    "alibabacloud.com/nodepool-id",
    "node.kubernetes.io/instance-type",
];

/// A node's name is the value of a label of its delegates.
const MAX_NAME: usize = 63;

/// A part of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// All of its nodes.
    #[default]
    All,
    /// Those nodes that have this label, if one is given, and none of the others.
    Pool {
        /// Key and value; none for the nodes of no pool.
        label: Option<(String, String)>,
        /// Keys of labels that they do not have: those by which other pools are told first.
        without: Vec<String>,
    },
    /// The node of this name.
    Node(String),
}

impl Part {
    /// The pool of a node with these labels, told by the first of `keys` that it has.
    pub fn pool(labels: &BTreeMap<String, String>, keys: &[String]) -> Self {
        let first = keys.iter().position(|key| labels.contains_key(key));
        let label = first.and_then(|at| Some((keys[at].clone(), labels.get(&keys[at])?.clone())));
        Self::Pool { label, without: keys[..first.unwrap_or(keys.len())].to_vec() }
    }

    /// The name of the virtual node that stands for this part, for a VirtualNode of this name. Names that would be too long,
    /// or no names, end in a digest.
    pub fn node_name(&self, whole: &str) -> String {
        let own = match self {
            Self::All => return whole.into(),
            Self::Pool { label: None, .. } => "other",
            Self::Pool { label: Some((_, value)), .. } => value,
            Self::Node(name) => name,
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let wanted = format!("{whole}-{own}");
        let sound = own.chars().all(plain)
            && own.starts_with(|c: char| c.is_ascii_alphanumeric())
            && own.ends_with(|c: char| c.is_ascii_alphanumeric());
        // Lest a pool of this name and the nodes of no pool have one.
        let taken = own == "other" && !matches!(self, Self::Pool { label: None, .. });
        if sound && wanted.len() <= MAX_NAME && !taken {
            return wanted;
        }
        let digest: [u8; 32] = Sha256::digest(json!(self).to_string()).into();
        let digest = digest.iter().take(4).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let lower = wanted.to_ascii_lowercase();
        let mut name: String = lower.chars().map(|c| if plain(c) { c } else { '-' }).collect();
        name.truncate(MAX_NAME - digest.len() - 1);
        format!("{}-{digest}", name.trim_end_matches(['-', '.']))
    }

    /// The field selector of its nodes.
    pub fn fields(&self) -> Option<String> {
        match self {
            Self::Node(name) => Some(format!("metadata.name={name}")),
            Self::All | Self::Pool { .. } => None,
        }
    }

    /// The label selector of its nodes.
    pub fn labels(&self) -> Option<String> {
        let Self::Pool { label, without } = self else { return None };
        let own = label.iter().map(|(key, value)| format!("{key}={value}"));
        Some(own.chain(without.iter().map(|key| format!("!{key}"))).collect::<Vec<_>>().join(","))
    }

    /// What ties a pod to its nodes: the field of a node selector term, and the requirements.
    pub fn requirements(&self) -> Option<(&'static str, Vec<Value>)> {
        match self {
            Self::All => None,
            Self::Node(name) => {
                Some(("matchFields", vec![json!({"key": "metadata.name", "operator": "In", "values": [name]})]))
            }
            Self::Pool { label, without } => {
                let own = label.iter().map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}));
                let others = without.iter().map(|key| json!({"key": key, "operator": "DoesNotExist"}));
                Some(("matchExpressions", own.chain(others).collect()))
            }
        }
    }
}

/// For people.
impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => write!(f, "the whole target"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Pool { label: Some((key, value)), .. } => write!(f, "the nodes with {key}={value}"),
            Self::Pool { label: None, .. } => write!(f, "the nodes of no pool"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<String> {
        ["a/pool", "b/pool"].map(ToOwned::to_owned).into()
    }

    fn pool(labels: &[(&str, &str)]) -> Part {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Part::pool(&labels, &keys())
    }

    #[test]
    fn each_node_is_in_one_pool() {
        let (both, second, none) = (pool(&[("b/pool", "x"), ("a/pool", "y")]), pool(&[("b/pool", "x")]), pool(&[]));
        assert_eq!(both.labels().unwrap(), "a/pool=y");
        assert_eq!(second.labels().unwrap(), "b/pool=x,!a/pool");
        assert_eq!(none.labels().unwrap(), "!a/pool,!b/pool");
        assert_eq!(second.requirements().unwrap().1.len(), 2);
        assert_eq!(Part::All.requirements(), None);
    }

    #[test]
    fn names_are_short_and_no_two_parts_share_one() {
        assert_eq!(Part::Node("worker-1.east".into()).node_name("far"), "far-worker-1.east");
        assert_eq!(pool(&[("a/pool", "gpu")]).node_name("far"), "far-gpu");
        assert_eq!(pool(&[]).node_name("far"), "far-other");
        let long = Part::Node("n".repeat(100)).node_name("far");
        let odd = [pool(&[("a/pool", "GPU_1")]), pool(&[("a/pool", "gpu-1")]), pool(&[("a/pool", "gpu_1")])];
        let odd: std::collections::BTreeSet<_> = odd.iter().map(|part| part.node_name("far")).collect();
        assert_eq!((long.len(), odd.len()), (63, 3), "{long} {odd:?}");
        assert_ne!(pool(&[("a/pool", "other")]).node_name("far"), "far-other");
        let empty = pool(&[("a/pool", "")]).node_name("far");
        assert!(empty.starts_with("far-") && empty.len() > 8, "{empty}");
    }
}
