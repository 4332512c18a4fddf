//! Longshore as a platform team has it: from the image and the chart, by the real helm, in a host of the test's own, since
//! definitions are for a whole cluster.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use e2e::{
    Change, Cluster, Context, History, IDLE, Pod, Result, Value, World, bail, container, deployment, ensure, helm,
    image, json, run, secs,
};

const HOST: &str = "helmhost";
const TARGET: &str = "east";
const NAMESPACE: &str = "longshore";

const UNINSTALL: &str = "helm uninstall longshore --namespace longshore --wait --timeout 5m";

/// How many pods live through an upgrade.
const FLEET: u32 = 100;

/// Real containers of a fleet start, and stop, one after the other on a machine with two cores.
const FLEET_PATIENCE: Duration = secs(240);

/// A host, a directory to work in, and the programs of the quick start. Dropping it takes the host down.
struct Site {
    /// The user's namespace in the host.
    home: Cluster,
    /// Longshore's own.
    dock: Cluster,
    /// The user's namespace in the target.
    there: Cluster,
    dir: tempfile::TempDir,
    _clusters: Clusters,
    /// Which cluster the host is.
    id: String,
}

impl Site {
    fn up() -> Result<Self> {
        let (helm, image) = (helm()?, image()?);
        let lab = World::lab()?;
        // Made first: what fails from here on takes it down, too.
        let clusters = Clusters;
        lab.up(&[HOST])?;
        lab.load_image(HOST, image)?;
        // The one that the quick start names, for a node without a registry.
        let archive = tempfile::Builder::new().suffix(".tar").tempfile()?;
        let busybox = lab::deps::busybox().context("no busybox")?;
        let image = lab::image::Image::new("docker.io/library/busybox:1.37").program(&busybox, "/bin/busybox")?;
        let image =
            ["sh", "sleep", "echo"].iter().fold(image, |image, tool| image.link(&format!("/bin/{tool}"), "busybox"));
        image.write(archive.path())?;
        lab.load_image(TARGET, archive.path())?;
        let space = format!("e2e-helm-{}", std::process::id());
        let home = World::cluster(HOST, &space)?;
        home.create(json!({"kind": "Namespace", "metadata": {"name": space}}))?;
        home.wait("the service account of the new namespace", secs(60), |home| {
            home.find("serviceaccounts", "default")?.context("none yet")
        })?;
        let id = home.get("namespaces", "kube-system")?["metadata"]["uid"].as_str().context("no UID")?.to_owned();
        let site = Self {
            home,
            dock: World::cluster(HOST, NAMESPACE)?,
            there: World::cluster(TARGET, &space)?,
            dir: tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?,
            _clusters: clusters,
            id,
        };
        let bin = site.dir.path().join("bin");
        fs::create_dir(&bin)?;
        symlink(helm, bin.join("helm"))?;
        symlink(lab.kubectl_path(), bin.join("kubectl"))?;
        symlink(root().join("charts"), site.dir.path().join("charts"))?;
        fs::copy(World::kubeconfig(TARGET)?, site.dir.path().join("east.yaml"))?;
        fs::copy(World::kubeconfig(HOST)?, site.kubeconfig())?;
        site.shell(&format!("kubectl config set-context --current --namespace {space}"))?;
        Ok(site)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("host.yaml")
    }

