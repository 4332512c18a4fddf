//! Pods that ask to be offloaded: they find their cluster, keep what they ask of their node, and depend on nobody else.

use e2e::{
    Cluster, Declared, Hooked, IDLE, Pod, Result, Value, World, bail, container, deployment, ensure, job, json, secs,
    stateful_set,
};

const OFFLOAD: &str = "longshore.dev/offload";

/// A Longshore whose webhook is for the test's namespace alone.
struct Asked {
    // Dropped first: a Longshore that runs registers the webhook again.
    world: World,
    hook: Hooked,
}

impl Asked {
    fn start(name: &str, after: u32) -> Result<Self> {
        let hook = Hooked::new(name)?;
        let world = World::changed(name, |options| options.flags = hook.flags(after))?;
        world.wait_for_node()?;
        hook.cover(&world.host, &world.namespace, world.longshore().node())?;
        Ok(Self { world, hook })
    }

    fn node(&self) -> &str {
        self.world.longshore().node()
    }

    /// The node of the host's own that a pod runs on.
    fn ensure_at_home(&self, pod: &Pod) -> Result<()> {
        let node = pod.text("/spec/nodeName");
        ensure!(!node.is_empty() && node != self.node(), "{pod} is on {node:?}");
        Ok(())
    }

    fn wait_for_ready_there(&self, name: &str) -> Result<Pod> {
        let pod = self.world.host.wait_for_ready(name)?;
        ensure!(pod.text("/spec/nodeName") == self.node(), "{pod} is not on the virtual node");
        Ok(pod)
    }
}

fn pod(name: &str, annotations: &Value, mut spec: Value) -> Value {
    spec["terminationGracePeriodSeconds"] = json!(1);
    if spec["containers"].is_null() {
        spec["containers"] = json!([container("main", IDLE)]);
    }
    json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": name}, "annotations": annotations}, "spec": spec})
}

/// A workload whose pods have these annotations.
fn annotated(mut workload: Value, annotations: &Value) -> Value {
    workload["spec"]["template"]["metadata"]["annotations"] = annotations.clone();
    workload
}

fn refusal(host: &Cluster, pod: Value) -> Result<String> {
    let Err(error) = host.create(pod) else { bail!("the pod was created") };
    Ok(format!("{error:#}"))
}

#[test]
fn whatever_asks_is_offloaded() -> Result<()> {
    let asked = Asked::start("kinds", 30)?;
    let host = &asked.world.host;
    let any = json!({OFFLOAD: "true"});
    let spec = json!({"containers": [container("main", IDLE)], "terminationGracePeriodSeconds": 1,
        "nodeSelector": {"kubernetes.io/os": "linux"}});
    host.create(annotated(deployment("web", 2, &spec), &any))?;
    host.create(annotated(stateful_set("db", 1, &spec), &any))?;
    host.create(pod("bare", &json!({OFFLOAD: asked.node()}), json!({})))?;
    let once = json!({"containers": [container("main", "echo done")]});
    host.create(annotated(job("batch", 1, 1, &once), &any))?;
    let mut proxies = host.wait_for_pods("app=web", 2, "Ready", Pod::is_ready)?;
    proxies.push(asked.wait_for_ready_there("db-0")?);
    proxies.push(asked.wait_for_ready_there("bare")?);
    proxies.extend(host.wait_for_pods("app=batch", 1, "finished", Pod::is_finished)?);
    for proxy in &proxies {
        assert_eq!(proxy.text("/spec/nodeName"), asked.node(), "{proxy}");
        assert_eq!(asked.world.delegate(proxy)?.name(), proxy.name());
    }
    let web = asked.world.delegate(&proxies[0])?;
    assert_eq!(web.0["spec"]["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    host.wait("the Job to be complete", secs(30), |host| {
        let status = &host.get("jobs", "batch")?["status"];
        ensure!(status["succeeded"] == 1, "{status}");
        Ok(())
    })
}

