//! A link is cut without a word: it is noticed, said, and nothing is lost by it unless the user wants so.

use std::time::{Duration, Instant};

use e2e::{
    Berth, Change, Context, Cut, IDLE, Pod, Result, Value, World, bail, container, deployment, ensure, json, secs,
};

/// How soon a cut link is noticed, the time of the host's answers to the test included.
const NOTICE: Duration = secs(11);

/// How soon both sides agree after the link is there again.
const AGREEMENT: Duration = secs(10);

/// The configured heartbeat of these worlds is 10 s; the rest is what a question takes.
const SILENCE: Duration = secs(16);

fn condition(world: &World, kind: &str) -> Result<Value> {
    let node = world.host.get("nodes", world.longshore().node())?;
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["type"] == kind).with_context(|| format!("no condition {kind}"))
}

fn wait_for_condition(world: &World, kind: &str, status: &str, within: Duration) -> Result<()> {
    world.host.wait(&format!("the node's {kind} to be {status}"), within, |_| {
        let now = condition(world, kind)?;
        ensure!(now["status"] == status, "{now}");
        Ok(())
    })
}

fn cut(world: &World, berth: &Berth, direction: Cut) -> Result<Instant> {
    berth.cut(&world.east.address()?, direction)?;
    Ok(Instant::now())
}

/// A pod that runs on both sides, and its delegate.
fn running(world: &World, pod: Value) -> Result<(Pod, Pod)> {
    let name = pod["metadata"]["name"].as_str().context("no name")?.to_owned();
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready(&name)?;
    let delegate = world.delegate(&proxy)?;
    Ok((proxy, delegate))
}

fn wait_for_unready(world: &World, name: &str) -> Result<Pod> {
    world.host.wait(&format!("{name} not to be Ready"), SILENCE, |host| {
        let pod = host.pod(name)?;
        let ready = pod.condition("Ready");
        ensure!(ready["status"] == "False" && ready["reason"] == "TargetUnreachable", "{ready}");
        Ok(pod)
    })
}

