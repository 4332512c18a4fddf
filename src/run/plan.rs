//! PURE  what is declared -> which nodes should run, made of what.
//!
//! A member that a node had and should not have any more leaves in order: it stays, takes no new pods, and goes when it is
//! empty. So the plan needs to know what runs.

use std::collections::{BTreeMap, BTreeSet};

use crate::admission::roster::{Place, Roster};
use crate::api::target::{DeletionPolicy, TargetSpec};
use crate::api::virtual_node::{Shape, TargetReference, VirtualNodeSpec};

/// What the plan is made from.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    /// Targets that can be used: their last good spec.
    pub(super) targets: BTreeMap<String, TargetSpec>,
    /// All targets that are declared, usable or not: one that is not usable yet is not undeclared.
    pub(super) known: BTreeSet<String>,
    /// Virtual nodes: their last good spec, and when they were made, for ties.
    pub(super) nodes: BTreeMap<String, (String, VirtualNodeSpec)>,
    /// The ports that nodes have had, from their status.
    pub(super) ports: BTreeMap<String, u16>,
    /// The first port.
    pub(super) first_port: u16,
}

/// A node that should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// Its spec. The port is always given.
    pub(super) spec: VirtualNodeSpec,
    /// No VirtualNode declares it.
    pub(super) implied: bool,
    /// Its port.
    pub(super) port: u16,
    /// Its members, in order.
    pub(super) members: Vec<PlannedMember>,
    /// Nobody wants the node any more.
    pub(super) leaving: bool,
}

/// A target of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedMember {
    /// The target.
    pub(super) name: String,
    /// See [`crate::api::virtual_node::TargetReference::weight`].
    pub(super) weight: u32,
    /// It takes no new pods, and goes when it is empty.
    pub(super) leaving: bool,
}

/// Which nodes run, which of their members still have something to leave, and how targets that have gone should go.
pub(super) type Running = BTreeMap<String, Planned>;

/// What should run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The nodes.
    pub(super) nodes: BTreeMap<String, Planned>,
    /// What is wrong, by VirtualNode.
    pub(super) problems: BTreeMap<String, String>,
    /// What is wrong, by Target.
    pub(super) target_problems: BTreeMap<String, String>,
}

/// Makes the plan. `empty` are members (node, target) that have nothing to leave any more, and `policy` says of a target
/// (that may have gone) how it leaves.
pub(super) fn plan(
    declared: &Declared,
    running: &Running,
    empty: &BTreeSet<(String, String)>,
    policy: impl Fn(&str) -> DeletionPolicy,
) -> Plan {
    let mut plan = Plan::default();
    let mut wanted = wanted(declared, &mut plan);
    let mut ports = Ports::new(declared, &wanted, running);
    for (name, planned) in &mut wanted {
        planned.port = ports.of(name, &planned.spec);
    }
    for (name, was) in running {
        let goes = |member: &&PlannedMember| {
            let key = (name.clone(), member.name.clone());
            policy(&member.name) == DeletionPolicy::Abandon || empty.contains(&key)
        };
        let left: Vec<_> = was.members.iter().filter(|member| !goes(member)).collect();
        match wanted.get_mut(name) {
            Some(planned) => {
                for member in left {
                    if !planned.members.iter().any(|one| one.name == member.name) {
                        planned.members.push(PlannedMember { leaving: true, ..member.clone() });
                    }
                }
            }
            None if left.is_empty() => {}
            None => {
                let members = left.into_iter().map(|one| PlannedMember { leaving: true, ..one.clone() }).collect();
                wanted.insert(name.clone(), Planned { members, leaving: true, ..was.clone() });
            }
        }
    }
    // Its targets are not usable yet: nothing can run, and what ran leaves.
    wanted.retain(|_, planned| !planned.members.is_empty());
    for planned in wanted.values_mut() {
        planned.leaving = planned.members.iter().all(|member| member.leaving);
    }
    plan.nodes = wanted;
    plan
}

/// The nodes that are declared, and those of targets that none names.
fn wanted(declared: &Declared, plan: &mut Plan) -> BTreeMap<String, Planned> {
    let mut wanted = BTreeMap::new();
    for (name, (_, spec)) in &declared.nodes {
        let missing: Vec<_> = spec.targets.iter().filter(|one| !declared.known.contains(&one.name)).collect();
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|one| one.name.as_str()).collect();
            let message = format!("there is no Target {}; create it, or remove it from spec.targets", names.join(", "));
            plan.problems.insert(name.clone(), message);
        }
        let mut planned = planned(spec, false, declared);
        let clash = |one: &TargetReference| spec.clash(&one.name, declared.targets.get(&one.name)?);
        if let Some(clash) = spec.targets.iter().find_map(clash) {
            planned.spec.services = false;
            plan.problems.insert(name.clone(), format!("{}: {}; {}", clash.field, clash.message, clash.remedy));
            if spec.shape != Shape::Cluster {
                // What ran of it leaves, as without its target.
                planned.members.clear();
            }
        }
        wanted.insert(name.clone(), planned);
    }
    let named: BTreeSet<_> =
        declared.nodes.values().flat_map(|(_, spec)| &spec.targets).map(|target| target.name.as_str()).collect();
    for name in declared.known.iter().filter(|name| !named.contains(name.as_str())) {
        if wanted.contains_key(name) {
            let message = "no VirtualNode names it, and the one of its name stands for another target; name it in one";
            plan.target_problems.insert(name.clone(), message.into());
            continue;
        }
        wanted.insert(name.clone(), planned(&VirtualNodeSpec::for_target(name), true, declared));
    }
    wanted
}

