//! The virtual node, as the host's control plane and `kubectl` deal with nodes.

use e2e::{Cut, IDLE, Pod, Result, Value, World, container, deployment, ensure, json, secs, write_json};
use lab::{Lab, Simulation, UpOptions};

const TARGET: &str = "nodesim";
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// A target of simulated nodes, which goes with its cluster.
struct Target(Lab);

impl Target {
    fn up(nodes: u32) -> Result<Self> {
        let target = Self(Lab::open()?);
        target.0.up_with(&[TARGET], &UpOptions { kubelet: Some(false), ..UpOptions::default() })?;
        target.0.simulate(TARGET, &Simulation { nodes, ..Simulation::default() })?;
        Ok(target)
    }

    fn kubectl(&self, args: &[&str]) -> Result<()> {
        e2e::run(self.0.kubectl(TARGET)?.args(args), b"")?.ok().map(drop)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        _ = self.0.down_only(&[TARGET]);
    }
}

fn node(world: &World) -> Result<Value> {
    world.host.get("nodes", world.longshore().node())
}

fn condition(node: &Value, kind: &str) -> Value {
    let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["type"] == kind).unwrap_or_default()
}

/// Waits until the Node passes, which `look` says by its error.
fn wait_for(world: &World, what: &str, look: impl Fn(&Value) -> Result<()>) -> Result<Value> {
    world.host.wait(what, secs(60), |_| {
        let node = node(world)?;
        look(&node)?;
        Ok(node)
    })
}

