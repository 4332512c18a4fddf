//! Containers are told of the Services of home in their environment, as a kubelet of home would tell them.

use e2e::{Cluster, Context, IDLE, Result, World, bail, container, ensure, json, secs};

/// A Service, and its address.
fn service(cluster: &Cluster, name: &str) -> Result<String> {
    let ports = json!([{"name": "http", "port": 80}]);
    let made = cluster.create(json!({"kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}}))?;
    made["spec"]["clusterIP"].as_str().map(str::to_owned).context("it has no address")
}

/// The address of a cluster's own API server, of which every kubelet tells.
fn api_server(cluster: &Cluster) -> Result<String> {
    let args = ["get", "services", "kubernetes", "--namespace=default", "--output=jsonpath={.spec.clusterIP}"];
    cluster.kubectl(&args)?.ok()
}

/// The variables of a container that begin so, in order.
fn environment(host: &Cluster, pod: &str, prefix: &str) -> Result<String> {
    host.kubectl(&["exec", pod, "--", "sh", "-c", &format!("env | grep ^{prefix} | sort")])?.ok()
}

/// The names of the ConfigMaps of ours in the target.
fn maps(east: &Cluster) -> Result<Vec<String>> {
    let found = east.list("configmaps", "longshore.dev/host")?;
    Ok(found.iter().map(|one| one["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn containers_are_told_of_the_services_of_home() -> Result<()> {
    let world = World::new("links")?;
    world.create_target_namespace()?;
    service(&world.east, "theirs")?;
    let address = service(&world.host, "foo-web")?;
    // The target has one of that name as well.
    let theirs = service(&world.east, "foo-web")?;
    ensure!(address != theirs, "two clusters that cannot be told apart: {address}");

    let mut main =
        container("main", &format!("echo $(FOO_WEB_SERVICE_HOST) $URL $FOO_WEB_PORT $FOO_WEB_PORT_80_TCP; {IDLE}"));
    main["env"] = json!([{"name": "URL", "value": "http://$(FOO_WEB_SERVICE_HOST):$(FOO_WEB_SERVICE_PORT_HTTP)"},
        {"name": "FOO_WEB_PORT", "value": "own"}]);
    world
        .host
        .create(json!({"kind": "ConfigMap", "metadata": {"name": "own"}, "data": {"FOO_WEB_PORT_80_TCP": "too"}}))?;
    main["envFrom"] = json!([{"configMapRef": {"name": "own"}}]);
    let init = container("init", "echo $FOO_WEB_SERVICE_HOST");
    world.host.create(world.pod_of("sees", json!({"containers": [main], "initContainers": [init]})))?;
    let blind = json!({"containers": [container("main", IDLE)], "enableServiceLinks": false});
    world.host.create(world.pod_of("blind", blind))?;
    world.host.wait_for_ready("sees")?;
    world.host.wait_for_ready("blind")?;

    let logs = world.host.kubectl(&["logs", "sees", "-c", "main"])?.ok()?;
    assert_eq!(logs, format!("{address} http://{address}:80 own too\n"));
    assert_eq!(world.host.kubectl(&["logs", "sees", "-c", "init"])?.ok()?, format!("{address}\n"));
    let link = format!(
        "FOO_WEB_PORT=own\nFOO_WEB_PORT_80_TCP=too\nFOO_WEB_PORT_80_TCP_ADDR={address}\nFOO_WEB_PORT_80_TCP_PORT=80\n\
         FOO_WEB_PORT_80_TCP_PROTO=tcp\nFOO_WEB_SERVICE_HOST={address}\nFOO_WEB_SERVICE_PORT=80\n\
         FOO_WEB_SERVICE_PORT_HTTP=80\n"
    );
    assert_eq!(environment(&world.host, "sees", "FOO_")?, link);
    // Not of the target's Services, but of its API server, whose tokens a pod may have.
    let hosts = world.host.kubectl(&["exec", "sees", "--", "sh", "-c", "env | grep _SERVICE_HOST= | sort"])?.ok()?;
    let own = format!("KUBERNETES_SERVICE_HOST={}\n", api_server(&world.east)?);
    assert_eq!(hosts, format!("FOO_WEB_SERVICE_HOST={address}\n{own}"));
    let hosts = world.host.kubectl(&["exec", "blind", "--", "sh", "-c", "env | grep _SERVICE_HOST="])?.ok()?;
    assert_eq!(hosts, own, "it wants to be told of no others");

    // Those of a container are as they were at its start.
    let map = maps(&world.east)?.into_iter().find(|name| name.starts_with("longshore-services-")).context("no map")?;
    let later = service(&world.host, "bar")?;
    world.host.delete("services", "foo-web")?;
    world.east.wait("the map to follow", secs(30), |east| {
        let data = &east.get("configmaps", &map)?["data"];
        ensure!(data["BAR_SERVICE_HOST"] == later.as_str() && data["FOO_WEB_SERVICE_HOST"].is_null(), "{data}");
        Ok(())
    })?;
    assert_eq!(environment(&world.host, "sees", "FOO_")?, link);
    assert_eq!(environment(&world.host, "sees", "BAR_SERVICE")?, "");
    // Whoever ends the first process of a container may end with it.
    let end = world.host.kubectl(&["exec", "sees", "--", "kill", "1"])?;
    ensure!([0, 137].contains(&end.code), "{end:?}");
    world.host.wait_for_pod("sees", "restarted", |pod| pod.restarts() == 1 && pod.is_ready())?;
    world.host.wait("the new container to be told of the new Service", secs(60), |host| {
        let told = environment(host, "sees", "BAR_SERVICE_HOST")?;
        ensure!(told == format!("BAR_SERVICE_HOST={later}\n"), "{told}");
        Ok(())
    })?;
    assert_eq!(environment(&world.host, "sees", "FOO_WEB_SERVICE")?, "");

    world.host.delete("pods", "sees")?;
    world.east.wait("the map to go with the last pod that is told", secs(60), |east| match maps(east)? {
        left if left.is_empty() => Ok(()),
        left => bail!("{left:?}"),
    })
}