/// Where pods may be sent to: every node that is declared, whether it runs already or not.
pub(super) fn roster(declared: &Declared) -> Roster {
    let mut ignored = Plan::default();
    let gives = |target: &String| declared.targets.get(target).is_some_and(TargetSpec::gives_devices);
    let places = wanted(declared, &mut ignored).into_iter().map(|(node, planned)| Place {
        targets: planned.spec.targets.iter().map(|target| target.name.clone()).collect(),
        devices: planned.members.iter().map(|member| member.name.clone()).filter(gives).collect(),
        taints: planned.spec.taints_of(&node),
        node,
    });
    Roster::new(places.collect())
}

fn planned(spec: &VirtualNodeSpec, implied: bool, declared: &Declared) -> Planned {
    let usable = spec.targets.iter().filter(|one| declared.targets.contains_key(&one.name));
    let member = |one: &TargetReference| PlannedMember { name: one.name.clone(), weight: one.weight, leaving: false };
    Planned { spec: spec.clone(), implied, port: 0, members: usable.map(member).collect(), leaving: false }
}

/// Gives each node a port that it keeps.
struct Ports<'a> {
    declared: &'a Declared,
    running: &'a Running,
    taken: BTreeMap<u16, String>,
}

impl<'a> Ports<'a> {
    fn new(declared: &'a Declared, wanted: &BTreeMap<String, Planned>, running: &'a Running) -> Self {
        let mut taken = BTreeMap::new();
        let mut take = |port: u16, name: &str| {
            taken.entry(port).or_insert_with(|| name.to_owned());
        };
        // What runs keeps its port, then what was asked for, then what nodes have had: the oldest first.
        for (name, planned) in running {
            if wanted.get(name).is_none_or(|wanted| wanted.spec.port.is_none_or(|port| port == planned.port)) {
                take(planned.port, name);
            }
        }
        let mut names: Vec<_> = wanted.keys().collect();
        let age = |name: &String| declared.nodes.get(name).map(|(made, _)| made.clone()).unwrap_or_default();
        names.sort_by_key(|name| (age(name), (*name).clone()));
        for name in &names {
            if let Some(port) = wanted[*name].spec.port {
                take(port, name);
            }
        }
        for name in &names {
            if let Some(&port) = declared.ports.get(*name).filter(|_| wanted[*name].spec.port.is_none()) {
                take(port, name);
            }
        }
        Self { declared, running, taken }
    }