#[test]
fn a_node_is_what_its_target_is() -> Result<()> {
    let target = Target::up(2)?;
    let places = ["topology.kubernetes.io/zone=north", "topology.kubernetes.io/region=lake"];
    target.kubectl(&[&["label", "nodes", "--all"][..], &places].concat())?;
    let gadgets =
        json!({"status": {"capacity": {"example.com/gadget": "3"}, "allocatable": {"example.com/gadget": "3"}}});
    for name in ["kwok-1", "kwok-2"] {
        target.kubectl(&["patch", "node", name, "--subresource", "status", "--patch", &gadgets.to_string()])?;
    }
    World::lab()?;
    let world = World::elsewhere("target", "host", TARGET, |options| options.node_spec = "taints: []".into())?;
    world.wait_for_node()?;
    let seen = wait_for(&world, "the node to show its target", |node| {
        let labels = &node["metadata"]["labels"];
        ensure!(labels[ZONE] == "north" && labels[REGION] == "lake", "{labels}");
        ensure!(node["status"]["allocatable"]["example.com/gadget"] == "6", "{}", node["status"]["allocatable"]);
        // The one with which every node begins is taken away by the host.
        ensure!(node["spec"]["taints"].is_null(), "no taints were wanted: {}", node["spec"]);
        Ok(())
    })?;
    let labels = &seen["metadata"]["labels"];
    for (key, value) in [
        ("kubernetes.io/hostname", world.longshore().node()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
    ] {
        ensure!(labels[key] == value, "{key} in {labels}");
    }
    let status = &seen["status"];
    ensure!(status["addresses"] == json!([{"type": "InternalIP", "address": "172.30.0.1"}]), "{}", status["addresses"]);
    let port = &status["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    ensure!(*port == world.longshore().port(), "{port}");
    ensure!(status["nodeInfo"]["kubeletVersion"].as_str().is_some_and(|it| it.starts_with("v1.")), "{status}");
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        ensure!(condition(&seen, kind)["status"] == "False", "{status}");
    }
    ensure!(condition(&seen, "NetworkUnavailable").is_null(), "that is for the control plane: {status}");

    // What the next process does not know yet, it does not take back.
    let name = format!("metadata.name={}", world.longshore().node());
    let kinds = ["-o", r#"jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}{"\n"}"#];
    let watch =
        world.host.kubectl_beside(&[&["get", "nodes", "--watch", "--field-selector", &name][..], &kinds].concat())?;
    watch.wait_for_line("north", secs(30))?;
    world.longshore().kill9()?;
    world.longshore().restart()?;
    world.host.create(json!({"kind": "Pod", "metadata": {"name": "placed"},
        "spec": world.placed(json!({"nodeSelector": {}, "containers": [container("main", IDLE)]}))}))?;
    world.host.wait_for_ready("placed")?;
    // Nodes that do not agree have no zone in common, and the node has one all the same.
    target.kubectl(&["label", "node", "kwok-2", "--overwrite", "topology.kubernetes.io/zone=south"])?;
    watch.wait_for_line("virtual", secs(60))?;
    let mut zones = watch.lines();
    zones.dedup();
    ensure!(zones == ["north", "virtual"], "{zones:?}");
    ensure!(node(&world)?["metadata"]["labels"][REGION] == "lake", "the region is still the same");

    // A pressure is the target's when all of its nodes have it.
    let press = |name: &str| {
        let pressed = json!({"status": {"conditions": [{"type": "DiskPressure", "status": "True", "reason": "Full"}]}});
        target.kubectl(&["patch", "node", name, "--subresource", "status", "--patch", &pressed.to_string()])
    };
    press("kwok-1")?;
    wait_for(&world, "one node to be left", |node| {
        ensure!(node["status"]["allocatable"]["example.com/gadget"] == "3", "{}", node["status"]["allocatable"]);
        Ok(())
    })?;
    ensure!(condition(&node(&world)?, "DiskPressure")["status"] == "False", "half of it is not full");
    press("kwok-2")?;
    wait_for(&world, "the pressure to show", |node| {
        let disk = condition(node, "DiskPressure");
        ensure!(disk["status"] == "True", "{disk}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_node_outlives_its_process_and_comes_back_when_it_is_deleted() -> Result<()> {
    let world = World::alone("lives")?;
    let name = world.longshore().node().to_owned();
    let first = world.wait_for_node()?;
    // Closed by hand, it stays closed, whoever starts anew.
    world.host.kubectl(&["cordon", &name])?.ok()?;
    world.longshore().stop()?;
    ensure!(world.host.get("nodes", &name)?["metadata"]["uid"] == first["metadata"]["uid"], "another node");
    world.longshore().restart()?;
    wait_for(&world, "the next process to have written the node", |node| {
        let beat = condition(node, "Ready")["lastHeartbeatTime"].clone();
        ensure!(beat != condition(&first, "Ready")["lastHeartbeatTime"], "{beat}");
        Ok(())
    })?;
    ensure!(node(&world)?["spec"]["unschedulable"] == true, "{}", node(&world)?["spec"]);
    world.host.kubectl(&["uncordon", &name])?.ok()?;

    world.host.delete("nodes", &name)?;
    let again = wait_for(&world, "the node to be there again", |node| {
        ensure!(node["metadata"]["uid"] != first["metadata"]["uid"], "the same");
        ensure!(condition(node, "Ready")["status"] == "True", "{}", node["status"]);
        Ok(())
    })?;
    // The host's node controller adds those of old in its own time.
    let labels = |node: &Value| {
        let labels = node["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.into_iter().filter(|(key, _)| !key.starts_with("beta.kubernetes.io/")).collect::<Value>()
    };
    ensure!(labels(&again) == labels(&first), "{} instead of {}", labels(&again), labels(&first));
    let lease = ["get", "lease", "-n", "kube-node-lease", &name, "-o", "jsonpath={.metadata.ownerReferences[0].uid}"];
    world.host.wait("the lease to be the new node's", secs(30), |host| {
        let owner = host.kubectl(&lease)?.stdout;
        ensure!(again["metadata"]["uid"] == owner.as_str(), "{owner}");
        Ok(())
    })?;
    world.host.create(world.pod("later", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("later").map(drop)
}

#[test]
fn a_drain_keeps_to_budgets_and_ends_delegates_gracefully() -> Result<()> {
    let world = World::alone("drain")?;
    let name = world.longshore().node();
    let script = "trap 'echo bye; exit 3' TERM; sleep 86400 & wait";
    let spec = world.placed(json!({"containers": [container("main", script)], "terminationGracePeriodSeconds": 30}));
    world.host.create(deployment("web", 2, &spec))?;
    let pods = world.host.wait_for_pods("app=web", 2, "Ready", Pod::is_ready)?;
    world.host.create(json!({"kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}))?;
    world.host.wait("the budget to count its pods", secs(30), |host| {
        let status = &host.get("poddisruptionbudgets", "web")?["status"];
        ensure!(status["disruptionsAllowed"] == 1, "{status}");
        Ok(())
    })?;
    let record = world.record_target()?;
    let drain = world.host.kubectl(&["drain", name, "--ignore-daemonsets", "--force", "--timeout", "20s"])?;
    ensure!(drain.code != 0 && drain.stderr.contains("disruption budget"), "{drain:?}");
    ensure!(node(&world)?["spec"]["unschedulable"] == true, "it is not cordoned");
    let left = world.host.pods("app=web")?;
    let left: Vec<_> = left.iter().filter(|pod| pod.text("/spec/nodeName") == name && !pod.is_terminating()).collect();
    ensure!(left.len() == 1 && left[0].is_ready(), "one of them has to stay: {left:?}");
    let kept = world.delegate(left[0])?;
    ensure!(kept.is_ready() && !kept.is_terminating(), "{kept}");

    world.host.delete("poddisruptionbudgets", "web")?;
    world.host.kubectl(&["drain", name, "--ignore-daemonsets", "--force", "--timeout", "60s"])?.ok()?;
    for pod in &pods {
        world.host.wait_for_gone(pod)?;
    }
    world.wait_for_no_delegates()?;
    // Both were asked to end, and did so by themselves.
    for pod in &pods {
        let ended = record.observations()?.into_iter().any(|one| {
            let code = &one.pod.container("main")["state"]["terminated"]["exitCode"];
            one.pod.label("longshore.dev/uid") == pod.uid() && *code == 3
        });
        ensure!(ended, "{pod} was killed: {}", record.tell());
    }
    world.host.kubectl(&["uncordon", name])?.ok()?;
    world.host.wait_for_pods("app=web", 2, "Ready again", Pod::is_ready).map(drop)
}

#[test]
fn the_pod_of_a_daemon_set_waits_and_says_why() -> Result<()> {
    let world = World::alone("daemons")?;
    let name = world.longshore().node();
    let record = world.record_home()?;
    let mut spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    spec["tolerations"] = json!([{"operator": "Exists"}]);
    world.host.create(json!({"kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}},
        "template": {"metadata": {"labels": {"app": "agent"}}, "spec": spec}}}))?;
    let held = world.host.wait_for_pods("app=agent", 1, "held", |pod| {
        pod.condition("longshore.dev/Delegated")["reason"] == "OffloadHeld"
    })?;
    let message = held[0].condition("longshore.dev/Delegated")["message"].to_string();
    ensure!(message.contains("NotIn virtual-kubelet"), "{message}");
    world.host.wait_for_event(held[0].name(), "OffloadHeld")?;
    ensure!(world.delegates(&held[0])?.is_empty(), "it was started");
    // The controller makes no other in its place, and neither side goes on writing about it. A change of something else shows
    // that whoever would have done so has had his turn.
    let settled = record.observations()?.len();
    world.host.create(world.pod("other", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("other")?;
    let about = |from: usize| -> Result<usize> {
        Ok(record.observations()?[from..].iter().filter(|one| one.pod.label("app") == "agent").count())
    };
    ensure!(about(settled)? <= 1, "{}", record.tell());
    let status = &world.host.get("daemonsets", "agent")?["status"];
    ensure!(status["desiredNumberScheduled"] == 1 && status["numberUnavailable"] == 1, "{status}");
    ensure!(world.host.pods("app=agent")?[0].uid() == held[0].uid(), "it was replaced");

    // What the message says helps: the controller takes the pod back by itself.
    let away = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}]}]}}});
    world.host.patch("daemonsets", "agent", &json!({"spec": {"template": {"spec": {"affinity": away}}}}))?;
    world.host.wait_for_gone(&held[0])?;
    world.host.wait("the DaemonSet to want nothing here", secs(60), |host| {
        let status = &host.get("daemonsets", "agent")?["status"];
        ensure!(status["desiredNumberScheduled"] == 0 && status["currentNumberScheduled"] == 0, "{status}");
        Ok(())
    })?;
    ensure!(condition(&world.host.get("nodes", name)?, "Ready")["status"] == "True", "the node suffers");
    Ok(())
}

#[test]
fn pods_of_a_node_that_is_out_of_service_are_given_up_and_nothing_is_left() -> Result<()> {
    let (world, berth) = World::cuttable("out", "")?;
    let name = world.longshore().node();
    world.host.create(world.pod("stuck", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("stuck")?;
    berth.cut(&world.east.address()?, Cut::Both)?;
    let out = wait_for(&world, "the node to be NotReady", |node| {
        let ready = condition(node, "Ready");
        ensure!(ready["status"] == "False", "{ready}");
        let memory = condition(node, "MemoryPressure");
        ensure!(memory["status"] == "Unknown", "nobody knows: {memory}");
        Ok(())
    });
    out?;
    world.host.kubectl(&["delete", "pod", "stuck", "--wait=false"])?.ok()?;
    ensure!(world.host.pod("stuck")?.is_terminating(), "it went although its delegate may run");
    let taint = format!("{}=yes:NoExecute", "node.kubernetes.io/out-of-service");
    world.host.kubectl(&["taint", "node", name, &taint])?.ok()?;
    world.host.wait_for_gone(&proxy)?;
    berth.heal()?;
    world.wait_for_no_delegates()?;
    world.host.kubectl(&["taint", "node", name, &format!("{taint}-")])?.ok()?;
    world.wait_for_node()?;
    world.host.create(world.pod("next", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("next").map(drop)
}

#[test]
fn heartbeats_have_the_priority_of_nodes() -> Result<()> {
    let lab = World::lab()?;
    let host = World::cluster("host", "default")?;
    let account = format!("flow-{}", std::process::id());
    let kubeconfig = host.stranger_kubeconfig(&account)?;
    let dir = tempfile::tempdir()?;
    let path = write_json(&dir, "kubeconfig.json", &kubeconfig)?;
    host.create(json!({"kind": "ClusterRoleBinding", "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}]}))?;
    let shipped = include_str!("../../hack/flow-schema.yaml")
        .replace("{namespace: longshore, name: longshore}", &format!("{{namespace: default, name: {account}}}"))
        .replace("name: longshore-node", &format!("name: {account}"));
    ensure!(shipped.matches(&account).count() == 2, "{shipped}");
    let seen = (|| {
        host.kubectl_with(&["apply", "-f", "-"], shipped.as_bytes())?.ok()?;
        let target = lab.kubeconfig("east")?;
        let world = World::changed("flow", |options| {
            (options.host, options.target) = (path.clone(), target);
        })?;
        world.wait_for_node()?;
        world.host.wait("heartbeats at the priority of nodes", secs(60), |host| {
            let metrics = host.kubectl(&["get", "--raw", "/metrics"])?.ok()?;
            let wanted = [&format!("flow_schema=\"{account}\""), "priority_level=\"node-high\""];
            let line = metrics.lines().find(|line| {
                line.starts_with("apiserver_flowcontrol_dispatched_requests_total")
                    && wanted.iter().all(|word| line.contains(*word))
            });
            let count: f64 = line.and_then(|line| line.rsplit(' ').next()).unwrap_or("0").parse()?;
            // A lease and a status, at least.
            ensure!(count >= 2.0, "{line:?}");
            Ok(())
        })
    })();
    for (plural, name) in [("flowschemas", &account), ("clusterrolebindings", &account), ("serviceaccounts", &account)]
    {
        host.delete(plural, name)?;
    }
    seen
}
