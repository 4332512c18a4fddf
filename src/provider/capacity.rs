//! What a target's nodes offer together.
//!
//! Each node is projected onto its [`NodeShare`] when it changes, so that a sum over thousands of nodes parses nothing. A
//! node that cannot be read is an error of its own ([`NodeShare::read`]) and harms no other.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::names;
use super::quantity::{Quantity, QuantityError};
use crate::kubelet::provider::NodeReport;

/// What counts of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeShare {
    /// Its condition `Ready` is true.
    pub ready: bool,
    /// It is not cordoned and has no taint that keeps ordinary pods away for the node's own sake: those of the node
    /// lifecycle (`node.kubernetes.io/…`), of a cloud that is still setting it up, and of a control plane. Any other
    /// taint sets a node apart for pods that tolerate it, so that its resources are on offer.
    pub schedulable: bool,
    /// It is a virtual node, of Longshore or another virtual kubelet, so that its resources are another cluster's. Two
    /// clusters that offload to each other would otherwise count each other's sums.
    pub virtual_node: bool,
    /// What pods may use, by resource.
    pub allocatable: BTreeMap<String, Quantity>,
    /// What there is, by resource.
    pub capacity: BTreeMap<String, Quantity>,
    /// `linux` or `windows`.
    pub os: String,
    /// The architecture in Go's terms.
    pub arch: String,
    /// The kubelet's version.
    pub version: String,
    /// Its zone and region, by label; what it has not is not there.
    pub topology: BTreeMap<String, String>,
    /// Which pressures it is under.
    pub pressures: BTreeSet<String>,
}

/// Labels that a virtual node has of its target's nodes where they agree.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Conditions of a node that tell of its pressures.
const PRESSURES: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];

/// Why a node does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} is left out: its {resource}: {source}")]
pub struct NodeError {
    /// The node's name.
    pub node: String,
    /// The resource, as `allocatable.memory`.
    pub resource: String,
    /// What is wrong with its quantity.
    pub source: QuantityError,
}

impl NodeShare {
    /// What counts of this node.
    pub fn read(node: &Node) -> Result<Self, NodeError> {
        let status = node.status.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let taints = spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let info = status.node_info.unwrap_or_default();
        let conditions = status.conditions.iter().flatten();
        Ok(Self {
            ready: conditions.clone().any(|c| c.type_ == "Ready" && c.status == "True"),
            schedulable: spec.and_then(|s| s.unschedulable) != Some(true) && !taints.iter().any(keeps_away),
            virtual_node: labels.get("type").is_some_and(|kind| kind == "virtual-kubelet")
                || labels.contains_key(names::NODE)
                || taints.iter().any(|t| t.key == names::TAINT || t.key == "virtual-kubelet.io/provider"),
            allocatable: amounts(name, "allocatable", status.allocatable)?,
            capacity: amounts(name, "capacity", status.capacity)?,
            os: info.operating_system,
            arch: info.architecture,
            version: info.kubelet_version,
            pressures: conditions
                .filter(|one| one.status == "True" && PRESSURES.contains(&&*one.type_))
                .map(|one| one.type_.clone())
                .collect(),
            topology: labels.into_iter().filter(|(key, _)| TOPOLOGY.contains(&&**key)).collect(),
        })
    }

    /// Whether pods may go there.
    pub fn counts(&self) -> bool {
        self.ready && self.schedulable && !self.virtual_node
    }
}

fn keeps_away(taint: &Taint) -> bool {
    let forbids = taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    let own_sake = taint.key.starts_with("node.kubernetes.io/")
        || taint.key.starts_with("node.cloudprovider.kubernetes.io/")
        || taint.key == "node-role.kubernetes.io/control-plane"
        || taint.key == "node-role.kubernetes.io/master";
    forbids && own_sake
}

fn amounts(
    node: &str,
    part: &str,
    amounts: Option<BTreeMap<String, resource::Quantity>>,
) -> Result<BTreeMap<String, Quantity>, NodeError> {
    amounts
        .unwrap_or_default()
        .into_iter()
        .map(|(name, amount)| match Quantity::try_from(&amount) {
            Ok(amount) => Ok((name, amount)),
            Err(source) => Err(NodeError { node: node.into(), resource: format!("{part}.{name}"), source }),
        })
        .collect()
}

