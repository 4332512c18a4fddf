//! Credentials that end, and others that take their place in the same file.

use std::{fs, path::Path};

use e2e::{Cluster, IDLE, Result, Value, World, container, ensure, json, secs};

/// Writes a kubeconfig of a new service account with all rights; the account is the only one that it works with.
fn write_account(cluster: &Cluster, namespace: &str, account: &str, file: &Path) -> Result<()> {
    let kubeconfig = cluster.stranger_kubeconfig(account)?;
    let binding = format!("{namespace}-{account}");
    cluster.create(json!({
        "kind": "ClusterRoleBinding", "metadata": {"name": binding},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }))?;
    // As a whole, so that nobody reads half of it.
    let fresh = file.with_extension("fresh");
    fs::write(&fresh, serde_json::to_vec(&kubeconfig)?)?;
    fs::rename(fresh, file)?;
    Ok(())
}

fn refused(cluster: &Cluster, kubeconfig: &Path) -> Result<bool> {
    let path = kubeconfig.to_string_lossy().into_owned();
    let output = cluster.kubectl(&["--kubeconfig", &path, "get", "pods"])?;
    Ok(output.stderr.contains("Unauthorized") || output.stderr.contains("must be logged in"))
}

#[test]
fn rotated_credentials_are_used_without_a_restart() -> Result<()> {
    // Accounts and their rights, in a namespace that outlives the world's.
    let dir = tempfile::tempdir()?;
    let files = ["host", "east"].map(|cluster| dir.path().join(cluster));
    for (cluster, file) in ["host", "east"].into_iter().zip(&files) {
        fs::copy(World::kubeconfig(cluster)?, file)?;
    }
    let world = World::changed("rotated", |options| {
        (options.host, options.target) = (files[0].clone(), files[1].clone());
    })?;
    world.wait_for_node()?;
    world.create_target_namespace()?;
    let clusters = [&world.host, &world.east];
    for (cluster, file) in clusters.into_iter().zip(&files) {
        write_account(cluster, &world.namespace, "first", file)?;
    }
    world.host.create(world.pod("steady", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("steady")?;
    let delegate = world.delegate(&proxy)?;
    let used = |text: &str| world.longshore().log().matches(text).count();
    world.host.wait("both new kubeconfigs to be used", secs(20), |_| {
        let count = used("the kubeconfig has changed; using its credentials");
        // Requests and streams of the target; requests and two leases of the host.
        ensure!(count >= 5, "{count}\n{}", world.longshore().log());
        Ok(())
    })?;

    // What it had is worth nothing any more, on both sides.
    for (cluster, file) in clusters.into_iter().zip(&files) {
        cluster.delete("serviceaccounts", "first")?;
        // An API server remembers a good token for 10 s.
        cluster.wait("the token to end", secs(40), |cluster| {
            ensure!(refused(cluster, file)?, "it works still");
            Ok(())
        })?;
    }
    let mut late = world.pod("late", &[container("main", IDLE)]);
    late["spec"]["nodeName"] = world.longshore().node().into();
    world.host.create(late)?;
    world.host.wait("Longshore to be refused", secs(30), |_| {
        let log = world.longshore().log();
        ensure!(log.contains("Unauthorized"), "{log}");
        Ok(())
    })?;
    ensure!(world.host.pod("late")?.phase() == "Pending", "it has started");

    for (cluster, file) in clusters.into_iter().zip(&files) {
        write_account(cluster, &world.namespace, "second", file)?;
    }
    world.host.wait("the late pod to be Ready", secs(30), |host| {
        let pod = host.pod("late")?;
        ensure!(pod.is_ready(), "{pod}");
        Ok(())
    })?;
    world.longshore().check()?;
    let said = world.host.kubectl(&["exec", "late", "--", "echo", "here"])?.ok()?;
    assert_eq!(said, "here\n", "streams follow too");
    let now = world.delegate(&proxy)?;
    assert_eq!((now.uid(), now.restarts()), (delegate.uid(), 0));

    // Gone before the rights that the namespace's end needs.
    for (cluster, file) in clusters.into_iter().zip(&files) {
        let admin: Value = cluster.admin_kubeconfig()?;
        fs::write(file, serde_json::to_vec(&admin)?)?;
        for account in ["first", "second"] {
            cluster.delete("clusterrolebindings", &format!("{}-{account}", world.namespace))?;
        }
    }
    Ok(())
}
