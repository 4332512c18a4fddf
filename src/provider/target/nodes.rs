//! The target's nodes, as they come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::health::Health;
use super::land::Land;
use crate::provider::capacity::NodeShare;

const WATCH: &str = "nodes";

/// Follows the nodes of a part of a target, for ever.
pub(super) async fn watch(client: Client, land: Arc<Land>, health: Arc<Health>) {
    let mut listed = BTreeMap::new();
    let config = watcher::Config {
        label_selector: land.part().labels(),
        field_selector: land.part().fields(),
        ..watcher::Config::default()
    };
    let mut stream =
        watcher(Api::<DeserializeGuard<Node>>::all(client), config).backoff(crate::backoff::of_watches()).boxed();
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => listed.clear(),
            Ok(Some(watcher::Event::InitApply(node))) => {
                listed.extend(read(&node).map(|share| (Arc::from(node.name_any()), share)));
            }
            Ok(Some(watcher::Event::InitDone)) => {
                let all = std::mem::take(&mut listed);
                land.change(|stock| stock.list(all));
                land.nodes_known();
                health.works(WATCH);
            }
            Ok(Some(watcher::Event::Apply(node))) => land.change(|stock| match read(&node) {
                Some(share) => stock.node(&node.name_any(), share),
                None => stock.no_node(&node.name_any()),
            }),
            Ok(Some(watcher::Event::Delete(node))) => land.change(|stock| stock.no_node(&node.name_any())),
            Ok(None) => return,
            Err(error) => health.interrupted(WATCH, &error),
        }
    }
}

/// A node that cannot be read hides no other.
fn read(node: &DeserializeGuard<Node>) -> Option<NodeShare> {
    let read = node.0.as_ref().map_err(ToString::to_string);
    match read.and_then(|node| NodeShare::read(node).map_err(|error| error.to_string())) {
        Ok(share) => Some(share),
        Err(error) => {
            tracing::warn!(node = node.name_any(), error, "this node's resources are not counted");
            None
        }
    }
}
