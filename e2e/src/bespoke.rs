//! Longshore with targets and rights of a test's own choice.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cluster::Cluster,
    command::Background,
    longshore::{BRIDGE, binary, free_port},
    world::unique,
};

/// A Longshore with several virtual nodes, one for each kubeconfig. Dropping it ends it and removes the nodes.
pub struct Bespoke {
    process: Option<Background>,
    host: Cluster,
    nodes: Vec<String>,
    _dir: TempDir,
}

impl Bespoke {
    /// Starts it as the admin of the host, with a target and a virtual node for each of these kubeconfigs.
    pub fn start(host: &Cluster, admin: &Path, targets: &[&Path]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?;
        let (mut file, mut nodes) = (String::new(), Vec::new());
        for (index, kubeconfig) in targets.iter().enumerate() {
            let (target, node, port) = (format!("target-{index}"), unique("node"), free_port()?);
            let header = "---\napiVersion: longshore.dev/v1alpha1";
            let path = kubeconfig.display();
            _ = writeln!(
                file,
                "{header}\nkind: Target\nmetadata: {{name: {target}}}\nspec: {{kubeconfig: {{file: {path}}}}}"
            );
            _ = writeln!(file, "{header}\nkind: VirtualNode\nmetadata: {{name: {node}}}");
            _ = writeln!(file, "spec: {{targets: [{{name: {target}}}], port: {port}}}");
            nodes.push(node);
        }
        let config = dir.path().join("provider.yaml");
        fs::write(&config, file)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(binary()?).arg("run").arg("--kubeconfig").arg(admin);
        command.arg("--provider-config").arg(config).args(["--node-ip", BRIDGE]).stdin(Stdio::null());
        let process = Some(Background::start(&mut command)?);
        Ok(Self { process, host: host.clone(), nodes, _dir: dir })
    }

    /// The virtual node of the target at this place.
    pub fn node(&self, index: usize) -> &str {
        &self.nodes[index]
    }

    /// Everything that it has said.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |process| process.lines().join("\n"))
    }

    /// Waits until it logs a line with this text.
    pub fn wait_for_line(&self, text: &str, within: Duration) -> Result<String> {
        self.process.as_ref().context("it does not run")?.wait_for_line(text, within)
    }

    /// Waits until the condition Ready of the node at this place has this status, and answers the condition.
    pub fn wait_for_ready(&self, index: usize, status: &str, within: Duration) -> Result<Value> {
        let name = self.node(index);
        self.host.wait(&format!("the node {name} to have Ready={status}"), within, |host| {
            let node = host.find("nodes", name)?.with_context(|| format!("no node\n{}", self.log()))?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.into_iter().find(|one| one["type"] == "Ready").context("no condition")?;
            ensure!(ready["status"] == status, "{ready}\n{}", self.log());
            Ok(ready)
        })
    }
}

impl Drop for Bespoke {
    fn drop(&mut self) {
        // It would register its nodes again.
        self.process = None;
        for node in &self.nodes {
            _ = self.host.delete("nodes", node);
        }
    }
}

impl Cluster {
    /// The kubeconfig of the admin, as JSON, for tests to change.
    pub fn admin_kubeconfig(&self) -> Result<Value> {
        let text = self.kubectl(&["config", "view", "--raw", "--flatten", "--output", "json"])?.ok()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The kubeconfig of a new service account in the test's namespace, which has no rights whatever.
    pub fn stranger_kubeconfig(&self, account: &str) -> Result<Value> {
        self.create(json!({"kind": "ServiceAccount", "metadata": {"name": account}}))?;
        let token = self.kubectl(&["create", "token", account])?.ok()?;
        let mut kubeconfig = self.admin_kubeconfig()?;
        kubeconfig["users"][0]["user"] = json!({"token": token.trim()});
        Ok(kubeconfig)
    }
}

/// Writes a kubeconfig, or whatever else is JSON, to a file.
pub fn write_json(dir: &TempDir, name: &str, value: &Value) -> Result<PathBuf> {
    let path = dir.path().join(name);
    fs::write(&path, value.to_string())?;
    Ok(path)
}
