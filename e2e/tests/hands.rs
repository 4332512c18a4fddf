//! Others have their hands in the target, or at home: they delete, edit, evict, limit and inject.

use e2e::{IDLE, Injector, Pod, Result, SIDECAR, World, bail, container, deployment, ensure, json, secs};

/// A pod that runs on both sides, and its delegate.
fn running(world: &World, pod: e2e::Value) -> Result<(Pod, Pod)> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready(&name)?;
    let delegate = world.delegate(&proxy)?;
    Ok((proxy, delegate))
}

/// Waits until a pod of the same name and proxy has another delegate, and is Ready at home.
fn wait_for_another(world: &World, proxy: &Pod, delegate: &Pod) -> Result<Pod> {
    let next = world.east.wait_for_pod(proxy.name(), "another one, Ready", |pod| {
        pod.uid() != delegate.uid() && pod.is_ready() && pod.label("longshore.dev/uid") == proxy.uid()
    })?;
    world.host.wait("the same proxy to be Ready with it", secs(30), |host| {
        let pod = host.pod(proxy.name())?;
        let ids = (pod.container_ids(), next.container_ids());
        ensure!(pod.uid() == proxy.uid() && pod.is_ready() && ids.0 == ids.1, "{pod}: {ids:?}");
        Ok(())
    })?;
    Ok(next)
}

#[test]
fn a_delegate_that_is_evicted_is_replaced() -> Result<()> {
    let world = World::new("evicted")?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 1, &spec))?;
    let proxy = world.host.wait_for_pods("app=web", 1, "Ready", Pod::is_ready)?.remove(0);
    let (delegate, target) = (world.delegate(&proxy)?, world.record_target()?);
    world.east.evict(delegate.name())?;
    target.wait_for_end_of(delegate.uid())?;
    wait_for_another(&world, &proxy, &delegate).map(drop)
}

#[test]
fn a_namespace_that_is_deleted_in_the_target_comes_back_with_its_pods() -> Result<()> {
    let world = World::new("razed")?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 2, &spec))?;
    let proxies = world.host.wait_for_pods("app=web", 2, "Ready", Pod::is_ready)?;
    world.host.create(world.one_shot("once", &[container("main", "trap 'exit 3' TERM; sleep 86400 & wait")]))?;
    let once = world.host.wait_for_ready("once")?;
    let before = world.east.get("namespaces", &world.namespace)?;
    let delegates = [world.delegate(&proxies[0])?, world.delegate(&proxies[1])?];
    world.east.delete("namespaces", &world.namespace)?;
    for (proxy, delegate) in proxies.iter().zip(&delegates) {
        wait_for_another(&world, proxy, delegate)?;
    }
    let after = world.east.get("namespaces", &world.namespace)?;
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    let ended = world.host.wait_for_pod("once", "finished", Pod::is_finished)?;
    assert_eq!((ended.uid(), ended.phase()), (once.uid(), "Failed"), "what may run once is not run again: {ended}");
    Ok(())
}

#[test]
fn a_namespace_that_is_deleted_at_home_takes_its_delegates_along() -> Result<()> {
    let world = World::new("leaving")?;
    let (_, delegate) = running(&world, world.pod("steady", &[container("main", IDLE)]))?;
    world.host.delete("namespaces", &world.namespace)?;
    world.east.wait_for_gone(&delegate)?;
    world.host.wait("the namespace to go", secs(60), |host| {
        host.find("namespaces", &world.namespace)?.map_or(Ok(()), |found| bail!("{}", found["status"]))
    })
}

#[test]
fn labels_that_somebody_takes_off_are_put_back() -> Result<()> {
    let world = World::new("edited")?;
    let (proxy, delegate) = running(&world, world.pod("steady", &[container("main", IDLE)]))?;
    let target = world.record_target()?;
    let labels = json!({"metadata": {"labels": {"longshore.dev/host": null, "longshore.dev/uid": null}}});
    world.east.patch("pods", "steady", &labels)?;
    world.east.wait_for_pod("steady", "labelled again", |pod| pod.label("longshore.dev/uid") == proxy.uid())?;
    let mine = json!({"metadata": {"labels": {"team": "theirs"}, "annotations": {"longshore.dev/sent": "0"}}});
    world.east.patch("pods", "steady", &mine)?;
    world.host.delete("pods", "steady")?;
    world.host.wait_for_gone(&proxy)?;
    assert!(world.east.find_pod("steady")?.is_none());
    let all: Vec<_> = target.observations()?.into_iter().map(|one| one.pod.uid().to_owned()).collect();
    assert!(all.iter().all(|uid| uid == delegate.uid()), "{}", target.tell());
    Ok(())
}

