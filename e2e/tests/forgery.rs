//! Labels and annotations are easily written: what calls itself Longshore's, on either side, is believed only where it can
//! be true.

use e2e::{Context, IDLE, Pod, Result, Value, World, container, ensure, json, secs};

/// The id of the host, as delegates carry it.
fn host_id(world: &World) -> Result<String> {
    let system = world.host.get("namespaces", "kube-system")?;
    Ok(system["metadata"]["uid"].as_str().context("no UID")?.to_owned())
}

/// A pod of the target that calls itself the delegate of a proxy.
fn forged(world: &World, name: &str, of: (&str, &str, &str), script: &str, more: &Value) -> Result<Value> {
    let (namespace, proxy, uid) = of;
    let mut annotations = json!({"longshore.dev/namespace": namespace, "longshore.dev/name": proxy,
        "longshore.dev/sent": "00000000000000ff"});
    for (key, value) in more.as_object().into_iter().flatten() {
        annotations[key] = value.clone();
    }
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations,
        "labels": {"longshore.dev/host": host_id(world)?, "longshore.dev/node": world.longshore().node(),
            "longshore.dev/uid": uid}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [container("main", script)]}}))
}

/// What must hold however often the forgeries are seen.
fn unimpressed(world: &World, victim: &Pod, delegate: &Pod) -> Result<()> {
    let now = world.host.pod("victim")?;
    ensure!(now.uid() == victim.uid() && now.is_ready() && !now.is_terminating(), "{now}");
    let there = world.east.pod("victim")?;
    ensure!(there.uid() == delegate.uid() && there.restarts() == 0 && !there.is_terminating(), "{there}");
    ensure!(world.east.find("secrets", "crown-jewels")?.is_none(), "a Secret that no pod refers to has left home");
    ensure!(world.east.find("secrets", "db")?.is_some(), "what the pod refers to is still there");
    Ok(())
}

#[test]
fn whoever_writes_pods_in_a_target_gets_nothing_of_home_by_it() -> Result<()> {
    let world = World::alone("forged")?;
    for name in ["crown-jewels", "db"] {
        world.host.create(json!({"kind": "Secret", "metadata": {"name": name}, "stringData": {"key": name}}))?;
    }
    let mut main = container("main", IDLE);
    main["envFrom"] = json!([{"secretRef": {"name": "db"}}]);
    world.host.create(world.pod("victim", &[main]))?;
    let victim = world.host.wait_for_ready("victim")?;
    let delegate = world.delegate(&victim)?;

    // In the same namespace, with the word of the victim, for a Secret that it does not refer to.
    let wants = json!({"longshore.dev/follows": "secret/crown-jewels", "longshore.dev/tokens":
        "{\"account\": \"default\", \"tokens\": [{\"seconds\": 3600}]}"});
    let namespace = world.namespace.clone();
    world.east.create(forged(&world, "thief", (&namespace, "thief", victim.uid()), IDLE, &wants)?)?;
    // In a namespace of somebody else, in the victim's name, with an end of its own.
    let elsewhere = format!("{namespace}-x");
    world.east.create(json!({"kind": "Namespace", "metadata": {"name": elsewhere}}))?;
    let liar = forged(&world, "victim", (&namespace, "victim", victim.uid()), "exit 3", &wants)?;
    let mut arguments = vec!["--namespace", elsewhere.as_str(), "create", "--filename", "-"];
    world.east.wait("a service account in the other namespace", secs(60), |east| {
        east.kubectl_with(&arguments, liar.to_string().as_bytes())?.ok()
    })?;
    arguments = vec!["--namespace", elsewhere.as_str(), "get", "pod", "victim", "--output", "json"];
    let ended = |uid: &str| {
        world.east.wait("the forged pod to have ended", secs(90), |east| {
            let pod: Value = serde_json::from_str(&east.kubectl(&arguments)?.ok()?)?;
            ensure!(pod["status"]["phase"] == "Failed", "{}", pod["status"]);
            let seen = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            ensure!(uid.is_empty() || seen == uid, "it was replaced");
            Ok(seen)
        })
    };
    let liar = ended("")?;
    let told = |count: usize| {
        world.host.wait("Longshore to have seen both", secs(60), |_| {
            let log = world.longshore().log();
            for words in ["calls itself the delegate of", "does not refer to"] {
                let seen = log.lines().filter(|line| line.contains(words)).count();
                ensure!(seen >= count, "{words}: {seen}");
            }
            Ok(())
        })
    };
    told(1)?;
    unimpressed(&world, &victim, &delegate)?;

    // Who starts knows nothing yet, and sees all of them at once.
    world.longshore().kill9()?;
    world.longshore().restart()?;
    world.wait_for_node()?;
    told(2)?;
    unimpressed(&world, &victim, &delegate)?;

    // The end of a forged one is not the end of the real one.
    world.east.delete_with("pods", "thief", "gracePeriodSeconds=0")?;
    let marker = world.one_shot("after", &[container("main", "exit 0")]);
    world.host.create(marker)?;
    world.host.wait_for_pod("after", "Succeeded", |pod| pod.phase() == "Succeeded")?;
    unimpressed(&world, &victim, &delegate)?;

    world.host.delete("pods", "victim")?;
    world.host.wait_for_gone(&victim)?;
    ended(&liar)?;
    world.east.delete("namespaces", &elsewhere)
}

