//! Longshore may die at any moment: nothing restarts, nothing is lost, nothing is doubled, nothing is left behind.

use std::{thread, time::Duration};

use e2e::{IDLE, Pod, Result, World, container, deployment, ensure, job, json, secs};

/// Moments after an action at which Longshore dies: densest where most is under way.
const MOMENTS: [u64; 8] = [0, 30, 80, 150, 300, 600, 1100, 2000];

/// Kills Longshore some time after now, and starts it again.
///
/// The one sleep in these tests: here a moment is what is tested, and not a wait for something.
fn crash_after(world: &World, milliseconds: u64) -> Result<()> {
    thread::sleep(Duration::from_millis(milliseconds));
    world.longshore().kill9()?;
    world.longshore().restart()
}

/// What has to stay the same for pods that run: which containers they are, and how often they were restarted.
fn lives(pods: &[Pod]) -> Vec<(String, Vec<String>, u64)> {
    let life = |pod: &Pod| {
        let ids = pod.container_ids().into_iter().map(ToOwned::to_owned).collect();
        (pod.uid().to_owned(), ids, pod.restarts())
    };
    pods.iter().map(life).collect()
}

/// Waits until somebody who looks at home after a crash sees what is true.
fn wait_for_delegates(world: &World, selector: &str, count: usize) -> Result<()> {
    let proxies = world.host.wait_for_pods(selector, count, "Ready", Pod::is_ready)?;
    for proxy in &proxies {
        let delegate = world.delegate(proxy)?;
        ensure!(delegate.container_ids() == proxy.container_ids(), "home shows other containers: {proxy}, {delegate}");
    }
    Ok(())
}

#[test]
fn in_a_burst_of_creations() -> Result<()> {
    let world = World::alone("burst")?;
    let history = world.record_target()?;
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let app = format!("burst-{round}");
        let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
        world.host.create(deployment(&app, 6, &spec))?;
        crash_after(&world, moment)?;
        wait_for_delegates(&world, &format!("app={app}"), 6)?;
        world.host.delete("deployments", &app)?;
    }
    world.host.wait_for_pods("", 0, "gone", |_| true)?;
    world.wait_for_no_delegates()?;
    history.ensure_nothing_doubled()
}

#[test]
fn beside_running_pods() -> Result<()> {
    let world = World::alone("running")?;
    let history = world.record_target()?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 3, &spec))?;
    let before = world.host.wait_for_pods("app=web", 3, "Ready", Pod::is_ready)?;
    let delegates = world.all_delegates()?;
    for moment in MOMENTS {
        crash_after(&world, moment)?;
    }
    world.wait_for_node()?;
    // Whatever it takes for granted at its start shows once it has worked on something new.
    world.host.create(world.pod("probe", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("probe")?;
    assert_eq!(lives(&world.host.pods("app=web")?), lives(&before), "home sees the same containers");
    assert_eq!(lives(&world.east.pods("app=web")?), lives(&delegates), "they are the same containers");

    world.host.delete("deployments", "web")?;
    world.host.delete("pods", "probe")?;
    world.wait_for_no_delegates()?;
    history.ensure_nothing_doubled()
}

#[test]
fn beside_a_running_job() -> Result<()> {
    let world = World::alone("job")?;
    let history = world.record_target()?;
    let spec = world.placed(json!({"containers": [container("main", "sleep 2; echo done")]}));
    world.host.create(job("work", 6, 3, &spec))?;
    for moment in MOMENTS {
        crash_after(&world, moment)?;
    }
    let status = world.host.wait("the Job to end", secs(90), |host| {
        let status = host.get("jobs", "work")?["status"].clone();
        ensure!(status["completionTime"].is_string() || status["failed"].is_u64(), "{status}");
        Ok(status)
    })?;
    assert_eq!(status["succeeded"], 6, "{status}");
    assert!(status["failed"].is_null(), "no pod was lost on the way: {status}");
    assert_eq!(history.delegates_by_proxy()?.len(), 6, "as many runs as completions:\n{}", history.tell());
    history.ensure_nothing_doubled()?;
    world.host.delete("jobs", "work")?;
    world.wait_for_no_delegates()
}

#[test]
fn in_a_graceful_deletion() -> Result<()> {
    let world = World::alone("deletion")?;
    let history = world.record_target()?;
    let slow = "trap 'sleep 3; exit 0' TERM; while :; do sleep 0.1; done";
    let mut spec = world.placed(json!({"containers": [container("main", slow)]}));
    spec["terminationGracePeriodSeconds"] = json!(20);
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let name = format!("slow-{round}");
        world.host.create(json!({"kind": "Pod", "metadata": {"name": name}, "spec": spec}))?;
        let proxy = world.host.wait_for_ready(&name)?;
        let delegate = world.delegate(&proxy)?;
        world.host.delete("pods", &name)?;
        crash_after(&world, moment)?;
        world.host.wait_for_gone(&proxy)?;
        assert!(world.east.find_pod(delegate.name())?.is_none(), "the delegate goes first, after {moment} ms");
    }
    history.ensure_nothing_doubled()
}

