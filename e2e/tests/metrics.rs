//! Offloaded pods have CPU and memory at home: real metrics-servers on both sides, `kubectl top`, and an autoscaler.

use std::time::Duration;

use e2e::{Cluster, Context, Declared, IDLE, Result, Value, World, container, ensure, json, secs};
use lab::UpOptions;

const HOST: &str = "mhost";
const TARGET: &str = "meast";

/// Clusters of this test's own, since a metrics API is there for everybody.
struct Machines;

impl Machines {
    fn up() -> Result<Self> {
        let (machines, lab) = (Self, World::lab()?);
        lab.up_with(&[HOST], &UpOptions { kubelet: Some(false), ..UpOptions::default() })?;
        lab.up(&[TARGET])?;
        Ok(machines)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if let Err(error) = World::lab().and_then(|lab| Ok(lab.down_only(&[HOST, TARGET])?)) {
            eprintln!("the clusters of the metrics are not down: {error:#}");
        }
    }
}

/// What metrics-servers and autoscalers need: two measurements on each side, one after the other.
const PATIENCE: Duration = secs(150);

fn raw(world: &World, path: &str) -> Result<String> {
    page(&world.host, world.longshore().node(), path)
}

/// What the kubelet API of a node answers.
fn page(host: &Cluster, node: &str, path: &str) -> Result<String> {
    host.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy{path}")])?.ok()
}

/// CPU in thousandths of a core and memory in MiB, as `kubectl top` prints them for this name.
fn top(host: &Cluster, args: &[&str], name: &str) -> Result<(u64, u64)> {
    let output = host.kubectl(&[&["top"], args, &["--no-headers"]].concat())?;
    ensure!(output.code == 0, "{output:?}");
    let line = output.stdout.lines().find(|line| line.starts_with(name));
    let line = line.with_context(|| format!("{name} is not in {output:?}"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let find = |unit: &str| words[1..].iter().find_map(|word| word.strip_suffix(unit)?.parse::<u64>().ok());
    Ok((find("m").context(line.to_owned())?, find("Mi").context(line.to_owned())?))
}

/// A container that uses as much CPU as it may.
fn busy() -> Value {
    let mut busy = container("main", "while :; do :; done");
    busy["resources"] = json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "100m"}});
    busy
}

fn without_a_metrics_api(world: &World) -> Result<()> {
    for _ in 0..2 {
        let metrics = raw(world, "/metrics/resource")?;
        ensure!(metrics.contains("resource_scrape_error 1"), "{metrics}");
        ensure!(!metrics.contains("container_memory_working_set_bytes{"), "{metrics}");
        // Longer than one measurement serves.
        std::thread::sleep(secs(4));
    }
    let log = world.longshore().log();
    let said = log.matches("has no metrics API; install metrics-server there").count();
    ensure!(said == 1, "said {said} times:\n{log}");
    Ok(())
}

