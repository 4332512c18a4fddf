//! A target that was never reached: its pods say so, and start when it comes.

use std::{fs, path::Path};

use e2e::{Context, IDLE, Result, Value, World, container, secs};

/// The admin's kubeconfig for the target, with changes.
fn changed_kubeconfig(dir: &Path, change: impl Fn(&mut Value)) -> Result<std::path::PathBuf> {
    let mut kubeconfig = serde_json::from_slice(&fs::read(World::kubeconfig("east")?)?)?;
    change(&mut kubeconfig);
    let path = dir.join("target.kubeconfig");
    fs::write(&path, serde_json::to_vec(&kubeconfig)?)?;
    Ok(path)
}

/// A pod on a node whose target was never reached, and the file to mend that.
fn stranded(name: &str, dir: &Path) -> Result<World> {
    let nowhere = "https://172.30.0.1:1";
    let file = changed_kubeconfig(dir, |config| config["clusters"][0]["cluster"]["server"] = nowhere.into())?;
    let world = World::aiming_at(name, file)?;
    // Bound by hand: the scheduler keeps off a node that is not Ready.
    let mut pod = world.pod("early", &[container("main", IDLE)]);
    pod["spec"]["nodeName"] = world.longshore().node().into();
    world.host.create(pod)?;
    Ok(world)
}

/// Lets Longshore reach the target after all: credentials are read at its start.
fn mend(world: &World, dir: &Path) -> Result<()> {
    changed_kubeconfig(dir, |_| ())?;
    world.longshore().stop()?;
    world.longshore().restart()
}

#[test]
fn a_pod_waits_until_its_target_is_there() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let world = stranded("late", dir.path())?;
    let proxy = world.host.wait_for_pod("early", "waiting for the target", |pod| {
        pod.container("main")["state"]["waiting"]["reason"] == "TargetUnreachable"
    })?;
    assert_eq!(proxy.phase(), "Pending", "{proxy}");
    mend(&world, dir.path())?;
    let ready = world.host.wait_for_ready("early")?;
    assert_eq!(ready.uid(), proxy.uid());
    Ok(())
}

#[test]
fn an_event_tells_that_a_target_is_out_of_reach() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let world = stranded("event", dir.path())?;
    let message = world.host.wait("the event TargetUnreachable about early", secs(30), |host| {
        let events = host.events_of("early")?;
        let event = events.iter().find(|event| event["reason"] == "TargetUnreachable");
        Ok(event.with_context(|| format!("{} events", events.len()))?["message"].to_string())
    });
    // Mended in any case, so that the pod can go.
    mend(&world, dir.path())?;
    assert!(!message?.is_empty());
    Ok(())
}
