//! The node controller: the Node object, its status, and its Lease.
//!
//! The Lease says that this process lives; it is renewed by a thread of its own ([`lease`]). Whether the provider's side
//! answers is another matter and shown in the condition `Ready`. The Node is never deleted: without it the host's
//! garbage collector would fail every pod on it after 40 s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::contact::Contact;
use super::partition::UNREACHABLE;
use super::provider::{NodeProvider, NodeReport, Obstacle, Source};
use super::stuck::KeptOff;

pub mod lease;
pub mod status;

/// How often the status is computed. (nodeStatusUpdateFrequency)
const HEARTBEAT: Duration = Duration::from_secs(10);

/// An unchanged status is written this often. (nodeStatusReportFrequency)
const REPORT: Duration = Duration::from_secs(300);

/// A status that somebody has replaced is written again this long after it was written, at the earliest: who replaces each that
/// we write should not be answered at once for ever.
const INSIST: Duration = Duration::from_secs(5);

/// Changes of capacity are gathered for this long before they are written.
const GATHER: Duration = Duration::from_millis(500);

/// What the node is called and how it is reached.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// The node's name.
    pub name: String,
    /// The address at which the host's API server reaches the kubelet's API.
    pub ip: String,
    /// The port there.
    pub port: u16,
    /// Labels beside those of every node.
    pub labels: BTreeMap<String, String>,
    /// Taints as in `v1.Taint`; none is a valid choice.
    pub taints: Vec<Value>,
    /// Its pods have a choice between sites, which is written on them.
    pub choice: bool,
    /// Annotations of the Node beside our own.
    pub annotations: BTreeMap<String, String>,
}

/// Why the node cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Reading or writing the Node did not work.
    #[error(
        "failed to write node {name}; does the service account have get, create and patch on nodes and nodes/status?"
    )]
    WriteNode {
        /// Which node.
        name: String,
        /// What the host said.
        #[source]
        source: kube::Error,
    },
    /// The thread of the lease could not be started.
    #[error("failed to start the lease's thread")]
    StartLease(#[source] std::io::Error),
}

/// Makes a client for the host that repeats no request, in the runtime that asks for it.
pub type Connect = Arc<dyn Fn() -> BoxFuture<'static, Result<Client, Source>> + Send + Sync>;

/// Keeps a virtual node.
pub struct NodeController {
    identity: NodeIdentity,
    nodes: Api<Node>,
    connect: Connect,
    provider: Arc<dyn NodeProvider>,
    contact: watch::Receiver<Contact>,
    labels: watch::Sender<Option<Labels>>,
}

/// Labels that somebody has given to a Node by hand.
pub type Labels = Arc<BTreeMap<String, String>>;

/// Why a node is not kept any longer.
enum Ended {
    /// We were told to stop.
    Stopped,
    /// Somebody has deleted the Node.
    NodeDeleted,
}

impl NodeController {
    /// A controller for one node; `connect` is for the lease, which has a connection of its own, and `contact` says whether
    /// the provider's side answers.
    pub fn new(
        identity: NodeIdentity,
        client: Client,
        connect: Connect,
        provider: Arc<dyn NodeProvider>,
        contact: watch::Receiver<Contact>,
    ) -> Self {
        Self { identity, nodes: Api::all(client), connect, provider, contact, labels: watch::Sender::default() }
    }

    /// Tells there, too, which labels the Node has by hand, as soon as it has been seen.
    #[must_use]
    pub fn telling(self, labels: watch::Sender<Option<Labels>>) -> Self {
        Self { labels, ..self }
    }

    fn tell_labels(&self, node: &Node) {
        let own = status::metadata(&self.identity, &self.provider.node_status().borrow());
        let by_hand = Arc::new(status::by_hand(node, &own));
        self.labels.send_if_modified(|known| {
            let news = known.as_ref() != Some(&by_hand);
            *known = Some(by_hand);
            news
        });
    }