/// Seconds of CPU of a pod, and when they were counted, in milliseconds since 1970.
fn counted(world: &World, pod: &str) -> Result<(f64, f64)> {
    let page = raw(world, "/metrics/resource")?;
    let labels = format!(r#"{{namespace="{}",pod="{pod}"}} "#, world.namespace);
    let line = page.lines().find_map(|line| line.strip_prefix("pod_cpu_usage_seconds_total")?.strip_prefix(&labels));
    let (value, at) = line.with_context(|| page.clone())?.split_once(' ').context("no time")?;
    Ok((value.parse()?, at.parse()?))
}

#[test]
fn top_and_autoscalers_see_offloaded_pods() -> Result<()> {
    let _machines = Machines::up()?;
    let world = World::elsewhere("metrics", HOST, TARGET, |_| {})?;
    world.wait_for_node()?;
    world.host.create(json!({
        "kind": "Deployment", "metadata": {"name": "busy"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "busy"}},
            "template": {
                "metadata": {"labels": {"app": "busy"}},
                "spec": world.placed(json!({"containers": [busy()]})),
            },
        },
    }))?;
    world.host.create(world.pod("idler", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("idler")?;
    let first = world.host.wait_for_pods("app=busy", 1, "Ready", e2e::Pod::is_ready)?.remove(0);
    without_a_metrics_api(&world)?;

    for cluster in [TARGET, HOST] {
        World::lab()?.measure(cluster)?;
    }
    world.host.create(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "busy"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"},
            "minReplicas": 1, "maxReplicas": 2,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 100}}}],
        },
    }))?;
    world.host.wait("kubectl top pod", PATIENCE, |host| {
        let (cpu, memory) = top(host, &["pod", first.name()], first.name())?;
        // The limit, give or take how the machine is loaded.
        ensure!((20..=130).contains(&cpu) && memory < 100, "{cpu}m {memory}Mi");
        let (cpu, _) = top(host, &["pod", "idler"], "idler")?;
        ensure!(cpu < 10, "an idle pod uses {cpu}m");
        Ok(())
    })?;
    world.host.wait("kubectl top node", PATIENCE, |host| {
        let (cpu, _) = top(host, &["node", world.longshore().node()], world.longshore().node())?;
        ensure!((20..=260).contains(&cpu), "{cpu}m");
        Ok(())
    })?;
    world.host.wait("the autoscaler to see it", PATIENCE, |host| {
        let deployment = host.get("deployments", "busy")?;
        let status = &host.get("horizontalpodautoscalers", "busy")?["status"];
        ensure!(deployment["spec"]["replicas"] == 2, "{status}");
        Ok(())
    })?;
    world.host.wait_for_pods("app=busy", 2, "Ready", e2e::Pod::is_ready)?;

    let (before, since) = counted(&world, first.name())?;
    let rate = world.host.wait("the counter to go on", secs(40), |_| {
        let (now, at) = counted(&world, first.name())?;
        ensure!(at > since, "no news");
        Ok((now - before) / (at - since) * 1000.0)
    })?;
    ensure!((0.02..=0.13).contains(&rate), "{rate} cores");
    let summary: Value = serde_json::from_str(&raw(&world, "/stats/summary?only_cpu_and_memory=true")?)?;
    assert_eq!(summary["node"]["nodeName"], world.longshore().node());
    let pods = summary["pods"].as_array().context("no pods")?;
    let shown = pods.iter().find(|pod| pod["podRef"]["uid"] == first.uid()).context("the pod is missing")?;
    ensure!(shown["containers"][0]["memory"]["workingSetBytes"].as_u64() > Some(0), "{shown}");
    world.longshore().check()?;
    rights_in_one_namespace_are_enough()
}

/// The same for a target where Longshore has what `join` grants in one namespace, and nothing outside.
fn rights_in_one_namespace_are_enough() -> Result<()> {
    let world = Declared::between("part", HOST, TARGET)?;
    let (name, namespace) = (world.name("part"), world.namespace.as_str());
    world.east.create(json!({"kind": "ResourceQuota", "metadata": {"name": "all"},
        "spec": {"hard": {"requests.cpu": "1", "requests.memory": "1Gi", "pods": "5"}}}))?;
    let kubeconfigs = [World::kubeconfig(TARGET)?, World::kubeconfig(HOST)?];
    let [there, here] = kubeconfigs.map(|path| path.to_string_lossy().into_owned());
    let labels = format!("e2e={namespace}");
    let target = ["join", &name, "--kubeconfig", &there, "--namespaces", namespace];
    let host = ["--host-kubeconfig", &here, "--secret-namespace", namespace, "--labels", &labels, "--yes"];
    World::longshore_command(&[&target[..], &host].concat())?.ok()?;

    let joined = format!("longshore.dev/joined={name}");
    let granted =
        world.east.kubectl(&["get", "clusterroles,clusterrolebindings", "-l", &joined, "-o", "name"])?.ok()?;
    ensure!(granted.is_empty(), "{granted}");
    let account = world.east.list("serviceaccounts", &joined)?;
    let account = account.first().context("no account")?["metadata"]["name"].as_str().unwrap_or_default();
    let user = format!("--as=system:serviceaccount:{namespace}:{account}");
    let may = |place: &[&str]| -> Result<String> {
        let args = [&["auth", "can-i", "list", "pods.metrics.k8s.io", &user], place].concat();
        Ok(world.east.kubectl(&args)?.stdout.trim().to_owned())
    };
    assert_eq!((may(&[])?.as_str(), may(&["--all-namespaces"])?.as_str()), ("yes", "no"));

    let mut pod = world.pod(&name, "worker", &[busy()]);
    pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("8Mi");
    world.host.create(pod)?;
    world.host.wait_for_ready("worker")?;
    world.host.wait("kubectl top pod", PATIENCE, |host| {
        let (cpu, memory) = top(host, &["pod", "worker"], "worker")?;
        ensure!((20..=130).contains(&cpu) && memory < 100, "{cpu}m {memory}Mi\n{}", world.log());
        Ok(())
    })?;
    let metrics = page(&world.host, &name, "/metrics/resource")?;
    let labels = format!(r#"{{container="main",pod="worker",namespace="{namespace}"}} "#);
    for words in ["resource_scrape_error 0", &format!("container_memory_working_set_bytes{labels}")] {
        ensure!(metrics.contains(words), "{words:?} is not in\n{metrics}");
    }
    ensure!(!world.log().contains("metrics API"), "{}", world.log());
    Ok(())
}