#[test]
fn in_a_recreation_under_the_same_name() -> Result<()> {
    let world = World::alone("namesake")?;
    let history = world.record_target()?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    let pod = json!({"kind": "Pod", "metadata": {"name": "again"}, "spec": spec});
    world.host.create(pod.clone())?;
    let mut last = world.host.wait_for_ready("again")?;
    for moment in MOMENTS {
        world.host.delete_with("pods", "again", "gracePeriodSeconds=0")?;
        world.host.create(pod.clone())?;
        crash_after(&world, moment)?;
        let next = world.host.wait_for_ready("again")?;
        assert_ne!(next.uid(), last.uid());
        world.delegate(&next)?;
        assert!(world.delegates(&last)?.is_empty(), "nothing is left of the last one, after {moment} ms");
        last = next;
    }
    history.ensure_nothing_doubled()?;
    world.host.delete("pods", "again")?;
    world.wait_for_no_delegates()
}

#[test]
fn what_was_deleted_while_it_was_away_is_cleared() -> Result<()> {
    let world = World::alone("away")?;
    world.host.create(world.pod("forced", &[container("main", IDLE)]))?;
    world.host.create(world.pod("graceful", &[container("main", IDLE)]))?;
    let forced = world.host.wait_for_ready("forced")?;
    let graceful = world.host.wait_for_ready("graceful")?;
    world.longshore().kill9()?;
    world.host.delete_with("pods", "forced", "gracePeriodSeconds=0")?;
    world.host.delete("pods", "graceful")?;
    assert_eq!(world.delegates(&forced)?.len(), 1, "nobody is there to clear it yet");
    world.longshore().restart()?;
    world.host.wait_for_gone(&graceful)?;
    world.wait_for_no_delegates()
}

#[test]
fn a_planned_stop_is_graceful_and_a_start_with_nothing_to_do_writes_nothing() -> Result<()> {
    let world = World::alone("restart")?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 3, &spec))?;
    world.host.create(world.one_shot("done", &[container("main", "echo done")]))?;
    world.host.wait_for_pods("app=web", 3, "Ready", Pod::is_ready)?;
    world.host.wait_for_pod("done", "Succeeded", |pod| pod.phase() == "Succeeded")?;
    let versions = |pods: Vec<Pod>| -> Vec<(String, String)> {
        pods.iter().map(|pod| (pod.name().to_owned(), pod.resource_version().to_owned())).collect()
    };
    // The last write of a start may come a moment after what it is about is seen.
    let (home, target) = world.host.wait("the pods to come to rest", secs(30), |host| {
        let look = || -> Result<_> { Ok((versions(host.pods("")?), versions(world.east.pods("")?))) };
        let before = look()?;
        thread::sleep(secs(2));
        ensure!(before == look()?, "they still change");
        Ok(before)
    })?;

    let status = world.longshore().stop()?;
    assert!(status.success(), "SIGTERM is no error: {status}\n{}", world.longshore().log());
    assert!(world.host.find("nodes", world.longshore().node())?.is_some(), "the node outlives a restart");
    world.longshore().restart()?;
    world.wait_for_node()?;
    // A new pod is done only after all that was there has been looked at.
    world.host.create(world.pod("probe", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("probe")?;
    let others = |pods: Vec<Pod>| pods.into_iter().filter(|pod| pod.name() != "probe").collect();
    assert_eq!(versions(others(world.host.pods("")?)), home, "no proxy was written");
    assert_eq!(versions(others(world.east.pods("")?)), target, "no delegate was written");
    Ok(())
}
