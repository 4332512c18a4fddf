//! What changes of a live pod reaches its delegate, and what changes there comes back.

use e2e::{Context, IDLE, IMAGE, PATIENCE, Pod, Result, Value, World, container, ensure, json, secs, write_json};

/// Waits until home has seen its own newest generation, as a kubelet would have.
fn wait_until_observed(world: &World, name: &str) -> Result<Pod> {
    world.host.wait_for_pod(name, "observed in its newest generation", |pod| {
        pod.0["status"]["observedGeneration"] == pod.0["metadata"]["generation"]
    })
}

fn ephemeral<'a>(pod: &'a Pod, name: &str) -> &'a Value {
    let all = pod.0["status"]["ephemeralContainerStatuses"].as_array();
    all.and_then(|all| all.iter().find(|one| one["name"] == name)).unwrap_or(&Value::Null)
}

#[test]
fn kubectl_debug_works_on_an_offloaded_pod() -> Result<()> {
    let world = World::new("debug")?;
    world.host.create(world.pod("sick", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("sick")?;
    let script = "echo hello from the doctor; trap 'exit 0' TERM; sleep 86400 & wait";
    let image = format!("--image={IMAGE}");
    let debug = ["debug", "sick", &image, "--image-pull-policy=IfNotPresent", "--container=doctor", "--target=main"];
    let command = [&debug[..], &["--", "sh", "-c", script]].concat();
    world.host.kubectl(&command)?.ok()?;

    let runs = |pod: &Pod| ephemeral(pod, "doctor")["state"]["running"].is_object();
    world.host.wait_for_pod("sick", "debugged", runs)?;
    let delegate = world.delegate(&proxy)?;
    assert_eq!(delegate.0["spec"]["ephemeralContainers"][0]["targetContainerName"], "main");
    let logs = world.host.kubectl(&["logs", "sick", "-c", "doctor"])?.ok()?;
    assert_eq!(logs, "hello from the doctor\n");
    // It is in the process namespace of its target.
    let seen = world.host.kubectl(&["exec", "sick", "-c", "doctor", "--", "sh", "-c", "cat /proc/1/cmdline"])?.ok()?;
    assert!(seen.contains("sleep 86400"), "{seen:?}");
    wait_until_observed(&world, "sick")?;

    // Somebody in the target who debugs the delegate is nobody's business at home.
    let stranger = ["debug", "sick", &image, "--image-pull-policy=IfNotPresent", "--container=stranger"];
    let command = [&stranger[..], &["--", "sh", "-c", IDLE]].concat();
    world.east.kubectl(&command)?.ok()?;
    world
        .east
        .wait_for_pod("sick", "debugged there", |pod| ephemeral(pod, "stranger")["state"]["running"].is_object())?;
    world.host.patch("pods", "sick", &json!({"metadata": {"labels": {"later": "yes"}}}))?;
    world.east.wait_for_pod("sick", "labelled", |pod| pod.label("later") == "yes")?;
    let shown = world.host.pod("sick")?;
    assert!(ephemeral(&shown, "stranger").is_null(), "{}", shown.0["status"]);
    assert!(runs(&shown), "{}", shown.0["status"]);
    Ok(())
}

#[test]
fn what_an_ephemeral_container_refers_to_follows_it() -> Result<()> {
    let world = World::new("debugenv")?;
    world.host.create(json!({"kind": "Service", "metadata": {"name": "foo"}, "spec": {"ports": [{"port": 80}]}}))?;
    world.host.create(world.pod("sick", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("sick")?;
    let dir = tempfile::tempdir()?;
    let custom = write_json(&dir, "custom", &json!({"envFrom": [{"configMapRef": {"name": "tools"}}]}))?;
    let image = format!("--image={IMAGE}");
    let custom = format!("--custom={}", custom.display());
    let debug = ["debug", "sick", &image, "--image-pull-policy=IfNotPresent", "--container=doctor", &custom];
    let script = format!("echo $TOOL $FOO_SERVICE_PORT; {IDLE}");
    world.host.kubectl(&[&debug[..], &["--", "sh", "-c", &script]].concat())?.ok()?;
    world.host.wait_for_pod("sick", "waiting for what is missing", |pod| {
        let message = pod.condition("longshore.dev/UpToDate")["message"].as_str().unwrap_or_default();
        message.contains("spec.ephemeralContainers[0].envFrom[0].configMapRef") && message.contains("tools")
    })?;
    ensure!(world.delegate(&proxy)?.0["spec"]["ephemeralContainers"].is_null(), "it has not started without");

    world.host.create(json!({"kind": "ConfigMap", "metadata": {"name": "tools"}, "data": {"TOOL": "hammer"}}))?;
    world.host.wait_for_pod("sick", "debugged", |pod| ephemeral(pod, "doctor")["state"]["running"].is_object())?;
    assert_eq!(world.host.kubectl(&["logs", "sick", "-c", "doctor"])?.ok()?, "hammer 80\n");
    wait_until_observed(&world, "sick")?;
    let follows = world.delegate(&proxy)?.0["metadata"]["annotations"]["longshore.dev/follows"].clone();
    ensure!(follows.as_str().is_some_and(|all| all.contains("configmap/tools")), "{follows}");
    world.host.delete("pods", "sick")?;
    world.east.wait("the copy to go with the pod", secs(60), |east| {
        ensure!(east.find("configmaps", "tools")?.is_none());
        Ok(())
    })
}

#[test]
fn a_resize_reaches_the_delegate_and_its_outcome_home() -> Result<()> {
    let world = World::new("resize")?;
    let mut main = container("main", IDLE);
    main["resources"] =
        json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}});
    world.host.create(world.pod("grows", &[main]))?;
    let proxy = world.host.wait_for_ready("grows")?;
    let patch =
        json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "80m"}}}]}}).to_string();
    world.host.kubectl(&["patch", "pod", "grows", "--subresource", "resize", "--patch", &patch])?.ok()?;
    world.east.wait_for_pod("grows", "of its new size", |pod| {
        pod.text("/spec/containers/0/resources/requests/cpu") == "80m"
    })?;
    let delegate = world.delegate(&proxy)?;
    assert_eq!(delegate.text("/spec/containers/0/resources/limits/cpu"), "500m", "the rest stays");
    // The target's kubelet carries it out, or says in a condition why not; either comes home.
    let proxy = world.host.wait_for_pod("grows", "told what became of it", |pod| {
        let allocated = &pod.container("main")["allocatedResources"]["cpu"];
        *allocated == "80m" || pod.condition("PodResizePending")["status"] == "True"
    })?;
    println!(
        "resize: allocated {}, resources {}, pending {}, in progress {}",
        proxy.container("main")["allocatedResources"],
        proxy.container("main")["resources"],
        proxy.condition("PodResizePending"),
        proxy.condition("PodResizeInProgress"),
    );
    wait_until_observed(&world, "grows")?;
    Ok(())
}

