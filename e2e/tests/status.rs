//! The status of an offloaded pod is the one that a kubelet of home would have written.

use e2e::{Context, IDLE, Pod, Result, Value, World, container, ensure, json, secs};

/// What a field says that differs between any two pods, or that is told in another way on purpose.
fn normalized(pod: &Pod) -> Result<Value> {
    let mut status = pod.0["status"].clone();
    let fields = status.as_object_mut().context("no status")?;
    assert!(fields.remove("startTime").is_some(), "{pod} has a start time");
    for (address, all) in [("hostIP", "hostIPs"), ("podIP", "podIPs")] {
        let (first, all) = (fields.remove(address), fields.remove(all));
        assert_eq!(first, all.map(|all| all[0]["ip"].clone()), "the first of all");
    }
    let conditions = fields["conditions"].as_array_mut().context("no conditions")?;
    conditions.retain(|condition| condition["type"] != "longshore.dev/Delegated");
    conditions.sort_by_key(|condition| condition["type"].to_string());
    scrub(&mut status, &pod.0["metadata"]["generation"]);
    Ok(status)
}

fn scrub(value: &mut Value, generation: &Value) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields.iter_mut() {
                match field.as_str() {
                    "lastTransitionTime" | "startedAt" | "finishedAt" | "containerID" if value.is_string() => {
                        *value = "…".into();
                    }
                    // Lifting the limits of default tolerations from an old proxy makes a generation of its own.
                    "observedGeneration" => *value = json!({"is the newest": value == generation}),
                    // Two that crash are at different restarts.
                    "restartCount" if value.as_u64() > Some(0) => *value = "some".into(),
                    // It names the pod with its namespace and its UID.
                    "message" if value.as_str().is_some_and(|text| text.contains("back-off")) => {
                        *value = "back-off".into();
                    }
                    _ => scrub(value, generation),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| scrub(one, generation)),
        _ => {}
    }
}

/// One kind of pod, and when it has come to rest.
struct Kind {
    name: &'static str,
    spec: Value,
    rests: fn(&Pod) -> bool,
    delete: bool,
}

fn kinds() -> Vec<Kind> {
    let sidecar = |name: &str| {
        let mut sidecar = container(name, IDLE);
        sidecar["restartPolicy"] = "Always".into();
        sidecar
    };
    let mut sized = container("b", IDLE);
    sized["resources"] = json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}});
    let kind = |name, spec, rests| Kind { name, spec, rests, delete: false };
    let deleted = |name, spec| Kind { name, spec, rests: Pod::is_finished, delete: true };
    let gone_ill = "trap 'exit 3' TERM; sleep 86400 & wait";
    vec![
        kind("runs", json!({"containers": [sized, container("a", IDLE)]}), Pod::is_ready),
        kind(
            "accompanied",
            json!({"initContainers": [container("z", "true"), sidecar("m"), container("k", "true")],
                "containers": [container("main", IDLE)]}),
            Pod::is_ready,
        ),
        kind(
            "gated",
            json!({"containers": [container("main", IDLE)], "readinessGates": [{"conditionType": "example.com/gate"}]}),
            |pod| pod.condition("Ready")["reason"] == "ReadinessGatesNotReady",
        ),
        kind(
            "completes",
            json!({"restartPolicy": "Never", "containers": [container("main", "true")]}),
            Pod::is_finished,
        ),
        kind(
            "fails",
            json!({"restartPolicy": "Never", "containers": [container("main", "echo why > /dev/termination-log; exit 3")]}),
            Pod::is_finished,
        ),
        kind(
            "fails-early",
            json!({"restartPolicy": "Never", "initContainers": [container("one", "exit 5"), container("two", "true")],
                "containers": [container("main", IDLE)]}),
            Pod::is_finished,
        ),
        kind("crashes", json!({"containers": [container("main", "exit 7")]}), |pod| {
            pod.restarts() > 0 && pod.container("main")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        }),
        deleted("deleted", json!({"containers": [container("main", IDLE)]})),
        deleted("deleted-ill", json!({"containers": [container("main", gone_ill), container("well", IDLE)]})),
    ]
}

