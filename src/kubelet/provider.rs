//! The contract between the core and a provider.
//!
//! A provider runs pods somewhere; the core makes a node of it. The contract follows the one of the virtual-kubelet
//! project (pod lifecycle, optional notifier, node provider, streaming), with three differences, each against a
//! failure that its users report:
//!
//! - every pod has **two identities**, the proxy's UID and the [`Instance`] that the provider runs for it; whatever
//!   ends an instance names it, so that a late call never hits a namesake;
//! - a notifier says when its list is **complete** ([`PodNotice::Listed`]); before that, absence means nothing;
//! - errors say **what the core should do next** ([`PodError`]), rather than only that something failed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, Method};
use k8s_openapi::api::authentication::v1::{TokenRequestSpec, TokenRequestStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

pub use super::document::{PodDocument, PodKey};

/// Any error underneath; shown to people with its chain of sources.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// What a provider runs for one proxy pod.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderPod {
    /// Whose it is: the identity of the proxy pod at home.
    pub key: PodKey,
    /// Which one it is.
    pub instance: Instance,
    /// A pod status in home's terms (`v1.PodStatus` as JSON): container names of the proxy, addresses that may be
    /// shown at home. Null until there is one. What a kubelet computes from the spec (readiness gates,
    /// `observedGeneration`, `qosClass`) is the core's business and ignored here.
    pub status: Value,
    /// Annotations that somebody on the provider's side has given it and that the proxy shows too, unless its user has some
    /// of the same key. They go in a status patch that goes anyway, or some seconds later.
    pub annotations: BTreeMap<String, String>,
    /// What its owner should know of how it was made, such as what it asked for and did not get. Told in an event when it was
    /// created.
    pub remarks: Vec<Obstacle>,
}

/// One incarnation of a pod in the provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Unique for ever, unlike a name.
    pub uid: Arc<str>,
    /// Grows with every change of this instance; an observation with a smaller one is old news.
    pub version: u64,
    /// The [`fingerprint`](PodLifecycleHandler::fingerprint) of the document that it was last created or updated from.
    pub sent: u64,
    /// The grace period in seconds with which it is being deleted; `None` while it is not.
    pub deleting: Option<u32>,
    /// In a word and a sentence, what keeps it from running, if it has not started and the provider knows why:
    /// shown in a condition on the proxy. (`Unschedulable`, "0/3 nodes are available: …")
    pub obstacle: Option<Obstacle>,
}

/// A reason and a message for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Obstacle {
    /// CamelCase, stable.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Why a pod could not be created, changed or deleted; each variant is a different next step of the core.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The provider cannot run this pod faithfully; nothing was created and nothing will be before the pod changes.
    #[error("{field}: {message}")]
    Held {
        /// The field of the pod, as a path: `spec.volumes[0].persistentVolumeClaim`.
        field: String,
        /// What the matter is and what to do, in a sentence.
        message: String,
    },
    /// An earlier pod of the same name still holds its place; it is worth trying again soon.
    #[error("the name is still held by an earlier pod: {0}")]
    Namesake(String),
    /// Something that is not ours holds the name; it is left alone.
    #[error("{0}")]
    Stranger(String),
    /// Something that the pod needs beside it is not there, or may not be had. Tried again with backoff, and as soon as
    /// the provider says so ([`PodNotice::Wake`]).
    #[error("{message}")]
    Waiting {
        /// CamelCase, stable: the reason of the event.
        reason: String,
        /// What is missing and what to do, in a sentence.
        message: String,
    },
    /// The other side has refused (admission, quota, rights, validation). Tried again with backoff, since the cause
    /// may be cured there.
    #[error("{reason}: {message}")]
    Refused {
        /// The reason in the answer: `Forbidden`, `Invalid`, …
        reason: String,
        /// The message in the answer.
        message: String,
    },
    /// The other side did not answer, or said that it is overloaded; **it may or may not have acted**.
    #[error("no answer")]
    NoAnswer(#[source] Source),
}

/// What a deletion found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deletion {
    /// The instance is terminating; the notifier will tell when it has gone.
    Started,
    /// The instance had gone already, for certain.
    Gone,
}

