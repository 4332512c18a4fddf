//! What a target's nodes offer together.
//!
//! Each node is projected onto its [`NodeShare`] when it changes, so that a sum over thousands of nodes parses nothing. A
//! node that cannot be read is an error of its own ([`NodeShare::read`]) and harms no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::fit::Mark;
use super::names;
use super::part::Part;
use super::quantity::{Quantity, QuantityError};
use super::requests::{self, Requests};
use crate::kubelet::provider::{NodeReport, NodeTaint, Obstacle};

pub mod stock;

/// Labels of a node that say what it is to its own cluster, and nothing to another one.
const OWN_LABELS: [&str; 5] = [
    "kubernetes.io/hostname",
    "type",
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// The taint that a cluster gives a node which is cordoned.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What counts of one node.
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts about one node")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeShare {
    /// Its condition `Ready` is true.
    pub ready: bool,
    /// It has no taint that keeps ordinary pods away for the node's own sake: those of the node lifecycle
    /// (`node.kubernetes.io/…`), of a cloud that is still setting it up, and of a control plane. Any other taint sets a node
    /// apart for pods that tolerate it, so that its resources are on offer.
    pub schedulable: bool,
    /// It is closed to new pods.
    pub cordoned: bool,
    /// It is a virtual node, of Longshore or another virtual kubelet, so that its resources are another cluster's. Two
    /// clusters that offload to each other would otherwise count each other's sums.
    pub virtual_node: bool,
    /// What pods may use, by resource.
    pub allocatable: Requests,
    /// What there is, by resource.
    pub capacity: Requests,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints, but for those for its own sake.
    pub taints: Vec<Mark>,
    /// `linux` or `windows`.
    pub os: String,
    /// The architecture in Go's terms.
    pub arch: String,
    /// The kubelet's version.
    pub version: String,
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
            schedulable: !taints.iter().any(keeps_away),
            cordoned: spec.and_then(|s| s.unschedulable) == Some(true) || taints.iter().any(|t| t.key == UNSCHEDULABLE),
            virtual_node: labels.get("type").is_some_and(|kind| kind == "virtual-kubelet")
                || labels.contains_key(names::NODE)
                || taints.iter().any(|t| t.key == names::TAINT || t.key == "virtual-kubelet.io/provider"),
            allocatable: amounts(name, "allocatable", status.allocatable)?,
            capacity: amounts(name, "capacity", status.capacity)?,
            taints: taints.iter().filter(|t| !keeps_away(t) && t.key != UNSCHEDULABLE).map(mark).collect(),
            labels,
            os: info.operating_system,
            arch: info.architecture,
            version: info.kubelet_version,
            pressures: conditions
                .filter(|one| one.status == "True" && PRESSURES.contains(&&*one.type_))
                .map(|one| one.type_.clone())
                .collect(),
        })
    }

    /// Whether pods may go there.
    pub fn counts(&self) -> bool {
        self.works() && !self.cordoned
    }

    /// Whether pods may go there, or might if it were not cordoned.
    fn works(&self) -> bool {
        self.ready && self.schedulable && !self.virtual_node
    }
}

/// A node with what the pods of others ask of it.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Its name.
    pub name: &'a Arc<str>,
    /// What it is.
    pub share: &'a NodeShare,
    /// What pods that are not ours ask of it.
    pub taken: Option<&'a Requests>,
}

fn mark(taint: &Taint) -> Mark {
    let value = taint.value.clone().unwrap_or_default();
    Mark { key: taint.key.clone(), value, effect: taint.effect.clone() }
}

/// Whether a taint is of a control plane, which runs nobody's pods.
pub fn is_control_plane(taint: &Taint) -> bool {
    taint.key == "node-role.kubernetes.io/control-plane" || taint.key == "node-role.kubernetes.io/master"
}