    /// Registers the node, then keeps its status and lease until it is told to stop.
    ///
    /// # Errors
    /// When the node cannot be registered for a reason that time will not cure (a refusal); an API server that does not
    /// answer is waited for.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), NodeError> {
        while let Some(node) = self.register(&shutdown).await? {
            let was_ready = status::is_ready(&node.status.unwrap_or_default());
            let uid = node.metadata.uid.unwrap_or_default();
            let _lease = lease::LeaseThread::start(self.connect.clone(), self.identity.name.clone(), uid)
                .map_err(NodeError::StartLease)?;
            tracing::info!(node = self.identity.name, ip = self.identity.ip, port = self.identity.port, "registered");
            match self.keep_status(was_ready, &shutdown).await {
                Ended::Stopped => break,
                Ended::NodeDeleted => {
                    tracing::warn!(node = self.identity.name, "somebody has deleted the node; registering it again");
                }
            }
        }
        Ok(())
    }

    /// Creates the Node, or makes the one that is there ours again: labels and addresses, never a cordon.
    async fn register(&self, shutdown: &CancellationToken) -> Result<Option<Node>, NodeError> {
        loop {
            match self.try_register().await {
                Ok(node) => return Ok(Some(node)),
                Err(source) if is_refusal(&source) => {
                    return Err(NodeError::WriteNode { name: self.identity.name.clone(), source });
                }
                Err(error) => {
                    tracing::warn!(node = self.identity.name, %error, "the host does not answer; trying again");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
            }
        }
    }

    async fn try_register(&self) -> Result<Node, kube::Error> {
        let report = self.provider.node_status().borrow().clone();
        let mut metadata = status::metadata(&self.identity, &report);
        if self.nodes.get_opt(&self.identity.name).await?.is_none() {
            let mut metadata = metadata.clone();
            if let Some(annotations) = metadata["annotations"].as_object_mut() {
                // Only a patch takes away what is not there.
                annotations.retain(|key, value| !value.is_null() && key != status::GIVEN);
            }
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata,
                "spec": {"taints": self.identity.taints}});
            let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
            match self.nodes.create(&PostParams::default(), &node).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                other => return other,
            }
        }
        metadata["labels"] = status::settled_labels(&metadata, &self.identity, &report);
        self.dress(&metadata, &report).await
    }

    /// Gives the Node its labels and annotations, and the taints of the report.
    async fn dress(&self, metadata: &Value, report: &NodeReport) -> Result<Node, kube::Error> {
        let live = self.nodes.get(&self.identity.name).await?;
        let patch = status::dress(&live, metadata, report);
        self.nodes.patch(&self.identity.name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Computes the status every 10 s and after each change of the provider's report; writes it when it has changed, and
    /// every 5 minutes.
    ///
    /// The Node is watched, rather than read every 10 s as a kubelet does: somebody may delete it, and the host's node
    /// controller marks it Unknown if this process was stopped for a while.
    async fn keep_status(&self, mut ready: bool, shutdown: &CancellationToken) -> Ended {
        let mut live =
            watch_object(self.nodes.clone(), &self.identity.name).backoff(crate::backoff::of_watches()).boxed();
        let mut reports = self.provider.node_status();
        let mut contact = self.contact.clone();
        let mut written: Option<(Instant, Value)> = None;
        let mut overruled = false;
        let (mut worn, mut kept_off) = (None, KeptOff::default());
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ended::Stopped,
                _ = heartbeat.tick() => {}
                Ok(()) = contact.changed() => {}
                Ok(()) = reports.changed() => tokio::time::sleep(GATHER).await,
                Some(seen) = live.next() => match seen {
                    Ok(None) => return Ended::NodeDeleted,
                    Ok(Some(node)) => {
                        self.tell_labels(&node);
                        kept_off = KeptOff::of(&node.metadata);
                        let status = node.status.unwrap_or_default();
                        overruled = written.as_ref().is_some_and(|(_, ours)| !status::shows(&status, ours));
                    }
                    Err(error) => tracing::debug!(node = self.identity.name, %error, "the node's watch is interrupted"),
                },
            }
            self.let_back(&kept_off).await;
            let contact = contact.borrow_and_update().clone();
            if contact == Contact::Unheard {
                continue;
            }
            let report = reports.borrow_and_update().clone();
            let trouble = trouble(&contact, ready, &report);
            ready = trouble.is_none();
            let status = status::status(&self.identity, &report, trouble.as_ref(), &contact);
            let mut metadata = status::metadata(&self.identity, &report);
            metadata["labels"] = status::settled_labels(&metadata, &self.identity, &report);
            let wanted = (metadata["labels"].clone(), report.taints.clone());
            if worn.as_ref() != Some(&wanted) && self.dress(&metadata, &report).await.is_ok() {
                worn = Some(wanted);
            }
            let due = written
                .as_ref()
                .is_none_or(|(at, was)| *was != status || at.elapsed() >= if overruled { INSIST } else { REPORT });
            if due {
                match self.write_status(&status).await {
                    Ok(()) => (written, overruled) = (Some((Instant::now(), status)), false),
                    Err(error) => {
                        tracing::warn!(node = self.identity.name, %error, "the node's status was not written; trying again");
                    }
                }
            }
        }
    }

    /// Lets pods back whose time off the node is over. The watch tells what became of it.
    async fn let_back(&self, kept_off: &KeptOff) {
        let Some(patch) = kept_off.clone().patch(Timestamp::now().as_second()) else { return };
        let written =
            self.nodes.patch_metadata(&self.identity.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        if let Err(error) = written {
            tracing::debug!(node = self.identity.name, %error, "pods are kept off the node longer than they should be");
        }
    }

    async fn write_status(&self, status: &Value) -> Result<(), kube::Error> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let node = self.nodes.get(&self.identity.name).await?;
        let patch = status::patch(status, &node.status.unwrap_or_default(), &now);
        self.nodes.patch_status(&self.identity.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(())
    }
}

/// What makes the node NotReady, if anything. A short break does not: the pods over there run on, and so a node that was
/// ready stays so; one that was not has to be heard first.
fn trouble(contact: &Contact, ready: bool, report: &NodeReport) -> Option<Obstacle> {
    let unreachable = |message: &String| Obstacle { reason: UNREACHABLE.into(), message: message.clone() };
    match contact {
        Contact::Silent { message, .. } => Some(unreachable(message)),
        Contact::Doubtful(message) if !ready => Some(report.trouble.clone().unwrap_or_else(|| unreachable(message))),
        Contact::Answers | Contact::Doubtful(_) | Contact::Unheard => report.trouble.clone(),
    }
}

/// An answer that will be the same next time.
fn is_refusal(error: &kube::Error) -> bool {
    // A conflict is with another writer of the same moment.
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && ![409, 429].contains(&status.code))
}

#[cfg(test)]
mod tests;
