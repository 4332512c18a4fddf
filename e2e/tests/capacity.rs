//! What virtual nodes offer, and what becomes of pods that find no room: real schedulers, and targets of simulated nodes of
//! several sizes.

use std::time::Instant;

use e2e::{Cluster, Declared, Result, Value, World, container, deployment, ensure, json, secs};
use lab::{Lab, Simulation, UpOptions};

const CLUSTERS: [&str; 3] = ["caphost", "capfar", "capwest"];

/// They go with this.
struct Clusters(Lab);

impl Drop for Clusters {
    fn drop(&mut self) {
        _ = self.0.down_only(&CLUSTERS);
    }
}

/// One after the other, since they share the targets' nodes.
#[test]
fn virtual_nodes_offer_what_there_is() -> Result<()> {
    let clusters = Clusters(Lab::open()?);
    clusters.0.up_with(&CLUSTERS, &UpOptions { kubelet: Some(false), ..UpOptions::default() })?;
    for target in &CLUSTERS[1..] {
        // It offers nothing, and brings what keeps simulated nodes Ready.
        let nothing = Simulation { nodes: 1, cpu: "0".into(), memory: "0".into(), pods: 0, ..Simulation::default() };
        clusters.0.simulate(target, &nothing)?;
    }
    for (name, test) in [
        ("sum", sum as fn(&Clusters) -> Result<()>),
        ("fragments", fragments),
        ("nodes", nodes),
        ("pools", pools),
        ("declared", declared),
        ("places", places),
        ("drain", drain),
    ] {
        let begun = Instant::now();
        test(&clusters).map_err(|error| error.context(format!("in {name}")))?;
        eprintln!("{name}: {:.0?}", begun.elapsed());
    }
    Ok(())
}

/// Simulated nodes of a test's own, in a target. They go with this.
struct Machines(Cluster);

impl Machines {
    fn new(target: &str, nodes: &[(&str, &str, Value)]) -> Result<Self> {
        let machines = Self(World::cluster(target, "default")?);
        for (name, cpu, more) in nodes {
            machines.add(name, cpu, more)?;
        }
        Ok(machines)
    }

