//! What a target allows runs there, what it does not is refused at home, and classes are as the target has them.

use e2e::{Cluster, IDLE, Result, Value, World, container, json};

/// A pod that asks for one thing more than to run.
fn asking(world: &World, name: &str, spec: Value, security: Value, annotations: Value) -> Value {
    let mut main = container("main", IDLE);
    if !security.is_null() {
        main["securityContext"] = security;
    }
    let mut spec = spec;
    spec["containers"] = json!([main]);
    let mut pod = world.pod_of(name, spec);
    pod["metadata"]["annotations"] = annotations;
    pod
}

/// Pods by name, each with what it asks for, the field that asks, and the guardrail.
fn bold(world: &World) -> Vec<(Value, &'static str, &'static str)> {
    let pod = |name: &str, spec: Value, security: Value| asking(world, name, spec, security, json!({}));
    let none = Value::Null;
    let hosts = json!({"volumes": [{"name": "h", "hostPath": {"path": "/usr/share"}}]});
    vec![
        (pod("network", json!({"hostNetwork": true}), none.clone()), "spec.hostNetwork", "hostNetwork"),
        (pod("pid", json!({"hostPID": true}), none.clone()), "spec.hostPID", "hostPID"),
        (pod("ipc", json!({"hostIPC": true}), none.clone()), "spec.hostIPC", "hostIPC"),
        (pod("path", hosts, none.clone()), "spec.volumes[0].hostPath", "hostPath"),
        (
            pod("privileged", json!({}), json!({"privileged": true})),
            "spec.containers[0].securityContext.privileged",
            "privileged",
        ),
        (
            pod("capable", json!({}), json!({"capabilities": {"add": ["NET_ADMIN"]}})),
            "spec.containers[0].securityContext.capabilities.add",
            "addedCapabilities",
        ),
        (
            asking(world, "pinned", json!({}), none, json!({"longshore.dev/pin-to-node": "east-node"})),
            "metadata.annotations[longshore.dev/pin-to-node]",
            "nodeName",
        ),
    ]
}

#[test]
fn nothing_that_reaches_beyond_the_pod_is_allowed_by_default() -> Result<()> {
    let world = World::new("closed")?;
    let bold = bold(&world);
    for (pod, ..) in &bold {
        world.host.create(pod.clone())?;
    }
    for (pod, field, guardrail) in &bold {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let message = world.host.wait_for_event(name, "OffloadHeld")?;
        assert!(message.starts_with(&format!("{field}: ")), "the event of {name} names the field: {message}");
        let remedy = format!("set spec.guardrails.{guardrail}");
        assert!(message.contains(&remedy) && message.contains("of the Target east"), "and the remedy: {message}");
        let proxy = world.host.wait_for_pod(name, "held", |pod| {
            pod.condition("longshore.dev/Delegated")["message"].to_string().contains(field)
        })?;
        assert!(world.delegates(&proxy)?.is_empty(), "nothing was made in the target");
    }
    assert!(world.east.find("namespaces", &world.namespace)?.is_none(), "not even a namespace");
    Ok(())
}

#[test]
fn what_a_target_allows_runs_there() -> Result<()> {
    let rails = "guardrails: {hostNetwork: true, hostPID: true, hostIPC: true, hostPath: [/usr], privileged: true, \
                 addedCapabilities: [NET_ADMIN], nodeName: true, namespaces: ['e2e-*']}";
    let (world, _berth) = World::cuttable("open", rails)?;
    for (pod, ..) in bold(&world) {
        world.host.create(pod)?;
    }
    for (pod, ..) in bold(&world) {
        let proxy = world.host.wait_for_ready(pod["metadata"]["name"].as_str().unwrap())?;
        let delegate = world.delegate(&proxy)?;
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert_eq!(delegate.0["spec"][field], proxy.0["spec"][field], "{delegate}");
        }
        let security = |pod: &e2e::Pod| pod.0["spec"]["containers"][0]["securityContext"].clone();
        assert_eq!(security(&delegate), security(&proxy));
    }
    let pinned = world.delegate(&world.host.pod("pinned")?)?;
    let path =
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0";
    assert_eq!(pinned.0.pointer(path).unwrap()["values"], json!(["east-node"]));

    world.host.create(asking(
        &world,
        "outside",
        json!({"volumes": [{"name": "h", "hostPath": {"path": "/etc"}}]}),
        Value::Null,
        json!({}),
    ))?;
    assert!(world.host.wait_for_event("outside", "OffloadHeld")?.contains("mount /etc"), "only what is below /usr");
    Ok(())
}

