//! One cluster: what is remembered about it, and how it comes up.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::{self, Api},
    cgroup::Cgroup,
    control_plane::{self, API_SERVER, CONTROLLER_MANAGER, ETCD, SCHEDULER},
    files,
    name::ClusterName,
    network,
    node::{self, CONTAINERD, KUBE_PROXY, KUBELET},
    pki::{self, Pki},
    plan::Plan,
    process::{self, Processes, Spec},
    teardown,
    toolchain::Toolchain,
};

/// How long a cluster may take until it is usable. It takes a tenth of that, on two idle cores.
const PATIENCE: Duration = Duration::from_secs(120);

const CONTROL_PLANE: [&str; 4] = [ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER];
const NODE: [&str; 3] = [CONTAINERD, KUBELET, KUBE_PROXY];

/// Why a cluster is not up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The network could not be set up.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Certificates could not be made.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// A process could not be started, or died.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The node could not be set up.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// The API server cannot be asked.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// The remains of an earlier run could not be removed.
    #[error(transparent)]
    Teardown(#[from] teardown::Error),
    /// It took too long.
    #[error("still waiting for {what} after {} s; look at the logs in {}", PATIENCE.as_secs(), logs.display())]
    TimedOut {
        /// What is missing.
        what: &'static str,
        /// Where the processes log to.
        logs: PathBuf,
    },
}

/// What is remembered on disk about a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) index: u8,
    /// Whether there is a kubelet, with containerd and kube-proxy.
    pub(crate) kubelet: bool,
    pub(crate) api_server_args: Vec<String>,
    #[serde(default)]
    pub(crate) controller_manager_args: Vec<String>,
    /// The boot in which network, certificates and configuration were completed; they do not outlive it.
    #[serde(default)]
    pub(crate) prepared_in_boot: Option<String>,
}

/// A cluster, running or not.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    plan: Plan,
    dir: PathBuf,
    record: Record,
}

impl Cluster {
    /// Loads a cluster by its name; `None` if there is none.
    pub(crate) fn load(state: &Path, name: &ClusterName) -> Result<Option<Self>, files::Error> {
        let dir = state.join(name.as_str());
        let record: Option<Record> = files::read_json(&record_path(&dir))?;
        Ok(record.map(|record| Self { plan: Plan::new(name.clone(), record.index), dir, record }))
    }

    /// Remembers a cluster; nothing runs yet.
    pub(crate) fn save(state: &Path, name: &ClusterName, record: Record) -> Result<Self, files::Error> {
        let cluster = Self { plan: Plan::new(name.clone(), record.index), dir: state.join(name.as_str()), record };
        cluster.save_record()?;
        Ok(cluster)
    }

    fn save_record(&self) -> Result<(), files::Error> {
        files::create_private_dir(&self.dir)?;
        files::write_json(&record_path(&self.dir), &self.record)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    pub(crate) fn pki(&self) -> Pki {
        Pki::new(self.dir.join("pki"))
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        Cgroup::new(self.plan.scope())
    }

    pub(crate) fn processes(&self) -> Processes {
        Processes::new(&self.dir, self.cgroup())
    }

    /// The kubeconfig of one of the cluster's users, who are named as their certificates.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join(format!("{user}.kubeconfig"))
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    pub(crate) fn api(&self) -> Result<Api, api::Error> {
        Api::new(&self.plan, &self.pki())
    }

    /// Names of the processes that the cluster consists of.
    pub(crate) fn components(&self) -> Vec<&'static str> {
        let node = if self.record.kubelet { &NODE[..] } else { &[] };
        [&CONTROL_PLANE[..], node].concat()
    }

    /// A process in the cluster's network.
    pub(crate) fn spec(&self, name: &str, program: PathBuf, args: impl IntoIterator<Item = String>) -> Spec {
        Spec {
            name: name.to_owned(),
            program,
            args: args.into_iter().map(Into::into).collect(),
            env: [].into(),
            network_namespace: self.plan.network_namespace(),
            mount_namespace: None,
        }
    }