    fn add(&self, name: &str, cpu: &str, more: &Value) -> Result<()> {
        let mut labels = json!({"size": "own", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64"});
        for (key, value) in more["labels"].as_object().into_iter().flatten() {
            labels[key] = value.clone();
        }
        let mut amounts = json!({"cpu": cpu, "memory": "16Gi", "pods": "50"});
        for (key, value) in more["amounts"].as_object().into_iter().flatten() {
            amounts[key] = value.clone();
        }
        self.0.create(json!({"kind": "Node", "spec": more["spec"],
            "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "status": {"allocatable": amounts, "capacity": amounts}}))?;
        self.0.wait(&format!("the node {name} to be Ready"), secs(60), |target| {
            let node = target.get("nodes", name)?;
            ensure!(condition(&node, "Ready")["status"] == "True", "{}", node["status"]);
            Ok(())
        })
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for node in self.0.list("nodes", "size=own").unwrap_or_default() {
            _ = self.0.delete("nodes", node["metadata"]["name"].as_str().unwrap_or_default());
        }
    }
}

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["type"] == kind).unwrap_or_default()
}

fn asking(name: &str, cpu: &str) -> Value {
    let mut container = container(name, "sleep infinity");
    container["resources"] = json!({"requests": {"cpu": cpu}});
    container
}

/// Waits until the node offers this, and answers it.
fn wait_for_offer(host: &Cluster, node: &str, offer: &Value) -> Result<Value> {
    host.wait(&format!("{node} to offer {offer}"), secs(60), |host| {
        let node = host.find("nodes", node)?.unwrap_or_default();
        let shown = &node["status"]["allocatable"];
        let same = offer.as_object().into_iter().flatten().all(|(name, amount)| shown[name] == *amount);
        ensure!(same && condition(&node, "Ready")["status"] == "True", "{}", node["status"]);
        Ok(node.clone())
    })
}

fn sum(_: &Clusters) -> Result<()> {
    let gpu = json!({"amounts": {"example.com/gpu": "2"}, "labels": {"gpu": "yes"}});
    let machines = Machines::new(
        "capfar",
        &[("big", "4", json!({})), ("small", "2", gpu), ("closed", "16", json!({"spec": {"unschedulable": true}}))],
    )?;
    let world = World::elsewhere("sum", "caphost", "capfar", |_| {})?;
    let node = world.longshore().node().to_owned();
    wait_for_offer(&world.host, &node, &json!({"cpu": "6", "example.com/gpu": "2", "pods": "100"}))?;
    world.create_target_namespace()?;

    // Of nobody's business here.
    let begun = Instant::now();
    world.east.create(json!({"kind": "Pod", "metadata": {"name": "stranger"},
        "spec": {"nodeName": "big", "containers": [asking("main", "1500m")], "terminationGracePeriodSeconds": 0}}))?;
    wait_for_offer(&world.host, &node, &json!({"cpu": "4500m", "pods": "99"}))?;
    eprintln!("the pod of others is subtracted after {:.1?}", begun.elapsed());
    // Of ours: the host subtracts it by itself.
    world.host.create(world.pod("own", &[asking("main", "1")]))?;
    world.host.wait_for_ready("own")?;
    let before = wait_for_offer(&world.host, &node, &json!({"cpu": "4500m", "pods": "99"}))?;

    let begun = Instant::now();
    machines.add("more", "8", &json!({}))?;
    wait_for_offer(&world.host, &node, &json!({"cpu": "12500m", "pods": "149"}))?;
    eprintln!("another node is added {:.1?} after it was created", begun.elapsed());
    world.east.delete("nodes", "more")?;
    world.east.delete("pods", "stranger")?;
    let after = wait_for_offer(&world.host, &node, &json!({"cpu": "6", "pods": "100"}))?;
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    Ok(())
}

fn fragments(_: &Clusters) -> Result<()> {
    let machines = Machines::new("capfar", &[("big", "4", json!({})), ("small", "2", json!({}))])?;
    let world = World::elsewhere("fragments", "caphost", "capfar", |options| {
        options.node_spec = "placement: {evictAfterSeconds: 5}".into();
    })?;
    let node = world.longshore().node().to_owned();
    wait_for_offer(&world.host, &node, &json!({"cpu": "6"}))?;
    // It fits the sum and no node. The scheduler at home cannot know.
    world.host.create(world.pod("bare", &[asking("main", "5")]))?;
    let spec = world.placed(json!({"containers": [asking("main", "5")]}));
    let bare = world.host.wait_for_pod("bare", "stuck", |pod| {
        pod.condition("longshore.dev/Delegated")["reason"] == "Unschedulable" && pod.phase() == "Pending"
    })?;
    let said = bare.condition("longshore.dev/Delegated")["message"].to_string();
    assert!(said.contains("Insufficient cpu"), "{said}");
    world.host.delete("pods", "bare")?;
    world.host.wait_for_gone(&bare)?;

    world.host.create(deployment("web", 1, &spec))?;
    let first = world.host.wait_for_pods("app=web", 1, "bound", |pod| pod.0["spec"]["nodeName"] == node.as_str())?;
    let next = world.host.wait("it to be evicted, and replaced", secs(90), |host| {
        let pods = host.pods("app=web")?;
        let next = pods.iter().find(|pod| pod.uid() != first[0].uid() && pod.0["spec"]["nodeName"] == node.as_str());
        ensure!(next.is_some(), "{pods:?}");
        Ok(next.cloned())
    })?;
    let said = world.host.wait_for_event(first[0].name(), "NoRoom")?;
    assert!(said.contains("could not schedule it") && said.contains("ReplicaSet web-"), "{said}");
    // Whoever decides where pods go can see it.
    let controller =
        next.iter().find_map(|pod| pod.0["metadata"]["ownerReferences"][0]["uid"].as_str().map(str::to_owned));
    let kept = world.host.get("nodes", &node)?;
    let kept = kept["metadata"]["annotations"]["longshore.dev/no-room"].as_str().unwrap_or_default().to_owned();
    assert!(kept.contains(&controller.unwrap_or_default()), "{kept}");
    machines.add("more", "8", &json!({}))?;
    world.host.wait_for_pods("app=web", 1, "Ready", e2e::Pod::is_ready)?;
    Ok(())
}

fn nodes(_: &Clusters) -> Result<()> {
    let zone = |zone: &str| json!({"labels": {"topology.kubernetes.io/zone": zone, "disk": "ssd"}});
    let machines = Machines::new("capfar", &[("big", "4", zone("z1")), ("small", "2", zone("z2"))])?;
    let gpu = json!({"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}});
    machines.add("special", "16", &gpu)?;
    let world = World::elsewhere("nodes", "caphost", "capfar", |options| options.node_spec = "shape: Node".into())?;
    let whole = world.longshore().node().to_owned();
    let [big, small, special] = ["big", "small", "special"].map(|name| format!("{whole}-{name}"));
    let shown = wait_for_offer(&world.host, &big, &json!({"cpu": "4", "pods": "50"}))?;
    let labels = &shown["metadata"]["labels"];
    assert_eq!((&labels["topology.kubernetes.io/zone"], &labels["disk"]), (&json!("z1"), &json!("ssd")));
    assert_eq!(labels["type"], "virtual-kubelet");
    wait_for_offer(&world.host, &small, &json!({"cpu": "2"}))?;
    let shown = wait_for_offer(&world.host, &special, &json!({"cpu": "16"}))?;
    let has_taint = |node: &Value, key: &str| {
        node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(|taint| taint["key"] == key))
    };
    assert!(has_taint(&shown, "gpu") && has_taint(&shown, "longshore.dev/virtual-node"), "{}", shown["spec"]);

    // Whoever wants the VirtualNode, and no node of it in particular.
    let placed = |name: &str, cpu: &str| {
        json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": {
            "containers": [asking("main", cpu)], "nodeSelector": {"longshore.dev/virtual-node": whole},
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"key": "longshore.dev/virtual-node", "operator": "Exists"}]}})
    };
    world.host.create(placed("wide", "3"))?;
    let wide = world.host.wait_for_ready("wide")?;
    assert_eq!(wide.0["spec"]["nodeName"], big.as_str(), "there is room nowhere else");
    assert_eq!(world.delegate(&wide)?.0["spec"]["nodeName"], "big");
    let mut near = placed("near", "500m");
    near["spec"]["nodeSelector"]["topology.kubernetes.io/zone"] = "z2".into();
    world.host.create(near)?;
    assert_eq!(world.delegate(&world.host.wait_for_ready("near")?)?.0["spec"]["nodeName"], "small");
    // No node has room for this one, and the scheduler at home says so.
    world.host.create(placed("wider", "5"))?;
    let wider = world
        .host
        .wait_for_pod("wider", "left where it is", |pod| pod.condition("PodScheduled")["reason"] == "Unschedulable")?;
    assert_eq!(wider.0["spec"]["nodeName"], Value::Null);

    // A cordon over there closes the node here.
    world.east.patch("nodes", "big", &json!({"spec": {"unschedulable": true}}))?;
    world.host.wait("the cordon to be shown", secs(30), |host| {
        let node = host.get("nodes", &big)?;
        ensure!(has_taint(&node, "longshore.dev/cordoned") && node["status"]["allocatable"]["cpu"] == "4", "{node}");
        Ok(())
    })?;
    world.east.patch("nodes", "big", &json!({"spec": {"unschedulable": null}}))?;
    world.host.wait("the cordon to go", secs(30), |host| {
        let node = host.get("nodes", &big)?;
        ensure!(!has_taint(&node, "longshore.dev/cordoned"), "{node}");
        Ok(())
    })?;

    // A node that goes for good is emptied first; its pods start elsewhere. A process that knew nothing of it does so, too.
    world.longshore().kill9()?;
    let spec = placed("web", "1")["spec"].clone();
    world.host.create(deployment("web", 2, &spec))?;
    world.longshore().restart()?;
    world.host.wait_for_pods("app=web", 2, "Ready", e2e::Pod::is_ready)?;
    world.east.delete("nodes", "small")?;
    world.host.wait("its virtual node to go", secs(150), |host| match host.find("nodes", &small)? {
        Some(node) => e2e::bail!("{}", node["spec"]),
        None => Ok(()),
    })?;
    // What no controller makes again has gone with it.
    world.host.wait("its pod to go", secs(30), |host| match host.find_pod("near")? {
        Some(pod) => e2e::bail!("{pod}"),
        None => Ok(()),
    })?;
    let left = |pod: &e2e::Pod| pod.0["spec"]["nodeName"] != small.as_str();
    world.host.wait_for_pods("app=web", 2, "elsewhere", left)?;
    Ok(())
}