    /// A command as a user types it.
    fn shell(&self, text: &str) -> Result<String> {
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH")?);
        let mut command = Command::new("sh");
        command.args(["-euc", text]).current_dir(self.dir.path()).env("PATH", path);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path());
        let begin = Instant::now();
        // Longer than the deadline of other commands: helm waits for others.
        let output = command.stdin(Stdio::null()).output()?;
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        eprintln!("{:6.1} s  {}", begin.elapsed().as_secs_f32(), text.lines().next().unwrap_or_default());
        ensure!(output.status.success(), "{text}\n{said}\n{}", self.log());
        Ok(said)
    }

    /// What Longshore says, as far as it can be asked.
    fn log(&self) -> String {
        let ask =
            |args: &[&str]| self.dock.kubectl(args).map(|output| output.stdout + &output.stderr).unwrap_or_default();
        let replicas = ask(&["logs", "-l", "app.kubernetes.io/name=longshore", "--prefix", "--tail=40"]);
        let hook = ask(&["logs", "-l", "app.kubernetes.io/name=longshore-uninstall", "--tail=40"]);
        [ask(&["get", "pods", "-o", "wide"]), replicas, hook, ask(&["describe", "pods"])].join("\n")
    }

    /// The address of a virtual node.
    fn address(&self, node: &str) -> Result<String> {
        let node = self.home.get("nodes", node)?;
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let internal = addresses.iter().find(|one| one["type"] == "InternalIP").context("no address")?;
        Ok(internal["address"].as_str().unwrap_or_default().to_owned())
    }

    /// The replicas that are Ready, by address.
    fn replicas(&self) -> Result<BTreeMap<String, Pod>> {
        let pods = self.dock.pods("app.kubernetes.io/name=longshore")?;
        let ready = pods.into_iter().filter(Pod::is_ready);
        Ok(ready.map(|pod| (pod.text("/status/podIP").to_owned(), pod)).collect())
    }

    /// A spec that brings pods to the virtual node.
    fn spec(script: &str) -> Value {
        json!({"containers": [container("main", script)], "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": "east"},
            "tolerations": [{"key": "longshore.dev/virtual-node", "operator": "Exists"}]})
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What a dead target has kept.
        _ = self.there.delete("namespaces", self.there.namespace());
    }
}

/// Takes the host down.
struct Clusters;

impl Drop for Clusters {
    fn drop(&mut self) {
        if let Ok(lab) = World::lab() {
            _ = lab.down_only(&[HOST]);
        }
    }
}

/// Drops what pods of the host send to the target, or no longer, so that nobody else there notices.
fn cut(cut: bool) -> Result<()> {
    let lab = World::lab()?;
    let target = lab.plan(TARGET)?.ip().to_string();
    let mut command = lab.exec(HOST)?;
    command.args(["iptables", "-w", if cut { "-I" } else { "-D" }, "FORWARD", "-d", &target, "-j", "DROP"]);
    run(&mut command, b"")?.ok().map(drop)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("")
}

/// The commands of a page, as written.
fn commands(page: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("docs").join(page))?;
    let blocks = text.split("\n```sh\n").skip(1);
    blocks.map(|rest| Ok(rest.split_once("\n```").context("a block without an end")?.0.to_owned())).collect()
}

#[test]
fn from_nothing_to_offloaded_pods_through_upgrades_and_back_to_nothing() -> Result<()> {
    let site = Site::up()?;
    quick_start(&site)?;
    confined(&site)?;
    reached(&site)?;
    upgrade(&site)?;
    uninstall(&site)?;
    uninstall_stops_at_a_budget(&site)?;
    uninstall_with_a_dead_target(&site)
}

/// At most five commands, as written.
fn quick_start(site: &Site) -> Result<()> {
    let commands = commands("quickstart.md")?;
    ensure!((3..=5).contains(&commands.len()), "the page has {} commands", commands.len());
    for command in &commands {
        site.shell(command)?;
    }
    site.home.wait_for_ready("hello")?;
    let delegate = site.there.pod("hello")?;
    ensure!(!delegate.label("longshore.dev/uid").is_empty(), "{delegate}");
    assert_eq!(site.shell("kubectl logs hello")?, "hello\n");
    assert_eq!(site.shell("kubectl exec hello -- echo inside")?, "inside\n");
    Ok(())
}

