//! One node on any provider, shared among replicas as every other.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::gauges::Leaders;
use super::ways::Ways;
use crate::api::clients::{self, Access, ClientsError};
use crate::kubelet::builder::{BuildError, NodeBuilder};
use crate::kubelet::node::{Connect, NodeError};
use crate::leader::Replica;
use crate::metrics::Metrics;
use crate::traces::Traces;

/// How long a node rests that was lost.
const REST: Duration = Duration::from_secs(1);

/// Why a node on another provider does not run.
#[derive(Debug, thiserror::Error)]
pub enum OtherError {
    /// There is no client for the node's lease.
    #[error("failed to build the client for the leases of the host")]
    BuildClient(#[from] ClientsError),
    /// The node has no parts.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The node cannot be kept.
    #[error(transparent)]
    KeepNode(#[from] NodeError),
}

/// Who shares the node.
pub struct Sharing {
    /// The namespace of the lease by which replicas share it.
    pub namespace: String,
    /// Which replica this is.
    pub identity: String,
}

/// Keeps the node `name` whenever its leadership is ours, until it is told to stop. `build` says how it is built.
///
/// # Errors
/// When something is wrong that time will not cure.
pub async fn keep_other(
    host: Access,
    client: Client,
    name: &str,
    sharing: Sharing,
    (metrics, traces): (&Metrics, Option<Traces>),
    build: impl Fn() -> NodeBuilder,
    shutdown: CancellationToken,
) -> Result<(), OtherError> {
    let replica = Replica::new(&host, &sharing.namespace, sharing.identity).await?;
    let ways = Ways::of(metrics, traces);
    metrics.register(Leaders(replica.clone()));
    while let Some(mut term) = replica.claim(name, &shutdown).await {
        let stop = shutdown.child_token();
        let node = build().observer(ways.clerk(name, name, &[String::new()]));
        let node = node.connections(client.clone(), lease_client(host.clone())).build().await?;
        let running = tokio::spawn(node.run(stop.clone()));
        term.hold_while(running, &stop).await?;
        term.release().await;
        if !shutdown.is_cancelled() {
            tokio::time::sleep(REST).await;
        }
    }
    Ok(())
}

/// What makes a client for the node's lease.
fn lease_client(host: Access) -> Connect {
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move { Ok(clients::streaming_client(&host).await?) })
    })
}
