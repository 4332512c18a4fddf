//! Simulated nodes: objects that kwok keeps Ready, and on which pods run at once without any container.

use std::{io::Write, process::Stdio};

use serde_json::{Value, json};

use crate::{Error, Lab, Process, command, files};

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
}

impl Default for Simulation {
    fn default() -> Self {
        Self { nodes: 1, cpu: "64".into(), memory: "256Gi".into(), pods: 500 }
    }
}

impl Lab {
    /// Gives a cluster so many simulated nodes, named `kwok-1` and so on, beside its real one if it has one. Pods that the
    /// scheduler puts there turn Ready at once, those of Jobs complete, and they are deleted at once.
    pub fn simulate(&self, name: &str, simulation: &Simulation) -> Result<(), Error> {
        let program = self.toolchain().ensure_kwok()?;
        let kubeconfig = self.kubeconfig(name)?;
        let config = kubeconfig.with_file_name("kwok.yaml");
        files::write(&config, CONFIG)?;
        let args = [
            "--config".into(),
            config.into_os_string(),
            "--kubeconfig".into(),
            kubeconfig.into_os_string(),
            "--manage-all-nodes=false".into(),
            format!("--manage-nodes-with-annotation-selector={}={}", ANNOTATION.0, ANNOTATION.1).into(),
        ];
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
        Ok(())
    }
}

/// Runs a command with a document as its input.
fn feed(kubectl: &mut std::process::Command, document: &Value) -> Result<(), Error> {
    let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(Error::Feed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(document.to_string().as_bytes()).map_err(Error::Feed)?;
    }
    let status = child.wait().map_err(Error::Feed)?;
    if status.success() { Ok(()) } else { Err(Error::Feed(std::io::Error::other(format!("kubectl: {status}")))) }
}

/// Many at once: a burst of pods is what these nodes are for.
const CONFIG: &str = "\
apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
options:
  podPlayStageParallelism: 64
  nodePlayStageParallelism: 16
  nodeLeaseParallelism: 4
  nodeLeaseDurationSeconds: 40
  podsOnNodeSyncParallelism: 4
";

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
}
