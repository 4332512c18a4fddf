//! Keeping one node whenever its leadership is ours.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::handover::handed_over;
use super::unit::Unit;
use super::{NodeSetup, Shared, StartError};
use crate::errors::chain;
use crate::kubelet::certificate::{Certificate, CertificateError, KeptCertificate};

/// How long a node rests that could not be started, or was lost.
const REST: Duration = Duration::from_secs(1);

/// How long a node rests that failed for a reason that time does not cure.
const LONG_REST: Duration = Duration::from_secs(5);

/// How long a replica waits for a serving certificate before it takes the node without: less than the node may be silent, and
/// more than a program takes that approves.
const CERTIFICATE: Duration = Duration::from_secs(15);

/// The serving certificate of one node in this replica. It outlives terms of leadership, and what the node is made of.
#[derive(Clone, Default)]
pub(super) struct CertificateSlot(Arc<Mutex<Option<AtAddress>>>);

/// A certificate, and the address that it names.
type AtAddress = (IpAddr, Arc<KeptCertificate>);

impl CertificateSlot {
    fn at(&self, shared: &Shared, node: &str, address: IpAddr) -> Result<Arc<KeptCertificate>, CertificateError> {
        // Nothing waits while this is held, and no code panics.
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some((known, kept)) if *known == address => Ok(kept.clone()),
            _ => {
                let made = Certificate::load(shared.setup.certificate.clone(), node, address)?;
                let kept = Arc::new(made.keep(shared.host.clone()));
                *slot = Some((address, kept.clone()));
                Ok(kept)
            }
        }
    }
}

/// Keeps a node until it is told to stop, whatever happens: one that fails harms no other.
pub(super) async fn keep_on(
    shared: Arc<Shared>,
    node: NodeSetup,
    listener: Arc<TcpListener>,
    certificate: CertificateSlot,
    stop: CancellationToken,
) {
    while let Err(error) = keep(shared.clone(), node.clone(), listener.clone(), certificate.clone(), stop.clone()).await
    {
        tracing::error!(node = node.name, error = chain(&error), "the node has failed; trying again");
        if stop.run_until_cancelled(tokio::time::sleep(LONG_REST)).await.is_none() {
            return;
        }
    }
}

/// Keeps one node whenever its leadership is ours. When this machine gets another address, the node ends here and begins anew
/// with that.
pub(super) async fn keep(
    shared: Arc<Shared>,
    node: NodeSetup,
    listener: Arc<TcpListener>,
    certificate: CertificateSlot,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let mut addresses = shared.address.clone();
    while !shutdown.is_cancelled() {
        let address = *addresses.borrow_and_update();
        let here = shutdown.child_token();
        let certificate = certificate.at(&shared, &node.name, address)?;
        let moved = async {
            if addresses.changed().await.is_err() {
                // Nobody follows it.
                std::future::pending::<()>().await;
            }
            here.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            kept = keep_here(&shared, &node, address, &listener, &certificate, &here) => kept?,
            () = moved => {}
        }
    }
    Ok(())
}

/// The same, at one address.
async fn keep_here(
    shared: &Shared,
    node: &NodeSetup,
    address: IpAddr,
    listener: &Arc<TcpListener>,
    certificate: &KeptCertificate,
    shutdown: &CancellationToken,
) -> Result<(), StartError> {
    // Before the leadership: a replica that waits for it is ready when it comes, and the Node never names an address where
    // there is no certificate yet.
    if shutdown.run_until_cancelled(certificate.ready(CERTIFICATE)).await == Some(false) {
        tracing::warn!(node = node.name, "there is no serving certificate of the host yet; a self-signed one is shown");
    }
    while let Some(mut term) = shared.replica.claim(&node.name, shutdown).await {
        let stop = shutdown.child_token();
        let (unit, server) = Unit::build(shared, node, address, certificate.serving()).await?;
        // The server first: the Node names its address as soon as it is kept.
        let leaving = CancellationToken::new();
        let serving = tokio::spawn(server.serve(listener.clone(), leaving.clone()));
        let running = tokio::spawn(unit.run(shared.setup.workers, stop.clone()));
        let ran = term.hold_while(running, &stop).await;
        term.release().await;
        if shared.ending.is_cancelled() {
            handed_over(&shared.host, &shared.replica, &node.name, address, node.port).await;
        }
        leaving.cancel();
        serving.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        ran?;
        if !shutdown.is_cancelled() {
            tokio::time::sleep(REST).await;
        }
    }
    Ok(())
}
