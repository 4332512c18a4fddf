//! Targets that a cluster inventory knows: a ClusterProfile says where they are, and how to get credentials.

use std::path::Path;

use e2e::{Cluster, Context, Declared, IDLE, Result, Value, World, container, ensure, json, secs, write_json};

const DEFINITION: &str = "clusterprofiles.multicluster.x-k8s.io";

/// The definition of ClusterProfiles, as far as it matters. It goes with this.
struct Inventory(Cluster);

impl Inventory {
    /// Nothing is defined yet.
    fn new() -> Result<Self> {
        let inventory = Self(World::cluster("host", "default")?);
        inventory.0.kubectl(&["delete", "crd", DEFINITION, "--ignore-not-found", "--wait"])?.ok()?;
        Ok(inventory)
    }

    fn define(&self) -> Result<()> {
        let text = json!({"type": "string"});
        let extension = json!({"type": "object", "required": ["name", "extension"], "properties": {"name": text,
            "extension": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
        let cluster = json!({"type": "object", "required": ["server"], "properties": {
            "server": text, "tls-server-name": text, "proxy-url": text, "certificate-authority": text,
            "certificate-authority-data": {"type": "string", "format": "byte"},
            "insecure-skip-tls-verify": {"type": "boolean"}, "disable-compression": {"type": "boolean"},
            "extensions": {"type": "array", "items": extension}}});
        let providers = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": text, "cluster": cluster}}});
        let manager = json!({"type": "object", "required": ["name"], "properties": {"name": text}});
        let schema = json!({"type": "object", "required": ["spec"], "properties": {
            "spec": {"type": "object", "required": ["clusterManager"],
                "properties": {"displayName": text, "clusterManager": manager}},
            "status": {"type": "object", "properties": {"accessProviders": providers, "credentialProviders": providers}}}});
        self.0.create(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": DEFINITION}, "spec": {
                "group": "multicluster.x-k8s.io", "scope": "Namespaced",
                "names": {"kind": "ClusterProfile", "plural": "clusterprofiles", "singular": "clusterprofile",
                    "listKind": "ClusterProfileList"},
                "versions": [{"name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema}}]}}))?;
        let crd = format!("crd/{DEFINITION}");
        self.0.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &crd])?.ok().map(drop)
    }
}

impl Drop for Inventory {
    fn drop(&mut self) {
        _ = self.0.kubectl(&["delete", "crd", DEFINITION, "--ignore-not-found", "--wait=false"]);
    }
}

/// Waits until a Target says this of what it was declared with.
fn wait_for_reason(world: &Declared, target: &str, reason: &str, words: &str) -> Result<()> {
    world.host.wait(&format!("{target} to say {reason}"), secs(60), |_| {
        let accepted = world.wait_for("targets", target, "Accepted", "False", secs(30))?;
        let said = accepted["message"].as_str().unwrap_or_default();
        ensure!(accepted["reason"] == reason && said.contains(words), "{accepted}");
        Ok(())
    })
}

/// Says where the cluster of a profile is, and how to get credentials for it.
fn offer(world: &Declared, profile: &str, provider: &str, extension: &Value) -> Result<()> {
    let mut cluster = world.east.admin_kubeconfig()?["clusters"][0]["cluster"].clone();
    cluster["extensions"] = json!([{"name": "client.authentication.k8s.io/exec", "extension": extension}]);
    let status = json!({"status": {"accessProviders": [{"name": provider, "cluster": cluster}]}});
    let patch = status.to_string();
    let args = ["patch", "clusterprofile", profile, "--subresource=status", "--type=merge", "-p", &patch];
    world.host.kubectl(&args)?.ok().map(drop)
}

/// A token of an account in the target that may do everything there until [`revoke`] is called.
fn token(world: &Declared) -> Result<String> {
    world.east.create(json!({"kind": "ServiceAccount", "metadata": {"name": "longshore"}}))?;
    world.east.create(json!({"kind": "ClusterRoleBinding", "metadata": {"name": world.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "longshore", "namespace": world.namespace}]}))?;
    Ok(world.east.kubectl(&["create", "token", "longshore"])?.ok()?.trim().to_owned())
}

fn revoke(world: &Declared) -> Result<()> {
    world.east.delete("clusterrolebindings", &world.namespace)
}

#[test]
fn a_cluster_profile_is_the_source_of_a_target() -> Result<()> {
    let inventory = Inventory::new()?;
    let dir = tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?;
    let credential = dir.path().join("credential.json");
    // The operator's own program, which any may be: it prints what it is given.
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [credential],
        "interactiveMode": "Never"});
    let programs =
        write_json(&dir, "providers.json", &json!({"providers": [{"name": "operators", "execConfig": exec}]}))?;
    let world = Declared::start_with("inventory", |namespace| {
        let programs = programs.to_string_lossy();
        let flags = ["--lease-namespace", namespace, "--clusterprofile-provider-file", &programs];
        Ok(flags.map(ToOwned::to_owned).to_vec())
    })?;
    let host = &world.host;
    let [east, foreign] = ["east", "foreign"].map(|name| world.name(name));
    let declare = |target: &str, profile: &str| {
        let reference = json!({"namespace": world.namespace, "name": profile});
        world.declare("Target", target, &json!({"kubeconfig": {"clusterProfileRef": reference}}))
    };
    declare(&east, "east")?;
    declare(&foreign, "foreign")?;
    wait_for_reason(&world, &east, "ClusterProfileUndefined", "install the definition of the cluster inventory")?;
    inventory.define()?;
    wait_for_reason(&world, &east, "ClusterProfileNotFound", "there is no ClusterProfile")?;
    for name in ["east", "foreign"] {
        let profile = json!({"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
            "metadata": {"name": name, "labels": {"x-k8s.io/cluster-manager": "e2e"}},
            "spec": {"displayName": name, "clusterManager": {"name": "e2e"}}});
        host.kubectl_with(&["create", "-f", "-"], profile.to_string().as_bytes())?.ok()?;
    }
    wait_for_reason(&world, &east, "InvalidClusterProfile", "which offers none")?;

    // What a profile must not make us do: run what it names, or read Secrets of others.
    offer(&world, "foreign", "eks", &json!({}))?;
    wait_for_reason(&world, &foreign, "InvalidClusterProfile", "known are operators, secretreader")?;
    let elsewhere = json!({"name": "any", "key": "kubeconfig", "namespace": "kube-system"});
    offer(&world, "foreign", "kubeconfig-secretreader", &elsewhere)?;
    wait_for_reason(&world, &foreign, "RefusedClusterProfile", "namespace kube-system is not allowed")?;

    // A token in a Secret.
    offer(&world, "east", "secretreader", &json!({"clusterName": "spoke"}))?;
    wait_for_reason(&world, &east, "SecretNotFound", "/spoke; create it")?;
    let token = token(&world)?;
    host.create(json!({"kind": "Secret", "metadata": {"name": "spoke"}, "stringData": {"token": token}}))?;
    world.wait_for("targets", &east, "Ready", "True", secs(60))?;
    host.create(world.pod(&east, "web", &[container("main", &format!("echo hello; {IDLE}"))]))?;
    let proxy = host.wait_for_ready("web")?;
    let delegate = world.delegate(&proxy)?;
    let can_log = |can: bool| {
        host.wait("kubectl logs to be as it should", secs(60), |host| {
            let output = host.kubectl(&["logs", "web"])?;
            ensure!((output.code == 0) == can, "{output:?}\n{}", world.log());
            Ok(())
        })
    };
    can_log(true)?;
    // A user in a kubeconfig in a Secret, while the pod runs on.
    world.keep_kubeconfig("keys", &world.east.admin_kubeconfig()?)?;
    revoke(&world)?;
    can_log(false)?;
    let keys = json!({"name": "keys", "key": "kubeconfig", "namespace": world.namespace});
    offer(&world, "east", "kubeconfig-secretreader", &keys)?;
    can_log(true)?;
    let kubeconfig = World::kubeconfig("host")?;
    let checked = World::longshore_command(&["check", "--kubeconfig", &kubeconfig.to_string_lossy()])?;
    assert!(checked.stdout.contains(&format!("target {east}: ok")), "{checked:?}");

    // The operator's program.
    let admin = world.east.admin_kubeconfig()?;
    let pem = |field: &str| -> Result<String> {
        let data = admin["users"][0]["user"][field].as_str().context("no client certificate")?;
        let mut decode = std::process::Command::new("base64");
        e2e::run(decode.arg("--decode"), data.as_bytes())?.ok()
    };
    let credentials = json!({"clientCertificateData": pem("client-certificate-data")?,
        "clientKeyData": pem("client-key-data")?});
    write_json(
        &dir,
        "credential.json",
        &json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": credentials}),
    )?;
    host.delete("secrets", "keys")?;
    wait_for_reason(&world, &east, "SecretNotFound", "/keys; create it")?;
    offer(&world, "east", "operators", &json!({}))?;
    world.wait_for("targets", &east, "Accepted", "True", secs(60))?;
    can_log(true)?;
    // Of what has run before, nothing has noticed.
    assert_eq!((world.delegate(&proxy)?.uid(), host.pod("web")?.uid()), (delegate.uid(), proxy.uid()));
    // A profile that goes changes nothing but a condition.
    let profile = host.get("clusterprofiles", "east")?;
    host.delete("clusterprofiles", "east")?;
    wait_for_reason(&world, &east, "ClusterProfileNotFound", "there is no ClusterProfile")?;
    can_log(true)?;

    host.create(json!({"apiVersion": profile["apiVersion"], "kind": "ClusterProfile", "metadata": {"name": "east"},
        "spec": profile["spec"]}))?;
    offer(&world, "east", "operators", &json!({}))?;
    world.wait_for("targets", &east, "Accepted", "True", secs(60))?;
    uninstall(&world, &programs)?;
    world.east.wait_for_gone(&delegate)
}

/// Whoever takes Longshore away has to reach the target in the same way, for what nobody there needs.
fn uninstall(world: &Declared, programs: &Path) -> Result<()> {
    let [east, foreign] = ["east", "foreign"].map(|name| world.name(name));
    let host_id = world.host.get("namespaces", "kube-system")?["metadata"]["uid"].clone();
    let labels = json!({"longshore.dev/host": host_id, "longshore.dev/node": east,
        "longshore.dev/uid": "0c0ffee0-0000-4000-8000-000000000000"});
    world.east.create(json!({"kind": "Service", "metadata": {"name": "left", "labels": labels},
        "spec": {"ports": [{"port": 80}]}}))?;
    let kubeconfig = World::kubeconfig("host")?;
    let (kubeconfig, selector) = (kubeconfig.to_string_lossy(), format!("e2e={}", world.namespace));
    let (programs, leases) = (programs.to_string_lossy(), world.namespace.as_str());
    let mut args = vec!["uninstall", "--kubeconfig", &kubeconfig, "--selector", &selector, "--lease-namespace", leases];
    args.extend(["--clusterprofile-provider-file", &programs]);
    let output = World::longshore_command(&args)?;
    let removed = format!("removed: service {}/left in {east}", world.namespace);
    ensure!(output.code == 0 && output.stdout.contains(&removed), "{output:?}");
    ensure!(output.stdout.contains(&format!("{foreign} does not answer")), "{output:?}");
    let node = world.host.find("nodes", &east)?;
    ensure!(world.east.find("services", "left")?.is_none() && node.is_none(), "{output:?}");
    Ok(())
}