/// Creates, changes and deletes pods: the one part that no provider can do without.
///
/// Every call may come late or twice and has to be harmless then.
#[async_trait]
pub trait PodLifecycleHandler: Send + Sync + 'static {
    /// Starts the pod. Creating a pod whose UID already runs is no error and makes no second one.
    async fn create_pod(&self, pod: &PodDocument) -> Result<ProviderPod, PodError>;

    /// Makes the running instance follow a changed pod.
    async fn update_pod(&self, pod: &PodDocument, instance: &Instance) -> Result<ProviderPod, PodError>;

    /// Begins to stop this very instance with a grace period of `grace` seconds (0: at once).
    async fn delete_pod(&self, key: &PodKey, instance: &str, grace: Option<u32>) -> Result<Deletion, PodError>;

    /// The pod that runs for this proxy, if any.
    async fn get_pod(&self, key: &PodKey) -> Result<Option<ProviderPod>, PodError>;

    /// The status of the pod that runs for this proxy, if any.
    async fn get_pod_status(&self, key: &PodKey) -> Result<Option<Value>, PodError> {
        Ok(self.get_pod(key).await?.map(|pod| pod.status))
    }

    /// Every pod that runs, in no order; an error rather than a part of them.
    async fn get_pods(&self) -> Result<Vec<ProviderPod>, PodError>;

    /// A digest of everything in the pod that an instance is made of. When it differs from [`Instance::sent`], the core
    /// calls [`update_pod`](Self::update_pod). It must not depend on anything but the document.
    ///
    /// By default labels, annotations and the whole spec count. A provider that keeps [`Instance::sent`] anywhere should say
    /// what counts, so that a field that means nothing to it changes nothing.
    fn fingerprint(&self, pod: &PodDocument) -> u64 {
        fingerprint(pod)
    }
}

/// The first 8 bytes of a SHA-256, which stays the same with every build.
fn fingerprint(pod: &PodDocument) -> u64 {
    let counts = serde_json::json!([pod.metadata.labels, pod.metadata.annotations, pod.spec]);
    let digest: [u8; 32] = Sha256::digest(counts.to_string()).into();
    digest.into_iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(byte))
}

/// Pushes changes, so that nobody needs to poll.
#[async_trait]
pub trait PodNotifier: Send + Sync + 'static {
    /// Sends all pods between [`PodNotice::listing`] and [`PodNotice::Listed`], then every change, until it is dropped
    /// or the receiver is gone. May list again whenever it has lost track.
    async fn notify(&self, notices: mpsc::Sender<PodNotice>);
}

/// What a notifier says.
#[derive(Debug)]
pub enum PodNotice {
    /// A list begins. The list must not be asked for before this has been taken in ([`PodNotice::listing`]): what is made
    /// between the two would count as gone at the end of the list, although the list is older.
    Listing(oneshot::Sender<()>),
    /// A pod is there, or has changed.
    Seen(Box<ProviderPod>),
    /// This instance is there, and no more can be said: its object cannot be read. It stays what it was.
    Unclear(Arc<str>),
    /// This instance is gone for ever.
    Gone {
        /// Whose it was.
        key: PodKey,
        /// Which it was.
        instance: Arc<str>,
    },
    /// What a pod of this UID waits for ([`PodError::Waiting`]) may be there now: it is worth trying again at once.
    Wake(Arc<str>),
    /// The list is complete: what was not seen since [`PodNotice::Listing`] is gone.
    Listed,
    /// Something was told about what runs for the proxy of the first UID, for its owner to know; the second is that of the
    /// instance.
    Told(Arc<str>, Arc<str>, Box<Told>),
}

/// An event about an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Unique for ever; what is told again with the same has happened again.
    pub id: String,
    /// Of type Warning rather than Normal.
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Who tells, as a qualified name: `east.longshore.dev/kubelet`.
    pub controller: String,
    /// Which of them.
    pub instance: String,
    /// How often it has happened.
    pub count: i32,
}

impl PodNotice {
    /// Says that a list begins, and waits until that is taken in; `false` if nobody listens any more.
    pub async fn listing(notices: &mpsc::Sender<PodNotice>) -> bool {
        let (taken, wait) = oneshot::channel();
        notices.send(PodNotice::Listing(taken)).await.is_ok() && wait.await.is_ok()
    }
}