/// One node that offers what these nodes offer together. Only ready and schedulable nodes count, and no virtual ones.
///
/// Operating system and architecture are those of most nodes; the version is the oldest one, since a pod that uses what
/// only a newer kubelet has may land on any. CPU, memory and pods are there even if they are zero: a Ready node without
/// allocatable CPU switches topology hints off in the whole cluster. It has a zone and a region where all nodes have the
/// same. It is under a pressure when all ready nodes are: those under pressure take no pods, and so do not count otherwise.
pub fn sum<'a>(nodes: impl Iterator<Item = &'a NodeShare>) -> NodeReport {
    let (mut topologies, mut pressures) = (Agreement::default(), Agreement::default());
    let nodes = nodes.inspect(|node| {
        if node.ready && !node.virtual_node {
            pressures.add(node.pressures.clone());
        }
    });
    let zero = || ["cpu", "memory", "pods"].map(|name| (name.to_owned(), Quantity::ZERO)).into_iter();
    let mut allocatable: BTreeMap<String, Quantity> = zero().collect();
    let mut capacity: BTreeMap<String, Quantity> = zero().collect();
    let mut platforms: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut oldest: Option<&str> = None;
    for node in nodes.filter(|node| node.counts()) {
        for (total, amounts) in [(&mut allocatable, &node.allocatable), (&mut capacity, &node.capacity)] {
            for (name, amount) in amounts {
                let entry = total.entry(name.clone()).or_default();
                *entry = *entry + *amount;
            }
        }
        *platforms.entry((&node.os, &node.arch)).or_default() += 1;
        topologies.add(node.topology.clone().into_iter().collect());
        if oldest.is_none_or(|version| age(&node.version) < age(version)) {
            oldest = Some(&node.version);
        }
    }
    // Ties go to the first in alphabetical order, so that the answer does not depend on that of the nodes.
    let (os, arch) = platforms.iter().rev().max_by_key(|(_, count)| **count).map(|(p, _)| *p).unwrap_or_default();
    NodeReport {
        capacity: printed(&capacity),
        allocatable: printed(&allocatable),
        operating_system: os.into(),
        architecture: arch.into(),
        kubelet_version: oldest.unwrap_or_default().into(),
        labels: topologies.common().into_iter().collect(),
        pressures: pressures.common(),
        trouble: None,
    }
}

/// What all of several have in common; nothing where there are none.
struct Agreement<T>(Option<BTreeSet<T>>);

impl<T> Default for Agreement<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Ord> Agreement<T> {
    fn add(&mut self, one: BTreeSet<T>) {
        self.0 = Some(match self.0.take() {
            Some(before) => before.into_iter().filter(|it| one.contains(it)).collect(),
            None => one,
        });
    }

    fn common(self) -> BTreeSet<T> {
        self.0.unwrap_or_default()
    }
}

/// One node that stands for several targets: the sum of what they offer. Each report comes with whether its target is
/// silent; such a one offers nothing. Trouble is the node's only where every target has some.
pub fn together(reports: &[(NodeReport, bool)]) -> NodeReport {
    let known: Vec<&NodeReport> = reports
        .iter()
        .filter(|(report, silent)| !silent && !report.capacity.is_empty())
        .map(|(report, _)| report)
        .collect();
    let add = |part: fn(&NodeReport) -> &BTreeMap<String, String>| {
        let mut total: BTreeMap<String, Quantity> = BTreeMap::new();
        for (name, amount) in known.iter().flat_map(|report| part(report)) {
            // These were printed by us.
            let entry = total.entry(name.clone()).or_default();
            *entry = *entry + amount.parse().unwrap_or_default();
        }
        printed(&total)
    };
    let first = known.first();
    let oldest = known.iter().map(|report| report.kubelet_version.as_str()).min_by_key(|version| age(version));
    let (mut labels, mut pressures) = (Agreement::default(), Agreement::default());
    for report in &known {
        labels.add(report.labels.clone().into_iter().collect());
        pressures.add(report.pressures.clone());
    }
    let troubles: Vec<_> = reports.iter().filter_map(|(report, _)| report.trouble.clone()).collect();
    NodeReport {
        capacity: add(|report| &report.capacity),
        allocatable: add(|report| &report.allocatable),
        operating_system: first.map(|report| report.operating_system.clone()).unwrap_or_default(),
        architecture: first.map(|report| report.architecture.clone()).unwrap_or_default(),
        kubelet_version: oldest.unwrap_or_default().into(),
        labels: labels.common().into_iter().collect(),
        pressures: pressures.common(),
        trouble: (troubles.len() == reports.len()).then(|| troubles.into_iter().next()).flatten(),
    }
}

