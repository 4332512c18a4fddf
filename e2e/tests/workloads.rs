//! What users run goes on running, in another cluster.

use e2e::{IDLE, IMAGE, Pod, Result, Value, World, container, deployment, ensure, job, json, secs, stateful_set};

#[test]
fn a_deployment_becomes_available_and_scales() -> Result<()> {
    let world = World::new("deployment")?;
    let node = world.longshore().node();
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 3, &spec))?;

    let proxies = world.host.wait_for_pods("app=web", 3, "Ready", Pod::is_ready)?;
    world.host.wait("the Deployment to be available", secs(20), |host| {
        let status = &host.get("deployments", "web")?["status"];
        ensure!(status["availableReplicas"] == 3, "{status}");
        Ok(())
    })?;

    let namespace = world.east.get("namespaces", &world.namespace)?;
    let host_id = world.host.get("namespaces", "kube-system")?["metadata"]["uid"].clone();
    for proxy in &proxies {
        assert_eq!(proxy.text("/spec/nodeName"), node, "the proxy is bound to the virtual node");
        assert_eq!(proxy.text("/status/podIP"), "", "an address of the target means nothing at home");
        assert_eq!(proxy.text("/status/hostIP"), "172.30.0.1", "the node's address is Longshore's");

        let delegate = world.delegate(proxy)?;
        assert_eq!(delegate.name(), proxy.name());
        assert!(delegate.is_ready(), "what is Ready at home is Ready in the target: {delegate}");
        assert_eq!(delegate.text("/spec/nodeName"), "east-node", "it runs on a real node");
        let labels = proxy.0["metadata"]["labels"].as_object().unwrap();
        for (key, value) in labels {
            assert_eq!(&delegate.0["metadata"]["labels"][key], value, "the label {key} is the same");
        }
        assert_eq!(delegate.label("longshore.dev/node"), node);
        assert_eq!(delegate.label("longshore.dev/host"), host_id.as_str().unwrap());
        let owners = &delegate.0["metadata"]["ownerReferences"];
        assert_eq!(owners.as_array().map(Vec::len), Some(1), "one owner: {owners}");
        assert_eq!(owners[0]["kind"], "Namespace", "its controller is the namespace: {owners}");
        assert_eq!(owners[0]["uid"], namespace["metadata"]["uid"]);
        assert_eq!(owners[0]["controller"], true);
    }

    world.host.scale("deployments", "web", 1)?;
    world.host.wait_for_pods("app=web", 1, "left", |_| true)?;
    world.east.wait_for_pods("app=web", 1, "left", |_| true)?;
    Ok(())
}

#[test]
fn the_virtual_node_says_what_it_is() -> Result<()> {
    let world = World::new("node")?;
    let name = world.longshore().node();
    let node = world.host.get("nodes", name)?;
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], name);
    assert_eq!(node["metadata"]["labels"]["type"], "virtual-kubelet");
    let taint = json!({"key": "longshore.dev/virtual-node", "value": name, "effect": "NoSchedule"});
    assert!(node["spec"]["taints"].as_array().unwrap().contains(&taint), "{}", node["spec"]);
    for resource in ["cpu", "memory", "pods"] {
        assert!(node["status"]["allocatable"][resource].is_string(), "{}", node["status"]["allocatable"]);
    }
    let lease = world.host.kubectl(&["get", "lease", "-n", "kube-node-lease", name, "-o", "name"])?.ok()?;
    assert_eq!(lease.trim(), format!("lease.coordination.k8s.io/{name}"));
    Ok(())
}

#[test]
fn a_job_runs_to_completion() -> Result<()> {
    let world = World::new("job")?;
    let spec = world.placed(json!({"containers": [container("main", "echo work is done")]}));
    world.host.create(job("sum", 3, 2, &spec))?;
    world.host.wait("the Job to complete", secs(60), |host| {
        let status = &host.get("jobs", "sum")?["status"];
        ensure!(status["succeeded"] == 3 && status["completionTime"].is_string(), "{status}");
        Ok(())
    })?;
    let proxies = world.host.wait_for_pods("app=sum", 3, "Succeeded", |pod| pod.phase() == "Succeeded")?;
    let logs = world.host.kubectl(&["logs", proxies[0].name()])?.ok()?;
    assert_eq!(logs, "work is done\n", "the log of a finished pod can be read");

    world.host.delete("jobs", "sum")?;
    world.host.wait_for_pods("app=sum", 0, "gone", |_| true)?;
    world.wait_for_no_delegates()
}

#[test]
fn a_stateful_set_keeps_its_names() -> Result<()> {
    let world = World::new("statefulset")?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(stateful_set("web", 2, &spec))?;
    let first = world.host.wait_for_pods("app=web", 2, "Ready", Pod::is_ready)?;
    assert_eq!(first.iter().map(Pod::name).collect::<Vec<_>>(), ["web-0", "web-1"]);
    let delegate = world.delegate(&first[0])?;

    world.host.delete("pods", "web-0")?;
    let anew = |pod: &Pod| pod.is_ready() && pod.uid() != first[0].uid();
    let second = world.host.wait_for_pod("web-0", "Ready again with a new UID", anew)?;
    let successor = world.delegate(&second)?;
    assert_ne!(successor.uid(), delegate.uid(), "a new proxy has a new delegate");
    assert_eq!(world.host.pod("web-1")?.uid(), first[1].uid(), "its sibling is left alone");
    world.east.wait_for_gone(&delegate)
}