#[test]
fn the_delegate_has_what_the_user_asks_of_a_node() -> Result<()> {
    let asked = Asked::start("own", 30)?;
    let host = &asked.world.host;
    // No node of home is like that, nor of the target: the delegate waits for one there.
    let own = json!({
        "nodeSelector": {"example.com/disk": "ssd"},
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "example.com/gpu", "operator": "Exists"}]}]}},
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "picky"}}}]},
        },
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "picky"}}}],
        "tolerations": [{"key": "example.com/gpu", "operator": "Exists"}],
    });
    host.create(pod("picky", &json!({OFFLOAD: asked.node()}), own.clone()))?;
    let bound = |pod: &Pod| pod.text("/spec/nodeName") == asked.node();
    let proxy = host.wait_for_pod("picky", "bound to the virtual node", bound)?;
    for field in ["nodeSelector", "topologySpreadConstraints"] {
        assert_eq!(proxy.0["spec"][field], Value::Null, "home's scheduler is not asked for it");
    }
    let delegate = host.wait("the delegate", secs(60), |_| asked.world.delegate(&proxy))?;
    for field in ["nodeSelector", "affinity", "topologySpreadConstraints"] {
        assert_eq!(delegate.0["spec"][field], own[field], "{field}");
    }
    let tolerations = delegate.0["spec"]["tolerations"].to_string();
    assert!(tolerations.contains("example.com/gpu") && !tolerations.contains("longshore.dev"), "{tolerations}");
    assert_eq!(delegate.0["metadata"]["annotations"]["longshore.dev/constraints"], Value::Null);
    Ok(())
}

#[test]
fn a_namespace_asks_for_its_pods_until_it_does_not() -> Result<()> {
    let asked = Asked::start("space", 30)?;
    let (host, node) = (&asked.world.host, asked.node());
    let nothing = json!({});
    // What cannot be meant is refused where it is written.
    let unknown = refusal(host, pod("lost", &json!({OFFLOAD: "wset"}), json!({})))?;
    assert!(unknown.contains("neither a target nor a virtual node here; known are"), "{unknown}");
    assert!(unknown.contains("east") && unknown.contains(node), "{unknown}");
    let mode = json!({OFFLOAD: "true", "longshore.dev/offload-mode": "remote"});
    let odd = refusal(host, pod("odd", &mode, json!({})))?;
    assert!(odd.contains("write Local, Remote or LocalAndRemote"), "{odd}");

    host.patch("namespaces", &asked.world.namespace, &json!({"metadata": {"labels": {OFFLOAD: "east"}}}))?;
    host.wait("the label to count", secs(60), |_| {
        ensure!(changed_once(host, &nothing)?, "pods are not offloaded yet");
        Ok(())
    })?;
    host.create(pod("there", &nothing, json!({})))?;
    host.create(pod("here", &json!({OFFLOAD: "false"}), json!({})))?;
    let daemon = json!({"kind": "DaemonSet", "metadata": {"name": "daemon"}, "spec": {
        "selector": {"matchLabels": {"app": "daemon"}},
        "template": pod("daemon", &nothing, json!({}))}});
    host.create(daemon)?;
    let there = asked.wait_for_ready_there("there")?;
    assert_eq!(there.0["metadata"]["annotations"][OFFLOAD], "east", "it says what its namespace has asked for");
    asked.ensure_at_home(&host.wait_for_ready("here")?)?;
    let daemons = host.wait_for_pods("app=daemon", 1, "Ready", Pod::is_ready)?;
    asked.ensure_at_home(&daemons[0])?;
    assert_eq!(daemons[0].0["metadata"]["annotations"]["longshore.dev/constraints"], Value::Null);

    host.patch("namespaces", &asked.world.namespace, &json!({"metadata": {"labels": {OFFLOAD: null}}}))?;
    host.wait("the label not to count any more", secs(60), |_| {
        ensure!(!changed_once(host, &nothing)?, "pods are still offloaded");
        Ok(())
    })?;
    host.create(pod("later", &nothing, json!({})))?;
    asked.ensure_at_home(&host.wait_for_ready("later")?)?;
    assert_eq!(host.pod("there")?.uid(), there.uid(), "what runs goes on where it is");
    Ok(())
}

/// Whether a new pod would be changed.
fn changed_once(host: &Cluster, annotations: &Value) -> Result<bool> {
    let mut manifest = pod("probe", annotations, json!({}));
    manifest["apiVersion"] = "v1".into();
    let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let output = host.kubectl_with(&args, manifest.to_string().as_bytes())?.ok()?;
    Ok(output.contains("longshore.dev/constraints"))
}

