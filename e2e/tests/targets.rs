//! Several targets behind one virtual node.

use std::time::Instant;

use e2e::{
    Asked, Cluster, Cut, Fault, IDLE, Meddler, Pod, Result, World, anyhow, container, ensure, json, secs, stateful_set,
};

const CHOICE: &str = "longshore.dev/target";

fn target(pod: &Pod) -> &str {
    pod.0["metadata"]["annotations"][CHOICE].as_str().unwrap_or_default()
}

/// The delegates of a proxy in both targets.
fn everywhere(world: &World, west: &Cluster, proxy: &Pod) -> Result<(Vec<Pod>, Vec<Pod>)> {
    Ok((world.delegates(proxy)?, west.pods(&format!("longshore.dev/uid={}", proxy.uid()))?))
}

/// Fails unless the proxy has one delegate, where its annotation says.
fn ensure_in_place(world: &World, west: &Cluster, proxy: &Pod) -> Result<()> {
    let (east, west) = everywhere(world, west, proxy)?;
    let place = target(proxy);
    let counts = (east.len(), west.len());
    ensure!(counts == (usize::from(place == "east"), usize::from(place == "west")), "{proxy}: {place}, {counts:?}");
    Ok(())
}

#[test]
fn pods_are_spread_and_each_is_where_it_says() -> Result<()> {
    let (world, west, _) = World::with_west("spread", "")?;
    let names = ["a", "b", "c", "d"];
    for name in names {
        world.host.create(world.pod(name, &[container("main", &format!("echo I am {name}; {IDLE}"))]))?;
    }
    let mut in_west = 0;
    for name in names {
        let proxy = world.host.wait_for_ready(name)?;
        ensure_in_place(&world, &west, &proxy)?;
        in_west += usize::from(target(&proxy) == "west");
        let said = world.host.kubectl(&["logs", name])?.ok()?;
        assert!(said.contains(&format!("I am {name}")), "{said}");
    }
    assert_eq!(in_west, 2);
    assert!(world.host.wait_for_event("a", "Placed")?.contains("fewest"));
    for name in names {
        let proxy = world.host.pod(name)?;
        world.host.delete("pods", name)?;
        world.host.wait_for_gone(&proxy)?;
        let (east, west) = everywhere(&world, &west, &proxy)?;
        assert!(east.is_empty() && west.is_empty());
    }
    Ok(())
}

#[test]
fn a_pod_that_is_deleted_before_it_has_a_place_goes() -> Result<()> {
    let (world, west, _) = World::with_west("unplaced", "")?;
    world.longshore().kill9()?;
    let mut pod = world.pod("unplaced", &[container("main", IDLE)]);
    // Nobody keeps the node now, and its taint would hold the pod.
    pod["spec"]["nodeName"] = world.longshore().node().into();
    world.host.create(pod)?;
    let proxy = world.host.pod("unplaced")?;
    world.host.delete_with("pods", "unplaced", "gracePeriodSeconds=30")?;
    ensure!(world.host.pod("unplaced")?.is_terminating(), "somebody has to say that it has ended");
    world.longshore().restart()?;
    world.host.wait_for_gone(&proxy)?;
    let (east, west) = everywhere(&world, &west, &proxy)?;
    assert!(east.is_empty() && west.is_empty(), "nothing was started for it");
    Ok(())
}