#[test]
fn whoever_writes_pods_at_home_cannot_write_as_longshore() -> Result<()> {
    let world = World::new("mimic")?;
    world.host.create(json!({"kind": "Secret", "metadata": {"name": "crown-jewels"}, "stringData": {"key": "x"}}))?;
    let mut pod = world.pod("mimic", &[container("main", IDLE)]);
    pod["metadata"]["labels"] = json!({"longshore.dev/host": "somebody", "longshore.dev/node": "another",
        "longshore.dev/uid": "0000"});
    pod["metadata"]["annotations"] = json!({"longshore.dev/namespace": "kube-system", "longshore.dev/name": "x",
        "longshore.dev/follows": "secret/crown-jewels", "longshore.dev/sent": "00000000000000ff",
        "longshore.dev/tokens": "{\"account\": \"default\", \"tokens\": [{\"seconds\": 3600}]}",
        "longshore.dev/last": "{}", "longshore.dev/lifted-tolerations": "not-ready,unreachable"});
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready("mimic")?;
    let delegate = world.delegate(&proxy)?.0;
    let metadata = &delegate["metadata"];
    let labels = &metadata["labels"];
    assert_eq!(labels["longshore.dev/host"], json!(host_id(&world)?));
    assert_eq!(labels["longshore.dev/node"], json!(world.longshore().node()));
    let annotations = &metadata["annotations"];
    assert_eq!(annotations["longshore.dev/namespace"], json!(world.namespace));
    assert_eq!(annotations["longshore.dev/name"], "mimic");
    // It may follow what every pod needs, by our own word.
    ensure!(!annotations["longshore.dev/follows"].to_string().contains("crown-jewels"), "{annotations}");
    ensure!(annotations["longshore.dev/tokens"].is_null(), "{annotations}");
    ensure!(annotations["longshore.dev/sent"] != "00000000000000ff", "{annotations}");
    ensure!(world.east.find("secrets", "crown-jewels")?.is_none());
    // It ends as every other.
    world.host.delete("pods", "mimic")?;
    world.host.wait_for_gone(&proxy)?;
    world.wait_for_no_delegates()
}

#[test]
fn a_choice_that_names_no_target_starts_nothing_and_is_told() -> Result<()> {
    let world = World::new("astray")?;
    let mut pod = world.pod("astray", &[container("main", IDLE)]);
    pod["metadata"]["annotations"] = json!({"longshore.dev/target": "nowhere"});
    let proxy = Pod(world.host.create(pod)?);
    let message = world.host.wait_for_event("astray", "TargetUnknown")?;
    ensure!(message.contains("longshore.dev/target"), "{message}");
    assert_eq!(world.delegates(&proxy)?.len(), 0);
    world.host.delete_with("pods", "astray", "gracePeriodSeconds=0")?;
    world.host.wait_for_gone(&proxy)
}
