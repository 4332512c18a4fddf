//! Targets and virtual nodes that are declared in the host: they come, change and go while Longshore runs.

use std::time::Instant;

use e2e::{Cluster, Declared, IDLE, Result, Value, bail, container, ensure, json, secs};

#[test]
fn a_target_that_is_declared_runs_pods_and_one_that_is_removed_is_emptied_in_order() -> Result<()> {
    let world = Declared::start("declared")?;
    let name = world.name("east");
    let kubeconfig = world.keep_kubeconfig("east", &world.east.admin_kubeconfig()?)?;
    let declared = Instant::now();
    world.declare("Target", &name, &json!({"kubeconfig": kubeconfig}))?;
    world.wait_for("targets", &name, "Ready", "True", secs(30))?;
    eprintln!("Ready {:.1?} after it was declared", declared.elapsed());
    world.host.create(world.pod(&name, "web", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("web")?;
    let delegate = world.delegate(&proxy)?;
    let target = world.host.wait("the pod to count", secs(30), |host| {
        let target = host.get("targets", &name)?;
        ensure!(target["status"]["delegates"] == 1, "{}", target["status"]);
        Ok(target)
    })?;
    let version = target["status"]["version"].as_str().unwrap_or_default();
    assert!(version.starts_with("v1.") && target["status"]["nodes"] == 1, "{}", target["status"]);
    let columns = world.host.kubectl(&["get", "targets", &name])?.ok()?;
    assert!(columns.contains("READY") && columns.contains("1/") && columns.contains(version), "{columns}");

    // Another one comes and goes, and the first does not notice.
    let other = world.name("other");
    world.declare("Target", &other, &json!({"kubeconfig": kubeconfig}))?;
    world.wait_for("targets", &other, "Ready", "True", secs(30))?;
    world.host.delete("targets", &other)?;
    let gone = |what: &str, name: &str| {
        world.host.wait("it to be gone", secs(40), |host| match host.find(what, name)? {
            Some(found) => bail!("{}\n{}", found["spec"], world.log()),
            None => Ok(()),
        })
    };
    gone("nodes", &other)?;
    assert_eq!(world.delegate(&proxy)?.uid(), delegate.uid());

    // The Secret goes first: what is in use serves until the end.
    world.host.delete("secrets", "east")?;
    world.wait_for("targets", &name, "Accepted", "False", secs(20))?;
    world.host.delete("targets", &name)?;
    world.host.wait_for_gone(&proxy)?;
    gone("nodes", &name)?;
    let left = world.east.pods(&format!("longshore.dev/uid={}", proxy.uid()))?;
    assert!(left.is_empty(), "the delegate has gone with its proxy");
    Ok(())
}

#[test]
fn credentials_are_renewed_without_touching_a_pod() -> Result<()> {
    let world = Declared::start("renew")?;
    let (name, node) = (world.name("east"), world.name("node"));
    let mut rotated = world.east.admin_kubeconfig()?;
    let secret = world.keep_kubeconfig("east", &rotated)?;
    world.declare("Target", &name, &json!({"kubeconfig": secret}))?;
    world.declare("VirtualNode", &node, &json!({"targets": [{"name": name}]}))?;
    world.wait_for("virtualnodes", &node, "Ready", "True", secs(30))?;
    let port = world.host.get("virtualnodes", &node)?["status"]["port"].clone();
    world.host.create(world.pod(&node, "web", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("web")?;
    let delegate = world.delegate(&proxy)?;

    // A kubeconfig that is none: the last one serves on.
    world.host.patch("secrets", "east", &json!({"stringData": {"kubeconfig": "{"}}))?;
    let accepted = world.wait_for("targets", &name, "Accepted", "False", secs(20))?;
    ensure!(accepted["reason"] == "InvalidKubeconfig", "{accepted}");
    world.wait_for("targets", &name, "Ready", "True", secs(1))?;

    // A token in the place of the certificate, while somebody is inside the pod.
    let mut inside = world.host.kubectl_beside(&["exec", "-i", "web", "--", "sh"])?;
    inside.send(b"echo in\n")?;
    inside.wait_for_line("in", secs(20))?;
    world.east.create(json!({"kind": "ServiceAccount", "metadata": {"name": "longshore"}}))?;
    world.east.create(json!({"kind": "ClusterRoleBinding", "metadata": {"name": world.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "longshore", "namespace": world.namespace}]}))?;
    let token = world.east.kubectl(&["create", "token", "longshore"])?.ok()?;
    rotated["users"][0]["user"] = json!({"token": token.trim()});
    world.keep_kubeconfig("east", &rotated)?;
    world.wait_for("targets", &name, "Accepted", "True", secs(20))?;
    inside.send(b"echo still $((40 + 2))\n")?;
    inside.wait_for_line("still 42", secs(20))?;
    drop(inside);
    // Without rights, what goes out with the new one is refused: so it is the new one.
    world.east.delete("clusterrolebindings", &world.namespace)?;
    let refused = world.host.kubectl(&["logs", "web"])?;
    ensure!(refused.code != 0, "the old credentials are in use");
    assert_eq!((world.delegate(&proxy)?.uid(), world.host.pod("web")?.uid()), (delegate.uid(), proxy.uid()));

    // The port is the node's own, whoever else comes first in the alphabet.
    rotated = world.east.admin_kubeconfig()?;
    world.keep_kubeconfig("east", &rotated)?;
    world.declare("VirtualNode", &world.name("a"), &json!({"targets": [{"name": name}]}))?;
    world.wait_for("virtualnodes", &world.name("a"), "Ready", "True", secs(30))?;
    world.restart()?;
    world.host.wait("kubectl logs to work again", secs(40), |host| {
        let output = host.kubectl(&["logs", "web"])?;
        ensure!(output.code == 0, "{}", output.stderr);
        Ok(())
    })?;
    assert_eq!(world.host.get("virtualnodes", &node)?["status"]["port"], port);
    assert_eq!((world.delegate(&proxy)?.uid(), world.host.pod("web")?.uid()), (delegate.uid(), proxy.uid()));
    Ok(())
}

#[test]
fn a_broken_target_says_what_is_wrong_and_harms_no_other() -> Result<()> {
    let world = Declared::start("broken")?;
    let admin = world.east.admin_kubeconfig()?;
    let good = world.name("good");
    let secret = world.keep_kubeconfig("good", &admin)?;
    let mut plugin = admin.clone();
    plugin["users"][0]["user"] = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh"}});
    let mut nowhere = admin.clone();
    nowhere["clusters"][0]["cluster"]["server"] = json!("https://172.30.0.1:9");
    let mut unknown = admin.clone();
    unknown["users"][0]["user"] = json!({"token": "nobody's"});
    let broken = [
        ("plugin", world.keep_kubeconfig("plugin", &plugin)?, "RefusedKubeconfig", "users[0].user.exec"),
        ("nowhere", world.keep_kubeconfig("nowhere", &nowhere)?, "Unreachable", "connection refused"),
        ("unknown", world.keep_kubeconfig("unknown", &unknown)?, "Unauthorized", "credentials were refused"),
        (
            "stranger",
            world.keep_kubeconfig("stranger", &world.east.stranger_kubeconfig("stranger")?)?,
            "Forbidden",
            "create pods/exec",
        ),
        (
            "missing",
            json!({"secretRef": {"namespace": world.namespace, "name": "none"}}),
            "SecretNotFound",
            "there is no Secret",
        ),
    ];
    for (name, kubeconfig, ..) in &broken {
        world.declare("Target", &world.name(name), &json!({"kubeconfig": kubeconfig}))?;
    }
    world.declare("Target", &good, &json!({"kubeconfig": secret}))?;
    world.wait_for("targets", &good, "Ready", "True", secs(30))?;
    world.host.create(world.pod(&good, "web", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("web")?;
    for (name, _, reason, words) in &broken {
        let name = world.name(name);
        world.host.wait(&format!("{name} to say {reason}"), secs(40), |_| {
            let ready = world.wait_for("targets", &name, "Ready", "False", secs(30))?;
            let said = ready["message"].as_str().unwrap_or_default();
            ensure!(ready["reason"] == *reason && said.contains(words), "{ready}");
            Ok(())
        })?;
    }
    // What the schema can tell is refused at once.
    for (spec, words) in [
        (json!({"kubeconfig": {}}), "either secretRef or file"),
        (json!({"kubeconfig": secret, "scope": "Namespaces"}), "list namespaces.names"),
        (json!({"kubeconfig": secret, "heartbeat": {"timeoutSeconds": 1}}), "timeoutSeconds"),
        (json!({"kubeconfig": secret, "podIPs": "Perhaps"}), "podIPs"),
    ] {
        let Err(error) = world.declare("Target", &world.name("bad"), &spec) else { bail!("{spec} was taken") };
        ensure!(format!("{error:#}").contains(words), "{error:#}");
    }
    // The Secret that was missing comes, and that is all that it takes.
    world.keep_kubeconfig("none", &admin)?;
    world.wait_for("targets", &world.name("missing"), "Ready", "True", secs(30))?;
    Ok(())
}

/// The rights that a message says are missing, as rules of a Role in each namespace.
fn missing(message: &str) -> Vec<(String, Value)> {
    let list = message.split_once("missing: ").map_or("", |(_, list)| list);
    let rule = |right: &str| {
        let mut words = right.split(' ');
        let (verb, resource, _in, namespace) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        Some((namespace.to_owned(), json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})))
    };
    list.split(", ").filter_map(rule).collect()
}

/// Waits until a target asks for rights, and gives exactly those to the service account `longshore` there.
fn grant(world: &Declared, target: &str, role: &str) -> Result<()> {
    let asked = world.host.wait("rights to be asked for", secs(60), |_| {
        let wanting = world.wait_for("targets", target, "Authorized", "False", secs(30))?;
        let asked = missing(wanting["message"].as_str().unwrap_or_default());
        ensure!(!asked.is_empty(), "{wanting}");
        Ok(asked)
    })?;
    assert!(asked.iter().all(|(namespace, _)| *namespace == world.namespace), "{asked:?}");
    let rules: Vec<_> = asked.into_iter().map(|(_, rule)| rule).collect();
    world.east.create(json!({"kind": "Role", "metadata": {"name": role}, "rules": rules}))?;
    world.east.create(json!({"kind": "RoleBinding", "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "longshore", "namespace": world.namespace}]}))?;
    world.wait_for("targets", target, "Ready", "True", secs(60))?;
    Ok(())
}

#[test]
fn namespaces_are_enough_and_exactly_the_rights_that_are_asked_for() -> Result<()> {
    let world = Declared::start("scoped")?;
    let name = world.name("east");
    // All that it may do is what it asks for, in the one namespace that it may use.
    let kubeconfig = world.keep_kubeconfig("east", &world.east.stranger_kubeconfig("longshore")?)?;
    world.east.create(json!({"kind": "ResourceQuota", "metadata": {"name": "all"},
        "spec": {"hard": {"requests.cpu": "1", "requests.memory": "1Gi", "pods": "5"}}}))?;
    let namespaces = json!({"names": [world.namespace], "mapping": "Single", "single": world.namespace});
    let spec = json!({"kubeconfig": kubeconfig, "scope": "Namespaces", "namespaces": namespaces,
        "capacity": {"headroomPercent": 20}});
    world.declare("Target", &name, &spec)?;
    grant(&world, &name, "longshore")?;
    // Right after the Target, which may be the first to be written.
    world.host.wait("the node to offer what the quota allows", secs(20), |host| {
        let offered = &host.get("nodes", &name)?["status"]["allocatable"];
        ensure!((&offered["cpu"], &offered["pods"]) == (&json!("800m"), &json!("4")), "{offered}");
        Ok(())
    })?;

    world.host.create(json!({"kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"COLOR": "red"}}))?;
    world.host.create(json!({"kind": "Secret", "metadata": {"name": "settings"}, "stringData": {"WORD": "sesame"}}))?;
    let mut pod = world.pod(&name, "web", &[container("main", &format!("echo I am here, $COLOR, $WORD; {IDLE}"))]);
    pod["spec"]["containers"][0]["envFrom"] =
        json!([{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "settings"}}]);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "10m", "memory": "8Mi"}});
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready("web")?;
    let delegate = world.delegate(&proxy)?;
    assert!(delegate.name().starts_with("web-"), "{delegate}");
    assert_eq!(delegate.0["metadata"]["ownerReferences"][0]["kind"], "ConfigMap");
    assert!(world.host.kubectl(&["logs", "web"])?.ok()?.contains("I am here, red, sesame"));
    // Copies are the namespace's own among those of all, and follow home. Before them come the variables of Services.
    let copy = delegate.0["spec"]["containers"][0]["envFrom"][1]["configMapRef"]["name"].as_str().unwrap_or_default();
    assert!(copy.starts_with("settings-"), "{copy}");
    world.host.patch("configmaps", "settings", &json!({"data": {"COLOR": "blue"}}))?;
    world.east.wait("the change to follow", secs(30), |east| {
        let found = east.get("configmaps", copy)?;
        ensure!(found["data"]["COLOR"] == "blue", "{found}");
        Ok(())
    })?;
    assert!(world.host.kubectl(&["exec", "web", "--", "hostname"])?.ok()?.trim() == "web");
    // It is found again, and once.
    world.restart()?;
    world.host.wait("kubectl logs to work again", secs(40), |host| {
        let output = host.kubectl(&["logs", "web"])?;
        ensure!(output.code == 0, "{}", output.stderr);
        Ok(())
    })?;
    assert_eq!(world.delegate(&proxy)?.uid(), delegate.uid());
    world.host.delete("pods", "web")?;
    world.host.wait_for_gone(&proxy)?;
    assert!(world.east.pods(&format!("longshore.dev/uid={}", proxy.uid()))?.is_empty());
    world.east.wait("the copy to go", secs(40), |east| {
        east.find("configmaps", copy)?.map_or(Ok(()), |found| bail!("{found}\n{}", world.log()))
    })?;
    ensure!(!world.log().contains("is interrupted"), "a watch had no right:\n{}", world.log());
    Ok(())
}

/// Objects that are in no namespace.
struct Apart(Vec<(Cluster, &'static str, String)>);

impl Drop for Apart {
    fn drop(&mut self) {
        for (cluster, plural, name) in &self.0 {
            _ = cluster.delete(plural, name);
        }
    }
}

/// A StorageClass at home that stands for one in the target, which has one volume.
fn storage(world: &Declared, path: &std::path::Path) -> Result<(String, Apart)> {
    let (class, there) = (world.name("home"), world.name("there"));
    let mut apart = Apart(vec![]);
    world.host.create(json!({"kind": "StorageClass", "metadata": {"name": class},
        "provisioner": "longshore.dev/claims", "parameters": {"storageClassName": there},
        "volumeBindingMode": "WaitForFirstConsumer"}))?;
    apart.0.push((world.host.clone(), "storageclasses", class.clone()));
    world.east.create(json!({"kind": "StorageClass", "metadata": {"name": there},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}))?;
    apart.0.push((world.east.clone(), "storageclasses", there.clone()));
    world.east.create(json!({"kind": "PersistentVolume", "metadata": {"name": there}, "spec": {
        "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": there,
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}}))?;
    apart.0.push((world.east.clone(), "persistentvolumes", there));
    Ok((class, apart))
}

#[test]
fn what_a_virtual_node_uses_changes_with_it_and_needs_no_more_than_its_namespaces() -> Result<()> {
    let world = Declared::start("features")?;
    let (name, node) = (world.name("east"), world.name("node"));
    let kubeconfig = world.keep_kubeconfig("east", &world.east.stranger_kubeconfig("longshore")?)?;
    let limits = json!({"cpu": "1", "memory": "1Gi", "pods": "5"});
    let spec = json!({"kubeconfig": kubeconfig, "scope": "Namespaces", "namespaces": {"names": [world.namespace]},
        "capacity": {"source": "Static", "limits": limits}});
    world.declare("Target", &name, &spec)?;
    world.declare("VirtualNode", &node, &json!({"targets": [{"name": name}]}))?;
    grant(&world, &name, "pods")?;
    world.host.create(
        json!({"kind": "Service", "metadata": {"name": "web", "annotations": {"longshore.dev/follow": "true"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
    )?;
    let mut pod = world.pod(&node, "web", &[container("main", IDLE)]);
    pod["metadata"]["labels"] = json!({"app": "web"});
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready("web")?;
    let delegate = world.delegate(&proxy)?;

    // What is used from now on is asked for, and works without a restart.
    world.host.patch("virtualnodes", &node, &json!({"spec": {"services": true, "claims": true}}))?;
    grant(&world, &name, "more")?;
    world.east.wait("the Service to follow", secs(60), |east| match east.find("services", "web")? {
        Some(_) => Ok(()),
        None => bail!("{}", world.log()),
    })?;
    let folder = tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?;
    let (class, _apart) = storage(&world, folder.path())?;
    world.host.create(json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "16Mi"}}}}))?;
    let mut pod = world.pod(&node, "user", &[container("main", &format!("touch /data/here; {IDLE}"))]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    world.host.create(pod)?;
    let user = world.host.wait_for_ready("user")?;
    world.host.kubectl(&["exec", "user", "--", "ls", "/data/here"])?.ok()?;
    assert_eq!(world.delegate(&proxy)?.uid(), delegate.uid());

    // Both go with what they are for.
    let volume = world.host.get("persistentvolumeclaims", "data")?["spec"]["volumeName"].clone();
    for pod in [&user, &proxy] {
        world.host.delete("pods", pod.name())?;
        world.host.wait_for_gone(pod)?;
    }
    world.host.delete("persistentvolumeclaims", "data")?;
    world.host.wait("the volume to go", secs(60), |host| {
        let found = host.find("persistentvolumes", volume.as_str().unwrap_or_default())?;
        found.map_or(Ok(()), |found| bail!("{} {}\n{}", found["metadata"], found["status"], world.log()))
    })?;
    world.east.wait("the Service to go", secs(60), |east| {
        east.find("services", "web")?.map_or(Ok(()), |found| bail!("{found}\n{}", world.log()))
    })?;
    Ok(())
}