fn pools(_: &Clusters) -> Result<()> {
    let pool = |pool: &str| json!({"labels": {"pool": pool, "topology.kubernetes.io/zone": format!("zone-{pool}")}});
    let _machines =
        Machines::new("capfar", &[("one", "4", pool("a")), ("two", "2", pool("a")), ("three", "8", pool("b"))])?;
    let world = World::elsewhere("pools", "caphost", "capfar", |options| {
        options.node_spec = "shape: Pool, poolLabel: pool".into();
    })?;
    let whole = world.longshore().node().to_owned();
    let [a, b] = ["a", "b"].map(|name| format!("{whole}-{name}"));
    let shown = wait_for_offer(&world.host, &a, &json!({"cpu": "6"}))?;
    assert_eq!(shown["metadata"]["labels"]["topology.kubernetes.io/zone"], "zone-a");
    wait_for_offer(&world.host, &b, &json!({"cpu": "8"}))?;
    wait_for_offer(&world.host, &format!("{whole}-other"), &json!({"cpu": "0"}))?;
    for (name, node, machine) in [("in-a", &a, ["one", "two"]), ("in-b", &b, ["three", "three"])] {
        let mut pod = world.pod(name, &[asking("main", "1")]);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        world.host.create(pod)?;
        let delegate = world.delegate(&world.host.wait_for_ready(name)?)?;
        let there = delegate.0["spec"]["nodeName"].as_str().unwrap_or_default();
        assert!(machine.contains(&there), "{name} is on {there}");
    }
    Ok(())
}