#[test]
fn every_change_is_observed_at_home() -> Result<()> {
    let world = World::new("observed")?;
    world.host.create(world.pod("changes", &[container("main", IDLE)]))?;
    let first = world.host.wait_for_ready("changes")?;
    world.host.patch("pods", "changes", &json!({"spec": {"activeDeadlineSeconds": 3600}}))?;
    let second = wait_until_observed(&world, "changes")?;
    assert!(second.0["metadata"]["generation"].as_i64() > first.0["metadata"]["generation"].as_i64());
    assert_eq!(world.delegate(&first)?.0["spec"]["activeDeadlineSeconds"], 3600);
    // A toleration of the virtual node's own taint reaches no delegate.
    let mut tolerations = second.0["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    tolerations.push(json!({"key": "longshore.dev/virtual-node", "operator": "Exists", "effect": "NoExecute"}));
    world.host.patch("pods", "changes", &json!({"spec": {"tolerations": tolerations}}))?;
    let third = wait_until_observed(&world, "changes")?;
    assert!(third.0["metadata"]["generation"].as_i64() > second.0["metadata"]["generation"].as_i64());
    for condition in third.0["status"]["conditions"].as_array().context("no conditions")? {
        assert_eq!(condition["observedGeneration"], third.0["metadata"]["generation"], "{condition}");
    }
    Ok(())
}

#[test]
fn annotations_of_the_delegate_come_home_and_go_no_further() -> Result<()> {
    let world = World::new("annotations")?;
    let mut pod = world.pod("noted", &[container("main", IDLE)]);
    pod["metadata"]["annotations"] = json!({"mine": "of home"});
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready("noted")?;
    let sent = |pod: &Pod| pod.0["metadata"]["annotations"]["longshore.dev/sent"].clone();
    let before = sent(&world.delegate(&proxy)?);
    let theirs = json!({"metadata": {"annotations": {"net.example/ip": "10.9.8.7", "mine": "of the target"}}});
    world.east.patch("pods", "noted", &theirs)?;
    let note = |pod: &Pod, key: &str| pod.0["metadata"]["annotations"][key].clone();
    let shown = world.host.wait_for_pod("noted", "annotated", |pod| note(pod, "net.example/ip") == "10.9.8.7")?;
    assert_eq!(note(&shown, "mine"), "of home", "the user's own is never overwritten");
    assert!(note(&shown, "longshore.dev/sent").is_null() && note(&shown, "longshore.dev/last").is_null());
    assert_eq!(sent(&world.delegate(&proxy)?), before, "what came back makes no update");

    world.host.patch("pods", "noted", &json!({"metadata": {"annotations": {"net.example/ip": "of the user"}}}))?;
    world.east.wait_for_pod("noted", "given the user's", |pod| note(pod, "net.example/ip") == "of the user")?;
    world.east.patch("pods", "noted", &json!({"metadata": {"annotations": {"net.example/more": "x"}}}))?;
    let shown = world.host.wait_for_pod("noted", "annotated again", |pod| note(pod, "net.example/more") == "x")?;
    assert_eq!(note(&shown, "net.example/ip"), "of the user");
    world.east.patch("pods", "noted", &json!({"metadata": {"annotations": {"net.example/more": null}}}))?;
    world.host.wait("the annotation to go", PATIENCE, |host| {
        let pod = host.pod("noted")?;
        ensure!(note(&pod, "net.example/more").is_null(), "{}", pod.0["metadata"]["annotations"]);
        Ok(())
    })
}

#[test]
fn a_gate_at_home_opens_within_a_second() -> Result<()> {
    let world = World::new("gate")?;
    let gate = "example.com/open";
    let containers = json!([container("main", IDLE)]);
    world.host.create(
        world.pod_of("gated", json!({"containers": containers, "readinessGates": [{"conditionType": gate}]})),
    )?;
    world
        .host
        .wait_for_pod("gated", "ready but for its gate", |pod| pod.condition("ContainersReady")["status"] == "True")?;
    let gated = world.host.wait_for_pod("gated", "held by its gate", |pod| {
        pod.condition("Ready")["reason"] == "ReadinessGatesNotReady"
    })?;
    assert!(!gated.is_ready());
    let set = |status: &str| {
        let patch = json!({"status": {"conditions": [{"type": gate, "status": status}]}}).to_string();
        let args = ["patch", "pod", "gated", "--subresource", "status", "--type", "strategic", "--patch", &patch];
        world.host.kubectl(&args)?.ok()
    };
    for (status, ready) in [("True", true), ("False", false)] {
        let history = world.record_home()?;
        let begin = std::time::Instant::now();
        set(status)?;
        history.wait("readiness to follow", secs(15), |all| {
            all.last().is_some_and(|one| one.pod.is_ready() == ready).then_some(())
        })?;
        println!("gate {status}: Ready followed {} ms after kubectl was started", begin.elapsed().as_millis());
    }
    let shown = world.host.pod("gated")?;
    assert_eq!(shown.condition(gate)["status"], "False", "a foreign condition is left as it is");
    Ok(())
}
