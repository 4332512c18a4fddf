//! From a provider to a running node: the core as a library.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use longshore::kubelet::builder::NodeBuilder;
//! use longshore::memory::Memory;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
//! let host = kube::Config::infer().await?;
//! let node = NodeBuilder::new("lake", host, Arc::new(Memory::new()))
//!     .address("192.0.2.7".parse()?, 10250)
//!     .label("topology.kubernetes.io/zone", "shore")
//!     .build()
//!     .await?;
//! let stop = CancellationToken::new();
//! node.run(stop.clone()).await?;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::certificate::{Certificate, CertificateError, CertificateSource};
use super::contact::{self, Contact};
use super::events::Events;
use super::host::Host;
use super::node::{Connect, NodeController, NodeError, NodeIdentity};
use super::partition::Policy;
use super::pods::{PodController, PodSetup};
use super::provider::{NodeProvider, Provider};
use super::server::{
    Authenticator, Authorizer, ClientTrust, Home, Server, ServerError, TlsError, TrustError, server_config,
};
use super::sites::{SiteStreams, Sites};
use super::way::Observer;

/// How many pods are worked on at the same time.
const WORKERS: usize = 32;

/// How long the provider may be silent before the node turns NotReady.
const SILENCE: Duration = Duration::from_secs(40);

/// After how long the host's pods are listed anew.
const RELIST: Duration = Duration::from_secs(1800);

/// How long a connection to the host may be silent in the middle of an answer. Watches have a bookmark every minute.
const READ: Duration = Duration::from_secs(150);

/// How long the node waits for a certificate that the host has to sign, before it is registered with another one.
const CERTIFICATE: Duration = Duration::from_secs(15);