/// The same for what is declared in the host: it is reported, and goes in order.
fn declared(_: &Clusters) -> Result<()> {
    let _machines = Machines::new("capfar", &[("one", "4", json!({})), ("two", "2", json!({}))])?;
    let world = Declared::between("parts", "caphost", "capfar")?;
    let (target, node) = (world.name("far"), world.name("node"));
    let kubeconfig = world.keep_kubeconfig("far", &world.east.admin_kubeconfig()?)?;
    world.declare("Target", &target, &json!({"kubeconfig": kubeconfig}))?;
    world.declare("VirtualNode", &node, &json!({"targets": [{"name": target}], "shape": "Node"}))?;
    world.wait_for("virtualnodes", &node, "Ready", "True", secs(60))?;
    let parts = format!("longshore.dev/virtual-node={node}");
    let one = format!("{node}-one");
    wait_for_offer(&world.host, &one, &json!({"cpu": "4"}))?;
    world.host.create(world.pod(&one, "web", &[asking("main", "1")]))?;
    let proxy = world.host.wait_for_ready("web")?;
    world.host.wait("both resources to say how full they are", secs(60), |host| {
        let (node, target) = (host.get("virtualnodes", &node)?, host.get("targets", &target)?);
        let full = node["status"]["usage"]["cpu"] == "1/6" && target["status"]["usage"]["cpu"] == "1/6";
        ensure!(full && node["status"]["targets"] == "1/1", "{} {}", node["status"], target["status"]);
        Ok(())
    })?;
    let refused = world.host.patch("virtualnodes", &node, &json!({"spec": {"shape": "Cluster"}}));
    let refused = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(refused.contains("shape cannot be changed"), "the shape stays: {refused}");
    world.host.delete("virtualnodes", &node)?;
    world.host.wait_for_gone(&proxy)?;
    world.host.wait("its nodes to go", secs(60), |host| {
        let left = host.list("nodes", &parts)?.len();
        ensure!(left == 0, "{left} are left\n{}", world.log());
        Ok(())
    })?;
    assert!(world.east.pods("longshore.dev/uid")?.is_empty());
    Ok(())
}