/// A class of a cluster, which goes with this value.
struct Class<'a>(&'a Cluster, &'static str, String);

impl<'a> Class<'a> {
    fn priority(cluster: &'a Cluster, name: &str, value: i32) -> Result<Self> {
        let class = json!({"kind": "PriorityClass", "metadata": {"name": name}, "value": value});
        cluster.create(class)?;
        Ok(Self(cluster, "priorityclasses", name.into()))
    }

    fn runtime(cluster: &'a Cluster, name: &str, overhead: &str) -> Result<Self> {
        let class = json!({"kind": "RuntimeClass", "metadata": {"name": name}, "handler": "runc",
            "overhead": {"podFixed": {"memory": overhead}}});
        cluster.create(class)?;
        Ok(Self(cluster, "runtimeclasses", name.into()))
    }
}

impl Drop for Class<'_> {
    fn drop(&mut self) {
        _ = self.0.delete(self.1, &self.2);
    }
}

#[test]
fn a_priority_class_is_the_targets_or_left_out_and_that_is_said() -> Result<()> {
    let world = World::new("priority")?;
    let (both, home) = (format!("both-{}", world.namespace), format!("home-{}", world.namespace));
    let _classes = [
        Class::priority(&world.host, &both, 1000)?,
        Class::priority(&world.host, &home, 2000)?,
        Class::priority(&world.east, &both, 7)?,
    ];
    for (name, class) in [("both", &both), ("home", &home), ("again", &home)] {
        let spec = json!({"containers": [container("main", IDLE)], "priorityClassName": class});
        world.host.create(world.pod_of(name, spec))?;
    }
    let proxy = world.host.wait_for_ready("both")?;
    assert_eq!(proxy.0["spec"]["priority"], 1000);
    let delegate = world.delegate(&proxy)?;
    assert_eq!((&delegate.0["spec"]["priority"], delegate.text("/spec/priorityClassName")), (&json!(7), both.as_str()));
    for name in ["home", "again"] {
        let delegate = world.delegate(&world.host.wait_for_ready(name)?)?;
        assert_eq!((&delegate.0["spec"]["priority"], delegate.text("/spec/priorityClassName")), (&json!(0), ""));
        let message = world.host.wait_for_event(name, "OffloadChanged")?;
        assert!(message.contains("spec.priorityClassName") && message.contains(&home), "{message}");
    }
    Ok(())
}

#[test]
fn a_runtime_class_is_waited_for() -> Result<()> {
    let world = World::new("runtime")?;
    let class = format!("fence-{}", world.namespace);
    let _home = Class::runtime(&world.host, &class, "16Mi")?;
    let spec = json!({"containers": [container("main", IDLE)], "runtimeClassName": class});
    world.host.create(world.pod_of("fenced", spec))?;
    let message = world.host.wait_for_event("fenced", "TargetRefused")?;
    assert!(message.contains("map it in spec.runtimeClasses of the Target east"), "{message}");
    let _east = Class::runtime(&world.east, &class, "4Mi")?;
    let proxy = world.host.wait_for_ready("fenced")?;
    let delegate = world.delegate(&proxy)?;
    assert_eq!(proxy.0["spec"]["overhead"]["memory"], "16Mi");
    assert_eq!(delegate.0["spec"]["overhead"]["memory"], "4Mi", "the overhead is that of the target's class");
    Ok(())
}
