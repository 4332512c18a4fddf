//! A VirtualNode that is many nodes: one for each pool, or for each node, of its target.
//!
//! Each is kept as any other node. Here is only decided which there are: those that the target has, and those that the host
//! still knows. One that the target does not have any more is emptied first, unless it comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::drain::{self, Leaving, WHOLE};
use super::keeper::{CertificateSlot, keep_on};
use super::unit::target_clients;
use super::{NodeSetup, Shared};
use crate::api::virtual_node::Shape;
use crate::errors::chain;
use crate::provider::capacity::{NodeShare, is_control_plane};
use crate::provider::part::{POOL_LABELS, Part};

/// Annotation of a Node: the part that it stands for, as JSON.
pub(super) const PART: &str = "longshore.dev/part";

/// How long a node of the target may be away, as when its machine is replaced, before its pods are evicted.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long until what did not work is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// A part that runs as a node.
struct Child {
    part: Part,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Empties it, since the target does not have it any more.
    leaving: Option<AbortOnDropHandle<()>>,
}

/// Keeps all nodes of a VirtualNode until it is told to stop.
pub(super) async fn keep(shared: Arc<Shared>, whole: NodeSetup, stop: CancellationToken) {
    let (sender, roster) = watch::channel(None);
    let watching = {
        let (shape, keys) = (whole.shape, pool_keys(whole.pool_label.as_ref()));
        let target = whole.targets.first().cloned();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let Some(target) = target else { return };
            loop {
                match target_clients(&target).await {
                    Ok([client, _]) => return follow(client, shape, &keys, &sender).await,
                    Err(error) => {
                        tracing::error!(
                            target_name = target.name,
                            error = chain(&error),
                            "its nodes cannot be followed; trying again"
                        );
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        }))
    };
    let mut parts = Parts { shared, whole, roster, children: BTreeMap::new() };
    parts.run(&stop).await;
    drop(watching);
    for child in parts.children.values() {
        child.stop.cancel();
    }
    for (_, child) in parts.children {
        end(child.task).await;
    }
}

/// What breaks in a node breaks here.
async fn end(task: JoinHandle<()>) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

struct Parts {
    shared: Arc<Shared>,
    whole: NodeSetup,
    /// What the target has, once it has been listed.
    roster: watch::Receiver<Option<BTreeSet<Part>>>,
    /// By the name of the node.
    children: BTreeMap<String, Child>,
}

impl Parts {
    async fn run(&mut self, stop: &CancellationToken) {
        // First those that the host knows: with the target out of reach they would lose their lease otherwise.
        let host = self.shared.host.clone();
        let Some(known) = stop.run_until_cancelled(known(&host, &self.whole.name)).await else { return };
        for part in known {
            self.start(part);
        }
        let (sender, mut emptied) = mpsc::channel(16);
        loop {
            self.reconcile(&sender);
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = self.roster.changed() => {}
                Some(name) = emptied.recv() => self.remove(&name).await,
            }
        }
    }

    /// Starts what the target has, and lets go of what it has not.
    fn reconcile(&mut self, emptied: &mpsc::Sender<String>) {
        let Some(roster) = self.roster.borrow_and_update().clone() else { return };
        // What leaves as a whole is emptied by whoever has decided so, and nothing is added to it.
        if self.whole.targets.iter().any(|target| target.leaving) {
            return;
        }
        for part in &roster {
            self.start(part.clone());
        }
        for (name, child) in &mut self.children {
            let there = roster.contains(&child.part);
            if there && child.leaving.take().is_some() {
                tracing::info!(node = name, "the target has this part again");
                let (host, name) = (self.shared.host.clone(), name.clone());
                tokio::spawn(async move {
                    if let Err(error) = drain::cordon(&host, &name, false).await {
                        tracing::warn!(node = name, %error, "the node stays cordoned; `kubectl uncordon` it");
                    }
                });
            } else if !there && child.leaving.is_none() {
                let target = self.whole.targets.first().map(|target| target.name.clone()).unwrap_or_default();
                let leaving = Leaving { node: name.clone(), target, whole: true, alone: true, parts: false };
                let (host, emptied, name) = (self.shared.host.clone(), emptied.clone(), name.clone());
                let task = tokio::spawn(async move {
                    tokio::time::sleep(PATIENCE).await;
                    drain::empty(host, leaving).await;
                    _ = emptied.send(name).await;
                });
                child.leaving = Some(AbortOnDropHandle::new(task));
            }
        }
    }

    fn start(&mut self, part: Part) {
        let name = part.node_name(&self.whole.name);
        if self.children.contains_key(&name) {
            return;
        }
        tracing::info!(node = name, %part, "a node for a part of the target");
        let mut labels = self.whole.labels.clone();
        labels.insert(WHOLE.into(), self.whole.name.clone());
        let setup = NodeSetup {
            name: name.clone(),
            labels,
            shape: Shape::Cluster,
            part: Some((self.whole.name.clone(), part.clone())),
            ..self.whole.clone()
        };
        let (shared, stop) = (self.shared.clone(), CancellationToken::new());
        let task = tokio::spawn(run(shared, setup, stop.clone()));
        self.children.insert(name, Child { part, stop, task, leaving: None });
    }

    /// Takes away a node that is empty, unless the target has it again.
    async fn remove(&mut self, name: &str) {
        if self.children.get(name).is_none_or(|child| child.leaving.is_none()) {
            return;
        }
        if let Some(child) = self.children.remove(name) {
            child.stop.cancel();
            // Not earlier: whoever keeps a node registers it again.
            end(child.task).await;
            drain::delete_node(&self.shared.host, name).await;
        }
    }
}