/// What the node is made of.
#[async_trait]
pub trait NodeProvider: Send + Sync + 'static {
    /// Asks whether the provider's side answers; called every 10 s, abandoned after 8 s. After errors for the configured
    /// time the node turns NotReady.
    async fn ping(&self) -> Result<(), Source>;

    /// The node's status, which the provider changes whenever it likes.
    fn node_status(&self) -> watch::Receiver<NodeReport>;
}

/// What a provider says about its node; names and values as in `v1.NodeStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// Total resources: name to quantity.
    pub capacity: BTreeMap<String, String>,
    /// What pods may use: name to quantity.
    pub allocatable: BTreeMap<String, String>,
    /// `operatingSystem`: `linux` or `windows`.
    pub operating_system: String,
    /// `architecture` in Go's terms: `amd64`, `arm64`.
    pub architecture: String,
    /// `kubeletVersion`: what the scheduler and kubectl should take this node for.
    pub kubelet_version: String,
    /// Labels that the node should carry beside those of every node.
    pub labels: BTreeMap<String, String>,
    /// Which of `MemoryPressure`, `DiskPressure` and `PIDPressure` the other side is under as a whole.
    pub pressures: BTreeSet<String>,
    /// Taints that the node should carry beside its own; they go when they are not here any more.
    pub taints: Vec<NodeTaint>,
    /// What is wrong with the other side although it answers, if anything; the node is NotReady then.
    pub trouble: Option<Obstacle>,
}

/// A taint, as in `v1.Taint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTaint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl NodeTaint {
    /// A taint that keeps new pods away.
    pub fn no_schedule(key: &str) -> Self {
        Self { key: key.into(), value: String::new(), effect: "NoSchedule".into() }
    }
}

impl NodeReport {
    /// A Linux node of which pods may use all: names and quantities.
    pub fn of<const N: usize>(resources: [(&str, &str); N]) -> Self {
        let resources = BTreeMap::from(resources.map(|(name, quantity)| (name.to_owned(), quantity.to_owned())));
        Self { capacity: resources.clone(), allocatable: resources, ..Self::default() }
    }
}

/// The options of `kubectl logs`, named as in `v1.PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// The logs of the container's previous instance.
    pub previous: bool,
    /// An RFC 3339 time before every line.
    pub timestamps: bool,
    /// Only what is younger than this many seconds.
    pub since_seconds: Option<i64>,
    /// Only what is younger than this RFC 3339 time.
    pub since_time: Option<String>,
    /// Only this many last lines.
    pub tail_lines: Option<i64>,
    /// At most this many bytes.
    pub limit_bytes: Option<i64>,
}

/// Which streams an exec or attach has, and what it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are four independent switches of the kubelet's API")]
pub struct ExecOptions {
    /// The command and its arguments, in order; empty for attach.
    pub command: Vec<String>,
    /// The client sends standard input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error; never with a TTY.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// Bytes that come as they are made.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Both ends of a tunnel are these.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The head of a request to switch protocols (SPDY/3.1 or WebSocket), as the client sent it.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// POST or GET.
    pub method: Method,
    /// All headers, credentials removed.
    pub headers: HeaderMap,
}

/// The far end of an [`Upgrade`] that was granted: the core answers 101 with these headers, then copies bytes both ways.
pub struct Tunnel {
    /// `Upgrade`, `Connection`, and those of the protocol.
    pub headers: HeaderMap,
    /// The far end.
    pub io: Box<dyn Duplex>,
}

/// What pods use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The pods that were measured, in no order. One that was not is left out, rather than shown as if it used nothing.
    pub pods: Vec<PodUsage>,
    /// Why pods are missing, in a sentence each.
    pub gaps: Vec<String>,
}

/// What one pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUsage {
    /// The UID of the proxy.
    pub uid: String,
    /// When it was measured.
    pub at: Timestamp,
    /// Over which time before that the CPU was measured.
    pub window: Duration,
    /// Its containers, in no order; an init container that goes on running is one of them.
    pub containers: Vec<ContainerUsage>,
}