#[test]
fn a_status_is_the_same_as_on_a_plain_node() -> Result<()> {
    let world = World::new("status")?;
    let (kinds, hold) = (kinds(), "example.com/hold");
    let plain = |name: &str| format!("{name}-plain");
    for kind in &kinds {
        let mut spec = kind.spec.clone();
        spec["automountServiceAccountToken"] = false.into();
        let mut offloaded = world.pod_of(kind.name, spec);
        if kind.delete {
            // What is removed at once could not be compared.
            offloaded["metadata"]["finalizers"] = json!([hold]);
        }
        let mut at_home = offloaded.clone();
        at_home["metadata"]["name"] = plain(kind.name).into();
        at_home["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "host-node"});
        world.host.create(offloaded)?;
        world.host.create(at_home)?;
    }
    for kind in kinds.iter().filter(|kind| kind.delete) {
        for name in [kind.name.to_owned(), plain(kind.name)] {
            world.host.wait_for_ready(&name)?;
            world.host.delete("pods", &name)?;
        }
    }
    let outcome = kinds.iter().try_for_each(|kind| {
        // Two crash loops are out of step, and each is at rest only now and then: what each showed last when it was counts.
        let mut rested = [None, None];
        world.host.wait(&format!("{} to be the same on both nodes", kind.name), secs(240), |host| {
            let both = [host.pod(kind.name)?, host.pod(&plain(kind.name))?];
            for (pod, rested) in both.iter().zip(&mut rested) {
                if (kind.rests)(pod) {
                    *rested = Some(normalized(pod)?);
                }
            }
            let [offloaded, at_home] =
                rested.each_ref().map(|one| one.as_ref().map_or("nothing".into(), |one| format!("{one:#}")));
            ensure!(rested[0].is_some() && rested[0] == rested[1], "offloaded: {offloaded}\nat home: {at_home}");
            Ok(())
        })
    });
    for kind in kinds.iter().filter(|kind| kind.delete) {
        for name in [kind.name.to_owned(), plain(kind.name)] {
            world.host.patch("pods", &name, &json!({"metadata": {"finalizers": null}}))?;
        }
    }
    outcome
}

#[test]
fn a_replaced_delegate_counts_on_from_where_home_was() -> Result<()> {
    let world = World::new("replaced")?;
    world.host.create(world.pod("phoenix", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("phoenix")?;
    let first = world.delegate(&proxy)?;
    // The command may die with the container.
    let crash = || world.host.kubectl(&["exec", "phoenix", "--", "kill", "1"]).map(drop);
    crash()?;
    world.host.wait_for_pod("phoenix", "restarted once", |pod| pod.restarts() == 1 && pod.is_ready())?;

    let history = world.record_home()?;
    world.east.delete_with("pods", "phoenix", "gracePeriodSeconds=0")?;
    world.east.wait("another delegate", secs(60), |_| {
        let delegates = world.delegates(&proxy)?;
        ensure!(delegates.len() == 1 && delegates[0].uid() != first.uid(), "{delegates:?}");
        Ok(())
    })?;
    let risen = world
        .host
        .wait_for_pod("phoenix", "Ready with one more restart", |pod| pod.is_ready() && pod.restarts() == 2)?;
    assert_eq!(risen.uid(), proxy.uid());
    let last = &risen.container("main")["lastState"]["terminated"];
    assert_eq!(
        last["exitCode"].as_i64().context("the end of the one before")?,
        if last["reason"] == "Completed" { 0 } else { 137 }
    );
    assert_eq!(risen.0["status"]["startTime"], proxy.0["status"]["startTime"], "it never changes");
    let counts: Vec<_> = history.observations()?.iter().map(|one| one.pod.restarts()).collect();
    assert!(counts.is_sorted(), "it never goes back: {counts:?}");
    crash()?;
    world.host.wait_for_pod("phoenix", "restarted once more", |pod| pod.restarts() == 3 && pod.is_ready())?;
    let reasons: Vec<_> = world.host.events_of("phoenix")?.iter().map(|event| event["reason"].to_string()).collect();
    assert!(!reasons.iter().any(|reason| reason.contains("StatusRefused")), "{reasons:?}");
    Ok(())
}
