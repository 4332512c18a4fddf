//! From a [`Setup`] to running virtual nodes: the only place where the core, the provider and the servers meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admission::roster::{Place, Roster};
use crate::admission::{AdmissionError, AdmissionSetup, Surroundings, Webhook};
use crate::api::clients::{self, Access, ClientsError, Link};
use crate::api::profile::Programs;
use crate::api::target::TargetSpec;
use crate::api::virtual_node::{Placement, Shape, Taint};
use crate::kubelet::certificate::{CertificateError, CertificateSource};
use crate::kubelet::host::Host;
use crate::kubelet::node::NodeError;
use crate::kubelet::server::{ClientTrust, ServerError, TlsError, TrustError};
use crate::leader::Replica;
use crate::metrics::Metrics;
use crate::provider::part::Part;
use crate::traces::Traces;

mod board;
pub(crate) mod drain;
mod gauges;
mod handover;
mod keeper;
pub mod node_ip;
mod other;
mod parts;
mod plan;
mod resources;
pub(crate) mod rules;
mod targets;
mod unit;
mod verdict;
mod watches;
mod ways;

use board::Board;
use gauges::{Gauges, Leaders};
use keeper::{CertificateSlot, keep};
pub use other::{OtherError, Sharing, keep_other};
use ways::Ways;

/// Everything that a run needs, resolved and checked. It has no `Debug` because that would show credentials.
#[derive(Clone)]
pub struct Setup {
    /// How to reach the host cluster.
    pub host: Access,
    /// Which cluster the host is, for ever: the UID of its namespace `kube-system`.
    pub host_id: String,
    /// The virtual nodes of a configuration file; none where the resources of the host are served.
    pub nodes: Vec<NodeSetup>,
    /// Which resources of the host are served, instead of a file.
    pub watch: Option<WatchSetup>,
    /// The address of the virtual nodes.
    pub node_ip: IpAddr,
    /// The address was found, not given: it is found again when this machine gets another one.
    pub follow_address: bool,
    /// Where the serving certificates of the kubelet API come from.
    pub certificate: CertificateSource,
    /// The address on which the kubelet API listens.
    pub bind_address: IpAddr,
    /// How many pods of each target are worked on at the same time.
    pub workers: usize,
    /// Pods on both sides are listed anew after this long; `None` means never.
    pub relist_after: Option<Duration>,
    /// The namespace of the leases by which replicas share the nodes.
    pub lease_namespace: String,
    /// Which replica this is: no two that run at the same time have the same, and one that is restarted in its place keeps
    /// it.
    pub identity: String,
    /// The webhook for pods that ask to be offloaded, if there is one.
    pub admission: Option<AdmissionSetup>,
    /// What is told to Prometheus.
    pub metrics: Metrics,
    /// Where traces of pods go, if anywhere.
    pub traces: Option<Traces>,
}

/// Which resources of the host are served.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchSetup {
    /// A label selector; empty for all.
    pub selector: String,
    /// The port of the first node's kubelet API.
    pub first_port: u16,
    /// Programs that may get credentials for ClusterProfiles.
    pub programs: Arc<Programs>,
}

/// One virtual node, resolved and checked. It has no `Debug` because that would show credentials.
#[derive(Clone)]
pub struct NodeSetup {
    /// Its name.
    pub name: String,
    /// Its targets; at least one.
    pub targets: Vec<NodeTarget>,
    /// Its pods say which target they are in, even if there is one now.
    pub several: bool,
    /// What it stands for: with another shape than `Cluster` it is many nodes.
    pub shape: Shape,
    /// See [`VirtualNodeSpec::pool_label`](crate::api::virtual_node::VirtualNodeSpec::pool_label).
    pub pool_label: Option<String>,
    /// The VirtualNode of which this node stands for a part, and which part; `None` for one that stands for all.
    pub part: Option<(String, Part)>,
    /// Which of several targets gets a pod.
    pub placement: Placement,
    /// Labels that the user wants on the node, beside those that every node has.
    pub labels: BTreeMap<String, String>,
    /// All taints of the node.
    pub taints: Vec<Taint>,
    /// The port of its kubelet API, which no other node has.
    pub port: u16,
    /// The claims of its pods are kept in its targets.
    pub claims: bool,
    /// Services and Ingresses that say so follow its pods.
    pub services: bool,
}

