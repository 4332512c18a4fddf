//! Longshore is taken away where a file declares what it serves: nobody but `longshore uninstall` empties its nodes then.

use std::thread;

use e2e::{IDLE, Output, Result, World, bail, container, ensure, json, secs};

fn uninstall(world: &World, patience: &str) -> Result<Output> {
    let (config, host) = (world.longshore().config(), World::kubeconfig("host")?);
    let (config, host) = (config.to_string_lossy(), host.to_string_lossy());
    let args = ["uninstall", "--provider-config", &config, "--kubeconfig", &host, "--patience", patience];
    World::longshore_command(&args)
}

#[test]
fn what_a_file_declares_is_emptied_as_budgets_allow_and_removed() -> Result<()> {
    let world = World::alone("away")?;
    let mut pod = world.pod("web", &[container("main", IDLE)]);
    pod["metadata"]["labels"] = json!({"app": "web"});
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready("web")?;
    let delegate = world.delegate(&proxy)?;
    world.host.create(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}))?;

    let refused = uninstall(&world, "3")?;
    ensure!(refused.code == 1 && refused.stderr.contains("PodDisruptionBudgets"), "{refused:?}");
    ensure!(world.host.pod("web")?.uid() == proxy.uid() && world.host.pod("web")?.is_ready());
    world.host.kubectl(&["delete", "poddisruptionbudgets", "web"])?.ok()?;

    thread::scope(|scope| {
        let running = scope.spawn(|| uninstall(&world, "60"));
        world.host.wait_for_gone(&proxy)?;
        world.east.wait_for_gone(&delegate)?;
        ensure!(!running.is_finished(), "it waits until Longshore has been stopped");
        world.longshore().stop()?;
        let Ok(output) = running.join() else { bail!("it panicked") };
        let (output, node) = (output?, world.longshore().node());
        ensure!(output.code == 0 && output.stdout.contains(&format!("removed: node {node}")), "{output:?}");
        world.host.wait("the node to go", secs(30), |host| {
            ensure!(host.find("nodes", node)?.is_none(), "it is there");
            Ok(())
        })
    })
}