/// Nobody is root, nothing can be written, and nothing is allowed.
fn confined(site: &Site) -> Result<()> {
    let bytes = fs::metadata(image()?)?.len();
    ensure!(bytes < 50 * 1024 * 1024, "the image has {bytes} bytes");
    eprintln!("image: {} MB", bytes / 1_000_000);
    let replicas = site.replicas()?;
    assert_eq!(replicas.len(), 2, "{replicas:?}");
    for pod in replicas.values() {
        let spec = &pod.0["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        let context = &spec["containers"][0]["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(pod.restarts(), 0, "{pod}");
    }
    // As the kernel sees them.
    let found = run(Command::new("pgrep").args(["-x", "longshore"]), b"")?.stdout;
    let ours = found.lines().filter(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("--lease-namespace=longshore")
    });
    let mut seen = 0;
    for pid in ours {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        for line in [
            "Uid:\t65534\t65534",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            ensure!(status.contains(line), "{line} is not in\n{status}");
        }
        seen += 1;
    }
    assert_eq!(seen, 2);
    Ok(())
}

/// The API server reaches the kubelet port of either replica.
fn reached(site: &Site) -> Result<()> {
    let before = site.address("east")?;
    let holder = site.replicas()?.remove(&before).context("the node's address is no replica's")?;
    assert_eq!(site.shell("kubectl get --raw /api/v1/nodes/east/proxy/healthz")?, "ok");
    site.dock.delete("pods", holder.name())?;
    site.home.wait("another replica to keep the node", secs(90), |_| {
        let (address, replicas) = (site.address("east")?, site.replicas()?);
        ensure!(address != before && replicas.contains_key(&address), "{address}, {:?}", replicas.keys());
        let logs = site.home.kubectl(&["logs", "hello"])?;
        ensure!(logs.stdout == "hello\n", "{logs:?}");
        Ok(())
    })?;
    assert_eq!(site.shell("kubectl exec hello -- echo inside")?, "inside\n");
    // A service of the cluster, and what a scraper would get.
    let metrics = site.shell("kubectl get --raw /api/v1/namespaces/longshore/services/longshore:http/proxy/metrics")?;
    ensure!(metrics.contains("process_resident_memory_bytes"), "{metrics}");
    Ok(())
}

/// A fleet lives through an upgrade and its taking back, and does not notice.
fn upgrade(site: &Site) -> Result<()> {
    site.home.create(deployment("fleet", FLEET, &Site::spec(IDLE)))?;
    let fleet = site.home.wait("the fleet to be Ready", FLEET_PATIENCE, |home| {
        let pods = home.pods("app=fleet")?;
        let ready = pods.iter().filter(|pod| pod.is_ready()).count();
        ensure!(ready == FLEET as usize, "{ready} of {}", pods.len());
        Ok(pods)
    })?;
    let (home, there) = (History::record(&site.home)?, History::record(&site.there)?);
    let replicas =
        || -> Result<Vec<String>> { Ok(site.replicas()?.values().map(|pod| pod.uid().to_owned()).collect()) };
    let first = replicas()?;
    site.shell("helm upgrade longshore charts/longshore --namespace longshore --reuse-values --set logLevel=debug --wait --timeout 4m")?;
    let second = replicas()?;
    ensure!(second.len() == 2 && second.iter().all(|uid| !first.contains(uid)), "{first:?} {second:?}");
    assert_eq!(site.shell("kubectl exec hello -- echo upgraded")?, "upgraded\n");
    site.shell("helm rollback longshore 1 --namespace longshore --wait --timeout 4m")?;
    let third = replicas()?;
    ensure!(third.len() == 2 && third.iter().all(|uid| !second.contains(uid)), "{second:?} {third:?}");
    site.home.wait("a pod's logs after that", secs(60), |home| {
        let logs = home.kubectl(&["logs", "hello"])?;
        ensure!(logs.stdout == "hello\n", "{logs:?}");
        Ok(())
    })?;
    // Still the same Longshore works, and the record has caught up.
    site.home.create(json!({"kind": "Pod", "metadata": {"name": "late"}, "spec": Site::spec(IDLE)}))?;
    let late = site.home.wait_for_ready("late")?;
    for (side, record) in [("home", &home), ("the target", &there)] {
        let name = late.name();
        record.wait("the last pod", secs(30), |all| all.iter().any(|one| one.pod.name() == name).then_some(()))?;
        let mut changes = 0;
        for one in record.observations()?.iter().filter(|one| one.pod.name() != name) {
            ensure!(
                one.change != Change::Deleted && one.pod.is_ready() && one.pod.restarts() == 0,
                "{side}: {}",
                one.pod
            );
            changes += usize::from(one.change == Change::Modified);
        }
        eprintln!("{side}: {FLEET} pods, all Ready in every observation, changed {changes} times in all");
    }
    ensure!(
        fleet.iter().all(|pod| site.home.find_pod(pod.name()).ok().flatten().is_some_and(|now| now.uid() == pod.uid()))
    );
    Ok(())
}