#[test]
fn a_delegate_that_loses_its_labels_while_it_ends_is_waited_for() -> Result<()> {
    let world = World::new("ending")?;
    let slow = "trap 'sleep 8; exit 0' TERM; sleep 86400 & wait";
    let (proxy, delegate) = running(&world, world.pod("slow", &[container("main", slow)]))?;
    world.host.delete_with("pods", "slow", "gracePeriodSeconds=30")?;
    world.east.wait_for_pod("slow", "told to go", |pod| pod.0["metadata"]["deletionTimestamp"].is_string())?;
    let labels = json!({"longshore.dev/host": null, "longshore.dev/node": null, "longshore.dev/uid": null});
    world.east.patch("pods", "slow", &json!({"metadata": {"labels": labels}}))?;
    world.host.wait_for_gone(&proxy)?;
    let left = world.east.find_pod("slow")?.filter(|pod| pod.uid() == delegate.uid() && pod.phase() == "Running");
    assert!(left.is_none(), "the proxy has gone before {}", delegate.name());
    world.east.wait_for_gone(&delegate)
}

#[test]
fn what_has_completed_at_home_is_not_taken_back_by_a_second_delegate() -> Result<()> {
    let world = World::new("again")?;
    let spec = json!({"restartPolicy": "OnFailure", "initContainers": [container("setup", "sleep 2")],
        "containers": [container("main", IDLE)]});
    let (proxy, delegate) = running(&world, world.pod_of("steady", spec))?;
    let home = world.record_home()?;
    world.east.delete_with("pods", "steady", "gracePeriodSeconds=0")?;
    wait_for_another(&world, &proxy, &delegate)?;
    for one in home.observations()? {
        let state = &one.pod.container("setup")["state"];
        ensure!(state["terminated"]["exitCode"] == 0, "{}\n{}", one.pod, home.tell());
    }
    let events = world.host.events_of("steady")?;
    assert!(!events.iter().any(|event| event["reason"] == "StatusRefused"), "{events:?}");
    Ok(())
}

#[test]
fn limits_of_the_target_are_obeyed_and_told() -> Result<()> {
    let world = World::new("limits")?;
    world.create_target_namespace()?;
    world.east.create(json!({"kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": [
        {"type": "Container", "default": {"memory": "64Mi"}, "defaultRequest": {"memory": "32Mi"}, "max": {"memory": "128Mi"}}]}}))?;
    let (proxy, delegate) = running(&world, world.pod("small", &[container("main", IDLE)]))?;
    assert_eq!(
        delegate.0["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi",
        "the target's own default"
    );
    assert!(proxy.0["spec"]["containers"][0]["resources"]["limits"].is_null());

    let mut big = container("main", IDLE);
    big["resources"] = json!({"limits": {"memory": "256Mi"}});
    world.host.create(world.pod("big", &[big]))?;
    let message = world.host.wait_for_event("big", "TargetRefused")?;
    assert!(message.contains("128Mi"), "{message}");
    world.host.wait_for_pod("big", "told why it waits", |pod| {
        pod.phase() == "Pending" && pod.condition("longshore.dev/Delegated")["reason"] == "TargetRefused"
    })?;
    world.east.delete("limitranges", "small")?;
    world.host.wait_for_ready("big")?;
    let same = world.delegate(&proxy)?;
    assert_eq!(same.uid(), delegate.uid(), "what the target has set is no reason to start again");
    Ok(())
}

#[test]
fn a_sidecar_that_the_target_injects_stays_there() -> Result<()> {
    let world = World::new("injected")?;
    world.create_target_namespace()?;
    let _injector = Injector::start(&world.east, &world.namespace)?;
    let (proxy, delegate) = running(&world, world.pod("steady", &[container("main", IDLE)]))?;
    assert!(delegate.container(SIDECAR)["state"]["running"].is_object(), "{delegate}");
    assert!(proxy.container(SIDECAR).is_null(), "home does not know it: {proxy}");
    // A change at home is sent all the same, and is no drift for ever after.
    world.host.patch("pods", "steady", &json!({"metadata": {"labels": {"stage": "two"}}}))?;
    let changed = world.east.wait_for_pod("steady", "changed", |pod| pod.label("stage") == "two")?;
    assert_eq!((changed.uid(), changed.label("injected")), (delegate.uid(), "true"));
    let settled = world.host.wait_for_pod("steady", "seen as changed", |pod| {
        pod.0["status"]["observedGeneration"] == pod.0["metadata"]["generation"]
    })?;
    world.host.create(world.pod("canary", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("canary")?;
    let versions = (settled.resource_version().to_owned(), world.delegate(&proxy)?.resource_version().to_owned());
    world.host.delete("pods", "canary")?;
    world
        .host
        .wait("the canary to go", secs(30), |host| host.find_pod("canary")?.map_or(Ok(()), |pod| bail!("{pod}")))?;
    let now = world.host.pod("steady")?;
    assert_eq!((now.resource_version(), world.delegate(&proxy)?.resource_version()), (&*versions.0, &*versions.1));
    world.host.delete("pods", "steady")?;
    world.host.wait_for_gone(&proxy)
}
