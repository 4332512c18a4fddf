//! Several replicas for one virtual node: one keeps it, and another goes on when that one ends, however it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use e2e::{Context, Hooked, IDLE, Longshore, Pod, Result, World, container, ensure, json, secs};

/// Within this long after a kill -9 another replica has the node.
const TAKEOVER: u64 = 15;

fn port(world: &World) -> Result<u64> {
    let node = world.host.get("nodes", world.longshore().node())?;
    node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().context("a node without a port")
}

/// Waits until the Node names this replica.
fn wait_for_keeper(world: &World, keeper: &Longshore, within: u64) -> Result<()> {
    world.host.wait("the node to name its new keeper", secs(within), |_| {
        let url = keeper.kubelet_url();
        let port = port(world)?;
        ensure!(url.ends_with(&format!(":{port}")), "port {port}, wanted {url}\n{}", keeper.log());
        Ok(())
    })
}

fn logs(world: &World, text: &str) -> Result<()> {
    let said = world.host.kubectl(&["logs", "steady"])?.ok()?;
    ensure!(said.contains(text), "{said}");
    Ok(())
}

fn steady(world: &World) -> Result<(Pod, Pod)> {
    world.host.create(world.pod("steady", &[container("main", &format!("echo hello; {IDLE}"))]))?;
    let proxy = world.host.wait_for_ready("steady")?;
    let delegate = world.delegate(&proxy)?;
    Ok((proxy, delegate))
}

/// The pod has noticed nothing.
fn ensure_untouched(world: &World, proxy: &Pod, delegate: &Pod) -> Result<()> {
    let (here, there) = (world.host.pod("steady")?, world.east.pod("steady")?);
    ensure!(here.uid() == proxy.uid() && here.is_ready(), "{here}");
    ensure!(there.uid() == delegate.uid() && there.restarts() == 0, "{there}");
    Ok(())
}

#[test]
fn another_replica_takes_over_after_a_kill() -> Result<()> {
    let world = World::alone("kill")?;
    let second = world.longshore().twin()?;
    let (proxy, delegate) = steady(&world)?;
    wait_for_keeper(&world, world.longshore(), 1)?;
    let home = world.record_home()?;
    world.longshore().kill9()?;
    let killed = Instant::now();
    wait_for_keeper(&world, &second, TAKEOVER)?;
    eprintln!("taken over {:.1?} after the kill", killed.elapsed());
    logs(&world, "hello")?;
    world.host.create(world.pod("later", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("later")?;
    ensure_untouched(&world, &proxy, &delegate)?;
    let unready = home.observations()?.into_iter().any(|one| one.pod.uid() == proxy.uid() && !one.pod.is_ready());
    assert!(!unready, "{}", home.tell());

    // Whoever was killed comes back and waits its turn.
    world.longshore().restart()?;
    world.host.create(world.pod("last", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("last")?;
    wait_for_keeper(&world, &second, 1)?;
    second.stop()?;
    wait_for_keeper(&world, world.longshore(), 6)?;
    logs(&world, "hello")
}

#[test]
fn a_replica_that_ends_in_order_hands_over_at_once() -> Result<()> {
    let world = World::alone("stop")?;
    let second = world.longshore().twin()?;
    let (proxy, delegate) = steady(&world)?;
    // Nobody who looks into a pod meanwhile notices.
    let asking = AtomicBool::new(true);
    let times = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut times = 0_u32;
            while asking.load(Ordering::Relaxed) {
                logs(&world, "hello")?;
                times += 1;
            }
            Ok::<_, e2e::Error>(times)
        });
        let stopped = world.longshore().stop().and_then(|_| wait_for_keeper(&world, &second, 6));
        asking.store(false, Ordering::Relaxed);
        stopped.and(asked.join().unwrap_or_else(|_| Err(e2e::anyhow!("it panicked"))))
    })?;
    eprintln!("logs were read {times} times while one replica ended");
    ensure_untouched(&world, &proxy, &delegate)?;
    logs(&world, "hello")?;
    // Back again, for the end of the test.
    world.longshore().restart()
}

