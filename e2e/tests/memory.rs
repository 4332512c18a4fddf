//! The core as a library: nodes of `examples/memory.rs`, on the in-memory provider.

use e2e::{Result, Solo, Value, World, ensure, json, secs};

fn containers() -> Value {
    json!([{"name": "main", "image": "anything"}])
}

/// Runs a pod of each kind on the node to its end.
fn live_and_end(solo: &Solo) -> Result<()> {
    let host = &solo.host;
    host.create(solo.pod("stays", json!({"containers": containers()})))?;
    host.create(solo.pod("ends", json!({"containers": containers(), "restartPolicy": "Never"})))?;
    let pod = host.wait_for_ready("stays")?;
    host.wait_for_ready("ends")?;
    let node = host.get("nodes", &solo.node)?;
    assert_eq!(node["status"]["allocatable"]["memory"], "256Gi");

    host.kubectl(&["annotate", "pod", "ends", "memory.longshore.dev/exit-code=0"])?.ok()?;
    let ended = host.wait_for_pod("ends", "Succeeded", |pod| pod.phase() == "Succeeded")?;
    host.delete("pods", "stays")?;
    host.wait_for_gone(&pod)?;
    host.delete("pods", "ends")?;
    host.wait_for_gone(&ended)
}

#[test]
fn a_node_on_the_library_runs_pods() -> Result<()> {
    let solo = Solo::example("library", &[])?;
    live_and_end(&solo)?;
    let host = &solo.host;
    let variable = json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "late", "key": "a"}}});
    let spec = json!({"containers": [{"name": "main", "image": "anything", "env": [variable]}]});
    host.create(solo.pod("waits", spec))?;
    host.wait_for_event("waits", "MandatorySecretNotFound")?;
    host.create(json!({"kind": "Secret", "metadata": {"name": "late"}, "stringData": {"a": "1"}}))?;
    host.wait_for_ready("waits")?;

    let logs = host.kubectl(&["logs", "waits"])?.ok()?;
    ensure!(logs.starts_with("main of ") && logs.lines().count() == 1, "{logs}");
    let follow = host.kubectl_beside(&["logs", "--follow", "waits"])?;
    follow.wait_for_line("main of ", secs(20))?;
    let exec = host.kubectl(&["exec", "waits", "--", "true"])?;
    ensure!(exec.code != 0 && exec.stderr.contains("not supported by this provider"), "{exec:?}");
    host.delete("pods", "waits")?;
    ensure!(follow.wait(secs(60))?.0 == 0, "logs end with the pod");
    Ok(())
}

#[test]
fn a_provider_without_a_notifier_is_polled() -> Result<()> {
    live_and_end(&Solo::example("polled", &["polled"])?)
}

#[test]
fn an_unknown_provider_is_refused() -> Result<()> {
    let output = World::longshore_command(&["run", "--provider", "memry", "--node-name", "lake"])?;
    ensure!(output.code == 2 && output.stderr.contains("one of: kubernetes, memory"), "{output:?}");
    let output = World::longshore_command(&["run", "--provider", "memory"])?;
    ensure!(output.code == 2 && output.stderr.contains("--node-name"), "{output:?}");
    Ok(())
}
