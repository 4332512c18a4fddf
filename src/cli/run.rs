//! `longshore run`: from flags to a [`Setup`], and on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::api::clients::{self, Access, ClientsError};
use crate::api::configuration::{Configuration, Declared};
use crate::api::diagnosis::{self, Trouble, diagnose, diagnose_config};
use crate::api::field::{FieldPath, Finding};
use crate::api::profile::{Programs, ProgramsError};
use crate::api::rights::{Features, Right, admission_rights, host_rights, resource_rights, target_rights};
use crate::api::target::TargetSpec;
use crate::api::virtual_node::{TargetReference, VirtualNodeSpec};

use crate::kubelet::certificate::CertificateSource;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::run::node_ip::{self, NodeIpError};
use crate::run::rules::own_labels;
use crate::run::{self, NodeSetup, NodeTarget, Setup, WatchSetup};
use crate::traces::{self, Traces, TracesError};

use super::provider::{self, ProviderArgs, ProviderError};
use super::serving::{ServingArgs, ServingError};
use super::webhook::{WebhookArgs, WebhookError};
use super::{CliError, Clusters, ConfigurationArgs, HostArgs, check};

mod http;
mod signals;

/// The flags of `run`.
#[derive(Args)]
pub struct RunArgs {
    /// A file that declares targets and virtual nodes, instead of the resources in the host
    #[arg(long, value_name = "FILE", env = "LONGSHORE_PROVIDER_CONFIG")]
    provider_config: Option<PathBuf>,
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    provider: ProviderArgs,
    /// Which Targets and VirtualNodes of the host to serve: a label selector [default: all]
    #[arg(
        long,
        value_name = "LABELS",
        default_value = "",
        conflicts_with = "provider_config",
        hide_default_value = true
    )]
    selector: String,
    /// A file with the programs that may get credentials for ClusterProfiles, as KEP-5339 says [default: none may]
    #[arg(long, value_name = "FILE", conflicts_with = "provider_config")]
    clusterprofile_provider_file: Option<PathBuf>,
    /// The address of the virtual nodes, at which the host's API server reaches the kubelet API [default: the local
    /// address from which the host's API server is reached]
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Option<IpAddr>,
    /// The address on which the kubelet API listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port of the first node's kubelet API; further nodes get the next free ones
    #[arg(long, value_name = "PORT", default_value_t = 10250, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The port on which the state of this process is told over plain HTTP: /livez, /readyz and /metrics [default: none]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    http_port: Option<u16>,
    /// The OpenTelemetry collector that gets a trace of each pod's start, by OTLP over HTTP: http://HOST:4318
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    #[command(flatten)]
    serving: ServingArgs,
    /// How many pods of each target are worked on at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,
    /// After how many seconds pods are listed anew on both sides, in case that an event was lost; 0 means never
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    relist: u32,
    /// The namespace of the leases by which replicas of Longshore share the virtual nodes
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-node-lease")]
    lease_namespace: String,
    /// The identity of this replica, which no other one that runs at the same time may have [default: machine, address and
    /// port]
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    webhook: WebhookArgs,
}

