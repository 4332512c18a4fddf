//! Who may speak to the virtual node's kubelet API without going through the API server.

use e2e::{Context, IDLE, Result, Value, World, container, ensure, json, kubelet_status, secs};

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
        [("/healthz", 200), (logs.as_str(), 200), ("/no/such/path", 404), ("/pods", 200), ("/debug/pprof/heap", 501)]
            .map(|(path, expected)| {
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

/// The status of an exec by GET, as a WebSocket client begins one.
fn exec_status(world: &World, pod: &str, token: &str) -> Result<u16> {
    let path = format!("/exec/{}/{pod}/main?command=id&output=1", world.namespace);
    kubelet_status(&world.longshore().kubelet_url(), &path, Some(token))
}

#[test]
fn who_may_read_metrics_may_read_nothing_else() -> Result<()> {
    let world = World::new("kubelet-metrics")?;
    let token = account(&world, "monitor")?;
    world.host.create(world.pod("idler", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("idler")?;
    let role = format!("{}-monitor", world.namespace);
    world.host.create(json!({
        "kind": "ClusterRole", "metadata": {"name": role},
        "rules": [{"apiGroups": [""], "resources": ["nodes/metrics", "nodes/pods"], "verbs": ["get", "create"]}],
    }))?;
    world.host.create(json!({
        "kind": "ClusterRoleBinding", "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "monitor", "namespace": world.namespace}],
    }))?;
    let url = world.longshore().kubelet_url();
    let seen = (|| {
        for path in ["/metrics/resource", "/metrics", "/metrics/cadvisor", "/metrics/probes", "/pods", "/runningpods/"]
        {
            world.host.wait(&format!("{path} to answer"), secs(15), |_| {
                let status = kubelet_status(&url, path, Some(&token))?;
                ensure!(status == 200, "HTTP {status}");
                Ok(())
            })?;
        }
        let logs = format!("/containerLogs/{}/idler/main", world.namespace);
        for path in [&logs, "/stats/summary", "/configz", "/healthz", "/logs/", "/debug/pprof/"] {
            let status = kubelet_status(&url, path, Some(&token))?;
            ensure!(status == 403, "HTTP {status} at {path}");
        }
        let status = exec_status(&world, "idler", &token)?;
        ensure!(status == 403, "HTTP {status} for an exec");
        Ok(())
    })();
    world.host.delete("clusterrolebindings", &role)?;
    world.host.delete("clusterroles", &role)?;
    seen
}

#[test]
fn a_command_runs_without_a_stream() -> Result<()> {
    let world = World::new("kubelet-run")?;
    world.host.create(world.pod("idler", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("idler")?;
    let run = |rest: &str| {
        let path = format!("/api/v1/nodes/{}/proxy/run/{}/idler/{rest}", world.longshore().node(), world.namespace);
        world.host.kubectl_with(&["create", "--raw", &path, "-f", "-"], b"{}")
    };
    let (uid, there) = (proxy.uid(), world.east.pod("idler")?.name().to_owned());
    for container in ["main".to_owned(), format!("{uid}/main")] {
        assert_eq!(run(&format!("{container}?cmd=hostname"))?.ok()?.trim(), there);
    }
    let listed = run("main?cmd=ls+-d+/proc+/nowhere+/etc")?;
    ensure!(listed.code != 0 && listed.stderr.contains("/nowhere"), "a failure says what was wrong: {listed:?}");
    // More than the pieces in which it comes.
    let bytes = run("main?cmd=head+-c+300000+/dev/zero")?.ok()?.len();
    ensure!(bytes >= 300_000, "{bytes} bytes");
    // kubectl shows no more of an answer than its status, but for a 500.
    for wrong in ["nobody?cmd=ls", "main"] {
        let refused = run(wrong)?;
        ensure!(refused.code != 0 && refused.stderr.contains("BadRequest"), "{wrong}: {refused:?}");
    }
    Ok(())
}

#[test]
fn the_node_lists_its_pods() -> Result<()> {
    let world = World::new("kubelet-pods")?;
    world.host.create(world.pod("idler", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("idler")?;
    let ask = |path: &str| -> Result<Value> {
        let path = format!("/api/v1/nodes/{}/proxy{path}", world.longshore().node());
        Ok(serde_json::from_str(&world.host.kubectl(&["get", "--raw", &path])?.ok()?)?)
    };
    let find = |list: &Value| {
        let pods = list["items"].as_array().into_iter().flatten();
        pods.into_iter().find(|pod| pod["metadata"]["uid"] == proxy.uid()).cloned()
    };
    let pods = ask("/pods")?;
    assert_eq!(pods["kind"], "PodList");
    let all = pods["items"].as_array().context("no list")?;
    ensure!(all.iter().all(|pod| pod["spec"]["nodeName"] == world.longshore().node()), "pods of other nodes");
    let shown = find(&pods).context("the pod is not in /pods")?;
    assert_eq!(shown["status"]["phase"], "Running", "whole pods");
    world.host.wait("the pod among those that run", secs(10), |_| {
        let shown = find(&ask("/runningpods/")?).context("it is not there")?;
        ensure!(shown["spec"]["containers"][0]["name"] == "main", "{shown}");
        Ok(())
    })?;
    let configuration = ask("/configz")?;
    assert_eq!(configuration["kubeletconfig"]["authorization"]["mode"], "Webhook");
    Ok(())
}
