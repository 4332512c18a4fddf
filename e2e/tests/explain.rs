//! What `longshore explain` shows is what is created, and it creates nothing.

use e2e::{IDLE, Output, Result, Value, World, container, deployment, json, write_json};

fn explain(world: &World, args: &[&str]) -> Result<Output> {
    let (config, host) = (world.longshore().config(), World::kubeconfig("host")?);
    let (config, host) = (config.to_string_lossy(), host.to_string_lossy());
    let mut all = vec!["explain", "--provider-config", &config, "--kubeconfig", &host];
    all.extend(args);
    World::longshore_command(&all)
}

#[test]
fn a_live_pod_is_explained_as_it_was_created() -> Result<()> {
    let world = World::new("explain")?;
    let mut main = container("main", IDLE);
    main["env"] = json!([{"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}]);
    world.host.create(world.pod("live", &[main]))?;
    let proxy = world.host.wait_for_ready("live")?;
    let delegate = world.delegate(&proxy)?;

    let output = explain(&world, &[&format!("{}/live", world.namespace), "-o", "json"])?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let said: Value = serde_json(&output.stdout)?;
    let shown = &said[0]["delegate"];
    for (name, value) in shown["metadata"].as_object().unwrap() {
        assert_eq!(value, &delegate.0["metadata"][name], "metadata.{name}");
    }
    for (name, value) in shown["spec"].as_object().unwrap().iter().filter(|(name, _)| *name != "containers") {
        assert_eq!(value, &delegate.0["spec"][name], "spec.{name}");
    }
    assert_eq!(shown["spec"]["containers"][0]["env"], delegate.0["spec"]["containers"][0]["env"]);
    let report: Vec<_> =
        said[0]["report"].as_array().unwrap().iter().map(|change| change["field"].as_str().unwrap()).collect();
    for field in ["spec.nodeName", "spec.containers[0].env[0].valueFrom.fieldRef", "spec.serviceAccountName"] {
        assert!(report.contains(&field), "{field} in {report:?}");
    }
    assert_eq!(world.delegate(&proxy)?.resource_version(), delegate.resource_version(), "nothing was changed");
    Ok(())
}

#[test]
fn a_manifest_is_explained_before_anything_is_created() -> Result<()> {
    let world = World::new("manifest")?;
    let dir = tempfile::tempdir()?;
    let fine = deployment(
        "web",
        2,
        &world.placed(json!({"containers": [container("main", IDLE)], "priorityClassName": "nowhere"})),
    );
    let fine = write_json(&dir, "fine.yaml", &fine)?;
    let output = explain(&world, &["-f", &fine.to_string_lossy(), "--target", "east", "-n", &world.namespace])?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let first = format!("# Deployment {}/web on node {}, in target east\n", world.namespace, world.longshore().node());
    assert!(output.stdout.starts_with(&first), "{}", output.stdout);
    for words in ["of the target will be created", "# dropped  spec.priorityClassName", "name: web-xxxxx", "app: web"] {
        assert!(output.stdout.contains(words), "{words:?} in {}", output.stdout);
    }

    let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}});
    let kept = world.pod_of("kept", json!({"containers": [container("main", IDLE)], "volumes": [claim]}));
    let kept = write_json(&dir, "kept.yaml", &kept)?;
    let output = explain(&world, &["-f", &kept.to_string_lossy(), "-n", &world.namespace])?;
    assert_eq!(output.code, 1, "{}", output.stderr);
    for words in ["HELD  spec.volumes[0].persistentVolumeClaim", "set spec.claims"] {
        assert!(output.stdout.contains(words), "{words:?} in {}", output.stdout);
    }

    let mut held = world.pod("held", &[container("main", IDLE)]);
    held["spec"]["hostNetwork"] = true.into();
    let held = write_json(&dir, "held.yaml", &held)?;
    let output = explain(&world, &["-f", &held.to_string_lossy()])?;
    assert_eq!(output.code, 1, "{}", output.stdout);
    assert!(output.stdout.contains("HELD  spec.hostNetwork: "), "{}", output.stdout);
    assert!(output.stderr.contains("1 of 1 would be held at home"), "{}", output.stderr);

    let output = explain(&world, &["-f", &held.to_string_lossy(), "--target", "north"])?;
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("give --target with one of east"), "{}", output.stderr);
    assert!(world.east.find("namespaces", &world.namespace)?.is_none(), "nothing was made in the target");
    Ok(())
}

fn serde_json(text: &str) -> Result<Value> {
    Ok(text.parse()?)
}
