//! A configuration or a target that cannot work says so in words that help.

use std::{fs, path::Path};

use e2e::{Context, IDLE, Output, Result, Value, World, container, ensure, json, secs};

/// Runs Longshore on a provider configuration that it must refuse.
fn refuse(dir: &Path, configuration: &Value) -> Result<Output> {
    let file = dir.join("provider.yaml");
    fs::write(&file, serde_json::to_vec_pretty(configuration)?)?;
    let host = World::kubeconfig("host")?;
    let (host, file) = (host.to_str().context("a path")?, file.to_str().context("a path")?);
    World::longshore_command(&["run", "--kubeconfig", host, "--provider-config", file])
}

fn target(kubeconfig: &Value) -> Value {
    json!({
        "apiVersion": "longshore.dev/v1alpha1", "kind": "Target", "metadata": {"name": "east"},
        "spec": {"kubeconfig": kubeconfig},
    })
}

/// The admin's kubeconfig for the target, with changes.
fn changed_kubeconfig(dir: &Path, change: impl Fn(&mut Value)) -> Result<std::path::PathBuf> {
    let mut kubeconfig = serde_json::from_slice(&fs::read(World::kubeconfig("east")?)?)?;
    change(&mut kubeconfig);
    let path = dir.join("target.kubeconfig");
    fs::write(&path, serde_json::to_vec(&kubeconfig)?)?;
    Ok(path)
}

/// Waits until the node is NotReady for a reason, and answers the message.
fn wait_for_trouble(world: &World, reason: &str) -> Result<String> {
    let name = world.longshore().node();
    world.host.wait(&format!("the node {name} to be NotReady for {reason}"), secs(60), |host| {
        world.longshore().check()?;
        let node = host.find("nodes", name)?.context("no node")?;
        let conditions = node["status"]["conditions"].as_array().context("no conditions")?;
        let ready = conditions.iter().find(|one| one["type"] == "Ready").context("no condition Ready")?;
        ensure!(ready["status"] == "False" && ready["reason"] == reason, "{ready}");
        Ok(ready["message"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn an_unknown_field_is_refused_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut configuration = target(&json!({"file": World::kubeconfig("east")?}));
    configuration["spec"]["podIp"] = "Publish".into();
    let output = refuse(dir.path(), &configuration)?;
    assert_eq!(output.code, 2, "{output:?}");
    for word in ["provider.yaml", "podIp", "Target `east`"] {
        assert!(output.stderr.contains(word), "the message has {word}: {}", output.stderr);
    }
    Ok(())
}

#[test]
fn a_missing_file_is_refused_by_name() -> Result<()> {
    let output = World::longshore_command(&["run", "--provider-config", "no/such/file.yaml"])?;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("no/such/file.yaml"), "{}", output.stderr);
    Ok(())
}

#[test]
fn an_unknown_context_is_answered_with_those_that_exist() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = changed_kubeconfig(dir.path(), |_| ())?;
    let known: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let known = known["contexts"][0]["name"].as_str().context("a context")?;
    let output = refuse(dir.path(), &target(&json!({"file": file, "context": "west"})))?;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("`west`") && output.stderr.contains(known), "{}", output.stderr);
    Ok(())
}

#[test]
fn an_unreachable_target_makes_the_node_not_ready() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let nowhere = "https://172.30.0.1:1";
    let file = changed_kubeconfig(dir.path(), |config| config["clusters"][0]["cluster"]["server"] = nowhere.into())?;
    let world = World::aiming_at("unreachable", file)?;
    let message = wait_for_trouble(&world, "TargetUnreachable")?;
    assert!(!message.is_empty(), "the node says what the matter is");
    let log = world.longshore().log();
    assert!(log.contains("172.30.0.1:1"), "the log names the address: {log}");
    world.longshore().check()?;
    assert!(world.longshore().stop()?.success(), "it still stops in order");
    Ok(())
}

#[test]
fn a_target_without_rights_is_told_which_are_missing() -> Result<()> {
    let helper = World::new("rights-account")?;
    helper.create_target_namespace()?;
    let token = helper.east.kubectl(&["create", "token", "default"])?.ok()?;
    let dir = tempfile::tempdir()?;
    let file = changed_kubeconfig(dir.path(), |config| {
        config["users"][0]["user"] = json!({"token": token.trim()});
    })?;

    let world = World::aiming_at("rights", file)?;
    let message = wait_for_trouble(&world, "TargetRefused")?;
    assert!(message.contains("nodes") || message.contains("pods"), "the resource is named: {message}");
    assert!(message.contains("list") || message.contains("watch"), "the verb is named: {message}");
    let log = world.longshore().log();
    for right in ["create pods", "watch pods", "get pods/log", "list nodes"] {
        assert!(log.contains(right), "the log names {right}: {log}");
    }
    Ok(())
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