/// A target of a virtual node. It has no `Debug` because that would show credentials.
#[derive(Clone)]
pub struct NodeTarget {
    /// Its name.
    pub name: String,
    /// What the user wants of it.
    pub spec: TargetSpec,
    /// How to reach it.
    pub config: Access,
    /// Clients that are there already, whose credentials somebody exchanges. Without, clients follow what [`Self::config`] was
    /// read from.
    pub link: Option<Link>,
    /// It takes no new pods.
    pub leaving: bool,
    /// Its weight among the targets of this node.
    pub weight: u32,
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
    /// The kubelet API has no certificate to show.
    #[error("failed to find a serving certificate for the kubelet API")]
    FindCertificate(#[from] CertificateError),
    /// The kubelet API has no address.
    #[error(transparent)]
    Serve(#[from] ServerError),
    /// The node cannot be kept.
    #[error(transparent)]
    KeepNode(#[from] NodeError),
    /// There is no webhook.
    #[error(transparent)]
    Admit(#[from] AdmissionError),
}

/// What all virtual nodes of a process share.
struct Shared {
    setup: Setup,
    host: Client,
    /// The address of the virtual nodes.
    address: watch::Receiver<IpAddr>,
    /// The host as pods and providers see it; its watches are shared.
    view: Host,
    trust: Arc<ClientTrust>,
    replica: Replica,
    board: Board,
    ways: Ways,
    /// The process is told to end.
    ending: CancellationToken,
    /// Where pods may be sent to; `None` as long as that is not known.
    roster: watch::Sender<Option<Arc<Roster>>>,
}

/// Runs all virtual nodes until it is told to stop; then every action that is under way is finished.
///
/// A node runs where its lease is held. Losing the lease ends what runs for the node and nothing else.
///
/// # Errors
/// When something is wrong that time will not cure.
pub async fn start(mut setup: Setup, shutdown: CancellationToken) -> Result<(), StartError> {
    let host = client(&setup.host, "the host").await?;
    let trust = ClientTrust::load(&host).await?;
    let replica = Replica::new(&setup.host, &setup.lease_namespace, setup.identity.clone())
        .await
        .map_err(|source| StartError::BuildClient { what: "the leases of the host".into(), source })?;
    // All ports first: one that is taken should stop the start before any node exists.
    let mut nodes = vec![];
    for node in &setup.nodes {
        let address = SocketAddr::new(setup.bind_address, node.port);
        let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })?;
        nodes.push((node.clone(), Arc::new(listener)));
    }
    let webhook = match setup.admission.take() {
        Some(admission) => Some(Webhook::bind(admission).await?),
        None => None,
    };
    let (watch, view) = (setup.watch.take(), Host::new(host.clone()));
    let roster = watch::Sender::new(watch.is_none().then(|| Arc::new(roster(&setup.nodes))));
    let (mover, address) = watch::channel(setup.node_ip);
    let (board, ways) = (Board::default(), Ways::of(&setup.metrics, setup.traces.clone()));
    setup.metrics.register(Leaders(replica.clone()));
    setup.metrics.register(Gauges(board.clone()));
    let shared =
        Arc::new(Shared { setup, host, address, view, trust, replica, board, ways, ending: shutdown.clone(), roster });
    let mut tasks: JoinSet<Result<(), StartError>> = JoinSet::new();
    if shared.setup.follow_address {
        let (server, stop) = (shared.setup.host.cluster_url.clone(), shutdown.clone());
        tasks.spawn(async move {
            node_ip::follow(&server, mover, stop).await;
            Ok(())
        });
    }
    if let Some(webhook) = webhook {
        let with = Surroundings {
            host: shared.host.clone(),
            replica: shared.replica.clone(),
            identity: shared.setup.identity.clone(),
            roster: shared.roster.subscribe(),
            relist_after: shared.setup.relist_after,
        };
        let stop = shutdown.clone();
        tasks.spawn(async move {
            webhook.run(with, stop).await;
            Ok(())
        });
    }
    let (follow, follower, stop) = (shared.trust.clone(), shared.host.clone(), shutdown.clone());
    tasks.spawn(async move {
        follow.follow(follower, stop).await;
        Ok(())
    });
    if let Some(watch) = watch {
        let (shared, stop) = (shared.clone(), shutdown.clone());
        tasks.spawn(async move {
            resources::serve(shared, watch, stop).await;
            Ok(())
        });
    }
    for (node, listener) in nodes {
        if node.shape != Shape::Cluster {
            let (shared, stop) = (shared.clone(), shutdown.clone());
            tasks.spawn(async move {
                parts::keep(shared, node, stop).await;
                Ok(())
            });
            continue;
        }
        tasks.spawn(keep(shared.clone(), node, listener, CertificateSlot::default(), shutdown.clone()));
    }
    crate::kubelet::tasks::all(tasks, &shutdown).await
}

/// Where pods may be sent to, of a file.
fn roster(nodes: &[NodeSetup]) -> Roster {
    let place = |node: &NodeSetup| Place {
        node: node.name.clone(),
        targets: node.targets.iter().map(|target| target.name.clone()).collect(),
        devices: node.targets.iter().filter(|one| one.spec.gives_devices()).map(|one| one.name.clone()).collect(),
        taints: node.taints.clone(),
    };
    Roster::new(nodes.iter().map(place).collect())
}

async fn client(access: &Access, what: &str) -> Result<Client, StartError> {
    clients::client(access).await.map_err(|source| StartError::BuildClient { what: what.into(), source })
}