/// Keeps one node, on whatever port is free: the Node says which.
async fn run(shared: Arc<Shared>, setup: NodeSetup, stop: CancellationToken) {
    let listener = loop {
        match TcpListener::bind(SocketAddr::new(shared.setup.bind_address, 0)).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::error!(node = setup.name, %error, "no port is free for the node; trying again");
                if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                    return;
                }
            }
        }
    };
    let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
    keep_on(shared, NodeSetup { port, ..setup }, Arc::new(listener), CertificateSlot::default(), stop).await;
}

/// The parts that the host has nodes for.
async fn known(host: &Client, whole: &str) -> Vec<Part> {
    let nodes: Api<Node> = Api::all(host.clone());
    let ours = ListParams::default().labels(&format!("{WHOLE}={whole}"));
    loop {
        match nodes.list_metadata(&ours).await {
            Ok(list) => {
                let part = |text: &String| serde_json::from_str(text).ok();
                return list.items.iter().filter_map(|node| part(node.annotations().get(PART)?)).collect();
            }
            Err(error) => {
                tracing::warn!(whole, %error, "the host's nodes cannot be listed; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn pool_keys(own: Option<&String>) -> Vec<String> {
    own.map_or_else(|| POOL_LABELS.map(ToOwned::to_owned).into(), |key| vec![key.clone()])
}

/// The part that a node belongs to; none for nodes that run nobody's pods, or another cluster's.
fn part_of(node: &Node, shape: Shape, keys: &[String]) -> Option<Part> {
    let read = NodeShare::read(node).ok()?;
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    if read.virtual_node || taints.iter().any(is_control_plane) {
        return None;
    }
    match shape {
        Shape::Cluster => None,
        Shape::Pool => Some(Part::pool(node.labels(), keys)),
        Shape::Node => Some(Part::Node(node.name_any())),
    }
}

/// Follows the nodes of a target, and says which parts it has, for ever.
async fn follow(client: Client, shape: Shape, keys: &[String], roster: &watch::Sender<Option<BTreeSet<Part>>>) {
    let (mut nodes, mut listed) = (BTreeMap::new(), None::<BTreeMap<String, Part>>);
    let api: Api<DeserializeGuard<Node>> = Api::all(client);
    let mut stream = watcher(api, watcher::Config::default()).backoff(crate::backoff::of_watches()).boxed();
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "the watch of the target's nodes is interrupted");
                continue;
            }
        };
        let part = |node: &DeserializeGuard<Node>| match &node.0 {
            Ok(node) => part_of(node, shape, keys),
            // It is there, and no more is known of it.
            Err(_) if shape == Shape::Node => Some(Part::Node(node.name_any())),
            Err(_) => None,
        };
        match event {
            watcher::Event::Init => listed = Some(BTreeMap::new()),
            watcher::Event::InitApply(node) => {
                listed.get_or_insert_default().extend(part(&node).map(|part| (node.name_any(), part)));
            }
            watcher::Event::InitDone => nodes = listed.take().unwrap_or_default(),
            watcher::Event::Apply(node) => {
                nodes.remove(&node.name_any());
                nodes.extend(part(&node).map(|part| (node.name_any(), part)));
            }
            watcher::Event::Delete(node) => drop(nodes.remove(&node.name_any())),
        }
        if listed.is_none() {
            let now: BTreeSet<_> = nodes.values().cloned().collect();
            roster.send_if_modified(|known| {
                let news = known.as_ref() != Some(&now);
                *known = Some(now);
                news
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(extra: &serde_json::Value) -> Node {
        let spec = extra["taints"].as_array().map(|taints| json!({"taints": taints})).unwrap_or_default();
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": extra["labels"]}, "spec": spec})).unwrap()
    }

    #[test]
    fn each_node_that_runs_pods_belongs_to_a_part() {
        let keys = pool_keys(None);
        let part = |shape, extra: serde_json::Value| part_of(&node(&extra), shape, &keys);
        assert_eq!(part(Shape::Node, json!({})), Some(Part::Node("n".into())));
        let pool = part(Shape::Pool, json!({"labels": {"karpenter.sh/nodepool": "gpu"}})).unwrap();
        assert_eq!(pool.node_name("far"), "far-gpu");
        let control_plane =
            json!({"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]});
        assert_eq!(part(Shape::Node, control_plane), None);
        assert_eq!(part(Shape::Node, json!({"labels": {"type": "virtual-kubelet"}})), None);
        assert_eq!(pool_keys(Some(&"own/key".to_owned())), ["own/key"]);
    }
}