#[test]
fn a_crash_loop_shows_at_home() -> Result<()> {
    let world = World::new("crashloop")?;
    world.host.create(world.pod("loop", &[container("main", "echo oh no; exit 7")]))?;
    let proxy = world.host.wait_for_pod("loop", "in CrashLoopBackOff after a restart", |pod| {
        let state = &pod.container("main")["state"]["waiting"];
        state["reason"] == "CrashLoopBackOff" && pod.restarts() > 0
    })?;
    let main = proxy.container("main");
    let message = main["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("back-off"), "the target's message is shown: {message}");
    assert_eq!(main["lastState"]["terminated"]["exitCode"], 7, "{main}");
    assert_eq!(proxy.phase(), "Running", "a pod that is restarted runs on");
    assert!(!proxy.is_ready());
    Ok(())
}

#[test]
fn an_image_that_cannot_be_pulled_shows_at_home() -> Result<()> {
    let world = World::new("imagepull")?;
    let mut main = container("main", IDLE);
    main["image"] = "nowhere.invalid/nothing:1".into();
    world.host.create(world.pod("pull", &[main]))?;
    let proxy = world.host.wait_for_pod("pull", "unable to pull", |pod| {
        let reason = pod.container("main")["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        ["ErrImagePull", "ImagePullBackOff"].contains(&reason)
    })?;
    let message = proxy.container("main")["state"]["waiting"]["message"].to_string();
    assert!(message.contains("nowhere.invalid/nothing:1"), "the message names the image: {message}");
    assert_eq!(proxy.phase(), "Pending");
    Ok(())
}

#[test]
fn a_pod_with_a_claim_is_held_and_says_why() -> Result<()> {
    let world = World::new("held")?;
    let field = "spec.volumes[0].persistentVolumeClaim";
    // The scheduler would hold a pod with an unbound claim itself, so this pod comes with its node.
    let mut spec = world.placed(json!({
        "containers": [container("main", IDLE)],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }));
    spec["nodeName"] = world.longshore().node().into();
    world.host.create(json!({"kind": "Pod", "metadata": {"name": "held"}, "spec": spec}))?;

    let message = world.host.wait_for_event("held", "OffloadHeld")?;
    assert!(message.contains(field), "the event names the field: {message}");
    let proxy = world
        .host
        .wait_for_pod("held", "held", |pod| pod.container("main")["state"]["waiting"]["reason"] == "OffloadHeld")?;
    assert_eq!(proxy.phase(), "Pending");
    let condition = proxy.condition("longshore.dev/Delegated");
    assert_eq!(condition["status"], "False", "{condition}");
    assert!(condition["message"].to_string().contains(field), "the condition names the field: {condition}");
    assert!(world.delegates(&proxy)?.is_empty(), "nothing was made in the target");
    assert!(world.east.find("namespaces", &world.namespace)?.is_none(), "not even a namespace");

    world.host.delete("pods", "held")?;
    world.host.wait_for_gone(&proxy)
}

#[test]
fn init_containers_run_in_order_beside_a_sidecar() -> Result<()> {
    let world = World::new("init")?;
    let mounted = |name: &str, script: &str| {
        let mut container = container(name, script);
        container["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
        container
    };
    let mut sidecar = mounted("sidecar", IDLE);
    sidecar["restartPolicy"] = "Always".into();
    world.host.create(world.pod_of(
        "init",
        json!({
            "initContainers": [
                mounted("first", "echo first > /work/order"),
                sidecar,
                mounted("second", "echo second >> /work/order"),
            ],
            "containers": [mounted("main", &format!("cat /work/order; {IDLE}"))],
            "volumes": [{"name": "work", "emptyDir": {}}],
        }),
    ))?;
    let proxy = world.host.wait_for_ready("init")?;
    for name in ["first", "second"] {
        assert_eq!(proxy.container(name)["state"]["terminated"]["exitCode"], 0, "{}", proxy.container(name));
    }
    assert!(proxy.container("sidecar")["state"]["running"].is_object(), "{}", proxy.container("sidecar"));
    assert_eq!(proxy.container("sidecar")["ready"], true);
    assert_eq!(world.host.kubectl(&["logs", "init", "-c", "main"])?.ok()?, "first\nsecond\n");
    Ok(())
}

#[test]
fn the_downward_api_tells_what_is_true_at_home() -> Result<()> {
    let world = World::new("downward")?;
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut main = container("main", "echo $POD_UID $POD_NAME $POD_NAMESPACE $NODE_NAME $ACCOUNT $APP");
    main["env"] = Value::Array(vec![
        field("POD_UID", "metadata.uid"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("NODE_NAME", "spec.nodeName"),
        field("ACCOUNT", "spec.serviceAccountName"),
        field("APP", "metadata.labels['app']"),
    ]);
    world.host.create(world.one_shot("truth", &[main]))?;
    let proxy = world.host.wait_for_pod("truth", "Succeeded", |pod| pod.phase() == "Succeeded")?;
    let words = world.host.kubectl(&["logs", "truth"])?.ok()?;
    let node = world.longshore().node();
    assert_eq!(words, format!("{} truth {} {node} default truth\n", proxy.uid(), world.namespace));
    Ok(())
}

#[test]
fn a_failed_pod_shows_its_exit_code() -> Result<()> {
    let world = World::new("failed")?;
    let failing = "echo last words > /dev/termination-log; exit 42";
    world.host.create(world.one_shot("failed", &[container("main", failing)]))?;
    let proxy = world.host.wait_for_pod("failed", "Failed", |pod| pod.phase() == "Failed")?;
    let end = &proxy.container("main")["state"]["terminated"];
    assert_eq!(end["exitCode"], 42, "{end}");
    assert_eq!(end["message"], "last words\n", "the termination message comes home: {end}");
    assert_eq!(proxy.container("main")["image"], IMAGE);
    assert_eq!(proxy.restarts(), 0);
    Ok(())
}
