//! Simulated nodes: objects that kwok keeps Ready, and on which pods run at once without any container.

use std::{
    io::Write,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Error, Lab, Process, cluster::is_node_ready, command, files, process::wait_until, toolchain};

const NAME: &str = "kwok";

/// By this annotation kwok knows its nodes, and leaves real ones alone.
const ANNOTATION: (&str, &str) = ("kwok.x-k8s.io/node", "fake");

/// What simulated nodes offer, each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simulation {
    /// How many there are; fewer than before removes the last ones.
    pub nodes: u32,
    /// CPU as a Kubernetes quantity.
    pub cpu: String,
    /// Memory as a Kubernetes quantity.
    pub memory: String,
    /// How many pods.
    pub pods: u32,
    /// The longest that a pod takes to start, to complete and to stop, each; zero is at once.
    pub pace: Duration,
}

impl Default for Simulation {
    fn default() -> Self {
        Self { nodes: 1, cpu: "64".into(), memory: "256Gi".into(), pods: 500, pace: Duration::ZERO }
    }
}

impl Lab {
    /// Gives a cluster so many simulated nodes, named `kwok-1` and so on, beside its real one if it has one, and waits until
    /// they are Ready. Pods that the scheduler puts there turn Ready, those of Jobs complete, and those that are deleted
    /// end first, as on a kubelet. Builds kwok if need be.
    pub fn simulate(&self, name: &str, simulation: &Simulation) -> Result<(), Error> {
        let program = self.toolchain().ensure_kwok()?;
        let kubeconfig = self.kubeconfig(name)?;
        let config = kubeconfig.with_file_name("kwok.yaml");
        let text = stages(simulation.pace);
        if files::read_text(&config).is_ok_and(|known| known != text) {
            // It reads its stages only at the start.
            self.stop(name, NAME)?;
        }
        files::write(&config, text)?;
        let args = [
            "--config".into(),
            config.into_os_string(),
            "--kubeconfig".into(),
            kubeconfig.into_os_string(),
            "--manage-all-nodes=false".into(),
            format!("--manage-nodes-with-annotation-selector={}={}", ANNOTATION.0, ANNOTATION.1).into(),
        ];
        if self.pid(name, NAME)?.is_none() {
            self.forget_leases(name)?;
        }
        self.start(name, Process { name: NAME.into(), program, args: args.into(), ..Process::default() })?;
        let nodes: Vec<Value> = (1..=simulation.nodes).map(|index| node(index, simulation)).collect();
        let mut kubectl = self.kubectl(name)?;
        kubectl.args(["apply", "--server-side", "--filename", "-"]);
        feed(&mut kubectl, &json!({"apiVersion": "v1", "kind": "List", "items": nodes}))?;
        // What is too many: the names are known by their label.
        let known = command::run_command(self.kubectl(name)?.args(["get", "nodes", "-l", "type=kwok", "-o", "name"]))
            .map_err(Error::Kubectl)?;
        let number = |line: &str| line.rsplit('-').next().and_then(|number| number.parse::<u32>().ok());
        for line in known.lines().filter(|line| number(line).is_some_and(|number| number > simulation.nodes)) {
            command::run_command(self.kubectl(name)?.args(["delete", line])).map_err(Error::Kubectl)?;
        }
        self.wait_for_simulated_nodes(name, simulation.nodes)
    }

    /// A kwok leaves nodes alone of which another one holds the lease, and each start makes it another one.
    fn forget_leases(&self, name: &str) -> Result<(), Error> {
        let leases = ["--namespace", "kube-node-lease", "leases.coordination.k8s.io"];
        let run = |args: &[&str]| {
            let mut kubectl = self.kubectl(name)?;
            command::run_command(kubectl.args(args).args(leases)).map_err(Error::Kubectl)
        };
        let known = run(&["get", "-o", "name"])?;
        for line in known.lines().filter(|line| line.contains("/kwok-")) {
            let mut kubectl = self.kubectl(name)?;
            kubectl.args(["delete", "--ignore-not-found", "--namespace", leases[1], line]);
            command::run_command(&mut kubectl).map_err(Error::Kubectl)?;
        }
        Ok(())
    }

    fn wait_for_simulated_nodes(&self, name: &str, nodes: u32) -> Result<(), Error> {
        let begun = Instant::now();
        let ready = || {
            let mut kubectl = self.kubectl(name).ok()?;
            let text = command::run_command(kubectl.args(["get", "nodes", "-l", "type=kwok", "-o", "json"])).ok()?;
            let list: Value = serde_json::from_str(&text).ok()?;
            list["items"].as_array().map(|all| all.iter().filter(|node| is_node_ready(node)).count())
        };
        let all = usize::try_from(nodes).unwrap_or(usize::MAX);
        if wait_until(PATIENCE, || ready() == Some(all)) {
            return Ok(());
        }
        Err(Error::NotReady { seconds: begun.elapsed().as_secs(), log: self.log(name, NAME)? })
    }
}

/// How long simulated nodes may take to turn Ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// What kwok is told.
fn stages(pace: Duration) -> String {
    include_str!("../kubernetes/kwok.yaml")
        .replace("PACE", &pace.as_millis().to_string())
        .replace("VERSION", toolchain::VERSION)
}

/// Runs a command with a document as its input.
pub(crate) fn feed(kubectl: &mut std::process::Command, document: &Value) -> Result<(), Error> {
    let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(Error::Feed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(document.to_string().as_bytes()).map_err(Error::Feed)?;
    }
    let status = child.wait().map_err(Error::Feed)?;
    if status.success() { Ok(()) } else { Err(Error::Feed(std::io::Error::other(format!("kubectl: {status}")))) }
}

fn node(index: u32, simulation: &Simulation) -> Value {
    let name = format!("kwok-{index}");
    let Simulation { cpu, memory, pods, .. } = simulation;
    let amounts = json!({"cpu": cpu, "memory": memory, "pods": pods.to_string()});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {ANNOTATION.0: ANNOTATION.1},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64"},
        },
        "status": {"allocatable": amounts, "capacity": amounts},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_to_kwok_and_offers_what_was_asked_for() {
        let node = node(3, &Simulation { pods: 7, ..Simulation::default() });
        assert_eq!(node["metadata"]["name"], "kwok-3");
        assert_eq!(node["metadata"]["annotations"][ANNOTATION.0], ANNOTATION.1);
        assert_eq!(node["status"]["allocatable"]["pods"], "7");
    }

    #[test]
    fn the_pace_is_in_the_stages() {
        let text = stages(Duration::from_millis(1500));
        assert_eq!(text.matches("jitterDurationMilliseconds: 1500}").count(), 3);
        assert!(text.contains("kubeletVersion: v1."), "{text}");
    }
}
