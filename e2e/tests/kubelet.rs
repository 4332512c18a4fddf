//! Who may speak to the virtual node's kubelet API without going through the API server.

use e2e::{Result, World, container, ensure, json, kubelet_status, secs};

/// A service account of the test and a token for it.
fn account(world: &World, name: &str) -> Result<String> {
    world.host.create(json!({"kind": "ServiceAccount", "metadata": {"name": name}}))?;
    Ok(world.host.kubectl(&["create", "token", name])?.ok()?.trim().to_owned())
}

#[test]
fn strangers_are_kept_out() -> Result<()> {
    let world = World::new("kubelet")?;
    let url = world.longshore().kubelet_url();
    let paths = ["/pods", "/runningpods/", "/metrics"];
    for path in paths {
        assert_eq!(kubelet_status(&url, path, None)?, 401, "anonymous at {path}");
        assert_eq!(kubelet_status(&url, path, Some("rubbish"))?, 401, "a made-up token at {path}");
    }
    let token = account(&world, "nobody")?;
    assert_eq!(kubelet_status(&url, "/pods", Some(&token))?, 403, "a service account without rights");
    Ok(())
}

#[test]
fn who_may_create_nodes_proxy_is_let_in() -> Result<()> {
    let world = World::new("kubelet-rights")?;
    let token = account(&world, "friend")?;
    let role = format!("{}-friend", world.namespace);
    world.host.create(json!({
        "kind": "ClusterRole", "metadata": {"name": role},
        "rules": [{"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["get", "create"]}],
    }))?;
    world.host.create(json!({
        "kind": "ClusterRoleBinding", "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "friend", "namespace": world.namespace}],
    }))?;
    let url = world.longshore().kubelet_url();
    world.host.create(world.one_shot("speaker", &[container("main", "echo words")]))?;
    world.host.wait_for_pod("speaker", "Succeeded", |pod| pod.phase() == "Succeeded")?;
    let logs = format!("/containerLogs/{}/speaker/main", world.namespace);
    let seen =
        [("/healthz", 200), (logs.as_str(), 200), ("/no/such/path", 404), ("/pods", 501)].map(|(path, expected)| {
            // The API server's authoriser learns of a new binding a moment later.
            world.host.wait(&format!("{path} to answer {expected}"), secs(15), |_| {
                let status = kubelet_status(&url, path, Some(&token))?;
                ensure!(status == expected, "HTTP {status}");
                Ok(())
            })
        });
    world.host.delete("clusterrolebindings", &role)?;
    world.host.delete("clusterroles", &role)?;
    seen.into_iter().collect()
}