/// Why a run ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The process cannot be told to stop.
    #[error("failed to listen for signals")]
    Listen(#[source] std::io::Error),
    /// The port for the state of the process is taken.
    #[error("failed to listen on {address}; give another --http-port")]
    BindHttp {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no client for the host.
    #[error("failed to connect to the host cluster")]
    ConnectHost(#[source] ClientsError),
    /// The host cannot be used.
    #[error("failed to use the host cluster")]
    UseHost(#[source] Trouble),
    /// The host does not let us work.
    #[error("failed to find all rights in the host cluster{0}")]
    FindRights(String),
    /// The host has no identity.
    #[error("failed to identify the host cluster by the uid of its namespace kube-system")]
    IdentifyHost(#[source] Option<Box<Trouble>>),
    /// There is no address for the nodes.
    #[error(transparent)]
    FindAddress(#[from] NodeIpError),
    /// More nodes than ports.
    #[error("failed to find a port for the node {node}: none is free above {first}; give a lower --port")]
    FindPort {
        /// The node.
        node: String,
        /// `--port`.
        first: u16,
    },
    /// The programs for ClusterProfiles are not known.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The webhook is not complete.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// No traces can be sent.
    #[error(transparent)]
    Trace(#[from] TracesError),
    /// The provider that was asked for cannot run.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The flags for serving certificates contradict each other.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// What runs has failed.
    #[error("failed to run")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl RunArgs {
    /// Where traces go; a variable that is empty names nothing.
    fn collector(&self) -> Option<&str> {
        self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty())
    }
}

/// Where nodes are, and who shares them: what is the same for every provider.
pub(super) struct Place {
    pub(super) host: Access,
    pub(super) node_ip: IpAddr,
    pub(super) certificate: CertificateSource,
    pub(super) bind_address: IpAddr,
    pub(super) port: u16,
    pub(super) workers: usize,
    pub(super) relist_after: Option<Duration>,
    pub(super) lease_namespace: String,
    pub(super) identity: String,
    pub(super) metrics: Metrics,
    pub(super) traces: Option<Traces>,
}

impl Place {
    async fn find(args: &RunArgs, host: Access, metrics: Metrics) -> Result<Self, RunError> {
        let node_ip = match args.node_ip {
            Some(address) => address,
            None => node_ip::towards(&host.cluster_url).await?,
        };
        if node_ip.is_loopback() {
            warn!(%node_ip, "the node's address is this machine's loopback: kubectl logs and exec, and whatever else the \
                host's API server does through nodes/proxy, work only if it runs here too; give --node-ip");
        }
        let (bind_address, port, workers) = (args.bind_address, args.port, usize::from(args.workers));
        let relist_after = (args.relist > 0).then(|| Duration::from_secs(args.relist.into()));
        let lease_namespace = args.lease_namespace.clone();
        let identity = args.identity.clone().unwrap_or_else(|| identity(node_ip, bind_address, port));
        let certificate = args.serving.source()?;
        let traces = args.collector().map(|endpoint| Traces::start(endpoint, &identity)).transpose()?;
        Ok(Self {
            host,
            node_ip,
            certificate,
            bind_address,
            port,
            workers,
            relist_after,
            lease_namespace,
            identity,
            metrics,
            traces,
        })
    }
}

pub(super) async fn run(args: RunArgs, registry: &Registry) -> Result<(), CliError> {
    let shutdown = CancellationToken::new();
    args.serving.source().map_err(RunError::from)?;
    args.collector().map(traces::check).transpose().map_err(RunError::from)?;
    let other = args.provider.other(registry).map_err(RunError::from)?;
    signals::listen(&shutdown).map_err(RunError::Listen)?;
    let metrics = Metrics::default();
    let ready = http::serve(args.http_port.map(|port| (args.bind_address, port).into()), &metrics, &shutdown).await?;
    if let Some(other) = other {
        let host = args.host.load().await?;
        let place = tokio::select! {
            place = prepare_other(&args, host, metrics) => place?,
            () = shutdown.cancelled() => return Ok(()),
        };
        ready.now();
        let traces = place.traces.clone();
        let ran = Box::pin(provider::run(other, registry, place, shutdown)).await;
        flush(traces).await;
        return Ok(ran?);
    }
    let clusters = match &args.provider_config {
        Some(file) => ConfigurationArgs { provider_config: Some(file.clone()), host: args.host.clone() }.load().await?,
        None => Clusters {
            configuration: Configuration { targets: vec![], nodes: vec![] },
            host: args.host.load().await?,
            targets: vec![],
            resources: None,
        },
    };
    let setup = tokio::select! {
        setup = prepare(&args, clusters, metrics) => setup?,
        () = shutdown.cancelled() => return Ok(()),
    };
    ready.now();
    let traces = setup.traces.clone();
    let ran = run::start(setup, shutdown).await;
    flush(traces).await;
    ran.map_err(|error| RunError::Run(Box::new(error)).into())
}

/// The last steps are told as well.
async fn flush(traces: Option<Traces>) {
    if let Some(traces) = traces {
        traces.flush().await;
    }
}

async fn prepare(args: &RunArgs, clusters: Clusters, metrics: Metrics) -> Result<Setup, RunError> {
    let Clusters { configuration, host, targets, .. } = clusters;
    let host = host.metered(metrics.home());
    // A file with a target that has no kubeconfig was refused.
    let targets = configuration.targets.iter().zip(targets.into_iter().flatten());
    let targets: Vec<Access> = targets.map(|(target, access)| access.metered(metrics.target(&target.name))).collect();
    let ports = assign_ports(&configuration.nodes, args.port)?;
    let client = clients::client(&host).await.map_err(RunError::ConnectHost)?;
    // Beside everything else: a target that is down would delay the start by its whole deadline.
    let features =
        configuration.targets.iter().map(|one| Features::of_target(&configuration.nodes, &one.name)).collect();
    tokio::spawn(report_targets(configuration.targets.clone(), targets.clone(), features));
    let programs = args.clusterprofile_provider_file.as_deref().map(Programs::read).transpose()?.unwrap_or_default();
    let watch = args.provider_config.is_none().then(|| WatchSetup {
        selector: args.selector.clone(),
        first_port: args.port,
        programs: Arc::new(programs),
    });
    let features = Features::of(configuration.nodes.iter().map(|node| &node.spec));
    let admission = args.webhook.setup(&args.lease_namespace)?;
    let mut more = args.serving.rights()?;
    more.extend(admission.iter().flat_map(|setup| admission_rights(&args.lease_namespace, setup.register)));
    // Beside the reviews, which take longest; what they find missing is the better thing to say.
    let (asking, address) = (client.clone(), clients::address(&host));
    let identified = AbortOnDropHandle::new(tokio::spawn(async move { identify(&asking, &address).await }));
    check_host(&client, &host, features, watch.is_some(), more).await?;
    let host_id = identified.await.unwrap_or(Err(RunError::IdentifyHost(None)))?;
    let nodes = assemble(&configuration, &targets, &ports);
    let Place {
        host,
        node_ip,
        certificate,
        bind_address,
        workers,
        relist_after,
        lease_namespace,
        identity,
        metrics,
        traces,
        ..
    } = Place::find(args, host, metrics).await?;
    let follow_address = args.node_ip.is_none();
    Ok(Setup {
        host,
        host_id,
        nodes,
        watch,
        node_ip,
        follow_address,
        certificate,
        bind_address,
        workers,
        relist_after,
        lease_namespace,
        identity,
        admission,
        metrics,
        traces,
    })
}

/// The host can be used by a node on another provider, and where that is.
async fn prepare_other(args: &RunArgs, host: Access, metrics: Metrics) -> Result<Place, RunError> {
    let host = host.metered(metrics.home());
    let client = clients::client(&host).await.map_err(RunError::ConnectHost)?;
    check_host(&client, &host, Features::default(), false, args.serving.rights()?).await?;
    Place::find(args, host, metrics).await
}

/// Where this replica runs. No other one has it at the same time, since it could not listen on the same port; and one that
/// is restarted in the same place has it again, and need not wait for its own leases to run out.
fn identity(node_ip: IpAddr, bind_address: IpAddr, port: u16) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{node_ip}_{bind_address}_{port}", machine.trim())
}

async fn check_host(
    client: &Client,
    host: &Access,
    features: Features,
    resources: bool,
    more: Vec<Right>,
) -> Result<(), RunError> {
    let mut needed = host_rights(features);
    needed.extend(more);
    if resources {
        needed.extend(resource_rights());
    }
    match diagnose(client, &clients::address(host), &needed).await {
        Ok(version) => {
            info!(version = version.0, "the host cluster can be used");
            Ok(())
        }
        Err(Trouble::Forbidden { missing, .. }) => {
            let list: Vec<_> = missing.iter().map(|right| format!("\n  {right} (to {})", right.why)).collect();
            Err(RunError::FindRights(format!(":{}{}", list.concat(), check::grant(&missing))))
        }
        Err(trouble) => Err(RunError::UseHost(trouble)),
    }
}

/// Says what is wrong with targets. Nothing else follows from it: a restart must work while one of them is down, and
/// rights may be granted later.
async fn report_targets(targets: Vec<Declared<TargetSpec>>, configs: Vec<Access>, features: Vec<Features>) {
    let reports = targets.iter().zip(&configs).zip(features).map(|((target, config), features)| async move {
        match diagnose_config(config, &target_rights(&target.spec, features)).await {
            Ok(version) => info!(target_name = target.name, version = version.0, "the target can be used"),
            Err(trouble) => {
                let remedy = "pods for this target wait until this is mended";
                let finding = Finding::new(FieldPath::of("spec.kubeconfig"), trouble.to_string(), remedy);
                error!(target_name = target.name, "{}", target.problem(finding));
            }
        }
    });
    futures::future::join_all(reports).await;
}

async fn identify(client: &Client, address: &str) -> Result<String, RunError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let trouble = |error| RunError::IdentifyHost(Some(Box::new(diagnosis::classify(address, &error))));
    let namespace = namespaces.get("kube-system").await.map_err(trouble)?;
    namespace.metadata.uid.ok_or(RunError::IdentifyHost(None))
}

/// A port for each node, in their order: the one that it asks for, or the next free one from `first` upward.
fn assign_ports(nodes: &[Declared<VirtualNodeSpec>], first: u16) -> Result<Vec<u16>, RunError> {
    let asked: BTreeSet<u16> = nodes.iter().filter_map(|node| node.spec.port).collect();
    let mut free = (first..=u16::MAX).filter(|port| !asked.contains(port));
    let assign = |node: &Declared<VirtualNodeSpec>| {
        let port = node.spec.port.or_else(|| free.next());
        port.ok_or_else(|| RunError::FindPort { node: node.name.clone(), first })
    };
    nodes.iter().map(assign).collect()
}

fn assemble(configuration: &Configuration, targets: &[Access], ports: &[u16]) -> Vec<NodeSetup> {
    let target = |reference: &TargetReference| {
        let mut known = configuration.targets.iter().zip(targets);
        let (target, config) = known.find(|(target, _)| target.name == reference.name)?;
        let (name, spec) = (target.name.clone(), target.spec.clone());
        Some(NodeTarget { name, spec, config: config.clone(), link: None, leaving: false, weight: reference.weight })
    };
    let node = |(node, &port): (&Declared<VirtualNodeSpec>, &u16)| {
        Some(NodeSetup {
            name: node.name.clone(),
            several: node.spec.targets.len() > 1,
            shape: node.spec.shape,
            pool_label: node.spec.pool_label.clone(),
            part: None,
            // All of them exist: the configuration was refused otherwise.
            targets: node.spec.targets.iter().map(target).collect::<Option<_>>()?,
            placement: node.spec.placement.clone(),
            labels: own_labels(&node.name, &node.spec.labels),
            taints: node.spec.taints_of(&node.name),
            port,
            claims: node.spec.claims,
            services: node.spec.services,
        })
    };
    configuration.nodes.iter().zip(ports).filter_map(node).collect()
}

#[cfg(test)]
mod tests;