#[test]
fn pods_behind_a_cut_link_wait_and_go_on() -> Result<()> {
    let (world, berth) = World::cuttable("wait", "")?;
    let (proxy, delegate) = running(&world, world.pod("steady", &[container("main", IDLE)]))?;
    let at = cut(&world, &berth, Cut::Both)?;
    wait_for_condition(&world, "longshore.dev/Reachable", "False", NOTICE)?;
    wait_for_condition(&world, "Ready", "False", SILENCE)?;
    let unready = wait_for_unready(&world, "steady")?;
    eprintln!("noticed, and said by node and pod, after {:.1?}", at.elapsed());
    assert_eq!((unready.phase(), unready.is_terminating()), ("Running", false), "{unready}");

    // Nobody will evict it: what admission has set is lifted.
    world.host.wait("no limit on the tolerations", secs(5), |host| {
        let pod = host.pod("steady")?;
        let limits = |one: &&Value| !one["tolerationSeconds"].is_null();
        let tolerations = pod.0["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        ensure!(tolerations.iter().find(limits).is_none(), "{tolerations:?}");
        Ok(())
    })?;

    // What comes meanwhile waits as well, and says why.
    let mut early = world.pod("early", &[container("main", IDLE)]);
    early["spec"]["nodeName"] = world.longshore().node().into();
    world.host.create(early)?;
    world.host.wait_for_pod("early", "waiting for the target", |pod| {
        pod.condition("longshore.dev/Delegated")["reason"] == "TargetUnreachable"
    })?;

    berth.heal()?;
    let healed = Instant::now();
    let ready = world.host.wait("steady to be Ready again", AGREEMENT, |host| {
        let pod = host.pod("steady")?;
        ensure!(pod.is_ready(), "{pod}");
        Ok(pod)
    })?;
    eprintln!("Ready again {:.1?} after the link was there", healed.elapsed());
    assert_eq!(ready.uid(), proxy.uid());
    let now = world.delegate(&ready)?;
    assert_eq!((now.uid(), now.restarts()), (delegate.uid(), 0), "the same delegate, not restarted");
    world.host.wait_for_ready("early")?;
    wait_for_condition(&world, "Ready", "True", AGREEMENT)
}

#[test]
fn a_short_break_changes_nothing() -> Result<()> {
    let (world, berth) = World::cuttable("short", "")?;
    let (proxy, _) = running(&world, world.pod("steady", &[container("main", IDLE)]))?;
    let home = world.record_home()?;
    cut(&world, &berth, Cut::Both)?;
    // Noticed, and over before it counts.
    wait_for_condition(&world, "longshore.dev/Reachable", "False", NOTICE)?;
    berth.heal()?;
    wait_for_condition(&world, "longshore.dev/Reachable", "True", AGREEMENT)?;
    let mut later = world.pod("later", &[container("main", IDLE)]);
    later["spec"]["nodeName"] = world.longshore().node().into();
    world.host.create(later)?;
    world.host.wait_for_ready("later")?;
    let unready = home.observations()?.into_iter().find(|one| one.pod.uid() == proxy.uid() && !one.pod.is_ready());
    assert!(unready.is_none(), "{}", home.tell());
    assert_eq!(condition(&world, "Ready")?["status"], "True");
    Ok(())
}

#[test]
fn packets_that_are_lost_in_one_direction_are_noticed_too() -> Result<()> {
    let (world, berth) = World::cuttable("oneway", "")?;
    let (proxy, delegate) = running(&world, world.pod("steady", &[container("main", IDLE)]))?;
    for direction in [Cut::Outward, Cut::Inward] {
        cut(&world, &berth, direction)?;
        wait_for_condition(&world, "longshore.dev/Reachable", "False", NOTICE)?;
        wait_for_unready(&world, "steady")?;
        berth.heal()?;
        world.host.wait("steady to be Ready again", AGREEMENT, |host| {
            ensure!(host.pod("steady")?.is_ready(), "not yet");
            Ok(())
        })?;
    }
    assert_eq!(world.delegate(&proxy)?.uid(), delegate.uid());
    Ok(())
}

#[test]
fn pods_are_replaced_where_the_user_does_not_want_to_wait() -> Result<()> {
    let (world, berth) = World::cuttable("replace", "partition: {policy: Replace, afterSeconds: 15}")?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 1, &spec))?;
    let proxy = world.host.wait_for_pods("app=web", 1, "Ready", Pod::is_ready)?.remove(0);
    let stale = world.delegate(&proxy)?;
    let mut patient = world.pod("patient", &[container("main", IDLE)]);
    patient["metadata"]["annotations"] = json!({"longshore.dev/partition": "Wait"});
    let (patient, _) = running(&world, patient)?;
    let (home, target) = (world.record_home()?, world.record_target()?);

    cut(&world, &berth, Cut::Both)?;
    home.wait("the pod to be given up", secs(35), |all| {
        let failed = |pod: &Pod| pod.uid() == proxy.uid() && pod.phase() == "Failed";
        let found = all.iter().find(|one| failed(&one.pod))?;
        Some(
            (found.pod.text("/status/reason") == "TargetUnreachable"
                && found.pod.condition("DisruptionTarget")["status"] == "True")
                .then_some(()),
        )
    })?
    .context("it has failed for another reason")?;
    home.wait_for_end_of(proxy.uid())?;
    let next = world.host.wait("another pod in its place", secs(20), |host| {
        let pods = host.pods("app=web")?;
        match pods.into_iter().find(|pod| pod.uid() != proxy.uid()) {
            Some(next) => Ok(next),
            None => bail!("none"),
        }
    })?;
    let still = world.host.pod("patient")?;
    assert_eq!((still.uid(), still.phase()), (patient.uid(), "Running"), "its own annotation counts");
    assert!(world.east.find_pod(stale.name())?.is_some_and(|pod| !pod.is_terminating()), "nobody could stop it");

    berth.heal()?;
    // The new one was bound by the scheduler once the node was Ready.
    world.host.wait_for_pods("app=web", 1, "Ready", |pod| pod.is_ready() && pod.uid() == next.uid())?;
    target.wait_for_end_of(stale.uid())?;
    let order = target.observations()?;
    let stopped = order.iter().position(|one| one.pod.uid() == stale.uid() && one.pod.is_terminating());
    let started =
        order.iter().position(|one| one.change == Change::Added && one.pod.label("longshore.dev/uid") == next.uid());
    assert!(stopped < started, "first what is stale is stopped\n{}", target.tell());
    assert_eq!(world.delegate(&patient)?.restarts(), 0);
    target.ensure_nothing_doubled()
}

#[test]
fn a_pod_that_is_deleted_behind_a_cut_link_goes_when_the_link_is_back() -> Result<()> {
    let (world, berth) = World::cuttable("delete", "")?;
    let (proxy, delegate) = running(&world, world.pod("leaving", &[container("main", IDLE)]))?;
    cut(&world, &berth, Cut::Both)?;
    wait_for_unready(&world, "leaving")?;
    world.host.delete("pods", "leaving")?;
    let waits = world.host.wait_for_pod("leaving", "being deleted", Pod::is_terminating)?;
    assert_eq!(waits.uid(), proxy.uid(), "nobody knows whether it has stopped");
    berth.heal()?;
    world.host.wait_for_gone(&proxy)?;
    world.east.wait_for_gone(&delegate)
}

#[test]
fn a_restart_while_the_link_is_cut_changes_nothing() -> Result<()> {
    let (world, berth) = World::cuttable("restart", "")?;
    let (proxy, delegate) = running(&world, world.pod("steady", &[container("main", IDLE)]))?;
    let target = world.record_target()?;
    cut(&world, &berth, Cut::Both)?;
    world.longshore().kill9()?;
    world.longshore().restart()?;
    wait_for_unready(&world, "steady")?;
    berth.heal()?;
    world.host.wait_for_ready("steady")?;
    assert_eq!(world.delegate(&proxy)?.uid(), delegate.uid());
    target.ensure_nothing_doubled()
}
