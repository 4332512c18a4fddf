//! The node's Lease: a sign of life that nothing may delay.
//!
//! It has a thread, a runtime and a connection of its own, so that neither a flood of pods, nor a blocked worker, nor a
//! stuck request in the main runtime costs the node its lease. (KEP-589: 40 s, renewed every 10 s.)

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Connect;
use crate::errors::chain;

/// The namespace of all node leases.
const NAMESPACE: &str = "kube-node-lease";

/// How long a lease holds without renewal, in seconds.
const DURATION: i32 = 40;

/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(10);

/// How long one renewal may take: less than the time to the next.
const PATIENCE: Duration = Duration::from_secs(8);

/// After a failure the next attempt comes sooner.
const RETRY: Duration = Duration::from_secs(2);

/// Renews a lease until it is dropped.
pub struct LeaseThread {
    _stop: DropGuard,
}

impl LeaseThread {
    /// Starts to renew the lease of this node, which it belongs to by `node_uid`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(connect: Connect, node: String, node_uid: String) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::Builder::new().name("lease".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(node, %error, "failed to start the lease's runtime"),
            };
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = keep(&connect, &node, &node_uid) => {}
                }
            });
        })?;
        Ok(Self { _stop: stop.drop_guard() })
    }
}

async fn keep(connect: &Connect, node: &str, node_uid: &str) {
    let client: Client = loop {
        match connect().await {
            Ok(client) => break client,
            Err(error) => tracing::error!(node, error = chain(&*error), "failed to build the lease's client"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    // The object as the last write left it: renewed by PUT without a GET. `None` after a failure.
    let mut known: Option<Lease> = None;
    loop {
        let pause = match tokio::time::timeout(PATIENCE, renew(&leases, node, node_uid, known.take())).await {
            Ok(Ok(lease)) => {
                known = Some(lease);
                RENEWAL
            }
            Ok(Err(error)) => {
                tracing::warn!(node, %error, "the lease was not renewed; trying again");
                RETRY
            }
            Err(_) => {
                tracing::warn!(
                    node,
                    "the lease was not renewed: no answer within {} s; trying again",
                    PATIENCE.as_secs()
                );
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(leases: &Api<Lease>, node: &str, node_uid: &str, known: Option<Lease>) -> kube::Result<Lease> {
    let known = match known {
        Some(lease) => Some(lease),
        None => leases.get_opt(node).await?,
    };
    match known {
        Some(lease) => leases.replace(node, &PostParams::default(), &renewed(lease, node, node_uid, now())).await,
        None => leases.create(&PostParams::default(), &renewed(Lease::default(), node, node_uid, now())).await,
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// The lease with a new time; everything that it lacks is filled in.
fn renewed(lease: Lease, node: &str, node_uid: &str, now: MicroTime) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.into(),
        uid: node_uid.into(),
        ..OwnerReference::default()
    };
    Lease {
        metadata: ObjectMeta { name: Some(node.into()), owner_references: Some(vec![owner]), ..lease.metadata },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.into()),
            lease_duration_seconds: Some(DURATION),
            renew_time: Some(now),
            ..lease.spec.unwrap_or_default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_keeps_what_it_does_not_own() {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some("7".into());
        lease.spec = Some(LeaseSpec { lease_transitions: Some(3), ..LeaseSpec::default() });
        let renewed = renewed(lease, "east", "uid", now());
        assert_eq!(renewed.metadata.resource_version.as_deref(), Some("7"), "a PUT without it would overwrite");
        let spec = renewed.spec.unwrap();
        assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(3), Some(40)));
        assert_eq!(spec.holder_identity.as_deref(), Some("east"));
    }
}