#[test]
fn nothing_else_depends_on_a_webhook_that_is_gone() -> Result<()> {
    let asked = Asked::start("gone", 30)?;
    let host = &asked.world.host;
    let trusted = asked.hook.trusted()?;
    asked.world.longshore().kill9()?;
    // Who does not ask does not notice.
    host.create(pod("plain", &json!({"note": "n"}), json!({})))?;
    asked.ensure_at_home(&host.wait_for_ready("plain")?)?;
    // By hand the same is done without it.
    let by_hand = json!({"nodeSelector": {"longshore.dev/virtual-node": asked.node()},
        "tolerations": [{"key": "longshore.dev/virtual-node", "operator": "Exists"}]});
    host.create(pod("by-hand", &json!({}), by_hand))?;
    // Who asks is told, instead of running where it should not.
    let wish = json!({OFFLOAD: asked.node()});
    let refused = refusal(host, pod("asks", &wish, json!({})))?;
    assert!(refused.contains("failed calling webhook") && refused.contains(asked.hook.name()), "{refused}");

    asked.world.longshore().restart()?;
    let proxy = asked.wait_for_ready_there("by-hand")?;
    assert_eq!(asked.world.delegate(&proxy)?.0["spec"]["nodeSelector"], Value::Null);
    asked.hook.wait_until_it_answers(host, asked.node())?;
    assert_eq!(asked.hook.trusted()?, trusted, "the certificates outlive the process");
    let printed = asked.hook.printed()?;
    assert_eq!(printed["webhooks"][1]["clientConfig"]["caBundle"], trusted, "who applies it by hand has the same");

    // They are made anew where they are lost, and the API server is told.
    asked.hook.forget_certificates()?;
    host.wait("another authority", secs(60), |_| {
        ensure!(asked.hook.trusted()? != trusted, "the API server trusts the old one");
        Ok(())
    })?;
    asked.hook.wait_until_it_answers(host, asked.node())?;
    host.create(pod("asks", &wish, json!({})))?;
    asked.wait_for_ready_there("asks").map(drop)
}

#[test]
fn a_pod_without_a_place_at_home_goes_after_a_while() -> Result<()> {
    let asked = Asked::start("while", 5)?;
    let host = &asked.world.host;
    let wish = json!({OFFLOAD: asked.node(), "longshore.dev/offload-mode": "LocalAndRemote"});
    let kind = json!({"nodeSelector": {"kubernetes.io/os": "linux"}});
    host.create(pod("blocker", &wish, kind))?;
    let blocker = host.wait_for_ready("blocker")?;
    asked.ensure_at_home(&blocker)?;
    // No node of home will do: there is one, and it is taken; or there is none of the kind.
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "blocker"}}}]}}});
    host.create(pod("apart", &wish, apart.clone()))?;
    let waits = |pod: &Pod| pod.condition("PodScheduled")["reason"] == "Unschedulable";
    host.wait_for_pod("apart", "unschedulable", waits)?;
    let picky = json!({"nodeSelector": {"example.com/disk": "ssd"}});
    host.create(pod("picky", &wish, picky.clone()))?;
    let proxy = asked.wait_for_ready_there("apart")?;
    assert_eq!(asked.world.delegate(&proxy)?.0["spec"]["affinity"], apart["affinity"]);
    let told = host.wait_for_event("apart", "OffloadAllowed")?;
    assert!(told.contains("for 5 s"), "{told}");
    let proxy =
        host.wait_for_pod("picky", "bound to the virtual node", |pod| pod.text("/spec/nodeName") == asked.node())?;
    let delegate = host.wait("the delegate", secs(60), |_| asked.world.delegate(&proxy))?;
    assert_eq!(delegate.0["spec"]["nodeSelector"], picky["nodeSelector"]);
    assert_eq!(delegate.0["spec"]["affinity"], Value::Null);
    Ok(())
}

