//! Keeping one node whenever its leadership is ours.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::unit::Unit;
use super::{NodeSetup, Shared, StartError};
use crate::errors::chain;

/// How long a node rests that could not be started, or was lost.
const REST: Duration = Duration::from_secs(1);

/// How long a node rests that failed for a reason that time does not cure.
const LONG_REST: Duration = Duration::from_secs(5);

/// Keeps a node until it is told to stop, whatever happens: one that fails harms no other.
pub(super) async fn keep_on(shared: Arc<Shared>, node: NodeSetup, listener: Arc<TcpListener>, stop: CancellationToken) {
    while let Err(error) = keep(shared.clone(), node.clone(), listener.clone(), stop.clone()).await {
        tracing::error!(node = node.name, error = chain(&error), "the node has failed; trying again");
        if stop.run_until_cancelled(tokio::time::sleep(LONG_REST)).await.is_none() {
            return;
        }
    }
}

/// Keeps one node whenever its leadership is ours.
pub(super) async fn keep(
    shared: Arc<Shared>,
    node: NodeSetup,
    listener: Arc<TcpListener>,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    while let Some(mut term) = shared.replica.claim(&node.name, &shutdown).await {
        let stop = shutdown.child_token();
        let unit = Unit::build(&shared, &node, &listener).await?;
        let running = tokio::spawn(unit.run(shared.setup.workers, stop.clone()));
        term.hold_while(running, &stop).await?;
        term.release().await;
        if !shutdown.is_cancelled() {
            tokio::time::sleep(REST).await;
        }
    }
    Ok(())
}
