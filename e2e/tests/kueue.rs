//! Quotas by the real Kueue, on both sides: a queue at home admits Jobs whose pods are offloaded, and a queue in the target governs
//! delegates by the label that their proxies have. It is built the first time, which takes minutes, and so run by hand:
//! `cargo test --package e2e --test kueue -- --ignored`.

use std::{
    process::{Command, Stdio},
    thread,
};

use e2e::{Cluster, Context, IDLE, Pod, Result, Value, World, anyhow, container, ensure, helm, job, json, secs};
use lab::Lab;

const HOST: &str = "kqhost";
const TARGET: &str = "kqeast";

/// Where Kueue lives, which it leaves alone.
const SYSTEM: &str = "kueue-system";

/// The label by which Jobs and pods name their queue.
const QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// What holds a pod until it is admitted.
const GATE: &str = "kueue.x-k8s.io/admission";

/// They go with this.
struct Clusters(Lab);

impl Clusters {
    fn up() -> Result<Self> {
        let clusters = Self(Lab::open()?);
        clusters.0.up(&[HOST, TARGET])?;
        Ok(clusters)
    }

    /// Installs Kueue by its own chart; it governs workloads of these kinds.
    fn install(&self, cluster: &str, kinds: &[&str]) -> Result<()> {
        let (helm, kueue) = (helm()?, self.0.toolchain().ensure_kueue()?);
        let dir = tempfile::tempdir()?;
        let archive = dir.path().join("kueue.tar");
        let image = lab::image::Image::new("longshore.dev/kueue:1").program(&kueue.program, "/manager")?;
        image.user("65532:65532").write(&archive)?;
        self.0.load_image(cluster, &archive)?;
        // JSON is YAML.
        let config = json!({
            "apiVersion": "config.kueue.x-k8s.io/v1beta2", "kind": "Configuration",
            "health": {"healthProbeBindAddress": ":8081"}, "metrics": {"bindAddress": ":8443"}, "webhook": {"port": 9443},
            "leaderElection": {"leaderElect": false}, "integrations": {"frameworks": kinds},
        });
        let image = json!({"repository": "longshore.dev/kueue", "tag": "1", "pullPolicy": "Never"});
        let values = json!({
            "controllerManager": {"manager": {"image": image, "resources": {"requests": {"cpu": "50m"}}}},
            "managerConfig": {"controllerManagerConfigYaml": config.to_string()},
        });
        let file = dir.path().join("values.yaml");
        std::fs::write(&file, values.to_string())?;
        let mut command = Command::new(helm);
        command.args(["install", "kueue"]).arg(&kueue.chart).args([
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--wait",
        ]);
        command.args(["--timeout", "4m", "--values"]).arg(&file).env("KUBECONFIG", self.0.kubeconfig(cluster)?);
        // Longer than the deadline of other commands: helm waits for the manager.
        let output = command.env("HOME", dir.path()).stdin(Stdio::null()).output()?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let system = World::cluster(cluster, SYSTEM)?;
        let log = || system.kubectl(&["logs", "deployments/kueue-controller-manager", "--tail=30"]);
        ensure!(output.status.success(), "{} {} {:?}", said(&output.stdout), said(&output.stderr), log());
        Ok(())
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        if let Err(error) = self.0.down_only(&[HOST, TARGET]) {
            eprintln!("the clusters of the queues are not down: {error:#}");
        }
    }
}

/// A queue for one CPU in the namespace of the cluster, with this flavour of nodes. The webhooks of Kueue may need a moment after
/// their manager is Ready.
fn make_queue(cluster: &Cluster, flavor: &Value) -> Result<()> {
    let quota = json!({"name": "far", "resources": [{"name": "cpu", "nominalQuota": "1"}]});
    let objects = [
        json!({"kind": "ResourceFlavor", "metadata": {"name": "far"}, "spec": flavor}),
        json!({"kind": "ClusterQueue", "metadata": {"name": "far"}, "spec": {
            "namespaceSelector": {}, "resourceGroups": [{"coveredResources": ["cpu"], "flavors": [quota]}]}}),
        json!({"kind": "LocalQueue", "metadata": {"name": "queue"}, "spec": {"clusterQueue": "far"}}),
    ];
    for object in objects {
        cluster.wait("Kueue to take a queue", secs(60), |cluster| cluster.create(object.clone()))?;
    }
    Ok(())
}

/// What a queue knows of a Job or a pod: whether there is room for it, and why not.
fn workload(cluster: &Cluster, owner: &str) -> Result<Value> {
    let all = cluster.list("workloads", "")?;
    let found = all.into_iter().find(|one| one["metadata"]["ownerReferences"][0]["name"] == owner);
    let found = found.with_context(|| format!("no workload of {owner}"))?;
    let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["type"] == "QuotaReserved").context("not looked at yet")
}

fn wait_for_quota(cluster: &Cluster, owner: &str, status: &str) -> Result<Value> {
    cluster.wait(&format!("{owner} to have QuotaReserved={status}"), secs(60), |cluster| {
        let found = workload(cluster, owner)?;
        ensure!(found["status"] == status, "{found}");
        Ok(found)
    })
}

