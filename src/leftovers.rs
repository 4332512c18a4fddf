//! What Longshore has made and nobody needs any more. Pure: from two sides' inventories to findings.
//!
//! While a virtual node is kept, its controller removes what loses its owner. What is found here belongs to nodes that are
//! kept no longer, to proxies whose node was taken out of the configuration, or to targets that could not be reached at the
//! end.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// All that was found on both sides. Each list is complete, or the side is an error.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The virtual nodes of the configuration.
    pub configured: BTreeSet<String>,
    /// Nodes of the host that are Longshore's by their condition, by name.
    pub nodes: BTreeMap<String, Node>,
    /// The namespaces of the host.
    pub namespaces: BTreeSet<String>,
    /// Pods of the host that are bound to one of our nodes: UID to where.
    pub proxies: BTreeMap<String, Proxy>,
    /// Leases of leadership: name of the node to whether somebody renews it.
    pub leaderships: BTreeMap<String, bool>,
    /// The UIDs of the host's claims.
    pub claims: BTreeSet<String>,
    /// Volumes of the host that stand for claims in targets.
    pub volumes: Vec<Volume>,
    /// What is ours in each target, in the configuration's order.
    pub targets: Vec<TargetInventory>,
}

impl Inventory {
    /// Whether somebody keeps this node now.
    fn keeps(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.kept)
    }
}

/// A virtual node of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its UID.
    pub uid: String,
    /// Somebody keeps it now.
    pub kept: bool,
}

/// A volume of the host that stands for a claim in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// The virtual node that it belongs to.
    pub node: String,
    /// The UID of the claim in the target.
    pub remote: String,
    /// The target's claim, and the index of its target in the inventory.
    pub claim: Option<RemoteClaim>,
    /// What is in the target stays when the volume goes: its policy says so, or the target is gone for good.
    pub retain: bool,
    /// Its claim at home has gone.
    pub released: bool,
}

/// A claim in a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteClaim {
    /// The index of the target.
    pub target: usize,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A proxy pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its namespace and name.
    pub name: String,
    /// The virtual node that it is bound to.
    pub node: String,
    /// It is being deleted.
    pub terminating: bool,
}

/// What is ours in one target.
#[derive(Clone, Debug)]
pub struct TargetInventory {
    /// The target's name.
    pub name: String,
    /// Its objects, or why nobody knows.
    pub objects: Result<Vec<Object>, String>,
}

/// An object of ours in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its namespace; empty for a namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whose it is: a proxy's UID for a delegate, that of home's object for claims, Services and Ingresses, and of nobody
    /// in particular for the others.
    pub proxy: String,
    /// The virtual node, for a delegate.
    pub node: String,
    /// The copies in its namespace that a delegate needs: kind and name.
    pub needs: Vec<(Kind, String)>,
    /// The virtual nodes that need a copy, as its labels say.
    pub needed_by: Vec<String>,
    /// It is being deleted.
    pub terminating: bool,
    /// There are pods or claims in it, whoever's; for a namespace.
    pub busy: bool,
}

/// A kind of object that Longshore makes in targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// A delegate.
    Pod,
    /// A ConfigMap that followed a pod.
    ConfigMap,
    /// A Secret that followed a pod.
    Secret,
    /// A claim that keeps data of home.
    Claim,
    /// A Service that followed pods.
    Service,
    /// An Ingress that followed pods.
    Ingress,
    /// A namespace that was made for pods.
    Namespace,
}

impl Kind {
    /// As `kubectl` names it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
            Self::Claim => "persistentvolumeclaim",
            Self::Service => "service",
            Self::Ingress => "ingress",
            Self::Namespace => "namespace",
        }
    }
}

/// Something that should be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// `host`, or a target's name.
    pub place: String,
    /// What it is, as `kubectl` takes it: `pod east-ns/web-0`.
    pub object: String,
    /// Why it is a leftover, in a sentence.
    pub problem: String,
    /// What to do.
    pub remedy: String,
    /// What `--fix` does about it; nothing where only people can decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

