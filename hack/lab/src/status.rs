//! How a cluster does.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::Serialize;

use crate::{
    cluster::{Cluster, is_node_ready},
    files, network,
};

/// How a cluster does, as seen from the root network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// Address of its API server and node.
    pub ip: Ipv4Addr,
    /// Whether its link is cut.
    pub cut: bool,
    /// Whether the API server answers that it is ready.
    pub api_ready: bool,
    /// Whether the real node is ready; none if the cluster has none, or if its API server does not answer.
    pub node_ready: Option<bool>,
    /// How many pods there are; none if the API server does not answer.
    pub pods: Option<usize>,
    /// For each process, whether it runs; also for those that were started beside the cluster's own.
    pub processes: BTreeMap<String, bool>,
    /// Whether all processes run, the API server is ready, and so is the node if there is one.
    pub healthy: bool,
}

pub(crate) fn of(cluster: &Cluster) -> Result<ClusterStatus, files::Error> {
    let plan = cluster.plan();
    let processes = cluster.processes();
    let mut running = BTreeMap::new();
    for name in cluster.components() {
        running.insert(name.to_owned(), processes.is_running(name)?);
    }
    for name in processes.names()? {
        running.insert(name.clone(), processes.is_running(&name)?);
    }
    let api = cluster.api().ok().filter(crate::api::Api::is_ready);
    let get = |path: &str| api.as_ref().and_then(|api| api.json(path).ok());
    let node = if cluster.record().kubelet { get(&format!("/api/v1/nodes/{}", plan.node())) } else { None };
    let node_ready = node.as_ref().map(is_node_ready);
    let pods = get("/api/v1/pods").and_then(|list| Some(list["items"].as_array()?.len()));
    let node_fine = !cluster.record().kubelet || node_ready == Some(true);
    Ok(ClusterStatus {
        name: plan.name().to_string(),
        ip: plan.ip(),
        cut: network::is_cut(plan),
        api_ready: api.is_some(),
        node_ready,
        pods,
        healthy: api.is_some() && node_fine && running.values().all(|runs| *runs),
        processes: running,
    })
}