/// More than half of the quota.
fn large(script: &str) -> Value {
    let mut large = container("main", script);
    large["resources"] = json!({"requests": {"cpu": "600m"}});
    large
}

#[test]
#[ignore = "Kueue has to be built, which takes minutes"]
fn quotas_of_kueue_hold_at_home_and_in_the_target() -> Result<()> {
    let clusters = Clusters::up()?;
    // Side by side: each waits for the kubelet to see the certificates that it makes.
    thread::scope(|scope| {
        let there = scope.spawn(|| clusters.install(TARGET, &["batch/job", "pod"]));
        clusters.install(HOST, &["batch/job"])?;
        there.join().map_err(|_| anyhow!("the installation in the target panicked"))?
    })?;
    let world = World::elsewhere("kueue", HOST, TARGET, |_| {})?;
    world.wait_for_node()?;
    world.create_target_namespace()?;
    a_queue_at_home_admits_jobs_that_run_elsewhere(&world)?;
    a_queue_of_the_target_governs_delegates(&world)
}

/// Nothing in the Job says where it runs: a flavour of the queue is a virtual node.
fn a_queue_at_home_admits_jobs_that_run_elsewhere(world: &World) -> Result<()> {
    let home = &world.host;
    make_queue(
        home,
        &json!({"nodeLabels": {"longshore.dev/virtual-node": world.longshore().node()},
            "tolerations": [{"key": "longshore.dev/virtual-node", "operator": "Exists"}]}),
    )?;
    for name in ["one", "two"] {
        let spec = json!({"containers": [large("while [ ! -e /tmp/done ]; do sleep 0.2; done")],
            "terminationGracePeriodSeconds": 1});
        let mut queued = job(name, 1, 1, &spec);
        queued["metadata"]["labels"] = json!({QUEUE: "queue"});
        home.create(queued)?;
        if name == "one" {
            wait_for_quota(home, "one", "True")?;
        }
    }
    let refused = wait_for_quota(home, "two", "False")?;
    let reason = refused["message"].as_str().unwrap_or_default();
    ensure!(reason.contains("insufficient unused quota for cpu in flavor far"), "{refused}");

    let running = |name: &str| -> Result<Pod> {
        let pod = home.wait_for_pods(&format!("app={name}"), 1, "Ready", Pod::is_ready)?.remove(0);
        assert_eq!(pod.text("/spec/nodeName"), world.longshore().node());
        let delegate = world.delegate(&pod)?;
        ensure!(delegate.is_ready(), "{delegate}");
        Ok(pod)
    };
    let first = running("one")?;
    assert_eq!(home.get("jobs", "two")?["spec"]["suspend"], true);
    ensure!(home.pods("app=two")?.is_empty() && world.all_delegates()?.len() == 1, "it has not begun");

    let finish = |pod: &Pod, job: &str| -> Result<()> {
        home.kubectl(&["exec", pod.name(), "--", "touch", "/tmp/done"])?.ok()?;
        home.wait(&format!("the Job {job} to complete"), secs(60), |home| {
            let status = &home.get("jobs", job)?["status"];
            ensure!(status["succeeded"] == 1 && status["completionTime"].is_string(), "{status}");
            Ok(())
        })
    };
    finish(&first, "one")?;
    wait_for_quota(home, "two", "True")?;
    finish(&running("two")?, "two")?;
    for name in ["one", "two"] {
        home.delete("jobs", name)?;
    }
    world.wait_for_no_delegates()
}

/// Labels keep their names on the way, so that the target's Kueue finds its own.
fn a_queue_of_the_target_governs_delegates(world: &World) -> Result<()> {
    make_queue(&world.east, &json!({}))?;
    for name in ["first", "second"] {
        let mut pod = world.pod(name, &[large(IDLE)]);
        pod["metadata"]["labels"][QUEUE] = json!("queue");
        world.host.create(pod)?;
        if name == "first" {
            world.host.wait_for_ready("first")?;
        }
    }
    let first = world.host.pod("first")?;
    let admitted = world.delegate(&first)?;
    assert_eq!(admitted.label("kueue.x-k8s.io/managed"), "true");
    wait_for_quota(&world.east, "second", "False")?;
    let second = world.host.pod("second")?;
    let held = world.delegate(&second)?;
    ensure!(held.0["spec"]["schedulingGates"].to_string().contains(GATE) && held.phase() == "Pending", "{held}");
    ensure!(!second.is_ready() && second.phase() == "Pending", "{second}");
    let gated = world.host.wait("home to show why the second waits", secs(60), |host| {
        let second = host.pod("second")?;
        let conditions = second.0["status"]["conditions"].to_string();
        ensure!(conditions.contains("SchedulingGated"), "{conditions}");
        Ok(second)
    })?;
    ensure!(gated.uid() == second.uid(), "it was not made anew");

    world.host.delete("pods", "first")?;
    world.host.wait_for_gone(&first)?;
    world.east.wait_for_gone(&admitted)?;
    world.host.wait_for_ready("second")?;
    let now = world.delegate(&second)?;
    ensure!(now.uid() == held.uid() && now.restarts() == 0, "admitted, and not made anew: {now}");
    wait_for_quota(&world.east, "second", "True")?;
    world.longshore().check()
}