/// What is left of Longshore, by kind and name.
fn leftovers(site: &Site) -> Result<Vec<String>> {
    let ask = |cluster: &Cluster, args: &[&str]| -> Result<Vec<String>> {
        let text = cluster.kubectl(args)?.ok()?;
        Ok(text.lines().map(|line| format!("{}: {line}", cluster.name())).collect())
    };
    let mut left = vec![];
    let kinds = "deployments,pods,jobs,services,serviceaccounts,roles,rolebindings,configmaps,poddisruptionbudgets,leases,\
        clusterroles,clusterrolebindings,flowschemas,customresourcedefinitions";
    for selector in ["app.kubernetes.io/instance=longshore", "app.kubernetes.io/name=longshore-uninstall"] {
        left.extend(ask(&site.home, &["get", kinds, "-A", "-l", selector, "-o", "name"])?);
    }
    left.extend(
        ask(&site.dock, &["get", "leases,pods,secrets", "-o", "name"])?
            .into_iter()
            .filter(|one| !one.ends_with("secret/east")),
    );
    left.extend(
        ask(&site.home, &["get", "nodes", "-o", "name"])?.into_iter().filter(|one| !one.ends_with("/helmhost-node")),
    );
    left.extend(ask(&site.home, &["get", "pods", "-A", "--field-selector", "spec.nodeName=east", "-o", "name"])?);
    Ok(left)
}