    /// Brings the cluster up, or repairs it: what runs as wanted stays, what died is started again, and what cannot be
    /// repaired is removed first. `images` are references and archives to load.
    pub(crate) fn up(&mut self, toolchain: &Toolchain, images: &[(&str, PathBuf)]) -> Result<(), Error> {
        if !self.is_prepared() {
            self.prepare()?;
        }
        // Cheap, and somebody may have tidied up an empty one.
        self.cgroup().create()?;
        if network::is_cut(&self.plan) {
            network::switch(&self.plan, true)?;
        }
        let processes = self.processes();
        processes.ensure(control_plane::etcd(self, toolchain))?;
        processes.ensure(control_plane::api_server(self, toolchain, &self.record.api_server_args))?;
        if self.record.kubelet {
            processes.ensure(node::containerd(self))?;
            // While the API server starts.
            node::load_missing(self, images)?;
        }
        let api = self.api()?;
        self.wait_for("the API server", &[ETCD, API_SERVER], || api.is_ready())?;
        processes.ensure(control_plane::controller_manager(self, toolchain, &self.record.controller_manager_args))?;
        processes.ensure(control_plane::scheduler(self, toolchain))?;
        if self.record.kubelet {
            processes.ensure(node::kubelet(self, toolchain))?;
            processes.ensure(node::kube_proxy(self, toolchain))?;
            let path = format!("/api/v1/nodes/{}", self.plan.node());
            self.wait_for("the node", &self.components(), || api.json(&path).is_ok_and(|node| is_node_ready(&node)))?;
            // A kubelet that was started again inherits the readiness of the last one, but not its pods.
            let known = format!("{path}/proxy/pods");
            let bound = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.plan.node());
            self.wait_for("the kubelet to know its pods", &self.components(), || {
                let count = |path: &str| Some(api.json(path).ok()?["items"].as_array().map_or(0, Vec::len));
                matches!((count(&known), count(&bound)), (Some(known), Some(bound)) if known >= bound)
            })?;
        }
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        self.wait_for("the default service account", &self.components(), || api.exists(account))
    }

    fn is_prepared(&self) -> bool {
        self.record.prepared_in_boot.as_deref() == Some(&process::boot_id())
            && network::is_connected(&self.plan)
            && (!self.record.kubelet || node::has_mount_namespace(self))
    }

    /// Makes everything that is not a process, on clean ground.
    fn prepare(&mut self) -> Result<(), Error> {
        // A control plane that got a kubelet later keeps its data.
        let only_node_missing = self.record.prepared_in_boot.as_deref() == Some(&process::boot_id())
            && network::is_connected(&self.plan)
            && !self.processes().names()?.iter().any(|name| NODE.contains(&name.as_str()));
        if !only_node_missing {
            teardown::remove(self)?;
            self.record.prepared_in_boot = None;
            self.save_record()?;
            network::connect(&self.plan)?;
            self.pki().create(&self.plan)?;
            control_plane::configure(self)?;
        }
        if self.record.kubelet {
            node::configure(self)?;
        }
        self.record.prepared_in_boot = Some(process::boot_id());
        Ok(self.save_record()?)
    }

    fn wait_for(&self, what: &'static str, alive: &[&str], done: impl Fn() -> bool) -> Result<(), Error> {
        let end = Instant::now() + PATIENCE;
        while !done() {
            self.processes().check(alive)?;
            if Instant::now() > end {
                return Err(Error::TimedOut { what, logs: self.dir.join("log") });
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Whether a Node object has the condition Ready.
pub(crate) fn is_node_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

fn record_path(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_ready_by_its_condition() {
        let node = |status| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        assert!(is_node_ready(&node("True")));
        assert!(!is_node_ready(&node("Unknown")));
        assert!(!is_node_ready(&json!({})));
    }

    #[test]
    fn a_cluster_is_remembered() {
        let state = tempfile::tempdir().unwrap();
        let name: ClusterName = "east".parse().unwrap();
        assert!(Cluster::load(state.path(), &name).unwrap().is_none());
        let record = Record {
            index: 3,
            kubelet: false,
            api_server_args: vec!["--v=2".into()],
            controller_manager_args: vec!["--v=3".into()],
            prepared_in_boot: None,
        };
        Cluster::save(state.path(), &name, record.clone()).unwrap();
        let cluster = Cluster::load(state.path(), &name).unwrap().unwrap();
        assert_eq!(cluster.record(), &record);
        assert_eq!(cluster.components(), CONTROL_PLANE);
    }
}
