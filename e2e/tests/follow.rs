//! ConfigMaps and Secrets follow the pods that refer to them, and nothing else does.

use e2e::{Cluster, Context, IDLE, Pod, Result, Value, World, bail, container, ensure, json, secs};

/// How long what changes at home may take to reach a file in a pod. Kubelets look at volumes once a minute at the latest.
const FILES: std::time::Duration = secs(120);

fn config_map(name: &str, data: &Value) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn secret(name: &str, data: &Value) -> Value {
    json!({"kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

/// A pod that mounts this volume at `/v` and idles.
fn mounting(world: &World, name: &str, volume: &Value) -> Value {
    let mut main = container("main", IDLE);
    main["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let mut volume = volume.clone();
    volume["name"] = "v".into();
    world.pod_of(name, json!({"containers": [main], "volumes": [volume]}))
}

fn exec(host: &Cluster, pod: &str, script: &str) -> Result<String> {
    host.kubectl(&["exec", pod, "--", "sh", "-c", script])?.ok()
}

fn wait_for_no(east: &Cluster, plural: &str, name: &str) -> Result<()> {
    east.wait(&format!("{name} among the {plural} to be gone"), secs(60), |east| {
        east.find(plural, name)?.map_or(Ok(()), |found| bail!("{found}"))
    })
}

/// The names of all objects of ours in the test's namespace of the target.
fn copies(east: &Cluster, plural: &str) -> Result<Vec<String>> {
    let found = east.list(plural, "longshore.dev/host")?;
    let mut names: Vec<_> =
        found.iter().map(|one| one["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    Ok(names)
}

#[test]
fn what_a_pod_refers_to_is_there_when_it_starts_and_goes_after_it() -> Result<()> {
    let world = World::new("refer")?;
    let mut settings = config_map("settings", &json!({"colour": "blue", "SIZE": "large"}));
    settings["binaryData"] = json!({"raw": "AAEC"});
    settings["metadata"]["labels"] = json!({"dashboard": "1"});
    world.host.create(settings)?;
    world.host.create(secret("login", &json!({"USER": "ada", "password": "s3cret"})))?;
    world.host.create(config_map("bystander", &json!({"k": "v"})))?;
    world.host.create(secret("bystander", &json!({"k": "v"})))?;
    let mut registry = secret("registry", &json!({".dockerconfigjson": "{\"auths\":{}}"}));
    registry["type"] = "kubernetes.io/dockerconfigjson".into();
    world.host.create(registry)?;

    let mut main = container(
        "main",
        "echo $COLOUR $SIZE $USER; sha256sum < /all/raw; cat /all/password; echo; trap 'exit 0' TERM; sleep 86400 & wait",
    );
    main["env"] = json!([{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}}]);
    main["envFrom"] = json!([{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "login"}}]);
    main["volumeMounts"] = json!([{"name": "all", "mountPath": "/all"}, {"name": "config", "mountPath": "/config"}]);
    let sources = json!([{"configMap": {"name": "settings"}}, {"secret": {"name": "login"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"secret": {"name": "absent", "optional": true}}]);
    let spec = json!({"containers": [main], "imagePullSecrets": [{"name": "registry"}], "volumes": [
        {"name": "all", "projected": {"sources": sources}}, {"name": "config", "configMap": {"name": "settings"}}]});
    for name in ["one", "two"] {
        world.host.create(world.pod_of(name, spec.clone()))?;
    }
    for name in ["one", "two"] {
        let proxy = world.host.wait_for_ready(name)?;
        assert_eq!(world.delegate(&proxy)?.restarts(), 0, "it has never started without");
    }
    let words = world.host.kubectl(&["logs", "one"])?.ok()?;
    let digest = "ae4b3280e56e2faf83f414a6e3dabe9d5fbe18976544c05fed121accb85b53fc";
    assert_eq!(words, format!("blue large ada\n{digest}  -\ns3cret\n"));
    let home_ca = world.host.get("configmaps", "kube-root-ca.crt")?["data"]["ca.crt"].clone();
    assert_eq!(Some(exec(&world.host, "one", "cat /all/ca.crt")?.trim()), home_ca.as_str().map(str::trim));

    let maps = copies(&world.east, "configmaps")?;
    assert_eq!(maps.len(), 3, "{maps:?}");
    assert!(maps[0].starts_with("kube-root-ca.crt-") && maps[2] == "settings", "{maps:?}");
    assert!(maps[1].starts_with("longshore-services-"), "{maps:?}");
    assert_eq!(copies(&world.east, "secrets")?, ["login", "registry"], "those and no other");
    ensure!(
        world.east.find("configmaps", "bystander")?.is_none() && world.east.find("secrets", "bystander")?.is_none()
    );
    let copy = world.east.get("configmaps", "settings")?;
    assert_eq!(copy["metadata"]["labels"]["dashboard"], Value::Null, "labels of home stay at home");
    assert_eq!(world.east.get("secrets", "registry")?["type"], "kubernetes.io/dockerconfigjson");

    world.host.patch("configmaps", "settings", &json!({"data": {"colour": "green", "new": "x", "SIZE": null}}))?;
    world.host.create(secret("absent", &json!({"late": "yes"})))?;
    world.host.wait("the files in the pod to follow", FILES, |host| {
        let files = exec(host, "one", "cat /config/colour; ls /config; cat /all/late /all/colour")?;
        ensure!(files == "greencolour\nnew\nraw\nyesgreen", "{files}");
        Ok(())
    })?;

    world.host.delete("pods", "one")?;
    world.host.wait_for_pods("app=one", 0, "gone", |_| true)?;
    assert_eq!(world.east.get("configmaps", "settings")?["metadata"]["uid"], copy["metadata"]["uid"], "still needed");
    world.host.delete("pods", "two")?;
    for (plural, name) in [("configmaps", "settings"), ("configmaps", &*maps[0]), ("secrets", "login")] {
        wait_for_no(&world.east, plural, name)?;
    }
    world.east.wait("no copy to be left", secs(60), |east| {
        let left = [copies(east, "configmaps")?, copies(east, "secrets")?].concat();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    ensure!(world.east.find("configmaps", "kube-root-ca.crt")?.is_some(), "the target's own");
    Ok(())
}

#[test]
fn a_pod_waits_for_what_is_missing_and_says_what() -> Result<()> {
    let world = World::new("missing")?;
    world.host.create(mounting(&world, "waits", &json!({"secret": {"secretName": "late"}})))?;
    let message = world.host.wait_for_event("waits", "ReferenceMissing")?;
    let named = |text: &str| {
        text.contains("spec.volumes[0].secret") && text.contains(&format!("secret {}/late", world.namespace))
    };
    ensure!(named(&message), "{message}");
    let proxy = world.host.wait_for_pod("waits", "waiting", |pod| {
        pod.condition("longshore.dev/Delegated")["message"].as_str().is_some_and(named)
    })?;
    assert_eq!(proxy.phase(), "Pending");
    ensure!(world.delegates(&proxy)?.is_empty(), "it has not started without");

    world.host.create(secret("late", &json!({"k": "v"})))?;
    world.host.wait("the pod to start within seconds", secs(20), |host| {
        let pod = host.pod("waits")?;
        ensure!(pod.is_ready(), "{pod}");
        Ok(())
    })?;
    assert_eq!(exec(&world.host, "waits", "cat /v/k")?, "v");

    // Credentials for home itself stay there.
    let account = json!({"kubernetes.io/service-account.name": "default"});
    world.host.create(json!({"kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "token", "annotations": account}}))?;
    world.host.create(mounting(&world, "never", &json!({"secret": {"secretName": "token"}})))?;
    let message = world.host.wait_for_event("never", "ReferenceHeld")?;
    ensure!(message.contains("never leave"), "{message}");
    ensure!(world.east.find("secrets", "token")?.is_none());
    Ok(())
}

#[test]
fn what_is_not_ours_is_left_alone() -> Result<()> {
    let world = World::new("stranger")?;
    world.create_target_namespace()?;
    let theirs = world.east.create(config_map("settings", &json!({"whose": "theirs"})))?;
    world.east.create(config_map("maybe", &json!({"whose": "theirs"})))?;
    world.host.create(config_map("settings", &json!({"whose": "ours"})))?;
    world.host.create(mounting(&world, "conflict", &json!({"configMap": {"name": "settings"}})))?;
    let message = world.host.wait_for_event("conflict", "ReferenceConflict")?;
    ensure!(message.contains(&format!("configmap {}/settings", world.namespace)), "{message}");
    // Home has none, so the pod must not see one of somebody else.
    world.host.create(mounting(&world, "optional", &json!({"configMap": {"name": "maybe", "optional": true}})))?;
    world.host.wait_for_ready("optional")?;
    assert_eq!(exec(&world.host, "optional", "ls /v")?, "");
    assert_eq!(world.east.get("configmaps", "settings")?, theirs, "not touched");
    let proxy = world.host.pod("conflict")?;
    ensure!(world.delegates(&proxy)?.is_empty());

    // A copy of another host is in nobody's way.
    world.east.patch("configmaps", "settings", &json!({"metadata": {"labels": {"longshore.dev/host": "another"}}}))?;
    world.host.wait_for_ready("conflict")?;
    assert_eq!(exec(&world.host, "conflict", "cat /v/whose")?, "ours");
    assert_eq!(world.east.get("configmaps", "settings")?["data"]["whose"], "theirs");
    world.host.delete("pods", "conflict")?;
    world.host.delete("pods", "optional")?;
    let host_id = world.host.get("namespaces", "kube-system")?["metadata"]["uid"].clone();
    let selector = format!("longshore.dev/host={}", host_id.as_str().context("no UID")?);
    world.east.wait("our copy to go", secs(60), |east| {
        let left = east.list("configmaps", &selector)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    assert_eq!(world.east.get("configmaps", "settings")?["data"]["whose"], "theirs");
    Ok(())
}

#[test]
fn copies_are_put_right_while_they_are_needed() -> Result<()> {
    let world = World::new("right")?;
    world.host.create(config_map("settings", &json!({"k": "v"})))?;
    let mut fixed = config_map("fixed", &json!({"k": "1"}));
    fixed["immutable"] = true.into();
    world.host.create(fixed.clone())?;
    let sources = json!([{"configMap": {"name": "settings"}}, {"configMap": {"name": "fixed"}}]);
    world.host.create(mounting(&world, "pod", &json!({"projected": {"sources": sources}})))?;
    world.host.wait_for_ready("pod")?;
    let data = |name: &str, expected: Value| {
        world.east.wait(&format!("the copy {name} to be right"), secs(30), |east| {
            let copy = east.find("configmaps", name)?.context("it is not there")?;
            ensure!(copy["data"] == expected, "{copy}");
            Ok(copy)
        })
    };
    assert_eq!(data("fixed", json!({"k": "1"}))?["immutable"], true);

    world.east.patch("configmaps", "settings", &json!({"data": {"k": "edited", "more": "x"}}))?;
    data("settings", json!({"k": "v"}))?;
    world.east.patch("configmaps", "settings", &json!({"metadata": {"labels": null}}))?;
    world.east.wait("the labels to be back", secs(30), |east| {
        let copy = east.get("configmaps", "settings")?;
        ensure!(copy["metadata"]["labels"]["longshore.dev/host"].is_string(), "{copy}");
        Ok(())
    })?;
    world.east.delete("configmaps", "settings")?;
    data("settings", json!({"k": "v"}))?;

    world.host.delete("configmaps", "fixed")?;
    wait_for_no(&world.east, "configmaps", "fixed")?;
    fixed["data"]["k"] = "2".into();
    world.host.create(fixed)?;
    data("fixed", json!({"k": "2"}))?;
    world.host.patch("configmaps", "settings", &json!({"immutable": true, "data": {"k": "last"}}))?;
    assert_eq!(data("settings", json!({"k": "last"}))?["immutable"], true);

    // All of it goes at once, and comes back with the pod.
    let pod = world.delegate(&world.host.pod("pod")?)?;
    world.east.delete("namespaces", &world.namespace)?;
    world.east.wait_for_gone(&pod)?;
    world.host.wait("the pod to run in the new namespace", secs(120), |host| {
        let proxy = host.pod("pod")?;
        let delegates = world.delegates(&proxy)?;
        ensure!(proxy.is_ready() && delegates.iter().any(|it| it.uid() != pod.uid()), "{proxy}");
        Ok(())
    })?;
    assert_eq!(exec(&world.host, "pod", "cat /v/k")?.len(), 1, "one of the two has the last word on the file");
    Ok(())
}

#[test]
fn one_copy_serves_many_pods_and_a_restart_forgets_nothing() -> Result<()> {
    let world = World::alone("many")?;
    for name in ["shared", "gone"] {
        world.host.create(config_map(name, &json!({"k": "v"})))?;
    }
    let volume = |name: &str| json!({"configMap": {"name": name}});
    world.host.create(mounting(&world, "first", &volume("shared")))?;
    world.host.wait_for_ready("first")?;
    let copy = world.east.get("configmaps", "shared")?;
    for i in 0..8 {
        world.host.create(mounting(&world, &format!("many-{i}"), &volume("shared")))?;
    }
    world.host.create(mounting(&world, "other", &volume("gone")))?;
    for i in 0..8 {
        world.host.wait_for_ready(&format!("many-{i}"))?;
    }
    let other = world.host.wait_for_ready("other")?;
    let version = |copy: &Value| copy["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&world.east.get("configmaps", "shared")?), version(&copy), "eight pods cost no write");

    world.longshore().kill9()?;
    world.host.delete_with("pods", "other", "gracePeriodSeconds=0")?;
    world.host.wait_for_gone(&other)?;
    world.host.patch("configmaps", "shared", &json!({"data": {"k": "changed"}}))?;
    world.longshore().restart()?;
    wait_for_no(&world.east, "configmaps", "gone")?;
    world.east.wait("the change of meanwhile to follow", secs(30), |east| {
        let copy = east.get("configmaps", "shared")?;
        ensure!(copy["data"]["k"] == "changed", "{copy}");
        Ok(())
    })?;
    assert_eq!(world.east.get("configmaps", "shared")?["metadata"]["uid"], copy["metadata"]["uid"]);
    let running: Vec<Pod> = world.all_delegates()?;
    ensure!(running.len() == 9 && running.iter().all(|pod| pod.is_ready() && pod.restarts() == 0));

    // What is left when nobody comes back is the doctor's.
    world.longshore().stop()?;
    for i in 0..8 {
        world.host.delete_with("pods", &format!("many-{i}"), "gracePeriodSeconds=0")?;
    }
    world.host.delete_with("pods", "first", "gracePeriodSeconds=0")?;
    let config = world.longshore().config();
    let host = World::kubeconfig("host")?;
    let (config, host) = (config.to_string_lossy(), host.to_string_lossy());
    let doctor = |more: &[&str]| {
        let args = ["doctor", "--provider-config", &config, "--kubeconfig", &host, "-o", "json"];
        World::longshore_command(&[&args, more].concat())
    };
    let name = format!("configmap {}/shared", world.namespace);
    // First the delegates, then what they needed.
    let output = doctor(&["--fix"])?;
    ensure!(!output.stdout.contains(&name), "delegates need it: {output:?}");
    world.wait_for_no_delegates()?;
    let output = doctor(&["--fix"])?;
    ensure!(output.stdout.contains(&name) && output.code == 0, "{output:?}");
    wait_for_no(&world.east, "configmaps", "shared")?;
    world.longshore().restart()
}