fn ensure_nothing_left(site: &Site) -> Result<()> {
    site.home.wait("nothing to be left", secs(60), |_| {
        let left = leftovers(site)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

fn uninstall(site: &Site) -> Result<()> {
    let begin = Instant::now();
    site.shell(UNINSTALL)?;
    ensure_nothing_left(site)?;
    site.there.wait("nothing to be left there", FLEET_PATIENCE, |there| {
        let kinds = "pods,configmaps,secrets,namespaces";
        let ours = format!("longshore.dev/host={}", site.id);
        let left = there.kubectl(&["get", kinds, "-A", "-l", &ours, "-o", "name"])?.ok()?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    eprintln!("uninstalled with {} pods in {:.0} s", FLEET + 2, begin.elapsed().as_secs_f32());
    // What belongs to the user waits for another node.
    site.home.delete("deployments", "fleet")
}

/// The quick start again, with other values; its Secret is still there.
fn install_again(site: &Site, values: &str) -> Result<Pod> {
    let mut commands = commands("quickstart.md")?;
    commands[0] += " --set uninstall.patienceSeconds=10";
    commands[0] += values;
    for command in commands.iter().filter(|command| !command.contains("create secret")) {
        site.shell(command)?;
    }
    site.home.wait_for_ready("hello")
}

/// As where the control plane reaches nodes and no pods, and with a volume more.
fn on_the_network_of_the_node(site: &Site) -> Result<Pod> {
    // It is read at the start, so that there is no Ready replica without the mount.
    let list = r#"--from-literal=providers.json={"providers":[]}"#;
    site.dock.kubectl(&["create", "configmap", "programs", list])?.ok()?;
    let hello = install_again(
        site,
        " --set hostNetwork=true,kubeletPort=10350,replicas=1 --set-json 'extraVolumes=[{\"name\": \"lists\", \"configMap\": \
        {\"name\": \"programs\"}}]' --set-json 'extraVolumeMounts=[{\"name\": \"lists\", \"mountPath\": \"/lists\"}]' \
        --set extraArgs={--clusterprofile-provider-file=/lists/providers.json}",
    )?;
    assert_eq!(site.address("east")?, World::lab()?.plan(HOST)?.ip().to_string(), "that of the real node");
    let port = &site.home.get("nodes", "east")?["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    assert_eq!(*port, json!(10350));
    assert_eq!(site.shell("kubectl logs hello")?, "hello\n");
    assert_eq!(site.shell("kubectl exec hello -- echo inside")?, "inside\n");
    Ok(hello)
}

/// As where a firewall lets the control plane reach pods at 443 and 10250 only, and kubelets their probes. It is there first:
/// connections that are open already would stay.
fn behind_a_firewall(site: &Site) -> Result<()> {
    let lab = World::lab()?;
    let pods = lab.plan(HOST)?.pod_cidr();
    let wall = |action: &str| -> Result<()> {
        let mut command = lab.exec(HOST)?;
        command.args(["iptables", "-w", action, "OUTPUT", "-d", &pods, "-p", "tcp"]);
        // Answers to what pods have asked pass, as through any firewall.
        command.args(["-m", "conntrack", "--ctstate", "NEW", "-m", "multiport"]);
        command.args(["!", "--dports", "443,10250,8080", "-j", "DROP"]);
        run(&mut command, b"")?.ok().map(drop)
    };
    wall("-I")?;
    let chosen = || -> Result<()> {
        install_again(site, " --set webhook.port=443")?;
        let pod = json!({"kind": "Pod", "metadata": {"name": "chosen", "annotations": {"longshore.dev/offload": "true"}},
            "spec": {"containers": [container("main", "echo inside; sleep 600")], "terminationGracePeriodSeconds": 1}});
        site.home.create(pod)?;
        let pod = site.home.wait_for_ready("chosen")?;
        assert_eq!(pod.text("/spec/nodeName"), "east", "by the webhook at 443");
        assert_eq!(site.shell("kubectl logs chosen")?, "inside\n", "by the kubelet API at 10250");
        site.home.delete("pods", "chosen")?;
        site.home.wait_for_gone(&pod)
    };
    let outcome = chosen();
    wall("-D")?;
    outcome
}

fn uninstall_stops_at_a_budget(site: &Site) -> Result<()> {
    let hello = on_the_network_of_the_node(site)?;
    let labels = json!({"metadata": {"labels": {"app": "hello"}}});
    site.home.patch("pods", "hello", &labels)?;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "hello"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "hello"}}}});
    site.home.kubectl_with(&["apply", "-f", "-"], budget.to_string().as_bytes())?.ok()?;
    // The second time the Target has gone already.
    for _ in 0..2 {
        let refused = site.shell(UNINSTALL).err().context("the pod was not protected")?.to_string();
        ensure!(refused.contains("PodDisruptionBudgets"), "{refused}");
        let now = site.home.pod("hello")?;
        ensure!(now.uid() == hello.uid() && now.is_ready(), "{now}");
        assert_eq!(site.shell("kubectl exec hello -- echo inside")?, "inside\n");
    }
    site.home.kubectl(&["delete", "poddisruptionbudgets", "hello"])?.ok()?;
    site.shell(UNINSTALL)?;
    ensure_nothing_left(site)
}

fn uninstall_with_a_dead_target(site: &Site) -> Result<()> {
    behind_a_firewall(site)?;
    cut(true)?;
    let gone = site.shell(UNINSTALL).and_then(|said| ensure_nothing_left(site).map(|()| said));
    cut(false)?;
    let said = gone?;
    for sentence in ["east does not answer", "what ran for it in its target may still run there"] {
        ensure!(said.contains(sentence), "{sentence} is not in:\n{said}");
    }
    let Some(delegate) = site.there.find_pod("hello")? else { bail!("the delegate has gone, and nobody could say so") };
    ensure!(!delegate.is_terminating(), "{delegate}");
    Ok(())
}