    fn of(&mut self, name: &str, spec: &VirtualNodeSpec) -> u16 {
        if let Some(port) = spec.port {
            return port;
        }
        let before = [self.running.get(name).map(|planned| planned.port), self.declared.ports.get(name).copied()];
        if let Some(port) =
            before.into_iter().flatten().find(|port| self.taken.get(port).is_some_and(|one| one == name))
        {
            return port;
        }
        let free =
            (self.declared.first_port..=u16::MAX).find(|port| !self.taken.contains_key(port)).unwrap_or_default();
        self.taken.insert(free, name.to_owned());
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::target::ResourceClaims;

    fn declared(targets: &[&str], nodes: &[(&str, &[&str])]) -> Declared {
        let spec: TargetSpec = serde_json::from_str(r#"{"kubeconfig": {"file": "/x"}}"#).unwrap();
        let node = |targets: &[&str]| {
            let targets = targets.iter().map(|name| TargetReference { name: (*name).into(), weight: 1 }).collect();
            (String::new(), VirtualNodeSpec { targets, ..VirtualNodeSpec::for_target("") })
        };
        Declared {
            targets: targets.iter().map(|name| ((*name).to_owned(), spec.clone())).collect(),
            known: targets.iter().map(|name| (*name).to_owned()).collect(),
            nodes: nodes.iter().map(|(name, targets)| ((*name).to_owned(), node(targets))).collect(),
            ports: BTreeMap::new(),
            first_port: 10250,
        }
    }

    fn next(declared: &Declared, running: &Running, empty: &[(&str, &str)]) -> Plan {
        let empty = empty.iter().map(|(node, target)| ((*node).to_owned(), (*target).to_owned())).collect();
        plan(declared, running, &empty, |_| DeletionPolicy::Drain)
    }

    fn shape(plan: &Plan) -> Vec<String> {
        let member = |one: &PlannedMember| format!("{}{}", one.name, if one.leaving { "-" } else { "" });
        let node = |(name, node): (&String, &Planned)| {
            let members: Vec<_> = node.members.iter().map(member).collect();
            format!("{name}{}:{} {}", if node.leaving { "-" } else { "" }, node.port, members.join(","))
        };
        plan.nodes.iter().map(node).collect()
    }

    #[test]
    fn a_target_that_nobody_names_has_a_node_of_its_own_name() {
        let plan = next(&declared(&["east", "west"], &[("a", &["west"])]), &Running::new(), &[]);
        assert_eq!(shape(&plan), ["a:10250 west", "east:10251 east"]);
    }

    #[test]
    fn what_runs_keeps_its_port_whatever_comes_and_goes() {
        let first = next(&declared(&["east", "west"], &[]), &Running::new(), &[]);
        let mut later = declared(&["a", "east", "west"], &[]);
        let second = next(&later, &first.nodes, &[]);
        assert_eq!(shape(&second), ["a:10252 a", "east:10250 east", "west:10251 west"]);
        later.ports = [("a".to_owned(), 10252), ("west".to_owned(), 10251)].into();
        assert_eq!(shape(&next(&later, &Running::new(), &[])), ["a:10252 a", "east:10250 east", "west:10251 west"]);
    }

    #[test]
    fn pods_may_be_sent_to_all_that_is_declared() {
        let mut all = declared(&["east", "west"], &[("a", &["west", "north"])]);
        let places = |declared: &Declared| {
            let roster = roster(declared);
            let place = |place: &Place| {
                let Place { node, targets, devices, taints } = place;
                format!("{node} {} {} {}", targets.join(","), taints.len(), devices.join(","))
            };
            roster.places().iter().map(place).collect::<Vec<_>>()
        };
        let own = all.targets.clone();
        all.targets.get_mut("west").unwrap().resource_claims = ResourceClaims::Remote;
        assert_eq!(places(&all), ["a west,north 1 west", "east east 1 "], "it is told where there are devices");
        all.targets = own;
        assert_eq!(places(&all), ["a west,north 1 ", "east east 1 "]);
        all.targets.clear();
        assert_eq!(
            places(&all),
            ["a west,north 1 ", "east east 1 "],
            "a target that cannot be used yet is no stranger"
        );
    }

    #[test]
    fn services_do_not_follow_into_one_namespace_for_all() {
        let mut one = declared(&["east", "west"], &[("a", &["east"]), ("b", &["west"])]);
        for (_, node) in one.nodes.values_mut() {
            node.services = true;
        }
        let far = serde_json::json!({"mapping": "Single", "single": "far"});
        one.targets.get_mut("east").unwrap().namespaces = serde_json::from_value(far).unwrap();
        let plan = next(&one, &Running::new(), &[]);
        assert!(plan.problems["a"].starts_with("spec.services: "), "{:?}", plan.problems);
        assert_eq!((plan.nodes["a"].spec.services, plan.nodes["b"].spec.services), (false, true));
        assert!(!plan.problems.contains_key("b"));
    }

    #[test]
    fn two_nodes_never_keep_the_same_port() {
        let mut both = declared(&["east", "west"], &[]);
        both.ports = [("east".to_owned(), 10255), ("west".to_owned(), 10255)].into();
        assert_eq!(shape(&next(&both, &Running::new(), &[])), ["east:10255 east", "west:10250 west"]);
    }

    #[test]
    fn what_is_removed_stays_until_it_is_empty() {
        let first = next(&declared(&["east", "west"], &[("a", &["east", "west"])]), &Running::new(), &[]);
        let one = declared(&["west"], &[("a", &["east", "west"])]);
        let second = next(&one, &first.nodes, &[]);
        assert_eq!(shape(&second), ["a:10250 west,east-"]);
        assert!(second.problems["a"].contains("no Target east"));
        assert_eq!(shape(&next(&one, &second.nodes, &[("a", "east")])), ["a:10250 west"]);
        let third = next(&declared(&[], &[]), &second.nodes, &[]);
        assert_eq!(shape(&third), ["a-:10250 west-,east-"]);
        let gone = next(&declared(&[], &[]), &third.nodes, &[("a", "west"), ("a", "east")]);
        assert_eq!(shape(&gone), Vec::<String>::new());
    }

    #[test]
    fn what_comes_back_does_not_leave() {
        let first = next(&declared(&["east"], &[]), &Running::new(), &[]);
        let leaving = next(&declared(&[], &[]), &first.nodes, &[]);
        assert_eq!(shape(&leaving), ["east-:10250 east-"]);
        assert_eq!(shape(&next(&declared(&["east"], &[]), &leaving.nodes, &[])), ["east:10250 east"]);
    }

    #[test]
    fn an_abandoned_target_goes_at_once() {
        let first = next(&declared(&["east"], &[]), &Running::new(), &[]);
        let plan = plan(&declared(&[], &[]), &first.nodes, &BTreeSet::new(), |_| DeletionPolicy::Abandon);
        assert_eq!(shape(&plan), Vec::<String>::new());
    }

    #[test]
    fn a_target_that_is_not_usable_yet_is_not_missing() {
        let mut declared = declared(&["east"], &[("a", &["east"])]);
        declared.targets.clear();
        let plan = next(&declared, &Running::new(), &[]);
        assert_eq!((shape(&plan), plan.problems.len()), (vec![], 0));
    }
}