fn keeps_away(taint: &Taint) -> bool {
    let forbids = taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    if taint.key == UNSCHEDULABLE {
        return false;
    }
    let own_sake = taint.key.starts_with("node.kubernetes.io/")
        || taint.key.starts_with("node.cloudprovider.kubernetes.io/")
        || is_control_plane(taint);
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

/// One node that offers what these nodes offer together, less what the pods of others take. Only ready and schedulable nodes
/// count, and no virtual ones. `ours` is what our own pods ask for, by node: those on nodes that do not count any more take
/// nothing of what is offered, and the host subtracts them all the same.
///
/// Operating system and architecture are those of most nodes; the version is the oldest one, since a pod that uses what
/// only a newer kubelet has may land on any. CPU, memory and pods are there even if they are zero: a Ready node without
/// allocatable CPU switches topology hints off in the whole cluster. It has a zone and a region where all nodes have the
/// same. It is under a pressure when all ready nodes are: those under pressure take no pods, and so do not count otherwise.
///
/// A node that stands for a part has the labels and taints that all of these have; where they are cordoned, so is it.
pub fn sum<'a>(
    offers: impl Iterator<Item = Offer<'a>>,
    part: &Part,
    ours: &BTreeMap<Arc<str>, Requests>,
) -> NodeReport {
    let offers: Vec<_> = offers.filter(|offer| !offer.share.virtual_node).collect();
    let whole = *part == Part::All;
    let open = offers.iter().any(|offer| offer.share.counts());
    // A part that is closed shows its size all the same: a taint keeps pods away.
    let counts = |share: &NodeShare| share.counts() || (!whole && !open && share.works());
    let (mut places, mut pressures) = (Agreement::default(), Agreement::default());
    for offer in offers.iter().filter(|offer| offer.share.ready) {
        pressures.add(offer.share.pressures.clone());
    }
    let zero = || ["cpu", "memory", "pods"].map(|name| (name.to_owned(), Quantity::ZERO)).into_iter();
    let mut allocatable: Requests = zero().collect();
    let mut capacity: Requests = zero().collect();
    let mut platforms: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut oldest: Option<&str> = None;
    let mut elsewhere: Requests = ours.values().fold(Requests::new(), |mut all, one| {
        requests::add(&mut all, one);
        all
    });
    let mut counted = 0_usize;
    for Offer { name, share, taken } in offers.iter().filter(|offer| counts(offer.share)) {
        counted += 1;
        let mut free = share.allocatable.clone();
        if let Some(taken) = taken {
            requests::subtract(&mut free, taken);
        }
        requests::add(&mut allocatable, &free);
        requests::add(&mut capacity, &share.capacity);
        if let Some(here) = ours.get(*name) {
            requests::subtract(&mut elsewhere, here);
        }
        *platforms.entry((&share.os, &share.arch)).or_default() += 1;
        let place = TOPOLOGY.iter().filter_map(|key| share.labels.get_key_value(*key));
        places.add(place.map(|(key, value)| (key.clone(), value.clone())).collect());
        if oldest.is_none_or(|version| age(&share.version) < age(version)) {
            oldest = Some(&share.version);
        }
    }
    if counted > 0 {
        elsewhere.retain(|name, _| allocatable.contains_key(name));
        requests::add(&mut allocatable, &elsewhere);
    }
    // Ties go to the first in alphabetical order, so that the answer does not depend on that of the nodes.
    let (os, arch) = platforms.iter().rev().max_by_key(|(_, count)| **count).map(|(p, _)| *p).unwrap_or_default();
    let report = NodeReport {
        capacity: printed(&capacity),
        allocatable: printed(&allocatable),
        operating_system: os.into(),
        architecture: arch.into(),
        kubelet_version: oldest.unwrap_or_default().into(),
        labels: places.common().into_iter().collect(),
        pressures: pressures.common(),
        ..NodeReport::default()
    };
    if whole { report } else { resemble(report, &offers, part, counted > 0, open) }
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

/// A part looks as its nodes do.
fn resemble(report: NodeReport, offers: &[Offer<'_>], part: &Part, works: bool, open: bool) -> NodeReport {
    let Some(first) = offers.first().map(|offer| offer.share) else {
        let message = format!("{part} is not there any more");
        return NodeReport { trouble: Some(Obstacle { reason: "RemoteNodeGone".into(), message }), ..report };
    };
    let rest = || offers.iter().skip(1).map(|offer| offer.share);
    let own = |key: &str| {
        OWN_LABELS.contains(&key) || key.starts_with(names::PREFIX) || key.starts_with("node-role.kubernetes.io/")
    };
    let common =
        |(key, value): &(&String, &String)| !own(key) && rest().all(|share| share.labels.get(*key) == Some(*value));
    let labels = first.labels.iter().filter(common).map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut taints: Vec<_> = first
        .taints
        .iter()
        .filter(|taint| rest().all(|share| share.taints.contains(taint)))
        .map(|taint| NodeTaint { key: taint.key.clone(), value: taint.value.clone(), effect: taint.effect.clone() })
        .collect();
    let closed = offers.iter().all(|offer| offer.share.cordoned);
    if closed && !open {
        taints.push(NodeTaint::no_schedule(names::CORDONED));
    }
    let trouble = (!works).then(|| {
        let message = format!("{part} of the target is not ready");
        Obstacle { reason: "RemoteNodeNotReady".into(), message }
    });
    NodeReport { labels, taints, trouble, ..report }
}

/// One node that stands for several targets: the sum of what they offer. Each report comes with whether its target is
/// silent; such a one offers nothing, nor does one that is closed, unless all are. Trouble is the node's only where every target has some.
pub fn together(reports: &[(NodeReport, bool)]) -> NodeReport {
    let closed = |report: &NodeReport| report.taints.iter().any(|taint| taint.key == names::CORDONED);
    let all_closed = reports.iter().all(|(report, _)| closed(report));
    let known: Vec<&NodeReport> = reports
        .iter()
        .filter(|(report, silent)| !silent && !report.capacity.is_empty() && (all_closed || !closed(report)))
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
        // Where one of them takes pods, the node does.
        taints: common_taints(reports),
        trouble: (troubles.len() == reports.len()).then(|| troubles.into_iter().next()).flatten(),
    }
}

fn common_taints(reports: &[(NodeReport, bool)]) -> Vec<NodeTaint> {
    let Some(((first, _), rest)) = reports.split_first() else { return vec![] };
    let common = |taint: &&NodeTaint| rest.iter().all(|(report, _)| report.taints.contains(taint));
    first.taints.iter().filter(common).cloned().collect()
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
        part(nodes, &Part::All, &[])
    }

    fn part(nodes: &[Node], part: &Part, ours: &[(&str, i64)]) -> NodeReport {
        let name = |node: &Node| Arc::<str>::from(node.metadata.name.as_deref().unwrap());
        let shares: Vec<_> = nodes.iter().map(|n| (name(n), NodeShare::read(n).unwrap())).collect();
        let ours = ours.iter().map(|(name, cpu)| (Arc::from(*name), [("cpu".into(), Quantity::whole(*cpu))].into()));
        sum(shares.iter().map(|(name, share)| Offer { name, share, taken: None }), part, &ours.collect())
    }

    #[test]
    fn what_others_take_is_not_offered() {
        let (share, name) = (NodeShare::read(&node("a", &json!({}))).unwrap(), Arc::from("a"));
        let taken: Requests = [("cpu".into(), Quantity::whole(1)), ("memory".into(), Quantity::whole(20 << 30))].into();
        let offer = Offer { name: &name, share: &share, taken: Some(&taken) };
        let report = sum(std::iter::once(offer), &Part::All, &BTreeMap::new());
        assert_eq!(json!(report.allocatable), json!({"cpu": "2900m", "memory": "0", "pods": "110"}));
        assert_eq!(report.capacity["cpu"], "4", "which is what is there");
    }

    #[test]
    fn our_pods_on_a_node_that_does_not_count_take_nothing_of_the_others() {
        let closed = json!({"spec": {"unschedulable": true}});
        let nodes = [node("a", &json!({})), node("b", &closed)];
        assert_eq!(part(&nodes, &Part::All, &[("a", 1), ("b", 2)]).allocatable["cpu"], "5900m");
        assert_eq!(part(&nodes[1..], &Part::All, &[("b", 2)]).allocatable["cpu"], "0", "there is nothing to be had");
    }

    #[test]
    fn a_part_looks_as_its_nodes_do() {
        let of = |zone: &str, extra: Value| {
            let mut node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone, "disk": "ssd",
                "type": "x", "kubernetes.io/hostname": "h", "node-role.kubernetes.io/worker": ""}},
                "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}});
            merge(&mut node, &extra);
            node
        };
        let one = Part::Node("a".into());
        let report = part(&[node("a", &of("z1", json!({})))], &one, &[]);
        assert_eq!(json!(report.labels), json!({"topology.kubernetes.io/zone": "z1", "disk": "ssd"}));
        assert_eq!(report.taints, [NodeTaint::no_schedule("gpu")]);
        let both = [node("a", &of("z1", json!({}))), node("b", &of("z2", json!({"spec": {"unschedulable": true}})))];
        let pool = Part::Pool { label: None, without: vec![] };
        let report = part(&both, &pool, &[]);
        assert_eq!((json!(report.labels), report.allocatable["cpu"].as_str()), (json!({"disk": "ssd"}), "3900m"));
        let report = part(&both[1..], &pool, &[]);
        assert_eq!(report.allocatable["cpu"], "3900m", "a closed one shows its size");
        assert!(report.taints.contains(&NodeTaint::no_schedule(names::CORDONED)) && report.trouble.is_none());
        let down = node("a", &json!({"status": {"conditions": []}}));
        assert_eq!(part(&[down], &one, &[]).trouble.unwrap().reason, "RemoteNodeNotReady");
        assert_eq!(part(&[], &one, &[]).trouble.unwrap().reason, "RemoteNodeGone");
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
        let report = total(&[]);
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
        reports[0].0.taints.push(NodeTaint::no_schedule(names::CORDONED));
        let sum = together(&reports);
        assert_eq!((sum.allocatable["cpu"].as_str(), sum.taints), ("1500m", vec![]), "one is closed");
        let all = together(&reports[..1]);
        assert_eq!((all.allocatable["cpu"].as_str(), all.taints.len()), ("2", 1), "all are closed");
        reports[0].0.trouble = trouble();
        assert_eq!(together(&reports).trouble, None, "the others work");
        for (report, _) in &mut reports {
            report.trouble = trouble();
        }
        assert!(together(&reports).trouble.is_some());
        assert!(together(&[(NodeReport::default(), false)]).capacity.is_empty(), "nothing is known yet");
    }
}
