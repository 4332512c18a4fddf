//! From a [`Setup`] to running virtual nodes: the only place where the core, the provider and the servers meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::clients::{self, ClientsError};
use crate::api::target::{PodIps, TargetSpec};
use crate::api::virtual_node::Taint;
use crate::kubelet::events::Events;
use crate::kubelet::host::Host;
use crate::kubelet::node::{NodeController, NodeError, NodeIdentity};
use crate::kubelet::pods::PodController;
use crate::kubelet::server::{
    Authenticator, Authorizer, Bound, ClientTrust, Server, ServerError, ServingCertificate, TlsError, TrustError,
    server_config,
};
use crate::provider::feedback::Addresses;
use crate::provider::target::{TargetProvider, TargetSetup};

/// Everything that a run needs, resolved and checked. It has no `Debug` because that would show credentials.
#[derive(Clone)]
pub struct Setup {
    /// How to reach the host cluster.
    pub host: Config,
    /// Which cluster the host is, for ever: the UID of its namespace `kube-system`.
    pub host_id: String,
    /// The virtual nodes; at least one.
    pub nodes: Vec<NodeSetup>,
    /// The address of the virtual nodes.
    pub node_ip: IpAddr,
    /// The address on which the kubelet API listens.
    pub bind_address: IpAddr,
    /// How many pods are worked on at the same time.
    pub workers: usize,
}

/// One virtual node, resolved and checked. It has no `Debug` because that would show credentials.
#[derive(Clone)]
pub struct NodeSetup {
    /// Its name.
    pub name: String,
    /// The name of its target.
    pub target_name: String,
    /// What the user wants of its target.
    pub target_spec: TargetSpec,
    /// How to reach its target.
    pub target: Config,
    /// Labels that the user wants on the node, beside those that every node has.
    pub labels: BTreeMap<String, String>,
    /// All taints of the node.
    pub taints: Vec<Taint>,
    /// The port of its kubelet API, which no other node has.
    pub port: u16,
}

/// Why the virtual nodes do not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no client.
    #[error("failed to build the client for {what}")]
    BuildClient {
        /// For what.
        what: String,
        /// Why.
        #[source]
        source: ClientsError,
    },
    /// Nobody could be authenticated.
    #[error("failed to learn whom the kubelet API may trust")]
    LoadTrust(#[from] TrustError),
    /// The kubelet API has no certificate.
    #[error("failed to set up TLS for the kubelet API")]
    SetUpTls(#[from] TlsError),
    /// The kubelet API has no address.
    #[error(transparent)]
    Serve(#[from] ServerError),
    /// The node cannot be kept.
    #[error(transparent)]
    KeepNode(#[from] NodeError),
}

/// Runs all virtual nodes until it is told to stop; then every action that is under way is finished.
pub async fn start(setup: Setup, shutdown: CancellationToken) -> Result<(), StartError> {
    let host = client(&setup.host, "the host").await?;
    let trust = ClientTrust::load(&host).await?;
    let mut tasks: JoinSet<Result<(), StartError>> = JoinSet::new();
    // All ports first: one that is taken should stop the start before any node exists.
    let mut nodes = vec![];
    for node in &setup.nodes {
        nodes.push(prepare(&setup, node, &host, &trust).await?);
    }
    let (follow, follower, stop) = (trust.clone(), host.clone(), shutdown.clone());
    tasks.spawn(async move {
        follow.follow(follower, stop).await;
        Ok(())
    });
    for node in nodes {
        let (server, pods, keeper) = (node.server, node.pods, node.keeper);
        let (a, b, c) = (shutdown.clone(), shutdown.clone(), shutdown.clone());
        let workers = setup.workers;
        tasks.spawn(async move {
            server.serve(a).await;
            Ok(())
        });
        tasks.spawn(async move {
            pods.run(workers, b).await;
            Ok(())
        });
        tasks.spawn(async move { Ok(keeper.run(c).await?) });
    }
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let failed = match ended {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            // A bug: say where, and end the others in an orderly way.
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        shutdown.cancel();
        outcome = outcome.and(Err(failed));
    }
    outcome
}

/// The parts of one virtual node, ready to run.
struct Parts {
    server: Bound,
    pods: PodController,
    keeper: NodeController,
}

async fn prepare(
    setup: &Setup,
    node: &NodeSetup,
    host: &Client,
    trust: &Arc<ClientTrust>,
) -> Result<Parts, StartError> {
    let what = format!("target {}", node.target_name);
    let provider = Arc::new(TargetProvider::start(TargetSetup {
        name: node.target_name.clone(),
        client: client(&node.target, &what).await?,
        streaming: clients::streaming_client(&node.target)
            .await
            .map_err(|source| StartError::BuildClient { what, source })?,
        host_id: setup.host_id.clone(),
        node_name: node.name.clone(),
        node_labels: node.labels.clone(),
        create_namespaces: node.target_spec.namespaces.create,
        addresses: match node.target_spec.pod_ips {
            PodIps::Withhold => Addresses::Withhold,
            PodIps::Publish => Addresses::Publish,
        },
    }));
    let ip = setup.node_ip.to_string();
    let events = Events::start(host.clone(), &node.name);
    let pods = PodController::new(&node.name, &ip, Host::new(host.clone()), provider.clone(), events);

    let certificate = Arc::new(ServingCertificate::self_signed(&node.name, &[setup.node_ip])?);
    let tls = server_config(certificate, trust.clone())?;
    let authenticator = Authenticator::new(host.clone(), trust.clone());
    let authorizer = Authorizer::new(host.clone(), node.name.clone());
    let server = Server::new(provider.clone(), pods.table(), authenticator, authorizer, tls);
    let server = server.bind(SocketAddr::new(setup.bind_address, node.port)).await?;

    let identity = NodeIdentity {
        name: node.name.clone(),
        ip,
        port: node.port,
        labels: node.labels.clone(),
        taints: taints(&node.taints),
        silence: node.target_spec.heartbeat.timeout(),
    };
    let keeper = NodeController::new(identity, host.clone(), setup.host.clone(), provider);
    Ok(Parts { server, pods, keeper })
}

async fn client(config: &Config, what: &str) -> Result<Client, StartError> {
    clients::client(config).await.map_err(|source| StartError::BuildClient { what: what.into(), source })
}

fn taints(taints: &[Taint]) -> Vec<Value> {
    taints.iter().map(|taint| json!(taint)).collect()
}
