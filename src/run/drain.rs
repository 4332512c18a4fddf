//! Emptying a node, or one of its targets, in order: pods are evicted, so that disruption budgets hold, and each goes the
//! way that every deleted pod goes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, EvictParams, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::kubelet::sites::CHOICE;
use crate::only::only;

/// How often it looks what is left: often at first, then rarely, as it may have to wait for a target that is out of reach.
const ROUNDS: [u64; 6] = [1, 1, 2, 2, 5, 10];

/// Label of a Node that stands for a part of a target: the VirtualNode that it belongs to.
pub(crate) const WHOLE: &str = "longshore.dev/virtual-node";

/// What leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) node: String,
    pub(crate) target: String,
    /// The node leaves as a whole, with every pod of it that has no target yet.
    pub(crate) whole: bool,
    /// It is the only target of the node, and all pods are its own.
    pub(crate) alone: bool,
    /// The node is many, each for a part of the target.
    pub(crate) parts: bool,
}

impl Leaving {
    pub(crate) fn concerns(&self, pod: &PartialObjectMeta<Pod>) -> bool {
        match pod.annotations().get(CHOICE) {
            Some(target) => *target == self.target || self.alone,
            None => self.whole || self.alone,
        }
    }
}

/// The names of the nodes that stand for parts of what a VirtualNode stands for.
pub(crate) async fn parts_of(host: &Client, whole: &str) -> kube::Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(host.clone());
    let list = nodes.list_metadata(&ListParams::default().labels(&format!("{WHOLE}={whole}"))).await?;
    Ok(list.items.iter().map(ResourceExt::name_any).collect())
}

/// Evicts what belongs to a target on a node until nothing is left.
pub(crate) async fn empty(host: Client, leaving: Leaving) {
    let (node, target) = (&leaving.node, &leaving.target);
    tracing::info!(node, target_name = target, "removed: its pods are evicted first");
    let mut pauses = ROUNDS.into_iter();
    let mut pause = ROUNDS[0];
    loop {
        match round(&host, &leaving).await {
            Ok(0) => return,
            Ok(left) => tracing::debug!(node, target_name = target, left, "waiting for pods to go"),
            Err(error) => {
                let error = crate::errors::chain(&error);
                tracing::warn!(node, target_name = target, error, "pods could not be evicted; trying again");
            }
        }
        pause = pauses.next().unwrap_or(pause);
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }
}

/// One round; answers how many pods are left.
async fn round(host: &Client, leaving: &Leaving) -> kube::Result<usize> {
    let nodes = if leaving.parts { parts_of(host, &leaving.node).await? } else { vec![leaving.node.clone()] };
    let mut left = 0;
    for node in &nodes {
        if leaving.whole {
            cordon(host, node, true).await?;
        }
        let pods: Vec<_> = bound(host, node).await?.into_iter().filter(|pod| leaving.concerns(pod)).collect();
        evict(host, &pods).await?;
        left += pods.len();
    }
    Ok(left)
}

/// The pods of a node.
pub(crate) async fn bound(host: &Client, node: &str) -> kube::Result<Vec<PartialObjectMeta<Pod>>> {
    let pods: Api<Pod> = Api::all(host.clone());
    Ok(pods.list_metadata(&ListParams::default().fields(&format!("spec.nodeName={node}"))).await?.items)
}

/// Asks for the eviction of these pods and no namesakes of theirs; a disruption budget may say no to some. A pod that cannot be
/// evicted, as with two budgets, keeps no other.
pub(crate) async fn evict(host: &Client, pods: &[PartialObjectMeta<Pod>]) -> kube::Result<()> {
    let mut failed = None;
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let pods: Api<Pod> = Api::namespaced(host.clone(), &pod.namespace().unwrap_or_default());
        let params = EvictParams { delete_options: Some(only(pod.uid())), ..EvictParams::default() };
        match pods.evict(&pod.name_any(), &params).await {
            // A disruption budget, a namesake, or gone: the next round tells.
            Err(kube::Error::Api(status)) if [404, 409, 429].contains(&status.code) => {}
            Err(kube::Error::Api(status)) => failed = failed.or(Some(status)),
            other => drop(other?),
        }
    }
    failed.map_or(Ok(()), |status| Err(kube::Error::Api(status)))
}

/// Lets the scheduler take the node, or not. Fine if there is none.
pub(crate) async fn cordon(host: &Client, node: &str, closed: bool) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(host.clone());
    let closed = if closed { Value::Bool(true) } else { Value::Null };
    let patch = Patch::Merge(json!({"spec": {"unschedulable": closed}}));
    match nodes.patch(node, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// Lets the scheduler take a node again, or all that stand for its parts.
pub(crate) async fn open(host: &Client, node: &str, parts: bool) -> kube::Result<()> {
    let nodes = if parts { parts_of(host, node).await? } else { vec![node.to_owned()] };
    for node in nodes {
        cordon(host, &node, false).await?;
    }
    Ok(())
}

/// Deletes the nodes that stand for parts, which are empty and kept by nobody any more.
pub(super) async fn delete_parts(host: &Client, whole: &str) {
    match parts_of(host, whole).await {
        Ok(nodes) => {
            for node in nodes {
                delete_node(host, &node).await;
            }
        }
        Err(error) => {
            let error = crate::errors::chain(&error);
            tracing::warn!(whole, error, "its nodes were not deleted; `kubectl delete node -l {WHOLE}={whole}`");
        }
    }
}

/// Deletes the Node, which is empty and kept by nobody any more.
pub(super) async fn delete_node(host: &Client, node: &str) {
    let nodes: Api<Node> = Api::all(host.clone());
    let deleted = async {
        let found = nodes.get_metadata(node).await?;
        // One that somebody registers meanwhile stays.
        nodes.delete(node, &only(found.uid())).await
    };
    match deleted.await {
        Ok(_) => tracing::info!(node, "deleted the node, which nobody declares any more"),
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
        Err(error) => {
            let error = crate::errors::chain(&error);
            tracing::warn!(node, error, "the node was not deleted; `kubectl delete node` it");
        }
    }
}