/// Why a node cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no client for the host.
    #[error("failed to build a client for the host")]
    BuildClient(#[source] Box<kube::Error>),
    /// Nobody could be authenticated.
    #[error("failed to learn whom the kubelet API may trust")]
    LoadTrust(#[from] TrustError),
    /// The kubelet API has no certificate.
    #[error("failed to set up TLS for the kubelet API")]
    SetUpTls(#[from] TlsError),
    /// There is no certificate to show.
    #[error("failed to find a serving certificate for the kubelet API")]
    FindCertificate(#[from] CertificateError),
    /// The kubelet API has no address.
    #[error(transparent)]
    Serve(#[from] ServerError),
}

/// Builds one node on one provider.
pub struct NodeBuilder {
    name: String,
    config: Config,
    connections: Option<(Client, Connect)>,
    provider: Arc<dyn Provider>,
    ip: IpAddr,
    port: u16,
    bind: IpAddr,
    labels: BTreeMap<String, String>,
    taints: Vec<Value>,
    workers: usize,
    silence: Duration,
    partition: Policy,
    relist_after: Option<Duration>,
    certificate: CertificateSource,
    observer: Option<Arc<dyn Observer>>,
}

impl NodeBuilder {
    /// A node of this name in the cluster of `host`, whose pods `provider` runs. It has the taint
    /// `longshore.dev/virtual-node=NAME:NoSchedule`, as every virtual node, and its API is at port 10250 of this machine's loopback.
    pub fn new(name: impl Into<String>, host: Config, provider: Arc<dyn Provider>) -> Self {
        let name = name.into();
        Self {
            taints: vec![json!({"key": "longshore.dev/virtual-node", "value": name, "effect": "NoSchedule"})],
            name,
            config: host,
            connections: None,
            provider,
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 10250,
            bind: Ipv4Addr::UNSPECIFIED.into(),
            labels: BTreeMap::new(),
            workers: WORKERS,
            silence: SILENCE,
            partition: Policy::Wait,
            relist_after: Some(RELIST),
            certificate: CertificateSource::default(),
            observer: None,
        }
    }

    /// Where the host's API server reaches the kubelet API. Without an address that it reaches, all goes well but logs, exec
    /// and whatever else goes through the API server. Port 0 takes any that is free.
    #[must_use]
    pub fn address(mut self, ip: IpAddr, port: u16) -> Self {
        (self.ip, self.port) = (ip, port);
        self
    }

    /// The address on which the kubelet API listens; all of this machine by default.
    #[must_use]
    pub fn bind(mut self, ip: IpAddr) -> Self {
        self.bind = ip;
        self
    }

    /// A label of the node, beside those of every node; it wins over the provider's.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// All taints of the node, as in `v1.Taint`; none is a valid choice.
    #[must_use]
    pub fn taints(mut self, taints: Vec<Value>) -> Self {
        self.taints = taints;
        self
    }

    /// How many pods are worked on at the same time; 32 by default.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How long the provider may be silent before the node turns NotReady, 40 s by default, and what becomes of its pods then.
    #[must_use]
    pub fn silence(mut self, silence: Duration, partition: Policy) -> Self {
        (self.silence, self.partition) = (silence, partition);
        self
    }

    /// After how long the host's pods are listed anew, in case that an event was lost; half an hour by default.
    #[must_use]
    pub fn relist_after(mut self, relist_after: Option<Duration>) -> Self {
        self.relist_after = relist_after;
        self
    }

    /// Where the serving certificate of the kubelet API comes from; it signs itself by default.
    #[must_use]
    pub fn certificate(mut self, source: CertificateSource) -> Self {
        self.certificate = source;
        self
    }

    /// Who is told of each step of a pod, as for metrics.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Clients for the host that are there already, instead of those that would be made of the configuration; `lease` makes
    /// the one for the node's lease.
    #[must_use]
    pub fn connections(mut self, client: Client, lease: Connect) -> Self {
        self.connections = Some((client, lease));
        self
    }

    /// Reads whom the API may trust, and listens. Nothing is written to the host before [`VirtualNode::run`].
    ///
    /// # Errors
    /// When something is missing that time alone does not bring.
    pub async fn build(self) -> Result<VirtualNode, BuildError> {
        // Fails only if the process has one already, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (client, lease) = match self.connections {
            Some(connections) => connections,
            None => connect(self.config).map_err(|error| BuildError::BuildClient(Box::new(error)))?,
        };
        let trust = ClientTrust::load(&client).await?;
        let address = SocketAddr::new(self.bind, self.port);
        let failed = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();

        let (ip, sites) = (self.ip.to_string(), Sites::one("", self.provider.clone()));
        let pods = PodController::new(PodSetup {
            node: self.name.clone(),
            node_ip: ip.clone(),
            host: Host::new(client.clone()),
            sites: sites.clone(),
            events: Events::start(client.clone(), &self.name),
            partitions: vec![self.partition],
            unsure: false,
            relist_after: self.relist_after,
            move_after: None,
            evict_after: None,
            observer: self.observer,
        });
        let certificate = Certificate::load(self.certificate, &self.name, self.ip)?;
        let tls = server_config(certificate.serving(), trust.clone())?;
        let authenticator = Authenticator::new(client.clone(), trust.clone());
        let authorizer = Authorizer::new(client.clone(), self.name.clone());
        let streams = Arc::new(SiteStreams::new(sites, pods.table()));
        let home = Home { node: self.name.clone(), host: client.clone(), port };
        let server = Server::new(home, streams, pods.table(), authenticator, authorizer, tls);
        let identity = NodeIdentity {
            name: self.name,
            ip,
            port,
            labels: self.labels,
            taints: self.taints,
            choice: false,
            annotations: BTreeMap::new(),
        };
        let contact = watch::Sender::default();
        let keeper = NodeController::new(identity, client.clone(), lease, self.provider.clone(), contact.subscribe());
        let (provider, workers, silence) = (self.provider, self.workers, self.silence);
        let listener = Arc::new(listener);
        Ok(VirtualNode {
            client,
            trust,
            certificate,
            server,
            listener,
            pods,
            keeper,
            provider,
            contact,
            workers,
            silence,
        })
    }
}

/// A client for requests and watches, and one for the lease, which repeats no request.
fn connect(mut config: Config) -> Result<(Client, Connect), kube::Error> {
    let mut lease = config.clone();
    lease.default_retry = false;
    config.read_timeout = Some(READ);
    let client = Client::try_from(config)?;
    let lease: Connect = Arc::new(move || {
        let config = lease.clone();
        Box::pin(async move { Ok(Client::try_from(config)?) })
    });
    Ok((client, lease))
}

/// A node that is ready to run.
pub struct VirtualNode {
    client: Client,
    trust: Arc<ClientTrust>,
    certificate: Certificate,
    server: Server,
    listener: Arc<TcpListener>,
    pods: PodController,
    keeper: NodeController,
    provider: Arc<dyn NodeProvider>,
    contact: watch::Sender<Contact>,
    workers: usize,
    silence: Duration,
}

impl VirtualNode {
    /// Registers the node and runs its pods until it is told to stop; then every action that is under way is finished. The
    /// node and its pods stay in the host: the next run goes on with them.
    ///
    /// # Errors
    /// When the host refuses the node.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), NodeError> {
        let Self { client, trust, certificate, server, listener, pods, keeper, provider, contact, workers, silence } =
            self;
        let certificate = certificate.keep(client.clone());
        let mut tasks: JoinSet<Result<(), NodeError>> = JoinSet::new();
        let contacts = vec![contact.subscribe()];
        let stop = shutdown.clone();
        tasks.spawn(async move {
            trust.follow(client, stop).await;
            Ok(())
        });
        // The server before the node, which names its address.
        let stop = shutdown.clone();
        tasks.spawn(async move {
            server.serve(listener, stop).await;
            Ok(())
        });
        let stop = shutdown.clone();
        tasks.spawn(async move {
            pods.run(workers, contacts, stop).await;
            Ok(())
        });
        let stop = shutdown.clone();
        tasks.spawn(async move {
            contact::keep(provider, silence, contact, stop).await;
            Ok(())
        });
        let stop = shutdown.clone();
        tasks.spawn(async move {
            // The Node names our address.
            stop.run_until_cancelled(certificate.ready(CERTIFICATE)).await;
            let kept = keeper.run(stop).await;
            drop(certificate);
            kept
        });
        super::tasks::all(tasks, &shutdown).await
    }
}
