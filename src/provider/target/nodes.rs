//! The target's nodes, summed up.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::health::Health;
use crate::provider::capacity::{NodeShare, sum};

const WATCH: &str = "nodes";

/// Keeps the node report up to date, for ever.
pub(super) async fn watch(client: Client, health: Arc<Health>) {
    let mut shares: HashMap<String, NodeShare> = HashMap::new();
    let mut listed: Option<HashMap<String, NodeShare>> = None;
    let mut stream = watcher(Api::<DeserializeGuard<Node>>::all(client), watcher::Config::default())
        .backoff(crate::backoff::of_watches())
        .boxed();
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => listed = Some(HashMap::new()),
            Ok(Some(watcher::Event::InitApply(node))) => {
                let list = listed.get_or_insert_default();
                apply(list, &node);
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => {
                // The sum of half a list would take resources away from the node for a moment.
                shares = listed.take().unwrap_or_default();
                health.works(WATCH);
            }
            Ok(Some(watcher::Event::Apply(node))) => apply(&mut shares, &node),
            Ok(Some(watcher::Event::Delete(node))) => {
                shares.remove(&node.name_any());
            }
            Ok(None) => return,
            Err(error) => {
                health.interrupted(WATCH, &error);
                continue;
            }
        }
        if listed.is_none() {
            health.count(shares.values().filter(|share| share.counts()).count());
            health.resources(sum(shares.values()));
        }
    }
}

/// A node that cannot be read hides no other.
fn apply(shares: &mut HashMap<String, NodeShare>, node: &DeserializeGuard<Node>) {
    let read = node.0.as_ref().map_err(ToString::to_string);
    match read.and_then(|node| NodeShare::read(node).map_err(|error| error.to_string())) {
        Ok(share) => {
            shares.insert(node.name_any(), share);
        }
        Err(error) => {
            tracing::warn!(node = node.name_any(), error, "this node's resources are not counted");
            shares.remove(&node.name_any());
        }
    }
}
