//! Longshore that serves what is declared in the host.

use std::{
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    cluster::Cluster,
    command::Background,
    longshore::{BRIDGE, binary, free_port},
    pod::{self, Pod},
    world::{lab, unique},
};

/// A namespace of a test's own on both clusters, and a Longshore without a file that serves what has the test's label. Dropping
/// it removes all of it.
pub struct Declared {
    /// The cluster that users talk to.
    pub host: Cluster,
    /// The cluster that pods run in.
    pub east: Cluster,
    /// The test's namespace, in both, and the value of its label.
    pub namespace: String,
    port: u16,
    flags: Vec<String>,
    process: Mutex<Option<Background>>,
    made: Mutex<Vec<(&'static str, String)>>,
}

impl Declared {
    /// Starts it. The definitions of this build are there then.
    pub fn start(name: &str) -> Result<Self> {
        Self::begin(name, ["host", "east"], |_| Ok(vec![]))
    }

    /// The same between other clusters, which have to be up.
    pub fn between(name: &str, host: &str, target: &str) -> Result<Self> {
        Self::begin(name, [host, target], |_| Ok(vec![]))
    }

    /// The same with more flags of `longshore run`, by the test's namespace.
    pub fn start_with(name: &str, flags: impl FnOnce(&str) -> Result<Vec<String>>) -> Result<Self> {
        Self::begin(name, ["host", "east"], flags)
    }

    fn begin(name: &str, clusters: [&str; 2], flags: impl FnOnce(&str) -> Result<Vec<String>>) -> Result<Self> {
        let (lab, namespace) = (lab()?, unique(name));
        let flags = flags(&namespace)?;
        let [host, east] = clusters.map(|cluster| Cluster::open(lab, cluster, &namespace));
        let (host, east) = (host?, east?);
        let crds = crate::command::run(Command::new(binary()?).arg("crds"), b"")?.ok()?;
        host.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], crds.as_bytes())?.ok()?;
        host.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd/targets.longshore.dev",
            "crd/virtualnodes.longshore.dev",
        ])?
        .ok()?;
        for cluster in [&host, &east] {
            cluster.create(json!({"kind": "Namespace", "metadata": {"name": namespace}}))?;
            cluster.wait("the service account of the new namespace", PATIENCE, |cluster| {
                cluster.find("serviceaccounts", "default")?.context("none yet")
            })?;
        }
        let made = Mutex::default();
        let declared = Self { host, east, namespace, port: free_port()?, flags, process: Mutex::default(), made };
        declared.restart()?;
        Ok(declared)
    }

    /// Ends it as a power cut would, if it runs, and starts it again.
    pub fn restart(&self) -> Result<()> {
        *self.process() = None;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(binary()?).arg("run");
        command.arg("--kubeconfig").arg(lab()?.kubeconfig(self.host.name())?);
        command.args(["--node-ip", BRIDGE, "--port", &self.port.to_string()]);
        command.args(["--selector", &format!("e2e={}", self.namespace)]).args(&self.flags).stdin(Stdio::null());
        *self.process() = Some(Background::start(&mut command)?);
        Ok(())
    }

    /// A name that no other test has.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Creates a Target or a VirtualNode that this Longshore serves.
    pub fn declare(&self, kind: &str, name: &str, spec: &Value) -> Result<Value> {
        let plural = if kind == "Target" { "targets" } else { "virtualnodes" };
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push((plural, name.to_owned()));
        self.host.create(json!({"apiVersion": "longshore.dev/v1alpha1", "kind": kind, "spec": spec,
            "metadata": {"name": name, "labels": {"e2e": self.namespace}}}))
    }

    /// Keeps a kubeconfig in a Secret of this name, and answers what a Target says of it.
    pub fn keep_kubeconfig(&self, name: &str, kubeconfig: &Value) -> Result<Value> {
        let text = kubeconfig.to_string();
        match self.host.find("secrets", name)? {
            Some(_) => self.host.patch("secrets", name, &json!({"data": null, "stringData": {"kubeconfig": text}}))?,
            None => self
                .host
                .create(json!({"kind": "Secret", "metadata": {"name": name}, "stringData": {"kubeconfig": text}}))?,
        };
        Ok(json!({"secretRef": {"namespace": self.namespace, "name": name}}))
    }

    /// Waits until a condition of a Target or VirtualNode has this status, and answers it.
    pub fn wait_for(&self, plural: &str, name: &str, kind: &str, status: &str, within: Duration) -> Result<Value> {
        self.host.wait(&format!("{name} to have {kind}={status}"), within, |host| {
            let object = host.find(plural, name)?.context("there is none")?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.iter().find(|one| one["type"] == kind);
            let found = found.with_context(|| format!("no condition in {}\n{}", object["status"], self.log()))?;
            ensure!(found["status"] == status, "{found}\n{}", self.log());
            Ok(found.clone())
        })
    }

    /// A pod for this virtual node.
    pub fn pod(&self, node: &str, name: &str, containers: &[Value]) -> Value {
        json!({"kind": "Pod", "metadata": {"name": name}, "spec": {
            "containers": containers, "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"key": "longshore.dev/virtual-node", "operator": "Exists"}]}})
    }

    /// The one delegate of a proxy.
    pub fn delegate(&self, proxy: &Pod) -> Result<Pod> {
        let mut delegates = self.east.pods(&format!("longshore.dev/uid={}", proxy.uid()))?;
        ensure!(delegates.len() == 1, "{proxy} has these delegates: {}", pod::list(&delegates));
        delegates.pop().context("no delegate")
    }

    /// Everything that the process of the moment has said.
    pub fn log(&self) -> String {
        self.process().as_ref().map_or_else(String::new, |process| process.lines().join("\n"))
    }

    fn process(&self) -> MutexGuard<'_, Option<Background>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Declared {
    fn drop(&mut self) {
        // Pods first, while somebody lets them go.
        for pod in self.host.pods("").unwrap_or_default() {
            _ = self.host.delete("pods", pod.name());
            _ = self.host.wait_for_gone(&pod);
        }
        *self.process() = None;
        for (plural, name) in self.made.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            _ = self.host.delete(plural, name);
            _ = self.host.delete("nodes", name);
        }
        for cluster in [&self.host, &self.east] {
            _ = cluster.delete("namespaces", &self.namespace);
        }
    }
}