fn places(clusters: &Clusters) -> Result<()> {
    let _far = Machines::new("capfar", &[("big", "4", json!({})), ("small", "2", json!({}))])?;
    let tainted = json!({"labels": {"disk": "ssd"}});
    let _west = Machines::new("capwest", &[("wide", "8", tainted)])?;
    let west = clusters.0.kubeconfig("capwest")?;
    let world = World::elsewhere("places", "caphost", "capfar", |options| {
        options.more_targets = vec![("west".into(), west)];
        options.node_spec = "placement: {strategy: Ordered}".into();
    })?;
    wait_for_offer(&world.host, world.longshore().node(), &json!({"cpu": "14"}))?;
    let target = |name: &str| -> Result<String> {
        let pod = world.host.wait_for_ready(name)?;
        Ok(pod.0["metadata"]["annotations"]["longshore.dev/target"].as_str().unwrap_or_default().to_owned())
    };
    world.host.create(world.pod("first", &[asking("main", "1")]))?;
    assert_eq!(target("first")?, "east", "the first in the list");
    // It would fit the first one's sum, and none of its nodes.
    world.host.create(world.pod("wide", &[asking("main", "5")]))?;
    assert_eq!(target("wide")?, "west");
    let said = world.host.wait_for_event("wide", "Placed")?;
    assert!(said.contains("too little cpu"), "{said}");
    let mut selects = world.pod("selects", &[asking("main", "100m")]);
    selects["spec"]["nodeSelector"]["disk"] = "ssd".into();
    // At home nothing has this label: bound by hand, as a scheduler would that knows.
    selects["spec"]["nodeName"] = world.longshore().node().into();
    selects["spec"]["nodeSelector"] = Value::Null;
    selects["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}});
    world.host.create(selects)?;
    assert_eq!(target("selects")?, "west");
    assert!(world.host.wait_for_event("selects", "Placed")?.contains("not selected"));
    Ok(())
}

fn drain(_: &Clusters) -> Result<()> {
    let _far = Machines::new("capfar", &[("big", "8", json!({}))])?;
    let _west = Machines::new("capwest", &[("wide", "8", json!({}))])?;
    let world = Declared::between("drain", "caphost", "capfar")?;
    let west = World::cluster("capwest", &world.namespace)?;
    let [far_name, west_name, node] = ["far", "west", "node"].map(|name| world.name(name));
    for (name, cluster) in [(&far_name, &world.east), (&west_name, &west)] {
        let kubeconfig = world.keep_kubeconfig(name, &cluster.admin_kubeconfig()?)?;
        world.declare("Target", name, &json!({"kubeconfig": kubeconfig}))?;
    }
    world.declare(
        "VirtualNode",
        &node,
        &json!({"targets": [{"name": far_name}, {"name": west_name}],
        "placement": {"strategy": "Ordered"}}),
    )?;
    wait_for_offer(&world.host, &node, &json!({"cpu": "16"}))?;
    let spec = world.pod(&node, "web", &[asking("main", "1")])["spec"].clone();
    world.host.create(deployment("web", 3, &spec))?;
    let target = |pod: &e2e::Pod| pod.0["metadata"]["annotations"]["longshore.dev/target"].clone();
    world.host.wait_for_pods("app=web", 3, "in the first target", |pod| pod.is_ready() && target(pod) == *far_name)?;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    let created = world.host.kubectl_with(&["create", "-f", "-"], budget.to_string().as_bytes())?;
    created.ok()?;

    let longshore = |args: &[&str]| -> Result<e2e::Output> {
        let kubeconfig = World::kubeconfig("caphost")?;
        let kubeconfig = kubeconfig.to_string_lossy();
        World::longshore_command(&[args, &["--kubeconfig", &kubeconfig]].concat())
    };
    world.host.create(world.pod(&node, "bare", &[asking("main", "100m")]))?;
    world.host.wait_for_ready("bare")?;
    let refused = longshore(&["drain", &far_name])?;
    assert!(refused.stderr.contains("/bare") && refused.stderr.contains("--force"), "{}", refused.stderr);
    let bare = world.host.pod("bare")?;
    world.host.delete("pods", "bare")?;
    world.host.wait_for_gone(&bare)?;

    let watched = world.host.kubectl_beside(&[
        "get",
        "deployment",
        "web",
        "-w",
        "-o",
        "jsonpath={.status.availableReplicas}{\"\\n\"}",
    ])?;
    let said = longshore(&["drain", &far_name, "--timeout", "120"])?.ok()?;
    assert!(said.contains("is empty"), "{said}");
    let pods = world
        .host
        .wait_for_pods("app=web", 3, "in the other target", |pod| pod.is_ready() && target(pod) == *west_name)?;
    assert_eq!(pods.len(), 3);
    let counts: Vec<u32> = watched.lines().iter().filter_map(|line| line.trim().parse().ok()).collect();
    assert!(!counts.is_empty() && counts.iter().all(|count| *count >= 2), "the budget holds: {counts:?}");
    drop(watched);
    assert_eq!(world.host.get("targets", &far_name)?["spec"]["cordoned"], true);
    assert!(world.east.pods("app=web")?.is_empty());
    wait_for_offer(&world.host, &node, &json!({"cpu": "8"}))?;
    longshore(&["uncordon", &far_name])?.ok()?;
    wait_for_offer(&world.host, &node, &json!({"cpu": "16"}))?;
    world.host.wait("new pods to go there again", secs(60), |host| {
        let name = format!("again-{}", host.pods("")?.len());
        host.create(world.pod(&node, &name, &[asking("main", "100m")]))?;
        let pod = host.wait_for_ready(&name)?;
        ensure!(target(&pod) == *far_name, "{pod}");
        Ok(())
    })?;

    // The whole node, by kubectl. There is no other one where the budget could be kept.
    world.host.kubectl(&["delete", "poddisruptionbudget", "web"])?.ok()?;
    let drained = world.host.kubectl(&["drain", &node, "--force", "--timeout=80s"])?.ok()?;
    assert!(drained.contains("drained"), "{drained}");
    for cluster in [&world.east, &west] {
        cluster.wait_for_pods(&format!("longshore.dev/node={node}"), 0, "gone", |_| true)?;
    }
    world.host.kubectl(&["uncordon", &node])?.ok()?;
    world.host.wait_for_pods("app=web", 3, "Ready again", e2e::Pod::is_ready)?;
    Ok(())
}
