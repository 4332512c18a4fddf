//! Far more pods than real API servers could bear here, over twenty targets: the compiled process against API servers in memory.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::audit::Requests;
use crate::cluster::{NAMESPACE, pod};
use crate::fake::Fake;
use crate::process;
use crate::settings::Settings;
use crate::subject::Subject;

const TARGETS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(900);

/// What it took.
#[derive(Default)]
pub(crate) struct Scale {
    pub(crate) pods: usize,
    /// From the start of the process until all pods are ready at home, and the CPU of it.
    pub(crate) start: [Duration; 2],
    /// The same of a restart, until a new pod of each node has its delegate.
    pub(crate) restart: [Duration; 2],
    /// The same from the deletion of all pods until the last has gone.
    pub(crate) end: [Duration; 2],
    /// CPU while nothing happens, as a part of a core, and requests other than of leases and versions.
    pub(crate) idle: f64,
    pub(crate) idle_requests: Requests,
    /// Before there are pods, at the peak of their start, with them, at the peak of a restart, after their end; in kB.
    pub(crate) memory: [u64; 5],
}

struct World {
    host: Fake,
    targets: Vec<Fake>,
}

pub(crate) async fn scale(settings: &Settings, pods: usize) -> Result<Scale> {
    let dir = tempfile::tempdir()?;
    let (world, kubeconfig) = World::begin(dir.path()).await?;
    let command = command(settings, dir.path(), &kubeconfig);
    let mut scale = Scale { pods, ..Scale::default() };

    let mut subject = Subject::of(command, settings.out.join("scale.log"))?;
    world.wait("nodes", || world.host.known("/api/v1/nodes/") >= TARGETS).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pid = subject.pid().context("no process")?;
    scale.memory[0] = process::memory(pid, "VmRSS");
    let (begun, cpu) = (Instant::now(), process::cpu(pid));
    for index in 0..pods {
        world.create(&format!("pod-{index:06}"), index % TARGETS);
        if index % 1000 == 0 {
            // As fast as they are bound elsewhere; watches keep up.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    world.wait("pods that are ready", || world.host.pods() == (pods, pods)).await?;
    scale.start = [begun.elapsed(), process::cpu(pid).saturating_sub(cpu)];
    scale.memory[1] = process::memory(pid, "VmHWM");

    tokio::time::sleep(Duration::from_secs(5)).await;
    scale.memory[2] = process::memory(pid, "VmRSS");
    world.requests();
    let (begun, cpu) = (Instant::now(), process::cpu(pid));
    tokio::time::sleep(settings.seconds).await;
    scale.idle = process::cpu(pid).saturating_sub(cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    scale.idle_requests = world.requests();

    subject.stop()?;
    let begun = Instant::now();
    for index in 0..TARGETS {
        world.create(&format!("probe-{index:06}"), index);
    }
    subject.spawn()?;
    let pid = subject.pid().context("no process")?;
    world.wait("probes that are ready", || world.host.pods().1 == pods + TARGETS).await?;
    scale.restart = [begun.elapsed(), process::cpu(pid)];
    scale.memory[3] = process::memory(pid, "VmHWM");

    let (begun, cpu) = (Instant::now(), process::cpu(pid));
    world.host.delete_all();
    let gone = || world.host.pods().0 == 0 && world.targets.iter().all(|target| target.pods().0 == 0);
    world.wait("pods to be gone", gone).await?;
    scale.end = [begun.elapsed(), process::cpu(pid).saturating_sub(cpu)];
    tokio::time::sleep(Duration::from_secs(5)).await;
    scale.memory[4] = process::memory(pid, "VmRSS");
    subject.stop()?;
    Ok(scale)
}

fn command(settings: &Settings, dir: &Path, kubeconfig: &str) -> Vec<String> {
    let mut command =
        vec![settings.longshore.display().to_string(), "run".into(), "--kubeconfig".into(), kubeconfig.into()];
    command.extend(["--provider-config".into(), dir.join("provider.yaml").display().to_string()]);
    command.extend(["--port", "21300", "--node-ip", "172.30.0.1"].map(String::from));
    command.extend(settings.flags.iter().cloned());
    command
}

impl World {
    async fn begin(dir: &Path) -> Result<(Self, String)> {
        let mut params = rcgen::CertificateParams::new(vec![])?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&rcgen::KeyPair::generate()?)?.pem();
        let object = |kind: &str, name: &str, more: Value| {
            let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
            object
                .as_object_mut()
                .into_iter()
                .for_each(|all| all.extend(more.as_object().cloned().unwrap_or_default()));
            object
        };
        let namespaces = |names: &[&str]| -> Vec<(String, Value)> {
            let one = |name: &&str| {
                (
                    format!("/api/v1/namespaces/{name}"),
                    object("Namespace", name, json!({"status": {"phase": "Active"}})),
                )
            };
            names.iter().map(one).collect()
        };
        let name = "extension-apiserver-authentication";
        let mut objects = namespaces(&["kube-system", NAMESPACE]);
        let trust = object("ConfigMap", name, json!({"data": {"client-ca-file": authority}}));
        objects.push((format!("/api/v1/namespaces/kube-system/configmaps/{name}"), trust));
        let (host, port) = Fake::begin("00000000-0000-4000-8000-000000000000", false, objects).await?;
        let kubeconfig = kubeconfig(dir, "host", port)?;
        let (mut targets, mut file) = (vec![], String::new());
        for index in 0..TARGETS {
            let room = json!({"cpu": "100k", "memory": "1Pi", "pods": "100k", "ephemeral-storage": "1Pi"});
            let node = object(
                "Node",
                "fake-0",
                json!({"status": {"allocatable": room, "capacity": room,
                "conditions": [{"type": "Ready", "status": "True"}]}, "spec": {}}),
            );
            let mut objects = namespaces(&["kube-system", NAMESPACE]);
            objects.push(("/api/v1/nodes/fake-0".into(), node));
            let (target, port) =
                Fake::begin(&format!("00000000-0000-4000-8001-0000000000{index:02}"), true, objects).await?;
            let (name, path) = (format!("t{index}"), self::kubeconfig(dir, &format!("t{index}"), port)?);
            let header = "---\napiVersion: longshore.dev/v1alpha1\nkind:";
            _ = write!(
                file,
                "{header} Target\nmetadata: {{name: {name}}}\nspec: {{kubeconfig: {{file: {path}}}}}\n\
                 {header} VirtualNode\nmetadata: {{name: {}}}\nspec: {{targets: [{{name: {name}}}]}}\n",
                node_name(index)
            );
            targets.push(target);
        }
        fs::write(dir.join("provider.yaml"), file)?;
        Ok((Self { host, targets }, kubeconfig))
    }

    fn create(&self, name: &str, node: usize) {
        let mut pod = pod(name, Some(&node_name(node)));
        pod["metadata"]["namespace"] = NAMESPACE.into();
        self.host.create(pod);
    }

    /// Requests since this was last asked, but for leases and heartbeats.
    fn requests(&self) -> Requests {
        let mut requests = Requests::new();
        for (what, count) in self.targets.iter().chain([&self.host]).flat_map(Fake::requests) {
            if !["leases", "version"].iter().any(|one| what.contains(one)) {
                *requests.entry(what).or_default() += count;
            }
        }
        requests
    }

    async fn wait(&self, what: &str, done: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done() {
            let there = self.targets.iter().map(|target| target.pods().0).sum::<usize>();
            ensure!(begun.elapsed() < PATIENCE, "still no {what}: {:?} at home, {there} in targets", self.host.pods());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }
}

fn node_name(index: usize) -> String {
    format!("scale-{index}")
}

fn kubeconfig(dir: &Path, name: &str, port: u16) -> Result<String> {
    let path = dir.join(format!("{name}.kubeconfig"));
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    fs::write(&path, config.to_string())?;
    Ok(path.display().to_string())
}