fn printed(amounts: &BTreeMap<String, Quantity>) -> BTreeMap<String, String> {
    amounts.iter().map(|(name, amount)| (name.clone(), amount.print(name))).collect()
}

/// A version as something to compare: its numbers, then its text (`v1.9.0` before `v1.10.0-rc.1`).
fn age(version: &str) -> (Vec<u32>, &str) {
    let core = version.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
    (core.split('.').map(|part| part.parse().unwrap_or_default()).collect(), version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::provider::Obstacle;
    use serde_json::{Value, json};

    fn node(name: &str, extra: &Value) -> Node {
        let mut node = json!({"metadata": {"name": name}, "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {"cpu": "3900m", "memory": "15Gi", "pods": "110"},
            "capacity": {"cpu": "4", "memory": "16Gi", "pods": "110"},
            "nodeInfo": {"operatingSystem": "linux", "architecture": "amd64", "kubeletVersion": "v1.35.4",
                "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                "machineID": "", "osImage": "", "systemUUID": ""}}});
        merge(&mut node, extra);
        serde_json::from_value(node).unwrap()
    }

    fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }

    fn total(nodes: &[Node]) -> NodeReport {
        let shares: Vec<NodeShare> = nodes.iter().map(|n| NodeShare::read(n).unwrap()).collect();
        sum(shares.iter())
    }

    #[test]
    fn nodes_are_summed_with_all_their_resources() {
        let gpu = json!({"status": {"allocatable": {"nvidia.com/gpu": "8"}, "capacity": {"nvidia.com/gpu": "8"},
            "nodeInfo": {"kubeletVersion": "v1.9.12"}}, "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}});
        let arm = json!({"status": {"nodeInfo": {"architecture": "arm64"}}});
        let report = total(&[node("a", &arm), node("b", &gpu), node("c", &json!({}))]);
        assert_eq!(
            json!(report.allocatable),
            json!({"cpu": "11700m", "memory": "45Gi", "pods": "330", "nvidia.com/gpu": "8"})
        );
        assert_eq!(
            json!(report.capacity),
            json!({"cpu": "12", "memory": "48Gi", "pods": "330", "nvidia.com/gpu": "8"})
        );
        assert_eq!((report.operating_system.as_str(), report.architecture.as_str()), ("linux", "amd64"));
        assert_eq!(report.kubelet_version, "v1.9.12", "nine is older than thirty-five");
        assert_eq!(report.trouble, None);
    }

    #[test]
    fn nodes_that_take_no_pods_do_not_count() {
        let away = [
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            json!({"status": {"conditions": []}}),
            json!({"spec": {"unschedulable": true}}),
            json!({"spec": {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]}}),
            json!({"spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}),
        ];
        for extra in &away {
            assert_eq!(total(&[node("a", extra)]).allocatable["cpu"], "0", "{extra}");
        }
        let soft = json!({"spec": {"taints": [{"key": "node.kubernetes.io/x", "effect": "PreferNoSchedule"}]}});
        assert_eq!(total(&[node("a", &soft)]).allocatable["cpu"], "3900m");
    }

    #[test]
    fn a_zone_is_shown_where_all_nodes_agree() {
        let at = |zone: &str, region: &str| {
            let labels =
                json!({"topology.kubernetes.io/zone": zone, "topology.kubernetes.io/region": region, "x": "y"});
            json!({"metadata": {"labels": labels}})
        };
        let [one, other, elsewhere] = [at("a", "r"), at("b", "r"), json!({"metadata": {"labels": {"x": "y"}}})];
        let labels =
            |extras: &[&Value]| json!(total(&extras.iter().map(|extra| node("n", extra)).collect::<Vec<_>>()).labels);
        let region = json!({"topology.kubernetes.io/region": "r"});
        assert_eq!(
            labels(&[&one, &one]),
            one["metadata"]["labels"]
                .as_object()
                .unwrap()
                .clone()
                .into_iter()
                .filter(|(key, _)| key != "x")
                .collect::<Value>()
        );
        assert_eq!(labels(&[&one, &other]), region, "two zones of a region");
        assert_eq!(labels(&[&one, &elsewhere]), json!({}));
        let mut away = other.clone();
        merge(&mut away, &json!({"spec": {"unschedulable": true}}));
        assert_eq!(labels(&[&one, &away]), labels(&[&one]), "where no pod goes does not matter");
        let (here, there) = (total(&[node("n", &one)]), total(&[node("n", &other)]));
        assert_eq!(json!(together(&[(here.clone(), false), (there.clone(), false)]).labels), region, "two targets");
        assert_eq!(together(&[(here.clone(), false), (there, true)]).labels, here.labels, "one of them is silent");
    }

    #[test]
    fn a_pressure_is_one_of_the_whole_when_all_ready_nodes_have_it() {
        let pressed = |kind: &str| {
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": kind, "status": "True"}]},
                "spec": {"taints": [{"key": "node.kubernetes.io/pressure", "effect": "NoSchedule"}]}})
        };
        let (disk, memory, calm) = (pressed("DiskPressure"), pressed("MemoryPressure"), json!({}));
        let pressures = |extras: &[&Value]| {
            let report = total(&extras.iter().map(|extra| node("n", extra)).collect::<Vec<_>>());
            report.pressures.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(pressures(&[&disk, &disk]), ["DiskPressure"]);
        for nodes in [&[&disk, &calm][..], &[&disk, &memory], &[]] {
            assert_eq!(pressures(nodes), Vec::<String>::new(), "{nodes:?}");
        }
        let gone = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        assert_eq!(pressures(&[&disk, &gone]), ["DiskPressure"], "who is not ready says nothing");
    }

    #[test]
    fn virtual_nodes_do_not_count() {
        for extra in [
            json!({"metadata": {"labels": {"type": "virtual-kubelet"}}}),
            json!({"metadata": {"labels": {"longshore.dev/node": "east"}}}),
            json!({"spec": {"taints": [{"key": "longshore.dev/virtual-node", "effect": "NoSchedule"}]}}),
        ] {
            assert_eq!(total(&[node("a", &extra)]).allocatable["pods"], "0", "{extra}");
        }
    }

    #[test]
    fn a_node_that_cannot_be_read_is_named() {
        let odd = node("odd", &json!({"status": {"allocatable": {"memory": "lots"}}}));
        assert_eq!(
            NodeShare::read(&odd).unwrap_err().to_string(),
            "node odd is left out: its allocatable.memory: \"lots\" is not a quantity"
        );
        assert_eq!(NodeShare::read(&Node::default()).map(|share| share.ready), Ok(false));
    }

    #[test]
    fn no_node_is_an_empty_node() {
        let report = sum(std::iter::empty());
        assert_eq!(json!(report.allocatable), json!({"cpu": "0", "memory": "0", "pods": "0"}));
        assert_eq!(report.operating_system, "");
    }

    #[test]
    fn the_order_of_nodes_does_not_matter() {
        let arm = json!({"status": {"nodeInfo": {"architecture": "arm64", "kubeletVersion": "v1.35.4+k3s1"}}});
        let (a, b) = (node("a", &arm), node("b", &json!({})));
        assert_eq!(total(&[a.clone(), b.clone()]), total(&[b, a]));
    }

    #[test]
    fn targets_are_summed_up_but_for_the_silent_ones() {
        let report = |cpu: &str, version: &str| NodeReport {
            capacity: BTreeMap::from([("cpu".into(), cpu.into())]),
            allocatable: BTreeMap::from([("cpu".into(), cpu.into())]),
            kubelet_version: version.into(),
            ..NodeReport::default()
        };
        let trouble = || Some(Obstacle { reason: "TargetRefused".into(), message: "no".into() });
        let mut reports =
            [(report("2", "v1.35.0"), false), (report("1500m", "v1.9.1"), false), (report("8", "v1.1.0"), true)];
        let sum = together(&reports);
        assert_eq!((sum.allocatable["cpu"].as_str(), sum.kubelet_version.as_str()), ("3500m", "v1.9.1"));
        reports[0].0.trouble = trouble();
        assert_eq!(together(&reports).trouble, None, "the others work");
        for (report, _) in &mut reports {
            report.trouble = trouble();
        }
        assert!(together(&reports).trouble.is_some());
        assert!(together(&[(NodeReport::default(), false)]).capacity.is_empty(), "nothing is known yet");
    }
}
