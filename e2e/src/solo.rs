//! A virtual node that needs no target.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    cluster::Cluster,
    command::Background,
    longshore::{BRIDGE, binary, free_port},
    world::{lab, unique},
};

/// A namespace of a test's own in the host, and a process that keeps a virtual node by itself. Dropping it removes all of it.
pub struct Solo {
    /// The cluster that users talk to.
    pub host: Cluster,
    /// The test's namespace.
    pub namespace: String,
    /// The virtual node, which has the namespace's name.
    pub node: String,
    process: Option<Background>,
}

impl Solo {
    /// A node of `longshore run --provider`.
    pub fn provider(name: &str, provider: &str) -> Result<Self> {
        Self::start(name, |node| {
            let port = free_port()?.to_string();
            let mut command = command(binary()?);
            command.args(["run", "--provider", provider, "--node-name", node, "--node-ip", BRIDGE, "--port", &port]);
            command.arg("--kubeconfig").arg(lab()?.kubeconfig("host")?);
            Ok(command)
        })
    }

    /// A node of `examples/memory.rs`, with these arguments after name and address.
    pub fn example(name: &str, args: &[&str]) -> Result<Self> {
        Self::start(name, |node| {
            // Beside the program, where the same build puts it.
            let program = binary()?.with_file_name("examples").join("memory");
            ensure!(program.is_file(), "there is no {}: cargo build --example memory", program.display());
            let mut command = command(&program);
            command.args([node, BRIDGE]).args(args).env("KUBECONFIG", lab()?.kubeconfig("host")?);
            Ok(command)
        })
    }

    fn start(name: &str, command: impl FnOnce(&str) -> Result<Command>) -> Result<Self> {
        let namespace = unique(name);
        let host = Cluster::open(lab()?, "host", &namespace)?;
        let mut solo = Self { host, node: namespace.clone(), namespace, process: None };
        solo.host.create(json!({"kind": "Namespace", "metadata": {"name": solo.namespace}}))?;
        solo.host.wait("the service account of the new namespace", PATIENCE, |host| {
            host.find("serviceaccounts", "default")?.context("none yet")
        })?;
        solo.process = Some(Background::start(&mut command(&solo.node)?)?);
        solo.host.wait("the node to be Ready", PATIENCE, |host| {
            let node = host.find("nodes", &solo.node)?.with_context(|| format!("no node\n{}", solo.log()))?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
            ensure!(ready, "{conditions:?}\n{}", solo.log());
            Ok(())
        })?;
        Ok(solo)
    }

    /// A pod for the node, by its whole spec.
    pub fn pod(&self, name: &str, mut spec: Value) -> Value {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": self.node});
        spec["tolerations"] = json!([{"key": "longshore.dev/virtual-node", "operator": "Exists"}]);
        json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
    }

    /// Everything that the process has said.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |process| process.lines().join("\n"))
    }
}

/// A command that dies with the thread that started it, should the tests be killed.
fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null());
    command
}

impl Drop for Solo {
    fn drop(&mut self) {
        // Pods first, while somebody lets them go.
        _ = self.host.delete("namespaces", &self.namespace);
        _ = self.host.wait("the namespace to go", PATIENCE, |host| {
            let found = host.find("namespaces", &self.namespace)?;
            found.map_or(Ok(()), |found| bail!("{}", found["status"]))
        });
        self.process = None;
        _ = self.host.delete("nodes", &self.node);
    }
}
