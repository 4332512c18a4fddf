//! One virtual node with all that runs for it, from the beginning of a leadership to its end.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{NodeSetup, Shared, StartError, client};
use crate::api::clients;
use crate::api::target::PodIps;
use crate::api::virtual_node::Taint;
use crate::kubelet::contact::{self, Contact};
use crate::kubelet::events::Events;
use crate::kubelet::host::Host;
use crate::kubelet::node::{NodeController, NodeIdentity};
use crate::kubelet::pods::PodController;
use crate::kubelet::provider::{NodeProvider, Provider};
use crate::kubelet::server::{Authenticator, Authorizer, Server, ServingCertificate, server_config};
use crate::kubelet::sites::{SiteStreams, Sites};
use crate::provider::feedback::Addresses;
use crate::provider::target::{TargetProvider, TargetSetup};

/// The parts of one virtual node, ready to run.
pub(super) struct Unit {
    server: Server,
    listener: Arc<TcpListener>,
    pods: PodController,
    keeper: NodeController,
    provider: Arc<dyn Provider>,
    contact: watch::Sender<Contact>,
    silence: std::time::Duration,
}

impl Unit {
    /// Makes the parts. Nothing is written to the host before [`Unit::run`].
    pub(super) async fn build(
        shared: &Shared,
        node: &NodeSetup,
        listener: &Arc<TcpListener>,
    ) -> Result<Self, StartError> {
        let (setup, host) = (&shared.setup, &shared.host);
        let provider = target(shared, node).await?;
        let ip = setup.node_ip.to_string();
        let events = Events::start(host.clone(), &node.name);
        let partition = node.target_spec.partition.policy();
        let sites = Sites::one(provider.clone());
        let partitions = vec![partition];
        let pods =
            PodController::new(&node.name, &ip, Host::new(host.clone()), sites.clone(), events, partitions, false);

        let certificate = Arc::new(ServingCertificate::self_signed(&node.name, &[setup.node_ip])?);
        let tls = server_config(certificate, shared.trust.clone())?;
        let authenticator = Authenticator::new(host.clone(), shared.trust.clone());
        let authorizer = Authorizer::new(host.clone(), node.name.clone());
        let server =
            Server::new(Arc::new(SiteStreams::new(sites, pods.table())), pods.table(), authenticator, authorizer, tls);

        let identity = NodeIdentity {
            name: node.name.clone(),
            ip,
            port: node.port,
            labels: node.labels.clone(),
            taints: taints(&node.taints),
        };
        let contact = watch::Sender::default();
        let status: Arc<dyn NodeProvider> = provider.clone();
        let keeper = NodeController::new(identity, host.clone(), setup.host.clone(), status, contact.subscribe());
        let silence = node.target_spec.heartbeat.timeout();
        Ok(Self { server, listener: listener.clone(), pods, keeper, provider, contact, silence })
    }

    /// Runs until it is told to stop, or one of the parts fails; then every action that is under way is finished.
    pub(super) async fn run(self, workers: usize, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { server, listener, pods, keeper, provider, contact, silence } = self;
        let mut tasks: JoinSet<Result<(), StartError>> = JoinSet::new();
        let stop = || shutdown.clone();
        let (a, b, c, d) = (stop(), stop(), stop(), stop());
        let heard = contact.subscribe();
        // The server first: the Node names its address as soon as it is kept.
        tasks.spawn(async move {
            server.serve(listener, a).await;
            Ok(())
        });
        tasks.spawn(async move {
            pods.run(workers, vec![heard], b).await;
            Ok(())
        });
        tasks.spawn(async move {
            contact::keep(provider, silence, contact, c).await;
            Ok(())
        });
        tasks.spawn(async move { Ok(keeper.run(d).await?) });
        let mut outcome = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let failed = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            };
            shutdown.cancel();
            outcome = outcome.and(Err(failed));
        }
        outcome
    }
}

/// The Kubernetes provider of a node.
async fn target(shared: &Shared, node: &NodeSetup) -> Result<Arc<TargetProvider>, StartError> {
    let what = format!("target {}", node.target_name);
    Ok(Arc::new(TargetProvider::start(TargetSetup {
        name: node.target_name.clone(),
        client: client(&node.target, &what).await?,
        streaming: clients::streaming_client(&node.target)
            .await
            .map_err(|source| StartError::BuildClient { what, source })?,
        host_id: shared.setup.host_id.clone(),
        node_name: node.name.clone(),
        node_labels: node.labels.clone(),
        create_namespaces: node.target_spec.namespaces.create,
        addresses: match node.target_spec.pod_ips {
            PodIps::Withhold => Addresses::Withhold,
            PodIps::Publish => Addresses::Publish,
        },
    })))
}

fn taints(taints: &[Taint]) -> Vec<Value> {
    taints.iter().map(|taint| json!(taint)).collect()
}
