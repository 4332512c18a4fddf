//! Longshore may end at any moment: nothing restarts, nothing is lost, nothing is doubled and nothing leaks.

use std::{collections::BTreeMap, thread, time::Duration};

use e2e::{
    Change, Cluster, Context, History, IDLE, Observation, Pod, Result, Value, World, bail, container, deployment,
    ensure, job, json, secs,
};

/// How long after an action Longshore is killed, in milliseconds: from before it knows to after it is done.
const MOMENTS: [u64; 6] = [0, 60, 180, 450, 1000, 2000];

/// How long Longshore is held still: longer than its heartbeat takes for an answer, shorter than its lease.
const STANDSTILL: Duration = secs(10);

/// Lets some time pass on purpose: the moment of the blow is what is tested, and nothing is waited for.
fn let_pass(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

fn crash_after(world: &World, milliseconds: u64) -> Result<()> {
    let_pass(milliseconds);
    world.longshore().kill9()?;
    world.longshore().restart()
}

/// Waits until all that Longshore has found at its start is worked on: what comes after it is done as well.
fn wait_until_synced(world: &World) -> Result<()> {
    world.host.create(world.pod("canary", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("canary")?;
    world.host.delete("pods", "canary")?;
    world.host.wait_for_gone(&proxy)
}

/// What a restart of a container, or of a pod, would change.
type Life = BTreeMap<String, (String, Vec<String>, u64)>;

fn lives(cluster: &Cluster, selector: &str) -> Result<Life> {
    let life = |pod: &Pod| {
        let containers = pod.container_ids().into_iter().map(ToOwned::to_owned).collect();
        (pod.name().to_owned(), (pod.uid().to_owned(), containers, pod.restarts()))
    };
    Ok(cluster.pods(selector)?.iter().map(life).collect())
}

/// On both sides. Home is compared with what it showed before, which it must not forget.
fn all_lives(world: &World, selector: &str) -> Result<[Life; 2]> {
    Ok([lives(&world.host, selector)?, lives(&world.east, selector)?])
}

/// Resource versions on both sides: any write would change them.
fn versions(world: &World, selector: &str) -> Result<BTreeMap<(String, String), String>> {
    let mut versions = BTreeMap::new();
    for cluster in [&world.host, &world.east] {
        for pod in cluster.pods(selector)? {
            let key = (cluster.name().to_owned(), pod.name().to_owned());
            versions.insert(key, pod.resource_version().to_owned());
        }
    }
    Ok(versions)
}

/// Waits until so many pods are Ready and home shows what is so in the target.
fn wait_until_settled(world: &World, selector: &str, count: usize) -> Result<Vec<Pod>> {
    world.host.wait_for_pods(selector, count, "Ready", Pod::is_ready)?;
    world.host.wait("home to show what is so in the target", secs(20), |host| {
        let proxies = host.pods(selector)?;
        for proxy in &proxies {
            let delegate = world.delegate(proxy)?;
            let (here, there) = (proxy.container("main"), delegate.container("main"));
            ensure!(here == there, "{} shows {here} and not {there}", proxy.name());
        }
        Ok(proxies)
    })
}

/// Fails if two delegates of one name were there at once, or one has gone whose containers still ran.
fn ensure_one_at_a_time(history: &History) -> Result<()> {
    let mut there: BTreeMap<String, String> = BTreeMap::new();
    for one in history.observations()? {
        let (name, uid) = (one.pod.name().to_owned(), one.pod.uid().to_owned());
        if one.change == Change::Deleted {
            let running = one.pod.containers().iter().any(|container| container["state"]["running"].is_object());
            ensure!(!running, "{} has gone while its containers ran; the record is\n{}", one.pod, history.tell());
            there.remove(&name);
        } else if let Some(before) = there.insert(name, uid.clone())
            && before != uid
        {
            bail!("{} came while {before} was there; the record is\n{}", one.pod, history.tell());
        }
    }
    Ok(())
}

/// Fails if any work was done twice or at the same time, or if anything is left.
fn ensure_clean_end(world: &World, history: &History) -> Result<()> {
    world.host.wait_for_pods("", 0, "all gone", |_| true)?;
    world.wait_for_no_delegates()?;
    history.ensure_nothing_doubled()?;
    ensure_one_at_a_time(history)
}

/// Waits until a proxy is gone; by then its delegate has to be.
fn wait_for_orderly_end(world: &World, proxy: &Pod) -> Result<()> {
    world.host.wait_for_gone(proxy)?;
    let left = world.delegates(proxy)?;
    ensure!(left.is_empty(), "{} is gone and has left {}", proxy.name(), left[0]);
    Ok(())
}

#[test]
fn in_a_burst_of_creations_and_of_deletions() -> Result<()> {
    let world = World::alone("killed-burst")?;
    let history = world.record_target()?;
    for moment in MOMENTS {
        let (name, selector) = (format!("burst-{moment}"), format!("app=burst-{moment}"));
        let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
        world.host.create(deployment(&name, 8, &spec))?;
        crash_after(&world, moment)?;
        for proxy in wait_until_settled(&world, &selector, 8)? {
            ensure!(proxy.restarts() == 0, "a container was restarted: {proxy}");
        }
        world.host.delete("deployments", &name)?;
        crash_after(&world, moment)?;
        world.host.wait_for_pods(&selector, 0, "gone", |_| true)?;
        world.east.wait_for_pods(&selector, 0, "gone", |_| true)?;
    }
    ensure_clean_end(&world, &history)
}

#[test]
fn beside_a_running_deployment() -> Result<()> {
    let world = World::alone("killed-beside")?;
    let history = world.record_target()?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 3, &spec))?;
    wait_until_settled(&world, "app=web", 3)?;
    let before = all_lives(&world, "app=web")?;

    // Most of these hit a process that has just begun to look around.
    for moment in MOMENTS {
        crash_after(&world, moment)?;
    }
    wait_until_synced(&world)?;
    assert_eq!(all_lives(&world, "app=web")?, before, "nothing is restarted, replaced or forgotten");
    world.wait_for_node()?;

    world.longshore().kill9()?;
    world.host.scale("deployments", "web", 5)?;
    world.host.wait_for_pods("app=web", 5, "bound", |pod| !pod.text("/spec/nodeName").is_empty())?;
    world.longshore().restart()?;
    wait_until_settled(&world, "app=web", 5)?;
    for (side, before) in before.iter().enumerate() {
        let now = &all_lives(&world, "app=web")?[side];
        assert!(before.iter().all(|(name, life)| now.get(name) == Some(life)), "{now:?} is not more than {before:?}");
    }

    world.longshore().kill9()?;
    world.host.delete("deployments", "web")?;
    world.host.wait_for_pods("app=web", 5, "told to go", Pod::is_terminating)?;
    let delegates = world.all_delegates()?;
    assert!(delegates.len() == 5 && delegates.iter().all(Pod::is_ready), "nobody tells them yet: {delegates:?}");
    world.longshore().restart()?;
    ensure_clean_end(&world, &history)
}

/// The container waits until somebody tells it to end, which [`release`] does past Longshore.
const UNTIL_RELEASED: &str = "mkfifo /tmp/gate; echo begun; read _ < /tmp/gate; echo done";

fn release(world: &World, name: &str) -> Result<()> {
    let open = "until [ -p /tmp/gate ]; do sleep 1; done; echo > /tmp/gate";
    let output = world.east.kubectl(&["exec", name, "--", "sh", "-c", open])?;
    // The container may end, and kill what was executed in it, before that has ended by itself.
    ensure!([0, 137].contains(&output.code), "{output:?}");
    Ok(())
}

#[test]
fn beside_a_job_that_runs_and_one_that_ends_meanwhile() -> Result<()> {
    let world = World::alone("killed-job")?;
    let history = world.record_target()?;
    let spec = world.placed(json!({"containers": [container("main", UNTIL_RELEASED)]}));
    let count = MOMENTS.len() + 2;
    world.host.create(job("sum", u32::try_from(count)?, u32::try_from(count)?, &spec))?;
    let proxies = wait_until_settled(&world, "app=sum", count)?;
    let before = all_lives(&world, "app=sum")?;

    for (proxy, moment) in proxies.iter().zip(MOMENTS) {
        release(&world, proxy.name())?;
        crash_after(&world, moment)?;
        world.host.wait_for_pod(proxy.name(), "Succeeded", |pod| pod.phase() == "Succeeded")?;
    }
    world.longshore().kill9()?;
    for proxy in &proxies[MOMENTS.len()..] {
        release(&world, proxy.name())?;
        world.east.wait_for_pod(proxy.name(), "Succeeded", |pod| pod.phase() == "Succeeded")?;
        assert_eq!(world.host.pod(proxy.name())?.phase(), "Running", "nobody has told home yet");
    }
    world.longshore().restart()?;

    world.host.wait("the Job to complete", secs(60), |host| {
        let status = &host.get("jobs", "sum")?["status"];
        ensure!(status["succeeded"] == count && status["completionTime"].is_string(), "{status}");
        ensure!(status["failed"].is_null(), "{status}");
        Ok(())
    })?;
    wait_until_synced(&world)?;
    assert_eq!(all_lives(&world, "app=sum")?, before, "each pod of the Job has run once");
    for proxy in &proxies {
        let log = world.host.kubectl(&["logs", proxy.name()])?.ok()?;
        assert_eq!(log, "begun\ndone\n", "the log of {} can be read", proxy.name());
    }
    world.host.delete("jobs", "sum")?;
    ensure_clean_end(&world, &history)
}

/// Ends well, and only if it is given its time. (Less of it than a kubelet gives at the least, which is 2 s: a forced end that is
/// seen before the pod is gone reaches the delegate as a grace of one second.)
fn slow_to_end(world: &World, name: &str) -> Value {
    let script = "trap 'sleep 1; exit 0' TERM; sleep 86400 & wait";
    world.pod_of(name, json!({"containers": [container("main", script)], "terminationGracePeriodSeconds": 30}))
}

/// Fails unless the last that was seen of this delegate is a container that ended by itself.
fn ensure_ended_by_itself(history: &History, delegate: &Pod) -> Result<()> {
    history.wait_for_end_of(delegate.uid())?;
    let all = history.observations()?;
    let last = all.iter().rev().find(|one| one.pod.uid() == delegate.uid()).context("never seen")?;
    let end = &last.pod.container("main")["state"]["terminated"];
    // An API server shows a pod that is deleted by force once more, with a grace of 0, before it is gone. Whoever sees that gives
    // containers a second, as a kubelet does, which is as long as these take.
    let a_second = |one: &Observation| one.pod.0["metadata"]["deletionGracePeriodSeconds"] == 1;
    let forced = all.iter().any(|one| one.pod.uid() == delegate.uid() && a_second(one));
    ensure!(
        end["exitCode"] == 0 || (forced && end["exitCode"] == 137),
        "{} had no time to end: {end}",
        delegate.name()
    );
    Ok(())
}

#[test]
fn in_a_deletion_with_grace() -> Result<()> {
    let world = World::alone("killed-deletion")?;
    let history = world.record_target()?;
    let names: Vec<_> = MOMENTS.iter().map(|moment| format!("slow-{moment}")).collect();
    for name in names.iter().map(String::as_str).chain(["unseen"]) {
        world.host.create(slow_to_end(&world, name))?;
    }
    for (name, moment) in names.iter().zip(MOMENTS) {
        let proxy = world.host.wait_for_ready(name)?;
        let delegate = world.delegate(&proxy)?;
        world.host.delete("pods", name)?;
        crash_after(&world, moment)?;
        wait_for_orderly_end(&world, &proxy)?;
        ensure_ended_by_itself(&history, &delegate)?;
    }
    let unseen = world.host.wait_for_ready("unseen")?;
    let delegate = world.delegate(&unseen)?;
    world.longshore().kill9()?;
    // As somebody does who has lost patience: no proxy is left to tell what should end.
    world.host.delete_with("pods", "unseen", "gracePeriodSeconds=0")?;
    world.host.wait_for_gone(&unseen)?;
    world.longshore().restart()?;
    world.east.wait_for_gone(&delegate)?;
    ensure_ended_by_itself(&history, &delegate)?;
    ensure_clean_end(&world, &history)
}

#[test]
fn in_a_recreation_under_the_same_name() -> Result<()> {
    let world = World::alone("killed-namesake")?;
    let history = world.record_target()?;
    let pod = slow_to_end(&world, "same");
    world.host.create(pod.clone())?;
    let mut proxy = world.host.wait_for_ready("same")?;
    for moment in MOMENTS {
        let old = world.delegate(&proxy)?;
        // At once gone at home; in the target the old one takes its time, and holds the name.
        world.host.delete_with("pods", "same", "gracePeriodSeconds=0")?;
        world.host.create(pod.clone())?;
        crash_after(&world, moment)?;
        let uid = proxy.uid().to_owned();
        proxy = world.host.wait_for_pod("same", "Ready anew", |pod| pod.is_ready() && pod.uid() != uid)?;
        let new = world.delegate(&proxy)?;
        ensure!(new.uid() != old.uid(), "the new proxy has the old delegate: {new}");
        ensure_ended_by_itself(&history, &old)?;
    }
    world.host.delete("pods", "same")?;
    wait_for_orderly_end(&world, &proxy)?;
    ensure_clean_end(&world, &history)
}

#[test]
fn an_orderly_end_and_a_start_with_nothing_to_do_write_nothing() -> Result<()> {
    let world = World::alone("stopped")?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 3, &spec))?;
    wait_until_settled(&world, "app=web", 3)?;
    wait_until_synced(&world)?;
    let before = versions(&world, "app=web")?;
    assert_eq!(before.len(), 6, "three proxies and three delegates: {before:?}");
    let node = world.wait_for_node()?;

    let status = world.longshore().stop()?;
    assert_eq!(status.code(), Some(0), "SIGTERM is no failure:\n{}", world.longshore().log());
    assert_eq!(versions(&world, "app=web")?, before, "the pods stay as they are");
    let left = world.host.get("nodes", world.longshore().node())?;
    assert_eq!(left["metadata"]["uid"], node["metadata"]["uid"], "the node stays");

    world.longshore().restart()?;
    for time in ["after the start", "some time later"] {
        wait_until_synced(&world)?;
        assert_eq!(versions(&world, "app=web")?, before, "no pod is written to {time}");
    }
    let again = world.wait_for_node()?;
    assert_eq!(again["metadata"]["uid"], node["metadata"]["uid"], "it is the same node");
    Ok(())
}