/// What one container uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its name in the proxy.
    pub name: String,
    /// CPU in billionths of a core, on average over the window.
    pub nanocores: u64,
    /// The working set of memory, in bytes.
    pub memory: u64,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No such pod or container: 404.
    #[error("{0}")]
    NotFound(String),
    /// The container is not in a state for this, or an option makes no sense: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The provider has no such stream: 501.
    #[error("{0} is not supported by this provider")]
    Unsupported(&'static str),
    /// The far side answered with an error, which is passed on as it is.
    #[error("{}", .0.status())]
    Answered(http::Response<Bytes>),
    /// The far side did not answer: 502.
    #[error("the far side did not answer")]
    NoAnswer(#[source] Source),
}

/// Logs, exec, attach, port-forward, stats. A provider without one of them keeps the default, which is an honest 501.
#[async_trait]
pub trait StreamHandler: Send + Sync + 'static {
    /// The logs of a container.
    async fn logs(&self, _pod: &PodKey, _container: &str, _options: LogOptions) -> Result<ByteStream, StreamError> {
        Err(StreamError::Unsupported("logs"))
    }

    /// Runs a command in a container.
    async fn exec(
        &self,
        _pod: &PodKey,
        _container: &str,
        _options: ExecOptions,
        _upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        Err(StreamError::Unsupported("exec"))
    }

    /// Attaches to a container's main process.
    async fn attach(
        &self,
        _pod: &PodKey,
        _container: &str,
        _options: ExecOptions,
        _upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        Err(StreamError::Unsupported("attach"))
    }

    /// Forwards connections to ports of a pod. `ports` is empty for SPDY, which names them inside the stream.
    async fn port_forward(&self, _pod: &PodKey, _ports: Vec<u16>, _upgrade: Upgrade) -> Result<Tunnel, StreamError> {
        Err(StreamError::Unsupported("port-forward"))
    }

    /// What the pods use now; the core makes the kubelet's summary and metrics of it. Called only while somebody asks, and
    /// not more often than every few seconds.
    ///
    /// # Errors
    /// [`StreamError::Unsupported`] where nothing is ever measured. What cannot be measured at the moment, or in a part of
    /// the provider, is said in [`Usage::gaps`].
    async fn usage(&self) -> Result<Usage, StreamError> {
        Err(StreamError::Unsupported("stats"))
    }
}

/// A whole provider.
pub trait Provider: PodLifecycleHandler + NodeProvider + StreamHandler {
    /// The notifier, for providers that have one; the others are asked for all pods every few seconds.
    fn notifier(&self) -> Option<&dyn PodNotifier> {
        None
    }
}

/// A kind of object that pods refer to by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostKind {
    /// `v1.ConfigMap`
    ConfigMap,
    /// `v1.Secret`
    Secret,
    /// `v1.Service`: no pod names one, and containers are told of all in their namespace.
    Service,
}

/// What the host tells of the objects of one kind in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostChange {
    /// A list begins.
    Listing,
    /// An object is there in this version, or has changed to it.
    Seen {
        /// Its name.
        name: Arc<str>,
        /// Its resource version.
        version: u64,
    },
    /// An object has gone.
    Gone {
        /// Its name.
        name: Arc<str>,
    },
    /// The list is complete: what was not seen since [`HostChange::Listing`] is not there.
    Listed,
}

/// The only way in which a provider sees the host: the things that its pods refer to.
#[async_trait]
pub trait HostView: Send + Sync + 'static {
    /// A proxy, as the host has it now; `None` where it is gone or another has its name. Not for the undisturbed way.
    async fn proxy(&self, key: &PodKey) -> Result<Option<PodDocument>, Source>;

    /// A ConfigMap; `None` where there is none.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Source>;

    /// A Secret; `None` where there is none.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Source>;

    /// Tells of the objects of this kind in a namespace for as long as the receiver is there. Only names and versions are
    /// told, and whoever comes to a watch that others have already is told of changes only: subscribe first, then read.
    fn changes(&self, kind: HostKind, namespace: &str) -> broadcast::Receiver<HostChange>;

    /// The Services of a namespace, in no order.
    async fn services(&self, namespace: &str) -> Result<Vec<Service>, Source>;

    /// A token of a service account (TokenRequest).
    async fn token(
        &self,
        namespace: &str,
        account: &str,
        request: TokenRequestSpec,
    ) -> Result<TokenRequestStatus, Source>;
}