#[test]
fn a_large_indexed_job_is_suspended_and_resumed() -> Result<()> {
    const COUNT: u32 = 50;
    let asked = Asked::start("indexed", 30)?;
    let (host, east) = (&asked.world.host, &asked.world.east);
    let script = "echo index $JOB_COMPLETION_INDEX; trap 'exit 1' TERM; sleep 2 & wait $!";
    let spec = json!({"containers": [container("main", script)], "terminationGracePeriodSeconds": 1});
    let mut indexed = annotated(job("sweep", COUNT, 12, &spec), &json!({OFFLOAD: "true"}));
    indexed["spec"]["completionMode"] = "Indexed".into();
    indexed["spec"]["suspend"] = true.into();
    // As Kueue has them, by which a target's own quotas would count the delegates.
    let queue = json!({"kueue.x-k8s.io/queue-name": "team-a", "kueue.x-k8s.io/priority-class": "low"});
    for (key, value) in queue.as_object().into_iter().flatten() {
        indexed["spec"]["template"]["metadata"]["labels"][key] = value.clone();
    }
    host.create(indexed)?;
    let suspend = |suspend: bool| host.patch("jobs", "sweep", &json!({"spec": {"suspend": suspend}})).map(drop);
    suspend(false)?;
    let some = host.wait("some of it to run", secs(60), |host| {
        let pods = host.pods("app=sweep")?;
        ensure!(pods.iter().any(Pod::is_ready), "{} pods", pods.len());
        Ok(pods)
    })?;
    let running = some.iter().find(|pod| pod.is_ready()).map_or("", Pod::uid);
    let delegates = east.pods(&format!("longshore.dev/uid={running},kueue.x-k8s.io/queue-name=team-a"))?;
    assert_eq!(delegates.len(), 1, "the labels have their names");
    assert_eq!(delegates[0].label("kueue.x-k8s.io/priority-class"), "low");
    let index = "batch.kubernetes.io/job-completion-index";
    let proxy = some.iter().find(|pod| pod.is_ready()).map(|pod| pod.label(index).to_owned());
    assert_eq!(Some(delegates[0].label(index).to_owned()), proxy);

    suspend(true)?;
    let unfinished = |pods: &[Pod]| pods.iter().filter(|pod| !pod.is_finished()).count();
    for cluster in [host, east] {
        cluster.wait("nothing to run any more", secs(60), |cluster| {
            let left = unfinished(&cluster.pods("app=sweep")?);
            ensure!(left == 0, "{left} pods are left");
            Ok(())
        })?;
    }
    suspend(false)?;
    host.wait("the Job to be complete", secs(300), |host| {
        let status = &host.get("jobs", "sweep")?["status"];
        ensure!(status["succeeded"] == COUNT && status["completedIndexes"] == "0-49", "{status}");
        Ok(())
    })
}

#[test]
fn a_target_that_is_declared_can_be_named_at_once() -> Result<()> {
    let hook = Hooked::new("named")?;
    let world = Declared::start_with("named", |_| Ok(hook.flags(30)))?;
    let name = world.name("east");
    let kubeconfig = world.keep_kubeconfig("east", &world.east.admin_kubeconfig()?)?;
    world.declare("Target", &name, &json!({"kubeconfig": kubeconfig}))?;
    hook.cover(&world.host, &world.namespace, &name)?;
    let wish = json!({OFFLOAD: name});
    world.host.create(pod("web", &wish, json!({})))?;
    let proxy = world.host.wait_for_ready("web")?;
    assert_eq!(proxy.text("/spec/nodeName"), name);
    assert_eq!(world.delegate(&proxy)?.name(), "web");
    Ok(())
}

#[test]
fn of_several_targets_behind_a_node_those_are_taken_that_a_pod_names() -> Result<()> {
    let (world, west, _berth) = World::with_west("several", "placement: {strategy: Ordered}")?;
    let named = |name: &str, wish: &str| {
        let mut pod = world.pod(name, &[container("main", IDLE)]);
        pod["metadata"]["annotations"] = json!({OFFLOAD: wish});
        pod
    };
    world.host.create(named("any", "true"))?;
    world.host.create(named("chosen", "west"))?;
    world.host.create(named("none", "north"))?;
    world.host.wait_for_ready("any")?;
    world.host.wait_for_ready("chosen")?;
    assert!(world.east.find_pod("any")?.is_some(), "the first in order");
    assert!(west.find_pod("chosen")?.is_some() && world.east.find_pod("chosen")?.is_none());
    let told = world.host.wait_for_event("none", "TargetRefused")?;
    assert!(told.contains("the pod's annotation longshore.dev/offload names north"), "{told}");
    Ok(())
}