#[test]
fn a_node_that_somebody_deletes_comes_back() -> Result<()> {
    let world = World::alone("unregistered")?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 2, &spec))?;
    wait_until_settled(&world, "app=web", 2)?;
    let before = all_lives(&world, "app=web")?;
    let node = world.wait_for_node()?;

    world.host.delete("nodes", world.longshore().node())?;
    world.host.wait("the node to be registered again", secs(20), |host| {
        let found = host.find("nodes", world.longshore().node())?.context("no node")?;
        ensure!(found["metadata"]["uid"] != node["metadata"]["uid"], "it is not deleted yet");
        Ok(())
    })?;
    let again = world.wait_for_node()?;
    let taint = |node: &Value, key: &str| {
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.into_iter().find(|taint| taint["key"] == key)
    };
    let key = "longshore.dev/virtual-node";
    assert!(taint(&again, key).is_some(), "it keeps off who did not ask: {}", again["spec"]);
    assert_eq!(taint(&again, key), taint(&node, key), "as before");
    wait_until_synced(&world)?;
    assert_eq!(all_lives(&world, "app=web")?, before, "its pods go on");
    Ok(())
}

#[test]
fn a_standstill_changes_nothing() -> Result<()> {
    let world = World::alone("frozen")?;
    let history = world.record_target()?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 2, &spec))?;
    wait_until_settled(&world, "app=web", 2)?;
    let before = all_lives(&world, "app=web")?;

    let frozen = world.longshore().freeze()?;
    world.host.create(world.pod("late", &[container("main", IDLE)]))?;
    thread::sleep(STANDSTILL);
    assert_eq!(world.host.pod("late")?.phase(), "Pending", "nobody is there to start it");
    drop(frozen);

    let late = world.host.wait_for_ready("late")?;
    world.wait_for_node()?;
    assert_eq!(all_lives(&world, "app=web")?, before, "nothing is restarted, replaced or forgotten");
    world.host.delete("pods", "late")?;
    world.host.delete("deployments", "web")?;
    wait_for_orderly_end(&world, &late)?;
    ensure_clean_end(&world, &history)
}
