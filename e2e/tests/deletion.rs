//! Deletion: nothing goes from home before it has gone from the target, and nothing stays behind there.

use std::time::Instant;

use e2e::{
    Change, History, IDLE, PATIENCE, Pod, Result, World, container, deployment, ensure, json, secs, stateful_set,
};

/// Stops three seconds after it was told to, with a code of its own.
const SLOW: &str = "trap 'echo last words; sleep 3; exit 9' TERM; echo up; while :; do sleep 0.1; done";

fn slow_pod(world: &World, name: &str) -> e2e::Value {
    let mut pod = world.one_shot(name, &[container("main", SLOW)]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    pod
}

/// The trap has to be set before the signal comes.
fn wait_until_up(world: &World, name: &str) -> Result<Pod> {
    let pod = world.host.wait_for_ready(name)?;
    world.host.wait("the pod to listen for SIGTERM", secs(20), |host| {
        let logs = host.kubectl(&["logs", name])?.ok()?;
        ensure!(logs.contains("up"), "{logs:?}");
        Ok(())
    })?;
    Ok(pod)
}

/// At no time did a name have two pods, and each began after the last had ended.
fn ensure_one_after_the_other(history: &History, name: &str) -> Result<()> {
    let mut alive = None;
    for one in history.observations()?.iter().filter(|one| one.pod.name() == name) {
        let uid = one.pod.uid().to_owned();
        ensure!(alive.as_ref().is_none_or(|alive| *alive == uid), "two pods at once:\n{}", history.tell());
        alive = (one.change != Change::Deleted).then_some(uid);
    }
    Ok(())
}

#[test]
fn a_graceful_end_is_waited_for() -> Result<()> {
    let world = World::new("grace")?;
    world.host.create(slow_pod(&world, "slow"))?;
    let proxy = wait_until_up(&world, "slow")?;
    let delegate = world.delegate(&proxy)?;
    let (home, target) = (world.record_home()?, world.record_target()?);

    let begin = Instant::now();
    world.host.delete("pods", "slow")?;
    let terminating = world.delegate(&proxy).and_then(|_| world.host.pod("slow"))?;
    assert!(terminating.is_terminating(), "the proxy stays while its delegate ends: {terminating}");
    world.host.wait_for_gone(&proxy)?;
    assert!(begin.elapsed() >= secs(3), "the proxy went after {:?}, before its work was done", begin.elapsed());
    assert!(begin.elapsed() < secs(20), "the proxy went only after {:?}", begin.elapsed());
    assert!(world.east.find_pod("slow")?.is_none(), "the delegate goes first");

    target.wait_for_end_of(delegate.uid())?;
    home.wait_for_end_of(proxy.uid())?;
    assert_eq!(home.phases(proxy.uid())?.last().map(String::as_str), Some("Failed"), "{}", home.tell());
    let last = home.observations()?.pop().unwrap().pod;
    let end = &last.container("main")["state"]["terminated"];
    assert_eq!(end["exitCode"], 9, "the exit code is seen before the proxy goes: {last}");
    Ok(())
}

/// A pod that would take ten minutes to stop, and its delegate.
fn stubborn(world: &World) -> Result<(Pod, Pod)> {
    let command = "trap '' TERM; while :; do sleep 1; done";
    let mut pod = world.pod("stubborn", &[container("main", command)]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(600);
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready("stubborn")?;
    let delegate = world.delegate(&proxy)?;
    Ok((proxy, delegate))
}

#[test]
fn a_forced_end_reaches_the_target() -> Result<()> {
    let world = World::new("force")?;
    let (_, delegate) = stubborn(&world)?;
    world.host.kubectl(&["delete", "pod", "stubborn", "--force", "--grace-period=0"])?.ok()?;
    assert!(world.host.find_pod("stubborn")?.is_none(), "force does not wait");
    world.east.wait_for_gone(&delegate)
}

#[test]
fn a_shortened_grace_reaches_the_target() -> Result<()> {
    let world = World::new("shorten")?;
    let (proxy, delegate) = stubborn(&world)?;
    world.host.delete("pods", "stubborn")?;
    world.host.delete_with("pods", "stubborn", "gracePeriodSeconds=1")?;
    // That a kubelet which has begun with the first grace period cuts it short is its own affair (1.35.4 with containerd 1.6
    // does not, for plain pods either), so it is the delegate that is looked at.
    world.east.wait("the delegate to have one second left", PATIENCE, |east| {
        let grace = east.get("pods", "stubborn")?["metadata"]["deletionGracePeriodSeconds"].clone();
        ensure!(grace == 1, "{grace}");
        Ok(())
    })?;
    world.east.delete_with("pods", "stubborn", "gracePeriodSeconds=0")?;
    world.host.wait_for_gone(&proxy)?;
    world.east.wait_for_gone(&delegate)
}

#[test]
fn a_namesake_starts_after_the_old_delegate_has_gone() -> Result<()> {
    let world = World::new("namesake")?;
    world.host.create(slow_pod(&world, "again"))?;
    let first = wait_until_up(&world, "again")?;
    let (old, history) = (world.delegate(&first)?, world.record_target()?);

    // Forced, so that home has the name free while the target still ends the old one.
    world.host.delete_with("pods", "again", "gracePeriodSeconds=0")?;
    world.host.create(world.pod("again", &[container("main", IDLE)]))?;
    let second = world.host.wait_for_ready("again")?;
    assert_ne!(second.uid(), first.uid());
    let new = world.delegate(&second)?;
    assert_ne!(new.uid(), old.uid());
    assert!(world.delegates(&first)?.is_empty(), "nothing is left of the first");

    history.wait_for_end_of(old.uid())?;
    ensure_one_after_the_other(&history, "again")?;
    history.ensure_nothing_doubled()
}

#[test]
fn a_namesake_waits_for_a_graceful_end() -> Result<()> {
    let world = World::new("replace")?;
    world.host.create(slow_pod(&world, "again"))?;
    let first = wait_until_up(&world, "again")?;
    let (old, history) = (world.delegate(&first)?, world.record_target()?);
    world.host.delete("pods", "again")?;
    world.host.wait_for_gone(&first)?;
    world.host.create(world.pod("again", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("again")?;
    history.wait_for_end_of(old.uid())?;
    ensure_one_after_the_other(&history, "again")?;
    history.ensure_nothing_doubled()
}

#[test]
fn a_delegate_that_somebody_deletes_comes_back() -> Result<()> {
    let world = World::new("vandal")?;
    let spec = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 1, &spec))?;
    let proxy = world.host.wait_for_pods("app=web", 1, "Ready", Pod::is_ready)?.remove(0);
    let delegate = world.delegate(&proxy)?;
    world.east.delete("pods", delegate.name())?;
    world.east.wait_for_gone(&delegate)?;
    let back = world.east.wait_for_pod(delegate.name(), "Ready again", Pod::is_ready)?;
    assert_eq!(back.label("longshore.dev/uid"), proxy.uid(), "the same proxy has a new delegate");
    world.host.wait("the same proxy to be Ready", secs(20), |host| {
        let pods = host.pods("app=web")?;
        ensure!(pods.len() == 1 && pods[0].uid() == proxy.uid() && pods[0].is_ready(), "{:?}", pods.first());
        Ok(())
    })
}

#[test]
fn a_one_shot_delegate_that_somebody_deletes_is_not_repeated() -> Result<()> {
    let world = World::new("vandal-once")?;
    // Its end is known: the container was asked to stop, and did so without an error.
    world.host.create(world.one_shot("asked", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("asked")?;
    world.east.delete("pods", "asked")?;
    let ended = world.host.wait_for_pod("asked", "finished", Pod::is_finished)?;
    assert_eq!(ended.phase(), "Succeeded", "{ended}");
    assert_eq!(ended.uid(), proxy.uid());

    // Its end is not known: it vanished.
    world.host.create(world.one_shot("torn", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("torn")?;
    world.east.delete_with("pods", "torn", "gracePeriodSeconds=0")?;
    let failed = world.host.wait_for_pod("torn", "finished", Pod::is_finished)?;
    assert_eq!(failed.phase(), "Failed", "work that may have been done half is not repeated: {failed}");
    assert_eq!(failed.uid(), proxy.uid());
    assert!(world.delegates(&proxy)?.is_empty());
    Ok(())
}

#[test]
fn the_same_deployment_in_the_target_is_left_alone() -> Result<()> {
    let world = World::new("adoption")?;
    world.create_target_namespace()?;
    let theirs = json!({"containers": [container("main", IDLE)], "terminationGracePeriodSeconds": 1});
    world.east.create(deployment("web", 2, &theirs))?;
    let strangers = world.east.wait_for_pods("app=web", 2, "Ready", Pod::is_ready)?;

    let ours = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(deployment("web", 2, &ours))?;
    world.host.wait_for_pods("app=web", 2, "Ready", Pod::is_ready)?;
    let all = world.east.wait_for_pods("app=web", 4, "Ready", Pod::is_ready)?;
    for pod in &all {
        let kind = pod.text("/metadata/ownerReferences/0/kind");
        let expected = if pod.label("longshore.dev/uid").is_empty() { "ReplicaSet" } else { "Namespace" };
        assert_eq!(kind, expected, "{pod}");
    }
    // A controller that counted our pods as its own would delete some when it shrinks, or all the wrong ones.
    world.east.scale("deployments", "web", 1)?;
    world.east.wait_for_pods("app=web", 3, "Ready", Pod::is_ready)?;
    assert_eq!(world.all_delegates()?.len(), 2, "ours are untouched");
    world.host.delete("deployments", "web")?;
    world.wait_for_no_delegates()?;
    let left = world.east.wait_for_pods("app=web", 1, "Ready", Pod::is_ready)?;
    assert!(strangers.iter().any(|stranger| stranger.uid() == left[0].uid()), "theirs is the one from before");
    Ok(())
}

#[test]
fn a_stranger_keeps_its_name() -> Result<()> {
    let world = World::new("conflict")?;
    world.create_target_namespace()?;
    let theirs = json!({"containers": [container("main", IDLE)], "terminationGracePeriodSeconds": 1});
    world.east.create(stateful_set("db", 1, &theirs))?;
    let stranger = world.east.wait_for_ready("db-0")?;

    let ours = world.placed(json!({"containers": [container("main", IDLE)]}));
    world.host.create(stateful_set("db", 1, &ours))?;
    let message = world.host.wait_for_event("db-0", "NameConflict")?;
    assert!(message.contains("db-0"), "the event names the pod: {message}");
    assert_eq!(world.host.pod("db-0")?.phase(), "Pending");
    let untouched = world.east.pod("db-0")?;
    assert_eq!(untouched.uid(), stranger.uid());
    assert_eq!(untouched.container_ids(), stranger.container_ids(), "the stranger was not harmed");
    assert!(untouched.is_ready(), "{untouched}");

    world.east.delete("statefulsets", "db")?;
    let proxy = world.host.wait_for_ready("db-0")?;
    assert_eq!(world.delegate(&proxy)?.name(), "db-0", "the name is free and ours starts");
    Ok(())
}
