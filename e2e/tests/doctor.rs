//! What is left behind is found, explained, and removed; what is needed is not touched.

use e2e::{Cluster, IDLE, Result, Value, World, bail, container, ensure, json, secs};

/// Runs the doctor with the configuration of the world's Longshore.
fn doctor(world: &World, more: &[&str]) -> Result<(i32, Vec<Value>)> {
    let config = world.longshore().config();
    let config = config.to_string_lossy();
    let host = World::kubeconfig("host")?;
    let host = host.to_string_lossy();
    let mut args = vec!["doctor", "--provider-config", &config, "--kubeconfig", &host, "-o", "json"];
    args.extend(more);
    let output = World::longshore_command(&args)?;
    let found: Value = serde_json::from_str(output.stdout.trim())?;
    Ok((output.code, found.as_array().cloned().unwrap_or_default()))
}

/// Those findings that are about this test's objects: others share the clusters.
fn about(found: &[Value], text: &str) -> Vec<String> {
    let object = |one: &Value| one["object"].as_str().unwrap_or_default().to_owned();
    found.iter().map(object).filter(|object| object.contains(text)).collect()
}

#[test]
fn the_doctor_removes_what_nobody_needs_and_nothing_else() -> Result<()> {
    let world = World::alone("left")?;
    for name in ["kept", "lost", "stripped"] {
        world.host.create(world.pod(name, &[container("main", IDLE)]))?;
        world.host.wait_for_ready(name)?;
    }
    let (_, found) = doctor(&world, &[])?;
    assert_eq!(about(&found, &world.namespace), [""; 0], "all is in order");

    // Nobody keeps the node any more: its lease was given back, and the Node is gone with the pods' sight of it.
    let kept = world.host.pod("kept")?;
    world.longshore().stop()?;
    for name in ["lost", "stripped"] {
        let proxy = world.host.pod(name)?;
        world.host.delete_with("pods", name, "gracePeriodSeconds=0")?;
        world.host.wait_for_gone(&proxy)?;
    }
    // Nor do its labels say any more whose it is.
    let labels = json!({"longshore.dev/host": null, "longshore.dev/node": null, "longshore.dev/uid": null});
    world.east.patch("pods", "stripped", &json!({"metadata": {"labels": labels}}))?;
    let (code, found) = doctor(&world, &[])?;
    let places = ["lost", "stripped"].map(|name| format!("pod {}/{name}", world.namespace));
    assert_eq!((code, about(&found, &world.namespace)), (1, places.to_vec()));

    let (code, found) = doctor(&world, &["--fix"])?;
    assert_eq!((code, about(&found, &world.namespace)), (0, places.to_vec()));
    for name in ["lost", "stripped"] {
        let gone = |east: &Cluster| east.find_pod(name)?.map_or(Ok(()), |pod| bail!("{pod}"));
        world.east.wait("the leftovers to go", secs(30), gone)?;
    }
    let delegate = world.delegate(&kept)?;
    ensure!(!delegate.is_terminating() && delegate.restarts() == 0, "{delegate}");
    assert_eq!(about(&doctor(&world, &[])?.1, &world.namespace), [""; 0]);

    world.longshore().restart()?;
    world.wait_for_node()?;
    assert!(world.host.wait_for_ready("kept")?.uid() == kept.uid());
    Ok(())
}

#[test]
fn the_doctor_leaves_data_to_people() -> Result<()> {
    let world = World::alone("data")?;
    world.create_target_namespace()?;
    let host_id = world.host.get("namespaces", "kube-system")?["metadata"]["uid"].clone();
    let labels = json!({"longshore.dev/host": host_id, "longshore.dev/node": world.longshore().node(),
        "longshore.dev/uid": "0c0ffee0-0000-4000-8000-000000000000"});
    world
        .east
        .create(json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "left", "labels": labels}, "spec":
        {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Mi"}}}}))?;
    world.east.create(json!({"kind": "Service", "metadata": {"name": "left", "labels": labels},
        "spec": {"ports": [{"port": 80}]}}))?;
    let (claim, service) =
        (format!("persistentvolumeclaim {}/left", world.namespace), format!("service {}/left", world.namespace));
    let (code, found) = doctor(&world, &["--fix"])?;
    let mut about = about(&found, &world.namespace);
    about.sort();
    assert_eq!((code, about), (0, vec![claim, service]));
    ensure!(world.east.find("services", "left")?.is_none(), "nobody needs it");
    ensure!(world.east.get("persistentvolumeclaims", "left")?["metadata"]["deletionTimestamp"].is_null());
    Ok(())
}
