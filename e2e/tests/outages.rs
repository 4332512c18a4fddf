//! Whole machines fail, on clusters that nobody else uses: API servers restart, nodes are drained and die, and two hosts
//! have the same names in one target.

use e2e::{Context, IDLE, Pod, Result, World, bail, container, ensure, json, secs};

const HOST: &str = "outhost";
const TARGET: &str = "outeast";
const API_SERVER: &str = "kube-apiserver";

/// Clusters of this test's own, until it ends.
struct Machines;

impl Machines {
    fn up() -> Result<Self> {
        let machines = Self;
        World::lab()?.up(&[HOST, TARGET])?;
        Ok(machines)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if let Err(error) = World::lab().and_then(|lab| Ok(lab.down_only(&[HOST, TARGET])?)) {
            eprintln!("the clusters of the outages are not down: {error:#}");
        }
    }
}

/// Starts again whatever is stopped of a cluster.
fn repair(cluster: &str) -> Result<()> {
    Ok(World::lab()?.up(&[cluster])?)
}

fn running(world: &World, name: &str) -> Result<(Pod, Pod)> {
    world.host.create(world.pod(name, &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready(name)?;
    let delegate = world.delegate(&proxy)?;
    Ok((proxy, delegate))
}

/// Waits until a pod is Ready on both sides, and fails if it is not the same as before.
fn ensure_same(world: &World, (proxy, delegate): &(Pod, Pod)) -> Result<()> {
    let here = world.host.wait_for_ready(proxy.name())?;
    let there = world.delegate(proxy)?;
    ensure!(here.uid() == proxy.uid(), "{here}");
    ensure!(there.uid() == delegate.uid() && there.container_ids() == delegate.container_ids(), "{there}");
    Ok(())
}

fn ensure_works(world: &World, name: &str) -> Result<()> {
    let (proxy, _) = running(world, name)?;
    world.host.delete("pods", name)?;
    world.host.wait_for_gone(&proxy)?;
    ensure!(world.delegates(&proxy)?.is_empty(), "{proxy} has left something");
    Ok(())
}

/// Time in which nothing may happen: longer than leadership lasts without its API server, shorter than a target's silence.
fn let_it_be_down() {
    std::thread::sleep(secs(9));
}

fn api_servers_restart(world: &World) -> Result<()> {
    let steady = running(world, "steady")?;
    for cluster in [TARGET, HOST] {
        World::lab()?.stop(cluster, API_SERVER)?;
        let_it_be_down();
        repair(cluster)?;
        ensure_works(world, &format!("after-{cluster}"))?;
        ensure_same(world, &steady)?;
        world.longshore().check()?;
    }
    Ok(())
}

/// Waits until a proxy says that its delegate is not scheduled or not taken up, and that it is not Ready.
fn wait_for_waiting(world: &World, proxy: &Pod) -> Result<()> {
    world.host.wait("the proxy to say why it waits", secs(40), |host| {
        let pod = host.pod(proxy.name())?;
        let delegated = pod.condition("longshore.dev/Delegated");
        ensure!(pod.uid() == proxy.uid() && !pod.is_ready() && !pod.is_finished(), "{pod}");
        ensure!(delegated["status"] == "False", "{delegated}");
        Ok(())
    })
}

fn a_node_is_drained(world: &World) -> Result<()> {
    let (proxy, delegate) = running(world, "drained")?;
    let node = delegate.text("/spec/nodeName").to_owned();
    world.east.kubectl(&["drain", &node, "--ignore-daemonsets", "--timeout=60s"])?.ok()?;
    wait_for_waiting(world, &proxy)?;
    world.east.kubectl(&["uncordon", &node])?.ok()?;
    let ready = world.host.wait_for_ready("drained")?;
    let next = world.delegate(&ready)?;
    ensure!(ready.uid() == proxy.uid() && next.uid() != delegate.uid(), "{ready}, {next}");
    Ok(())
}

fn a_node_dies(world: &World) -> Result<()> {
    let (proxy, delegate) = running(world, "doomed")?;
    world.host.create(world.one_shot("once", &[container("main", IDLE)]))?;
    let once = world.host.wait_for_ready("once")?;
    World::lab()?.stop(TARGET, "kubelet")?;
    // As the target's garbage collector does with pods of nodes that are gone: nobody can say how they ended.
    for name in ["doomed", "once"] {
        world.east.delete_with("pods", name, "gracePeriodSeconds=0")?;
    }
    wait_for_waiting(world, &proxy)?;
    let failed = world.host.wait_for_pod("once", "finished", Pod::is_finished)?;
    ensure!((failed.uid(), failed.phase()) == (once.uid(), "Failed"), "{failed}");
    ensure!(failed.text("/status/reason") == "DelegateLost", "{failed}");
    repair(TARGET)?;
    let ready = world.host.wait_for_ready("doomed")?;
    let next = world.delegate(&ready)?;
    ensure!(ready.uid() == proxy.uid() && next.uid() != delegate.uid(), "{ready}, {next}");
    ensure!(world.delegates(&once)?.is_empty(), "it is not run again");
    Ok(())
}

fn two_hosts_share_a_target(world: &World) -> Result<()> {
    let other = World::elsewhere("neighbour", "host", TARGET, |_| ())?;
    other.wait_for_node()?;
    let host = World::cluster("host", &world.namespace)?;
    host.create(json!({"kind": "Namespace", "metadata": {"name": world.namespace}}))?;
    host.wait("the service account of the new namespace", e2e::PATIENCE, |host| {
        host.find("serviceaccounts", "default")?.context("none yet")
    })?;
    let ended = with_a_neighbour(world, &other, &host);
    // In any case: its pods have to go while somebody can let them go.
    host.delete("namespaces", &world.namespace)?;
    let gone = host.wait("the neighbour's namespace to go", secs(60), |host| {
        host.find("namespaces", &world.namespace)?.map_or(Ok(()), |found| bail!("{}", found["status"]))
    });
    ended.and(gone)
}

fn with_a_neighbour(world: &World, other: &World, host: &e2e::Cluster) -> Result<()> {
    let ours = running(world, "same")?;
    host.create(other.pod("same", &[container("main", IDLE)]))?;
    host.create(other.pod("theirs", &[container("main", IDLE)]))?;
    let theirs = host.wait_for_ready("theirs")?;
    let message = host.wait_for_event("same", "NameConflict")?;
    ensure!(message.contains("same"), "{message}");
    // Neither takes the other's for its own, nor for a leftover.
    for longshore in [world.longshore(), other.longshore()] {
        longshore.kill9()?;
        longshore.restart()?;
    }
    ensure_works(world, "ours")?;
    ensure_same(world, &ours)?;
    let still = host.wait_for_ready("theirs")?;
    ensure!(still.uid() == theirs.uid() && still.container_ids() == theirs.container_ids(), "{still}");

    world.host.delete("pods", "same")?;
    world.host.wait_for_gone(&ours.0)?;
    let next = host.wait("the neighbour's to be Ready", secs(90), |host| {
        let pod = host.pod("same")?;
        ensure!(pod.is_ready(), "{pod}");
        Ok(pod)
    })?;
    ensure!(world.east.pod("same")?.label("longshore.dev/uid") == next.uid(), "it has the name now");
    Ok(())
}

#[test]
fn whole_machines_fail() -> Result<()> {
    let _machines = Machines::up()?;
    let world = World::elsewhere("machines", HOST, TARGET, |_| ())?;
    world.wait_for_node()?;
    api_servers_restart(&world).context("an API server restarts")?;
    a_node_is_drained(&world).context("a node is drained")?;
    a_node_dies(&world).context("a node dies")?;
    two_hosts_share_a_target(&world).context("two hosts share a target")
}