/// A removal that harms nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fix {
    /// Removes an object of a target by its UID.
    Remove {
        /// The index of the target.
        target: usize,
        /// Its kind.
        kind: Kind,
        /// Its namespace; empty for a namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Removes a virtual node of the host, with its lease, on which nothing runs.
    RemoveNode {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Removes the lease of leadership of a node that is no more.
    RemoveLeadership(String),
    /// Removes a volume of the host, which waits for somebody to deal with its data.
    ReleaseVolume {
        /// Its name.
        name: String,
        /// The target's claim, which goes first, as the reclaim policy says.
        #[serde(skip_serializing_if = "Option::is_none")]
        claim: Option<RemoteClaim>,
    },
}

/// What is left over, targets last; in the order of their names on each side.
pub fn findings(inventory: &Inventory) -> Vec<Finding> {
    let mut found = host_findings(inventory);
    for (index, target) in inventory.targets.iter().enumerate() {
        match &target.objects {
            Ok(objects) => found.extend(target_findings(inventory, index, &target.name, objects)),
            Err(error) => found.push(Finding {
                place: target.name.clone(),
                object: "everything".into(),
                problem: format!("it is not known what is there: {error}"),
                remedy: "look again when it can be reached; nothing of it was touched".into(),
                fix: None,
            }),
        }
    }
    found
}

fn host_findings(inventory: &Inventory) -> Vec<Finding> {
    let mut found = vec![];
    let finding = |object: String, problem: &str, remedy: &str, fix| Finding {
        place: "host".into(),
        object,
        problem: problem.into(),
        remedy: remedy.into(),
        fix,
    };
    for (node, Node { uid, kept }) in &inventory.nodes {
        if inventory.configured.contains(node) || *kept {
            continue;
        }
        let pods = inventory.proxies.values().filter(|proxy| proxy.node == *node).count();
        let problem = "no configuration that was given here has this virtual node, and nobody keeps it";
        found.push(if pods > 0 {
            let remedy = format!("it has {pods} pods: configure it again and drain it, or delete them first");
            finding(format!("node {node}"), problem, &remedy, None)
        } else {
            let fix = Some(Fix::RemoveNode { name: node.clone(), uid: uid.clone() });
            finding(format!("node {node}"), problem, "delete it", fix)
        });
    }
    for proxy in inventory.proxies.values() {
        let kept = inventory.configured.contains(&proxy.node) || inventory.keeps(&proxy.node);
        if !kept && proxy.terminating {
            let remedy = "delete it with --grace-period=0 --force once you know that its delegate has stopped";
            let problem = "it is being deleted, and nobody keeps its node who could say when it has stopped";
            found.push(finding(format!("pod {}", proxy.name), problem, remedy, None));
        }
    }
    for volume in &inventory.volumes {
        let kept = inventory.configured.contains(&volume.node) || inventory.keeps(&volume.node);
        if !kept && volume.released {
            let problem = "its claim has gone, and nobody keeps its node who could deal with its data in the target";
            let (name, object) = (volume.name.clone(), format!("persistentvolume {}", volume.name));
            found.push(match &volume.claim {
                _ if volume.retain => {
                    let fix = Some(Fix::ReleaseVolume { name, claim: None });
                    finding(object, problem, "delete it, finalizer and all; what is in the target stays", fix)
                }
                Some(claim) => {
                    let fix = Some(Fix::ReleaseVolume { name, claim: Some(claim.clone()) });
                    finding(object, problem, "delete the claim in the target, as the policy says, and then it", fix)
                }
                None => {
                    let remedy = "configure its target again, or say that it is lost for good";
                    finding(object, problem, remedy, None)
                }
            });
        }
    }
    for (node, renewed) in &inventory.leaderships {
        if !inventory.configured.contains(node) && !renewed && !inventory.nodes.contains_key(node) {
            let fix = Some(Fix::RemoveLeadership(node.clone()));
            let problem = "it is the leadership of a virtual node that is no more";
            found.push(finding(format!("lease longshore-{node}"), problem, "delete it", fix));
        }
    }
    found
}

fn target_findings(inventory: &Inventory, index: usize, target: &str, objects: &[Object]) -> Vec<Finding> {
    let needed: BTreeSet<(&str, Kind, &str)> = objects
        .iter()
        .flat_map(|pod| pod.needs.iter().map(|(kind, name)| (pod.namespace.as_str(), *kind, name.as_str())))
        .collect();
    let is_needed = |copy: &Object| needed.contains(&(&copy.namespace, copy.kind, &copy.name));
    // Whoever keeps the node lets go of it, and may be about to.
    let is_kept = |copy: &Object| copy.needed_by.iter().any(|node| inventory.keeps(node));
    let delegates = objects.iter().filter(|object| object.kind == Kind::Pod);
    let delegating: BTreeSet<&str> = delegates.map(|object| object.namespace.as_str()).collect();
    let mut found = vec![];
    for object in objects {
        let place = if object.namespace.is_empty() {
            object.name.clone()
        } else {
            format!("{}/{}", object.namespace, object.name)
        };
        let problem = match object.kind {
            Kind::Pod if inventory.proxies.contains_key(&object.proxy) => continue,
            // Its node's keeper stops it, and may be about to.
            Kind::Pod if inventory.keeps(&object.node) || object.terminating => continue,
            Kind::Pod => format!("its proxy has gone, and nobody keeps its node {}", object.node),
            Kind::ConfigMap | Kind::Secret if is_needed(object) || is_kept(object) || object.terminating => continue,
            Kind::ConfigMap | Kind::Secret => {
                "it was copied for pods, and no delegate is left that needs it".to_owned()
            }
            Kind::Service | Kind::Ingress if delegating.contains(object.namespace.as_str()) || object.terminating => {
                continue;
            }
            Kind::Claim if object.terminating || inventory.volumes.iter().any(|one| one.remote == object.uid) => {
                continue;
            }
            // Between its making and that of its volume there is a moment.
            Kind::Claim
                if inventory.keeps(&object.node) && inventory.claims.contains(&object.proxy) =>
            {
                continue;
            }
            Kind::Claim => "no volume of home stands for it: its data cannot be reached from there".to_owned(),
            Kind::Service | Kind::Ingress => "no delegate is left that could need it".to_owned(),
            // The next pod from home may come at any time.
            Kind::Namespace if inventory.namespaces.contains(&object.name) || object.terminating => continue,
            Kind::Namespace if object.busy => {
                "it was made for delegates of a namespace that home has no more, and other people's things are in it now"
                    .to_owned()
            }
            Kind::Namespace => {
                "it was made for delegates of a namespace that home has no more, and there are no pods in it".to_owned()
            }
        };
        // Data are for people to give up.
        let certain = !object.busy && object.kind != Kind::Claim;
        let fix = Fix::Remove {
            target: index,
            kind: object.kind,
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            uid: object.uid.clone(),
        };
        let remedy = if certain { "delete it" } else { "delete it once nobody needs what is in it" };
        found.push(Finding {
            place: target.into(),
            object: format!("{} {place}", object.kind.resource()),
            problem,
            remedy: remedy.into(),
            fix: certain.then_some(fix),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: Kind, proxy: &str, node: &str) -> Object {
        Object {
            kind,
            namespace: if kind == Kind::Namespace { String::new() } else { "ns".into() },
            name: "x".into(),
            uid: "u".into(),
            proxy: proxy.into(),
            node: node.into(),
            needs: vec![],
            needed_by: vec![],
            terminating: false,
            busy: false,
        }
    }

    fn node(uid: &str, kept: bool) -> Node {
        Node { uid: uid.into(), kept }
    }

    fn inventory(objects: Vec<Object>) -> Inventory {
        Inventory {
            configured: ["east".to_owned()].into(),
            namespaces: BTreeSet::new(),
            nodes: [("east".to_owned(), node("1", true)), ("old".to_owned(), node("2", false))].into(),
            proxies: [("p".to_owned(), Proxy { name: "ns/x".into(), node: "east".into(), terminating: false })].into(),
            leaderships: [("east".to_owned(), true)].into(),
            claims: ["c".to_owned()].into(),
            volumes: vec![],
            targets: vec![TargetInventory { name: "t".into(), objects: Ok(objects) }],
        }
    }

    fn objects(inventory: &Inventory) -> Vec<(String, bool)> {
        let found = findings(inventory).into_iter().filter(|one| one.place == "t");
        found.map(|one| (one.object, one.fix.is_some())).collect()
    }

    #[test]
    fn a_delegate_is_left_over_only_if_nobody_will_stop_it() {
        assert_eq!(objects(&inventory(vec![object(Kind::Pod, "p", "east")])), []);
        assert_eq!(objects(&inventory(vec![object(Kind::Pod, "gone", "east")])), [], "its keeper does");
        assert_eq!(objects(&inventory(vec![object(Kind::Pod, "gone", "old")])), [("pod ns/x".into(), true)]);
        let terminating = Object { terminating: true, ..object(Kind::Pod, "gone", "old") };
        assert_eq!(objects(&inventory(vec![terminating])), []);
    }

    #[test]
    fn what_followed_pods_goes_with_the_last_of_them() {
        let copy = Object { needed_by: vec!["old".into()], ..object(Kind::Secret, "", "") };
        let left = [("secret ns/x".to_owned(), true)];
        assert_eq!(objects(&inventory(vec![copy.clone()])), left);
        let pod = |kind, name: &str| Object { needs: vec![(kind, name.into())], ..object(Kind::Pod, "p", "east") };
        assert_eq!(objects(&inventory(vec![copy.clone(), pod(Kind::Secret, "x")])), []);
        assert_eq!(objects(&inventory(vec![copy.clone(), pod(Kind::Secret, "y")])), left, "another one");
        assert_eq!(objects(&inventory(vec![copy.clone(), pod(Kind::ConfigMap, "x")])), left, "another kind");
        let kept = Object { needed_by: vec!["old".into(), "east".into()], ..copy };
        assert_eq!(objects(&inventory(vec![kept])), [], "its keeper lets go of it");
    }

    #[test]
    fn data_that_home_cannot_reach_are_found_and_left_to_people() {
        let claim = |home| object(Kind::Claim, home, "east");
        assert_eq!(objects(&inventory(vec![claim("gone")])), [("persistentvolumeclaim ns/x".into(), false)]);
        assert_eq!(objects(&inventory(vec![claim("c")])), [], "its volume is about to be made");
        let mut known = inventory(vec![claim("gone")]);
        let claim = RemoteClaim { target: 0, namespace: "ns".into(), name: "x".into(), uid: "u".into() };
        let volume = Volume {
            name: "pvc-c".into(),
            node: "old".into(),
            remote: "u".into(),
            claim: Some(claim.clone()),
            retain: false,
            released: true,
        };
        known.volumes = vec![volume.clone()];
        assert_eq!(objects(&known), []);
        let fix_of = |volume: Volume| {
            let inventory = Inventory { volumes: vec![volume], ..known.clone() };
            findings(&inventory).into_iter().find(|one| one.object == "persistentvolume pvc-c").map(|one| one.fix)
        };
        let fix = |claim| Some(Some(Fix::ReleaseVolume { name: "pvc-c".into(), claim }));
        assert_eq!(fix_of(volume.clone()), fix(Some(claim)), "as its policy says");
        assert_eq!(fix_of(Volume { retain: true, ..volume.clone() }), fix(None));
        assert_eq!(fix_of(Volume { claim: None, ..volume.clone() }), Some(None), "its target is not configured");
        assert_eq!(fix_of(Volume { released: false, ..volume.clone() }), None);
        assert_eq!(fix_of(Volume { node: "east".into(), ..volume }), None, "its keeper deals with it");
    }

    #[test]
    fn a_namespace_goes_when_home_has_it_no_more_unless_somebody_uses_it() {
        let namespace = object(Kind::Namespace, "", "");
        assert_eq!(objects(&inventory(vec![namespace.clone()])), [("namespace x".into(), true)]);
        let busy = Object { busy: true, ..namespace.clone() };
        assert_eq!(objects(&inventory(vec![busy])), [("namespace x".into(), false)]);
        let mut inventory = inventory(vec![namespace]);
        inventory.namespaces.insert("x".into());
        assert_eq!(objects(&inventory), []);
    }

    #[test]
    fn a_node_without_a_keeper_goes_unless_it_has_pods() {
        let mut inventory = inventory(vec![]);
        assert_eq!(findings(&inventory)[0].fix, Some(Fix::RemoveNode { name: "old".into(), uid: "2".into() }));
        let proxy = Proxy { name: "ns/y".into(), node: "old".into(), terminating: true };
        inventory.proxies.insert("q".into(), proxy);
        let found = findings(&inventory);
        assert_eq!((found[0].object.as_str(), &found[0].fix), ("node old", &None));
        assert_eq!(found[1].object, "pod ns/y");
    }

    #[test]
    fn of_a_target_that_does_not_answer_nothing_is_said() {
        let mut inventory = inventory(vec![]);
        inventory.targets[0].objects = Err("connection refused".into());
        let found = findings(&inventory);
        let last = found.last().unwrap();
        assert!(last.problem.contains("connection refused") && last.fix.is_none());
    }
}
