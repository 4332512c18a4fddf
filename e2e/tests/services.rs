//! Services and Ingresses that follow pods into their target.

use e2e::{Cluster, IDLE, Pod, Result, Value, World, bail, container, deployment, ensure, json, secs};

const FOLLOW: &str = "longshore.dev/follow";

/// Serves its own name on port 8080.
const SERVE: &str =
    "mkdir /tmp/www; hostname > /tmp/www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/www & wait";

fn service(name: &str, app: &str, more: &Value) -> Value {
    let mut service = json!({"kind": "Service", "metadata": {"name": name, "annotations": {FOLLOW: "true"}},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]}});
    for (field, value) in more.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

fn wait_for(cluster: &Cluster, plural: &str, name: &str, pass: impl Fn(&Value) -> bool) -> Result<Value> {
    cluster.wait(&format!("{name} among the {plural}, as it should be"), secs(30), |cluster| {
        let Some(found) = cluster.find(plural, name)? else { bail!("there is none") };
        ensure!(pass(&found), "{found}");
        Ok(found)
    })
}

fn wait_for_no(cluster: &Cluster, plural: &str, name: &str) -> Result<()> {
    cluster.wait(&format!("{name} of the {plural} to go"), secs(30), |cluster| {
        cluster.find(plural, name)?.map_or(Ok(()), |found| bail!("{found}"))
    })
}

#[test]
fn clients_in_the_target_reach_the_delegates() -> Result<()> {
    let world = World::alone_with("reach", "services: true")?;
    let mut serve = container("main", SERVE);
    serve["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    world.host.create(service("web", "web", &json!({"type": "NodePort"})))?;
    world.host.create(service("peers", "web", &json!({"clusterIP": "None"})))?;
    world.host.create(service("nobodys", "other", &json!({})))?;
    world.host.create(json!({"kind": "Ingress", "metadata": {"name": "door", "annotations": {FOLLOW: "east"}},
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}}))?;
    world.host.create(deployment("web", 1, &world.placed(json!({"containers": [serve]}))))?;
    let proxies = world.host.wait_for_pods("app=web", 1, "Ready", Pod::is_ready)?;

    let there = wait_for(&world.east, "services", "web", |_| true)?;
    let home = world.host.get("services", "web")?;
    assert_ne!(there["spec"]["clusterIP"], home["spec"]["clusterIP"], "each cluster gives its own address");
    assert_eq!(there["spec"]["selector"], home["spec"]["selector"]);
    assert_eq!(there["metadata"]["labels"]["longshore.dev/uid"], home["metadata"]["uid"]);
    wait_for(&world.east, "services", "peers", |found| found["spec"]["clusterIP"] == "None")?;
    wait_for(&world.east, "ingresses", "door", |found| {
        found["spec"] == world.host.get("ingresses", "door").unwrap()["spec"]
    })?;
    assert!(world.host.wait_for_event("web", "Followed")?.contains("east"));
    assert!(world.host.wait_for_event("web", "NoAddresses")?.contains("no addresses at home"));

    let address = there["spec"]["clusterIP"].as_str().unwrap();
    // The image's wget is of no use, since it is linked statically and looks names up.
    let ask = format!(r"until printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 {address} 80 | grep web-; do sleep 0.2; done");
    world.east.create(json!({"kind": "Pod", "metadata": {"name": "client"}, "spec": {"restartPolicy": "Never",
        "containers": [container("main", &ask)]}}))?;
    let client = world.east.wait_for_pod("client", "answered", Pod::is_finished)?;
    assert_eq!(world.east.kubectl(&["logs", client.name()])?.ok()?.trim(), proxies[0].name());

    // Changes follow, and what the target has given stays.
    world.host.patch(
        "services",
        "web",
        &json!({"metadata": {"labels": {"color": "blue"}},
        "spec": {"ports": [{"port": 81, "targetPort": 8080}]}}),
    )?;
    let next = wait_for(&world.east, "services", "web", |found| found["spec"]["ports"][0]["port"] == 81)?;
    assert_eq!(
        (&next["spec"]["clusterIP"], &next["metadata"]["uid"]),
        (&there["spec"]["clusterIP"], &there["metadata"]["uid"])
    );
    assert_eq!(next["metadata"]["labels"]["color"], "blue");
    assert!(world.east.find("services", "nobodys")?.is_none(), "none of its pods is offloaded");

    // What is not wanted any more goes, also if nobody looked when that was decided.
    world.host.patch("services", "peers", &json!({"metadata": {"annotations": {FOLLOW: null}}}))?;
    wait_for_no(&world.east, "services", "peers")?;
    world.longshore().kill9()?;
    world.host.delete("ingresses", "door")?;
    world.longshore().restart()?;
    wait_for_no(&world.east, "ingresses", "door")?;
    assert_eq!(
        world.east.get("services", "web")?["metadata"]["uid"],
        there["metadata"]["uid"],
        "a restart changes nothing"
    );
    world.host.scale("deployments", "web", 0)?;
    wait_for_no(&world.east, "services", "web")
}

#[test]
fn what_is_not_ours_is_left_alone() -> Result<()> {
    let world = World::alone_with("strangers", "services: true")?;
    world.create_target_namespace()?;
    let mut theirs = service("web", "theirs", &json!({}));
    theirs["metadata"]["annotations"] = json!({});
    let theirs = world.east.create(theirs)?;
    world.host.create(service("web", "web", &json!({})))?;
    world.host.create(world.pod("web", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("web")?;
    let told = world.host.wait("the conflict to be told", secs(30), |host| {
        let events = host.events_of("web")?;
        let conflict = events.iter().find(|event| event["reason"] == "NameConflict");
        conflict.map_or_else(|| bail!("{events:?}"), |event| Ok(event["message"].to_string()))
    })?;
    assert!(told.contains("is not ours"), "{told}");
    assert_eq!(
        world.east.get("services", "web")?["metadata"]["resourceVersion"],
        theirs["metadata"]["resourceVersion"]
    );

    // When it has gone, ours takes its place.
    world.east.delete("services", "web")?;
    wait_for(&world.east, "services", "web", |found| found["spec"]["selector"]["app"] == "web")?;
    Ok(())
}