#[test]
fn a_replica_that_slept_through_its_time_harms_nobody() -> Result<()> {
    let world = World::alone("sleep")?;
    let second = world.longshore().twin()?;
    let (proxy, delegate) = steady(&world)?;
    let target = world.record_target()?;
    let frozen = world.longshore().freeze()?;
    wait_for_keeper(&world, &second, TAKEOVER)?;
    // Work that the sleeper knows nothing of.
    world.host.delete("pods", "steady")?;
    world.host.wait_for_gone(&proxy)?;
    world.host.create(world.pod("steady", &[container("main", &format!("echo hello; {IDLE}"))]))?;
    let next = world.host.wait_for_ready("steady")?;
    drop(frozen);
    world.host.create(world.pod("later", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("later")?;
    wait_for_keeper(&world, &second, 15)?;
    assert_eq!(world.delegate(&next)?.restarts(), 0);
    assert!(world.delegates(&proxy)?.is_empty(), "{delegate} has gone with its proxy");
    logs(&world, "hello")?;
    target.ensure_nothing_doubled()
}

#[test]
fn two_that_do_not_know_of_each_other_do_no_harm() -> Result<()> {
    let world = World::alone("mistake")?;
    let flags = ["--lease-namespace", "default"].map(ToOwned::to_owned);
    let other = world.longshore().twin_with(|options| options.flags.extend(flags))?;
    world.host.wait("the other one to keep the node as well", secs(60), |_| {
        ensure!(other.log().contains("keeping this node"), "{}", other.log());
        Ok(())
    })?;
    let (home, target) = (world.record_home()?, world.record_target()?);
    let steady = steady(&world)?;
    for round in ["one", "two"] {
        let once = world.one_shot(&format!("once-{round}"), &[container("main", "sleep 2")]);
        world.host.create(once)?;
        world.host.create(world.pod(round, &[container("main", IDLE)]))?;
        let proxy = world.host.wait_for_ready(round)?;
        world.host.patch("pods", "steady", &json!({"metadata": {"labels": {"round": round}}}))?;
        world.east.wait_for_pod("steady", "changed", |pod| pod.label("round") == round)?;
        world.host.delete("pods", round)?;
        world.host.wait_for_gone(&proxy)?;
        world.host.wait_for_pod(&format!("once-{round}"), "completed", |pod| pod.phase() == "Succeeded")?;
    }
    ensure_untouched(&world, &steady.0, &steady.1)?;
    let failed = home.observations()?.into_iter().any(|one| one.pod.phase() == "Failed");
    assert!(!failed, "{}", home.tell());
    other.check()?;
    other.stop()?;
    target.ensure_nothing_doubled()
}

/// Whether a new pod that asks for it would be offloaded; nothing is created.
fn ask(world: &World, node: &str) -> Result<()> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe",
        "annotations": {"longshore.dev/offload": node}}, "spec": {"containers": [container("main", IDLE)]}});
    let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let created = world.host.kubectl_with(&args, pod.to_string().as_bytes())?.ok()?;
    ensure!(created.contains("longshore.dev/constraints"), "{created}");
    Ok(())
}

#[test]
fn two_replicas_serve_the_webhook_and_either_is_enough() -> Result<()> {
    let hook = Hooked::shared("both")?;
    let world = World::changed("both", |options| options.flags = hook.flags(30))?;
    let node = world.longshore().node().to_owned();
    hook.endpoint(hook.port(), true)?;
    hook.cover(&world.host, &world.namespace, &node)?;
    let registered = hook.configuration()?;
    let port = Hooked::free_port()?;
    let second = world.longshore().twin_with(|options| {
        for flag in options.flags.iter_mut().filter(|flag| **flag == Hooked::bind(hook.port())) {
            *flag = Hooked::bind(port);
        }
    })?;
    world.host.wait("the second replica to show the certificate of the first", secs(60), |_| {
        ensure!(Hooked::shown_at(port)? == Hooked::shown_at(hook.port())?, "they differ");
        Ok(())
    })?;
    hook.endpoint(port, true)?;
    for _ in 0..10 {
        ask(&world, &node)?;
    }

    // One is killed, and its endpoint goes as that of a pod does.
    world.longshore().kill9()?;
    hook.endpoint(hook.port(), false)?;
    hook.wait_until_it_answers(&world.host, &node)?;
    for _ in 0..10 {
        ask(&world, &node)?;
    }
    wait_for_keeper(&world, &second, TAKEOVER)?;
    let mut pod = world.pod("web", &[container("main", IDLE)]);
    pod["metadata"]["annotations"] = json!({"longshore.dev/offload": node});
    pod["spec"]["nodeSelector"] = json!({});
    pod["spec"]["tolerations"] = json!([]);
    world.host.create(pod)?;
    assert_eq!(world.host.wait_for_ready("web")?.text("/spec/nodeName"), node);

    // The other one ends in order: nobody who asks meanwhile notices.
    world.longshore().restart()?;
    world.wait_for_node()?;
    hook.endpoint(hook.port(), true)?;
    let asked = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| -> Result<u32> {
            let mut times = 0;
            while asked.load(Ordering::Relaxed) {
                ask(&world, &node)?;
                times += 1;
            }
            Ok(times)
        });
        let stopping = scope.spawn(|| second.stop());
        // As long as the API server may take to know of it.
        std::thread::sleep(secs(2));
        let gone = hook.endpoint(port, false);
        let stopped = stopping.join();
        asked.store(false, Ordering::Relaxed);
        let times = asking.join().unwrap_or_else(|_| Err(e2e::anyhow!("it panicked")))?;
        eprintln!("asked {times} times while one replica ended");
        gone?;
        stopped.unwrap_or_else(|_| Err(e2e::anyhow!("it panicked")))?;
        Ok::<_, e2e::Error>(())
    })?;
    // Nobody has written the configuration since it was made.
    let now = hook.configuration()?;
    assert_eq!(now["metadata"]["resourceVersion"], registered["metadata"]["resourceVersion"], "{now}");
    Ok(())
}