#[test]
fn a_lost_target_stops_nothing_of_the_others() -> Result<()> {
    let (world, west, berth) = World::with_west("lost", "")?;
    for name in ["a", "b"] {
        world.host.create(world.pod(name, &[container("main", IDLE)]))?;
    }
    let pods = [world.host.wait_for_ready("a")?, world.host.wait_for_ready("b")?];
    let in_east = pods.iter().find(|pod| target(pod) == "east").expect("spread");
    let in_west = pods.iter().find(|pod| target(pod) == "west").expect("spread");
    let (home, delegate) = (world.record_home()?, world.delegate(in_east)?);

    // Even a process that knows nothing yet.
    world.longshore().kill9()?;
    berth.cut(&world.east.address()?, Cut::Both)?;
    world.longshore().restart()?;
    let restarted = Instant::now();
    for name in ["c", "d", "e"] {
        let mut pod = world.pod(name, &[container("main", IDLE)]);
        pod["spec"]["nodeName"] = world.longshore().node().into();
        world.host.create(pod)?;
    }
    for name in ["c", "d", "e"] {
        let proxy = world.host.wait_for_ready(name)?;
        assert_eq!(target(&proxy), "west");
    }
    eprintln!("three new pods Ready {:.1?} after a restart with a target out of reach", restarted.elapsed());
    world.host.wait("the lost pod not to be Ready", secs(20), |host| {
        let pod = host.pod(in_east.name())?;
        ensure!(pod.condition("Ready")["reason"] == "TargetUnreachable" && pod.phase() == "Running", "{pod}");
        Ok(())
    })?;
    let node = world.host.get("nodes", world.longshore().node())?;
    let ready = node["status"]["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    assert_eq!(ready.map(|one| &one["status"]), Some(&json!("True")), "one of its targets answers");

    berth.heal()?;
    let back = world.host.wait("the lost pod to be Ready again", secs(10), |host| {
        let pod = host.pod(in_east.name())?;
        ensure!(pod.is_ready(), "{pod}");
        Ok(pod)
    })?;
    assert_eq!(back.uid(), in_east.uid());
    assert_eq!(world.delegate(&back)?.uid(), delegate.uid());
    ensure_in_place(&world, &west, &back)?;
    let unready = home.observations()?.into_iter().any(|one| one.pod.uid() == in_west.uid() && !one.pod.is_ready());
    assert!(!unready, "the other target's pod has noticed nothing\n{}", home.tell());
    Ok(())
}

#[test]
fn a_pod_that_cannot_be_scheduled_moves_to_the_next_target() -> Result<()> {
    let (world, west, _) = World::with_west("move", "placement: {strategy: Ordered, moveAfterSeconds: 5}")?;
    // Beside this one it will not be.
    world.create_target_namespace()?;
    let mut blocker = json!({"kind": "Pod", "metadata": {"name": "blocker", "labels": {"app": "blocker"}},
        "spec": {"containers": [container("main", IDLE)], "terminationGracePeriodSeconds": 1}});
    world.east.create(blocker.take())?;
    world.east.wait_for_ready("blocker")?;
    let mut shy = world.pod("shy", &[container("main", IDLE)]);
    shy["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "blocker"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    let in_east = world.record_target()?;
    world.host.create(shy)?;
    let first = world.host.wait_for_pod("shy", "placed", |pod| !target(pod).is_empty())?;
    assert_eq!(target(&first), "east", "the first in the list");
    let ready = world.host.wait_for_ready("shy")?;
    assert_eq!((target(&ready), ready.uid()), ("west", first.uid()));
    ensure_in_place(&world, &west, &ready)?;
    assert!(world.host.wait_for_event("shy", "Moving")?.contains("west may"));
    in_east.ensure_nothing_doubled()
}

#[test]
fn a_create_that_arrives_after_a_move_is_stopped() -> Result<()> {
    World::lab()?.up(&["west"])?;
    let east = Meddler::before(&World::cluster("east", "default")?)?;
    let world = World::changed("late", |options| {
        options.target = east.kubeconfig();
        options.node_spec = "placement: {strategy: Ordered, moveAfterSeconds: 5}".into();
        options.more_targets =
            World::kubeconfig("west").map(|west| vec![("west".to_owned(), west)]).unwrap_or_default();
    })?;
    world.wait_for_node()?;
    let west = World::cluster("west", &world.namespace)?;
    // Beside a pod that is in the east it will not be.
    world.create_target_namespace()?;
    let mut late = world.pod("late", &[container("main", IDLE)]);
    late["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "blocker"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    let blocker = json!({"kind": "Pod", "metadata": {"name": "blocker", "labels": {"app": "blocker"}},
        "spec": {"containers": [container("main", IDLE)], "terminationGracePeriodSeconds": 1}});
    world.east.create(blocker)?;
    world.east.wait_for_ready("blocker")?;

    let creation = |asked: &Asked| asked.method == "POST" && asked.path.ends_with("/pods");
    east.times(1, creation, Fault::Held);
    world.host.create(late)?;
    world.host.wait("a create to be under way", secs(60), |_| {
        ensure!(east.asked().iter().any(creation), "none yet");
        Ok(())
    })?;
    // Whoever sent it does not live to see it arrive; the next one finds no room there, and moves the pod.
    world.longshore().kill9()?;
    world.longshore().restart()?;
    let ready = world.host.wait_for_ready("late")?;
    assert_eq!(target(&ready), "west");
    let home = world.record_home()?;
    let there = west.pod("late")?;
    world.east.delete_with("pods", "blocker", "gracePeriodSeconds=0")?;
    east.release();
    let answers = world.host.wait("the create to arrive", secs(60), |_| {
        let answers = east.released();
        ensure!(!answers.is_empty(), "not yet");
        Ok(answers)
    })?;
    assert_eq!(answers, [201], "nobody has the name there");
    world.east.wait("the second one to go", secs(90), |east| {
        east.find_pod("late")?.map_or(Ok(()), |pod| Err(anyhow!("{pod}")))
    })?;
    let here = world.host.pod("late")?;
    assert!(here.uid() == ready.uid() && here.is_ready() && target(&here) == "west", "{here}");
    let still = west.pod("late")?;
    assert_eq!((still.uid(), still.container_ids()), (there.uid(), there.container_ids()));
    let noticed = home.observations()?.into_iter().any(|one| one.pod.uid() == ready.uid() && !one.pod.is_ready());
    assert!(!noticed, "{}", home.tell());
    Ok(())
}

#[test]
fn a_stateful_set_moves_to_the_target_that_is_left() -> Result<()> {
    let (world, west, berth) = World::with_west("stateful", "placement: {strategy: Ordered}")?;
    let policy = json!({"metadata": {"annotations": {"longshore.dev/partition": "Replace after 10s"}}});
    world.host.patch("namespaces", &world.namespace, &policy)?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(stateful_set("db", 1, &spec))?;
    let first = world.host.wait_for_ready("db-0")?;
    assert_eq!(target(&first), "east", "the first in the list");
    let (stale, in_east) = (world.delegate(&first)?, world.record_target()?);

    berth.cut(&world.east.address()?, Cut::Both)?;
    // The name is free only once the old pod is gone for good, which nobody over there can say.
    let next = world.host.wait("another db-0 to be Ready", secs(90), |host| {
        let pod = host.pod("db-0")?;
        ensure!(pod.uid() != first.uid() && pod.is_ready(), "{pod}");
        Ok(pod)
    })?;
    assert_eq!(target(&next), "west");
    assert!(world.east.find_pod("db-0")?.is_some_and(|pod| pod.uid() == stale.uid()), "nobody could stop it");

    berth.heal()?;
    in_east.wait_for_end_of(stale.uid())?;
    ensure_in_place(&world, &west, &world.host.wait_for_ready("db-0")?)?;
    in_east.ensure_nothing_doubled()
}
